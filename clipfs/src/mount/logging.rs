//! Logs of the background processes: lines on standard error, which is the log file.

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error. A filter that does not parse becomes `info`. Does nothing if a subscriber is there already.
pub(crate) fn init(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Fails only if somebody was faster: the command line's own in the foreground.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
