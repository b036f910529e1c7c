//! The parts of storing and reading, each alone, with all cores and without a network: encoding,
//! verifying, durable writing.
//!
//! Each does what clients and nodes do, by the same functions, to the bytes of one encoded blob.
//! Durable writing uses as many threads for each node as a node has for writes. All calls block.

use std::{
    fs::File,
    io::{self, Write},
    num::NonZeroUsize,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use bytes::Bytes;
use floe_node::config::ServiceLimits;
use floe_protocol::{
    committee::Committee,
    encoding::{self, EncodedBlob, EncodingConfig},
    index::{ShardIndex, SliverPairIndex},
};
use floe_storage::{Store, StoreConfig};

/// Encodes a blob.
pub(crate) fn encode(
    config: EncodingConfig,
    blob: Bytes,
) -> anyhow::Result<(EncodedBlob, Duration)> {
    let started = Instant::now();
    let encoded = encoding::encode(config, blob, cores())?;
    Ok((encoded, started.elapsed()))
}

/// Verifies every pair, as the nodes do before they store them.
pub(crate) fn verify_pairs(encoded: &EncodedBlob) -> anyhow::Result<Duration> {
    let pairs = pairs(encoded);
    let layout = encoded.layout();
    timed(&pairs, cores().get(), |pair| {
        let (primary, secondary) = encoded.pair(*pair);
        encoding::verify_pair(&layout, &encoded.proof(*pair), &primary, &secondary)?;
        Ok(())
    })
}

/// Verifies the rows that hold the blob itself, as a reader does.
pub(crate) fn verify_rows(encoded: &EncodedBlob) -> anyhow::Result<Duration> {
    let layout = encoded.layout();
    let mut rows = pairs(encoded);
    rows.truncate(layout.config().k1());
    timed(&rows, cores().get(), |pair| {
        let proof = encoded.proof(*pair);
        Ok(encoding::verify_primary(&layout, &proof, encoded.primary(pair.primary()))?)
    })
}

/// The stores of all nodes, open from run to run as those of nodes are.
#[derive(Clone, Debug)]
pub(crate) struct Stores {
    committee: Committee,
    stores: Vec<Store>,
}

impl Stores {
    /// Creates them below `dir`.
    pub(crate) fn create(dir: &Path, committee: Committee) -> anyhow::Result<Self> {
        let mut stores = Vec::new();
        for (node, member) in committee.members().iter().enumerate() {
            let home = dir.join(format!("store-{node}"));
            std::fs::create_dir_all(&home)?;
            let config = StoreConfig::new(home.join("store"), home.join("marker"), member.node);
            stores.push(Store::open(&config).context("cannot open a store")?);
        }
        Ok(Self { committee, stores })
    }

    /// Puts every pair into the store of its node and flushes after each.
    pub(crate) fn write(&self, encoded: &EncodedBlob) -> anyhow::Result<Duration> {
        let blob = encoded.id();
        write_pairs(&self.committee, encoded, |node, shard, (primary, secondary)| {
            self.stores[node].put_pair(shard, &blob, &primary, &secondary)?;
            Ok(self.stores[node].flush()?)
        })
    }

    /// Writes every pair to a file of its own below `dir` and syncs it.
    pub(crate) fn write_files(
        &self,
        dir: &Path,
        encoded: &EncodedBlob,
    ) -> anyhow::Result<Duration> {
        std::fs::create_dir_all(dir)?;
        let time = write_files(dir, &self.committee, encoded)?;
        std::fs::remove_dir_all(dir)?;
        Ok(time)
    }
}

/// Writes every pair to a file of its own below `dir` and syncs it.
fn write_files(
    dir: &Path,
    committee: &Committee,
    encoded: &EncodedBlob,
) -> anyhow::Result<Duration> {
    write_pairs(committee, encoded, |node, shard, (primary, secondary)| {
        let write = || -> io::Result<()> {
            let mut file = File::create(dir.join(format!("{node}-{shard}")))?;
            file.write_all(&primary)?;
            file.write_all(&secondary)?;
            file.sync_data()
        };
        Ok(write()?)
    })
}

/// Writes all pairs, every node with its own threads, in the order of its shards.
fn write_pairs(
    committee: &Committee,
    encoded: &EncodedBlob,
    write: impl Fn(usize, ShardIndex, (Bytes, Bytes)) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    let n_shards = committee.n_shards();
    let threads = ServiceLimits::default().writes_max;
    let started = Instant::now();
    thread::scope(|scope| {
        let nodes = committee.members().iter().enumerate().map(|(node, member)| {
            let write = &write;
            scope.spawn(move || {
                timed(&member.shards, threads, |shard| {
                    let pair = encoded.id().pair_of(*shard, n_shards);
                    write(node, *shard, encoded.pair(pair))
                })
            })
        });
        let nodes: Vec<_> = nodes.collect();
        for node in nodes {
            node.join().expect("writing does not panic")?;
        }
        anyhow::Ok(())
    })?;
    Ok(started.elapsed())
}

fn pairs(encoded: &EncodedBlob) -> Vec<SliverPairIndex> {
    (0..encoded.header().n_shards).map(SliverPairIndex::new).collect()
}

/// Does the work for every item, on so many threads, and says how long that took.
fn timed<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        anyhow::Ok(())
    };
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            worker.join().expect("measured work does not panic")?;
        }
        anyhow::Ok(())
    })?;
    Ok(started.elapsed())
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
