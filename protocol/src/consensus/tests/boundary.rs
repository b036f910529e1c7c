//! From one committee to the next: who is heard early, who speaks, who falls silent.

use std::sync::Arc;

use super::{
    super::{Config, ConsensusMessage, Input, Output, Replica, Start, Validity, Verdict, proposer},
    network::{TIMEOUTS, World},
};
use crate::{
    committee::Committee,
    index::{Epoch, Height},
    keys::{KeyPair, NodeId},
    ledger::{Block, BlockHash, Timestamp},
    test_support,
    vote::{Vote, VoteKind},
};

/// The last height of the old committee.
pub(super) const LAST: u64 = 5;

/// Five nodes: the first committee lacks the last of them, the second one the first.
pub(super) struct Change {
    pub(super) world: World,
    pub(super) old: Arc<Committee>,
    pub(super) new: Arc<Committee>,
    pub(super) joins: usize,
    pub(super) leaves: usize,
    /// The last height of the old committee.
    pub(super) last: u64,
}

impl Change {
    pub(super) fn new() -> Self {
        let world = World::with(1, Arc::new(test_support::committee(5, 7)));
        let of = |nodes: &[usize]| {
            let mut genesis = test_support::genesis(5, 7);
            let keep = |i: usize| nodes.contains(&i);
            let mut i = 0;
            genesis.members.retain(|_| {
                i += 1;
                keep(i - 1)
            });
            genesis.committee().unwrap()
        };
        let old = Arc::new(of(&[0, 1, 2, 3]));
        let new = Arc::new(of(&[1, 2, 3, 4]).in_epoch(Epoch::new(1)));
        let keys = test_support::node_keys(5);
        let number = |key: &KeyPair| {
            let mut nodes = world.nodes.iter();
            nodes.position(|node| node.key.public() == key.public()).unwrap()
        };
        let (joins, leaves) = (number(&keys[4].0), number(&keys[0].0));
        Self { world, old, new, joins, leaves, last: LAST }
    }

    pub(super) const fn committee(&self, height: u64) -> &Arc<Committee> {
        if height > self.last { &self.new } else { &self.old }
    }

    pub(super) fn replica(&self, i: usize) -> Replica {
        Replica::new(Config::new(self.world.chain, self.world.nodes[i].key.clone(), TIMEOUTS))
    }

    fn start(&self, replica: &mut Replica, height: u64, next: Option<&Arc<Committee>>) {
        drop(self.started(replica, height, next));
    }

    pub(super) fn started(
        &self,
        replica: &mut Replica,
        height: u64,
        next: Option<&Arc<Committee>>,
    ) -> Vec<Output> {
        let committee = self.committee(height);
        let start = Start {
            height: Height::new(height),
            committee: Arc::clone(committee),
            next: next.cloned(),
            parent_time: Timestamp::from_ms(0),
            journal: Vec::new(),
            abstain: false,
        };
        replica.handle(self.world.now(0), Input::Start(start)).unwrap()
    }

    fn send(&self, replica: &mut Replica, message: ConsensusMessage) -> Vec<Output> {
        replica.handle(self.world.now(0), Input::Message(message)).unwrap()
    }

    pub(super) fn verdict(&self, replica: &mut Replica, message: ConsensusMessage) -> Verdict {
        match self.send(replica, message).first() {
            Some(Output::Verdict(verdict)) => *verdict,
            other => panic!("no verdict but {other:?}"),
        }
    }

    fn vote(&self, i: usize, height: u64, kind: VoteKind, block: BlockHash) -> ConsensusMessage {
        self.world.vote(i, (height, 0, kind), Some(block))
    }

    pub(super) fn number(&self, node: &NodeId) -> usize {
        self.world.nodes.iter().position(|other| other.key.public() == *node).unwrap()
    }

    /// The block of a height's first proposer, and the messages that propose it.
    fn proposed(&mut self, height: u64) -> (Block, Vec<ConsensusMessage>) {
        let committee = self.committee(height);
        let node = proposer(&self.world.chain, Height::new(height), 0, committee);
        let i = self.number(&node);
        let block = self.world.build(i, Height::new(height), 0);
        let messages = self.world.proposal_messages(i, &block, 0, None);
        (block, messages)
    }

    /// A replica is told everything by which a height is decided; all that it says.
    pub(super) fn decide(
        &mut self,
        replica: &mut Replica,
        height: u64,
    ) -> (BlockHash, Vec<Output>) {
        let (block, messages) = self.proposed(height);
        let hash = block.header.hash();
        let mut outputs = Vec::new();
        for message in messages {
            outputs.extend(self.send(replica, message));
        }
        let executed = Input::Executed { block: hash, validity: Validity::Valid };
        outputs.extend(replica.handle(self.world.now(0), executed).unwrap());
        let committee = self.committee(height);
        for member in committee.members().to_vec() {
            if !replica.is_decided() {
                let i = self.number(&member.node);
                for kind in [VoteKind::Prevote, VoteKind::Precommit] {
                    let vote = self.vote(i, height, kind, hash);
                    outputs.extend(self.send(replica, vote));
                }
            }
        }
        assert!(replica.is_decided(), "{outputs:?}");
        (hash, outputs)
    }
}

