//! Rotation of the key encryption key.

use super::*;

/// Rewraps more than one batch.
const WORKSPACES: usize = 70;

#[tokio::test]
async fn a_rotation_leaves_one_new_key_that_wraps_all() {
    let world = World::with_secrets(WORKSPACES).await;
    let old = world.keks().active().kek_id.clone();
    let report = world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    assert_eq!((report.rewrapped, &report.dropped, report.resumed), (70, &vec![old.clone()], false));
    let keks = world.keks();
    assert_eq!(keks.iter().map(|kek| &kek.kek_id).collect::<Vec<_>>(), [&report.kek_id]);
    assert_ne!(report.kek_id, old);
    assert!(world.store.tables().keys.values().all(|key| key.kek_id == report.kek_id));
    world.all_open("rotated").await;
    let again = world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    assert_ne!(again.kek_id, report.kek_id);
    world.all_open("rotated again").await;
    let audit = world.store.tables().audit.clone();
    assert!(audit.iter().all(|(actor, action, _, result)| (
        actor.as_str(),
        action.as_str(),
        result.as_str()
    ) == ("operator", "RotateKek", "ok")));
    assert_eq!(audit.len(), 2);
}

/// The program may be killed after any step; within one it is as if before or after it, which `errors_at_every_call` shows.
#[tokio::test]
async fn killed_after_any_step_it_is_gone_on_with() {
    for kill in 0.. {
        let world = World::with_secrets(4).await;
        let old = world.keks().active().kek_id.clone();
        let mut rotation = KekRotation::new(&world.started(), KekMode::Whole);
        let mut steps = Vec::new();
        for _ in 0..kill {
            steps.extend(rotation.step().await.unwrap());
        }
        let ended = steps.len() < kill;
        drop(rotation);
        world.all_open(&format!("killed after {steps:?}")).await;
        // New workspaces come while nobody rotates.
        world.plant("meanwhile", "TOKEN", "").await;
        let report = world.started().rotate_kek(KekMode::Whole).await.unwrap();
        world.all_open(&format!("gone on after {steps:?}")).await;
        let keks = world.keks();
        assert_eq!(keks.iter().count(), 1, "{steps:?}");
        assert!(keks.get(&old).is_none());
        assert!(world.store.tables().keys.values().all(|key| key.kek_id == report.kek_id));
        let begun = steps.iter().find_map(|step| match step {
            KekStep::Prepared(kek_id) => Some(kek_id.clone()),
            _ => None,
        });
        let dropped = steps.iter().any(|step| matches!(step, KekStep::Dropped(_)));
        assert_eq!(begun == Some(report.kek_id), begun_and_not_ended(kill, dropped), "{steps:?}");
        if ended {
            assert_eq!(steps.len(), 3 + 4, "{steps:?}");
            return;
        }
    }
}

const fn begun_and_not_ended(kill: usize, dropped: bool) -> bool {
    kill > 0 && !dropped
}

