//! Redirects, by hand: where they may lead, and how long a blob's is remembered.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};

use super::guard::Guard;
use crate::oci::Digest;

/// Most redirects followed for one request.
pub(super) const MAX_HOPS: u32 = 5;
/// How long a redirect is remembered that does not say when it ends.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Longest time any redirect is remembered: the registry should notice now and then who reads.
const MAX_LIFE: Duration = Duration::from_secs(600);
/// Signed links end this long before they say, for clocks that differ and transfers that start late.
const MARGIN: Duration = Duration::from_secs(30);
/// Longest `Location` taken; presigned links have some 2 KiB.
const MAX_LOCATION: usize = 16 << 10;

/// The target of a redirect from `from`.
///
/// # Errors
/// Why it is not followed, without secrets.
pub(super) fn target(from: &Url, headers: &HeaderMap, guard: &Guard) -> Result<Url, String> {
    let location = headers
        .get(LOCATION)
        .filter(|value| value.len() <= MAX_LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or("redirects without a usable Location")?;
    let mut url = from.join(location).map_err(|_| "redirects to a malformed Location")?;
    url.set_fragment(None);
    guard.check(from, &url)?;
    Ok(url)
}

/// Where blobs were last found. Holds as many entries as an image has layers.
#[derive(Debug, Default)]
pub(super) struct RedirectCache(Mutex<HashMap<Digest, Cached>>);

struct Cached {
    url: Url,
    until: Instant,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("url", &super::safe_url::SafeUrl(&self.url)).finish_non_exhaustive()
    }
}

impl RedirectCache {
    pub(super) fn get(&self, blob: &Digest) -> Option<Url> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(blob).filter(|cached| cached.until > Instant::now()).map(|cached| cached.url.clone())
    }

    pub(super) fn remember(&self, blob: Digest, url: Url) {
        let Some(until) = life(&url, SystemTime::now()).and_then(|life| Instant::now().checked_add(life))
        else {
            return;
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(blob, Cached { url, until });
    }

    pub(super) fn forget(&self, blob: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(blob);
    }
}

/// How long a link may be used again; `None` = not at all.
fn life(url: &Url, now: SystemTime) -> Option<Duration> {
    let mut life = DEFAULT_LIFE;
    for (name, value) in url.query_pairs() {
        let Ok(number) = value.parse::<u64>() else { continue };
        if name.eq_ignore_ascii_case("X-Amz-Expires") || name.eq_ignore_ascii_case("X-Goog-Expires") {
            // Counted from the signing, which was just now.
            life = Duration::from_secs(number).saturating_sub(MARGIN);
        } else if name.eq_ignore_ascii_case("Expires") {
            let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            life = Duration::from_secs(number).saturating_sub(since_epoch).saturating_sub(MARGIN);
        }
    }
    (!life.is_zero()).then_some(life.min(MAX_LIFE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (query, want) in [
            ("", Some(60)),
            ("x=1", Some(60)),
            ("X-Amz-Expires=300&X-Amz-Date=20260101T000000Z", Some(270)),
            ("x-amz-expires=20", None),
            ("X-Amz-Expires=604800", Some(600)),
            ("X-Amz-Expires=never", Some(60)),
            ("Expires=1000100&Signature=s", Some(70)),
            ("Expires=999999", None),
            ("X-Goog-Expires=130", Some(100)),
        ] {
            let url = Url::parse(&format!("https://b.example/x?{query}")).unwrap();
            assert_eq!(life(&url, now), want.map(Duration::from_secs), "{query}");
        }
    }

    #[test]
    fn targets() {
        let from = Url::parse("https://r.example/v2/a/blobs/x").unwrap();
        let guard = Guard::new(&from, Vec::new());
        let go = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            target(&from, &headers, &guard).map(|url| url.to_string())
        };
        assert_eq!(go("/y?z=1#f").as_deref(), Ok("https://r.example/y?z=1"));
        assert_eq!(go("//cdn.example/y").as_deref(), Ok("https://cdn.example/y"));
        assert_eq!(go("https://cdn.example/y").as_deref(), Ok("https://cdn.example/y"));
        for bad in ["http://r.example/y", "file:///etc/shadow", "https://127.0.0.1/", "https://[", "data:,x"]
        {
            assert!(go(bad).is_err(), "{bad}");
        }
        assert!(go(&format!("/{}", "x".repeat(MAX_LOCATION))).is_err());
        assert!(target(&from, &HeaderMap::new(), &guard).is_err());
    }

    #[test]
    fn remembers_and_forgets() {
        let cache = RedirectCache::default();
        let blob = Digest::of(b"x");
        let url = Url::parse("https://b.example/x?X-Amz-Expires=300&X-Amz-Signature=s3cret").unwrap();
        cache.remember(blob, url.clone());
        assert_eq!(cache.get(&blob), Some(url));
        assert!(!format!("{cache:?}").contains("s3cret"));
        cache.forget(&blob);
        assert_eq!(cache.get(&blob), None);
        cache.remember(blob, Url::parse("https://b.example/x?X-Amz-Expires=1").unwrap());
        assert_eq!(cache.get(&blob), None, "ends too soon to be of use");
    }
}
