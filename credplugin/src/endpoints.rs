//! Where the clouds' token endpoints are, and what the operator says instead.

use url::{Host, Url};

use crate::host::{AzureCloud, EcrHost};
use crate::{Code, Error};

/// Where Google gives out tokens, and the audience of what is sent there, wherever an override sends it: a private path to Google ends
/// at the same service.
pub(crate) const GOOGLE_TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// The region of Amazon's public registry; it answers from there only.
pub(crate) const ECR_PUBLIC_REGION: &str = "us-east-1";

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

impl Endpoints {
    /// Checks all overrides, used or not: a misspelt one is told at once, not when the first image of that cloud is mounted.
    ///
    /// # Errors
    /// [`crate::Code::BadRequest`], which names the key (`endpoints.ecr`).
    pub fn validate(&self) -> Result<(), Error> {
        let all = [
            ("endpoints.ecr", &self.ecr),
            ("endpoints.ecr_public", &self.ecr_public),
            ("endpoints.gcp", &self.gcp),
            ("endpoints.azure", &self.azure),
            ("endpoints.acr", &self.acr),
        ];
        all.into_iter().try_for_each(|(name, text)| overridden(name, text.as_deref()).map(drop))
    }

    /// The API of a private ECR registry.
    pub(crate) fn ecr(&self, host: &EcrHost) -> Result<Url, Error> {
        match self.ecr_override()? {
            Some(url) => Ok(url),
            None => own(&format!("https://{}/", host.api_host())),
        }
    }

    /// The override of it.
    pub(crate) fn ecr_override(&self) -> Result<Option<Url>, Error> {
        overridden("endpoints.ecr", self.ecr.as_deref())
    }

    /// The API of Amazon's public registry.
    pub(crate) fn ecr_public(&self) -> Result<Url, Error> {
        match self.ecr_public_override()? {
            Some(url) => Ok(url),
            None => own(&format!("https://api.ecr-public.{ECR_PUBLIC_REGION}.amazonaws.com/")),
        }
    }

    /// The override of it.
    pub(crate) fn ecr_public_override(&self) -> Result<Option<Url>, Error> {
        overridden("endpoints.ecr_public", self.ecr_public.as_deref())
    }

    /// Google's token endpoint.
    pub(crate) fn gcp(&self) -> Result<Url, Error> {
        match overridden("endpoints.gcp", self.gcp.as_deref())? {
            Some(url) => Ok(url),
            None => own(GOOGLE_TOKEN_URI),
        }
    }

    /// Microsoft's token endpoint of a tenant. The tenant is a path component, and has been checked to be one.
    ///
    /// Source: "National clouds", Microsoft identity platform.
    pub(crate) fn azure(&self, cloud: AzureCloud, tenant: &str) -> Result<Url, Error> {
        let base = match overridden("endpoints.azure", self.azure.as_deref())? {
            Some(url) => url,
            None => own(match cloud {
                AzureCloud::Public => "https://login.microsoftonline.com/",
                AzureCloud::China => "https://login.partner.microsoftonline.cn/",
                AzureCloud::Government => "https://login.microsoftonline.us/",
            })?,
        };
        below(&base, &[tenant, "oauth2", "v2.0", "token"])
    }

    /// Where an Azure registry exchanges tokens; `None` as registry = only where the override says.
    pub(crate) fn acr(&self, registry: Option<&str>) -> Result<Option<Url>, Error> {
        let base = match (overridden("endpoints.acr", self.acr.as_deref())?, registry) {
            (Some(url), _) => url,
            (None, Some(registry)) => own(&format!("https://{registry}/"))?,
            (None, None) => return Ok(None),
        };
        below(&base, &["oauth2", "exchange"]).map(Some)
    }
}

/// The URL of an override, checked.
fn overridden(name: &str, text: Option<&str>) -> Result<Option<Url>, Error> {
    let Some(text) = text else { return Ok(None) };
    let bad = |reason: &str| Error::bad_request(name, reason);
    let url =
        Url::parse(text).map_err(|_| bad("must be an absolute URL, such as https://endpoint.example.com"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("must have no user name and no password in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("must have no query and no fragment"));
    }
    if !may_speak(&url) {
        return Err(bad("must be https, or http on this machine (localhost, 127.0.0.0/8, [::1])"));
    }
    Ok(Some(url))
}

/// Whether credentials may be sent to a URL at all: https, or http to this machine.
pub(crate) fn may_speak(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        },
        _ => false,
    }
}

/// A URL of ours.
fn own(text: &str) -> Result<Url, Error> {
    Url::parse(text).map_err(|_| Error::new(Code::Internal, "the URL of a cloud's endpoint is none"))
}

