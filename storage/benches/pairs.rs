//! What durable sliver pairs cost, against plain files of the same bytes: run it with
//! `cargo bench -p floe-storage`. Compare the rows of one run, not absolutes.
//!
//! Pairs of 1 MiB + 0.5 MiB from four threads, a flush per pair; then reads; slivers of 4 MiB and of
//! 100 KiB from one thread and from eight, with the time that a put and its flush take; what the
//! disk holds while 300 MiB are put and removed; then what it holds after rounds of replacing half
//! of the pairs, for large and for small slivers. Volumes are compacted after each round.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench: it prints, and a failure ends it"
)]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use floe_protocol::{blob::BlobId, encoding::Axis, hash::Domain, index::ShardIndex, keys::NodeId};
use floe_storage::{Store, StoreConfig};

const PAIRS: u32 = 64;
const THREADS: u32 = 4;
const PRIMARY_BYTES: usize = 1 << 20;
const SECONDARY_BYTES: usize = 512 << 10;

fn main() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bytes = noise(PRIMARY_BYTES + SECONDARY_BYTES);
    let (primary, secondary) = bytes.split_at(PRIMARY_BYTES);
    for round in 1..=3 {
        println!("round {round}");
        let files = home.path().join(format!("files-{round}"));
        fs::create_dir(&files).unwrap();
        report("  plain files, fsync each", in_threads(|pair| plain_file(&files, pair, &bytes)));

        let store = open(home.path(), &format!("store-{round}"));
        let put = in_threads(|pair| {
            store.put_pair(ShardIndex::new(0), &blob(pair), primary, secondary).unwrap();
            store.flush().unwrap();
        });
        report("  put_pair + flush", put);
        let get = in_threads(|pair| {
            for axis in [Axis::Primary, Axis::Secondary] {
                assert!(store.sliver(ShardIndex::new(0), &blob(pair), axis).unwrap().is_some());
            }
        });
        report("  sliver, both axes", get);
        let has = Instant::now();
        for pair in 0..PAIRS {
            assert!(store.has_pair(ShardIndex::new(0), &blob(pair.into())).unwrap());
        }
        println!("  has_pair: {:.1} us", has.elapsed().as_secs_f64() * 1e6 / f64::from(PAIRS));
    }
    for round in 1..=3 {
        for (sliver_bytes, pairs) in [(4 << 20, 32), (100 << 10, 512)] {
            for threads in [1, 8] {
                latency(home.path(), round, (sliver_bytes, pairs), threads);
            }
        }
    }
    put_and_remove(home.path());
    reopen(home.path());
    for (sliver_bytes, pairs) in [(1 << 20, 40), (64 << 10, 400), (4 << 10, 4000), (256, 4000)] {
        replace_half(home.path(), sliver_bytes, pairs);
    }
}

/// Puts pairs of two equal slivers, each followed by a flush.
fn latency(home: &Path, round: u32, (sliver_bytes, pairs): (usize, u64), threads: u64) {
    let name = format!("latency-{round}-{sliver_bytes}-{threads}");
    let store = open(home, &name);
    let sliver = noise(sliver_bytes);
    let times = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let (store, sliver, times) = (&store, &sliver, &times);
            scope.spawn(move || {
                for pair in (0..pairs).filter(|pair| pair % threads == thread) {
                    let start = Instant::now();
                    store.put_pair(ShardIndex::new(0), &blob(pair), sliver, sliver).unwrap();
                    let put = start.elapsed();
                    store.flush().unwrap();
                    times.lock().unwrap().push((start.elapsed() - put, put));
                }
            });
        }
    });
    let took = start.elapsed().as_secs_f64();
    let mut times = times.into_inner().unwrap();
    times.sort_unstable();
    let ms = |part: usize| times[(times.len() - 1) * part / 100].0.as_secs_f64() * 1e3;
    let mib = 2.0 * sliver_bytes as f64 * pairs as f64 / f64::from(1 << 20);
    println!(
        "slivers of {} KiB, {threads} threads: {:.0} MiB/s, flush p50 {:.1} ms, p95 {:.1} ms",
        sliver_bytes >> 10,
        mib / took,
        ms(50),
        ms(95)
    );
    drop(store);
    fs::remove_dir_all(home.join(name)).unwrap();
}

fn put_and_remove(home: &Path) {
    let store = open(home, "cycles");
    let sliver = noise(200 << 10);
    let pairs = 1024;
    println!("putting 300 MiB and removing them: MiB on disk, with them and without");
    for round in 0..4 {
        for pair in round * pairs..(round + 1) * pairs {
            let secondary = &sliver[100 << 10..];
            store.put_pair(ShardIndex::new(0), &blob(pair), &sliver, secondary).unwrap();
            if pair % 16 == 15 {
                store.flush().unwrap();
            }
        }
        let full = disk_mib(&home.join("cycles"));
        let start = Instant::now();
        for pair in round * pairs..(round + 1) * pairs {
            store.delete_pair(ShardIndex::new(0), &blob(pair)).unwrap();
        }
        store.flush().unwrap();
        let took = start.elapsed();
        let empty = disk_mib(&home.join("cycles"));
        println!("  {full:.0} {empty:.1}, removed in {:.0} ms", took.as_secs_f64() * 1e3);
    }
}

