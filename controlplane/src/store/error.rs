//! What can go wrong in the database, by what it means to the caller.

/// An error of a repository.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not exist, or not for this caller.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// It exists already.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// Its state does not allow it, or has changed meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// The caller's key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The lease is not the newest: its worker was declared lost, or it ended.
    #[error("the lease of {0} has ended")]
    Stale(String),
    /// A row that cannot be.
    #[error("the database holds {what} that cannot be read: {why}")]
    Corrupt {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The database gave up after being asked again: try again.
    #[error("the database is busy")]
    Busy(#[source] sqlx::Error),
    /// The database is away.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The tables are not this version's.
    #[error("{0}")]
    Schema(String),
    /// Anything else that the database says.
    #[error("the database refuses")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(said) if said.is_foreign_key_violation() => {
                Self::Conflict("what this refers to went away meanwhile, or is still in use".to_owned())
            }
            sqlx::Error::Database(said) => match said.code().as_deref().map_or(Kind::Other, kind) {
                Kind::Busy => Self::Busy(error),
                Kind::Unavailable => Self::Unavailable(error),
                Kind::Schema => Self::Schema(format!("the tables are not this version's: {said}")),
                Kind::Other if said.message().starts_with("no such ") => {
                    Self::Schema(format!("the tables are not this version's: {said}"))
                }
                Kind::Other => Self::Database(error),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Corrupt { what: "a row", why: error.to_string() }
            }
            _ => Self::Database(error),
        }
    }
}

/// What a database's code means.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Try the transaction again.
    Busy,
    /// Away, going, coming, or out of something.
    Unavailable,
    /// A table or column is missing.
    Schema,
    /// Anything else.
    Other,
}

/// SQLSTATEs have five characters; SQLite's (extended) result codes are shorter numbers, whose low byte is the primary one.
fn kind(code: &str) -> Kind {
    if code.len() != 5 {
        return match code.parse::<u32>().map(|code| code & 0xff) {
            Ok(5 | 6) => Kind::Busy,                       // SQLITE_BUSY, SQLITE_LOCKED
            Ok(7 | 8 | 10 | 13 | 14) => Kind::Unavailable, // NOMEM, READONLY, IOERR, FULL, CANTOPEN
            _ => Kind::Other,
        };
    }
    match code {
        // serialization_failure, deadlock_detected, lock_not_available.
        "40001" | "40P01" | "55P03" => Kind::Busy,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout, read_only_sql_transaction (a standby).
        "57P01" | "57P02" | "57P03" | "57P05" | "25006" => Kind::Unavailable,
        // undefined_table, undefined_column.
        "42P01" | "42703" => Kind::Schema,
        // connection_exception; insufficient_resources; system_error.
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("58") => Kind::Unavailable,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind};

    #[test]
    fn codes() {
        for (code, expected) in [
            ("40001", Kind::Busy),
            ("40P01", Kind::Busy),
            ("5", Kind::Busy),
            ("517", Kind::Busy), // SQLITE_BUSY_SNAPSHOT
            ("57P01", Kind::Unavailable),
            ("08006", Kind::Unavailable),
            ("53300", Kind::Unavailable),
            ("13", Kind::Unavailable),
            ("778", Kind::Unavailable), // SQLITE_IOERR_WRITE
            ("42P01", Kind::Schema),
            ("23505", Kind::Other),
            ("2067", Kind::Other), // SQLITE_CONSTRAINT_UNIQUE
            ("", Kind::Other),
            ("99999999999", Kind::Other),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
