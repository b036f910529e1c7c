//! What Tendermint and this core of it get wrong when used carelessly: one test each.

use std::sync::Arc;

use malachite_core::LocallyProposedValue;
use malachite_types::Round;

use super::{
    super::{
        Config, ConsensusMessage, Fault, Input, JournalEntry, Output, Replica, Start, Validity,
        Verdict,
    },
    network::{Nature, TIMEOUTS, Weather, World},
};
use crate::{
    hash::Hash,
    index::Height,
    ledger::{Block, BlockHash, Timestamp},
    test_support,
    vote::VoteKind,
};

/// Heights decided by nodes whose chains all tests look at.
fn rounds(world: &World) -> Vec<u32> {
    world.nodes[0].chain.iter().map(|(_, certificate)| certificate.round).collect()
}

#[test]
fn a_block_that_cannot_be_executed_is_refused_and_stops_nobody() {
    for nature in [Nature::BadBuilder, Nature::BadParts] {
        let mut world = World::new(3, 4);
        let bad = world.proposer(5, 0);
        world.nodes[bad].nature = nature;
        world.boot_all();
        world.run_until(20_000, "12 heights", |world| world.all_at(12));
        assert!(rounds(&world)[4] >= 1, "{nature:?}");
        for (block, _) in &world.nodes[0].chain {
            assert_eq!(block.header.state_root, Hash::ZERO, "{nature:?}");
        }
        let slowest = world.now_ms;
        assert!(slowest < 12 * 1_000, "nobody waited for the bad proposals: {slowest} ms");
    }
}

#[test]
fn a_fault_within_an_effect_is_not_swallowed_and_is_final() {
    let world = World::new(1, 4);
    let proposer = world.proposer(1, 0);
    let mut replica = replica(&world, proposer);
    start(&world, proposer, &mut replica, 1, Vec::new());
    let unknown = BlockHash::new(Hash::new([9; 32]));
    let value = LocallyProposedValue::new(Height::new(1), Round::ZERO, unknown);
    let result = replica.running().unwrap().feed(malachite_core::Input::Propose(value));
    assert!(matches!(result, Err(Fault::MissingBody(block)) if block == unknown), "{result:?}");
}

#[test]
fn after_a_fault_a_replica_answers_nothing() {
    let mut world = World::new(1, 4);
    let proposer = world.proposer(1, 0);
    let mut replica = replica(&world, proposer);
    let outputs = start(&world, proposer, &mut replica, 1, Vec::new());
    assert!(outputs.contains(&Output::Propose { height: Height::new(1), round: 0 }));
    let block = Box::new(world.build(proposer, Height::new(1), 1));
    let now = world.now(proposer);
    let result = replica.handle(now, Input::Proposed { round: 0, block });
    assert!(matches!(result, Err(Fault::OwnBlock(_))), "{result:?}");
    assert!(matches!(replica.handle(now, Input::Tick), Err(Fault::Stopped)));
}

#[test]
fn a_decision_that_is_invalid_here_stops_the_replica() {
    let mut world = World::new(1, 4);
    world.boot_all();
    world.run_until(5_000, "a height", |world| world.all_at(1));
    let (block, certificate) = world.nodes[0].chain[0].clone();
    let mut replica = replica(&world, 1);
    start(&world, 1, &mut replica, 1, Vec::new());
    let now = world.now(1);
    let input = Input::Synced { block: Box::new(Block::clone(&block)), certificate };
    let outputs = replica.handle(now, input).unwrap();
    assert!(outputs.contains(&Output::Execute { block: Arc::clone(&block) }));
    let block = block.header.hash();
    let result = replica.handle(now, Input::Executed { block, validity: Validity::Invalid });
    assert!(matches!(result, Err(Fault::InvalidDecision(_))), "{result:?}");
}

fn replica(world: &World, i: usize) -> Replica {
    Replica::new(Config::new(world.chain, world.nodes[i].key.clone(), TIMEOUTS))
}

fn start(
    world: &World,
    i: usize,
    replica: &mut Replica,
    height: u64,
    journal: Vec<JournalEntry>,
) -> Vec<Output> {
    let start = Start {
        height: Height::new(height),
        committee: Arc::clone(&world.committee),
        next: None,
        parent_time: Timestamp::from_ms(0),
        journal,
        abstain: false,
    };
    replica.handle(world.now(i), Input::Start(start)).unwrap()
}

/// What a proposer of height 1 sends, and its journal.
fn propose(world: &mut World, proposer: usize) -> (Replica, Vec<Output>, Vec<JournalEntry>) {
    let mut replica = replica(world, proposer);
    start(world, proposer, &mut replica, 1, Vec::new());
    let block = Box::new(world.build(proposer, Height::new(1), 0));
    let now = world.now(proposer);
    let outputs = replica.handle(now, Input::Proposed { round: 0, block }).unwrap();
    let journal = outputs.iter().filter_map(|output| match output {
        Output::Journal(entry) => Some(entry.clone()),
        _ => None,
    });
    let journal = journal.collect();
    (replica, outputs, journal)
}

