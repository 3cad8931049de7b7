//! Settings: flag > `CLIPFS_*` environment > `/etc/clipfs/config.toml` > default.
//!
//! Owns the file's schema, the defaults and the units. The environment is read by the command line's parser and comes here as
//! part of the flags. Resolved once, at the start of a command; nothing below the command line knows where a value came from.

use std::io::Read as _;
use std::path::{Path, PathBuf};

pub mod units;

use credplugin::Endpoints;

pub use units::{ByteSize, Span};

use crate::credentials::PluginSpec;

/// Where the settings file lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/clipfs/config.toml";

/// No settings file is longer; a longer one is some other file.
const MAX_FILE: u64 = 1 << 20;

/// What to fetch before it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Prefetch {
    /// Nothing but read-ahead.
    None,
    /// What earlier starts of the image touched.
    Profile,
    /// Everything.
    All,
}

/// Whether complete files are handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Passthrough {
    /// Where kernel and cache directory allow it.
    Auto,
    /// Never.
    Off,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Implements `FromStr` and `Display` by the names that serde knows, so that flags and file agree.
macro_rules! named {
    ($name:ident { $($text:literal => $value:ident),+ $(,)? }) => {
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$value),)+
                    _ => Err(format!("{text:?} is none of {}", [$($text),+].join(", "))),
                }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$value => $text),+ })
            }
        }
    };
}

named!(Prefetch { "none" => None, "profile" => Profile, "all" => All });
named!(Passthrough { "auto" => Auto, "off" => Off });
named!(LogFormat { "text" => Text, "json" => Json });

/// One source of settings, the file or the flags: what it does not say is left to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// See [`Settings::cache_dir`].
    pub cache_dir: Option<PathBuf>,
    /// See [`Settings::cache_size`].
    pub cache_size: Option<ByteSize>,
    /// See [`Settings::memory`].
    pub memory: Option<ByteSize>,
    /// See [`Settings::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// See [`Settings::read_timeout`].
    pub read_timeout: Option<Span>,
    /// See [`Settings::mount_timeout`].
    pub mount_timeout: Option<Span>,
    /// See [`Settings::unmount_timeout`].
    pub unmount_timeout: Option<Span>,
    /// See [`Settings::prefetch`].
    pub prefetch: Option<Prefetch>,
    /// See [`Settings::passthrough`].
    pub passthrough: Option<Passthrough>,
    /// See [`Settings::small_file`].
    pub small_file: Option<ByteSize>,
    /// See [`Settings::read_ahead`].
    pub read_ahead: Option<ByteSize>,
    /// See [`Settings::chunk_size`].
    pub chunk_size: Option<ByteSize>,
    /// See [`Settings::plain_http`].
    pub plain_http: Option<bool>,
    /// See [`Settings::hosts_dir`].
    pub hosts_dir: Option<PathBuf>,
    /// See [`Settings::credential_plugin`].
    pub credential_plugin: Option<PluginSpec>,
    /// See [`Settings::credential_plugin_env`].
    pub credential_plugin_env: Option<Vec<String>>,
    /// See [`Settings::endpoints`].
    pub endpoints: Option<Endpoints>,
    /// See [`Settings::metrics`].
    pub metrics: Option<std::net::SocketAddr>,
    /// See [`Settings::log_level`].
    pub log_level: Option<String>,
    /// See [`Settings::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`Settings::log_file`].
    pub log_file: Option<PathBuf>,
}

