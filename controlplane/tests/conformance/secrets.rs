//! `Secrets`.

use std::time::Duration;

use controlplane::model::{
    Capacity, Demand, ImageCredentialSource, Lease, NewContainer, Registration, Sealed, SecretId,
};
use controlplane::store::{
    Containers as _, DeliveryKind, Outbox as _, Queue as _, Secrets as _, StoreError, Workers as _,
};
use sqlx::{Connection as _, Executor as _};

use crate::database::{Database, change, named, now, page};

conformance!(
    kept,
    names_and_registries_are_unique,
    updated,
    updates_do_not_overtake,
    users_are_told,
    users_of_a_name_are_told,
    newer_word_takes_the_place_of_older,
    deleted,
    of_other_workspaces,
    pages,
    rolled_back_rows_are_not_updated
);

async fn kept(database: Database) {
    let workspace = database.workspace("a").await;
    let new = database.new_secret(&workspace, "registry-test", "registry.test").await;
    let made = now(database
        .store
        .create_secret(&change(Some(&workspace), "CreateSecret", "s"), &new)
        .await
        .unwrap());
    assert_eq!(
        (made.version, made.create_time.0, made.update_time.0),
        (1, 1_000_000_000_000, 1_000_000_000_000)
    );
    let row = database.store.secret(&workspace, &made.secret_id).await.unwrap().unwrap();
    assert_eq!((&row.secret, &row.sealed, row.newest), (&made, &new.sealed, 1));
    assert_eq!(
        database.store.secret_for_registry(&workspace, "registry.test").await.unwrap().as_ref(),
        Some(&row)
    );
    assert_eq!(database.store.secrets_named(&workspace, "registry-test").await.unwrap(), [row]);
    assert_eq!(
        database.store.secret_for_registry(&workspace, "").await.unwrap(),
        None,
        "plain values have none"
    );
    assert_eq!(database.store.secret(&workspace, &SecretId::generate()).await.unwrap(), None);
}

async fn names_and_registries_are_unique(database: Database) {
    let workspace = database.workspace("a").await;
    database.secret(&workspace, "a-b", "a.b").await;
    database.secret(&workspace, "a-b", "a-b").await;
    database.secret(&workspace, "a-b", "").await;
    let named = database.store.secrets_named(&workspace, "a-b").await.unwrap();
    assert_eq!(named.len(), 3);
    assert_eq!(named[0].secret.registry, "", "plain values come first");
    for (name, registry) in [("a-b", "a.b"), ("a-b", ""), ("other", "a.b")] {
        let new = database.new_secret(&workspace, name, registry).await;
        let again = database.store.create_secret(&change(Some(&workspace), "CreateSecret", "s"), &new).await;
        assert!(matches!(again, Err(StoreError::Exists("secret"))), "{name} {registry}: {again:?}");
    }
    database.secret(&workspace, "OTHER", "").await;
    assert_eq!(database.count("secret").await, 4);
    assert_eq!(database.count("secret_version").await, 4);
}

async fn updated(database: Database) {
    let workspace = database.workspace("a").await;
    let read = database.secret(&workspace, "NAME", "").await;
    database.clock.advance(Duration::from_secs(1));
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"sealed 2".to_vec() };
    let change = change(Some(&workspace), "UpdateSecret", "NAME");
    let updated = now(database.store.update_secret(&change, &read, &sealed).await.unwrap());
    assert_eq!((updated.version, updated.create_time), (2, read.create_time));
    assert_eq!(updated.update_time, read.update_time.after(Duration::from_secs(1)));
    let row = database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap();
    assert_eq!((&row.secret, &row.sealed, row.newest), (&updated, &sealed, 2));
    let late = database.store.update_secret(&change, &read, &sealed).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    let gone_key = Sealed { key_id: "gone".into(), record: b"sealed 3".to_vec() };
    let gone = database.store.update_secret(&change, &updated, &gone_key).await;
    assert!(matches!(gone, Err(StoreError::Conflict(_))), "a data key that was retired: {gone:?}");
    assert_eq!(
        database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap(),
        row,
        "nothing of it stays"
    );
}

