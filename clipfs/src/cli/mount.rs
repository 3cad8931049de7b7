//! `clipfs mount`, `umount` and `status`.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::args::{MountArgs, StatusArgs, UmountArgs};
use super::context::{Context, Target, is_away as is_away_from, pinned_name};
use super::failure::Failure;
use super::output::{Output, size};
use super::time;
use crate::config::{Passthrough, Prefetch};
use crate::decode::tar::Timestamp;
use crate::index::ClipIndex;
use crate::mount::{self, MountFlags, MountRequest, MountStatus, Mounted, ServerConfig, State};
use crate::oci::{Digest, ImageSpec};
use crate::read::PrefetchState;
use crate::registry::{ImageSource, RegistryError, ResolvedImage, within};

/// Everything that must be known before mounting: checks the mountpoint, finds the image and its index, builds it if
/// there is none.
pub(super) async fn prepare(context: &Context, args: &MountArgs) -> Result<MountRequest, Failure> {
    let settings = &context.settings;
    // What costs nothing is checked before the network is asked.
    mount::preflight(&settings.run_dir, &args.mountpoint)?;
    let (spec, named_index) = what(args)?;
    let source = context.source(&spec).await?;
    // Apart from the rest: a registry may be away, but nothing is mounted whose credentials nobody could check.
    context.authenticate(&source, settings.mount_timeout.0).await?;
    let resolved = resolve(context, &source, &spec).await;
    let (index, digest) = match named_index {
        Some(path) => {
            let index = Context::open_index(&path)?;
            check_same_image(&path, &index, resolved)?;
            (path, index.manifest_digest())
        }
        None => find_index(context, &source, &spec, resolved).await?,
    };
    Ok(MountRequest {
        mountpoint: args.mountpoint.clone(),
        run_dir: settings.run_dir.clone(),
        mount_timeout: settings.mount_timeout.0,
        unmount_timeout: settings.unmount_timeout.0,
        read_ahead: settings.read_ahead.0,
        holds_request: false,
        flags: MountFlags { nosuid: args.nosuid, nodev: args.nodev, noexec: args.noexec },
        log_file: settings.log_file.clone(),
        server: ServerConfig {
            name: pinned_name(&spec, &digest),
            digest: digest.to_string(),
            image: Some(absolute(spec)?.to_string()),
            index,
            cache_dir: settings.cache_dir.clone(),
            cache_size: settings.cache_size.0,
            memory: settings.memory.0,
            read_timeout: settings.read_timeout.0,
            small_file: settings.small_file.0,
            // There are no profiles yet: `profile` fetches nothing.
            prefetch_all: settings.prefetch == Prefetch::All,
            metrics: settings.metrics,
            passthrough: settings.passthrough == Passthrough::Auto,
            plain_http: settings.plain_http,
            hosts_dir: settings.hosts_dir.clone(),
            credentials: context.source.clone(),
            log_level: settings.log_level.clone(),
            log_json: settings.log_format == crate::config::LogFormat::Json,
        },
    })
}

/// The image to fetch from, and the index that the arguments name.
fn what(args: &MountArgs) -> Result<(ImageSpec, Option<PathBuf>), Failure> {
    match (Target::parse(&args.target)?, &args.image) {
        (Target::Image(spec), None) => Ok((spec, args.index.clone())),
        (Target::Image(_), Some(_)) => {
            Err(Failure::Usage("--image goes with a FILE.clip, not with an image".to_owned()))
        }
        (Target::File(_), _) if args.index.is_some() => {
            Err(Failure::Usage("--index goes with an image, not with a FILE.clip".to_owned()))
        }
        (Target::File(path), Some(image)) => Ok((ImageSpec::parse(image)?, Some(path))),
        (Target::File(path), None) => Err(Failure::NeedsImage(path)),
    }
}

/// Finds an image whose credentials are known.
async fn resolve(
    context: &Context,
    source: &ImageSource,
    spec: &ImageSpec,
) -> Result<ResolvedImage, Failure> {
    let limit = context.settings.mount_timeout.0;
    let timeout = || Failure::Timeout { image: spec.to_string(), seconds: limit.as_secs() };
    let resolved = within(limit, source.resolve(&context.platform));
    let resolved = tokio::time::timeout(limit, resolved).await;
    Ok(resolved.map_err(|_| timeout())??)
}

