//! The command line: arguments, standard input and output, exit codes.
//!
//! Nothing secret comes in by argument or environment, and nothing goes out but one document, in one write.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use credplugin::protocol::clipfs;
use credplugin::{Code, Error};

mod check;
mod docker;
mod get;
mod hygiene;
mod input;
mod kubelet;
mod output;
mod settings;

use output::report;

/// For everything: reading, exchanging, answering. Callers kill a plugin after this time.
const LIMIT: Duration = Duration::from_secs(60);
/// Standard output cannot be written: EX_IOERR. Nobody is there to read a document about it.
const EX_IOERR: u8 = 74;
/// The name by which Docker's clients call a helper `clipfs`.
const DOCKER_NAME: &str = "docker-credential-clipfs";

/// Answers which credentials a registry gets, from a ContainerRequest.
#[derive(Parser)]
#[command(name = "credplugin", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Examples:
  credplugin get --image r.example.com/team/app:1 < request.json
  credplugin check --image r.example.com/team/app:1 < request.json
  clipfs mount --request request.json --credential-plugin /usr/bin/credplugin IMAGE DIR

Called as docker-credential-clipfs it is a Docker credential helper; with a kubelet's CredentialProviderRequest on standard
input, a kubelet credential provider. Both read the ContainerRequest from the file that CLIPFS_REQUEST_FILE names, and CLIPFS_IMAGE
names the image of a request whose credentials do not name their registry.

Exit codes: 0, 64 usage, 65 malformed request, 66 no credentials for this registry, 69 token endpoint unavailable, 70 bug,
74 cannot write the answer, 75 try later, 77 denied.";

#[derive(Subcommand)]
enum Command {
    /// Answer with the credential that a registry accepts: one JSON document in, one out.
    #[command(
        after_help = "Standard input is a ContainerRequest (then --image or --registry is needed), or, without these, a \
                            CredentialRequest or a CredentialProviderRequest of the kubelet; at most 1 MiB."
    )]
    Get(Target),
    /// Say which credentials a request carries and for which registry; never a value, and no network without --exchange.
    Check {
        #[command(flatten)]
        target: Target,
        /// Ask the token endpoints too, and say what came of it.
        #[arg(long)]
        exchange: bool,
    },
}

/// What is asked for, where the document on standard input does not say.
#[derive(clap::Args, Default)]
struct Target {
    /// Image reference.
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Registry host, if it is not that of the image.
    #[arg(long, value_name = "HOST")]
    registry: Option<String>,
    /// Settings with token endpoints [default: $CLIPFS_CONFIG, or /etc/clipfs/config.toml if there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let deadline = Instant::now() + LIMIT;
    if let Err(error) = hygiene::harden() {
        return failed(&error);
    }
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new(DOCKER_NAME)) {
        let args: Vec<_> = args.collect();
        return docker::main(&args, deadline);
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => return written(output::write(error.to_string().as_bytes())),
        Err(error) => {
            output::complain(&error.to_string());
            return Code::Usage.exit_code().into();
        }
    };
    match args.command {
        // The kubelet runs plugins with the operator's arguments, which are often none.
        None => get::main(&Target::default(), get::Wanted::KubeletOnly, deadline),
        Some(Command::Get(target)) => get::main(&target, get::Wanted::Any, deadline),
        Some(Command::Check { target, exchange }) => check::main(&target, exchange, deadline),
    }
}

/// The exit code after writing.
fn written(result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("credplugin: cannot write the answer: {error}"));
            EX_IOERR.into()
        }
    }
}

/// An Error document on standard output, the sentence on standard error.
fn failed(error: &Error) -> ExitCode {
    report(error);
    match output::write(&clipfs::write_error(error)) {
        Ok(()) => error.code.exit_code().into(),
        Err(_) => EX_IOERR.into(),
    }
}
