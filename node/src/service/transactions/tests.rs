//! What strangers send, judged by states in memory.

use std::{cell::Cell, ops::Range, sync::Arc, time::Instant};

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    certificate::{Certificate, ConfirmedFact},
    committee::{Committee, CommitteeFact},
    hash::Hash,
    index::{Epoch, Height},
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::{KeyPair, NodeId},
    ledger::{
        AccountId, Amount, BlockHash, MemoryStore, NodeReady, Operation, ReadError, ShardsReady,
        SignedTransaction, StateReader, SystemOperation, Transaction, VersionedValue,
    },
    message::LedgerAnnouncement,
    registration::RegistrationId,
    test_support::{self, Chain, account_key, node_keys},
    vote::{Equivocation, Vote, VoteKind},
};

use super::{
    budget::Budget,
    judge::{Content, Judge, Message},
};

/// Who is no member.
fn stranger(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

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
    all(&judge, std::slice::from_ref(announcement)).unwrap().pop().unwrap()
}

fn parsed(announcement: &LedgerAnnouncement) -> Message {
    Message::parse(&announcement.encode().unwrap())
}

/// Judges what a stranger passes on at once.
fn all(judge: &Judge<'_>, messages: &[LedgerAnnouncement]) -> Result<Vec<Content>, ReadError> {
    let messages: Vec<_> = messages.iter().map(|one| (stranger(1), parsed(one))).collect();
    let now = Instant::now();
    judge.messages(&messages, &mut Budget::new(now), now)
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
    let newest = || Arc::new(chain.state.clone());
    let judge = Judge { newest: &newest, reader: &chain.store };
    let judged = all(&judge, &messages).unwrap();
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
    // Every second look at the state comes too late.
    let looks = Cell::new(0);
    let newest = || {
        looks.set(looks.get() + 1);
        if looks.get() % 2 == 1 { Arc::clone(&old) } else { Arc::new(chain.state.clone()) }
    };
    let judged = all(&Judge { newest: &newest, reader: &reader }, &messages).unwrap();
    assert!(matches!(&judged[0], Content::Transactions(list, true) if list.len() == 1));
    assert!(matches!(judged[1], Content::System(_)));
    // And if all of them do, that is no failure of the store.
    let newest = || Arc::clone(&old);
    let judged = all(&Judge { newest: &newest, reader: &reader }, &messages).unwrap();
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

fn system(operation: SystemOperation) -> LedgerAnnouncement {
    LedgerAnnouncement::System(operation)
}

/// The word of the members at `positions` of an epoch's committee that a blob is inconsistent.
fn invalidity(
    chain: &Chain,
    committee: &Committee,
    blob: BlobId,
    positions: &[usize],
) -> InvalidityCertificate {
    let fact = InvalidityFact { epoch: committee.epoch(), blob };
    let keys = node_keys(6);
    let sign = |position: &usize| {
        let node = committee.members()[*position].node;
        let (_, bls) = keys.iter().find(|(key, _)| key.public() == node).unwrap();
        (*position, fact.sign(&chain.id(), bls))
    };
    let signatures: Vec<_> = positions.iter().map(sign).collect();
    InvalidityCertificate::new(committee, fact, &signatures).unwrap()
}

fn invalidate(certificate: &InvalidityCertificate) -> LedgerAnnouncement {
    system(SystemOperation::InvalidateBlob { certificate: certificate.to_bytes() })
}

/// What is said in the name of the first member's keys, but not by it.
fn forged_reports(chain: &Chain, blob: BlobId) -> Vec<LedgerAnnouncement> {
    let (id, keys) = (chain.id(), node_keys(6));
    let (epoch, tip) = (chain.state.summary().epoch, chain.state.tip());
    let (other, named) = (&keys[5].0, (tip.height, tip.hash));
    let committee = chain.state.committee();
    let mut reports = Vec::new();
    for (key, _) in &keys[..5] {
        let report = NodeReady::new(&id, other, epoch, named);
        let report = NodeReady { node: key.public(), ..report };
        reports.push(system(SystemOperation::NodeReady { report }));
        if let Some(member) = committee.member(&key.public()) {
            let report = ShardsReady::new(&id, other, epoch, member.shards.clone());
            let report = ShardsReady { node: key.public(), ..report };
            reports.push(system(SystemOperation::ShardsReady { report }));
        }
    }
    let mut about_another = invalidity(chain, committee, BlobId::new([9; 32]), &[0, 1, 2]);
    about_another.fact.blob = blob;
    reports.push(invalidate(&about_another));
    reports
}

#[test]
fn forged_reports_convict_if_the_state_asks_for_their_signatures() {
    let (chain, _, blob) = registered();
    let is = |announcement: &LedgerAnnouncement| judged(&chain, announcement);
    for report in forged_reports(&chain, blob) {
        let LedgerAnnouncement::System(operation) = &report else { unreachable!("a report") };
        match operation {
            // All shards are ready: nobody looks at what else is said of them.
            SystemOperation::ShardsReady { .. } => assert!(matches!(is(&report), Content::Useless)),
            // Nobody but the first four is known.
            SystemOperation::NodeReady { report: about }
                if chain.state.committee().member(&about.node).is_none() =>
            {
                assert!(matches!(is(&report), Content::Useless));
            }
            _ => assert!(matches!(is(&report), Content::Invalid), "{operation:?}"),
        }
    }
    let committee = Committee::clone(chain.state.committee());
    let good = invalidity(&chain, &committee, blob, &[0, 1, 2]);
    assert!(matches!(is(&invalidate(&good)), Content::System(_)));
    // The bitmap follows epoch, blob and the number of members.
    let mut few = good.to_bytes();
    few[42] = 1;
    let malformed = good.to_bytes()[1..].to_vec();
    for certificate in [few, malformed] {
        let operation = SystemOperation::InvalidateBlob { certificate };
        assert!(matches!(is(&system(operation)), Content::Invalid));
    }
    // What another height may see otherwise.
    let mut later = good.clone();
    later.fact.epoch = Epoch::new(1);
    let unknown = invalidity(&chain, &committee, BlobId::new([9; 32]), &[0, 1, 2]);
    for certificate in [later, unknown] {
        assert!(matches!(is(&invalidate(&certificate)), Content::Useless));
    }
}

/// States from before a blob was registered to an epoch in which shards have moved, and what was
/// taken in each of them.
fn history() -> (Vec<Chain>, Vec<LedgerAnnouncement>, BlobId) {
    let mut chain = Chain::new(&test_support::genesis(6, 7));
    let (keys, mut chains, mut honest) = (node_keys(6), Vec::new(), Vec::new());
    let header = BlobHeader { n_shards: 7, len: 1_000, root: Hash::new([1; 32]) };
    let max_payment = Amount::from_wal(100);
    let register = Operation::RegisterBlob { header, epochs: 9, deletable: true, max_payment };
    chain.commit(&[]);
    for epoch in 0..3 {
        chains.push(chain.clone());
        let reports: Vec<_> = keys[1..].iter().map(|(key, _)| chain.node_ready(key)).collect();
        honest.extend(reports.iter().cloned().map(system));
        chain.commit_system(&reports);
        chains.push(chain.clone());
        if epoch == 1 {
            let signed = chain.sign(&account_key(0), vec![register.clone()]);
            chain.commit(&[signed]);
            let committee = chain.state.committee();
            honest.push(invalidate(&invalidity(&chain, committee, header.id(), &[0, 1, 2])));
            let held = |key: &&(KeyPair, _)| committee.member(&key.0.public()).is_some();
            let shards = keys.iter().filter(held).map(|(key, _)| chain.shards_ready(key));
            let shards = shards
                .filter(|report| chain.state.check_system(&chain.store, report).unwrap().is_ok());
            let shards: Vec<_> = shards.collect();
            assert!(!shards.is_empty(), "some have moved");
            honest.extend(shards.iter().cloned().map(system));
            honest.push(report(&chain, &keys[1].0, [1, 2]));
            chain.commit_system(&shards);
            chains.push(chain.clone());
        }
        chain.next_epoch();
    }
    chains.push(chain);
    (chains, honest, header.id())
}

#[test]
fn who_passes_on_what_it_has_verified_is_convicted_in_no_state() {
    let (chains, honest, blob) = history();
    let (mut taken, mut convicted) = (0, 0);
    for announcement in &honest {
        for chain in &chains {
            match judged(chain, announcement) {
                Content::System(_) => taken += 1,
                Content::Useless => {}
                other => unreachable!("{announcement:?} is {other:?}"),
            }
        }
    }
    assert!(taken > honest.len() / 2, "{taken} of {}", honest.len());
    // And nobody passes on what is forged: it is taken in no state.
    for forged in chains.iter().flat_map(|chain| forged_reports(chain, blob)) {
        for chain in &chains {
            match judged(chain, &forged) {
                Content::Invalid => convicted += 1,
                Content::Useless => {}
                other => unreachable!("{forged:?} is {other:?}"),
            }
        }
    }
    assert!(convicted > chains.len(), "{convicted}");
}

#[test]
fn who_costs_too_much_is_no_longer_heard_and_others_are() {
    let (chain, _, blob) = registered();
    let newest = || Arc::new(chain.state.clone());
    let judge = Judge { newest: &newest, reader: &chain.store };
    let now = Instant::now();
    let mut budget = Budget::new(now);
    let mut of = |from, message: &LedgerAnnouncement| {
        judge.messages(&[(from, parsed(message))], &mut budget, now).unwrap().pop().unwrap()
    };
    let forged = forged_reports(&chain, blob).pop().unwrap();
    let mut convicted = 0;
    while matches!(of(stranger(1), &forged), Content::Invalid) {
        convicted += 1;
    }
    assert!((100..1_000).contains(&convicted), "{convicted}");
    let used = report(&chain, &stranger_key(), [1, 2]);
    assert!(matches!(of(stranger(1), &used), Content::Useless), "the state alone says so");
    let honest = invalidate(&invalidity(&chain, chain.state.committee(), blob, &[0, 1, 2]));
    assert!(matches!(of(stranger(1), &honest), Content::Useless), "it is not looked at");
    assert!(matches!(of(stranger(2), &honest), Content::System(_)));
    // All strangers together have an end, too, of which members know nothing.
    for number in 2..9 {
        while matches!(of(stranger(number), &forged), Content::Invalid) {
            convicted += 1;
        }
    }
    assert!(convicted < 1_000, "{convicted}");
    assert!(matches!(of(stranger(9), &honest), Content::Useless));
    assert!(matches!(of(node_keys(4)[3].0.public(), &honest), Content::System(_)));
}

fn stranger_key() -> KeyPair {
    KeyPair::from_seed([7; 32])
}
