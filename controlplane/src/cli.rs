//! Commands: the server, the operator's (with the database), and clients' (over gRPC).

use std::process::ExitCode;

pub mod keys;

/// The program.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