/// Settings, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The store's directory.
    pub cache_dir: PathBuf,
    /// Most bytes of the store on disk.
    pub cache_size: ByteSize,
    /// Most bytes of decoded chunks in memory, for each mount.
    pub memory: ByteSize,
    /// Where running mounts are described.
    pub run_dir: PathBuf,
    /// Hard deadline of every read.
    pub read_timeout: Span,
    /// Time for a mount to serve.
    pub mount_timeout: Span,
    /// Grace for busy mounts before they are detached, and again before they are aborted.
    pub unmount_timeout: Span,
    /// What is fetched before it is asked for.
    pub prefetch: Prefetch,
    /// Whether complete files are handed to the kernel.
    pub passthrough: Passthrough,
    /// Files up to this size are fetched whole when opened.
    pub small_file: ByteSize,
    /// The kernel's read-ahead on the mount.
    pub read_ahead: ByteSize,
    /// Plain bytes between checkpoints of new indexes.
    pub chunk_size: ByteSize,
    /// Plain http to registries that are not loopback.
    pub plain_http: bool,
    /// containerd's `certs.d`.
    pub hosts_dir: Option<PathBuf>,
    /// Who is asked for credentials; `None` = only the request, or nobody.
    pub credential_plugin: Option<PluginSpec>,
    /// Names of the environment variables that plugins of others get besides PATH and HOME.
    pub credential_plugin_env: Vec<String>,
    /// The operator's own token endpoints. In the settings file only: nobody types them.
    pub endpoints: Endpoints,
    /// Address that answers with Prometheus metrics.
    pub metrics: Option<std::net::SocketAddr>,
    /// Filter of log lines: a level, or `target=level` pairs.
    pub log_level: String,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Log of background mounts; `None` = a bounded file in the run directory.
    pub log_file: Option<PathBuf>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be; the text names line and key.
    #[error("settings file {path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A value makes no sense.
    #[error("setting {key}: {reason}")]
    Value {
        /// Name of the setting.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Layer {
    /// Parses a settings file's text.
    ///
    /// # Errors
    /// Not TOML, unknown keys, values of the wrong kind.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            // toml's own Display quotes the line, which may hold something that is nobody's business.
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            ConfigError::Parse { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
        })
    }

    /// Reads a settings file. `None` = [`DEFAULT_PATH`], which need not exist.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = (path.unwrap_or(Path::new(DEFAULT_PATH)), path.is_some());
        let refuse = |source| ConfigError::Read { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Self::default()),
            Err(e) => return Err(refuse(e)),
        };
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(refuse)?;
        if crate::num::to_u64(text.len()) > MAX_FILE {
            let reason = format!("longer than {}", ByteSize(MAX_FILE));
            return Err(ConfigError::Parse { path: path.to_owned(), reason });
        }
        Self::parse(path, &text)
    }
}

impl Settings {
    /// Flags (with the environment) first, then the file, then defaults.
    ///
    /// # Errors
    /// Values that make no sense.
    pub fn resolve(flags: Layer, file: Layer) -> Result<Self, ConfigError> {
        let mib = |n: u64| ByteSize(n << 20);
        let seconds = |n| Span(std::time::Duration::from_secs(n));
        let settings = Self {
            cache_dir: flags.cache_dir.or(file.cache_dir).unwrap_or_else(|| "/var/cache/clipfs".into()),
            cache_size: flags.cache_size.or(file.cache_size).unwrap_or(mib(20 << 10)),
            memory: flags.memory.or(file.memory).unwrap_or(mib(256)),
            run_dir: flags.run_dir.or(file.run_dir).unwrap_or_else(|| "/run/clipfs".into()),
            read_timeout: flags.read_timeout.or(file.read_timeout).unwrap_or(seconds(30)),
            mount_timeout: flags.mount_timeout.or(file.mount_timeout).unwrap_or(seconds(30)),
            unmount_timeout: flags.unmount_timeout.or(file.unmount_timeout).unwrap_or(seconds(5)),
            prefetch: flags.prefetch.or(file.prefetch).unwrap_or(Prefetch::Profile),
            passthrough: flags.passthrough.or(file.passthrough).unwrap_or(Passthrough::Auto),
            small_file: flags.small_file.or(file.small_file).unwrap_or(ByteSize(128 << 10)),
            read_ahead: flags.read_ahead.or(file.read_ahead).unwrap_or(mib(1)),
            chunk_size: flags
                .chunk_size
                .or(file.chunk_size)
                .unwrap_or(ByteSize(u64::from(crate::decode::DEFAULT_CHUNK))),
            plain_http: flags.plain_http.or(file.plain_http).unwrap_or(false),
            hosts_dir: flags.hosts_dir.or(file.hosts_dir),
            credential_plugin: flags.credential_plugin.or(file.credential_plugin),
            credential_plugin_env: flags
                .credential_plugin_env
                .or(file.credential_plugin_env)
                .unwrap_or_default(),
            endpoints: flags.endpoints.or(file.endpoints).unwrap_or_default(),
            metrics: flags.metrics.or(file.metrics),
            log_level: flags.log_level.or(file.log_level).unwrap_or_else(|| "info".into()),
            log_format: flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            log_file: flags.log_file.or(file.log_file),
        };
        settings.check()?;
        Ok(settings)
    }

