//! Google: access tokens, and service accounts whose signature is checked.

use credplugin::{Code, ContainerRequest};
use fixtures::cloud::{GOOGLE_TOKEN_URI, ServiceAccount};
use fixtures::secret::secret;
use serde_json::{Value, json};

use crate::support::{ACR, Clouds, GAR, ask, assert_lives, basic, fails, request};

const KEY: &str = "GOOGLE_APPLICATION_CREDENTIALS";

fn with_account(registry: &str, file: &str) -> ContainerRequest {
    request(registry, "gcp", &[(KEY, file)])
}

#[tokio::test]
async fn a_service_account_signs_for_a_token() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    clouds.google.enroll(&account);
    let file = account.value().to_string();
    for host in [GAR, "gcr.io", "eu.gcr.io", "europe-west3-docker.pkg.dev", "127.0.0.1:5000"] {
        let answer = ask(host, &with_account(host, &file), &clouds.endpoints()).await;
        let answer = answer.unwrap_or_else(|e| panic!("{host}: {e}"));
        assert_eq!(basic(&answer), ("oauth2accesstoken", &*clouds.google.token()), "{host}");
        assert_lives(&answer, 3599);
    }
    let log = clouds.google.server().log();
    assert_eq!(log.len(), 5);
    assert!(log.iter().all(|seen| !account.leaked_in(&seen.bytes())));
    clouds.assert_only(&[clouds.google.server()]);
}

#[tokio::test]
async fn odd_lifetimes_become_a_minute() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    clouds.google.enroll(&account);
    let request = with_account(GAR, &account.value().to_string());
    for (expires_in, want) in [
        (json!(300), 300),
        (json!(0), 60),
        (json!(-1), 60),
        (json!("3599"), 60),
        (json!(1e18), 43_200),
        (json!(1_000_000_000_000_000_000_u64), 43_200),
        (json!({}), 60),
        (Value::Null, 60),
    ] {
        clouds.google.set_expires_in(expires_in.clone());
        let answer = ask(GAR, &request, &clouds.endpoints()).await;
        let answer = answer.unwrap_or_else(|e| panic!("expires_in {expires_in}: {e}"));
        let life = answer.valid_for.map(|life| life.as_secs());
        // A float or a number in a string may be read or not: never longer than the cap, never shorter than a minute.
        if expires_in.is_f64() || expires_in.is_string() {
            assert!(life.is_some_and(|life| (59..=43_200).contains(&life)), "{expires_in}: {life:?}");
        } else {
            assert_lives(&answer, want);
        }
    }
}

#[tokio::test]
async fn wrong_revoked_and_unknown_keys_are_denied() {
    let clouds = Clouds::start();
    let (account, gone) = (ServiceAccount::new("puller"), ServiceAccount::new("gone"));
    clouds.google.enroll(&account);
    clouds.google.enroll(&gone);
    clouds.google.revoke(&gone);
    let wrong = account.rotated();
    // The right key's id with another key.
    let forged = account.with(&[("private_key", wrong.value()["private_key"].clone())]);
    for (name, file) in
        [("rotated", wrong.value().to_string()), ("forged", forged), ("revoked", gone.value().to_string())]
    {
        let error = fails(ask(GAR, &with_account(GAR, &file), &clouds.endpoints()).await, Code::Denied);
        for account in [&account, &wrong, &gone] {
            assert!(!account.leaked_in(error.message.as_bytes()), "{name}: {}", error.message);
        }
    }
    // The rotated key once Google knows it.
    clouds.google.enroll(&wrong);
    ask(GAR, &with_account(GAR, &wrong.value().to_string()), &clouds.endpoints()).await.unwrap();
    clouds.assert_only(&[clouds.google.server()]);
}

