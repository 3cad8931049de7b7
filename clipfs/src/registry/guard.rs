//! Where a registry may send us: redirects and realms must not lead into private networks.
//!
//! Names are checked inside the resolver of the HTTP client, so that what is checked is what is connected to.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use super::reach::{Reach, is_global};
use super::safe_url::SafeUrl;
use crate::oci::reference::is_loopback_host;

/// Looks names up; tests put their own in.
pub(super) trait Lookup: Send + Sync + std::fmt::Debug {
    /// All addresses of a name.
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;
}

/// The system's resolver.
#[derive(Debug)]
pub(super) struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|addr| addr.ip()).collect()) })
    }
}

/// What one registry (or mirror) may lead to.
#[derive(Debug)]
pub(super) struct Guard {
    /// Its own host: resolves to whatever it likes, also privately.
    own_host: String,
    /// It runs on this machine: then its redirects and realms may too.
    own_loopback: bool,
    /// The operator spoke to it over plain http although it is not on this machine.
    plain_http: bool,
    /// Further hosts the operator lets resolve privately.
    allowed: Vec<String>,
    /// Where its own host may be.
    reach: Reach,
}

/// A name resolved to addresses that nobody but the operator may name.
#[derive(Debug, thiserror::Error)]
#[error("{host} resolves to {address}")]
pub(super) struct ForbiddenAddress {
    host: String,
    address: Shown,
}

/// An address, for those who may know it: what a name stands for inside is no business of who names registries for us.
#[derive(Debug, thiserror::Error)]
enum Shown {
    #[error("the private address {0}")]
    To(IpAddr),
    #[error("a private address")]
    Hidden,
}

impl Guard {
    pub(super) fn new(base: &Url, allowed: Vec<String>) -> Self {
        let own_host = bare_host(base);
        let own_loopback = is_loopback_host(&own_host);
        let plain_http = base.scheme() == "http" && !own_loopback;
        Self { plain_http, own_loopback, own_host, allowed, reach: Reach::Anywhere }
    }

    /// The same for a host that the operator has not named.
    pub(super) fn within(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    fn permits(&self, host: &str, ip: IpAddr) -> bool {
        (host.eq_ignore_ascii_case(&self.own_host) && self.reach.includes(ip))
            || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
            || (self.own_loopback && ip.to_canonical().is_loopback() && self.reach.includes(ip))
            || is_global(ip)
    }

    /// Checks the host itself where it is an address: those are connected to without being resolved.
    ///
    /// # Errors
    /// The reason.
    pub(super) fn check_own(&self, base: &Url) -> Result<(), String> {
        match literal(base) {
            Some(ip) if !self.permits(&self.own_host, ip) => {
                Err("refuses to go there: a private address".into())
            }
            _ => Ok(()),
        }
    }

    /// Whether the operator's word for plain http covers a host: the registry's own, and those that they named with it.
    fn may_be_plain(&self, host: &str) -> bool {
        self.plain_http
            && (host.eq_ignore_ascii_case(&self.own_host)
                || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)))
    }

    /// Checks a redirect target or realm named by an answer from `from`. Names are checked again when they resolve.
    ///
    /// # Errors
    /// The reason, without secrets.
    pub(super) fn check(&self, from: &Url, target: &Url) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("refuses to go to {}: {why}", SafeUrl(target)));
        match target.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return refuse("https must not lead to http"),
            "http" if is_loopback_host(&bare_host(target)) || self.may_be_plain(&bare_host(target)) => {}
            "http" => return refuse("plain http is allowed to the registry itself and on this machine only"),
            _ => return refuse("not a web address"),
        }
        if !target.username().is_empty() || target.password().is_some() {
            return refuse("it has a user name in it");
        }
        let host = bare_host(target);
        if target.host_str().is_none_or(str::is_empty) {
            return refuse("it has no host");
        }
        match literal(target) {
            Some(ip) if !self.permits(&host, ip) => refuse("a private address"),
            _ => Ok(()),
        }
    }
}

