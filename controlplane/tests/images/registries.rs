//! Registries: the real one, ones in trouble, and ones that nobody may ask.

use std::path::Path;
use std::process::Command;

use controlplane::imaging::PrivateRegistries;
use fixtures::docker_registry::{Access, DockerRegistry, TokenServer, write_auth_file};
use fixtures::registry::{Auth, Fault, Rule};
use fixtures::secret::secret;
use tonic::Code;

use crate::support::{World, image, login, registry};

/// Pushes a small image with skopeo.
fn push(dir: &Path, host: &str, password: &str) -> String {
    let (layout, auth_file) = (dir.join("layout"), dir.join("auth.json"));
    fixtures::images::small().write_layout_as(&layout, "1").unwrap();
    write_auth_file(&auth_file, host, "u", password);
    let name = format!("{host}/team/app:1");
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--dest-tls-verify=false", "--authfile"])
        .arg(&auth_file)
        .args([format!("oci:{}:1", layout.display()), format!("docker://{name}")])
        .output()
        .expect("skopeo (`make deps` installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    name
}

#[tokio::test]
async fn the_real_one_with_passwords_and_with_tokens() {
    let (world, password) = (World::new().await, secret("imaging-docker"));
    let tenant = world.tenant("a").await;
    let tokens = TokenServer::start([127, 0, 0, 1], "u", &password);
    for access in [Access::Htpasswd { user: "u", password: &password }, Access::Tokens(&tokens)] {
        let dir = tempfile::tempdir().unwrap();
        let registry = DockerRegistry::start(&dir.path().join("registry"), access);
        let name = push(dir.path(), registry.address(), &password);
        let before = world.rows().await;
        for creds in [login(&secret("imaging-docker-wrong")).to_vec(), Vec::new()] {
            let status = world.refused(&tenant, image(&name, &creds)).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
        assert_eq!(world.rows().await, before);
        let made = world.made(&tenant, image(&name, &login(&password))).await;
        assert!(!made.credential_secret_id.is_empty());
        let absent = name.replace(":1", ":2").replace("team/app:2", "team/app:none");
        let status = world.refused(&tenant, image(&absent, &login(&password))).await;
        assert!(matches!(status.code(), Code::NotFound | Code::InvalidArgument), "{status:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn trouble_is_told_by_whose_it_is() {
    let (world, password) = (World::new().await, secret("imaging-trouble"));
    let tenant = world.tenant("a").await;
    let registry = registry(Auth::basic("u", &password));
    let (name, creds) = (registry.reference("team/app", "1"), login(&password));
    let before = world.rows().await;
    let absent = registry.reference("team/app", "none");
    assert_eq!(world.refused(&tenant, image(&absent, &creds)).await.code(), Code::NotFound);
    let rule = registry.faults().set(Rule::new(Fault::too_many_requests("100")).manifests());
    let status = world.refused(&tenant, image(&name, &creds)).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "100000");
    registry.faults().remove(&rule);
    let rule = registry.faults().set(Rule::new(Fault::FlipByte { offset: 50 }).blobs());
    let status = world.refused(&tenant, image(&name, &creds)).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    registry.faults().remove(&rule);
    registry.down();
    let status = world.refused(&tenant, image(&name, &creds)).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(world.rows().await, before);
    registry.up();
    world.made(&tenant, image(&name, &creds)).await;
    world.end().await;
}

#[tokio::test]
async fn private_ones_get_no_packet_where_tenants_must_not_name_them() {
    let password = secret("imaging-private");
    let world = World::with(|options| options.private_registries = PrivateRegistries::Refuse).await;
    let (tenant, registry) = (world.tenant("a").await, registry(Auth::basic("u", &password)));
    let (port, before) = (registry.addr().port(), world.rows().await);
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254", "0.0.0.0"]
    {
        let name = format!("{host}:{port}/team/app:1");
        let status = world.refused(&tenant, image(&name, &login(&password))).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{host}: {status:?}");
        assert!(status.message().contains("a private address"), "{host}: {status:?}");
    }
    assert!(registry.log().is_empty(), "{:?}", registry.log());
    assert_eq!(world.rows().await, before);
    world.end().await;

    // Where this machine's are allowed, those of clouds are not.
    let world = World::new().await;
    let tenant = world.tenant("a").await;
    for host in ["169.254.169.254:80", "[fd00:ec2::254]:80", "100.100.100.200:80", "168.63.129.16:80"] {
        let status = world.refused(&tenant, image(&format!("{host}/a:1"), &[])).await;
        assert!(status.message().contains("a private address"), "{host}: {status:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn files_of_the_control_plane_are_no_images() {
    let world = World::new().await;
    let (tenant, layout) = (world.tenant("a").await, world.dir.path().join("layout"));
    fixtures::images::small().write_layout_as(&layout, "1").unwrap();
    let status = world.refused(&tenant, image(&format!("oci:{}:1", layout.display()), &[])).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    std::fs::remove_dir_all(layout).unwrap();
    world.end().await;
}
