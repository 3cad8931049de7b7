//! Clouds' and vendors' credentials from request to read: exchanged at the clouds' endpoints (fixtures on loopback, named in the settings) for
//! what a private registry takes, which lets in holders of what was issued and nobody else.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fixtures::cloud::{Acr, Ecr, Entra, Google, Server, ServiceAccount};
use fixtures::images;
use fixtures::layer::Compress;
use fixtures::registry::{Auth, Bearer, Registry, RegistryConfig};
use fixtures::secret::secret;
use serde_json::{Value, json};

use crate::credentials::{mounts, refused};
use crate::requests::{anonymous_blobs, credplugin, request_with};
use crate::rotation::keep_reading;
use crate::support::Sandbox;

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const GAR: &str = "europe-docker.pkg.dev";
const ACR: &str = "myteam.azurecr.io";
const GITHUB: &str = "ghcr.io";

const KEY_ID: &str = "AKIAFIXTURES";

/// A registry that nobody has a password for, with the small image.
fn locked(tokens: bool) -> Arc<Registry> {
    let auth = if tokens {
        Auth::Bearer(Bearer { users: Vec::new(), ..Bearer::new("", "") })
    } else {
        Auth::basic("nobody", &secret("nobody's password"))
    };
    let registry = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() });
    registry.push(&images::small(), "team/app", "1");
    Arc::new(registry)
}

/// All clouds, each with a registry that takes what it issues.
struct Clouds {
    ecr: Ecr,
    google: Google,
    account: ServiceAccount,
    entra: Entra,
    acr: Acr,
    ecr_registry: Arc<Registry>,
    google_registry: Arc<Registry>,
}

impl Clouds {
    fn start() -> Self {
        let ip = |last| Ipv4Addr::new(127, 0, 0, last);
        let ecr = Ecr::start(ip(12));
        ecr.enroll(KEY_ID, &secret("aws key"), Some(&secret("aws session")));
        // As the real ones: Amazon's with Basic, Google's and Microsoft's with tokens.
        let (ecr_registry, google_registry) = (locked(false), locked(true));
        ecr.admit_to(&ecr_registry);
        let (google, account) = (Google::start(ip(13)), ServiceAccount::new("e2e"));
        google.enroll(&account);
        google.admit_to(&google_registry);
        let entra = Entra::start(ip(14));
        let acr = Acr::start(ip(15), &entra);
        acr.call_it(ACR);
        acr.registry().push(&images::small(), "team/app", "1");
        Self { ecr, google, account, entra, acr, ecr_registry, google_registry }
    }

    /// A sandbox whose settings name these endpoints.
    fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::new();
        sandbox.add_settings(&format!(
            "[endpoints]\necr = {:?}\ngcp = {:?}\nazure = {:?}\nacr = {:?}\n",
            self.ecr.server().url(),
            self.google.url(),
            self.entra.server().url(),
            self.acr.server().url(),
        ));
        sandbox
    }

    fn aws(&self) -> Value {
        json!({
            "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret("aws key"),
            "AWS_SESSION_TOKEN": secret("aws session"), "AWS_REGION": "eu-west-1",
        })
    }

    fn gcp(&self) -> Value {
        json!({ "GOOGLE_APPLICATION_CREDENTIALS": self.account.value().to_string() })
    }

    fn azure(&self) -> Value {
        json!({
            "AZURE_CLIENT_ID": self.entra.client_id(), "AZURE_CLIENT_SECRET": self.entra.client_secret(),
            "AZURE_TENANT_ID": self.entra.tenant(),
        })
    }

    fn servers(&self) -> [(&'static str, &Server); 4] {
        [
            ("aws", self.ecr.server()),
            ("gcp", self.google.server()),
            ("azure", self.entra.server()),
            ("azure", self.acr.server()),
        ]
    }

    /// The endpoints of one cloud were asked, and no others; all forget it.
    fn assert_only_asked(&self, kind: &str) {
        for (cloud, server) in self.servers() {
            assert_eq!(!server.log().is_empty(), cloud == kind, "{kind}: requests to {}", server.url());
            server.reset_log();
        }
    }
}

