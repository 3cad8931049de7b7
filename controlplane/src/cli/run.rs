//! `controlplane run`, `ps`, `logs`, `stop`, `workers`.

use std::io::Write as _;
use std::time::Duration;

use api::v1;
use api::v1::container_event::Event;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::args::{ClientArgs, LogsArgs, PsArgs, RunArgs, StopArgs};
use super::client::{Client, again, call, key, pages};
use super::failure::{self, Failure, printable};
use super::output::{Output, size};
use super::settings::Settings;
use super::show;

/// How long a server may be away before a watch is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to watch again.
const PAUSE: Duration = Duration::from_millis(500);

/// `run`.
pub(super) async fn run(
    args: RunArgs,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    let request = v1::RunContainerRequest {
        request: Some(v1::ContainerRequest {
            image_id: args.image_id,
            entry_point: args.command,
            env: args.env,
            cpu: args.cpu.unwrap_or(0),
            memory: args.memory.unwrap_or(0),
            gpu: args.gpu.unwrap_or_default(),
            gpu_count: args.gpu_count.unwrap_or(0),
            pool_selector: args.pool.unwrap_or_default(),
            ..Default::default()
        }),
        container_id: args.name.unwrap_or_default(),
        idempotency_key: key(),
    };
    let container = again(|| {
        let (mut containers, request) = (client.containers(), request.clone());
        async move { containers.run_container(call(request)).await }
    })
    .await?;
    if args.detach {
        out.one(&container.container_id, &show::container(&container))?;
        return Ok(0);
    }
    let id = container.container_id;
    let mut followed = std::pin::pin!(follow(&client, &id, true, out));
    let code = tokio::select! {
        ended = &mut followed => return end(&ended?, out),
        code = interrupted() => code?,
    };
    stop_one(&client, &id).await?;
    // Standard error that cannot be written to is no reason to fail.
    let _ = writeln!(std::io::stderr(), "stopping container {id}; interrupt once more to leave it");
    tokio::select! {
        ended = followed => ended.map(|_| code),
        code = interrupted() => code,
    }
}

/// Waits until somebody wants this process to end; with which code it then does.
async fn interrupted() -> Result<u8, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    Ok(tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    })
}

/// `logs`.
pub(super) async fn logs(
    args: LogsArgs,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    if args.follow {
        follow(&client, &args.container_id, false, out).await?;
        return Ok(0);
    }
    let request = v1::GetContainerRequest { container_id: args.container_id.clone() };
    let container = again(|| {
        let (mut containers, request) = (client.containers(), request.clone());
        async move { containers.get_container(call(request)).await }
    })
    .await?;
    if is_final(&container) {
        follow(&client, &args.container_id, false, out).await?;
        return Ok(0);
    }
    // Of one that goes on: what is there. A pause in the stream is the end of that.
    let request = v1::WatchContainerRequest {
        container_id: args.container_id,
        logs: true,
        resume_token: String::new(),
    };
    let mut events = client.containers().watch_container(request).await?.into_inner();
    while let Ok(event) = tokio::time::timeout(PAUSE, events.message()).await {
        let Some(event) = event? else { break };
        if let Some(Event::Log(chunk)) = event.event {
            write(&chunk)?;
        }
    }
    Ok(0)
}