    /// [`Layer::read`] and [`Settings::resolve`] in one.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(flags: Layer, config: Option<&Path>) -> Result<Self, ConfigError> {
        Self::resolve(flags, Layer::read(config)?)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, dir) in [("cache_dir", &self.cache_dir), ("run_dir", &self.run_dir)] {
            if dir.as_os_str().is_empty() {
                return Err(ConfigError::Value { key, reason: "is empty".into() });
            }
        }
        for (key, span) in [("read_timeout", self.read_timeout), ("mount_timeout", self.mount_timeout)] {
            if span.0.is_zero() {
                return Err(ConfigError::Value { key, reason: "must be longer than 0s".into() });
            }
        }
        self.endpoints
            .validate()
            .map_err(|error| ConfigError::Value { key: "endpoints", reason: error.message })?;
        for name in &self.credential_plugin_env {
            if name.is_empty() || name.contains(['=', '\0']) {
                // Not quoted: who writes NAME=VALUE here may have written a secret.
                let reason = "takes names of environment variables, not their values".into();
                return Err(ConfigError::Value { key: "credential_plugin_env", reason });
            }
        }
        let chunk = (64 << 10)..=u64::from(crate::decode::MAX_CHUNK / 2);
        if !chunk.contains(&self.chunk_size.0) {
            let reason = format!(
                "{} is not between {} and {}",
                self.chunk_size,
                ByteSize(*chunk.start()),
                ByteSize(*chunk.end())
            );
            return Err(ConfigError::Value { key: "chunk_size", reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Layer, ConfigError> {
        Layer::parse(Path::new("x.toml"), text)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = parse("cache_size = \"1GiB\"\nmemory = 1048576\nread_timeout = 5\n").unwrap();
        let flags = Layer { cache_size: Some(ByteSize(7)), ..Layer::default() };
        let settings = Settings::resolve(flags, file).unwrap();
        assert_eq!(settings.cache_size, ByteSize(7));
        assert_eq!(settings.memory, ByteSize(1 << 20));
        assert_eq!(settings.read_timeout.0.as_secs(), 5);
        assert_eq!(settings.cache_dir, Path::new("/var/cache/clipfs"));
        assert_eq!(settings.mount_timeout.0.as_secs(), 30);
    }

    #[test]
    fn refusals_name_line_and_key() {
        let table = [
            ("memory = \"1MiB\"\ncache_sise = 1", "line 2: unknown field `cache_sise`"),
            ("cache_size = \"lots\"", "\"lots\" is not a size"),
            ("passthrough = \"perhaps\"", "unknown variant `perhaps`"),
            ("memory = [1]", "a size such as"),
            ("credential_plugin = \"helm:/p\"", "\"helm\" is no kind of credential plugin"),
            ("[endpoints]\necs = \"http://127.0.0.1:1\"", "line 2: unknown field `ecs`"),
            ("memory = ", "line 1"),
        ];
        for (text, expected) in table {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("settings file x.toml: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_are_checked_wherever_they_come_from() {
        let with = |layer| Settings::resolve(layer, Layer::default()).unwrap_err().to_string();
        let zero = Some("0s".parse().unwrap());
        assert!(with(Layer { read_timeout: zero, ..Layer::default() }).starts_with("setting read_timeout"));
        let tiny = Some(ByteSize(1));
        assert!(with(Layer { chunk_size: tiny, ..Layer::default() }).starts_with("setting chunk_size"));
    }

    #[test]
    fn credentials_come_from_flags_or_file() {
        let file = "credential_plugin = \"docker:/bin/x\"\ncredential_plugin_env = [\"AWS_PROFILE\"]\n\
                    [endpoints]\necr = \"http://127.0.0.1:5555\"\n";
        let settings = Settings::resolve(Layer::default(), parse(file).unwrap()).unwrap();
        assert_eq!(settings.credential_plugin, Some(PluginSpec::Docker("/bin/x".into())));
        assert_eq!(settings.credential_plugin_env, ["AWS_PROFILE"]);
        assert_eq!(settings.endpoints.ecr.as_deref(), Some("http://127.0.0.1:5555"));
        let flags = Layer { credential_plugin: Some(PluginSpec::Clipfs("/p".into())), ..Layer::default() };
        let settings = Settings::resolve(flags, parse(file).unwrap()).unwrap();
        assert_eq!(settings.credential_plugin, Some(PluginSpec::Clipfs("/p".into())));
    }

    #[test]
    fn values_of_variables_are_refused_and_not_repeated() {
        let flags =
            Layer { credential_plugin_env: Some(vec!["TOKEN=pl4nted-value".into()]), ..Layer::default() };
        let error = Settings::resolve(flags, Layer::default()).unwrap_err().to_string();
        assert!(
            error.starts_with("setting credential_plugin_env: ") && !error.contains("pl4nted"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_default_file_is_none_and_a_missing_named_one_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.toml");
        assert!(matches!(Layer::read(Some(&path)), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "prefetch = \"all\"").unwrap();
        assert_eq!(Layer::read(Some(&path)).unwrap().prefetch, Some(Prefetch::All));
    }
}
