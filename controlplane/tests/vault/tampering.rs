//! Rows that were changed, moved, exchanged or put back.

use controlplane::credentials::CredentialsError;
use controlplane::model::{Image, ImageCredentialSource, ImageId, Time};
use controlplane::store::{Audit as _, DataKeys as _, Secrets as _};
use controlplane::vault::VaultError;
use controlplane::vault::keyring::Keyring;

use crate::bench::{Bench, change};

cases!(
    moved_rows_do_not_open,
    older_records_and_rows_do_not_open,
    exchanged_records_do_not_open,
    changed_bytes_do_not_open,
    deleted_rows_put_back_do_not_open,
    without_its_kek_nothing_opens,
    images_get_no_credentials_from_a_tampered_row,
);

async fn moved_rows_do_not_open(bench: Bench) {
    let (a, b) = (bench.workspace("a").await, bench.workspace("b").await);
    let mut moved = bench.plant(&a, "ONE", "r.example.com").await.secret;
    let kept = bench.plant(&b, "TWO", "").await.secret;
    let id = moved.secret_id.to_string();
    bench.opens(&moved, "before").await;
    bench.sql("UPDATE secret SET registry = 'evil.example' WHERE secret_id = $1", &[&id]).await;
    assert!(bench.is_tampered(&moved).await, "another registry");
    bench.sql("UPDATE secret SET registry = '' WHERE secret_id = $1", &[&id]).await;
    assert!(bench.is_tampered(&moved).await, "no registry");
    bench
        .sql("UPDATE secret SET registry = 'r.example.com', name = 'OTHER' WHERE secret_id = $1", &[&id])
        .await;
    assert!(bench.is_tampered(&moved).await, "another name");
    bench.sql("UPDATE secret SET name = 'ONE' WHERE secret_id = $1", &[&id]).await;
    bench.opens(&moved, "put right").await;
    bench.sql("UPDATE secret SET workspace_id = $2 WHERE secret_id = $1", &[&id, b.as_str()]).await;
    moved.workspace_id = b.clone();
    assert!(bench.is_tampered(&moved).await, "another workspace");
    // And with its data key.
    bench.sql("UPDATE data_key SET current = 0 WHERE workspace_id = $1", &[b.as_str()]).await;
    bench
        .sql("UPDATE data_key SET workspace_id = $2 WHERE workspace_id = $1", &[a.as_str(), b.as_str()])
        .await;
    assert!(bench.is_tampered(&moved).await, "another workspace, with its key");
    bench.opens(&kept, "what was not touched").await;
}

async fn older_records_and_rows_do_not_open(bench: Bench) {
    let w = bench.workspace("w").await;
    let first = bench.plant(&w, "ONE", "").await;
    let id = first.secret.secret_id.to_string();
    bench.ddl("CREATE TABLE kept AS SELECT * FROM secret").await;
    let second = bench.update(&first).await.unwrap();
    bench.opens(&second.secret, "updated").await;
    bench.ddl("CREATE TABLE newer AS SELECT * FROM secret").await;
    bench.sql("UPDATE secret SET record = (SELECT record FROM kept) WHERE secret_id = $1", &[&id]).await;
    assert!(bench.is_tampered(&second.secret).await, "the older record");
    bench
        .sql("UPDATE secret SET version = 1, record = (SELECT record FROM kept) WHERE secret_id = $1", &[&id])
        .await;
    assert!(bench.is_tampered(&second.secret).await, "the older row");
    bench.sql("UPDATE secret_version SET version = 3 WHERE secret_id = $1", &[&id]).await;
    bench.sql("UPDATE secret SET version = 3 WHERE secret_id = $1", &[&id]).await;
    assert!(bench.is_tampered(&second.secret).await, "a made-up version");
    bench.sql("UPDATE secret_version SET version = 2 WHERE secret_id = $1", &[&id]).await;
    bench
        .sql(
            "UPDATE secret SET version = 2, record = (SELECT record FROM newer) WHERE secret_id = $1",
            &[&id],
        )
        .await;
    bench.opens(&second.secret, "put right").await;
}

async fn exchanged_records_do_not_open(bench: Bench) {
    let w = bench.workspace("w").await;
    let (one, two) = (bench.plant(&w, "ONE", "").await.secret, bench.plant(&w, "TWO", "").await.secret);
    bench.ddl("CREATE TABLE kept AS SELECT * FROM secret").await;
    bench
        .sql(
            "UPDATE secret SET record = (SELECT record FROM kept WHERE kept.secret_id <> secret.secret_id)",
            &[],
        )
        .await;
    assert!(bench.is_tampered(&one).await && bench.is_tampered(&two).await, "records");
    bench
        .sql(
            "UPDATE secret SET record = (SELECT record FROM kept WHERE kept.secret_id = secret.secret_id)",
            &[],
        )
        .await;
    bench.opens(&one, "put right").await;
    // Names, through a third one because they are unique.
    for (from, to) in [("ONE", "3"), ("TWO", "ONE"), ("3", "TWO")] {
        bench.sql("UPDATE secret SET name = $2 WHERE name = $1", &[from, to]).await;
    }
    assert!(bench.is_tampered(&one).await && bench.is_tampered(&two).await, "names");
}

