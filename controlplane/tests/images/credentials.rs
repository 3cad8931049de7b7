//! Credentials: tried, kept, rotated, linked, and none.

use api::v1;
use api::v1::image_service_server::ImageService as _;
use fixtures::registry::Auth;
use fixtures::secret::secret;
use sqlx::Row as _;
use tonic::Code;

use crate::support::{World, asked, image, login, messages, registry};

#[tokio::test]
async fn wrong_ones_are_told_and_leave_nothing() {
    let (world, password) = (World::new().await, secret("imaging-right"));
    let tenant = world.tenant("a").await;
    for auth in [Auth::basic("u", &password), Auth::bearer("u", &password)] {
        let registry = registry(auth);
        let (name, before) = (registry.reference("team/app", "1"), world.rows().await);
        let host = registry.addr().to_string();
        let wrong = secret("imaging-wrong");
        for (creds, words) in [
            (login(&wrong).to_vec(), vec!["denied", host.as_str()]),
            (vec![("USERNAME", "u")], vec!["both USERNAME and PASSWORD must be provided together"]),
            (vec![("USERNAME", "u"), ("PASSWORD", "")], vec!["both USERNAME and PASSWORD"]),
            (vec![("USERNAME", ""), ("PASSWORD", "")], vec!["all empty"]),
            (vec![("AWS_ACCESS_KEY_ID", "AKIA")], vec!["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
            (vec![("GITHUB_TOKEN", wrong.as_str()), ("SOMETHING", "else")], vec!["denied"]),
            (vec![("SOMETHING", "else")], vec!["SOMETHING"]),
            (vec![], vec!["denied"]),
        ] {
            let status = world.refused(&tenant, image(&name, &creds)).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
            for word in words {
                assert!(status.message().contains(word), "{word}: {status:?}");
            }
            assert_eq!(world.rows().await, before, "{status:?}");
            let [actor, action, target, result] = world.audited().await;
            assert_eq!((actor.as_str(), action.as_str()), ("token-of-a", "CreateImage"));
            assert!(target.contains(&name) || target == "an image", "{target}");
            assert!(result.starts_with("INVALID_ARGUMENT: "), "{result}");
        }
        let made = world.made(&tenant, image(&name, &login(&password))).await;
        assert!(!made.credential_secret_id.is_empty());
    }
    world.end().await;
}

#[tokio::test]
async fn right_ones_become_a_secret_that_the_image_is_linked_to() {
    let (world, password) = (World::new().await, secret("imaging-kept"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::bearer("u", &password)));
    let name = registry.reference("team/app", "1");
    let (events, made) = world.create(&tenant, image(&name, &login(&password))).await;
    let made = made.unwrap();
    let told = messages(&events);
    for word in
        ["trying credentials of type basic", "found ", "indexing 1 layer", "kept the credentials as secret"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(events.iter().any(|e| matches!(e, v1::create_image_progress::Event::Layer(layer)
        if layer.read_bytes == layer.total_bytes && layer.total_bytes == made.image_bytes)));
    let host = registry.addr().to_string();
    let secret_name = format!("oci-registry-{}", host.replace(['.', ':'], "-"));
    assert_eq!(made.credential_secret_name, secret_name);
    let row =
        sqlx::query("SELECT credential_secret_name, credential_secret_id FROM image WHERE image_id = $1")
            .bind(&made.image_id)
            .fetch_one(&world.sql().await)
            .await
            .unwrap();
    assert_eq!(
        (row.get::<String, _>(0), row.get::<String, _>(1)),
        (secret_name, made.credential_secret_id.clone())
    );
    let (value, version) = world.value(&tenant, &made.credential_secret_id).await;
    let stored = format!(
        r#"{{"credentials":{{"PASSWORD":"{password}","USERNAME":"u"}},"registry":"{host}","type":"basic"}}"#
    );
    assert_eq!((value, version), (stored, 1));
    assert!(made.image_id.starts_with("img-") && made.index_bytes > 0 && made.files > 0, "{made:?}");
    assert_eq!((made.platform.as_str(), made.base_image.as_str()), ("linux/amd64", name.as_str()));
    let got =
        world.images.get_image(asked(&tenant, v1::GetImageRequest { image_id: made.image_id.clone() })).await;
    assert_eq!(got.unwrap().into_inner(), made);
    let link = v1::GetImageCredentialSecretRequest { image_id: made.image_id.clone() };
    let link = world.images.get_image_credential_secret(asked(&tenant, link)).await.unwrap().into_inner();
    assert_eq!(link.credential_secret_id, made.credential_secret_id);
    world.end().await;
}

#[tokio::test]
async fn made_again_the_secret_is_rotated_for_all_who_use_it() {
    let (world, old, new) = (World::new().await, secret("imaging-old"), secret("imaging-new"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::basic("u", &old)));
    registry.push(&fixtures::images::layers(2), "team/other", "1");
    let (name, other) = (registry.reference("team/app", "1"), registry.reference("team/other", "1"));
    let first = world.made(&tenant, image(&name, &login(&old))).await;
    let (events, second) = world.create(&tenant, image(&other, &login(&old))).await;
    let second = second.unwrap();
    assert!(messages(&events).contains("holds these credentials already"), "{events:?}");
    assert_eq!(first.credential_secret_id, second.credential_secret_id, "one a workspace and registry");
    assert_eq!(
        world.value(&tenant, &first.credential_secret_id).await.1,
        1,
        "what is the same is no rotation"
    );

    // Without credentials it keeps what it has, and that is tried too.
    let again = world.made(&tenant, image(&name, &[])).await;
    assert_eq!(again.credential_secret_id, first.credential_secret_id);
    registry.set_password("u", &new);
    let status = world.refused(&tenant, image(&name, &[])).await;
    assert_eq!(status.code(), Code::InvalidArgument, "never anonymous instead: {status:?}");
    let status = world.refused(&tenant, image(&name, &login(&old))).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(world.value(&tenant, &first.credential_secret_id).await.1, 1);

    let (events, rotated) = world.create(&tenant, image(&name, &login(&new))).await;
    let rotated = rotated.unwrap();
    assert!(messages(&events).contains("version 2 (also used by 1 other image)"), "{events:?}");
    assert_eq!(rotated.credential_secret_id, first.credential_secret_id);
    assert_eq!((rotated.image_id, rotated.create_time), (first.image_id, first.create_time));
    assert!(world.audited().await[2].ends_with("rotated to version 2"), "{:?}", world.audited().await);
    let (value, version) = world.value(&tenant, &first.credential_secret_id).await;
    assert!(version == 2 && value.contains(&new), "version {version}");
    world.made(&tenant, image(&other, &[])).await;
    world.end().await;
}

#[tokio::test]
async fn public_images_are_anonymous_explicitly() {
    let (world, password) = (World::new().await, secret("imaging-unused"));
    let tenant = world.tenant("a").await;
    let open = registry(Auth::None);
    let name = open.reference("team/app", "1");
    let (events, made) = world.create(&tenant, image(&name, &[])).await;
    let made = made.unwrap();
    assert!(messages(&events).contains("anonymously") && !messages(&events).contains("the workspace has"));
    assert_eq!((made.credential_secret_name.as_str(), made.credential_secret_id.as_str()), ("", ""));
    assert!(open.log().iter().all(|request| request.authorization().is_none()));
    let [_, _, target, result] = world.audited().await;
    assert_eq!((target, result.as_str()), (format!("image {} of {name}, anonymous", made.image_id), "ok"));

    // A secret of the workspace for the registry is used where it is named, and not because it is there.
    let private = registry(Auth::basic("u", &password));
    private.push(&fixtures::images::layers(2), "team/other", "1");
    let (first, other) = (private.reference("team/app", "1"), private.reference("team/other", "1"));
    let first = world.made(&tenant, image(&first, &login(&password))).await;
    let (events, status) = world.create(&tenant, image(&other, &[])).await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    let hint = format!("the workspace has the secret {}", first.credential_secret_name);
    assert!(messages(&events).contains(&hint), "{events:?}");
    let named = v1::CreateImageRequest {
        credential_secrets: vec![first.credential_secret_name.clone()],
        ..image(&other, &[])
    };
    let linked = world.made(&tenant, named).await;
    assert_eq!(linked.credential_secret_id, first.credential_secret_id);
    assert!(linked.credential_secrets.is_empty());
    world.end().await;
}

#[tokio::test]
async fn secrets_by_name_are_read_and_stay_names() {
    let (world, password) = (World::new().await, secret("imaging-named"));
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::bearer("u", &password)));
    let name = registry.reference("team/app", "1");
    let named = |names: &[&str]| v1::CreateImageRequest {
        credential_secrets: names.iter().map(|name| (*name).to_owned()).collect(),
        ..image(&name, &[])
    };
    world.set_secret(&tenant, "USERNAME", "u").await;
    let before = world.rows().await;
    let status = world.refused(&tenant, named(&["USERNAME", "PASSWORD"])).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("PASSWORD") && !status.message().contains("USERNAME"), "{status:?}");
    let both = v1::CreateImageRequest {
        credential_secrets: vec!["USERNAME".into()],
        ..image(&name, &login(&password))
    };
    assert_eq!(world.refused(&tenant, both).await.code(), Code::InvalidArgument);
    assert_eq!(world.rows().await, before);

    world.set_secret(&tenant, "PASSWORD", &password).await;
    let made = world.made(&tenant, named(&["USERNAME", "PASSWORD"])).await;
    assert_eq!(made.credential_secrets, ["USERNAME", "PASSWORD"]);
    assert_eq!(made.credential_secret_id, "");
    // Nor can another workspace name them.
    let stranger = world.tenant("b").await;
    let status = world.refused(&stranger, named(&["USERNAME", "PASSWORD"])).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    world.end().await;
}

