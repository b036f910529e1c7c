//! A member behind a slow link votes with the others, also after it had to catch up.

use super::network::World;
use crate::vote::VoteKind;

const SLOW: usize = 4;
const DELAY_MS: u64 = 200;
/// Between two blocks: many pass while a message of the slow member is under way.
const PACE_MS: u64 = 50;

/// Of the heights that are decided in the next `ms`, for how many the slow member precommits.
fn voted_in(world: &mut World, ms: u64) -> (usize, usize) {
    let heights = |world: &World| world.nodes[0].chain.len() as u64;
    let first = heights(world);
    world.run(ms);
    let last = heights(world);
    // Its votes on the last ones are under way.
    world.run(1_000);
    let voted = world.votes.iter().filter(|((node, height, _, kind), block)| {
        *node == SLOW
            && *kind == VoteKind::Precommit
            && block.is_some()
            && (first..last).contains(&height.get())
    });
    (voted.count(), usize::try_from(last - first).unwrap())
}

#[test]
fn a_slow_member_that_was_cut_off_catches_up_and_votes_again() {
    for seed in 1..=4 {
        let mut world = World::new(seed, 5);
        world.pace_ms = PACE_MS;
        world.slow = Some((SLOW, DELAY_MS));
        world.sync_ms = 20;
        world.boot_all();
        world.run(1_000);
        let (voted, heights) = voted_in(&mut world, 2_000);
        assert!(heights > 5 && 10 * voted > 9 * heights, "seed {seed}: {voted} of {heights}");
        world.nodes[SLOW].group = 1;
        world.run(2_000);
        world.nodes[SLOW].group = 0;
        // Time to catch up.
        world.run(3_000);
        let (voted, heights) = voted_in(&mut world, 3_000);
        assert!(heights > 5 && 10 * voted > 9 * heights, "seed {seed}: {voted} of {heights}");
    }
}