#[tokio::test]
async fn errors_at_every_call_before_or_after_it_took_effect_do_no_harm() {
    for after in [false, true] {
        for call in 0.. {
            let World { directory, store, vault } = World::with_secrets(3).await;
            drop(vault);
            let store = Arc::new(Arc::into_inner(store).unwrap().failing(call, after));
            let keyring = Keyring::open_or_generate(directory.path(), true).unwrap();
            let world = World { vault: Vault::new(Arc::clone(&store), keyring), directory, store };
            let result = world.vault.rotate_kek(KekMode::Whole).await;
            world.store.mend();
            if let Err(error) = &result {
                assert!(matches!(error, VaultError::Store(_)), "{error}");
            }
            world.all_open(&format!("call {call} failed, {after}")).await;
            world.started().rotate_kek(KekMode::Whole).await.unwrap();
            world.all_open(&format!("call {call} failed, {after}, and gone on")).await;
            assert_eq!(world.keks().iter().count(), 1);
            if result.is_ok() {
                assert!(call > 8, "{call}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn half_a_file_of_one_who_was_killed_is_nothing() {
    let world = World::with_secrets(2).await;
    let new = keyfile::beside(&path(&world));
    std::fs::write(&new, "kek-00").unwrap();
    world.all_open("half a file").await;
    world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    world.all_open("rotated").await;
    assert!(!new.exists());
    let names: Vec<_> = std::fs::read_dir(world.directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test]
async fn a_key_that_does_not_open_keeps_the_old_kek_and_hinders_no_other() {
    let world = World::with_secrets(WORKSPACES).await;
    let old = world.keks().active().kek_id.clone();
    let broken = {
        let mut tables = world.store.tables();
        let key = tables.keys.values_mut().next().unwrap();
        key.wrapped[30] ^= 1;
        key.key_id.clone()
    };
    let error = world.vault.rotate_kek(KekMode::Whole).await.unwrap_err();
    assert!(matches!(&error, VaultError::Tampered(what) if what.contains(broken.as_str())), "{error}");
    assert!(world.keks().get(&old).is_some());
    let under_old = world.store.tables().keys.values().filter(|key| key.kek_id == old).count();
    assert_eq!(under_old, 1);
    assert!(world.store.tables().audit[0].3.contains("does not open"));
    // Mended, it is gone on with.
    world.store.tables().keys.get_mut(broken.as_str()).unwrap().wrapped[30] ^= 1;
    let report = world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    assert_eq!((report.rewrapped, report.resumed), (1, true));
    world.all_open("mended").await;
}

#[tokio::test]
async fn a_file_that_lacks_the_newer_key_makes_no_third() {
    let world = World::with_secrets(2).await;
    let before = std::fs::read(path(&world)).unwrap();
    let report = world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    std::fs::write(path(&world), &before).unwrap();
    let error = world.started().rotate_kek(KekMode::Whole).await.unwrap_err();
    assert!(matches!(&error, VaultError::NoKek(id) if *id == report.kek_id), "{error}");
    assert_eq!(std::fs::read(path(&world)).unwrap(), before);
}

#[tokio::test]
async fn hosts_with_copies_of_the_file_rotate_together() {
    let here = World::with_secrets(3).await;
    // The other host: the same database, another file.
    let there = tempfile::tempdir().unwrap();
    let copy = || {
        std::fs::copy(path(&here), there.path().join("copy")).unwrap();
    };
    copy();
    let keyring = Keyring::open(&there.path().join("copy")).unwrap();
    let server = Vault::new(Arc::clone(&here.store), keyring);
    let opens = async |why: &str| {
        for row in here.rows() {
            server.open(&row).await.unwrap_or_else(|error| panic!("{why}: {error}"));
        }
        here.all_open(why).await;
    };
    let old = here.keks().active().kek_id.clone();

    let prepared = here.vault.rotate_kek(KekMode::Prepare).await.unwrap();
    assert_eq!(here.keks().active().kek_id, old);
    assert_eq!(here.keks().next().unwrap().kek_id, prepared.kek_id);
    let again = here.vault.rotate_kek(KekMode::Prepare).await.unwrap();
    assert_eq!((again.kek_id, again.resumed), (prepared.kek_id.clone(), true));
    copy();
    opens("prepared").await;

    let kept = here.vault.rotate_kek(KekMode::KeepOld).await.unwrap();
    assert_eq!((&kept.kek_id, kept.rewrapped, kept.dropped.len()), (&prepared.kek_id, 3, 0));
    // The other host does not know yet what is active, and wraps by the old key.
    let workspace = here.store.workspace("late");
    let secret = Secret { workspace_id: workspace, ..here.rows()[0].secret.clone() };
    let late = server.seal(&secret, b"v").await.unwrap();
    assert_eq!(here.store.tables().keys[late.key_id.as_str()].kek_id, old);
    opens("kept").await;

    copy();
    let whole = here.vault.rotate_kek(KekMode::Whole).await.unwrap();
    assert_eq!((whole.kek_id, whole.rewrapped, whole.dropped), (prepared.kek_id, 1, vec![old]));
    copy();
    opens("dropped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotations_at_once_and_new_workspaces_lose_nothing() {
    let world = Arc::new(World::with_secrets(6).await);
    let rotate = |vault: Vault<Memory>| {
        tokio::spawn(async move {
            for _ in 0..5 {
                vault.rotate_kek(KekMode::Whole).await.unwrap();
            }
        })
    };
    let rotations = [rotate(world.started()), rotate(world.started()), rotate(world.vault.clone())];
    let server = {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            for number in 0..40 {
                world.plant(&format!("new{number}"), "TOKEN", "").await;
                world.all_open("while others rotate").await;
            }
        })
    };
    for rotation in rotations {
        rotation.await.unwrap();
    }
    server.await.unwrap();
    world.all_open("after all").await;
    world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    world.all_open("after one more").await;
}

#[tokio::test]
async fn while_a_data_key_is_made_no_kek_is_dropped() {
    let world = World::with_secrets(1).await;
    let making = world.vault.keyring().hold(false).await.unwrap();
    let other = std::fs::File::open(path(&world)).unwrap();
    assert!(matches!(other.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    drop(making);
    assert!(other.try_lock().is_ok());
}

#[tokio::test]
async fn a_raw_key_becomes_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(GENERATED);
    std::fs::write(&file, Key::generate().expose()).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let store = Arc::new(Memory::default());
    let vault = Vault::new(Arc::clone(&store), Keyring::open(&file).unwrap());
    let world = World { directory, store, vault };
    world.plant("w", "TOKEN", "").await;
    world.vault.rotate_kek(KekMode::Whole).await.unwrap();
    world.all_open("rotated").await;
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap()) & 0o777, 0o600);
}

#[tokio::test]
async fn a_status_tells_what_needs_which_key() {
    let world = World::with_secrets(3).await;
    let status = world.vault.key_status().await.unwrap();
    assert_eq!((status.keks.len(), status.data_keys, status.secrets_under_old_keys), (1, 3, 0));
    assert_eq!((status.keks[0].role, status.keks[0].data_keys), ("active", 3));
    world.vault.rotate_kek(KekMode::Prepare).await.unwrap();
    let mut other = world.keks().promoted();
    assert_eq!(key_ids(&other, Role::Old).len(), 1);
    other = other.without_old();
    write_file(&path(&world), &other);
    let status = world.vault.key_status().await.unwrap();
    let roles: Vec<_> = status.keks.iter().map(|kek| (kek.role, kek.data_keys)).collect();
    assert_eq!(roles, [("active", 0), ("missing", 3)]);
}
