//! Which addresses a registry may be at, by who has named it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a registry's own name may lead to. What the registry itself leads to (redirects, realms) is bound further: see
/// `guard`. Hosts that the operator has named in `hosts.toml` may be anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Anywhere: who names the registry owns this machine.
    #[default]
    Anywhere,
    /// Also this machine and private networks, but no link-local address, no cloud's metadata service, nothing that is no single host.
    Private,
    /// The public internet only: tenants name registries, and must not look around in here.
    Public,
}

impl Reach {
    /// Whether an address lies within.
    #[must_use]
    pub fn includes(self, ip: IpAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Private => is_global(ip) || is_private_host(ip),
            Self::Public => is_global(ip),
        }
    }
}

/// Whether an address is one of the public internet. Transition addresses are judged by the IPv4 address inside.
pub(super) fn is_global(ip: IpAddr) -> bool {
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

/// Where metadata services of clouds answer in the midst of private networks: Alibaba, AWS over IPv6, Oracle.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address is a host of this machine or of a private network, and nobody's metadata service.
fn is_private_host(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            (ip.is_loopback() || ip.is_private() || shared) && !METADATA_V4.contains(&ip)
        }
        IpAddr::V6(ip) => (ip.is_loopback() || ip.is_unique_local()) && ip != METADATA_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn reaches() {
        let table = [
            ("8.8.8.8", true, true),
            ("2606:4700::1", true, true),
            ("127.0.0.1", true, false),
            ("::1", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("10.1.2.3", true, false),
            ("192.168.0.1", true, false),
            ("172.31.0.1", true, false),
            ("100.64.0.1", true, false),
            ("fd00::1", true, false),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("168.63.129.16", false, false),
            ("100.100.100.200", false, false),
            ("192.0.0.192", false, false),
            ("fd00:ec2::254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("ff02::1", false, false),
        ];
        for (address, private, public) in table {
            let ip = address.parse().unwrap();
            assert!(Reach::Anywhere.includes(ip), "{address}");
            assert_eq!(Reach::Private.includes(ip), private, "{address}");
            assert_eq!(Reach::Public.includes(ip), public, "{address}");
        }
    }
}
