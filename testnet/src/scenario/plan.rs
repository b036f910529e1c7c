//! What happens in a scenario, and when.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{cluster::link::Links, workload::Dice};

/// So many epochs are enough to see the swarm with few nodes without room, and with many.
const BOTH_EPOCHS: u64 = 4;
/// Less than a pair with its proof takes: even an empty store has no room.
const FULL_QUOTA_BYTES: u64 = 1 << 10;

/// One change of the swarm, at the beginning of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node's stake is taken out; it is stopped once nobody needs it.
    Leave(usize),
    /// A new node joins with as much stake as the others have.
    Join,
    /// So many new nodes join with as much stake as the others have, and no room for the shards
    /// that they will gain.
    JoinFull(usize),
    /// A node is killed.
    Kill(usize),
    /// A killed node returns with an empty disk.
    Return(usize),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Leave(node) => write!(f, "{node} leaves"),
            Self::Join => write!(f, "one joins"),
            Self::JoinFull(count) => write!(f, "{count} join without room"),
            Self::Kill(node) => write!(f, "{node} dies"),
            Self::Return(node) => write!(f, "{node} returns empty"),
        }
    }
}

/// The link of a slow member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slow {
    /// What each packet takes that it sends or receives.
    pub delay: Duration,
    /// How many of a thousand of them are lost.
    pub lost_permille: u16,
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// Storage nodes at the start.
    pub nodes: usize,
    /// Shards of the network.
    pub shards: u16,
    /// Epochs to go through.
    pub epochs: u64,
    /// Duration of an epoch.
    pub epoch: Duration,
    /// Decides who leaves and dies, and what is stored.
    pub seed: u64,
    /// The largest blob.
    pub blob_bytes_max: usize,
    /// Time between the beginnings of two stores.
    pub store_every: Duration,
    /// Whether accounts pay all the time, so that block follows block.
    pub payers: bool,
    /// Nodes that leave.
    pub leaves: usize,
    /// Nodes that join.
    pub joins: usize,
    /// Nodes that die and return with empty disks.
    pub returns: usize,
    /// Nodes that die for good, one in each epoch.
    pub deaths: usize,
    /// Nodes that join without room.
    pub full: usize,
    /// Bytes of disk that the store of each of them may use.
    pub full_quota_bytes: u64,
    /// The last node's link, if it is a slow one.
    pub slow: Option<Slow>,
    /// Where nodes have links of their own.
    pub links: Option<Links>,
    /// Where the swarm lives; a temporary directory if none.
    pub dir: Option<PathBuf>,
    /// The program that runs a node; the one beside the running program if none.
    pub executable: Option<PathBuf>,
}

impl Plan {
    /// Of ten nodes three leave, three join, and two die and return; of fewer, fewer.
    #[must_use]
    pub fn churn(nodes: usize, epochs: u64) -> Self {
        let part = (nodes * 3 / 10).max(1);
        let returns = (nodes / 5).max(1);
        let base = Self::attrition(nodes, epochs);
        Self { name: "churn", leaves: part, joins: part, returns, deaths: 0, ..base }
    }

    /// One node dies in each epoch, and none returns.
    #[must_use]
    pub fn attrition(nodes: usize, epochs: u64) -> Self {
        Self {
            name: "attrition",
            nodes,
            shards: 64,
            epochs,
            epoch: Duration::from_secs(20),
            seed: 1,
            blob_bytes_max: 256 << 10,
            store_every: Duration::from_secs(1),
            payers: false,
            leaves: 0,
            joins: 0,
            returns: 0,
            deaths: usize::try_from(epochs).unwrap_or(usize::MAX),
            full: 0,
            full_quota_bytes: FULL_QUOTA_BYTES,
            slow: None,
            links: None,
            dir: None,
            executable: None,
        }
    }

    /// So many nodes join without room that the shards that they gain can stop an epoch.
    #[must_use]
    pub fn full(nodes: usize, epochs: u64) -> Self {
        let base = Self::attrition(nodes, epochs);
        Self { name: "full", deaths: 0, full: nodes / 2 + 1, ..base }
    }

