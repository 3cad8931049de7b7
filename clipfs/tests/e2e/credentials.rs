//! Private images: mounted with exactly the credentials that were named, by every way of naming them, and with no other.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fixtures::docker_registry::{Access, DockerRegistry, TokenServer};
use fixtures::images;
use fixtures::registry::{Auth, Bearer, Registry, RegistryConfig};
use fixtures::secret::secret;
use serde_json::json;

use crate::requests::{USER, anonymous_blobs, credplugin, request, request_with, run_with_input, script};
use crate::support::{Sandbox, describe, is_mounted, layout, tool};

/// A registry that wants Basic credentials, or tokens from another address.
fn private(tokens: bool, password: &str) -> Registry {
    let auth = if tokens {
        let mut bearer = Bearer::new(USER, password);
        bearer.endpoint = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)));
        Auth::Bearer(bearer)
    } else {
        Auth::basic(USER, password)
    };
    let registry = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() });
    registry.push(&images::small(), "team/app", "1");
    registry
}

/// Mounts, reads, unmounts; `input` is what `--request -` reads.
pub(crate) fn mounts(sandbox: &mut Sandbox, image: &str, args: &[&str], input: Option<&str>) {
    let mountpoint = sandbox.path("private");
    fs::create_dir_all(&mountpoint).unwrap();
    let all: Vec<&str> = [&["mount", image, mountpoint.to_str().unwrap()], args].concat();
    let output = run_with_input(sandbox, &all, input.unwrap_or_default().as_bytes());
    assert!(output.status.success(), "{args:?}: {}", describe(&output));
    sandbox.adopt(&mountpoint);
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n", "{args:?}");
    assert_eq!(sandbox.status(&mountpoint)["state"], "ok");
    sandbox.sweep();
    sandbox.umount(&mountpoint);
    // The next one starts from nothing.
    sandbox.ok(["cache", "clear"]);
    fs::remove_dir_all(sandbox.cache()).unwrap();
}

/// Every way of naming credentials: the arguments, and what goes to standard input.
fn sources(sandbox: &mut Sandbox, registry: &str, password: &str) -> Vec<(Vec<String>, Option<String>)> {
    let text = request(registry, password);
    let file = sandbox.write_secret("request.json", &text).display().to_string();
    let plugin = credplugin().display().to_string();
    let helper = script(
        sandbox,
        "docker-credential-test",
        &format!(
            "[ \"$1\" = get ] || exit 1\ncat >/dev/null\nprintf '{{\"Username\":\"{USER}\",\"Secret\":\"{password}\"}}'"
        ),
    );
    let kubelet = script(
        sandbox,
        "kubelet-test",
        &format!(
            "cat >/dev/null\nprintf '%s' '{}'",
            json!({
                "kind": "CredentialProviderResponse",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "cacheKeyType": "Registry",
                "cacheDuration": "1m",
                "auth": {registry: {"username": USER, "password": password}},
            })
        ),
    );
    let auths = {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{password}"));
        json!({"auths": {registry: {"auth": auth}}}).to_string()
    };
    let config = sandbox.write_secret("config.json", &auths).display().to_string();
    for path in [&helper, &kubelet] {
        sandbox.may_hold_secrets(path);
    }
    let args = |args: &[&str]| args.iter().map(ToString::to_string).collect::<Vec<_>>();
    vec![
        (args(&["--request", &file]), None),
        (args(&["--request", "-"]), Some(text.clone())),
        (args(&["--request", "/dev/stdin"]), Some(text.clone())),
        (args(&["--request", &file, "--credential-plugin", &plugin]), None),
        (args(&["--request", "-", "--credential-plugin", &format!("clipfs:{plugin}")]), Some(text)),
        (args(&["--credential-plugin", &format!("docker:{}", helper.display())]), None),
        (args(&["--credential-plugin", &format!("kubelet:{}", kubelet.display())]), None),
        (args(&["--credential-plugin", &format!("docker-config:{config}")]), None),
        (args(&["--credential-plugin", &format!("containers-auth:{config}")]), None),
    ]
}

