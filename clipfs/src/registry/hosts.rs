//! Which hosts stand for a registry: containerd's `certs.d/<host>/hosts.toml`, or the registry itself.
//!
//! `allow_private = ["gitlab.corp"]` at the top of a `hosts.toml` is clipfs' own: names that redirects and realms of this
//! registry may lead to although they resolve to private addresses.
//!
//! The registry's credentials are for the registry. A `server` elsewhere is asked for with credentials of its own, as mirrors
//! are, unless `send_credentials = true`, also clipfs' own, stands at the top of the file. In `_default` it has no effect: one
//! line would send the credentials of every registry to one host. Nor does it send anything in the clear, except on this
//! machine or where the operator allowed plain http as such.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Identity, Url};
use serde::Deserialize;
use toml::Spanned;

use super::RegistryError;
use super::client::TlsOptions;
use super::safe_url::same_origin;
use super::whose::Whose;
use crate::oci::Reference;
use crate::oci::reference::{is_loopback_host, split_port};

/// Largest `hosts.toml`, certificate or key file.
const MAX_FILE: u64 = 1 << 20;
/// The directory for registries that have none.
const DEFAULT: &str = "_default";

/// One host that serves a registry's API.
#[derive(Debug, Clone)]
pub(super) struct HostConfig {
    /// Base of the API, with `/v2/` unless the operator overrides the path.
    pub(super) base: Url,
    pub(super) is_mirror: bool,
    pub(super) whose: Whose,
    pub(super) can_pull: bool,
    pub(super) can_resolve: bool,
    pub(super) headers: HeaderMap,
    pub(super) tls: TlsOptions,
    pub(super) allow_private: Vec<String>,
    /// The operator has named it: it may be anywhere.
    pub(super) is_named: bool,
}

#[derive(Deserialize, Default)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    send_credentials: bool,
    #[serde(default)]
    allow_private: Vec<String>,
    #[serde(flatten)]
    own: HostTable,
    // Order matters and tables have none: where a key stands in the file tells.
    #[serde(default)]
    host: BTreeMap<Spanned<String>, HostTable>,
}

#[derive(Deserialize, Default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    /// What nobody here knows.
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The hosts to ask, mirrors first, the registry itself last.
///
/// # Errors
/// A file that cannot be read or understood: operators' settings are never ignored.
pub(super) fn load(
    reference: &Reference,
    hosts_dir: Option<&Path>,
    plain_http: bool,
) -> Result<Vec<HostConfig>, RegistryError> {
    if let Some(dir) = hosts_dir.filter(|dir| !dir.is_dir()) {
        let reason = "it was named as the directory of hosts.toml files and is not a directory".into();
        return Err(RegistryError::Configuration { what: dir.display().to_string(), reason });
    }
    let Some((dir, text)) = hosts_dir.map(|dir| find(dir, &reference.registry)).transpose()?.flatten() else {
        return Ok(vec![itself(reference, plain_http)?]);
    };
    let path = dir.join("hosts.toml");
    let broken = |reason: String| RegistryError::Configuration { what: path.display().to_string(), reason };
    let file = parse(&text).map_err(broken)?;
    for key in unknown_keys(&file) {
        tracing::warn!(file = %path.display(), key, "hosts.toml has a key that clipfs does not know");
    }
    let mut hosts = Vec::new();
    for (key, table) in in_order(&file) {
        let base = base_url(key.get_ref(), table.override_path).map_err(&broken)?;
        let mut host = configure(base, true, table, &dir, &file.allow_private).map_err(&broken)?;
        host.whose = Whose::of_another(&host.base, reference, plain_http, false);
        hosts.push(host);
    }
    let server = match &file.server {
        Some(server) => base_url(server, file.own.override_path).map_err(&broken)?,
        None => itself(reference, plain_http)?.base,
    };
    let mut host = configure(server, false, &file.own, &dir, &file.allow_private).map_err(&broken)?;
    let is_default = dir.file_name().is_some_and(|name| name == DEFAULT);
    host.is_named = file.server.is_some() || !is_default;
    let sends = file.send_credentials && !is_default;
    let itself = [itself(reference, plain_http)?.base, itself(reference, false)?.base];
    // Over TLS it is the same registry even if plain http would do.
    host.whose = match itself.iter().any(|itself| same_origin(&host.base, itself)) {
        true => Whose::Registrys,
        false => Whose::of_another(&host.base, reference, plain_http, sends),
    };
    if file.send_credentials && host.whose != Whose::Registrys {
        let file = path.display();
        tracing::warn!(%file, "send_credentials has no effect in _default, nor for a server in the clear");
    }
    hosts.push(host);
    Ok(hosts)
}