#[test]
fn the_journal_is_durable_before_anything_is_sent_and_holds_the_body() {
    let mut world = World::new(5, 4);
    let proposer = world.proposer(1, 0);
    let (_, outputs, _) = propose(&mut world, proposer);
    let place = |wanted: fn(&Output) -> bool| outputs.iter().position(wanted).unwrap();
    let body = place(|output| matches!(output, Output::Journal(JournalEntry::Block { .. })));
    let vote = place(|output| matches!(output, Output::Journal(JournalEntry::Vote(_))));
    let flush = place(|output| matches!(output, Output::Flush));
    let sent = place(|output| matches!(output, Output::Broadcast(_)));
    assert!(body < vote && vote < flush && flush < sent, "{body} {vote} {flush} {sent}");
}

#[test]
fn after_a_restart_the_same_round_proposes_the_same_block() {
    let mut world = World::new(5, 4);
    let proposer = world.proposer(1, 0);
    let (_, outputs, journal) = propose(&mut world, proposer);
    let sent = |outputs: &[Output]| -> Vec<_> {
        let sent = outputs.iter().filter_map(|output| match output {
            Output::Broadcast(message) => Some(message.clone()),
            _ => None,
        });
        sent.collect()
    };
    let first = sent(&outputs);
    assert!(first.len() >= 3, "a vote, a proposal and parts");
    // Whatever of the journal survives: the own block is built once, if it survived at all.
    for kept in 1..=journal.len() {
        let mut replica = replica(&world, proposer);
        let outputs = start(&world, proposer, &mut replica, 1, journal[..kept].to_vec());
        assert!(!outputs.iter().any(|output| matches!(output, Output::Propose { .. })), "{kept}");
        let mut again = sent(&outputs);
        // What the journal holds already is not sent again at once, but by the timer.
        world.now_ms += TIMEOUTS.rebroadcast_ms;
        again.extend(sent(&replica.handle(world.now(proposer), Input::Tick).unwrap()));
        world.now_ms -= TIMEOUTS.rebroadcast_ms;
        assert!(again.iter().any(|message| matches!(message, ConsensusMessage::Proposal(_))));
        for message in again {
            let nil = matches!(message, ConsensusMessage::Vote(vote) if vote.vote.block.is_none());
            assert!(first.contains(&message) || nil && kept < journal.len(), "{kept}: {message:?}");
        }
    }
}

#[test]
fn a_replayed_entry_is_not_journaled_again() {
    let mut world = World::new(5, 4);
    let proposer = world.proposer(1, 0);
    let (_, _, journal) = propose(&mut world, proposer);
    let mut replica = replica(&world, proposer);
    let outputs = start(&world, proposer, &mut replica, 1, journal);
    assert!(!outputs.iter().any(|output| matches!(output, Output::Journal(_))), "{outputs:?}");
}

#[test]
fn no_timer_outlives_its_height() {
    let mut world = World::new(2, 4);
    world.pace_ms = 60_000;
    world.boot_all();
    world.run_until(5_000, "a height", |world| world.all_at(1));
    for i in 0..4 {
        let replica = world.nodes[i].replica.as_ref().unwrap();
        assert!(replica.is_decided());
        assert_eq!(replica.next_deadline(), None);
        world.now_ms += 30_000;
        let now = world.now(i);
        let outputs = world.nodes[i].replica.as_mut().unwrap().handle(now, Input::Tick).unwrap();
        assert_eq!(outputs, []);
    }
}

#[test]
fn all_weight_is_counted_in_shards_and_fits() {
    let committee = Arc::new(test_support::committee(16, 256));
    let mut world = World::with(4, committee);
    world.boot_all();
    world.run_until(30_000, "heights of 256 shards", |world| world.all_at(2));
}

#[test]
fn a_dead_node_costs_a_height_one_round_at_most() {
    let mut world = World::new(6, 4);
    for i in [0, 1, 3] {
        world.boot(i);
    }
    let done = |world: &World| world.nodes[0].chain.len() >= 40;
    world.run_until(120_000, "40 heights of three nodes", done);
    let rounds = rounds(&world);
    assert!(rounds.iter().all(|round| *round <= 1), "{rounds:?}");
    let lost = rounds.iter().filter(|round| **round == 1).count();
    assert!((1..=20).contains(&lost), "its turns come by weight: {lost} of 40");
}