/// Nothing that could make the node read a file, run a program or call another host is as much as tried.
#[tokio::test]
async fn what_is_no_service_account_is_refused_before_a_packet_is_sent() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    clouds.google.enroll(&account);
    let elsewhere = fixtures::cloud::Server::always(
        std::net::Ipv4Addr::new(127, 0, 0, 16),
        fixtures::cloud::Reply::json(200, &json!({ "access_token": "x", "expires_in": 3600 })),
    );
    let url = format!("{}/token", elsewhere.url());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), account.value().to_string()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let external = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/x", "token_url": url,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "credential_source": { "url": url, "file": path, "executable": { "command": "/bin/false" } },
    });
    let user = json!({ "type": "authorized_user", "client_id": "x", "client_secret": secret("user"), "refresh_token": secret("refresh") });
    let impersonated = json!({ "type": "impersonated_service_account", "service_account_impersonation_url": url, "source_credentials": user });
    let not_pem = secret("not a key");
    for (name, credentials) in [
        ("external_account", external.to_string()),
        ("authorized_user", user.to_string()),
        ("impersonated", impersonated.to_string()),
        ("token_uri elsewhere", account.with(&[("token_uri", json!(url))])),
        (
            "token_uri like Google's",
            account.with(&[("token_uri", json!("https://oauth2.googleapis.com.evil.example/token"))]),
        ),
        (
            "token_uri with a user",
            account.with(&[("token_uri", json!("https://oauth2.googleapis.com@127.0.0.16/token"))]),
        ),
        (
            "token_uri on plain http",
            account.with(&[("token_uri", json!(GOOGLE_TOKEN_URI.replace("https", "http")))]),
        ),
        ("a path", path.clone()),
        ("a file URL", format!("file://{path}")),
        ("no type", account.with(&[("type", Value::Null)])),
        ("no key", account.with(&[("private_key", Value::Null)])),
        ("a key that is none", account.with(&[("private_key", json!(not_pem))])),
        (
            "a truncated key",
            account.with(&[("private_key", json!(&account.value()["private_key"].as_str().unwrap()[..400]))]),
        ),
        ("no e-mail", account.with(&[("client_email", json!(""))])),
        ("truncated", account.value().to_string()[..900].to_owned()),
        ("an array", format!("[{}]", account.value())),
    ] {
        let error =
            fails(ask(GAR, &with_account(GAR, &credentials), &clouds.endpoints()).await, Code::BadRequest);
        assert!(error.message.contains(KEY), "{name}: {}", error.message);
        assert!(!error.message.contains(&path), "{name}: {}", error.message);
        assert!(!account.leaked_in(error.message.as_bytes()), "{name}: {}", error.message);
    }
    clouds.assert_only(&[]);
    assert_eq!(elsewhere.log(), []);
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_does_not_matter() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    clouds.google.enroll(&account);
    let request = with_account(GAR, &account.value().to_string());
    // An hour ahead is within what is allowed for at the end of an assertion that lives an hour.
    for (fast, asked) in [(3600, 1), (-3600, 2), (7200, 2)] {
        clouds.google.server().set_clock(fast);
        clouds.google.server().reset_log();
        let answer = ask(GAR, &request, &clouds.endpoints()).await;
        let answer = answer.unwrap_or_else(|e| panic!("{fast} s fast: {e}"));
        assert_lives(&answer, 3599);
        assert_eq!(clouds.google.server().log().len(), asked, "{fast} s fast");
    }
}

/// An access token is used as it is: there is nobody to ask.
#[tokio::test]
async fn an_access_token_is_passed_on() {
    let clouds = Clouds::start();
    let token = format!("ya29.{}", secret("google"));
    let answer = ask(GAR, &request(GAR, "gcp", &[("GCP_ACCESS_TOKEN", &token)]), &clouds.endpoints()).await;
    assert_eq!(basic(&answer.unwrap()), ("oauth2accesstoken", &*token));
    clouds.assert_only(&[]);
}

#[tokio::test]
async fn other_hosts_get_nothing() {
    let clouds = Clouds::start();
    let account = ServiceAccount::new("puller");
    clouds.google.enroll(&account);
    let (file, token) = (account.value().to_string(), secret("google"));
    for host in ["gcr.io.evil.example", "evilgcr.io", "pkg.dev.evil.example", "registry.example.com", ACR] {
        for credentials in [(KEY, &*file), ("GCP_ACCESS_TOKEN", &*token)] {
            let error =
                ask(host, &request(host, "gcp", &[credentials]), &clouds.endpoints()).await.unwrap_err();
            assert!(matches!(error.code, Code::NotFound | Code::BadRequest), "{host}: {error:?}");
        }
    }
    clouds.assert_only(&[]);
}
