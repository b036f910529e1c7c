//! A chain of random changes, the store that keeps it and the model that it must agree with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use borsh::BorshDeserialize;
use floe_protocol::{
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        Block, Body, Header, MemoryStore, ReadError, StateChange, StateReader, TransactionId,
        VersionedValue,
    },
    vote::CommitCertificate,
};
use floe_storage::{Committed, EpochEnd, LedgerStore, LedgerStoreConfig};
use tempfile::TempDir;

/// Heights of state that the tests keep.
pub(crate) const STATE_HEIGHTS: u64 = 32;
/// Heights that are merged together where the store decides.
pub(crate) const MERGE_HEIGHTS: u64 = 9;
/// Keys of the state.
pub(crate) const KEYS: u64 = 12;
/// Paths of the tree.
const PATHS: u64 = 40;

/// Two places: one for the marker, one for the data.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.config().dir.join("db")
    }

    pub(crate) fn config(&self) -> LedgerStoreConfig {
        config_in(self.path())
    }

    /// A store that merges as it likes.
    pub(crate) fn open(&self) -> LedgerStore {
        LedgerStore::open(&self.config()).unwrap()
    }

    /// A store that merges when it is told to or dropped, and whose files rest otherwise.
    pub(crate) fn open_patient(&self) -> LedgerStore {
        let config =
            LedgerStoreConfig { merge_heights: u64::MAX, idle_ms: u64::MAX, ..self.config() };
        let store = LedgerStore::open(&config).unwrap();
        store.persist().unwrap();
        store
    }
}

pub(crate) fn config_in(home: &Path) -> LedgerStoreConfig {
    let node = NodeId::new([7; 32]);
    LedgerStoreConfig {
        state_heights: STATE_HEIGHTS,
        state_bytes: usize::MAX,
        merge_heights: MERGE_HEIGHTS,
        merge_bytes: usize::MAX,
        cache_bytes: 4 << 20,
        ..LedgerStoreConfig::new(home.join("data/ledger"), home.join("key/marker"), node)
    }
}

/// Copies all files below `from`.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let hash = Domain::Piece.hash(&[b"random", &self.0.to_be_bytes()]);
        u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap()) % end
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.below(u64::MAX).to_be_bytes());
        words.take(usize::try_from(len).unwrap()).collect()
    }

    /// Mostly short, now and then longer than any page.
    fn len(&mut self) -> u64 {
        match self.below(20) {
            0 => 30_000,
            1 => 5_000,
            2 => 0,
            _ => 1 + self.below(300),
        }
    }
}

pub(crate) fn key(number: u64) -> Hash {
    Domain::Piece.hash(&[b"key", &number.to_be_bytes()])
}

/// One height, with everything that it brings.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) block: Block,
    pub(crate) certificate: CommitCertificate,
    pub(crate) transactions: Vec<TransactionId>,
    pub(crate) change: StateChange,
    pub(crate) epoch_end: Option<Epoch>,
    pub(crate) tip: Vec<u8>,
}

impl Step {
    pub(crate) fn commit(&self, store: &LedgerStore) {
        if self.change.version == 0 {
            store.commit_genesis(&self.change, &self.tip).unwrap();
        } else {
            store.commit(&self.committed()).unwrap();
        }
    }

    /// Hands the change of a block that is on disk to the store again.
    pub(crate) fn replay(&self, store: &LedgerStore) {
        let hash = self.block.header.hash();
        store.replay(hash, &self.transactions, &self.change).unwrap();
    }

    pub(crate) fn committed(&self) -> Committed<'_> {
        Committed {
            hash: self.block.header.hash(),
            block: &self.block,
            certificate: &self.certificate,
            transactions: &self.transactions,
            change: &self.change,
            epoch_end: self.epoch_end.map(|epoch| EpochEnd { epoch, next_committee: &self.tip }),
            tip: &self.tip,
        }
    }
}

/// A chain that grows, and its state after every height.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    random: Random,
    pub(crate) steps: Vec<Step>,
    /// After each height, never pruned.
    states: Vec<MemoryStore>,
    paths: BTreeMap<u64, u64>,
    versions: BTreeMap<u64, u64>,
    index: Vec<Vec<u8>>,
    /// The live nodes of each height.
    nodes: Vec<Vec<Vec<u8>>>,
}

impl Chain {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            steps: Vec::new(),
            states: Vec::new(),
            paths: BTreeMap::new(),
            versions: BTreeMap::new(),
            index: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// A chain with genesis and `blocks` blocks.
    pub(crate) fn of(seed: u64, blocks: usize) -> Self {
        let mut chain = Self::new(seed);
        (0..=blocks).for_each(|_| chain.grow());
        chain
    }

