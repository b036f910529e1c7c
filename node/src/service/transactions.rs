//! Transactions that gossip brings: parsed, judged, put into the mempool, passed on.
//!
//! What is malformed or forged convicts its sender. What the state or the mempool refuses does not:
//! nodes are at different heights, and it is passed on no further.
//!
//! The state is asked before any signature is verified: who has no funds and no seat in a
//! committee costs this node a look at the disk, and nobody else anything. Messages that wait are
//! judged together, so a node that falls behind verifies larger batches, which cost less each. A
//! certificate that is wrong convicts, too: nobody passes on one that was not verified.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use floe_protocol::{
    ledger::{
        Account, AccountId, OperationError, ReadError, SignedTransaction, State, StateReader,
        SystemOperation, TransactionError, VerifiedTransaction,
    },
    mempool::MempoolError,
    message::{LedgerAnnouncement, LedgerTopic},
};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    judging::{BlsBudget, by_newest, check_certificates, has_certificates, is_forged},
    ledger::{Ledger, LedgerStopped},
};
use crate::network::{GossipMessage, VerdictHandle};

/// Messages that are judged together.
const TOGETHER_MAX: usize = 32;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) transactions: mpsc::Receiver<GossipMessage>,
    pub(crate) cancel: CancellationToken,
}

/// What a message is, as far as state and signatures tell.
#[derive(Debug)]
enum Content {
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
enum Look {
    /// They do not matter.
    Judged(Content),
    /// The state may take some of these.
    Unverified(Vec<SignedTransaction>),
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let Args { ledger, mut transactions, cancel } = args;
    loop {
        let mut messages = Vec::new();
        tokio::select! {
            () = cancel.cancelled() => return,
            count = transactions.recv_many(&mut messages, TOGETHER_MAX) => if count == 0 {
                return;
            },
        }
        if let Err(LedgerStopped) = on_messages(&ledger, messages).await {
            return;
        }
    }
}

async fn on_messages(ledger: &Ledger, messages: Vec<GossipMessage>) -> Result<(), LedgerStopped> {
    let parts = messages.into_iter().map(|message| (message.bytes, message.verdict));
    let (messages, verdicts): (Vec<_>, Vec<_>) = parts.unzip();
    let contents = judge(ledger, messages).await?;
    // One errand to the ledger's thread for all of them.
    let transactions = contents.iter().flat_map(|content| match content {
        Content::Transactions(transactions, _) => transactions.as_slice(),
        Content::Invalid | Content::Useless | Content::System(_) => &[],
    });
    let transactions: Vec<_> = transactions.cloned().collect();
    let mut inserted = Vec::new();
    if !transactions.is_empty() {
        inserted = ledger.insert(transactions, false).await?;
    }
    let mut inserted = inserted.into_iter();
    for (content, verdict) in contents.into_iter().zip(verdicts) {
        tell(ledger, content, &mut inserted, verdict).await?;
    }
    Ok(())
}

/// What the messages are, one by one.
async fn judge(ledger: &Ledger, messages: Vec<Vec<u8>>) -> Result<Vec<Content>, LedgerStopped> {
    let states = ledger.state();
    let store = Arc::clone(ledger.store());
    let judged = spawn_blocking(move || {
        let newest = || states.borrow().clone();
        Judge { newest: &newest, reader: store.as_ref() }.messages(&messages)
    });
    match judged.await {
        Ok(Ok(contents)) => Ok(contents),
        Ok(Err(error)) => {
            tracing::error!(%error, "the store has failed: transactions are not taken any more");
            Err(LedgerStopped)
        }
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(LedgerStopped),
    }
}

/// Tells the verdict on a message; `inserted` goes on with what became of its transactions.
async fn tell(
    ledger: &Ledger,
    content: Content,
    inserted: &mut impl Iterator<Item = Result<(), MempoolError>>,
    verdict: VerdictHandle,
) -> Result<(), LedgerStopped> {
    let forward = match content {
        Content::Invalid => {
            verdict.reject();
            return Ok(());
        }
        Content::Useless => false,
        Content::Transactions(transactions, vouched) => {
            let results = inserted.take(transactions.len());
            results.filter(Result::is_ok).count() > 0 && vouched
        }
        Content::System(operation) => ledger.insert_system(*operation, false).await?.is_ok(),
    };
    if forward {
        verdict.accept();
    } else {
        verdict.ignore();
    }
    Ok(())
}

/// Judges messages against the newest state, at its time: what has expired there never comes into
/// a block, and a wrong clock here changes nothing. Every method blocks.
struct Judge<'a> {
    newest: &'a dyn Fn() -> Arc<State>,
    reader: &'a dyn StateReader,
}

