//! Whose credentials a host gets that `hosts.toml` names.
//!
//! A host has the name of its address, and providers know credentials by name. Only the operator's word gives it those of
//! another name.

use reqwest::Url;

use crate::credentials::is_same_registry;
use crate::oci::Reference;
use crate::oci::reference::{is_loopback_host, split_port};

/// Whose credentials a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The registry's.
    Registrys,
    /// Its own.
    Own,
    /// None: it is the registry's host, spoken to in the clear although nobody allowed that. By its name it would get the
    /// registry's.
    Nobodys,
}

impl Whose {
    /// Of a host that is not the registry itself; `sends` is the operator's word for the registry's.
    pub(super) fn of_another(base: &Url, reference: &Reference, plain_http: bool, sends: bool) -> Self {
        let host = base.host_str().unwrap_or("");
        let in_the_clear = base.scheme() == "http" && !plain_http && !is_loopback_host(host);
        // On any port: the default ones are in no name.
        let is_its_host = is_same_registry(host, split_port(&reference.registry).0)
            || host.eq_ignore_ascii_case(split_port(reference.api_host()).0);
        match (in_the_clear, is_its_host) {
            (true, true) => Self::Nobodys,
            (false, _) if sends => Self::Registrys,
            _ => Self::Own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hosts::load;
    use super::*;

    #[test]
    fn whose_credentials() {
        use Whose::{Nobodys, Own, Registrys};
        let sends = "send_credentials = true\n";
        for (registry, dir, top, server, plain_http, want) in [
            ("docker.io", "docker.io", "", "https://registry-1.docker.io", false, Registrys),
            ("docker.io", "_default", "", "https://registry-1.docker.io", false, Registrys),
            ("docker.io", "docker.io", "", "https://registry-1.docker.io:443", true, Registrys),
            ("docker.io", "docker.io", "", "https://other.example", false, Own),
            ("docker.io", "docker.io", sends, "https://other.example", false, Registrys),
            ("docker.io", "_default", sends, "https://other.example", false, Own),
            ("docker.io", "docker.io", sends, "http://other.example", false, Own),
            ("docker.io", "docker.io", sends, "http://other.example", true, Registrys),
            ("docker.io", "docker.io", "", "http://other.example", true, Own),
            ("docker.io", "docker.io", sends, "http://127.0.0.1:5000", false, Registrys),
            ("docker.io", "docker.io", "", "http://127.0.0.1:5000", false, Own),
            ("docker.io", "docker.io", sends, "http://registry-1.docker.io", false, Nobodys),
            ("docker.io", "docker.io", "", "http://index.docker.io", false, Nobodys),
            ("r.example:5000", "r.example_5000_", "", "https://r.example:5000", false, Registrys),
            ("r.example:5000", "r.example_5000_", "", "https://r.example:5001", false, Own),
            ("r.example:5000", "r.example_5000_", "", "https://evil-r.example:5000", false, Own),
            ("r.example:5000", "r.example_5000_", sends, "http://R.example:5000", false, Nobodys),
            ("r.example:80", "r.example_80_", "", "http://r.example", false, Nobodys),
            ("r.example:5000", "r.example_5000_", "", "http://r.example:5000", true, Registrys),
            ("localhost:5000", "localhost:5000", "", "http://localhost:5000", false, Registrys),
            ("localhost:5000", "_default", sends, "http://localhost:5001", false, Own),
        ] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join(dir);
            std::fs::create_dir(&dir).unwrap();
            let mirror = "[host.\"https://mirror.example\"]\n";
            std::fs::write(dir.join("hosts.toml"), format!("{top}server = \"{server}\"\n{mirror}")).unwrap();
            let reference = Reference::parse(&format!("{registry}/a/b")).unwrap();
            let hosts = load(&reference, Some(root.path()), plain_http).unwrap();
            let found: Vec<_> = hosts.iter().map(|host| host.whose).collect();
            assert_eq!(found, [Own, want], "{registry} {top}{server}");
        }
        // A mirror in the clear that is the registry's own host has the registry's name too.
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("r.example")).unwrap();
        let text = "[host.\"http://r.example\"]\n";
        std::fs::write(root.path().join("r.example/hosts.toml"), text).unwrap();
        let reference = Reference::parse("r.example/a/b").unwrap();
        let hosts = load(&reference, Some(root.path()), false).unwrap();
        assert_eq!(hosts.iter().map(|host| host.whose).collect::<Vec<_>>(), [Nobodys, Registrys]);
    }
}
