//! The one door to the network: short exchanges with token endpoints.
