//! What a store costs: summed over files, shown before it is paid, refused where it is too much.
//!
//! Invariant: a file that comes twice is charged once, as the client does it.

use std::{collections::BTreeSet, fmt};

use floe_protocol::{
    blob::BlobId,
    ledger::{AccountId, Amount},
    transfer::StorePlan,
};
use serde::Serialize;

use crate::{
    cli::{
        exit::{Exit, Failure},
        expiry::{Calendar, Until, about},
        size::human_bytes,
    },
    client::{LedgerError, PreparedStore},
};

/// What one file costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) price: Amount,
    pub(super) fee: Amount,
}

impl Cost {
    /// What a plan takes: the price, a fee for paying and one for certifying.
    fn of(plan: &StorePlan, price: Amount, fee: Amount) -> Option<Self> {
        let operations = u128::try_from(plan.operations()).ok()?;
        Some(Self { price, fee: fee.checked_mul(operations)? })
    }
}

/// What several files cost.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Bill {
    files: usize,
    size_bytes: u64,
    /// Files for which nothing is to be done.
    stored_before: usize,
    price_frost: Amount,
    fee_frost: Amount,
    #[serde(skip)]
    seen: BTreeSet<BlobId>,
}

impl Bill {
    /// Adds a file, given the fee of one operation. What it costs.
    pub(super) fn add(&mut self, prepared: &PreparedStore, fee: Amount) -> Result<Cost, Failure> {
        let (blob, len) = (prepared.blob(), prepared.header().len);
        let cost = Cost::of(prepared.plan(), prepared.price(), fee);
        Ok(cost.and_then(|cost| self.add_cost(blob, len, cost)).ok_or(LedgerError::Overflow)?)
    }

    fn add_cost(&mut self, blob: BlobId, len: u64, cost: Cost) -> Option<Cost> {
        let cost = if self.seen.insert(blob) { cost } else { Cost::default() };
        self.files += 1;
        self.size_bytes = self.size_bytes.saturating_add(len);
        self.stored_before += usize::from(cost == Cost::default());
        self.price_frost = self.price_frost.checked_add(cost.price)?;
        self.fee_frost = self.fee_frost.checked_add(cost.fee)?;
        Some(cost)
    }

    pub(super) const fn has_files(&self) -> bool {
        self.files > 0
    }

    /// Price and fees.
    pub(super) fn total(&self) -> Result<Amount, Failure> {
        let total = self.price_frost.checked_add(self.fee_frost);
        Ok(total.ok_or(LedgerError::Overflow)?)
    }

    /// What will have been paid in all, if the user lets it.
    pub(super) fn check(&self, spent: Amount, max: Option<Amount>) -> Result<Amount, Failure> {
        let total = spent.checked_add(self.total()?).ok_or(LedgerError::Overflow)?;
        match max {
            Some(max) if total > max => {
                let message = format!("it would cost {total} in all, --max-payment is {max}");
                Err(Failure::new(Exit::Refused, "max_payment", message)
                    .hint("allow more, or store for fewer epochs with --epochs"))
            }
            _ => Ok(total),
        }
    }
}

/// A bill as the user sees it before paying.
#[derive(Debug, Serialize)]
pub(super) struct Quote<'a> {
    #[serde(flatten)]
    bill: &'a Bill,
    epochs: u32,
    /// Where epochs from now on end.
    #[serde(flatten)]
    until: Option<Until>,
    /// Who pays; null without a wallet.
    account: Option<AccountId>,
    balance_frost: Option<Amount>,
}

impl<'a> Quote<'a> {
    pub(super) fn new(
        bill: &'a Bill,
        epochs: u32,
        account: Option<(AccountId, Amount)>,
        calendar: Option<&Calendar>,
    ) -> Self {
        let end = calendar.map(|calendar| calendar.epoch().plus(epochs.into()));
        Self {
            bill,
            epochs,
            until: end.map(|end| Until::new(end, calendar)),
            account: account.map(|(account, _)| account),
            balance_frost: account.map(|(_, balance)| balance),
        }
    }
}

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bill { files, size_bytes, stored_before, price_frost, fee_frost, .. } = self.bill;
        let word = if *files == 1 { "file" } else { "files" };
        write!(f, "{files} {word}, {}: ", human_bytes(*size_bytes))?;
        if stored_before == files {
            return write!(f, "stored before, nothing to pay");
        }
        write!(f, "{price_frost} for {} epochs", self.epochs)?;
        if let Some(ms) = self.until.and_then(|until| until.expires_ms) {
            write!(f, " (until about {})", about(ms))?;
        }
        write!(f, ", fee {fee_frost}")?;
        if *stored_before > 0 {
            write!(f, ", {stored_before} of them stored before")?;
        }
        match (&self.account, &self.balance_frost) {
            (Some(account), Some(balance)) => write!(f, "; account {account} has {balance}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{index::Epoch, registration::RegistrationId};

    use super::*;

    fn frost(frost: u128) -> Amount {
        Amount::from_frost(frost)
    }

    #[test]
    fn each_plan_has_its_fees_and_a_file_that_comes_twice_is_free() {
        let end = Epoch::new(9);
        let registration = RegistrationId::new([0; 32]);
        let plans = [
            (StorePlan::Stored { registration: None, end }, 0),
            (StorePlan::Resume { registration, end }, 10),
            (StorePlan::Extend { registration, epochs: 2, end }, 10),
            (StorePlan::Register { end }, 20),
        ];
        for (plan, fee) in plans {
            assert_eq!(Cost::of(&plan, frost(5), frost(10)).unwrap().fee, frost(fee), "{plan:?}");
        }
        let ids = ["A", "B"].map(|first| format!("{first}{}", "A".repeat(42)).parse().unwrap());
        let mut bill = Bill::default();
        let cost = Cost { price: frost(70), fee: frost(20) };
        assert_eq!(bill.add_cost(ids[0], 1_000, cost), Some(cost));
        assert_eq!(bill.add_cost(ids[0], 1_000, cost), Some(Cost::default()));
        assert_eq!(bill.add_cost(ids[1], 48, cost), Some(cost));
        assert_eq!(bill.total().unwrap(), frost(180));
        let text = Quote::new(&bill, 3, None, None).to_string();
        let expected = "3 files, 2 KiB: 0.00000014 WAL for 3 epochs, fee 0.00000004 WAL, 1 of \
                        them stored before";
        assert_eq!(text, expected);
        assert!(bill.check(Amount::ZERO, Some(frost(180))).is_ok());
        assert_eq!(bill.check(frost(1), Some(frost(180))).unwrap_err().code(), "max_payment");
        assert_eq!(bill.check(frost(1), None).unwrap(), frost(181));
    }
}