    /// The last node has a slow link.
    #[must_use]
    pub fn slow(nodes: usize, epochs: u64, slow: Slow, links: Links) -> Self {
        let base = Self::attrition(nodes, epochs);
        let (slow, links) = (Some(slow), Some(links));
        Self { name: "slow", deaths: 0, payers: true, slow, links, ..base }
    }

    /// What happens at the beginning of each epoch, counted from the first one as 0. Nothing
    /// happens at the last boundary, so that what came before can settle.
    #[must_use]
    pub fn changes(&self) -> BTreeMap<u64, Vec<Change>> {
        let mut dice = Dice::new(self.seed);
        let mut nodes: Vec<usize> = (0..self.nodes).collect();
        for i in (1..nodes.len()).rev() {
            nodes.swap(i, dice.below(i + 1));
        }
        // The first node is whom others join through: others may, too, but it is simpler to follow
        // a scenario in which it stays. It counts as the last to be taken.
        nodes.sort_by_key(|node| *node == 0);
        let mut victims = nodes.into_iter();
        let mut changes = BTreeMap::<u64, Vec<Change>>::new();
        let busy = self.epochs.saturating_sub(1).max(1);
        let turn = |i: usize| u64::try_from(i).unwrap_or(u64::MAX) % busy;
        for (i, node) in victims.by_ref().take(self.leaves).enumerate() {
            changes.entry(turn(i)).or_default().push(Change::Leave(node));
        }
        for i in 0..self.joins {
            changes.entry(turn(i)).or_default().push(Change::Join);
        }
        if self.full > 0 {
            // First so few that the swarm has enough without them, where there is time for both.
            let few = if self.epochs < BOTH_EPOCHS { 0 } else { self.full / 3 };
            for (at, count) in [(0, few), (if few > 0 { 2 } else { 0 }, self.full - few)] {
                if count > 0 {
                    changes.entry(at).or_default().push(Change::JoinFull(count));
                }
            }
        }
        for (i, node) in victims.by_ref().take(self.returns).enumerate() {
            // Every second one is back at once, still a member; the others come back in the next
            // epoch, when their shards have gone elsewhere.
            let dies = turn(2 * i + 1);
            let back = if i % 2 == 0 { dies + 1 } else { dies };
            changes.entry(dies).or_default().push(Change::Kill(node));
            changes.entry(back).or_default().push(Change::Return(node));
        }
        for (i, node) in victims.take(self.deaths).enumerate() {
            let dies = u64::try_from(i).unwrap_or(u64::MAX);
            changes.entry(dies).or_default().push(Change::Kill(node));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_nodes_churn_as_promised_and_nobody_twice() {
        for seed in 0..50 {
            let plan = Plan { seed, ..Plan::churn(10, 6) };
            let changes = plan.changes();
            assert_eq!(changes, plan.changes(), "seed {seed}");
            let all: Vec<_> =
                changes.iter().flat_map(|(at, list)| list.iter().map(|c| (*at, *c))).collect();
            let count = |wanted: fn(&Change) -> bool| all.iter().filter(|(_, c)| wanted(c)).count();
            assert_eq!(count(|c| matches!(c, Change::Leave(_))), 3, "seed {seed}");
            assert_eq!(count(|c| matches!(c, Change::Join)), 3, "seed {seed}");
            assert_eq!(count(|c| matches!(c, Change::Kill(_))), 2, "seed {seed}");
            assert_eq!(count(|c| matches!(c, Change::Return(_))), 2, "seed {seed}");
            let mut gone: Vec<_> = all
                .iter()
                .filter_map(|(_, change)| match change {
                    Change::Leave(node) | Change::Kill(node) => Some(*node),
                    Change::Join | Change::JoinFull(_) | Change::Return(_) => None,
                })
                .collect();
            gone.sort_unstable();
            gone.dedup();
            assert_eq!(gone.len(), 5, "seed {seed}");
            assert!(all.iter().all(|(at, _)| *at < 6), "seed {seed}");
        }
    }

    #[test]
    fn in_attrition_one_dies_in_each_epoch() {
        let changes = Plan::attrition(10, 5).changes();
        assert_eq!(changes.len(), 5);
        assert!(changes.values().all(|list| matches!(list.as_slice(), [Change::Kill(_)])));
    }
}
