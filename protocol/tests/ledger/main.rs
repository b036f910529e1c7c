//! The ledger end to end, without a network: every operation, every refusal, and what stays true
//! whatever happens.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod assignment;
mod blobs;
mod blocks;
mod challenge_pay;
mod challenges;
mod epochs;
mod gaps;
#[path = "../golden/mod.rs"]
mod golden;
mod keepers;
mod lives;
mod proofs;
mod properties;
mod readiness;
mod refunds;
mod repeats;
mod rewards;
mod snapshots;
mod staking;
mod store_plan;
mod succession;
mod transactions;
mod vectors;

use std::sync::Arc;

use floe_protocol::{
    blob::BlobHeader,
    certificate::{Certificate, ConfirmedFact},
    committee::CommitteeFact,
    hash::Hash,
    index::Epoch,
    keys::{BlsKeyPair, ChainId, KeyPair, NodeId},
    ledger::{
        Account, AccountId, Amount, Blob, Block, BlockError, EndReason, Entry, Event, Executed,
        Key, Node, NodeSettings, Operation, OperationError, Outcome, Proposed, Record,
        Registration, SignedTransaction, StakeWorth, StateChange, StateReader as _,
        SystemOperation, VerifiedTransaction,
    },
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis, node_keys, operator_key},
};

/// Shards of the networks here.
const N: u16 = 7;

/// FROST for a unit and epoch, for the write of a unit, and for an operation.
const STORAGE: u128 = 100_000;
const WRITE: u128 = 200_000;
const FEE: u128 = 10_000;

fn id(key: &KeyPair) -> AccountId {
    AccountId::new(key.public())
}

fn frost(frost: u128) -> Amount {
    Amount::from_frost(frost)
}

fn chain() -> Chain {
    Chain::new(&genesis(4, N))
}

/// The header of a blob of one billed unit.
fn header(i: u8) -> BlobHeader {
    BlobHeader { n_shards: N, len: 1_000, root: Hash::new([i; 32]) }
}

/// The header of a blob of more than one billed unit.
fn large_header(i: u8) -> BlobHeader {
    BlobHeader { len: 5 << 20, ..header(i) }
}

fn transfer(to: u8, amount: u128) -> Operation {
    Operation::Transfer { to: id(&account_key(to)), amount: frost(amount) }
}

fn register(header: BlobHeader, epochs: u32, deletable: bool) -> Operation {
    Operation::RegisterBlob { header, epochs, deletable, max_payment: Amount::from_wal(100) }
}

fn extend(registration: RegistrationId, end: u64, epochs: u32) -> Operation {
    let end = Epoch::new(end);
    Operation::ExtendBlob { registration, end, epochs, max_payment: Amount::from_wal(100) }
}

/// An extension of what the registration is now; without one, of one that ends at once.
fn extension(chain: &Chain, name: RegistrationId, epochs: u32) -> Operation {
    let end = registration(chain, name).map_or(0, |registration| registration.end.get());
    extend(name, end, epochs)
}

fn delete(registration: RegistrationId) -> Operation {
    Operation::DeleteBlob { registration }
}

/// What a block with these system operations and transactions would be, and why it lacks some.
fn propose(
    chain: &Chain,
    system: &[SystemOperation],
    transactions: &[SignedTransaction],
) -> (Block, Executed, Vec<OperationError>) {
    let mut refused = Vec::new();
    let mut next = transactions.iter();
    let mut candidates = |outcome: Outcome<'_>| {
        if let Outcome::Refused(_, error) = outcome {
            refused.push(error.clone());
        }
        let signed = next.next()?.clone();
        Some(Arc::<VerifiedTransaction>::new(signed.verify(&chain.id()).expect("well formed")))
    };
    let proposed =
        chain.state.propose(&chain.store, chain.proposal(), (system, &|_| false), &mut candidates);
    let Proposed { block, executed, .. } = proposed.expect("a block");
    (block, executed, refused)
}

/// A block with its header's root of transactions put right.
fn resealed(chain: &Chain, mut block: Block) -> Block {
    block.header.transactions_root = block.body.transactions_root(&chain.id());
    block.header.commit_record = block.body.commit_record.hash();
    block
}

/// Why the state refuses `signed`. A proposer leaves it out, nobody takes a block with it, and
/// nothing is left of what it did before it failed.
fn refused(chain: &Chain, signed: &SignedTransaction) -> OperationError {
    let (empty, nothing, _) = propose(chain, &[], &[]);
    let (block, executed, mut refused) = propose(chain, &[], std::slice::from_ref(signed));
    assert_eq!(refused.len(), 1, "refused once");
    assert_eq!(block, empty);
    assert_eq!(executed.change, nothing.change);
    assert_eq!(executed.events, nothing.events);
    let mut block = empty;
    block.body.transactions.push(signed.clone());
    let error = refused.remove(0);
    match chain.state.execute(&chain.store, &resealed(chain, block), &|_| false) {
        Err(BlockError::Operation { position: 0, error: in_block }) => assert_eq!(in_block, error),
        other => unreachable!("a block with it is refused: {other:?}"),
    }
    error
}

