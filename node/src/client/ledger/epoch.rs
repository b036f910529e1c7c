//! The running epoch: committees and readiness, proven by one header.

use floe_protocol::{
    bft,
    committee::Committee,
    index::{Epoch, Height, ShardIndex},
    keys::NodeId,
    ledger::{Key, Record, ShardRecord, Summary, Timestamp},
    light::LightError,
};

use super::{LedgerClient, LedgerError, Purpose};
use crate::service::ledger::wall_clock;

/// How often the facts are asked for again because an epoch has begun meanwhile.
const ATTEMPTS_MAX: u32 = 4;

/// The running epoch, as one header proves it.
#[derive(Clone, Debug)]
pub struct RunningEpoch {
    /// The ledger at a glance.
    pub summary: Summary,
    /// The readiness of each shard.
    pub shards: Vec<ShardRecord>,
    /// Its committee.
    pub committee: Committee,
    /// The next committee, once it is selected.
    pub next: Option<Committee>,
    /// The height after which all of that is so.
    pub height: Height,
    /// The ledger's time; none before the first block.
    pub time: Option<Timestamp>,
    pub(in crate::client) epoch_ms: u64,
}

impl LedgerClient {
    /// The running epoch.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn running_epoch(&self) -> Result<RunningEpoch, LedgerError> {
        self.running_epoch_for(Purpose::Decide).await
    }

    /// The running epoch, by the newest header that will do for a purpose.
    pub(in crate::client) async fn running_epoch_for(
        &self,
        purpose: Purpose,
    ) -> Result<RunningEpoch, LedgerError> {
        let mut epoch = self.committee().epoch();
        // Every state has these: a quorum has executed it.
        let absent = || LedgerError::Trust(LightError::OtherAnswer);
        for _ in 0..ATTEMPTS_MAX {
            let next = epoch.plus(1);
            let keys = [Key::Summary, Key::Shards, Key::Committee(epoch), Key::Committee(next)];
            let proven = self.facts(&keys, purpose).await?;
            let (height, time) = (proven.height(), proven.time());
            let mut records = proven.value.into_iter();
            let mut next = || records.next().flatten();
            let (summary, shards) = (next(), next());
            let (committee, selected) = (next().and_then(committee), next().and_then(committee));
            let (Some(Record::Summary(summary)), Some(Record::Shards(shards))) = (summary, shards)
            else {
                return Err(absent());
            };
            if summary.epoch != epoch {
                epoch = summary.epoch;
                continue;
            }
            let committee = committee.ok_or_else(absent)?;
            if shards.len() != usize::from(committee.n_shards()) {
                return Err(absent());
            }
            let epoch_ms = self.parameters().epoch_ms;
            let next = selected;
            return Ok(RunningEpoch { summary, shards, committee, next, height, time, epoch_ms });
        }
        Err(LedgerError::Stale { attempts: ATTEMPTS_MAX })
    }

    /// The committee of an epoch; none if it is forgotten, or not selected yet.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn committee_of(&self, epoch: Epoch) -> Result<Option<Committee>, LedgerError> {
        let proven = self.facts(&[Key::Committee(epoch)], Purpose::Decide).await?;
        Ok(proven.value.into_iter().next().flatten().and_then(committee))
    }
}

pub(super) fn committee(record: Record) -> Option<Committee> {
    match record {
        Record::Committee(bytes) => Committee::from_bytes(&bytes).ok(),
        _ => None,
    }
}

impl RunningEpoch {
    /// Shards that are complete with their holders.
    #[must_use]
    pub fn ready(&self) -> u16 {
        count(self.shards.iter().filter(|shard| shard.is_ready()).count())
    }

    /// How many of them let the epoch end.
    #[must_use]
    pub fn ready_needed(&self) -> u16 {
        bft::min_quorum(self.committee.n_shards())
    }

    /// Shards of a node in the running committee, and how many of them are ready.
    #[must_use]
    pub fn shards_of(&self, node: &NodeId) -> (u16, u16) {
        let own = self.committee.member(node).map_or(&[][..], |member| &member.shards);
        let ready = own.iter().filter(|shard| self.shards[shard.as_usize()].is_ready());
        (count(own.len()), count(ready.count()))
    }

    /// Shards of a node in the next committee; none while that is not selected.
    #[must_use]
    pub fn next_shards_of(&self, node: &NodeId) -> Option<u16> {
        let next = self.next.as_ref()?;
        Some(next.member(node).map_or(0, |member| count(member.shards.len())))
    }

    /// Whether others may still need a node that leaves: it is a member of this or the next
    /// committee, or keeps what it had of a shard.
    #[must_use]
    pub fn needs(&self, node: &NodeId) -> bool {
        let next = self.next_shards_of(node).unwrap_or(0);
        self.shards_of(node).0 > 0 || next > 0 || self.kept_by(node) > 0
    }

    /// Shards that a node has to keep though they have moved on: nobody else is known to have them
    /// whole, or not for long enough.
    #[must_use]
    pub fn kept_by(&self, node: &NodeId) -> u16 {
        let own = self.committee.member(node).map_or(&[][..], |member| &member.shards);
        let kept = (0..).map(ShardIndex::new).zip(&self.shards);
        let kept = kept.filter(|(shard, record)| record.is_kept_by(node) && !own.contains(shard));
        count(kept.count())
    }

    /// When the epoch is to end; none before the first block.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        self.time.map(|_| self.summary.epoch_start.plus_ms(self.epoch_ms))
    }

    /// In how many milliseconds the epoch is to end: 0 if it is over time.
    #[must_use]
    pub fn ends_in_ms(&self) -> u64 {
        self.ends().map_or(0, |end| end.ms_since(wall_clock()))
    }

    /// In how many milliseconds a committee is first selected; none if that is over.
    #[must_use]
    pub fn selection_in_ms(&self) -> Option<u64> {
        let due = self.time.map(|time| self.summary.deadline(time, self.epoch_ms));
        let wait = due.map_or(0, |due| due.ms_since(wall_clock()));
        (self.summary.selections == 0).then_some(wait)
    }

    /// By how much the epoch has lasted longer than planned, in ledger time; none if it has not.
    #[must_use]
    pub fn stretched_ms(&self) -> Option<u64> {
        let over = self.time?.ms_since(self.ends()?);
        (over > 0).then_some(over)
    }
}

fn count(shards: usize) -> u16 {
    u16::try_from(shards).expect("a network has at most 256 shards")
}