#[tokio::test]
async fn links_are_set_to_secrets_of_the_same_registry_and_to_none() {
    let (world, password) = (World::new().await, secret("imaging-linked"));
    let (tenant, stranger) = (world.tenant("a").await, world.tenant("b").await);
    let (private, other) = (registry(Auth::basic("u", &password)), registry(Auth::basic("u", &password)));
    let made = world.made(&tenant, image(&private.reference("team/app", "1"), &login(&password))).await;
    let elsewhere = world.made(&tenant, image(&other.reference("team/app", "1"), &login(&password))).await;
    let set = async |caller, name: &str, id: &str| {
        let request = v1::SetImageCredentialSecretRequest {
            image_id: made.image_id.clone(),
            credential_secret_name: name.into(),
            credential_secret_id: id.into(),
            idempotency_key: String::new(),
        };
        world
            .images
            .set_image_credential_secret(asked(caller, request))
            .await
            .map(tonic::Response::into_inner)
    };
    let none = set(&tenant, "", "").await.unwrap();
    assert_eq!((none.credential_secret_id.as_str(), none.credential_secret_name.as_str()), ("", ""));
    let linked = set(&tenant, "", &made.credential_secret_id).await.unwrap();
    assert_eq!(linked.credential_secret_name, made.credential_secret_name);
    for (caller, name, id, code) in [
        (&tenant, "", elsewhere.credential_secret_id.as_str(), Code::InvalidArgument),
        (&tenant, made.credential_secret_name.as_str(), "", Code::InvalidArgument),
        (&tenant, "", "no-such-secret", Code::NotFound),
        (&stranger, "", &made.credential_secret_id, Code::NotFound),
    ] {
        assert_eq!(set(caller, name, id).await.unwrap_err().code(), code, "{name} {id}");
    }
    world.end().await;
}
