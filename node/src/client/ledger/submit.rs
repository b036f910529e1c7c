//! Transactions: signed once, handed to one node after the other until a receipt is proven.
//!
//! The signed bytes are the same whoever gets them, so that handing them over twice pays once. A
//! transaction is signed anew only when its first form can never be committed, by proof: its nonce
//! was used by another transaction, or a header later than its expiry shows its nonce unused.
//!
//! A node that takes a transaction and says nothing more costs a few seconds, then another one gets
//! it too. A refusal counts when members that weigh more than all faulty ones together say so.

use std::time::Duration;

use floe_protocol::{
    index::Height,
    keys::{KeyPair, NodeId},
    ledger::{
        Account, AccountId, Amount, Key, Operation, Record, SignedTransaction, Timestamp,
        Transaction, TransactionId,
    },
    light::VerifiedHeader,
    message::{LedgerRequest, LedgerResponse, SubmitError},
};
use tokio::time::Instant;

use super::{
    LedgerClient, LedgerError, NodeFault, Purpose,
    asker::{Faults, Unanswered},
};
use crate::service::ledger::wall_clock;

/// For how long a transaction can be included, in ledger time.
const LIFETIME_MS: u64 = 60_000;
/// What is drawn in addition, at most.
const JITTER_MS: u64 = 1 << 14;
/// How long a node may wait with its answer for a transaction to be committed.
const WAIT_MS: u32 = 20_000;
/// After so long without a receipt another node gets the transaction too.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long what became of a transaction is looked for.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// How long to wait before the nodes are asked once more.
const AGAIN: Duration = Duration::from_millis(250);
/// How often a transaction is signed anew because others came first.
const ATTEMPTS_MAX: u32 = 16;
/// Latest transactions of the account among which the one that used a nonce is looked for.
const HISTORY_MAX: usize = 64;

/// Proof that a transaction was committed.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The transaction.
    pub id: TransactionId,
    /// The header of its block.
    pub header: VerifiedHeader,
    /// What it paid for itself.
    pub fee: Amount,
}

impl Receipt {
    /// The height of its block.
    #[must_use]
    pub fn height(&self) -> Height {
        self.header.header().height
    }

    /// The time of its block.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.header.header().time
    }
}

/// What can be proven of a transaction.
enum Fate {
    Included(VerifiedHeader),
    /// Another one used its nonce.
    Displaced,
    /// It came too late and was not included.
    Expired,
    /// It may still be included.
    Open,
}

/// A signed transaction on its way.
struct Sent {
    id: TransactionId,
    signed: SignedTransaction,
    bytes: Vec<u8>,
    /// A height at which its nonce had not been used.
    since: Height,
}

impl LedgerClient {
    /// The least fee of a transaction with so many operations.
    #[must_use]
    pub fn fee(&self, operations: usize) -> Option<Amount> {
        let operations = u128::try_from(operations).ok()?;
        self.parameters.fee_per_operation.checked_mul(operations)
    }

    /// Has operations done, all or none, paid for and signed by `key`, and waits for the proof.
    ///
    /// If the future is dropped, the transaction may be committed all the same.
    ///
    /// # Errors
    /// [`LedgerError`]: nothing was done, but with [`LedgerError::Unsettled`], which does not know.
    pub async fn submit(
        &self,
        operations: Vec<Operation>,
        key: &KeyPair,
    ) -> Result<Receipt, LedgerError> {
        let sender = AccountId::new(key.public());
        let fee = self.fee(operations.len()).ok_or(LedgerError::Overflow)?;
        let needed = needed(&operations, fee).ok_or(LedgerError::Overflow)?;
        for _ in 0..ATTEMPTS_MAX {
            let proven = self.account(sender).await?;
            let account = proven.value.unwrap_or_default();
            if account.balance < needed {
                let balance = account.balance;
                return Err(LedgerError::Funds { account: sender, balance, needed });
            }
            let mut reserved = self.asker.keeper().reserve(sender, account.nonce).await?;
            let now = proven.time().map_or_else(wall_clock, |time| time.max(wall_clock()));
            let transaction = Transaction {
                sender,
                nonce: reserved.nonce,
                fee,
                expires: now.plus_ms(LIFETIME_MS).plus_ms(jitter_ms()?),
                operations: operations.clone(),
            };
            let signed = transaction.sign(&self.chain, key);
            let (id, bytes) = (signed.id(&self.chain), signed.to_bytes());
            let sent = Sent { id, signed, bytes, since: proven.height() };
            match self.see_through(&sent).await? {
                Fate::Included(header) => {
                    reserved.committed();
                    return Ok(Receipt { id, header, fee });
                }
                Fate::Expired => return Err(LedgerError::Expired(id)),
                Fate::Displaced | Fate::Open => {}
            }
        }
        Err(LedgerError::Displaced { account: sender, attempts: ATTEMPTS_MAX })
    }

