//! What members earn: the bucket of the ended epoch, by shards.
//!
//! Each shard is worth an equal part of what was paid for the epoch. A member is paid for shards
//! that were ready at half of it, and not while it is jailed; what it does not earn is burned, so
//! nobody gains by another's failure. The operator takes the commission that was agreed at the
//! selection, the pool the rest: its shares grow in worth. Remainders, and what a pool without
//! shares would get, wait in the next epoch's bucket.
//!
//! Stake that enters with the next epoch does so after this: it has earned nothing yet.

use super::Executor;
use crate::{
    index::ShardIndex,
    ledger::{
        Amount, COMMISSION_BPS_MAX, Event, Key, Node, OperationError, Record, Settlement, Terms,
        error::Failure,
    },
};

impl Executor<'_> {
    /// Leaves the shards unpaid that are not ready at the first selection of the epoch.
    pub(super) fn note_paid_shards(&mut self) -> Result<(), Failure> {
        let shards = self.overlay.shards()?;
        let mut terms = self.overlay.terms(self.epoch())?;
        for (member, terms) in self.committee.members().iter().zip(&mut terms) {
            let ready = |shard: &&ShardIndex| {
                shards.get(shard.as_usize()).is_some_and(|record| record.ready)
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
        for (member, terms) in self.committee.members().iter().zip(self.overlay.terms(epoch)?) {
            let mut node = self.registered(&member.node)?;
            let due = self.part(bucket, member.weight())?;
            let earned = self.earned(bucket, &node, &terms)?;
            let (reward, commission) = split(earned, &mut node, &terms)?;
            let lost = due.checked_sub(earned).ok_or_else(overflow)?;
            burned = burned.checked_add(lost).ok_or_else(overflow)?;
            for paid in [lost, reward, commission] {
                left = left.checked_sub(paid).ok_or_else(overflow)?;
            }
            self.credit(&node.operator.clone(), commission)?;
            if !due.is_zero() {
                node.settled = Some(Settlement { epoch, reward, commission, forfeited: lost });
                let node = member.node;
                self.events.push(Event::RewardPaid { node, epoch, reward, commission });
            }
            self.enter(&member.node, &mut node, epoch.plus(1))?;
            self.put_node(member.node, node)?;
        }
        self.burn(burned)?;
        self.pay_epoch(epoch.plus(1), left)
    }

    /// What a member has earned of `bucket`.
    fn earned(&self, bucket: Amount, node: &Node, terms: &Terms) -> Result<Amount, Failure> {
        if node.jailed.is_some() {
            return Ok(Amount::ZERO);
        }
        self.part(bucket, terms.paid_shards)
    }

    /// The part of `shards` in `bucket`.
    fn part(&self, bucket: Amount, shards: u16) -> Result<Amount, Failure> {
        let part = bucket.part(shards.into(), self.parameters.n_shards.into());
        Ok(part.ok_or(OperationError::Overflow)?)
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
