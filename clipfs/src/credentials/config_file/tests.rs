use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;
use crate::credentials::Credential;

fn auth(text: &str) -> String {
    STANDARD.encode(text)
}

/// A short form of what a file answers.
fn answered(json: &str, flavor: Flavor, registry: &str, image: &str) -> String {
    let file = Source { path: "/f".into(), flavor, warned: AtomicBool::new(false) };
    let document = match parse(json.as_bytes(), flavor) {
        Ok(document) => document,
        Err(fault) => {
            assert!(!fault.to_string().contains("pl4nted-"), "{fault}");
            return format!("fault {fault}");
        }
    };
    assert!(!format!("{document:?}").contains("pl4nted-"), "{document:?}");
    let request = CredentialRequest { registry: registry.into(), image: image.into(), scope: String::new() };
    let place = document.find(&fold(registry), request.repository().as_deref());
    let result = match place {
        Some(Place::Helper(name)) => return format!("helper {name}"),
        Some(Place::Entry(path, entry)) => file.entry(&path, entry, registry),
        None => return "nothing".into(),
    };
    match result {
        Ok(answer) => match answer.credential {
            Credential::Basic { username, password } => format!("{username}|{}", password.expose_secret()),
            Credential::RefreshToken(token) => format!("refresh|{}", token.expose_secret()),
            Credential::Bearer(token) => format!("bearer|{}", token.expose_secret()),
            Credential::Anonymous => "anonymous".into(),
        },
        Err(error) => {
            assert!(!error.to_string().contains("pl4nted-"), "{error}");
            format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

/// A file whose entries' user names are their keys (without colons), all with the password `p`.
fn file_of(keys: &[&str]) -> String {
    let entry =
        |key: &&str| format!(r#""{key}":{{"auth":"{}"}}"#, auth(&format!("{}:p", key.replace(':', "_"))));
    format!(r#"{{"auths":{{{}}}}}"#, keys.iter().map(entry).collect::<Vec<_>>().join(","))
}

#[test]
fn dockers_keys() {
    let hub = "https://index.docker.io/v1/";
    let table: [(&[&str], &str, Option<&str>); 15] = [
        (&["r.example"], "r.example", Some("r.example")),
        (&["r.example"], "r.example:443", None),
        (&["r.example:443"], "r.example", None),
        (&["https://r.example"], "r.example", Some("https://r.example")),
        (&["http://r.example:5000/v1/"], "r.example:5000", Some("http://r.example:5000/v1/")),
        (&["https://r.example/v2/", "r.example"], "r.example", Some("r.example")),
        (&["https://r.example/other", "https://r.example/v2/"], "r.example", Some("https://r.example/v2/")),
        (&["R.Example"], "r.example", Some("R.Example")),
        (&[hub, "docker.io"], "docker.io", Some(hub)),
        (&["docker.io"], "docker.io", Some("docker.io")),
        (&["registry-1.docker.io"], "docker.io", Some("registry-1.docker.io")),
        (&["https://index.docker.io/v1/access-token"], "docker.io", None),
        (&["r.example.evil", "evil/r.example", "evilr.example", "https://u@r.example"], "r.example", None),
        (&["r.example/team"], "r.example", Some("r.example/team")),
        (&[], "r.example", None),
    ];
    for (keys, registry, expected) in table {
        let expected =
            expected.map_or_else(|| "nothing".to_owned(), |key| format!("{}|p", key.replace(':', "_")));
        for json in [file_of(keys), file_of(&keys.iter().rev().copied().collect::<Vec<_>>())] {
            assert_eq!(answered(&json, Flavor::Docker, registry, ""), expected, "{keys:?} {registry}");
        }
    }
}

#[test]
fn the_containers_tools_keys() {
    let all = [
        "r.example/ns/user/image",
        "r.example/ns/user",
        "r.example/ns",
        "r.example",
        "https://r.example/v1/",
    ];
    let table: [(&[&str], &str, &str, Option<&str>); 14] = [
        // The manual's order.
        (&all, "r.example", "r.example/ns/user/image:1", Some(all[0])),
        (&all[1..], "r.example", "r.example/ns/user/image:1", Some(all[1])),
        (&all[2..], "r.example", "r.example/ns/user/image:1", Some(all[2])),
        (&all[3..], "r.example", "r.example/ns/user/image:1", Some(all[3])),
        (&all[4..], "r.example", "r.example/ns/user/image:1", Some(all[4])),
        (&all, "r.example", "r.example/ns2/image", Some("r.example")),
        (&all[..3], "r.example", "r.example/nsx/image", None),
        (&all[..3], "r.example", "", None),
        (&all, "r.example:5000", "r.example:5000/ns/user/image", None),
        (&["docker.io/library", "docker.io"], "docker.io", "alpine", Some("docker.io/library")),
        (&["index.docker.io", "docker.io"], "docker.io", "alpine", Some("docker.io")),
        (&["https://index.docker.io/v1/"], "docker.io", "alpine", Some("https://index.docker.io/v1/")),
        (&["r.example/NS"], "r.example", "r.example/ns/image", None),
        (&["localhost:5000"], "localhost:5000", "localhost:5000/a", Some("localhost:5000")),
    ];
    for (keys, registry, image, expected) in table {
        let expected =
            expected.map_or_else(|| "nothing".to_owned(), |key| format!("{}|p", key.replace(':', "_")));
        for json in [file_of(keys), file_of(&keys.iter().rev().copied().collect::<Vec<_>>())] {
            assert_eq!(answered(&json, Flavor::Containers, registry, image), expected, "{keys:?} {image}");
        }
    }
}

#[test]
fn helpers_before_the_store_before_entries() {
    let entry = format!(r#""auths":{{"r.example":{{"auth":"{}"}}}}"#, auth("u:p"));
    let table = [
        (format!(r#"{{{entry},"credsStore":"pass"}}"#), "helper pass", "u|p"),
        (
            format!(r#"{{{entry},"credsStore":"pass","credHelpers":{{"r.example":"ecr-login"}}}}"#),
            "helper ecr-login",
            "helper ecr-login",
        ),
        (
            format!(r#"{{{entry},"credsStore":"pass","credHelpers":{{"r.example":"","s.example":"x"}}}}"#),
            "u|p",
            "fault credHelpers[\"r.example\"]: it must name a helper",
        ),
        (format!(r#"{{{entry},"credHelpers":{{"s.example":"x"}}}}"#), "u|p", "u|p"),
        (format!(r#"{{{entry},"credHelpers":{{"https://r.example/v1/":"x"}}}}"#), "helper x", "helper x"),
        (
            format!(
                r#"{{{entry},"credsStore":"","credHelpers":null,"HttpHeaders":{{"a":[1]}},"detachKeys":"x"}}"#
            ),
            "u|p",
            "u|p",
        ),
        (r#"{"auths":{"r.example":{}},"credsStore":"pass"}"#.to_owned(), "helper pass", "NotFound"),
        (r#"{}"#.to_owned(), "nothing", "nothing"),
    ];
    for (json, docker, containers) in table {
        assert_eq!(answered(&json, Flavor::Docker, "r.example", ""), docker, "{json}");
        assert_eq!(answered(&json, Flavor::Containers, "r.example", ""), containers, "{json}");
    }
    let hub = r#"{"credHelpers":{"docker.io":"a","https://index.docker.io/v1/":"b"}}"#;
    assert_eq!(answered(hub, Flavor::Docker, "docker.io", ""), "helper b");
    assert_eq!(answered(hub, Flavor::Containers, "docker.io", ""), "helper a");
}

#[test]
fn entries() {
    let table = [
        (format!(r#"{{"auth":"{}"}}"#, auth("u:pl4nted-:p:")), "u|pl4nted-:p:"),
        (format!(r#"{{"auth":"{}"}}"#, auth("u:p").trim_end_matches('=')), "u|p"),
        (format!(r#"{{"auth":"{}"}}"#, auth("user:p").trim_end_matches('=')), "user|p"),
        (format!(r#"{{"auth":"{}"}}"#, auth("u:p\0\0\0")), "u|p"),
        (format!(r#"{{"auth":"{}\n"}}"#, auth("u: ü ")), "u| ü "),
        (format!(r#"{{"auth":"{}","username":"x","password":"y"}}"#, auth("u:p")), "u|p"),
        (r#"{"auth":"","username":"x","password":"y"}"#.into(), "x|y"),
        (r#"{"username":"x","password":"y","email":null}"#.into(), "x|y"),
        (format!(r#"{{"auth":"{}","identitytoken":"pl4nted-t"}}"#, auth("0:")), "refresh|pl4nted-t"),
        (r#"{"identitytoken":"t","registrytoken":"pl4nted-r"}"#.into(), "bearer|pl4nted-r"),
        (r#"{}"#.into(), "NotFound"),
        (r#"null"#.into(), "NotFound"),
        (r#"{"auth":""}"#.into(), "NotFound"),
        (format!(r#"{{"auth":"{}"}}"#, auth(":")), "NotFound"),
        (format!(r#"{{"auth":"{}"}}"#, auth("pl4nted-u:")), "Configuration"),
        (r#"{"password":"pl4nted-1"}"#.into(), "Configuration"),
        (format!(r#"{{"auth":"{}"}}"#, auth("u:pl4nted-\r\nX: y")), "Malformed"),
        (format!(r#"{{"auth":"{}"}}"#, auth("u:pl4nted-\0x")), "Malformed"),
        (r#"{"username":"pl4nted-:u","password":"y"}"#.into(), "Malformed"),
        (r#"{"identitytoken":"pl4nted-\n"}"#.into(), "Malformed"),
        (r#"{"registrytoken":"pl4nted-\u0000"}"#.into(), "Malformed"),
        (r#"{"auth":"pl4nted-!"}"#.into(), "fault auths[\"r.example\"].auth: it is no Base64"),
        (r#"{"auth":"_w=="}"#.into(), "fault auths[\"r.example\"].auth: it is no Base64"),
        (r#"{"auth":"/w=="}"#.into(), "fault auths[\"r.example\"].auth: it is not UTF-8 in Base64"),
        (
            format!(r#"{{"auth":"{}"}}"#, auth("pl4nted-nocolon")),
            "fault auths[\"r.example\"].auth: it is not user:password in Base64",
        ),
        (
            r#"{"password":{"pl4nted-":1}}"#.into(),
            "fault auths[\"r.example\"].password: it must be a string, not an object",
        ),
        (
            r#"{"auth":"a","auth":"b"}"#.into(),
            "fault auths.r.example.auth: the key stands twice (at byte 41)",
        ),
        (r#""pl4nted-1""#.into(), "fault auths[\"r.example\"]: it must be an object, not a string"),
    ];
    for (entry, expected) in table {
        let json = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
        for flavor in [Flavor::Docker, Flavor::Containers] {
            assert_eq!(answered(&json, flavor, "r.example", "r.example/a"), expected, "{entry}");
        }
    }
}

#[test]
fn files_that_are_none() {
    let table = [
        ("", "document: it is empty"),
        ("[]", "the document must be an object"),
        (r#"{"auths":[]}"#, "auths: it must be an object, not an array"),
        (r#"{"credHelpers":{"r":1}}"#, "credHelpers.r: it must be a string, not a number"),
        (r#"{"credsStore":"../../bin/sh"}"#, "credsStore: it must be what follows"),
        (r#"{"credHelpers":{"r":"a b"}}"#, "credHelpers.r: it must be what follows"),
        (r#"{"credsStore":"\u0000"}"#, "credsStore: it must be what follows"),
        (r#"{"auths":{},"auths":{}}"#, "auths: the key stands twice"),
    ];
    for (text, expected) in table {
        let fault = parse(text.as_bytes(), Flavor::Docker).expect_err(text).to_string();
        assert!(fault.starts_with(expected), "{text}: {fault}");
    }
}

#[test]
fn files_of_the_machine() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.json");
    let opened = || ConfigFile::open(&path, Flavor::Docker, &[]).map(drop).map_err(|error| error.to_string());
    assert!(
        opened().is_err_and(|error| error.contains("there is no such file") && error.contains("config.json"))
    );
    fs::create_dir(&path).expect("a directory");
    assert!(opened().is_err_and(|error| error.contains("not a regular file")));
    fs::remove_dir(&path).expect("gone");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert!(opened().is_err_and(|error| error.contains("not a regular file")));
    fs::remove_file(&path).expect("gone");
    let mut text = b"{}".to_vec();
    text.resize(MAX_FILE, b' ');
    fs::write(&path, &text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    assert_eq!(opened(), Ok(()));
    text.push(b' ');
    fs::write(&path, &text).expect("written");
    assert!(opened().is_err_and(|error| error.contains("larger than 1024 KiB")));
    fs::write(&path, r#"{"auths":{"r.example":"pl4nted-1"}}"#).expect("written");
    assert_eq!(
        opened(),
        Err(format!(
            "credential source: {}: auths[\"r.example\"]: it must be an object, not a string",
            path.display()
        ))
    );
}

#[tokio::test]
async fn the_file_is_not_read_on_the_thread_that_asks() {
    use futures_util::FutureExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.json");
    fs::write(&path, file_of(&["r.example"])).expect("written");
    let file = ConfigFile::open(&path, Flavor::Docker, &[]).expect("a good file");
    let request =
        CredentialRequest { registry: "r.example".into(), image: String::new(), scope: String::new() };
    assert!(file.credential(&request).now_or_never().is_none(), "answered at the first poll");
    assert!(file.credential(&request).await.is_ok());
}

proptest! {
    #[test]
    fn whatever_stands_in_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Flavor::Docker);
        let _ = parse(&bytes, Flavor::Containers);
    }

    #[test]
    fn users_and_passwords_come_back(user in "[^:\0\r\n]{1,20}", password in "[^\0\r\n]{1,20}") {
        let json = format!(r#"{{"auths":{{"r.example":{{"auth":"{}"}}}}}}"#, auth(&format!("{user}:{password}")));
        prop_assert_eq!(answered(&json, Flavor::Docker, "r.example", ""), format!("{user}|{password}"));
    }
}
