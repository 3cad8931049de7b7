//! `Workspaces`.

use controlplane::store::{StoreError, Workspaces as _};

use crate::database::{Database, change, now, page};

conformance!(made_and_read, names_are_unique, pages);

async fn made_and_read(database: Database) {
    let store = &database.store;
    let made = now(store.create_workspace(&change(None, "CreateWorkspace", "a"), "a").await.unwrap());
    assert_eq!(made.name, "a");
    assert_eq!(made.create_time.0, 1_000_000_000_000);
    assert_eq!(store.workspace("a").await.unwrap().as_ref(), Some(&made));
    assert_eq!(store.workspace(made.workspace_id.as_str()).await.unwrap().as_ref(), Some(&made));
    assert_eq!(store.workspace("b").await.unwrap(), None);
    // Another's name that is this one's identity does not hide it.
    let thief = made.workspace_id.as_str();
    store.create_workspace(&change(None, "CreateWorkspace", thief), thief).await.unwrap();
    assert_eq!(store.workspace(thief).await.unwrap().unwrap(), made);
}

async fn names_are_unique(database: Database) {
    database.workspace("a").await;
    let again = database.store.create_workspace(&change(None, "CreateWorkspace", "a"), "a").await;
    assert!(matches!(again, Err(StoreError::Exists("workspace"))), "{again:?}");
    assert_eq!(database.count("workspace").await, 1);
    assert_eq!(database.count("audit").await, 1, "what was refused is noted by nobody but the caller");
}

async fn pages(database: Database) {
    let mut made = Vec::new();
    for name in ["d", "a", "c", "b", "e"] {
        made.push(database.workspace(name).await);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    for expected in [2, 2, 1] {
        let page = database.store.workspaces(&page(2, after)).await.unwrap();
        assert_eq!(page.items.len(), expected);
        seen.extend(page.items.into_iter().map(|workspace| workspace.workspace_id));
        after = page.next;
    }
    assert_eq!(after, None);
    assert_eq!(seen, made, "oldest first");
    let exact = database.store.workspaces(&page(5, None)).await.unwrap();
    assert_eq!((exact.items.len(), exact.next), (5, None), "a full page may be the last");
    assert_eq!(database.store.workspaces(&page(0, None)).await.unwrap().items.len(), 1, "a page has an item");
}
