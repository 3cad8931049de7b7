//! `Images`.

use std::time::Duration;

use controlplane::model::{ImageCredentialSource, ImageId, Sealed, SecretId};
use controlplane::store::{Images as _, SecretChange, Secrets as _, StoreError};

use crate::database::{Database, change, image, named, now, page, worker};

conformance!(
    kept,
    kept_with_a_new_secret,
    kept_with_a_newer_value,
    whole_or_not_at_all,
    linked,
    links_are_announced,
    used,
    deleted,
    dispatched,
    of_other_workspaces,
    pages
);

async fn kept(database: Database) {
    let workspace = database.workspace("a").await;
    let names = ImageCredentialSource::Named(vec!["B".to_owned(), "A".to_owned(), "B".to_owned()]);
    let made = database.image(&workspace, "i", names.clone()).await;
    assert_eq!((made.create_time.0, made.update_time.0), (1_000_000_000_000, 1_000_000_000_000));
    assert_eq!(made.credentials, names, "in their order");
    assert_eq!(database.store.image(&workspace, &made.image_id).await.unwrap().as_ref(), Some(&made));
    assert_eq!(database.store.image(&workspace, &"j".into()).await.unwrap(), None);

    database.clock.advance(Duration::from_secs(1));
    database.index("index-2").await;
    let mut again = image(&workspace, "i", ImageCredentialSource::Anonymous);
    again.index_digest = "index-2".to_owned();
    again.digest = "sha256:2".to_owned();
    let change = change(Some(&workspace), "CreateImage", "i");
    let again = now(database.store.put_image(&change, &again, &SecretChange::None).await.unwrap());
    assert_eq!(again.create_time, made.create_time);
    assert_eq!(again.update_time, made.update_time.after(Duration::from_secs(1)));
    assert_eq!(database.store.image(&workspace, &made.image_id).await.unwrap(), Some(again));
    assert_eq!(database.count("image_secret").await, 0);
}

async fn kept_with_a_new_secret(database: Database) {
    let workspace = database.workspace("a").await;
    database.index("index-1").await;
    let new = database.new_secret(&workspace, "registry-test", "registry.test").await;
    let asked = image(&workspace, "i", ImageCredentialSource::Anonymous);
    let change = change(Some(&workspace), "CreateImage", "i");
    let made =
        now(database.store.put_image(&change, &asked, &SecretChange::Create(new.clone())).await.unwrap());
    assert_eq!(made.credentials, named(&new.secret));
    let row = database.store.secret(&workspace, &new.secret.secret_id).await.unwrap().unwrap();
    assert_eq!((row.sealed, row.secret.version, row.newest), (new.sealed, 1, 1));
    let link =
        database.texts("SELECT credential_secret_name || ' ' || credential_secret_id FROM image").await;
    assert_eq!(link, [format!("registry-test {}", new.secret.secret_id)]);
    // Somebody else's image of the same registry was faster.
    let late = database.new_secret(&workspace, "registry-test", "registry.test").await;
    let asked = image(&workspace, "j", ImageCredentialSource::Anonymous);
    let late = database.store.put_image(&change, &asked, &SecretChange::Create(late)).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    assert_eq!(database.count("image").await, 1);
}

async fn kept_with_a_newer_value(database: Database) {
    let workspace = database.workspace("a").await;
    let read = database.secret(&workspace, "registry-test", "registry.test").await;
    database.image(&workspace, "i", named(&read)).await;
    database.image(&workspace, "other", named(&read)).await;
    database.container(&workspace, "i", "c1", "running", "w1").await;
    database.container(&workspace, "other", "c2", "running", "w2").await;
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let update = SecretChange::Update { read: read.clone(), sealed: sealed.clone() };
    let asked = image(&workspace, "i", ImageCredentialSource::Anonymous);
    let change = change(Some(&workspace), "CreateImage", "i");
    let made = now(database.store.put_image(&change, &asked, &update).await.unwrap());
    assert_eq!(made.credentials, named(&read));
    let row = database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap();
    assert_eq!((row.sealed, row.secret.version), (sealed, 2));
    assert_eq!(database.outbox().await, ["w1 credentials c1 2/7", "w2 credentials c2 2/7"]);
    let late = database.store.put_image(&change, &asked, &update).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
}

