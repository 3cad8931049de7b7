use std::path::Path;

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::keyfile::{Keks, Role};
use super::keyring::GENERATED;
use super::memory::Memory;
use super::rotation::{DataKeyRotation, DataScope, DataStep, KekMode, KekRotation, KekStep};
use super::*;
use crate::model::{SecretId, Time};
use crate::store::{Change, NewSecret, Secrets};

mod data;
mod kek;

/// Who does what in tests.
pub(crate) const CHANGE: Change<'static> =
    Change { actor: "test", workspace: None, action: "Test", target: "it", key: None };

/// A store, a key file, and a vault over both.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) store: Arc<Memory>,
    pub(crate) vault: Vault<Memory>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_generate(directory.path(), false).unwrap();
        let store = Arc::new(Memory::default());
        Self { vault: Vault::new(Arc::clone(&store), keyring), directory, store }
    }

    /// A world of workspaces that have a secret each.
    async fn with_secrets(workspaces: usize) -> Self {
        let world = Self::new();
        for number in 0..workspaces {
            world.plant(&format!("w{number:03}"), "TOKEN", "").await;
        }
        world
    }

    /// A secret whose value is made of its workspace and name.
    pub(crate) async fn plant(&self, workspace: &str, name: &str, registry: &str) -> SecretRow {
        self.put(workspace, name, registry, value(workspace, name, 1).as_bytes()).await
    }

    pub(crate) async fn put(&self, workspace: &str, name: &str, registry: &str, value: &[u8]) -> SecretRow {
        let secret = Secret {
            secret_id: SecretId::generate(),
            workspace_id: self.store.workspace(workspace),
            name: name.to_owned(),
            registry: registry.to_owned(),
            version: 1,
            create_time: Time(0),
            update_time: Time(0),
        };
        let sealed = self.vault.seal(&secret, value).await.unwrap();
        let new = NewSecret { secret: secret.clone(), sealed };
        self.store.create_secret(&CHANGE, &new).await.unwrap();
        self.row(&secret.secret_id)
    }

    pub(crate) async fn update(&self, row: &SecretRow, value: &[u8]) -> SecretRow {
        update(&self.vault, &self.store, row, value).await.unwrap();
        self.row(&row.secret.secret_id)
    }

    pub(crate) fn row(&self, id: &SecretId) -> SecretRow {
        self.store.tables().secrets[id.as_str()].clone()
    }

    fn rows(&self) -> Vec<SecretRow> {
        self.store.tables().secrets.values().cloned().collect()
    }

    /// A vault that has just been started: nothing in memory, the key file as it is now.
    fn started(&self) -> Vault<Memory> {
        let keyring = Keyring::open(&self.directory.path().join(GENERATED)).unwrap();
        Vault::new(Arc::clone(&self.store), keyring)
    }

    fn keks(&self) -> Keks {
        Keks::parse(&std::fs::read(self.directory.path().join(GENERATED)).unwrap()).unwrap()
    }

    /// Every secret opens, with a vault that runs and with one that starts now.
    async fn all_open(&self, why: &str) {
        for vault in [&self.vault, &self.started()] {
            for row in self.rows() {
                let opened = vault.open(&row).await.unwrap_or_else(|error| panic!("{why}: {error}"));
                let secret = &row.secret;
                let expected = value(secret.workspace_id.as_str(), &secret.name, secret.version);
                assert_eq!(opened.expose_secret(), expected.as_bytes(), "{why}");
            }
        }
    }
}

async fn update(
    vault: &Vault<Memory>,
    store: &Memory,
    row: &SecretRow,
    value: &[u8],
) -> Result<(), VaultError> {
    let next = Secret { version: row.secret.version + 1, ..row.secret.clone() };
    let sealed = vault.seal(&next, value).await?;
    store.update_secret(&CHANGE, &row.secret, &sealed).await?;
    Ok(())
}

fn value(workspace: &str, name: &str, version: u64) -> String {
    fixtures::secret::secret(&format!("{workspace}-{name}-{version}"))
}

fn tampered(result: Result<SecretSlice<u8>, VaultError>) -> bool {
    matches!(result, Err(VaultError::Tampered(_)))
}