#[test]
fn a_two_faced_member_is_reported_with_proof_and_nobody_else_is() {
    let mut world = World::new(9, 4);
    let liar = world.proposer(2, 0);
    world.nodes[liar].nature = Nature::TwoFaced;
    world.boot_all();
    world.run_until(60_000, "20 heights", |world| world.all_at(20));
    assert!(world.offenders().into_iter().eq([liar]));
    let reporters = world.nodes.iter().filter(|node| !node.equivocations.is_empty());
    assert!(reporters.count() >= 3);
}

#[test]
fn a_block_has_many_certificates_and_each_is_enough() {
    let mut world = World::new(10, 4);
    world.boot_all();
    world.run_until(5_000, "a height", |world| world.all_at(1));
    let (block, _) = world.nodes[0].chain[0].clone();
    let hash = block.header.hash();
    let precommits = |skip: usize| {
        let signers = (0..4).filter(move |i| *i != skip);
        signers.map(|i| world.vote(i, (1, 0, VoteKind::Precommit), Some(hash)))
    };
    let mut seen = Vec::new();
    for skip in 0..4 {
        let mut certificate = world.nodes[0].chain[0].1.clone();
        let votes = precommits(skip).map(|message| match message {
            ConsensusMessage::Vote(vote) => vote,
            other => panic!("{other:?}"),
        });
        let signatures = votes.map(|vote| crate::vote::CommitSignature {
            position: world.committee.position(&vote.vote.voter).unwrap().try_into().unwrap(),
            signature: vote.signature,
        });
        certificate.signatures = signatures.collect();
        let mut replica = replica(&world, skip);
        start(&world, skip, &mut replica, 1, Vec::new());
        let now = world.now(skip);
        let synced = Input::Synced { block: Box::new(Block::clone(&block)), certificate };
        let outputs = replica.handle(now, synced).unwrap();
        assert!(outputs.contains(&Output::Verdict(Verdict::Forward)));
        let executed = Input::Executed { block: block.header.hash(), validity: Validity::Valid };
        let outputs = replica.handle(now, executed).unwrap();
        let commit = outputs.into_iter().find_map(|output| match output {
            Output::Commit { certificate, .. } => Some(certificate),
            _ => None,
        });
        seen.push(commit.unwrap());
    }
    assert!((1..4).all(|i| seen[i].block == seen[0].block && seen[i] != seen[0]));
}

/// Locks a block in round 0 and keeps it from being decided before round `last`: one member misses
/// the proposals and votes nil, another one's precommits are lost.
fn locked_until(last: u32) -> World {
    let mut world = World::new(11, 4);
    let (deaf, mute) = (world.proposer(1, 3), world.proposer(1, 0));
    world.filter = Box::new(move |from, to, message| {
        let of_mute = from == mute || to == mute;
        message.height() == Height::new(1)
            && message.round() < last
            && match message {
                ConsensusMessage::Proposal(_) | ConsensusMessage::Part(_) => to == deaf,
                ConsensusMessage::Vote(signed) => {
                    let vote = signed.vote;
                    of_mute && vote.kind == VoteKind::Precommit && vote.block.is_some()
                }
                ConsensusMessage::Round(_) => of_mute,
                ConsensusMessage::Polka(_) => false,
            }
    });
    world.boot_all();
    world
}

#[test]
fn a_locked_block_is_proposed_again_with_its_header_and_synced_by_a_newcomer() {
    for last in [1, 2] {
        let mut world = locked_until(last);
        world.run_until(60_000, "a decision", |world| world.all_at(1));
        let (block, certificate) = world.nodes[0].chain[0].clone();
        let hash = block.header.hash();
        assert_eq!((block.header.round, certificate.round), (0, last));
        for round in 0..=last {
            let proposer = world.proposer(1, round);
            let proposed = world.proposed.get(&(proposer, Height::new(1), round));
            assert_eq!(proposed, Some(&hash), "round {round}");
        }
        // Long after, to a clock that would refuse it if it were new.
        world.now_ms += 3_600_000;
        let mut newcomer = replica(&world, 0);
        start(&world, 0, &mut newcomer, 1, Vec::new());
        let synced = Input::Synced { block: Box::new(Block::clone(&block)), certificate };
        let outputs = newcomer.handle(world.now(0), synced).unwrap();
        assert!(outputs.contains(&Output::Execute { block }));
        let executed = Input::Executed { block: hash, validity: Validity::Valid };
        let outputs = newcomer.handle(world.now(0), executed).unwrap();
        assert!(outputs.iter().any(|output| matches!(output, Output::Commit { .. })));
    }
}