async fn whole_or_not_at_all(database: Database) {
    let workspace = database.workspace("a").await;
    let change = change(Some(&workspace), "CreateImage", "i");
    let new = database.new_secret(&workspace, "registry-test", "registry.test").await;
    let asked = image(&workspace, "i", ImageCredentialSource::Anonymous);
    // Its index is not complete.
    for secret in [SecretChange::None, SecretChange::Create(new.clone())] {
        let refused = database.store.put_image(&change, &asked, &secret).await;
        assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    }
    database.index("index-1").await;
    // Its workspace is not there: found last, after the secret was made.
    let nowhere = image(&"nowhere".into(), "i", ImageCredentialSource::Anonymous);
    let refused = database.store.put_image(&change, &nowhere, &SecretChange::Create(new)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    // It names a secret that is not there.
    let id = SecretId::generate();
    let dangling = image(&workspace, "i", ImageCredentialSource::Secret { name: "x".to_owned(), id });
    let refused = database.store.put_image(&change, &dangling, &SecretChange::None).await;
    assert!(matches!(refused, Err(StoreError::NotFound("secret"))), "{refused:?}");
    for table in
        ["image", "image_secret", "secret", "secret_version", "outbox", "audit WHERE action = 'CreateImage'"]
    {
        assert_eq!(database.count(table).await, 0, "{table}");
    }
}

async fn linked(database: Database) {
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "registry-test", "registry.test").await;
    let made = database.image(&workspace, "i", ImageCredentialSource::Named(vec!["A".to_owned()])).await;
    let change = change(Some(&workspace), "SetCredentialSecret", "i");
    let set = async |image: &ImageId, secret: Option<&SecretId>| {
        database.store.set_image_credential_secret(&change, image, secret).await
    };
    let linked = now(set(&made.image_id, Some(&secret.secret_id)).await.unwrap());
    assert_eq!(linked.credentials, named(&secret));
    assert_eq!(database.store.image(&workspace, &made.image_id).await.unwrap().as_ref(), Some(&linked));
    assert_eq!(database.count("image_secret").await, 0);
    let unlinked = now(set(&made.image_id, None).await.unwrap());
    assert_eq!(unlinked.credentials, ImageCredentialSource::Anonymous);
    assert_eq!(
        database.texts("SELECT image_id FROM image WHERE credential_secret_name IS NULL").await,
        ["i"]
    );
    let no_image = set(&"j".into(), Some(&secret.secret_id)).await;
    assert!(matches!(no_image, Err(StoreError::NotFound("image"))), "{no_image:?}");
    let no_secret = set(&made.image_id, Some(&SecretId::generate())).await;
    assert!(matches!(no_secret, Err(StoreError::NotFound("secret"))), "{no_secret:?}");
}

async fn links_are_announced(database: Database) {
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "registry-test", "registry.test").await;
    let made = database.image(&workspace, "i", ImageCredentialSource::Anonymous).await;
    database.container(&workspace, "i", "c1", "running", "w1").await;
    database.container(&workspace, "i", "c2", "queued", "w1").await;
    let change = change(Some(&workspace), "SetCredentialSecret", "i");
    for secret in [Some(&secret.secret_id), Some(&secret.secret_id), None] {
        database.store.set_image_credential_secret(&change, &made.image_id, secret).await.unwrap();
        // Once: the same again changes nothing, and none is taken away.
        assert_eq!(database.outbox().await, ["w1 credentials c1 2/7"]);
    }
}

async fn used(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let secret = database.secret(&workspace, "TOKEN", "").await;
    database.secret(&other, "TOKEN", "").await;
    assert_eq!(database.store.images_using(&workspace, &secret.secret_id).await.unwrap(), 0);
    database.image(&workspace, "by-id", named(&secret)).await;
    let names = ImageCredentialSource::Named(vec!["TOKEN".to_owned(), "TOKEN".to_owned()]);
    database.image(&workspace, "by-name", names.clone()).await;
    database.image(&workspace, "public", ImageCredentialSource::Anonymous).await;
    database.image(&other, "by-name", names).await;
    assert_eq!(database.store.images_using(&workspace, &secret.secret_id).await.unwrap(), 2);
    assert_eq!(database.store.images_using(&other, &secret.secret_id).await.unwrap(), 0);
}