fn every_source_mounts(tokens: bool, name: &str) {
    let mut sandbox = Sandbox::new();
    let password = secret(name);
    let registry = private(tokens, &password);
    let image = registry.reference("team/app", "1");
    for (args, input) in sources(&mut sandbox, &registry.addr().to_string(), &password) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        mounts(&mut sandbox, &image, &args, input.as_deref());
    }
    assert_eq!(anonymous_blobs(&registry), 0);
}

#[test]
fn every_source_mounts_with_basic() {
    every_source_mounts(false, "basic");
}

#[test]
fn every_source_mounts_with_tokens_from_another_address() {
    every_source_mounts(true, "bearer");
}

/// Pushes to a real registry with the user's credentials, pulls from every source, and is refused with a wrong password.
fn a_real_registry(sandbox: &mut Sandbox, access: Access<'_>, password: &str) -> (DockerRegistry, String) {
    let dir = sandbox.path("registry");
    let registry = DockerRegistry::start(&dir, access);
    let from = layout(&images::small(), &sandbox.path("layout"));
    let image = format!("{}/team/app:1", registry.address());
    let sources = sources(sandbox, registry.address(), password);
    let auth_file = sandbox.path("config.json").display().to_string();
    let to = format!("docker://{image}");
    tool(
        "skopeo",
        ["--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-authfile", &auth_file, &from, &to],
    );
    for (args, input) in sources {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        mounts(sandbox, &image, &args, input.as_deref());
    }
    let wrong = sandbox.write_secret("wrong.json", request(registry.address(), &secret("a wrong one")));
    for source in [&[][..], &["--credential-plugin", credplugin().to_str().unwrap()]] {
        let args = [&["--request", wrong.to_str().unwrap()], source].concat();
        refused(sandbox, &image, &args, 77, "denied");
    }
    refused(sandbox, &image, &[], 77, "denied");
    (registry, image)
}

#[test]
fn a_real_registry_with_htpasswd() {
    let mut sandbox = Sandbox::new();
    let password = secret("htpasswd");
    let access = Access::Htpasswd { user: USER, password: &password };
    a_real_registry(&mut sandbox, access, &password);
}

#[test]
fn a_real_registry_with_tokens_that_it_verifies() {
    let mut sandbox = Sandbox::new();
    let password = secret("signed tokens");
    let tokens = TokenServer::start(Ipv4Addr::new(127, 0, 0, 4), USER, &password);
    let (registry, image) = a_real_registry(&mut sandbox, Access::Tokens(&tokens), &password);
    assert!(tokens.issued() > 0);

    // Revoked: right until a moment ago.
    let good = sandbox.write_secret("good.json", request(registry.address(), &password));
    let args = ["--request", good.to_str().unwrap()];
    sandbox.ok([&["inspect", &image], &args[..]].concat());
    fs::remove_dir_all(sandbox.cache()).unwrap();
    tokens.set_password(&secret("signed tokens, renewed"));
    refused(&sandbox, &image, &args, 77, "denied");
}

/// Refused with this code and these words and a hint, and with nothing left behind.
pub(crate) fn refused(sandbox: &Sandbox, image: &str, args: &[&str], code: i32, words: &str) {
    let mountpoint = sandbox.path("refused");
    fs::create_dir_all(&mountpoint).unwrap();
    let all: Vec<&str> =
        [&["mount", image, mountpoint.to_str().unwrap(), "--mount-timeout", "3s"], args].concat();
    let output = sandbox.run(all);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", describe(&output));
    assert!(said.contains(words), "{args:?}: expected {words:?} in: {said}");
    assert!(said.lines().any(|line| line.starts_with("hint: ")), "{said}");
    assert!(!is_mounted(&mountpoint));
    for dir in ["run", "cache/index"] {
        let left = fs::read_dir(sandbox.path(dir)).into_iter().flatten().count();
        assert_eq!(left, 0, "{args:?} leaves something in {dir}");
    }
}

