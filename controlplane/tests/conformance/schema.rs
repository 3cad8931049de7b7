//! Migrations, and that both databases have the same tables.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use controlplane::model::{Sealed, SystemClock};
use controlplane::store::{
    DataKeys as _, Housekeeping as _, Images as _, SCHEMA_VERSION, SecretChange, Secrets as _, StoreError,
    Tokens as _, Workspaces as _, migrate, open, revert,
};
use fixtures::postgres::Postgres;

use crate::database::{Database, change, named, page};

conformance!(
    up_down_up,
    many_at_once,
    other_texts_are_refused,
    newer_tables_are_used,
    goes_on_while_tables_get_more_columns
);

async fn up_down_up(database: Database) {
    let workspace = database.workspace("a").await;
    database.secret(&workspace, "NAME", "").await;
    migrate(&database.url).await.unwrap();
    assert_eq!(database.count("secret").await, 1, "the same version again changes nothing");
    let before = columns(&database).await;
    revert(&database.url, 0).await.unwrap();
    assert_eq!(columns(&database).await, BTreeSet::new());
    revert(&database.url, 0).await.unwrap();
    migrate(&database.url).await.unwrap();
    assert_eq!(columns(&database).await, before);
    // With fresh connections: these have statements of tables that are gone.
    let store = database.replica().await;
    store.ready().await.unwrap();
    store.create_workspace(&change(None, "CreateWorkspace", "a"), "a").await.unwrap();
}

