//! Execution: what operations do to the state.
//!
//! Both a proposer, who fills a block, and everybody else, who checks one, run this: commit record,
//! system operations, transactions, sweep of dead registrations, rounds of challenges, end of the
//! epoch. It is the same code, so it is the same state.
//!
//! Invariants: a transaction happens whole or not at all; amounts are computed with checks; the
//! supply is what it was at genesis, counted again after each block; what one block can cost is
//! bounded by its bytes, by [`SWEEP_MAX`], and in BLS checks by [`BLS_WORK_MAX`], what a proposer
//! refused on the way included.

mod blobs;
mod challenges;
mod commit_record;
mod epoch;
mod readiness;
mod rewards;
mod selection;
mod staking;
mod sweep;

use std::sync::Arc;

use super::{
    AccountId, Amount, BlockHash, Event, IndexEntry, IsKnown, Key, Known, MAX_OPERATIONS,
    Operation, OperationError, Parameters, Record, SystemOperation, Timestamp, TransactionId,
    VerifiedTransaction, error::Failure, overlay::Overlay,
};
use crate::{
    challenge::{BilledUnits, Universe},
    committee::Committee,
    index::{Epoch, Height},
    keys::ChainId,
};

pub use self::sweep::SWEEP_MAX;
pub(super) use self::{commit_record::RecordFailure, staking::new_node};

/// Work that one block may cause by BLS keys and signatures, where reading a signer's key is 1 and
/// takes some 40 microseconds: without a bound, a block of nothing else would take longer to
/// execute than its round lasts. Enough for any one transaction, or it could never be included.
pub(super) const BLS_WORK_MAX: usize = 20_480;
/// Work of checking one signature.
const BLS_CHECK: usize = 32;
/// Work of registering a node: two checks of a key that nobody has checked before.
const BLS_IDENTITY: usize = 80;
const _: () = assert!(BLS_WORK_MAX >= MAX_OPERATIONS * (BLS_CHECK + 256));

/// The place of an operation: it names what the operation makes.
#[derive(Clone, Copy, Debug)]
struct Origin {
    sender: AccountId,
    transaction: TransactionId,
    index: u32,
}

/// A block in execution.
pub(super) struct Executor<'a> {
    pub(super) overlay: Overlay<'a>,
    pub(super) chain: &'a ChainId,
    pub(super) parameters: &'a Parameters,
    /// The committee of the running epoch.
    pub(super) committee: &'a Arc<Committee>,
    /// Billed units of all blobs: as of the parent, and from the tick on as of this block.
    pub(super) units: BilledUnits,
    /// What the round asks for that this block opens, if it does.
    pub(super) opened: Option<Arc<Universe>>,
    /// What needs no check of its signatures any more.
    pub(super) known: &'a IsKnown<'a>,
    pub(super) height: Height,
    pub(super) time: Timestamp,
    /// Hash and time of the block before.
    pub(super) parent: (BlockHash, Timestamp),
    /// Events of the current group.
    pub(super) events: Vec<Event>,
    /// Work by BLS so far, that of refused transactions included: a proposer must not do it for
    /// free. Whoever checks a block refuses it with the first of them, so all count the same.
    pub(super) bls_work: usize,
    /// Most of it: [`BLS_WORK_MAX`], or what a proposer leaves for a part of its block.
    pub(super) bls_work_max: usize,
}

