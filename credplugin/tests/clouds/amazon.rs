//! Amazon: ECR with moto, and what moto cannot be told to do with the fixture.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use credplugin::{Code, Endpoints};
use fixtures::cloud::Tap;
use fixtures::secret::{self, secret};
use serde_json::json;

use crate::moto::{self, Key, Moto};
use crate::support::{Clouds, ECR, ECR_PUBLIC, ask, assert_lives, basic, fails, request};

fn of_moto(url: String) -> Endpoints {
    Endpoints { ecr: Some(url), ..Endpoints::default() }
}

fn keys(key: &Key) -> Vec<(&str, &str)> {
    let mut keys = vec![("AWS_ACCESS_KEY_ID", &*key.id), ("AWS_SECRET_ACCESS_KEY", &*key.secret)];
    keys.extend(key.session.as_deref().map(|session| ("AWS_SESSION_TOKEN", session)));
    keys
}

/// The fixture believes Amazon's own client, and not with a wrong key: so it checks signatures as Amazon does.
#[test]
fn the_fixture_agrees_with_amazons_client() {
    const PROGRAM: &str = "
import sys, boto3
url, service, id, secret, session = sys.argv[1:]
ecr = boto3.client(service, endpoint_url=url, region_name='us-east-1', aws_access_key_id=id,
                   aws_secret_access_key=secret, aws_session_token=session or None)
try:
    data = ecr.get_authorization_token()['authorizationData']
    print((data[0] if service == 'ecr' else data)['authorizationToken'])
except ecr.exceptions.ClientError as e:
    print(e.response['Error']['Code'])
";
    let clouds = Clouds::start();
    clouds.ecr.enroll("AKIA1", "s/e+c", None);
    clouds.ecr.enroll("ASIA1", "s/e+c", Some("session+/="));
    let run = |service: &str, id: &str, secret: &str, session: &str| {
        let url = clouds.ecr.server().url();
        let mut command = std::process::Command::new(moto::python());
        command.env_clear().args(["-c", PROGRAM, &url, service, id, secret, session]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for service in ["ecr", "ecr-public"] {
        for (id, session) in [("AKIA1", ""), ("ASIA1", "session+/=")] {
            let token = run(service, id, "s/e+c", session);
            assert_eq!(token, STANDARD.encode(format!("AWS:{}", clouds.ecr.password())), "{service}");
            assert_eq!(run(service, id, "wrong", session), "InvalidSignatureException");
        }
    }
    assert_eq!(run("ecr", "ASIA1", "s/e+c", ""), "UnrecognizedClientException");
}

/// moto's `expiresAt` is in 2015: past when issued, so nonsense, so a minute.
#[tokio::test]
async fn a_password_from_moto_which_checks_the_signature() {
    let moto = Moto::start();
    let key = moto.user("puller", true).await;
    moto.enforce(true).await;
    let answer = ask(ECR, &request(ECR, "aws", &keys(&key)), &of_moto(moto.url())).await.unwrap();
    assert_eq!(basic(&answer), ("AWS", "123456789012-auth-token"));
    assert_lives(&answer, 60);

    // The flat form, detected.
    let flat = json!({ "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret }).to_string();
    let flat = json!({ "image_credentials": flat }).to_string();
    let flat = credplugin::ContainerRequest::parse(flat.as_bytes()).unwrap();
    let answer = ask(ECR, &flat, &of_moto(moto.url())).await.unwrap();
    assert_eq!(basic(&answer), ("AWS", "123456789012-auth-token"));
}

#[tokio::test]
async fn moto_refuses_wrong_unknown_deleted_and_forbidden_keys() {
    let moto = Moto::start();
    let (key, forbidden) = (moto.user("puller", true).await, moto.user("reader", false).await);
    let (deleted, role) = (moto.user("leaver", true).await, moto.role("builder").await);
    moto.delete("leaver", &deleted).await;
    moto.enforce(true).await;
    let wrong = Key { secret: secret("aws secret"), id: key.id.clone(), session: None };
    let unknown = Key { secret: secret("aws secret"), id: "AKIAABCDEFGHIJKLMNOP".into(), session: None };
    let no_session = Key { session: None, id: role.id.clone(), secret: role.secret.clone() };
    let other_session = Key { session: Some(secret("session")), ..no_session_of(&role) };
    for (name, key) in [
        ("wrong", &wrong),
        ("unknown", &unknown),
        ("deleted", &deleted),
        ("forbidden", &forbidden),
        ("no session token", &no_session),
        ("another session token", &other_session),
    ] {
        let error =
            fails(ask(ECR, &request(ECR, "aws", &keys(key)), &of_moto(moto.url())).await, Code::Denied);
        assert!(!error.message.contains(&*key.secret), "{name}: {}", error.message);
    }
    // And the good ones are good.
    for key in [&key, &role] {
        ask(ECR, &request(ECR, "aws", &keys(key)), &of_moto(moto.url())).await.unwrap();
    }
}

fn no_session_of(key: &Key) -> Key {
    Key { id: key.id.clone(), secret: key.secret.clone(), session: None }
}

/// The region is the host's, whatever the request says; a registry on this machine has none, so there it is the request's.
#[tokio::test]
async fn the_region_is_the_hosts() {
    let moto = Moto::start();
    let key = moto.user("puller", true).await;
    moto.enforce(true).await;
    for (host, region, said) in [
        (ECR, "eu-west-1", "us-west-2"),
        ("210987654321.dkr.ecr.ap-southeast-2.amazonaws.com", "ap-southeast-2", ""),
        ("123456789012.dkr-ecr.eu-central-1.on.aws", "eu-central-1", ""),
        ("127.0.0.1:5000", "sa-east-1", "sa-east-1"),
    ] {
        let tap = Tap::start(Ipv4Addr::new(127, 0, 0, 17), moto.addr());
        let mut credentials = keys(&key);
        credentials.push(("AWS_REGION", said));
        let answer = ask(host, &request(host, "aws", &credentials), &of_moto(tap.url())).await;
        let answer = answer.unwrap_or_else(|e| panic!("{host}: {e}"));
        // The token is the caller's, for all registries that it may read: that of its own account.
        assert_eq!(basic(&answer), ("AWS", "123456789012-auth-token"), "{host}");
        let sent = String::from_utf8(tap.sent()).unwrap();
        let scope = format!("/{region}/ecr/aws4_request");
        assert!(sent.contains(&scope), "{host}: no {scope} in {sent}");
        assert!(!sent.contains(&key.secret), "{host}: the secret key was sent");
    }
}

/// As above in Amazon's separate partitions, where moto has no users of ours.
#[tokio::test]
async fn the_region_is_the_hosts_in_all_partitions() {
    let clouds = Clouds::start();
    let secret = secret("aws secret");
    clouds.ecr.enroll("AKIA1", &secret, None);
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "AKIA1"),
        ("AWS_SECRET_ACCESS_KEY", secret.as_str()),
        ("AWS_REGION", "eu-west-3"),
    ];
    for (host, region) in [
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("123456789012.dkr-ecr-fips.us-gov-east-1.on.aws", "us-gov-east-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("123456789012.dkr.ecr.ap-southeast-2.amazonaws.com", "ap-southeast-2"),
    ] {
        clouds.ecr.server().reset_log();
        let answer = ask(host, &request(host, "aws", &credentials), &clouds.endpoints()).await;
        assert_eq!(
            basic(&answer.unwrap_or_else(|e| panic!("{host}: {e}"))),
            ("AWS", &*clouds.ecr.password())
        );
        let log = clouds.ecr.server().log();
        let signed = log[0].header("authorization").unwrap();
        assert!(signed.contains(&format!("/{region}/ecr/aws4_request")), "{host}: {signed}");
    }
}

/// A region is needed where the host names none.
#[tokio::test]
async fn a_registry_on_this_machine_needs_a_region() {
    let clouds = Clouds::start();
    let secret = secret("aws secret");
    let credentials = [("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
    let request = request("127.0.0.1:5000", "aws", &credentials);
    let error = fails(ask("127.0.0.1:5000", &request, &clouds.endpoints()).await, Code::BadRequest);
    assert!(error.message.contains("AWS_REGION"), "{}", error.message);
    clouds.assert_only(&[]);
}

#[tokio::test]
async fn passwords_live_as_long_as_amazon_says_by_its_own_clock() {
    let clouds = Clouds::start();
    let secret = secret("aws secret");
    clouds.ecr.enroll("AKIA1", &secret, None);
    let credentials = [("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
    for (fast, issued_for, want) in [
        (0, 43_200, 43_200),
        (0, 600, 600),
        // Ten years are capped; what is over when it is issued is nonsense.
        (0, 315_360_000, 43_200),
        (0, -5, 60),
        (0, 0, 60),
        // A node whose clock is wrong: the first signature is refused, the answer tells the time.
        (3600, 600, 600),
        (-3600, 600, 600),
        (200, 600, 600),
    ] {
        clouds.ecr.server().set_clock(fast);
        clouds.ecr.set_expires_in(issued_for);
        clouds.ecr.server().reset_log();
        for host in [ECR, ECR_PUBLIC] {
            let answer = ask(host, &request(host, "aws", &credentials), &clouds.endpoints()).await;
            let answer = answer.unwrap_or_else(|e| panic!("{host}, {fast} s fast: {e}"));
            assert_eq!(basic(&answer), ("AWS", &*clouds.ecr.password()));
            assert_lives(&answer, want);
        }
        assert!(clouds.ecr.server().log().len() <= if fast.abs() > 300 { 4 } else { 2 }, "{fast}");
    }
    clouds.assert_only(&[clouds.ecr.server()]);
    for seen in clouds.ecr.server().log() {
        assert_eq!(secret::find(&seen.bytes()), None, "the secret key was sent");
    }
}

#[tokio::test]
async fn session_tokens_go_into_their_header_and_nowhere_else() {
    let clouds = Clouds::start();
    let (key, session) = (secret("aws secret"), secret("aws session"));
    clouds.ecr.enroll("ASIA1", &key, Some(&session));
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "ASIA1"),
        ("AWS_SECRET_ACCESS_KEY", key.as_str()),
        ("AWS_SESSION_TOKEN", session.as_str()),
    ];
    for host in [ECR, ECR_PUBLIC] {
        ask(host, &request(host, "aws", &credentials), &clouds.endpoints()).await.unwrap();
        let without = request(host, "aws", &credentials[..2]);
        fails(ask(host, &without, &clouds.endpoints()).await, Code::Denied);
    }
    for mut seen in clouds.ecr.server().log() {
        seen.headers.retain(|(name, value)| name != "x-amz-security-token" || *value != session);
        assert_eq!(secret::find(&seen.bytes()), None);
    }
    clouds.assert_only(&[clouds.ecr.server()]);
}

/// Keys of Amazon's are for Amazon's hosts only: nothing is sent for another.
#[tokio::test]
async fn other_hosts_get_nothing() {
    let clouds = Clouds::start();
    let secret = secret("aws secret");
    clouds.ecr.enroll("AKIA1", &secret, None);
    let credentials = [("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", secret.as_str())];
    for host in [
        "registry.example.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
        "evil-123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "12345678901.dkr.ecr.eu-west-1.amazonaws.com",
        "public.ecr.aws.evil.example",
        "ghcr.io",
    ] {
        let error = ask(host, &request(host, "aws", &credentials), &clouds.endpoints()).await.unwrap_err();
        assert!(matches!(error.code, Code::NotFound | Code::BadRequest), "{host}: {error:?}");
        // Asked for a host of Amazon's with credentials that name another.
        fails(ask(ECR, &request(host, "aws", &credentials), &clouds.endpoints()).await, Code::NotFound);
    }
    clouds.assert_only(&[]);
}
