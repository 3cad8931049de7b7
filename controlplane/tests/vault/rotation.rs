//! New keys, online and killed.

use std::sync::Arc;

use controlplane::model::Secret;
use controlplane::store::{DataKeys as _, StoreError};
use controlplane::vault::VaultError;
use controlplane::vault::rotation::{DataKeyRotation, DataScope, KekMode, KekRotation};

use crate::bench::Bench;

cases!(
    a_kek_rotation_killed_at_every_step_resumes,
    a_data_key_rotation_killed_at_every_step_resumes,
    rotations_while_secrets_are_updated_lose_nothing,
    no_file_of_the_database_holds_a_value_or_a_key,
);

async fn planted(bench: &Bench, workspaces: u32) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for number in 0..workspaces {
        let workspace = bench.workspace(&format!("w{number}")).await;
        for name in ["ONE", "TWO"] {
            secrets.push(bench.plant(&workspace, name, "").await.secret);
        }
    }
    secrets
}

async fn all_open(bench: &Bench, secrets: &[Secret], why: &str) {
    for secret in secrets {
        bench.opens(secret, why).await;
    }
}

/// One database is enough: a rotation that ended is followed by the next, which is killed one step later.
async fn a_kek_rotation_killed_at_every_step_resumes(bench: Bench) {
    let secrets = planted(&bench, 3).await;
    for kill in 0.. {
        let mut rotation = KekRotation::new(&bench.started(), KekMode::Whole);
        let mut steps = Vec::new();
        for _ in 0..kill {
            steps.extend(rotation.step().await.unwrap());
        }
        let ended = steps.len() < kill;
        drop(rotation);
        all_open(&bench, &secrets, &format!("killed after {steps:?}")).await;
        let report = bench.started().rotate_kek(KekMode::Whole).await.unwrap();
        all_open(&bench, &secrets, &format!("gone on after {steps:?}")).await;
        assert!(bench.store.data_keys_not_wrapped_by(&report.kek_id, 9).await.unwrap().is_empty());
        assert_eq!(bench.started().keyring().keks().iter().count(), 1, "{steps:?}");
        if ended {
            return;
        }
    }
}

async fn a_data_key_rotation_killed_at_every_step_resumes(bench: Bench) {
    let secrets = planted(&bench, 3).await;
    for kill in 0.. {
        let mut rotation = DataKeyRotation::new(&bench.started(), DataScope::All);
        let mut steps = Vec::new();
        for _ in 0..kill {
            steps.extend(rotation.step().await.unwrap());
        }
        let ended = steps.len() < kill;
        drop(rotation);
        all_open(&bench, &secrets, &format!("killed after {steps:?}")).await;
        bench.started().rotate_data_keys(DataScope::Sweep).await.unwrap();
        all_open(&bench, &secrets, &format!("swept after {steps:?}")).await;
        assert_eq!(bench.store.data_keys_not_wrapped_by("", 99).await.unwrap().len(), 3, "{steps:?}");
        assert!(bench.store.secrets_under_old_keys(9).await.unwrap().is_empty(), "{steps:?}");
        if ended {
            return;
        }
    }
}

async fn rotations_while_secrets_are_updated_lose_nothing(bench: Bench) {
    let bench = Arc::new(bench);
    let secrets = planted(&bench, 2).await;
    let rotation = {
        let vault = bench.started();
        tokio::spawn(async move {
            for _ in 0..5 {
                vault.rotate_kek(KekMode::Whole).await.unwrap();
                vault.rotate_data_keys(DataScope::All).await.unwrap();
            }
        })
    };
    let updates: Vec<_> = secrets
        .iter()
        .cloned()
        .map(|secret| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let mut done = 0;
                while done < 15 {
                    let row = bench.row(&secret).await;
                    match bench.update(&row).await {
                        Ok(_) => done += 1,
                        // Its key was rotated out and deleted between sealing and writing: refused whole.
                        Err(VaultError::Store(StoreError::Conflict(_) | StoreError::Database(_))) => {}
                        Err(error) => panic!("{error}"),
                    }
                    bench.opens(&secret, "meanwhile").await;
                }
            })
        })
        .collect();
    for update in updates {
        update.await.unwrap();
    }
    rotation.await.unwrap();
    for secret in &secrets {
        assert_eq!(bench.row(secret).await.secret.version, 16);
    }
    all_open(&bench, &secrets, "after all").await;
    bench.started().rotate_data_keys(DataScope::Sweep).await.unwrap();
    all_open(&bench, &secrets, "swept").await;
    assert_eq!(bench.store.data_keys_not_wrapped_by("", 99).await.unwrap().len(), 2);
}

async fn no_file_of_the_database_holds_a_value_or_a_key(bench: Bench) {
    let secrets = planted(&bench, 2).await;
    let row = bench.row(&secrets[0]).await;
    bench.update(&row).await.unwrap();
    let kek = *bench.started().keyring().keks().active().key.expose();
    bench.started().rotate_kek(KekMode::KeepOld).await.unwrap();
    bench.started().rotate_data_keys(DataScope::All).await.unwrap();
    // What is swept has the values that it should have.
    all_open(&bench, &secrets, "before the sweep").await;
    // Found where the rest of the row is found: else this looks at the wrong place.
    let (id, mut seen) = (secrets[0].secret_id.as_str().as_bytes(), false);
    let directory = match bench.url.strip_prefix("sqlite://") {
        Some(_) => bench.path().to_owned(),
        None => fixtures::postgres::Postgres::shared().socket_dir().to_owned(),
    };
    let mut directories = vec![directory];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.is_symlink() {
                directories.push(path);
                continue;
            }
            // Sockets do not open; the key file is where keys are.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            assert!(fixtures::secret::find(&bytes).is_none(), "{}", path.display());
            if path != bench.key_file() {
                assert!(!bytes.windows(kek.len()).any(|window| window == kek), "{}", path.display());
                seen |= bytes.windows(id.len()).any(|window| window == id);
            }
        }
    }
    assert!(seen);
}
