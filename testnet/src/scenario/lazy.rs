//! The scenario `lazy`: members that do less than they are paid for, and what the ledger makes of it.
//!
//! Of the nodes of a swarm one drops 3 % of its slivers, one 30 %, one drops everything and fetches
//! what it is asked for, one stops, and one lies ([`crate::lazy`]). Together they have no more shards
//! than the network bears. The one that fetches does so in another way in each epoch, now over a
//! link without delay, now over a slow one.
//!
//! Who stops for good is slashed once and then not selected any more. So the one that stops is a
//! volunteer's laptop: on at the beginning of each epoch, for as long as it takes to be selected
//! again, and off for the rest of it. It holds everything and misses most rounds, in one epoch
//! after the other, until it is jailed.
//!
//! What came of it is what the ledger says, executed again at the end: scores, rewards, what was
//! burned and who was jailed, held against what each was to come to. A promise that does not hold is
//! named in [`LazyReport::broken`].

mod expected;
mod outcome;
mod run;

use std::time::Duration;

pub use self::outcome::LazyReport;
use super::challenged::{Challenged, ChallengedArgs};
use crate::{
    cluster::link::Links,
    lazy::{Fetch, Lazy},
};

/// Until blobs are stored in the first epoch, which is to have as many rounds as the others.
const SETUP: Duration = Duration::from_secs(60);
/// Delay of each packet that the one who fetches sends or receives, where its link is slow.
const DELAY: Duration = Duration::from_millis(100);
/// For how much of each epoch, in percent, the one that stops is up: for more than half of the time
/// until the next committee is selected, and so it is among it.
const UP_PERCENT: u32 = 35;

/// How large and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LazyArgs {
    /// Epochs to go through
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    epochs: u64,
    /// Rounds of challenges in each epoch, at least
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(20..=10_000))]
    rounds: u64,
    #[command(flatten)]
    pub(super) swarm: ChallengedArgs,
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is lazy in this way.
    Lazy(Lazy),
    /// It stops early in each epoch.
    Stops,
}

/// How the one that fetches does so in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetching {
    pub(super) way: Fetch,
    /// Whether over a slow link.
    pub(super) delayed: bool,
}

impl Fetching {
    /// In words.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self { way: Fetch::Symbols, .. } => "fetches symbols",
            Self { way: Fetch::Reads, delayed: true } => "reads, 100 ms away",
            Self { way: Fetch::Reads, delayed: false } => "reads",
        }
    }
}

/// The scenario.
#[derive(Clone, Debug)]
pub struct LazyPlan {
    /// The swarm.
    pub swarm: Challenged,
    /// Epochs to go through.
    pub epochs: u64,
}

impl LazyArgs {
    pub(super) fn plan(&self, links: Links) -> LazyPlan {
        let swarm = self.swarm.swarm(self.rounds, SETUP, links);
        LazyPlan { swarm, epochs: self.epochs }
    }
}

impl LazyPlan {
    /// The last nodes, so that others can join through the first.
    fn parts(&self) -> [(usize, Part); 5] {
        let first = self.swarm.nodes - 5;
        [
            (first, Part::Lazy(Lazy::Drops(30))),
            (first + 1, Part::Lazy(Lazy::Drops(300))),
            (first + 2, Part::Lazy(Lazy::Fetches(Fetch::Reads))),
            (first + 3, Part::Stops),
            (first + 4, Part::Lazy(Lazy::Lies)),
        ]
    }

    /// The node that stops.
    fn stopping(&self) -> usize {
        let stops = self.parts().into_iter().find(|(_, part)| *part == Part::Stops);
        stops.expect("it is among the parts").0
    }

    /// How the one that fetches does so in an epoch, counted from the first as 0: never badly in
    /// three epochs in a row, which would have it jailed.
    const fn fetching(step: u64) -> Fetching {
        match step % 4 {
            1 => Fetching { way: Fetch::Symbols, delayed: false },
            3 => Fetching { way: Fetch::Reads, delayed: true },
            _ => Fetching { way: Fetch::Reads, delayed: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fetches_is_never_bad_in_three_epochs_in_a_row() {
        let ways: Vec<_> = (0..8).map(LazyPlan::fetching).collect();
        let is_good = |fetching: &Fetching| fetching.way == Fetch::Reads && !fetching.delayed;
        assert!(ways.windows(3).all(|ways| ways.iter().any(is_good)));
        for name in ["fetches symbols", "reads, 100 ms away", "reads"] {
            assert!(ways[..4].iter().any(|fetching| fetching.name() == name), "{name}");
        }
    }
}
