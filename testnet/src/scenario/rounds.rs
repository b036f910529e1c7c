//! What the ledger says of an epoch's challenges: every block executed again, from genesis on.

use std::sync::Arc;

use anyhow::Context;
use floe_protocol::{
    challenge::{Outcome, Score},
    committee::Committee,
    genesis::Genesis,
    keys::NodeId,
    ledger::{Amount, Event, MemoryStore, Settlement, State},
};

use crate::scenario::history::{Source, longest};

/// A member in an epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// Its rounds, counted one by one.
    pub(super) score: Score,
    /// What the epoch brought it.
    pub(super) settled: Option<Settlement>,
    /// What was burned of its stake.
    pub(super) slashed: Amount,
    pub(super) jailed: bool,
}

/// An epoch that has ended.
#[derive(Clone, Debug)]
pub(super) struct EpochLedger {
    pub(super) epoch: u64,
    pub(super) committee: Arc<Committee>,
    /// Rounds that were opened and closed in it, and of these the void ones.
    pub(super) rounds: u64,
    pub(super) void: u64,
    /// WAL that was burned in it.
    pub(super) burned: Amount,
    /// By position in the committee.
    pub(super) members: Vec<Member>,
    /// The supply was not what it is to be.
    pub(super) supply_broken: bool,
}

impl EpochLedger {
    fn new(state: &State) -> Self {
        let committee = Arc::clone(state.committee());
        Self {
            epoch: committee.epoch().get(),
            rounds: 0,
            void: 0,
            burned: Amount::ZERO,
            members: vec![Member::default(); committee.members().len()],
            supply_broken: false,
            committee,
        }
    }

    fn member(&mut self, node: &NodeId) -> Option<&mut Member> {
        self.committee.position(node).map(|position| &mut self.members[position])
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::ChallengeClosed { outcomes, .. } => {
                self.rounds += 1;
                self.void += u64::from(outcomes.contains(&Outcome::Void));
                for (member, outcome) in self.members.iter_mut().zip(outcomes) {
                    member.score.count(*outcome);
                }
            }
            Event::NodeSlashed { node, burned, .. } => {
                if let Some(member) = self.member(node) {
                    member.slashed = *burned;
                }
            }
            Event::NodeJailed { node } => {
                if let Some(member) = self.member(node) {
                    member.jailed = true;
                }
            }
            _ => {}
        }
    }
}

/// Executes the longest of these ledgers: its epochs that have ended.
pub(super) fn replay(genesis: &Genesis, sources: &[Source]) -> anyhow::Result<Vec<EpochLedger>> {
    let (tip, blocks) = longest(sources)?;
    let (mut state, change) = State::genesis(genesis)?;
    let supply = genesis.supply()?;
    let mut store = MemoryStore::default();
    store.write(change);
    let (mut ended, mut running) = (Vec::new(), EpochLedger::new(&state));
    let mut burned = state.summary().supply.burned;
    while state.tip().height < tip {
        let height = state.next_height();
        let block = blocks.block(height)?.with_context(|| format!("block {height} is missing"))?;
        // A quorum has verified the signatures.
        let executed = state.execute(&store, &block, &|_| true)?;
        executed.events.iter().for_each(|event| running.event(event));
        store.write(executed.change);
        let epoch = state.committee().epoch();
        state = executed.next;
        running.supply_broken |= state.summary().supply.total() != Some(supply);
        if state.committee().epoch() > epoch {
            let all = state.summary().supply.burned;
            running.burned = all
                .checked_sub(std::mem::replace(&mut burned, all))
                .context("WAL came back from the fire")?;
            for (member, of) in running.committee.members().iter().zip(&mut running.members) {
                let record =
                    state.node(&store, &member.node)?.context("a member left the registry")?;
                of.settled = record.settled.filter(|settled| settled.epoch == epoch);
            }
            ended.push(std::mem::replace(&mut running, EpochLedger::new(&state)));
        }
        store.prune(height.get());
    }
    Ok(ended)
}