/// A path below a base URL, each component escaped.
fn below(base: &Url, components: &[&str]) -> Result<Url, Error> {
    let mut url = base.clone();
    url.path_segments_mut()
        .map_err(|()| Error::new(Code::Internal, "the URL of an endpoint has no path"))?
        .pop_if_empty()
        .extend(components);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Vendor, vendor};

    #[test]
    fn overrides_are_checked() {
        let good = [
            "https://ecr.example.com",
            "https://ecr.example.com:8443/base/",
            "http://127.0.0.1:5555",
            "http://127.9.8.7",
            "http://localhost:1/x",
            "http://[::1]:5555",
        ];
        for text in good {
            let endpoints = Endpoints { ecr: Some(text.into()), ..Endpoints::default() };
            assert_eq!(endpoints.validate(), Ok(()), "{text}");
        }
        let bad = [
            ("", "absolute URL"),
            ("127.0.0.1:5555", "absolute URL"),
            ("ecr.example.com", "absolute URL"),
            ("http://ecr.example.com", "must be https"),
            ("http://10.0.0.1", "must be https"),
            ("http://localhost.example.com", "must be https"),
            ("http://127.0.0.1.example.com", "must be https"),
            ("ftp://127.0.0.1", "must be https"),
            ("file:///etc/passwd", "must be https"),
            ("https://u@ecr.example.com", "no user name"),
            ("https://u:p@ecr.example.com", "no user name"),
            ("https://ecr.example.com?a=b", "no query"),
            ("https://ecr.example.com/#f", "no query"),
        ];
        type Field = fn(&mut Endpoints) -> &mut Option<String>;
        let fields: [(&str, Field); 5] = [
            ("endpoints.ecr: ", |endpoints| &mut endpoints.ecr),
            ("endpoints.ecr_public: ", |endpoints| &mut endpoints.ecr_public),
            ("endpoints.gcp: ", |endpoints| &mut endpoints.gcp),
            ("endpoints.azure: ", |endpoints| &mut endpoints.azure),
            ("endpoints.acr: ", |endpoints| &mut endpoints.acr),
        ];
        for (text, reason) in bad {
            for (name, field) in fields {
                let mut endpoints = Endpoints::default();
                *field(&mut endpoints) = Some(text.into());
                let error = endpoints.validate().unwrap_err();
                assert!(
                    error.message.starts_with(name) && error.message.contains(reason),
                    "{text}: {}",
                    error.message
                );
            }
        }
    }

    fn ecr(registry: &str) -> EcrHost {
        match vendor(registry) {
            Some(Vendor::Ecr(host)) => host,
            other => panic!("{registry}: {other:?}"),
        }
    }

    #[test]
    fn the_clouds_own() {
        let none = Endpoints::default();
        let table = [
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "https://api.ecr.eu-west-1.amazonaws.com/"),
            (
                "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com",
                "https://ecr-fips.us-east-1.amazonaws.com/",
            ),
            (
                "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "https://api.ecr.cn-north-1.amazonaws.com.cn/",
            ),
        ];
        for (registry, url) in table {
            assert_eq!(none.ecr(&ecr(registry)).unwrap().as_str(), url);
        }
        assert_eq!(none.ecr_public().unwrap().as_str(), "https://api.ecr-public.us-east-1.amazonaws.com/");
        assert_eq!(none.gcp().unwrap().as_str(), GOOGLE_TOKEN_URI);
        assert_eq!(
            none.azure(AzureCloud::Public, "contoso.example").unwrap().as_str(),
            "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
        );
        assert_eq!(
            none.azure(AzureCloud::Government, "t").unwrap().host_str(),
            Some("login.microsoftonline.us")
        );
        assert_eq!(
            none.azure(AzureCloud::China, "t").unwrap().host_str(),
            Some("login.partner.microsoftonline.cn")
        );
        assert_eq!(
            none.acr(Some("contoso.azurecr.io")).unwrap().unwrap().as_str(),
            "https://contoso.azurecr.io/oauth2/exchange"
        );
        assert_eq!(none.acr(None), Ok(None));
    }

    #[test]
    fn the_operators() {
        let base = |path: &str| Some(format!("http://127.0.0.1:5555{path}"));
        let endpoints = Endpoints {
            ecr: base(""),
            ecr_public: base("/public/"),
            gcp: base("/token"),
            azure: base("/login/"),
            acr: base(""),
        };
        let host = ecr("123456789012.dkr.ecr.eu-west-1.amazonaws.com");
        assert_eq!(endpoints.ecr(&host).unwrap().as_str(), "http://127.0.0.1:5555/");
        assert_eq!(endpoints.ecr_public().unwrap().as_str(), "http://127.0.0.1:5555/public/");
        assert_eq!(endpoints.gcp().unwrap().as_str(), "http://127.0.0.1:5555/token");
        assert_eq!(
            endpoints.azure(AzureCloud::China, "a/b").unwrap().as_str(),
            "http://127.0.0.1:5555/login/a%2Fb/oauth2/v2.0/token"
        );
        assert_eq!(
            endpoints.acr(Some("contoso.azurecr.io")).unwrap().unwrap().as_str(),
            "http://127.0.0.1:5555/oauth2/exchange"
        );
    }
}
