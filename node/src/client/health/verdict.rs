//! What follows from the answers of nodes and the newest state: whether the ledger goes on, whether
//! its epoch can end, and who waits for whom.
//!
//! Invariants: pure, the clock is the caller's; a node is missing only if it was asked and gave no
//! proven answer.

use std::collections::BTreeMap;

use floe_protocol::{
    index::ShardIndex,
    keys::NodeId,
    ledger::{ShardRecord, Timestamp},
};

use super::LedgerHealth;

/// A ledger with nothing to do makes a block with each heartbeat; one that has made none for
/// several of them, and for so long, has stopped.
const STOPPED_AFTER_MS: u64 = 30_000;
/// So many heartbeats.
const STOPPED_HEARTBEATS: u64 = 3;
/// From two durations on shards return to their last holders: an epoch that has lasted so many is
/// not held up by a transfer that takes its time.
const STUCK_DURATIONS: u64 = 3;

/// What the ledger is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerVerdict {
    /// It makes blocks.
    Running,
    /// It makes blocks, but the epoch cannot end: it is due, and the shards of a quorum are not
    /// ready, long since or because too many of them are with members that do not answer.
    EpochStuck,
    /// It has stopped, and members with more than a third of the power do not answer: it cannot go
    /// on before some of them are back. Reads go on.
    PowerMissing,
    /// It has stopped although a quorum answers.
    Stalled,
    /// This machine's clock is wrong: nothing can be said of ages.
    Clock,
    /// Nobody knows a block yet.
    NoBlock,
}

/// Shards that are not ready, of one holder, which another node was the last to have whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardsWaiting {
    /// The member that is to have them.
    pub holder: NodeId,
    /// The node from which it copies them; the holder itself if it is repairing them.
    pub from: NodeId,
    /// Which they are.
    pub shards: Vec<ShardIndex>,
}

impl LedgerHealth {
    /// Whether members that can make blocks answer.
    #[must_use]
    pub const fn quorum_answers(&self) -> bool {
        self.shards_answering >= self.shards_needed
    }

    /// Whether a node gave a proven answer. Whoever was not asked did.
    #[must_use]
    pub fn answers(&self, node: &NodeId) -> bool {
        self.silent.iter().all(|(silent, _)| silent != node)
    }

    /// Whether the ledger has stopped, as far as can be told.
    #[must_use]
    pub const fn has_stopped(&self) -> bool {
        matches!(self.verdict, LedgerVerdict::PowerMissing | LedgerVerdict::Stalled)
    }

    /// The shards that are not ready, by their holders.
    #[must_use]
    pub fn waiting(&self) -> Vec<ShardsWaiting> {
        let mut waiting: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (shard, holder, record) in self.shards().filter(|(.., record)| !record.is_ready()) {
            waiting.entry((holder, record.last_ready)).or_default().push(shard);
        }
        let one = |((holder, from), shards)| ShardsWaiting { holder, from, shards };
        waiting.into_iter().map(one).collect()
    }

    /// Shards that are ready, or with members that answer; none if that could not be proven.
    #[must_use]
    pub fn shards_within_reach(&self) -> Option<u16> {
        self.running.as_ref()?;
        let reachable =
            self.shards().filter(|(_, node, shard)| shard.is_ready() || self.answers(node));
        u16::try_from(reachable.count()).ok()
    }

    /// Each shard with its holder and its record.
    fn shards(&self) -> impl Iterator<Item = (ShardIndex, NodeId, &ShardRecord)> {
        self.running.iter().flat_map(|running| {
            let committee = &running.committee;
            let shards = (0..).map(ShardIndex::new).zip(&running.shards);
            shards.map(|(shard, record)| {
                (shard, committee.members()[committee.holder(shard)].node, record)
            })
        })
    }

    pub(super) fn judge(&self, now: Timestamp, heartbeat_ms: u64) -> LedgerVerdict {
        let stopped = if self.quorum_answers() {
            LedgerVerdict::Stalled
        } else {
            LedgerVerdict::PowerMissing
        };
        let Some(header) = &self.header else {
            return if self.quorum_answers() { LedgerVerdict::NoBlock } else { stopped };
        };
        let time = header.header().time;
        if time.ms_since(now) > STOPPED_AFTER_MS {
            return LedgerVerdict::Clock;
        }
        let silence_max_ms = heartbeat_ms.saturating_mul(STOPPED_HEARTBEATS).max(STOPPED_AFTER_MS);
        if now.ms_since(time) > silence_max_ms {
            return stopped;
        }
        if self.epoch_is_stuck() { LedgerVerdict::EpochStuck } else { LedgerVerdict::Running }
    }

    fn epoch_is_stuck(&self) -> bool {
        let Some(running) = &self.running else { return false };
        let Some(over_ms) = running.stretched_ms() else { return false };
        let needed = running.ready_needed();
        let long = over_ms > running.epoch_ms.saturating_mul(STUCK_DURATIONS - 1);
        let unreachable = self.shards_within_reach().is_some_and(|shards| shards < needed);
        running.ready() < needed && (long || unreachable)
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        bft,
        index::Epoch,
        light::{CertifiedHeader, LightClient, OldRoot, Start},
        test_support::{self, Chain},
    };

