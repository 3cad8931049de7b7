//! The operator's settings: of clipfs's configuration file, the token endpoints.

use std::path::{Path, PathBuf};

use credplugin::{Code, Endpoints, Error};

use super::input;

/// Where settings are unless something else is said.
const DEFAULT: &str = "/etc/clipfs/config.toml";
/// Names another file.
const VARIABLE: &str = "CLIPFS_CONFIG";
/// Largest file.
const MAX_SETTINGS: usize = 1 << 20;

/// The endpoints in `named`, or in the file of the environment, or in the default one, which alone may be missing.
///
/// # Errors
/// [`Code::Usage`]: the file cannot be read, or its `[endpoints]` are none.
pub(super) fn endpoints(named: Option<&Path>) -> Result<Endpoints, Error> {
    #[derive(serde::Deserialize)]
    struct Settings {
        #[serde(default)]
        endpoints: Endpoints,
    }
    let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match named.map(Path::to_owned).or(variable) {
        Some(path) => path,
        None if Path::new(DEFAULT).exists() => DEFAULT.into(),
        None => return Ok(Endpoints::default()),
    };
    let bytes = input::file(&path, MAX_SETTINGS)?;
    let wrong = |why: &str| Error::new(Code::Usage, format!("{}: {why}", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("not UTF-8"))?;
    let settings: Settings = toml::from_str(text).map_err(|error| wrong(error.message()))?;
    Ok(settings.endpoints)
}
