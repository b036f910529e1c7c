//! Reports of nodes and of invalid blobs that the ledger refuses, and those that it takes.

use floe_protocol::{
    certificate::CertificateError,
    committee::{Committee, CommitteeFact},
    hash::Hash,
    index::{Epoch, Height, ShardIndex},
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::KeyPair,
    ledger::{
        BlobState, BlockHash, Event, IndexRange, NodeReady, OperationError, ShardsReady,
        StateReader as _, SystemOperation,
    },
    test_support::{Chain, account_key, genesis, node_keys},
};

use super::{
    N, blob, chain, fails, header, register, registered, report_ready, stored, system_refused,
    to_deadline,
};

fn ready(report: NodeReady) -> SystemOperation {
    SystemOperation::NodeReady { report }
}

fn shards(report: ShardsReady) -> SystemOperation {
    SystemOperation::ShardsReady { report }
}

#[test]
fn a_node_reports_once_an_epoch_and_names_a_block_of_now() {
    let mut chain = chain();
    chain.commit(&[]);
    let first = *chain.state.tip();
    let (key, other) = (&node_keys(4)[0].0, &node_keys(4)[1].0);
    let (chain_id, epoch) = (chain.id(), Epoch::new(0));
    let named = (first.height, first.hash);
    let good = NodeReady::new(&chain_id, key, epoch, named);
    for (what, report, error) in [
        (
            "another epoch",
            NodeReady::new(&chain_id, key, Epoch::new(1), named),
            OperationError::OtherEpoch { epoch },
        ),
        (
            "another block",
            NodeReady::new(&chain_id, key, epoch, (first.height, BlockHash::new(Hash::ZERO))),
            OperationError::OldBlock(first.height),
        ),
        (
            "a block to come",
            NodeReady::new(&chain_id, key, epoch, (Height::new(2), first.hash)),
            OperationError::OldBlock(Height::new(2)),
        ),
        (
            "no block yet",
            NodeReady::new(&chain_id, key, epoch, (Height::new(0), BlockHash::genesis(&chain_id))),
            OperationError::OldBlock(Height::new(0)),
        ),
        ("somebody else", NodeReady { node: other.public(), ..good }, OperationError::Report),
        (
            "another network",
            NodeReady::new(&genesis(5, N).chain_id(), key, epoch, named),
            OperationError::Report,
        ),
        (
            "no node",
            NodeReady::new(&chain_id, &KeyPair::from_seed([9; 32]), epoch, named),
            OperationError::NoNode,
        ),
    ] {
        assert_eq!(system_refused(&chain, ready(report)), error, "{what}");
    }
    // Thirty seconds later it is too old, a moment earlier it is not.
    let start = chain.now;
    chain.now = first.time.plus_ms(30_001);
    assert_eq!(system_refused(&chain, ready(good)), OperationError::OldBlock(first.height));
    chain.now = first.time.plus_ms(30_000);
    let (block, _) = chain.propose(&[ready(good)], &[]).unwrap();
    assert_eq!(block.body.system, [ready(good)]);
    chain.now = start;
    // With blocks in between as well.
    chain.commit(&[]);
    let executed = chain.commit_system(&[ready(good)]);
    let reported = Event::NodeReported { node: key.public(), epoch };
    assert!(executed.events.iter().any(|event| *event == reported));
    assert_eq!(system_refused(&chain, ready(good)), OperationError::Reported);
    let again = chain.node_ready(key);
    assert_eq!(system_refused(&chain, again), OperationError::Reported);
    // Before it is gossiped it is judged the same way.
    let judge = |operation| chain.state.check_system(&chain.store, &operation).unwrap();
    assert_eq!(judge(chain.node_ready(key)), Err(OperationError::Reported));
    assert_eq!(judge(chain.node_ready(other)), Ok(()), "it may name the tip");
    chain.next_epoch();
    assert_eq!(
        system_refused(&chain, ready(good)),
        OperationError::OtherEpoch { epoch: Epoch::new(1) }
    );
    report_ready(&mut chain, &[0]);
}

