//! What messages are, by the newest state and their signatures.
//!
//! The state is asked before any signature is verified: who has no funds and no seat in a
//! committee costs this node a look at the disk, and nobody else anything. Messages that wait are
//! judged together, so a node that falls behind verifies larger batches, which cost less each.
//!
//! Invariant: who passes on what an honest node would have passed on is never convicted. So only
//! what is wrong by itself, or by the committee that it names, is [`Content::Invalid`]; what another
//! height may see otherwise is [`Content::Useless`].

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    time::Instant,
};

use floe_protocol::{
    keys::NodeId,
    ledger::{
        Account, AccountId, OperationError, ReadError, SignedTransaction, State, StateReader,
        SystemOperation, TransactionError, VerifiedTransaction,
    },
    message::{LedgerAnnouncement, LedgerTopic},
};

use super::{
    super::judging::{BlsBudget, by_newest, check_certificates, has_certificates, is_forged},
    budget::{Budget, work},
};

/// A message, as far as its bytes tell.
#[derive(Debug)]
pub(super) enum Message {
    /// None of these.
    Malformed,
    /// Transactions, not parsed.
    Transactions(Vec<Vec<u8>>),
    /// A system operation.
    System(Box<SystemOperation>),
    /// A system operation like which there is one here already.
    Known,
}

impl Message {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let announcement = LedgerAnnouncement::decode(LedgerTopic::Transactions, bytes)
            .or_else(|_| LedgerAnnouncement::decode(LedgerTopic::System, bytes));
        match announcement {
            Ok(LedgerAnnouncement::Transactions(list)) => Self::Transactions(list),
            Ok(
                LedgerAnnouncement::System(operation)
                | LedgerAnnouncement::SystemAgain(operation, _),
            ) => Self::System(Box::new(operation)),
            Ok(LedgerAnnouncement::NewHeader(_)) | Err(_) => Self::Malformed,
        }
    }
}

/// What a message is, as far as state and signatures tell.
#[derive(Debug)]
pub(super) enum Content {
    /// Malformed or forged.
    Invalid,
    /// Of no use to the state as it is here.
    Useless,
    /// Transactions that the state does not refuse, and whether this node vouches for all of the
    /// message: it may be passed on.
    Transactions(Vec<Arc<VerifiedTransaction>>, bool),
    /// An operation that can be executed now.
    System(Box<SystemOperation>),
}

/// What a message is before signatures are verified.
pub(super) enum Look {
    /// They do not matter.
    Judged(Content),
    /// The state may take some of these.
    Unverified(Vec<SignedTransaction>),
}

/// Judges messages against the newest state, at its time: what has expired there never comes into
/// a block, and a wrong clock here changes nothing. Every method blocks.
pub(super) struct Judge<'a> {
    pub(super) newest: &'a dyn Fn() -> Arc<State>,
    pub(super) reader: &'a dyn StateReader,
}

