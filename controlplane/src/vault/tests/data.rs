//! Rotation of data keys.

use super::*;

#[tokio::test]
async fn a_rotation_seals_everything_anew_and_deletes_the_old_keys() {
    let world = World::with_secrets(70).await;
    let before = world.rows();
    let report = world.vault.rotate_data_keys(DataScope::All).await.unwrap();
    assert_eq!((report.made, report.resealed, report.deleted), (70, 70, 70));
    assert!(report.unopened.is_empty());
    for (old, new) in before.iter().zip(world.rows()) {
        assert_eq!(old.secret, new.secret, "neither value nor version is new");
        assert_ne!(old.sealed.key_id, new.sealed.key_id);
    }
    world.all_open("rotated").await;
    // What was read before opens no more where the old key is not in memory.
    assert!(tampered(world.started().open(&before[0]).await));
}

#[tokio::test]
async fn one_workspace_is_rotated_alone() {
    let world = World::with_secrets(3).await;
    let before = world.rows();
    let report = world.vault.rotate_data_keys(DataScope::Workspace(WorkspaceId::from("w001"))).await.unwrap();
    assert_eq!((report.made, report.resealed, report.deleted), (1, 1, 1));
    let changed: Vec<_> = before.iter().zip(world.rows()).filter(|(a, b)| *a != b).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].0.secret.workspace_id.as_str(), "w001");
}

#[tokio::test]
async fn killed_after_any_step_it_is_swept_or_begun_again() {
    for scope in [DataScope::Sweep, DataScope::All] {
        for kill in 0.. {
            let world = World::with_secrets(3).await;
            let mut rotation = DataKeyRotation::new(&world.started(), DataScope::All);
            let mut steps = Vec::new();
            for _ in 0..kill {
                steps.extend(rotation.step().await.unwrap());
            }
            let ended = steps.len() < kill;
            drop(rotation);
            world.all_open(&format!("killed after {steps:?}")).await;
            world.started().rotate_data_keys(scope.clone()).await.unwrap();
            world.all_open(&format!("gone on after {steps:?}")).await;
            assert_eq!(world.store.tables().keys.len(), 3, "{steps:?}");
            if ended {
                assert!(steps.contains(&DataStep::Deleted(3)));
                break;
            }
        }
    }
}

#[tokio::test]
async fn errors_at_every_call_before_or_after_it_took_effect_do_no_harm() {
    for after in [false, true] {
        for call in 0.. {
            let World { directory, store, vault } = World::with_secrets(3).await;
            drop(vault);
            let store = Arc::new(Arc::into_inner(store).unwrap().failing(call, after));
            let keyring = Keyring::open_or_generate(directory.path(), true).unwrap();
            let world = World { vault: Vault::new(Arc::clone(&store), keyring), directory, store };
            let result = world.vault.rotate_data_keys(DataScope::All).await;
            world.store.mend();
            world.all_open(&format!("call {call} failed, {after}")).await;
            world.started().rotate_data_keys(DataScope::Sweep).await.unwrap();
            world.all_open(&format!("call {call} failed, {after}, and swept")).await;
            assert_eq!(world.store.tables().keys.len(), 3);
            if result.is_ok() {
                assert!(call > 10, "{call}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_secret_that_does_not_open_stays_and_hinders_no_other() {
    let world = World::with_secrets(70).await;
    let broken = {
        let mut tables = world.store.tables();
        let row = tables.secrets.values_mut().next().unwrap();
        row.sealed.record[30] ^= 1;
        row.clone()
    };
    let report = world.vault.rotate_data_keys(DataScope::All).await.unwrap();
    assert_eq!((report.resealed, report.deleted), (69, 69));
    assert_eq!(report.unopened, [broken.secret.secret_id.to_string()]);
    assert_eq!(world.row(&broken.secret.secret_id), broken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn updates_meanwhile_are_neither_lost_nor_undone() {
    let world = Arc::new(World::with_secrets(8).await);
    let rotation = {
        let vault = world.started();
        tokio::spawn(async move {
            for _ in 0..10 {
                vault.rotate_kek(KekMode::Whole).await.unwrap();
                vault.rotate_data_keys(DataScope::All).await.unwrap();
            }
        })
    };
    let updates = (0..8).map(|number| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let id = world.rows()[number].secret.secret_id.clone();
            for _ in 0..50 {
                let row = world.row(&id);
                let secret = &row.secret;
                let new = value(secret.workspace_id.as_str(), &secret.name, secret.version + 1);
                match update(&world.vault, &world.store, &row, new.as_bytes()).await {
                    Ok(()) => {}
                    // Its key was rotated out between sealing and writing: refused whole.
                    Err(VaultError::Store(StoreError::Conflict(_))) => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for update in updates.collect::<Vec<_>>() {
        update.await.unwrap();
    }
    rotation.await.unwrap();
    assert!(world.rows().iter().any(|row| row.secret.version > 10));
    world.all_open("after all").await;
    world.started().rotate_data_keys(DataScope::Sweep).await.unwrap();
    world.all_open("swept").await;
    assert_eq!(world.store.tables().keys.len(), 8);
}
