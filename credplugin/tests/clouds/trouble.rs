//! Endpoints that are down, slow, garbled, or mean: the same for every cloud.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use credplugin::{Code, ContainerRequest, Endpoints};
use fixtures::cloud::{Dead, Manner, Reply, Server, ServiceAccount};
use fixtures::secret::secret;
use serde_json::json;

use crate::support::{ACR, Clouds, ECR, ECR_PUBLIC, GAR, ask, fails, request};

/// All clouds, and a request that works for each.
struct All {
    clouds: Clouds,
    account: ServiceAccount,
    cases: Vec<(&'static str, ContainerRequest)>,
}

impl All {
    fn start() -> Self {
        let clouds = Clouds::start();
        let account = ServiceAccount::new("puller");
        clouds.google.enroll(&account);
        let key = secret("aws secret");
        clouds.ecr.enroll("AKIA1", &key, None);
        let aws = [("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", &*key)];
        let (id, tenant, azure) =
            (clouds.entra.client_id(), clouds.entra.tenant(), clouds.entra.client_secret());
        let azure =
            [("AZURE_CLIENT_ID", &*id), ("AZURE_TENANT_ID", &*tenant), ("AZURE_CLIENT_SECRET", &*azure)];
        let google = account.value().to_string();
        let cases = vec![
            (ECR, request(ECR, "aws", &aws)),
            (ECR_PUBLIC, request(ECR_PUBLIC, "aws", &aws)),
            (GAR, request(GAR, "gcp", &[("GOOGLE_APPLICATION_CREDENTIALS", &google)])),
            (ACR, request(ACR, "azure", &azure)),
        ];
        Self { clouds, account, cases }
    }

    /// The servers that are asked first. Azure's registry comes second.
    fn first(&self) -> [&Server; 3] {
        [self.clouds.ecr.server(), self.clouds.google.server(), self.clouds.entra.server()]
    }