#[test]
fn a_precommit_that_comes_late_is_kept_for_the_next_commit_record() {
    let mut world = World::new(12, 4);
    let mute = 2;
    world.pace_ms = 60_000;
    world.filter = Box::new(move |from, _, message| {
        from == mute
            && matches!(message, ConsensusMessage::Vote(vote)
                if vote.vote.kind == VoteKind::Precommit)
    });
    world.boot_all();
    world.run_until(5_000, "a height", |world| world.all_at(1));
    let block = world.decided[&Height::new(1)];
    let late = world.vote(mute, (1, 0, VoteKind::Precommit), Some(block));
    let now = world.now(0);
    let other = world.vote(mute, (1, 0, VoteKind::Precommit), None);
    let replica = world.nodes[0].replica.as_mut().unwrap();
    // Another block may record another certificate, so everything known is offered.
    assert_eq!(replica.late_precommits(|_, _| false).len(), 3);
    let certified = |_, position| position != 2;
    assert_eq!(replica.late_precommits(certified), []);
    let mut handle = |message: &ConsensusMessage| {
        let outputs = replica.handle(now, Input::Message(message.clone())).unwrap();
        (outputs, replica.late_precommits(certified))
    };
    let (outputs, kept) = handle(&late);
    assert_eq!(outputs, [Output::Verdict(Verdict::Forward)]);
    assert_eq!((kept[0].height, kept[0].round, kept[0].position), (Height::new(1), 0, 2));
    assert_eq!(kept.len(), 1);
    let (outputs, again) = handle(&late);
    assert_eq!(outputs, [Output::Verdict(Verdict::Ignore)]);
    assert_eq!(kept, again);
    // A contradiction is no presence, but is reported with the next commit.
    assert_eq!(handle(&other).1, kept);
    world.nodes[mute].nature = Nature::TwoFaced;
    world.filter = Box::new(|_, _, _| false);
    world.run_until(70_000, "the next height", |world| world.all_at(2));
    let reported = world.nodes[0].equivocations.iter();
    assert_eq!(reported.filter(|double| double.first.vote.height == Height::new(1)).count(), 1);
}

#[test]
fn a_node_without_its_journal_abstains_until_it_is_safe() {
    for seed in 0..10 {
        let mut world = World::new(seed, 4);
        world.weather.delay_ms = (1, 30);
        world.boot_all();
        let (victim, height) = (usize::try_from(seed % 4).unwrap(), 3_u64);
        let place = (victim, Height::new(height), 0, VoteKind::Prevote);
        world.run_until(20_000, "a prevote", |world| world.votes.contains_key(&place));
        // The whole store is gone.
        world.nodes[victim].chain.clear();
        world.nodes[victim].committed_ms.clear();
        world.nodes[victim].journal.clear();
        world.nodes[victim].abstain = true;
        world.crash_without_journal(victim);
        let safe = |world: &World| world.nodes[victim].chain.len() as u64 >= height + 2;
        world.run_until(60_000, "sync while abstaining", safe);
        world.nodes[victim].abstain = false;
        let goal = world.decided.len() + 5;
        world.run_until(60_000, "progress", |world| world.all_at(goal));
        let votes = world.votes.keys().filter(|vote| vote.0 == victim);
        let heights: Vec<_> = votes.map(|vote| vote.1.get()).collect();
        assert!(heights.iter().any(|voted| *voted > height + 2), "seed {seed}: it votes again");
        assert!(world.offenders().is_empty(), "seed {seed}");
    }
}

#[test]
fn a_wrong_clock_delays_nobody() {
    for offset_ms in [3_600_000, -3_600_000] {
        let mut world = World::new(13, 4);
        let wrong = 1;
        world.nodes[wrong].clock_offset_ms = offset_ms;
        // It keeps pace by itself, not by block sync.
        world.nodes[wrong].syncs = false;
        world.boot_all();
        world.run_until(60_000, "20 heights", |world| world.all_at(20));
        for height in 0..20 {
            let times = world.nodes.iter().map(|node| node.committed_ms[height]);
            let first = times.clone().min().unwrap();
            let lag = world.nodes[wrong].committed_ms[height] - first;
            assert!(lag <= 200, "height {}: {lag} ms", height + 1);
        }
        if offset_ms > 0 {
            // Its new blocks come from the future, so all others refuse them. (With a clock that
            // is behind it builds just after the parent, which is in time.)
            let wrong_key = world.nodes[wrong].key.public();
            let mut chain = world.nodes[0].chain.iter();
            assert!(chain.all(|(block, _)| block.header.proposer != wrong_key));
        }
        let nil = |vote: &(&(usize, Height, u32, VoteKind), &Option<BlockHash>)| {
            vote.0.0 == wrong && vote.0.3 == VoteKind::Prevote && vote.1.is_none()
        };
        assert!(world.votes.iter().filter(nil).count() >= 10, "it prevotes nil by its clock");
    }
}

#[test]
fn an_unfinished_replica_of_a_lossy_network_still_follows() {
    let mut world = World::new(14, 4);
    world.weather = Weather { loss_per_mille: 300, ..Weather::FAIR };
    world.boot_all();
    world.run_until(120_000, "10 heights at a loss of 30 %", |world| world.all_at(10));
}
