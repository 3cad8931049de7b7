//! Where credentials come from, as it is written in settings and told from process to process. Never a secret.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use credplugin::Endpoints;

use super::config_file::{ConfigFile, Flavor};
use super::docker::DockerHelper;
use super::in_process::InProcess;
use super::kubelet::KubeletPlugin;
use super::plugin::ClipfsPlugin;
use super::request::RequestFile;
use super::{Anonymous, CredentialError, CredentialProvider};

/// `--credential-plugin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginSpec {
    /// `PATH` or `clipfs:PATH`: speaks the protocol `clipfs`.
    Clipfs(PathBuf),
    /// `docker:PATH`: a Docker credential helper.
    Docker(PathBuf),
    /// `kubelet:PATH`: a kubelet credential provider.
    Kubelet(PathBuf),
    /// `docker-config:FILE`: Docker's `config.json`.
    DockerConfig(PathBuf),
    /// `containers-auth:FILE`: containers-auth.json(5).
    ContainersAuth(PathBuf),
}

/// Makes a specification of a path.
type Kind = fn(PathBuf) -> PluginSpec;

/// The kinds that are written before the colon.
const KINDS: [(&str, Kind); 5] = [
    ("clipfs", PluginSpec::Clipfs),
    ("docker", PluginSpec::Docker),
    ("kubelet", PluginSpec::Kubelet),
    ("docker-config", PluginSpec::DockerConfig),
    ("containers-auth", PluginSpec::ContainersAuth),
];

impl PluginSpec {
    /// The file.
    #[must_use]
    pub const fn path(&self) -> &PathBuf {
        match self {
            Self::Clipfs(path)
            | Self::Docker(path)
            | Self::Kubelet(path)
            | Self::DockerConfig(path)
            | Self::ContainersAuth(path) => path,
        }
    }

    /// The same kind with another path.
    #[must_use]
    pub fn with_path(&self, path: PathBuf) -> Self {
        match self {
            Self::Clipfs(_) => Self::Clipfs(path),
            Self::Docker(_) => Self::Docker(path),
            Self::Kubelet(_) => Self::Kubelet(path),
            Self::DockerConfig(_) => Self::DockerConfig(path),
            Self::ContainersAuth(_) => Self::ContainersAuth(path),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Clipfs(_) => "clipfs",
            Self::Docker(_) => "docker",
            Self::Kubelet(_) => "kubelet",
            Self::DockerConfig(_) => "docker-config",
            Self::ContainersAuth(_) => "containers-auth",
        }
    }
}

impl FromStr for PluginSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, path): (Kind, &str) = match text.split_once(':') {
            Some((word, path)) if !word.contains('/') => {
                let known = KINDS.iter().find(|(name, _)| *name == word);
                let (_, kind) = known.ok_or_else(|| {
                    let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
                    format!("{word:?} is no kind of credential plugin: {}", names.join(", "))
                })?;
                (*kind, path)
            }
            _ => (Self::Clipfs, text),
        };
        if path.is_empty() {
            return Err(format!("the credential plugin {text:?} names no file"));
        }
        Ok(kind(path.into()))
    }
}

impl fmt::Display for PluginSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.path().display())
    }
}

impl serde::Serialize for PluginSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PluginSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where one mount's credentials come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CredentialSource {
    /// The ContainerRequest: a file that is read again whenever credentials are asked for.
    pub request: Option<PathBuf>,
    /// Who is asked; `None` = this process answers from the request, or nobody where there is no request.
    pub plugin: Option<PluginSpec>,
    /// The operator's own token endpoints.
    pub endpoints: Endpoints,
    /// Names (never values) of environment variables that plugins of others get.
    pub plugin_env: Vec<String>,
}

impl CredentialSource {
    /// The error of a source that has said nothing for so long.
    #[must_use]
    pub fn silent(&self, waited: Duration) -> CredentialError {
        let who = if self.plugin.is_some() { "the credential plugin" } else { "the token endpoint" };
        CredentialError::Unavailable(format!("{who} did not answer within {} s", waited.as_secs_f32()))
    }

    /// Opens the source: checks what can be checked without asking for anything.
    ///
    /// # Errors
    /// A request together with a plugin that is not given it: credentials of the request would be passed over. A plugin
    /// that cannot be run, a file that cannot be read, a malformed request.
    pub fn open(&self) -> Result<Arc<dyn CredentialProvider>, CredentialError> {
        let request = self.request.as_deref().map(RequestFile::open).transpose()?;
        Ok(match (&self.plugin, request) {
            (None, None) => Arc::new(Anonymous),
            (None, Some(request)) => Arc::new(InProcess::new(request, self.endpoints.clone())),
            (Some(PluginSpec::Clipfs(path)), request) => {
                Arc::new(ClipfsPlugin::open(path, request, self.endpoints.clone())?)
            }
            (Some(other), Some(_)) => {
                return Err(CredentialError::Configuration(format!(
                    "a request goes with a plugin of the protocol clipfs, and {other} would not be given it"
                )));
            }
            (Some(PluginSpec::Docker(path)), None) => Arc::new(DockerHelper::open(path, &self.plugin_env)?),
            (Some(PluginSpec::Kubelet(path)), None) => Arc::new(KubeletPlugin::open(path, &self.plugin_env)?),
            (Some(PluginSpec::DockerConfig(path)), None) => {
                Arc::new(ConfigFile::open(path, Flavor::Docker, &self.plugin_env)?)
            }
            (Some(PluginSpec::ContainersAuth(path)), None) => {
                Arc::new(ConfigFile::open(path, Flavor::Containers, &self.plugin_env)?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_as_they_are_written() {
        let table = [
            ("/usr/bin/credplugin", Ok(PluginSpec::Clipfs("/usr/bin/credplugin".into()))),
            ("clipfs:/p", Ok(PluginSpec::Clipfs("/p".into()))),
            (
                "docker:/usr/bin/docker-credential-x",
                Ok(PluginSpec::Docker("/usr/bin/docker-credential-x".into())),
            ),
            ("docker:docker-credential-x", Ok(PluginSpec::Docker("docker-credential-x".into()))),
            ("kubelet:/p", Ok(PluginSpec::Kubelet("/p".into()))),
            ("docker-config:/c.json", Ok(PluginSpec::DockerConfig("/c.json".into()))),
            ("containers-auth:/a.json", Ok(PluginSpec::ContainersAuth("/a.json".into()))),
            ("./a:b", Ok(PluginSpec::Clipfs("./a:b".into()))),
            ("helm:/p", Err(())),
            ("docker:", Err(())),
            ("", Err(())),
        ];
        for (text, expected) in table {
            let parsed = text.parse::<PluginSpec>().map_err(drop);
            assert_eq!(parsed, expected, "{text}");
            if let Err(error) = text.parse::<PluginSpec>() {
                assert!(
                    error.contains(&format!("{text:?}")) || error.contains("\"helm\""),
                    "names it: {error}"
                );
            }
            if let Ok(spec) = parsed {
                assert_eq!(spec.to_string().parse(), Ok(spec));
            }
        }
    }
}
