//! A swarm in one thread that a recovery is driven against: nodes with habits, a clock that jumps
//! from event to event, and chance from a seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, PairDigest, PairProof},
    encoding::{
        Axis, DigestTable, EncodedBlob, ProvenSymbol, SliverTree, sliver_root, verify_primary,
    },
    index::{SliverIndex, SliverPairIndex, SymbolIndex},
    keys::NodeId,
    message::Symbols,
    repair::{
        RecoveredPair, Recovery, RecoveryConfig, RecoveryError, RecoveryFailure, RecoveryInput,
        RecoveryMaterial, RecoveryOutput,
    },
    transfer::SliverFault,
};

/// Chance from a seed: `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    /// `count` different ones of `0 .. len`.
    pub(crate) fn some(&mut self, count: usize, len: usize) -> BTreeSet<usize> {
        let mut all: Vec<_> = (0..len).collect();
        for i in 0..count {
            let other = i + self.index(len - i);
            all.swap(i, other);
        }
        all.into_iter().take(count).collect()
    }
}

/// How a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    Honest,
    /// Never answers.
    Silent,
    /// Says after a while that it could not be reached.
    Unreachable,
    /// Is busy so many times, then honest.
    Busy(u32),
    /// Has nothing.
    Empty,
    /// Has only primary slivers as a whole to give.
    RowsOnly,
    /// Answers honestly, but after so long.
    Slow(u64),
    /// Flips a bit of what it sends.
    FlipsBits,
    /// Sends true symbols of other places, or the sliver of another pair.
    OtherPlaces,
}

/// What the holders of a blob have.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) header: BlobHeader,
    pub(crate) table: DigestTable,
    proofs: Vec<PairProof>,
    primaries: Vec<Bytes>,
    secondaries: Vec<Bytes>,
}

impl Written {
    pub(crate) fn honest(blob: &EncodedBlob) -> Self {
        let [primaries, secondaries] = slivers(blob);
        Self::with_table(blob, blob.table().clone(), [primaries, secondaries])
    }

    /// Commits to slivers as they are: roots, digests and proofs are all true to them.
    pub(crate) fn commit(blob: &EncodedBlob, [primaries, secondaries]: [Vec<Bytes>; 2]) -> Self {
        let layout = blob.layout();
        let root = |axis, sliver: &Bytes| sliver_root(&layout, axis, sliver).unwrap();
        let pairs = primaries.iter().zip(secondaries.iter().rev());
        let digest = |(primary, secondary)| PairDigest {
            primary: root(Axis::Primary, primary),
            secondary: root(Axis::Secondary, secondary),
        };
        let table = DigestTable::new(layout.config(), pairs.map(digest).collect()).unwrap();
        Self::with_table(blob, table, [primaries, secondaries])
    }

    pub(crate) fn with_table(
        blob: &EncodedBlob,
        table: DigestTable,
        [primaries, secondaries]: [Vec<Bytes>; 2],
    ) -> Self {
        let header = BlobHeader { root: table.blob_root(), ..*blob.header() };
        let proofs = table.proofs(&header).unwrap();
        Self { header, table, proofs, primaries, secondaries }
    }

    /// Whether an honest holder would have taken the sliver: it has its committed root.
    fn is_true(&self, axis: Axis, pair: SliverPairIndex) -> bool {
        let layout = self.header.layout().unwrap();
        let root = sliver_root(&layout, axis, self.sliver(axis, pair)).unwrap();
        root == axis.root_of(self.table.digest(pair))
    }

    pub(crate) fn sliver(&self, axis: Axis, pair: SliverPairIndex) -> &Bytes {
        let line = axis.line(pair, self.header.n_shards).as_usize();
        match axis {
            Axis::Primary => &self.primaries[line],
            Axis::Secondary => &self.secondaries[line],
        }
    }

    fn symbols(
        &self,
        (pair, axis): (SliverPairIndex, Axis),
        targets: &[SymbolIndex],
    ) -> Vec<ProvenSymbol> {
        let layout = self.header.layout().unwrap();
        let proof = &self.proofs[pair.as_usize()];
        let tree = SliverTree::new(&layout, axis, self.sliver(axis, pair).clone()).unwrap();
        let symbol = |index: &SymbolIndex| ProvenSymbol::new(proof.clone(), &tree, *index).unwrap();
        targets.iter().map(symbol).collect()
    }
}

