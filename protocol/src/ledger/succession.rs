//! What a network takes over from one whose ledger has stopped for good.
//!
//! The first state of the successor is the last one of its predecessor with as few changes as there
//! can be. Accounts, nodes, stakes, blobs, registrations, names and all WAL stay. The epoch that
//! stopped is over, and the next one runs: to those who store, it has stretched until now, and ends
//! of registrations mean what they meant. What was paid for it and not earned waits in the next
//! epoch's bucket, for those who go on. The committee is selected, by the ordinary function, among
//! the members of the stopped one and the nodes that reported lately that they follow, without those
//! that people leave out. A shard that moves is not ready; one whose holder lives, and had it
//! complete, is. Nobody who keeps a shard beside its holder is let go.
//!
//! Heights begin at 0 again, as the chain is another: who precommitted what is forgotten, and so are
//! rounds of challenges, and committees before the last. A vote of the old chain is none here.
//!
//! Invariants: the supply is the same to the FROST, which is counted; a pure function of the state (of
//! its records, at its height, whatever came later) and of who is left out, so that whoever repeats it gets the same genesis.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
};

use super::{
    Entry, EpochRecord, IndexRange, Key, Node, ReadError, Record, ShardRecord, SnapshotError,
    SnapshotManifest, SnapshotWriter, State, StateReader, Summary, Supply, Terms, Timestamp,
    overlay::Overlay, tree::TreeBuilder,
};
use crate::{
    committee::{Candidate, Committee, CommitteeError},
    genesis::Predecessor,
    hash::Hash,
    index::{Epoch, Height},
    keys::NodeId,
};

/// Most nodes that are looked at beside the members: those with most stake when they reported.
const REPORTED_MAX: usize = 4_096;
/// Nodes of the registry that are looked up at a time.
const PAGE_MAX: usize = 1_024;

/// Why a network cannot go on from a state.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The nodes that are left cannot carry all shards.
    #[error("the {nodes} nodes that are left cannot form a committee: {error}")]
    Committee {
        /// How many are left.
        nodes: usize,
        /// Why not.
        error: CommitteeError,
    },
    /// A node that is to be left out is not registered.
    #[error("node {0} is to be left out, but is not registered")]
    Unknown(NodeId),
    /// The state holds another sum of WAL than it should.
    #[error("the state holds another sum of WAL than there is: it is damaged")]
    Supply,
    /// The state cannot be cut into chunks.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The first state of a successor, as far as it differs from the last one of its predecessor.
#[derive(Clone, Debug)]
pub struct Succession {
    before: Before,
    committee: Committee,
    shards: Vec<ShardRecord>,
    supply: Supply,
    /// By the hash of its key: what a record is from now on.
    changes: BTreeMap<Hash, Option<Entry>>,
}

/// The last block of the predecessor.
#[derive(Clone, Copy, Debug)]
struct Before {
    chain: crate::keys::ChainId,
    height: Height,
    block: super::BlockHash,
    time: Timestamp,
    state_root: Hash,
    epoch: Epoch,
}

impl Succession {
    /// What follows after the state of `reader`, without some of the nodes.
    ///
    /// # Errors
    /// [`SuccessionError`].
    pub fn new(
        state: &State,
        reader: &dyn StateReader,
        without: &BTreeSet<NodeId>,
    ) -> Result<Self, SuccessionError> {
        let tip = *state.tip();
        let mut overlay = Overlay::new(reader, Some(tip.height));
        for node in without {
            if overlay.node(node)?.is_none() {
                return Err(SuccessionError::Unknown(*node));
            }
        }
        let summary = overlay.summary()?;
        let before = Before {
            chain: *state.chain(),
            height: tip.height,
            block: tip.hash,
            time: tip.time,
            state_root: tip.state_root,
            epoch: summary.epoch,
        };
        let next = summary.epoch.plus(1);
        let nodes = left(state, reader, without)?;
        let least = state.parameters().ledger.min_stake;
        let candidates =
            nodes.iter().filter(|(_, node)| node.jailed.is_none() && node.stake_in(next) >= least);
        let candidates: Vec<_> = candidates
            .map(|(id, node)| Candidate {
                node: *id,
                bls_key: node.bls_key,
                stake: node.stake_in(next).frost(),
            })
            .collect();
        let mut shards = overlay.shards()?;
        // Who last had a shard complete takes it back: it has most of it.
        let returning = shards.iter().map(|shard| (!shard.is_ready()).then_some(shard.last_ready));
        let returning: Vec<_> = returning.collect();
        let running = state.committee();
        let committee = running
            .reassigned(next, &candidates, &returning)
            .map_err(|error| SuccessionError::Committee { nodes: candidates.len(), error })?;
        // A quorum of flags proves nothing where more may be gone than the network bears: who kept a
        // shard beside its holder may be the only one who is left of them.
        ShardRecord::hand_over(&mut shards, running, &committee);
        let mut succession =
            Self { before, committee, shards, supply: summary.supply, changes: BTreeMap::new() };
        succession.change_epoch(&mut overlay, summary, &nodes)?;
        Ok(succession)
    }

