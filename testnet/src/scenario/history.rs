//! What the ledger says at the end: every block executed again, from genesis on.
//!
//! The blocks are those of a node that has stopped. From them follows what no question to a running
//! swarm can show: whether anybody was slashed, whether WAL was burned that was only not earned,
//! whether the supply was whole after each block, whose precommits were recorded, and how long each
//! epoch took.
//!
//! All nodes of a scenario are honest and nobody withdraws, so what a node has at stake, on its way
//! in and on its way out included, never falls.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use floe_node::config::NodePaths;
use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        Amount, Block, BlockEvents, CommitRecord, Event, LATE_PRECOMMIT_HEIGHTS, MemoryStore,
        ShardRecord, State,
    },
};
use floe_storage::{LedgerStore, LedgerStoreConfig};

/// A shard with all of its pay, in parts for those that missed challenges.
const SHARD: u128 = 1_000_000_000_000_000;

/// An epoch, as its blocks tell it.
#[derive(Clone, Debug, Default)]
pub(super) struct EpochHistory {
    pub(super) epoch: u64,
    /// Its length in ledger time; none if it has not ended.
    pub(super) took_ms: Option<u64>,
    /// Its members, with their shards and the heights for which they were recorded.
    pub(super) members: BTreeMap<NodeId, (u16, u64)>,
    /// Heights that its committee decided and a later block tells of.
    pub(super) heights: u64,
    /// Shards that were not ready when it ended.
    pub(super) unready: u16,
    /// How many of them went back to who had them whole.
    pub(super) returned: u16,
}

/// A ledger from its first block to its last.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) epochs: Vec<EpochHistory>,
    pub(super) blocks: u64,
    /// The longest time between two blocks, by their own times.
    pub(super) longest_gap_ms: u64,
    /// What is burned.
    pub(super) burned: Amount,
    /// What must not be.
    pub(super) broken: Vec<String>,
}

/// A ledger on the disk of a node that has stopped.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) dir: PathBuf,
    pub(super) node: NodeId,
}

/// The longest of these ledgers that begins with the first block, and its tip.
pub(super) fn longest(sources: &[Source]) -> anyhow::Result<(Height, LedgerStore)> {
    let mut best: Option<(Height, LedgerStore)> = None;
    for source in sources {
        let paths = NodePaths::below(&source.dir);
        let config = LedgerStoreConfig::new(paths.ledger, paths.ledger_marker, source.node);
        let Ok(store) = LedgerStore::open(&config) else { continue };
        let Some((tip, _)) = store.tip()? else { continue };
        if store.first() == Height::new(0) && best.as_ref().is_none_or(|(best, _)| *best < tip) {
            best = Some((tip, store));
        }
    }
    best.context("no node has a whole ledger")
}

/// Executes the longest of these ledgers that begins with the first block.
pub(super) fn replay(genesis: &Genesis, sources: &[Source]) -> anyhow::Result<History> {
    let (tip, blocks) = longest(sources)?;
    let mut replay = Replay::new(genesis)?;
    while replay.state.tip().height < tip {
        let height = replay.state.next_height();
        let block = blocks.block(height)?.with_context(|| format!("block {height} is missing"))?;
        replay.block(&block)?;
    }
    Ok(replay.history)
}

struct Replay {
    state: State,
    store: MemoryStore,
    supply: Amount,
    /// Who voted on the last heights.
    voters: VecDeque<(Height, Arc<Committee>)>,
    /// What nodes had when it was last looked at.
    stakes: BTreeMap<NodeId, Amount>,
    /// Shards that are paid in the running epoch: those ready at its half.
    paid: BTreeMap<NodeId, u16>,
    history: History,
}