#[test]
fn candidates_of_past_epochs_leave_the_index() {
    let mut chain = chain();
    chain.commit(&[]);
    let entries = |chain: &Chain, range: &IndexRange| {
        chain.store.index(&range.start..&range.end, 99).unwrap().len()
    };
    for epoch in (0..3).map(Epoch::new) {
        report_ready(&mut chain, &[0, 2, 3]);
        assert_eq!(entries(&chain, &IndexRange::ready(epoch)), 3);
        assert_eq!(entries(&chain, &IndexRange::ready_before(epoch)), 0);
        chain.next_epoch();
        chain.commit(&[]);
        assert_eq!(entries(&chain, &IndexRange::ready(epoch)), 0);
    }
}

/// A chain in whose epoch 1 node 0 is no member, and the others have gained its shards.
fn moved() -> Chain {
    let mut chain = Chain::new(&genesis(6, N));
    chain.commit(&[]);
    report_ready(&mut chain, &[1, 2, 3, 4, 5]);
    to_deadline(&mut chain);
    to_deadline(&mut chain);
    assert_eq!(chain.state.summary().epoch, Epoch::new(1));
    chain
}

#[test]
fn only_the_holder_of_now_says_that_shards_are_ready() {
    let mut chain = moved();
    let keys = node_keys(6);
    let records = chain.state.shards(&chain.store).unwrap();
    let unready = records.iter().position(|record| !record.is_ready()).unwrap();
    let shard = ShardIndex::new(u16::try_from(unready).unwrap());
    let committee = Committee::clone(chain.state.committee());
    let holder = &committee.members()[committee.holder(shard)];
    let (key, _) = keys.iter().find(|(key, _)| key.public() == holder.node).unwrap();
    let other = keys.iter().find(|(key, _)| {
        committee.member(&key.public()).is_some_and(|member| member.node != holder.node)
    });
    let (other, _) = other.unwrap();
    let (id, epoch, own) = (chain.id(), Epoch::new(1), holder.shards.clone());
    let good = ShardsReady::new(&id, key, epoch, own.clone());
    let mut all = own.clone();
    let foreign = committee.member(&other.public()).unwrap().shards[0];
    all.push(foreign);
    all.sort_unstable();
    let twice = vec![own[0], own[0]];
    let beyond = [&own[..], &[ShardIndex::new(N)]].concat();
    let foreign = OperationError::ForeignShard;
    for (what, report, error) in [
        (
            "the epoch before",
            ShardsReady::new(&id, key, Epoch::new(0), own.clone()),
            OperationError::OtherEpoch { epoch },
        ),
        (
            "the epoch to come",
            ShardsReady::new(&id, key, Epoch::new(2), own.clone()),
            OperationError::OtherEpoch { epoch },
        ),
        ("another's", ShardsReady::new(&id, other, epoch, own.clone()), foreign.clone()),
        ("by who had it", ShardsReady::new(&id, &keys[0].0, epoch, own.clone()), foreign.clone()),
        ("one too many", ShardsReady::new(&id, key, epoch, all), foreign.clone()),
        ("twice", ShardsReady::new(&id, key, epoch, twice), foreign.clone()),
        ("no such shard", ShardsReady::new(&id, key, epoch, beyond), foreign),
        ("nothing", ShardsReady::new(&id, key, epoch, Vec::new()), OperationError::Reported),
        (
            "signed by another",
            ShardsReady { node: key.public(), ..ShardsReady::new(&id, other, epoch, own.clone()) },
            OperationError::Report,
        ),
        (
            "for another network",
            ShardsReady::new(&genesis(5, N).chain_id(), key, epoch, own),
            OperationError::Report,
        ),
    ] {
        assert_eq!(system_refused(&chain, shards(report)), error, "{what}");
    }
    assert_eq!(chain.state.shards(&chain.store).unwrap(), records);
    let executed = chain.commit_system(&[shards(good.clone())]);
    let completed = Event::ShardsCompleted { node: key.public(), shards: good.shards.clone() };
    assert!(executed.events.iter().any(|event| *event == completed));
    let now = &chain.state.shards(&chain.store).unwrap()[shard.as_usize()];
    assert_eq!((now.is_ready(), now.last_ready), (true, key.public()));
    assert_eq!(system_refused(&chain, shards(good)), OperationError::Reported);
}

