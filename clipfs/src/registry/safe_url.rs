//! URLs as they may be shown: presigned links carry their secret in the query string.

use std::fmt;

use reqwest::Url;

/// Shows a URL without user, query and fragment.
pub(super) struct SafeUrl<'a>(pub(super) &'a Url);

impl fmt::Display for SafeUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0;
        write!(f, "{}://{}{}", url.scheme(), authority(url), url.path())?;
        if url.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for SafeUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host[:port]` for messages and for what is remembered by host.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether credentials for one may be sent to the other: scheme, host and port agree.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host() == b.host() && a.port_or_known_default() == b.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_secrets() {
        let url = Url::parse("https://user:pw@bucket.example:444/a/b?X-Amz-Signature=s3cret#frag").unwrap();
        assert_eq!(SafeUrl(&url).to_string(), "https://bucket.example:444/a/b?…");
        assert_eq!(format!("{:?}", SafeUrl(&url)), SafeUrl(&url).to_string());
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        for (a, b) in
            [("https://a/", "http://a/"), ("https://a/", "https://a:444/"), ("https://a/", "https://b.a/")]
        {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}