    use super::*;
    use crate::{
        client::ledger::{NodeFault, RunningEpoch},
        network::RequestError,
    };

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    /// A ledger of 7 shards on 4 nodes, whose last block is so old, and of whose shards so many are
    /// ready so long after its epoch has begun.
    fn health(age_ms: u64, answering: u16, (ready, since_ms): (u16, u64)) -> LedgerHealth {
        let genesis = test_support::genesis(4, 7);
        let mut chain = Chain::new(&genesis);
        chain.now = Timestamp::from_ms(NOW.ms() - age_ms);
        chain.commit(&[]);
        let (block, certificate) = chain.blocks[0].clone();
        let certified = CertifiedHeader { header: block.header, certificate };
        let start = Start::Genesis { started: None };
        let light = LightClient::new(&genesis, &start, OldRoot::Trust, NOW).unwrap();
        let header = light.verify(certified).unwrap();
        let time = header.header().time;
        let committee = genesis.committee().unwrap();
        let mut summary = *chain.state.summary();
        summary.epoch_start = Timestamp::from_ms(time.ms() - since_ms);
        let shard = |i| {
            let holder = committee.members()[committee.holder(ShardIndex::new(i))].node;
            let settled = ShardRecord::settled(holder);
            ShardRecord { ready_since: settled.ready_since.filter(|_| i < ready), ..settled }
        };
        let running = RunningEpoch {
            summary,
            shards: (0..7).map(shard).collect(),
            committee,
            next: None,
            height: header.header().height,
            time: Some(time),
            epoch_ms: 1_000,
        };
        LedgerHealth {
            verdict: LedgerVerdict::Running,
            header: Some(header),
            age_ms: Some(age_ms),
            epoch: Epoch::new(0),
            n_shards: 7,
            shards_needed: bft::min_quorum(7),
            shards_answering: answering,
            members: (4, 4),
            shards_ready: Some(running.ready()),
            running: Some(running),
            silent: Vec::new(),
        }
    }

    fn silence(health: &mut LedgerHealth, shard: u16) -> NodeId {
        let committee = &health.running.as_ref().unwrap().committee;
        let node = committee.members()[committee.holder(ShardIndex::new(shard))].node;
        health.silent.push((node, NodeFault::Silent(RequestError::Unreachable)));
        node
    }

    #[test]
    fn a_ledger_that_has_stopped_is_told_from_one_whose_power_is_gone() {
        let table = [
            (1_000, 7, (7, 0), LedgerVerdict::Running),
            (1_000, 7, (3, 3_000), LedgerVerdict::Running),
            (1_000, 7, (3, 3_001), LedgerVerdict::EpochStuck),
            (1_000, 7, (5, 9_000), LedgerVerdict::Running),
            // Blocks are made: whoever did not answer was slow.
            (1_000, 4, (7, 0), LedgerVerdict::Running),
            (31_000, 4, (7, 0), LedgerVerdict::PowerMissing),
            (31_000, 5, (7, 0), LedgerVerdict::Stalled),
        ];
        for (age_ms, answering, ready, expected) in table {
            let told = health(age_ms, answering, ready).judge(NOW, 10_000);
            assert_eq!(told, expected, "{age_ms} {answering} {ready:?}");
        }
        let slow = health(31_000, 5, (7, 0)).judge(NOW, 20_000);
        assert_eq!(slow, LedgerVerdict::Running, "three heartbeats are a minute");
        let mut none = health(0, 7, (7, 0));
        none.header = None;
        assert_eq!(none.judge(NOW, 10_000), LedgerVerdict::NoBlock);
        none.shards_answering = 4;
        assert_eq!(none.judge(NOW, 10_000), LedgerVerdict::PowerMissing);
        let ahead = health(0, 7, (7, 0)).judge(Timestamp::from_ms(NOW.ms() - 31_000), 10_000);
        assert_eq!(ahead, LedgerVerdict::Clock);
    }

    #[test]
    fn an_epoch_is_stuck_at_once_when_no_quorum_can_get_ready() {
        let mut two = health(1_000, 7, (4, 1_001));
        assert_eq!(two.judge(NOW, 10_000), LedgerVerdict::Running, "it is just late");
        assert_eq!(two.shards_within_reach(), Some(7));
        silence(&mut two, 4);
        silence(&mut two, 5);
        silence(&mut two, 6);
        assert_eq!(two.shards_within_reach(), Some(4));
        assert_eq!(two.judge(NOW, 10_000), LedgerVerdict::EpochStuck);
        let mut early = two.clone();
        early.running.as_mut().unwrap().summary.epoch_start = NOW;
        assert_eq!(early.judge(NOW, 10_000), LedgerVerdict::Running, "it is not due");
    }

    #[test]
    fn what_is_not_ready_is_told_by_holder_and_origin() {
        let mut health = health(1_000, 7, (5, 0));
        let from = silence(&mut health, 0);
        let shards = &mut health.running.as_mut().unwrap().shards;
        (shards[5].last_ready, shards[6].last_ready) = (from, from);
        let waiting = health.waiting();
        let told: Vec<_> = waiting.iter().flat_map(|waiting| &waiting.shards).collect();
        assert_eq!(told.len(), 2, "{waiting:?}");
        assert!(waiting.iter().all(|waiting| waiting.from == from && waiting.holder != from));
        assert!(!health.answers(&from) && health.answers(&waiting[0].holder));
    }
}
