//! Names of registries as Docker's files, helpers and the kubelet's plugins write them: with schemes, paths and aliases.

use crate::oci::reference::DOCKER_HUB;

/// What Docker calls Docker Hub in its files and to its helpers.
pub(super) const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Other names of Docker Hub.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// The name that Docker gives a registry when it asks a helper or looks into its file.
pub(super) fn docker_server(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_HUB_SERVER } else { registry }
}

/// A key (`https://r.example.com/v1/`, `r.example.com:5000/team`) taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Server<'a> {
    /// Host with port, in lower case, Docker Hub's aliases folded.
    pub(super) registry: String,
    /// What follows, without slashes at its ends.
    pub(super) path: &'a str,
    /// Whether it was written as a URL.
    pub(super) is_url: bool,
}

impl<'a> Server<'a> {
    pub(super) fn parse(key: &'a str) -> Self {
        let (rest, is_url) = match key.split_once("://") {
            Some((_, rest)) => (rest, true),
            None => (key, false),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self { registry: fold(host), path: path.trim_matches('/'), is_url }
    }
}

/// Lower case, and Docker Hub by its one name.
pub(super) fn fold(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if DOCKER_HUB_ALIASES.contains(&host.as_str()) { DOCKER_HUB.to_owned() } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_taken_apart() {
        let table = [
            ("r.example.com", "r.example.com", "", false),
            ("R.Example.com:5000", "r.example.com:5000", "", false),
            ("r.example.com/team/App", "r.example.com", "team/App", false),
            ("https://r.example.com", "r.example.com", "", true),
            ("http://r.example.com:80/v1/", "r.example.com:80", "v1", true),
            (DOCKER_HUB_SERVER, "docker.io", "v1", true),
            ("registry-1.docker.io", "docker.io", "", false),
            ("docker.io.example", "docker.io.example", "", false),
            ("[::1]:5000", "[::1]:5000", "", false),
            ("https://u:p@r.example.com", "u:p@r.example.com", "", true),
            ("", "", "", false),
        ];
        for (key, registry, path, is_url) in table {
            assert_eq!(Server::parse(key), Server { registry: registry.into(), path, is_url }, "{key}");
        }
        assert_eq!(docker_server("docker.io"), DOCKER_HUB_SERVER);
        assert_eq!(docker_server("r.example.com:5000"), "r.example.com:5000");
    }
}