fn speaks(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Broadcast(_) | Output::Journal(_)))
}

fn votes_of(outputs: &[Output], node: &NodeId) -> usize {
    let own = |output: &&Output| matches!(output, Output::Broadcast(ConsensusMessage::Vote(vote)) if vote.vote.voter == *node);
    outputs.iter().filter(own).count()
}

#[test]
fn members_of_the_next_committee_are_heard_before_the_boundary_and_strangers_are_not() {
    let mut change = Change::new();
    let me = (0..5).find(|i| *i != change.joins && *i != change.leaves).unwrap();
    let block = BlockHash::genesis(&change.world.chain);
    let early = change.vote(change.joins, LAST + 1, VoteKind::Prevote, block);

    // Nobody is selected yet: its votes say nothing.
    let mut replica = change.replica(me);
    change.start(&mut replica, LAST, None);
    assert_eq!(change.verdict(&mut replica, early.clone()), Verdict::Ignore);
    assert_eq!(replica.early.len(), 0);

    let next = Arc::clone(&change.new);
    let mut replica = change.replica(me);
    change.start(&mut replica, LAST, Some(&next));
    assert_eq!(change.verdict(&mut replica, early.clone()), Verdict::Forward);
    assert_eq!(change.verdict(&mut replica, early.clone()), Verdict::Ignore, "once");
    let stranger = KeyPair::from_seed([99; 32]);
    let vote = Vote {
        height: Height::new(LAST + 1),
        round: 0,
        kind: VoteKind::Prevote,
        block: Some(block),
        voter: stranger.public(),
    };
    let vote = ConsensusMessage::Vote(vote.sign(&change.world.chain, &stranger));
    assert_eq!(change.verdict(&mut replica, vote), Verdict::Ignore);
    let ConsensusMessage::Vote(mut forged) = early else { panic!("a vote") };
    forged.vote.block = None;
    assert_eq!(change.verdict(&mut replica, ConsensusMessage::Vote(forged)), Verdict::Reject);
    // Of this height it is nobody.
    let now = change.vote(change.joins, LAST, VoteKind::Prevote, block);
    assert_eq!(change.verdict(&mut replica, now), Verdict::Ignore);
    assert_eq!(replica.early.len(), 1);
    // It shows that others have gone on.
    let (_, outputs) = change.decide(&mut replica, LAST);
    assert!(outputs.contains(&Output::NextHeight), "{outputs:?}");
}

#[test]
fn proposals_are_heard_before_the_boundary_in_turn_and_the_latest_is_kept() {
    let mut change = Change::new();
    // Everybody is a member of the next one, and has other turns.
    change.new = Arc::new(Committee::clone(&change.world.committee).in_epoch(Epoch::new(1)));
    let next = Arc::clone(&change.new);
    let mut replaced = 0;
    for (last, i) in (LAST..LAST + 8).flat_map(|last| (0..5).map(move |i| (last, i))) {
        change.last = last;
        let (height, node) = (Height::new(last + 1), change.world.nodes[i].key.public());
        let mut replica = change.replica(i);
        change.start(&mut replica, last, Some(&next));
        let mut latest = None;
        for round in [0, 1, 0, 2, 1, 3, 4] {
            let block = change.world.build(i, height, round);
            let proposal = change.world.proposal_messages(i, &block, round, None).remove(0);
            let mut committees = [&change.old, &change.new].into_iter();
            let chain = &change.world.chain;
            let is_due = committees.any(|its| proposer(chain, height, round, its) == node);
            let is_kept = is_due && round < 4 && latest < Some(round);
            let expected = if is_kept { Verdict::Forward } else { Verdict::Ignore };
            assert_eq!(change.verdict(&mut replica, proposal), expected, "{i} in {height}/{round}");
            if is_kept {
                replaced += usize::from(latest.replace(round).is_some());
            }
        }
        assert_eq!(replica.early.len(), usize::from(latest.is_some()));
    }
    assert!(replaced > 0, "members have turns in both committees");
}

#[test]
fn what_came_before_the_boundary_counts_behind_it_with_the_new_weights() {
    let mut change = Change::new();
    let me = (0..5).find(|i| *i != change.joins && *i != change.leaves).unwrap();
    let next = Arc::clone(&change.new);
    let mut replica = change.replica(me);
    change.start(&mut replica, LAST, Some(&next));
    // All of the next height is there before this one is over, from old members and the new one.
    let (block, messages) = change.proposed(LAST + 1);
    let hash = block.header.hash();
    for message in messages {
        change.send(&mut replica, message);
    }
    for member in next.members() {
        let i = change.number(&member.node);
        if i != me {
            let vote = change.vote(i, LAST + 1, VoteKind::Precommit, hash);
            assert_eq!(change.verdict(&mut replica, vote), Verdict::Forward);
        }
    }
    // One that leaves has no say any more, though it may talk.
    let vote = change.vote(change.leaves, LAST + 1, VoteKind::Precommit, hash);
    change.send(&mut replica, vote);
    change.decide(&mut replica, LAST);
    change.start(&mut replica, LAST + 1, None);
    assert_eq!(replica.early.len(), 0);
    let executed = Input::Executed { block: hash, validity: Validity::Valid };
    let outputs = replica.handle(change.world.now(0), executed).unwrap();
    let certificate = outputs.iter().find_map(|output| match output {
        Output::Commit { certificate, .. } => Some(certificate),
        _ => None,
    });
    let certificate = certificate.expect("decided by what came early");
    assert_eq!(certificate.verify(&next, &change.world.chain), Ok(()));
}