fn parse(text: &str) -> Result<HostsFile, String> {
    toml::from_str(text).map_err(|e| e.message().to_owned())
}

/// The mirrors in the order of the file.
fn in_order(file: &HostsFile) -> Vec<(&Spanned<String>, &HostTable)> {
    let mut hosts: Vec<_> = file.host.iter().collect();
    hosts.sort_by_key(|(key, _)| key.span().start);
    hosts
}

/// For fuzzing: a file's text, as far as it goes without the files that it names.
#[cfg(fuzzing)]
pub(super) fn fuzz(data: &[u8]) {
    let Some(file) = std::str::from_utf8(data).ok().and_then(|text| parse(text).ok()) else { return };
    let _ = unknown_keys(&file);
    let hosts = in_order(&file);
    let bases = hosts.into_iter().map(|(key, table)| (key.get_ref(), table));
    for (base, table) in bases.chain(file.server.as_ref().map(|server| (server, &file.own))) {
        if let Ok(url) = base_url(base, table.override_path) {
            assert!(url.has_host() && url.path().ends_with('/') && url.query().is_none());
        }
        let _ = table.client.as_ref().map(client_pair);
        let _ = headers(table);
    }
}

/// What a file says that has no effect.
fn unknown_keys(file: &HostsFile) -> Vec<&str> {
    let tables = std::iter::once(&file.own).chain(file.host.values());
    tables.flat_map(|table| table.unknown.keys().map(String::as_str)).collect()
}

/// The registry as its reference names it.
fn itself(reference: &Reference, plain_http: bool) -> Result<HostConfig, RegistryError> {
    let api_host = reference.api_host();
    let (host, port) = split_port(api_host);
    let plain = port != Some("443") && (plain_http || is_loopback_host(host));
    let url = format!("{}://{api_host}", if plain { "http" } else { "https" });
    let base =
        base_url(&url, false).map_err(|reason| RegistryError::Protocol { host: api_host.into(), reason })?;
    Ok(HostConfig {
        base,
        is_mirror: false,
        whose: Whose::Registrys,
        can_pull: true,
        can_resolve: true,
        headers: HeaderMap::new(),
        tls: TlsOptions::default(),
        allow_private: Vec::new(),
        is_named: false,
    })
}

