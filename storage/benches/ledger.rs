//! What committing a block costs: run it with `cargo bench -p floe-storage --bench ledger`.
//! Compare the rows of one run, not absolutes.
//!
//! A state of 100,000 records, then 3,000 blocks of 100 transactions. Each block changes 250
//! random records: it brings the nodes of the tree above them (some 900 of 300 bytes), the values,
//! and 50 entries of an index. CPU is that of the whole process, the merging thread included, as
//! long as commits run; the making of the blocks is taken off. Then what is left is merged, and
//! read.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench: it prints, and a failure ends it"
)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use borsh::BorshDeserialize;
use floe_protocol::{
    hash::{Domain, Hash},
    index::Height,
    keys::{KeyPair, NodeId},
    ledger::{
        AccountId, Amount, Block, Body, Header, Operation, SignedTransaction, StateChange,
        StateReader, Timestamp, Transaction, TransactionId,
    },
    vote::CommitCertificate,
};
use floe_storage::{Committed, LedgerStore, LedgerStoreConfig};

const RECORDS: u64 = 100_000;
const TRANSACTIONS: u64 = 100;
const CHANGES: u64 = 250;
const INDEX_ENTRIES: u64 = 50;
const NODE_BYTES: usize = 300;
const VALUE_BYTES: usize = 80;
/// Blocks between two lines of the report.
const REPORT_BLOCKS: u64 = 1_000;
/// Depths of inner nodes: 16^0 to 16^4 of them.
const DEPTHS: u8 = 5;

fn main() {
    let setting = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let blocks = setting("BLOCKS").unwrap_or(3_000);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("ledger");
    let mut config =
        LedgerStoreConfig::new(dir.clone(), home.path().join("marker"), NodeId::new([1; 32]));
    if let Some(mib) = setting("CACHE_MIB") {
        config.cache_bytes = mib << 20;
    }
    if let Some(mib) = setting("MERGE_MIB") {
        config.merge_bytes = usize::try_from(mib << 20).unwrap();
    }
    if let Some(mib) = setting("STATE_MIB") {
        config.state_bytes = usize::try_from(mib << 20).unwrap();
    }
    run(&config, blocks);
}

fn run(config: &LedgerStoreConfig, blocks: u64) {
    let dir = &config.dir;
    let store = LedgerStore::open(config).unwrap();
    let mut tree = Tree::default();
    let records: BTreeSet<u64> = (0..RECORDS).collect();
    let start = Instant::now();
    store.commit_genesis(&tree.change(0, &records), &[0; 500]).unwrap();
    println!("genesis of {RECORDS} records: {:.2?}", start.elapsed());
    println!("        RSS {:.1} MiB, disk {:.1} MiB", rss_mib(), disk_mib(dir));

    let mut ids = transactions(0);
    let mut commits = Vec::new();
    let (mut nodes, mut made, mut committed_in) = (0, Duration::ZERO, Duration::ZERO);
    let mut cpu_before = cpu_time();
    for height in 1..=blocks {
        let making = thread_cpu_time();
        let records = (0..CHANGES).map(|n| random(&[height, n]) % RECORDS).collect::<BTreeSet<_>>();
        let change = tree.change(height, &records);
        nodes += change.nodes.len() as u64;
        let (block, transactions) = block(height);
        ids = transactions;
        let certificate = certificate(&block);
        let committed = Committed {
            hash: block.header.hash(),
            block: &block,
            certificate: &certificate,
            transactions: &ids,
            change: &change,
            epoch_end: None,
            tip: &[1; 500],
        };
        made += thread_cpu_time() - making;
        let (start, committing) = (Instant::now(), thread_cpu_time());
        store.commit(&committed).unwrap();
        commits.push(start.elapsed());
        committed_in += thread_cpu_time() - committing;
        if height % REPORT_BLOCKS == 0 {
            let cpu = (cpu_time() - cpu_before).saturating_sub(made)
                / u32::try_from(REPORT_BLOCKS).unwrap();
            println!(
                "{height:7} RSS {:.1} MiB, disk {:.1} MiB, commit {}, {:.2?} of CPU a block, \
                 {:.2?} of it in commits, {} nodes a block, {} versions to merge",
                rss_mib(),
                disk_mib(dir),
                quantiles(&mut commits),
                cpu,
                committed_in / u32::try_from(REPORT_BLOCKS).unwrap(),
                nodes / REPORT_BLOCKS,
                height - store.checkpoint().unwrap().get(),
            );
            (nodes, made, committed_in) = (0, Duration::ZERO, Duration::ZERO);
            cpu_before = cpu_time();
            commits.clear();
        }
    }
    let start = Instant::now();
    store.persist().unwrap();
    println!("        the rest merged in {:.2?}, disk {:.1} MiB", start.elapsed(), disk_mib(dir));
    reads(&store, &tree, blocks, &ids);
    drop(store);
    let start = Instant::now();
    let store = LedgerStore::open(config).unwrap();
    println!("        reopened in {:.2?}, RSS {:.1} MiB", start.elapsed(), rss_mib());
    assert_eq!(store.checkpoint(), Some(Height::new(blocks)));
}