/// Has a name served by a registry on this machine, as the operator says in `hosts.toml`; the directory of all of them.
fn host(sandbox: &Sandbox, name: &str, registry: &Registry) -> String {
    let hosts = sandbox.path("hosts");
    fs::create_dir_all(hosts.join(name)).unwrap();
    let text = format!("server = \"http://{}\"\nsend_credentials = true\n", registry.addr());
    fs::write(hosts.join(name).join("hosts.toml"), text).unwrap();
    hosts.display().to_string()
}

fn wrapped(registry: &str, kind: &str, credentials: &Value) -> String {
    request_with(&json!({"registry": registry, "type": kind, "credentials": credentials}).to_string())
}

/// Mounts with the credentials of a request, in this process and by the plugin.
fn mounts_both_ways(
    sandbox: &mut Sandbox,
    clouds: &Clouds,
    registry: &Registry,
    case: (&str, &str, String),
    args: &[&str],
) {
    let (name, kind, request) = case;
    let file = sandbox.write_secret("request.json", request).display().to_string();
    for plugin in [&[][..], &["--credential-plugin", credplugin().to_str().unwrap()]] {
        let args = [&["--request", &file], plugin, args].concat();
        mounts(sandbox, &format!("{name}/team/app:1"), &args, None);
        clouds.assert_only_asked(kind);
        assert_eq!(anonymous_blobs(registry), 0, "{name}");
        registry.reset_log();
    }
}

#[test]
fn emulated_registries_on_this_machine() {
    let clouds = Clouds::start();
    let mut sandbox = clouds.sandbox();
    let vendors = locked(true);
    vendors.admit("robot", &secret("a vendor's token"), None);
    let token = json!({"GITLAB_USERNAME": "robot", "GITLAB_TOKEN": secret("a vendor's token")});
    let table = [
        ("aws", clouds.aws(), &*clouds.ecr_registry),
        ("gcp", clouds.gcp(), &clouds.google_registry),
        ("azure", clouds.azure(), clouds.acr.registry()),
        ("token", token, &vendors),
    ];
    for (kind, credentials, registry) in table {
        let name = registry.addr().to_string();
        let request = wrapped(&name, kind, &credentials);
        mounts_both_ways(&mut sandbox, &clouds, registry, (&name, kind, request), &[]);
    }
}

#[test]
fn the_clouds_own_names() {
    let clouds = Clouds::start();
    let mut sandbox = clouds.sandbox();
    let (github, google_keys) = (locked(true), locked(false));
    github.admit("x-access-token", &secret("github token"), None);
    // A key as the console gives it out; the registry takes the same in one line.
    let key = clouds.account.value();
    google_keys.admit("_json_key", &key.to_string(), None);
    let json_key = json!({"USERNAME": "_json_key", "PASSWORD": serde_json::to_string_pretty(&key).unwrap()});
    let table = [
        (ECR, "aws", clouds.aws(), &*clouds.ecr_registry),
        (GAR, "gcp", clouds.gcp(), &clouds.google_registry),
        ("eu.gcr.io", "gcp", clouds.gcp(), &clouds.google_registry),
        (ACR, "azure", clouds.azure(), clouds.acr.registry()),
        (GITHUB, "token", json!({"GITHUB_TOKEN": secret("github token")}), &github),
        (GAR, "basic", json_key, &google_keys),
    ];
    for (name, kind, credentials, registry) in table {
        let hosts = host(&sandbox, name, registry);
        let forms = [wrapped(name, kind, &credentials), request_with(&credentials.to_string())];
        for request in forms {
            mounts_both_ways(
                &mut sandbox,
                &clouds,
                registry,
                (name, kind, request),
                &["--hosts-dir", &hosts],
            );
        }
    }
}

