//! Answers that are kept, by what the plugin says they are good for. Expiry is measured on the monotonic clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::MAX_LIFE;
use super::response::{CacheKeyType, Response};

/// How long an answer is kept that does not say. The kubelet leaves this to its administrator; tokens of all clouds live longer.
const DEFAULT_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long an answer may be used that must not be kept: what the kubelet would use it for, one pull, takes about that long.
/// Also the least that a registry token lives.
const UNKEPT_LIFE: Duration = Duration::from_secs(60);

/// For how much of its life an answer is given again. Whoever asks renews after 70 to 80 % of what is left; what is answered then
/// must be a new one.
const GIVEN_AGAIN: f64 = 0.7;

/// Most answers that are kept: a mount has one image and few mirrors.
const MAX_KEPT: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Image(String),
    Registry(String),
    Global,
}

/// An answer and its remaining life.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) response: Arc<Response>,
    pub(super) remaining: Duration,
}

/// Kept answers.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
}

#[derive(Debug)]
struct Kept {
    response: Arc<Response>,
    stale: Instant,
    expires: Instant,
}

/// In the kubelet's order.
fn keys(image: &str, registry: &str) -> [Key; 3] {
    [Key::Image(image.to_owned()), Key::Registry(registry.to_owned()), Key::Global]
}

impl Cache {
    pub(super) fn get(&self, image: &str, registry: &str, now: Instant) -> Option<Found> {
        keys(image, registry).iter().find_map(|key| {
            let kept = self.kept.get(key).filter(|kept| now < kept.stale)?;
            Some(Found { response: kept.response.clone(), remaining: kept.expires.duration_since(now) })
        })
    }

    /// Keeps what was answered to a question of the moment `asked`, if it may be kept.
    pub(super) fn put(&mut self, response: Response, image: &str, registry: &str, asked: Instant) -> Found {
        let response = Arc::new(response);
        let life = response.cache_duration.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
        if life.is_zero() {
            return Found { response, remaining: UNKEPT_LIFE };
        }
        let key = match response.cache_key_type {
            CacheKeyType::Image => Key::Image(image.to_owned()),
            CacheKeyType::Registry => Key::Registry(registry.to_owned()),
            CacheKeyType::Global => Key::Global,
        };
        self.kept.retain(|_, kept| kept.stale > asked);
        if self.kept.len() >= MAX_KEPT {
            let first = self.kept.iter().min_by_key(|(_, kept)| kept.stale).map(|(key, _)| key.clone());
            first.and_then(|key| self.kept.remove(&key));
        }
        let stale = asked + life.mul_f64(GIVEN_AGAIN);
        self.kept.insert(key, Kept { response: response.clone(), stale, expires: asked + life });
        Found { response, remaining: life }
    }

    /// Forgets what was good for an image.
    pub(super) fn forget(&mut self, image: &str, registry: &str) {
        for key in keys(image, registry) {
            self.kept.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(kind: &str, duration: &str) -> Response {
        Response::parse(
            format!(
                r#"{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"{kind}","cacheDuration":{duration}}}"#
            )
            .as_bytes(),
        )
        .expect("a response")
    }

    #[test]
    fn kept_for_what_it_is_good_for() {
        let seconds = Duration::from_secs;
        let asked = Instant::now();
        let asks = [("r.io/a", "r.io"), ("r.io/b", "r.io"), ("s.io/a", "s.io")];
        for (kind, found) in [("Image", 1), ("Registry", 2), ("Global", 3)] {
            let mut cache = Cache::default();
            cache.put(response(kind, "\"1m40s\""), asks[0].0, asks[0].1, asked);
            for (n, (image, registry)) in asks.into_iter().enumerate() {
                let now = asked + seconds(30);
                let remaining = cache.get(image, registry, now).map(|found| found.remaining);
                assert_eq!(remaining, (n < found).then_some(seconds(70)), "{kind} {image}");
                assert!(cache.get(image, registry, asked + seconds(71)).is_none(), "{kind} {image}");
            }
            cache.forget(asks[0].0, asks[0].1);
            assert!(cache.get(asks[0].0, asks[0].1, asked).is_none(), "{kind}");
        }
    }

    #[test]
    fn lives() {
        let asked = Instant::now();
        let table = [
            ("null", DEFAULT_LIFE, true),
            ("\"0s\"", UNKEPT_LIFE, false),
            ("\"-1h\"", UNKEPT_LIFE, false),
            ("\"87600h\"", MAX_LIFE, true),
            ("\"1ms\"", Duration::from_millis(1), true),
        ];
        for (text, life, kept) in table {
            let mut cache = Cache::default();
            assert_eq!(cache.put(response("Global", text), "r/i", "r", asked).remaining, life, "{text}");
            assert_eq!(cache.get("r/i", "r", asked).is_some(), kept, "{text}");
        }
    }

    #[test]
    fn bounded() {
        let asked = Instant::now();
        let mut cache = Cache::default();
        for n in 0..10 * MAX_KEPT {
            cache.put(response("Image", &format!("\"{}s\"", n + 1)), &format!("r/{n}"), "r", asked);
        }
        assert_eq!(cache.kept.len(), MAX_KEPT);
        assert!(cache.get(&format!("r/{}", 10 * MAX_KEPT - 1), "r", asked).is_some());
        assert!(cache.get("r/0", "r", asked).is_none());
    }
}
