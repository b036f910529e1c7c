//! A member behind a slow link keeps up with the others.

use super::network::World;

const SLOW: usize = 4;
/// What its messages take, in milliseconds: they overtake each other.
const DELAY_MS: (u64, u64) = (100, 300);
/// Between two blocks: several are made while a message is under way.
const PACE_MS: u64 = 30;

#[test]
fn a_slow_member_needs_no_sync_though_messages_of_later_heights_come_first() {
    for seed in 1..=4 {
        let mut world = World::new(seed, 5);
        world.pace_ms = PACE_MS;
        world.slow = Some((SLOW, DELAY_MS.0, DELAY_MS.1));
        world.nodes[SLOW].syncs = false;
        world.boot_all();
        world.run(8_000);
        let heights = world.nodes[0].chain.len();
        let own = world.nodes[SLOW].chain.len();
        assert!(heights > 20 && own + 16 > heights, "seed {seed}: at {own} of {heights}");
    }
}
