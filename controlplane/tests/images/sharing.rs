//! Workspaces side by side: the same names, and nothing of each other.

use api::v1;
use fixtures::registry::{Auth, Kind, Registry};
use fixtures::secret::secret;

use crate::support::{World, image, login, messages, registry};

#[tokio::test]
async fn the_same_image_and_registry_with_credentials_of_ones_own() {
    let (world, one, other) = (World::new().await, secret("imaging-of-a"), secret("imaging-of-b"));
    let (a, b) = (world.tenant("a").await, world.tenant("b").await);
    let registry = registry(Auth::basic("u", &one));
    registry.admit("v", &other, None);
    let request = |creds: &[(&str, &str)]| v1::CreateImageRequest {
        image_id: "app".into(),
        ..image(&registry.reference("team/app", "1"), creds)
    };
    let of_a = world.made(&a, request(&login(&one))).await;
    let of_b = world.made(&b, request(&[("USERNAME", "v"), ("PASSWORD", &other)])).await;
    assert_eq!(
        (&of_a.image_id, &of_a.credential_secret_name),
        (&of_b.image_id, &of_b.credential_secret_name)
    );
    assert_ne!(of_a.credential_secret_id, of_b.credential_secret_id);
    let (value_a, value_b) = (
        world.value(&a, &of_a.credential_secret_id).await.0,
        world.value(&b, &of_b.credential_secret_id).await.0,
    );
    assert!(value_a.contains(&one) && !value_a.contains(&other));
    assert!(value_b.contains(&other) && !value_b.contains(&one));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_secret() {
    let (world, one, other) = (World::new().await, secret("imaging-one"), secret("imaging-other"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::basic("u", &one)));
    registry.admit("v", &other, None);
    registry.push(&fixtures::images::layers(2), "team/other", "1");
    let (first, second) = (registry.reference("team/app", "1"), registry.reference("team/other", "1"));
    let creds = [("USERNAME", "v"), ("PASSWORD", other.as_str())];
    for round in 1..=5 {
        let (a, b) = tokio::join!(
            world.made(&tenant, image(&first, &login(&one))),
            world.made(&tenant, image(&second, &creds))
        );
        assert_eq!(a.credential_secret_id, b.credential_secret_id, "round {round}");
        let (value, version) = world.value(&tenant, &a.credential_secret_id).await;
        assert!(value.contains(&one) || value.contains(&other), "round {round}");
        assert!(version >= 2, "whoever came second has rotated it");
    }
    world.end().await;
}

/// Layers' blobs that were asked for; the config of the image is one more.
fn layers_read(registry: &Registry) -> usize {
    let log = registry.log();
    log.iter().filter(|request| request.kind == Kind::Blob).count() - 1
}

#[tokio::test]
async fn an_index_serves_again_only_where_the_layers_may_be_read() {
    let (world, password) = (World::new().await, secret("imaging-again"));
    let (a, b) = (world.tenant("a").await, world.tenant("b").await);
    let registry = registry(Auth::basic("u", &password));
    let (name, creds) = (registry.reference("team/app", "1"), login(&password));
    let first = world.made(&a, image(&name, &creds)).await;
    assert_eq!(layers_read(&registry), 1);

    // Its own, and another's of the same repository, which has shown the manifest to these credentials.
    for caller in [&a, &b] {
        registry.reset_log();
        let (events, made) = world.create(caller, image(&name, &creds)).await;
        assert!(messages(&events).contains("using the index that is kept"), "{events:?}");
        assert_eq!(made.unwrap().index_digest, first.index_digest);
        assert_eq!(layers_read(&registry), 0);
    }
    // The same manifest elsewhere proves nothing: who serves it need not have the layers.
    let elsewhere = crate::support::registry(Auth::None);
    let c = world.tenant("c").await;
    let made = world.made(&c, image(&elsewhere.reference("team/app", "1"), &[])).await;
    assert_eq!(layers_read(&elsewhere), 1);
    assert_eq!((made.digest, made.index_digest), (first.digest, first.index_digest), "and is kept once");

    // What does not open, or was made otherwise, is built again.
    let pool = world.sql().await;
    sqlx::query("UPDATE clip_index_piece SET data = zeroblob(length(data))").execute(&pool).await.unwrap();
    pool.close().await;
    registry.reset_log();
    world.made(&a, image(&name, &creds)).await;
    assert_eq!(layers_read(&registry), 1);
    world.end().await;
}
