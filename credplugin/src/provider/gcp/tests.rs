use jsonwebtoken::{DecodingKey, Validation};

use super::*;
use crate::http::tests::{Server, json as answer};
use crate::{Code, Endpoints};

/// Keys made for these tests; nobody accepts them.
const PKCS8: &str = include_str!("pkcs8.pem");
const PKCS1: &str = include_str!("pkcs1.pem");
const PUBLIC: &str = include_str!("public.pem");

const REGISTRY: &str = "europe-docker.pkg.dev";

fn account(change: impl FnOnce(&mut serde_json::Value)) -> CredentialMap {
    let mut account = serde_json::json!({
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "pl4nted-key-id",
        "private_key": PKCS8,
        "client_email": "puller@p.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    change(&mut account);
    [(GOOGLE_JSON, account.to_string())].into_iter().collect()
}

fn plan(registry: &str, keys: &CredentialMap, endpoints: &Endpoints) -> Result<Plan, Error> {
    super::plan(&Target { registry, named: true, endpoints }, keys)
}

fn at(server: &Server) -> Endpoints {
    Endpoints { gcp: Some(format!("{}token", server.url)), ..Endpoints::default() }
}

#[derive(serde::Deserialize)]
struct Seen {
    iss: String,
    scope: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// The claims of a form that was sent, its signature checked.
fn claims(request: &str) -> Seen {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let form = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect::<Vec<_>>();
    assert_eq!(form[0], ("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into()));
    assert_eq!((form[1].0.as_str(), form.len()), ("assertion", 2));
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.set_audience(&[GOOGLE_TOKEN_URI]);
    let key = DecodingKey::from_rsa_pem(PUBLIC.as_bytes()).unwrap();
    let token = jsonwebtoken::decode::<Seen>(&form[1].1, &key, &validation).unwrap();
    assert_eq!(token.header.kid.as_deref(), Some("pl4nted-key-id"));
    token.claims
}

#[tokio::test]
async fn exchanges_a_service_account() {
    for key in [PKCS8, PKCS1] {
        let server = Server::new(&[&answer(
            "200 OK",
            "",
            r#"{"access_token":"pl4nted-google","expires_in":3599,"token_type":"Bearer"}"#,
        )])
        .await;
        let keys = account(|account| account["private_key"] = key.into());
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (scheme, life) =
            plan(REGISTRY, &keys, &at(&server)).unwrap().run(&Http::default()).await.unwrap();
        let Scheme::Basic { username, password } = scheme else { panic!("{scheme:?}") };
        assert_eq!((username.as_str(), password.expose_secret()), ("oauth2accesstoken", "pl4nted-google"));
        assert_eq!(life.unwrap().as_secs(), 3599);
        let seen = server.seen();
        assert!(seen[0].starts_with("POST /token HTTP/1.1\r\n"), "{}", seen[0]);
        let claims = claims(&seen[0]);
        assert_eq!(claims.iss, "puller@p.iam.gserviceaccount.com");
        assert_eq!((claims.scope.as_str(), claims.aud.as_str()), (SCOPE, GOOGLE_TOKEN_URI));
        assert!(claims.iat >= before && claims.exp == claims.iat + 3600);
    }
}

#[tokio::test]
async fn asserts_again_with_the_servers_clock() {
    let skewed = answer(
        "400 Bad Request",
        "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n",
        r#"{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token"}"#,
    );
    let good = answer("200 OK", "", r#"{"access_token":"t"}"#);
    let server = Server::new(&[&skewed, &good]).await;
    let run = plan(REGISTRY, &account(|_| {}), &at(&server)).unwrap();
    assert_eq!(run.run(&Http::default()).await.unwrap().1, Some(Duration::from_secs(60)));
    let seen = server.seen();
    assert_eq!(claims(&seen[1]).iat, 1_800_000_000);
    let server = Server::new(&[&skewed]).await;
    let run = plan(REGISTRY, &account(|_| {}), &at(&server)).unwrap();
    let error = run.run(&Http::default()).await.err().unwrap();
    assert_eq!((error.code, server.seen().len()), (Code::Denied, 2));
}

#[test]
fn accounts_that_are_refused() {
    let raw = |text: &str| [(GOOGLE_JSON, text)].into_iter().collect::<CredentialMap>();
    let with = |key: &'static str, value: &'static str| account(|account| account[key] = value.into());
    let table = [
        (raw("/var/run/secrets/key.json"), "must hold the JSON itself, not a path"),
        (raw("key.json"), "must hold the JSON itself, not a path"),
        (raw("{\"type\":"), GOOGLE_JSON),
        (raw("{}"), ".type: not found or empty"),
        (with("type", "external_account"), "external_account is not accepted"),
        (with("type", "authorized_user"), "authorized_user is not accepted"),
        (with("type", "impersonated_service_account"), "impersonated_service_account is not accepted"),
        (with("type", "pl4nted-type"), "only service_account is accepted"),
        (with("token_uri", "https://evil.example/token"), ".token_uri: is not Google's"),
        (with("token_uri", "https://oauth2.googleapis.com.evil/token"), ".token_uri: is not Google's"),
        (with("token_uri", "http://oauth2.googleapis.com/token"), ".token_uri: is not Google's"),
        (with("client_email", ""), ".client_email: not found or empty"),
        (with("private_key", "pl4nted-no-key"), ".private_key: is no RSA key"),
        (with("private_key", PUBLIC), ".private_key: is no RSA key"),
        (account(|account| account["private_key"] = 7.into()), ".private_key: expected a string"),
    ];
    for (keys, message) in table {
        let error = plan(REGISTRY, &keys, &Endpoints::default()).err().unwrap();
        assert_eq!(error.code, Code::BadRequest);
        assert!(error.message.contains(message), "{message}: {}", error.message);
        assert!(!error.message.contains("pl4nted-"), "{}", error.message);
    }
    for uri in TOKEN_URIS.into_iter().chain([""]) {
        let keys = account(|account| account["token_uri"] = uri.into());
        let Plan::Gcp(account) = plan(REGISTRY, &keys, &Endpoints::default()).unwrap() else {
            panic!("no account")
        };
        assert_eq!(account.url.as_str(), GOOGLE_TOKEN_URI, "{uri}");
    }
}

#[test]
fn tokens_and_their_registries() {
    let none = Endpoints::default();
    let emulator = Endpoints { gcp: Some("http://127.0.0.1:5".into()), ..Endpoints::default() };
    let token =
        [(GOOGLE_TOKEN, "pl4nted-token"), ("GCP_PROJECT_ID", "p")].into_iter().collect::<CredentialMap>();
    for (registry, endpoints) in
        [(REGISTRY, &none), ("gcr.io", &none), ("eu.gcr.io", &none), ("127.0.0.1:5000", &emulator)]
    {
        assert!(
            matches!(plan(registry, &token, endpoints), Ok(Plan::Ready(Scheme::Basic { .. }))),
            "{registry}"
        );
    }
    for (registry, endpoints) in [
        ("gcr.io.evil.example", &none),
        ("127.0.0.1:5000", &none),
        ("r.example.com", &emulator),
        ("gcr.io:443", &none),
    ] {
        assert_eq!(plan(registry, &token, endpoints).err().unwrap().code, Code::NotFound, "{registry}");
    }
    let broken = [(GOOGLE_TOKEN, "a\r\nb")].into_iter().collect();
    assert_eq!(plan(REGISTRY, &broken, &none).err().unwrap().code, Code::BadRequest);
    let project = [("GCP_PROJECT_ID", "p")].into_iter().collect();
    let error = plan(REGISTRY, &project, &none).err().unwrap();
    assert_eq!(error.message, "GCP_ACCESS_TOKEN or GOOGLE_APPLICATION_CREDENTIALS not found or empty");
}
