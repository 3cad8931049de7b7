//! The server: everything but the mount itself. May die at any time; the keeper starts it again and it adopts the connection.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::asked::Counts;
use super::error::sentence;
use super::handover;
use super::metrics::{self, Numbers};
use super::name_process;
use super::protocol::{ServerConfig, ServerDocument, ServerReport, State, send};
use super::rundir::RunDir;
use super::source::{CHECK_TIMEOUT, First, open_source, state_after};
use super::status::{Answer, ServerCounters};
use crate::credentials::harden;
use crate::exit;
use crate::fuse::ledger::Ledger;
use crate::fuse::stats::{Histogram, Stats};
use crate::fuse::{ClipFs, FuseOptions, Shared, session};
use crate::index::ClipIndex;
use crate::oci::Digest;
use crate::read::{ReadOptions, Reader};
use crate::registry::{ImageSource, RegistryError};
use crate::store::{Store, StoreOptions};
use crate::vfs::Vfs;

/// Threads for disk calls: enough to keep a disk busy, few enough for a small process.
const BLOCKING_THREADS: usize = 16;
/// They end after this time without work.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often the source is looked at while something is wrong.
const WATCH: Duration = Duration::from_secs(5);
/// Pause of the control socket after an error (no descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server cannot serve.
struct Refusal {
    message: String,
    code: u8,
}

impl Refusal {
    fn new(error: &(dyn std::error::Error + 'static), code: u8) -> Self {
        Self { message: sentence(error), code }
    }

    fn of_io(what: &str, error: &io::Error) -> Self {
        Self { message: format!("{what}: {error}"), code: exit::IO }
    }
}

/// What `status` reads and the watcher writes.
struct Served {
    config: ServerConfig,
    store: Arc<Store>,
    reader: Reader,
    fuse: Arc<Shared>,
    state: AtomicU8,
    digest: Digest,
    /// Why the source could not be opened, as long as that is so.
    unopened: Mutex<Option<String>>,
    asked: Arc<Counts>,
    dir: RunDir,
    /// Where metrics are served.
    metrics: Option<SocketAddr>,
}

/// Entry point of the hidden subcommand `server RUN_DIR`: serves the connection that is its standard input until the mount is gone. Its
/// standard output is a socket to the keeper.
#[must_use]
pub fn server_main(run_dir: &Path) -> ExitCode {
    let dir = RunDir::at(run_dir.to_owned());
    let (fuse, mut report) = match take_over() {
        Ok(both) => both,
        Err(error) => {
            tracing::error!(%error, "not started by a keeper");
            return ExitCode::from(exit::SOFTWARE);
        }
    };
    name_process(c"clipfs-server");
    let result = serve(&dir, fuse, &mut report);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { message, code }) => {
            tracing::error!("{message}");
            // A keeper that is gone reads no report.
            let _ = send(&mut report, &ServerReport::Failed { message, code });
            ExitCode::from(code)
        }
    }
}

/// The connection (standard input) and the socket to the keeper (standard output), both replaced by `/dev/null`.
fn take_over() -> io::Result<(OwnedFd, UnixStream)> {
    let fuse = io::stdin().as_fd().try_clone_to_owned()?;
    let report = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok((fuse, report.into()))
}

