//! Watching a container: what has happened, what happens, and nothing after the end.
//!
//! A task reads what is new whenever word of a change comes, and now and then by itself, since word may be lost. It holds a bounded number
//! of events: a caller that does not read stops it from reading on.

use std::time::Duration;

use api::v1;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{FutureExt as _, Stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use crate::model::{Container, ContainerId, LogLine, LogPosition, LogStream, Time, WorkspaceId};
use crate::store::{SharedStore, StoreError, Topic, Topics};

/// Events that wait for the caller.
const AHEAD: usize = 16;
/// Rows of one read.
const ROWS: u32 = 64;
/// A look without word of a change.
const TICK: Duration = Duration::from_secs(5);
/// Between two looks, however much word comes: a talkative program must not have its output read line by line.
const PAUSE: Duration = Duration::from_millis(10);

/// How far a caller has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    seq: u64,
    log: LogPosition,
}

impl Position {
    fn token(self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}.{}.{}", self.seq, self.log.attempt, self.log.offset))
    }

    /// Of a token; empty = the beginning.
    fn of(token: &str) -> Result<Self, Status> {
        if token.is_empty() {
            return Ok(Self::default());
        }
        let read = || {
            // Three numbers: 20 digits each at most, in base64.
            let bytes = URL_SAFE_NO_PAD.decode(Some(token).filter(|token| token.len() <= 96)?).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let mut parts = text.split('.');
            let seq = parts.next()?.parse().ok()?;
            let log =
                LogPosition { attempt: parts.next()?.parse().ok()?, offset: parts.next()?.parse().ok()? };
            parts.next().is_none().then_some(Self { seq, log })
        };
        read().ok_or_else(|| Status::invalid_argument("resume_token is not one that a watch has answered"))
    }
}

/// A watch that has not begun.
pub(super) struct Watch {
    store: SharedStore,
    workspace: WorkspaceId,
    container: ContainerId,
    logs: bool,
    position: Position,
}

/// Why a watch is over.
enum Over {
    /// The caller went away.
    Gone,
    /// It is told.
    Because(Status),
}

impl From<StoreError> for Over {
    fn from(error: StoreError) -> Self {
        Self::Because(error.into())
    }
}

type Sender = mpsc::Sender<Result<v1::ContainerEvent, Status>>;

impl Watch {
    /// As it was asked for.
    pub(super) fn new(
        store: &SharedStore,
        workspace: WorkspaceId,
        request: &v1::WatchContainerRequest,
    ) -> Result<Self, Status> {
        Ok(Self {
            store: SharedStore::clone(store),
            workspace,
            container: ContainerId::from(request.container_id.as_str()),
            logs: request.logs,
            position: Position::of(&request.resume_token)?,
        })
    }

    /// Begins.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub(super) async fn stream(
        mut self,
    ) -> Result<impl Stream<Item = Result<v1::ContainerEvent, Status>> + use<>, Status> {
        // Listens before it looks: nothing falls between.
        let mut topics = self.store.topics();
        let found = self.store.container(&self.workspace, &self.container).await?;
        found.ok_or(StoreError::NotFound("container"))?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let watched = tokio::select! {
                watched = self.run(&mut topics, &sender) => watched,
                () = sender.closed() => Err(Over::Gone),
            };
            if let Err(Over::Because(status)) = watched {
                // Whoever went away meanwhile need not know.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn run(&mut self, topics: &mut Topics, sender: &Sender) -> Result<(), Over> {
        loop {
            let looked = Instant::now();
            if self.look(sender).await? {
                return Ok(());
            }
            self.word(topics, looked + TICK).await;
            sleep_until(looked + PAUSE).await;
            // One look sees it all.
            while topics.next().now_or_never().is_some() {}
        }
    }

    /// Until something may have changed.
    async fn word(&self, topics: &mut Topics, until: Instant) {
        let heard = async {
            loop {
                match topics.next().await {
                    Topic::Everything => return,
                    Topic::Container(workspace, container)
                        if workspace == self.workspace && container == self.container =>
                    {
                        return;
                    }
                    Topic::Container(..) | Topic::Queue | Topic::Worker(_) => {}
                }
            }
        };
        // Both mean the same: look.
        let _ = tokio::time::timeout_at(until, heard).await;
    }

    /// Sends what is new. `true`: it has ended.
    async fn look(&mut self, sender: &Sender) -> Result<bool, Over> {
        loop {
            let events = self.store.events(&self.workspace, &self.container, self.position.seq, ROWS).await?;
            let all = events.len() < usize::try_from(ROWS).unwrap_or(usize::MAX);
            for (seq, time, container) in events {
                let ended = container.state.is_final();
                if ended {
                    // The output came before the end was reported.
                    self.output(sender).await?;
                }
                self.position.seq = seq;
                self.event(sender, time, container).await?;
                if ended {
                    return Ok(true);
                }
            }
            if all {
                break;
            }
        }
        self.output(sender).await?;
        self.still_there().await
    }

    /// Whether it ended in a way that the events read so far do not show: `resume_token` of an end, or rows that were tidied.
    async fn still_there(&self) -> Result<bool, Over> {
        match self.store.container(&self.workspace, &self.container).await? {
            None => Err(StoreError::NotFound("container").into()),
            Some(container) if container.state.is_final() => {
                // An end that came after the events were read is told by the next look.
                let rest = self.store.events(&self.workspace, &self.container, self.position.seq, 1).await?;
                Ok(rest.is_empty())
            }
            Some(_) => Ok(false),
        }
    }

    async fn output(&mut self, sender: &Sender) -> Result<(), Over> {
        if !self.logs {
            return Ok(());
        }
        loop {
            let pieces = self.store.logs(&self.workspace, &self.container, self.position.log, ROWS).await?;
            if pieces.is_empty() {
                return Ok(());
            }
            for piece in pieces {
                let length = u64::try_from(piece.data.len()).unwrap_or(u64::MAX);
                self.position.log = LogPosition {
                    attempt: piece.position.attempt,
                    // A piece without data would be read for ever.
                    offset: piece.position.offset.saturating_add(length.max(1)),
                };
                self.piece(sender, piece).await?;
            }
        }
    }

    async fn event(&self, sender: &Sender, time: Time, container: Container) -> Result<(), Over> {
        self.send(sender, time, v1::container_event::Event::Container(convert::container(container))).await
    }

    async fn piece(&self, sender: &Sender, piece: LogLine) -> Result<(), Over> {
        let stream = match piece.stream {
            LogStream::Stdout => v1::log_chunk::Stream::Stdout,
            LogStream::Stderr => v1::log_chunk::Stream::Stderr,
        };
        let chunk = v1::LogChunk { stream: stream.into(), data: piece.data, offset: piece.position.offset };
        self.send(sender, piece.time, v1::container_event::Event::Log(chunk)).await
    }

    async fn send(&self, sender: &Sender, time: Time, event: v1::container_event::Event) -> Result<(), Over> {
        let event = v1::ContainerEvent {
            time: Some(convert::time(time)),
            event: Some(event),
            resume_token: self.position.token(),
        };
        sender.send(Ok(event)).await.map_err(|_| Over::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_there_and_back() {
        let position = Position { seq: u64::MAX, log: LogPosition { attempt: u32::MAX, offset: u64::MAX } };
        assert_eq!(Position::of(&position.token()).expect("its own"), position);
        assert_eq!(Position::of("").expect("the beginning"), Position::default());
        for token in ["!", "MQ", &URL_SAFE_NO_PAD.encode("1.2.3.4"), &"A".repeat(1000)] {
            assert!(Position::of(token).is_err(), "{token}");
        }
    }
}
