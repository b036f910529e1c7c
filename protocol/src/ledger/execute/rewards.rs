//! What members earn: the bucket of the ended epoch, by shards.
//!
//! Each shard is worth an equal part of what was paid for the epoch. A member is paid for shards
//! that were ready at half of it, for each by the part of the epoch's challenges that it has passed,
//! and not while it is jailed; what it does not earn is burned, so nobody gains by another's
//! failure. The operator takes the commission that was agreed at the selection, the pool the rest:
//! its shares grow in worth ([`Node::prospect`]). Remainders, and what a pool without
//! shares would get, wait in the next epoch's bucket.
//!
//! Who missed more than half of enough challenges loses stake before it is paid, and is jailed if
//! that has happened in several epochs in a row: from the next epoch on, so what it has earned in
//! this one is paid.
//!
//! Stake that enters with the next epoch does so after this: it has earned nothing yet.

use super::Executor;
use crate::{
    challenge::Score,
    committee::Committee,
    index::ShardIndex,
    keys::NodeId,
    ledger::{
        Amount, Event, Key, Node, OperationError, Prospect, Record, Settlement, ShardRecord,
        SlashReason, error::Failure,
    },
};

impl Executor<'_> {
    /// Leaves the shards unpaid that are not ready at the first selection of the epoch.
    pub(super) fn note_paid_shards(&mut self) -> Result<(), Failure> {
        let shards = self.overlay.shards()?;
        let mut terms = self.overlay.terms(self.epoch())?;
        for (member, terms) in self.committee.members().iter().zip(&mut terms) {
            let ready = |shard: &&ShardIndex| {
                shards.get(shard.as_usize()).is_some_and(ShardRecord::is_ready)
            };
            let ready = member.shards.iter().filter(ready).count();
            terms.paid_shards = u16::try_from(ready).unwrap_or(u16::MAX);
        }
        Ok(self.overlay.put(Key::Terms(self.epoch()), Record::Terms(terms))?)
    }

    /// Pays out the bucket of the running epoch, which ends.
    pub(super) fn pay_rewards(&mut self) -> Result<(), Failure> {
        let overflow = || OperationError::Overflow;
        let epoch = self.epoch();
        let mut record = self.overlay.epoch(epoch)?;
        let bucket = std::mem::take(&mut record.bucket);
        self.overlay.put(Key::Epoch(epoch), Record::Epoch(record))?;
        let (mut left, mut burned) = (bucket, Amount::ZERO);
        let challenges = self.challenges()?;
        let members = self.committee.members().iter().zip(self.overlay.terms(epoch)?);
        for (position, (member, terms)) in members.enumerate() {
            let score = challenges.score(position);
            let mut node = self.registered(&member.node)?;
            let slashed = self.judge_score(&member.node, &mut node, &score)?;
            let shards = (member.weight(), self.parameters.n_shards);
            let prospect = node.prospect(bucket, shards, &terms, &score);
            let Prospect { reward, commission, forfeited } = prospect.ok_or_else(overflow)?;
            // Only now: what it has earned in this epoch is paid.
            let bad_epochs_max = self.parameters.ledger.challenges.slashes_until_jail;
            if node.jailed.is_none() && node.bad_epochs >= bad_epochs_max {
                self.jail(&member.node, &mut node);
            }
            node.pool.stake = node.pool.stake.checked_add(reward).ok_or_else(overflow)?;
            burned = burned.checked_add(forfeited).ok_or_else(overflow)?;
            for paid in [forfeited, reward, commission] {
                left = left.checked_sub(paid).ok_or_else(overflow)?;
            }
            self.credit(&node.operator.clone(), commission)?;
            let is_due = member.weight() > 0 && !bucket.is_zero();
            if is_due || score != Score::default() {
                let settled = Settlement { epoch, reward, commission, forfeited, score, slashed };
                node.settled = Some(settled);
            }
            if is_due {
                let node = member.node;
                self.events.push(Event::RewardPaid { node, epoch, reward, commission, score });
            }
            self.enter(&member.node, &mut node, epoch.plus(1))?;
            self.put_node(member.node, node)?;
        }
        self.burn(burned)?;
        self.pay_epoch(epoch.plus(1), left)
    }

    /// Slashes the node if its score calls for it, and counts how often that has happened in a row;
    /// what was burned. An epoch in which too few rounds counted says nothing.
    fn judge_score(
        &mut self,
        id: &NodeId,
        node: &mut Node,
        score: &Score,
    ) -> Result<Amount, Failure> {
        let rules = self.parameters.ledger.challenges;
        if !score.is_slashed(&rules) {
            if score.is_judged(&rules) {
                node.bad_epochs = 0;
            }
            return Ok(Amount::ZERO);
        }
        node.bad_epochs = node.bad_epochs.saturating_add(1);
        self.slash(id, node, rules.slash_bps, SlashReason::Challenges)
    }

    /// Who enters the committee with `next` begins anew: bad epochs before count no more, since
    /// those between were not its own.
    pub(super) fn forget_bad_epochs(&mut self, next: &Committee) -> Result<(), Failure> {
        let committee = self.committee;
        for member in next.members().iter().filter(|m| committee.member(&m.node).is_none()) {
            let mut node = self.registered(&member.node)?;
            if std::mem::take(&mut node.bad_epochs) > 0 {
                self.put_node(member.node, node)?;
            }
        }
        Ok(())
    }
}