fn serve(dir: &RunDir, fuse: OwnedFd, report: &mut UnixStream) -> Result<(), Refusal> {
    let ServerDocument { mut config, mount_timeout, holds_request } =
        read_config(dir).map_err(|e| Refusal::of_io("reading the server's configuration", &e))?;
    super::logging::init(&config.log_level, config.log_json);
    harden();
    let held = handover::take(report, holds_request).map_err(|e| Refusal::of_io("starting", &e))?;
    if held.request.is_some() {
        config.credentials.request = held.request;
    }
    raise_file_limit();
    let mut ledger = File::options();
    let ledger = ledger.create(true).truncate(false).read(true).write(true);
    let ledger = ledger.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(dir.ledger());
    let ledger = Ledger::new(ledger.map_err(|e| Refusal::of_io("opening the handle ledger", &e))?);
    let adopted =
        ledger.kernel_init().map_err(|e| Refusal::of_io("reading the handle ledger", &e))?.is_some();
    let runtime = runtime().map_err(|e| Refusal::of_io("starting threads", &e))?;
    let metrics = bind_metrics(&config, adopted)?;
    let start = Start { held_index: held.index, ledger, adopted, patience: mount_timeout };
    let prepared = runtime.block_on(prepare(&config, dir, start, runtime.handle().clone()));
    let (mut served, filesystem) = prepared?;
    served.metrics = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
    // The first word on the connection: from here on requests are answered.
    let session = session::open(filesystem, fuse).map_err(|e| Refusal::of_io("FUSE handshake", &e))?;
    let served = Arc::new(served);
    let control = {
        let _context = runtime.enter();
        bind(dir)
    };
    match control {
        Ok(listener) => drop(runtime.spawn(answer_status(listener, Arc::clone(&served)))),
        // A mount without status is better than none.
        Err(error) => tracing::warn!(%error, "no control socket"),
    }
    if let Some(listener) = metrics {
        let served = Arc::clone(&served);
        runtime.spawn(metrics::http::serve(listener, Arc::new(move || metrics::render(&numbers(&served)))));
    }
    runtime.spawn(watch(Arc::clone(&served)));
    let ready = ServerReport::Ready { state: state_of(&served.state) };
    if let Err(error) = send(report, &ready) {
        tracing::debug!(%error, "the keeper does not listen");
    }
    if config.prefetch_all {
        let reader = served.reader.clone();
        runtime.spawn(async move { reader.prefetch_all(config.cache_size).await });
    }
    let result = session.run();
    if result.is_err() {
        // The connection may go on under the next server.
        served.fuse.abandon();
    }
    runtime.shutdown_background();
    result.map_err(|e| Refusal::of_io("serving the mount", &e))
}

/// Takes the address of the metrics. One that cannot be had refuses the mount, now and not when somebody misses them; but a
/// server that takes over refuses nothing.
fn bind_metrics(config: &ServerConfig, adopted: bool) -> Result<Option<TcpListener>, Refusal> {
    let Some(address) = config.metrics else { return Ok(None) };
    match metrics::http::bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if adopted => {
            tracing::warn!(%address, %error, "no metrics");
            Ok(None)
        }
        Err(error) => {
            let message = format!("cannot serve metrics at {address}: {error}");
            Err(Refusal { message, code: exit::CANNOT_CREATE })
        }
    }
}

fn read_config(dir: &RunDir) -> io::Result<ServerDocument> {
    dir.read(&dir.server_config())
}

/// Every passthrough file costs a descriptor.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

fn runtime() -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("clipfs")
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .enable_all()
        .build()?;
    let _context = runtime.enter();
    // The keeper decides when to end: a Ctrl-C at the terminal reaches the whole group. A handler once installed stays.
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    drop(_context);
    Ok(runtime)
}

/// How a server starts.
struct Start {
    /// The clip index that the keeper has open.
    held_index: PathBuf,
    ledger: Ledger,
    /// Whether it takes over from another one.
    adopted: bool,
    /// How long the first one waits for credentials.
    patience: Duration,
}