/// Watches a container to its end, whatever becomes of the server meanwhile, and writes its output.
async fn follow(client: &Client, id: &str, tell: bool, out: Output) -> Result<v1::Container, Failure> {
    let mut resume_token = String::new();
    let mut waiting = String::new();
    let mut alive = Instant::now();
    loop {
        let request = v1::WatchContainerRequest {
            container_id: id.to_owned(),
            logs: true,
            resume_token: resume_token.clone(),
        };
        let watched = async {
            let mut events = client.containers().watch_container(request).await?.into_inner();
            let mut last = None;
            while let Some(event) = events.message().await? {
                alive = Instant::now();
                resume_token = event.resume_token;
                match event.event {
                    Some(Event::Log(chunk)) => write(&chunk)?,
                    Some(Event::Container(container)) => {
                        if tell && !out.is_json() && container.waiting != waiting {
                            waiting.clone_from(&container.waiting);
                            if !waiting.is_empty() {
                                // Nobody reads it: no reason to fail.
                                let _ = writeln!(std::io::stderr(), "waiting: {}", printable(&waiting));
                            }
                        }
                        last = Some(container);
                    }
                    None => {}
                }
            }
            Ok::<_, Failure>(last)
        };
        match watched.await {
            Ok(Some(container)) if is_final(&container) => return Ok(container),
            Ok(_) => {
                // The end was in an earlier stream, or the stream just ended: ask.
                let request = v1::GetContainerRequest { container_id: id.to_owned() };
                let container = again(|| {
                    let (mut containers, request) = (client.containers(), request.clone());
                    async move { containers.get_container(call(request)).await }
                })
                .await?;
                if is_final(&container) {
                    return Ok(container);
                }
            }
            Err(Failure::Status(status)) if may_come_back(&status) && alive.elapsed() < PATIENCE => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the server may be there again soon.
fn may_come_back(status: &Status) -> bool {
    // A connection that breaks is UNKNOWN or INTERNAL where a stream had begun, with an error of the transport as its cause.
    matches!(status.code(), Code::Unavailable | Code::Aborted) || std::error::Error::source(status).is_some()
}

fn is_final(container: &v1::Container) -> bool {
    matches!(container.state(), v1::ContainerState::Exited | v1::ContainerState::Failed)
}

/// Output of the program, as it is, where the program wrote it.
fn write(chunk: &v1::LogChunk) -> std::io::Result<()> {
    if chunk.stream() == v1::log_chunk::Stream::Stderr {
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(&chunk.data)?;
        return stderr.flush();
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&chunk.data)?;
    stdout.flush()
}

/// What `run` exits with: the program's code, or what the failure means.
fn end(container: &v1::Container, out: Output) -> Result<u8, Failure> {
    if out.is_json() {
        out.one("", &show::container(container))?;
    }
    match container.state() {
        v1::ContainerState::Exited => Ok(u8::try_from(container.exit_code).unwrap_or(u8::MAX)),
        _ if container.reason_code == i32::from(Code::Cancelled) => {
            let _ = writeln!(std::io::stderr(), "stopped: {}", printable(&container.reason));
            Ok(failure::of_code(Code::Cancelled))
        }
        _ => Err(Failure::Container {
            id: container.container_id.clone(),
            reason: container.reason.clone(),
            code: container.reason_code,
        }),
    }
}

/// `ps`.
pub(super) async fn ps(
    args: PsArgs,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    let all = pages(|page_token| {
        let client = client.clone();
        async move {
            let request = v1::ListContainersRequest { page_size: 0, page_token, active: !args.all };
            let page = again(|| {
                let (mut containers, request) = (client.containers(), request.clone());
                async move { containers.list_containers(call(request)).await }
            })
            .await?;
            Ok((page.containers, page.next_page_token))
        }
    })
    .await?;
    let row = |c: &v1::Container| {
        vec![
            c.container_id.clone(),
            c.image_id.clone(),
            show::state(c),
            c.attempt.to_string(),
            c.worker_id.clone(),
            show::time(c.create_time.as_ref()),
            show::detail(c),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let heads = ["CONTAINER", "IMAGE", "STATE", "ATTEMPT", "WORKER", "CREATED", "DETAIL"];
    out.table(&heads, &rows, all.iter().map(show::container).collect())?;
    Ok(0)
}

/// `stop`.
pub(super) async fn stop(
    args: StopArgs,
    client: &ClientArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    let container = stop_one(&client, &args.container_id).await?;
    out.one(
        &format!("{} {}", container.container_id, show::state(&container)),
        &show::container(&container),
    )?;
    Ok(0)
}

async fn stop_one(client: &Client, id: &str) -> Result<v1::Container, Failure> {
    let request = v1::StopContainerRequest { container_id: id.to_owned(), idempotency_key: key() };
    Ok(again(|| {
        let (mut containers, request) = (client.containers(), request.clone());
        async move { containers.stop_container(call(request)).await }
    })
    .await?)
}

/// `workers`.
pub(super) async fn workers(client: &ClientArgs, settings: &Settings, out: Output) -> Result<u8, Failure> {
    let client = Client::new(client, settings)?;
    let all = pages(|page_token| {
        let client = client.clone();
        async move {
            let request = v1::ListWorkersRequest { page_size: 0, page_token };
            let page = again(|| {
                let (mut admin, request) = (client.admin(), request.clone());
                async move { admin.list_workers(call(request)).await }
            })
            .await?;
            Ok((page.workers, page.next_page_token))
        }
    })
    .await?;
    let mebibytes = |memory: i64| size(u64::try_from(memory).unwrap_or(0).saturating_mul(1 << 20));
    let row = |w: &v1::Worker| {
        let state = match (w.live, w.draining) {
            (false, _) => "lost",
            (true, true) => "draining",
            (true, false) => "live",
        };
        vec![
            w.node.clone(),
            state.to_owned(),
            w.pool_selector.clone(),
            format!("{}m/{}m", w.free_cpu, w.total_cpu),
            format!("{}/{}", mebibytes(w.free_memory), mebibytes(w.total_memory)),
            format!("{} {}/{}", w.gpu, w.free_gpu_count, w.total_gpu_count).trim_start().to_owned(),
            w.containers.to_string(),
            show::time(w.heartbeat_time.as_ref()),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    let heads = ["NODE", "STATE", "POOL", "FREE CPU", "FREE MEMORY", "FREE GPU", "CONTAINERS", "HEARD"];
    out.table(&heads, &rows, all.iter().map(show::worker).collect())?;
    Ok(0)
}
