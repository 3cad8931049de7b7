//! Layouts and archives.

use std::io::Write as _;
use std::path::Path;

use super::server::{Image, options};
use crate::oci::{Digest, ImageSpec, Platform};
use crate::registry::{ImageSource, RegistryError};

fn amd64() -> Platform {
    Platform::parse("linux/amd64").unwrap()
}

async fn open(spec: &str) -> Result<ImageSource, RegistryError> {
    ImageSource::open(&ImageSpec::parse(spec).unwrap(), options()).await
}

fn index(image: &Image, names: &[Option<&str>]) -> String {
    let entry = |name: &Option<&str>| {
        let annotation = name.map_or(String::new(), |n| {
            format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{n}"}}"#)
        });
        let manifest = &image.manifest;
        format!(r#"{{"digest":"{}","size":{}{annotation}}}"#, Digest::of(manifest.as_bytes()), manifest.len())
    };
    format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        names.iter().map(entry).collect::<Vec<_>>().join(",")
    )
}

fn members(image: &Image, names: &[Option<&str>]) -> Vec<(String, Vec<u8>)> {
    let mut members = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index(image, names).into_bytes()),
    ];
    for blob in [image.manifest.as_bytes(), image.config.as_bytes(), &image.layer[..]] {
        members.push((format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.to_vec()));
    }
    members
}

fn layout(dir: &Path, image: &Image, names: &[Option<&str>]) {
    for (name, bytes) in members(image, names) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn tar_of(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match name.split_once(" -> ") {
            Some((name, target)) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).unwrap();
            }
            None => {
                header.set_size(u64::try_from(bytes.len()).unwrap());
                tar.append_data(&mut header, name, &bytes[..]).unwrap();
            }
        }
    }
    tar.finish().unwrap();
}

async fn reads(spec: &str, image: &Image) {
    let source = open(spec).await.unwrap_or_else(|e| panic!("{spec}: {e}"));
    source.authenticate().await.unwrap(); // nobody is asked
    let found = source.resolve(&amd64()).await.unwrap_or_else(|e| panic!("{spec}: {e}"));
    assert_eq!(found.config_bytes, image.config.as_bytes());
    let layer = &found.manifest.layers[0];
    assert_eq!(source.blob(layer).await.unwrap().collect().await.unwrap(), image.layer[..]);
    let part = source.blob_range(layer, 100..2_000_000).await.unwrap().collect().await.unwrap();
    assert_eq!(part, image.layer[100..2_000_000]);
    source.check(&found.manifest_digest).await.unwrap();
}