impl Replay {
    fn new(genesis: &Genesis) -> anyhow::Result<Self> {
        let (state, change) = State::genesis(genesis)?;
        let mut store = MemoryStore::default();
        store.write(change);
        let mut replay = Self {
            supply: genesis.supply()?,
            state,
            store,
            voters: VecDeque::new(),
            stakes: BTreeMap::new(),
            paid: BTreeMap::new(),
            history: History::default(),
        };
        replay.begin_epoch();
        Ok(replay)
    }

    fn begin_epoch(&mut self) {
        let committee = self.state.committee();
        let members = committee.members().iter().map(|member| (member.node, (member.weight(), 0)));
        let (epoch, members) = (committee.epoch().get(), members.collect());
        self.history.epochs.push(EpochHistory { epoch, members, ..EpochHistory::default() });
    }

    fn block(&mut self, block: &Block) -> anyhow::Result<()> {
        let (height, before) = (self.state.next_height(), self.state.clone());
        // A quorum has verified the signatures.
        let executed = self.state.execute(&self.store, block, &|_| true)?;
        let shards = before.shards(&self.store)?;
        self.count_precommits(&block.body.commit_record);
        self.voters.push_back((height, Arc::clone(before.committee())));
        self.store.write(executed.change);
        self.state = executed.next;
        self.history.blocks = height.get();
        if height > Height::new(1) {
            let gap = block.header.time.ms_since(before.tip().time);
            self.history.longest_gap_ms = self.history.longest_gap_ms.max(gap);
        }
        if self.state.summary().supply.total() != Some(self.supply) {
            self.broken(format!("the supply is not what it was after block {height}"));
        }
        let ends = self.state.committee().epoch() > before.committee().epoch();
        if before.summary().selections == 0 && (ends || self.state.summary().selections > 0) {
            self.note_paid(&before, shards.clone(), &executed.events);
        }
        for event in executed.events.iter() {
            if let Event::NodeSlashed { node, burned, .. } = event {
                self.broken(format!("node {node} lost {burned} in block {height}, and is honest"));
            }
        }
        self.check_burned(&before, &executed.events);
        if ends {
            self.end_epoch(&before, &shards)?;
        }
        self.store.prune(height.get());
        Ok(())
    }

    fn broken(&mut self, what: String) {
        self.history.broken.push(what);
    }

    /// Counts whose precommits a block records.
    fn count_precommits(&mut self, record: &CommitRecord) {
        let Some(parent) = &record.parent else { return };
        let on_time = parent.signatures.iter().map(|signature| (parent.height, signature.position));
        let late = record.late.iter().map(|late| (late.height, late.position));
        let voters = &self.voters;
        let committee_of = |height: Height| {
            let voted = voters.iter().find(|(voted, _)| *voted == height);
            voted.map(|(_, committee)| Arc::clone(committee))
        };
        let epochs = &mut self.history.epochs;
        let mut count = |epoch: Epoch, count: &dyn Fn(&mut EpochHistory)| {
            epochs.iter_mut().filter(|row| row.epoch == epoch.get()).for_each(count);
        };
        if let Some(committee) = committee_of(parent.height) {
            count(committee.epoch(), &|row| row.heights += 1);
        }
        for (height, position) in on_time.chain(late) {
            let Some(committee) = committee_of(height) else { continue };
            let Some(member) = committee.members().get(usize::from(position)) else { continue };
            count(committee.epoch(), &|row| {
                if let Some((_, recorded)) = row.members.get_mut(&member.node) {
                    *recorded += 1;
                }
            });
        }
        let kept = usize::try_from(LATE_PRECOMMIT_HEIGHTS).unwrap_or(usize::MAX);
        while self.voters.len() > kept {
            self.voters.pop_front();
        }
    }

