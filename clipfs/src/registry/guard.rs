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
}

/// A name resolved to addresses that nobody but the operator may name.
#[derive(Debug, thiserror::Error)]
#[error("{host} resolves to the private address {address}")]
pub(super) struct ForbiddenAddress {
    host: String,
    address: IpAddr,
}

impl Guard {
    pub(super) fn new(base: &Url, allowed: Vec<String>) -> Self {
        let own_host = bare_host(base);
        let own_loopback = is_loopback_host(&own_host);
        Self { plain_http: base.scheme() == "http" && !own_loopback, own_loopback, own_host, allowed }
    }

    fn permits(&self, host: &str, ip: IpAddr) -> bool {
        host.eq_ignore_ascii_case(&self.own_host)
            || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
            || (self.own_loopback && ip.to_canonical().is_loopback())
            || is_global(ip)
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
        let literal = match target.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) if !name.is_empty() => None,
            _ => return refuse("it has no host"),
        };
        match literal {
            Some(ip) if !self.permits(&host, ip) => refuse("a private address"),
            _ => Ok(()),
        }
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
                (true, Some(address)) => Err(ForbiddenAddress { host, address: *address }.into()),
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

/// Whether an address is one of the public internet. Transition addresses are judged by the IPv4 address inside.
fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

/// Azure's agent and metadata on every virtual machine, in the midst of public addresses.
const AZURE_PLATFORM: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0 // "this network": Linux connects 0.0.0.0 to itself
        || a == 10
        || a == 127
        || (a == 100 && (64..128).contains(&b)) // shared address space; a cloud's metadata lives at 100.100.100.200
        || (a == 169 && b == 254)
        || ip == AZURE_PLATFORM
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 198 && (18..20).contains(&b))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113)
        || a >= 224)
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let embedded = |hi: u16, lo: u16| {
        let ([a, b], [c, d]) = (hi.to_be_bytes(), lo.to_be_bytes());
        is_global_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0x64, 0xff9b, 0, 0, 0, 0, hi, lo] => embedded(hi, lo), // NAT64
        [0x2002, hi, lo, ..] => embedded(hi, lo),               // 6to4
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] => false,         // Teredo, documentation
        [0x3fff, second, ..] if second < 0x1000 => false,       // documentation
        // Unicast in use is 2000::/3; fc00::/7, fe80::/10, ::1 and the rest lie outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(s: &str) -> Url {
        Url::parse(s).unwrap()
    }

    #[test]
    fn addresses() {
        for global in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::808:808"]
        {
            assert!(is_global(global.parse().unwrap()), "{global}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::7f00:1",
            "2001:db8::1",
            "3fff:123::1",
            "64:ff9b:1::808:808",
            "2001:0:808:808::1",
        ] {
            assert!(!is_global(private.parse().unwrap()), "{private}");
        }
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
        for host in ["localhost", "LOCALHOST", "localhost.", "registry.localhost"] {
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
