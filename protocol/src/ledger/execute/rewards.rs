//! What members earn: the bucket of the ended epoch, by shards.
//!
//! Each shard is worth an equal part of what was paid for the epoch. A member is paid for shards
//! that were ready at half of it, for each by the part of the epoch's challenges that it has passed,
//! and not while it is jailed; what it does not earn is burned, so nobody gains by another's
//! failure. The operator takes the commission that was agreed at the
//! selection, the pool the rest: its shares grow in worth. Remainders, and what a pool without
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
    index::ShardIndex,
    keys::NodeId,
    ledger::{
        Amount, COMMISSION_BPS_MAX, Event, Key, Node, OperationError, Record, Settlement,
        ShardRecord, SlashReason, Terms, error::Failure,
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
            let due = self.part(bucket, member.weight(), (1, 1))?;
            let earned = self.earned(bucket, &node, &terms, &score)?;
            let slashed = self.judge_score(&member.node, &mut node, &score)?;
            let (reward, commission) = split(earned, &mut node, &terms)?;
            let lost = due.checked_sub(earned).ok_or_else(overflow)?;
            burned = burned.checked_add(lost).ok_or_else(overflow)?;
            for paid in [lost, reward, commission] {
                left = left.checked_sub(paid).ok_or_else(overflow)?;
            }
            self.credit(&node.operator.clone(), commission)?;
            if !due.is_zero() || score != Score::default() {
                let forfeited = lost;
                let settled = Settlement { epoch, reward, commission, forfeited, score, slashed };
                node.settled = Some(settled);
            }
            if !due.is_zero() {
                let node = member.node;
                self.events.push(Event::RewardPaid { node, epoch, reward, commission, score });
            }
            self.enter(&member.node, &mut node, epoch.plus(1))?;
            self.put_node(member.node, node)?;
        }
        self.burn(burned)?;
        self.pay_epoch(epoch.plus(1), left)
    }

    /// What a member has earned of `bucket`.
    fn earned(
        &self,
        bucket: Amount,
        node: &Node,
        terms: &Terms,
        score: &Score,
    ) -> Result<Amount, Failure> {
        if node.jailed.is_some() {
            return Ok(Amount::ZERO);
        }
        self.part(bucket, terms.paid_shards, score.pay())
    }

    /// The part of `shards` in `bucket`, and of that what `of` out of `all` rounds are worth.
    fn part(&self, bucket: Amount, shards: u16, (of, all): (u64, u64)) -> Result<Amount, Failure> {
        let of = u128::from(shards).checked_mul(of.into());
        let all = u128::from(self.parameters.n_shards).checked_mul(all.into());
        let part = of.zip(all).and_then(|(of, all)| bucket.part(of, all));
        Ok(part.ok_or(OperationError::Overflow)?)
    }

    /// Slashes the node if its score calls for it, and jails it if that has happened too often in a
    /// row; what was burned. An epoch in which too few rounds counted says nothing.
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
        let burned = self.slash(id, node, rules.slash_bps, SlashReason::Challenges)?;
        if node.bad_epochs >= rules.slashes_until_jail {
            self.jail(id, node);
        }
        Ok(burned)
    }
}

/// Shares what was earned between pool and operator: what each got. A pool of which nobody owns
/// anything gets nothing.
fn split(earned: Amount, node: &mut Node, terms: &Terms) -> Result<(Amount, Amount), Failure> {
    let overflow = || OperationError::Overflow;
    let commission = earned.part(terms.commission_bps.into(), COMMISSION_BPS_MAX.into());
    let commission = commission.ok_or_else(overflow)?;
    let reward = earned.checked_sub(commission).ok_or_else(overflow)?;
    if node.pool.shares == 0 || node.closed {
        return Ok((Amount::ZERO, commission));
    }
    node.pool.stake = node.pool.stake.checked_add(reward).ok_or_else(overflow)?;
    Ok((reward, commission))
}
