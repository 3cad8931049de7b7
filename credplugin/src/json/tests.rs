use proptest::prelude::*;

use super::*;

const CAP: usize = 1 << 20;

fn read(text: &str) -> Result<Value, Error> {
    parse(text.as_bytes(), CAP, "")
}

fn message(bytes: &[u8]) -> String {
    let error = parse(bytes, CAP, "").expect_err("refused");
    assert_eq!(error.code, crate::Code::BadRequest);
    error.message
}

fn write(value: &Value) -> Zeroizing<String> {
    to_string(|out| write_value(out, value))
}

#[test]
fn documents_are_read_and_written_as_they_are() {
    for (text, written) in [
        ("null", "null"),
        (" [ ] ", "[]"),
        ("{}", "{}"),
        ("\r\n\t{\"b\" : [ 1 , true ] , \"a\":false}", r#"{"a":false,"b":[1,true]}"#),
        (
            "[0,-0,1.5e+10,1E400,123456789012345678901234567890]",
            "[0,-0,1.5e+10,1E400,123456789012345678901234567890]",
        ),
        (r#""\u0041\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t\u0000""#, "\"Aé😀\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\""),
        ("\"\u{2028}\u{7f}\"", "\"\u{2028}\u{7f}\""),
    ] {
        let value = read(text).expect(text);
        assert_eq!(write(&value).as_str(), written, "{text}");
        assert_eq!(read(&write(&value)), Ok(value), "{text}");
    }
    assert_eq!(read(r#"{"a":{"b":[{"c":1}]}}"#).expect("JSON").get("a").and_then(|a| a.get("x")), None);
}

#[test]
fn what_is_not_json_is_refused_with_path_and_position() {
    for (text, says) in [
        ("", "document: it is empty; expected a JSON document"),
        (" \n", "document: it is empty; expected a JSON document"),
        ("\u{feff}{}", "document: it starts with a byte-order mark; save it as UTF-8 without one"),
        ("{}{}", "document: something follows the JSON document (at byte 2)"),
        ("{} x", "document: something follows the JSON document (at byte 3)"),
        ("nul", "document: expected a value (at byte 0)"),
        ("{\"a\":}", "a: expected a value (at byte 5)"),
        ("{\"a\"", "a: it ends where a colon is expected (at byte 4)"),
        ("{\"a\":1,}", "document: expected a key in quotation marks (at byte 7)"),
        ("{a:1}", "document: expected a key in quotation marks (at byte 1)"),
        ("{\"a\":1", "document: it ends where a comma or a closing brace is expected (at byte 6)"),
        ("[1 2]", "document: expected a comma or a closing bracket (at byte 3)"),
        ("[1,]", "[1]: expected a value (at byte 3)"),
        ("{\"env\":[\"a\",\"b\",\"c\",x]}", "env[3]: expected a value (at byte 20)"),
        ("{\"a\":{\"b\":[0,{\"c\":01}]}}", "a.b[1].c: a number does not start with zeros (at byte 19)"),
        ("[-]", "[0]: expected a digit (at byte 2)"),
        ("[1.]", "[0]: expected a digit (at byte 3)"),
        ("[.5]", "[0]: expected a value (at byte 1)"),
        ("[+1]", "[0]: expected a value (at byte 1)"),
        ("[1e]", "[0]: expected a digit (at byte 3)"),
        ("[NaN]", "[0]: expected a value (at byte 1)"),
        ("['a']", "[0]: expected a value (at byte 1)"),
        ("[/**/]", "[0]: expected a value (at byte 1)"),
        ("\"a", "document: a string does not end (at byte 2)"),
        ("\"\\", "document: a string does not end (at byte 2)"),
        ("\"\\\"", "document: a string does not end (at byte 3)"),
        ("\"a\nb\"", "document: a control character stands in a string unescaped (at byte 2)"),
        ("\"ab\\x\"", "document: an escape sequence is none (at byte 3)"),
        ("\"\\u12\"", "document: an escape sequence is none (at byte 1)"),
        ("\"\\u+123\"", "document: an escape sequence is none (at byte 1)"),
        ("\"\\ud800\"", "document: an escape sequence is none (at byte 1)"),
        ("\"\\ud800\\u0041\"", "document: an escape sequence is none (at byte 1)"),
        ("\"\\udc00\\ud800\"", "document: an escape sequence is none (at byte 1)"),
        ("\"\\é\"", "document: an escape sequence is none (at byte 1)"),
        ("{\"a\":1,\"b\":2,\"a\":3}", "a: the key stands twice (at byte 17)"),
        ("{\"x\":[{\"a\":1,\"\\u0061\":2}]}", "x[0].a: the key stands twice (at byte 22)"),
        ("{\"a\\nb\":x}", "(unprintable key): expected a value (at byte 8)"),
    ] {
        assert_eq!(message(text.as_bytes()), says, "{text}");
    }
    assert_eq!(message(b"{\"a\":\"\xff\"}"), "document: it is not UTF-8 (at byte 6)");
    assert_eq!(
        message(b"\xff\xfe{\0}\0"),
        "document: it starts with a byte-order mark; save it as UTF-8 without one"
    );
    let named = parse(b"{\"a\":x}", CAP, "image_credentials").expect_err("refused");
    assert_eq!(named.message, "image_credentials.a: expected a value (at byte 5)");
}

#[test]
fn limits_are_errors() {
    assert_eq!(parse(b"[ ]", 2, "").expect_err("refused").message, "document: it is longer than 2 bytes");
    assert!(parse(b"[ ]", 3, "").is_ok());
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(
        message(nested(MAX_DEPTH + 1).as_bytes()),
        "document: it is nested deeper than 128 (at byte 128)"
    );
    assert_eq!(
        message("[".repeat(100_000).as_bytes()),
        "document: it is nested deeper than 128 (at byte 128)"
    );
    let objects = "{\"a\":".repeat(100_000);
    assert_eq!(message(objects.as_bytes()), "document: it is nested deeper than 128 (at byte 640)");
    let items = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
    assert!(read(&items(MAX_VALUES - 1)).is_ok());
    assert!(message(items(MAX_VALUES).as_bytes()).contains("it has more than 65536 values"));
}

#[test]
fn nothing_of_a_value_is_shown() {
    let value = read(r#"{"a":"pl4nted-json-1","b":[4711,true,null],"c":{"d":1}}"#).expect("JSON");
    let shown = format!("{value:?} {:?}", value.get("b"));
    assert_eq!(shown, "object of 3 Some(array of 3)");
    let path = Path::root("");
    let error = value.get("a").expect("a").mismatch(&path.key("a"), "a number").message;
    assert_eq!(error, "a: expected a number, found a string (at byte 5)");
}

#[test]
fn numbers_have_types() {
    let path = Path::root("n");
    for (text, integer) in [
        ("0", Some(0)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("1.0", None),
        ("1e3", None),
        ("9223372036854775808", None),
        ("\"1\"", None),
    ] {
        let value = read(text).expect("JSON");
        assert_eq!(value.as_integer::<i64>(&path, "an integer").ok(), integer, "{text}");
    }
    assert_eq!(read("4294967296").expect("JSON").as_integer::<u32>(&path, "an integer").ok(), None);
    assert_eq!(read("1e400").expect("JSON").as_f64(&path).ok(), None);
    assert_eq!(read("1e-7").expect("JSON").as_f64(&path).ok(), Some(1e-7));
}

/// Any value, as text.
fn documents() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string")),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8)
                .prop_map(|items| format!("[{}]", items.join(" ,"))),
            proptest::collection::btree_map(any::<String>(), inner, 0..8).prop_map(|members| {
                let key = |key: &String| serde_json::to_string(key).expect("a string");
                let all: Vec<_> = members.iter().map(|(k, value)| format!("{}: {value}", key(k))).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in any::<Vec<u8>>()) {
        let _ = parse(&bytes, CAP, "");
    }

    /// What this parser reads, another one reads too, and the same.
    #[test]
    fn agrees_with_serde(text in prop_oneof![documents(), "[\\[\\]{}\",:0-9a-z\\\\.eE+-]{0,24}"]) {
        let ours = read(&text);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        if let Ok(value) = &ours {
            let again = serde_json::from_str::<serde_json::Value>(&write(value));
            // serde_json refuses numbers beyond a double.
            if let (Ok(theirs), Ok(again)) = (theirs, again) {
                prop_assert_eq!(again, theirs);
            }
        } else if theirs.is_ok() {
            let said = ours.expect_err("refused").message;
            prop_assert!(said.contains("twice"), "{}: {}", text, said);
        }
    }

    #[test]
    fn reads_what_it_writes(text in documents()) {
        let value = read(&text).expect("JSON");
        prop_assert!(write(&value).len() <= text.len(), "what was within a limit stays within it");
        prop_assert_eq!(read(&write(&value)), Ok(value));
    }
}
