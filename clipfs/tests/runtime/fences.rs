//! What a container must not see, do or use up.

use std::fs;
use std::path::Path;

use clipfs::worker::runtime::{ContainerRequestView, Network, Scratch};
use fixtures::layer::Entry;

use crate::support::{Bench, script_request, until_says};

#[tokio::test]
async fn only_loopback_and_none_of_the_machines_mounts_and_devices() {
    let bench = Bench::new();
    let script = "ls /sys/class/net; echo --; cat /proc/self/mountinfo; echo --; ls /dev; echo --; ls /proc | grep -c '^[0-9]'";
    let ran = bench.run(script_request(script)).await.ok();
    let text = ran.stdout();
    let parts: Vec<&str> = text.split("--\n").collect();
    assert_eq!(parts[0].trim(), "lo");
    let places: Vec<&str> = parts[1].lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    for place in &places {
        let known = *place == "/" || ["/proc", "/dev", "/sys"].iter().any(|top| place.starts_with(top));
        assert!(known, "{place} is mounted: {places:?}");
    }
    for device in parts[2].split_whitespace() {
        let known =
            "console core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert!(known.split(' ').any(|name| name == device), "/dev/{device}");
    }
    assert!(parts[3].trim().parse::<u32>().unwrap() < 6, "only its own processes");
}

#[tokio::test]
async fn privileged_calls_fail() {
    let bench = Bench::new();
    let script = "
        grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t' | tr ':' '=';
        mount -t tmpfs none /bin 2>/dev/null && echo mounted=yes;
        unshare -m true 2>/dev/null && echo unshared=yes;
        hostname other 2>/dev/null && echo renamed=yes;
        (echo 1 > /proc/sys/kernel/sysrq) 2>/dev/null && echo sysctl=yes;
        (echo b > /proc/sysrq-trigger) 2>/dev/null && echo trigger=yes;
        mknod /disk b 254 0 && (head -c 1 /disk >/dev/null 2>&1 && echo disk=yes);
        echo kcore=$(head -c 1 /proc/kcore 2>/dev/null | wc -c)
        exit 0";
    let values = bench.run(script_request(script)).await.ok().values();
    // CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
    // AUDIT_WRITE, SETFCAP: containerd's.
    assert_eq!(values["CapEff"], "00000000a80425fb");
    assert_eq!(values["CapBnd"], "00000000a80425fb");
    assert_eq!((values["NoNewPrivs"].as_str(), values["Seccomp"].as_str()), ("1", "2"));
    assert_eq!(values["kcore"], "0");
    for done in ["mounted", "unshared", "renamed", "sysctl", "trigger", "disk"] {
        assert!(!values.contains_key(done), "{done}: {values:?}");
    }
}

#[tokio::test]
async fn writes_go_to_the_writable_layer_only() {
    for scratch in [Scratch::Disk, Scratch::Tmpfs { size: Some(32 << 20) }] {
        let mut bench = Bench::new();
        bench.options.scratch = scratch;
        let runtime = bench.runtime().await;
        let job = bench.script("echo changed > /etc/lower && echo new > /new && mkdir /d && cat /etc/lower");
        let ran = bench.finish(&runtime, &job).await.ok();
        assert_eq!(ran.stdout(), "changed\n");
        let upper = match scratch {
            Scratch::Disk => job.dir.join("scratch/upper"),
            Scratch::Tmpfs { .. } => job.run_dir.join("scratch/upper"),
        };
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n", "{scratch:?}");
        // The next one sees the image as it was.
        let other = bench.script("cat /etc/lower; ls /new 2>/dev/null; exit 0");
        assert_eq!(bench.finish(&runtime, &other).await.ok().stdout(), "from the image\n");
        for job in [&job, &other] {
            runtime.clean(job).await.unwrap();
        }
        assert!(!upper.exists());
    }
}

#[tokio::test]
async fn memory_has_a_limit_and_the_reason_says_so() {
    let bench = Bench::new();
    let request = ContainerRequestView { memory: 24, ..script_request("exec tail /dev/zero") };
    let ran = bench.run(request).await;
    assert_eq!(ran.end.exit_code, 137, "{ran:?}");
    assert_eq!(ran.end.code, 8, "{ran:?}");
    assert!(ran.end.reason.as_deref().unwrap_or_default().contains("24 MiB"), "{ran:?}");
}

