//! `Housekeeping`.

use std::time::Duration;

use controlplane::model::{ClipIndexInfo, ImageCredentialSource, Time, Token, TokenId, TokenKind};
use controlplane::store::{
    Housekeeping as _, Indexes as _, StoreError, Tokens as _, Workspaces as _, revert,
};

use crate::database::{Database, change, keyed};

conformance!(tidied, bounded, ready);

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn tidied(database: Database) {
    let store = &database.store;
    let workspace = database.workspace("a").await;
    database.image(&workspace, "i", ImageCredentialSource::Anonymous).await;
    database.index("unused").await;
    let given_up = ClipIndexInfo { index_digest: "given up".to_owned(), index_bytes: 9, pieces: 2 };
    store.begin_clip_index(&given_up).await.unwrap();
    store.put_clip_index_piece("given up", 0, b"x").await.unwrap();
    store.create_workspace(&keyed(change(None, "CreateWorkspace", "b"), "key", 1), "b").await.unwrap();
    for (hash, expire_time) in [(1, None), (2, Some(Time(1_000_000_000_001)))] {
        let (token_id, kind) = (TokenId::generate(), TokenKind::Admin);
        let token =
            Token { token_id, kind, workspace_id: None, node: None, create_time: Time(0), expire_time };
        store.create_token(&change(None, "CreateToken", "t"), &token, &[hash; 32]).await.unwrap();
    }
    for (id, state) in [("ended", "exited"), ("failed", "failed"), ("runs", "running"), ("waits", "queued")] {
        database.container(&workspace, "i", id, state, "w1").await;
        database.execute(&format!("INSERT INTO event (workspace_id, container_id, time, container) VALUES ('{workspace}', '{id}', 0, '{{}}')")).await;
        let data = if database.url.starts_with("sqlite") { "x'00'" } else { "'\\x00'" };
        database
            .execute(&format!("INSERT INTO log VALUES ('{workspace}', '{id}', 1, 0, 1, 0, {data})"))
            .await;
    }
    database.execute("UPDATE container SET end_time = 1000000000000 WHERE end_time IS NOT NULL").await;

    assert_eq!(store.tidy(DAY).await.unwrap(), 0, "nothing is old");
    database.clock.advance(DAY + Duration::from_secs(1));
    // Begun again: it is young.
    database.index("young").await;
    let gone = store.tidy(DAY).await.unwrap();
    assert_eq!(database.texts("SELECT container_id FROM container ORDER BY 1").await, ["runs", "waits"]);
    assert_eq!(database.texts("SELECT container_id FROM event ORDER BY 1").await, ["runs", "waits"]);
    assert_eq!(database.texts("SELECT container_id FROM log ORDER BY 1").await, ["runs", "waits"]);
    assert_eq!(database.texts("SELECT index_digest FROM clip_index ORDER BY 1").await, ["index-1", "young"]);
    assert_eq!(database.count("clip_index_piece").await, 2);
    assert_eq!(database.count("token").await, 1);
    assert_eq!(database.count("idempotency").await, 0);
    // Two containers with an event and a piece of output each, a token, a key, two indexes.
    assert_eq!(gone, 6 + 1 + 1 + 2);
    assert_eq!(store.tidy(DAY).await.unwrap(), 0);
}

async fn bounded(database: Database) {
    let workspace = database.workspace("a").await;
    database.container(&workspace, "i", "c", "exited", "w1").await;
    let many = if database.url.starts_with("sqlite") {
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 149)"
    } else {
        "WITH n(n) AS (SELECT generate_series(1, 149))"
    };
    let made = database
        .execute(&format!(
            "{many} INSERT INTO container (workspace_id, container_id, image_id, request, digest, state, attempt,
                 fencing_token, worker_id, cpu, memory, gpu, gpu_count, pool_selector, queue_time, parked, waiting,
                 stop_asked, exit_code, reason, reason_code, cost, log_bytes, create_time, start_time, end_time)
             SELECT workspace_id, container_id || CAST(n AS TEXT), image_id, request, digest, state, attempt, fencing_token,
                 worker_id, cpu, memory, gpu, gpu_count, pool_selector, queue_time, parked, waiting, stop_asked, exit_code,
                 reason, reason_code, cost, log_bytes, create_time, start_time, end_time FROM container, n"
        ))
        .await;
    assert_eq!(made, 149);
    assert_eq!(database.store.tidy(DAY).await.unwrap(), 100);
    // Two at once do not wait for each other, and neither does it twice.
    let replica = database.replica().await;
    let (one, two) = tokio::join!(database.store.tidy(DAY), replica.tidy(DAY));
    assert_eq!(one.unwrap() + two.unwrap(), 50);
}

async fn ready(database: Database) {
    database.store.ready().await.unwrap();
    revert(&database.url, 0).await.unwrap();
    let missing = database.store.ready().await;
    assert!(matches!(missing, Err(StoreError::Schema(_))), "{missing:?}");
    let missing = database.store.workspace("a").await;
    assert!(matches!(missing, Err(StoreError::Schema(_))), "{missing:?}");
}