#[test]
fn an_epoch_that_goes_on_forgets_what_the_next_members_said() {
    let mut change = Change::new();
    let next = Arc::clone(&change.new);
    let me = (0..5).find(|i| *i != change.joins && *i != change.leaves).unwrap();
    let mut replica = change.replica(me);
    change.start(&mut replica, LAST - 1, Some(&next));
    let block = BlockHash::genesis(&change.world.chain);
    for round in 0..20 {
        let place = (LAST, round, VoteKind::Prevote);
        let vote = change.world.vote(change.joins, place, Some(block));
        change.send(&mut replica, vote);
    }
    assert_eq!(replica.early.len(), 4, "of near rounds only");
    change.decide(&mut replica, LAST - 1);
    change.start(&mut replica, LAST, Some(&next));
    assert_eq!(replica.early.len(), 0);
    // It is the old committee's height, and goes on as ever.
    change.decide(&mut replica, LAST);
}

#[test]
fn who_joins_follows_in_silence_and_votes_at_once_behind_the_boundary() {
    let mut change = Change::new();
    let next = Arc::clone(&change.new);
    let mut replica = change.replica(change.joins);
    let me = change.world.nodes[change.joins].key.public();
    change.start(&mut replica, LAST, Some(&next));
    let (_, outputs) = change.decide(&mut replica, LAST);
    assert!(!speaks(&outputs), "{outputs:?}");
    let mut outputs = change.started(&mut replica, LAST + 1, None);
    let (block, messages) = change.proposed(LAST + 1);
    if block.header.proposer == me {
        let asked = |output: &Output| matches!(output, Output::Propose { round: 0, .. });
        assert!(outputs.iter().any(asked), "{outputs:?}");
        let proposed = Input::Proposed { round: 0, block: Box::new(block) };
        outputs = replica.handle(change.world.now(0), proposed).unwrap();
    } else {
        for message in messages {
            outputs.extend(change.send(&mut replica, message));
        }
        let block = block.header.hash();
        let executed = Input::Executed { block, validity: Validity::Valid };
        outputs.extend(replica.handle(change.world.now(0), executed).unwrap());
    }
    assert_eq!(votes_of(&outputs, &me), 1, "{outputs:?}");
}

#[test]
fn who_leaves_votes_to_the_last_height_and_then_never_again() {
    let mut change = Change::new();
    let next = Arc::clone(&change.new);
    let mut replica = change.replica(change.leaves);
    let me = change.world.nodes[change.leaves].key.public();
    change.start(&mut replica, LAST, Some(&next));
    let (_, outputs) = change.decide(&mut replica, LAST);
    assert!(votes_of(&outputs, &me) > 0, "{outputs:?}");
    let mut outputs = change.started(&mut replica, LAST + 1, None);
    outputs.extend(change.decide(&mut replica, LAST + 1).1);
    // Nor when time passes.
    change.world.now_ms += 60_000;
    outputs.extend(replica.handle(change.world.now(0), Input::Tick).unwrap());
    assert!(!speaks(&outputs), "{outputs:?}");
}

#[test]
fn a_late_precommit_of_the_old_committee_is_kept_in_its_own_position() {
    let mut change = Change::new();
    let me = (0..5).find(|i| *i != change.joins && *i != change.leaves).unwrap();
    let mut replica = change.replica(me);
    let next = Arc::clone(&change.new);
    change.start(&mut replica, LAST, Some(&next));
    let (hash, _) = change.decide(&mut replica, LAST);
    change.start(&mut replica, LAST + 1, None);
    let known = replica.late_precommits(|_, _| false);
    let known: Vec<_> = known.iter().map(|late| usize::from(late.position)).collect();
    let late = (0..4).filter(|position| !known.contains(position));
    for position in late {
        let i = change.number(&change.old.members()[position].node);
        let vote = change.vote(i, LAST, VoteKind::Precommit, hash);
        assert_eq!(change.verdict(&mut replica, vote), Verdict::Forward);
    }
    let vote = change.vote(change.joins, LAST, VoteKind::Precommit, hash);
    assert_eq!(change.verdict(&mut replica, vote), Verdict::Ignore, "it had no vote there");
    let known = replica.late_precommits(|_, _| false);
    let positions: Vec<_> = known.iter().map(|late| late.position).collect();
    assert_eq!(positions, [0, 1, 2, 3]);
}
