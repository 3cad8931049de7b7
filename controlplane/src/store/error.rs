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