async fn prepare(
    config: &ServerConfig,
    dir: &RunDir,
    start: Start,
    runtime: tokio::runtime::Handle,
) -> Result<(Served, ClipFs), Refusal> {
    let Start { held_index, ledger, adopted, patience } = start;
    let digest: Digest = config.digest.parse().map_err(|e| Refusal::new(&e, exit::DATA))?;
    let path = config.index.clone();
    let index = blocking(move || {
        // Without a /proc the path it is.
        ClipIndex::open(&held_index).or_else(|_| ClipIndex::open(&path)).map_err(|e| {
            let code = exit::index(&e);
            Refusal { message: format!("{}: {}", path.display(), sentence(&e)), code }
        })
    })
    .await?;
    if index.manifest_digest() != digest {
        let message = format!(
            "clip index {} belongs to manifest {}, not to {digest}",
            config.index.display(),
            index.manifest_digest()
        );
        return Err(Refusal { message, code: exit::DATA });
    }
    let options =
        StoreOptions { dir: config.cache_dir.clone(), quota: config.cache_size, memory: config.memory };
    let store = blocking(move || open_store(options, adopted));
    let asked = Arc::new(Counts::default());
    let (store, source) = tokio::join!(store, open_source(config, &asked));
    let store = Arc::new(store?);
    let mut unopened = None;
    let (source, state) = match source {
        Ok(Some(source)) => {
            let state = match adopted {
                // A server that takes over never refuses.
                true => State::Ok,
                false => First { source: &source, asked: &asked, credentials: &config.credentials, patience }
                    .state(&digest)
                    .await
                    .map_err(|error| Refusal::new(&error, exit::registry(&error)))?,
            };
            (Some(source), state)
        }
        Ok(None) => (None, State::Ok),
        Err(error) if adopted => {
            let text = sentence(&error);
            tracing::warn!("the image's source cannot be opened: {text}");
            unopened = Some(text);
            (None, state_after(&error))
        }
        Err(error) => return Err(Refusal::new(&error, exit::registry(&error))),
    };
    let index = Arc::new(index);
    let read = ReadOptions { timeout: config.read_timeout, small_file: config.small_file };
    let reader = Reader::new(Arc::clone(&index), source, Arc::clone(&store), read, runtime.clone());
    let vfs = Vfs::new(index, &config.name);
    let options = FuseOptions { passthrough: config.passthrough, deadline: config.read_timeout };
    let filesystem = ClipFs::new(vfs, reader.clone(), options, ledger, runtime)
        .map_err(|e| Refusal::of_io("reading the handle ledger", &e))?;
    let fuse = filesystem.shared();
    let state = AtomicU8::new(state as u8);
    let served = Served {
        config: config.clone(),
        store,
        reader,
        fuse,
        state,
        digest,
        unopened: Mutex::new(unopened),
        asked,
        dir: dir.clone(),
        metrics: None,
    };
    Ok((served, filesystem))
}

/// A cache that cannot be used refuses the mount; a server that takes over does without until it can be.
fn open_store(options: StoreOptions, adopted: bool) -> Result<Store, Refusal> {
    match Store::open(options.clone()) {
        Ok(store) => Ok(store),
        Err(error) if adopted => {
            tracing::warn!("nothing is cached on disk: {}", sentence(&error));
            Ok(Store::without_disk(&options))
        }
        Err(error) => Err(Refusal::new(&error, exit::store(&error))),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Refusal::new(&e, exit::SOFTWARE)))
}

fn state_of(state: &AtomicU8) -> State {
    match state.load(Ordering::Relaxed) {
        0 => State::Ok,
        2 => State::AuthDenied,
        _ => State::Degraded,
    }
}

/// The source, opened now if it could not be before.
async fn opened(served: &Served) -> Result<Option<&ImageSource>, RegistryError> {
    if served.reader.source().is_none() {
        let opened = open_source(&served.config, &served.asked).await;
        let error = opened.as_ref().err().map(|error| sentence(error));
        *served.unopened.lock().unwrap_or_else(PoisonError::into_inner) = error;
        if let Some(source) = opened? {
            served.reader.set_source(source);
        }
    }
    Ok(served.reader.source())
}

fn set_state(served: &Served, state: State) {
    let before = served.state.swap(state as u8, Ordering::Relaxed);
    if before != state as u8 {
        match state {
            State::Ok => tracing::info!("the image's source answers, and accepts the credentials: state ok"),
            State::Degraded => tracing::warn!("the image's source cannot be reached: state degraded"),
            State::AuthDenied => {
                tracing::warn!("the image's source refuses the credentials: state auth_denied")
            }
        }
    }
}

/// Asks the source how it is, but only while something is wrong: an idle mount makes no traffic.
async fn watch(served: Arc<Served>) {
    if served.config.image.is_none() {
        return;
    }
    let mut errors = 0;
    loop {
        tokio::time::sleep(WATCH).await;
        let source = match opened(&served).await {
            Ok(Some(source)) => source,
            Ok(None) => continue,
            Err(error) => {
                set_state(&served, state_after(&error));
                continue;
            }
        };
        let now = Stats::get(&served.fuse.stats().read_errors);
        if now == errors && state_of(&served.state) == State::Ok {
            continue;
        }
        errors = now;
        // One at a time: as long as a source of credentials thinks, no other question begins.
        let waits = || set_state(&served, State::Degraded);
        let state = match served.asked.wait(source.check(&served.digest), CHECK_TIMEOUT, waits).await {
            Some(Ok(())) => State::Ok,
            Some(Err(error)) => state_after(&error),
            None => State::Degraded,
        };
        set_state(&served, state);
    }
}