/// The address that a URL has in the place of a name.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
        Host::Domain(_) => None,
    }
}

/// Host without port and brackets.
fn bare_host(url: &Url) -> String {
    url.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// The resolver of a client: resolves, then drops what the guard does not permit.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    pub(super) guard: Arc<Guard>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (Arc::clone(&self.guard), Arc::clone(&self.lookup));
        Box::pin(async move {
            let host = name.as_str().trim_end_matches('.').to_owned();
            let found = if is_localhost(&host) {
                LOCALHOST.to_vec()
            } else {
                lookup.lookup(name.as_str().to_owned()).await?
            };
            let (permitted, refused): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|ip| guard.permits(&host, *ip));
            match (permitted.is_empty(), refused.first()) {
                (true, Some(_)) if guard.reach != Reach::Anywhere => {
                    Err(ForbiddenAddress { host, address: Shown::Hidden }.into())
                }
                (true, Some(address)) => Err(ForbiddenAddress { host, address: Shown::To(*address) }.into()),
                (true, None) => Err(std::io::Error::other("the name has no address").into()),
                _ => Ok(Box::new(permitted.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs),
            }
        })
    }
}

/// What `localhost` is, whatever a resolver says (RFC 6761, section 6.3): it is spoken to in plain http.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn is_localhost(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(s: &str) -> Url {
        Url::parse(s).unwrap()
    }

    #[test]
    fn targets() {
        let public = url("https://registry.example.com/v2/");
        let local = url("http://127.0.0.1:5000/v2/");
        let corp = url("http://10.0.0.5:5000/v2/");
        for (base, target, ok) in [
            (&public, "https://cdn.example.net/x?sig=1", true),
            (&public, "https://8.8.8.8/x", true),
            (&public, "http://cdn.example.net/x", false),
            (&public, "https://10.0.0.1/x", false),
            (&public, "https://169.254.169.254/latest/meta-data", false),
            (&public, "https://0x7f.1/x", false),
            (&public, "https://2130706433/x", false),
            (&public, "https://[::1]/x", false),
            (&public, "https://[::ffff:169.254.169.254]/x", false),
            (&public, "https://user@cdn.example.net/x", false),
            (&public, "file:///etc/passwd", false),
            (&public, "ftp://cdn.example.net/x", false),
            (&public, "https://minio.corp/x", true), // until it resolves
            (&local, "http://127.0.0.2:9000/x", true),
            (&local, "http://[::1]:9000/x", true),
            (&local, "http://localhost:9000/x", true),
            (&local, "https://cdn.example.net/x", true),
            (&local, "http://cdn.example.net/x", false),
            (&local, "http://169.254.169.254/x", false),
            (&local, "https://10.0.0.1/x", false),
            (&corp, "http://10.0.0.5:9000/x", true),
            (&corp, "http://10.0.0.6:9000/x", false),
            (&corp, "http://127.0.0.1/x", false),
            (&corp, "http://8.8.8.8/x", false),
            (&corp, "http://cdn.example.net/x", false),
            (&corp, "https://cdn.example.net/x", true),
            (&corp, "https://168.63.129.16/x", false),
        ] {
            let guard = Guard::new(base, Vec::new());
            assert_eq!(guard.check(base, &url(target)).is_ok(), ok, "{base} -> {target}");
        }
        let guard = Guard::new(&public, vec!["10.0.0.1".into()]);
        assert!(guard.check(&public, &url("https://10.0.0.1/x")).is_ok());
        let named = Guard::new(&corp, vec!["minio.corp".into()]);
        assert!(named.check(&corp, &url("http://minio.corp/x")).is_ok());
        assert!(named.check(&corp, &url("http://cdn.example.net/x")).is_err());
        let error = guard.check(&public, &url("http://x.example/p?token=s3cret")).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[derive(Debug)]
    struct Fixed(Vec<IpAddr>);

    impl Lookup for Fixed {
        fn lookup(&self, _: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
            let found = self.0.clone();
            Box::pin(async move { Ok(found) })
        }
    }

    #[tokio::test]
    async fn resolver_drops_private_addresses() {
        let resolve = async |host: &str, addresses: &[&str], allowed: &[&str]| {
            let guard =
                Guard::new(&url("https://r.example/"), allowed.iter().map(|s| (*s).to_owned()).collect());
            let lookup = Arc::new(Fixed(addresses.iter().map(|a| a.parse().unwrap()).collect()));
            let resolver = GuardedResolver { guard: Arc::new(guard), lookup };
            let found = resolver.resolve(host.parse().unwrap()).await;
            found
                .map(|a| a.map(|a| a.ip().to_string()).collect::<Vec<_>>())
                .map_err(|e| e.is::<ForbiddenAddress>())
        };
        assert_eq!(resolve("r.example", &["10.0.0.1"], &[]).await, Ok(vec!["10.0.0.1".to_owned()]));
        assert_eq!(resolve("x.example", &["10.0.0.1"], &[]).await, Err(true));
        assert_eq!(
            resolve("x.example", &["10.0.0.1"], &["X.example"]).await,
            Ok(vec!["10.0.0.1".to_owned()])
        );
        assert_eq!(
            resolve("x.example", &["127.0.0.1", "8.8.8.8"], &[]).await,
            Ok(vec!["8.8.8.8".to_owned()])
        );
        assert_eq!(resolve("x.example", &[], &[]).await, Err(false));
    }

    #[tokio::test]
    async fn localhost_is_this_machine_whatever_the_resolver_says() {
        for host in ["localhost", "LOCALHOST", "registry.localhost"] {
            let guard = Guard::new(&url(&format!("http://{host}:5000/")), Vec::new());
            let lookup = Arc::new(Fixed(vec!["203.0.113.7".parse().unwrap(), "8.8.8.8".parse().unwrap()]));
            let resolver = GuardedResolver { guard: Arc::new(guard), lookup };
            let found: Vec<_> = resolver.resolve(host.parse().unwrap()).await.unwrap().collect();
            assert!(
                found.len() == 2 && found.iter().all(|found| found.ip().is_loopback()),
                "{host}: {found:?}"
            );
        }
        assert!(!is_localhost("localhost.example") && !is_localhost("mylocalhost"));
    }

    /// Public when it is looked at, private when it is used.
    #[derive(Debug)]
    struct Rebinding(std::sync::atomic::AtomicUsize);

    impl Lookup for Rebinding {
        fn lookup(&self, _: String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
            let first = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            let address = if first { IpAddr::from([8, 8, 8, 8]) } else { IpAddr::from([169, 254, 169, 254]) };
            Box::pin(async move { Ok(vec![address]) })
        }
    }

    #[tokio::test]
    async fn what_is_checked_is_what_is_connected_to() {
        let base = url("https://r.example/");
        let lookup = Arc::new(Rebinding(std::sync::atomic::AtomicUsize::new(0)));
        let resolver =
            GuardedResolver { guard: Arc::new(Guard::new(&base, Vec::new())), lookup: lookup.clone() };
        // The check of the URL asks nobody: there is no first look that a second could contradict.
        resolver.guard.check(&base, &url("https://rebind.example/x")).unwrap();
        assert_eq!(lookup.0.load(std::sync::atomic::Ordering::SeqCst), 0);
        let first: Vec<_> = resolver.resolve("rebind.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!(first, ["8.8.8.8:0".parse::<SocketAddr>().unwrap()]);
        let second = resolver.resolve("rebind.example".parse().unwrap()).await.map(drop).unwrap_err();
        assert!(second.is::<ForbiddenAddress>(), "the next connection looks again");
    }
}
