//! `mount.clipfs`: what mount(8) calls for `mount -t clipfs` and for fstab lines.
//!
//! Translates its arguments to those of `clipfs mount`, so that options are defined and checked in one place.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::CommandFactory as _;

use super::args::Args;
use super::failure::Failure;

/// The name under which the binary is this helper.
pub(super) const NAME: &str = "mount.clipfs";

/// Options that mean something to mount(8) or to the machine's start, not to us; and those that say what we do anyway.
const IGNORED: [&str; 26] = [
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodiratime",
    "nofail",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nouser",
    "relatime",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "sync",
];

/// Setuid bits, devices, programs: the flags that decline them.
const DECLINE: [&str; 3] = ["--nosuid", "--nodev", "--noexec"];

/// What an option says about [`DECLINE`], in that order; `None` = nothing. The last word on each counts, so that
/// `user,exec` is what mount(8) says it is.
fn declines(name: &str) -> Option<[Option<bool>; 3]> {
    Some(match name {
        "nosuid" => [Some(true), None, None],
        "suid" => [Some(false), None, None],
        "nodev" => [None, Some(true), None],
        "dev" => [None, Some(false), None],
        "noexec" => [None, None, Some(true)],
        "exec" => [None, None, Some(false)],
        "user" | "users" => [Some(true); 3],
        "owner" | "group" => [Some(true), Some(true), None],
        _ => return None,
    })
}

/// What mount(8) asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The arguments of `clipfs mount`, the program's name first.
    pub(super) arguments: Vec<OsString>,
    /// `-f`: check, do not mount.
    pub(super) fake: bool,
    /// `-N`: the mount namespace to mount in.
    pub(super) namespace: Option<PathBuf>,
}

/// Parses the arguments behind the program's name.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, Failure> {
    let usage = |text: String| Failure::Usage(text);
    let mut positional = Vec::new();
    let (mut fake, mut sloppy, mut namespace) = (false, false, None);
    let mut options = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().filter(|text| text.len() > 1 && text.starts_with('-'));
        let Some(flags) = text.and_then(|text| text.strip_prefix('-')) else {
            positional.push(argument);
            continue;
        };
        for (at, flag) in flags.char_indices() {
            let rest = &flags[at + flag.len_utf8()..];
            let mut value = || {
                if rest.is_empty() { arguments.next() } else { Some(OsString::from(rest)) }
                    .and_then(|value| value.into_string().ok())
                    .ok_or_else(|| usage(format!("option -{flag} needs a value")))
            };
            match flag {
                'f' => fake = true,
                's' => sloppy = true,
                // No mtab is written, and there is nothing more to say.
                'n' | 'v' => {}
                'o' => options.extend(split_options(&value()?)),
                'N' => namespace = Some(namespace_path(&value()?)),
                // The type, with its subtype: mount(8) has chosen us by it.
                't' => drop(value()?),
                _ => return Err(usage(format!("unknown option -{flag}"))),
            }
            if matches!(flag, 'o' | 'N' | 't') {
                break;
            }
        }
    }
    let [image, mountpoint] = <[OsString; 2]>::try_from(positional)
        .map_err(|_| usage(format!("usage: {NAME} IMAGE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS]")))?;
    let mut translated: Vec<OsString> = vec!["clipfs".into(), "mount".into()];
    let mut declined = [false; 3];
    for (name, value) in &options {
        // `user=NAME` is how mount(8) remembers who has mounted.
        let said = if value.is_none() || name == "user" { declines(name) } else { None };
        if let Some(said) = said {
            for (declined, said) in declined.iter_mut().zip(said) {
                *declined = said.unwrap_or(*declined);
            }
            continue;
        }
        match translate(name, value.as_deref()) {
            Ok(flag) => translated.extend(flag),
            Err(_) if sloppy => {}
            Err(failure) => return Err(failure),
        }
    }
    translated.extend(DECLINE.iter().zip(declined).filter(|(_, on)| *on).map(|(flag, _)| flag.into()));
    translated.extend(["--".into(), image, mountpoint]);
    Ok(Request { arguments: translated, fake, namespace })
}

/// `-N` takes a process id or a file.
fn namespace_path(value: &str) -> PathBuf {
    if value.bytes().all(|b| b.is_ascii_digit()) {
        format!("/proc/{value}/ns/mnt").into()
    } else {
        value.into()
    }
}

/// `a,b=1,c="x,y"` as names and values: commas inside double quotes do not separate.
fn split_options(text: &str) -> Vec<(String, Option<String>)> {
    let mut options = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let option = std::mem::take(&mut current);
                match option.split_once('=') {
                    Some((name, value)) => options.push((name.to_owned(), Some(value.to_owned()))),
                    None if option.is_empty() => {}
                    None => options.push((option, None)),
                }
            }
            c => current.push(c),
        }
    }
    options
}