#[test]
fn look_alikes_get_nothing_and_nobody_is_asked() {
    let clouds = Clouds::start();
    let mut sandbox = clouds.sandbox();
    let evil = locked(false);
    let plugin = credplugin().to_str().unwrap();
    let table = [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example", ECR, "aws", clouds.aws()),
        ("123456789012-dkr.ecr.eu-west-1.amazonaws.com", ECR, "aws", clouds.aws()),
        ("12345678901.dkr.ecr.eu-west-1.amazonaws.com", ECR, "aws", clouds.aws()),
        ("europe-docker.pkg.dev.evil.example", GAR, "gcp", clouds.gcp()),
        ("evil-gcr.io", "eu.gcr.io", "gcp", clouds.gcp()),
        ("europe-docker.pkg.dev:443", GAR, "gcp", clouds.gcp()),
        ("myteam.azurecr.io.evil.example", ACR, "azure", clouds.azure()),
        ("azurecr.io", ACR, "azure", clouds.azure()),
    ];
    for (name, real, kind, credentials) in table {
        let hosts = host(&sandbox, name, &evil);
        let requests = [
            request_with(&credentials.to_string()),
            wrapped(name, kind, &credentials),
            wrapped(real, kind, &credentials),
        ];
        for request in requests {
            let file = sandbox.write_secret("request.json", request).display().to_string();
            let image = format!("{name}/team/app:1");
            for source in [&[][..], &["--credential-plugin", plugin]] {
                let args = [&["--request", &file, "--hosts-dir", &hosts], source].concat();
                refused(&sandbox, &image, &args, 66, name);
            }
        }
    }
    clouds.assert_only_asked("nobody");
    assert!(evil.log().iter().all(|request| request.authorization().is_none()), "something was presented");
    assert_eq!(anonymous_blobs(&evil), 0);
}

#[test]
fn refusals_of_a_cloud_are_told_at_mount() {
    let clouds = Clouds::start();
    let mut sandbox = clouds.sandbox();
    let (ecr, google, azure) =
        (clouds.ecr_registry.addr(), clouds.google_registry.addr(), clouds.acr.registry().addr());
    let requests = [
        (ecr, wrapped(&ecr.to_string(), "aws", &clouds.aws())),
        (google, wrapped(&google.to_string(), "gcp", &clouds.gcp())),
        (azure, wrapped(&azure.to_string(), "azure", &clouds.azure())),
    ];
    // Right until a moment ago.
    clouds.ecr.revoke(KEY_ID);
    clouds.google.revoke(&clouds.account);
    let _ = clouds.entra.rotate();
    for (registry, request) in requests {
        let file = sandbox.write_secret("request.json", request).display().to_string();
        for source in [&[][..], &["--credential-plugin", credplugin().to_str().unwrap()]] {
            let args = [&["--request", &file], source].concat();
            refused(&sandbox, &format!("{registry}/team/app:1"), &args, 77, "refuse");
        }
    }
}

#[test]
fn a_clouds_token_that_ends_never_ends_a_reader() {
    const SIZE: u64 = 96 << 20;
    const LIFE: u64 = 4;
    for plugin in [&[][..], &["--credential-plugin", credplugin().to_str().unwrap()]] {
        let clouds = Clouds::start();
        let mut sandbox = clouds.sandbox();
        let registry = locked(false);
        registry.push(&images::one_big_file(SIZE, Compress::Gzip { level: 1 }), "team/big", "1");
        clouds.google.admit_to(&registry);
        clouds.google.set_expires_in(LIFE.into());
        let hosts = host(&sandbox, GAR, &registry);
        let file =
            sandbox.write_secret("request.json", wrapped(GAR, "gcp", &clouds.gcp())).display().to_string();
        let args = ["--request", &file, "--hosts-dir", &hosts, "--memory", "1MiB", "--cache-size", "1MiB"];
        let mountpoint = sandbox.mount(&format!("{GAR}/team/big:1"), &[&args, plugin].concat());
        let issued = clouds.google.issued();
        let (stop, errors) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| keep_reading(&mountpoint.join("big"), SIZE, &stop, &errors));
            std::thread::sleep(Duration::from_secs(3 * LIFE));
            stop.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 5);
        });
        assert_eq!(errors.load(Ordering::Relaxed), 0, "{plugin:?}");
        // The registry lets nobody in with a token of three lives ago.
        assert!(clouds.google.issued() >= issued + 2, "{} after {issued}", clouds.google.issued());
        let status = sandbox.status(&mountpoint);
        assert_eq!((&status["state"], &status["read_errors"]), (&"ok".into(), &0.into()));
    }
}