async fn many_at_once(database: Database) {
    revert(&database.url, 0).await.unwrap();
    let all = (0..5).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { migrate(&url).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    database.replica().await.ready().await.unwrap();
}

async fn other_texts_are_refused(database: Database) {
    let other = if database.url.starts_with("sqlite") { "x'00'" } else { "'\\x00'" };
    database.execute(&format!("UPDATE _sqlx_migrations SET checksum = {other}")).await;
    let refused = migrate(&database.url).await;
    assert!(matches!(&refused, Err(StoreError::Schema(why)) if why.contains("another text")), "{refused:?}");
}

async fn newer_tables_are_used(database: Database) {
    let newer = SCHEMA_VERSION + 1;
    database
        .execute(&format!(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT {newer}, 'newer', success, checksum, 0 FROM _sqlx_migrations"
        ))
        .await;
    database.store.ready().await.unwrap();
    migrate(&database.url).await.unwrap();
    database.execute(&format!("UPDATE _sqlx_migrations SET version = {} WHERE version <> {newer}", 0)).await;
    database.execute(&format!("DELETE FROM _sqlx_migrations WHERE version = {newer}")).await;
    let older = database.store.ready().await;
    assert!(
        matches!(&older, Err(StoreError::Schema(why)) if why.contains("controlplane migrate")),
        "{older:?}"
    );
}

async fn goes_on_while_tables_get_more_columns(database: Database) {
    let workspace = database.workspace("a").await;
    let mut secret = database.secret(&workspace, "NAME", "registry.test").await;
    let image = database.image(&workspace, "i", named(&secret)).await;
    let key_id = database.key(&workspace).await;
    // Statements are prepared before and used after, by the same connections.
    let store = &database.store;
    for round in 0..2 {
        for _ in 0..2 {
            store.workspace("a").await.unwrap().unwrap();
            store.workspaces(&page(1, None)).await.unwrap();
            store.token_by_hash(&[1; 32]).await.unwrap();
            store.tokens(None, &page(1, None)).await.unwrap();
            store.tokens(Some(&workspace), &page(1, None)).await.unwrap();
            store.current_data_key(&workspace).await.unwrap().unwrap();
            store.data_key(&key_id).await.unwrap().unwrap();
            store.data_keys_not_wrapped_by("other", 1).await.unwrap();
            store.secrets_under_old_keys(1).await.unwrap();
            store.secret(&workspace, &secret.secret_id).await.unwrap().unwrap();
            store.secrets_named(&workspace, "NAME").await.unwrap();
            store.secret_for_registry(&workspace, "registry.test").await.unwrap().unwrap();
            store.secrets(&workspace, &page(1, None)).await.unwrap();
            store.image(&workspace, &image.image_id).await.unwrap().unwrap();
            store.images(&workspace, &page(1, None)).await.unwrap();
            let sealed = Sealed { key_id: key_id.clone(), record: b"next".to_vec() };
            let change = change(Some(&workspace), "UpdateSecret", "NAME");
            secret = store.update_secret(&change, &secret, &sealed).await.unwrap().into_inner();
            let change = crate::database::change(Some(&workspace), "CreateImage", "i");
            store.put_image(&change, &image, &SecretChange::None).await.unwrap();
        }
        for table in [
            "workspace",
            "token",
            "data_key",
            "secret",
            "secret_version",
            "image",
            "image_secret",
            "clip_index",
        ] {
            database.execute(&format!("ALTER TABLE {table} ADD COLUMN extra{round} TEXT")).await;
        }
    }
}

/// `table.column`, with `!` where it may not be NULL.
async fn columns(database: &Database) -> BTreeSet<String> {
    let sql = if database.url.starts_with("sqlite") {
        "SELECT t.name || '.' || c.name || CASE WHEN c.\"notnull\" <> 0 OR c.pk <> 0 THEN '!' ELSE '' END
         FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'
         AND t.name NOT LIKE 'sqlite%' AND t.name <> '_sqlx_migrations'"
    } else {
        "SELECT CAST(table_name || '.' || column_name || CASE WHEN is_nullable = 'NO' THEN '!' ELSE '' END AS TEXT)
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'"
    };
    database.texts(sql).await.into_iter().collect()
}

/// Names of indexes that the migrations make.
async fn indexes(database: &Database) -> BTreeSet<String> {
    let sql = if database.url.starts_with("sqlite") {
        "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    } else {
        "SELECT CAST(c.relname AS TEXT) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relnamespace = 'public'::regnamespace
         AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u'))"
    };
    database.texts(sql).await.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_have_the_same_tables() {
    let (sqlite, postgres) = (Database::sqlite().await, Database::postgres().await);
    let mut columns_of_sqlite = columns(&sqlite).await;
    // A sequence in PostgreSQL.
    assert!(columns_of_sqlite.remove("fencing.one!") && columns_of_sqlite.remove("fencing.token!"));
    assert_eq!(columns_of_sqlite, columns(&postgres).await);
    assert!(columns_of_sqlite.len() > 100, "{columns_of_sqlite:?}");
    assert_eq!(indexes(&sqlite).await, indexes(&postgres).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_their_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a/b/control #%41.db");
    let url = format!("sqlite://{}", file.display());
    migrate(&url).await.unwrap();
    let store = open(&url, Arc::new(SystemClock)).await.unwrap();
    store.create_workspace(&change(None, "CreateWorkspace", "a"), "a").await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o700, 0o700));
    let files: Vec<_> =
        std::fs::read_dir(dir.path().join("a/b")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&file), "{files:?}");
    assert!(files.iter().any(|path| path.to_string_lossy().ends_with("-wal")), "{files:?}");
    for path in files {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_urls_are_refused_without_their_passwords() {
    for url in [
        "sqlite::memory:",
        "sqlite:",
        "sqlite://x?mode=memory",
        "mysql://root:pl4nted-db-1@127.0.0.1/x",
        "postgres://u:pl4nted-db-1@127.0.0.1:notaport/x",
        "postgres://u:pl4nted-db-1@127.0.0.1:1/x",
        "pl4nted-db-1",
        "",
    ] {
        let errors = [migrate(url).await.unwrap_err(), open(url, Arc::new(SystemClock)).await.unwrap_err()];
        for error in errors {
            let said = format!("{error} {error:?}");
            assert!(!said.contains("pl4nted"), "{said}");
        }
    }
    let postgres = tokio::task::spawn_blocking(|| Postgres::shared().database()).await.unwrap();
    let with_password = postgres.replace("postgres@", "postgres:pl4nted-db-1@");
    let store = open(&with_password, Arc::new(SystemClock)).await.unwrap();
    assert!(!format!("{store:?}").contains("pl4nted"), "{store:?}");
}
