//! What came of a scenario: a table for people, an object for programs.

use std::{fmt, time::Duration};

use floe_protocol::{keys::NodeId, ledger::Amount, message::RepairStatus};
use serde::Serialize;

use super::history::EpochHistory;
use crate::report::{Table, mib, seconds};

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
    /// The member behind a slow link, if there is one.
    pub slow: Option<SlowMember>,
    /// What the ledger itself says.
    pub ledger: LedgerCounts,
    /// The longest time that blocks kept a client waiting.
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
    /// Its length in ledger time; none if it has not ended.
    pub took_ms: Option<u64>,
    /// Shards that were not ready when it ended.
    pub unready: u16,
    /// How many of them went back to who had them whole.
    pub returned: u16,
    /// What happened at its beginning.
    pub changes: Vec<String>,
}

/// What executing the whole ledger again has shown.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LedgerCounts {
    /// Blocks: after each of them the supply was looked at.
    pub blocks: u64,
    /// What was burned: pay that was not earned.
    pub burned: Amount,
    /// The longest time between two blocks, by their own times.
    pub longest_gap_ms: u64,
}

/// A member behind a slow link.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SlowMember {
    /// Its number.
    pub node: usize,
    /// What each packet takes that it sends or receives.
    pub delay_ms: u64,
    /// How many of a thousand of them are lost.
    pub lost_permille: u16,
    /// From another node to it and back, as measured, in microseconds.
    pub round_trip_us: u64,
    /// The same between two others.
    pub others_round_trip_us: u64,
    /// Each epoch.
    pub epochs: Vec<SlowEpoch>,
}

/// A slow member in one epoch.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SlowEpoch {
    /// The epoch.
    pub epoch: u64,
    /// Its shards.
    pub shards: u16,
    /// Heights for which its precommit was recorded.
    pub recorded: u64,
    /// Heights.
    pub heights: u64,
}

impl SlowMember {
    /// Takes over how it fared, and says what it should not have come to.
    pub(super) fn judge(&mut self, id: &NodeId, epochs: &[EpochHistory]) -> Vec<String> {
        let fared = epochs.iter().map(|row| {
            let (shards, recorded) = row.members.get(id).copied().unwrap_or_default();
            SlowEpoch { epoch: row.epoch, shards, recorded, heights: row.heights }
        });
        self.epochs = fared.collect();
        let mut wrong = Vec::new();
        let least = u128::from(self.delay_ms) * 2 * 1_000;
        if u128::from(self.round_trip_us) < least {
            wrong.push(format!("the slow link is not slow: {} us", self.round_trip_us));
        }
        let first = self.epochs.first().map_or(0, |epoch| epoch.shards);
        for (row, told) in self.epochs.iter().zip(epochs) {
            let SlowEpoch { epoch, shards, recorded, heights } = row;
            if *shards == 0 || *shards < first {
                wrong
                    .push(format!("epoch {epoch}: the slow member has {shards} of {first} shards"));
            }
            // What comes late to the last heights of all is recorded by no block.
            if told.took_ms.is_some() && 2 * recorded < *heights {
                wrong.push(format!(
                    "epoch {epoch}: the slow member is recorded for {recorded} of {heights} heights"
                ));
            }
        }
        wrong
    }
}

/// The load.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LoadCounts {
    /// Blobs stored.
    pub stores: usize,
    /// Stores that failed.
    pub store_failures: u64,
    /// Stores that failed while those who have room were no quorum.
    pub stores_impossible: u64,
    /// Stores that failed after more than an epoch: what they had paid may have lapsed.
    pub stores_late: u64,
    /// Reads that came back right.
    pub reads: u64,
    /// Reads that failed.
    pub read_failures: u64,
    /// Transfers.
    pub transfers: u64,
    /// Transfers that failed.
    pub transfer_failures: u64,
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
        writeln!(f, "{}", self.table().render())?;
        write!(f, "{}", self.load)?;
        write!(f, "{}", self.repair)?;
        if let Some(LastCommittee { epoch, members, blobs, pairs, pairs_wanted }) = self.last {
            writeln!(
                f,
                "stores   epoch {epoch}: {pairs} of {pairs_wanted} pairs of {blobs} blobs are whole \
                 on {members} members"
            )?;
        }
        self.slow.as_ref().map_or(Ok(()), |slow| slow.fmt(f))?;
        let gap = |ms| seconds(Duration::from_millis(ms));
        let LedgerCounts { blocks, burned, longest_gap_ms } = self.ledger;
        writeln!(
            f,
            "blocks   {blocks}, {} at most between two; a client waited for {}",
            gap(longest_gap_ms),
            gap(self.longest_block_gap_ms)
        )?;
        writeln!(f, "supply   looked at after each block; {burned} burned for want of service")?;
        match self.broken.as_slice() {
            [] => write!(f, "promises all kept"),
            broken => {
                write!(f, "BROKEN   {} promises:", broken.len())?;
                broken.iter().try_for_each(|promise| write!(f, "\n  {promise}"))
            }
        }
    }
}

impl Report {
    fn table(&self) -> Table {
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
            "took",
            "returned",
            "then",
        ]);
        for row in &self.epochs {
            let p50 = row.read_p50_ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
            let took = row.took_ms.map(|ms| seconds(Duration::from_millis(ms)));
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
                took.unwrap_or_else(|| "-".into()),
                row.returned.to_string(),
                row.changes.join(", "),
            ];
            table.row(cells.each_ref().map(String::as_str));
        }
        table
    }
}

impl fmt::Display for LoadCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stores, store_failures, stores_impossible, reads, read_failures, .. } = self;
        writeln!(
            f,
            "load     {stores} stores, {store_failures} failed; {reads} reads, {read_failures} failed"
        )?;
        let Self { transfers, transfer_failures, .. } = self;
        if transfers + transfer_failures > 0 {
            writeln!(f, "         {transfers} transfers, {transfer_failures} failed")?;
        }
        if *stores_impossible > 0 {
            writeln!(f, "         {stores_impossible} stores found no quorum with room")?;
        }
        if self.stores_late > 0 {
            writeln!(f, "         {} stores took longer than an epoch", self.stores_late)?;
        }
        Ok(())
    }
}

impl fmt::Display for RepairCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved_pairs, recovered_pairs, gained_bytes, fetched_bytes } = self;
        writeln!(
            f,
            "repair   {moved_pairs} pairs copied, {recovered_pairs} recovered: {:.1} MiB from \
             {:.1} MiB fetched",
            mib(*gained_bytes),
            mib(*fetched_bytes)
        )
    }
}

impl fmt::Display for SlowMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trip = |us: u64| format!("{}.{:03} ms", us / 1_000, us % 1_000);
        let Self { node, delay_ms, lost_permille, round_trip_us, others_round_trip_us, .. } = self;
        writeln!(
            f,
            "slow     node {node}: {delay_ms} ms for each packet in each direction, {lost_permille} \
             of 1,000 lost; {} to it and back, {} to others",
            trip(*round_trip_us),
            trip(*others_round_trip_us)
        )?;
        self.epochs.iter().try_for_each(|SlowEpoch { epoch, shards, recorded, heights }| {
            writeln!(
                f,
                "         epoch {epoch}: {shards} shards, recorded for {recorded} of {heights} heights"
            )
        })
    }
}
