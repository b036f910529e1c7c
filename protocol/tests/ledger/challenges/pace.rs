//! When rounds open and close, and which blocks an idle ledger makes for them.

use floe_protocol::{
    challenge::{ChallengeParameters, Outcome, Score},
    index::{ChallengeRound, Epoch},
    ledger::{CLOSED_ROUNDS_KEPT, Challenges, Event, Key, OPEN_ROUNDS_MAX, Record, State},
    pace::{Pace, Reasons},
    test_support::{Chain, account_key, genesis},
};

use super::{chain_with_blob, close, closed, open, passes, record, rules, step};
use crate::{N, header, report_ready, report_shards, stored};

#[test]
fn rounds_open_by_the_clock_and_close_after_time_and_heights() {
    let mut chain = Chain::new(&rules(4));
    chain.commit(&[]);
    let start = chain.state.summary().epoch_start;
    assert_eq!(chain.state.challenge_deadline(), None, "nothing to ask for, no block for it");
    chain.now = start.plus_ms(20_000);
    chain.commit(&[]);
    assert_eq!(record(&chain), None);

    // Too young: nothing opens, and it is looked again after an interval.
    stored(&mut chain, &account_key(0), header(1), 9, true);
    let certified = chain.state.tip().time;
    assert_eq!(record(&chain).unwrap().last, Some(certified));
    assert_eq!(chain.state.challenge_deadline(), Some(certified.plus_ms(5_000)));
    assert_eq!(step(&mut chain).opened.map(|universe| universe.round), None);
    assert_eq!(record(&chain).unwrap().rounds, 0);
    chain.now = certified.plus_ms(9_999);
    assert!(chain.commit(&[]).opened.is_none());
    chain.now = certified.plus_ms(10_000);
    let executed = chain.commit(&[]);
    let universe = executed.opened.expect("old enough");
    let opened = chain.state.tip().time;
    assert_eq!(opened, certified.plus_ms(10_000));
    assert_eq!(universe.round.get(), chain.state.tip().height.get());
    assert_eq!((universe.opened, universe.units.total()), (opened, 1));
    assert_eq!(universe.committee.hash(), chain.state.committee().hash());
    let events: Vec<_> = executed.events.iter().cloned().collect();
    assert_eq!(events, [Event::ChallengeOpened { round: universe.round }]);
    assert_eq!(chain.state.open_challenges(), [universe.round]);

    // A block at once, for the seeds, one a window later, for the last of them, one for who has made
    // both; then it waits for the time from the first of them on.
    let mut times = Vec::new();
    let outcomes = loop {
        let deadline = chain.state.challenge_deadline().unwrap();
        times.push(deadline.ms_since(opened));
        let executed = step(&mut chain);
        if let Some(closed) = closed(&executed).pop() {
            break closed;
        }
    };
    let [fourth, last] = [4, 5].map(|number| 100 + 4_000 * number / 5);
    assert_eq!(times, [0, 100 + 500, 100 + 1_500, fourth, last]);
    assert_eq!(outcomes, (universe.round, vec![Outcome::Void; 4]));
    let kept = record(&chain).unwrap();
    assert!(kept.open.is_empty());
    assert_eq!((kept.rounds, kept.last, kept.closed.len()), (1, Some(opened), 1));
    assert_eq!(kept.closed[0].outcomes, outcomes.1);
    assert_eq!(kept.scores, [Score { passed: 0, missed: 0, void: 1 }; 4]);
    assert_eq!(chain.state.challenges().as_ref(), &kept);
    assert_eq!(chain.state.challenge_deadline(), Some(opened.plus_ms(5_000)));
}

#[test]
fn a_ledger_that_hardly_moves_gives_time() {
    let mut chain = chain_with_blob();
    let universe = open(&mut chain);
    for heights in 1..=5 {
        chain.now = universe.opened.plus_ms(9_000 * heights);
        let executed = chain.commit(&[]);
        // Others open meanwhile.
        assert_eq!(closed(&executed).len(), usize::from(heights == 5), "{heights}");
    }
    assert_eq!(record(&chain).unwrap().open.len(), 5);
}