/// All slivers of a blob, by axis.
pub(crate) fn slivers(blob: &EncodedBlob) -> [Vec<Bytes>; 2] {
    let lines = || (0..blob.header().n_shards).map(SliverIndex::new);
    [
        lines().map(|line| blob.primary(line).clone()).collect(),
        lines().map(|line| blob.secondary(line).clone()).collect(),
    ]
}

pub(crate) fn node(i: usize) -> NodeId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(i as u64).to_be_bytes());
    NodeId::new(bytes)
}

#[derive(Clone, Debug)]
enum Request {
    Symbols { axis: Axis, targets: Vec<SymbolIndex> },
    Sliver,
}

/// Nodes and what they have been asked.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) written: Written,
    pub(crate) habits: Vec<Habit>,
    pub(crate) random: Random,
    /// Requests per node.
    pub(crate) asked: BTreeMap<NodeId, usize>,
    pub(crate) banned: BTreeSet<NodeId>,
    /// Bytes of answers, and most of them that were in flight or held at a time.
    pub(crate) answered_bytes: u64,
    pub(crate) most_bytes: u64,
    pub(crate) most_in_flight: usize,
    pub(crate) enlarged: usize,
    /// When it ended.
    pub(crate) ended_ms: u64,
    /// What the node's own link carries, which all answers share, one after the other.
    pub(crate) link_bytes_per_second: Option<u64>,
    link_free_ms: u64,
    /// Answers that did not come within [`PATIENCE_MS`].
    pub(crate) too_late: usize,
}

/// What a driver gives an answer.
const PATIENCE_MS: u64 = 15_000;

impl Swarm {
    pub(crate) fn new(written: Written, habits: Vec<Habit>, seed: u64) -> Self {
        Self {
            written,
            habits,
            random: Random(seed),
            asked: BTreeMap::new(),
            banned: BTreeSet::new(),
            answered_bytes: 0,
            most_bytes: 0,
            most_in_flight: 0,
            enlarged: 0,
            ended_ms: 0,
            link_bytes_per_second: None,
            link_free_ms: 0,
            too_late: 0,
        }
    }

    /// Drives a new recovery to its end: the pairs that it took on, and what came of it.
    pub(crate) fn recover(
        &mut self,
        config: RecoveryConfig,
        wanted: &[SliverPairIndex],
    ) -> (Recovery, Result<Result<Vec<RecoveredPair>, RecoveryError>, RecoveryFailure>) {
        let holders = self.holders(wanted);
        let mut recovery = Recovery::new(config, &self.written.header, wanted, &holders).unwrap();
        let result = self.drive(config, &mut recovery).map(RecoveryMaterial::recover);
        (recovery, result)
    }

    /// One node per pair, but for the wanted ones.
    pub(crate) fn holders(&self, wanted: &[SliverPairIndex]) -> Vec<Vec<NodeId>> {
        let n = usize::from(self.written.header.n_shards);
        let lost: BTreeSet<_> = wanted.iter().map(|pair| pair.as_usize()).collect();
        let holder = |pair: usize| {
            let node = node(pair % self.habits.len());
            if lost.contains(&pair) { Vec::new() } else { vec![node] }
        };
        (0..n).map(holder).collect()
    }