#[tokio::test]
async fn layouts() {
    let image = Image::new(3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    layout(dir.path(), &image, &[Some("a"), Some("b")]);
    reads(&format!("oci:{path}:a"), &image).await;
    for (spec, want) in [
        (format!("oci:{path}"), "several images, name one of: a, b"),
        (format!("oci:{path}:c"), "it has a, b"),
        (format!("oci:{path}/missing"), "not found"),
        (format!("oci:{path}/blobs"), "oci-layout not found"),
    ] {
        let error = open(&spec).await.unwrap_err().to_string();
        assert!(error.contains(want), "{spec}: {error}");
    }
    layout(dir.path(), &image, &[None]);
    reads(&format!("oci:{path}"), &image).await;

    let blob = dir.path().join("blobs/sha256").join(Digest::of(image.config.as_bytes()).hex());
    std::fs::write(&blob, "x".repeat(image.config.len())).unwrap();
    let source = open(&format!("oci:{path}")).await.unwrap();
    assert!(matches!(source.resolve(&amd64()).await, Err(RegistryError::Mismatch { .. })));
    std::fs::write(&blob, "short").unwrap();
    assert!(matches!(source.resolve(&amd64()).await, Err(RegistryError::Mismatch { .. })));
    std::fs::remove_file(&blob).unwrap();
    assert!(matches!(source.resolve(&amd64()).await, Err(RegistryError::NotFound(_))));
    std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
    assert!(matches!(open(&format!("oci:{path}")).await, Err(RegistryError::NotAnImage { .. })));
}

#[tokio::test]
async fn oci_archives() {
    let image = Image::new(3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let mut all = members(&image, &[Some("v1")]);
    all.push((format!("{}/long", "d".repeat(200)), b"x".to_vec())); // a GNU long name
    tar_of(&file, &all);
    reads(&format!("oci-archive:{}", file.display()), &image).await;
    reads(&format!("oci-archive:{}:v1", file.display()), &image).await;

    let bytes = std::fs::read(&file).unwrap();
    for (name, bytes, want) in [
        ("gz", vec![0x1f, 0x8b, 8, 0, 0, 0, 0], "compressed with gzip"),
        ("cut", bytes[..bytes.len() - 100_000].to_vec(), "cut off"),
        ("text", "hello ".repeat(200).into_bytes(), "not a tar"),
        ("empty", vec![0; 1024], "no OCI layout"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = open(&format!("oci-archive:{}", path.display())).await.unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[tokio::test]
async fn docker_archives() {
    let image = Image::new(3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let config_hex = Digest::of(image.config.as_bytes()).hex();
    let item = |tag: &str, config: &str, layer: &str| {
        format!(r#"{{"Config":"{config}","RepoTags":["{tag}"],"Layers":["{layer}"]}}"#)
    };
    let layer_hex = image.blob().digest.hex();
    let config_json = format!("{config_hex}.json");
    let new_config = format!("blobs/sha256/{config_hex}");
    let new_layer = format!("blobs/sha256/{layer_hex}");
    let old = vec![
        (config_json.clone(), image.config.clone().into_bytes()),
        ("base/layer.tar".to_owned(), image.layer.to_vec()),
        ("top/layer.tar -> ../base/layer.tar".to_owned(), Vec::new()),
    ];
    let new = vec![
        (new_config.clone(), image.config.clone().into_bytes()),
        (new_layer.clone(), image.layer.to_vec()),
    ];
    let write = |name: &str, manifest: String, mut members: Vec<(String, Vec<u8>)>| {
        let path = dir.path().join(name);
        members.push(("manifest.json".into(), manifest.into_bytes()));
        tar_of(&path, &members);
        format!("docker-archive:{}", path.display())
    };
    let linked = write("old", format!("[{}]", item("alpine:3", &config_json, "top/layer.tar")), old.clone());
    reads(&linked, &image).await;
    reads(&format!("{linked}:docker.io/library/alpine:3"), &image).await;
    assert!(open(&format!("{linked}:alpine:4")).await.unwrap_err().to_string().contains("it has alpine:3"));
    let blobs = write("new", format!("[{}]", item("x:1", &new_config, &new_layer)), new.clone());
    reads(&blobs, &image).await;
    let two = format!("[{0},{0}]", item("x:1", &new_config, &new_layer));
    let two = write("two", two, new.clone());
    assert!(open(&two).await.unwrap_err().to_string().contains("several images"));
    reads(&format!("{two}:x:1"), &image).await;

    // Compressed inside: the digest is that of the bytes as they are stored.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&image.layer).unwrap();
    let gz = gz.finish().unwrap();
    let compressed = vec![(new_config.clone(), image.config.clone().into_bytes()), ("l".into(), gz.clone())];
    let spec = write("gz", format!("[{}]", item("x:1", &new_config, "l")), compressed);
    let source = open(&spec).await.unwrap();
    let found = source.resolve(&amd64()).await.unwrap();
    let layer = &found.manifest.layers[0];
    assert_eq!((layer.digest, layer.media_type.ends_with(".gzip")), (Digest::of(&gz), true));
    assert_eq!(source.blob(layer).await.unwrap().collect().await.unwrap(), gz);

    for (name, manifest, want) in [
        ("m1", "{}".to_owned(), "malformed"),
        ("m2", "[]".to_owned(), "no image"),
        ("m3", format!("[{}]", item("x:1", "../../etc/passwd", &new_layer)), "not found"),
        ("m4", format!("[{}]", item("x:1", &new_config, "absent")), "absent in"),
        ("m5", format!(r#"[{{"Config":"{new_config}","Layers":[]}}]"#), "0 layers"),
    ] {
        let error = open(&write(name, manifest, new.clone())).await.unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}
