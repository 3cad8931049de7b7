//! `Tokens`.

use std::time::Duration;

use controlplane::model::{Time, Token, TokenId, TokenKind, WorkspaceId};
use controlplane::store::{StoreError, Tokens as _};

use crate::database::{Database, change, now, page};

conformance!(borne, expire, bound_once, revoked, pages, refused);

fn token(kind: TokenKind, workspace: Option<&WorkspaceId>) -> Token {
    Token {
        token_id: TokenId::generate(),
        kind,
        workspace_id: workspace.cloned(),
        node: None,
        create_time: Time(0),
        expire_time: None,
    }
}

async fn create(database: &Database, token: &Token, hash: u8) -> Token {
    let change = change(token.workspace_id.as_ref(), "CreateToken", "token");
    now(database.store.create_token(&change, token, &[hash; 32]).await.unwrap())
}

async fn borne(database: Database) {
    let workspace = database.workspace("a").await;
    for (hash, kind) in [(1, TokenKind::Admin), (2, TokenKind::Worker), (3, TokenKind::Workspace)] {
        let made = create(&database, &token(kind, (hash == 3).then_some(&workspace)), hash).await;
        assert_eq!(made.create_time, Time(1_000_000_000_000), "the store's time");
        assert_eq!(database.store.token_by_hash(&[hash; 32]).await.unwrap(), Some(made));
    }
    assert_eq!(database.store.token_by_hash(&[9; 32]).await.unwrap(), None);
}

async fn expire(database: Database) {
    let mut expires = token(TokenKind::Admin, None);
    expires.expire_time = Some(Time(1_000_000_000_000).after(Duration::from_secs(60)));
    let made = create(&database, &expires, 1).await;
    database.clock.advance(Duration::from_secs(59));
    assert_eq!(database.store.token_by_hash(&[1; 32]).await.unwrap(), Some(made));
    database.clock.advance(Duration::from_secs(1));
    assert_eq!(database.store.token_by_hash(&[1; 32]).await.unwrap(), None);
}

async fn bound_once(database: Database) {
    let made = create(&database, &token(TokenKind::Worker, None), 1).await;
    let binds = (0..6).map(|n| {
        let (store, id) = (database.store.clone(), made.token_id.clone());
        tokio::spawn(async move { store.bind_token(&id, &format!("node-{n}")).await.unwrap() })
    });
    let mut bound = 0;
    for bind in binds.collect::<Vec<_>>() {
        bound += u32::from(bind.await.unwrap());
    }
    assert_eq!(bound, 1, "one node has it");
    let node = database.store.token_by_hash(&[1; 32]).await.unwrap().unwrap().node.unwrap();
    assert!(database.store.bind_token(&made.token_id, &node).await.unwrap(), "the same again");
    assert!(!database.store.bind_token(&made.token_id, "other").await.unwrap());
    let admin = create(&database, &token(TokenKind::Admin, None), 2).await;
    for missing in [&admin.token_id, &TokenId::generate()] {
        let refused = database.store.bind_token(missing, "node").await;
        assert!(matches!(refused, Err(StoreError::NotFound("token"))), "{refused:?}");
    }
}

async fn revoked(database: Database) {
    let (ours, theirs) = (database.workspace("ours").await, database.workspace("theirs").await);
    let made = create(&database, &token(TokenKind::Workspace, Some(&ours)), 1).await;
    let foreign =
        database.store.revoke_token(&change(Some(&theirs), "RevokeToken", "t"), &made.token_id).await;
    assert!(matches!(foreign, Err(StoreError::NotFound("token"))), "{foreign:?}");
    assert!(database.store.token_by_hash(&[1; 32]).await.unwrap().is_some());
    database.store.revoke_token(&change(None, "RevokeToken", "t"), &made.token_id).await.unwrap();
    assert_eq!(database.store.token_by_hash(&[1; 32]).await.unwrap(), None);
    let again = database.store.revoke_token(&change(None, "RevokeToken", "t"), &made.token_id).await;
    assert!(matches!(again, Err(StoreError::NotFound("token"))), "{again:?}");
}

async fn pages(database: Database) {
    let (ours, theirs) = (database.workspace("ours").await, database.workspace("theirs").await);
    let mut ids = Vec::new();
    for (hash, workspace) in [(1, &ours), (2, &theirs), (3, &ours), (4, &ours)] {
        ids.push(create(&database, &token(TokenKind::Workspace, Some(workspace)), hash).await.token_id);
    }
    let first = database.store.tokens(Some(&ours), &page(2, None)).await.unwrap();
    let rest = database.store.tokens(Some(&ours), &page(2, first.next.clone())).await.unwrap();
    let seen: Vec<_> = first.items.into_iter().chain(rest.items).map(|token| token.token_id).collect();
    assert_eq!(seen, [ids[0].clone(), ids[2].clone(), ids[3].clone()]);
    assert_eq!(rest.next, None);
    let all = database.store.tokens(None, &page(10, None)).await.unwrap();
    assert_eq!(all.items.into_iter().map(|token| token.token_id).collect::<Vec<_>>(), ids);
}

async fn refused(database: Database) {
    let change = change(None, "CreateToken", "t");
    let nowhere = token(TokenKind::Workspace, Some(&"nowhere".into()));
    let missing = database.store.create_token(&change, &nowhere, &[1; 32]).await;
    assert!(matches!(missing, Err(StoreError::NotFound("workspace"))), "{missing:?}");
    create(&database, &token(TokenKind::Admin, None), 1).await;
    let twice = database.store.create_token(&change, &token(TokenKind::Admin, None), &[1; 32]).await;
    assert!(matches!(twice, Err(StoreError::Exists("token"))), "{twice:?}");
    // The tables themselves refuse a workspace token without a workspace.
    let broken = database.store.create_token(&change, &token(TokenKind::Workspace, None), &[2; 32]).await;
    assert!(matches!(broken, Err(StoreError::Database(_))), "{broken:?}");
    assert_eq!(database.count("token").await, 1);
}
