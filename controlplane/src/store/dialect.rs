//! Where the two databases differ.

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// In this process: one writer at a time, readers beside it.
    Sqlite,
    /// A server, shared with other replicas.
    Postgres,
}

impl Dialect {
    /// Begins a transaction that writes. SQLite takes its lock at once: one that reads first and writes later cannot wait for another
    /// writer, it fails. PostgreSQL reads what is committed when a statement starts; what must not change under a decision is
    /// locked or compared in the statement that writes.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Begins a transaction whose statements all see the same moment.
    pub(super) const fn begin_snapshot(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// The end of a SELECT whose rows this transaction holds until it ends, waiting for those who hold them. Their keys do not change: rows that
    /// refer to them may be made meanwhile.
    pub(super) const fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR NO KEY UPDATE",
        }
    }

    /// The end of a SELECT whose rows stay as they are until this transaction ends; others may hold them so too.
    pub(super) const fn for_share(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR SHARE",
        }
    }

    /// The end of a SELECT whose rows this transaction holds until it ends, without those that another one holds.
    pub(super) const fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR NO KEY UPDATE SKIP LOCKED",
        }
    }

    /// Holds, until the transaction ends, the right to change what the images of a workspace (`$1`) are pulled with. SQLite has one writer.
    pub(super) const fn hold_credentials(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some("SELECT 1 AS held FROM pg_advisory_xact_lock(hashtextextended($1, 7070))"),
        }
    }

    /// Whether nobody holds that right now (1), so that all who held it have committed. Writes nothing, waits for nobody.
    pub(super) const fn credentials_are_free(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(
                "SELECT CAST(CASE WHEN pg_try_advisory_xact_lock_shared(hashtextextended($1, 7070)) THEN 1 ELSE 0 END AS BIGINT) AS free",
            ),
        }
    }

    /// As many new fencing tokens as `$1` says: the last of them in SQLite, all of them in PostgreSQL. Higher than any before.
    pub(super) const fn fencing_tokens(self) -> &'static str {
        match self {
            Self::Sqlite => "UPDATE fencing SET token = token + $1 RETURNING token",
            Self::Postgres => "SELECT nextval('fencing') AS token FROM generate_series(1, $1)",
        }
    }
}