    /// The records of the epoch that begins and of the one that is over.
    fn change_epoch(
        &mut self,
        overlay: &mut Overlay<'_>,
        summary: Summary,
        nodes: &BTreeMap<NodeId, Node>,
    ) -> Result<(), SuccessionError> {
        let next = self.committee.epoch();
        let mut ended = overlay.epoch(summary.epoch)?;
        let mut begun = overlay.epoch(next)?;
        begun.bucket = begun.bucket.checked_add(ended.bucket).ok_or(SuccessionError::Supply)?;
        begun.first_height = Some(Height::new(1));
        ended = EpochRecord { bucket: super::Amount::ZERO, first_height: None, ..ended };
        let summary = Summary {
            epoch: next,
            // The first block says when it begins.
            epoch_start: Timestamp::from_ms(0),
            prices: summary.next_prices.unwrap_or(summary.prices),
            next_prices: None,
            selections: 0,
            selection_failed: None,
            resumed: None,
            certifications: summary.certifications,
            supply: summary.supply,
        };
        let terms = self.committee.members().iter().map(|member| Terms {
            commission_bps: nodes.get(&member.node).map_or(0, |node| node.settings.commission_bps),
            paid_shards: member.weight(),
        });
        let terms = terms.collect();
        self.put(Key::Epoch(Epoch::new(next.get().saturating_sub(1))), Record::Epoch(ended));
        self.put(Key::Epoch(next), Record::Epoch(begun));
        self.put(Key::Summary, Record::Summary(summary));
        self.put(Key::Committee(next), Record::Committee(self.committee.to_bytes()));
        self.put(Key::Terms(next), Record::Terms(terms));
        self.put(Key::Shards, Record::Shards(self.shards.clone()));
        self.changes.insert(Key::Attendance.hash(), None);
        Ok(())
    }

    fn put(&mut self, key: Key, record: Record) {
        self.changes.insert(key.hash(), Some(Entry { key, record }));
    }

    /// The first committee of the successor.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.committee
    }

    /// How many shards are complete with who holds them.
    #[must_use]
    pub fn ready_shards(&self) -> usize {
        self.shards.iter().filter(|shard| shard.is_ready()).count()
    }

    /// Makes the chunks of the first state, which come out as the last one of the predecessor goes
    /// in.
    #[must_use]
    pub fn writer(&self) -> SuccessionWriter<'_> {
        SuccessionWriter {
            succession: self,
            changes: self.changes.iter().peekable(),
            writer: SnapshotWriter::default(),
            tree: TreeBuilder::new(0),
            pending: Vec::new(),
            counted: Supply::default(),
        }
    }

    /// What an entry that is not named in `changes` is from now on.
    fn carried(&self, entry: Entry) -> Option<Entry> {
        match (&entry.key, entry.record) {
            (Key::Presence(_) | Key::Challenges(_), _) => None,
            (Key::Committee(epoch) | Key::Terms(epoch), record) => {
                (*epoch == self.before.epoch).then_some(Entry { key: entry.key, record })
            }
            (Key::Epoch(_), Record::Epoch(record)) => {
                let record = Record::Epoch(EpochRecord { first_height: None, ..record });
                Some(Entry { key: entry.key, record })
            }
            (_, record) => Some(Entry { key: entry.key, record }),
        }
    }
}

