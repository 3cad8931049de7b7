//! Commands: the server, the operator's (with the database), and clients' (over gRPC).
//!
//! Data goes to standard output, everything else to standard error. Exit codes are those of sysexits.h, see `failure`.

use std::future::Future;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use self::args::{Args, Command};
use self::failure::Failure;
use self::output::Output;
use self::settings::Settings;

mod args;
mod client;
mod failure;
mod image;
pub mod keys;
mod operator;
mod output;
mod run;
mod secret;
mod serve;
mod settings;
mod show;

/// The program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done about a terminal that is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    // Before anything secret is read.
    clipfs::credentials::harden();
    match command(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.code())
        }
    }
}

fn command(args: Args) -> Result<u8, Failure> {
    let settings = Settings::read(args.global.config.as_deref())?;
    let serving = matches!(args.command, Command::Serve(_));
    let level = args.global.log_level.clone().or_else(|| settings.log_level.clone());
    // Errors of a command in the foreground are sentences already.
    let level = level.unwrap_or_else(|| if serving { "info" } else { "error" }.to_owned());
    logging(&level, args.global.log_format.as_deref() == Some("json"))?;
    let out = Output::new(args.global.json);
    let (global, client) = (args.global, args.client);
    match args.command {
        Command::Serve(serve) => block_on(serve::run(serve, &global, client.insecure_plaintext, settings)),
        Command::Migrate(migrate) => block_on(operator::migrate(migrate, &global, &settings)),
        Command::Keys(keys) => block_on(operator::keys(keys, &global, &settings, out)),
        Command::Workspace(command) => block_on(operator::workspace(command, &global, &settings, out)),
        Command::Token(command) => block_on(operator::token(command, &global, &settings, out)),
        Command::Audit(audit) => block_on(operator::audit(audit, &global, &settings, out)),
        Command::Image(command) => block_on(image::run(command, &client, &settings, out)),
        Command::Secret(command) => block_on(secret::run(command, &client, &settings, out)),
        Command::Run(run) => block_on(run::run(run, &client, &settings, out)),
        Command::Ps(ps) => block_on(run::ps(ps, &client, &settings, out)),
        Command::Logs(logs) => block_on(run::logs(logs, &client, &settings, out)),
        Command::Stop(stop) => block_on(run::stop(stop, &client, &settings, out)),
        Command::Workers => block_on(run::workers(&client, &settings, out)),
    }
}

fn block_on(work: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let done = runtime.block_on(work);
    // What hangs in a system call must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

fn logging(level: &str, json: bool) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level).map_err(|error| Failure::Config(format!("log level: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    // Only a second call in one process fails, and then logging works already.
    if let Err(error) = started {
        tracing::debug!(%error, "logging has been started before");
    }
    Ok(())
}
