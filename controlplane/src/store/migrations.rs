//! The tables, version by version, there and back. A replica that is older than the tables goes on working: a version is first extended,
//! and only reduced when nobody uses the old shape any more.

use std::borrow::Cow;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{AnyConnection, Connection as _, SqlSafeStr as _};

use super::address::Address;
use super::dialect::Dialect;
use super::retry::Retry;
use super::row::Columns as _;
use super::{Result, StoreError};

/// Version, name; up and down for SQLite; up and down for PostgreSQL.
struct Version {
    number: i64,
    name: &'static str,
    sqlite: [&'static str; 2],
    postgres: [&'static str; 2],
}

macro_rules! versions {
    ($($number:literal $name:literal),+ $(,)?) => {
        &[$(Version {
            number: $number,
            name: $name,
            sqlite: [
                include_str!(concat!("../../../migrations/sqlite/", $name, ".up.sql")),
                include_str!(concat!("../../../migrations/sqlite/", $name, ".down.sql")),
            ],
            postgres: [
                include_str!(concat!("../../../migrations/postgres/", $name, ".up.sql")),
                include_str!(concat!("../../../migrations/postgres/", $name, ".down.sql")),
            ],
        }),+]
    };
}

/// Where the driver keeps what was done.
const TABLE: &str = "_sqlx_migrations";

const VERSIONS: &[Version] = versions![1 "0001_initial"];

/// This program's version of the tables.
pub const SCHEMA_VERSION: i64 = VERSIONS[VERSIONS.len() - 1].number;

/// Brings the tables to [`SCHEMA_VERSION`]. Several may try at once.
///
/// # Errors
/// The database, or tables that somebody else has made or changed.
pub async fn migrate(url: &str) -> Result<()> {
    run(url, None).await
}

/// Takes the tables back to a version; 0: none are left.
///
/// # Errors
/// As [`migrate`].
pub async fn revert(url: &str, to: i64) -> Result<()> {
    run(url, Some(to)).await
}

async fn run(url: &str, down_to: Option<i64>) -> Result<()> {
    let address = Address::parse(url)?;
    address.prepare()?;
    let migrator = migrator(address.dialect);
    let mut retry = Retry::new();
    loop {
        let outcome = async {
            let mut connection = address.connect().await?;
            let outcome = match down_to {
                None => migrator.run_direct(None, &mut connection, false).await,
                Some(version) => undo(&migrator, &mut connection, version).await,
            };
            // An advisory lock of PostgreSQL ends with its connection.
            let closed = connection.close().await;
            outcome.map_err(refused)?;
            closed.map_err(StoreError::from)
        }
        .await;
        match outcome {
            Err(error) if retry.again(&error).await => {}
            outcome => return outcome,
        }
    }
}

/// [`Migrator::undo`], as a future that is [`Send`].
async fn undo(
    migrator: &Migrator,
    connection: &mut AnyConnection,
    to: i64,
) -> std::result::Result<(), MigrateError> {
    connection.lock().await?;
    connection.ensure_migrations_table(TABLE).await?;
    let applied = connection.list_applied_migrations(TABLE).await?;
    for migration in migrator.migrations.iter().rev() {
        let is_applied = applied.iter().any(|applied| applied.version == migration.version);
        if migration.migration_type.is_down_migration() && migration.version > to && is_applied {
            connection.revert(TABLE, migration).await?;
        }
    }
    connection.unlock().await
}

fn migrator(dialect: Dialect) -> Migrator {
    let mut migrations = Vec::new();
    for version in VERSIONS {
        let [up, down] = match dialect {
            Dialect::Sqlite => version.sqlite,
            Dialect::Postgres => version.postgres,
        };
        for (kind, sql) in [(MigrationType::ReversibleUp, up), (MigrationType::ReversibleDown, down)] {
            let name = Cow::Borrowed(version.name);
            migrations.push(Migration::new(version.number, name, kind, sql.into_sql_str(), false));
        }
    }
    let mut migrator = Migrator::with_migrations(migrations);
    migrator.set_ignore_missing(true);
    migrator
}

fn refused(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            // SQLite has no lock around all versions: who comes second finds the tables made, and must look again.
            if error.as_database_error().is_some_and(|said| said.message().contains("already exists")) {
                return StoreError::Busy(error);
            }
            error.into()
        }
        MigrateError::VersionMismatch(version) => StoreError::Schema(format!(
            "version {version} of the tables was made from another text than this program's"
        )),
        other => StoreError::Schema(other.to_string()),
    }
}

/// [`StoreError::Schema`] unless the tables are at least this version's.
pub(super) async fn check(connection: &mut AnyConnection) -> Result<()> {
    let row = sqlx::query("SELECT COALESCE(MAX(version), 0) AS version FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await?;
    let version = row.int("version")?;
    if version < SCHEMA_VERSION {
        return Err(StoreError::Schema(format!(
            "the tables are version {version}, this program needs {SCHEMA_VERSION}: run `controlplane migrate`"
        )));
    }
    Ok(())
}
