//! `clipfs worker`.

use std::ffi::OsString;

use super::SHUTDOWN;
use super::args::WorkerArgs;
use super::context::Context;
use super::failure::Failure;
use crate::credentials::harden;
use crate::worker::runtime::{Network, RuntimeOptions};
use crate::worker::{self, NodeCapacity, Options};

/// Runs `clipfs worker`, which handles signals itself.
pub(super) fn run(context: &Context, args: &WorkerArgs) -> Result<(), Failure> {
    harden();
    let options = options(context, args);
    options.check()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let result = runtime.block_on(Box::pin(worker::run(options)));
    runtime.shutdown_timeout(SHUTDOWN);
    Ok(result?)
}

fn options(context: &Context, args: &WorkerArgs) -> Options {
    let settings = &context.settings;
    // Beside the mounts' own.
    let run_dir = settings.run_dir.join("worker");
    let mut runtime =
        RuntimeOptions::new(args.state_dir.clone(), run_dir.clone(), settings.cache_dir.clone());
    runtime.program = args.runtime.clone();
    runtime.network = if args.network == "host" { Network::Host } else { Network::Isolated };
    runtime.cache_size = Some(settings.cache_size.0);
    runtime.mount_timeout = settings.mount_timeout.0;
    runtime.credential_plugin.clone_from(&args.credential_plugin);
    runtime.environment.clone_from(&settings.credential_plugin_env);
    // What the settings file says, every mount reads itself.
    if args.plain_http {
        runtime.mount_options.push("--plain-http".into());
    }
    if let Some(dir) = &args.hosts_dir {
        runtime.mount_options.extend([OsString::from("--hosts-dir"), dir.into()]);
    }
    Options {
        control_plane: args.control_plane.clone(),
        node: args.node.clone(),
        token_file: args.token_file.clone(),
        ca: args.ca.clone(),
        identity: args.cert.clone().zip(args.key.clone()),
        state_dir: args.state_dir.clone(),
        run_dir,
        secrets_on_disk: args.allow_secrets_on_disk,
        capacity: NodeCapacity::resolve(args.cpu, args.memory, args.gpu.clone()),
        pool: args.pool.clone(),
        runtime,
    }
}