/// A store of several volumes: what opening it takes, and the first read in each volume.
fn reopen(home: &Path) {
    let sliver = noise(1 << 20);
    let pairs = 600;
    let store = open(home, "reopened");
    for pair in 0..pairs {
        store.put_pair(ShardIndex::new(0), &blob(pair), &sliver, &sliver[..512 << 10]).unwrap();
        store.flush().unwrap();
    }
    drop(store);
    for _ in 0..2 {
        let start = Instant::now();
        let store = open(home, "reopened");
        let opened = start.elapsed();
        let mut reads = Vec::new();
        for pair in 0..pairs {
            let start = Instant::now();
            let sliver = store.sliver(ShardIndex::new(0), &blob(pair), Axis::Primary).unwrap();
            assert!(sliver.is_some());
            reads.push(start.elapsed());
        }
        reads.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "900 MiB opened in {:.0} ms; reads of 1 MiB: p50 {:.1} ms, slowest {:.0} and {:.0} ms",
            ms(opened),
            ms(reads[reads.len() / 2]),
            ms(reads[reads.len() - 1]),
            ms(reads[reads.len() - 2]),
        );
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status.lines().filter(|line| line.starts_with("VmRSS"));
        memory.for_each(|line| println!("  {line}"));
    }
}

/// Bytes that the files below a directory take on the disk.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let bytes = entries.map(|entry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => disk_bytes(&entry.path()),
        metadata => metadata.blocks() * 512,
    });
    bytes.sum()
}

fn disk_mib(dir: &Path) -> f64 {
    disk_bytes(dir) as f64 / f64::from(1 << 20)
}

fn compact(store: &Store) {
    while store.compact_step().unwrap() {}
}

fn replace_half(home: &Path, sliver_bytes: usize, pairs: u64) {
    let name = format!("replace-{sliver_bytes}");
    let store = open(home, &name);
    let sliver = noise(sliver_bytes);
    let mut live: Vec<u64> = (0..pairs).collect();
    let mut next = pairs;
    let put = |pair: u64| {
        store
            .put_pair(ShardIndex::new(0), &blob(pair), &sliver, &sliver[sliver_bytes / 2..])
            .unwrap();
    };
    for pair in &live {
        put(*pair);
    }
    store.flush().unwrap();
    println!(
        "replacing half of {pairs} pairs of slivers of {sliver_bytes} bytes: disk per content byte, per live byte"
    );
    for round in 0..=16 {
        if round % 4 == 0 {
            let (disk, usage) = (disk_bytes(&home.join(&name)), store.usage());
            let content = (sliver_bytes + sliver_bytes.div_ceil(2)) as f64 * pairs as f64;
            println!(
                "  after {round} rounds: {:.2} {:.2}",
                disk as f64 / content,
                disk as f64 / usage.live_bytes as f64
            );
        }
        for (place, pair) in live.iter_mut().enumerate() {
            if is_replaced(place as u64, round) {
                store.delete_pair(ShardIndex::new(0), &blob(*pair)).unwrap();
                put(next);
                *pair = next;
                next += 1;
            }
        }
        store.flush().unwrap();
        compact(&store);
    }
}

fn is_replaced(place: u64, round: u64) -> bool {
    let hash = Domain::Piece.hash(&[&place.to_le_bytes(), &round.to_le_bytes()]);
    hash.as_bytes()[0] < 128
}

fn open(home: &Path, name: &str) -> Store {
    let node = NodeId::new([1; 32]);
    Store::open(&StoreConfig::new(home.join(name), home.join(format!("{name}.marker")), node))
        .unwrap()
}

fn in_threads(job: impl Fn(u64) + Sync) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let job = &job;
            scope.spawn(move || {
                (0..PAIRS)
                    .filter(|pair| pair % THREADS == thread)
                    .for_each(|pair| job(pair.into()));
            });
        }
    });
    start.elapsed()
}

fn plain_file(dir: &Path, pair: u64, bytes: &[u8]) {
    let new = dir.join(format!("{pair}.new"));
    let mut file = File::create(&new).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    fs::rename(&new, dir.join(pair.to_string())).unwrap();
}

fn report(what: &str, took: Duration) {
    let mib = f64::from(PAIRS) * (PRIMARY_BYTES + SECONDARY_BYTES) as f64 / f64::from(1 << 20);
    println!("{what}: {:.0} MiB/s", mib / took.as_secs_f64());
}

fn blob(number: u64) -> BlobId {
    BlobId::new(*Domain::Piece.hash(&[&number.to_le_bytes()]).as_bytes())
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes + 32);
    for counter in 0_u64.. {
        if noise.len() >= bytes {
            break;
        }
        noise.extend_from_slice(Domain::Piece.hash(&[&counter.to_le_bytes()]).as_bytes());
    }
    noise.truncate(bytes);
    noise
}
