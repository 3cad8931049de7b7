use proptest::prelude::*;

use super::*;

const DIGEST: &str = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn references_name_their_registry() {
    for (reference, registry) in [
        ("ubuntu", "docker.io"),
        ("ubuntu:20.04", "docker.io"),
        ("postgres:16", "docker.io"),
        ("Ubuntu:20.04", "docker.io"),
        ("user/img:t", "docker.io"),
        ("library/ubuntu", "docker.io"),
        ("docker://ubuntu", "docker.io"),
        ("docker://user/img:t", "docker.io"),
        ("DOCKER://ubuntu:20.04", "docker.io"),
        ("docker.io/library/ubuntu", "docker.io"),
        ("index.docker.io/library/ubuntu", "docker.io"),
        ("registry-1.docker.io/library/ubuntu:1", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://registry-1.docker.io/v2/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("Docker.IO", "docker.io"),
        ("gcr.io/p/i", "gcr.io"),
        ("gcr.io", "gcr.io"),
        ("gcr.io/", "gcr.io"),
        ("registry.example.com:5000/i", "registry.example.com:5000"),
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("registry:5000/i", "registry:5000"),
        ("registry.example.com:443/i", "registry.example.com:443"),
        ("index.docker.io:443/i", "index.docker.io:443"),
        ("localhost/app", "localhost"),
        ("LOCALHOST/app", "localhost"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost:5000"),
        ("localhost:5000/app:v1", "localhost:5000"),
        ("[::1]:5000/i", "[::1]:5000"),
        ("[::1]/i", "[::1]"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]:5000/i", "[::1]:5000"),
        ("[FD00::A]:5000/i", "[fd00::a]:5000"),
        ("127.0.0.1:5000/i", "127.0.0.1:5000"),
        ("https://ghcr.io/o/i", "ghcr.io"),
        ("http://ghcr.io/o/i", "ghcr.io"),
        ("HTTPS://GHCR.IO/o/i", "ghcr.io"),
        ("oci://ghcr.io/o/i", "ghcr.io"),
        ("docker://GHCR.io/o/i:t", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io?x=evil.example/i", "ghcr.io"),
        ("https://ghcr.io#/evil.example", "ghcr.io"),
        ("https://ghcr.io/v2/?x=@evil.example", "ghcr.io"),
        ("https://registry:5000/v2/", "registry:5000"),
        ("https://[::1]:5000/v2/", "[::1]:5000"),
        ("ghcr.io/o/i:t@sha256:x", "ghcr.io"),
        ("evil.example/amazonaws.com/x", "evil.example"),
        // Without a slash it is an image of Docker Hub, unless it can only be a registry.
        ("my.image:latest", "docker.io"),
        ("registry:5000", "docker.io"),
        ("localhost:latest", "docker.io"),
    ] {
        assert_eq!(parse_registry(reference).as_deref(), Ok(registry), "{reference}");
    }
    for image in ["ubuntu", "ubuntu:20.04", "gcr.io"] {
        assert_eq!(parse_registry(&format!("{image}{DIGEST}")).as_deref(), Ok("docker.io"), "{image}");
    }
}

#[test]
fn what_names_no_registry_is_refused() {
    let long = format!("{}.example/i", "a".repeat(64));
    let longer = format!("{}example/i", "a.".repeat(130));
    for reference in [
        "",
        " ",
        "/",
        "/i",
        "//ghcr.io/i",
        ".",
        "..",
        "../i",
        ":",
        ":5000/i",
        "ubuntu:",
        "ubuntu:a b",
        "ubuntu:t?x",
        "ghcr.io:/i",
        "ghcr.io:0/i",
        "ghcr.io:65536/i",
        "ghcr.io:05000/i",
        "ghcr.io:+1/i",
        "ghcr.io:a/i",
        "ghcr.io:1:2/i",
        "ghcr.io./i",
        "ghcr..io/i",
        ".ghcr.io/i",
        "-ghcr.io/i",
        "ghcr-.io/i",
        "gh_cr.io/i",
        "ghcr.io\\@evil.example/i",
        "gh%63r.io/i",
        "user@ghcr.io/o/i",
        "user:password@ghcr.io/o/i",
        "https://user:password@ghcr.io/o/i",
        "https://user@ghcr.io",
        "user@host",
        "user@host:5000",
        "ghcr.io@evil.example/i",
        "https://",
        "https:///i",
        "https://ubuntu",
        "https://https://ghcr.io",
        "ftp://ghcr.io/i",
        "file:///etc/passwd",
        "://ghcr.io",
        "ghcr.io/i\n",
        "ghcr.io\r\n/i",
        "ghcr.io\0/i",
        "ghcr.io/\u{2028}",
        "ghcr.io\u{ad}/i",
        "gh\u{441}r.io/i",
        "\u{661}27.0.0.1/i",
        "[::1/i",
        "[::1]x/i",
        "[::1]5000/i",
        "[::1]:x/i",
        "[fe80::1%eth0]:5000/i",
        "[127.0.0.1]/i",
        "::1/i",
        "127.1/i",
        "0x7f.0.0.1/i",
        "127.0.0.0x1/i",
        "127.0.0.01/i",
        "256.0.0.1/i",
        "2130706433:5000/i",
        "1.2.3.4.5/i",
        &long,
        &longer,
    ] {
        let error = parse_registry(reference).expect_err(reference);
        assert_eq!(error.code, Code::BadRequest, "{reference}");
        assert!(!error.message.contains("password"), "{}", error.message);
    }
}

#[test]
fn names_are_read_as_names() {
    for (text, name) in [
        ("registry:5000", "registry:5000"),
        ("Registry:5000", "registry:5000"),
        ("https://registry:5000/v2/", "registry:5000"),
        ("ghcr.io/org", "ghcr.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("oci://ghcr.io/o/i", "ghcr.io"),
    ] {
        assert_eq!(normalize_registry(text).as_deref(), Ok(name), "{text}");
    }
    for text in
        ["", "ubuntu", "ubuntu:20.04", "user/img", "postgres:latest", "user@ghcr.io", "https://", "ghcr.io."]
    {
        assert_eq!(normalize_registry(text).expect_err(text).code, Code::BadRequest, "{text}");
    }
}

#[test]
fn secrets_have_names() {
    for (registry, name) in [
        ("registry.example.com:5000", "oci-registry-registry-example-com-5000"),
        ("docker.io", "oci-registry-docker-io"),
        ("GHCR.io", "oci-registry-ghcr-io"),
        ("index.docker.io", "oci-registry-docker-io"),
        ("localhost", "oci-registry-localhost"),
        ("registry:5000", "oci-registry-registry-5000"),
        ("https://ghcr.io/", "oci-registry-ghcr-io"),
        (
            "123456789012.dkr.ecr.us-east-1.amazonaws.com",
            "oci-registry-123456789012-dkr-ecr-us-east-1-amazonaws-com",
        ),
        ("a.b:1", "oci-registry-a-b-1"),
        ("Not/A.Registry", "oci-registry-not-a-registry"),
    ] {
        assert_eq!(secret_name(registry), name, "{registry}");
    }
    assert_eq!(secret_name("a.b"), secret_name("a-b"), "a display name is no identity");
}

#[test]
fn loopback_is_this_machine_only() {
    for registry in
        ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:5000", "[::1]:5000", "LOCALHOST:1"]
    {
        assert!(is_loopback(registry), "{registry}");
    }
    for registry in [
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.evil.example:5000",
        "128.0.0.1",
        "0.0.0.0",
        "[::2]:5000",
        "[::ffff:10.0.0.1]",
        "evil-localhost:5000",
        "",
        "127.1",
    ] {
        assert!(!is_loopback(registry), "{registry}");
    }
}

/// Texts that come near to references.
fn nearly_references() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            Just("https://".to_owned()),
            Just("docker://".to_owned()),
            Just("docker.io".to_owned()),
            Just("index.docker.io".to_owned()),
            Just("localhost".to_owned()),
            Just("[::1]".to_owned()),
            "[:/.@?#\\[\\]-]",
            "[a-zA-Z0-9.-]{1,6}",
            ":[0-9]{1,5}",
        ],
        0..8,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        let _ = parse_registry(&text);
        let _ = normalize_registry(&text);
        let _ = secret_name(&text);
        let _ = is_loopback(&text);
    }

    #[test]
    fn a_name_stays_itself(text in prop_oneof![nearly_references(), any::<String>()]) {
        if let Ok(name) = parse_registry(&text) {
            prop_assert_eq!(normalize_registry(&name), Ok(name.clone()));
            prop_assert_eq!(parse_registry(&format!("{name}/x")), Ok(name.clone()));
            prop_assert_eq!(parse_registry(&format!("https://{name}/x")), Ok(name.clone()));
            // `registry:5000` alone reads as an image and its tag; every other name is also a reference to itself.
            if name.contains(['.', '[']) || name == "localhost" || name.starts_with("localhost:") {
                prop_assert_eq!(parse_registry(&name), Ok(name.clone()));
            }
        }
    }
}
