use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::Endpoints;
use crate::http::tests::{Server, json};

const REGISTRY: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

fn keys(more: &[(&str, &str)]) -> CredentialMap {
    let own = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "pl4nted-aws-secret")];
    own.into_iter().chain(more.iter().copied()).collect()
}

fn plan(registry: &str, keys: &CredentialMap, endpoints: &Endpoints) -> Result<Plan, Error> {
    Plan::new(&Target { registry, named: true, endpoints }, keys)
}

fn at(server: &Server) -> Endpoints {
    Endpoints { ecr: Some(server.url.to_string()), ..Endpoints::default() }
}

#[test]
fn places() {
    let none = Endpoints::default();
    let emulator = Endpoints { ecr: Some("http://127.0.0.1:5".into()), ..Endpoints::default() };
    let public = Endpoints { ecr_public: Some("http://127.0.0.1:6".into()), ..Endpoints::default() };
    let table = [
        (REGISTRY, &none, "https://api.ecr.eu-west-1.amazonaws.com/", "ecr", "eu-west-1"),
        (
            "public.ecr.aws",
            &none,
            "https://api.ecr-public.us-east-1.amazonaws.com/",
            "ecr-public",
            "us-east-1",
        ),
        (REGISTRY, &emulator, "http://127.0.0.1:5/", "ecr", "eu-west-1"),
        ("127.0.0.1:5000", &emulator, "http://127.0.0.1:5/", "ecr", "ap-south-1"),
        ("localhost", &public, "http://127.0.0.1:6/", "ecr-public", "ap-south-1"),
    ];
    // AWS_REGION does not win over the host's.
    let keys = keys(&[("AWS_REGION", "ap-south-1")]);
    for (registry, endpoints, url, service, region) in table {
        let plan = plan(registry, &keys, endpoints).unwrap();
        assert_eq!(
            (plan.url.as_str(), plan.service.name, plan.region.as_str()),
            (url, service, region),
            "{registry}"
        );
    }
}

#[test]
fn refusals_without_network() {
    let none = Endpoints::default();
    let emulator = Endpoints { ecr: Some("http://127.0.0.1:5".into()), ..Endpoints::default() };
    let whole = keys(&[]);
    let cases = [
        ("r.example.com", whole.clone(), &none, Code::NotFound, "not for r.example.com"),
        ("r.example.com", whole.clone(), &emulator, Code::NotFound, "not for r.example.com"),
        ("docker.io", whole.clone(), &emulator, Code::NotFound, "not for docker.io"),
        ("127.0.0.1:5000", whole.clone(), &none, Code::NotFound, "not for 127.0.0.1:5000"),
        ("127.0.0.1:5000", whole, &emulator, Code::BadRequest, "AWS_REGION not found or empty"),
        (
            "127.0.0.1:5000",
            keys(&[("AWS_REGION", "x.evil/")]),
            &emulator,
            Code::BadRequest,
            "AWS_REGION: is no region",
        ),
        (
            REGISTRY,
            keys(&[("AWS_SECRET_ACCESS_KEY", "")]),
            &none,
            Code::BadRequest,
            "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be provided together",
        ),
        (
            REGISTRY,
            keys(&[("AWS_SESSION_TOKEN", "a\nb")]),
            &none,
            Code::BadRequest,
            "AWS_SESSION_TOKEN: has a line break",
        ),
        (
            REGISTRY,
            CredentialMap::default(),
            &none,
            Code::BadRequest,
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not found or empty",
        ),
    ];
    for (registry, keys, endpoints, code, message) in cases {
        let error = plan(registry, &keys, endpoints).err().unwrap();
        assert_eq!(error.code, code, "{registry}: {}", error.message);
        assert!(error.message.contains(message), "{registry}: {}", error.message);
    }
}

/// The signature over a request that was put together by hand from the documentation of Signature Version 4.
#[test]
fn signs_what_is_sent() {
    use hmac_sha256::{hex, hmac, sha256};
    let keys = keys(&[("AWS_SESSION_TOKEN", "pl4nted-session")]);
    let plan = plan(REGISTRY, &keys, &Endpoints::default()).unwrap();
    // 2027-01-15T08:00:00Z
    let headers = plan.signed(UNIX_EPOCH + Duration::from_secs(1_800_000_000)).unwrap();
    let canonical = format!(
        "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:api.ecr.eu-west-1.amazonaws.com\n\
         x-amz-date:20270115T080000Z\nx-amz-security-token:pl4nted-session\nx-amz-target:{}\n\n\
         content-type;host;x-amz-date;x-amz-security-token;x-amz-target\n{}",
        PRIVATE.target,
        hex(&sha256(b"{}"))
    );
    let scope = "20270115/eu-west-1/ecr/aws4_request";
    let text = format!("AWS4-HMAC-SHA256\n20270115T080000Z\n{scope}\n{}", hex(&sha256(canonical.as_bytes())));
    let key = ["20270115", "eu-west-1", "ecr", "aws4_request"]
        .iter()
        .fold(b"AWS4pl4nted-aws-secret".to_vec(), |key, part| hmac(&key, part.as_bytes()).to_vec());
    let want = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, \
         SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature={}",
        hex(&hmac(&key, text.as_bytes()))
    );
    assert_eq!(headers["authorization"].to_str().unwrap(), want);
    assert_eq!(headers["x-amz-security-token"], "pl4nted-session");
    let debug = format!("{headers:?}");
    assert!(!debug.contains("pl4nted-") && !debug.contains("AKIDEXAMPLE"), "{debug}");
}

