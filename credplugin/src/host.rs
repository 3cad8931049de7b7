//! Which vendor a registry host belongs to: matched whole and anchored, never as a substring.
//!
//! Matched by hand, label by label: `evil.example/amazonaws.com`, `gcr.io.evil` and `secret.example.com` belong to nobody. No vendor's
//! registry has a port, so a name with one (even `:443`) is none of theirs: a vendor's credentials do not go there.

/// The vendor of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vendor {
    /// Amazon's private registries.
    Ecr(EcrHost),
    /// Amazon's public registry: `public.ecr.aws`, `ecr-public.aws.com`.
    EcrPublic,
    /// Google's Container Registry and Artifact Registry: `gcr.io`, `*.gcr.io`, `*.pkg.dev`.
    Google,
    /// Microsoft's registries: `*.azurecr.io`, `*.azurecr.cn`, `*.azurecr.us`.
    Azure(AzureCloud),
    /// `ghcr.io`, `docker.pkg.github.com`.
    GitHub,
    /// `registry.gitlab.com`, `gitlab.com`. Self-hosted ones look like any other registry.
    GitLab,
    /// `quay.io`.
    Quay,
    /// NVIDIA's `nvcr.io`.
    Ngc,
    /// `docker.io`.
    DockerHub,
}

/// What the host of a private ECR registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcrHost {
    /// The account, twelve digits.
    pub account: String,
    /// The region, e.g. `us-east-1`: tokens are asked for there.
    pub region: String,
    /// Whether it is a FIPS endpoint.
    pub fips: bool,
    /// Where Amazon's names end there.
    pub suffix: &'static EcrSuffix,
}

impl EcrHost {
    /// The host of the API that gives out tokens for this registry.
    ///
    /// Source: the endpoint rules of Amazon's SDKs for `ecr` (`api.ecr.{region}.{suffix}`, `ecr-fips.{region}.{suffix}` in the commercial
    /// and the government partition, `ecr.{region}.{dual-stack suffix}`).
    #[must_use]
    pub fn api_host(&self) -> String {
        let fips = if self.fips { "-fips" } else { "" };
        let short = self.suffix.dual_stack || (self.fips && self.suffix.partition == "aws");
        let api = if short { "" } else { "api." };
        format!("{api}ecr{fips}.{}.{}", self.region, self.suffix.api)
    }
}

/// One of the endings of ECR's names.
#[derive(Debug, PartialEq, Eq)]
pub struct EcrSuffix {
    /// Amazon's word for the partition; `aws` is also the government's, which has the same names.
    pub partition: &'static str,
    /// The ending of registries.
    pub registry: &'static str,
    /// The ending of the API's names.
    pub api: &'static str,
    /// IPv4 and IPv6: the API has another form of name there.
    pub dual_stack: bool,
}

/// All documented partitions. Source: `ecrPattern` of amazon-ecr-credential-helper (`ecr-login/api`).
const ECR_SUFFIXES: [EcrSuffix; 9] = [
    ecr("aws", "amazonaws.com", "amazonaws.com", false),
    ecr("aws", "on.aws", "api.aws", true),
    ecr("aws-cn", "amazonaws.com.cn", "amazonaws.com.cn", false),
    ecr("aws-cn", "on.amazonwebservices.com.cn", "api.amazonwebservices.com.cn", true),
    ecr("aws-eusc", "amazonaws.eu", "amazonaws.eu", false),
    ecr("aws-iso", "c2s.ic.gov", "c2s.ic.gov", false),
    ecr("aws-iso-b", "sc2s.sgov.gov", "sc2s.sgov.gov", false),
    ecr("aws-iso-e", "cloud.adc-e.uk", "cloud.adc-e.uk", false),
    ecr("aws-iso-f", "csp.hci.ic.gov", "csp.hci.ic.gov", false),
];

const fn ecr(
    partition: &'static str,
    registry: &'static str,
    api: &'static str,
    dual_stack: bool,
) -> EcrSuffix {
    EcrSuffix { partition, registry, api, dual_stack }
}

/// Microsoft's clouds, each with an own login endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AzureCloud {
    /// `azurecr.io`.
    Public,
    /// `azurecr.cn`, run by 21Vianet.
    China,
    /// `azurecr.us`.
    Government,
}

/// Length of the account in the name of an ECR registry.
const ACCOUNT: usize = 12;

/// Lengths of the name of an Azure registry (Microsoft.ContainerRegistry/registries: 5–50 letters and digits).
const AZURE_NAME: std::ops::RangeInclusive<usize> = 5..=50;

/// The vendor of a registry, as [`crate::parse_registry`] names it (upper case is folded); `None` = somebody else's.
#[must_use]
pub fn vendor(registry: &str) -> Option<Vendor> {
    let host = registry.to_ascii_lowercase();
    match host.as_str() {
        "docker.io" => return Some(Vendor::DockerHub),
        "ghcr.io" | "docker.pkg.github.com" => return Some(Vendor::GitHub),
        "registry.gitlab.com" | "gitlab.com" => return Some(Vendor::GitLab),
        "quay.io" => return Some(Vendor::Quay),
        "nvcr.io" => return Some(Vendor::Ngc),
        "public.ecr.aws" | "ecr-public.aws.com" => return Some(Vendor::EcrPublic),
        "gcr.io" => return Some(Vendor::Google),
        _ => {}
    }
    if let Some(label) = host.strip_suffix(".gcr.io").or_else(|| host.strip_suffix(".pkg.dev")) {
        return is_label(label).then_some(Vendor::Google);
    }
    azure(&host).map(Vendor::Azure).or_else(|| ecr_host(&host).map(Vendor::Ecr))
}

/// `NAME.azurecr.io`, or `NAME-HASH.azurecr.io` where the registry has a domain name label.
fn azure(host: &str) -> Option<AzureCloud> {
    let (label, suffix) = host.split_once('.')?;
    let cloud = match suffix {
        "azurecr.io" => AzureCloud::Public,
        "azurecr.cn" => AzureCloud::China,
        "azurecr.us" => AzureCloud::Government,
        _ => return None,
    };
    let (name, hash) = label.split_once('-').unwrap_or((label, "0"));
    let alphanumeric = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = AZURE_NAME.contains(&name.len()) && alphanumeric(name) && alphanumeric(hash);
    (fits && is_label(label)).then_some(cloud)
}

/// `ACCOUNT.dkr.ecr[-fips].REGION.SUFFIX` or `ACCOUNT.dkr-ecr[-fips].REGION.SUFFIX`. Amazon uses the latter where both IP versions are
/// spoken; either is its own under each of its endings, which alone say what the API is called.
fn ecr_host(host: &str) -> Option<EcrHost> {
    let (account, rest) = host.split_once('.')?;
    if account.len() != ACCOUNT || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = rest.strip_prefix("dkr")?;
    let rest = rest.strip_prefix(['.', '-'])?.strip_prefix("ecr")?;
    let (fips, rest) = match rest.strip_prefix("-fips") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
    let suffix = ECR_SUFFIXES.iter().find(|known| known.registry == suffix)?;
    is_label(region).then(|| EcrHost { account: account.to_owned(), region: region.to_owned(), fips, suffix })
}

/// Whether a text is one label of a host name, in lower case.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests;
