//! Tables of what is and what is not a reference.

use proptest::prelude::*;

use super::*;

const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn normalises_as_docker_does() {
    let table: &[(&str, &str)] = &[
        ("alpine", "docker.io/library/alpine:latest"),
        ("ubuntu:20.04", "docker.io/library/ubuntu:20.04"),
        ("user/img:t", "docker.io/user/img:t"),
        ("user/img", "docker.io/user/img:latest"),
        ("docker://ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("registry-1.docker.io/u/i:v1", "docker.io/u/i:v1"),
        ("Index.Docker.IO/u/i", "docker.io/u/i:latest"),
        ("https://index.docker.io/u/i", "docker.io/u/i:latest"),
        ("gcr.io/p/i", "gcr.io/p/i:latest"),
        ("GHCR.IO/o/i", "ghcr.io/o/i:latest"),
        ("https://ghcr.io/o/i", "ghcr.io/o/i:latest"),
        ("oci://ghcr.io/o/i", "ghcr.io/o/i:latest"),
        ("registry.example.com:5000/i", "registry.example.com:5000/i:latest"),
        ("registry.example.com:5000/i:v2", "registry.example.com:5000/i:v2"),
        ("registry:5000/i", "registry:5000/i:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("LOCALHOST/app", "localhost/app:latest"),
        ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
        ("127.0.0.1:5000/i", "127.0.0.1:5000/i:latest"),
        ("[::1]:5000/i", "[::1]:5000/i:latest"),
        ("[::1]/i", "[::1]/i:latest"),
        ("[FE80::1]:80/i", "[fe80::1]:80/i:latest"),
        ("a/b/c/d", "docker.io/a/b/c/d:latest"),
        ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest"),
        ("x:V1.0-rc_1", "docker.io/library/x:V1.0-rc_1"),
        ("x:_", "docker.io/library/x:_"),
        ("secret.example.com/img", "secret.example.com/img:latest"),
        ("evil.example/amazonaws.com/x", "evil.example/amazonaws.com/x:latest"),
        ("sub-domain.a-b.example/x", "sub-domain.a-b.example/x:latest"),
        ("registry.hub.docker.com/library/x", "registry.hub.docker.com/library/x:latest"),
    ];
    for (input, want) in table {
        let got = Reference::parse(input).unwrap_or_else(|e| panic!("{input}: {e}"));
        assert_eq!(got.to_string(), *want, "{input}");
        assert_eq!(Reference::parse(want).as_ref(), Ok(&got), "{want} is a fixed point");
    }
    for (input, want, tag) in [
        (format!("alpine@{D}"), format!("docker.io/library/alpine@{D}"), None),
        (format!("alpine:3@{D}"), format!("docker.io/library/alpine:3@{D}"), Some("3")),
        (format!("[::1]:5/i@{D}"), format!("[::1]:5/i@{D}"), None),
    ] {
        let got = Reference::parse(&input).unwrap();
        assert_eq!((got.to_string(), got.tag.as_deref()), (want, tag));
        assert_eq!(got.manifest_selector(), D);
    }
}

#[test]
fn refuses_with_a_reason() {
    let long_tag = format!("x:{}", "t".repeat(129));
    let long_repo = format!("example.com/{}", "a/".repeat(150) + "b");
    let huge = "a".repeat(5000);
    let id = "a".repeat(64);
    let sha512 = format!("x@sha512:{}", "0".repeat(128));
    let upper = format!("x@{}", D.replace("ad", "AD"));
    let table: &[(&str, &str)] = &[
        ("", "it is empty"),
        (" alpine", "it has white space"),
        ("al pine", "it has white space"),
        ("alpine\n", "it has white space"),
        ("alp\u{0}ine", "it has characters no reference may have"),
        ("älpine", "it has characters no reference may have"),
        ("Alpine", "the repository must be lower case"),
        ("UPPER/x", "the repository must be lower case"),
        ("gcr.io/P/i", "the repository must be lower case"),
        ("gcr.io/", "the repository is missing"),
        ("https://ghcr.io", "the repository is missing"),
        ("https://registry/o/i", "the registry needs a domain or a port"),
        ("docker://", "the repository is missing"),
        ("/x", "the repository is malformed"),
        ("x/", "the repository is malformed"),
        ("gcr.io//x", "the repository is malformed"),
        ("x/../y", "the repository is malformed"),
        ("example.com/../y", "the repository is malformed"),
        ("-x", "the repository is malformed"),
        ("x___y", "the repository is malformed"),
        ("x..y", "the repository is malformed"),
        ("x?y=1", "the repository is malformed"),
        ("x%2fy", "the repository is malformed"),
        ("user@host.example/x", CREDENTIALS),
        ("a:b@host/x", CREDENTIALS),
        ("alpine@3", "the digest is not sha256: and 64 lower-case hex digits"),
        ("x:", "the tag is malformed"),
        ("x:-a", "the tag is malformed"),
        (&long_tag, "the tag is malformed"),
        ("x@", "the digest is not sha256: and 64 lower-case hex digits"),
        (&sha512, "the digest is not sha256: and 64 lower-case hex digits"),
        (&upper, "the digest is not sha256: and 64 lower-case hex digits"),
        ("host:/x", "the port is not a number from 1 to 65535"),
        ("host:0/x", "the port is not a number from 1 to 65535"),
        ("host:99999/x", "the port is not a number from 1 to 65535"),
        ("host:+80/x", "the port is not a number from 1 to 65535"),
        ("-bad.example/x", "the registry is not a host name"),
        ("a..b/x", "the registry is not a host name"),
        ("./x", "the registry is not a host name"),
        ("[::1/x", "the port is not a number from 1 to 65535"),
        ("[zz]/x", "the host is not an IPv6 address"),
        ("ftp://example.com/x", "unknown transport"),
        ("http://example.com/x", "unknown transport"),
        (&long_repo, "the repository name is too long"),
        (&huge, "it is too long"),
        (&id, "64 hex digits are an image id, not a name"),
    ];
    for (input, want) in table {
        match Reference::parse(input) {
            Ok(got) => panic!("{input:?} parsed as {got}"),
            Err(e) => assert_eq!(e.reason, *want, "{input:?}"),
        }
    }
}

#[test]
fn credentials_in_a_reference_are_not_repeated() {
    let digest = format!("https://u:pl4nted-p@host/a@{D}");
    let bad_digest = "u:pl4nted-p@host/a@sha256:1".to_owned();
    let table: &[(&str, &str)] = &[
        ("https://user:pl4nted-p@host.example/a", "https://…@host.example/a"),
        ("docker://user:pl4nted-p@host.example:5000/a:1", "docker://…@host.example:5000/a:1"),
        ("user:pl4nted-p@host.example/a", "…@host.example/a"),
        ("pl4nted-token@host.example/a", "…@host.example/a"),
        ("https://user:pl4nted-p@registry", "https://…@registry"),
        ("user:pl4nted-p@registry", "…@registry"),
        ("https://u:pl4nted-/p@host.example/a", "https://…@host.example/a"),
        ("https://u:pl4nted-@p@host.example/a", "https://…@host.example/a"),
        ("u:pl4nted://p@host.example/a", "…@host.example/a"),
        ("ftp://u:pl4nted-p@host.example/a", "ftp://…@host.example/a"),
        ("user:pl4nted-p@", "…@"),
        (&digest, &format!("https://…@host/a@{D}")),
        (&bad_digest, "…@host/a@sha256:1"),
    ];
    for (input, shown) in table {
        let error = ImageSpec::parse(input).unwrap_err();
        assert_eq!((error.reference.as_str(), error.reason.as_str()), (*shown, CREDENTIALS), "{input}");
        assert!(!format!("{error} {error:?}").contains("pl4nted"), "{error:?}");
    }
    let long = format!("{}:pl4nted-p@host.example/a", "u".repeat(2 * MAX_REFERENCE));
    assert!(!ImageSpec::parse(&long).unwrap_err().to_string().contains("uu"));
    for plain in ["x@sha256:12", "x@md5:d41d8cd98f00b204e9800998ecf8427e", "Upper/x:1"] {
        assert_eq!(ImageSpec::parse(plain).unwrap_err().reference, plain);
    }
}

#[test]
fn api_hosts() {
    assert_eq!(Reference::parse("alpine").unwrap().api_host(), "registry-1.docker.io");
    assert_eq!(Reference::parse("[::1]:5000/i").unwrap().api_host(), "[::1]:5000");
    assert_eq!(split_port("[::1]:5000"), ("[::1]", Some("5000")));
    assert_eq!(split_port("[::1]"), ("[::1]", None));
    assert_eq!(split_port("a.b:1"), ("a.b", Some("1")));
    for host in ["localhost", "LocalHost", "127.9.9.9", "[::1]", "::1", "[::ffff:127.0.0.1]"] {
        assert!(is_loopback_host(host), "{host}");
    }
    for host in ["localhost.example.com", "128.0.0.1", "[::2]", "127.0.0.1.example.com", "mylocalhost"] {
        assert!(!is_loopback_host(host), "{host}");
    }
}

#[test]
fn transports() {
    let name = |n: &str| (!n.is_empty()).then(|| n.to_owned());
    for (input, path, n) in
        [("oci:/d", "/d", ""), ("oci:d:v1", "d", "v1"), ("oci:/d:a:b", "/d", "a:b"), ("oci:/d:", "/d", "")]
    {
        assert_eq!(
            ImageSpec::parse(input),
            Ok(ImageSpec::OciLayout { dir: path.into(), name: name(n) }),
            "{input}"
        );
    }
    assert_eq!(ImageSpec::parse("oci:///d"), Ok(ImageSpec::OciLayout { dir: "///d".into(), name: None }));
    assert_eq!(
        ImageSpec::parse("oci-archive:/f.tar:x"),
        Ok(ImageSpec::OciArchive { file: "/f.tar".into(), name: name("x") })
    );
    let docker = ImageSpec::parse("docker-archive:f.tar:alpine:3").unwrap();
    assert_eq!(docker, ImageSpec::DockerArchive { file: "f.tar".into(), name: name("alpine:3") });
    assert_eq!(docker.to_string(), "docker-archive:f.tar:alpine:3");
    assert_eq!(ImageSpec::parse("docker://x").unwrap().to_string(), "docker.io/library/x:latest");
    assert_eq!(ImageSpec::parse("oci://ghcr.io/o/i").unwrap().to_string(), "ghcr.io/o/i:latest");
    for bad in ["oci:", "oci-archive:", "docker-archive::x", ""] {
        assert!(ImageSpec::parse(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn display_is_a_fixed_point(input in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
        if let Ok(reference) = Reference::parse(&input) {
            prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference));
        }
    }
}