impl Executor<'_> {
    /// The running epoch.
    fn epoch(&self) -> Epoch {
        self.committee.epoch()
    }

    /// Applies a transaction, at `position` in its block, or leaves everything as it was.
    pub(super) fn transaction(
        &mut self,
        transaction: &VerifiedTransaction,
        position: u32,
    ) -> Result<Vec<Event>, Failure> {
        self.overlay.savepoint();
        match self.apply(transaction, position) {
            Ok(()) => Ok(std::mem::take(&mut self.events)),
            Err(failure) => {
                self.overlay.rollback();
                self.events.clear();
                Err(failure)
            }
        }
    }

    fn apply(&mut self, verified: &VerifiedTransaction, position: u32) -> Result<(), Failure> {
        let transaction = verified.transaction();
        let sender = transaction.sender;
        if self.time > transaction.expires {
            let (expires, time) = (transaction.expires, self.time);
            return Err(OperationError::Expired { expires, time }.into());
        }
        let mut account = self.overlay.account(&sender)?;
        if transaction.nonce != account.nonce {
            let (nonce, expected) = (transaction.nonce, account.nonce);
            return Err(OperationError::Nonce { account: sender, nonce, expected }.into());
        }
        let operations = u128::try_from(transaction.operations.len()).unwrap_or(u128::MAX);
        let min = self.parameters.ledger.fee_per_operation.checked_mul(operations);
        let min = min.ok_or(OperationError::Overflow)?;
        if transaction.fee < min {
            return Err(OperationError::Fee { fee: transaction.fee, min }.into());
        }
        account.nonce = account.nonce.checked_add(1).ok_or(OperationError::Overflow)?;
        self.overlay.put(Key::Account(sender), Record::Account(account))?;
        self.debit(&sender, transaction.fee)?;
        self.pay_epoch(self.epoch(), transaction.fee)?;
        for (index, operation) in (0_u32..).zip(&transaction.operations) {
            let origin = Origin { sender, transaction: verified.id(), index };
            self.operation(origin, operation)?;
            if let Operation::Transfer { to, .. } | Operation::TransferBlob { to, .. } = operation {
                self.overlay.add_index(IndexEntry::History(*to, self.height, position));
            }
        }
        self.overlay.add_index(IndexEntry::History(sender, self.height, position));
        Ok(())
    }

    fn operation(&mut self, origin: Origin, operation: &Operation) -> Result<(), Failure> {
        let sender = origin.sender;
        match operation {
            Operation::Transfer { to, amount } => self.transfer(sender, *to, *amount),
            Operation::RegisterNode { identity, settings } => {
                self.register_node(sender, identity, settings)
            }
            Operation::UpdateNode { node, settings } => self.update_node(sender, *node, settings),
            Operation::Unjail { node } => self.unjail(sender, *node),
            Operation::Stake { node, amount } => self.stake(sender, *node, *amount),
            Operation::Unstake { node, shares } => self.unstake(sender, *node, *shares),
            Operation::Withdraw { node } => self.withdraw(sender, *node),
            Operation::RegisterBlob { header, epochs, deletable, max_payment } => {
                self.register_blob(origin, header, (*epochs, *deletable), *max_payment)
            }
            Operation::CertifyBlob { registration, certificate } => {
                self.certify_blob(registration, certificate)
            }
            Operation::ExtendBlob { registration, end, epochs, max_payment } => {
                self.extend_blob(sender, registration, (*end, *epochs), *max_payment)
            }
            Operation::DeleteBlob { registration } => self.delete_blob(sender, registration),
            Operation::TransferBlob { registration, to } => {
                self.transfer_blob(sender, registration, *to)
            }
            Operation::SetName { name, blob, version } => {
                self.set_name(sender, name, *blob, *version)
            }
        }
    }

    /// Applies a system operation, or leaves everything as it was.
    pub(super) fn system(&mut self, operation: &SystemOperation) -> Result<Vec<Event>, Failure> {
        self.overlay.savepoint();
        let result = match operation {
            SystemOperation::ReportEquivocation { equivocation } => {
                self.report_equivocation(equivocation)
            }
            SystemOperation::NodeReady { report } => self.node_ready(report),
            SystemOperation::ShardsReady { report } => self.shards_ready(report),
            SystemOperation::InvalidateBlob { certificate } => self.invalidate_blob(certificate),
            SystemOperation::PassChallenge { certificate } => {
                let is_known = (self.known)(Known::System(operation));
                self.pass_challenge(certificate, is_known)
            }
        };
        match result {
            Ok(()) => Ok(std::mem::take(&mut self.events)),
            Err(failure) => {
                self.overlay.rollback();
                self.events.clear();
                Err(failure)
            }
        }
    }

    /// Takes a part of what this block may spend on BLS.
    fn spend_bls(&mut self, work: usize) -> Result<(), Failure> {
        let work = self.bls_work.saturating_add(work);
        if work > self.bls_work_max {
            return Err(OperationError::BlockFull.into());
        }
        self.bls_work = work;
        Ok(())
    }

    /// Takes what the check of a certificate with so many signers costs.
    fn spend_on_certificate(&mut self, signers: usize) -> Result<(), Failure> {
        self.spend_bls(BLS_CHECK.saturating_add(signers))
    }

    fn transfer(&mut self, from: AccountId, to: AccountId, amount: Amount) -> Result<(), Failure> {
        self.debit(&from, amount)?;
        self.credit(&to, amount)?;
        self.events.push(Event::Transferred { from, to, amount });
        Ok(())
    }

    fn debit(&mut self, id: &AccountId, amount: Amount) -> Result<(), Failure> {
        let mut account = self.overlay.account(id)?;
        let funds =
            OperationError::Funds { account: *id, balance: account.balance, needed: amount };
        account.balance = account.balance.checked_sub(amount).ok_or(funds)?;
        Ok(self.overlay.put(Key::Account(*id), Record::Account(account))?)
    }

    fn credit(&mut self, id: &AccountId, amount: Amount) -> Result<(), Failure> {
        let mut account = self.overlay.account(id)?;
        account.balance = account.balance.checked_add(amount).ok_or(OperationError::Overflow)?;
        Ok(self.overlay.put(Key::Account(*id), Record::Account(account))?)
    }

    /// Counts an amount as destroyed: the caller has taken it from somewhere.
    fn burn(&mut self, amount: Amount) -> Result<(), Failure> {
        let mut summary = self.overlay.summary()?;
        let sum = summary.supply.burned.checked_add(amount);
        summary.supply.burned = sum.ok_or(OperationError::Overflow)?;
        Ok(self.overlay.put(Key::Summary, Record::Summary(summary))?)
    }

    /// Puts an amount into the bucket of an epoch.
    fn pay_epoch(&mut self, epoch: Epoch, amount: Amount) -> Result<(), Failure> {
        let mut record = self.overlay.epoch(epoch)?;
        record.bucket = record.bucket.checked_add(amount).ok_or(OperationError::Overflow)?;
        Ok(self.overlay.put(Key::Epoch(epoch), Record::Epoch(record))?)
    }

    /// Counts the supply again and writes where it is.
    ///
    /// # Panics
    /// If the block made or lost WAL: no rule of the ledger can, so going on would be worse.
    pub(super) fn settle_supply(&mut self) -> Result<(), Failure> {
        let mut summary = self.overlay.summary()?;
        let burned = summary.supply.burned;
        let (before, now) = self.overlay.supply().expect("the supply fits an amount");
        let moved = summary.supply.add(&now).and_then(|sum| sum.sub(&before));
        summary.supply = moved.expect("no part of the supply is negative");
        summary.supply.burned = burned;
        let total = summary.supply.total().expect("the supply fits an amount");
        let genesis = self.parameters.supply;
        assert!(total == genesis, "block {} would change the supply: {total}", self.height);
        Ok(self.overlay.put(Key::Summary, Record::Summary(summary))?)
    }
}