/// Whether a mount may go on without its registry: it is away now, as opposed to refusing us.
fn is_away(failure: &Failure) -> bool {
    match failure {
        Failure::Registry(error) => is_away_from(error),
        Failure::Timeout { .. } => true,
        _ => false,
    }
}

/// An index that was named must be the image's; that cannot be said while the registry is away.
fn check_same_image(
    path: &Path,
    index: &ClipIndex,
    resolved: Result<ResolvedImage, Failure>,
) -> Result<(), Failure> {
    match resolved {
        Ok(image) if image.manifest_digest == index.manifest_digest() => Ok(()),
        Ok(image) => Err(Failure::OtherImage {
            path: path.to_owned(),
            index: index.manifest_digest(),
            image: image.manifest_digest,
        }),
        Err(failure) if is_away(&failure) => {
            tracing::warn!("mounting without the registry: {}", failure.sentence());
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

async fn find_index(
    context: &Context,
    source: &ImageSource,
    spec: &ImageSpec,
    resolved: Result<ResolvedImage, Failure>,
) -> Result<(PathBuf, Digest), Failure> {
    match resolved {
        Ok(image) => {
            let (path, index) = context.index_of(source, &image).await?;
            Ok((path, index.manifest_digest()))
        }
        Err(failure) if is_away(&failure) => {
            let away = RegistryError::Unavailable { host: String::new(), reason: String::new() };
            let (path, index) = context.offline(spec, &away).ok_or_else(|| {
                // The registry's own words, not those of the lookup.
                tracing::debug!("no index at hand");
                failure
            })?;
            tracing::warn!("mounting without the registry");
            Ok((path, index.manifest_digest()))
        }
        Err(failure) => Err(failure),
    }
}

/// Paths that mean the same in another working directory.
fn absolute(spec: ImageSpec) -> Result<ImageSpec, Failure> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|source| Failure::Create { path, source });
    Ok(match spec {
        ImageSpec::OciLayout { dir, name } => ImageSpec::OciLayout { dir: absolute(dir)?, name },
        ImageSpec::OciArchive { file, name } => ImageSpec::OciArchive { file: absolute(file)?, name },
        ImageSpec::DockerArchive { file, name } => ImageSpec::DockerArchive { file: absolute(file)?, name },
        registry @ ImageSpec::Registry(_) => registry,
    })
}

/// Mounts what has been prepared. Blocking, and without any thread beside this one: the keeper in the foreground waits
/// for signals.
pub(super) fn run(
    request: MountRequest,
    held_request: Option<OwnedFd>,
    args: &MountArgs,
) -> Result<(), Failure> {
    if args.foreground {
        let mut told = Ok(());
        mount::mount_foreground(request, held_request, |mounted| told = tell(mounted, args.json))?;
        told
    } else {
        let mounted = mount::mount(request, held_request)?;
        tell(&mounted, args.json)
    }
}

/// Data on standard output only if it was asked for.
fn tell(mounted: &Mounted, json: bool) -> Result<(), Failure> {
    if json {
        let mut out = Output::new();
        out.json(mounted)?;
        out.flush()?;
    }
    if mounted.state != State::Ok {
        tracing::warn!(mountpoint = %mounted.mountpoint.display(), "mounted, but the registry cannot be reached");
    }
    Ok(())
}

/// Runs `clipfs umount`. Blocking.
pub(super) fn umount(context: &Context, args: &UmountArgs) -> Result<(), Failure> {
    let settings = &context.settings;
    Ok(mount::unmount(&settings.run_dir, &args.mountpoint, settings.unmount_timeout.0)?)
}

/// Runs `clipfs status`. Blocking.
pub(super) fn status(context: &Context, args: &StatusArgs) -> Result<(), Failure> {
    let run_dir = &context.settings.run_dir;
    let mut out = Output::new();
    if let Some(mountpoint) = &args.mountpoint {
        let status = mount::status(run_dir, mountpoint)?;
        if args.json {
            out.json(&status)?
        } else {
            out.fields(&rows(&status))?
        }
        return Ok(out.flush()?);
    }
    let all = mount::list(run_dir)?;
    if args.json {
        out.json(&all)?;
    } else {
        for (n, status) in all.iter().enumerate() {
            if n > 0 {
                out.write_all(b"\n")?;
            }
            out.fields(&rows(status))?;
        }
    }
    Ok(out.flush()?)
}

fn rows(status: &MountStatus) -> Vec<(&'static str, String)> {
    let counters = &status.counters;
    let pid = |pid: Option<u32>| pid.map_or_else(|| "gone".to_owned(), |pid| pid.to_string());
    let state = match status.state {
        State::Ok => "ok",
        State::Degraded => "degraded",
        State::AuthDenied => "auth_denied",
    };
    let started = Timestamp { secs: i64::try_from(status.started).unwrap_or(i64::MAX), nanos: 0 };
    let mut rows = vec![
        ("mountpoint", status.mountpoint.display().to_string()),
        ("image", status.image.clone()),
        ("state", state.to_owned()),
        ("mounted", time::rfc3339(started)),
        (
            "keeper",
            format!(
                "{}, server {} ({} restarts)",
                pid(status.keeper_pid),
                pid(status.server_pid),
                status.server_restarts
            ),
        ),
        ("fetched", size(counters.fetched_bytes)),
        ("served", size(counters.served_bytes)),
        ("cache", format!("{}, {} in memory", size(counters.cache_bytes), size(counters.memory_bytes))),
        ("open files", counters.open_files.to_string()),
    ];
    if let (Some(median), Some(p99)) = (counters.read_p50_micros, counters.read_p99_micros) {
        rows.push(("read latency", format!("{median} µs median, {p99} µs for 99 %")));
    }
    match counters.prefetch {
        PrefetchState::Off => {}
        PrefetchState::Running => rows.push(("prefetch", "running".to_owned())),
        PrefetchState::Complete => rows.push(("prefetch", "complete".to_owned())),
        PrefetchState::Stopped => rows.push(("prefetch", "stopped, see the log".to_owned())),
    }
    rows.extend(counters.metrics.map(|address| ("metrics", format!("http://{address}/metrics"))));
    rows.extend(counters.last_error.as_ref().map(|error| ("last error", error.clone())));
    rows
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Args, Command};
    use super::*;

    fn mount_args(line: &str) -> MountArgs {
        match Args::try_parse_from(line.split(' ')).expect(line).command {
            Command::Mount(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_to_mount() {
        let image = |text: &str| ImageSpec::parse(text).unwrap();
        let table = [
            ("clipfs mount alpine /m", Some((image("alpine"), None))),
            ("clipfs mount --index i.clip alpine /m", Some((image("alpine"), Some("i.clip".into())))),
            ("clipfs mount --image alpine a.clip /m", Some((image("alpine"), Some("a.clip".into())))),
            ("clipfs mount a.clip /m", None),
            ("clipfs mount --index i.clip a.clip /m", None),
            ("clipfs mount --image busybox alpine /m", None),
        ];
        for (line, expected) in table {
            assert_eq!(what(&mount_args(line)).ok(), expected, "{line}");
        }
    }

    #[test]
    fn only_an_absent_registry_degrades() {
        let away = RegistryError::Unavailable { host: "h".into(), reason: "r".into() };
        let denied = RegistryError::Denied { host: "h".into(), what: "w".into(), reason: "r".into() };
        assert!(is_away(&Failure::Registry(away)));
        assert!(is_away(&Failure::Timeout { image: "i".into(), seconds: 1 }));
        assert!(!is_away(&Failure::Registry(denied)));
        let asleep = crate::credentials::CredentialError::Unavailable("the plugin".into());
        assert!(!is_away(&Failure::Registry(asleep.into())), "credentials that cannot be had are told");
        assert!(!is_away(&Failure::Registry(RegistryError::NotFound("i".into()))));
    }

    #[test]
    fn local_images_become_absolute() {
        let spec = absolute(ImageSpec::parse("oci:dir:x").unwrap()).unwrap();
        assert!(spec.to_string().starts_with("oci:/"), "{spec}");
        let spec = absolute(ImageSpec::parse("host.example/a:1").unwrap()).unwrap();
        assert_eq!(spec.to_string(), "host.example/a:1");
    }
}