#[test]
fn a_ledger_that_stops_right_after_an_opening_gives_all_the_time() {
    let mut chain = chain_with_blob();
    let universe = open(&mut chain);
    // Nobody has a seed before the next block, which comes a minute later.
    chain.now = universe.opened.plus_ms(60_000);
    let since = chain.now;
    let loaded = |chain: &Chain| {
        let (origin, _) = State::genesis(&rules(4)).unwrap();
        let header = &chain.blocks.last().expect("at least one").0.header;
        State::load(&origin, header, &chain.store).unwrap()
    };
    chain.commit(&[]);
    assert_eq!(record(&chain).unwrap().open[0].since, Some(since));
    let mut times = Vec::new();
    let passes = passes(&chain, universe.round, 0);
    let outcomes = loop {
        let deadline = chain.state.challenge_deadline().unwrap();
        assert_eq!(loaded(&chain).challenge_deadline(), Some(deadline));
        times.push(deadline.ms_since(since));
        if times.len() == 4 {
            chain.now = since.plus_ms(3_999);
            chain.commit_system(std::slice::from_ref(&passes));
        }
        let of_this = |(round, _): &(_, _)| *round == universe.round;
        if let Some((_, outcomes)) = closed(&step(&mut chain)).into_iter().find(of_this) {
            break outcomes;
        }
    };
    // The seeds of this round and of the one that opens meanwhile, and a block for each of them.
    assert_eq!(times, [0, 600, 1_600, 3_300]);
    assert_eq!(outcomes[0], Outcome::Passed);
}

#[test]
fn what_an_older_round_lacks_waits_for_the_windows_of_a_later_one() {
    let mut genesis = rules(4);
    genesis.ledger.challenges.certificate_window_heights = 8;
    let mut chain = Chain::new(&genesis);
    stored(&mut chain, &account_key(0), header(1), 9, true);
    let universe = open(&mut chain);
    for _ in 0..3 {
        step(&mut chain);
    }
    // Some blocks short of its end the ledger is held up, so that the next block opens another.
    chain.now = universe.opened.plus_ms(7_000);
    let executed = chain.commit(&[]);
    assert!(executed.opened.is_some() && closed(&executed).is_empty());
    step(&mut chain);
    let [older, later] = &record(&chain).unwrap().open[..] else { panic!("two rounds are open") };
    assert_eq!(older.round, universe.round);
    let since = later.since.unwrap();
    let mut times = Vec::new();
    loop {
        times.push(chain.state.challenge_deadline().unwrap().ms_since(since));
        if !closed(&step(&mut chain)).is_empty() {
            break;
        }
    }
    // Its second seeds, a window after the first; then what the older one lacks, all at once.
    assert_eq!(times, [500, 1_000, 1_000]);
}

#[test]
fn open_and_closed_rounds_are_few() {
    let mut genesis = rules(4);
    genesis.ledger.challenges.certificate_window_heights = 100;
    let mut chain = Chain::new(&genesis);
    stored(&mut chain, &account_key(0), header(1), 9, true);
    while chain.state.open_challenges().len() < OPEN_ROUNDS_MAX {
        chain.now = chain.state.tip().time.plus_ms(5_000);
        chain.commit(&[]);
    }
    let rounds = record(&chain).unwrap().rounds;
    chain.now = chain.state.tip().time.plus_ms(5_000);
    chain.commit(&[]);
    assert_eq!(record(&chain).unwrap().rounds, rounds, "none before one closes");
    // Until the last one has its seeds.
    for _ in 0..3 {
        step(&mut chain);
    }
    let now = chain.state.tip().time;
    let first = chain.state.challenges().open[0].since.unwrap();
    assert!(first.plus_ms(4_000) < now);
    assert!(chain.state.challenge_deadline().unwrap() <= now, "heights are what is missing");
    while record(&chain).unwrap().rounds == rounds {
        step(&mut chain);
    }
    assert!(record(&chain).unwrap().open.len() <= OPEN_ROUNDS_MAX);
    let mut chain = chain_with_blob();
    for _ in 0..CLOSED_ROUNDS_KEPT + 3 {
        close(&mut chain);
    }
    let kept = record(&chain).unwrap();
    assert_eq!(kept.closed.len(), CLOSED_ROUNDS_KEPT);
    assert!(kept.closed.is_sorted_by_key(|closed| closed.round));
}

