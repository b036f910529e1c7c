//! Paying for a batch: one transaction for all blobs, planned anew when the ledger has gone on.

use std::sync::Arc;

use floe_protocol::{
    ledger::{AccountId, Amount},
    message::{RefusedOperation, SubmitError},
    transfer::StorePlan,
};

use super::{Batch, Item};
use crate::client::{LedgerError, StoreError, upload::StorePhase};

/// How often what is to be paid is planned, because the ledger has gone on meanwhile.
const PLANS_MAX: u32 = 4;

/// Whether the ledger refuses because something else was done first.
const fn is_stale(error: &LedgerError) -> bool {
    matches!(
        error,
        LedgerError::Refused {
            refusal: SubmitError::Refused(
                RefusedOperation::AlreadyRegistered | RefusedOperation::OtherEnd
            ),
            ..
        }
    )
}

impl Batch<'_> {
    /// Registers and extends, in one transaction if the ledger lets it.
    ///
    /// It refuses what was decided on a state that is no more: the same store may have been paid
    /// for meanwhile, by a run that was interrupted or by another one beside this. Then everything
    /// is planned anew. What can't be had at all is told apart by paying one by one.
    pub(super) async fn pay(&mut self) {
        self.phase(StorePhase::Paying);
        for _ in 0..PLANS_MAX {
            let due: Vec<usize> = self.due().collect();
            match self.pay_for(&due).await {
                Ok(()) => return,
                Err(error @ LedgerError::Refused { .. }) => {
                    let stale = is_stale(&error);
                    if !self.plan_again(&due).await && !stale {
                        return self.pay_one_by_one(&due, error).await;
                    }
                }
                Err(error) => return self.fail(&due, error),
            }
        }
        let due: Vec<usize> = self.due().collect();
        self.fail(&due, LedgerError::Stale { attempts: PLANS_MAX });
    }

    async fn pay_one_by_one(&mut self, due: &[usize], error: LedgerError) {
        if let [_] = due {
            return self.fail(due, error);
        }
        for at in due {
            if let Err(error) = self.pay_for(&[*at]).await {
                self.fail(&[*at], error);
            }
        }
    }

    fn fail(&mut self, items: &[usize], error: LedgerError) {
        let error = Arc::new(error);
        for at in items {
            self.items[*at].error = Some(StoreError::Ledger(Arc::clone(&error)));
        }
    }

    /// Items that are to be paid for.
    fn due(&self) -> impl Iterator<Item = usize> + '_ {
        let due = |item: &Item| {
            item.same_as.is_none()
                && item.error.is_none()
                && item.payment.is_none()
                && item.prepared.operation().is_some()
        };
        (0..self.items.len()).filter(move |at| due(&self.items[*at]))
    }

    async fn pay_for(&mut self, due: &[usize]) -> Result<(), LedgerError> {
        if due.is_empty() {
            return Ok(());
        }
        self.check_funds(due).await?;
        let operations = due.iter().filter_map(|at| self.items[*at].prepared.operation());
        let receipt = self.client.ledger.submit(operations.collect(), self.wallet).await?;
        let epoch = receipt.header.header().epoch;
        for (index, at) in (0_u32..).zip(due) {
            let item = &mut self.items[*at];
            item.paid = item.prepared.price;
            item.payment = Some(receipt.id);
            if let StorePlan::Register { .. } = item.prepared.plan {
                item.registration = Some(receipt.id.registration(self.client.chain(), index));
                item.end = epoch.plus(item.prepared.wanted.epochs.into());
            }
        }
        Ok(())
    }

    /// Whoever pays for slivers must be able to pay for the certificates as well.
    async fn check_funds(&self, due: &[usize]) -> Result<(), LedgerError> {
        let prices = due.iter().map(|at| self.items[*at].prepared.price);
        let price = prices.into_iter().try_fold(Amount::ZERO, Amount::checked_add);
        let fees = self.client.ledger.fee(due.len() + self.pending().count());
        let needed = price.and_then(|price| price.checked_add(fees?));
        let needed = needed.ok_or(LedgerError::Overflow)?;
        let account = AccountId::new(self.wallet.public());
        let balance = self.client.ledger.balance(account).await?.value;
        if balance < needed {
            return Err(LedgerError::Funds { account, balance, needed });
        }
        Ok(())
    }

    /// Plans items anew by a later header than before; whether any plan is another one now.
    async fn plan_again(&mut self, due: &[usize]) -> bool {
        let owner = AccountId::new(self.wallet.public());
        self.client.ledger.next_header().await;
        let mut changed = false;
        for at in due {
            let (header, wanted) = {
                let prepared = &self.items[*at].prepared;
                (*prepared.header(), prepared.wanted)
            };
            let planned = self.client.plan_store(&header, wanted, owner).await;
            let item = &mut self.items[*at];
            match planned {
                Ok((plan, _)) if plan == item.prepared.plan => {}
                Ok((_, price)) if price > item.prepared.price => {
                    let shown = item.prepared.price;
                    item.error = Some(StoreError::PriceRose { shown, price });
                    changed = true;
                }
                Ok((plan, price)) => {
                    (item.prepared.plan, item.prepared.price) = (plan, price);
                    (item.registration, item.end) = (plan.registration(), plan.end());
                    changed = true;
                }
                Err(error) => {
                    item.error = Some(error);
                    changed = true;
                }
            }
        }
        changed
    }
}