async fn updates_do_not_overtake(database: Database) {
    let workspace = database.workspace("a").await;
    let read = database.secret(&workspace, "NAME", "").await;
    let key = database.key(&workspace).await;
    let updates = (0..8).map(|n| {
        let (store, workspace, read) = (database.store.clone(), workspace.clone(), read.clone());
        let sealed = Sealed { key_id: key.clone(), record: format!("value of {n}").into_bytes() };
        tokio::spawn(async move {
            let change = change(Some(&workspace), "UpdateSecret", "NAME");
            match store.update_secret(&change, &read, &sealed).await {
                Ok(_) => Some(sealed),
                Err(StoreError::Conflict(_)) => None,
                Err(error) => panic!("{error:?}"),
            }
        })
    });
    let mut won = Vec::new();
    for update in updates.collect::<Vec<_>>() {
        won.extend(update.await.unwrap());
    }
    assert_eq!(won.len(), 1, "one of those who read the same version");
    let row = database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap();
    assert_eq!((row.sealed, row.secret.version, row.newest), (won.remove(0), 2, 2));
    assert_eq!(database.count("audit WHERE action = 'UpdateSecret'").await, 1);
}

/// A name that was free comes to hold a value: an image may name it since before.
async fn users_of_a_name_are_told(database: Database) {
    let workspace = database.workspace("a").await;
    database.image(&workspace, "i", ImageCredentialSource::Named(vec!["TOKEN".to_owned()])).await;
    database.container(&workspace, "i", "c", "running", "w1").await;
    database.secret(&workspace, "TOKEN", "registry.test").await;
    assert_eq!(database.outbox().await, [""; 0], "a registry's secret is not meant by name");
    database.secret(&workspace, "TOKEN", "").await;
    assert_eq!(database.outbox().await, ["w1 credentials c 2/7"]);
}

/// Whoever changes a secret without end has one message in the outbox for each container, the newest.
async fn newer_word_takes_the_place_of_older(database: Database) {
    let workspace = database.workspace("a").await;
    let mut secret = database.secret(&workspace, "TOKEN", "").await;
    database.image(&workspace, "i", ImageCredentialSource::Named(vec!["TOKEN".to_owned()])).await;
    for id in ["c", "d"] {
        database.container(&workspace, "i", id, "running", "w1").await;
    }
    let mut newest = 0;
    for _ in 0..3 {
        let sealed = Sealed { key_id: database.key(&workspace).await, record: b"sealed".to_vec() };
        let change = change(Some(&workspace), "UpdateSecret", "TOKEN");
        secret = now(database.store.update_secret(&change, &secret, &sealed).await.unwrap());
        assert_eq!(database.outbox().await, ["w1 credentials c 2/7", "w1 credentials d 2/7"]);
        let deliveries = database.store.deliveries(&"w1".into(), 0, 10).await.unwrap();
        assert!(
            deliveries.iter().all(|delivery| delivery.delivery > newest),
            "not one that was sent already"
        );
        newest = deliveries.iter().map(|delivery| delivery.delivery).max().unwrap();
    }
}

