//! Carrying word of changes: within the process at once, to other replicas with the transaction's commit.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::topic::{Topic, Topics};

/// PostgreSQL's channel.
const CHANNEL: &str = "clipfs";

/// PostgreSQL takes less than 8000 bytes.
const MAX_PAYLOAD: usize = 7900;

/// Topics that a slow listener may miss before it has to look at everything.
const CAPACITY: usize = 4096;

/// Between tries to listen again.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Announcer {
    sender: broadcast::Sender<Topic>,
    /// Of this store, so that its own word is not heard twice.
    origin: Arc<str>,
}

impl Announcer {
    pub(super) fn new() -> Self {
        let origin = uuid::Uuid::now_v7().to_string();
        Self { sender: broadcast::Sender::new(CAPACITY), origin: origin.into() }
    }

    pub(super) fn topics(&self) -> Topics {
        Topics::new(self.sender.subscribe())
    }

    /// Tells this process. That nobody listens is no error.
    pub(super) fn tell(&self, topics: Vec<Topic>) {
        for topic in topics {
            let _ = self.sender.send(topic);
        }
    }

    /// Payloads that tell the other replicas.
    pub(super) fn payloads(&self, topics: &[Topic]) -> Vec<String> {
        let mut payloads = Vec::new();
        let mut payload = self.origin.to_string();
        for topic in topics {
            let mut line = write(topic);
            if self.origin.len() + 1 + line.len() > MAX_PAYLOAD {
                line = write(&Topic::Everything);
            }
            if payload.len() + 1 + line.len() > MAX_PAYLOAD {
                payloads.push(std::mem::replace(&mut payload, self.origin.to_string()));
            }
            payload.push('\n');
            payload.push_str(&line);
        }
        payloads.push(payload);
        payloads
    }

    /// Hears the other replicas until the task is aborted.
    pub(super) fn listen(&self, url: String) -> JoinHandle<()> {
        let announcer = self.clone();
        tokio::spawn(async move {
            loop {
                let Err(error) = announcer.hear(&url).await;
                tracing::warn!(%error, "not hearing other replicas: listening again");
                tokio::time::sleep(PAUSE).await;
            }
        })
    }

    async fn hear(&self, url: &str) -> Result<std::convert::Infallible, sqlx::Error> {
        let mut listener = PgListener::connect(url).await?;
        listener.listen(CHANNEL).await?;
        loop {
            // Whatever was said while nobody listened is lost.
            self.tell(vec![Topic::Everything]);
            while let Some(word) = listener.try_recv().await? {
                self.tell(self.read(word.payload()));
            }
        }
    }

    fn read(&self, payload: &str) -> Vec<Topic> {
        let mut lines = payload.split('\n');
        if lines.next() == Some(&self.origin) {
            return Vec::new();
        }
        // A newer replica's topic may be one that is not known here.
        lines.map(|line| read(line).unwrap_or(Topic::Everything)).collect()
    }
}

fn write(topic: &Topic) -> String {
    // As JSON, for identities may hold anything.
    match topic {
        Topic::Queue => serde_json::json!(["queue"]),
        Topic::Worker(worker) => serde_json::json!(["worker", worker]),
        Topic::Container(workspace, container) => serde_json::json!(["container", workspace, container]),
        Topic::Everything => serde_json::json!(["everything"]),
    }
    .to_string()
}

fn read(line: &str) -> Option<Topic> {
    let words: Vec<String> = serde_json::from_str(line).ok()?;
    match words.as_slice() {
        [kind] if kind == "queue" => Some(Topic::Queue),
        [kind, worker] if kind == "worker" => Some(Topic::Worker(worker.as_str().into())),
        [kind, workspace, container] if kind == "container" => {
            Some(Topic::Container(workspace.as_str().into(), container.as_str().into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Announcer, MAX_PAYLOAD, Topic};

    #[test]
    fn topics_travel() {
        let (here, there) = (Announcer::new(), Announcer::new());
        let mut topics =
            vec![Topic::Queue, Topic::Everything, Topic::Container("w\n\"".into(), "c\0".into())];
        topics.extend((0..1000).map(|n| Topic::Worker(format!("worker-{n}").into())));
        let payloads = here.payloads(&topics);
        assert!(payloads.len() > 1);
        assert!(payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
        let heard: Vec<Topic> = payloads.iter().flat_map(|payload| there.read(payload)).collect();
        assert_eq!(heard, topics);
        assert!(payloads.iter().all(|payload| here.read(payload).is_empty()), "own word is not heard again");
    }

    #[test]
    fn what_does_not_fit_or_is_not_known_is_everything() {
        let (here, there) = (Announcer::new(), Announcer::new());
        let payloads = here.payloads(&[Topic::Worker("x".repeat(9000).into())]);
        let heard: Vec<Topic> = payloads.iter().flat_map(|payload| there.read(payload)).collect();
        assert_eq!(heard, [Topic::Everything]);
        assert_eq!(there.read("other\n[\"comet\"]\nnonsense"), [Topic::Everything, Topic::Everything]);
    }
}
