//! Documents good and bad.

use proptest::prelude::*;

use super::*;

const GZ: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(kind: &str, n: u8) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{n}}}"#, Digest::of(&[n]))
}

fn manifest(config: &str, layers: &[&str]) -> String {
    let layers: Vec<_> = layers.iter().map(|kind| descriptor(kind, 7)).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        descriptor(config, 1),
        layers.join(",")
    )
}

fn parse(doc: &str) -> Result<Document, NotAnImage> {
    Document::parse(doc.as_bytes(), None)
}

#[test]
fn images() {
    let Ok(Document::Image(image)) = parse(&manifest(OCI_CONFIG, &[GZ, GZ])) else { panic!("not an image") };
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.digest, Digest::of(&[1]));
    assert_eq!(image.layers[0], Descriptor { media_type: GZ.into(), digest: Digest::of(&[7]), size: 7 });
    for layer in [
        "",
        DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ] {
        assert!(parse(&manifest(DOCKER_CONFIG, &[layer])).is_ok(), "{layer}");
    }
    assert!(parse(&manifest("", &[])).is_ok());
}

#[test]
fn not_images() {
    let schema1 = r#"{"schemaVersion":1,"name":"x","fsLayers":[],"history":[]}"#;
    let both = manifest(OCI_CONFIG, &[GZ]).replacen('{', r#"{"manifests":[],"#, 1);
    let many = manifest(OCI_CONFIG, &vec![GZ; MAX_LAYERS + 1]);
    let negative = manifest(OCI_CONFIG, &[GZ]).replace(r#""size":7"#, r#""size":-7"#);
    let giant = manifest(OCI_CONFIG, &[GZ]).replace(r#""size":7"#, r#""size":18446744073709551615"#);
    let sha512 = manifest(OCI_CONFIG, &[GZ]).replace("sha256:", "sha512:");
    let as_list = manifest(OCI_CONFIG, &[GZ]).replace(OCI_MANIFEST, OCI_INDEX);
    let helm = manifest("application/vnd.cncf.helm.config.v1+json", &[]);
    let foreign = manifest(DOCKER_CONFIG, &["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"]);
    let nondistributable =
        manifest(OCI_CONFIG, &["application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"]);
    let encrypted = manifest(OCI_CONFIG, &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]);
    let wasm = manifest(OCI_CONFIG, &["application/vnd.wasm.content.layer.v1+wasm"]);
    let artifact = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"x","blobs":[]}"#;
    let other_layers = manifest(OCI_CONFIG, &[GZ]).replacen('{', r#"{"Layers":[],"#, 1);
    let layers_twice = manifest(OCI_CONFIG, &[GZ]).replacen('{', r#"{"layers":[],"#, 1);
    let deep = "[".repeat(200_000);
    for (doc, want) in [
        ("", "malformed"),
        ("{}", "schemaVersion 2"),
        ("[]", "malformed"),
        ("null", "malformed"),
        (deep.as_str(), "malformed"),
        (schema1, "schema 1"),
        (&both, "both layers and manifests"),
        (&many, "layers, more than"),
        (&negative, "malformed"),
        (&giant, "size of"),
        (&sha512, "not a sha256 digest"),
        (&as_list, "says it is a list"),
        (&helm, "artifact of type application/vnd.cncf.helm"),
        (&foreign, "foreign layer"),
        (&nondistributable, "foreign layer"),
        (&encrypted, "encrypted"),
        (&wasm, "not a tar"),
        (artifact, "artifact"),
        (r#"{"schemaVersion":2,"config":null,"layers":[]}"#, "no config"),
        (&other_layers, "ambiguous: key \"Layers\""),
        (&layers_twice, "duplicate field"),
    ] {
        let error = parse(doc).expect_err(want);
        assert!(error.0.contains(want), "{want}: {error}");
    }
    let long = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "y".repeat(4 << 20));
    assert!(parse(&long).unwrap_err().0.contains("4 MiB"));
    let served = Document::parse(
        b"{\"schemaVersion\":1}",
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
    );
    assert!(served.unwrap_err().0.contains("schema 1"));
}

#[test]
fn chooses_platforms() {
    let entry = |n: u8, platform: &str| {
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{n}{platform}}}"#, Digest::of(&[n]))
    };
    let p = |os: &str, arch: &str, variant: &str| {
        format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
    };
    let list = [
        entry(1, &p("linux", "arm", "v6")),
        entry(2, &p("linux", "arm", "v7")),
        entry(3, &p("linux", "arm64", "v8")),
        entry(4, &p("unknown", "unknown", "")),
        entry(5, ""),
        entry(6, &p("windows", "amd64", "")),
        entry(7, &p("linux", "x86_64", "")),
        entry(8, &p("linux", "amd64", "")),
    ];
    let doc = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, list.join(","));
    let Ok(Document::List(entries)) = parse(&doc) else { panic!("not a list") };
    for (want, order) in [
        ("linux/amd64", &[7, 8, 5][..]),
        ("linux/arm64", &[3, 2, 1, 5]),
        ("linux/arm/v7", &[2, 1, 5]),
        ("linux/s390x", &[5]),
        ("windows/amd64", &[6, 5]),
    ] {
        let got: Vec<u64> =
            candidates(&entries, &Platform::parse(want).unwrap()).iter().map(|e| e.descriptor.size).collect();
        assert_eq!(got, order, "{want}");
    }
    let served = Document::parse(doc.as_bytes(), Some(OCI_MANIFEST));
    assert!(served.unwrap_err().0.contains("lists several"));
}

#[test]
fn configs() {
    let good = format!(
        r#"{{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{{"type":"layers","diff_ids":["{}"]}},"x":1}}"#,
        Digest::of(b"")
    );
    let config = ImageConfig::parse(good.as_bytes()).unwrap();
    assert_eq!(config.platform.to_string(), "linux/arm64");
    assert_eq!(config.diff_ids, [Digest::of(b"")]);
    let Ok(Document::Image(image)) = parse(&manifest(OCI_CONFIG, &[GZ])) else { panic!() };
    assert_eq!(image.check_config(&config), Ok(()));
    let Ok(Document::Image(image)) = parse(&manifest(OCI_CONFIG, &[GZ, GZ])) else { panic!() };
    assert_eq!(image.check_config(&config).unwrap_err().0, "its manifest has 2 layers, its config 1");
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"rootfs":{"type":"windows","diff_ids":[]}}"#,
        r#"{"rootfs":{"diff_ids":["x"]}}"#,
        r#"{"rootfs":{"diff_ids":[]},"OS":"linux"}"#,
        r#"{"rootfs":{"diff_ids":[],"DIFF_IDS":[]}}"#,
    ] {
        assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn never_panics(doc in "[\\[\\]{}\":,a-zA-Z0-9 ]{0,120}", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Document::parse(doc.as_bytes(), None);
        let _ = Document::parse(&bytes, Some(&doc));
        let _ = ImageConfig::parse(&bytes);
    }
}