/// Enough of it for one test.
mod hmac_sha256 {
    use aws_sigv4::sign::v4;

    pub(super) fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
        // The library's last step is a plain HMAC, in hexadecimal digits.
        let hex = v4::calculate_signature(key, data);
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        out
    }

    pub(super) fn sha256(data: &[u8]) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(data).into()
    }

    pub(super) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[tokio::test]
async fn both_shapes_of_answers() {
    let token = STANDARD.encode("AWS:pl4nted-ecr:with:colons");
    let date = "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n";
    let list = format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1800003600.5,"proxyEndpoint":"x"}}]}}"#
    );
    let object =
        format!(r#"{{"authorizationData":{{"authorizationToken":"{token}","expiresAt":1.8000036E9}}}}"#);
    let silent = format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#);
    for (body, life) in [(list, 3600), (object, 3600), (silent, 60)] {
        let server = Server::new(&[&json("200 OK", date, &body)]).await;
        let (scheme, valid_for) =
            plan(REGISTRY, &keys(&[]), &at(&server)).unwrap().run(&Http::default()).await.unwrap();
        let Scheme::Basic { username, password } = scheme else { panic!("{scheme:?}") };
        assert_eq!((username.as_str(), password.expose_secret()), ("AWS", "pl4nted-ecr:with:colons"));
        assert_eq!(valid_for.unwrap().as_secs(), life, "{body}");
        let seen = &server.seen()[0];
        assert!(seen.starts_with("POST / HTTP/1.1\r\n") && seen.ends_with("\r\n\r\n{}"), "{seen}");
        assert!(!seen.contains("123456789012"), "{seen}");
    }
}

#[tokio::test]
async fn answers_that_are_none() {
    let basic = STANDARD.encode("root:x");
    let no_password = STANDARD.encode("AWS:");
    let bodies = [
        "{}".to_owned(),
        r#"{"authorizationData":[]}"#.to_owned(),
        r#"{"authorizationData":[{}]}"#.to_owned(),
        r#"{"authorizationData":[{"authorizationToken":"%%%"}]}"#.to_owned(),
        format!(r#"{{"authorizationData":[{{"authorizationToken":"{basic}"}}]}}"#),
        format!(r#"{{"authorizationData":[{{"authorizationToken":"{no_password}"}}]}}"#),
    ];
    for body in bodies {
        let server = Server::new(&[&json("200 OK", "", &body)]).await;
        let plan = plan(REGISTRY, &keys(&[]), &at(&server)).unwrap();
        assert_eq!(plan.run(&Http::default()).await.err().unwrap().code, Code::Unavailable, "{body}");
    }
}

#[tokio::test]
async fn signs_again_with_the_servers_clock() {
    let skewed = json(
        "400 Bad Request",
        "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n",
        r#"{"__type":"InvalidSignatureException","message":"Signature not yet current"}"#,
    );
    let token = STANDARD.encode("AWS:p");
    let good =
        json("200 OK", "", &format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}"}}]}}"#));
    let server = Server::new(&[&skewed, &good]).await;
    plan(REGISTRY, &keys(&[]), &at(&server)).unwrap().run(&Http::default()).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(!seen[0].contains("20270115T080000Z") && seen[1].contains("x-amz-date: 20270115T080000Z"));
    // Once: a key that is wrong is wrong at any time.
    let server = Server::new(&[&skewed]).await;
    let error = plan(REGISTRY, &keys(&[]), &at(&server)).unwrap().run(&Http::default()).await.err().unwrap();
    assert_eq!((error.code, server.seen().len()), (Code::Denied, 2));
    // And not where the clocks agree.
    let now = format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
    let server =
        Server::new(&[&json("400 Bad Request", &now, r#"{"__type":"InvalidSignatureException"}"#)]).await;
    let error = plan(REGISTRY, &keys(&[]), &at(&server)).unwrap().run(&Http::default()).await.err().unwrap();
    assert_eq!((error.code, server.seen().len()), (Code::Denied, 1));
}

#[tokio::test]
async fn a_refusal_says_nothing_of_the_keys() {
    let body =
        r#"{"__type":"AccessDeniedException","message":"AKIDEXAMPLE may not, with pl4nted-aws-secret"}"#;
    let server = Server::new(&[&json("400 Bad Request", "", body)]).await;
    let error = plan(REGISTRY, &keys(&[]), &at(&server)).unwrap().run(&Http::default()).await.err().unwrap();
    assert_eq!(error.code, Code::Denied);
    assert!(
        error.message.ends_with("AccessDeniedException: [redacted] may not, with [redacted]"),
        "{}",
        error.message
    );
}

/// Collects all that is traced.
struct Ears(Arc<Mutex<String>>);

impl Visit for Ears {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push_str(&format!("{field}={value:?}\n"));
    }
}

impl tracing::Subscriber for Ears {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut Ears(Arc::clone(&self.0)));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Ears(Arc::clone(&self.0)));
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Ears(Arc::clone(&self.0)));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn signing_is_not_traced() {
    let heard = Arc::new(Mutex::new(String::new()));
    let keys = keys(&[("AWS_SESSION_TOKEN", "pl4nted-session")]);
    let plan = plan(REGISTRY, &keys, &Endpoints::default()).unwrap();
    tracing::subscriber::with_default(Ears(Arc::clone(&heard)), || {
        tracing::trace!(x = 1, "heard");
        plan.signed(SystemTime::now()).unwrap();
    });
    let heard = heard.lock().unwrap();
    assert!(heard.contains("heard"), "the test is deaf");
    assert!(!heard.contains("pl4nted-") && !heard.contains("AKID"), "{heard}");
}