/// An update that has told all whom it saw, and is not committed; a dispatch that it did not see. Who reads what the dispatch needs must not
/// read the old value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatch_waits_for_an_update_that_does_not_see_it() {
    let database = Database::postgres().await;
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "registry-test", "registry.test").await;
    database.image(&workspace, "i", named(&secret)).await;
    let container = NewContainer {
        container_id: "c".into(),
        workspace_id: workspace.clone(),
        image_id: "i".into(),
        request: "{}".to_owned(),
        demand: Demand::default(),
    };
    let store = database.store.clone();
    store.submit(&change(Some(&workspace), "RunContainer", "c"), &container).await.unwrap();
    let registration = Registration {
        node: "n".to_owned(),
        capacity: Capacity { cpu: 1, memory: 1, ..Capacity::default() },
        pool_selector: String::new(),
        version: String::new(),
    };
    let worker = store.register_worker(&registration).await.unwrap().worker_id;
    // The last thing that an update writes is held up.
    let mut other = database.connection().await;
    other.execute("BEGIN").await.unwrap();
    other.execute("LOCK TABLE audit IN EXCLUSIVE MODE").await.unwrap();
    let update = {
        let (store, workspace, key_id) = (store.clone(), workspace.clone(), database.key(&workspace).await);
        let (read, sealed) = (secret.clone(), Sealed { key_id, record: b"sealed 2".to_vec() });
        tokio::spawn(async move {
            store.update_secret(&change(Some(&workspace), "UpdateSecret", "s"), &read, &sealed).await
        })
    };
    while database.count("pg_locks WHERE NOT granted AND relation = 'audit'::regclass").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.place(1).await.unwrap().placed, 1);
    let placed = store.container(&workspace, &"c".into()).await.unwrap().unwrap();
    let lease = Lease {
        workspace_id: workspace.clone(),
        container_id: "c".into(),
        attempt: placed.attempt,
        fencing_token: placed.fencing_token,
    };
    let early = store.dispatched(&worker, &lease).await;
    assert!(matches!(early, Err(StoreError::Busy(_))), "{early:?}");
    other.execute("COMMIT").await.unwrap();
    other.close().await.unwrap();
    update.await.unwrap().unwrap();
    assert!(store.dispatched(&worker, &lease).await.unwrap().is_some());
    assert_eq!(store.secret(&workspace, &secret.secret_id).await.unwrap().unwrap().secret.version, 2);
    // It was not told, and need not be.
    let kinds: Vec<DeliveryKind> =
        store.deliveries(&worker, 0, 10).await.unwrap().iter().map(|delivery| delivery.kind).collect();
    assert_eq!(kinds, [DeliveryKind::Dispatch]);
}

async fn users_are_told(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let secret = database.secret(&workspace, "TOKEN", "").await;
    let unrelated = database.secret(&workspace, "UNRELATED", "").await;
    let foreign = database.secret(&other, "TOKEN", "").await;
    database.image(&workspace, "by-id", named(&secret)).await;
    let names = ImageCredentialSource::Named(vec!["USER".to_owned(), "TOKEN".to_owned()]);
    database.image(&workspace, "by-name", names.clone()).await;
    database.image(&workspace, "not", named(&unrelated)).await;
    database.image(&workspace, "public", ImageCredentialSource::Anonymous).await;
    database.image(&other, "by-name", names).await;
    database.image(&other, "by-id", named(&foreign)).await;
    for (image, id, state, on) in [
        ("by-id", "c1", "running", "w1"),
        ("by-id", "c2", "scheduled", "w2"),
        ("by-id", "c3", "exited", "w1"),
        ("by-id", "c4", "queued", "w1"),
        ("by-name", "c5", "mounting", "w1"),
        ("by-name", "c6", "failed", "w1"),
        ("not", "c7", "running", "w1"),
        ("public", "c8", "running", "w1"),
    ] {
        database.container(&workspace, image, id, state, on).await;
    }
    database.container(&other, "by-name", "c1", "running", "w1").await;
    database.container(&other, "by-id", "c2", "running", "w1").await;
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let change = change(Some(&workspace), "UpdateSecret", "TOKEN");
    database.store.update_secret(&change, &secret, &sealed).await.unwrap();
    let expected = ["w1 credentials c1 2/7", "w1 credentials c5 2/7", "w2 credentials c2 2/7"];
    assert_eq!(database.outbox().await, expected);
    let late = database.store.update_secret(&change, &secret, &sealed).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    assert_eq!(database.outbox().await, expected, "what was refused tells nobody");
}