#[tokio::test]
async fn values_come_back_under_one_key_a_workspace() {
    let world = World::new();
    let rows = [
        world.plant("a", "ONE", "").await,
        world.plant("a", "TWO", "r.example.com").await,
        world.plant("b", "ONE", "").await,
    ];
    assert_eq!(rows[0].sealed.key_id, rows[1].sealed.key_id);
    assert_ne!(rows[0].sealed.key_id, rows[2].sealed.key_id);
    world.all_open("planted").await;
}

#[tokio::test]
async fn first_values_at_once_agree_on_one_key() {
    let world = World::new();
    let rows = futures_util::future::join_all((0..16).map(|n| {
        let (vault, workspace_id) = (world.vault.clone(), world.store.workspace("w"));
        async move {
            let secret = Secret {
                secret_id: SecretId::from(format!("s{n}")),
                workspace_id,
                name: String::new(),
                registry: String::new(),
                version: 1,
                create_time: Time(0),
                update_time: Time(0),
            };
            vault.seal(&secret, b"v").await.unwrap().key_id
        }
    }))
    .await;
    assert!(rows.iter().all(|key| *key == rows[0]));
    assert_eq!(world.store.tables().keys.len(), 1);
}

#[tokio::test]
async fn what_was_moved_exchanged_or_rolled_back_does_not_open() {
    let world = World::new();
    let first = world.plant("a", "ONE", "").await;
    let second = world.update(&first, value("a", "ONE", 2).as_bytes()).await;
    let sibling = world.plant("a", "TWO", "").await;
    let registry = world.plant("a", "oci-registry-r", "r.example.com").await;
    let foreign = world.plant("b", "ONE", "").await;
    world.all_open("as it was").await;

    let with = |row: &SecretRow, change: &dyn Fn(&mut SecretRow)| {
        let mut row = row.clone();
        change(&mut row);
        row
    };
    let rows = [
        ("the older record put back", with(&second, &|row| row.sealed = first.sealed.clone())),
        ("the older row put back", with(&first, &|row| row.newest = 2)),
        ("the older row, called newer", with(&first, &|row| (row.secret.version, row.newest) = (2, 2))),
        ("a version that was never committed", with(&second, &|row| row.newest = 1)),
        ("a sibling's record", with(&second, &|row| row.sealed = sibling.sealed.clone())),
        ("another name", with(&sibling, &|row| row.secret.name = "ONE".to_owned())),
        ("another registry", with(&registry, &|row| row.secret.registry = "evil.example".to_owned())),
        ("no registry", with(&registry, &|row| row.secret.registry.clear())),
        (
            "moved to another workspace",
            with(&second, &|row| row.secret.workspace_id = WorkspaceId::from("b")),
        ),
        ("a record from another workspace", with(&second, &|row| row.sealed = foreign.sealed.clone())),
        ("another identity", with(&second, &|row| row.secret.secret_id = sibling.secret.secret_id.clone())),
        ("another key", with(&second, &|row| row.sealed.key_id = foreign.sealed.key_id.clone())),
        ("no such key", with(&second, &|row| row.sealed.key_id = KeyId::from("k"))),
        ("an empty record", with(&second, &|row| row.sealed.record.clear())),
        ("a changed byte", with(&second, &|row| row.sealed.record[40] ^= 1)),
        ("half of it", with(&second, &|row| row.sealed.record.truncate(40))),
        ("a byte more", with(&second, &|row| row.sealed.record.push(0))),
    ];
    for (what, row) in rows {
        for vault in [&world.vault, &world.started()] {
            let opened = vault.open(&row).await;
            assert!(tampered(opened), "{what}");
        }
    }
    world.all_open("still").await;
}

