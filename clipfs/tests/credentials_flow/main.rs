//! Credentials on the wire: where they go and where not, for how long they serve, and what is done when they end. A client of
//! the public API against servers on several loopback addresses; no mount.

mod endpoints;
mod oracle;
mod refusals;
mod rotation;
mod scenarios;
mod server;
mod servers;
mod short_tokens;
mod support;
mod tls;
