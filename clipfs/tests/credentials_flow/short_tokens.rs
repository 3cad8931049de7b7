//! Tokens that live two seconds, whatever the token server says, under fifty readers of a large file, for a minute.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clipfs::credentials::Credential;
use clipfs::oci::{Descriptor, Digest};
use fixtures::content::Content;
use fixtures::image::Blob;
use fixtures::registry::{Auth, Bearer, Kind, Registry, RegistryConfig, Shaping};
use fixtures::rng::SplitMix64;
use serde_json::{Value, json};

use crate::support::{Source, login, open, planted};

const LENGTH: Duration = Duration::from_secs(60);
const LIFE: Duration = Duration::from_secs(2);
const READERS: u64 = 50;
const SIZE: usize = 64 << 20;
const PIECE: u64 = 128 << 10;

/// Reads for [`LENGTH`]; the token calls must be as many as tokens ended under a reader, exactly.
async fn read_on(expires_in: Option<Value>, refresh: bool) {
    let password = planted("short-tokens");
    let bearer = Bearer {
        lifetime: LIFE,
        endpoint: Some([127, 0, 0, 2].into()),
        expires_in: expires_in.clone(),
        ..Bearer::new("u", &password)
    };
    let registry = Registry::start(RegistryConfig {
        auth: Auth::Bearer(bearer),
        // Fast enough for many requests in a life, slow enough that the file is not through before the time is.
        shaping: Shaping {
            rtt: Duration::from_millis(5),
            bandwidth: Some(24 << 20),
            connection_bandwidth: None,
        },
        ..RegistryConfig::default()
    });
    let layer: Bytes = Content::bytes(3, SIZE).into();
    let digest = Digest::of(&layer);
    registry.put_blob("app", &digest.to_string(), Blob::from(layer.clone()));
    let credential = match refresh {
        true => Credential::RefreshToken(registry.refresh_token("u").into()),
        false => login("u", &password),
    };
    let provider = Source::new(&registry.addr().to_string(), credential);
    let source = open(&registry.reference("app", "1"), provider.clone()).await;
    source.authenticate().await.unwrap();

    let started = Instant::now();
    let readers: Vec<_> = (0..READERS)
        .map(|n| {
            let (source, layer) = (source.clone(), layer.clone());
            let blob = Descriptor { media_type: String::new(), digest, size: u64::try_from(SIZE).unwrap() };
            tokio::spawn(async move {
                let mut rng = SplitMix64::new(n);
                let mut reads = 0_u64;
                while started.elapsed() < LENGTH {
                    let at = rng.below(blob.size / PIECE) * PIECE;
                    let bytes =
                        source.blob_range(&blob, at..at + PIECE).await.unwrap().collect().await.unwrap();
                    let at = usize::try_from(at).unwrap();
                    assert!(bytes == layer[at..at + bytes.len()], "wrong bytes at {at}");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    let elapsed = started.elapsed();

    // What a token presented after its end costs: one call, whoever and however many came with it.
    let log = registry.log();
    let ended: HashSet<_> = log
        .iter()
        .filter(|r| r.kind != Kind::Token && r.status == 401)
        .filter_map(|r| r.authorization().map(str::to_owned))
        .collect();
    let (issued, calls) = (registry.tokens_issued(), source.stats().token_requests);
    let ended = u64::try_from(ended.len()).unwrap();
    assert_eq!(issued, 1 + ended, "one token to begin with and one for each that ended; {expires_in:?}");
    assert_eq!(calls, issued, "no call was in vain");
    assert_eq!(provider.asked(), 1, "all tokens are made of one answer");
    let lives = u64::try_from(elapsed.as_millis() / LIFE.as_millis()).unwrap();
    assert!(ended <= lives, "{ended} tokens of 2 s ended within {elapsed:?}");
    assert!(reads > READERS && ended >= 20, "{reads} reads, {ended} tokens ended: it proves nothing");
    let replayed = log.iter().filter(|r| r.status == 401).count();
    println_figures(&format!(
        "expires_in {expires_in:?}: {reads} reads in {elapsed:?}, {issued} tokens, {replayed} answers 401"
    ));
}

/// For whoever wants the figures: `cargo test … -- --nocapture`.
fn println_figures(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// All at once: they wait more than they work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_for_each_token_that_ends() {
    tokio::join!(
        read_on(Some(json!(2)), false),    // told, and below the least that is believed
        read_on(Some(Value::Null), true),  // not told
        read_on(Some(json!(3600)), false), // a lie
        read_on(Some(json!("2 seconds")), true)  // nonsense
    );
}
