//! What a step of a storage challenge costs: to make it of what is stored, and to judge it; and a
//! draw among many blobs: `cargo bench -p floe-protocol --bench challenge`.

use std::{collections::BTreeSet, hint::black_box, num::NonZeroUsize, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use floe_protocol::{
    blob::BlobHeader,
    challenge::{
        BilledUnits, Challenge, ChallengeParameters, ChunkProof, StepProof, Universe, Walk,
        challenged_shards,
    },
    encoding::{Axis, EncodedBlob, EncodingConfig, encode, symbol_hashes},
    hash::Hash,
    index::{ChallengeRound, Epoch},
    ledger::{Blob, Certified, Timestamp},
    test_support,
};

const OPENED: Timestamp = Timestamp::from_ms(1);

/// These blobs, certified long ago.
fn units(headers: impl Iterator<Item = BlobHeader>) -> BilledUnits {
    let mut units = BilledUnits::new();
    for (number, header) in (0_u64..).zip(headers) {
        let end = Epoch::new(9);
        let (first_epoch, first_time) = (Epoch::new(0), Timestamp::from_ms(0));
        let certified = Some(Certified { number, end, first_epoch, first_time });
        let blob =
            Blob { header, registrations: 1, permanent_end: None, certified, invalid: false };
        units.update(None, Some(&blob)).expect("a possible blob");
    }
    units.advance(Epoch::new(0), OPENED);
    units
}

fn universe(nodes: usize, n_shards: u16, units: BilledUnits) -> Arc<Universe> {
    let committee = Arc::new(test_support::committee(nodes, n_shards));
    let ready = vec![Some(OPENED); usize::from(n_shards)];
    Arc::new(Universe {
        chain: test_support::genesis(nodes, n_shards).chain_id(),
        round: ChallengeRound::new(1),
        opened: OPENED,
        parameters: ChallengeParameters::default(),
        shards: challenged_shards(&committee, &ready, OPENED),
        committee,
        units,
    })
}

fn read(blob: &EncodedBlob, walk: &Walk, hashes: Option<&[Hash]>) -> Option<StepProof> {
    let place = walk.place()?;
    let (primary, secondary) = blob.pair(place.pair);
    let sliver = if place.axis == Axis::Primary { primary } else { secondary };
    let hashes = match hashes {
        Some(hashes) => hashes.to_vec(),
        None => symbol_hashes(&place.layout, place.axis, &sliver).expect("a whole sliver"),
    };
    let proof = blob.proof(place.pair);
    let proof = ChunkProof::new(&place, &proof, &sliver[place.symbol_range()], hashes);
    Some(StepProof::Chunk(Box::new(proof.expect("what is there"))))
}

#[expect(clippy::print_stdout, reason = "bytes are measured beside the times")]
fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("challenge");
    for (nodes, n_shards, len) in [(4, 7, 1 << 20), (16, 64, 1 << 20), (16, 64, 32 << 20)] {
        let config = EncodingConfig::new(n_shards).expect("a possible number");
        let content = test_support::blob(1, len);
        let blob = encode(config, content, NonZeroUsize::MIN).expect("a possible blob");
        let universe = universe(nodes, n_shards, units(std::iter::once(*blob.header())));
        let node = universe.committee.members()[0].node;
        let challenge = Challenge::new(universe, node, Hash::ZERO).expect("a member");
        let mut walk = Walk::new(challenge.clone());
        let first = walk.clone();
        while let Some(proof) = read(&blob, &walk, None) {
            walk.take(&proof).expect("what is there");
        }
        let (end, transcript) = walk.end().expect("the end");
        let steps = challenge.universe().parameters.steps;
        let name = format!("{n_shards} shards, {} MiB", len >> 20);
        println!("{name}: {} bytes a step", transcript.len() / usize::from(steps));
        group.throughput(Throughput::Elements(steps.into()));
        group.bench_function(BenchmarkId::new("judge a transcript", &name), |bencher| {
            bencher.iter(|| {
                let verdict = challenge.verify(black_box(&transcript), &end, &BTreeSet::new());
                assert!(verdict.is_ok());
            });
        });
        let place = first.place().expect("the first");
        let (primary, secondary) = blob.pair(place.pair);
        let sliver = if place.axis == Axis::Primary { primary } else { secondary };
        let hashes = symbol_hashes(&place.layout, place.axis, &sliver).expect("a whole sliver");
        group.throughput(Throughput::Elements(1));
        for (kept, hashes) in [("", None), (", hashes kept", Some(&hashes[..]))] {
            let id = BenchmarkId::new(format!("make a step{kept}"), &name);
            group.bench_function(id, |bencher| {
                bencher.iter(|| black_box(read(&blob, &first, hashes)).expect("a step"));
            });
        }
    }
    group.finish();
}

fn draws(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("challenge draws");
    for blobs in [10, 1_000, 10_000, 1_000_000_u64] {
        let header = |i: u64| BlobHeader {
            n_shards: 64,
            len: (i % 64) << 20,
            root: Hash::of_symbol(&i.to_le_bytes()),
        };
        let mut units = units((0..blobs).map(header));
        let universe = universe(16, 64, units.clone());
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
                let end = Epoch::new(9);
                let (first_epoch, first_time) = (Epoch::new(0), OPENED);
                let certified = Some(Certified { number, end, first_epoch, first_time });
                let header = header(number);
                let blob = Blob {
                    header,
                    registrations: 1,
                    permanent_end: None,
                    certified,
                    invalid: false,
                };
                units.update(None, Some(&blob)).expect("a possible blob");
                units.advance(Epoch::new(0), OPENED);
                black_box(units.clone())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps, draws);
criterion_main!(benches);