impl Judge<'_> {
    /// Judges each message on its own, but verifies the signatures in all of them together.
    /// With each comes who passed it on; what they cost now is taken from the `budget`.
    pub(super) fn messages(
        &self,
        messages: &[(NodeId, Message)],
        budget: &mut Budget,
        now: Instant,
    ) -> Result<Vec<Content>, ReadError> {
        let (mut accounts, mut bls_budget) = (BTreeMap::new(), BlsBudget::default());
        let mut unverified = Vec::new();
        let mut looks = Vec::with_capacity(messages.len());
        for (from, message) in messages {
            let look = by_newest(self.newest, |state| match message {
                Message::Malformed => Ok(Look::Judged(Content::Invalid)),
                Message::Known => Ok(Look::Judged(Content::Useless)),
                Message::Transactions(list) => self.look(state, list, &mut accounts),
                Message::System(operation) => {
                    self.system(state, operation, (from, &mut *budget, now)).map(Look::Judged)
                }
            });
            looks.push(match overtaken(look, Look::Judged(Content::Useless))? {
                Look::Judged(content) => Err(content),
                Look::Unverified(transactions) => {
                    let count = transactions.len();
                    unverified.extend(transactions);
                    Ok(count)
                }
            });
        }
        let mut verified =
            SignedTransaction::verify_all(unverified, (self.newest)().chain()).into_iter();
        let judge = |look| match look {
            Err(content) => Ok(content),
            Ok(count) => {
                let verified = verified.by_ref().take(count).map(|one| one.map(Arc::new));
                let Ok(verified) = verified.collect::<Result<Vec<_>, TransactionError>>() else {
                    return Ok(Content::Invalid);
                };
                let content = by_newest(self.newest, |state| {
                    self.useful(state, &verified, (&mut accounts, &mut bls_budget))
                });
                overtaken(content, Content::Useless)
            }
        };
        looks.into_iter().map(judge).collect()
    }

    /// What a list of transactions is without a look at signatures.
    fn look(
        &self,
        state: &State,
        list: &[Vec<u8>],
        accounts: &mut BTreeMap<AccountId, Account>,
    ) -> Result<Look, ReadError> {
        let parsed = list.iter().map(|bytes| SignedTransaction::from_bytes(bytes));
        let Ok(parsed) = parsed.collect::<Result<Vec<_>, _>>() else {
            return Ok(Look::Judged(Content::Invalid));
        };
        let mut any_useful = false;
        for signed in &parsed {
            any_useful |= self.may_be_of_use(state, signed, accounts)?;
        }
        // All of them, because the message is passed on as it is: who is behind may find of use
        // what is of none here, and would convict this node of what is forged.
        Ok(if any_useful { Look::Unverified(parsed) } else { Look::Judged(Content::Useless) })
    }

    /// What a message with these transactions is.
    fn useful(
        &self,
        state: &State,
        verified: &[Arc<VerifiedTransaction>],
        (accounts, budget): (&mut BTreeMap<AccountId, Account>, &mut BlsBudget),
    ) -> Result<Content, ReadError> {
        let mut useful = Vec::with_capacity(verified.len());
        let mut vouched = true;
        for transaction in verified {
            let has_certificates = has_certificates(transaction.transaction());
            if !self.may_be_of_use(state, transaction.signed(), accounts)?
                || !budget.allows(transaction.transaction())
            {
                vouched &= !has_certificates;
                continue;
            }
            let next = accounts.get(&transaction.transaction().sender).map(|known| known.nonce);
            let is_next = next == Some(transaction.transaction().nonce);
            let checked = if is_next {
                state.check(self.reader, transaction, state.tip().time)?
            } else {
                check_certificates(state, self.reader, transaction.transaction())?
            };
            match checked {
                Ok(()) => useful.push(Arc::clone(transaction)),
                Err(error) if is_forged(&error) => return Ok(Content::Invalid),
                Err(_) => {
                    vouched &= !has_certificates;
                    // What comes before it may change that.
                    if !is_next {
                        useful.push(Arc::clone(transaction));
                    }
                }
            }
        }
        if useful.is_empty() {
            return Ok(Content::Useless);
        }
        Ok(Content::Transactions(useful, vouched))
    }

    /// Whether the sender's account allows for the transaction at all. Looks at each account once.
    fn may_be_of_use(
        &self,
        state: &State,
        signed: &SignedTransaction,
        accounts: &mut BTreeMap<AccountId, Account>,
    ) -> Result<bool, ReadError> {
        let transaction = &signed.transaction;
        let account = match accounts.entry(transaction.sender) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(unknown) => {
                unknown.insert(state.account(self.reader, &transaction.sender)?)
            }
        };
        Ok(transaction.nonce >= account.nonce && account.balance >= transaction.fee)
    }

    /// What a system operation is that a peer has passed on. The state looks at what it is about
    /// first: signatures are verified of what could be executed now.
    fn system(
        &self,
        state: &State,
        operation: &SystemOperation,
        (from, budget, now): (&NodeId, &mut Budget, Instant),
    ) -> Result<Content, ReadError> {
        let committee = state.committee();
        let is_member = committee.member(from).is_some_and(|member| member.weight() > 0);
        let work = work(operation, committee);
        if !budget.allows(from, is_member, work, now) {
            return Ok(Content::Useless);
        }
        let checked = state.check_system(self.reader, operation)?;
        let is_forged = checked.as_ref().is_err_and(is_forged_report);
        // What the state refuses before it looks at signatures costs next to nothing.
        if checked.is_ok() || is_forged {
            budget.spend(*from, is_member, work);
        }
        Ok(match checked {
            Ok(()) => Content::System(Box::new(operation.clone())),
            Err(_) if is_forged => Content::Invalid,
            Err(_) => Content::Useless,
        })
    }
}

/// Whether a refusal of a system operation convicts whoever passed it on. Signatures of node keys
/// are wrong for everybody; certificates are judged by the committee of their epoch only, which is
/// the same for everybody who knows it.
fn is_forged_report(error: &OperationError) -> bool {
    matches!(error, OperationError::Equivocation(_) | OperationError::Report) || is_forged(error)
}

/// What was judged; `instead` if the state was forgotten twice, before it could be.
fn overtaken<T>(judged: Result<T, ReadError>, instead: T) -> Result<T, ReadError> {
    match judged {
        Err(ReadError::NoSuchVersion { .. }) => Ok(instead),
        judged => judged,
    }
}
