use super::*;
use crate::model::{ImageId, Time, WorkspaceId};
use crate::vault::keyring::Keyring;
use crate::vault::memory::Memory;
use crate::vault::rotation::DataScope;
use crate::vault::tests::{CHANGE, World};

const REGISTRY: &str = "r.example.com";
const BASIC: &str =
    r#"{"credentials":{"PASSWORD":"pl4nted-p","USERNAME":"u"},"registry":"r.example.com","type":"basic"}"#;

fn image(credentials: ImageCredentialSource) -> Image {
    Image {
        image_id: ImageId::from("app"),
        workspace_id: WorkspaceId::from("w"),
        base_image: format!("{REGISTRY}/app:1"),
        registry: REGISTRY.to_owned(),
        digest: "sha256:0".to_owned(),
        platform: "linux/amd64".to_owned(),
        credentials,
        index_digest: String::new(),
        image_bytes: 0,
        index_bytes: 0,
        files: 0,
        create_time: Time(0),
        update_time: Time(0),
    }
}

fn credentials(world: &World) -> Credentials<Memory> {
    Credentials { store: Arc::clone(&world.store), vault: world.vault.clone() }
}

fn secret(row: &SecretRow) -> ImageCredentialSource {
    ImageCredentialSource::Secret { name: row.secret.name.clone(), id: row.secret.secret_id.clone() }
}

