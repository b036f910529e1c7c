//! Signatures of transactions of different senders, one by one and together, and the end of an
//! epoch followed by a commit certificate and by a hand-over certificate:
//! `cargo bench -p floe-protocol --bench signatures`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floe_protocol::{
    bft,
    committee::{Committee, CommitteeFact},
    genesis::Genesis,
    handover::{HandoverCertificate, HandoverFact},
    index::Epoch,
    keys::{BlsSignature, KeyPair},
    ledger::{AccountId, Amount, Header, Operation, SignedTransaction, Timestamp, Transaction},
    light::{FinalHeader, Finality, LightClient, OldRoot, Start},
    message::Handover,
    test_support::{self, Chain},
};

fn signatures(criterion: &mut Criterion) {
    let chain = test_support::genesis(4, 7).chain_id();
    let mut group = criterion.benchmark_group("signatures");
    for count in [1, 2, 3, 4, 8, 32, 256_u64] {
        let sign = |index: u64| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&index.to_le_bytes());
            let key = KeyPair::from_seed(seed);
            let transaction = Transaction {
                sender: AccountId::new(key.public()),
                nonce: index,
                fee: Amount::from_frost(1),
                expires: Timestamp::from_ms(1),
                operations: vec![Operation::Transfer {
                    to: AccountId::new(key.public()),
                    amount: Amount::from_frost(1),
                }],
            };
            transaction.sign(&chain, &key)
        };
        let list: Vec<_> = (0..count).map(sign).collect();
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::new("one by one", count), &list, |bencher, list| {
            bencher.iter(|| {
                let verified = list.iter().cloned().map(|signed| signed.verify(&chain));
                assert!(verified.map(black_box).all(|verified| verified.is_ok()));
            });
        });
        group.bench_with_input(BenchmarkId::new("together", count), &list, |bencher, list| {
            bencher.iter(|| {
                let verified = SignedTransaction::verify_all(list.iter().cloned(), &chain);
                assert!(verified.into_iter().map(black_box).all(|verified| verified.is_ok()));
            });
        });
    }
    group.finish();
}

/// The first epoch of 64 members with a shard each, ended.
struct Ended {
    genesis: Genesis,
    chain: Chain,
    committee: Committee,
    header: Header,
    fact: HandoverFact,
    /// Of a quorum.
    signatures: Vec<(usize, BlsSignature)>,
    by_commit: Finality,
    by_handover: Finality,
}

impl Ended {
    const MEMBERS: u16 = 64;

    fn new() -> Self {
        let genesis = test_support::genesis(Self::MEMBERS.into(), Self::MEMBERS);
        let mut chain = Chain::new(&genesis);
        chain.next_epoch();
        let committee = chain.state.committee().in_epoch(Epoch::new(0));
        let (block, _) = chain.blocks.last().expect("the last block of the epoch");
        let header = block.header;
        let signers: Vec<_> = (0..bft::min_quorum(Self::MEMBERS)).collect();
        let by_commit = Finality::Commit(chain.certify(block, &signers));
        let fact = HandoverFact::new(&header);
        let keys = test_support::node_keys(Self::MEMBERS.into());
        let sign = |position: &u16| {
            let position = usize::from(*position);
            let node = committee.members()[position].node;
            let (_, bls) = keys.iter().find(|(key, _)| key.public() == node).expect("a member's");
            (position, fact.sign(&chain.id(), bls))
        };
        let signatures: Vec<_> = signers.iter().map(sign).collect();
        let joined = HandoverCertificate::new(&committee, fact, &signatures).expect("a quorum");
        let by_handover = Finality::Handover(joined);
        Self { genesis, chain, committee, header, fact, signatures, by_commit, by_handover }
    }
}

/// What a light peer does with each epoch, and how many bytes it gets for that.
#[expect(clippy::print_stdout, reason = "bytes are measured beside the times")]
fn follow(criterion: &mut Criterion) {
    let ended = Ended::new();
    let Ended { committee, chain, header, .. } = &ended;
    let next = chain.state.committee().to_bytes();
    let start = Start::Genesis { started: None };
    let client = LightClient::new(&ended.genesis, &start, OldRoot::Refuse, header.time);
    let client = client.expect("a valid genesis");
    let mut group = criterion.benchmark_group("follow an epoch's end, 64 members");
    let bytes_of = |value: &Finality| borsh::object_length(value).expect("writing to memory");
    for (name, finality) in
        [("commit certificate", &ended.by_commit), ("hand-over certificate", &ended.by_handover)]
    {
        let last = FinalHeader { header: *header, finality: finality.clone() };
        let handover = Handover { last: last.clone(), committee: next.clone() };
        let bytes = borsh::object_length(&handover).expect("writing to memory");
        println!("{name}: {} bytes; with header and committee {bytes} bytes", bytes_of(finality));
        group.bench_function(BenchmarkId::new("verify the certificate", name), |bencher| {
            bencher.iter(|| black_box(last.verify(committee, &chain.id())).expect("it verifies"));
        });
        group.bench_function(BenchmarkId::new("follow", name), |bencher| {
            bencher.iter_batched(
                || (client.clone(), last.clone()),
                |(mut client, last)| client.handover(last, &next, header.time).expect("verifies"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// What a member and a collecting node do with each epoch.
fn certify(criterion: &mut Criterion) {
    let Ended { chain, committee, fact, signatures, .. } = Ended::new();
    let (_, bls) = &test_support::node_keys(1)[0];
    let mut group = criterion.benchmark_group("certify an epoch's end, 64 members");
    group.bench_function("sign", |bencher| bencher.iter(|| fact.sign(&chain.id(), bls)));
    group.bench_function("join a quorum and verify", |bencher| {
        bencher.iter(|| {
            let joined = HandoverCertificate::new(&committee, fact, &signatures);
            joined.expect("a quorum").verify(&committee, &chain.id()).expect("it verifies");
        });
    });
    group.bench_function("verify a quorum one by one", |bencher| {
        bencher.iter(|| {
            assert!(signatures.iter().all(|(position, signature)| {
                let key = &committee.members()[*position].bls_key;
                fact.verify(&chain.id(), key, signature)
            }));
        });
    });
    group.finish();
}

criterion_group!(benches, signatures, follow, certify);
criterion_main!(benches);
