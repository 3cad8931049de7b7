//! What commands say on standard output.

use std::io::{self, Write};

use serde_json::Value;

use super::failure::printable;

/// Standard output, for people or for programs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// A table for people, or an array of objects.
    pub(super) fn table(self, heads: &[&str], rows: &[Vec<String>], json: Vec<Value>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, &Value::Array(json))?;
            return writeln!(stdout);
        }
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
        for row in std::iter::once(&heads).chain(&rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(stdout, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// One thing: a line for people, or an object.
    pub(super) fn one(self, line: &str, json: &Value) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut stdout, json)?;
            return writeln!(stdout);
        }
        writeln!(stdout, "{}", printable(line))
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = bytes;
    let mut tenths = 0;
    while shown >= 1024 && unit + 1 < UNITS.len() {
        tenths = shown % 1024 * 10 / 1024;
        shown /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{shown} B") } else { format!("{shown}.{tenths} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
