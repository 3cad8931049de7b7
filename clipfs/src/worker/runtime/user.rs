//! Whom a container's program runs as: the image's `User`, looked up in the root file system's own `/etc/passwd` and `/etc/group`.
//!
//! These files are foreign: they are opened so that no link leads out of the root file system, and read up to a limit.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Longest file of users or groups that is read.
const MAX_FILE: u64 = 8 << 20;

/// Most supplementary groups (the kernel's limit, NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// A user, resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Looks up `user[:group]`, names or numbers; empty = root.
///
/// As runc does: a number need not be known (its group is root's then), a name must be. A group that is named is the only one; without
/// one, the user's own group and all that list the user.
pub(super) fn find(rootfs: &Path, wanted: &str) -> Result<User, String> {
    let read = |path: &str| read(rootfs, path).map_err(|e| format!("its /{path} cannot be read: {e}"));
    resolve(wanted, &read("etc/passwd")?, &read("etc/group")?)
}

/// A file of the root file system; empty if there is none.
fn read(rootfs: &Path, path: &str) -> io::Result<String> {
    let root = File::open(rootfs)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = match openat2(&root, path, how) {
        Ok(found) => File::from(found),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    // Looked at before it is opened: opening a device does things, and an image may have any.
    if !found.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if crate::num::to_u64(bytes.len()) > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 8 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`; lines that are none are passed over.
fn users(passwd: &str) -> impl Iterator<Item = Passwd<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Passwd { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// `name:password:gid:member,member`
fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    // A name first: there may be users whose name is a number.
    let known = users(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
    let (uid, gid, home, name) = match (known, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home, Some(entry.name)),
        (None, Some(uid)) => (uid, 0, "", None),
        (None, None) => return Err(format!("user {user:?} is not in its /etc/passwd")),
    };
    let home = if home.starts_with('/') { home } else { "/" }.to_owned();
    if let Some(wanted) = wanted_group {
        let gid = groups(group)
            .find(|entry| entry.name == wanted)
            .map(|entry| entry.gid)
            .or_else(|| wanted.parse().ok())
            .ok_or_else(|| format!("group {wanted:?} is not in its /etc/group"))?;
        return Ok(User { uid, gid, groups: Vec::new(), home });
    }
    let mut supplementary: Vec<u32> = Vec::new();
    if let Some(name) = name {
        for entry in
            groups(group).filter(|entry| entry.members.split(',').any(|member| member.trim() == name))
        {
            if entry.gid != gid && !supplementary.contains(&entry.gid) && supplementary.len() < MAX_GROUPS {
                supplementary.push(entry.gid);
            }
        }
    }
    Ok(User { uid, gid, groups: supplementary, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\napp:x:1000:1001:App:/home/app:/bin/sh\n77:x:78:79::relative:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\naudio:x:29:other\ndisk:x:6: app\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let user = |uid, gid, groups: &[u32], home: &str| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        };
        let table = [
            ("", user(0, 0, &[], "/root")),
            ("0", user(0, 0, &[], "/root")),
            ("app", user(1000, 1001, &[44, 6], "/home/app")),
            ("1000", user(1000, 1001, &[44, 6], "/home/app")),
            ("app:", user(1000, 1001, &[44, 6], "/home/app")),
            ("app:video", user(1000, 44, &[], "/home/app")),
            ("app:5", user(1000, 5, &[], "/home/app")),
            ("4242", user(4242, 0, &[], "/")),
            ("4242:4343", user(4242, 4343, &[], "/")),
            ("77", user(78, 79, &[], "/")),
            (":44", user(0, 44, &[], "/root")),
        ];
        for (wanted, expected) in table {
            assert_eq!(resolve(wanted, PASSWD, GROUP).unwrap(), expected, "{wanted:?}");
        }
        for bad in ["nobody", "app:nogroup", "-1", "4294967296"] {
            assert!(resolve(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
        assert_eq!(resolve("", "", "").unwrap(), user(0, 0, &[], "/"));
    }

    #[test]
    fn links_do_not_lead_out_of_the_root_file_system() {
        let top = tempfile::tempdir().unwrap();
        let rootfs = top.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(top.path().join("passwd"), "app:x:1:1::/outside:\n").unwrap();
        std::os::unix::fs::symlink("../../passwd", rootfs.join("etc/passwd")).unwrap();
        assert!(find(&rootfs, "app").is_err(), "the file outside is not seen");
        std::fs::write(rootfs.join("passwd"), "app:x:2:2::/inside:\n").unwrap();
        assert_eq!(find(&rootfs, "app").unwrap().home, "/inside");
        std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink(top.path().join("passwd"), rootfs.join("etc/passwd")).unwrap();
        assert!(find(&rootfs, "app").is_err(), "absolute links are the root file system's");
        std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&rootfs.join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(find(&rootfs, "app").is_err(), "a FIFO is not waited for");
        std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/dev/null", rootfs.join("etc/passwd")).unwrap();
        assert_eq!(find(&rootfs, "7").unwrap().uid, 7, "there is no such file in it");
        std::fs::remove_file(rootfs.join("etc/passwd")).unwrap();
        std::fs::create_dir(rootfs.join("etc/passwd")).unwrap();
        assert!(find(&rootfs, "7").is_err(), "what is no file is not read");
    }
}