async fn changed_bytes_do_not_open(bench: Bench) {
    let w = bench.workspace("w").await;
    let secret = bench.plant(&w, "ONE", "").await.secret;
    let row = bench.row(&secret).await;
    for at in 0..row.sealed.record.len() {
        let mut sealed = row.sealed.clone();
        sealed.record[at] ^= 1;
        assert!(bench.store.reseal_secret(&bench.row(&secret).await, &sealed).await.unwrap());
        assert!(bench.is_tampered(&secret).await, "byte {at}");
    }
    assert!(bench.store.reseal_secret(&bench.row(&secret).await, &row.sealed).await.unwrap());
    bench.opens(&secret, "put right").await;
    // The data key.
    let mut key = bench.store.current_data_key(&w).await.unwrap().unwrap();
    let kek_id = key.kek_id.clone();
    key.wrapped[30] ^= 1;
    assert!(bench.store.rewrap_data_key(&key.key_id, &kek_id, &kek_id, &key.wrapped).await.unwrap());
    let error = bench.started().open(&row).await.unwrap_err();
    assert!(matches!(error, VaultError::Tampered(_)), "{error}");
}

async fn deleted_rows_put_back_do_not_open(bench: Bench) {
    let w = bench.workspace("w").await;
    let secret = bench.plant(&w, "ONE", "").await.secret;
    bench.ddl("CREATE TABLE kept AS SELECT * FROM secret").await;
    bench.store.delete_secret(&change(&w), &secret.secret_id).await.unwrap();
    bench.sql("INSERT INTO secret SELECT * FROM kept", &[]).await;
    assert!(bench.is_tampered(&secret).await);
}

async fn without_its_kek_nothing_opens(bench: Bench) {
    let w = bench.workspace("w").await;
    let secret = bench.plant(&w, "ONE", "").await.secret;
    let row = bench.row(&secret).await;
    let kek_id = bench.started().keyring().keks().active().kek_id.clone();
    let kept = std::fs::read(bench.key_file()).unwrap();
    std::fs::remove_file(bench.key_file()).unwrap();
    let has = bench.store.has_data_keys().await.unwrap();
    let error = Keyring::open_or_generate(bench.path(), has).unwrap_err();
    assert!(matches!(error, VaultError::KeyFile(_)) && error.exit_code() == 78, "{error}");
    let other = tempfile::tempdir().unwrap();
    let wrong = Keyring::open_or_generate(other.path(), false).unwrap();
    let vault = controlplane::vault::Vault::new(bench.store.clone(), wrong);
    for error in [vault.open(&row).await.unwrap_err(), vault.seal(&secret, b"v").await.unwrap_err()] {
        assert!(matches!(&error, VaultError::NoKek(id) if *id == kek_id), "{error}");
    }
    std::fs::write(bench.key_file(), kept).unwrap();
    std::fs::set_permissions(bench.key_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    bench.opens(&secret, "put back").await;
}

async fn images_get_no_credentials_from_a_tampered_row(bench: Bench) {
    const BASIC: &str = r#"{"credentials":{"PASSWORD":"pl4nted-p","USERNAME":"u"},"registry":"r.example.com","type":"basic"}"#;
    let w = bench.workspace("w").await;
    let row = bench.put(&w, "oci-registry-r-example-com", "r.example.com", BASIC.as_bytes()).await;
    let image = Image {
        image_id: ImageId::from("app"),
        workspace_id: w.clone(),
        base_image: "r.example.com/app:1".to_owned(),
        registry: "r.example.com".to_owned(),
        digest: String::new(),
        platform: String::new(),
        credentials: ImageCredentialSource::Secret {
            name: row.secret.name.clone(),
            id: row.secret.secret_id.clone(),
        },
        index_digest: String::new(),
        image_bytes: 0,
        index_bytes: 0,
        files: 0,
        create_time: Time(0),
        update_time: Time(0),
    };
    bench.credentials().check(&image).await.unwrap();
    bench.sql("UPDATE secret SET version = 7", &[]).await;
    let error = bench.credentials().of_image(&image).await.unwrap_err();
    assert!(matches!(error, CredentialsError::Vault(VaultError::Tampered(_))), "{error}");
    let audit = bench.store.audited(Some(&w), 10).await.unwrap();
    let noted = audit.iter().find(|(_, _, action, ..)| action == "OpenSecret").unwrap();
    assert!(noted.4.starts_with("DATA_LOSS") && noted.3 == row.secret.secret_id.as_str(), "{noted:?}");
    bench.store.delete_secret(&change(&w), &row.secret.secret_id).await.unwrap();
    let error = bench.credentials().of_image(&image).await.unwrap_err();
    assert!(matches!(&error, CredentialsError::Unusable(why) if why.contains("was deleted")), "{error}");
}