fn reads(store: &LedgerStore, tree: &Tree, blocks: u64, ids: &[TransactionId]) {
    let mut times = Vec::new();
    for n in 0..10_000 {
        let record = random(&[n]) % RECORDS;
        let start = Instant::now();
        let (_, value) = store.value(&record_key(record), blocks).unwrap().unwrap();
        times.push(start.elapsed());
        assert_eq!(value.unwrap().len(), VALUE_BYTES);
    }
    println!("        value {}", quantiles(&mut times));
    times.clear();
    for n in 0..2_000 {
        let record = random(&[n]) % RECORDS;
        let start = Instant::now();
        for path in paths(record) {
            let key = node_key(tree.versions[&path], &path);
            assert!(store.node(&key).unwrap().is_some());
        }
        times.push(start.elapsed());
    }
    println!("        path of nodes {}", quantiles(&mut times));
    let start = Instant::now();
    for id in ids {
        assert!(store.transaction(id).unwrap().is_some());
    }
    println!("        transaction {:.1?}", start.elapsed() / 100);
}

/// The versions of the nodes and values of a tree of records.
#[derive(Debug, Default)]
struct Tree {
    versions: BTreeMap<Vec<u8>, u64>,
    values: BTreeMap<u64, u64>,
    index: VecDeque<Vec<u8>>,
}

impl Tree {
    fn change(&mut self, version: u64, records: &BTreeSet<u64>) -> StateChange {
        let mut change = StateChange { version, ..StateChange::default() };
        let paths: BTreeSet<_> = records.iter().flat_map(|record| paths(*record)).collect();
        for path in paths {
            change.nodes.push((node_key(version, &path), noise(version, &path, NODE_BYTES)));
            if let Some(old) = self.versions.insert(path.clone(), version) {
                change.stale_nodes.push(node_key(old, &path));
            }
        }
        for record in records {
            let key = record_key(*record);
            change.values.push((key, Some(noise(version, key.as_bytes(), VALUE_BYTES))));
            if let Some(old) = self.values.insert(*record, version) {
                change.stale_values.push((key, old));
            }
        }
        for entry in 0..INDEX_ENTRIES {
            let entry = noise(version, &entry.to_be_bytes(), 48);
            change.index_added.push(entry.clone());
            self.index.push_back(entry);
        }
        while self.index.len() > 10_000 {
            change.index_removed.extend(self.index.pop_front());
        }
        change
    }
}

fn record_key(record: u64) -> Hash {
    Domain::Piece.hash(&[b"record", &record.to_be_bytes()])
}

/// The inner nodes and the leaf of a record, by depth and nibbles.
fn paths(record: u64) -> Vec<Vec<u8>> {
    let key = record_key(record);
    let nibbles = key.as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let nibbles: Vec<u8> = nibbles.take(8).collect();
    (0..DEPTHS)
        .chain([8])
        .map(|depth| [&[depth][..], &nibbles[..usize::from(depth)]].concat())
        .collect()
}

fn node_key(version: u64, path: &[u8]) -> Vec<u8> {
    [&version.to_le_bytes()[..], path].concat()
}

fn random(seed: &[u64]) -> u64 {
    let bytes: Vec<u8> = seed.iter().flat_map(|n| n.to_be_bytes()).collect();
    let hash = Domain::Piece.hash(&[&bytes]);
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

fn noise(version: u64, key: &[u8], bytes: usize) -> Vec<u8> {
    let seed = Domain::Piece.hash(&[&version.to_be_bytes(), key]);
    let words = (0..bytes.div_ceil(32) as u64)
        .flat_map(|n| *Domain::Piece.hash(&[seed.as_bytes(), &n.to_be_bytes()]).as_bytes());
    words.take(bytes).collect()
}

fn transactions(height: u64) -> Vec<TransactionId> {
    (0..TRANSACTIONS)
        .map(|n| {
            let (height, n) = (height.to_be_bytes(), n.to_be_bytes());
            TransactionId::new(Domain::Transaction.hash(&[&height, &n]))
        })
        .collect()
}

fn block(height: u64) -> (Block, Vec<TransactionId>) {
    let mut header = Header::deserialize(&mut &[0; 2048][..]).unwrap();
    header.height = Height::new(height);
    let key = KeyPair::from_seed([1; 32]).public();
    let signature = borsh::from_slice(&[7; 64]).unwrap();
    let transactions = (0..TRANSACTIONS).map(|n| SignedTransaction {
        transaction: Transaction {
            sender: AccountId::new(key),
            nonce: height * TRANSACTIONS + n,
            fee: Amount::from_frost(1000),
            expires: Timestamp::from_ms(n),
            operations: vec![Operation::Transfer {
                to: AccountId::new(key),
                amount: Amount::from_frost(7),
            }],
        },
        signature,
    });
    let body = Body { transactions: transactions.collect(), ..Body::default() };
    (Block { header, body }, transactions_of(height))
}

fn transactions_of(height: u64) -> Vec<TransactionId> {
    transactions(height)
}

fn certificate(block: &Block) -> CommitCertificate {
    CommitCertificate {
        height: block.header.height,
        round: 0,
        block: block.header.hash(),
        signatures: Vec::new(),
    }
}

fn quantiles(times: &mut [Duration]) -> String {
    if times.is_empty() {
        return "none".into();
    }
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    format!("p50 {:.2?} p95 {:.2?} max {:.2?}", at(50), at(95), at(100))
}

/// Of all threads; ticks of 10 ms average out.
fn cpu_time() -> Duration {
    ticks("/proc/self/stat")
}

/// Of this thread, which makes the blocks.
fn thread_cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn ticks(path: &str) -> Duration {
    let stat = fs::read_to_string(path).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

fn rss_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn disk_mib(dir: &Path) -> f64 {
    let entries = fs::read_dir(dir).unwrap();
    let bytes: u64 = entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    bytes as f64 / f64::from(1 << 20)
}
