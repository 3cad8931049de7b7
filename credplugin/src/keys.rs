//! The names of the keys that credentials have: one table for telling types apart and for using them.

use crate::host::Vendor;

/// Keys of user name and password for any registry, the ones that win first.
pub(crate) const USERS: [(&str, &str); 3] = [
    ("REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
    ("USERNAME", "PASSWORD"),
];

/// Amazon's: id and secret.
pub(crate) const AWS: (&str, &str) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");

/// What comes beside these where they are lent.
pub(crate) const AWS_SESSION: &str = "AWS_SESSION_TOKEN";

/// Azure's: id and secret.
pub(crate) const AZURE: (&str, &str) = ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET");

/// Whose Azure's are.
pub(crate) const AZURE_TENANT: &str = "AZURE_TENANT_ID";

/// An access token of Google's.
pub(crate) const GOOGLE_TOKEN: &str = "GCP_ACCESS_TOKEN";

/// The JSON of a service account of Google's.
pub(crate) const GOOGLE_JSON: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// All of Google's: any of them says what these are.
pub(crate) const GOOGLE: [&str; 3] = [GOOGLE_TOKEN, GOOGLE_JSON, "GCP_PROJECT_ID"];

/// A vendor's keys.
pub(crate) struct VendorKeys {
    pub(crate) vendor: Vendor,
    /// Its hosts, for messages.
    pub(crate) hosts: &'static str,
    /// Key of the user name; `None` = it is always [`VendorKeys::any`].
    pub(crate) user: Option<&'static str>,
    /// Key of the token.
    pub(crate) token: &'static str,
    /// Key of a password, which counts where there is no token, and makes a user name and password of them.
    pub(crate) password: Option<&'static str>,
    /// The user name where none is given; `None` = there must be one.
    pub(crate) any: Option<&'static str>,
    /// What an operator may not know.
    pub(crate) hint: &'static str,
}

/// Sources: the vendors' pages on `docker login`.
///
/// GitHub looks at the token only. GitLab's deploy tokens and Quay's robots are the passwords of *their* names, which cannot be guessed
/// from the token; both vendors have a name for tokens of OAuth2 applications.
pub(crate) const VENDORS: [VendorKeys; 5] = [
    VendorKeys {
        vendor: Vendor::Ngc,
        hosts: "nvcr.io",
        user: None,
        token: "NGC_API_KEY",
        password: None,
        any: Some("$oauthtoken"),
        hint: "",
    },
    VendorKeys {
        vendor: Vendor::GitHub,
        hosts: "ghcr.io",
        user: Some("GITHUB_USERNAME"),
        token: "GITHUB_TOKEN",
        password: None,
        any: Some("x-access-token"),
        hint: "",
    },
    VendorKeys {
        vendor: Vendor::GitLab,
        hosts: "registry.gitlab.com",
        user: Some("GITLAB_USERNAME"),
        token: "GITLAB_TOKEN",
        password: None,
        any: None,
        hint: " (the user name of an OAuth2 token is oauth2)",
    },
    VendorKeys {
        vendor: Vendor::Quay,
        hosts: "quay.io",
        user: Some("QUAY_USERNAME"),
        token: "QUAY_TOKEN",
        password: None,
        any: None,
        hint: " (the user name of an OAuth2 token is $oauthtoken)",
    },
    VendorKeys {
        vendor: Vendor::DockerHub,
        hosts: "docker.io",
        user: Some("DOCKERHUB_USERNAME"),
        token: "DOCKERHUB_TOKEN",
        password: Some("DOCKERHUB_PASSWORD"),
        any: None,
        hint: "",
    },
];
