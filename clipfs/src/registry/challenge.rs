//! `WWW-Authenticate`: several challenges in one header or several headers (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Most challenges and parameters looked at; real answers have one or two.
const MAX_CHALLENGES: usize = 16;
const MAX_PARAMS: usize = 32;

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower-cased.
    pub(super) scheme: String,
    /// Names lower-cased, values unquoted, in order.
    params: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer, in order. Text that is no challenge ends the header it stands in.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        // Realms for people are written in any language; only what is ASCII means something to us.
        parse_header(&String::from_utf8_lossy(value.as_bytes()), &mut found);
    }
    found
}

/// For fuzzing: header values, one a line.
#[cfg(fuzzing)]
pub(super) fn fuzz(data: &[u8]) {
    let values =
        data.split(|b| *b == b'\n').filter_map(|line| reqwest::header::HeaderValue::from_bytes(line).ok());
    let headers: HeaderMap = values.map(|value| (WWW_AUTHENTICATE, value)).collect();
    let found = parse(&headers);
    assert!(found.len() <= MAX_CHALLENGES && found.iter().all(|c| c.params.len() <= MAX_PARAMS));
}

fn parse_header(text: &str, found: &mut Vec<Challenge>) {
    let mut rest = text;
    while found.len() < MAX_CHALLENGES {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (scheme, after) = token(rest);
        if scheme.is_empty() || !(after.is_empty() || after.starts_with([' ', '\t', ','])) {
            return;
        }
        let (params, after) = parameters(after);
        found.push(Challenge { scheme: scheme.to_ascii_lowercase(), params });
        rest = after;
    }
}

/// The parameters after a scheme, up to the next scheme.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut params = Vec::new();
    let mut directly_after_scheme = true;
    while params.len() < MAX_PARAMS {
        let trimmed = rest.trim_start_matches([' ', '\t', ',']);
        directly_after_scheme &= !rest[..rest.len() - trimmed.len()].contains(',');
        let (name, after) = token(trimmed);
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=').filter(|_| !name.is_empty()) else {
            if directly_after_scheme && !trimmed.is_empty() {
                // A token68 ("Negotiate abc/+"): nothing we could use.
                rest = trimmed.find(',').map_or("", |comma| &trimmed[comma..]);
            }
            break;
        };
        let value = value.trim_start_matches([' ', '\t']);
        if directly_after_scheme && (value.is_empty() || value.starts_with(['=', ','])) {
            rest = value.find(',').map_or("", |comma| &value[comma..]); // a padded token68
            break;
        }
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            // Some registries leave URLs bare, with characters no token has.
            None => {
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        params.push((name.to_ascii_lowercase(), value));
        rest = after;
        directly_after_scheme = false;
    }
    (params, rest)
}

