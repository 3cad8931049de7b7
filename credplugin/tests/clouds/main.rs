//! Cloud credentials against endpoints that check what they are sent: a real emulator of Amazon's APIs, and fixtures of all three clouds.
//!
//! All endpoints run in every test, on addresses of their own, and keep what they are sent: a credential that reaches another than
//! its own fails the test.

mod amazon;
mod azure;
mod google;
mod moto;
mod program;
mod support;
mod trouble;
