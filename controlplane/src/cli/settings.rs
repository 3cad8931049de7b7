//! Settings: flag > `CLIPFS_*` environment (both come from [`super::args`]) > file > default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use credplugin::Endpoints;

use super::failure::Failure;

/// Where the settings are unless `--config` says otherwise.
const DEFAULT_PATH: &str = "/etc/clipfs/controlplane.toml";
/// No settings file is longer.
const MAX_FILE: u64 = 1 << 20;
/// The embedded database.
const DEFAULT_DATABASE: &str = "sqlite:///var/lib/clipfs/control.db";

/// The settings file.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) log_level: Option<String>,
    pub(super) database: Option<String>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) kek_file: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) metrics: Option<SocketAddr>,
    #[serde(deserialize_with = "lease_text")]
    pub(super) lease: Option<Duration>,
    pub(super) private_registries: Option<bool>,
    pub(super) hosts_dir: Option<PathBuf>,
    pub(super) server: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) endpoints: Endpoints,
}

impl Settings {
    /// Reads the file that was named, or the default one if it is there.
    pub(super) fn read(named: Option<&Path>) -> Result<Self, Failure> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match file(path, MAX_FILE) {
            Err(Failure::File { source, .. })
                if named.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(Self::default());
            }
            read => read?,
        };
        let wrong = |why: String| Failure::Config(format!("settings file {}: {why}", path.display()));
        let text = std::str::from_utf8(&text).map_err(|_| wrong("not UTF-8".to_owned()))?;
        // The error's own text may show a line with a password.
        let settings: Self = toml::from_str(text).map_err(|error| wrong(error.message().to_owned()))?;
        settings.endpoints.validate().map_err(|error| wrong(error.message))?;
        Ok(settings)
    }

    /// The database's URL.
    pub(super) fn database(&self, flag: Option<&String>) -> String {
        flag.or(self.database.as_ref()).cloned().unwrap_or_else(|| DEFAULT_DATABASE.to_owned())
    }
}

/// The directory of the embedded database. `None`: another database.
pub(super) fn database_directory(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"))?;
    let file = std::path::absolute(path.split('?').next()?).ok()?;
    file.parent().map(Path::to_owned)
}

/// A whole file, at most so long.
pub(super) fn file(path: &Path, limit: u64) -> Result<zeroize::Zeroizing<Vec<u8>>, Failure> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        if path == Path::new("-") {
            std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)?;
        } else {
            std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    let bytes = read().map_err(|source| Failure::File { what: "read", path: path.to_owned(), source })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Failure::Data(format!("{} is longer than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// `30m`, `12h`, `90d`, `45s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and one of s, m, h, d: 12h".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// A lease's length: shorter ones end while a heartbeat is on its way, longer ones keep containers waiting.
pub(super) fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    let allowed = Duration::from_secs(2)..=Duration::from_secs(3600);
    allowed.contains(&lease).then_some(lease).ok_or_else(|| "a lease lasts 2s to 1h".to_owned())
}

fn lease_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text: String = serde::Deserialize::deserialize(from)?;
    lease(&text).map(Some).map_err(serde::de::Error::custom)
}

/// `2`, `0.5`, `500m`: thousandths of a core.
pub(super) fn millicores(text: &str) -> Result<i64, String> {
    let wrong = || "expected cores: 2, 0.5 or 500m".to_owned();
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().ok().filter(|millis| *millis > 0).ok_or_else(wrong);
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let part: i64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|millis| millis.checked_add(part)).filter(|m| *m > 0).ok_or_else(wrong)
}

/// `512MiB`, `2GiB`, `512M`, `512`: in MiB, rounded up.
pub(super) fn mebibytes(text: &str) -> Result<i64, String> {
    let wrong = || "expected memory: 512MiB or 2GiB".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: i64 = text[..at].parse().map_err(|_| wrong())?;
    let factor = match text[at..].to_ascii_lowercase().as_str() {
        "" | "m" | "mi" | "mib" | "mb" => 1,
        "g" | "gi" | "gib" | "gb" => 1024,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).filter(|memory| *memory > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86400)));
        for text in ["", "1", "h", "0s", "1w", "-1s", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for (text, millis) in [("2", 2000), ("0.5", 500), ("500m", 500), ("1.25", 1250)] {
            assert_eq!(millicores(text), Ok(millis));
        }
        for text in ["", "0", "-1", "m", "1.2345", "0.x", "1e3"] {
            assert!(millicores(text).is_err(), "{text}");
        }
        for (text, memory) in [("512MiB", 512), ("2GiB", 2048), ("64", 64), ("1g", 1024)] {
            assert_eq!(mebibytes(text), Ok(memory));
        }
        assert!(mebibytes("1TiBB").is_err() && mebibytes("0").is_err());
    }

    #[test]
    fn a_wrong_file_is_named_and_its_values_are_not_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "database = \"postgres://u:pl4nted-pw@h/d\"\nlisten = 1\n").expect("written");
        let error = Settings::read(Some(&path)).expect_err("wrong").to_string();
        assert!(error.contains("c.toml") && !error.contains("pl4nted"), "{error}");
        assert!(
            Settings::read(Some(&dir.path().join("none"))).is_err(),
            "a file that is named must be there"
        );
    }

    #[test]
    fn the_directory_of_the_embedded_database() {
        assert_eq!(database_directory(DEFAULT_DATABASE), Some("/var/lib/clipfs".into()));
        assert_eq!(database_directory("postgres://h/d"), None);
    }
}
