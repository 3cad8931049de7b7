//! Token servers as they are: those that know one form of the request only, those that answer oddly, those that repeat what
//! they were sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use clipfs::credentials::Credential;
use clipfs::registry::RegistryError;
use fixtures::secret;

use crate::server::{Reply, Seen, Server};
use crate::support::{Image, Source, amd64, basic, login, open, planted};

/// A registry that wants the token `t<epoch>`, and its token server.
async fn site(
    epoch: &Arc<AtomicUsize>,
    challenge: &'static str,
    tokens: impl Fn(&Seen, &str) -> Reply + Send + Sync + 'static,
) -> (Server, Server, Image) {
    let image = Image::new(100);
    let (at, served) = (Arc::clone(epoch), image.clone());
    let current = move || format!("t{}", at.load(SeqCst));
    let token = current.clone();
    let endpoint = Server::start("127.0.0.2", move |seen, _| tokens(seen, &token())).await;
    let realm = format!("http://{}/token", endpoint.host);
    let registry = Server::start("127.0.0.1", move |seen, _| {
        if seen.header("authorization") == Some(&format!("Bearer {}", current())) {
            return served.answer(seen);
        }
        Reply::new(401, "{}").with("www-authenticate", challenge.replace("{realm}", &realm))
    })
    .await;
    (registry, endpoint, image)
}

const CHALLENGE: &str =
    "bEaReR ReAlM=\"{realm}\" , SERVICE=\"s \\\"v\\\"\",scope=\"repository:x:push aws other:y\"";

