//! What came of a scenario: a table for people, an object for programs.

use std::fmt;

use floe_protocol::message::RepairStatus;
use serde::Serialize;

use crate::report::{Table, mib};

/// What came of a scenario.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// What decided who left and died.
    pub seed: u64,
    /// Storage nodes at the start.
    pub nodes: usize,
    /// Shards of the network.
    pub n_shards: u16,
    /// Duration of an epoch.
    pub epoch_ms: u64,
    /// One row for each boundary, the first one for the start.
    pub epochs: Vec<EpochRow>,
    /// The load.
    pub load: LoadCounts,
    /// What the nodes that ran at the end had moved and recovered since their starts.
    pub repair: RepairCounts,
    /// The last committee's stores.
    pub last: Option<LastCommittee>,
    /// The longest time between two blocks.
    pub longest_block_gap_ms: u64,
    /// Duration of everything.
    pub took_ms: u64,
    /// Promises that did not hold.
    pub broken: Vec<String>,
}

/// The beginning of an epoch.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EpochRow {
    /// The epoch.
    pub epoch: u64,
    /// A height in it.
    pub height: u64,
    /// Nodes that hold shards.
    pub members: usize,
    /// Nodes that run.
    pub running: usize,
    /// Shards that were ready when it began.
    pub ready: u16,
    /// Blobs that were read back.
    pub read_back: usize,
    /// Reads of the load since the row before: how many, and the middle one.
    pub reads: usize,
    /// In milliseconds.
    pub read_p50_ms: Option<u64>,
    /// Blobs stored so far.
    pub stored: usize,
    /// What happened then.
    pub changes: Vec<String>,
}

/// The load.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LoadCounts {
    /// Blobs stored.
    pub stores: usize,
    /// Stores that failed.
    pub store_failures: u64,
    /// Reads that came back right.
    pub reads: u64,
    /// Reads that failed.
    pub read_failures: u64,
}

/// What nodes moved and recovered.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RepairCounts {
    /// Pairs copied from earlier holders.
    pub moved_pairs: u64,
    /// Pairs recovered.
    pub recovered_pairs: u64,
    /// Bytes of these pairs.
    pub gained_bytes: u64,
    /// Bytes received for them.
    pub fetched_bytes: u64,
}

impl RepairCounts {
    pub(super) const fn add(&mut self, status: &RepairStatus) {
        self.moved_pairs += status.moved_pairs;
        self.recovered_pairs += status.recovered_pairs;
        self.gained_bytes += status.gained_bytes;
        self.fetched_bytes += status.fetched_bytes;
    }
}

/// What the stores of the last committee hold.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LastCommittee {
    /// The epoch.
    pub epoch: u64,
    /// Members that hold shards.
    pub members: usize,
    /// Living blobs.
    pub blobs: usize,
    /// Pairs that verify.
    pub pairs: usize,
    /// Pairs that there are to be.
    pub pairs_wanted: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, seed, nodes, n_shards, epoch_ms, .. } = self;
        writeln!(
            f,
            "{scenario}: {nodes} nodes, {n_shards} shards, epochs of {} s, seed {seed}\n",
            epoch_ms / 1_000
        )?;
        let mut table = Table::default();
        table.row([
            "epoch",
            "height",
            "members",
            "run",
            "ready",
            "stored",
            "read back",
            "reads",
            "p50",
            "then",
        ]);
        for row in &self.epochs {
            let p50 = row.read_p50_ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
            let cells = [
                row.epoch.to_string(),
                row.height.to_string(),
                row.members.to_string(),
                row.running.to_string(),
                row.ready.to_string(),
                row.stored.to_string(),
                row.read_back.to_string(),
                row.reads.to_string(),
                p50,
                row.changes.join(", "),
            ];
            table.row(cells.each_ref().map(String::as_str));
        }
        writeln!(f, "{}", table.render())?;
        let LoadCounts { stores, store_failures, reads, read_failures } = self.load;
        writeln!(
            f,
            "load     {stores} stores, {store_failures} failed; {reads} reads, {read_failures} failed"
        )?;
        let RepairCounts { moved_pairs, recovered_pairs, gained_bytes, fetched_bytes } =
            self.repair;
        writeln!(
            f,
            "repair   {moved_pairs} pairs copied, {recovered_pairs} recovered: {:.1} MiB from \
             {:.1} MiB fetched",
            mib(gained_bytes),
            mib(fetched_bytes)
        )?;
        if let Some(LastCommittee { epoch, members, blobs, pairs, pairs_wanted }) = self.last {
            writeln!(
                f,
                "stores   epoch {epoch}: {pairs} of {pairs_wanted} pairs of {blobs} blobs are whole \
                 on {members} members"
            )?;
        }
        let gap = self.longest_block_gap_ms;
        writeln!(f, "blocks   {}.{:03} s at most between two", gap / 1_000, gap % 1_000)?;
        match self.broken.as_slice() {
            [] => write!(f, "promises all kept"),
            broken => {
                write!(f, "BROKEN   {} promises:", broken.len())?;
                broken.iter().try_for_each(|promise| write!(f, "\n  {promise}"))
            }
        }
    }
}