    /// At the first selection of an epoch, which may be its end if blocks were rare: who is paid for
    /// how many shards.
    fn note_paid(&mut self, before: &State, mut shards: Vec<ShardRecord>, events: &BlockEvents) {
        for event in events.iter() {
            if let Event::ShardsCompleted { node, shards: completed } = event {
                let time = self.state.tip().time;
                for shard in completed {
                    shards[shard.as_usize()].report_ready(*node, time);
                }
            }
        }
        let paid = before.committee().members().iter().map(|member| {
            let ready = member.shards.iter().filter(|shard| shards[shard.as_usize()].is_ready());
            (member.node, u16::try_from(ready.count()).unwrap_or(u16::MAX))
        });
        self.paid = paid.collect();
    }

    /// WAL is burned at the end of epochs only, and only the pay of shards that were not ready and
    /// of challenges that were missed.
    fn check_burned(&mut self, before: &State, events: &BlockEvents) {
        let burned = self.state.summary().supply.burned;
        let more = burned.frost().saturating_sub(before.summary().supply.burned.frost());
        self.history.burned = burned;
        let paid = events.iter().filter_map(|event| match event {
            Event::RewardPaid { node, reward, commission, score, .. } => {
                let shards = u128::from(self.paid.get(node).copied().unwrap_or(0));
                let (passed, opened) = score.pay();
                let earned = shards * SHARD * u128::from(passed) / u128::from(opened);
                Some((earned, reward.frost() + commission.frost()))
            }
            _ => None,
        });
        let paid: Vec<_> = paid.collect();
        let earned: u128 = paid.iter().map(|(earned, _)| earned).sum();
        // Nobody owns the pool of a node that has left: its pay stays, and tells nothing.
        let paid = paid.into_iter().filter(|(_, pay)| *pay > 0);
        let (shards, pay) = paid.fold((0, 0), |sum, paid| (sum.0 + paid.0, sum.1 + paid.1));
        let n_shards = u128::from(before.committee().n_shards());
        // One part for each shard, each member's rounded down.
        let lost = (n_shards * SHARD).saturating_sub(earned);
        let expected = pay * lost / shards.max(1);
        if more.abs_diff(expected) > 2 * n_shards {
            let (epoch, more) = (before.committee().epoch(), Amount::from_frost(more));
            let expected = Amount::from_frost(expected);
            self.broken(format!("epoch {epoch} burned {more}; {expected} were not earned"));
        }
    }

    fn end_epoch(&mut self, before: &State, shards: &[ShardRecord]) -> anyhow::Result<()> {
        let (start, end) = (before.summary().epoch_start, self.state.summary().epoch_start);
        let (old, new) = (before.committee(), Arc::clone(self.state.committee()));
        let holder = |committee: &Committee, index| {
            let index = floe_protocol::index::ShardIndex::new(index);
            committee.members()[committee.holder(index)].node
        };
        if let Some(row) = self.history.epochs.last_mut() {
            row.took_ms = Some(end.ms_since(start));
            for (index, shard) in (0..).zip(shards).filter(|(_, shard)| !shard.is_ready()) {
                row.unready += 1;
                let back = holder(&new, index) == shard.last_ready;
                row.returned += u16::from(back && holder(old, index) != shard.last_ready);
            }
        }
        self.begin_epoch();
        self.check_stakes()
    }

    /// What every member has at stake, which never falls.
    fn check_stakes(&mut self) -> anyhow::Result<()> {
        let epochs = self.history.epochs.iter();
        let known: Vec<_> = epochs.flat_map(|row| row.members.keys().copied()).collect();
        for id in known {
            let node = self.state.node(&self.store, &id)?;
            let node = node.with_context(|| format!("node {id} left the registry"))?;
            let incoming = node.incoming.iter().map(|incoming| incoming.amount.frost());
            let has: u128 = incoming.sum();
            let has = has + node.pool.stake.frost() + node.unbonding.stake.frost();
            let has = Amount::from_frost(has);
            let had = self.stakes.insert(id, has).unwrap_or(Amount::ZERO);
            if has < had {
                self.broken(format!("node {id} had {had} at stake, and has {has}"));
            }
        }
        Ok(())
    }
}
