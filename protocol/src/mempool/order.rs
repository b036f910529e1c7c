//! The order of transactions, one for building blocks and, backwards, for eviction.
//!
//! Fees are compared per byte, since bytes are what a block and the mempool are short of: by
//! absolute fees one transaction of 32 KiB would displace a hundred that together pay far more.
//! An account's transactions have to be executed in nonce order, so one can never be taken before
//! those that it follows: what counts is the lowest rate up to it, and the latest arrival. A dear
//! transaction behind a cheap one therefore ranks as the cheap one, and cannot be used to push
//! honest transactions out of a full mempool without ever being executed.
//!
//! Invariant: within an account a later nonce comes later in this order, whatever the fees.

use std::cmp::Reverse;

use crate::ledger::{Amount, VerifiedTransaction};

/// Binary places after the point: two fractions with denominators of up to 2^15 (the longest
/// transaction) differ by at least 2^-30, so no two different rates are taken for equal.
const FRACTION_BITS: u32 = 32;

/// A fee per byte, as a fixed-point number. Exact below 2^96 FROST, which is more than can exist;
/// above, all fees count as the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FeeRate(u128);

impl FeeRate {
    pub(super) fn new(fee: Amount, bytes: usize) -> Self {
        let scaled = fee.frost().saturating_mul(1 << FRACTION_BITS);
        Self(scaled / bytes.max(1) as u128)
    }

    pub(super) fn of(transaction: &VerifiedTransaction) -> Self {
        Self::new(transaction.transaction().fee, transaction.bytes())
    }
}

/// A place in the order: ascending is block order, descending the order of eviction. Unique: two
/// accounts share no arrival, and two transactions of one account no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// The lowest rate of the account's transactions up to this one.
    pub(super) floor: Reverse<FeeRate>,
    /// The latest arrival of the account's transactions up to this one.
    arrived: u64,
    nonce: u64,
}

impl Order {
    /// The place of a transaction that follows the one at `previous` in its account.
    pub(super) fn after(previous: Option<Self>, rate: FeeRate, arrival: u64, nonce: u64) -> Self {
        let (floor, arrived) = match previous {
            Some(previous) => (previous.floor.0.min(rate), previous.arrived.max(arrival)),
            None => (rate, arrival),
        };
        Self { floor: Reverse(floor), arrived, nonce }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_up_to_the_longest_transaction() {
        let rate = |fee, bytes| FeeRate::new(Amount::from_frost(fee), bytes);
        for (less, more) in [
            ((0, 200), (1, 32_768)),
            ((1, 32_768), (1, 32_767)),
            ((32_766, 32_767), (32_767, 32_768)),
            (((1 << 95) - 1, 32_768), (1 << 95, 32_768)),
            ((1 << 95, 200), (u128::MAX, 200)),
            ((u128::MAX, 200), (u128::MAX, 199)),
        ] {
            assert!(rate(less.0, less.1) < rate(more.0, more.1), "{less:?} {more:?}");
        }
        assert_eq!(rate(200, 100), rate(400, 200));
        assert_eq!(rate(7, 0), rate(7, 1));
    }
}
