//! What the number of blobs costs a storage challenge: to draw one of them by its billed units, and
//! to count one more: `cargo bench -p floe-protocol --bench challenge`. What a step costs that reads
//! and proves is in the table of `floe-testnet bench challenge`.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use floe_protocol::{
    blob::BlobHeader,
    challenge::{BilledUnits, ChallengeParameters, Universe, challenged_shards},
    hash::Hash,
    index::{ChallengeRound, Epoch},
    ledger::{Blob, Certified, Timestamp},
    test_support,
};

const OPENED: Timestamp = Timestamp::from_ms(1);

/// A blob of the network of 64 shards.
fn header(i: u64) -> BlobHeader {
    BlobHeader { n_shards: 64, len: (i % 64) << 20, root: Hash::of_symbol(&i.to_le_bytes()) }
}

/// It is certified, and counted from the round on.
fn count(units: &mut BilledUnits, number: u64) {
    let (first_epoch, end) = (Epoch::new(0), Epoch::new(9));
    let certified = Some(Certified { number, end, first_epoch, first_time: OPENED });
    let header = header(number);
    let blob = Blob { header, registrations: 1, permanent_end: None, certified, invalid: false };
    units.update(None, Some(&blob)).expect("a possible blob");
}

/// A round that asks for these blobs.
fn universe(units: BilledUnits) -> Universe {
    let committee = Arc::new(test_support::committee(16, 64));
    let ready = [Some(OPENED); 64];
    Universe {
        chain: test_support::genesis(16, 64).chain_id(),
        round: ChallengeRound::new(1),
        opened: OPENED,
        parameters: ChallengeParameters::default(),
        shards: challenged_shards(&committee, &ready, OPENED),
        committee,
        units,
    }
}

fn draws(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("challenge draws");
    for blobs in [10, 1_000, 10_000, 1_000_000_u64] {
        let mut units = BilledUnits::new();
        (0..blobs).for_each(|number| count(&mut units, number));
        units.advance(Epoch::new(0), OPENED);
        let universe = universe(units.clone());
        let mut value = Hash::ZERO;
        group.bench_function(BenchmarkId::new("a place", blobs), |bencher| {
            bencher.iter(|| {
                value = Hash::of_symbol(value.as_bytes());
                black_box(universe.place(3, &value)).expect("a place")
            });
        });
        // Beside an open round, which keeps the units as they were.
        let mut number = blobs;
        group.bench_function(BenchmarkId::new("a blob more", blobs), |bencher| {
            bencher.iter(|| {
                number += 1;
                count(&mut units, number);
                units.advance(Epoch::new(0), OPENED);
                black_box(units.clone())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, draws);
criterion_main!(benches);
