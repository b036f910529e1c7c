//! What commands show of an epoch: committees and readiness, proven by one header.

use floe_protocol::{
    bft,
    committee::Committee,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{Amount, Key, LedgerParameters, Record, ShardRecord, Summary, Timestamp},
};

use super::exit::{Exit, Failure};
use crate::{
    client::{LedgerClient, ledger::Purpose},
    service::ledger::wall_clock,
};

/// How often the facts are asked for again because an epoch has begun meanwhile.
const ATTEMPTS_MAX: u32 = 4;

/// The running epoch.
#[derive(Clone, Debug)]
pub(super) struct EpochFacts {
    pub(super) summary: Summary,
    pub(super) shards: Vec<ShardRecord>,
    pub(super) committee: Committee,
    /// The next committee, once it is selected.
    pub(super) next: Option<Committee>,
    pub(super) height: Height,
    /// The ledger's time; none before the first block.
    pub(super) time: Option<Timestamp>,
    epoch_ms: u64,
}

/// Asks for the running epoch.
pub(super) async fn epoch_facts(ledger: &LedgerClient) -> Result<EpochFacts, Failure> {
    let mut epoch = ledger.committee().epoch();
    for _ in 0..ATTEMPTS_MAX {
        let keys =
            [Key::Summary, Key::Shards, Key::Committee(epoch), Key::Committee(epoch.plus(1))];
        let proven = ledger.facts(&keys, Purpose::Decide).await?;
        let (height, time) = (proven.height(), proven.time());
        let mut records = proven.value.into_iter();
        let mut next = || records.next().flatten();
        let (summary, shards) = (next(), next());
        let (committee, selected) = (next().and_then(committee), next().and_then(committee));
        let (Some(Record::Summary(summary)), Some(Record::Shards(shards))) = (summary, shards)
        else {
            return Err(unproven());
        };
        if summary.epoch != epoch {
            epoch = summary.epoch;
            continue;
        }
        let committee = committee.ok_or_else(unproven)?;
        let epoch_ms = ledger.parameters().epoch_ms;
        return Ok(EpochFacts {
            summary,
            shards,
            committee,
            next: selected,
            height,
            time,
            epoch_ms,
        });
    }
    Err(Failure::new(Exit::Temporary, "epoch", "epochs pass faster than they can be asked for"))
}

/// The committee of an epoch; none if it is forgotten, or not selected yet.
pub(super) async fn committee_of(
    ledger: &LedgerClient,
    epoch: Epoch,
) -> Result<Option<Committee>, Failure> {
    let proven = ledger.facts(&[Key::Committee(epoch)], Purpose::Decide).await?;
    Ok(proven.value.into_iter().next().flatten().and_then(committee))
}

fn committee(record: Record) -> Option<Committee> {
    match record {
        Record::Committee(bytes) => Committee::from_bytes(&bytes).ok(),
        _ => None,
    }
}

fn unproven() -> Failure {
    Failure::new(Exit::Verification, "unproven", "the state lacks what every state has")
}

/// The stake that a node needs to be selected.
pub(super) const fn min_stake(parameters: &LedgerParameters) -> Amount {
    let _ = parameters;
    Amount::from_wal(100)
}

impl EpochFacts {
    /// Shards that are complete with their holders.
    pub(super) fn ready(&self) -> u16 {
        count(self.shards.iter().filter(|shard| shard.ready).count())
    }

    /// How many of them let the epoch end.
    pub(super) fn ready_needed(&self) -> u16 {
        bft::min_quorum(self.committee.n_shards())
    }

    /// Shards of a node in the running committee, and how many of them are ready.
    pub(super) fn shards_of(&self, node: &NodeId) -> (u16, u16) {
        let own = self.committee.member(node).map_or(&[][..], |member| &member.shards);
        let ready = own.iter().filter(|shard| self.shards[shard.as_usize()].ready);
        (count(own.len()), count(ready.count()))
    }

    /// Shards of a node in the next committee; none while that is not selected.
    pub(super) fn next_shards_of(&self, node: &NodeId) -> Option<u16> {
        let next = self.next.as_ref()?;
        Some(next.member(node).map_or(0, |member| count(member.shards.len())))
    }

    /// Shards that nobody but this node is known to have whole.
    pub(super) fn last_ready_of(&self, node: &NodeId) -> u16 {
        count(self.shards.iter().filter(|shard| shard.last_ready == *node).count())
    }

    /// When the epoch is to end; none before the first block.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.time.map(|_| self.summary.epoch_start.plus_ms(self.epoch_ms))
    }

    /// In how many milliseconds the epoch is to end: 0 if it is over time.
    pub(super) fn ends_in_ms(&self) -> u64 {
        self.ends().map_or(0, |end| end.ms_since(wall_clock()))
    }

    /// In how many milliseconds the next committee is selected; none if it is.
    pub(super) fn selection_in_ms(&self) -> Option<u64> {
        let half = self.summary.epoch_start.plus_ms(self.epoch_ms / 2);
        self.next.is_none().then(|| self.time.map_or(0, |_| half.ms_since(wall_clock())))
    }

    /// By how much the epoch has lasted longer than planned, in ledger time; none if it has not.
    pub(super) fn stretched_ms(&self) -> Option<u64> {
        let over = self.time?.ms_since(self.ends()?);
        (over > 0).then_some(over)
    }
}

fn count(shards: usize) -> u16 {
    u16::try_from(shards).expect("a network has at most 256 shards")
}
