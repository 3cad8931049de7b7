//! [`controlplane::store::Logs`].

use controlplane::model::{ContainerState, LogLine, LogPosition, LogStream, Time};
use controlplane::store::{Logs as _, StoreError};

use crate::yard::{Yard, both};

both!(keeps_pieces_once, keeps_the_first_bytes, believes_the_lease_only);

fn line(offset: u64, data: &[u8]) -> LogLine {
    let stream = if offset % 2 == 0 { LogStream::Stdout } else { LogStream::Stderr };
    LogLine { position: LogPosition { attempt: 1, offset }, stream, time: Time(0), data: data.to_vec() }
}

async fn read(yard: &Yard, from: LogPosition, limit: u32) -> Vec<(u64, LogStream, String)> {
    let lines = yard.store.logs(&yard.workspace, &"c".into(), from, limit).await.unwrap();
    lines
        .into_iter()
        .map(|line| (line.position.offset, line.stream, String::from_utf8_lossy(&line.data).into_owned()))
        .collect()
}

async fn keeps_pieces_once(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("c", 1, 1).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    for _ in 0..2 {
        let pieces = [line(0, b"abc"), line(3, b"\0\xff"), line(5, b"")];
        yard.store.append_logs(&one, &lease, &pieces, 100).await.unwrap();
    }
    yard.store.append_logs(&one, &lease, &[line(0, b"other")], 100).await.unwrap();
    let all = read(&yard, LogPosition::default(), 10).await;
    assert_eq!(all[0], (0, LogStream::Stdout, "abc".to_owned()));
    assert_eq!((all.len(), all[1].0, all[1].1), (2, 3, LogStream::Stderr));
    assert_eq!(read(&yard, LogPosition { attempt: 1, offset: 1 }, 10).await, all[1..]);
    assert_eq!(read(&yard, LogPosition { attempt: 2, offset: 0 }, 10).await, []);
    assert_eq!(read(&yard, LogPosition::default(), 1).await, all[..1]);
}

async fn keeps_the_first_bytes(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("c", 1, 1).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    for _ in 0..2 {
        yard.store
            .append_logs(&one, &lease, &[line(0, b"abcd"), line(4, b"efgh"), line(8, b"ij")], 6)
            .await
            .unwrap();
    }
    let text: String = read(&yard, LogPosition::default(), 10).await.into_iter().map(|line| line.2).collect();
    assert_eq!(text, "abcdef");
    let long =
        yard.store.append_logs(&one, &lease, &[line(100, &vec![b'x'; (64 << 10) + 1])], u64::MAX).await;
    assert!(matches!(long, Err(StoreError::Conflict(_))), "{long:?}");
}

async fn believes_the_lease_only(yard: Yard) {
    let (one, two) = (yard.register("one", 1000, 1000).await, yard.register("two", 0, 0).await);
    yard.submit("c", 1, 1).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    let other = controlplane::model::Lease { fencing_token: lease.fencing_token + 1, ..lease.clone() };
    for (worker, lease) in [(&two, &lease), (&one, &other)] {
        let stale = yard.store.append_logs(worker, lease, &[line(0, b"x")], 100).await;
        assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    }
    // What the program said last may come behind its end.
    yard.report(&one, &lease, ContainerState::Exited).await.unwrap();
    yard.store.append_logs(&one, &lease, &[line(0, b"last")], 100).await.unwrap();
    assert_eq!(read(&yard, LogPosition::default(), 10).await.len(), 1);
}
