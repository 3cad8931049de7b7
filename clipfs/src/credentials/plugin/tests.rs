//! Shell scripts as plugins: what is believed of their answers, and what is told of their failures.

use std::io;
use std::sync::Mutex;

use tempfile::TempDir;
use tracing::instrument::WithSubscriber;

use super::super::Credential;
use super::super::exec::tests::{script, until};
use super::super::request::tests::{request_json, request_of, write_request};
use super::*;

const REGISTRY: &str = "r.example.com";

/// A plugin, its request, and everything that is logged while it is asked.
struct Bench {
    dir: TempDir,
    log: Arc<Mutex<Vec<u8>>>,
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Bench {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), log: Arc::default() }
    }

    fn plugin(&self, body: &str, request: Option<&str>) -> ClipfsPlugin {
        let program = script(self.dir.path(), body);
        let request = request.map(|text| {
            let path = program.with_extension("json");
            write_request(&path, text);
            RequestFile::open(&path).unwrap()
        });
        let plugin = ClipfsPlugin::open(&program, request, Endpoints::default()).unwrap();
        // Its own: other tests fill those of the process, and waiting counts against the limit.
        ClipfsPlugin { places: Places::default(), ..plugin }
    }

    /// Asks, and checks that neither the log nor the error holds anything that was planted.
    async fn ask(&self, plugin: &ClipfsPlugin) -> Result<Answer, CredentialError> {
        let log = Arc::clone(&self.log);
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Log(Arc::clone(&log)))
            .finish();
        let asked = CredentialRequest {
            registry: REGISTRY.into(),
            image: "r.example.com/team/app:1".into(),
            scope: "repository:team/app:pull".into(),
        };
        let result = plugin.credential(&asked).with_subscriber(subscriber).await;
        if let Err(error) = &result {
            assert!(!format!("{error} {error:?}").contains("pl4nted"), "{error:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        let log = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
        assert!(!log.contains("pl4nted"), "{log}");
        result
    }
}

fn document(kind: &str, fields: &serde_json::Value) -> String {
    let mut document = serde_json::json!({"apiVersion": "clipfs.dev/v1", "kind": kind});
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document.to_string()
}

fn basic(registry: &str, expires_at: Option<&str>) -> String {
    document(
        "CredentialResponse",
        &serde_json::json!({
            "registry": registry, "scheme": "Basic", "username": "u", "password": "pl4nted-answer",
            "expiresAt": expires_at,
        }),
    )
}

fn none() -> String {
    document("CredentialResponse", &serde_json::json!({"registry": REGISTRY, "scheme": "None"}))
}

fn says(document: &str, code: u8) -> String {
    format!("cat >/dev/null\ncat <<'END'\n{document}\nEND\nexit {code}")
}

#[tokio::test]
async fn answers_of_all_schemes() {
    let bench = Bench::new();
    let token = |scheme| {
        let fields =
            serde_json::json!({"registry": "R.example.com", "scheme": scheme, "token": "pl4nted-token"});
        document("CredentialResponse", &fields)
    };
    let ask = async |document: String| {
        let plugin = bench.plugin(&says(&document, 0), Some(&request_json("pl4nted-password")));
        bench.ask(&plugin).await.unwrap()
    };
    let Credential::Basic { username, password } = ask(basic(REGISTRY, None)).await.credential else {
        panic!()
    };
    assert_eq!((username.as_str(), password.expose_secret()), ("u", "pl4nted-answer"));
    let Credential::Bearer(secret) = ask(token("Bearer")).await.credential else { panic!() };
    assert_eq!(secret.expose_secret(), "pl4nted-token");
    let Credential::RefreshToken(secret) = ask(token("RefreshToken")).await.credential else { panic!() };
    assert_eq!(secret.expose_secret(), "pl4nted-token");
    let ten_years = time_after(Duration::from_secs(10 * 365 * 24 * 3600));
    assert_eq!(ask(basic(REGISTRY, Some(&ten_years))).await.valid_for, Some(super::super::MAX_LIFE));
    let hour = Duration::from_secs(3600);
    let life = ask(basic(REGISTRY, Some(&time_after(hour)))).await.valid_for.unwrap();
    assert!(life <= hour && life > Duration::ZERO, "{life:?}");
    assert_eq!(ask(basic(REGISTRY, None)).await.valid_for, None);
}