impl Judge<'_> {
    /// Judges each message on its own, but verifies the signatures in all of them together.
    fn messages(&self, messages: &[Vec<u8>]) -> Result<Vec<Content>, ReadError> {
        let (mut accounts, mut budget) = (BTreeMap::new(), BlsBudget::default());
        let mut unverified = Vec::new();
        let mut looks = Vec::with_capacity(messages.len());
        for bytes in messages {
            let look = by_newest(self.newest, |state| self.look(state, bytes, &mut accounts));
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
                    self.useful(state, &verified, (&mut accounts, &mut budget))
                });
                overtaken(content, Content::Useless)
            }
        };
        looks.into_iter().map(judge).collect()
    }

    /// What a message is without a look at signatures of transactions.
    fn look(
        &self,
        state: &State,
        bytes: &[u8],
        accounts: &mut BTreeMap<AccountId, Account>,
    ) -> Result<Look, ReadError> {
        let announcement = LedgerAnnouncement::decode(LedgerTopic::Transactions, bytes)
            .or_else(|_| LedgerAnnouncement::decode(LedgerTopic::System, bytes));
        let list = match announcement {
            Ok(LedgerAnnouncement::Transactions(list)) => list,
            Ok(LedgerAnnouncement::System(operation)) => {
                return self.system(state, operation).map(Look::Judged);
            }
            Ok(LedgerAnnouncement::NewHeader(_)) | Err(_) => {
                return Ok(Look::Judged(Content::Invalid));
            }
        };
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

    /// The state looks for the offender first, and verifies signatures of a member only.
    fn system(&self, state: &State, operation: SystemOperation) -> Result<Content, ReadError> {
        Ok(match state.check_system(self.reader, &operation)? {
            Ok(()) => Content::System(Box::new(operation)),
            Err(OperationError::Equivocation(_)) => Content::Invalid,
            Err(_) => Content::Useless,
        })
    }
}

