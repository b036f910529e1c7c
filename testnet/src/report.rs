//! What people see: results on stdout, everything else on stderr; tables, times and rates.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cluster::{NodeState, SwarmStatus};

/// A result. A reader that has gone away, as `head` does, is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Anything that is no result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A result for programs.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Says on a terminal what is being done, until it is dropped.
#[derive(Debug)]
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    pub(crate) fn new(text: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(text.to_owned());
        let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Seconds, in a form that stays short.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.1 => format!("{:.0} ms", seconds * 1e3),
        0.1..10.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.1} s"),
    }
}

/// As reports say it: milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// MiB in a second.
pub(crate) fn mib_per_second(bytes: u64, time: Duration) -> f64 {
    mib(bytes) / time.as_secs_f64().max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A rate with three digits.
pub(crate) fn rate(mib_per_second: f64) -> String {
    match mib_per_second {
        ..10.0 => format!("{mib_per_second:.2}"),
        10.0..100.0 => format!("{mib_per_second:.1}"),
        _ => format!("{mib_per_second:.0}"),
    }
}

/// How a swarm is doing, for people.
pub(crate) fn status(status: &SwarmStatus) -> String {
    let mut text =
        format!("{}\n\n  node  shards  state    connected  address\n", status.dir.display());
    let all = status.nodes.len();
    for node in &status.nodes {
        let address = node.addresses.first().map_or("", |address| short(address));
        let connected = match node.state {
            NodeState::Running => format!("{} of {}", node.connected, all - 1),
            NodeState::Stopped | NodeState::Killed | NodeState::Failed => "-".into(),
        };
        let (number, shards, state) = (node.node, node.shards, node.state);
        let pid = node.pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
        text +=
            &format!("  {number:>4}  {shards:>6}  {state:<7}  {connected:<9}  {address}{pid}\n");
    }
    text + "\n" + &summary(status)
}

/// What still works, in one sentence.
pub(crate) fn summary(status: &SwarmStatus) -> String {
    let running = status.nodes.iter().filter(|node| node.state == NodeState::Running).count();
    let able = |needed| {
        if status.running_shards >= needed { "work" } else { "do not work" }
    };
    format!(
        "{running} of {} nodes run with {} of {} shards: reads {} (they need {}), stores {} (they \
         need {})",
        status.nodes.len(),
        status.running_shards,
        status.n_shards,
        able(status.read_shards),
        status.read_shards,
        able(status.store_shards),
        status.store_shards,
    )
}

/// An address without the peer id, which says nothing to people.
fn short(address: &str) -> &str {
    address.split("/p2p/").next().unwrap_or(address)
}

/// Rows of text under each other, all columns but the first to the right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(str::to_owned).to_vec());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line += &match column {
                    0 => format!("  {cell:<width$}"),
                    _ => format!("  {cell:>width$}"),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.row(["step", "time"]);
        table.row(["encode alone", "9 ms"]);
        table.row([""]);
        assert_eq!(table.render(), "  step          time\n  encode alone  9 ms\n\n");
    }

    #[test]
    fn numbers_stay_short() {
        assert_eq!(seconds(Duration::from_millis(43)), "43 ms");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23 s");
        assert_eq!(seconds(Duration::from_millis(61_200)), "61.2 s");
        assert_eq!(rate(mib_per_second(64 << 20, Duration::from_secs(2))), "32.0");
        assert_eq!(rate(1234.5), "1234");
    }

    #[test]
    fn the_summary_says_what_works() {
        let status = SwarmStatus {
            dir: "/tmp/x".into(),
            n_shards: 64,
            running_shards: 27,
            read_shards: 22,
            store_shards: 43,
            nodes: Vec::new(),
        };
        let text = summary(&status);
        assert!(text.contains("reads work (they need 22)"), "{text}");
        assert!(text.contains("stores do not work (they need 43)"), "{text}");
    }
}