/// The nodes that may go on: members, and who reported in this epoch or the last.
///
/// Who reported is told by records alone. The index of reports is that of the newest block, which
/// may be a later one, and a state that was restored has less of it. The registry's only grows: who
/// came later has no record in this state.
fn left(
    state: &State,
    reader: &dyn StateReader,
    without: &BTreeSet<NodeId>,
) -> Result<BTreeMap<NodeId, Node>, ReadError> {
    let members = state.committee().members().iter().map(|member| member.node);
    let members: BTreeSet<_> = members.filter(|node| !without.contains(node)).collect();
    let mut nodes = BTreeMap::new();
    for id in &members {
        if let Some(node) = state.node(reader, id)? {
            nodes.insert(*id, node);
        }
    }
    let epoch = state.summary().epoch;
    let is_recent = |node: &Node| node.ready.is_some_and(|ready| epoch <= ready.plus(1));
    let mut reported = Vec::new();
    let IndexRange { mut start, end } = IndexRange::registered();
    loop {
        let page = reader.index(&start..&end, PAGE_MAX)?;
        let Some(last) = page.last() else { break };
        start = [last.as_slice(), &[0]].concat();
        let ids = page.iter().filter_map(|entry| entry.last_chunk()).map(|id| NodeId::new(*id));
        for id in ids.filter(|id| !members.contains(id) && !without.contains(id)) {
            if let Some(node) = state.node(reader, &id)?.filter(is_recent) {
                reported.push((Reverse(node.ready_stake), id, node));
            }
        }
        reported.sort_unstable_by_key(|(stake, id, _)| (*stake, *id));
        reported.truncate(REPORTED_MAX);
    }
    nodes.extend(reported.into_iter().map(|(_, id, node)| (id, node)));
    Ok(nodes)
}

/// Makes the chunks of a first state.
#[derive(Debug)]
pub struct SuccessionWriter<'a> {
    succession: &'a Succession,
    changes: Peekable<std::collections::btree_map::Iter<'a, Hash, Option<Entry>>>,
    writer: SnapshotWriter,
    tree: TreeBuilder,
    /// What is in the chunk that is not full yet.
    pending: Vec<(Hash, Option<Vec<u8>>)>,
    counted: Supply,
}

impl SuccessionWriter<'_> {
    /// Takes the next value of the predecessor's state, with the hash of its key; the chunks that
    /// became full.
    ///
    /// # Errors
    /// [`SuccessionError`].
    pub fn push(&mut self, key: &Hash, value: &[u8]) -> Result<Vec<Vec<u8>>, SuccessionError> {
        let mut full = self.changes_before(Some(key))?;
        let entry = match self.changes.next_if(|(changed, _)| *changed == key) {
            // It takes this one's place.
            Some((_, changed)) => changed.clone(),
            None => {
                let damaged = || ReadError::Failed("a value of the state is no entry".into());
                let entry = Entry::from_bytes(value).ok_or_else(damaged)?;
                self.succession.carried(entry)
            }
        };
        if let Some(entry) = entry {
            full.extend(self.take(key, &entry)?);
        }
        Ok(full)
    }

    /// Takes what is new before a key, or all that is left.
    fn changes_before(&mut self, key: Option<&Hash>) -> Result<Vec<Vec<u8>>, SuccessionError> {
        let mut full = Vec::new();
        while let Some((hash, entry)) =
            self.changes.next_if(|(hash, _)| key.is_none_or(|key| *hash < key))
        {
            if let Some(entry) = entry {
                full.extend(self.take(hash, entry)?);
            }
        }
        Ok(full)
    }

    fn take(&mut self, key: &Hash, entry: &Entry) -> Result<Option<Vec<u8>>, SuccessionError> {
        let part = entry.record.wal().ok_or(SuccessionError::Supply)?;
        self.counted = self.counted.add(&part).ok_or(SuccessionError::Supply)?;
        let value = entry.to_bytes();
        let full = self.writer.push(key, &value)?;
        if full.is_some() {
            self.tree.extend(&std::mem::take(&mut self.pending))?;
        }
        self.pending.push((*key, Some(value)));
        Ok(full)
    }

    /// The last chunks, the manifest, and what the genesis says of the predecessor.
    ///
    /// # Errors
    /// [`SuccessionError::Supply`] if WAL was made or lost; others.
    pub fn finish(
        mut self,
    ) -> Result<(Vec<Vec<u8>>, SnapshotManifest, Predecessor), SuccessionError> {
        let mut chunks = self.changes_before(None)?;
        let Self { succession, writer, mut tree, pending, counted, .. } = self;
        let Succession { before, committee, supply, .. } = succession;
        // What is burned is in the summary alone.
        let burned = Supply { burned: supply.burned, ..counted };
        let total = supply.total().filter(|_| burned == *supply);
        tree.extend(&pending)?;
        let (first_state, _) = tree.finish();
        let mut predecessor = Predecessor {
            chain: before.chain,
            height: before.height,
            block: before.block,
            time: before.time,
            state_root: before.state_root,
            first_state,
            manifest: Hash::ZERO,
            committee: committee.to_bytes(),
            supply: total.ok_or(SuccessionError::Supply)?,
        };
        let header = predecessor.first_header(committee.epoch());
        let (last, manifest) = writer.finish(header, predecessor.committee.clone())?;
        chunks.push(last);
        predecessor.manifest = manifest.id();
        Ok((chunks, manifest, predecessor))
    }
}