/// The first of containerd's places for a host that has a `hosts.toml`: `host_port_`, `host:port`, `_default`.
fn find(hosts_dir: &Path, registry: &str) -> Result<Option<(PathBuf, String)>, RegistryError> {
    let underscored = match split_port(registry) {
        (host, Some(port)) => Some(format!("{host}_{port}_")),
        _ => None,
    };
    for name in underscored.as_deref().into_iter().chain([registry, DEFAULT]) {
        let dir = hosts_dir.join(name);
        let path = dir.join("hosts.toml");
        match read(&path) {
            Ok(text) => return Ok(Some((dir, text))),
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                let (what, reason) = (path.display().to_string(), "it is not UTF-8 text".into());
                return Err(RegistryError::Configuration { what, reason });
            }
            Err(source) => return Err(RegistryError::Io { what: path.display().to_string(), source }),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn base_url(text: &str, override_path: bool) -> Result<Url, String> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        let host = text.split('/').next().unwrap_or(text);
        let plain = is_loopback_host(split_port(host).0);
        format!("{}://{text}", if plain { "http" } else { "https" })
    };
    let mut url = Url::parse(&full).map_err(|_| format!("{text:?} is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{text:?} is not a web address"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("a host has credentials or a query in its URL".into());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    // containerd leaves a path that already ends in /v2 alone.
    let path =
        if override_path || path.ends_with("/v2") { format!("{path}/") } else { format!("{path}/v2/") };
    url.set_path(&path);
    Ok(url)
}

fn configure(
    base: Url,
    is_mirror: bool,
    table: &HostTable,
    dir: &Path,
    allow_private: &[String],
) -> Result<HostConfig, String> {
    // As containerd: none given means all.
    let can = |what: &str| {
        table
            .capabilities
            .as_ref()
            .is_none_or(|all| all.is_empty() || all.iter().any(|c| c.eq_ignore_ascii_case(what)))
    };
    if table.skip_verify {
        tracing::warn!(host = base.host_str(), "hosts.toml turns certificate verification off for this host");
    }
    let load = |file: &str| {
        let path = dir.join(file);
        read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut tls = TlsOptions { skip_verify: table.skip_verify, ..TlsOptions::default() };
    for file in table.ca.iter().flat_map(OneOrMany::as_slice) {
        let bundle = Certificate::from_pem_bundle(load(file)?.as_bytes())
            .map_err(|_| format!("{file} holds no certificates"))?;
        tls.ca.extend(bundle);
    }
    if let Some((certificate, key)) = table.client.as_ref().map(client_pair).transpose()? {
        let mut pem = load(&certificate)?;
        if let Some(key) = key {
            pem.push('\n');
            pem.push_str(&load(&key)?);
        }
        tls.identity = Some(
            Identity::from_pem(pem.as_bytes())
                .map_err(|_| format!("{certificate} is no certificate with its key"))?,
        );
    }
    Ok(HostConfig {
        base,
        is_mirror,
        whose: Whose::Own,
        can_pull: can("pull"),
        can_resolve: can("resolve"),
        headers: headers(table)?,
        tls,
        allow_private: allow_private.to_vec(),
        is_named: true,
    })
}

/// The fixed headers of a host; their values may be secrets.
fn headers(table: &HostTable) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in &table.header {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
        for value in values.as_slice() {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| format!("the value of {name} is unusable"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

/// `client = "both.pem"`, `["both.pem"]` or `[["cert.pem", "key.pem"]]`. The first pair is used.
fn client_pair(value: &toml::Value) -> Result<(String, Option<String>), String> {
    let wrong = || "client must be a file, or a list of [certificate, key] pairs".to_owned();
    let text = |value: &toml::Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    match value {
        toml::Value::String(file) => Ok((file.clone(), None)),
        toml::Value::Array(list) => match list.first() {
            Some(toml::Value::Array(pair)) => {
                let certificate = pair.first().ok_or_else(wrong)?;
                let key = pair.get(1).map(text).transpose()?;
                Ok((text(certificate)?, key.filter(|key| !key.is_empty())))
            }
            Some(file) => Ok((text(file)?, None)),
            None => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(registry: &str, toml: Option<(&str, &str)>) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        if let Some((host, text)) = toml {
            std::fs::create_dir(dir.path().join(host)).unwrap();
            std::fs::write(dir.path().join(host).join("hosts.toml"), text).unwrap();
        }
        let reference = Reference::parse(&format!("{registry}/a/b")).unwrap();
        let hosts = load(&reference, Some(dir.path()), false).map_err(|e| {
            assert!(matches!(e, RegistryError::Configuration { .. }), "{e}");
            e.to_string()
        })?;
        let show = |h: &HostConfig| {
            let flags =
                [(h.is_mirror, "m"), (h.can_pull, "p"), (h.can_resolve, "r"), (h.tls.skip_verify, "s")];
            let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag).collect();
            format!("{} {flags}", h.base)
        };
        Ok(hosts.iter().map(show).collect())
    }

    #[test]
    fn defaults() {
        for (registry, plain, want) in [
            ("docker.io", false, "https://registry-1.docker.io/v2/"),
            ("r.example.com", false, "https://r.example.com/v2/"),
            ("r.example.com", true, "http://r.example.com/v2/"),
            ("localhost:5000", false, "http://localhost:5000/v2/"),
            ("127.0.0.1:5000", false, "http://127.0.0.1:5000/v2/"),
            ("[::1]:5000", false, "http://[::1]:5000/v2/"),
            ("localhost:443", true, "https://localhost/v2/"),
        ] {
            let reference = Reference::parse(&format!("{registry}/a/b")).unwrap();
            assert_eq!(load(&reference, None, plain).unwrap()[0].base.as_str(), want);
        }
    }

    #[test]
    fn mirrors_in_the_order_of_the_file() {
        let text = r#"
            server = "https://registry-1.docker.io"
            allow_private = ["minio.corp"]
            [host."https://z.example"]
              capabilities = ["pull"]
            [host."http://a.example:5000/path"]
              capabilities = ["pull", "resolve"]
              [host."http://a.example:5000/path".header]
                x-key = ["s3cret", "other"]
            [host."https://m.example/api"]
              override_path = true
              skip_verify = true
        "#;
        let want = [
            "https://z.example/v2/ mp",
            "http://a.example:5000/path/v2/ mpr",
            "https://m.example/api/ mprs",
            "https://registry-1.docker.io/v2/ pr",
        ];
        assert_eq!(bases("docker.io", Some(("docker.io", text))).unwrap(), want);
        assert_eq!(bases("docker.io", Some(("_default", text))).unwrap(), want);
        assert_eq!(bases("ghcr.io", Some(("docker.io", text))).unwrap(), ["https://ghcr.io/v2/ pr"]);
        let no_server = "[host.\"m.example\"]\n";
        assert_eq!(
            bases("r.example:5000", Some(("r.example_5000_", no_server))).unwrap(),
            ["https://m.example/v2/ mpr", "https://r.example:5000/v2/ pr"]
        );
        let own = "server = \"https://localhost:5000\"\nskip_verify = true\n";
        assert_eq!(
            bases("localhost:5000", Some(("localhost:5000", own))).unwrap(),
            ["https://localhost:5000/v2/ prs"]
        );
    }

    #[test]
    fn broken_files_are_told() {
        for (text, want) in [
            ("server = 1", "hosts.toml"),
            ("server = \"ftp://x\"", "not a web address"),
            ("[host.\"https://u:p@x\"]", "credentials"),
            ("[host.\"https://x\"]\nca = \"missing.pem\"", "missing.pem"),
            ("[host.\"https://x\"]\nclient = 7", "client must be"),
            ("[host.\"https://x\".header]\n\"b ad\" = \"x\"", "not a header name"),
            ("[[[", "hosts.toml"),
        ] {
            let error = bases("r.example", Some(("r.example", text))).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let reference = Reference::parse("r.example/a/b").unwrap();
        let nowhere = tempfile::tempdir().unwrap().path().join("none");
        let error = load(&reference, Some(&nowhere), false).unwrap_err();
        assert!(matches!(error, RegistryError::Configuration { .. }), "{error}");
    }

    #[test]
    fn unknown_keys_are_found_at_the_top_and_in_hosts() {
        let text = "servr = \"https://x\"\nserver = \"https://x\"\nallow_private = []\nsend_credentials = true\nskip_verify = true\n\
            [host.\"https://z.example\"]\nskip_verfy = true\nca = \"x\"\n[host.\"https://z.example\".header]\nx = \"y\"\n";
        let file: HostsFile = toml::from_str(text).unwrap();
        assert_eq!(unknown_keys(&file), ["servr", "skip_verfy"]);
    }
}
