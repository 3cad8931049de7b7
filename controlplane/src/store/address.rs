//! Where the database is: `sqlite:///absolute/path`, `sqlite:relative/path` or `postgres://user@host/database`.
//!
//! A password in it goes to the database only: nothing here formats the URL.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Executor as _};

use super::dialect::Dialect;
use super::{Result, StoreError};

/// Connections of one replica to PostgreSQL; its default allows a hundred in all.
const POSTGRES_CONNECTIONS: u32 = 16;

/// Readers of SQLite: each is a thread. More than there are processors gain little.
const SQLITE_READERS: u32 = 4;

/// How long one waits for a connection, a restart of the database included, before it is said to be away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// For each connection to SQLite: wait for other processes, keep what was committed, hold on to references.
const SQLITE_PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

/// For those that only read; the writer has made the journal what it is before they come.
const SQLITE_READER_PRAGMAS: &str = "PRAGMA busy_timeout = 5000; PRAGMA query_only = ON";

/// A database's place.
pub(super) struct Address {
    /// Which kind.
    pub(super) dialect: Dialect,
    options: AnyConnectOptions,
    file: Option<PathBuf>,
}

impl Address {
    /// Reads a URL.
    pub(super) fn parse(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            // Parsed by the driver too, so that a mistake is found here and not at each connection.
            sqlx::postgres::PgConnectOptions::from_str(url).map_err(|_| {
                unusable("the URL of PostgreSQL cannot be read: postgres://user:password@host:port/database")
            })?;
            let options = AnyConnectOptions::from_str(url).map_err(|_| {
                unusable("the URL of PostgreSQL cannot be read: postgres://user:password@host:port/database")
            })?;
            return Ok(Self {
                dialect: Dialect::Postgres,
                options: options.disable_statement_logging(),
                file: None,
            });
        }
        let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) else {
            return Err(unusable("the URL of the database must begin with sqlite:// or postgres://"));
        };
        if path.is_empty() || path.contains(":memory:") {
            return Err(unusable(
                "SQLite needs a file: what is only in memory would be lost, and has one connection",
            ));
        }
        if path.contains('?') {
            return Err(unusable("the URL of SQLite has no parameters, and the path no question mark"));
        }
        let file = std::path::absolute(path).map_err(|error| {
            unusable(&format!("the path of the database cannot be made absolute: {error}"))
        })?;
        // The driver escapes everything else that its URL needs.
        let escaped = file.to_string_lossy().replace('%', "%25");
        let url = SqliteConnectOptions::new().filename(escaped).to_url_lossy();
        let options = AnyConnectOptions::from_url(&url)?.disable_statement_logging();
        Ok(Self { dialect: Dialect::Sqlite, options, file: Some(file) })
    }

    /// Makes SQLite's file and its directory, for this user only. What is there already is left as it is: closing a database file that
    /// another connection of this process has open would drop its locks.
    pub(super) fn prepare(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let failed = |error: std::io::Error| StoreError::Unavailable(sqlx::Error::Io(error));
        if let Some(directory) = file.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// One connection, of no pool.
    pub(super) async fn connect(&self) -> Result<AnyConnection> {
        let mut connection = self.options.connect().await?;
        if self.dialect == Dialect::Sqlite {
            connection.execute(SQLITE_PRAGMAS).await?;
        }
        Ok(connection)
    }

    /// The pools for reading and for writing.
    pub(super) async fn pools(&self) -> Result<(AnyPool, AnyPool)> {
        let pool = AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
        match self.dialect {
            Dialect::Postgres => {
                let pool =
                    pool.max_connections(POSTGRES_CONNECTIONS).connect_with(self.options.clone()).await?;
                Ok((pool.clone(), pool))
            }
            Dialect::Sqlite => {
                // These do not age. Their threads may die all the same: the pool's test before each use stays.
                let pool = pool.idle_timeout(None).max_lifetime(None);
                let writers = pool
                    .clone()
                    .max_connections(1)
                    .after_connect(|connection, _| {
                        Box::pin(async move { connection.execute(SQLITE_PRAGMAS).await.map(drop) })
                    })
                    .connect_with(self.options.clone())
                    .await?;
                let readers = pool
                    .max_connections(SQLITE_READERS)
                    .after_connect(|connection, _| {
                        Box::pin(async move { connection.execute(SQLITE_READER_PRAGMAS).await.map(drop) })
                    })
                    .connect_with(self.options.clone())
                    .await?;
                Ok((readers, writers))
            }
        }
    }

    /// The server's URL, for a listener.
    pub(super) fn postgres(&self) -> Option<&str> {
        (self.dialect == Dialect::Postgres).then(|| self.options.database_url.as_str())
    }
}

fn unusable(why: &str) -> StoreError {
    StoreError::Database(sqlx::Error::Configuration(why.into()))
}
