//! Retries under a key get the first outcome, and do nothing.

use std::collections::BTreeSet;

use controlplane::model::{ImageCredentialSource, Sealed};
use controlplane::store::{
    Done, Images as _, SecretChange, Secrets as _, StoreError, Tokens as _, Workspaces as _,
};

use crate::database::{Database, change, image, keyed, now, replayed};

conformance!(
    replays,
    other_requests_are_refused,
    failures_take_no_key,
    scopes,
    one_of_many_does_it,
    every_change
);

async fn replays(database: Database) {
    let change = keyed(change(None, "CreateWorkspace", "a"), "key", 1);
    let made = now(database.store.create_workspace(&change, "a").await.unwrap());
    for _ in 0..2 {
        assert_eq!(replayed(database.store.create_workspace(&change, "a").await.unwrap()), made);
    }
    // Another replica knows it too, and so does one that comes later.
    assert_eq!(replayed(database.replica().await.create_workspace(&change, "a").await.unwrap()), made);
    assert_eq!((database.count("workspace").await, database.count("audit").await), (1, 1));
}

async fn other_requests_are_refused(database: Database) {
    let made = keyed(change(None, "CreateWorkspace", "a"), "key", 1);
    now(database.store.create_workspace(&made, "a").await.unwrap());
    for (action, request) in [("CreateWorkspace", 2), ("CreateToken", 1)] {
        let other = keyed(change(None, action, "b"), "key", request);
        let refused = database.store.create_workspace(&other, "b").await;
        assert!(matches!(refused, Err(StoreError::KeyReused)), "{refused:?}");
    }
    assert_eq!(database.count("workspace").await, 1);
}

async fn failures_take_no_key(database: Database) {
    database.workspace("taken").await;
    let first = keyed(change(None, "CreateWorkspace", "taken"), "key", 1);
    let refused = database.store.create_workspace(&first, "taken").await;
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    assert_eq!(database.count("idempotency").await, 0);
    let corrected = keyed(change(None, "CreateWorkspace", "free"), "key", 2);
    now(database.store.create_workspace(&corrected, "free").await.unwrap());
}

async fn scopes(database: Database) {
    let (a, b) = (database.workspace("a").await, database.workspace("b").await);
    for workspace in [&a, &b] {
        let new = database.new_secret(workspace, "NAME", "").await;
        let change = keyed(change(Some(workspace), "CreateSecret", "NAME"), "key", 1);
        let made = now(database.store.create_secret(&change, &new).await.unwrap());
        assert_eq!(made.workspace_id, *workspace);
    }
    // Where there is no workspace, the caller is the scope.
    for (actor, name) in [("one", "c"), ("two", "d")] {
        let mut change = keyed(change(None, "CreateWorkspace", name), "key", 1);
        change.actor = actor;
        now(database.store.create_workspace(&change, name).await.unwrap());
    }
}

async fn one_of_many_does_it(database: Database) {
    let replica = database.replica().await;
    for round in 0..5 {
        let calls = (0..8).map(|n| {
            let store = if n % 2 == 0 { database.store.clone() } else { replica.clone() };
            tokio::spawn(async move {
                let (name, key) = (format!("w{round}"), format!("key {round}"));
                let change = keyed(change(None, "CreateWorkspace", &name), &key, 1);
                store.create_workspace(&change, &name).await.unwrap()
            })
        });
        let (mut did, mut outcomes) = (0, BTreeSet::new());
        for call in calls.collect::<Vec<_>>() {
            let done = call.await.unwrap();
            did += u32::from(matches!(done, Done::Now(_)));
            outcomes.insert(done.into_inner().workspace_id);
        }
        assert_eq!((did, outcomes.len()), (1, 1), "round {round}");
    }
    assert_eq!((database.count("workspace").await, database.count("audit").await), (5, 5));
}

/// Each call that takes a key, twice.
async fn every_change(database: Database) {
    let store = &database.store;
    let workspace = database.workspace("a").await;
    database.index("index-1").await;
    let with = |action, key| keyed(change(Some(&workspace), action, "x"), key, 1);

    let new = database.new_secret(&workspace, "NAME", "").await;
    let create = with("CreateSecret", "1");
    let secret = now(store.create_secret(&create, &new).await.unwrap());
    assert_eq!(replayed(store.create_secret(&create, &new).await.unwrap()), secret);

    let sealed = Sealed { key_id: database.key(&workspace).await, record: b"2".to_vec() };
    let update = with("UpdateSecret", "2");
    let updated = now(store.update_secret(&update, &secret, &sealed).await.unwrap());
    assert_eq!(replayed(store.update_secret(&update, &secret, &sealed).await.unwrap()), updated);
    // The first outcome, whatever has happened since.
    assert_eq!(replayed(store.create_secret(&create, &new).await.unwrap()).version, 1);

    let with_secret = database.new_secret(&workspace, "registry-test", "registry.test").await;
    let (put, asked) = (with("CreateImage", "3"), image(&workspace, "i", ImageCredentialSource::Anonymous));
    let creates = SecretChange::Create(with_secret.clone());
    let made = now(store.put_image(&put, &asked, &creates).await.unwrap());
    assert_eq!(replayed(store.put_image(&put, &asked, &creates).await.unwrap()), made);

    let link = with("SetCredentialSecret", "4");
    let linked =
        now(store.set_image_credential_secret(&link, &made.image_id, Some(&secret.secret_id)).await.unwrap());
    let again =
        store.set_image_credential_secret(&link, &made.image_id, Some(&secret.secret_id)).await.unwrap();
    assert_eq!(replayed(again), linked);

    let delete = with("DeleteSecret", "5");
    now(store.delete_secret(&delete, &secret.secret_id).await.unwrap());
    replayed(store.delete_secret(&delete, &secret.secret_id).await.unwrap());

    let delete = with("DeleteImage", "6");
    now(store.delete_image(&delete, &made.image_id).await.unwrap());
    replayed(store.delete_image(&delete, &made.image_id).await.unwrap());

    let token = controlplane::model::Token {
        token_id: controlplane::model::TokenId::generate(),
        kind: controlplane::model::TokenKind::Workspace,
        workspace_id: Some(workspace.clone()),
        node: None,
        create_time: controlplane::model::Time(0),
        expire_time: None,
    };
    let create = with("CreateToken", "7");
    let made = now(store.create_token(&create, &token, &[1; 32]).await.unwrap());
    assert_eq!(replayed(store.create_token(&create, &token, &[1; 32]).await.unwrap()), made);
    let revoke = with("RevokeToken", "8");
    store.revoke_token(&revoke, &token.token_id).await.unwrap();
    store.revoke_token(&revoke, &token.token_id).await.unwrap();

    assert_eq!(database.count("idempotency").await, 8);
    assert_eq!(database.count("audit").await, 1 + 8, "the workspace, and each once");
}