#[test]
fn requests_that_cannot_be_used_are_refused_and_nothing_is_fetched_instead() {
    let mut sandbox = Sandbox::new();
    let password = secret("refusals");
    let locked = private(false, &password);
    let tokens = private(true, &password);
    let open = Registry::plain();
    open.push(&images::small(), "team/app", "1");
    let plugin = credplugin().to_str().unwrap();
    for registry in [&locked, &tokens, &open] {
        let host = registry.addr().to_string();
        let credentials = |map: serde_json::Value| {
            request_with(&json!({"registry": host, "type": "basic", "credentials": map}).to_string())
        };
        let both = |user: &str, password: &str| credentials(json!({"USERNAME": user, "PASSWORD": password}));
        let table = [
            ("half", credentials(json!({"USERNAME": USER})), 65, "must be provided together"),
            ("empty half", both(USER, ""), 65, "must be provided together"),
            ("other", request("registry.example", &password), 66, "registry.example"),
            ("cr", both(USER, &format!("{password}\r")), 65, "PASSWORD"),
            ("lf", both(USER, &format!("{password}\nX: y")), 65, "PASSWORD"),
            ("nul", both(USER, &format!("{password}\0")), 65, "PASSWORD"),
            ("colon", both(&format!("{USER}:x"), &password), 65, "USERNAME"),
            (
                "object",
                json!({"image_credentials": {"USERNAME": password}}).to_string(),
                65,
                "image_credentials",
            ),
            ("broken", format!("{{\"image_credentials\": \"{password}"), 65, "request"),
            ("nothing", String::new(), 65, "request"),
        ];
        for (name, text, code, words) in table {
            let file = sandbox.write_secret(&format!("{name}.json"), text);
            let file = file.to_str().unwrap();
            let image = registry.reference("team/app", "1");
            refused(&sandbox, &image, &["--request", file], code, words);
            refused(&sandbox, &image, &["--request", file, "--credential-plugin", plugin], code, words);
        }
        assert_eq!(anonymous_blobs(registry), 0, "nothing was fetched instead");
    }
    for registry in [&locked, &tokens] {
        let host = registry.addr().to_string();
        let image = registry.reference("team/app", "1");
        let wrong = sandbox.write_secret("wrong.json", request(&host, &secret("wrong")));
        let none = sandbox.write_secret("none.json", request_with(""));
        for source in [&[][..], &["--credential-plugin", plugin]] {
            // Empty credentials mean anonymous access, and that is refused here.
            for file in [&wrong, &none] {
                let args = [&["--request", file.to_str().unwrap()], source].concat();
                refused(&sandbox, &image, &args, 77, "denied");
            }
        }
        refused(&sandbox, &image, &[], 77, "denied");
        // Revoked: right until a moment ago.
        let good = sandbox.write_secret("good.json", request(&host, &password));
        sandbox.ok(["inspect", &image, "--request", good.to_str().unwrap()]);
        fs::remove_dir_all(sandbox.cache()).unwrap();
        registry.set_password(USER, &secret("renewed"));
        registry.revoke_all();
        refused(&sandbox, &image, &["--request", good.to_str().unwrap()], 77, "denied");
    }
}

