//! Where the clouds' token endpoints are, and what the operator says instead.

/// Overrides; `None` = the cloud's own. Each is a base URL: https, or http on this machine.
///
/// With an override, credentials of that cloud are also given to registries on this machine (loopback): that is how
/// emulators are used. Without it, only to the cloud's own hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Amazon's ECR API, e.g. `http://127.0.0.1:5555`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecr: Option<String>,
    /// Amazon's public ECR API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecr_public: Option<String>,
    /// Google's OAuth2 token endpoint, the whole URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<String>,
    /// Microsoft's login endpoint (`/{tenant}/oauth2/v2.0/token` follows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<String>,
    /// Azure's registry itself (`/oauth2/exchange` follows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
}
