use secrecy::ExposeSecret as _;

use super::*;
use crate::credentials::Credential;

const HEAD: &str =
    r#""apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse""#;

#[test]
fn decoded_strictly() {
    let table = [
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","cacheDuration":"1h","auth":{{"r.io":{{"username":"u","password":"p"}}}}}}"#), None),
        (format!(r#"{{{HEAD},"cacheKeyType":"Registry","cacheDuration":null,"auth":null}}"#), None),
        (format!(r#"{{{HEAD},"cacheKeyType":"Global","serviceAccountTokenCacheType":"Pod"}}"#), None),
        (format!(r#"{{{HEAD},"cacheKeyType":"image"}}"#), Some("cacheKeyType: it must be")),
        (format!(r#"{{{HEAD}}}"#), Some("cacheKeyType: it must be")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","cacheDuration":3600}}"#), Some("cacheDuration: it must be a string")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","cacheDuration":"pl4nted-1"}}"#), Some("cacheDuration: it is no duration")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","pl4nted":1}}"#), Some("pl4nted: there is no such member")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","Auth":{{}}}}"#), Some("Auth: there is no such member")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","auth":[]}}"#), Some("auth: it must be an object")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image","auth":{{"r.io":"pl4nted-1"}}}}"#), Some("auth[\"r.io\"]: it must be an object")),
        (
            format!(r#"{{{HEAD},"cacheKeyType":"Image","auth":{{"r.io":{{"password":{{"a":"pl4nted-1"}}}}}}}}"#),
            Some("auth[\"r.io\"].password: it must be a string"),
        ),
        (
            format!(r#"{{{HEAD},"cacheKeyType":"Image","auth":{{"r.io":{{"token":"pl4nted-1"}}}}}}"#),
            Some("auth[\"r.io\"].token: there is no such member"),
        ),
        (
            format!(r#"{{{HEAD},"cacheKeyType":"Image","auth":{{"r.io":{{}},"r.io":{{}}}}}}"#),
            Some("auth.r.io: the key stands twice"),
        ),
        (
            r#"{"apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","kind":"CredentialProviderResponse","cacheKeyType":"Image"}"#.to_owned(),
            Some("apiVersion: it must be"),
        ),
        (
            r#"{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest","cacheKeyType":"Image"}"#.to_owned(),
            Some("kind: it must be"),
        ),
        (r#"[]"#.to_owned(), Some("the document must be an object")),
        (r#"null"#.to_owned(), Some("the document must be an object")),
        (format!(r#"{{{HEAD},"cacheKeyType":"Image"}} {{}}"#), Some("document: something follows")),
        (String::new(), Some("document: it is empty")),
    ];
    for (text, expected) in table {
        match (Response::parse(text.as_bytes()), expected) {
            (Ok(_), None) => {}
            (Err(fault), Some(start)) => {
                let fault = fault.to_string();
                assert!(fault.starts_with(start) && !fault.contains("pl4nted-"), "{text}: {fault}");
            }
            (result, _) => panic!("{text}: {result:?}"),
        }
    }
}

fn answered(auth: &str, image: &str) -> Result<Answer, CredentialError> {
    let plugin = KubeletPlugin {
        program: "/p".into(),
        env: Vec::new(),
        cache: Mutex::default(),
        places: Places::default(),
    };
    let text = format!(r#"{{{HEAD},"cacheKeyType":"Image","cacheDuration":"1h","auth":{auth}}}"#);
    let response = Response::parse(text.as_bytes()).expect("a response");
    let found = plugin.cache().put(response, image, "r.io", Instant::now());
    plugin.answer(&found, image, "r.io")
}

#[test]
fn what_matches_is_used() {
    let table = [
        (r#"{"r.io":{"username":"u","password":"p"}}"#, "u|p"),
        (r#"{"*.io":{"username":"star","password":"p"},"r.io":{"username":"u","password":"p"}}"#, "u|p"),
        (r#"{"s.io":{"username":"u","password":"pl4nted-1"}}"#, "NotFound"),
        (r#"null"#, "NotFound"),
        (r#"{}"#, "NotFound"),
        (r#"{"r.io":{"username":"","password":""},"*.io":{"username":"u","password":"p"}}"#, "NotFound"),
        (r#"{"r.io":null}"#, "NotFound"),
        (r#"{"r.io":{"username":"u"}}"#, "Broken"),
        (r#"{"r.io":{"password":"pl4nted-1"}}"#, "Broken"),
        (r#"{"r.io":{"username":"u","password":"pl4nted-1\n"}}"#, "Malformed"),
        (r#"{"r.io":{"username":"pl4nted-:","password":"p"}}"#, "Malformed"),
    ];
    for (auth, expected) in table {
        let shown = match answered(auth, "r.io/team/app") {
            Ok(answer) => {
                assert_eq!(answer.valid_for, Some(Duration::from_secs(3600)));
                match answer.credential {
                    Credential::Basic { username, password } => {
                        format!("{username}|{}", password.expose_secret())
                    }
                    other => format!("{other:?}"),
                }
            }
            Err(error) => {
                assert!(!error.to_string().contains("pl4nted-"), "{error}");
                format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
            }
        };
        assert_eq!(shown, expected, "{auth}");
    }
}

#[test]
fn images_as_the_kubelet_names_them() {
    let table = [
        ("docker.io", "alpine:3.20", "", "docker.io/library/alpine"),
        (
            "R.example:5000",
            "r.example:5000/team/app:1",
            "repository:team/app:pull",
            "r.example:5000/team/app",
        ),
        ("mirror.example", "alpine", "repository:hub/alpine:pull", "mirror.example/hub/alpine"),
        ("mirror.example", "alpine", "", "mirror.example"),
    ];
    for (registry, image, scope, expected) in table {
        let request =
            CredentialRequest { registry: registry.into(), image: image.into(), scope: scope.into() };
        assert_eq!(names(&request).1, expected);
    }
}
