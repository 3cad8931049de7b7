//! A password is changed and everything made of the old one revoked, while many read. Nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use clipfs::credentials::Credential;
use clipfs::oci::{Descriptor, Digest};
use clipfs::registry::RegistryError;
use fixtures::content::Content;
use fixtures::image::Blob;
use fixtures::registry::{Auth, Bearer, Registry, RegistryConfig};

use crate::support::{Source, login, open, planted};

const SIZE: u64 = 1 << 20;
const PIECE: u64 = 64 << 10;
const READERS: u64 = 20;
const ROTATIONS: u64 = 5;

async fn rotate_under_readers(auth: Auth, make: impl Fn(&Registry, &str) -> Credential) {
    let registry = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() });
    let layer: Bytes = Content::bytes(5, usize::try_from(SIZE).unwrap()).into();
    let blob = Descriptor { media_type: String::new(), digest: Digest::of(&layer), size: SIZE };
    registry.put_blob("app", &blob.digest.to_string(), Blob::from(layer.clone()));
    let provider = Source::new(&registry.addr().to_string(), make(&registry, &planted("rotated-0")));
    let source = open(&registry.reference("app", "1"), provider.clone()).await;
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let (source, blob, layer) = (source.clone(), blob.clone(), layer.clone());
            let (done, reads) = (Arc::clone(&done), Arc::clone(&reads));
            tokio::spawn(async move {
                let mut at = n * PIECE % SIZE;
                while !done.load(SeqCst) {
                    let bytes = source.blob_range(&blob, at..at + PIECE).await?.collect().await?;
                    let from = usize::try_from(at).unwrap();
                    assert!(bytes == layer[from..from + bytes.len()]);
                    reads.fetch_add(1, SeqCst);
                    at = (at + PIECE) % SIZE;
                }
                Ok::<_, RegistryError>(())
            })
        })
        .collect();
    let on = async |by: u64| {
        let until = reads.load(SeqCst) + by;
        while reads.load(SeqCst) < until && !readers.iter().any(tokio::task::JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    on(200).await;
    for n in 1..=ROTATIONS {
        // The source first, as whoever rotates a secret does it: the old one still serves until it is refused.
        let password = planted(&format!("rotated-{n}"));
        provider.change(make(&registry, &password));
        registry.set_password("u", &password);
        registry.revoke_all();
        on(200).await;
    }
    done.store(true, SeqCst);
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    let asked = u64::try_from(provider.asked()).unwrap();
    assert!((ROTATIONS + 1..=2 * ROTATIONS + 1).contains(&asked), "asked {asked} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic() {
    rotate_under_readers(Auth::basic("u", &planted("rotated-0")), |_, password| login("u", password)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens() {
    let bearer = Bearer { endpoint: Some([127, 0, 0, 2].into()), ..Bearer::new("u", &planted("rotated-0")) };
    rotate_under_readers(Auth::Bearer(bearer), |_, password| login("u", password)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_tokens() {
    let make = |registry: &Registry, _: &str| Credential::RefreshToken(registry.refresh_token("u").into());
    rotate_under_readers(Auth::bearer("u", &planted("rotated-0")), make).await;
}

/// The source is late: reads are refused until it has the new secret, and very soon no longer.
#[tokio::test]
async fn a_late_source_is_noticed_soon() {
    let (old, new) = (planted("late-old"), planted("late-new"));
    let registry =
        Registry::start(RegistryConfig { auth: Auth::bearer("u", &old), ..RegistryConfig::default() });
    let layer = Content::bytes(5, 1000);
    let blob = Descriptor { media_type: String::new(), digest: Digest::of(&layer), size: 1000 };
    registry.put_blob("app", &blob.digest.to_string(), Blob::from(Bytes::from(layer)));
    let provider = Source::new(&registry.addr().to_string(), login("u", &old));
    let source = open(&registry.reference("app", "1"), provider.clone()).await;
    source.blob(&blob).await.unwrap();
    registry.set_password("u", &new);
    registry.revoke_all();
    for _ in 0..3 {
        let error = source.blob(&blob).await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("pl4nted-"), "{error}");
    }
    provider.change(login("u", &new));
    // The source is looked at four times a second; the hold would last 30 s.
    let started = std::time::Instant::now();
    while let Err(error) = source.blob(&blob).await {
        assert!(started.elapsed() < Duration::from_secs(15), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
