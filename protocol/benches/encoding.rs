//! Encoding, decoding, verification and recovery, in MiB/s of the blob (or sliver), beside the
//! limit that hashing sets in the same run: `cargo bench -p floe-protocol --bench encoding`.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it can't go on")]

use std::{hint::black_box, num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main, measurement::WallTime,
};
use floe_protocol::{
    encoding::{
        Axis, EncodedBlob, EncodingConfig, SliverTree, decode_from_secondaries, decode_rows,
        encode, recover, verify_pair,
    },
    hash::Hash,
    index::{SliverIndex, SliverPairIndex, SymbolIndex},
    test_support::blob,
};

const MIB: usize = 1 << 20;

/// Every n and size that are of interest and allowed.
fn cases() -> impl Iterator<Item = (EncodingConfig, usize)> {
    let configs = [10, 64, 100, 256].map(|n| EncodingConfig::new(n).unwrap());
    let case = |config: EncodingConfig| {
        let max = config.default_max_blob_bytes();
        let sizes = [1, 16, 32, 64].into_iter().filter(move |&mib| match mib {
            16 => config.n_shards() == 10,
            _ => (mib * MIB) as u64 <= max,
        });
        sizes.map(move |mib| (config, mib * MIB))
    };
    configs.into_iter().flat_map(case)
}

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn label(config: EncodingConfig, len: usize) -> String {
    format!("n={} {}MiB", config.n_shards(), len / MIB)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(600));
    group
}

/// BLAKE3 of as many symbols as the expanded matrix has: no encoding can be faster.
fn hash_only(criterion: &mut Criterion) {
    let mut group = group(criterion, "hash_only");
    for (config, len) in cases() {
        let symbol_bytes = config.layout(len as u64).unwrap().symbol_bytes();
        let row = blob(1, config.n() * symbol_bytes);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(label(config, len), |bencher| {
            bencher.iter(|| {
                for _ in 0..config.n() {
                    for symbol in row.chunks_exact(symbol_bytes) {
                        black_box(Hash::of_symbol(symbol));
                    }
                }
            });
        });
    }
}

fn encoding(criterion: &mut Criterion) {
    let mut group = group(criterion, "encode");
    for (config, len) in cases() {
        let content = blob(1, len);
        group.throughput(Throughput::Bytes(len as u64));
        for count in [1, 2] {
            let id = BenchmarkId::new(format!("{count} threads"), label(config, len));
            group.bench_function(id, |bencher| {
                bencher.iter(|| encode(config, content.clone(), threads(count)).unwrap());
            });
        }
    }
}

/// The last slivers of an axis, as many as decode: no systematic one among them, if possible.
fn last(blob: &EncodedBlob, axis: Axis) -> Vec<(SliverIndex, Bytes)> {
    let n = blob.header().n_shards;
    let count = axis.other().symbols(blob.layout().config());
    let lines = (0..n).rev().take(count).map(SliverIndex::new);
    let sliver = |line| match axis {
        Axis::Primary => blob.primary(line).clone(),
        Axis::Secondary => blob.secondary(line).clone(),
    };
    lines.map(|line| (line, sliver(line))).collect()
}

fn decoding(criterion: &mut Criterion) {
    let mut group = group(criterion, "decode");
    for (config, len) in cases() {
        let blob = encode(config, blob(1, len), threads(2)).unwrap();
        let (layout, table) = (blob.layout(), blob.table());
        let rows: Vec<_> = (0..u16::try_from(config.k1()).unwrap()).map(SliverIndex::new).collect();
        let (primaries, secondaries) = (last(&blob, Axis::Primary), last(&blob, Axis::Secondary));
        group.throughput(Throughput::Bytes(len as u64));
        for count in [1, 2] {
            let id =
                |what| BenchmarkId::new(format!("{what}, {count} threads"), label(config, len));
            group.bench_function(id("parity rows"), |bencher| {
                bencher.iter(|| {
                    decode_rows(&layout, table, &primaries, &rows, threads(count)).unwrap()
                });
            });
            group.bench_function(id("columns"), |bencher| {
                bencher.iter(|| {
                    decode_from_secondaries(&layout, table, &secondaries, threads(count)).unwrap()
                });
            });
        }
    }
}

/// In MiB/s of the pair.
fn verification(criterion: &mut Criterion) {
    let mut group = group(criterion, "verify_pair");
    for (config, len) in cases() {
        let blob = encode(config, blob(1, len), threads(2)).unwrap();
        let layout = blob.layout();
        let pair = SliverPairIndex::new(0);
        let ((primary, secondary), proof) = (blob.pair(pair), blob.proof(pair));
        group.throughput(Throughput::Bytes((primary.len() + secondary.len()) as u64));
        group.bench_function(label(config, len), |bencher| {
            bencher.iter(|| verify_pair(&layout, &proof, &primary, &secondary).unwrap());
        });
    }
}

/// One sliver of each axis from parity symbols, in MiB/s of the sliver.
fn recovery(criterion: &mut Criterion) {
    let mut group = group(criterion, "recover");
    for (config, len) in cases() {
        let blob = encode(config, blob(1, len), threads(2)).unwrap();
        let layout = blob.layout();
        for axis in [Axis::Primary, Axis::Secondary] {
            let symbol = |(line, sliver): (SliverIndex, Bytes)| {
                let tree = SliverTree::new(&layout, axis.other(), sliver).unwrap();
                (line, tree.symbol(SymbolIndex::new(0)).unwrap())
            };
            let symbols: Vec<_> = last(&blob, axis.other()).into_iter().map(symbol).collect();
            let target = (axis, SliverIndex::new(0));
            group.throughput(Throughput::Bytes(axis.sliver_bytes(&layout) as u64));
            let id = BenchmarkId::new(format!("{axis:?}"), label(config, len));
            group.bench_function(id, |bencher| {
                bencher.iter(|| recover(&layout, blob.table(), target, &symbols).unwrap());
            });
        }
    }
}

criterion_group!(benches, hash_only, encoding, decoding, verification, recovery);
criterion_main!(benches);
