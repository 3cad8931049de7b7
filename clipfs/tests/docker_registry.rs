//! The registry client against Debian's `docker-registry`, with images pushed by `skopeo`.
//!
//! Needs `docker-registry`, `skopeo` and `htpasswd`, and fails where one is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clipfs::credentials::{Anonymous, CredentialProvider, CredentialSource};
use clipfs::oci::{Digest, ImageSpec, Platform, Reference};
use clipfs::registry::{ImageSource, Reach, RegistryError, RegistryOptions};
use fixtures::docker_registry::{Access, DockerRegistry, write_auth_file};
use fixtures::secret::secret;

const LAYER: usize = 3 << 20;

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Writes an OCI layout with one layer: a tar of incompressible bytes.
fn write_layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let mut seed = 1u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()[0]
    };
    let content: Vec<u8> = (0..LAYER).map(|_| noise()).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len()).unwrap());
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &content[..]).unwrap();
    let layer = tar.into_inner().unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!("\"digest\":\"{digest}\",\"size\":{}", bytes.len())
    };
    let diff_id = Digest::of(&layer);
    let rootfs = format!(r#"{{"type":"layers","diff_ids":["{diff_id}"]}}"#);
    let config = put(format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{rootfs}}}"#).as_bytes());
    let layer = put(&layer);
    let kind = "application/vnd.oci.image";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}.manifest.v1+json","config":{{"mediaType":"{kind}.config.v1+json",{config}}},"layers":[{{"mediaType":"{kind}.layer.v1.tar",{layer}}}]}}"#
    );
    let manifest = put(manifest.as_bytes());
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{kind}.manifest.v1+json",{manifest}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
}

fn skopeo(auth_file: &Path, from: &str, to: &str) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    // Of both sides: only registries are looked up in it.
    command.arg("--authfile").arg(auth_file).args([from, to]);
    run(&mut command);
}

async fn open(spec: &ImageSpec, credentials: Arc<dyn CredentialProvider>) -> ImageSource {
    let options = RegistryOptions {
        credentials,
        plain_http: false,
        hosts_dir: None,
        connect_timeout: Duration::from_secs(10),
        progress_timeout: Duration::from_secs(20),
        attempts: 3,
        reach: Reach::Anywhere,
    };
    ImageSource::open(spec, options).await.unwrap()
}

fn login(dir: &Path, host: &str, password: &str) -> Arc<dyn CredentialProvider> {
    let request = Some(fixtures::secret::login(dir, host, "u", password));
    CredentialSource { request, ..CredentialSource::default() }.open().unwrap()
}

#[tokio::test]
async fn reads_what_skopeo_pushed() {
    for tool in ["docker-registry", "skopeo", "htpasswd"] {
        let found = Command::new(tool).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(found.is_ok(), "{tool} is not installed: `make deps` installs it");
    }
    let dir = tempfile::tempdir().unwrap();
    let password = secret("docker-registry");
    let access = Access::Htpasswd { user: "u", password: &password };
    let registry = DockerRegistry::start(&dir.path().join("registry"), access);
    let host = registry.address().to_owned();
    let auth_file = dir.path().join("auth.json");
    write_auth_file(&auth_file, &host, "u", &password);
    let layout = dir.path().join("layout");
    write_layout(&layout);
    let name = format!("{host}/team/app:1");
    // skopeo compresses plain layers on their way to a registry.
    skopeo(&auth_file, &format!("oci:{}", layout.display()), &format!("docker://{name}"));

    let platform = Platform::parse("linux/amd64").unwrap();
    let spec = ImageSpec::Registry(Reference::parse(&name).unwrap());
    let source = open(&spec, login(dir.path(), &host, &password)).await;
    let image = source.resolve(&platform).await.unwrap();
    source.check(&image.manifest_digest).await.unwrap();
    let layer = &image.manifest.layers[0];
    let whole = source.blob(layer).await.unwrap().collect().await.unwrap();
    assert_eq!(Digest::of(&whole), layer.digest);
    for range in [0..1, 1..2, 1000..100_000, layer.size - 1..layer.size] {
        let part = source.blob_range(layer, range.clone()).await.unwrap().collect().await.unwrap();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        assert_eq!(part, whole[range]);
    }
    // The challenge, manifest, config, check, layer, four ranges.
    assert_eq!(source.stats().requests, 9);

    let denied = open(&spec, login(dir.path(), &host, "wrong")).await.resolve(&platform).await.unwrap_err();
    assert!(matches!(denied, RegistryError::Denied { .. }), "{denied}");
    let denied = open(&spec, Arc::new(Anonymous)).await.resolve(&platform).await.unwrap_err();
    assert!(matches!(denied, RegistryError::Denied { .. }), "{denied}");
    let absent = ImageSpec::Registry(Reference::parse(&format!("{host}/team/app:2")).unwrap());
    let absent =
        open(&absent, login(dir.path(), &host, &password)).await.resolve(&platform).await.unwrap_err();
    assert!(matches!(absent, RegistryError::NotFound(_)), "{absent}");

    // The same image as files, written by skopeo.
    for transport in ["oci", "oci-archive", "docker-archive"] {
        let to = format!("{transport}:{}:team/app:1", dir.path().join(transport).display());
        skopeo(&auth_file, &format!("docker://{name}"), &to);
        let source = open(&ImageSpec::parse(&to).unwrap(), Arc::new(Anonymous)).await;
        let local = source.resolve(&platform).await.unwrap();
        assert_eq!(local.config.diff_ids, image.config.diff_ids, "{transport}");
        let layer = &local.manifest.layers[0];
        let bytes = source.blob(layer).await.unwrap().collect().await.unwrap();
        assert_eq!(Digest::of(&bytes), layer.digest, "{transport}");
    }
}