/// An option of `-o` as a flag of `clipfs mount`; `None` = it means nothing to us.
fn translate(name: &str, value: Option<&str>) -> Result<Option<OsString>, Failure> {
    if name.starts_with("x-") || name.starts_with("X-") || name == "comment" {
        return Ok(None);
    }
    if value.is_none() && IGNORED.contains(&name) {
        return Ok(None);
    }
    let long = name.replace('_', "-");
    let root = Args::command();
    let known =
        root.find_subcommand("mount").into_iter().chain([&root]).flat_map(clap::Command::get_arguments);
    let Some(option) = known.into_iter().find(|option| option.get_long() == Some(&long)) else {
        return Err(Failure::Usage(format!("unknown mount option {name:?}")));
    };
    // mount(8) waits for us: staying would block the machine's start.
    if long == "foreground" || long == "json" {
        return Err(Failure::Usage(format!("mount option {name:?} makes no sense with mount(8)")));
    }
    match (option.get_action().takes_values(), value) {
        (true, Some(value)) => Ok(Some(format!("--{long}={value}").into())),
        (false, None) => Ok(Some(format!("--{long}").into())),
        (true, None) => Err(Failure::Usage(format!("mount option {name:?} needs a value"))),
        (false, Some(_)) => Err(Failure::Usage(format!("mount option {name:?} takes no value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split(' ').map(OsString::from)).map_err(|failure| failure.sentence())
    }

    fn arguments(line: &str) -> String {
        let request = parsed(line).expect(line);
        request.arguments.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn options_become_flags() {
        let table = [
            ("img /m", "clipfs mount -- img /m"),
            ("img /m -o rw", "clipfs mount -- img /m"),
            (
                "img /m -o ro,noauto,nofail,_netdev,x-systemd.automount,comment=x,defaults",
                "clipfs mount -- img /m",
            ),
            (
                "img /m -o rw,cache_dir=/x,read_timeout=5s,plain_http",
                "clipfs mount --cache-dir=/x --read-timeout=5s --plain-http -- img /m",
            ),
            ("-o cache_size=1GiB img -t clipfs /m", "clipfs mount --cache-size=1GiB -- img /m"),
            ("img /m -nvocache_dir=/x", "clipfs mount --cache-dir=/x -- img /m"),
            ("img /m -o cache_dir=\"/a,b\",ro", "clipfs mount --cache-dir=/a,b -- img /m"),
            ("img /m -s -o nonsense=1", "clipfs mount -- img /m"),
            ("img /m -o suid,dev,exec", "clipfs mount -- img /m"),
            ("img /m -o nosuid,nodev,ro", "clipfs mount --nosuid --nodev -- img /m"),
            ("img /m -o noexec,exec,suid,nosuid", "clipfs mount --nosuid -- img /m"),
            ("img /m -o user", "clipfs mount --nosuid --nodev --noexec -- img /m"),
            ("img /m -o users,exec", "clipfs mount --nosuid --nodev -- img /m"),
            ("img /m -o exec,user=me", "clipfs mount --nosuid --nodev --noexec -- img /m"),
            ("img /m -o owner", "clipfs mount --nosuid --nodev -- img /m"),
            (
                "img /m -o allow_other,index=/i.clip,log_level=debug",
                "clipfs mount --allow-other --index=/i.clip --log-level=debug -- img /m",
            ),
        ];
        for (line, expected) in table {
            assert_eq!(arguments(line), expected, "{line}");
        }
    }

    #[test]
    fn every_translation_is_understood_by_clipfs_mount() {
        use clap::Parser as _;
        let request =
            parsed("img /m -o cache_dir=/x,memory=1MiB,passthrough=off,prefetch=all,metrics=127.0.0.1:0,nodev,platform=linux/arm64")
                .unwrap();
        assert!(Args::try_parse_from(request.arguments).is_ok());
    }

    #[test]
    fn refusals_name_the_option() {
        let table = [
            ("img", "usage: mount.clipfs"),
            ("img /m /n", "usage: mount.clipfs"),
            ("img /m -o frobnicate", "unknown mount option \"frobnicate\""),
            ("img /m -o cache_dir", "\"cache_dir\" needs a value"),
            ("img /m -o plain_http=1", "\"plain_http\" takes no value"),
            ("img /m -o foreground", "makes no sense"),
            ("img /m -o remount", "unknown mount option \"remount\""),
            ("img /m -o nosuid=1", "\"nosuid\" takes no value"),
            ("img /m -x", "unknown option -x"),
            ("img /m -o", "option -o needs a value"),
        ];
        for (line, expected) in table {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn flags_of_the_helper() {
        let request = parsed("img /m -fsnv -N 42").unwrap();
        assert!(request.fake);
        assert_eq!(request.namespace, Some("/proc/42/ns/mnt".into()));
        assert_eq!(parsed("img /m -N /run/netns").unwrap().namespace, Some("/run/netns".into()));
        assert!(!parsed("img /m").unwrap().fake);
    }
}
