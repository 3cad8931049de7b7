//! Rows of results: for people a table, for machines JSON.

use std::fmt::Write as _;

/// One measured figure beside its peer.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The median of our figure.
    pub ours: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The peer's median in the same run, and who it is.
    pub peer: Option<(f64, &'static str)>,
    /// The goal, in words.
    pub goal: &'static str,
    /// Whether the goal was reached.
    pub reached: bool,
}

/// The middle value; of an even number, the lower of the two in the middle.
///
/// # Panics
/// When there are no values.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// The rows as a table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let width = rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
    for row in rows {
        let peer = row.peer.map_or_else(String::new, |(value, name)| {
            format!("  {name}: {value:.2} {} (ratio {:.2})", row.unit, row.ours / value)
        });
        let mark = if row.reached { "reached" } else { "MISSED" };
        let _ = writeln!(
            text,
            "{:width$}  {:>10.2} {}{peer}  goal: {}: {mark}",
            row.what, row.ours, row.unit, row.goal
        );
    }
    text
}

/// The rows as JSON.
#[must_use]
pub fn json(rows: &[Row]) -> serde_json::Value {
    rows.iter()
        .map(|row| {
            serde_json::json!({
                "what": row.what, "ours": row.ours, "unit": row.unit, "goal": row.goal, "reached": row.reached,
                "peer": row.peer.map(|(value, _)| value), "peer_name": row.peer.map(|(_, name)| name),
            })
        })
        .collect()
}