#[tokio::test]
async fn a_data_key_that_was_moved_or_changed_does_not_unwrap() {
    type Tamper = fn(&mut DataKey);
    let changes: [(&str, Tamper); 4] = [
        ("bytes", |key| key.wrapped[30] ^= 4),
        ("short", |key| key.wrapped.truncate(20)),
        ("workspace", |key| key.workspace_id = WorkspaceId::from("b")),
        ("identity", |key| key.key_id = KeyId::from("other")),
    ];
    for (what, change) in changes {
        let world = World::new();
        let row = world.plant("a", "ONE", "").await;
        world.store.workspace("b");
        world.store.tables().keys.values_mut().for_each(change);
        assert!(tampered(world.started().open(&row).await), "{what}");
        let sealed = world.started().seal(&row.secret, b"v").await;
        // Moved away, it is not this workspace's: then that gets a new one.
        assert_eq!(matches!(sealed, Err(VaultError::Tampered(_))), what != "workspace", "{what}");
    }
}

#[tokio::test]
async fn another_kek_is_noticed_by_its_identity() {
    let world = World::new();
    let row = world.plant("a", "ONE", "").await;
    let kek_id = world.keks().active().kek_id.clone();
    std::fs::write(world.directory.path().join(GENERATED), [1, 2].repeat(16)).unwrap();
    let vault = world.started();
    for error in [vault.open(&row).await.unwrap_err(), vault.seal(&row.secret, b"v").await.unwrap_err()] {
        assert!(matches!(&error, VaultError::NoKek(id) if *id == kek_id), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
    // Another key under the old one's name, in the database: it does not open either.
    let other = world.keks().active().kek_id.clone();
    world.store.tables().keys.values_mut().for_each(|key| key.kek_id.clone_from(&other));
    assert!(tampered(world.started().open(&row).await));
}

#[tokio::test]
async fn a_running_server_reads_keys_that_another_process_made() {
    let world = World::with_secrets(3).await;
    let other = world.started();
    other.rotate_kek(KekMode::Whole).await.unwrap();
    // Kept in memory or not.
    world.all_open("after another process").await;
    let fresh = world.vault.clone();
    let row = world.plant("new", "ONE", "").await;
    assert!(fresh.open(&row).await.is_ok());
    let active = world.keks().active().kek_id.clone();
    assert!(
        world.store.tables().keys.values().all(|key| key.kek_id == active),
        "wrapped by what is active now"
    );
}

#[tokio::test]
async fn kept_keys_are_bounded_and_of_their_workspace() {
    let kept = Kept::default();
    for number in 0..KEPT_KEYS.get() + 10 {
        kept.put(&WorkspaceId::from("w"), &KeyId::from(number.to_string()), &Key::generate());
    }
    assert_eq!(format!("{kept:?}"), format!("{KEPT_KEYS} keys"));
    assert!(kept.get(&WorkspaceId::from("w"), &KeyId::from("0")).is_none());
    assert!(kept.get(&WorkspaceId::from("w"), &KeyId::from("500")).is_some());
    assert!(kept.get(&WorkspaceId::from("other"), &KeyId::from("500")).is_none());
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_value_or_a_key() {
    let world = World::new();
    let row = world.plant("a", "ONE", "").await;
    let opened = world.vault.open(&row).await.unwrap();
    let kek = world.keks();
    let mut rotated = row.clone();
    rotated.newest = 9;
    let error = world.vault.open(&rotated).await.unwrap_err();
    let shown = format!(
        "{:?} {:?} {kek:?} {:?} {row:?} {opened:?} {error:?} {error} {:#?} {:?}",
        world.vault,
        world.vault.keyring(),
        kek.active(),
        KekRotation::new(&world.vault, KekMode::Whole),
        world.store,
    );
    assert!(fixtures::secret::find(shown.as_bytes()).is_none());
    let key = kek.active().key.expose();
    assert!(!shown.contains(&hex::encode(key)) && !shown.contains(&format!("{key:?}")));
    assert!(!shown.contains(&format!("{:?}", &row.sealed.record[..])));
}

fn path(world: &World) -> std::path::PathBuf {
    world.directory.path().join(GENERATED)
}

fn key_ids(keks: &Keks, role: Role) -> Vec<String> {
    keks.iter().filter(|kek| kek.role == role).map(|kek| kek.kek_id.clone()).collect()
}

fn write_file(path: &Path, keks: &Keks) {
    std::fs::write(path, keks.to_text().as_bytes()).unwrap();
}
