//! Signatures of transactions of different senders, one by one and together:
//! `cargo bench -p floe-protocol --bench signatures`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floe_protocol::{
    keys::KeyPair,
    ledger::{AccountId, Amount, Operation, SignedTransaction, Timestamp, Transaction},
    test_support,
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

criterion_group!(benches, signatures);
criterion_main!(benches);
