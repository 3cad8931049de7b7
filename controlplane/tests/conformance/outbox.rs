//! [`controlplane::store::Outbox`].

use controlplane::model::ContainerState;
use controlplane::store::{DeliveryKind, Outbox as _};

use crate::yard::{Yard, both, kinds};

both!(
    holds_exactly_what_is_not_acknowledged,
    an_end_drops_what_was_to_be_told,
    is_read_in_order_and_in_pieces
);

async fn holds_exactly_what_is_not_acknowledged(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    yard.submit("c", 10, 10).await;
    yard.place().await;
    let lease = yard.lease("c").await;
    let first = yard.deliveries(&one).await;
    assert_eq!((kinds(&first), &first[0].lease), (vec![DeliveryKind::Dispatch], &lease));
    assert_eq!(yard.deliveries(&one).await, first, "reading forgets nothing");
    // Nobody acknowledges another's.
    let two = yard.register("two", 1000, 1000).await;
    yard.store.acknowledge(&two, &[first[0].delivery]).await.unwrap();
    assert_eq!(yard.deliveries(&one).await, first);
    yard.stop("c").await;
    yard.stop("c").await;
    let both = yard.deliveries(&one).await;
    assert_eq!(kinds(&both), [DeliveryKind::Dispatch, DeliveryKind::Cancel], "a stop is told once");
    assert!(both[1].delivery > both[0].delivery);
    yard.store.acknowledge(&one, &[both[0].delivery, 1 << 62, u64::MAX]).await.unwrap();
    assert_eq!(yard.deliveries(&one).await, both[1..]);
    assert_eq!(yard.store.outbox_length().await.unwrap(), 1);
    yard.store.acknowledge(&one, &[both[0].delivery, both[1].delivery]).await.unwrap();
    assert_eq!(yard.store.outbox_length().await.unwrap(), 0);
    yard.store.acknowledge(&one, &[]).await.unwrap();
}

async fn an_end_drops_what_was_to_be_told(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    for id in ["c", "d"] {
        yard.submit(id, 10, 10).await;
    }
    yard.place().await;
    yard.stop("c").await;
    let lease = yard.lease("c").await;
    yard.report(&one, &lease, ContainerState::Exited).await.unwrap();
    let left = yard.deliveries(&one).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].lease, yard.lease("d").await);
}

async fn is_read_in_order_and_in_pieces(yard: Yard) {
    let one = yard.register("one", 1000, 1000).await;
    for id in 0..7 {
        yard.submit(&format!("c{id}"), 10, 10).await;
    }
    yard.place().await;
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let piece = yard.store.deliveries(&one, after, 3).await.unwrap();
        let Some(last) = piece.last() else { break };
        assert!(piece.len() <= 3);
        after = last.delivery;
        seen.extend(piece.iter().map(|delivery| delivery.delivery));
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
    let all = yard.deliveries(&one).await;
    let numbers: Vec<u64> = all.iter().map(|delivery| delivery.delivery).collect();
    yard.store.acknowledge(&one, &numbers).await.unwrap();
    assert!(yard.deliveries(&one).await.is_empty());
}
