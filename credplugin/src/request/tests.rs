use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

/// Every field of the contract, with a value of its type that is not zero.
const FIELDS: [(&str, &str); 37] = [
    ("container_id", "\"c-1\""),
    ("entry_point", r#"["python3","-m","app"]"#),
    ("env", r#"["A=pl4nted-env-1","B="]"#),
    ("cpu", "1000"),
    ("memory", "512"),
    ("gpu", "\"A10G\""),
    ("gpu_request", "[\"A10G\"]"),
    ("gpu_count", "1"),
    ("image_id", "\"i-1\""),
    ("stub_id", "\"s-1\""),
    ("workspace_id", "\"w-1\""),
    (
        "workspace",
        r#"{"external_id":"w","name":"n","signing_key":"pl4nted-key-1","volume_cache_enabled":true,"multi_gpu_enabled":true,"storage":{"secret_key":"pl4nted-key-2"},"id":7}"#,
    ),
    ("stub", r#"{"external_id":"s","name":"n","type":"endpoint","config":"{}","object":{"hash":"h"}}"#),
    ("timestamp", "\"2026-11-24T10:00:00.123456789+01:00\""),
    (
        "mounts",
        r#"[{"local_path":"/a","mount_path":"/b","link_path":"/c","read_only":true,"mount_type":"bucket","mountpoint_config":{"secret_key":"pl4nted-key-3"}}]"#,
    ),
    ("retry_count", "2"),
    ("pool_selector", "\"default\""),
    ("preemptable", "true"),
    ("checkpoint_enabled", "true"),
    (
        "build_options",
        r#"{"source_image":"","dockerfile":"FROM a","build_context":"o","source_image_creds":"u:pl4nted-creds-1","build_secrets":["S=pl4nted-creds-2"]}"#,
    ),
    ("ports", "[8000,8001]"),
    ("cost_per_ms", "1.5e-7"),
    ("app_id", "\"a-1\""),
    ("checkpoint", r#"{"checkpoint_id":"k"}"#),
    ("config_path", "\"/config\""),
    ("image_credentials", r#""u:pl4nted-creds-3""#),
    ("build_registry_credentials", r#""u:pl4nted-creds-4""#),
    ("block_network", "true"),
    ("allow_list", "[\"10.0.0.0/8\"]"),
    ("docker_enabled", "true"),
    ("runtime_secret_names", "[\"S\"]"),
    ("runtime_token_required", "true"),
    ("allow_marketplace", "true"),
    ("machine_id", "\"m-1\""),
    ("checkpoint_trigger", r#"{"type":"http"}"#),
    ("task_id", "\"t-1\""),
    ("provisioning_attempts", "3"),
];

fn document(fields: &[(&str, &str)]) -> String {
    let members: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn parse(text: &str) -> ContainerRequest {
    ContainerRequest::parse(text.as_bytes()).expect(text)
}

fn tree(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect(text)
}

#[test]
fn all_fields_are_read_and_written() {
    let mut fields = FIELDS.to_vec();
    fields.extend([("hostname", "\"h-1\""), ("from_the_future", r#"{"a":[1,null]}"#), ("nothing", "null")]);
    let text = document(&fields);
    let request = parse(&text);
    assert_eq!(request.unknown.len(), 2);
    assert_eq!((request.cpu, request.memory, request.gpu_count), (1000, 512, 1));
    assert_eq!((request.retry_count, request.provisioning_attempts), (2, 3));
    assert_eq!(request.ports, [8000, 8001]);
    assert_eq!(request.env[0].expose_secret(), "A=pl4nted-env-1");
    assert_eq!(request.image_credentials.expose_secret(), "u:pl4nted-creds-3");
    assert_eq!(request.workspace.unknown.len(), 1);
    assert_eq!(request.build_options.source_image.as_deref(), Some(""));
    assert_eq!(request.mounts[0].mount_path, "/b");
    let written = request.to_json();
    assert_eq!(tree(&written), tree(&text), "unknown fields and secrets included");
    assert_eq!(parse(&written), request);
}

#[test]
fn null_and_zero_are_absent() {
    let nulls: Vec<_> = FIELDS.iter().map(|(name, _)| (*name, "null")).collect();
    assert_eq!(parse(&document(&nulls)), ContainerRequest::default());
    assert_eq!(ContainerRequest::default().to_json().as_str(), "{}");
    for text in [
        "{}",
        r#"{"container_id":"","env":[],"cpu":0,"preemptable":false,"workspace":{"name":null},"cost_per_ms":0.0}"#,
    ] {
        assert_eq!(parse(text), ContainerRequest::default(), "{text}");
    }
    let infinite = ContainerRequest { cost_per_ms: f64::NAN, ..ContainerRequest::default() };
    assert_eq!(infinite.to_json().as_str(), "{}");
}

#[test]
fn wrong_types_name_their_path_and_no_value() {
    for (name, value) in FIELDS {
        // A value that fits no field but the one that may be anything.
        let wrong = if value.starts_with('"') { "{\"a\":4711}" } else { "\"pl4nted-wrong-1\"" };
        let result = ContainerRequest::parse(document(&[(name, wrong)]).as_bytes());
        if name == "checkpoint_trigger" {
            assert!(result.is_ok());
            continue;
        }
        let error = result.expect_err(name);
        assert_eq!(error.code, crate::Code::BadRequest);
        assert!(error.message.starts_with(&format!("{name}: expected ")), "{}", error.message);
        assert!(!error.message.contains("pl4nted-") && !error.message.contains("4711"), "{}", error.message);
    }
    for (text, says) in [
        (r#"{"workspace":{"name":4711}}"#, "workspace.name: expected a string, found a number (at byte 21)"),
        (r#"{"env":["a","b","c",null]}"#, "env[3]: expected a string, found null (at byte 20)"),
        (r#"{"env":"A=b"}"#, "env: expected an array, found a string (at byte 7)"),
        (
            r#"{"mounts":[{},{"read_only":"yes"}]}"#,
            "mounts[1].read_only: expected true or false, found a string (at byte 27)",
        ),
        (r#"{"mounts":[null]}"#, "mounts[0]: expected an object, found null (at byte 11)"),
        (r#"{"cpu":1.5}"#, "cpu: expected an integer of 64 bits, found a number (at byte 7)"),
        (
            r#"{"gpu_count":-1}"#,
            "gpu_count: expected an integer of 32 bits from 0, found a number (at byte 13)",
        ),
        (
            r#"{"ports":[4294967296]}"#,
            "ports[0]: expected an integer of 32 bits from 0, found a number (at byte 10)",
        ),
        (
            r#"{"cost_per_ms":1e999}"#,
            "cost_per_ms: expected a number of 64 bits, found a number (at byte 15)",
        ),
        (r#"{"timestamp":"yesterday"}"#, "timestamp: expected a time like 2026-11-24T10:00:00Z"),
        (r#"{"timestamp":""}"#, "timestamp: expected a time like 2026-11-24T10:00:00Z"),
        (
            r#"{"image_credentials":{"USERNAME":"pl4nted-wrong-2"}}"#,
            "image_credentials: expected a string, found an object (at byte 21)",
        ),
        (
            r#"{"image_credentials":4711}"#,
            "image_credentials: expected a string, found a number (at byte 21)",
        ),
        (
            r#"{"build_options":{"build_secrets":[1]}}"#,
            "build_options.build_secrets[0]: expected a string, found a number (at byte 35)",
        ),
        (
            r#"{"image_credentials":"a","image_credentials":"b"}"#,
            "image_credentials: the key stands twice (at byte 45)",
        ),
        (r#"{"x":{"a":1,"a":2}}"#, "x.a: the key stands twice (at byte 16)"),
        ("[]", "document: expected an object, found an array (at byte 0)"),
        ("null", "document: expected an object, found null (at byte 0)"),
        ("{\"cpu\":1}\u{feff}", "document: something follows the JSON document (at byte 9)"),
    ] {
        assert_eq!(ContainerRequest::parse(text.as_bytes()).expect_err(text).message, says, "{text}");
    }
    let large = vec![b' '; MAX_REQUEST + 1];
    assert!(
        ContainerRequest::parse(&large).expect_err("large").message.contains("longer than 1048576 bytes")
    );
}

#[test]
fn debug_shows_no_secret() {
    let mut fields = FIELDS.to_vec();
    fields.push(("from_the_future", "\"pl4nted-unknown-1\""));
    let shown = format!("{:?}", parse(&document(&fields)));
    assert!(
        shown.contains("container_id: \"c-1\"") && shown.contains("env: [[secret], [secret]]"),
        "{shown}"
    );
    assert!(shown.contains("from_the_future") && !shown.contains("pl4nted-"), "{shown}");
}

#[test]
fn credentials_can_be_replaced() {
    let request =
        parse(r#"{"container_id":"c","image_credentials":"a:b"}"#).with_image_credentials("c:d".into());
    assert_eq!(request.to_json().as_str(), r#"{"container_id":"c","image_credentials":"c:d"}"#);
}

/// Raw values, as they may stand in unknown fields.
fn values() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&[text]).expect("JSON")),
        Just(r#"{"a":{"b":[true]}}"#.to_owned()),
    ];
    text.prop_map(|text| json::parse(text.as_bytes(), MAX_REQUEST, "").expect("JSON"))
}

prop_compose! {
    fn requests()(
        (container_id, entry_point, env, cpu, gpu_count) in any::<(String, Vec<String>, Vec<String>, i64, u32)>(),
        (name, key, source_image, read_only, mounts) in any::<(String, Option<String>, Option<String>, bool, u8)>(),
        (image_credentials, block_network, ports, retry_count) in any::<(String, bool, Vec<u32>, i64)>(),
        cost_per_ms in any::<f64>().prop_filter("JSON has no others", |number| number.is_finite()),
        checkpoint_trigger in proptest::option::of(values().prop_filter("null is absent", |value| !value.is_null())),
        unknown in btree_map("x_[a-z\"\\\\\u{e9}\n]{0,8}", values(), 0..4),
        time in any::<bool>(),
        inner in vec(values(), 0..2),
    ) -> ContainerRequest {
        let inner: BTreeMap<_, _> = inner.into_iter().map(|value| ("x".to_owned(), value)).collect();
        let mount = Mount { local_path: name.clone(), read_only, unknown: inner.clone(), ..Mount::default() };
        ContainerRequest {
            container_id,
            entry_point,
            env: env.into_iter().map(SecretString::from).collect(),
            cpu,
            gpu_count,
            workspace: Workspace { name, signing_key: key.map(SecretString::from), unknown: inner, ..Workspace::default() },
            timestamp: if time { Timestamp::new("0001-01-01T00:00:00Z").expect("a time") } else { Timestamp::default() },
            mounts: vec![mount; usize::from(mounts % 3)],
            retry_count,
            build_options: BuildOptions { source_image, ..BuildOptions::default() },
            ports,
            cost_per_ms: if cost_per_ms == 0.0 { 0.0 } else { cost_per_ms },
            image_credentials: image_credentials.into(),
            block_network,
            checkpoint_trigger,
            unknown,
            ..ContainerRequest::default()
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(request in requests()) {
        let written = request.to_json();
        let again = ContainerRequest::parse(written.as_bytes()).expect("a request");
        prop_assert_eq!(&again, &request);
        prop_assert_eq!(again.to_json(), written);
    }

    #[test]
    fn any_bytes_are_answered(bytes in any::<Vec<u8>>()) {
        let _ = ContainerRequest::parse(&bytes);
    }
}