#[test]
fn plugins_that_fail_each_have_their_code() {
    let sandbox = Sandbox::new();
    // One that would let everybody in: a fallback would succeed.
    let registry = Registry::plain();
    registry.push(&images::small(), "team/app", "1");
    let image = registry.reference("team/app", "1");
    let none = sandbox.path("none").display().to_string();
    let error = |code: &str, exit: u8| {
        let document =
            json!({"apiVersion": "clipfs.dev/v1", "kind": "Error", "code": code, "message": "no luck"});
        format!("cat >/dev/null\nprintf '%s' '{document}'\nexit {exit}")
    };
    let answer = |registry: &str| {
        let document = json!({
            "apiVersion": "clipfs.dev/v1", "kind": "CredentialResponse", "registry": registry,
            "scheme": "Basic", "username": "u", "password": "p",
        });
        format!("cat >/dev/null\nprintf '%s' '{document}'")
    };
    let table = [
        (error("not_found", 66), 66, "no luck"),
        (error("bad_request", 65), 65, "no luck"),
        (error("denied", 77), 77, "no luck"),
        (error("unavailable", 69), 69, "no luck"),
        (error("internal", 70), 70, "plugin-"),
        (error("try_later", 75), 75, "no luck"),
        ("cat >/dev/null; echo this is no document".to_owned(), 70, "plugin-"),
        ("exit 3".to_owned(), 70, "plugin-"),
        ("kill -SEGV $$".to_owned(), 70, "crashed"),
        ("head -c 200000 /dev/zero".to_owned(), 70, "more than"),
        (answer("other.example"), 76, "another registry"),
    ];
    for (n, (body, code, words)) in table.into_iter().enumerate() {
        let plugin = script(&sandbox, &format!("plugin-{n}"), &body);
        refused(&sandbox, &image, &["--credential-plugin", plugin.to_str().unwrap()], code, words);
    }
    refused(&sandbox, &image, &["--credential-plugin", &none], 78, &none);
    refused(&sandbox, &image, &["--credential-plugin", "docker:docker-credential-none"], 78, "in PATH");
    refused(&sandbox, &image, &["--credential-plugin", &format!("docker-config:{none}")], 78, &none);
    refused(&sandbox, &image, &["--request", &none], 78, &none);
    assert_eq!(anonymous_blobs(&registry), 0, "no layer was fetched");
}

/// Runs of the real plugin are counted by a plugin before it.
fn counting(sandbox: &Sandbox, runs: &Path) -> PathBuf {
    script(
        sandbox,
        "counting",
        &format!("echo run >>{}\nexec {} \"$@\"", runs.display(), credplugin().display()),
    )
}

#[test]
fn a_cold_mount_runs_the_plugin_twice() {
    let mut sandbox = Sandbox::new();
    let password = secret("twice");
    for tokens in [false, true] {
        let registry = private(tokens, &password);
        let runs = sandbox.path("runs");
        let plugin = counting(&sandbox, &runs);
        let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
        let (file, plugin) = (file.display().to_string(), plugin.display().to_string());
        let args = ["--request", &file, "--credential-plugin", &plugin];
        let mountpoint = sandbox.mount(&registry.reference("team/app", "1"), &args);
        crate::support::walk(&mountpoint);
        // Command line and server are two processes, and share no secret.
        assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
        assert_eq!(sandbox.status(&mountpoint)["credential_requests"], 1);
        sandbox.umount(&mountpoint);
        fs::remove_file(&runs).unwrap();
        fs::remove_dir_all(sandbox.cache()).unwrap();
    }
}

#[test]
fn every_command_that_reaches_a_registry_takes_a_request() {
    let mut sandbox = Sandbox::new();
    let password = secret("commands");
    let registry = private(true, &password);
    let image = registry.reference("team/app", "1");
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    let index = sandbox.path("app.clip").display().to_string();
    let commands: [&[&str]; 7] = [
        &["index", &image, "-o", &index],
        &["ls", &image],
        &["stat", &image, "/etc/hostname"],
        &["cat", &image, "/etc/hostname"],
        &["cat", &index, "/etc/hostname", "--image", &image],
        &["inspect", &image],
        &["verify", &index, "--image", &image],
    ];
    for command in commands {
        sandbox.ok([command, &["--request", file.to_str().unwrap()]].concat());
    }
    let without = sandbox.run(["ls", &image]);
    assert_eq!(without.status.code(), Some(77), "{}", describe(&without));
}