    /// Drives the recovery to its end.
    pub(crate) fn drive(
        &mut self,
        config: RecoveryConfig,
        recovery: &mut Recovery,
    ) -> Result<RecoveryMaterial, RecoveryFailure> {
        let mut now_ms = 0;
        // Answers by time; the number keeps those of one time apart.
        let mut answers: BTreeMap<(u64, usize), (RecoveryInput, u64)> = BTreeMap::new();
        let (mut requests, mut held) = (0, 0);
        let mut input = RecoveryInput::Tick;
        loop {
            self.ended_ms = now_ms;
            let mut enlarged = false;
            for output in recovery.handle(now_ms, input) {
                let (to, pair, request) = match output {
                    RecoveryOutput::Ask { node, pair, axis, targets } => {
                        (node, pair, Request::Symbols { axis, targets })
                    }
                    RecoveryOutput::AskSliver { node, pair } => (node, pair, Request::Sliver),
                    RecoveryOutput::Banned { node } => {
                        assert!(self.banned.insert(node), "banned once");
                        continue;
                    }
                    RecoveryOutput::Enlarge { bytes } => {
                        assert_eq!(bytes, recovery.bytes_needed());
                        assert!(bytes <= config.bytes_max);
                        (enlarged, held) = (true, 0);
                        answers.clear();
                        continue;
                    }
                    RecoveryOutput::Recover(material) => return Ok(*material),
                    RecoveryOutput::Failed(failure) => return Err(failure),
                };
                assert!(!self.banned.contains(&to), "asks a banned node");
                *self.asked.entry(to).or_default() += 1;
                requests += 1;
                let axis = match &request {
                    Request::Symbols { axis, .. } => *axis,
                    Request::Sliver => Axis::Primary,
                };
                if let Some(answer) = self.answer(&to, pair, request) {
                    let fault = SliverFault::NoAnswer;
                    let failed = RecoveryInput::Failed { node: to, pair, axis, fault };
                    let (after_ms, answer, bytes) = self.over_link(now_ms, answer, failed);
                    answers.insert((now_ms + after_ms, requests), (answer, bytes));
                }
            }
            let in_flight: u64 = answers.values().map(|(_, bytes)| bytes).sum();
            self.most_bytes = self.most_bytes.max(in_flight + held);
            self.most_in_flight = self.most_in_flight.max(answers.len());
            if enlarged {
                self.enlarged += 1;
                input = RecoveryInput::Enlarged;
                continue;
            }
            let next = answers.first_entry();
            let wake_ms = recovery.wake_at_ms();
            input = match (next, wake_ms) {
                (Some(entry), wake) if wake.is_none_or(|wake| entry.key().0 <= wake) => {
                    now_ms = now_ms.max(entry.key().0);
                    let (answer, bytes) = entry.remove();
                    // What does not verify is dropped at once.
                    if !matches!(answer, RecoveryInput::Failed { .. }) {
                        held += bytes;
                    }
                    self.answered_bytes += bytes;
                    answer
                }
                (_, wake) => {
                    now_ms = wake.expect("it waits as long as it has not ended");
                    RecoveryInput::Tick
                }
            };
        }
    }

    /// What becomes of an answer on the way: if it does not come in time, the request has failed.
    fn over_link(
        &mut self,
        now_ms: u64,
        (after_ms, answer, bytes): (u64, RecoveryInput, u64),
        failed: RecoveryInput,
    ) -> (u64, RecoveryInput, u64) {
        let Some(rate) = self.link_bytes_per_second else { return (after_ms, answer, bytes) };
        let begins_ms = self.link_free_ms.max(now_ms + after_ms);
        let comes_ms = begins_ms + bytes * 1_000 / rate;
        let given_up_ms = now_ms + PATIENCE_MS;
        if comes_ms <= given_up_ms {
            self.link_free_ms = comes_ms;
            return (comes_ms - now_ms, answer, bytes);
        }
        // What had come of it was for nothing.
        if begins_ms < given_up_ms {
            self.link_free_ms = given_up_ms;
        }
        self.too_late += 1;
        (PATIENCE_MS, failed, 0)
    }