/// The word of the members at `positions` that a blob is inconsistent.
fn invalid(chain: &Chain, committee: &Committee, i: u8, positions: &[usize]) -> SystemOperation {
    let fact = InvalidityFact { epoch: committee.epoch(), blob: header(i).id() };
    let keys = node_keys(6);
    let sign = |position: &usize| {
        let node = committee.members()[*position].node;
        let (_, bls) = keys.iter().find(|(key, _)| key.public() == node).unwrap();
        (*position, fact.sign(&chain.id(), bls))
    };
    let signatures: Vec<_> = positions.iter().map(sign).collect();
    let certificate = InvalidityCertificate::new(committee, fact, &signatures).unwrap();
    SystemOperation::InvalidateBlob { certificate: certificate.to_bytes() }
}

#[test]
fn more_than_f_shards_make_a_blob_invalid() {
    let mut chain = chain();
    let key = account_key(0);
    stored(&mut chain, &key, header(1), 5, false);
    registered(&mut chain, &key, register(header(2), 5, false));
    let committee = Committee::clone(chain.state.committee());
    let light = committee.members().iter().position(|member| member.weight() == 1).unwrap();
    let heavy: Vec<_> = (0..4).filter(|i| *i != light).collect();
    let good = invalid(&chain, &committee, 1, &heavy[..2]);
    assert_eq!(
        system_refused(&chain, invalid(&chain, &committee, 3, &heavy[..2])),
        OperationError::NoBlob
    );
    let error = |operation| match system_refused(&chain, operation) {
        OperationError::Certificate(error) => error,
        other => unreachable!("{other:?}"),
    };
    // Whoever has no more than f shards convinces nobody: the bits of the others are cleared.
    let mut few = good.clone();
    let SystemOperation::InvalidateBlob { certificate } = &mut few else { unreachable!() };
    certificate[42] = 1 << heavy[0];
    assert_eq!(error(few), CertificateError::NoQuorum { weight: 2, n_shards: N });
    let later = committee.in_epoch(Epoch::new(1));
    assert_eq!(
        error(invalid(&chain, &later, 1, &heavy[..2])),
        CertificateError::Epoch { certificate: Epoch::new(1), committee: Epoch::new(0) }
    );
    let mut other = good.clone();
    let SystemOperation::InvalidateBlob { certificate } = &mut other else { unreachable!() };
    certificate[8..40].copy_from_slice(header(2).id().as_bytes());
    assert_eq!(error(other), CertificateError::Signature, "it is about another blob");
    let mut long = good.clone();
    let SystemOperation::InvalidateBlob { certificate } = &mut long else { unreachable!() };
    certificate.push(0);
    assert_eq!(error(long), CertificateError::Malformed);

    let executed = chain.commit_system(std::slice::from_ref(&good));
    let gone = Event::BlobInvalidated { blob: header(1).id() };
    assert!(executed.events.iter().any(|event| *event == gone));
    let record = blob(&chain, &header(1)).unwrap();
    assert_eq!(record.state(Epoch::new(0)), BlobState::Invalid);
    assert_eq!(system_refused(&chain, good), OperationError::BlobInvalid);
    assert_eq!(fails(&chain, &key, register(header(1), 9, false)), OperationError::BlobInvalid);
    // One that nobody has certified can be as wrong.
    let uncertified = invalid(&chain, &committee, 2, &[heavy[0], light]);
    chain.commit_system(&[uncertified]);
    // With the last registration nothing but the verdict remains.
    for _ in 0..6 {
        chain.next_epoch();
    }
    chain.commit(&[]);
    let record = blob(&chain, &header(1)).unwrap();
    assert_eq!((record.registrations, record.invalid), (0, true));
    assert_eq!(fails(&chain, &key, register(header(1), 9, false)), OperationError::BlobInvalid);
}