async fn deleted(database: Database) {
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "TOKEN", "registry.test").await;
    database.image(&workspace, "image", named(&secret)).await;
    let change = change(Some(&workspace), "DeleteSecret", "TOKEN");
    now(database.store.delete_secret(&change, &secret.secret_id).await.unwrap());
    assert_eq!(database.store.secret(&workspace, &secret.secret_id).await.unwrap(), None);
    assert_eq!(database.store.secret_for_registry(&workspace, "registry.test").await.unwrap(), None);
    let link = database.texts("SELECT credential_secret_id FROM image").await;
    assert_eq!(link, [secret.secret_id.to_string()], "the image keeps the name of what it needs");
    let again = database.store.delete_secret(&change, &secret.secret_id).await;
    assert!(matches!(again, Err(StoreError::NotFound("secret"))), "{again:?}");
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let update = database.store.update_secret(&change, &secret, &sealed).await;
    assert!(matches!(update, Err(StoreError::NotFound("secret"))), "{update:?}");
    // A new one for the registry is another secret.
    assert_ne!(database.secret(&workspace, "TOKEN", "registry.test").await.secret_id, secret.secret_id);
    // A row that somebody puts back is older than what is known of it.
    let key = database.key(&workspace).await;
    database
        .execute(&format!(
            "INSERT INTO secret VALUES ('{}', '{workspace}', 'BACK', '', 1, '{key}', {}, 0, 0)",
            secret.secret_id,
            if database.url.starts_with("sqlite") { "x'31'" } else { "'\\x31'" }
        ))
        .await;
    let back = database.store.secret(&workspace, &secret.secret_id).await.unwrap().unwrap();
    assert!(back.newest > back.secret.version, "{back:?}");
}

async fn of_other_workspaces(database: Database) {
    let (ours, theirs) = (database.workspace("ours").await, database.workspace("theirs").await);
    let secret = database.secret(&theirs, "TOKEN", "registry.test").await;
    assert_eq!(database.store.secret(&ours, &secret.secret_id).await.unwrap(), None);
    assert_eq!(database.store.secrets_named(&ours, "TOKEN").await.unwrap(), []);
    assert_eq!(database.store.secret_for_registry(&ours, "registry.test").await.unwrap(), None);
    assert_eq!(database.store.secrets(&ours, &page(10, None)).await.unwrap().items, []);
    for workspace in [Some(&ours), None] {
        let change = change(workspace, "DeleteSecret", "TOKEN");
        let foreign = database.store.delete_secret(&change, &secret.secret_id).await;
        assert!(matches!(foreign, Err(StoreError::NotFound("secret"))), "{foreign:?}");
    }
    let mut claimed = secret.clone();
    claimed.workspace_id = ours.clone();
    let sealed = Sealed { key_id: database.key(&ours).await, record: b"2".to_vec() };
    let foreign =
        database.store.update_secret(&change(Some(&ours), "UpdateSecret", "T"), &claimed, &sealed).await;
    assert!(matches!(foreign, Err(StoreError::NotFound("secret"))), "{foreign:?}");
    assert_eq!(database.store.secret(&theirs, &secret.secret_id).await.unwrap().unwrap().secret, secret);
    // The same name and registry are free here.
    database.secret(&ours, "TOKEN", "registry.test").await;
}

async fn pages(database: Database) {
    let workspace = database.workspace("a").await;
    for (name, registry) in [("b", ""), ("a", "z"), ("c", ""), ("a", ""), ("a", "y")] {
        database.secret(&workspace, name, registry).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = database.store.secrets(&workspace, &page(2, after)).await.unwrap();
        seen.extend(page.items.into_iter().map(|secret| (secret.name, secret.registry)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = [("a", ""), ("a", "y"), ("a", "z"), ("b", ""), ("c", "")];
    assert_eq!(seen, expected.map(|(name, registry)| (name.to_owned(), registry.to_owned())));
    let nonsense = database.store.secrets(&workspace, &page(2, Some("nonsense".to_owned()))).await;
    assert!(matches!(nonsense, Err(StoreError::Conflict(_))), "{nonsense:?}");
}

async fn rolled_back_rows_are_not_updated(database: Database) {
    let workspace = database.workspace("a").await;
    let read = database.secret(&workspace, "NAME", "").await;
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let change = change(Some(&workspace), "UpdateSecret", "NAME");
    database.store.update_secret(&change, &read, &sealed).await.unwrap();
    database.execute("UPDATE secret SET version = 1").await;
    let row = database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap();
    assert_eq!((row.secret.version, row.newest), (1, 2));
    let refused = database.store.update_secret(&change, &row.secret, &sealed).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { what: "secret", .. })), "{refused:?}");
    assert_eq!(database.store.secret(&workspace, &read.secret_id).await.unwrap().unwrap(), row);
}