#[test]
fn no_round_opens_in_a_stretched_epoch_and_open_ones_are_dropped() {
    let mut chain = chain_with_blob();
    // Nobody is selected or reports: but all shards are ready, so the epoch ends in time.
    let epoch_ms = chain.state.parameters().ledger.epoch_ms;
    let end = chain.state.summary().epoch_start.plus_ms(epoch_ms);
    while chain.state.tip().time.plus_ms(5_000) < end {
        open(&mut chain);
    }
    assert_eq!(chain.state.open_challenges().len(), 1);
    let before = record(&chain).unwrap();
    chain.now = end;
    let executed = chain.commit(&[]);
    assert!(executed.opened.is_none() && closed(&executed).is_empty());
    assert_eq!(chain.state.committee().epoch(), Epoch::new(1));
    let Some(Record::Challenges(ended)) = chain.record(&Key::Challenges(Epoch::new(0))) else {
        unreachable!("it is kept")
    };
    assert_eq!(*ended, Challenges { open: Vec::new(), ..before });
    assert_eq!((record(&chain), chain.state.open_challenges()), (None, Vec::new()));
    // The next begins an interval after its start.
    let due = chain.state.summary().epoch_start.plus_ms(5_000);
    assert_eq!(chain.state.challenge_deadline(), Some(due));
    assert!(step(&mut chain).opened.is_some());
    // As long as the committee is known, so is this.
    for _ in 0..4 {
        assert!(chain.record(&Key::Challenges(Epoch::new(0))).is_some());
        report_shards(&mut chain, &[0, 1, 2, 3]);
        chain.next_epoch();
    }
    assert_eq!(chain.record(&Key::Challenges(Epoch::new(0))), None);
    assert_eq!(chain.record(&Key::Committee(Epoch::new(0))), None);
}

#[test]
fn an_epoch_that_stretches_closes_what_is_open_and_opens_nothing() {
    let mut chain = Chain::new(&rules(7));
    stored(&mut chain, &account_key(0), header(1), 9, true);
    // Three of seven stay away, so shards move, and nobody says that they are complete.
    report_ready(&mut chain, &[0, 1, 2, 3]);
    chain.next_epoch();
    let start = chain.state.summary().epoch_start;
    let end = start.plus_ms(chain.state.parameters().ledger.epoch_ms);
    while chain.state.tip().time < end {
        step(&mut chain);
    }
    let rounds = record(&chain).unwrap().rounds;
    assert_eq!(chain.state.summary().epoch_start, start, "it stretches");
    for seconds in [1, 2, 5, 10, 20] {
        chain.now = end.plus_ms(seconds * 1_000);
        assert!(chain.commit(&[]).opened.is_none());
    }
    let kept = record(&chain).unwrap();
    assert_eq!((kept.rounds, kept.open.len()), (rounds, 0));
    assert_eq!(chain.state.challenge_deadline(), None, "no block is made for what can't open");
    let counted: u32 = kept.scores.iter().map(|score| score.void + score.missed).sum();
    assert!(counted > 0);
}

#[test]
fn an_idle_ledger_makes_few_blocks_for_a_round() {
    let mut genesis = genesis(4, N);
    genesis.ledger.challenges = ChallengeParameters::default();
    let mut chain = Chain::new(&genesis);
    stored(&mut chain, &account_key(0), header(1), 9, true);
    let pace = Pace::new(&genesis.ledger);
    // A ledger whose blocks take no time, with nothing but rounds and heartbeats.
    let go_on = |chain: &mut Chain| {
        let reasons = Reasons {
            epoch_wait: chain.state.epoch_wait(),
            challenge_wait: chain.state.challenge_wait(),
            ..Reasons::default()
        };
        let wait = pace.next_height(std::time::Duration::ZERO, &reasons);
        let wait = u64::try_from(wait.as_millis()).unwrap();
        chain.now = chain.state.tip().time.plus_ms(wait);
        chain.commit(&[])
    };
    let mut openings = Vec::new();
    while openings.len() < 6 {
        if go_on(&mut chain).opened.is_some() {
            let tip = chain.state.tip();
            openings.push((tip.height.get(), tip.time));
        }
    }
    for pair in openings.windows(2) {
        let ((first, opened), (second, next)) = (pair[0], pair[1]);
        assert_eq!(next.ms_since(opened), 60_000, "none comes late");
        assert_eq!(second - first, 13, "10 while certificates count, 2 heartbeats, the opening");
    }
    // All pass in the first block that takes certificates.
    let round = ChallengeRound::new(chain.state.tip().height.get());
    for _ in 0..3 {
        go_on(&mut chain);
    }
    let all: Vec<_> = (0..4).map(|position| passes(&chain, round, position)).collect();
    let last = chain.commit_system(&all);
    assert_eq!(closed(&last), [(round, vec![Outcome::Passed; 4])], "nothing can change any more");
    let (height, time) = (chain.state.tip().height.get(), chain.state.tip().time);
    go_on(&mut chain);
    assert_eq!(chain.state.tip().time.ms_since(time), 10_000, "a heartbeat");
    while go_on(&mut chain).opened.is_none() {}
    assert!(chain.state.tip().height.get() - height <= 7, "heartbeats and the opening");
}
