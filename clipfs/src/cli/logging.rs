//! Log lines of the command line: to standard error, filtered, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{ConfigError, LogFormat};

/// What commands in the foreground log unless told otherwise: their errors are sentences already, and a log line
/// between progress bars helps nobody.
pub(super) const QUIET: &str = "warn";

/// What services log unless told otherwise.
pub(super) const SERVICE: &str = "info";

/// Starts logging. Called once, before any thread.
pub(super) fn init(level: &str, format: LogFormat) -> Result<(), ConfigError> {
    let refuse = |reason: String| ConfigError::Value { key: "log_level", reason };
    let filter = EnvFilter::try_new(level).map_err(|e| refuse(e.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a second call in one process fails, and then logging works already.
    if let Err(error) = started {
        tracing::debug!(%error, "logging has been started before");
    }
    Ok(())
}