fn bind(dir: &RunDir) -> io::Result<UnixListener> {
    let path = dir.control();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(path)
}

/// One document for each connection. The run directory is root's own: whoever gets here may ask.
async fn answer_status(listener: UnixListener, served: Arc<Served>) {
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                // The store's tally is a file.
                let served = Arc::clone(&served);
                let document = tokio::task::spawn_blocking(move || {
                    serde_json::to_vec(&answer(&served)).unwrap_or_default()
                });
                let Ok(document) = document.await else { continue };
                // Fits the socket's buffer: a caller that does not read cannot hold us up for long.
                let written = tokio::time::timeout(ACCEPT_PAUSE, stream.write_all(&document)).await;
                if !matches!(written, Ok(Ok(()))) {
                    tracing::debug!("a status request was not read");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn answer(served: &Served) -> Answer {
    let (read, store) = (served.reader.stats(), served.store.stats_so_far());
    let registry = served.reader.source().map(ImageSource::stats).unwrap_or_default();
    let stats = served.fuse.stats();
    let unopened = served.unopened.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let latency = stats.read_latency.counts();
    let hits = read.served_memory + read.served_disk;
    let all = hits + read.served_registry;
    let counters = ServerCounters {
        fetched_bytes: registry.blob_bytes,
        served_bytes: Stats::get(&stats.read_bytes),
        served_memory_bytes: read.served_memory,
        served_disk_bytes: read.served_disk,
        hit_ratio: ratio(hits, all),
        cache_bytes: store.disk_bytes,
        memory_bytes: store.memory_bytes,
        open_files: served.fuse.open_files(),
        opens_passthrough: Stats::get(&stats.opens_passthrough),
        opens_cached: Stats::get(&stats.opens_cached),
        passthrough: served.fuse.passes_through(),
        reads: Stats::get(&stats.reads),
        read_errors: Stats::get(&stats.read_errors),
        read_p50_micros: Histogram::quantile(&latency, 0.5),
        read_p99_micros: Histogram::quantile(&latency, 0.99),
        verify_failures: read.verify_failures,
        registry_requests: registry.requests,
        prefetch: served.reader.prefetch_state(),
        metrics: served.metrics,
        credential_requests: served.asked.total(),
        last_error: unopened.or_else(|| served.reader.last_error()),
    };
    Answer { pid: std::process::id(), state: state_of(&served.state), counters }
}

fn numbers(served: &Served) -> Numbers {
    let (store, latency) = (served.store.stats_so_far(), &served.fuse.stats().read_latency);
    Numbers {
        read: served.reader.stats(),
        latency: latency.counts(),
        latency_sum_micros: latency.sum_micros(),
        answers: served.reader.source().map(ImageSource::answers).unwrap_or_default(),
        token_requests: served.reader.source().map(ImageSource::stats).unwrap_or_default().token_requests,
        credential_requests: served.asked.by_result(),
        cache_bytes: store.disk_bytes,
        evictions: store.evictions,
        // The keeper counts; it writes its first state when the mount serves.
        server_restarts: served.dir.state().map_or(0, |kept| kept.server_restarts),
    }
}

/// To three digits: enough for a ratio, and exact in integers until the last step.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    let per_mille = u128::from(part) * 1000 / u128::from(whole.max(1));
    (whole > 0).then(|| f64::from(u32::try_from(per_mille).unwrap_or(1000)) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_rounded_down_and_undefined_of_nothing() {
        assert_eq!(ratio(0, 0), None);
        assert_eq!(ratio(1, 2), Some(0.5));
        assert_eq!(ratio(u64::MAX, u64::MAX), Some(1.0));
        assert_eq!(ratio(9999, 10_000), Some(0.999));
    }
}