fn named(names: &[&str]) -> ImageCredentialSource {
    ImageCredentialSource::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

async fn unusable(world: &World, source: ImageCredentialSource) -> String {
    let error = credentials(world).of_image(&image(source.clone())).await.unwrap_err();
    assert!(matches!(error, CredentialsError::Unusable(_)), "{error}");
    let checked = credentials(world).check(&image(source)).await.unwrap_err();
    assert_eq!(error.to_string(), checked.to_string());
    assert!(fixtures::secret::find(format!("{error} {error:?}").as_bytes()).is_none());
    assert!(error.to_string().contains("image app"), "{error}");
    error.to_string()
}

#[tokio::test]
async fn an_anonymous_image_has_none_explicitly() {
    let world = World::new();
    let got = credentials(&world).of_image(&image(ImageCredentialSource::Anonymous)).await.unwrap();
    assert_eq!(got.expose_secret(), "");
}

#[tokio::test]
async fn an_images_secret_is_handed_out_as_it_is_now() {
    let world = World::new();
    let row = world.put("w", "oci-registry-r-example-com", REGISTRY, BASIC.as_bytes()).await;
    let of = async || credentials(&world).of_image(&image(secret(&row))).await.unwrap();
    assert_eq!(of().await.expose_secret(), BASIC);
    let newer = BASIC.replace("pl4nted-p", "pl4nted-q");
    world.update(&row, newer.as_bytes()).await;
    assert_eq!(of().await.expose_secret(), newer);
    credentials(&world).check(&image(secret(&row))).await.unwrap();
}

#[tokio::test]
async fn other_forms_are_for_the_registry_of_their_row() {
    let world = World::new();
    for value in ["u:pl4nted-p", r#"{"USERNAME":"u","PASSWORD":"pl4nted-p"}"#] {
        let row = world.put("w", "n", REGISTRY, value.as_bytes()).await;
        let got = credentials(&world).of_image(&image(secret(&row))).await.unwrap();
        assert_eq!(got.expose_secret(), BASIC);
    }
}

#[tokio::test]
async fn a_secret_that_is_gone_or_of_another_workspace_is_an_error() {
    let world = World::new();
    let row = world.put("w", "oci-registry-r", REGISTRY, BASIC.as_bytes()).await;
    world.store.delete_secret(&CHANGE, &row.secret.secret_id).await.unwrap();
    let error = unusable(&world, secret(&row)).await;
    assert!(error.contains("oci-registry-r") && error.contains("was deleted"), "{error}");
    let foreign = world.put("other", "oci-registry-r", REGISTRY, BASIC.as_bytes()).await;
    assert_eq!(unusable(&world, secret(&foreign)).await, error, "absent and another's read the same");
}

#[tokio::test]
async fn a_secret_that_makes_no_credentials_for_the_registry_is_an_error() {
    let world = World::new();
    let other = BASIC.replace(REGISTRY, "other.example.com");
    let public = r#"{"credentials":{},"registry":"r.example.com","type":"public"}"#;
    let cases: [(&str, &str, &str); 8] = [
        ("other.example.com", BASIC, "is for other.example.com, not for r.example.com"),
        ("", BASIC, "holds a plain value, not for r.example.com"),
        (REGISTRY, &other, "holds credentials for other.example.com"),
        (REGISTRY, "", "holds no credentials"),
        (REGISTRY, public, "holds no credentials"),
        (REGISTRY, "{}", "holds no credentials"),
        (REGISTRY, "pl4nted-garbage", "does not hold credentials"),
        (REGISTRY, r#"{"FOO":"pl4nted-x"}"#, "cannot be used"),
    ];
    for (registry, value, why) in cases {
        let row = world.put("w", "n", registry, value.as_bytes()).await;
        let error = unusable(&world, secret(&row)).await;
        assert!(error.contains(why), "{error}");
    }
    let binary = world.put("w", "n", REGISTRY, &[0xff, 0xfe]).await;
    assert!(unusable(&world, secret(&binary)).await.contains("is not text"));
}

#[tokio::test]
async fn named_secrets_are_put_together_when_they_are_asked_for() {
    let world = World::new();
    world.put("w", "USERNAME", "", b"u").await;
    // The same name for a registry, and in another workspace: not these.
    world.put("w", "PASSWORD", "elsewhere.example.com", b"pl4nted-wrong").await;
    world.put("other", "PASSWORD", "", b"pl4nted-wrong").await;
    let error = unusable(&world, named(&["USERNAME", "PASSWORD", "TOKEN"])).await;
    assert!(error.contains("secrets PASSWORD, TOKEN, which the workspace does not have"), "{error}");
    let row = world.put("w", "PASSWORD", "", b"pl4nted-p").await;
    let source = named(&["USERNAME", "PASSWORD"]);
    let got = credentials(&world).of_image(&image(source.clone())).await.unwrap();
    assert_eq!(got.expose_secret(), BASIC);
    world.update(&row, b"pl4nted-q").await;
    let got = credentials(&world).of_image(&image(source)).await.unwrap();
    assert_eq!(got.expose_secret(), BASIC.replace("pl4nted-p", "pl4nted-q"));
}

#[tokio::test]
async fn named_secrets_are_never_anonymous() {
    let world = World::new();
    assert!(unusable(&world, named(&[])).await.contains("names no secrets"));
    world.put("w", "USERNAME", "", b"u").await;
    assert!(unusable(&world, named(&["USERNAME"])).await.contains("cannot be used"));
    world.put("w", "EMPTY", "", b"").await;
    assert!(unusable(&world, named(&["USERNAME", "EMPTY"])).await.contains("EMPTY, which is empty"));
    world.put("w", "BINARY", "", &[0xff]).await;
    assert!(unusable(&world, named(&["BINARY"])).await.contains("BINARY as text"));
    world.put("w", "FOO", "", b"pl4nted-x").await;
    assert!(unusable(&world, named(&["FOO"])).await.contains("cannot tell"));
}

#[tokio::test]
async fn a_tampered_row_is_an_error_and_is_noted() {
    let world = World::new();
    let row = world.put("w", "n", REGISTRY, BASIC.as_bytes()).await;
    world.put("w", "PASSWORD", "", b"pl4nted-p").await;
    for row in world.store.tables().secrets.values_mut() {
        *row.sealed.record.last_mut().unwrap() ^= 1;
    }
    for source in [secret(&row), named(&["PASSWORD"])] {
        let error = credentials(&world).of_image(&image(source)).await.unwrap_err();
        assert!(matches!(error, CredentialsError::Vault(VaultError::Tampered(_))), "{error}");
    }
    let audit = world.store.tables().audit.clone();
    assert_eq!(audit.len(), 2);
    assert_eq!((audit[0].0.as_str(), audit[0].1.as_str()), ("credentials", "OpenSecret"));
    assert_eq!(audit[0].2, row.secret.secret_id.as_str());
    assert!(audit[0].3.starts_with("DATA_LOSS"), "{}", audit[0].3);
    let shown = format!("{audit:?} {:?}", credentials(&world));
    assert!(fixtures::secret::find(shown.as_bytes()).is_none());
}

/// As between two statements of a reader: the row was read, then everything is sealed anew and the old key is gone.
#[tokio::test]
async fn a_rotation_between_two_reads_is_no_tampering() {
    let world = World::new();
    let row = world.put("w", "n", REGISTRY, BASIC.as_bytes()).await;
    world.vault.rotate_data_keys(DataScope::All).await.unwrap();
    let path = world.vault.keyring().path().to_owned();
    let vault = Vault::new(Arc::clone(&world.store), Keyring::open(&path).unwrap());
    assert!(matches!(vault.open(&row).await, Err(VaultError::Tampered(_))));
    let credentials = Credentials { store: Arc::clone(&world.store), vault };
    assert_eq!(credentials.open(&row).await.unwrap().expose_secret(), BASIC.as_bytes());
    assert!(world.store.tables().audit.iter().all(|(_, action, ..)| action != "OpenSecret"));
}
