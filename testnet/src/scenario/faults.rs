//! The scenario `faults`: nodes that keep all that they are to keep, and that everything else happens
//! to. None of them is slashed.
//!
//! Each epoch has a seed of its own, from which follows what happens in it: nodes are cut off from
//! all others, restarted, stand still for some seconds, or have a link between them that loses
//! packets. What happens to one node takes two fifths of the epoch at most, what it needs to find the
//! others again included. From the second half of each epoch into the next one a node's clock is
//! wrong by an hour: not earlier, or it would not be selected. What became of the rounds is what the
//! ledger says at the end.

mod outcome;
mod run;

use std::time::Duration;

pub use self::outcome::FaultsReport;
use super::challenged::{Challenged, ChallengedArgs};
use crate::{cluster::link::Links, workload::Dice};

/// Equal parts of an epoch; a fault takes one of them.
const SLOTS: usize = 5;
/// Slots of an epoch in which something happens to the same node, at most.
const SLOTS_EACH: usize = 2;
/// So much of an epoch is lost to rounds: who is cut off or restarted has proposals time out, and
/// they come late.
const LATE: Duration = Duration::from_secs(20);

/// How large and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FaultsArgs {
    /// Epochs with faults, each with a seed of its own
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// Rounds of challenges in each epoch, at least
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u64).range(20..=10_000))]
    rounds: u64,
    #[command(flatten)]
    pub(super) swarm: ChallengedArgs,
}

/// What happens to honest nodes for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// These two reach nobody but each other.
    Cut([usize; 2]),
    /// It is stopped and started again.
    Restart(usize),
    /// Its process stands still for some seconds.
    Pause(usize),
    /// Three of ten packets between these two are lost.
    Loss([usize; 2]),
}

impl Fault {
    /// To whom it happens.
    pub(super) fn nodes(&self) -> &[usize] {
        match self {
            Self::Cut(nodes) | Self::Loss(nodes) => nodes,
            Self::Restart(node) | Self::Pause(node) => std::slice::from_ref(node),
        }
    }

    /// In words.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Cut(_) => "cut off",
            Self::Restart(_) => "restarted",
            Self::Pause(_) => "paused",
            Self::Loss(_) => "lossy",
        }
    }
}

/// The scenario. The seed of an epoch is that of the swarm and the epoch's number together.
#[derive(Clone, Debug)]
pub struct FaultsPlan {
    /// The swarm.
    pub swarm: Challenged,
    /// Epochs with faults.
    pub seeds: u64,
}

impl FaultsArgs {
    pub(super) fn plan(&self, links: Links) -> FaultsPlan {
        let swarm = self.swarm.swarm(self.rounds, LATE, links);
        FaultsPlan { swarm, seeds: self.seeds }
    }
}

impl FaultsPlan {
    /// What happens in an epoch.
    fn faults(&self, epoch: u64) -> [Fault; SLOTS] {
        faults(self.swarm.seed.wrapping_add(epoch), self.swarm.nodes)
    }

    /// The node whose clock is wrong when this epoch begins; none in the first one with faults.
    /// Never the first node, through which others join.
    fn wrong_clock(&self, epoch: u64) -> Option<usize> {
        let mut dice = Dice::new(self.swarm.seed.wrapping_add(epoch).wrapping_mul(31));
        (epoch > 1).then(|| 1 + dice.below(self.swarm.nodes - 1))
    }
}

/// What happens in the slots of an epoch among so many nodes.
fn faults(seed: u64, nodes: usize) -> [Fault; SLOTS] {
    let mut dice = Dice::new(seed);
    let mut slots_of = vec![0_usize; nodes];
    let draw = |slots_of: &mut Vec<usize>, dice: &mut Dice| loop {
        let node = dice.below(nodes);
        if slots_of[node] < SLOTS_EACH {
            slots_of[node] += 1;
            return node;
        }
    };
    std::array::from_fn(|_| {
        let kind = dice.below(4);
        let first = draw(&mut slots_of, &mut dice);
        if kind < 2 {
            return if kind == 0 { Fault::Restart(first) } else { Fault::Pause(first) };
        }
        let mut second = draw(&mut slots_of, &mut dice);
        while second == first {
            slots_of[second] -= 1;
            second = draw(&mut slots_of, &mut dice);
        }
        if kind == 2 { Fault::Cut([first, second]) } else { Fault::Loss([first, second]) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: usize = 16;

    #[test]
    fn two_fifths_of_an_epoch_at_most_are_taken_from_any_node() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let drawn = faults(seed, NODES);
            assert_eq!(drawn, faults(seed, NODES), "seed {seed}");
            kinds.extend(drawn.iter().map(Fault::name));
            for node in 0..NODES {
                let slots = drawn.iter().filter(|fault| fault.nodes().contains(&node)).count();
                assert!(slots <= SLOTS_EACH, "seed {seed}: {drawn:?}");
            }
            for fault in drawn {
                let nodes = fault.nodes();
                assert!(nodes.len() == 1 || nodes[0] != nodes[1], "seed {seed}: {fault:?}");
            }
        }
        assert_eq!(kinds.len(), 4);
    }
}