/// What was judged; `instead` if the state was forgotten twice, before it could be.
fn overtaken<T>(judged: Result<T, ReadError>, instead: T) -> Result<T, ReadError> {
    match judged {
        Err(ReadError::NoSuchVersion { .. }) => Ok(instead),
        judged => judged,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, ops::Range};

    use floe_protocol::{
        blob::{BlobHeader, BlobId},
        certificate::{Certificate, ConfirmedFact},
        hash::Hash,
        index::Height,
        keys::KeyPair,
        ledger::{Amount, BlockHash, MemoryStore, Operation, Transaction, VersionedValue},
        registration::RegistrationId,
        test_support::{self, Chain, account_key, node_keys},
        vote::{Equivocation, Vote, VoteKind},
    };

    use super::*;

    fn chain() -> Chain {
        let mut chain = Chain::new(&test_support::genesis(4, 7));
        let transfer = transfer(&chain, &account_key(0), 0, Amount::from_wal(1));
        chain.commit(&[transfer]);
        chain
    }

    fn transfer(chain: &Chain, from: &KeyPair, nonce: u64, amount: Amount) -> SignedTransaction {
        let to = AccountId::new(account_key(1).public());
        let transaction = Transaction {
            sender: AccountId::new(from.public()),
            nonce,
            fee: chain.state.parameters().ledger.fee_per_operation,
            expires: chain.now.plus_ms(60_000),
            operations: vec![Operation::Transfer { to, amount }],
        };
        transaction.sign(&chain.id(), from)
    }

    fn judged(chain: &Chain, announcement: &LedgerAnnouncement) -> Content {
        let newest = || Arc::new(chain.state.clone());
        let judge = Judge { newest: &newest, reader: &chain.store };
        judge.messages(&[announcement.encode().unwrap()]).unwrap().pop().unwrap()
    }

    fn of(transactions: &[&SignedTransaction]) -> LedgerAnnouncement {
        let bytes = transactions.iter().map(|signed| signed.to_bytes());
        LedgerAnnouncement::Transactions(bytes.collect())
    }

    fn forged(mut signed: SignedTransaction) -> SignedTransaction {
        signed.transaction.operations.push(signed.transaction.operations[0].clone());
        signed
    }

    #[test]
    fn only_what_the_state_may_take_is_of_use() {
        let chain = chain();
        let amount = Amount::from_wal(1);
        let next = transfer(&chain, &account_key(0), 1, amount);
        let later = transfer(&chain, &account_key(0), 3, amount);
        let used = transfer(&chain, &account_key(0), 0, amount);
        let poor = transfer(&chain, &KeyPair::from_seed([7; 32]), 0, amount);
        let too_much = transfer(&chain, &account_key(2), 0, Amount::from_wal(5_000));
        let Content::Transactions(useful, true) =
            judged(&chain, &of(&[&used, &next, &poor, &too_much, &later]))
        else {
            unreachable!("two of them are of use");
        };
        let nonces: Vec<_> = useful.iter().map(|taken| taken.transaction().nonce).collect();
        assert_eq!(nonces, [1, 3]);
        for useless in [&used, &poor, &too_much] {
            assert!(matches!(judged(&chain, &of(&[useless])), Content::Useless));
        }
    }

    #[test]
    fn forgery_convicts_only_where_signatures_are_worth_a_look() {
        let chain = chain();
        let amount = Amount::from_wal(1);
        let next = transfer(&chain, &account_key(0), 1, amount);
        let used = forged(transfer(&chain, &account_key(0), 0, amount));
        assert!(matches!(judged(&chain, &of(&[&used])), Content::Useless), "not verified");
        assert!(matches!(judged(&chain, &of(&[&forged(next.clone())])), Content::Invalid));
        assert!(matches!(judged(&chain, &of(&[&next, &used])), Content::Invalid));
        let malformed = LedgerAnnouncement::Transactions(vec![vec![1, 2, 3]]);
        assert!(matches!(judged(&chain, &malformed), Content::Invalid));
    }

    #[test]
    fn messages_judged_together_do_not_answer_for_each_other() {
        let chain = chain();
        let amount = Amount::from_wal(1);
        let send = |account, nonce| transfer(&chain, &account_key(account), nonce, amount);
        let (first, second, third) = (send(0, 1), send(2, 0), send(3, 0));
        let used = send(0, 0);
        let (member, _) = node_keys(4).swap_remove(0);
        let messages = [
            of(&[&first]),
            of(&[&second, &forged(third.clone())]),
            of(&[&used]),
            report(&chain, &member, [1, 2]),
            of(&[&third, &second]),
            LedgerAnnouncement::Transactions(vec![vec![1, 2, 3]]),
        ];
        let messages = messages.map(|message| message.encode().unwrap());
        let newest = || Arc::new(chain.state.clone());
        let judge = Judge { newest: &newest, reader: &chain.store };
        let judged = judge.messages(&messages).unwrap();
        let signed = |content: &Content| match content {
            Content::Transactions(list, _) => list.iter().map(|one| one.signed().clone()).collect(),
            Content::Invalid | Content::Useless | Content::System(_) => Vec::new(),
        };
        let taken: Vec<_> = judged.iter().map(signed).collect();
        assert_eq!(taken[0], [first]);
        assert!(matches!(judged[1], Content::Invalid));
        assert!(matches!(judged[2], Content::Useless));
        assert!(matches!(judged[3], Content::System(_)));
        assert_eq!(taken[4], [third, second]);
        assert!(matches!(judged[5], Content::Invalid));
        assert_eq!(judged.len(), 6);
    }

    /// A store that has forgotten old versions.
    struct Forgetful<'a> {
        store: &'a MemoryStore,
        oldest: u64,
    }

    impl StateReader for Forgetful<'_> {
        fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
            self.store.node(key)
        }

        fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
            if version < self.oldest {
                return Err(ReadError::NoSuchVersion { version, oldest: self.oldest });
            }
            self.store.value(key, version)
        }

        fn index(&self, range: Range<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, ReadError> {
            self.store.index(range, limit)
        }
    }

    #[test]
    fn who_is_overtaken_judges_by_a_newer_state() {
        let mut chain = chain();
        let old = Arc::new(chain.state.clone());
        chain.commit(&[]);
        let reader = Forgetful { store: &chain.store, oldest: chain.state.tip().height.get() };
        let next = transfer(&chain, &account_key(0), 1, Amount::from_wal(1));
        let (member, _) = node_keys(4).swap_remove(0);
        let messages = [of(&[&next]), report(&chain, &member, [1, 2])];
        let messages = messages.map(|message| message.encode().unwrap());
        // Every second look at the state comes too late.
        let looks = Cell::new(0);
        let newest = || {
            looks.set(looks.get() + 1);
            if looks.get() % 2 == 1 { Arc::clone(&old) } else { Arc::new(chain.state.clone()) }
        };
        let judged = Judge { newest: &newest, reader: &reader }.messages(&messages).unwrap();
        assert!(matches!(&judged[0], Content::Transactions(list, true) if list.len() == 1));
        assert!(matches!(judged[1], Content::System(_)));
        // And if all of them do, that is no failure of the store.
        let newest = || Arc::clone(&old);
        let judged = Judge { newest: &newest, reader: &reader }.messages(&messages).unwrap();
        assert!(judged.iter().all(|content| matches!(content, Content::Useless)), "{judged:?}");
    }

    /// A chain on which account 0 has registered a blob.
    fn registered() -> (Chain, RegistrationId, BlobId) {
        let mut chain = chain();
        let header = BlobHeader { n_shards: 7, len: 1_000, root: Hash::new([1; 32]) };
        let max_payment = Amount::from_wal(100);
        let register = Operation::RegisterBlob { header, epochs: 1, deletable: true, max_payment };
        let signed = chain.sign(&account_key(0), vec![register]);
        let id = signed.id(&chain.id()).registration(&chain.id(), 0);
        chain.commit(&[signed]);
        (chain, id, header.id())
    }

    /// Certifies by what the members have said of a fact, be it this one or another.
    fn certify(
        chain: &Chain,
        registration: RegistrationId,
        fact: ConfirmedFact,
        nonce: u64,
    ) -> SignedTransaction {
        let keys = node_keys(4);
        let committee = chain.state.committee();
        let signatures = keys.iter().map(|(node, bls)| {
            let position = committee.position(&node.public()).unwrap();
            (position, fact.sign(&chain.id(), bls))
        });
        let signatures: Vec<_> = signatures.collect();
        let fact = ConfirmedFact { registration, blob: fact.blob, epoch: fact.epoch };
        // The weight is judged by the running committee: what is said of epochs is not.
        let running = ConfirmedFact { epoch: committee.epoch(), ..fact };
        let mut certificate = Certificate::new(committee, running, &signatures).unwrap();
        certificate.fact = fact;
        let certificate = certificate.to_bytes();
        let operations = vec![Operation::CertifyBlob { registration, certificate }];
        let mut transaction = chain.sign(&account_key(0), operations).transaction;
        transaction.nonce = nonce;
        transaction.sign(&chain.id(), &account_key(0))
    }

    #[test]
    fn wrong_certificates_convict_and_only_verified_ones_are_passed_on() {
        let (chain, registration, blob) = registered();
        let epoch = chain.state.committee().epoch();
        let honest = ConfirmedFact { epoch, blob, registration };
        let other = ConfirmedFact { registration: RegistrationId::new([9; 32]), ..honest };
        let later = ConfirmedFact { epoch: epoch.plus(1), ..honest };
        let passed_on = |content: Content| match content {
            Content::Transactions(_, vouched) => Some(vouched),
            Content::Invalid => None,
            Content::Useless | Content::System(_) => Some(false),
        };
        // The sender's next one, and one that is not yet.
        for nonce in [2, 3] {
            let of_fact = |fact| of(&[&certify(&chain, registration, fact, nonce)]);
            assert_eq!(passed_on(judged(&chain, &of_fact(honest))), Some(true), "nonce {nonce}");
            assert_eq!(passed_on(judged(&chain, &of_fact(other))), None, "nonce {nonce}");
            // Nodes at the border of epochs are no liars.
            assert_eq!(passed_on(judged(&chain, &of_fact(later))), Some(false), "nonce {nonce}");
        }
        // What is not looked at is not passed on with the rest.
        let used = certify(&chain, registration, other, 0);
        let pay = transfer(&chain, &account_key(2), 0, Amount::from_wal(1));
        assert_eq!(passed_on(judged(&chain, &of(&[&pay, &used]))), Some(false));
    }

    #[test]
    fn one_sender_gets_so_many_certificates_verified_at_a_time() {
        let (chain, registration, blob) = registered();
        let honest = ConfirmedFact { epoch: chain.state.committee().epoch(), blob, registration };
        let many: Vec<_> = (2..10).map(|i| certify(&chain, registration, honest, i)).collect();
        let many: Vec<_> = many.iter().collect();
        let Content::Transactions(taken, false) = judged(&chain, &of(&many)) else {
            unreachable!("some of them are of use");
        };
        assert_eq!(taken.len(), 4);
    }

    fn report(chain: &Chain, voter: &KeyPair, blocks: [u8; 2]) -> LedgerAnnouncement {
        let vote = |seed| Vote {
            height: Height::new(1),
            round: 0,
            kind: VoteKind::Prevote,
            block: Some(BlockHash::new(Hash::new([seed; 32]))),
            voter: voter.public(),
        };
        let [first, second] = blocks.map(|seed| vote(seed).sign(&chain.id(), voter));
        let equivocation = Equivocation { first, second };
        LedgerAnnouncement::System(SystemOperation::ReportEquivocation { equivocation })
    }

    #[test]
    fn only_members_can_be_reported() {
        let mut chain = chain();
        let (member, _) = node_keys(4).swap_remove(0);
        let stranger = KeyPair::from_seed([7; 32]);
        let honest = report(&chain, &member, [1, 2]);
        assert!(matches!(judged(&chain, &honest), Content::System(_)));
        assert!(matches!(judged(&chain, &report(&chain, &stranger, [1, 2])), Content::Useless));
        assert!(matches!(judged(&chain, &report(&chain, &member, [1, 1])), Content::Invalid));
        let LedgerAnnouncement::System(SystemOperation::ReportEquivocation { mut equivocation }) =
            honest
        else {
            unreachable!("a report");
        };
        let operation = SystemOperation::ReportEquivocation { equivocation };
        let (block, _) = chain.propose(std::slice::from_ref(&operation), &[]).unwrap();
        chain.apply(&block).unwrap();
        let punished = LedgerAnnouncement::System(operation);
        assert!(matches!(judged(&chain, &punished), Content::Useless), "punished already");
        equivocation.second.signature = equivocation.first.signature;
        let forged = SystemOperation::ReportEquivocation { equivocation };
        let fresh = self::chain();
        assert!(matches!(judged(&fresh, &LedgerAnnouncement::System(forged)), Content::Invalid));
    }
}