#[tokio::test]
async fn limits_are_the_kernels() {
    let bench = Bench::new();
    let runtime = bench.runtime().await;
    let request =
        ContainerRequestView { cpu: 1500, memory: 64, ..script_request("echo ready; exec sleep 600") };
    let job = bench.job(request);
    runtime.mount(&job).await.unwrap();
    runtime.start(&job).await.unwrap();
    until_says(&runtime, &job, "ready").await;
    let cpu = bench.cgroup_file(&job, &["cpu/cpu.cfs_quota_us", "cpu.max"]);
    assert!(["150000", "150000 100000"].contains(&cpu.as_str()), "{cpu}");
    let memory = bench.cgroup_file(&job, &["memory/memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory, (64 << 20).to_string());
    let pids = bench.cgroup_file(&job, &["pids/pids.max", "pids.max"]);
    assert_eq!(pids, "32768");
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn the_machines_network_only_where_it_is_allowed() {
    let mut bench = Bench::new();
    bench.options.network = Network::Host;
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let script = "ls -l /proc/self/ns/net; ls /etc/resolv.conf";
    let host = bench.run(script_request(script)).await;
    assert!(host.stdout().contains(ours.to_str().unwrap()), "{host:?}");
    assert_eq!(host.stdout().contains("resolv.conf"), Path::new("/etc/resolv.conf").exists());
    let blocked = ContainerRequestView {
        block_network: true,
        ..script_request("ls -l /proc/self/ns/net; ls /sys/class/net")
    };
    let blocked = bench.run(blocked).await;
    assert!(!blocked.stdout().contains(ours.to_str().unwrap()), "{blocked:?}");
    assert!(blocked.stdout().ends_with("\nlo\n"), "{blocked:?}");
}

/// A directory under overlayfs, as where the worker itself runs in a container; unmounted at the end.
struct Overlay(std::path::PathBuf);

impl Overlay {
    fn mount(top: &Path, at: &Path) -> Self {
        use nix::mount::{MsFlags, mount};
        let tmpfs = top.join("layers");
        for dir in [at, &tmpfs] {
            fs::create_dir_all(dir).unwrap();
        }
        mount(Some("tmpfs"), &tmpfs, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
        for name in ["lower", "upper", "work"] {
            fs::create_dir(tmpfs.join(name)).unwrap();
        }
        let dir = tmpfs.display();
        let options = format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
        mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(top.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        for name in ["state", "layers"] {
            let _ = nix::mount::umount2(&self.0.join(name), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_over_is_replaced_by_memory() {
    let bench = Bench::new();
    let _overlay = Overlay::mount(&bench.path(""), &bench.path("state"));
    let runtime = bench.runtime().await;
    let job = bench.script("echo new > /new && cat /new");
    assert_eq!(bench.finish(&runtime, &job).await.ok().stdout(), "new\n");
    assert!(job.run_dir.join("scratch/upper/new").exists(), "it was written to memory");
    assert!(!job.dir.join("scratch").exists());
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn an_image_cannot_have_a_device_opened_outside_of_its_container() {
    let users = vec![Entry::char_device("etc/passwd", 1, 5)];
    let bench = Bench::with(serde_json::json!({ "User": "app" }), users);
    let runtime = bench.runtime().await;
    let job = bench.script("true");
    runtime.mount(&job).await.unwrap();
    let error = runtime.start(&job).await.unwrap_err();
    assert_eq!(error.code(), 3, "{error}");
    assert!(error.to_string().contains("no regular file"), "{error}");
    runtime.clean(&job).await.unwrap();
}

#[tokio::test]
async fn directories_that_are_nested_very_deep_are_removed() {
    let bench = Bench::new();
    let script =
        "cd /; i=0; while [ $i -lt 1900 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; touch end";
    bench.run(script_request(script)).await.ok();
    bench.assert_nothing_left().await;
}
