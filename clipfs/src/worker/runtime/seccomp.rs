//! Which system calls a container's program may make: those of containerd's default profile (its `contrib/seccomp`) for the default
//! set of capabilities. Everything else fails with EPERM; `clone3`, whose flags no filter can see, with ENOSYS, so that
//! C libraries fall back to `clone`.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// What every architecture of ours allows, alphabetically. Names that an architecture does not have are passed over by runtimes.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 chroot clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents
    getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list
    getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr listxattrat llistxattr _llseek
    lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir
    mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    prlimit64 process_mrelease pselect6 pselect6_time64 ptrace process_vm_readv process_vm_writev pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt
    set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 sigprocmask sigreturn socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Of x86-64 and its 32-bit forms.
const X86: &str = "arch_prctl modify_ldt";

/// Of 64-bit ARM and its 32-bit form.
const ARM: &str = "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Execution domains (`personality(2)`) that change nothing that matters: Linux, 32-bit addresses, 32-bit `uname` and both, and
/// the question which one it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Flags of `clone` that make namespaces: none of them may be set. `CLONE_NEWNS`, `_NEWCGROUP`, `_NEWUTS`, `_NEWIPC`, `_NEWUSER`,
/// `_NEWPID`, `_NEWNET`.
const NEW_NAMESPACES: u64 =
    0x2_0000 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;

/// Sockets to the host of a virtual machine know no network namespaces.
const AF_VSOCK: u64 = 40;

/// The profile for this architecture.
pub(super) fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let (architectures, special) = if cfg!(target_arch = "aarch64") {
        (vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm], ARM)
    } else {
        (vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32], X86)
    };
    let mut syscalls = vec![allow(ALLOWED, Vec::new())?, allow(special, Vec::new())?];
    syscalls.push(allow("socket", vec![arg(LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, None)?])?);
    for domain in PERSONALITIES {
        syscalls.push(allow("personality", vec![arg(LinuxSeccompOperator::ScmpCmpEq, domain, None)?])?);
    }
    syscalls
        .push(allow("clone", vec![arg(LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0))?])?);
    let enosys = u32::try_from(libc::ENOSYS).unwrap_or_default();
    syscalls.push(
        LinuxSyscallBuilder::default()
            .names(vec!["clone3".to_owned()])
            .action(LinuxSeccompAction::ScmpActErrno)
            .errno_ret(enosys)
            .build()?,
    );
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(architectures)
        .syscalls(syscalls)
        .build()
}

fn allow(names: &str, args: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow).args(args).build()
}

/// A condition on the first argument.
fn arg(op: LinuxSeccompOperator, value: u64, masked: Option<u64>) -> Result<LinuxSeccompArg, OciSpecError> {
    let condition = LinuxSeccompArgBuilder::default().index(0_usize).op(op).value(value);
    match masked {
        Some(masked) => condition.value_two(masked).build(),
        None => condition.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_a_container_is_not_allowed() {
        let allowed: Vec<&str> = ALLOWED.split_whitespace().chain(X86.split_whitespace()).collect();
        for forbidden in [
            "bpf",
            "mount",
            "umount2",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "keyctl",
            "add_key",
            "init_module",
            "finit_module",
            "kexec_load",
            "perf_event_open",
            "open_by_handle_at",
            "pivot_root",
            "reboot",
            "swapon",
            "io_uring_setup",
            "io_uring_enter",
            "userfaultfd",
            "settimeofday",
            "iopl",
            "ioperm",
            "socket",
            "syslog",
            "sethostname",
            "move_mount",
            "open_tree",
            "fsopen",
            "mount_setattr",
            "pidfd_getfd",
            "quotactl",
            "socketcall",
        ] {
            assert!(!allowed.contains(&forbidden), "{forbidden}");
        }
        for needed in ["read", "write", "execve", "openat", "futex", "chroot", "rseq", "close_range", "statx"]
        {
            assert!(allowed.contains(&needed), "{needed}");
        }
        let mut unique = allowed.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), allowed.len(), "a name stands twice");
    }

    #[test]
    fn the_profile_is_as_runtimes_read_it() {
        let json = serde_json::to_value(profile().unwrap()).unwrap();
        assert_eq!(json["defaultAction"], "SCMP_ACT_ERRNO");
        let of = |name: &str| {
            let list = json["syscalls"].as_array().unwrap();
            list.iter().filter(|s| s["names"] == serde_json::json!([name])).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of("clone3")[0]["errnoRet"], 38);
        assert_eq!(of("clone")[0]["args"][0]["value"], 0x7E02_0000);
        assert_eq!(of("clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(of("personality").len(), PERSONALITIES.len());
    }
}