    pub(crate) fn grow(&mut self) {
        let height = self.steps.len() as u64;
        let change = self.change(height);
        let mut state = self.states.last().cloned().unwrap_or_default();
        state.write(change.clone());
        self.states.push(state);
        let live = self.paths.iter().map(|(path, version)| node_key(*version, *path));
        self.nodes.push(live.collect());
        let mut header = Header::deserialize(&mut &[0; 2048][..]).unwrap();
        header.height = Height::new(height);
        header.beacon = key(self.random.below(u64::MAX));
        let mut body = Body::default();
        // A body of many bytes: late precommits are the simplest.
        let late = self.random.below(400) * self.random.below(2);
        let precommit = borsh::from_slice(&[3; 78]).unwrap();
        body.commit_record.late = (0..late).map(|_| precommit).collect();
        let certificate = CommitCertificate {
            height: header.height,
            round: u32::try_from(self.random.below(5)).unwrap(),
            block: header.hash(),
            signatures: Vec::new(),
        };
        let ids = self.random.below(5);
        let ids = (0..ids).map(|_| TransactionId::new(key(self.random.below(u64::MAX))));
        let transactions = ids.collect();
        let epoch_end = (height > 0 && height.is_multiple_of(5)).then(|| Epoch::new(height / 5));
        let len = self.random.len();
        let tip = self.random.bytes(len);
        let block = Block { header, body };
        self.steps.push(Step { block, certificate, transactions, change, epoch_end, tip });
    }

    fn change(&mut self, version: u64) -> StateChange {
        let mut change = StateChange { version, ..StateChange::default() };
        for path in 0..PATHS {
            if self.random.below(4) == 0 {
                let bytes = 1 + self.random.below(600);
                change.nodes.push((node_key(version, path), self.random.bytes(bytes)));
                if let Some(old) = self.paths.insert(path, version) {
                    change.stale_nodes.push(node_key(old, path));
                }
            }
        }
        for number in 0..KEYS {
            if self.random.below(3) == 0 {
                let len = self.random.len();
                let value = (self.random.below(5) > 0).then(|| self.random.bytes(len));
                let removed = value.is_none();
                change.values.push((key(number), value));
                let old = self.versions.remove(&number);
                change.stale_values.extend(old.map(|old| (key(number), old)));
                if removed {
                    change.stale_values.push((key(number), version));
                } else {
                    self.versions.insert(number, version);
                }
            }
        }
        for _ in 0..self.random.below(6) {
            let entry = self.random.bytes(2);
            change.index_added.push(entry.clone());
            self.index.push(entry);
        }
        for _ in 0..self.random.below(4).min(self.index.len() as u64) {
            let place = self.random.below(self.index.len() as u64);
            let entry = self.index[usize::try_from(place).unwrap()].clone();
            change.index_removed.push(entry);
        }
        change
    }

    /// Executes the blocks above the checkpoint again, as a node does when it starts.
    pub(crate) fn replay(&self, store: &LedgerStore) {
        let Some((tip, _)) = store.tip().unwrap() else { return };
        let checkpoint = usize::try_from(store.checkpoint().unwrap().get()).unwrap();
        for at in checkpoint..usize::try_from(tip.get()).unwrap() {
            // What the next block is executed on.
            self.check_state(store, at);
            assert_eq!(all_index(store), all_index(&self.states[at]), "index at {at} of {tip}");
            self.steps[at + 1].replay(store);
        }
    }

    /// Checks that the store holds exactly the first heights of this chain, up to the tip that it
    /// names; the tip.
    pub(crate) fn check(&self, store: &LedgerStore) -> Option<u64> {
        let tip = store.tip().unwrap();
        let Some((tip, bytes)) = tip else {
            assert_eq!(all_index(store), Vec::<Vec<u8>>::new());
            assert_eq!((store.checkpoint(), store.oldest_state()), (None, None));
            return None;
        };
        let tip = usize::try_from(tip.get()).unwrap();
        assert_eq!(bytes, self.steps[tip].tip, "tip {tip}");
        for (height, step) in self.steps.iter().enumerate() {
            check_block(store, step, height > 0 && height <= tip);
        }
        assert_eq!(all_index(store), all_index(&self.states[tip]), "index at {tip}");
        self.check_states(store, tip);
        // What was not committed is not there, nor does asking for it show anything newer.
        let last = self.states.last().unwrap();
        for (node, _) in self.steps[tip + 1..].iter().flat_map(|step| &step.change.nodes) {
            assert!(last.node(node).unwrap().is_some());
            assert_eq!(store.node(node).unwrap(), None);
        }
        for number in 0..KEYS {
            let found = store.value(&key(number), u64::MAX).unwrap();
            assert_eq!(there(found), self.value(tip, number), "key {number} at {tip}");
        }
        Some(tip as u64)
    }

    /// Checks every version that can be read, and that others are refused.
    fn check_states(&self, store: &LedgerStore, tip: usize) {
        // Merges may go on meanwhile.
        let oldest = || usize::try_from(store.oldest_state().unwrap().get()).unwrap();
        for version in (0..=tip).rev() {
            if version < oldest() {
                let error = store.value(&key(0), version as u64).unwrap_err();
                let refused = matches!(
                    &error,
                    ReadError::NoSuchVersion { version: refused, .. } if *refused == version as u64
                );
                assert!(refused, "{error}");
            } else {
                self.check_state(store, version);
            }
        }
    }

