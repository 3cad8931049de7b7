//! The command line: arguments, output for people and machines, exit codes.
//!
//! Commands print data on standard output and everything else on standard error. Arguments are parsed in `args`, settled
//! in `context`; every failure passes through `exit`, which knows codes and hints.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Layer, Settings};
use crate::exit::{MOUNT_FAILED, USAGE};
use crate::mount::{keep_from_children, keeper_main, server_main};
use crate::worker::runtime::monitor_main;

mod args;
mod browse;
mod cache;
mod cat;
mod context;
mod exit;
mod failure;
mod helper;
mod index;
mod inspect;
mod logging;
mod mount;
mod output;
mod progress;
mod request;
mod time;
mod tree;
mod verify;
mod worker;

use args::{Args, Command};
use context::Context;
use failure::Failure;

/// How long threads of an interrupted command may take to notice.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Entry point of the binary.
#[must_use]
pub fn main() -> ExitCode {
    keep_from_children();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // The hidden commands are started by `clipfs mount` and `clipfs worker` only, and have a protocol of their own.
    match arguments.get(1).and_then(|argument| argument.to_str()) {
        Some("keeper") if arguments.len() == 2 => return keeper_main(),
        Some("server") if arguments.len() == 3 => return server_main(Path::new(&arguments[2])),
        Some("monitor") if arguments.len() == 3 => return monitor_main(Path::new(&arguments[2])),
        _ => {}
    }
    let called_as = arguments.first().and_then(|name| Path::new(name).file_name());
    if called_as == Some(OsStr::new(helper::NAME)) { mount_helper(&arguments) } else { clipfs(arguments) }
}

fn clipfs(arguments: Vec<OsString>) -> ExitCode {
    match parse(arguments) {
        Ok(args) => finish(run(&args), exit::code),
        Err(code) => code,
    }
}

/// Parses; help and version are printed here, and so are errors of usage, in clap's own form.
fn parse(arguments: Vec<OsString>) -> Result<Args, ExitCode> {
    Args::try_parse_from(arguments).map_err(|error| {
        let code = if error.use_stderr() { USAGE } else { 0 };
        // Nobody to tell is no reason for another code.
        let _ = error.print();
        ExitCode::from(code)
    })
}

fn mount_helper(arguments: &[OsString]) -> ExitCode {
    let failed = |_: &Failure| MOUNT_FAILED;
    let request = match helper::parse(arguments.iter().skip(1).cloned()) {
        Ok(request) => request,
        Err(failure) => return finish(Err(failure), failed),
    };
    let Ok(args) = parse(request.arguments) else { return ExitCode::from(MOUNT_FAILED) };
    if request.fake {
        return ExitCode::SUCCESS;
    }
    if let Some(path) = request.namespace
        && let Err(source) = enter_namespace(&path)
    {
        return finish(Err(Failure::Create { path, source }), failed);
    }
    finish(run(&args), failed)
}

/// Enters a mount namespace. Before any thread is started: the kernel refuses it afterwards.
fn enter_namespace(path: &Path) -> io::Result<()> {
    let namespace = std::fs::File::open(path)?;
    Ok(nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS)?)
}

/// The end of every command: one sentence and a hint on standard error, and the exit code.
fn finish(result: Result<(), Failure>, code: impl FnOnce(&Failure) -> u8) -> ExitCode {
    let failure = match result {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let mut text = format!("clipfs: {}\n", failure.sentence());
    if let Some(hint) = exit::hint(&failure) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Standard error that cannot be written to leaves the exit code.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code(&failure))
}

fn run(args: &Args) -> Result<(), Failure> {
    let flags = args.command.settings(&args.global);
    let file = Layer::read(args.global.config.as_deref())?;
    let level = flags.log_level.clone().or_else(|| file.log_level.clone());
    // Commands answer, services tell.
    let usual = if matches!(args.command, Command::Worker(_)) { logging::SERVICE } else { logging::QUIET };
    let settings = Settings::resolve(flags, file)?;
    logging::init(level.as_deref().unwrap_or(usual), settings.log_format)?;
    let mut context = Context::new(settings, args.command.source())?;
    match &args.command {
        Command::Index(args) => block_on(index::run(&context, args)),
        Command::Ls(args) => block_on(browse::ls(&context, args)),
        Command::Stat(args) => block_on(browse::stat(&context, args)),
        Command::Cat(args) => block_on(cat::run(&context, args)),
        Command::Inspect(args) => block_on(inspect::run(&context, args)),
        Command::Verify(args) => block_on(verify::run(&context, args)),
        Command::Cache(command) => cache::run(&context, command),
        Command::Mount(args) => {
            // The runtime and its threads are gone before mounting: the keeper in the foreground waits for signals.
            let request = block_on(mount::prepare(&context, args))?;
            // The secrets that this process has seen are wiped before it waits.
            let held_request = context.held_request.take();
            drop(context);
            mount::run(request, held_request, args)
        }
        Command::Worker(args) => worker::run(&context, args),
        Command::Umount(args) => mount::umount(&context, args),
        Command::Status(args) => mount::status(&context, args),
    }
}

/// Runs a command until it ends or a signal ends it: then it is dropped, and cleans up after itself.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let result = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
        tokio::select! {
            result = Box::pin(command) => result,
            _ = interrupt.recv() => Err(Failure::Interrupted(libc::SIGINT)),
            _ = terminate.recv() => Err(Failure::Interrupted(libc::SIGTERM)),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN);
    result
}
