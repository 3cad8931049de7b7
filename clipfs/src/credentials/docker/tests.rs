use secrecy::ExposeSecret as _;

use super::*;
use crate::credentials::Credential;

fn shown(result: Result<Answer, CredentialError>) -> String {
    match result {
        Ok(answer) => match answer.credential {
            Credential::Basic { username, password } => format!("{username}|{}", password.expose_secret()),
            Credential::RefreshToken(token) => format!("refresh|{}", token.expose_secret()),
            other => format!("{other:?}"),
        },
        Err(error) => {
            assert!(!error.to_string().contains("pl4nted-"), "{error}");
            let word = format!("{error:?}");
            word.split([' ', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

#[test]
fn answers() {
    let table = [
        (r#"{"ServerURL":"r.example:5000","Username":"u","Secret":"pl4nted-1"}"#, "u|pl4nted-1"),
        (r#"{"ServerURL":"https://r.example:5000/v1/","Username":"u","Secret":" p:\u00fc "}"#, "u| p:ü "),
        (r#"{"Username":"u","Secret":"p"}"#, "u|p"),
        (r#"{"serverurl":null,"username":"u","secret":"p","Extra":[1,{}]}"#, "u|p"),
        (r#"{"ServerURL":"R.example:5000","Username":"<token>","Secret":"pl4nted-t"}"#, "refresh|pl4nted-t"),
        (r#"{"ServerURL":"r.example","Username":"u","Secret":"pl4nted-1"}"#, "Refused"),
        (r#"{"ServerURL":"r.example:5000.evil","Username":"u","Secret":"pl4nted-1"}"#, "Refused"),
        (r#"{"ServerURL":"r.example:5000","Username":"u","Secret":""}"#, "NotFound"),
        (r#"{"ServerURL":"r.example:5000","Username":"u"}"#, "NotFound"),
        (r#"{"ServerURL":"r.example:5000","Username":"","Secret":"pl4nted-1"}"#, "NotFound"),
        (r#"{"Username":"<token>","Secret":""}"#, "NotFound"),
        (r#"{}"#, "NotFound"),
        (r#"{"Username":"u","Secret":"pl4nted-\r\nX: y"}"#, "Malformed"),
        (r#"{"Username":"pl4nted-:u","Secret":"p"}"#, "Malformed"),
        (r#"{"Username":"u","Secret":"pl4nted-1","secret":"pl4nted-2"}"#, "Broken"),
        (r#"{"Username":"u","Secret":"pl4nted-1","Secret":"pl4nted-2"}"#, "Broken"),
        (r#"{"Username":"u","Secret":["pl4nted-1"]}"#, "Broken"),
        (r#"{"Username":"u","Secret":"pl4nted-1"} x"#, "Broken"),
        (r#"{"Username":"u","Secret":"pl4nted-1"#, "Broken"),
        (r#""pl4nted-1""#, "Broken"),
        ("pl4nted-1", "Broken"),
        ("", "Broken"),
    ];
    for (output, expected) in table {
        assert_eq!(shown(parse_answer(output.as_bytes(), "h", "r.example:5000")), expected, "{output}");
    }
}

#[test]
fn docker_hub_answers_by_its_own_name() {
    for server in ["https://index.docker.io/v1/", "docker.io", "index.docker.io"] {
        let output = format!(r#"{{"ServerURL":"{server}","Username":"u","Secret":"p"}}"#);
        assert_eq!(shown(parse_answer(output.as_bytes(), "h", "docker.io")), "u|p");
    }
}

#[test]
fn only_known_sentences_are_understood() {
    let table: [(&[u8], &str); 8] = [
        (b"credentials not found in native keychain", "NotFound"),
        (b"credentials not found in native keychain\n", "NotFound"),
        (b"no credentials username\n", "NotFound"),
        (b"no credentials server URL\n", "Broken"),
        (b"credentials not found in native keychain pl4nted-1", "Broken"),
        (b"pl4nted-1: access denied", "Broken"),
        (b"\xff\xfe", "Broken"),
        (b"", "Broken"),
    ];
    for (said, expected) in table {
        let error = refusal(said, Some(1), "h", "r.example");
        assert_eq!(shown(Err(error)), expected, "{}", String::from_utf8_lossy(said));
    }
    let error = refusal(b"pl4nted-1", Some(3), "docker credential helper /h", "r.example").to_string();
    assert!(error.contains("docker credential helper /h ended with exit code 3"), "{error}");
}
