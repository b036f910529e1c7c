//! No two blocks at one height, whatever happens; progress once it has stopped happening.

use super::network::{Nature, Weather, World};

#[test]
fn in_fair_weather_every_height_takes_one_round() {
    for n in [4, 7, 10] {
        let mut world = World::new(1, n);
        world.boot_all();
        world.run_until(5_000, "20 heights", |world| world.all_at(20));
        for (_, certificate) in &world.nodes[0].chain {
            assert_eq!(certificate.round, 0);
        }
        assert!(world.now_ms < 20 * 100, "no timeout was waited for: {} ms", world.now_ms);
        assert!(world.nodes.iter().all(|node| node.rejected == 0));
    }
}

/// `count` seeds from `first` on; `FLOE_SEEDS` asks for more or fewer.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("FLOE_SEEDS").ok().and_then(|text| text.parse().ok());
    first..first + asked.unwrap_or(count)
}

/// Loss, reordering, duplication, crashes, cuts and up to f liars by turns, then fair weather.
fn storm(seed: u64, n: usize, faulty: usize) {
    let mut world = World::new(seed, n);
    for _ in 0..faulty {
        let liar = usize::try_from(world.random.below(n as u64)).unwrap();
        world.nodes[liar].nature = match world.random.below(3) {
            0 => Nature::TwoFaced,
            1 => Nature::BadBuilder,
            _ => Nature::BadParts,
        };
    }
    let on = |world: &mut World, chance: u64| world.random.below(2) * chance;
    world.weather = Weather {
        delay_ms: (1, 1 + on(&mut world, 400)),
        loss_per_mille: on(&mut world, 150),
        duplicate_per_mille: on(&mut world, 200),
        crash_per_mille: on(&mut world, 4),
    };
    world.boot_all();
    for _ in 0..6 {
        for i in 0..n {
            world.nodes[i].group = u8::from(world.random.below(5) == 0);
        }
        let ms = 500 + world.random.below(4_000);
        world.run(ms);
    }
    world.weather = Weather::FAIR;
    for node in &mut world.nodes {
        node.group = 0;
    }
    let goal = world.decided.len() + 5;
    world.run_until(120_000, "progress after the storm", |world| world.all_at(goal));
}

#[test]
fn four_nodes_agree_in_any_storm() {
    for seed in seeds(0, 20) {
        storm(seed, 4, usize::from(seed % 2 == 0));
    }
}

#[test]
fn seven_nodes_agree_in_any_storm() {
    for seed in seeds(100_000, 6) {
        storm(seed, 7, usize::try_from(seed % 3).unwrap());
    }
}

#[test]
fn a_crash_at_any_point_leads_to_no_second_vote() {
    let mut crashes = 0;
    for seed in seeds(200_000, 20) {
        let mut world = World::new(seed, 4);
        world.weather = Weather { crash_per_mille: 15, loss_per_mille: 30, ..Weather::FAIR };
        world.boot_all();
        world.run(20_000);
        world.weather = Weather::FAIR;
        let goal = world.decided.len() + 3;
        world.run_until(120_000, "progress after the crashes", |world| world.all_at(goal));
        crashes += world.crashes;
    }
    assert!(crashes >= 200, "{crashes} crashes are too few to prove anything");
}

#[test]
fn all_nodes_crash_at_once_and_go_on() {
    for seed in seeds(300_000, 10) {
        let mut world = World::new(seed, 4);
        world.boot_all();
        for _ in 0..5 {
            let ms = world.random.below(120);
            world.run(ms);
            for i in 0..4 {
                world.crash(i, 10);
            }
        }
        let goal = world.decided.len() + 3;
        world.run_until(30_000, "progress", |world| world.all_at(goal));
    }
}

#[test]
fn a_minority_stops_and_catches_up_after_the_cut() {
    let mut world = World::new(7, 4);
    world.boot_all();
    world.run_until(5_000, "a start", |world| world.all_at(3));
    world.nodes[2].group = 1;
    let tip = world.nodes[2].chain.len();
    world.run_until(60_000, "the majority goes on", |world| world.nodes[0].chain.len() >= tip + 20);
    assert!(world.nodes[2].chain.len() <= tip + 1, "alone it decides nothing");
    world.nodes[2].group = 0;
    let goal = world.nodes[0].chain.len() + 5;
    world.run_until(30_000, "all together again", |world| world.all_at(goal));
    assert!(world.nodes[2].synced >= 10);
}

#[test]
fn halves_decide_nothing_and_go_on_once_joined() {
    let mut world = World::new(8, 4);
    world.boot_all();
    world.run_until(5_000, "a start", |world| world.all_at(2));
    world.nodes[0].group = 1;
    world.nodes[1].group = 1;
    let decided = world.decided.len();
    world.run(60_000);
    assert!(world.decided.len() <= decided + 1);
    world.nodes[0].group = 0;
    world.nodes[1].group = 0;
    let goal = decided + 5;
    world.run_until(60_000, "all together again", |world| world.all_at(goal));
}
