//! Platforms: normalised and ordered by preference as containerd does (its `platforms` package).

use std::fmt;
use std::str::FromStr;

/// Operating system, CPU architecture and variant, as in `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Go's name: `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

/// Why a string names no platform.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a platform (want os/architecture or os/architecture/variant, like linux/arm64/v8)")]
pub struct InvalidPlatform(pub String);

impl Platform {
    /// Parses `os/architecture[/variant]` and normalises it.
    ///
    /// # Errors
    /// Empty or superfluous parts, characters other than letters, digits, `_`, `.` and `-`.
    pub fn parse(input: &str) -> Result<Self, InvalidPlatform> {
        let refuse = || InvalidPlatform(input.chars().take(80).collect());
        let ok = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = input.split('/').collect();
        if !parts.iter().all(ok) {
            return Err(refuse());
        }
        match parts[..] {
            [os, architecture] => Ok(Self::normalised(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, variant)),
            _ => Err(refuse()),
        }
    }

    /// The machine clipfs was built for.
    #[must_use]
    pub fn host() -> Self {
        Self::normalised("linux", std::env::consts::ARCH, "")
    }

    /// A platform under its canonical names: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
    #[must_use]
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let arch = architecture.to_ascii_lowercase();
        let variant = variant.to_ascii_lowercase();
        let (arch, variant) = match (arch.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64le", v) => ("ppc64le", v),
            ("loongarch64", v) => ("loong64", v),
            (a, v) => (a, v),
        };
        let variant = (!variant.is_empty()).then(|| variant.to_owned());
        Self { os, architecture: arch.to_owned(), variant }
    }

    /// How well an image for `image` runs where `self` is asked for: 0 is exact, higher is a worse but working
    /// substitute (an older variant, the 32-bit sibling), `None` does not run.
    #[must_use]
    pub fn rank(&self, image: &Self) -> Option<usize> {
        let want = self.renormalised();
        let have = image.renormalised();
        if want.os != have.os {
            return None;
        }
        let have = (have.architecture.as_str(), have.variant.as_deref().unwrap_or(""));
        want.compatible().iter().position(|(arch, variant)| (*arch, variant.as_str()) == have)
    }

    fn renormalised(&self) -> Self {
        Self::normalised(&self.os, &self.architecture, self.variant.as_deref().unwrap_or(""))
    }

    /// Architectures and variants that run on this one, best first.
    fn compatible(&self) -> Vec<(&str, String)> {
        let variant = self.variant.as_deref().unwrap_or("");
        let level = |default: u32| variant.trim_start_matches('v').parse::<u32>().unwrap_or(default).min(16);
        let arm_below = |from: u32| (5..=from).rev().map(|v| ("arm", format!("v{v}")));
        match self.architecture.as_str() {
            "amd64" => {
                let older = (2..level(1)).rev().map(|v| ("amd64", format!("v{v}")));
                let base = (!variant.is_empty()).then(|| ("amd64", String::new()));
                std::iter::once(("amd64", variant.to_owned()))
                    .chain(older)
                    .chain(base)
                    .chain([("386", String::new())])
                    .collect()
            }
            "arm" => std::iter::once(("arm", variant.to_owned()))
                .chain(arm_below(level(7).saturating_sub(1)))
                .collect(),
            "arm64" => {
                let mut all = vec![("arm64", variant.to_owned())];
                if !variant.is_empty() {
                    // v8.5 and v9.2 run everything of their generation below, and of v8 what they include.
                    let (major, minor) =
                        variant.trim_start_matches('v').split_once('.').unwrap_or((variant, "0"));
                    let major = major.trim_start_matches('v').parse::<u32>().unwrap_or(8);
                    let minor = minor.parse::<u32>().unwrap_or(0).min(16);
                    let name = |major: u32, minor: u32| match (major, minor) {
                        (8, 0) => String::new(),
                        (major, 0) => format!("v{major}"),
                        (major, minor) => format!("v{major}.{minor}"),
                    };
                    all.extend((0..minor).rev().map(|m| ("arm64", name(major, m))));
                    if major == 9 {
                        // Arm ARM: v9.x includes v8.(x+5).
                        all.extend((0..=minor + 5).rev().map(|m| ("arm64", name(8, m))));
                    }
                }
                all.extend(arm_below(8));
                all
            }
            other => vec![(other, variant.to_owned())],
        }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(s: &str) -> Result<Self, InvalidPlatform> {
        Self::parse(s)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises() {
        for (input, want) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9.2", "linux/arm64/v9.2"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/i686", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(Platform::parse(input).unwrap().to_string(), want, "{input}");
        }
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd 64", "linux/ä"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
        assert!(Platform::host().rank(&Platform::host()) == Some(0));
    }

    #[test]
    fn ranks_as_containerd() {
        let rank =
            |want: &str, have: &str| Platform::parse(want).unwrap().rank(&Platform::parse(have).unwrap());
        for (want, best_first, never) in [
            (
                "linux/amd64",
                &["linux/amd64", "linux/386"][..],
                &["linux/arm64", "windows/amd64", "linux/amd64/v2"][..],
            ),
            (
                "linux/amd64/v3",
                &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"],
                &["linux/amd64/v4"],
            ),
            (
                "linux/arm64",
                &["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm64/v9"],
            ),
            (
                "linux/arm64/v9",
                &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64", "linux/arm/v7"],
                &["linux/arm64/v9.1", "linux/arm64/v8.6"],
            ),
            (
                "linux/arm/v7",
                &["linux/arm", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm/v8", "linux/arm64"],
            ),
            ("linux/arm/v6", &["linux/arm/v6", "linux/arm/v5"], &["linux/arm/v7"]),
            ("linux/s390x", &["linux/s390x"], &["linux/amd64", "unknown/unknown"]),
        ] {
            let ranks: Vec<_> = best_first.iter().map(|have| rank(want, have)).collect();
            assert_eq!(ranks[0], Some(0), "{want}");
            assert!(ranks.is_sorted() && ranks.iter().all(Option::is_some), "{want}: {ranks:?}");
            for have in never {
                assert_eq!(rank(want, have), None, "{want} on {have}");
            }
        }
    }
}
