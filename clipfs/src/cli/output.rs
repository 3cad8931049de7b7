//! Standard output: data only, buffered, and quiet when nobody reads it any more.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use serde::Serialize;

/// Buffered standard output.
pub(super) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    terminal: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        let out = io::stdout();
        Self { terminal: out.is_terminal(), out: BufWriter::with_capacity(64 << 10, out.lock()) }
    }

    /// One JSON document on a line of its own.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value)?;
        self.out.write_all(b"\n")
    }

    /// A table of `name  value` lines, values aligned.
    pub(super) fn fields(&mut self, rows: &[(&str, String)]) -> io::Result<()> {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in rows {
            writeln!(self.out, "{name:<width$}  {value}")?;
        }
        Ok(())
    }

    /// A name of the image: bytes as they are for programs, without control characters for terminals.
    pub(super) fn name(&mut self, name: &[u8]) -> io::Result<()> {
        if self.terminal { self.out.write_all(printable(name).as_bytes()) } else { self.out.write_all(name) }
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A name for messages and terminals: what an image chose must not move the cursor.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().fold(String::new(), |mut text, c| {
        if c.is_control() {
            text.extend(c.escape_default())
        } else {
            text.push(c)
        }
        text
    })
}

/// A size for people, in IEC units with three digits.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded; integers throughout, so that 1023.99 KiB is never printed as 1024.0 KiB.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths >= 1000 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// `part` of `whole` for people: `0.41 %`.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let hundredths = (u128::from(part) * 10_000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (100 << 10, "100 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (1 << 20, "1.0 MiB"),
            (20 << 30, "20.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn parts_of_a_whole() {
        let table = [(0, 0, "0.00 %"), (1, 200, "0.50 %"), (41, 10_000, "0.41 %"), (3, 2, "150.00 %")];
        for (part, whole, text) in table {
            assert_eq!(percent(part, whole), text);
        }
    }

    #[test]
    fn names_do_not_reach_a_terminal_raw() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("grün".as_bytes()), "grün");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }
}
