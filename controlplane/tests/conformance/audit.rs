//! `Audit`.

use std::time::Duration;

use controlplane::store::{Audit as _, StoreError, Workspaces as _};

use crate::database::{Database, change};

conformance!(noted);

async fn noted(database: Database) {
    let workspace = database.workspace("a").await;
    let other = database.workspace("b").await;
    database.clock.advance(Duration::from_secs(1));
    database.store.note(&change(Some(&workspace), "GetSecret", "s"), "PERMISSION_DENIED: no").await.unwrap();
    database.secret(&workspace, "NAME", "").await;
    database.store.note(&change(Some(&other), "GetSecret", "s"), "ok").await.unwrap();
    let refused = database.store.create_workspace(&change(None, "CreateWorkspace", "a"), "a").await;
    assert!(matches!(refused, Err(StoreError::Exists(_))));

    let read = async |workspace, limit| database.store.audited(workspace, limit).await.unwrap();
    let ours = read(Some(&workspace), 10).await;
    let actions: Vec<_> = ours.iter().map(|row| (row.2.as_str(), row.3.as_str(), row.4.as_str())).collect();
    assert_eq!(actions, [("CreateSecret", "NAME", "ok"), ("GetSecret", "s", "PERMISSION_DENIED: no")]);
    assert!(ours.iter().all(|row| row.0.0 == 1_000_001_000_000 && row.1 == "token-1"));
    let all = read(None, 10).await;
    assert_eq!(all.len(), 5);
    assert_eq!(all[0].2, "GetSecret", "newest first");
    assert_eq!(all[4].2, "CreateWorkspace");
    assert_eq!(read(None, 1).await, all[..1]);
}