/// Why the state refuses a system operation; nothing is left of it either.
fn system_refused(chain: &Chain, operation: SystemOperation) -> OperationError {
    let (mut block, nothing, _) = propose(chain, &[], &[]);
    let (without, executed, _) = propose(chain, std::slice::from_ref(&operation), &[]);
    assert_eq!(without, block);
    assert_eq!(executed.change, nothing.change);
    block.body.system.push(operation);
    match chain.state.execute(&chain.store, &resealed(chain, block), &|_| false) {
        Err(BlockError::Operation { position: 0, error }) => error,
        other => unreachable!("a block with it is refused: {other:?}"),
    }
}

/// Why the state refuses an operation that comes after others which succeed.
fn fails(chain: &Chain, key: &KeyPair, operation: Operation) -> OperationError {
    let name = Operation::SetName { name: "rolled back".into(), blob: None, version: 1 };
    let operations = vec![transfer(7, 5), register(header(250), 2, true), name, operation];
    refused(chain, &chain.sign(key, operations))
}

/// A block with one transaction.
fn commit(chain: &mut Chain, key: &KeyPair, operations: Vec<Operation>) -> Executed {
    let signed = chain.sign(key, operations);
    chain.commit(&[signed])
}

/// Registers a blob; the registration, and what it cost without the fee.
fn registered(chain: &mut Chain, key: &KeyPair, operation: Operation) -> (RegistrationId, Amount) {
    let executed = commit(chain, key, vec![operation]);
    let paid = executed.events.iter().find_map(|event| match event {
        Event::BlobRegistered { registration, paid, .. } => Some((*registration, *paid)),
        _ => None,
    });
    paid.expect("registered")
}

/// The word of the members at `positions` that a blob is stored, in the running epoch.
fn certificate(
    chain: &Chain,
    registration: RegistrationId,
    header: &BlobHeader,
    positions: &[usize],
) -> Certificate {
    let committee = chain.state.committee();
    let fact = ConfirmedFact { epoch: committee.epoch(), blob: header.id(), registration };
    certificate_of(&chain.id(), committee, fact, positions)
}

fn certificate_of(
    chain: &ChainId,
    committee: &floe_protocol::committee::Committee,
    fact: ConfirmedFact,
    positions: &[usize],
) -> Certificate {
    let keys = node_keys(16);
    let bls = |position: usize| -> &BlsKeyPair {
        let node = committee.members()[position].node;
        &keys.iter().find(|(key, _)| key.public() == node).expect("ours").1
    };
    let confirmations: Vec<_> =
        positions.iter().map(|position| (*position, fact.sign(chain, bls(*position)))).collect();
    Certificate::new(committee, fact, &confirmations).expect("a quorum")
}

fn certify(chain: &Chain, registration: RegistrationId, header: &BlobHeader) -> Operation {
    let all: Vec<_> = (0..chain.state.committee().members().len()).collect();
    let certificate = certificate(chain, registration, header, &all).to_bytes();
    Operation::CertifyBlob { registration, certificate }
}

/// Registers and certifies a blob.
fn stored(
    chain: &mut Chain,
    key: &KeyPair,
    header: BlobHeader,
    epochs: u32,
    deletable: bool,
) -> RegistrationId {
    let (registration, _) = registered(chain, key, register(header, epochs, deletable));
    let certify = certify(chain, registration, &header);
    commit(chain, key, vec![certify]);
    registration
}

/// Lets the operators of all nodes vote, from the next selection on.
fn vote(chain: &mut Chain, storage: u128, write: u128, capacity_units: u64) {
    let settings = NodeSettings {
        addresses: Vec::new(),
        commission_bps: 0,
        storage_price: frost(storage),
        write_price: frost(write),
        capacity_units,
    };
    for (i, (node, _)) in node_keys(4).iter().enumerate() {
        let to = id(&operator_key(i));
        commit(chain, &account_key(7), vec![Operation::Transfer { to, amount: frost(FEE) }]);
        let settings = settings.clone();
        let update = Operation::UpdateNode { node: node.public(), settings };
        commit(chain, &operator_key(i), vec![update]);
    }
}

/// Ends of registrations in a block: which, refund, reason.
fn ends(executed: &Executed) -> Vec<(RegistrationId, u128, EndReason)> {
    let ended = executed.events.iter().filter_map(|event| match event {
        Event::RegistrationEnded { registration, refund, reason, .. } => {
            Some((*registration, refund.frost(), *reason))
        }
        _ => None,
    });
    ended.collect()
}

