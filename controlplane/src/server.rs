//! Listening, TLS, who is calling, metrics, shutdown.