fn token(value: &str) -> Reply {
    Reply::new(200, format!(r#"{{"access_token":"{value}"}}"#))
}

#[tokio::test]
async fn servers_that_know_one_form_only() {
    let (password, refresh) = (planted("password"), planted("refresh"));
    for (knows, status, credential) in ["GET", "POST"]
        .into_iter()
        .flat_map(|knows| [400, 401, 404, 405].map(|status| (knows, status)))
        .flat_map(|(knows, status)| {
            let credentials = [login("u", &password), Credential::RefreshToken(refresh.clone().into())];
            credentials.map(|credential| (knows, status, credential))
        })
    {
        let what = format!("{knows} only, else {status}, {credential:?}");
        let epoch = Arc::new(AtomicUsize::new(0));
        let (registry, endpoint, image) =
            site(
                &epoch,
                CHALLENGE,
                move |seen, value| {
                    if seen.method == knows { token(value) } else { Reply::new(status, "") }
                },
            )
            .await;
        let provider = Source::new(&registry.host, credential.clone());
        let source = open(&format!("{}/app:1", registry.host), provider).await;
        source.blob(&image.blob()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let seen = endpoint.seen();
        let understood = seen.last().unwrap();
        assert_eq!(understood.method, knows, "{what}");
        let scopes = "scope=repository%3Aapp%3Apull";
        match (knows, &credential) {
            ("GET", Credential::Basic { .. }) => {
                assert_eq!(understood.header("authorization"), Some(&*basic("u", &password)));
            }
            ("GET", _) => assert_eq!(understood.header("authorization"), Some(&*basic("<token>", &refresh))),
            (_, Credential::Basic { .. }) => {
                assert!(
                    understood.body.contains("grant_type=password&username=u&password=pl4nted-"),
                    "{what}"
                );
            }
            _ => {
                assert!(understood.body.contains("grant_type=refresh_token&refresh_token=pl4nted-"), "{what}")
            }
        }
        if knows == "GET" {
            let query = format!("service=s+%22v%22&{scopes}&scope=aws");
            assert_eq!((understood.query(), understood.body.as_str()), (query.as_str(), ""), "{what}");
        } else {
            assert!(understood.body.ends_with(&format!("&client_id=clipfs&service=s+%22v%22&{scopes}+aws")));
            assert_eq!((understood.query(), understood.header("authorization")), ("", None), "{what}");
        }
        // What was understood is asked first from then on.
        epoch.store(1, SeqCst);
        let before = endpoint.seen().len();
        source.blob(&image.blob()).await.unwrap();
        assert_eq!(endpoint.seen().len() - before, 1, "{what}");
    }
}

#[tokio::test]
async fn odd_answers_that_are_good_enough() {
    for body in [
        r#"{"token":"t0"}"#,
        r#"{"access_token":"t0","token":""}"#,
        r#"{"token":"t0","access_token":"t1"}"#,
        r#"{"token":"t0","expires_in":"soon","issued_at":"yesterday"}"#,
        r#"{"token":"t0","expires_in":-1,"issued_at":"1970-01-01T00:00:00Z"}"#,
        r#"{"token":"t0","expires_in":300,"issued_at":"2999-01-01T00:00:00Z"}"#,
        r#"{"token":"t0","expires_in":300,"issued_at":7,"more":{"a":[null]}}"#,
        " \n{\"token\":\"t0\"}\n",
    ] {
        let (registry, endpoint, image) =
            site(&Arc::default(), CHALLENGE, move |_, _| Reply::new(200, body)).await;
        let source =
            open(&format!("{}/app:1", registry.host), Source::new(&registry.host, login("u", "p"))).await;
        for _ in 0..3 {
            source.blob(&image.blob()).await.unwrap_or_else(|error| panic!("{body}: {error}"));
        }
        assert_eq!(endpoint.seen().len(), 1, "{body}: what it says of times does not make it end");
    }
}

#[tokio::test]
async fn endless_answers_are_not_read() {
    for status in [200, 401, 403, 500] {
        let (registry, endpoint, image) =
            site(&Arc::default(), CHALLENGE, move |_, _| Reply::new(status, vec![b' '; 1 << 20])).await;
        let source =
            open(&format!("{}/app:1", registry.host), Source::new(&registry.host, login("u", "p"))).await;
        let error = source.blob(&image.blob()).await.unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
        assert!(endpoint.seen().len() <= 4, "{status}: {}", endpoint.seen().len());
    }
}

/// Everything that a server may say of a failure, with what it was sent in it.
#[tokio::test]
async fn what_was_sent_is_not_repeated() {
    let password = planted("password");
    let shapes: [fn(&str) -> String; 8] = [
        |said| format!(r#"{{"errors":[{{"code":"DENIED","message":"wrong: {said}"}}]}}"#),
        |said| format!(r#"{{"errors":[{{"code":"{said}"}}]}}"#),
        |said| format!(r#"{{"error":"invalid_grant","error_description":"{said} is wrong"}}"#),
        |said| format!(r#"{{"error":"{said}"}}"#),
        |said| format!(r#"{{"message":"{said}"}}"#),
        |said| format!(r#"{{"details":"{} {said}"}}"#, "long ".repeat(40)),
        |said| {
            format!(
                r#"{{"details":"{}"}}"#,
                said.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>()
            )
        },
        |said| format!("<html>{said}</html>"),
    ];
    for shape in shapes {
        for (part, status) in [("header", 401), ("body", 401), ("password", 400), ("piece", 403)] {
            let secret = password.clone();
            let (registry, _endpoint, image) = site(&Arc::default(), CHALLENGE, move |seen, _| {
                let said = match part {
                    "header" => seen.header("authorization").unwrap_or("nothing").to_owned(),
                    "body" => seen.body.clone(),
                    "piece" => secret[..12].to_owned(),
                    _ => secret.clone(),
                };
                Reply::new(status, shape(&said))
            })
            .await;
            let provider = Source::new(&registry.host, login("somebody", &password));
            let error = open(&format!("{}/app:1", registry.host), provider)
                .await
                .blob(&image.blob())
                .await
                .unwrap_err();
            assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
            let told = format!("{error} {error:?}");
            assert!(secret::find(told.as_bytes()).is_none() && !told.contains("somebody"), "{part} {status}");
        }
    }
    // Registries too.
    for status in [401, 403, 418] {
        let registry = Server::start("127.0.0.1", move |seen, _| match seen.header("authorization") {
            None => Reply::new(401, "").with("www-authenticate", "Basic realm=x"),
            Some(sent) => Reply::new(status, format!(r#"{{"errors":[{{"code":"X","message":"{sent}"}}]}}"#)),
        })
        .await;
        let provider = Source::new(&registry.host, login("somebody", &password));
        let source = open(&format!("{}/app:1", registry.host), provider).await;
        let error = source.resolve(&amd64()).await.unwrap_err();
        assert!(secret::find(format!("{error} {error:?}").as_bytes()).is_none(), "{status}");
        assert!(error.to_string().contains("not shown"), "{error}");
    }
}

#[tokio::test]
async fn its_words_are_shown_without_orders_to_the_terminal() {
    for (body, want) in [
        (
            r#"{"errors":[{"code":"DENIED","message":"account\u001b[31m closed\u2028"}]}"#,
            ": account [31m closed ",
        ),
        (r#"{"error":"invalid_grant","error_description":"token\nhas ended"}"#, ": token has ended"),
        (r#"{"error":"access_denied"}"#, ": access_denied"),
        (r#"{"details":"incorrect username or password"}"#, ": incorrect username or password"),
        (r#"{"errors":[{"code":7}],"message":"no"}"#, ": no"),
        (r#"{"errors":"x"}"#, "Unauthorized"),
        ("[]", "Unauthorized"),
    ] {
        let (registry, _endpoint, image) =
            site(&Arc::default(), CHALLENGE, move |_, _| Reply::new(401, body)).await;
        let provider = Source::new(&registry.host, login("somebody", &planted("password")));
        let error =
            open(&format!("{}/app:1", registry.host), provider).await.blob(&image.blob()).await.unwrap_err();
        assert!(error.to_string().ends_with(want), "{body}: {error:?}");
    }
}
