//! `ImageLookups`.

use std::time::Duration;

use controlplane::model::ImageCredentialSource;
use controlplane::store::{ImageLookups as _, Images as _, SecretChange, StoreError};

use crate::database::{Database, change, image, keyed, now};

conformance!(what_was_made_under_a_key, images_of_a_manifest, dispatched_to_a_node);

async fn what_was_made_under_a_key(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    database.index("index-1").await;
    let asked = image(&workspace, "i", ImageCredentialSource::Anonymous);
    let plain = change(Some(&workspace), "CreateImage", "i");
    let under_key = keyed(plain, "key", 1);
    assert_eq!(database.store.made_image(&under_key).await.unwrap(), None);
    let made = now(database.store.put_image(&under_key, &asked, &SecretChange::None).await.unwrap());
    assert_eq!(database.store.made_image(&under_key).await.unwrap(), Some(made));
    assert_eq!(database.store.made_image(&plain).await.unwrap(), None, "without a key nothing is known");
    let theirs = keyed(change(Some(&other), "CreateImage", "i"), "key", 1);
    assert_eq!(database.store.made_image(&theirs).await.unwrap(), None, "keys are a workspace's own");
    for reused in [keyed(plain, "key", 2), keyed(change(Some(&workspace), "DeleteImage", "i"), "key", 1)] {
        let refused = database.store.made_image(&reused).await;
        assert!(matches!(refused, Err(StoreError::KeyReused)), "{refused:?}");
    }
}

async fn images_of_a_manifest(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let mut expected = Vec::new();
    for (owner, id) in [(&workspace, "old"), (&workspace, "new"), (&other, "old"), (&other, "new")] {
        let made = database.image(owner, id, ImageCredentialSource::Anonymous).await;
        expected.push((owner.clone(), made.image_id));
        database.clock.advance(Duration::from_secs(1));
    }
    let found = |digest, workspace, limit| {
        let store = database.store.clone();
        async move { store.images_of_digest(digest, workspace, limit).await.unwrap() }
    };
    // One's own first, and of each the newest.
    let order = |order: [usize; 4]| order.map(|n| expected[n].clone()).to_vec();
    assert_eq!(found("sha256:1", &workspace, 10).await, order([1, 0, 3, 2]));
    assert_eq!(found("sha256:1", &other, 10).await, order([3, 2, 1, 0]));
    assert_eq!(found("sha256:1", &workspace, 3).await, order([1, 0, 3, 2])[..3]);
    assert_eq!(found("sha256:2", &workspace, 10).await, []);
}

async fn dispatched_to_a_node(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let image = database.image(&workspace, "i", ImageCredentialSource::Anonymous).await.image_id;
    let is =
        async |workspace, node| database.store.is_dispatched_to_node(workspace, &image, node).await.unwrap();
    database.container(&workspace, "i", "ended", "exited", "n1").await;
    database.container(&workspace, "i", "waits", "queued", "n1").await;
    database.container(&workspace, "other", "other", "running", "n1").await;
    assert!(!is(&workspace, "n1").await);
    database.container(&workspace, "i", "c", "mounting", "n1").await;
    assert!(is(&workspace, "n1").await);
    assert!(!is(&workspace, "n2").await);
    assert!(!is(&other, "n1").await);
}
