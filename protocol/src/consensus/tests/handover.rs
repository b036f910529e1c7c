//! The committee changes at the boundary of an epoch, and the votes go on.

use std::sync::Arc;

use super::network::{Weather, World};
use crate::{
    committee::{Candidate, Committee},
    index::{Epoch, Height},
    keys::{BlsPublicKey, NodeId},
    test_support,
};

/// The first height of the new committee.
const FIRST: u64 = 11;

fn committee(nodes: &[NodeId]) -> Committee {
    let candidate = |(i, node): (u8, &NodeId)| {
        let bls_key = BlsPublicKey::new([i; 48]);
        Candidate { node: *node, bls_key, stake: 1_000 }
    };
    let candidates: Vec<_> = (0..).zip(nodes).map(candidate).collect();
    Committee::at_genesis(4, &candidates).unwrap()
}

/// Five nodes: the first four are members, and from height [`FIRST`] on the last four.
fn world(seed: u64) -> World {
    let keys = test_support::node_keys(5);
    let mut nodes: Vec<_> = keys.iter().map(|(key, _)| key.public()).collect();
    nodes.sort_unstable();
    let old = committee(&nodes[..4]);
    let new = committee(&nodes[1..]).in_epoch(Epoch::new(1));
    let mut world = World::of_nodes(seed, Arc::new(old), 5);
    world.successor = Some((Height::new(FIRST), Arc::new(new)));
    world
}

/// Heights for which node `i` has voted.
fn voted(world: &World, i: usize) -> Vec<u64> {
    let heights = world.votes.keys().filter(|(node, ..)| *node == i);
    heights.map(|(_, height, ..)| height.get()).collect()
}

#[test]
fn a_node_leaves_another_joins_and_both_follow() {
    for seed in 1..=8 {
        let mut world = world(seed);
        if seed > 4 {
            world.weather = Weather { delay_ms: (1, 100), loss_per_mille: 50, ..Weather::FAIR };
        }
        world.boot_all();
        world.run_until(120_000, "twice as many heights", |world| world.all_at(20));
        let (left, joined) = (voted(&world, 0), voted(&world, 4));
        assert!(!left.is_empty() && left.iter().all(|height| *height < FIRST), "seed {seed}");
        assert!(!joined.is_empty() && joined.iter().all(|height| *height >= FIRST), "seed {seed}");
        let proposers: Vec<_> = (1..=20).map(|height| world.proposer(height, 0)).collect();
        assert!(proposers[..10].iter().all(|node| *node != 4), "seed {seed}");
        assert!(proposers[10..].iter().all(|node| *node != 0), "seed {seed}");
        assert!(world.nodes.iter().all(|node| node.rejected == 0), "seed {seed}");
    }
}

#[test]
fn the_new_committee_needs_a_quorum_of_its_own() {
    let mut world = world(3);
    // Two of the four that begin at the boundary are not there: the old member does not help.
    world.boot(0);
    world.boot(1);
    world.boot(2);
    world.boot(3);
    let last = usize::try_from(FIRST - 1).unwrap();
    world.run_until(60_000, "the last height of the old", |world| {
        world.nodes[..4].iter().all(|node| node.chain.len() >= last)
    });
    world.nodes[1].group = 9;
    world.run(30_000);
    let tips: Vec<_> = world.nodes.iter().map(|node| node.chain.len()).collect();
    let beyond = tips.iter().filter(|tip| **tip > last + 1).count();
    assert_eq!(beyond, 0, "{tips:?}");
    world.boot(4);
    world.nodes[1].group = 0;
    world.run_until(60_000, "all go on", |world| world.all_at(20));
}