#[test]
fn settings_and_mount_options_name_a_plugin_too() {
    let mut sandbox = Sandbox::new();
    let password = secret("settings");
    let registry = private(false, &password);
    let image = registry.reference("team/app", "1");
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    let settings = sandbox.path("settings.toml");
    fs::write(
        &settings,
        format!("credential_plugin = {:?}\nlog_file = {:?}\n", credplugin(), sandbox.path("b.log")),
    )
    .unwrap();
    sandbox.ok([
        "inspect",
        &image,
        "--config",
        settings.to_str().unwrap(),
        "--request",
        file.to_str().unwrap(),
    ]);

    let helper = sandbox.path("mount.clipfs");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_clipfs"), &helper).unwrap();
    let mountpoint = sandbox.path("fstab");
    fs::create_dir(&mountpoint).unwrap();
    let plain = sandbox.clipfs(["unused"]);
    let mut mount = Command::new(&helper);
    for (name, value) in plain.get_envs() {
        mount.env(name, value.unwrap_or_default());
    }
    // A relative path is made absolute: the server works elsewhere.
    mount.current_dir(sandbox.path("")).stdin(Stdio::null());
    mount.args([&image, mountpoint.to_str().unwrap(), "-o"]);
    mount.arg(format!("ro,request=request.json,credential_plugin={}", credplugin().display()));
    let output = sandbox.take_log(mount.output().unwrap());
    assert!(output.status.success(), "{}", describe(&output));
    sandbox.adopt(&mountpoint);
    assert_eq!(fs::read(mountpoint.join("etc/hostname")).unwrap(), b"small\n");
}

#[test]
fn the_sweep_sees_what_is_there() {
    let mut sandbox = Sandbox::new();
    let password = secret("sweep");
    let registry = private(true, &password);
    let file = sandbox.write_secret("request.json", request(&registry.addr().to_string(), &password));
    sandbox.mount(&registry.reference("team/app", "1"), &["--request", file.to_str().unwrap()]);
    sandbox.sweep();
    let log = fs::read_to_string(sandbox.path("mounts.log")).unwrap();
    assert!(log.contains("\"level\":\"TRACE\""), "everything is logged: {}", log.len());
    // The same in a file that may not hold it.
    let leak = sandbox.path("run").join("leak");
    fs::write(&leak, format!("authorization: Bearer {password}")).unwrap();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sandbox.sweep()));
    assert!(seen.is_err(), "a leak was passed over");
    fs::remove_file(leak).unwrap();
}

#[test]
fn a_request_in_memory_is_held_by_keeper_and_server_and_inherited_by_nobody() {
    let mut sandbox = Sandbox::new();
    let password = secret("held");
    let registry = private(false, &password);
    let shown = sandbox.path("descriptors");
    let plugin = script(
        &sandbox,
        "showing",
        &format!("ls -l /proc/$$/fd >>{}\nexec {} \"$@\"", shown.display(), credplugin().display()),
    );
    let mountpoint = sandbox.path("held");
    fs::create_dir(&mountpoint).unwrap();
    let image = registry.reference("team/app", "1");
    let args = ["mount", &image, mountpoint.to_str().unwrap(), "--request", "-", "--credential-plugin"];
    let args = [&args[..], &[plugin.to_str().unwrap()]].concat();
    let text = request(&registry.addr().to_string(), &password);
    let output = run_with_input(&sandbox, &args, text.as_bytes());
    assert!(output.status.success(), "{}", describe(&output));
    sandbox.adopt(&mountpoint);

    let descriptors = fs::read_to_string(&shown).unwrap();
    assert!(descriptors.contains("pipe:") && !descriptors.contains("memfd"), "{descriptors}");
    let status = sandbox.status(&mountpoint);
    for process in ["keeper_pid", "server_pid"] {
        let dir = format!("/proc/{}/fd", status[process]);
        let links = fs::read_dir(dir).unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let held = links.filter(|link| link.to_string_lossy().contains("memfd:clipfs-request")).count();
        assert_eq!(held, 1, "{process}");
    }
}