/// A quoted string after its opening quote; a missing closing quote ends with the header.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn token(text: &str) -> (&str, &str) {
    let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let end = text.bytes().position(|b| !tchar(b)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(headers: &[&str]) -> String {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        let params =
            |c: &Challenge| c.params.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(";");
        parse(&map).iter().map(|c| format!("{}[{}]", c.scheme, params(c))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn table() {
        let table: &[(&[&str], &str)] = &[
            (&[], ""),
            (&[""], ""),
            (&["   "], ""),
            (&[",,, ,"], ""),
            (&["Basic"], "basic[]"),
            (&["BASIC realm=\"x\""], "basic[realm=x]"),
            (&["Basic realm=x"], "basic[realm=x]"),
            (&["bAsIc   ReAlM = \"x y\""], "basic[realm=x y]"),
            (
                &[
                    "Bearer realm=\"https://auth.example/token\",service=\"r.example\",scope=\"repository:a/b:pull\"",
                ],
                "bearer[realm=https://auth.example/token;service=r.example;scope=repository:a/b:pull]",
            ),
            (&["Bearer realm=\"a,b\" , service=\"c=d\""], "bearer[realm=a,b;service=c=d]"),
            (
                &["Bearer realm=https://auth.example/token,service=r"],
                "bearer[realm=https://auth.example/token;service=r]",
            ),
            (&["Bearer realm=\"a\\\"b\\\\c\""], "bearer[realm=a\"b\\c]"),
            (&["Bearer realm=\"\",service=x"], "bearer[realm=;service=x]"),
            (&["Bearer realm=\"open"], "bearer[realm=open]"),
            (&["Bearer realm=\"open\\"], "bearer[realm=open]"),
            (
                &["Basic realm=\"a\", Bearer realm=\"b\",service=c"],
                "basic[realm=a] bearer[realm=b;service=c]",
            ),
            (&["Basic realm=\"a\"", "Bearer realm=\"b\""], "basic[realm=a] bearer[realm=b]"),
            (&["Bearer realm=\"b\", Basic"], "bearer[realm=b] basic[]"),
            (&["Basic, Bearer realm=\"b\""], "basic[] bearer[realm=b]"),
            (&["Negotiate, Basic realm=\"a\""], "negotiate[] basic[realm=a]"),
            (&["Negotiate YWJj/+==, Basic realm=\"a\""], "negotiate[] basic[realm=a]"),
            (&["Negotiate YWJj, Basic realm=\"a\""], "negotiate[] basic[realm=a]"),
            (&["NTLM TlRM=, Bearer realm=b"], "ntlm[] bearer[realm=b]"),
            (
                &["Digest qop=\"auth,auth-int\", nonce=\"=,=\", Basic realm=x"],
                "digest[qop=auth,auth-int;nonce==,=] basic[realm=x]",
            ),
            (&["Bearer realm=a,realm=b"], "bearer[realm=a;realm=b]"),
            (&[",Bearer realm=a,,service=b,"], "bearer[realm=a;service=b]"),
            (&["Bearer\trealm=a"], "bearer[realm=a]"),
            (&["\"quoted\" realm=x"], ""),
            (&["realm=x"], ""),
            (
                &["Bearer error=\"insufficient_scope\",realm=\"b\""],
                "bearer[error=insufficient_scope;realm=b]",
            ),
            (&["Bearer realm=\"b\" service=\"c\""], "bearer[realm=b;service=c]"),
            (&["=", "Basic realm=x"], "basic[realm=x]"),
            (&["BEARER REALM=\"b\",Service=s"], "bearer[realm=b;service=s]"),
            (
                &["Digest realm=\"a\"", "Negotiate", "Basic realm=\"x\""],
                "digest[realm=a] negotiate[] basic[realm=x]",
            ),
        ];
        for (headers, want) in table {
            assert_eq!(show(headers), *want, "{headers:?}");
        }
        let many = vec!["Basic realm=x"; 1000];
        assert_eq!(show(&many).matches("basic").count(), MAX_CHALLENGES);
        let long = format!("Bearer {}", "a=b,".repeat(500));
        assert!(show(&[&long]).len() < 1000);
    }

    #[test]
    fn realms_in_any_language() {
        let mut map = HeaderMap::new();
        for bytes in ["Basic realm=\"größe\"".as_bytes(), b"Bearer realm=\"\xff\",service=s"] {
            map.append(WWW_AUTHENTICATE, reqwest::header::HeaderValue::from_bytes(bytes).unwrap());
        }
        let found = parse(&map);
        assert_eq!(found[0].param("realm"), Some("größe"));
        assert_eq!((found[1].scheme.as_str(), found[1].param("service")), ("bearer", Some("s")));
    }

    #[test]
    fn first_value_wins() {
        let mut map = HeaderMap::new();
        map.append(WWW_AUTHENTICATE, "Bearer realm=a,realm=b".parse().unwrap());
        assert_eq!(parse(&map)[0].param("realm"), Some("a"));
        assert_eq!(parse(&map)[0].param("scope"), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,80}|[a-z=,\"\\\\é ]{0,40}") {
            parse_header(&text, &mut Vec::new());
        }
    }
}
