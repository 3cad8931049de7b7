//! What the control plane must be told: reports and output, numbered, kept until it says that it has them.
//!
//! In memory only: after a restart the tasks say again what they have to say. Bounded by the tasks, each of which waits until its messages were taken
//! before it says more.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::v1;
use api::v1::worker_message::Message;
use tokio::sync::{Notify, oneshot};

/// Numbered messages.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// There is something new.
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    /// Of which task.
    token: u64,
    message: Message,
    taken: oneshot::Sender<()>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Output is the container's own business.
        f.debug_struct("Waiting").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic is done while it is held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message of a task. The answer arrives when it was taken; an error: nobody wants it any more.
    pub fn put(&self, token: u64, message: Message) -> oneshot::Receiver<()> {
        let (taken, answer) = oneshot::channel();
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner.waiting.insert(number, Waiting { token, message, taken });
        drop(inner);
        self.wake.notify_one();
        answer
    }

    /// The first message after `after`, with its number.
    #[must_use]
    pub fn next(&self, after: u64) -> Option<v1::WorkerMessage> {
        let inner = self.lock();
        let (number, waiting) = inner.waiting.range(after + 1..).next()?;
        Some(v1::WorkerMessage { number: *number, message: Some(waiting.message.clone()) })
    }

    /// A message was taken.
    pub fn received(&self, number: u64) {
        if let Some(waiting) = self.lock().waiting.remove(&number) {
            // The task may have ended.
            let _ = waiting.taken.send(());
        }
    }

    /// Forgets the messages of a task.
    pub fn forget(&self, token: u64) {
        self.lock().waiting.retain(|_, waiting| waiting.token != token);
    }

    /// Whether everything was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Waits for a new message. Cancel safe; one listener.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(reason: &str) -> Message {
        Message::Report(v1::ContainerReport { reason: reason.to_owned(), ..Default::default() })
    }

    #[tokio::test]
    async fn a_message_stays_until_it_is_taken() {
        let outbox = Outbox::default();
        let first = outbox.put(1, report("a"));
        let second = outbox.put(2, report("b"));
        let numbers = |after| outbox.next(after).map(|message| message.number);
        assert_eq!((numbers(0), numbers(1), numbers(2)), (Some(1), Some(2), None));
        outbox.received(1);
        outbox.received(1);
        assert_eq!(first.await, Ok(()));
        assert_eq!(numbers(0), Some(2), "a new stream begins with what was not taken");
        outbox.forget(2);
        assert!(second.await.is_err() && outbox.is_empty());
        outbox.changed().await;
    }
}
