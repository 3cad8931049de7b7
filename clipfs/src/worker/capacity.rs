//! What a node has: as the operator says, else as the machine says.

use std::path::Path;
use std::str::FromStr;

use crate::config::ByteSize;

/// Capacity of a node, in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Thousandths of a processor.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// GPUs.
    pub gpu: Gpus,
}

/// GPUs of one kind: `A100` or `A100:4`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpus {
    /// Kind; empty: none.
    pub kind: String,
    /// How many.
    pub count: u32,
}

/// Thousandths of a processor: `4`, `1.5`, `4000m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millicores(pub i64);

impl FromStr for Millicores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no amount of processors: write 4, 1.5 or 4000m");
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse::<u32>().ok().map(i64::from),
            None => {
                let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
                let digits =
                    |text: &str| (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(());
                digits(whole).and(digits(fraction)).filter(|()| fraction.len() <= 3).and_then(|()| {
                    let whole: i64 = whole.parse::<u32>().ok()?.into();
                    let fraction: i64 = format!("{fraction:0<3}").parse().ok()?;
                    Some(whole * 1000 + fraction)
                })
            }
        };
        millis.map(Self).ok_or_else(refuse)
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, count) = text.split_once(':').unwrap_or((text, "1"));
        let count = count.parse().map_err(|_| format!("{text:?} names no GPUs: write A100 or A100:4"))?;
        if kind.is_empty() && count > 0 {
            return Err(format!("{text:?} names no GPUs: write A100 or A100:4"));
        }
        Ok(Self { kind: kind.to_owned(), count })
    }
}

impl NodeCapacity {
    /// What is said, else what the machine has: its processors, its memory, no GPU.
    #[must_use]
    pub fn resolve(cpu: Option<Millicores>, memory: Option<ByteSize>, gpu: Option<Gpus>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = cpu.map_or_else(|| i64::try_from(processors).unwrap_or(1) * 1000, |cpu| cpu.0);
        let memory = memory.map_or_else(
            || {
                let total = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_memory);
                memory_limit(Path::new("/sys/fs/cgroup")).into_iter().chain(total).min().unwrap_or_default()
            },
            |memory| i64::try_from(memory.0 >> 20).unwrap_or(i64::MAX),
        );
        Self { cpu, memory, gpu: gpu.unwrap_or_default() }
    }
}

/// MiB that the control group allows in which all containers' groups are made: where the worker itself runs in a container.
fn memory_limit(root: &Path) -> Option<i64> {
    let files = [root.join("memory.max"), root.join("memory/memory.limit_in_bytes")];
    let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    // `max`, or version 1's huge number: no limit.
    let bytes: u64 = text.trim().parse().ok()?;
    i64::try_from(bytes >> 20).ok()
}

/// MiB of memory, of `/proc/meminfo`.
fn total_memory(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (text, millis) in [("4", 4000), ("1.5", 1500), ("0.25", 250), ("4000m", 4000), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Millicores(millis)), "{text}");
        }
        for text in ["", "m", "-1", "1.2345", "x", "1.", ".5", "99999999999"] {
            assert!(text.parse::<Millicores>().is_err(), "{text}");
        }
        assert_eq!("A100:4".parse(), Ok(Gpus { kind: "A100".into(), count: 4 }));
        assert_eq!("T4".parse(), Ok(Gpus { kind: "T4".into(), count: 1 }));
        assert!(":2".parse::<Gpus>().is_err() && "T4:x".parse::<Gpus>().is_err());
    }

    #[test]
    fn the_machine_answers_where_nobody_else_does() {
        assert_eq!(total_memory("MemFree: 1 kB\nMemTotal:       8388608 kB\n"), Some(8192));
        assert_eq!(total_memory("nothing"), None);
        let root = tempfile::tempdir().unwrap();
        assert_eq!(memory_limit(root.path()), None);
        std::fs::create_dir(root.path().join("memory")).unwrap();
        std::fs::write(root.path().join("memory/memory.limit_in_bytes"), "2147483648\n").unwrap();
        assert_eq!(memory_limit(root.path()), Some(2048));
        std::fs::write(root.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(memory_limit(root.path()), None);
        let own = NodeCapacity::resolve(None, None, None);
        assert!(own.cpu >= 1000 && own.memory > 0);
        let said = NodeCapacity::resolve(Some(Millicores(500)), Some(ByteSize(1 << 30)), None);
        assert_eq!((said.cpu, said.memory), (500, 1024));
    }
}
