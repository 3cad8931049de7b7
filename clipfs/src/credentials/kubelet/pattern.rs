//! Which images a key of `auth` is for. The rules are those of the Kubernetes documentation of `CredentialProviderResponse`:
//! as many labels on both sides, `*` within one label, an equal port, a path that is a prefix.
//!
//! As in the kubelet, a path is a prefix of characters, not of components.

use crate::oci::reference::split_port;

use super::super::server::fold;

/// A key, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Pattern<'a> {
    host: String,
    port: Option<String>,
    /// With its leading slash; empty = all.
    path: &'a str,
}

impl<'a> Pattern<'a> {
    fn parse(key: &'a str) -> Self {
        let rest = ["https://", "http://"].iter().find_map(|scheme| key.strip_prefix(scheme)).unwrap_or(key);
        let (registry, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        // The kubelet knows keys of Docker's old configuration: `https://r.example.com/v1/`.
        let path = ["/v1/", "/v2/"]
            .iter()
            .find(|version| path.starts_with(**version))
            .map_or(path, |version| &path[version.len() - 1..]);
        let registry = fold(registry);
        let (host, port) = split_port(&registry);
        Self {
            host: host.to_owned(),
            port: port.map(str::to_owned),
            path: if path == "/" { "" } else { path },
        }
    }
}

/// Whether a key is for an image (`host[:port]/path`).
fn matches(key: &str, image: &str) -> bool {
    let pattern = Pattern::parse(key);
    let (registry, path) = image.find('/').map_or((image, ""), |slash| image.split_at(slash));
    let (host, port) = split_port(registry);
    let labels = pattern.host.split('.').count();
    !host.is_empty()
        && pattern.port.as_deref() == port
        && labels == host.split('.').count()
        && path.starts_with(pattern.path)
        && pattern.host.split('.').zip(host.split('.')).all(|(glob, label)| label_matches(glob, label))
}

/// `*` stands for any characters of the label, also for none.
fn label_matches(glob: &str, label: &str) -> bool {
    let Some((head, mut globs)) = glob.split_once('*') else {
        return glob == label;
    };
    let Some(mut rest) = label.strip_prefix(head) else {
        return false;
    };
    // What stands between two stars is taken where it comes first: what is left for the others is the longest then.
    while let Some((middle, more)) = globs.split_once('*') {
        match rest.find(middle) {
            Some(at) => rest = &rest[at + middle.len()..],
            None => return false,
        }
        globs = more;
    }
    rest.ends_with(globs)
}

/// The most specific of the keys that are for an image, in the kubelet's order, which is the reverse of the keys': longer ones
/// before shorter ones of which they are continuations, plain ones before ones with a star in that place.
pub(super) fn most_specific<'a>(keys: impl Iterator<Item = &'a str>, image: &str) -> Option<&'a str> {
    keys.filter(|key| matches(key, image)).max_by_key(|key| {
        let pattern = Pattern::parse(key);
        let port = pattern.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{}{port}{}", pattern.host, pattern.path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_images() {
        let table = [
            // The documentation's examples.
            (
                "123456789.dkr.ecr.us-east-1.amazonaws.com",
                "123456789.dkr.ecr.us-east-1.amazonaws.com/app",
                true,
            ),
            ("*.azurecr.io", "team.azurecr.io/app", true),
            ("*.azurecr.io", "a.b.azurecr.io/app", false),
            ("*.azurecr.io", "azurecr.io/app", false),
            ("gcr.io", "gcr.io/project/app", true),
            ("gcr.io", "eu.gcr.io/project/app", false),
            ("*.*.registry.io", "a.b.registry.io/app", true),
            ("*.*.registry.io", "b.registry.io/app", false),
            ("*.*.registry.io", "a.b.c.registry.io/app", false),
            ("registry.io:8080/path", "registry.io:8080/path/app", true),
            ("registry.io:8080/path", "registry.io:8080/path", true),
            ("registry.io:8080/path", "registry.io/path/app", false),
            ("registry.io:8080/path", "registry.io:8081/path/app", false),
            ("registry.io:8080/path", "registry.io:8080/other", false),
            ("registry.io/path", "registry.io:8080/path", false),
            ("*.k8s.io", "app.k8s.io/x", true),
            ("k8s.*.io", "k8s.app.io/x", true),
            ("k8s.*", "k8s.io/x", true),
            ("k8s.*", "k8s.app.io/x", false),
            ("app*.k8s.io", "app1.k8s.io/x", true),
            ("app*.k8s.io", "app.k8s.io/x", true),
            ("app*.k8s.io", "1app.k8s.io/x", false),
            ("*.io", "a.k8s.io/x", false),
            // Characters, not components; a star in ports and paths is none.
            ("registry.io/path", "registry.io/pathology", true),
            ("registry.io/*/app", "registry.io/team/app", false),
            ("registry.io/*", "registry.io/*/app", true),
            ("registry.io:*", "registry.io:8080/app", false),
            ("*:8080", "localhost:8080/app", true),
            ("*", "localhost/app", true),
            ("*", "registry.io/app", false),
            ("", "registry.io/app", false),
            // Schemes, versions, case, Docker Hub.
            ("https://registry.io/v1/", "registry.io/app", true),
            ("https://registry.io/v2/team", "registry.io/team/app", true),
            ("http://registry.io/", "registry.io/app", true),
            ("Registry.IO", "registry.io/app", true),
            ("registry.io/Team", "registry.io/team/app", false),
            ("https://index.docker.io/v1/", "docker.io/library/alpine", true),
            ("index.docker.io", "docker.io/library/alpine", true),
            ("docker.io/library", "docker.io/library/alpine", true),
            ("*.docker.io", "docker.io/library/alpine", false),
            // Look-alikes.
            ("registry.io", "registry.io.evil/app", false),
            ("registry.io", "evilregistry.io/app", false),
            ("registry.io", "evil/registry.io", false),
            ("*.registry.io", "evil.io/x.registry.io", false),
            ("user@registry.io", "registry.io/app", false),
            ("[::1]:5000", "[::1]:5000/app", true),
            ("127.0.0.1:5000", "127.0.0.1:5000/app", true),
            ("127.*.*.1:5000", "127.0.0.1:5000/app", true),
        ];
        for (key, image, expected) in table {
            assert_eq!(matches(key, image), expected, "{key:?} {image:?}");
        }
    }

    #[test]
    fn stars() {
        let table = [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("*b*", "abc", true),
            ("*ab*ab*", "xabyab", true),
            ("*ab*ab", "xab", false),
            ("**", "x", true),
            ("a?", "ab", false),
            ("[a]", "a", false),
        ];
        for (glob, label, expected) in table {
            assert_eq!(label_matches(glob, label), expected, "{glob:?} {label:?}");
        }
    }

    #[test]
    fn the_most_specific_key_wins() {
        let table: [(&[&str], &str, Option<&str>); 9] = [
            (&["registry.io", "registry.io/team"], "registry.io/team/app", Some("registry.io/team")),
            (
                &["registry.io/team/app", "registry.io/team"],
                "registry.io/team/app",
                Some("registry.io/team/app"),
            ),
            (&["registry.io", "registry.io/team"], "registry.io/other", Some("registry.io")),
            (&["*.registry.io", "a.registry.io"], "a.registry.io/x", Some("a.registry.io")),
            (&["*.registry.io/x", "a.registry.io"], "a.registry.io/x", Some("a.registry.io")),
            (&["a.*.io", "a.b*.io", "*.b.io"], "a.b.io/x", Some("a.b*.io")),
            (
                &["https://registry.io/v1/team", "registry.io"],
                "registry.io/team",
                Some("https://registry.io/v1/team"),
            ),
            (&["gcr.io", "quay.io"], "registry.io/x", None),
            (&[], "registry.io/x", None),
        ];
        for (keys, image, expected) in table {
            assert_eq!(most_specific(keys.iter().copied(), image), expected, "{keys:?} {image}");
            assert_eq!(
                most_specific(keys.iter().rev().copied(), image),
                expected,
                "{keys:?} {image} reversed"
            );
        }
    }
}
