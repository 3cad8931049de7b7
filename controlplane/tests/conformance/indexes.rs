//! `Indexes`.

use controlplane::model::ClipIndexInfo;
use controlplane::store::{Indexes as _, MAX_PIECE, StoreError};

use crate::database::Database;

conformance!(stored_in_pieces, incomplete_ones_do_not_exist, begun_again, refused);

fn info(index_bytes: u64, pieces: u64) -> ClipIndexInfo {
    ClipIndexInfo { index_digest: "d".to_owned(), index_bytes, pieces }
}

async fn stored_in_pieces(database: Database) {
    let store = &database.store;
    let long = vec![7; MAX_PIECE];
    let info = info(u64::try_from(MAX_PIECE).unwrap() + 3, 2);
    assert!(store.begin_clip_index(&info).await.unwrap());
    store.put_clip_index_piece("d", 1, b"end").await.unwrap();
    store.put_clip_index_piece("d", 0, &long).await.unwrap();
    store.put_clip_index_piece("d", 0, &long).await.unwrap();
    store.complete_clip_index("d").await.unwrap();
    store.complete_clip_index("d").await.unwrap();
    assert_eq!(store.clip_index("d").await.unwrap().as_ref(), Some(&info));
    assert_eq!(store.clip_index_piece("d", 0).await.unwrap(), Some(long));
    assert_eq!(store.clip_index_piece("d", 1).await.unwrap().as_deref(), Some(b"end".as_slice()));
    for beyond in [2, u64::MAX] {
        assert_eq!(store.clip_index_piece("d", beyond).await.unwrap(), None);
    }
    assert!(!store.begin_clip_index(&info).await.unwrap(), "it is there");
    store.put_clip_index_piece("d", 1, b"END").await.unwrap();
    assert_eq!(
        store.clip_index_piece("d", 1).await.unwrap().as_deref(),
        Some(b"end".as_slice()),
        "and stays"
    );
}

async fn incomplete_ones_do_not_exist(database: Database) {
    let store = &database.store;
    assert_eq!(store.clip_index("d").await.unwrap(), None);
    assert!(store.begin_clip_index(&info(6, 2)).await.unwrap());
    store.put_clip_index_piece("d", 0, b"abc").await.unwrap();
    let early = store.complete_clip_index("d").await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    store.put_clip_index_piece("d", 1, b"de").await.unwrap();
    let short = store.complete_clip_index("d").await;
    assert!(matches!(short, Err(StoreError::Conflict(_))), "{short:?}");
    assert_eq!(store.clip_index("d").await.unwrap(), None);
    store.put_clip_index_piece("d", 1, b"def").await.unwrap();
    store.complete_clip_index("d").await.unwrap();
    assert_eq!(store.clip_index("d").await.unwrap(), Some(info(6, 2)));
}

async fn begun_again(database: Database) {
    let store = &database.store;
    assert!(store.begin_clip_index(&info(6, 2)).await.unwrap());
    store.put_clip_index_piece("d", 0, b"abc").await.unwrap();
    assert!(store.begin_clip_index(&info(6, 2)).await.unwrap());
    store.put_clip_index_piece("d", 1, b"def").await.unwrap();
    // Cut otherwise: the old pieces are not mixed with new ones.
    assert!(store.begin_clip_index(&info(6, 3)).await.unwrap());
    assert_eq!(database.count("clip_index_piece").await, 0);
    for (position, data) in [(0, b"ab"), (1, b"cd"), (2, b"ef")] {
        store.put_clip_index_piece("d", position, data).await.unwrap();
    }
    store.complete_clip_index("d").await.unwrap();
    assert_eq!(store.clip_index("d").await.unwrap(), Some(info(6, 3)));
}

async fn refused(database: Database) {
    let store = &database.store;
    let missing = store.put_clip_index_piece("d", 0, b"abc").await;
    assert!(matches!(missing, Err(StoreError::NotFound("clip index"))), "{missing:?}");
    let missing = store.complete_clip_index("d").await;
    assert!(matches!(missing, Err(StoreError::NotFound("clip index"))), "{missing:?}");
    assert!(store.begin_clip_index(&info(6, 2)).await.unwrap());
    let beyond = store.put_clip_index_piece("d", 2, b"abc").await;
    assert!(matches!(beyond, Err(StoreError::Conflict(_))), "{beyond:?}");
    let long = store.put_clip_index_piece("d", 0, &vec![0; MAX_PIECE + 1]).await;
    assert!(matches!(long, Err(StoreError::Conflict(_))), "{long:?}");
    assert_eq!(database.count("clip_index_piece").await, 0);
}
