//! `Announcements`: word comes after the commit, to each replica once.

use std::time::Duration;

use controlplane::model::Sealed;
use controlplane::store::{Announcements as _, Secrets as _, SqlStore, StoreError, Topic, Topics};
use tokio::time::timeout;

use crate::database::{Database, change, named, worker};

conformance!(told_once, replicas_hear);

/// Longest wait for what must come.
const LONG: Duration = Duration::from_secs(20);

/// How long nothing comes.
const QUIET: Duration = Duration::from_millis(300);

async fn quiet(topics: &mut Topics) {
    if let Ok(topic) = timeout(QUIET, topics.next()).await {
        panic!("{topic:?}");
    }
}

/// Listeners hear everything once when they begin to listen to other replicas.
async fn listening(database: &Database, store: &SqlStore) -> Topics {
    let mut topics = store.topics();
    if !database.url.starts_with("sqlite") {
        while let Ok(topic) = timeout(QUIET, topics.next()).await {
            assert_eq!(topic, Topic::Everything);
        }
    }
    topics
}

async fn told_once(database: Database) {
    let mut topics = listening(&database, &database.store).await;
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "TOKEN", "").await;
    database.image(&workspace, "i", named(&secret)).await;
    for (id, on) in [("c1", "w1"), ("c2", "w2"), ("c3", "w1")] {
        database.container(&workspace, "i", id, "running", on).await;
    }
    quiet(&mut topics).await;
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let change = change(Some(&workspace), "UpdateSecret", "TOKEN");
    database.store.update_secret(&change, &secret, &sealed).await.unwrap();
    for id in ["w1", "w2"] {
        assert_eq!(timeout(LONG, topics.next()).await.unwrap(), Topic::Worker(worker(id)));
    }
    quiet(&mut topics).await;
    // What is refused is not told.
    let late = database.store.update_secret(&change, &secret, &sealed).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))));
    quiet(&mut topics).await;
}

async fn replicas_hear(database: Database) {
    if database.url.starts_with("sqlite") {
        // Embedded: there is one server. An operator's command beside it changes nothing that it waits for.
        return;
    }
    let replica = database.replica().await;
    let mut topics = listening(&database, &replica).await;
    let workspace = database.workspace("a").await;
    let secret = database.secret(&workspace, "TOKEN", "").await;
    database.image(&workspace, "i", named(&secret)).await;
    database.container(&workspace, "i", "c1", "running", "w1").await;
    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let change = change(Some(&workspace), "UpdateSecret", "TOKEN");
    database.store.update_secret(&change, &secret, &sealed).await.unwrap();
    assert_eq!(timeout(LONG, topics.next()).await.unwrap(), Topic::Worker(worker("w1")));
    quiet(&mut topics).await;
    // Word may be lost with the listener's connection: then everything is to be looked at.
    database
        .texts(
            "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'
                AND datname = current_database()",
        )
        .await;
    assert_eq!(timeout(LONG, topics.next()).await.unwrap(), Topic::Everything);
}
