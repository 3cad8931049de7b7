//! `DataKeys`.

use controlplane::model::{KeyId, Sealed};
use controlplane::store::{DataKeys as _, Secrets as _, StoreError};

use crate::database::{Database, change, data_key};

conformance!(one_is_current, rotated, faster_ones_win, rewrapped, resealed);

async fn one_is_current(database: Database) {
    let workspace = database.workspace("a").await;
    let store = &database.store;
    assert!(!store.has_data_keys().await.unwrap());
    assert_eq!(store.current_data_key(&workspace).await.unwrap(), None);
    let key = data_key(&workspace, "kek-1");
    assert!(store.set_current_data_key(&key, None).await.unwrap());
    assert!(store.has_data_keys().await.unwrap());
    assert_eq!(store.current_data_key(&workspace).await.unwrap().as_ref(), Some(&key));
    assert_eq!(store.data_key(&key.key_id).await.unwrap().as_ref(), Some(&key));
    assert_eq!(store.data_key(&KeyId::generate()).await.unwrap(), None);
    assert!(!store.set_current_data_key(&data_key(&workspace, "kek-1"), None).await.unwrap(), "there is one");
    assert_eq!(store.current_data_key(&workspace).await.unwrap(), Some(key));
    let nowhere = store.set_current_data_key(&data_key(&"nowhere".into(), "kek-1"), None).await;
    assert!(matches!(nowhere, Err(StoreError::Conflict(_))), "{nowhere:?}");
}

async fn rotated(database: Database) {
    let (workspace, other) = (database.workspace("a").await, database.workspace("b").await);
    let store = &database.store;
    let (first, second) = (data_key(&workspace, "kek-1"), data_key(&workspace, "kek-1"));
    assert!(store.set_current_data_key(&first, None).await.unwrap());
    assert!(store.set_current_data_key(&second, Some(&first.key_id)).await.unwrap());
    assert_eq!(store.current_data_key(&workspace).await.unwrap(), Some(second.clone()));
    assert!(!store.data_key(&first.key_id).await.unwrap().unwrap().current);
    // The old one is not current any more, and another workspace's is not this one's.
    assert!(!store.set_current_data_key(&data_key(&workspace, "kek-1"), Some(&first.key_id)).await.unwrap());
    assert!(!store.set_current_data_key(&data_key(&other, "kek-1"), Some(&second.key_id)).await.unwrap());
    // A key that exists is not made again, and nothing is retired for it.
    assert!(!store.set_current_data_key(&first, Some(&second.key_id)).await.unwrap());
    assert_eq!(store.current_data_key(&workspace).await.unwrap(), Some(second));
    assert_eq!(store.delete_unused_data_keys().await.unwrap(), 1);
    assert_eq!(store.data_key(&first.key_id).await.unwrap(), None);
}

async fn faster_ones_win(database: Database) {
    let workspace = database.workspace("a").await;
    let current = database.key(&workspace).await;
    for instead_of in [Some(current), None] {
        let tries = (0..6).map(|_| {
            let (store, key, old) =
                (database.store.clone(), data_key(&workspace, "kek-1"), instead_of.clone());
            tokio::spawn(async move { store.set_current_data_key(&key, old.as_ref()).await.unwrap() })
        });
        let mut won = 0;
        for attempt in tries.collect::<Vec<_>>() {
            won += u32::from(attempt.await.unwrap());
        }
        assert_eq!(won, u32::from(instead_of.is_some()));
        assert_eq!(database.count("data_key WHERE current = 1").await, 1);
    }
}

async fn rewrapped(database: Database) {
    let (a, b) = (database.workspace("a").await, database.workspace("b").await);
    let store = &database.store;
    let (first, second) = (data_key(&a, "kek-1"), data_key(&b, "kek-2"));
    assert!(store.set_current_data_key(&first, None).await.unwrap());
    assert!(store.set_current_data_key(&second, None).await.unwrap());
    assert_eq!(store.data_keys_not_wrapped_by("kek-2", 10).await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(store.data_keys_not_wrapped_by("kek-3", 1).await.unwrap(), std::slice::from_ref(&first));
    assert!(store.rewrap_data_key(&first.key_id, "kek-1", "kek-2", b"anew").await.unwrap());
    assert!(!store.rewrap_data_key(&first.key_id, "kek-1", "kek-3", b"late").await.unwrap());
    let key = store.data_key(&first.key_id).await.unwrap().unwrap();
    assert_eq!(
        (key.kek_id.as_str(), key.wrapped.as_slice(), key.current),
        ("kek-2", b"anew".as_slice(), true)
    );
    assert_eq!(store.data_keys_not_wrapped_by("kek-2", 10).await.unwrap(), []);
}

async fn resealed(database: Database) {
    let workspace = database.workspace("a").await;
    let store = &database.store;
    let secret = database.secret(&workspace, "NAME", "").await;
    let old = database.key(&workspace).await;
    assert_eq!(store.secrets_under_old_keys(10).await.unwrap(), []);
    let new = data_key(&workspace, "kek-1");
    assert!(store.set_current_data_key(&new, Some(&old)).await.unwrap());
    assert_eq!(store.delete_unused_data_keys().await.unwrap(), 0, "a secret needs it");
    let row = store.secrets_under_old_keys(10).await.unwrap().remove(0);
    assert_eq!((&row.secret, row.newest), (&secret, 1));

    let sealed = Sealed { key_id: new.key_id.clone(), record: b"anew".to_vec() };
    assert!(store.reseal_secret(&row, &sealed).await.unwrap());
    assert!(!store.reseal_secret(&row, &sealed).await.unwrap(), "it is another record now");
    let now = store.secret(&workspace, &secret.secret_id).await.unwrap().unwrap();
    assert_eq!(
        (&now.secret, &now.sealed, now.newest),
        (&secret, &sealed, 1),
        "same value, version and times"
    );
    assert_eq!(store.secrets_under_old_keys(10).await.unwrap(), []);
    assert_eq!(store.delete_unused_data_keys().await.unwrap(), 1);

    // Updated between reading and sealing anew: the newer value stays.
    let newest = Sealed { key_id: new.key_id.clone(), record: b"value 2".to_vec() };
    store.update_secret(&change(Some(&workspace), "UpdateSecret", "NAME"), &secret, &newest).await.unwrap();
    assert!(!store.reseal_secret(&now, &sealed).await.unwrap());
    assert_eq!(store.secret(&workspace, &secret.secret_id).await.unwrap().unwrap().sealed, newest);
}
