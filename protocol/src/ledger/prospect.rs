//! What an epoch brings a member: as it is paid at the end (`execute/rewards.rs`), and for people
//! who look while it runs, as it would be if it ended now.
//!
//! Read from the records alone. What is still to come, more rounds and more payments, is not
//! guessed. A pool of which nobody owns anything gets nothing: that waits in the next bucket.

use super::{Amount, COMMISSION_BPS_MAX, Node, Terms};
use crate::challenge::Score;

/// What a member would get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prospect {
    /// What its pool would get.
    pub reward: Amount,
    /// What its operator's account would get.
    pub commission: Amount,
    /// What its shards are worth but it would not earn.
    pub forfeited: Amount,
}

impl Node {
    /// What a member with `weight` of `n_shards` shards would get of `bucket`. None if that is more
    /// than there can be.
    #[must_use]
    pub fn prospect(
        &self,
        bucket: Amount,
        (weight, n_shards): (u16, u16),
        terms: &Terms,
        score: &Score,
    ) -> Option<Prospect> {
        let part = |shards: u16, (of, all): (u64, u64)| {
            let of = u128::from(shards).checked_mul(of.into())?;
            bucket.part(of, u128::from(n_shards).checked_mul(all.into())?)
        };
        let due = part(weight, (1, 1))?;
        let earned = match self.jailed {
            Some(_) => Amount::ZERO,
            None => part(terms.paid_shards, score.pay())?,
        };
        let commission = earned.part(terms.commission_bps.into(), COMMISSION_BPS_MAX.into())?;
        let reward = earned.checked_sub(commission)?;
        let has_owners = self.pool.shares > 0 && !self.closed;
        let reward = if has_owners { reward } else { Amount::ZERO };
        Some(Prospect { reward, commission, forfeited: due.checked_sub(earned)? })
    }
}
