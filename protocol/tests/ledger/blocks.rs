//! Blocks that lie, commit records, and the headers of honest ones.

use std::time::Duration;

use floe_protocol::{
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsKeyPair, BlsSignature, KeyPair, NodeId, Signature},
    ledger::{
        Block, BlockError, BlockHash, Body, CommitRecord, CommitRecordError, Key, Known,
        LatePrecommit, LoadError, MAX_BLOCK_BYTES, NodeIdentity, NodeSettings, Operation,
        OperationError, Presence, Record, SignedTransaction, State, Timestamp, Transaction,
        TransactionError, beacon_message, next_beacon,
    },
    test_support::{Chain, account_key, genesis, node_keys},
    vote::{CommitCertificate, CommitCertificateError, Vote, VoteKind},
};

use super::{N, chain, commit, frost, id, propose, resealed, transfer};

type Change = fn(&mut Block);

fn refused(chain: &Chain, block: &Block) -> BlockError {
    match chain.state.execute(&chain.store, block, &|_| false) {
        Ok(_) => unreachable!("refused"),
        Err(error) => error,
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    let mut chain = chain();
    commit(&mut chain, &account_key(0), vec![transfer(1, 1)]);
    let signed = chain.sign(&account_key(0), vec![transfer(1, 1)]);
    let (good, _, _) = propose(&chain, &[], &[signed]);
    let changes: [(&str, Change); 15] = [
        ("parent", |b| b.header.parent = BlockHash::new(Hash::ZERO)),
        ("time", |b| b.header.time = Timestamp::from_ms(b.header.time.ms() - 100)),
        ("time", |b| b.header.time = Timestamp::from_ms(0)),
        ("epoch", |b| b.header.epoch = Epoch::new(1)),
        ("proposer", |b| b.header.proposer = NodeId::new([9; 32])),
        ("beacon", |b| b.header.beacon = Hash::ZERO),
        ("beacon", |b| b.header.beacon_signature = BlsSignature::new([0; 96])),
        ("commit record", |b| b.header.commit_record = Hash::ZERO),
        ("commit record", |b| b.body.commit_record = CommitRecord::default()),
        ("transactions root", |b| b.header.transactions_root = Hash::ZERO),
        ("transactions root", |b| b.body.transactions.clear()),
        ("state root", |b| b.header.state_root = Hash::ZERO),
        ("events root", |b| b.header.events_root = Hash::ZERO),
        ("next committee", |b| b.header.next_committee = Hash::ZERO),
        // Another time is another epoch's start: nothing that happened changes, but the hash.
        ("beacon signature", |b| {
            let other = node_keys(4).into_iter().find(|(k, _)| k.public() != b.header.proposer);
            b.header.proposer = other.unwrap().0.public();
        }),
    ];
    for (field, change) in changes {
        let mut block = good.clone();
        change(&mut block);
        let error = refused(&chain, &block);
        assert!(matches!(error, BlockError::Header(wrong) if wrong == field), "{field}: {error:?}");
        assert!(!error.is_fatal());
    }
    // A signature that is right for another height, with a beacon that follows from it.
    let (_, bls) = chain.proposer();
    let mut block = good.clone();
    let later = beacon_message(&chain.id(), &chain.state.tip().beacon, Height::new(9));
    block.header.beacon_signature = bls.sign(&later);
    block.header.beacon = next_beacon(&chain.state.tip().beacon, &block.header.beacon_signature);
    let error = refused(&chain, &block);
    assert!(matches!(error, BlockError::Header("beacon signature")), "{error:?}");
    for height in [0, 1, 3, u64::MAX] {
        let mut block = good.clone();
        block.header.height = Height::new(height);
        let error = refused(&chain, &block);
        let BlockError::Height { expected, .. } = error else { unreachable!("{error:?}") };
        assert_eq!(expected, Height::new(2));
    }
    chain.apply(&good).unwrap();
    assert!(matches!(refused(&chain, &good), BlockError::Height { .. }), "it is past");
}

#[test]
fn a_body_holds_only_what_can_be_executed() {
    let mut chain = chain();
    chain.commit(&[]);
    let (empty, _, _) = propose(&chain, &[], &[]);
    let with = |transactions: Vec<SignedTransaction>| {
        let body = Body { transactions, ..empty.body.clone() };
        resealed(&chain, Block { body, ..empty.clone() })
    };
    let good = chain.sign(&account_key(0), vec![transfer(1, 1)]);
    let second = Transaction { nonce: 1, ..good.transaction.clone() };
    let second = second.sign(&chain.id(), &account_key(0));
    let mut forged = second.clone();
    forged.signature = Signature::new([1; 64]);
    let error = refused(&chain, &with(vec![good.clone(), forged.clone()]));
    let signature = TransactionError::Signature;
    assert!(
        matches!(error, BlockError::Transaction { position: 1, error } if error == signature),
        "{error:?}"
    );
    // Known ids are not checked again, but a forged one has another id.
    let (known, block) = (second.id(&chain.id()), with(vec![good.clone(), forged]));
    let is_known = |what: Known<'_>| matches!(what, Known::Transaction(id) if *id == known);
    let result = chain.state.execute(&chain.store, &block, &is_known);
    assert!(matches!(result, Err(BlockError::Transaction { position: 1, .. })));
    for order in [vec![second.clone(), good.clone()], vec![good.clone(), good.clone()]] {
        let error = refused(&chain, &with(order));
        let nonce =
            matches!(error, BlockError::Operation { error: OperationError::Nonce { .. }, .. });
        assert!(nonce, "{error:?}");
    }
    // Executed, but the header says nothing of it.
    let error = refused(&chain, &with(vec![good.clone(), second.clone()]));
    assert!(matches!(error, BlockError::Header("state root")), "{error:?}");
    let (block, _, _) = propose(&chain, &[], &[good, second]);
    chain.apply(&block).unwrap();
}

#[test]
fn blocks_are_bounded() {
    let chain = chain();
    let settings = NodeSettings {
        addresses: vec!["x".repeat(128); 8],
        commission_bps: 0,
        storage_price: frost(1),
        write_price: frost(1),
        capacity_units: 1,
    };
    let update = Operation::UpdateNode { node: NodeId::new([1; 32]), settings };
    let large = chain.sign(&account_key(0), vec![update; 28]);
    let bytes = large.to_bytes().len();
    let (empty, _, _) = propose(&chain, &[], &[]);
    // More than three quarters belong to system operations.
    let body = Body { transactions: vec![large; 800 * 1024 / bytes], ..empty.body.clone() };
    let block = resealed(&chain, Block { body, ..empty });
    assert!(block.to_bytes().len() < MAX_BLOCK_BYTES);
    assert!(matches!(refused(&chain, &block), BlockError::TooLarge));
    assert_eq!(Block::from_bytes(&block.to_bytes()).as_ref(), Ok(&block));
    assert!(Block::from_bytes(&vec![0; MAX_BLOCK_BYTES + 1]).is_err());
    let long = [block.to_bytes(), vec![0]].concat();
    assert!(Block::from_bytes(&long).is_err());
}

fn with_record(chain: &Chain, commit_record: CommitRecord) -> Result<(), CommitRecordError> {
    let (block, _, _) = propose(chain, &[], &[]);
    let body = Body { commit_record, ..block.body };
    match chain.state.execute(&chain.store, &resealed(chain, Block { body, ..block }), &|_| false) {
        // The state is another than the header's where other votes are recorded.
        Ok(_) | Err(BlockError::Header("state root")) => Ok(()),
        Err(BlockError::CommitRecord(error)) => Err(error),
        Err(error) => unreachable!("{error:?}"),
    }
}

#[test]
fn a_block_records_a_quorum_for_its_parent() {
    let mut chain = chain();
    let record = |parent| CommitRecord { parent, late: Vec::new() };
    let certificate = CommitCertificate {
        height: Height::new(0),
        round: 0,
        block: chain.state.tip().hash,
        signatures: Vec::new(),
    };
    let parent = Err(CommitRecordError::Parent);
    assert_eq!(with_record(&chain, record(Some(certificate))), parent, "genesis has none");
    chain.commit(&[]);
    chain.commit(&[]);
    let (_, good) = chain.blocks[1].clone();
    let check = |change: fn(&mut CommitCertificate)| {
        let mut certificate = good.clone();
        change(&mut certificate);
        with_record(&chain, record(Some(certificate)))
    };
    assert_eq!(check(|_| {}), Ok(()));
    assert_eq!(with_record(&chain, record(None)), parent);
    assert_eq!(with_record(&chain, record(Some(chain.blocks[0].1.clone()))), parent);
    assert_eq!(check(|c| c.height = Height::new(3)), parent);
    assert_eq!(check(|c| c.block = BlockHash::new(Hash::ZERO)), parent);
    let signers = Err(CommitRecordError::Certificate(CommitCertificateError::Signers));
    assert_eq!(check(|c| c.signatures.swap(0, 1)), signers);
    assert_eq!(check(|c| c.signatures[1] = c.signatures[0]), signers);
    assert_eq!(check(|c| c.signatures[3].position = 4), signers);
    let wrong =
        |position| Err(CommitRecordError::Certificate(CommitCertificateError::Signature(position)));
    assert_eq!(check(|c| c.round = 1), wrong(0));
    assert_eq!(check(|c| c.signatures[2].signature = c.signatures[1].signature), wrong(2));
    let few = check(|c| c.signatures.truncate(2));
    let no_quorum = CommitCertificateError::NoQuorum { weight: 4, n_shards: N };
    assert_eq!(few, Err(CommitRecordError::Certificate(no_quorum)));
    // A quorum is enough.
    assert_eq!(check(|c| c.signatures.truncate(3)), Ok(()));
}

/// Applies a block, of whose precommits only the first three will be recorded by the next.
fn commit_with_three(chain: &mut Chain, late: Vec<LatePrecommit>) -> Result<(), BlockError> {
    let (node, bls) = chain.proposer();
    let parent = chain.blocks.last().map(|(_, certificate)| certificate.clone());
    let proposal = floe_protocol::ledger::Proposal {
        node: node.public(),
        bls,
        round: 0,
        now: chain.now,
        commit_record: CommitRecord { parent, late },
    };
    let block =
        chain.state.propose(&chain.store, proposal, (&[], &|_| false), &mut |_| None)?.block;
    chain.apply(&block)?;
    chain.blocks.last_mut().unwrap().1.signatures.truncate(3);
    Ok(())
}

fn late(chain: &Chain, height: u64, position: u16) -> LatePrecommit {
    let at = usize::try_from(height).unwrap() - 1;
    let block = chain.blocks[at].0.header.hash();
    let voter = chain.state.committee().members()[usize::from(position)].node;
    let keys = node_keys(4);
    let (key, _) = keys.iter().find(|(key, _)| key.public() == voter).unwrap();
    let (height, kind) = (Height::new(height), VoteKind::Precommit);
    let vote = Vote { height, round: 0, kind, block: Some(block), voter };
    let signature = vote.sign(&chain.id(), key).signature;
    LatePrecommit { height, round: 0, position, signature }
}

fn presence(chain: &Chain, height: u64) -> Option<Presence> {
    match chain.record(&Key::Presence(Height::new(height))) {
        Some(Record::Presence(presence)) => Some(presence),
        _ => None,
    }
}

#[test]
fn late_precommits_count_once_and_for_a_hundred_heights() {
    let mut chain = chain();
    for _ in 0..4 {
        commit_with_three(&mut chain, Vec::new()).unwrap();
    }
    assert_eq!(presence(&chain, 2).unwrap().recorded, [true, true, true, false]);
    let (two, three, four) = (late(&chain, 2, 3), late(&chain, 3, 3), late(&chain, 4, 3));
    let refuse = |chain: &mut Chain, late: Vec<LatePrecommit>, height: u64| {
        let error = commit_with_three(chain, late).unwrap_err();
        let expected = CommitRecordError::Late(Height::new(height));
        assert!(
            matches!(error, BlockError::CommitRecord(error) if error == expected),
            "{error:?}, not {expected}"
        );
    };
    refuse(&mut chain, vec![three, two], 2);
    refuse(&mut chain, vec![two, two], 2);
    let recorded = late(&chain, 2, 1);
    refuse(&mut chain, vec![recorded], 2);
    refuse(&mut chain, vec![LatePrecommit { position: 4, ..two }], 2);
    refuse(&mut chain, vec![LatePrecommit { round: 1, ..two }], 2);
    refuse(&mut chain, vec![LatePrecommit { signature: three.signature, ..two }], 2);
    for height in [0, 5, 6, u64::MAX] {
        refuse(&mut chain, vec![LatePrecommit { height: Height::new(height), ..two }], height);
    }
    refuse(&mut chain, vec![two; usize::from(N) + 1], 2);
    // The parent's own may come beside its certificate.
    commit_with_three(&mut chain, vec![two, four]).unwrap();
    assert_eq!(presence(&chain, 2).unwrap().recorded, [true; 4]);
    assert_eq!(presence(&chain, 4).unwrap().recorded, [true; 4]);
    refuse(&mut chain, vec![two], 2);
    // Height 3 is among the last hundred of height 103, and no more of 104.
    while chain.state.next_height() < Height::new(103) {
        commit_with_three(&mut chain, Vec::new()).unwrap();
    }
    assert_eq!(presence(&chain, 1), None);
    let before = chain.clone_state();
    commit_with_three(&mut chain, vec![three]).unwrap();
    chain.restore(before);
    commit_with_three(&mut chain, Vec::new()).unwrap();
    refuse(&mut chain, vec![three], 3);
    assert!(presence(&chain, 4).is_some());
}

/// To go back to a moment of a chain.
trait Moment {
    fn clone_state(&self) -> (State, floe_protocol::ledger::MemoryStore, Timestamp, usize);
    fn restore(&mut self, moment: (State, floe_protocol::ledger::MemoryStore, Timestamp, usize));
}

impl Moment for Chain {
    fn clone_state(&self) -> (State, floe_protocol::ledger::MemoryStore, Timestamp, usize) {
        (self.state.clone(), self.store.clone(), self.now, self.blocks.len())
    }

    fn restore(&mut self, moment: (State, floe_protocol::ledger::MemoryStore, Timestamp, usize)) {
        (self.state, self.store, self.now) = (moment.0, moment.1, moment.2);
        self.blocks.truncate(moment.3);
    }
}

#[test]
fn the_committee_of_the_header_changes_with_the_epoch() {
    let mut chain = chain();
    let genesis_committee = chain.state.committee().hash();
    chain.commit(&[]);
    assert_eq!(chain.blocks[0].0.header.next_committee, genesis_committee);
    chain.next_epoch();
    let last = chain.blocks.last().unwrap().0.header;
    assert_eq!(last.epoch, Epoch::new(0), "the last block of the epoch");
    let next = chain.state.committee();
    assert_eq!((last.next_committee, next.epoch()), (next.hash(), Epoch::new(1)));
    assert_ne!(last.next_committee, genesis_committee);
    assert_eq!(chain.state.previous_committee().epoch(), Epoch::new(0));
    // The next one records what the old committee voted.
    chain.commit(&[]);
    assert_eq!(chain.blocks.last().unwrap().0.header.epoch, Epoch::new(1));
    assert_eq!(chain.state.previous_committee().epoch(), Epoch::new(1));
    let last_height = last.height.get();
    assert_eq!(presence(&chain, last_height).unwrap().epoch, Epoch::new(0));
}

#[test]
fn a_state_is_loaded_only_from_the_store_that_holds_it() {
    let genesis = genesis(4, N);
    let (start, _) = State::genesis(&genesis).unwrap();
    let mut chain = Chain::new(&genesis);
    for _ in 0..3 {
        commit(&mut chain, &account_key(0), vec![transfer(1, 1)]);
    }
    chain.next_epoch();
    let header = chain.blocks.last().unwrap().0.header;
    let loaded = State::load(&start, &header, &chain.store).unwrap();
    assert_eq!(loaded.tip(), chain.state.tip());
    assert_eq!(loaded.committee(), chain.state.committee());
    assert_eq!(loaded.previous_committee(), chain.state.previous_committee());
    assert_eq!(loaded.summary(), chain.state.summary());
    for (what, wrong) in [
        ("state root", floe_protocol::ledger::Header { state_root: Hash::ZERO, ..header }),
        ("committee", floe_protocol::ledger::Header { next_committee: Hash::ZERO, ..header }),
        ("epoch", floe_protocol::ledger::Header { epoch: Epoch::new(7), ..header }),
    ] {
        let error = State::load(&start, &wrong, &chain.store).unwrap_err();
        assert!(matches!(error, LoadError::OtherState(_)), "{what}: {error:?}");
    }
    let absent = floe_protocol::ledger::Header { height: Height::new(99), ..header };
    let error = State::load(&start, &absent, &chain.store).unwrap_err();
    assert!(matches!(error, LoadError::Read(_)), "{error:?}");
    let sender = id(&account_key(0));
    assert_eq!(super::account(&chain, &sender).nonce, 3);
}

/// A transaction that fails only after 63 new keys have been checked.
fn unpaid_keys(chain: &Chain) -> SignedTransaction {
    let key = account_key(0);
    let settings = NodeSettings {
        addresses: Vec::new(),
        commission_bps: 0,
        storage_price: frost(1),
        write_price: frost(1),
        capacity_units: 1,
    };
    let mut operations: Vec<_> = (100..163)
        .map(|i| {
            let (node, bls) = (KeyPair::from_seed([i; 32]), BlsKeyPair::from_seed([i; 32]));
            let identity = NodeIdentity::new(&chain.id(), &id(&key), &node, &bls);
            Operation::RegisterNode { identity: Box::new(identity), settings: settings.clone() }
        })
        .collect();
    operations.push(transfer(1, u128::MAX));
    chain.sign(&key, operations)
}

#[test]
fn what_a_proposer_refuses_costs_it_a_bounded_number_of_checks() {
    let mut chain = chain();
    let unpaid = unpaid_keys(&chain);
    let checked = unpaid.clone().verify(&chain.id()).unwrap();
    let alone = chain.state.check(&chain.store, &checked, chain.now).unwrap();
    assert!(matches!(alone, Err(OperationError::Funds { .. })), "{alone:?}");
    let good = chain.sign(&account_key(1), vec![transfer(2, 5)]);
    // Four of them use up what a block may check.
    let mut offered = vec![unpaid; 4];
    offered.push(good);
    let (block, _, left_out) = propose(&chain, &[], &offered);
    assert_eq!(block.body.transactions, offered[4..], "the rest is included");
    assert_eq!(left_out.len(), 4);
    offered.insert(0, offered[0].clone());
    let (empty, _, left_out) = propose(&chain, &[], &offered);
    assert_eq!(empty.body.transactions, [], "no further one is tried");
    assert_eq!(left_out.len(), 4);
    // What it has done in vain is no part of the block.
    chain.apply(&block).unwrap();
}

#[test]
fn a_proposer_tries_a_bounded_number_of_transactions_in_vain() {
    let mut chain = chain();
    let mut gap = chain.sign(&account_key(0), vec![transfer(1, 5)]).transaction;
    gap.nonce += 1;
    let gap = gap.sign(&chain.id(), &account_key(0));
    let good = chain.sign(&account_key(1), vec![transfer(2, 5)]);
    let offered = |gaps: usize| {
        let mut offered = vec![gap.clone(); gaps];
        offered.push(good.clone());
        offered
    };
    let (empty, _, left_out) = propose(&chain, &[], &offered(256));
    assert_eq!((empty.body.transactions.len(), left_out.len()), (0, 256), "the last one is told");
    let (block, _, left_out) = propose(&chain, &[], &offered(255));
    assert_eq!((block.body.transactions.len(), left_out.len()), (1, 255));
    chain.apply(&block).unwrap();
}

#[test]
fn the_wait_for_an_epochs_deadline_is_counted_from_the_tip() {
    let mut chain = chain();
    assert_eq!(chain.state.epoch_wait(), None, "ledger time has not begun");
    chain.commit(&[]);
    let wait = chain.state.epoch_wait().unwrap();
    let epoch = Duration::from_millis(chain.state.parameters().ledger.epoch_ms);
    assert_eq!(wait, epoch / 2);
    chain.now = chain.state.tip().time.plus_ms(1_000);
    chain.commit(&[]);
    assert_eq!(chain.state.epoch_wait(), Some(wait - Duration::from_secs(1)));
    chain.now = chain.eve().unwrap().plus_ms(1);
    chain.commit(&[]);
    chain.now = chain.state.epoch_deadline().unwrap().plus_ms(1);
    chain.commit(&[]);
    let rest = epoch / 2 - Duration::from_millis(1);
    assert_eq!(chain.state.epoch_wait(), Some(rest), "the next deadline");
}

#[test]
fn a_block_checks_a_bounded_number_of_certificates() {
    let mut chain = chain();
    // What fits are 8 transactions of 64 certificates with four signers each.
    let senders: Vec<_> = (0..8).chain([0]).map(account_key).collect();
    let mut signed = Vec::new();
    for (i, key) in senders.iter().enumerate() {
        // The last sender is the first once more, with another blob.
        let header = super::header(u8::try_from(i / 8).unwrap());
        let operations = (1..=64).map(|epochs| super::register(header, epochs, true));
        let registered = chain.sign(key, operations.collect());
        let name = registered.id(&chain.id());
        chain.commit(&[registered]);
        let certify = (0..64).map(|index| {
            let registration = name.registration(&chain.id(), index);
            super::certify(&chain, registration, &header)
        });
        signed.push((i, certify.collect::<Vec<_>>()));
    }
    let expires = chain.now.plus_ms(60_000);
    let transactions: Vec<_> = signed
        .into_iter()
        .map(|(i, operations)| {
            let mut transaction = chain.sign(&senders[i], operations).transaction;
            transaction.nonce += u64::from(i == 8);
            Transaction { expires, ..transaction }.sign(&chain.id(), &senders[i])
        })
        .collect();
    let (block, _, left_out) = propose(&chain, &[], &transactions);
    assert_eq!(block.body.transactions, transactions[..8]);
    assert_eq!(left_out, [], "the last one waits");
    let body = Body { transactions: transactions.clone(), ..block.body.clone() };
    let full = resealed(&chain, Block { body, ..block.clone() });
    let error = refused(&chain, &full);
    let block_full =
        matches!(error, BlockError::Operation { position: 8, error: OperationError::BlockFull });
    assert!(block_full, "{error:?}");
    chain.apply(&block).unwrap();
    chain.commit(&transactions[8..]);
}