    /// Hands a transaction over until it is known what became of it.
    async fn see_through(&self, sent: &Sent) -> Result<Fate, LedgerError> {
        let end = Instant::now() + SETTLE_MAX;
        loop {
            let committee = self.committee();
            let refused = |faults: &Faults| faults.weight(&committee, |f| self.is_refusal(sent, f));
            let stop = |faults: &Faults| {
                committee.is_validity(refused(faults))
                    || faults.of.iter().any(|(_, fault)| is_about_nonce(sent, fault))
            };
            let hand_over = |node| self.hand_over(node, sent);
            let faults = match self.asker.in_turn((PATIENCE, end), hand_over, stop).await {
                Ok(header) => return Ok(Fate::Included(header)),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Nobody(faults)) => faults,
            };
            let settled = self.settle(sent).await;
            match settled {
                Ok(Fate::Open) => {}
                Ok(fate) => return Ok(fate),
                Err(error) if Instant::now() >= end => return Err(error),
                // As with a node that is silent, others may know more in a moment.
                Err(error) => tracing::debug!(%error, "a transaction's fate is not known yet"),
            }
            if committee.is_validity(refused(&faults)) {
                let refusals = faults.of.iter().filter(|(_, fault)| self.is_refusal(sent, fault));
                let refusals = refusals.filter_map(|(_, fault)| match fault {
                    NodeFault::Refused(refusal) => Some(*refusal),
                    _ => None,
                });
                let refusals: Vec<_> = refusals.collect();
                if let Some(refusal) = refusals.first().copied() {
                    return Err(LedgerError::Refused { refusal, nodes: refusals.len() });
                }
            }
            // So many are silent that no block can be agreed: there is nothing to wait for.
            let silent = faults.weight(&committee, |fault| !fault.answered());
            let stands_still = !committee.is_quorum(committee.n_shards().saturating_sub(silent));
            if stands_still || Instant::now() + AGAIN >= end {
                let nodes = committee.members().len();
                let (answered, faults) = (faults.answered(), faults.described());
                return Err(LedgerError::Unsettled { id: sent.id, answered, nodes, faults });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Gives a transaction to one node and waits there for the proof that it was committed.
    async fn hand_over(&self, node: NodeId, sent: &Sent) -> Result<VerifiedHeader, NodeFault> {
        let request = LedgerRequest::Submit { transactions: vec![sent.bytes.clone()] };
        let answer = self.asker.ask(node, request).await?;
        let LedgerResponse::Submitted { results } = answer else {
            return Err(NodeFault::WrongAnswer);
        };
        match results.as_slice() {
            [Ok(id)] if *id == sent.id => {}
            [Err(SubmitError::Known)] => {}
            [Err(refusal)] => return Err(NodeFault::Refused(*refusal)),
            _ => return Err(NodeFault::WrongAnswer),
        }
        let found = self.included(node, sent.id, WAIT_MS).await?;
        found.map(|(header, _)| header).ok_or(NodeFault::Behind)
    }

    /// Asks one node for the proof that a transaction was committed.
    async fn included(
        &self,
        node: NodeId,
        id: TransactionId,
        wait_ms: u32,
    ) -> Result<Option<(VerifiedHeader, SignedTransaction)>, NodeFault> {
        let request = LedgerRequest::Transaction { id, wait_ms };
        let LedgerResponse::Transaction(told) = self.asker.ask(node, request).await? else {
            return Err(NodeFault::WrongAnswer);
        };
        let Some(inclusion) = told else { return Ok(None) };
        // Its header may be of an epoch that has not been followed yet.
        self.asker.accept(node, inclusion.certified.clone()).await?;
        match self.asker.keeper().inclusion(inclusion, id).await {
            Ok(Ok(included)) => Ok(Some(included)),
            Ok(Err(error)) => Err(self.asker.caught(node, error)),
            Err(_) => Err(NodeFault::Silent(crate::network::RequestError::Stopped)),
        }
    }

    /// The proof that a transaction was committed; none if members that weigh more than all faulty
    /// ones together know none.
    pub(super) async fn inclusion(
        &self,
        id: TransactionId,
    ) -> Result<Option<(VerifiedHeader, SignedTransaction)>, LedgerError> {
        self.fresh(Purpose::Read).await?;
        let committee = self.committee();
        let end = Instant::now() + 4 * PATIENCE;
        let unknown = |fault: &NodeFault| *fault == NodeFault::Behind;
        let enough = |faults: &Faults| committee.is_validity(faults.weight(&committee, unknown));
        let ask = |node| async move { self.included(node, id, 0).await?.ok_or(NodeFault::Behind) };
        match self.asker.in_turn((super::asker::HEDGE, end), ask, enough).await {
            Ok(included) => Ok(Some(included)),
            Err(Unanswered::Failed(error)) => Err(error),
            Err(Unanswered::Nobody(faults)) if enough(&faults) => Ok(None),
            Err(Unanswered::Nobody(faults)) => Err(self.asker.no_answer("a transaction", &faults)),
        }
    }

    /// What can be proven of a transaction.
    async fn settle(&self, sent: &Sent) -> Result<Fate, LedgerError> {
        let Transaction { sender, nonce, expires, .. } = sent.signed.transaction;
        let ask = |node| self.newest_account(node, sender);
        let (header, account) = self.asker.question("an account", ask).await?;
        if account.nonce <= nonce {
            let late = header.is_some_and(|header| header.header().time > expires);
            return Ok(if late { Fate::Expired } else { Fate::Open });
        }
        if let Some((header, _)) = self.inclusion(sent.id).await? {
            return Ok(Fate::Included(header));
        }
        // Whose was the nonce? The index may leave it out, or add to it; blocks prove.
        let history = self.history(sender, None, HISTORY_MAX).await?;
        let since = history.iter().take_while(|item| item.header.height > sent.since);
        let of_nonce =
            |transaction: &Transaction| transaction.sender == sender && transaction.nonce == nonce;
        for item in since {
            if of_nonce(&item.transaction.transaction) && item.id != sent.id {
                return Ok(Fate::Displaced);
            }
        }
        Ok(Fate::Open)
    }

    /// An account in the newest state of one node, and the header that proves it.
    pub(super) async fn newest_account(
        &self,
        node: NodeId,
        account: AccountId,
    ) -> Result<(Option<VerifiedHeader>, Account), NodeFault> {
        let key = Key::Account(account);
        let request = LedgerRequest::Facts { height: None, keys: vec![key.clone()] };
        let LedgerResponse::Facts { header, proofs } = self.asker.ask(node, request).await? else {
            return Err(NodeFault::WrongAnswer);
        };
        let (Some(certified), [proof]) = (header, proofs.as_slice()) else {
            return Err(NodeFault::Behind);
        };
        let header = self.asker.accept(node, certified).await?;
        let known = self.known_header();
        if known.is_some_and(|known| known.header().height > header.header().height) {
            return Err(NodeFault::Behind);
        }
        match header.fact(&key, proof) {
            Ok(Some(Record::Account(account))) => Ok((Some(header), account)),
            Ok(_) => Ok((Some(header), Account::default())),
            Err(error) => Err(self.asker.caught(node, error)),
        }
    }

    /// Whether a node refuses the transaction for what it is, not for when it came.
    fn is_refusal(&self, sent: &Sent, fault: &NodeFault) -> bool {
        match fault {
            // Whether it came too late is proven by a header.
            NodeFault::Refused(
                SubmitError::Nonce { .. } | SubmitError::Known | SubmitError::Expired,
            ) => false,
            // Another transaction waits under this nonce: one of the two will use it.
            NodeFault::Refused(SubmitError::Fee { .. }) => {
                let least = self.fee(sent.signed.transaction.operations.len());
                least.is_none_or(|least| sent.signed.transaction.fee < least)
            }
            NodeFault::Refused(_) => true,
            _ => false,
        }
    }
}

/// A part of a transaction's lifetime that is drawn: two clients with one key that ask for the same
/// at the same moment would else sign the same bytes, and both take one payment for theirs.
fn jitter_ms() -> Result<u64, LedgerError> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(std::io::Error::from)?;
    Ok(u64::from(u16::from_le_bytes(random)) % JITTER_MS)
}

/// Whether a node says that the nonce has been used: time to look who did.
fn is_about_nonce(sent: &Sent, fault: &NodeFault) -> bool {
    let nonce = sent.signed.transaction.nonce;
    matches!(fault, NodeFault::Refused(SubmitError::Nonce { expected }) if *expected > nonce)
}

/// What the sender needs at least: fees and what it gives away. Payments for blobs have a bound of
/// their own and may be less.
fn needed(operations: &[Operation], fee: Amount) -> Option<Amount> {
    operations.iter().try_fold(fee, |sum, operation| match operation {
        Operation::Transfer { amount, .. } | Operation::Stake { amount, .. } => {
            sum.checked_add(*amount)
        }
        _ => Some(sum),
    })
}