async fn deleted(database: Database) {
    let workspace = database.workspace("a").await;
    let made = database.image(&workspace, "i", ImageCredentialSource::Named(vec!["A".to_owned()])).await;
    let change = change(Some(&workspace), "DeleteImage", "i");
    for state in ["queued", "scheduled", "mounting", "running"] {
        database.container(&workspace, "i", state, state, "w1").await;
        let busy = database.store.delete_image(&change, &made.image_id).await;
        assert!(matches!(&busy, Err(StoreError::Conflict(why)) if why.contains(state)), "{busy:?}");
        database.execute("UPDATE container SET state = 'exited', end_time = 1").await;
    }
    now(database.store.delete_image(&change, &made.image_id).await.unwrap());
    assert_eq!(database.store.image(&workspace, &made.image_id).await.unwrap(), None);
    assert_eq!(database.count("image_secret").await, 0);
    let again = database.store.delete_image(&change, &made.image_id).await;
    assert!(matches!(again, Err(StoreError::NotFound("image"))), "{again:?}");
}

async fn dispatched(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let image = database.image(&workspace, "i", ImageCredentialSource::Anonymous).await.image_id;
    let is = async |workspace, worker_id| {
        database.store.is_dispatched_to(workspace, &image, &worker(worker_id)).await.unwrap()
    };
    database.container(&workspace, "i", "ended", "exited", "w1").await;
    database.container(&workspace, "i", "waits", "queued", "w1").await;
    database.container(&workspace, "other", "other", "running", "w1").await;
    assert!(!is(&workspace, "w1").await);
    database.container(&workspace, "i", "c", "scheduled", "w1").await;
    assert!(is(&workspace, "w1").await);
    assert!(!is(&workspace, "w2").await);
    assert!(!is(&other, "w1").await);
}

async fn of_other_workspaces(database: Database) {
    let (ours, theirs) = (database.workspace("ours").await, database.workspace("theirs").await);
    let (mine, secret) = (
        database.secret(&ours, "registry-test", "registry.test").await,
        database.secret(&theirs, "s", "r.test").await,
    );
    let foreign = database.image(&theirs, "i", named(&secret)).await;
    assert_eq!(database.store.image(&ours, &foreign.image_id).await.unwrap(), None);
    assert_eq!(database.store.images(&ours, &page(10, None)).await.unwrap().items, []);
    let change_it = change(Some(&ours), "SetCredentialSecret", "i");
    let set = database.store.set_image_credential_secret(&change_it, &foreign.image_id, None).await;
    assert!(matches!(set, Err(StoreError::NotFound("image"))), "{set:?}");
    let gone = database.store.delete_image(&change(Some(&ours), "DeleteImage", "i"), &foreign.image_id).await;
    assert!(matches!(gone, Err(StoreError::NotFound("image"))), "{gone:?}");
    // The same identity, with credentials of its own; never with those of others.
    let own = database.image(&ours, "i", named(&mine)).await;
    let set =
        database.store.set_image_credential_secret(&change_it, &own.image_id, Some(&secret.secret_id)).await;
    assert!(matches!(set, Err(StoreError::NotFound("secret"))), "{set:?}");
    let asked = image(&ours, "i", named(&secret));
    let put =
        database.store.put_image(&change(Some(&ours), "CreateImage", "i"), &asked, &SecretChange::None).await;
    assert!(matches!(put, Err(StoreError::NotFound("secret"))), "{put:?}");
    assert_eq!(database.store.image(&ours, &own.image_id).await.unwrap(), Some(own));
    assert_eq!(database.store.image(&theirs, &foreign.image_id).await.unwrap(), Some(foreign));
}

async fn pages(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let names = ImageCredentialSource::Named(vec!["A".to_owned(), "B".to_owned()]);
    let mut made = Vec::new();
    for id in ["c", "a", "b"] {
        made.push(database.image(&workspace, id, names.clone()).await);
    }
    database.image(&other, "aa", names).await;
    made.sort_by(|a, b| a.image_id.cmp(&b.image_id));
    let first = database.store.images(&workspace, &page(2, None)).await.unwrap();
    assert_eq!(first.items, made[..2]);
    let rest = database.store.images(&workspace, &page(2, first.next)).await.unwrap();
    assert_eq!((rest.items.as_slice(), rest.next), (&made[2..], None));
}
