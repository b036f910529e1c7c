//! Pools of stake, and what a stake in one is worth.
//!
//! A pool is shared by shares. Minting and redeeming round down, in the pool's favour, and every
//! pool counts 10^6 shares and 1 FROST that nobody owns, so that nobody can make a share so dear
//! that the next staker's amount rounds to nothing.
//!
//! Stake enters a pool with an epoch, after the rewards of the epoch before have been paid: all
//! that is to enter a node's pool with one epoch at once, at one [`Rate`]. From the rate each staker
//! takes its shares when it next comes; until then they count in the pool and are nobody else's.
//! So the start of an epoch writes no record of a staker.
//!
//! Invariants: no order of steps pays out more than came in; every share of a pool is in one
//! [`Stake`] or in one [`Rate`].

use ethnum::U256;

use super::{Amount, COMMISSION_BPS_MAX, Incoming, Node, Pool, Rate, Stake};
use crate::index::Epoch;

/// Shares of every pool that nobody owns.
const VIRTUAL_SHARES: u128 = 1_000_000;
/// FROST of every pool that nobody owns.
const VIRTUAL_STAKE: u128 = 1;

impl Pool {
    /// Puts `amount` in; the shares that it is worth. Without them nothing has changed.
    pub(super) fn mint(&mut self, amount: Amount) -> Option<u128> {
        let shares = mul_div(
            amount.frost(),
            self.shares.checked_add(VIRTUAL_SHARES)?,
            self.stake.frost().checked_add(VIRTUAL_STAKE)?,
        )?;
        let stake = self.stake.checked_add(amount)?;
        *self = Self { stake, shares: self.shares.checked_add(shares)? };
        Some(shares)
    }

    /// Takes `shares` out; what they are worth.
    pub(super) fn redeem(&mut self, shares: u128) -> Option<Amount> {
        let worth = self.worth(shares)?;
        self.stake = self.stake.checked_sub(worth)?;
        self.shares = self.shares.checked_sub(shares)?;
        Some(worth)
    }

    /// What `shares` are worth now.
    #[must_use]
    pub fn worth(&self, shares: u128) -> Option<Amount> {
        let stake = self.stake.frost().checked_add(VIRTUAL_STAKE)?;
        let worth = mul_div(shares, stake, self.shares.checked_add(VIRTUAL_SHARES)?)?;
        Some(Amount::from_frost(worth))
    }

    /// Takes a part, in ten-thousandths, away from all shares; how much that is.
    pub(super) fn slash(&mut self, bps: u16) -> Option<Amount> {
        let lost = self.stake.part(bps.into(), COMMISSION_BPS_MAX.into())?;
        self.stake = self.stake.checked_sub(lost)?;
        Some(lost)
    }
}

impl Amount {
    /// `of` parts of this in `all`, rounded down.
    pub(super) fn part(self, of: u128, all: u128) -> Option<Self> {
        mul_div(self.frost(), of, all).map(Self::from_frost)
    }
}

/// `a * b / c`, rounded down, through 256 bits.
fn mul_div(a: u128, b: u128, c: u128) -> Option<u128> {
    let product = U256::from(a).checked_mul(U256::from(b))?;
    product.checked_div(U256::from(c))?.try_into().ok()
}

impl Rate {
    /// Takes out the shares of `amount`. The last one takes all that are left, so none is lost.
    pub(super) fn take(&mut self, amount: Amount) -> Option<u128> {
        let rest = self.amount.checked_sub(amount)?;
        let shares = mul_div(self.shares, amount.frost(), self.amount.frost())?;
        *self = Self { amount: rest, shares: self.shares.checked_sub(shares)? };
        Some(shares)
    }
}

/// Adds an amount to what comes in with `epoch`. Entries are by ascending epoch, and no later one
/// is there yet.
pub(super) fn add_incoming(list: &mut Vec<Incoming>, epoch: Epoch, amount: Amount) -> Option<()> {
    match list.last_mut().filter(|last| last.epoch == epoch) {
        Some(last) => last.amount = last.amount.checked_add(amount)?,
        None => list.push(Incoming { epoch, amount }),
    }
    Some(())
}

impl Node {
    /// Its stake as a selection for `epoch` counts it.
    #[must_use]
    pub fn stake_in(&self, epoch: Epoch) -> Amount {
        let due = self.incoming.iter().filter(|incoming| incoming.epoch <= epoch && !self.closed);
        let sum =
            due.map(|incoming| incoming.amount).try_fold(self.pool.stake, Amount::checked_add);
        // All stakes together are within the supply.
        sum.unwrap_or(self.pool.stake)
    }

    /// Its pool in `epoch`, with what has entered by then.
    #[must_use]
    pub fn pool_in(&self, epoch: Epoch) -> Pool {
        let mut node = self.clone();
        node.enter(epoch);
        node.pool
    }

    /// Lets the stake enter that is in the pool from `epoch` on, or from an earlier one; the rates.
    /// It never enters a closed pool, and a pool in which so many shares cannot be counted is
    /// closed: who staked it takes it back.
    pub(super) fn enter(&mut self, epoch: Epoch) -> Vec<(Epoch, Rate)> {
        let mut rates = Vec::new();
        while let Some(first) = self.incoming.first().filter(|first| first.epoch <= epoch).copied()
            && !self.closed
        {
            match self.pool.mint(first.amount) {
                Some(shares) => rates.push((first.epoch, Rate { amount: first.amount, shares })),
                None => self.closed = true,
            }
            if !self.closed {
                self.incoming.remove(0);
            }
        }
        rates
    }
}

/// What an account's stake with a node is, as of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StakeWorth {
    /// Shares in the pool: what can be unstaked.
    pub shares: u128,
    /// What they are worth.
    pub active: Amount,
    /// What enters the pool later, and with which epoch.
    pub incoming: Vec<Incoming>,
    /// What never enters, because the pool was closed: withdrawing gives it back.
    pub returned: Amount,
    /// What is on its way out, as it is worth now, and from which epoch on it can be withdrawn.
    pub unbonding: Vec<(Amount, Epoch)>,
}

impl Stake {
    /// What the stake is worth in `epoch`. `node` is the one that it is with, `rate` knows the
    /// node's rate of an epoch if there is one: a wallet asks for those of [`Stake::incoming`].
    /// None if these do not belong together.
    #[must_use]
    pub fn worth(
        &self,
        node: &Node,
        epoch: Epoch,
        rate: &dyn Fn(Epoch) -> Option<Rate>,
    ) -> Option<StakeWorth> {
        let mut node = node.clone();
        let entered = node.enter(epoch);
        let known = |epoch| {
            let own = entered.iter().find(|(entered, _)| *entered == epoch).map(|(_, rate)| *rate);
            own.or_else(|| rate(epoch))
        };
        let mut worth = StakeWorth { shares: self.shares, ..StakeWorth::default() };
        for incoming in &self.incoming {
            match known(incoming.epoch) {
                Some(mut rate) => {
                    worth.shares = worth.shares.checked_add(rate.take(incoming.amount)?)?;
                }
                None if node.closed => {
                    worth.returned = worth.returned.checked_add(incoming.amount)?;
                }
                None => worth.incoming.push(*incoming),
            }
        }
        worth.active = node.pool.worth(worth.shares)?;
        for unbonding in &self.unbonding {
            worth.unbonding.push((node.unbonding.worth(unbonding.shares)?, unbonding.until));
        }
        Some(worth)
    }
}