/// RFC 3339.
fn time_after(life: Duration) -> String {
    let out = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"])
        .arg(format!("+{} seconds", life.as_secs()))
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn answers_that_must_not_be_used() {
    let bench = Bench::new();
    let table = [
        (basic("other.example.com", None), "it answered for another registry than r.example.com"),
        (basic("r.example.com:443", None), "it answered for another registry than r.example.com"),
        (basic("r.example.com.evil.example", None), "it answered for another registry than r.example.com"),
        (basic("docker.io", None), "it answered for another registry than r.example.com"),
        (basic(REGISTRY, Some("2020-01-01T00:00:00Z")), "its answer for r.example.com has expired already"),
        (none(), "answered no credentials, but the request has image_credentials"),
    ];
    for (document, expected) in table {
        let plugin = bench.plugin(&says(&document, 0), Some(&request_json("pl4nted-password")));
        let error = bench.ask(&plugin).await.unwrap_err();
        assert!(matches!(&error, CredentialError::Refused(why) if why.contains(expected)), "{error:?}");
    }
}

#[tokio::test]
async fn anonymous_only_where_the_request_is() {
    let bench = Bench::new();
    let request = |image: &str, build: &str| {
        Some(serde_json::json!({"image_credentials": image, "build_registry_credentials": build}).to_string())
    };
    let wrapped = |registry: &str, kind: &str, credentials: &str| {
        format!(r#"{{"registry":"{registry}","type":"{kind}","credentials":{credentials}}}"#)
    };
    let pair = r#"{"USERNAME":"u","PASSWORD":"pl4nted-p"}"#;
    let table = [
        (None, true),
        (Some("{}".to_owned()), true),
        (request("", ""), true),
        (request(&wrapped(REGISTRY, "public", "{}"), ""), true),
        // Another registry's: not this image's business.
        (request("", &wrapped("other.example.com", "basic", pair)), true),
        (request("", &wrapped("R.example.com", "basic", pair)), false),
        (request(&wrapped(REGISTRY, "basic", pair), ""), false),
        (request(&wrapped("other.example.com", "basic", pair), ""), false),
        (request(pair, ""), false),
        (request("u:pl4nted-p", ""), false),
    ];
    for (request, allowed) in table {
        let plugin = bench.plugin(&says(&none(), 0), request.as_deref());
        match bench.ask(&plugin).await {
            Ok(answer) => {
                assert!(allowed && matches!(answer.credential, Credential::Anonymous), "{request:?}")
            }
            Err(error) => {
                assert!(!allowed && matches!(error, CredentialError::Refused(_)), "{request:?}: {error:?}");
            }
        }
    }
}

/// Credentials for building go to the image's own registry only, so a mirror that they name gets none.
#[tokio::test]
async fn a_mirror_is_anonymous_whatever_the_build_credentials_name() {
    let bench = Bench::new();
    let build = format!(
        r#"{{"registry":"{REGISTRY}","type":"basic","credentials":{{"USERNAME":"u","PASSWORD":"pl4nted-p"}}}}"#
    );
    let request = serde_json::json!({"build_registry_credentials": build}).to_string();
    let plugin = bench.plugin(&says(&none(), 0), Some(&request));
    let mut asked = CredentialRequest {
        registry: REGISTRY.into(),
        image: "docker.io/library/ubuntu:24.04".into(),
        scope: "repository:library/ubuntu:pull".into(),
    };
    let answer = plugin.credential(&asked).await.unwrap();
    assert!(matches!(answer.credential, Credential::Anonymous));
    asked.image = format!("{REGISTRY}/team/app:1");
    let error = plugin.credential(&asked).await.unwrap_err();
    assert!(matches!(error, CredentialError::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn refusals_are_told_without_secrets() {
    let bench = Bench::new();
    type Check = fn(&CredentialError) -> bool;
    let table: [(&str, u8, Check); 8] = [
        ("usage", 64, |e| matches!(e, CredentialError::Broken(_))),
        ("bad_request", 65, |e| matches!(e, CredentialError::Malformed(_))),
        (
            "not_found",
            66,
            |e| matches!(e, CredentialError::NotFound { registry, .. } if registry == REGISTRY),
        ),
        ("unavailable", 69, |e| matches!(e, CredentialError::Unavailable(_))),
        ("internal", 70, |e| matches!(e, CredentialError::Broken(_))),
        (
            "try_later",
            75,
            |e| matches!(e, CredentialError::TryLater { after, .. } if *after == Some(Duration::from_millis(1500))),
        ),
        ("denied", 77, |e| matches!(e, CredentialError::Denied { registry, .. } if registry == REGISTRY)),
        ("a_later_word", 1, |e| matches!(e, CredentialError::Broken(_))),
    ];
    for (word, exit, is_right) in table {
        let fields = serde_json::json!({
            "code": word, "retryAfterMs": 1500,
            "message": "no:\tpl4nted-user and pl4nted-password, cGw0bnRlZC1wYXNzd29yZA==, said r.example.com",
        });
        let document = document("Error", &fields);
        let plugin = bench.plugin(&says(&document, exit), Some(&request_json("pl4nted-password")));
        let error = bench.ask(&plugin).await.unwrap_err();
        assert!(is_right(&error), "{word}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("no:[…] and […], […], said r.example.com"), "{text}");
        assert!(text.contains("plugin-"), "names the program: {text}");
    }
}

#[tokio::test]
async fn exit_codes_speak_where_there_is_no_document() {
    let bench = Bench::new();
    let table = [
        (1, "broken: ", "ended with exit code 1 and no document"),
        (64, "broken: ", "called wrongly"),
        (65, "malformed credentials: ", "does not accept the request"),
        (66, "no credentials for registry r.example.com: ", "has no credentials"),
        (69, "unavailable: ", "an endpoint"),
        (70, "broken: ", "it failed"),
        (75, "asks to wait: ", "try later"),
        (77, "credentials for registry r.example.com denied: ", "denied"),
        (126, "credential source: ", "not executable"),
        (127, "credential source: ", "not found"),
    ];
    for (code, kind, expected) in table {
        for said in ["", "echo pl4nted-words", "echo pl4nted-words >&2"] {
            let plugin = bench.plugin(&format!("{said}\nexit {code}"), None);
            let text = bench.ask(&plugin).await.unwrap_err().to_string();
            assert!(text.contains(kind) && text.contains(expected), "{code}: {text}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_broken_and_not_repeated() {
    let bench = Bench::new();
    let document = basic(REGISTRY, None);
    let error = self::document("Error", &serde_json::json!({"code": "denied", "message": "pl4nted-m"}));
    let key = format!(r#"{{"pl4nted-key":1,"pl4nted-key":2,{}"#, &document[1..]);
    let table = [
        (says("", 0), "printed nothing"),
        ("exit 0".into(), "printed nothing"),
        (says("pl4nted-garbage", 0), "no document"),
        (says("{\"pl4nted-key\":", 0), "no document"),
        (says(&key, 0), "no document"),
        (says(&format!("{document}pl4nted"), 0), "no document"),
        (says(&document.replace("v1", "v9"), 0), "no document"),
        (says(&document.replace("Basic", "pl4nted-scheme"), 0), "no document"),
        (says(&document.replace("\"u\"", "\"pl4nted:u\""), 0), "no document"),
        (says(&document.replace("pl4nted-answer", "pl4nted\\nanswer"), 0), "no document"),
        (says(&document[..document.len() - 9], 0), "no document"),
        ("printf '\\377\\376pl4nted'".into(), "no document"),
        (says(&document, 77), "answered, and ended with exit code 77"),
        (says(&basic(REGISTRY, Some("2020-01-01T00:00:00Z")), 1), "answered, and ended with exit code 1"),
        (says(&error, 0), "refused, and ended with exit code 0"),
        ("yes pl4nted-flood".into(), "printed more than 64 KiB"),
        ("echo pl4nted-crash; kill -SEGV $$".into(), "crashed (SIGSEGV)"),
    ];
    for (body, expected) in table {
        let plugin = bench.plugin(&body, Some(&request_json("pl4nted-password")));
        let error = bench.ask(&plugin).await.unwrap_err();
        assert!(
            matches!(&error, CredentialError::Broken(why) if why.contains(expected)),
            "{body}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_or_goes_is_told_apart() {
    let bench = Bench::new();
    let mut plugin = bench.plugin("sleep 1000", Some(&request_json("pl4nted-password")));
    plugin.limit = Duration::from_millis(200);
    let error = bench.ask(&plugin).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("did not end within 0.2 s"), "{error}");
    std::fs::remove_file(&plugin.program).unwrap();
    let error = bench.ask(&plugin).await.unwrap_err();
    assert!(
        matches!(&error, CredentialError::Configuration(why) if why.contains("there is no")),
        "{error:?}"
    );
    let missing = ClipfsPlugin::open(&bench.dir.path().join("none"), None, Endpoints::default());
    assert!(matches!(missing, Err(CredentialError::Configuration(_))));
}

#[tokio::test]
async fn an_answer_counts_although_a_child_holds_the_output() {
    let bench = Bench::new();
    let body = format!("sleep 1000 &\necho $! > \"$0.child\"\n{}", says(&basic(REGISTRY, None), 0));
    let plugin = bench.plugin(&body, None);
    assert!(bench.ask(&plugin).await.is_ok());
    let child = std::fs::read_to_string(plugin.program.with_extension("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    until("the child is gone", gone).await;
}

#[tokio::test]
async fn the_question_is_the_protocols() {
    let bench = Bench::new();
    let body = format!("cat > \"$0.in\"\nenv > \"$0.env\"\necho \"$@\" > \"$0.args\"\n{}", says(&none(), 0));
    let plugin = ClipfsPlugin {
        endpoints: Endpoints { ecr: Some("http://127.0.0.1:5555".into()), ..Endpoints::default() },
        ..bench.plugin(&body, Some(r#"{"container_id":"c1","of_later":[1,2]}"#))
    };
    bench.ask(&plugin).await.unwrap();
    let read = |extension| std::fs::read_to_string(plugin.program.with_extension(extension)).unwrap();
    let question: serde_json::Value = serde_json::from_str(&read("in")).unwrap();
    assert_eq!(
        question,
        serde_json::json!({
            "apiVersion": "clipfs.dev/v1", "kind": "CredentialRequest",
            "image": "r.example.com/team/app:1", "registry": REGISTRY, "scope": "repository:team/app:pull",
            "endpoints": {"ecr": "http://127.0.0.1:5555"},
            "containerRequest": {"container_id": "c1", "of_later": [1, 2]},
        })
    );
    assert_eq!(read("args"), "get\n");
    let own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
    assert!(read("env").lines().all(|line| own.iter().any(|name| line.starts_with(name))), "{}", read("env"));
}

#[tokio::test]
async fn a_rotated_request_reaches_the_plugin() {
    let bench = Bench::new();
    let answer = basic(REGISTRY, None).replace("pl4nted-answer", "'\"$password\"'");
    let body = format!("password=$(sed 's/.*PASSWORD[^:]*:[^a-z]*\\([a-z0-9-]*\\).*/\\1/')\necho '{answer}'");
    let plugin = bench.plugin(&body, Some(&request_json("pl4nted-first")));
    let password = async || match bench.ask(&plugin).await.unwrap().credential {
        Credential::Basic { password, .. } => password.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    };
    let version = plugin.version();
    assert_eq!(password().await, "pl4nted-first");
    assert_eq!(plugin.version(), version);
    write_request(&plugin.program.with_extension("json"), &request_json("pl4nted-second"));
    assert_ne!(plugin.version(), version);
    assert_eq!(password().await, "pl4nted-second");
}

#[tokio::test]
async fn a_request_up_to_what_the_document_has_room_for() {
    let bench = Bench::new();
    let body = format!("wc -c > \"$0.size\"\n{}", says(&basic(REGISTRY, None), 0));
    let plugin = bench.plugin(&body, Some(&request_json("pl4nted-password")));
    let (path, size) = (plugin.program.with_extension("json"), plugin.program.with_extension("size"));
    let given = || std::fs::read_to_string(&size).ok()?.trim().parse::<usize>().ok();
    bench.ask(&plugin).await.unwrap();
    let around = given().unwrap() - request_json("pl4nted-password").len();
    let room = clipfs::MAX_REQUEST - around;
    write_request(&path, &request_of("pl4nted-password", room));
    bench.ask(&plugin).await.unwrap();
    assert_eq!(given(), Some(1 << 20), "a document of just 1 MiB");
    std::fs::remove_file(&size).unwrap();
    write_request(&path, &request_of("pl4nted-password", room + 1));
    let error = bench.ask(&plugin).await.unwrap_err();
    let CredentialError::Malformed(why) = error else { panic!("{error:?}") };
    assert!(why.starts_with(&*path.to_string_lossy()) && why.contains("too long for a plugin"), "{why}");
    assert!(why.contains("1048577 bytes, more than 1048576"), "{why}");
    assert_eq!(given(), None, "it was not run");
}
