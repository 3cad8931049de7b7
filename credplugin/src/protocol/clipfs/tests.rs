use proptest::prelude::*;

use super::super::{Document, recognise};
use super::*;

/// 2026-11-24T10:00:00Z.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400)
}

fn answer(scheme: Scheme, life: Option<u64>) -> Answer {
    Answer { registry: "r.example.com".into(), scheme, valid_for: life.map(Duration::from_secs) }
}

fn plain(scheme: &Scheme) -> (&'static str, String, String) {
    match scheme {
        Scheme::None => ("None", String::new(), String::new()),
        Scheme::Basic { username, password } => ("Basic", username.clone(), password.expose_secret().into()),
        Scheme::Bearer { token } => ("Bearer", String::new(), token.expose_secret().into()),
        Scheme::RefreshToken { token } => ("RefreshToken", String::new(), token.expose_secret().into()),
    }
}

fn read(text: &str) -> Result<Reply, ReplyError> {
    parse_answer_at(text.as_bytes(), now())
}

#[test]
fn answers_as_they_are_written() {
    let head =
        r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialResponse","registry":"r.example.com","scheme":"#;
    let basic = || Scheme::Basic { username: "u".into(), password: "p".into() };
    let table = [
        (answer(Scheme::None, None), r#""None"}"#),
        (answer(basic(), None), r#""Basic","username":"u","password":"p"}"#),
        (
            answer(basic(), Some(90)),
            r#""Basic","username":"u","password":"p","expiresAt":"2026-11-24T10:01:30Z"}"#,
        ),
        (answer(Scheme::Bearer { token: "t".into() }, None), r#""Bearer","token":"t"}"#),
        (answer(Scheme::RefreshToken { token: "t".into() }, None), r#""RefreshToken","token":"t"}"#),
    ];
    for (answer, tail) in table {
        let written = write_answer(&answer, now()).unwrap();
        assert_eq!(std::str::from_utf8(&written).unwrap(), format!("{head}{tail}"));
        match parse_answer_at(&written, now()).unwrap() {
            Reply::Answer(read) => {
                assert_eq!(plain(&read.scheme), plain(&answer.scheme));
                assert_eq!((read.registry, read.valid_for), (answer.registry, answer.valid_for));
            }
            Reply::Error(error) => panic!("{error}"),
        }
    }
}

#[test]
fn answers_that_are_too_much() {
    let large = Scheme::Bearer { token: "t".repeat(MAX_REPLY).into() };
    assert_eq!(write_answer(&answer(large, None), now()).unwrap_err().code, Code::Internal);
    let endless = answer(Scheme::None, Some(u64::MAX));
    assert_eq!(write_answer(&endless, now()).unwrap_err().code, Code::Internal);
    let beyond_year_9999 = answer(Scheme::None, Some(400_000_000_000));
    assert_eq!(write_answer(&beyond_year_9999, now()).unwrap_err().code, Code::Internal);
}

#[test]
fn refusals_cross_as_they_are() {
    let waiting = Error {
        code: Code::TryLater,
        message: "too many requests".into(),
        retry_after: Some(Duration::from_millis(1500)),
    };
    for error in [waiting, Error::new(Code::Denied, "no \"quotes\""), Error::new(Code::Internal, "ä")] {
        match parse_answer_at(&write_error(&error), now()).unwrap() {
            Reply::Error(read) => assert_eq!(read, error),
            Reply::Answer(answer) => panic!("{answer:?}"),
        }
    }
    let later =
        r#"{"apiVersion":"clipfs.dev/v1","kind":"Error","code":"of_later","message":"a\u001b[31mb\nc"}"#;
    match read(later).unwrap() {
        Reply::Error(error) => {
            assert_eq!((error.code, error.message.as_str()), (Code::Internal, "a[31mbc"));
        }
        Reply::Answer(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn ends_become_lives() {
    let life = |end: &str| {
        let text = format!(
            r#"{{"apiVersion":"clipfs.dev/v1","kind":"CredentialResponse","registry":"r","scheme":"None","expiresAt":"{end}"}}"#
        );
        match read(&text) {
            Ok(Reply::Answer(answer)) => Ok(answer.valid_for.unwrap()),
            Ok(Reply::Error(error)) => panic!("{error}"),
            Err(error) => Err(error),
        }
    };
    assert_eq!(life("2026-11-24T10:00:01Z"), Ok(Duration::from_secs(1)));
    assert_eq!(life("2026-11-24T10:00:00.25Z"), Ok(Duration::from_millis(250)));
    assert_eq!(life("2026-11-24T12:00:01+02:00"), Ok(Duration::from_secs(1)));
    assert_eq!(life("2036-11-24T10:00:00Z"), Ok(Duration::from_secs(315_619_200)));
    for (end, since) in [("2026-11-24T10:00:00Z", 0), ("2026-11-24T09:00:00Z", 3600)] {
        let since = Duration::from_secs(since);
        assert_eq!(life(end), Err(ReplyError::Expired { registry: "r".into(), since }));
    }
    for end in ["tomorrow", "2026-11-24", "2026-11-24 10:00", "1795514400", "2026-13-24T10:00:00Z"] {
        assert!(matches!(life(end), Err(ReplyError::Malformed(_))), "{end}");
    }
}

#[test]
fn replies_that_are_none_name_the_path_and_no_value() {
    let response =
        |fields: &str| format!(r#"{{"apiVersion":"clipfs.dev/v1","kind":"CredentialResponse",{fields}}}"#);
    let basic = |user: &str, password: &str| {
        response(&format!(r#""registry":"r","scheme":"Basic","username":{user},"password":{password}"#))
    };
    let table = [
        (String::new(), "document"),
        ("pl4nted-garbage".into(), "document"),
        ("[]".into(), "document"),
        ("\u{feff}{}".into(), "document"),
        ("{}".into(), "apiVersion"),
        (r#"{"apiVersion":"clipfs.dev/v2","kind":"CredentialResponse"}"#.into(), "apiVersion"),
        (r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest"}"#.into(), "kind"),
        (r#"{"apiVersion":"clipfs.dev/v1"}"#.into(), "kind"),
        (r#"{"apiVersion":"clipfs.dev/v1","kind":"Error"}"#.into(), "code"),
        (response(r#""scheme":"None""#), "registry"),
        (response(r#""registry":"r""#), "scheme"),
        (response(r#""registry":"r","scheme":"basic""#), "scheme"),
        (response(r#""registry":"r","scheme":"Basic","username":"u""#), "password"),
        (response(r#""registry":"r","scheme":"Bearer","token":"""#), "token"),
        (response(r#""registry":"r","scheme":"RefreshToken","token":null"#), "token"),
        (basic(r#""u:v""#, r#""pl4nted-p""#), "username"),
        (basic(r#""u""#, r#""pl4nted-p\r\nX: y""#), "password"),
        (basic(r#""u""#, r#""pl4nted-\u0000""#), "password"),
        (basic(r#""u""#, "4711"), "password"),
        (basic(r#""u""#, r#"["pl4nted-p"]"#), "password"),
        (format!("{} x", basic(r#""u""#, r#""pl4nted-p""#)), "document"),
        (response(r#""registry":"r","scheme":"None","scheme":"Basic""#), "document.scheme"),
        (response(&format!(r#""x":{}"#, "[".repeat(100_000))), "document"),
        (" ".repeat(MAX_REPLY + 1), "document"),
    ];
    for (text, path) in table {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.starts_with(path), "{}: {error}", &text[..text.len().min(200)]);
        assert!(!error.contains("pl4nted") && !error.contains("4711"), "{error}");
    }
    // What a later version adds does not disturb.
    assert!(read(&response(r#""registry":"r","scheme":"None","later":{"a":[1]}"#)).is_ok());
}

#[test]
fn requests_cross_as_they_are() {
    let request = CredentialRequest {
        image: "r.example.com/team/app:1".into(),
        registry: "r.example.com".into(),
        scope: "repository:team/app:pull".into(),
        endpoints: Some(Endpoints { ecr: Some("http://127.0.0.1:5555".into()), ..Endpoints::default() }),
        container_request: Some(Zeroizing::new(br#"{"a":{"b":[1.50,"x"]}}"#.to_vec())),
    };
    let written = request.write().unwrap();
    assert_eq!(
        std::str::from_utf8(&written).unwrap(),
        r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest","image":"r.example.com/team/app:1","registry":"r.example.com","scope":"repository:team/app:pull","endpoints":{"ecr":"http://127.0.0.1:5555"},"containerRequest":{"a":{"b":[1.50,"x"]}}}"#
    );
    let Ok(Document::Credential(read)) = recognise(&written) else { panic!("not recognised") };
    assert_eq!(
        (&read.image, &read.registry, &read.scope),
        (&request.image, &request.registry, &request.scope)
    );
    assert_eq!((&read.endpoints, &read.container_request), (&request.endpoints, &request.container_request));
    assert!(!format!("{request:?}").contains("1.50"));

    let empty = CredentialRequest { image: "app".into(), ..CredentialRequest::default() };
    let Ok(Document::Credential(read)) = recognise(&empty.write().unwrap()) else { panic!("not recognised") };
    assert_eq!((read.endpoints, read.container_request), (None, None));

    let large = Zeroizing::new(format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_REQUEST)).into_bytes());
    let large = CredentialRequest { container_request: Some(large), ..CredentialRequest::default() };
    assert_eq!(large.write().unwrap_err().code, Code::BadRequest);
}

#[test]
fn documents_are_told_apart() {
    let kind = |text: &str| match recognise(text.as_bytes()) {
        Ok(Document::Credential(_)) => "clipfs".into(),
        Ok(Document::Kubelet(request)) => format!("kubelet {}", request.image),
        Ok(Document::Container) => "container".into(),
        Err(error) => error.message,
    };
    let kubelet = "credentialprovider.kubelet.k8s.io";
    let table = [
        ("{}".into(), "container"),
        (r#"{"container_id":"c","image_credentials":""}"#.into(), "container"),
        (r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest"}"#.into(), "clipfs"),
        (
            format!(r#"{{"apiVersion":"{kubelet}/v1","kind":"CredentialProviderRequest","image":"r.io/a","serviceAccountToken":"x"}}"#),
            "kubelet r.io/a",
        ),
        (
            format!(r#"{{"apiVersion":"{kubelet}/v1","kind":"CredentialProviderRequest"}}"#),
            "image: not found or empty",
        ),
        (
            format!(r#"{{"apiVersion":"{kubelet}/v1beta1","kind":"CredentialProviderRequest","image":"r.io/a"}}"#),
            "apiVersion: expected credentialprovider.kubelet.k8s.io/v1",
        ),
        (
            r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialResponse"}"#.into(),
            "kind: neither CredentialRequest nor CredentialProviderRequest",
        ),
        (r#"{"apiVersion":"v1"}"#.into(), "kind: neither CredentialRequest nor CredentialProviderRequest"),
        (r#"{"kind":"CredentialRequest"}"#.into(), "apiVersion: expected clipfs.dev/v1"),
        (
            r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest","endpoints":{"ecr":"a","other":"b"}}"#.into(),
            "endpoints: expected URLs by name: ecr, ecr_public, gcp, azure or acr",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(kind(&text), expected, "{text}");
    }
    let wrong =
        r#"{"apiVersion":"clipfs.dev/v1","kind":"CredentialRequest","containerRequest":"pl4nted-text"}"#;
    let message = kind(wrong);
    assert!(message.starts_with("containerRequest: ") && !message.contains("pl4nted"), "{message}");
}

/// What is a ContainerRequest alone is one in a question, and what is none is none there either.
#[test]
fn the_envelope_takes_nothing_from_the_limits() {
    use crate::ContainerRequest;
    use crate::json::{MAX_DEPTH, MAX_VALUES};
    let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    let many = |count: usize| format!(r#"{{"x":[0{}]}}"#, ",0".repeat(count - 3));
    // Written anew, it must not be longer than it was.
    let escaped = format!(r#"{{"x":"{}"}}"#, r"\b\f".repeat(250_000));
    for (text, fits) in [
        (nested(MAX_DEPTH), true),
        (nested(MAX_DEPTH + 1), false),
        (many(MAX_VALUES), true),
        (many(MAX_VALUES + 1), false),
        (escaped, true),
    ] {
        assert_eq!(ContainerRequest::parse(text.as_bytes()).is_ok(), fits);
        let endpoints = Endpoints { ecr: Some("https://e.example".into()), ..Endpoints::default() };
        let question = CredentialRequest {
            image: "r.example.com/a".into(),
            registry: "r.example.com".into(),
            scope: "s".into(),
            endpoints: Some(endpoints),
            container_request: Some(Zeroizing::new(text.into_bytes())),
        };
        let inner = recognise(&question.write().unwrap()).and_then(|document| match document {
            Document::Credential(read) => ContainerRequest::parse(&read.container_request.unwrap()),
            other => panic!("{other:?}"),
        });
        assert_eq!(inner.is_ok(), fits, "{inner:?}");
    }
}

proptest! {
    #[test]
    fn any_text_survives(user in "[^:\r\n\0]{1,40}", password in "[^\r\n\0]{1,80}", life in 1u64..43_200) {
        let scheme = Scheme::Basic { username: user.clone(), password: password.clone().into() };
        let written = write_answer(&answer(scheme, Some(life)), now()).unwrap();
        let Reply::Answer(read) = parse_answer_at(&written, now()).unwrap() else { panic!("an error") };
        prop_assert_eq!(plain(&read.scheme), ("Basic", user, password));
        prop_assert_eq!(read.valid_for, Some(Duration::from_secs(life)));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_answer_at(&bytes, now());
        let _ = recognise(&bytes);
    }
}
