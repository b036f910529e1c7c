//! How the ledger is doing: whether it goes on, and if not, what is missing.
//!
//! Every member is asked for its newest header at once. An answer counts once its header has been
//! verified; so what is told of the members is what they showed, and only that they are silent is
//! this client's own word.

use std::time::Duration;

use floe_protocol::{
    bft,
    committee::QuorumTracker,
    index::{Epoch, ShardIndex},
    ledger::Summary,
    light::VerifiedHeader,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{Client, LedgerError, ledger::NodeFault};
use crate::service::ledger::wall_clock;

/// How long members have to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// A ledger with nothing to do makes a block every ten seconds; one that has made none for so long
/// has stopped.
const STOPPED_AFTER_MS: u64 = 30_000;

/// What the ledger is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerVerdict {
    /// It makes blocks.
    Running,
    /// It makes blocks, but the epoch cannot end: shards of a quorum are not ready, long after it
    /// was due.
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

/// How the ledger is doing.
#[derive(Clone, Debug)]
pub struct LedgerHealth {
    /// In one word.
    pub verdict: LedgerVerdict,
    /// The newest header that could be had.
    pub header: Option<VerifiedHeader>,
    /// Its age in milliseconds by this machine's clock.
    pub age_ms: Option<u64>,
    /// The running epoch.
    pub epoch: Epoch,
    /// Shards of the network: the whole voting power.
    pub n_shards: u16,
    /// Power needed to make blocks.
    pub shards_needed: u16,
    /// Power of the members that answered.
    pub shards_answering: u16,
    /// Members of the running committee, and those of them that answered.
    pub members: (usize, usize),
    /// Shards whose holder has reported them ready; none if that could not be proven.
    pub shards_ready: Option<u16>,
    /// Members without a proven answer, and why.
    pub silent: Vec<(floe_protocol::keys::NodeId, NodeFault)>,
}

impl LedgerHealth {
    /// Whether members that can make blocks answer.
    #[must_use]
    pub const fn quorum_answers(&self) -> bool {
        self.shards_answering >= self.shards_needed
    }
}

impl Client {
    /// How the ledger is doing. It takes as long as the slowest member, five seconds at most.
    ///
    /// # Errors
    /// [`LedgerError::Trust`], [`LedgerError::Stopped`]. That nobody answers is a result.
    pub async fn ledger_health(&self) -> Result<LedgerHealth, LedgerError> {
        // First, so that the committee asked is the running one.
        drop(self.ledger.newest().await?);
        let committee = self.committee();
        let mut answering = QuorumTracker::new(&committee);
        let (mut answered, mut silent) = (0, Vec::new());
        let end = Instant::now() + PATIENCE;
        let mut asked: FuturesUnordered<_> = committee
            .members()
            .iter()
            .enumerate()
            .map(|(position, member)| async move {
                let tip = timeout_at(end, self.ledger.tip_of(member.node)).await;
                let tip =
                    tip.unwrap_or(Err(NodeFault::Silent(crate::network::RequestError::Timeout)));
                (position, tip)
            })
            .collect();
        while let Some((position, tip)) = asked.next().await {
            match tip {
                Ok(_) => {
                    answering.add(&committee, position);
                    answered += 1;
                }
                Err(fault) => silent.push((committee.members()[position].node, fault)),
            }
        }
        drop(asked);
        silent.sort_by_key(|(node, _)| *node);
        let (summary, shards_ready) = self.epoch_health().await;
        let header = self.ledger.known_header();
        let n_shards = committee.n_shards();
        let mut health = LedgerHealth {
            verdict: LedgerVerdict::Running,
            age_ms: header.as_ref().map(|header| wall_clock().ms_since(header.header().time)),
            header,
            epoch: self.committee().epoch(),
            n_shards,
            shards_needed: bft::min_quorum(n_shards),
            shards_answering: answering.weight(),
            members: (committee.members().len(), answered),
            shards_ready,
            silent,
        };
        health.verdict = verdict(&health, summary.as_ref(), self.ledger.parameters().epoch_ms);
        Ok(health)
    }

    /// What the newest state says of the epoch, as far as it can be proven.
    async fn epoch_health(&self) -> (Option<Summary>, Option<u16>) {
        let Ok(holders) = self.ledger.holders().await else { return (None, None) };
        let holders = holders.value;
        let shards = (0..holders.committee().n_shards()).map(ShardIndex::new);
        let ready = shards.filter(|shard| holders.shard(*shard).ready).count();
        let summary = self.ledger.summary().await.ok().and_then(|proven| proven.value);
        (summary, u16::try_from(ready).ok())
    }
}

fn verdict(health: &LedgerHealth, summary: Option<&Summary>, epoch_ms: u64) -> LedgerVerdict {
    let (Some(header), Some(age_ms)) = (&health.header, health.age_ms) else {
        let quorum = health.quorum_answers();
        return if quorum { LedgerVerdict::NoBlock } else { LedgerVerdict::PowerMissing };
    };
    let time = header.header().time;
    if time.ms_since(wall_clock()) > STOPPED_AFTER_MS {
        return LedgerVerdict::Clock;
    }
    if age_ms > STOPPED_AFTER_MS {
        let quorum = health.quorum_answers();
        return if quorum { LedgerVerdict::Stalled } else { LedgerVerdict::PowerMissing };
    }
    // From two durations on shards return to their last holders: behind three it is no transfer
    // that takes its time.
    let overdue = summary
        .is_some_and(|summary| time.ms_since(summary.epoch_start) > epoch_ms.saturating_mul(3));
    let unready = health.shards_ready.is_some_and(|ready| ready < health.shards_needed);
    if overdue && unready { LedgerVerdict::EpochStuck } else { LedgerVerdict::Running }
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support::{self, Chain};

    use super::*;

    fn health(age_ms: u64, answering: u16, ready: u16) -> LedgerHealth {
        let genesis = test_support::genesis(4, 7);
        let mut chain = Chain::new(&genesis);
        chain.now = floe_protocol::ledger::Timestamp::from_ms(
            u64::try_from(
                i64::try_from(wall_clock().ms_since(floe_protocol::ledger::Timestamp::from_ms(0)))
                    .unwrap(),
            )
            .unwrap()
                - age_ms,
        );
        chain.commit(&[]);
        let (block, certificate) = chain.blocks[0].clone();
        let certified = floe_protocol::light::CertifiedHeader { header: block.header, certificate };
        let light = floe_protocol::light::LightClient::new(
            &genesis,
            &floe_protocol::light::Start::Genesis { started: None },
            floe_protocol::light::OldRoot::Trust,
            wall_clock(),
        );
        let header = light.unwrap().verify(certified).unwrap();
        LedgerHealth {
            verdict: LedgerVerdict::Running,
            header: Some(header),
            age_ms: Some(age_ms),
            epoch: Epoch::new(0),
            n_shards: 7,
            shards_needed: bft::min_quorum(7),
            shards_answering: answering,
            members: (4, 4),
            shards_ready: Some(ready),
            silent: Vec::new(),
        }
    }

    #[test]
    fn a_ledger_that_has_stopped_is_told_from_one_whose_power_is_gone() {
        let summary = |since_ms: u64, health: &LedgerHealth| {
            let genesis = test_support::genesis(4, 7);
            let mut summary = *Chain::new(&genesis).state.summary();
            let time = health.header.as_ref().unwrap().header().time;
            let start = time.ms_since(floe_protocol::ledger::Timestamp::from_ms(since_ms));
            summary.epoch_start = floe_protocol::ledger::Timestamp::from_ms(start);
            summary
        };
        let table = [
            (1_000, 7, 7, 0, LedgerVerdict::Running),
            (1_000, 7, 3, 2_000, LedgerVerdict::Running),
            (1_000, 7, 3, 3_001, LedgerVerdict::EpochStuck),
            (1_000, 7, 5, 9_000, LedgerVerdict::Running),
            // Blocks are made: whoever did not answer was slow.
            (1_000, 4, 7, 0, LedgerVerdict::Running),
            (31_000, 4, 7, 0, LedgerVerdict::PowerMissing),
            (31_000, 5, 7, 0, LedgerVerdict::Stalled),
        ];
        for (age_ms, answering, ready, since_ms, expected) in table {
            let health = health(age_ms, answering, ready);
            let summary = summary(since_ms, &health);
            let told = verdict(&health, Some(&summary), 1_000);
            assert_eq!(told, expected, "{age_ms} {answering} {ready} {since_ms}");
        }
        let mut none = health(0, 7, 7);
        (none.header, none.age_ms) = (None, None);
        assert_eq!(verdict(&none, None, 1_000), LedgerVerdict::NoBlock);
        none.shards_answering = 4;
        assert_eq!(verdict(&none, None, 1_000), LedgerVerdict::PowerMissing);
    }
}