fn account(chain: &Chain, account: &AccountId) -> Account {
    match chain.record(&Key::Account(*account)) {
        Some(Record::Account(account)) => account,
        _ => Account::default(),
    }
}

fn blob(chain: &Chain, header: &BlobHeader) -> Option<Blob> {
    match chain.record(&Key::Blob(header.id())) {
        Some(Record::Blob(blob)) => Some(blob),
        _ => None,
    }
}

fn registration(chain: &Chain, id: RegistrationId) -> Option<Registration> {
    match chain.record(&Key::Registration(id)) {
        Some(Record::Registration(registration)) => Some(*registration),
        _ => None,
    }
}

fn node(chain: &Chain, id: &NodeId) -> Node {
    let Some(Record::Node(node)) = chain.record(&Key::Node(*id)) else { unreachable!("a node") };
    *node
}

/// What an account's stake with a node is now.
fn worth(chain: &Chain, account: &KeyPair, node: &NodeId) -> StakeWorth {
    chain.state.stake_worth(&chain.store, &id(account), node).unwrap().unwrap_or_default()
}

/// Settings of a node that takes `commission_bps` of its rewards.
fn settings(commission_bps: u16) -> NodeSettings {
    NodeSettings {
        addresses: Vec::new(),
        commission_bps,
        storage_price: frost(STORAGE),
        write_price: frost(WRITE),
        capacity_units: 1 << 30,
    }
}

/// Gives the operator of node `i` something for fees.
fn fund(chain: &mut Chain, i: usize, amount: u128) {
    let to = id(&operator_key(i));
    commit(chain, &account_key(7), vec![Operation::Transfer { to, amount: frost(amount) }]);
}

/// The nodes `who` report that they follow the ledger.
fn report_ready(chain: &mut Chain, who: &[usize]) {
    let keys = node_keys(16);
    let reports: Vec<_> = who.iter().map(|i| chain.node_ready(&keys[*i].0)).collect();
    chain.commit_system(&reports);
}

/// All members report that their shards are complete, those of whom it was known left out.
fn report_shards(chain: &mut Chain, who: &[usize]) -> Option<Executed> {
    let keys = node_keys(16);
    let shards = chain.state.shards(&chain.store).unwrap();
    let missing = |i: &&usize| {
        let member = chain.state.committee().member(&keys[**i].0.public());
        let mut own = member.into_iter().flat_map(|member| &member.shards);
        own.any(|shard| !shards[shard.as_usize()].is_ready())
    };
    let who: Vec<_> = who.iter().filter(missing).collect();
    let reports: Vec<_> = who.into_iter().map(|i| chain.shards_ready(&keys[*i].0)).collect();
    (!reports.is_empty()).then(|| chain.commit_system(&reports))
}

/// Lets ledger time pass to the next deadline, and makes the block there.
fn to_deadline(chain: &mut Chain) -> Executed {
    assert!(chain.state.epoch_deadline().is_some(), "ledger time has begun");
    chain.to_deadline()
}

/// Positions in [`node_keys`] of the members with shards, ascending.
fn members(chain: &Chain) -> Vec<usize> {
    let keys = node_keys(16);
    let committee = chain.state.committee();
    let weight = |i: &usize| committee.member(&keys[*i].0.public()).map_or(0, |m| m.weight());
    (0..keys.len()).filter(|i| weight(i) > 0).collect()
}

/// Registrations that a range of the index names.
fn indexed(chain: &Chain, query: IndexQuery) -> Vec<RegistrationId> {
    let range = query.range();
    let entries = chain.store.index(&range.start..&range.end, usize::MAX).unwrap();
    entries.iter().map(|entry| RegistrationId::new(*entry.last_chunk().unwrap())).collect()
}

/// Units sold and WAL paid for an epoch.
fn bucket(chain: &Chain, epoch: u64) -> (u64, u128) {
    match chain.record(&Key::Epoch(Epoch::new(epoch))) {
        Some(Record::Epoch(epoch)) => (epoch.units, epoch.bucket.frost()),
        _ => (0, 0),
    }
}

/// Puts a record into the store behind the state's back, for what no operation can make yet.
fn plant(chain: &mut Chain, key: &Key, record: &Record) {
    let version = chain.state.tip().height.get();
    let entry = Entry { key: key.clone(), record: record.clone() };
    let values = vec![(key.hash(), Some(entry.to_bytes()))];
    chain.store.write(StateChange { version, values, ..StateChange::default() });
}

/// Frost that `key` has after the running epoch's fees, for sums in tests.
fn spent(before: Amount, after: Amount) -> u128 {
    before.frost().checked_sub(after.frost()).expect("it paid")
}