    pub(crate) fn value_at(&self, version: u64, number: u64) -> Option<VersionedValue> {
        self.value(usize::try_from(version).unwrap(), number)
    }

    fn value(&self, version: usize, number: u64) -> Option<VersionedValue> {
        there(self.states[version].value(&key(number), version as u64).unwrap())
    }

    fn check_state(&self, store: &LedgerStore, version: usize) {
        for number in 0..KEYS {
            let found = store.value(&key(number), version as u64);
            let oldest = store.oldest_state().unwrap().get();
            match found {
                Ok(found) => {
                    assert_eq!(there(found), self.value(version, number), "{number} at {version}");
                }
                Err(error) => assert!(oldest > version as u64, "{number} at {version}: {error}"),
            }
        }
        self.check_nodes(store, version as u64);
        self.check_values(store, version as u64);
    }

    /// Checks the list of all values of a version, unless it goes meanwhile.
    fn check_values(&self, store: &LedgerStore, version: u64) {
        let state = &self.states[usize::try_from(version).unwrap()];
        let expected: Vec<_> = state.values(version).map(|(k, v)| (k, v.to_vec())).collect();
        match store.values(Height::new(version)) {
            Ok(values) => {
                let found: Vec<_> = values.map(Result::unwrap).collect();
                assert_eq!(found, expected, "values at {version}");
            }
            Err(_) => assert!(store.oldest_state().unwrap().get() > version),
        }
    }

    /// Checks the nodes of a version, unless it goes meanwhile.
    pub(crate) fn check_nodes(&self, store: &LedgerStore, version: u64) {
        let at = usize::try_from(version).unwrap();
        for node in &self.nodes[at] {
            let expected = self.states[at].node(node).unwrap();
            assert!(expected.is_some());
            let found = store.node(node).unwrap();
            if store.oldest_state().unwrap().get() <= version {
                assert_eq!(found, expected, "node {node:?} at {version}");
            }
        }
    }

    /// Whether the index of a version is this one.
    pub(crate) fn has_index(&self, version: u64, index: &[Vec<u8>]) -> bool {
        let state = self.states.get(usize::try_from(version).unwrap());
        state.is_some_and(|state| all_index(state) == index)
    }

    /// Checks that a store that rests holds what it must and nothing else.
    pub(crate) fn check_pruned(&self, store: &LedgerStore) {
        self.check(store).unwrap();
        let mut kept = self.states.last().unwrap().clone();
        kept.prune(store.oldest_state().unwrap().get());
        for (version, step) in (0..).zip(&self.steps) {
            for (node, _) in &step.change.nodes {
                let found = store.node(node).unwrap();
                assert_eq!(found, kept.node(node).unwrap(), "{node:?} of {version}");
            }
        }
    }
}

/// A key that was removed is as absent as one that never was.
fn there(value: Option<VersionedValue>) -> Option<VersionedValue> {
    value.filter(|(_, value)| value.is_some())
}

fn check_block(store: &LedgerStore, step: &Step, is_there: bool) {
    let (block, hash) = (&step.block, step.block.header.hash());
    let height = block.header.height;
    let there = is_there.then_some(());
    assert_eq!(store.block(height).unwrap(), there.map(|()| block.clone()));
    assert_eq!(store.header(height).unwrap(), there.map(|()| block.header));
    assert_eq!(store.certificate(height).unwrap(), there.map(|()| step.certificate.clone()));
    assert_eq!(store.height_of(&hash).unwrap(), there.map(|()| height));
    for (position, id) in (0..).zip(&step.transactions) {
        assert_eq!(store.transaction(id).unwrap(), there.map(|()| (height, position)));
    }
    if let Some(epoch) = step.epoch_end {
        assert_eq!(store.epoch_end(epoch).unwrap(), there.map(|()| height));
        let committee = store.committee(epoch.plus(1)).unwrap();
        assert_eq!(committee, there.map(|()| step.tip.clone()));
    }
    let blocks = store.blocks(height, 1).unwrap();
    assert_eq!(blocks.len(), usize::from(is_there));
    for found in blocks {
        assert_eq!(found.block, block.to_bytes());
        assert_eq!(found.certificate, borsh::to_vec(&step.certificate).unwrap());
    }
}

fn all_index(state: &impl StateReader) -> Vec<Vec<u8>> {
    let all = state.index(&[][..]..&[0xff; 8][..], usize::MAX).unwrap();
    let half = state.index(&[0x80][..]..&[0xff; 8][..], 3).unwrap();
    let expected = all.iter().filter(|entry| ***entry >= [0x80][..]).take(3);
    assert_eq!(half, expected.cloned().collect::<Vec<_>>());
    all
}

/// As the tree's: the version comes first.
fn node_key(version: u64, path: u64) -> Vec<u8> {
    [&version.to_le_bytes()[..], &path.to_be_bytes()[4..]].concat()
}