    fn behave(&self, manner: &Manner) {
        self.first().iter().for_each(|server| server.behave(manner.clone()));
    }
}

#[tokio::test]
async fn all_work_at_first_and_after_trouble() {
    let all = All::start();
    for manner in
        [Manner::Proper, Manner::Reply(Reply::new(500, "")), Manner::Slow(Duration::from_millis(300))]
    {
        all.behave(&manner);
        for (host, request) in &all.cases {
            let answer = ask(host, request, &all.clouds.endpoints()).await;
            assert_eq!(answer.is_ok(), !matches!(manner, Manner::Reply(_)), "{host}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_request_to_wait_is_passed_on_with_its_time() {
    let all = All::start();
    let seconds = |n| Some(Duration::from_secs(n));
    for (reply, wait) in [
        (Reply::too_many("7"), seconds(7)),
        (Reply::too_many("soon"), None),
        (Reply::new(429, ""), None),
        (Reply::new(503, "").with("retry-after", "11"), seconds(11)),
        // By the server's own date.
        (
            Reply::too_many("Sun, 06 Nov 1994 08:49:37 GMT").with("date", "Sun, 06 Nov 1994 08:49:07 GMT"),
            seconds(30),
        ),
    ] {
        all.behave(&Manner::Reply(reply.clone()));
        all.first().iter().for_each(|server| server.reset_log());
        for (host, request) in &all.cases {
            let error = fails(ask(host, request, &all.clouds.endpoints()).await, Code::TryLater);
            assert_eq!(error.retry_after, wait, "{host}: {reply:?}");
        }
        // Whoever says "wait" is not asked again.
        assert_eq!(all.first().map(|server| server.log().len()), [2, 1, 1], "{reply:?}");
    }
    // Amazon says it in the body of a 400.
    let throttled = json!({ "__type": "ThrottlingException", "message": "Rate exceeded" });
    all.behave(&Manner::Reply(Reply::json(400, &throttled)));
    fails(ask(ECR, &all.cases[0].1, &all.clouds.endpoints()).await, Code::TryLater);
    // And Azure's registry, in the second step.
    all.behave(&Manner::Proper);
    all.clouds.acr.server().behave(Manner::Reply(Reply::too_many("9")));
    let error = fails(ask(ACR, &all.cases[3].1, &all.clouds.endpoints()).await, Code::TryLater);
    assert_eq!(error.retry_after, seconds(9));
}

#[tokio::test]
async fn endpoints_that_are_down_are_named() {
    let all = All::start();
    let dead = Dead::new(Ipv4Addr::new(127, 0, 0, 18));
    let url = || Some(dead.url());
    let endpoints = Endpoints { ecr: url(), ecr_public: url(), gcp: url(), azure: url(), acr: url() };
    for (host, request) in &all.cases {
        let error = fails(ask(host, request, &endpoints).await, Code::Unavailable);
        assert!(error.message.contains("127.0.0.18"), "{host}: {}", error.message);
    }
    all.clouds.assert_only(&[]);
    // The second step of Azure's.
    let endpoints = Endpoints { acr: url(), ..all.clouds.endpoints() };
    fails(ask(ACR, &all.cases[3].1, &endpoints).await, Code::Unavailable);
}

#[tokio::test]
async fn answers_that_are_none_are_refused_within_bounds() {
    let all = All::start();
    let elsewhere = Server::always(Ipv4Addr::new(127, 0, 0, 16), Reply::json(200, &json!({})));
    let reply = |status, body: &[u8]| Manner::Reply(Reply::new(status, body));
    let deep = "[".repeat(20_000);
    for manner in [
        reply(200, b""),
        reply(200, b"<html>sign in</html>"),
        reply(200, b"{}"),
        reply(200, b"[]"),
        reply(200, b"null"),
        reply(200, deep.as_bytes()),
        reply(200, b"\xff\xfe{\0}\0"),
        reply(200, br#"{"access_token":"","expires_in":3600,"authorizationData":[],"refresh_token":""}"#),
        reply(200, br#"{"access_token":7,"authorizationData":[{"authorizationToken":7}]}"#),
        // Not base64; no colon; something in it that would break a header.
        reply(200, br#"{"access_token":"a\nb","authorizationData":[{"authorizationToken":"%%%"}]}"#),
        reply(200, br#"{"access_token":"a\u0000","authorizationData":[{"authorizationToken":"QVdT"}]}"#),
        reply(200, br#"{"access_token":"a\r","authorizationData":[{"authorizationToken":"QVdTOmENCmI="}]}"#),
        reply(204, b""),
        reply(404, b"no such page"),
        reply(500, b"oops"),
        Manner::Endless,
        Manner::Truncated,
        Manner::Reply(Reply::redirect(&elsewhere.url())),
        Manner::Reply(Reply { status: 302, ..Reply::redirect(&elsewhere.url()) }),
        Manner::Reply(Reply { status: 308, ..Reply::redirect(&elsewhere.url()) }),
    ] {
        all.behave(&manner);
        for (host, request) in &all.cases {
            let error = fails(ask(host, request, &all.clouds.endpoints()).await, Code::Unavailable);
            assert!(error.message.contains("127.0.0."), "{host} is not told who: {}", error.message);
        }
    }
    // No redirect was followed, nobody else was asked.
    assert_eq!(elsewhere.log(), []);
    all.clouds.assert_only(&all.first());
}

/// An endpoint that says in its error what it was sent, in every spelling there is.
#[tokio::test]
async fn an_echo_does_not_come_back() {
    let all = All::start();
    let echo = |spell: fn(&[u8]) -> String, status: u16| {
        Server::start(Ipv4Addr::new(127, 0, 0, 19), move |seen, _| {
            // Headers (session tokens, signatures) and the form, decoded.
            let form: Vec<_> = url::form_urlencoded::parse(&seen.body).map(|(_, v)| v.into_owned()).collect();
            let words = form.iter().map(|word| spell(word.as_bytes())).collect::<Vec<_>>().join(" ");
            let said = format!("{words} {}", spell(&seen.bytes()));
            Reply::json(
                status,
                &json!({ "error": "invalid_client", "error_description": said, "message": said, "__type": said }),
            )
        })
    };
    let spellings: [fn(&[u8]) -> String; 4] = [
        |bytes| String::from_utf8_lossy(bytes).into_owned(),
        |bytes| STANDARD.encode(bytes),
        |bytes| bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
        |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    ];
    let session = [
        ("AWS_ACCESS_KEY_ID", "ASIA1".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret("aws secret")),
        ("AWS_SESSION_TOKEN", secret("aws session")),
    ];
    let session = session.each_ref().map(|(key, value)| (*key, value.as_str()));
    let mut cases: Vec<_> = all.cases.iter().map(|(host, request)| (*host, request.clone())).collect();
    cases.push((ECR, request(ECR, "aws", &session)));
    for status in [400, 401, 403, 500] {
        for spell in spellings {
            let mean = echo(spell, status);
            let url = || Some(mean.url());
            let all_mean = Endpoints { ecr: url(), ecr_public: url(), gcp: url(), azure: url(), acr: url() };
            for (host, request) in &cases {
                // `ask` looks for the mark in every spelling.
                let error = ask(host, request, &all_mean).await.unwrap_err();
                assert!(!all.account.leaked_in(error.message.as_bytes()));
                assert!(error.message.len() < 2048, "{}", error.message.len());
                assert!(!error.message.contains(char::is_control), "{:?}", error.message);
            }
            // Microsoft's token, told again by the registry.
            let endpoints = Endpoints { acr: url(), ..all.clouds.endpoints() };
            ask(ACR, &all.cases[3].1, &endpoints).await.unwrap_err();
        }
    }
}

/// Nobody answers within the exchange's time: the ask ends by itself, before the caller's minute is over.
#[tokio::test]
async fn a_hanging_endpoint_ends_by_itself() {
    let all = All::start();
    all.behave(&Manner::Hang);
    let endpoints = all.clouds.endpoints();
    let [aws, public, google, azure] = &all.cases[..] else { panic!("four clouds") };
    let asks = async {
        tokio::join!(
            ask(aws.0, &aws.1, &endpoints),
            ask(public.0, &public.1, &endpoints),
            ask(google.0, &google.1, &endpoints),
            ask(azure.0, &azure.1, &endpoints),
        )
    };
    // The caller's minute.
    let (a, b, c, d) = tokio::time::timeout(Duration::from_secs(60), asks).await.expect("an end");
    for answer in [a, b, c, d] {
        fails(answer, Code::Unavailable);
    }
}
