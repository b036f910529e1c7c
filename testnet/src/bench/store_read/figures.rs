//! What `bench store-read` has measured, and how it is shown.
//!
//! Of all runs of each thing the median counts. All figures are MiB of *blob* a second, whatever
//! the part moves, so that they compare.

use std::time::Duration;

use anyhow::Context;
use floe_node::cli::size::human_bytes;
use floe_protocol::encoding::EncodedBlob;
use serde::Serialize;

use super::{super::median, StoreReadArgs};
use crate::report::{self, Table};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct StoreReadReport {
    blob_bytes: u64,
    encoded_bytes: u64,
    nodes: usize,
    shards: u16,
    runs: u16,
    processes: bool,
    store: Outcome,
    /// How long the stores waited for the ledger.
    ledger: LedgerTimes,
    read: Outcome,
    /// Largest resident memory of each node process.
    node_peak_rss_bytes: Vec<u64>,
}

/// What a store waits for beside its transfer.
#[derive(Debug, Serialize)]
struct LedgerTimes {
    /// Proven facts: what is to be done, and its price.
    plan_ms: f64,
    /// The transaction that registers and pays, with the proof of it.
    register_ms: f64,
    /// The transaction that certifies, with the proof of it.
    certify_ms: f64,
}

/// A whole operation and its parts.
#[derive(Debug, Serialize)]
struct Outcome {
    whole: Figure,
    /// The whole without the ledger, if it waits for that.
    transfer: Option<Figure>,
    parts: Vec<Figure>,
    /// For comparison only: no part of the operation.
    reference: Vec<Figure>,
    /// Speed of the transfer as a share of the slowest part alone.
    of_slowest_part: f64,
    /// Speed of the transfer as a share of all parts one after the other.
    of_parts_in_turn: f64,
}

/// One thing measured.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    name: &'static str,
    seconds: f64,
    mib_per_second: f64,
}

/// The times of all runs of each thing.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) encode: Vec<Duration>,
    pub(super) verify_pairs: Vec<Duration>,
    pub(super) verify_rows: Vec<Duration>,
    pub(super) write_stores: Vec<Duration>,
    pub(super) write_files: Vec<Duration>,
    pub(super) upload: Vec<Duration>,
    pub(super) download: Vec<Duration>,
    pub(super) store: Vec<Duration>,
    pub(super) transfer: Vec<Duration>,
    pub(super) plan: Vec<Duration>,
    pub(super) register: Vec<Duration>,
    pub(super) certify: Vec<Duration>,
    pub(super) certified: Vec<Duration>,
    pub(super) read: Vec<Duration>,
}

impl StoreReadReport {
    pub(super) fn new(
        args: &StoreReadArgs,
        encoded: &EncodedBlob,
        times: &Times,
        node_peak_rss_bytes: Vec<u64>,
    ) -> anyhow::Result<Self> {
        let figure = |name, times: &Vec<Duration>| {
            let time = median(times.clone()).context("nothing was measured")?;
            let mib_per_second = report::mib_per_second(args.size, time);
            anyhow::Ok(Figure { name, seconds: time.as_secs_f64(), mib_per_second })
        };
        let layout = encoded.layout();
        let pair_bytes = layout.primary_bytes() + layout.secondary_bytes();
        let store = Outcome::new(
            figure("store", &times.store)?,
            Some(figure("without the ledger", &times.transfer)?),
            vec![
                figure("encode", &times.encode)?,
                figure("send over loopback", &times.upload)?,
                figure("verify on nodes", &times.verify_pairs)?,
                figure("write durably", &times.write_stores)?,
            ],
            vec![
                figure("until certified", &times.certified)?,
                figure("plain files, synced", &times.write_files)?,
            ],
        );
        let read = Outcome::new(
            figure("read", &times.read)?,
            None,
            vec![
                figure("fetch over loopback", &times.download)?,
                figure("verify on the client", &times.verify_rows)?,
            ],
            Vec::new(),
        );
        let wait = |times: &Vec<Duration>| {
            let time = median(times.clone()).context("nothing was measured")?;
            anyhow::Ok(time.as_secs_f64() * 1_000.0)
        };
        let ledger = LedgerTimes {
            plan_ms: wait(&times.plan)?,
            register_ms: wait(&times.register)?,
            certify_ms: wait(&times.certify)?,
        };
        Ok(Self {
            blob_bytes: args.size,
            encoded_bytes: pair_bytes as u64 * u64::from(args.shards),
            nodes: args.nodes,
            shards: args.shards,
            runs: args.runs,
            processes: args.processes,
            store,
            ledger,
            read,
            node_peak_rss_bytes,
        })
    }

    pub(super) fn print(&self) {
        let place = if self.processes { "one process each" } else { "all in one process" };
        report::line(&format!(
            "{} blobs ({} encoded), {} nodes, {place}, {} shards, median of {}\n",
            human_bytes(self.blob_bytes),
            human_bytes(self.encoded_bytes),
            self.nodes,
            self.shards,
            self.runs
        ));
        let mut table = Table::default();
        table.row(["", "time", "MiB of blob/s"]);
        for outcome in [&self.store, &self.read] {
            outcome.add_to(&mut table);
        }
        report::line(table.render().trim_end());
        report::line("");
        for outcome in [&self.store, &self.read] {
            report::line(&outcome.sentence());
        }
        let LedgerTimes { plan_ms, register_ms, certify_ms } = self.ledger;
        report::line(&format!(
            "ledger: {plan_ms:.0} ms to plan, {register_ms:.0} ms to register, {certify_ms:.0} ms \
             to certify a store"
        ));
        if let Some(peak) = self.node_peak_rss_bytes.iter().max() {
            report::line(&format!("largest memory of a node process: {}", human_bytes(*peak)));
        }
    }
}

impl Outcome {
    fn new(
        whole: Figure,
        transfer: Option<Figure>,
        parts: Vec<Figure>,
        reference: Vec<Figure>,
    ) -> Self {
        let seconds = transfer.as_ref().unwrap_or(&whole).seconds;
        let slowest = parts.iter().map(|part| part.seconds).fold(0.0, f64::max);
        let sum: f64 = parts.iter().map(|part| part.seconds).sum();
        Self {
            of_slowest_part: slowest / seconds,
            of_parts_in_turn: sum / seconds,
            whole,
            transfer,
            parts,
            reference,
        }
    }

    fn sentence(&self) -> String {
        let slowest = self.parts.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
        format!(
            "{}{}: {:.0} % of the speed of its slowest part alone ({}), {:.0} % of that of all its \
             parts one after the other",
            self.whole.name,
            self.transfer.as_ref().map_or_else(String::new, |part| format!(" {}", part.name)),
            100.0 * self.of_slowest_part,
            slowest.map_or("none", |part| part.name),
            100.0 * self.of_parts_in_turn
        )
    }

    fn add_to(&self, table: &mut Table) {
        let mut add = |indent, figure: &Figure, suffix| {
            let name = format!("{indent}{}{suffix}", figure.name);
            let time = report::seconds(Duration::from_secs_f64(figure.seconds));
            table.row([&name, &time, &report::rate(figure.mib_per_second)]);
        };
        add("", &self.whole, "");
        if let Some(transfer) = &self.transfer {
            add("  ", transfer, "");
        }
        for part in &self.parts {
            add("  ", part, ", alone");
        }
        for reference in &self.reference {
            add("  (", reference, ")");
        }
    }
}