    /// When a node's answer comes, as the driver hands it in after it was verified, and its bytes.
    fn answer(
        &mut self,
        to: &NodeId,
        pair: SliverPairIndex,
        request: Request,
    ) -> Option<(u64, RecoveryInput, u64)> {
        let position = (0..self.habits.len()).find(|i| node(*i) == *to).unwrap();
        let axis = match &request {
            Request::Symbols { axis, .. } => *axis,
            Request::Sliver => Axis::Primary,
        };
        let delay_ms = 5 + self.random.below(40);
        let failed = |fault| RecoveryInput::Failed { node: *to, pair, axis, fault };
        let habit = self.habits[position];
        let delay_ms = match habit {
            Habit::Silent => return None,
            Habit::Unreachable => return Some((delay_ms, failed(SliverFault::NoAnswer), 0)),
            Habit::Busy(times) if times > 0 => {
                self.habits[position] = Habit::Busy(times - 1);
                let fault = SliverFault::Busy { retry_after_ms: 100 };
                return Some((delay_ms, failed(fault), 0));
            }
            Habit::Empty => return Some((delay_ms, failed(SliverFault::NotFound), 0)),
            _ if !self.written.is_true(axis, pair) => {
                return Some((delay_ms, failed(SliverFault::NotFound), 0));
            }
            Habit::RowsOnly if matches!(request, Request::Symbols { .. }) => {
                return Some((delay_ms, failed(SliverFault::NotFound), 0));
            }
            Habit::Slow(ms) => ms,
            Habit::Honest
            | Habit::Busy(_)
            | Habit::RowsOnly
            | Habit::FlipsBits
            | Habit::OtherPlaces => delay_ms,
        };
        let (verified, bytes) = match request {
            Request::Symbols { axis, targets } => self.symbols(to, habit, (pair, axis), &targets),
            Request::Sliver => self.sliver(to, habit, pair),
        };
        let input = verified.unwrap_or_else(|| failed(SliverFault::Wrong));
        Some((delay_ms, input, bytes))
    }

    fn symbols(
        &mut self,
        to: &NodeId,
        habit: Habit,
        (pair, axis): (SliverPairIndex, Axis),
        targets: &[SymbolIndex],
    ) -> (Option<RecoveryInput>, u64) {
        let header = self.written.header;
        let config = header.layout().unwrap().config();
        let mut sent = targets.to_vec();
        if habit == Habit::OtherPlaces {
            for target in &mut sent {
                *target = SymbolIndex::new((target.get() + 1) % header.n_shards);
            }
        }
        let mut symbols = Symbols::of(&self.written.symbols((pair, axis), &sent));
        if habit == Habit::FlipsBits {
            let part = match self.random.below(2) {
                0 => &mut symbols.proof,
                _ => &mut symbols.symbols,
            };
            *part = self.random.flip(part);
        }
        let bytes = (symbols.proof.len() + symbols.symbols.len()) as u64;
        let verified = symbols.verify(config, (&header.id(), pair, axis), targets).ok();
        let node = *to;
        let input = |symbols| RecoveryInput::Symbols { node, pair, axis, symbols };
        (verified.map(input), bytes)
    }

    fn sliver(
        &mut self,
        to: &NodeId,
        habit: Habit,
        pair: SliverPairIndex,
    ) -> (Option<RecoveryInput>, u64) {
        let header = self.written.header;
        let layout = header.layout().unwrap();
        let mut proof = Bytes::from(self.written.proofs[pair.as_usize()].to_bytes());
        let mut sliver = self.written.sliver(Axis::Primary, pair).clone();
        match habit {
            Habit::FlipsBits => match self.random.below(2) {
                0 => proof = self.random.flip(&proof),
                _ => sliver = self.random.flip(&sliver),
            },
            Habit::OtherPlaces => {
                let other = SliverPairIndex::new((pair.get() + 1) % header.n_shards);
                sliver = self.written.sliver(Axis::Primary, other).clone();
            }
            _ => {}
        }
        let bytes = (proof.len() + sliver.len()) as u64;
        let verified = PairProof::verify_bytes(layout.config(), &header.id(), &proof)
            .ok()
            .filter(|proof| proof.index == pair)
            .filter(|proof| verify_primary(&layout, proof, &sliver).is_ok());
        let node = *to;
        (verified.map(|proof| RecoveryInput::Sliver { node, proof, sliver }), bytes)
    }
}

impl Random {
    fn flip(&mut self, bytes: &Bytes) -> Bytes {
        let mut flipped = bytes.to_vec();
        let at = self.index(flipped.len());
        flipped[at] ^= 1 << self.below(8);
        flipped.into()
    }
}
