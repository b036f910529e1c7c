//! What gossip brings and who is to blame for it.

use std::sync::Arc;

use super::{
    super::{
        BodyPart, Config, ConsensusMessage, Input, MAX_MESSAGE_BYTES, MAX_PARTS, Output,
        PART_BYTES, PolkaCertificate, Replica, RoundCertificate, RoundCertificateKind, RoundVote,
        SignedProposal, Start, Validity, Verdict,
    },
    network::{Random, TIMEOUTS, World},
};
use crate::{
    hash::Hash,
    index::Height,
    keys::{KeyPair, Signature},
    ledger::{Block, BlockHash, Timestamp},
    vote::{CommitSignature, Vote, VoteKind},
};

/// A replica at height 5 in round 0 that is nobody's first proposer.
struct Fixture {
    world: World,
    me: usize,
    replica: Replica,
}

const HEIGHT: u64 = 5;

impl Fixture {
    fn new() -> Self {
        let world = World::new(1, 4);
        let me = world.proposer(HEIGHT, 3);
        let config = Config::new(world.chain, world.nodes[me].key.clone(), TIMEOUTS);
        let mut fixture = Self { world, me, replica: Replica::new(config) };
        fixture.start(HEIGHT);
        fixture
    }

    fn start(&mut self, height: u64) -> Vec<Output> {
        let start = Start {
            height: Height::new(height),
            committee: Arc::clone(&self.world.committee),
            next: None,
            parent_time: Timestamp::from_ms(1_000),
            journal: Vec::new(),
            abstain: false,
        };
        self.replica.handle(self.world.now(self.me), Input::Start(start)).unwrap()
    }

    fn send(&mut self, message: ConsensusMessage) -> Vec<Output> {
        let now = self.world.now(self.me);
        self.replica.handle(now, Input::Message(message)).unwrap()
    }

    fn verdict(&mut self, message: ConsensusMessage) -> Verdict {
        let outputs = self.send(message);
        let verdicts = outputs.iter().filter_map(|output| match output {
            Output::Verdict(verdict) => Some(*verdict),
            _ => None,
        });
        let verdicts: Vec<_> = verdicts.collect();
        assert_eq!(verdicts.len(), 1, "one verdict a message");
        verdicts[0]
    }

    fn other(&self) -> usize {
        (self.me + 1) % 4
    }

    /// A block that the proposer of `round` made in `made`.
    fn block(&mut self, made: u32) -> Block {
        let proposer = self.world.proposer(HEIGHT, made);
        self.world.build(proposer, Height::new(HEIGHT), made)
    }

    fn proposal(&self, block: &Block, round: u32, pol_round: Option<u32>) -> SignedProposal {
        let proposer = self.world.proposer(HEIGHT, round);
        let messages = self.world.proposal_messages(proposer, block, round, pol_round);
        match &messages[0] {
            ConsensusMessage::Proposal(signed) => **signed,
            other => panic!("{other:?}"),
        }
    }

    fn parts(&self, block: &Block, round: u32) -> Vec<BodyPart> {
        let proposer = self.world.proposer(HEIGHT, round);
        let messages = self.world.proposal_messages(proposer, block, round, None);
        let parts = messages.into_iter().filter_map(|message| match message {
            ConsensusMessage::Part(part) => Some(part),
            _ => None,
        });
        parts.collect()
    }

    /// The height under way is decided by everybody else; what comes of the last message.
    fn decide(&mut self) -> Vec<Output> {
        let height = self.replica.height().unwrap();
        let proposer = self.world.proposer(height.get(), 0);
        let block = self.world.build(proposer, height, 0);
        for message in self.world.proposal_messages(proposer, &block, 0, None) {
            self.send(message);
        }
        let (hash, now) = (block.header.hash(), self.world.now(self.me));
        let executed = Input::Executed { block: hash, validity: Validity::Valid };
        self.replica.handle(now, executed).unwrap();
        let place = (height.get(), 0, VoteKind::Precommit);
        let others: Vec<_> = (0..4).filter(|i| *i != self.me).collect();
        let votes = others.into_iter().map(|i| self.world.vote(i, place, Some(hash)));
        let votes: Vec<_> = votes.collect();
        let outputs = votes.into_iter().map(|vote| self.send(vote)).last().unwrap();
        assert!(self.replica.is_decided(), "{outputs:?}");
        outputs
    }

    fn precommitted(&self) -> bool {
        self.replica.running.as_ref().unwrap().host.precommits.quorum().is_some()
    }
}

fn message(signed: SignedProposal) -> ConsensusMessage {
    ConsensusMessage::Proposal(Box::new(signed))
}

fn hash(byte: u8) -> BlockHash {
    BlockHash::new(Hash::new([byte; 32]))
}

#[test]
fn votes_of_strangers_and_forgers_leave_nothing_and_forgeries_are_the_senders_fault() {
    let mut fixture = Fixture::new();
    let stranger = KeyPair::from_seed([99; 32]);
    for height in [HEIGHT, HEIGHT + 1] {
        let (kind, block) = (VoteKind::Prevote, Some(hash(1)));
        let voter = stranger.public();
        let vote = Vote { height: Height::new(height), round: 0, kind, block, voter };
        let vote = vote.sign(&fixture.world.chain, &stranger);
        assert_eq!(fixture.verdict(ConsensusMessage::Vote(vote)), Verdict::Ignore);
        let forged = fixture.world.vote(fixture.other(), (height, 0, kind), block);
        let ConsensusMessage::Vote(mut forged) = forged else { panic!("a vote") };
        forged.vote.block = Some(hash(2));
        assert_eq!(fixture.verdict(ConsensusMessage::Vote(forged)), Verdict::Reject);
    }
    assert_eq!(fixture.replica.early.len(), 0);
    assert!(!fixture.precommitted());
}

#[test]
fn a_vote_is_taken_once() {
    let mut fixture = Fixture::new();
    let vote = fixture.world.vote(fixture.other(), (HEIGHT, 0, VoteKind::Prevote), Some(hash(1)));
    assert_eq!(fixture.verdict(vote.clone()), Verdict::Forward);
    assert_eq!(fixture.verdict(vote), Verdict::Ignore);
    let old = fixture.world.vote(fixture.other(), (HEIGHT - 1, 0, VoteKind::Prevote), None);
    assert_eq!(fixture.verdict(old), Verdict::Ignore);
    let far = fixture.world.vote(fixture.other(), (HEIGHT, 11, VoteKind::Prevote), None);
    assert_eq!(fixture.verdict(far), Verdict::Ignore);
}

#[test]
fn of_the_next_heights_a_few_votes_per_member_are_kept_of_later_ones_none() {
    let mut fixture = Fixture::new();
    for height in [HEIGHT + 17, HEIGHT + 1_000, u64::MAX] {
        let vote = fixture.world.vote(fixture.other(), (height, 0, VoteKind::Prevote), None);
        assert_eq!(fixture.verdict(vote), Verdict::Ignore);
    }
    assert_eq!(fixture.replica.early.len(), 0);
    let mut taken = 0;
    for round in 0..20 {
        for byte in 0..20 {
            let place = (HEIGHT + 1, round, VoteKind::Precommit);
            let vote = fixture.world.vote(fixture.other(), place, Some(hash(byte)));
            taken += usize::from(fixture.verdict(vote) == Verdict::Forward);
        }
    }
    assert_eq!((taken, fixture.replica.early.len()), (8, 8));
    // They count once their height has begun.
    fixture.start(HEIGHT + 1);
    assert_eq!(fixture.replica.early.len(), 0);
    let place = (HEIGHT + 1, 0, VoteKind::Precommit);
    let again = fixture.world.vote(fixture.other(), place, Some(hash(0)));
    assert_eq!(fixture.verdict(again), Verdict::Ignore);
}

#[test]
fn a_height_that_others_have_begun_is_announced_once_this_one_is_decided() {
    let mut fixture = Fixture::new();
    let early =
        |fixture: &Fixture, i| fixture.world.vote(i, (HEIGHT + 1, 0, VoteKind::Prevote), None);
    let vote = early(&fixture, fixture.other());
    assert!(!fixture.send(vote.clone()).contains(&Output::NextHeight));
    let outputs = fixture.decide();
    let place = |wanted: fn(&Output) -> bool| outputs.iter().position(wanted).unwrap();
    let announced = place(|output| *output == Output::NextHeight);
    assert!(place(|output| matches!(output, Output::Commit { .. })) < announced, "{outputs:?}");
    // Sent again, since nothing has been heard of this node.
    let outputs = fixture.send(vote);
    assert_eq!(outputs, [Output::Verdict(Verdict::Ignore), Output::NextHeight]);
    let vote = early(&fixture, (fixture.me + 2) % 4);
    assert_eq!(fixture.send(vote), [Output::Verdict(Verdict::Forward), Output::NextHeight]);
    fixture.start(HEIGHT + 1);
    assert!(!fixture.decide().contains(&Output::NextHeight), "nobody is further");
}

#[test]
fn that_others_are_further_takes_the_votes_of_more_than_a_third() {
    let mut fixture = Fixture::new();
    let others = [1, 2, 3].map(|step| (fixture.me + step) % 4);
    let mut vote = |node, height| {
        let vote = fixture.world.vote(node, (height, 0, VoteKind::Prevote), None);
        fixture.send(vote);
        fixture.replica.others_voted_at().map(Height::get)
    };
    // One member alone may lie, however often.
    assert_eq!(vote(others[0], HEIGHT + 9), None);
    assert_eq!(vote(others[0], HEIGHT + 3), None);
    assert_eq!(vote(others[1], HEIGHT), None);
    assert_eq!(vote(others[1], HEIGHT + 2), Some(HEIGHT + 2));
    assert_eq!(vote(others[2], HEIGHT + 5), Some(HEIGHT + 5));
    fixture.start(HEIGHT + 5);
    assert_eq!(fixture.replica.others_voted_at(), None, "only one is further");
}

#[test]
fn a_height_that_strangers_claim_to_have_begun_is_not_announced() {
    let mut fixture = Fixture::new();
    let stranger = KeyPair::from_seed([99; 32]);
    let vote = Vote {
        height: Height::new(HEIGHT + 1),
        round: 0,
        kind: VoteKind::Prevote,
        block: None,
        voter: stranger.public(),
    };
    let vote = ConsensusMessage::Vote(vote.sign(&fixture.world.chain, &stranger));
    let (height, bytes) = (Height::new(HEIGHT + 1), vec![1]);
    let part = BodyPart { height, round: 0, index: 0, path: Vec::new(), bytes };
    fixture.send(vote.clone());
    fixture.send(ConsensusMessage::Part(part.clone()));
    assert!(!fixture.decide().contains(&Output::NextHeight));
    for message in [vote, ConsensusMessage::Part(part)] {
        assert_eq!(fixture.send(message), [Output::Verdict(Verdict::Ignore)]);
    }
}

#[test]
fn a_member_takes_no_others_place_among_early_proposals() {
    let mut fixture = Fixture::new();
    let next = Height::new(HEIGHT + 1);
    let proposer = fixture.world.proposer(next.get(), 0);
    let early = |fixture: &mut Fixture, i: usize, round: u32| {
        let block = fixture.world.build(i, next, round);
        fixture.world.proposal_messages(i, &block, round, None).remove(0)
    };
    for i in (0..4).filter(|i| *i != proposer) {
        for _ in 0..3 {
            let junk = early(&mut fixture, i, 0);
            assert_eq!(fixture.verdict(junk), Verdict::Ignore, "not its turn");
        }
    }
    assert_eq!(fixture.replica.early.len(), 0);
    let good = early(&mut fixture, proposer, 0);
    assert_eq!(fixture.verdict(good.clone()), Verdict::Forward);
    assert_eq!(fixture.verdict(good), Verdict::Ignore);
    fixture.start(next.get());
    assert_eq!(fixture.replica.early.len(), 0);
    let running = fixture.replica.running().unwrap();
    let taken: Vec<_> = running.host.blocks.candidates().collect();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].1.header.proposer, fixture.world.nodes[proposer].key.public());
}

#[test]
fn a_proposal_must_come_from_whose_turn_it_is_with_a_header_of_its_round() {
    let mut fixture = Fixture::new();
    let (block, later) = (fixture.block(0), fixture.block(1));
    let good = fixture.proposal(&block, 0, None);
    let wrong_turn = {
        let proposer = fixture.world.proposer(HEIGHT, 1);
        let messages = fixture.world.proposal_messages(proposer, &block, 0, None);
        messages[0].clone()
    };
    let mut forged = good;
    forged.proposal.parts += 1;
    let mut usurped = block.clone();
    usurped.header.proposer = fixture.world.nodes[fixture.me].key.public();
    let mut unsigned = forged;
    unsigned.proposal.header = later.header;
    // For all that a node knows that is a block behind, it may be the other committee's.
    for (what, message) in [
        ("not its turn", wrong_turn),
        ("another's header", message(fixture.proposal(&usurped, 0, None))),
    ] {
        assert_eq!(fixture.verdict(message), Verdict::Ignore, "{what}");
    }
    let cases = [
        ("forged", message(forged)),
        ("forged, and of another round", message(unsigned)),
        ("a header of a later round", message(fixture.proposal(&later, 0, None))),
        ("an old header without a polka", message(fixture.proposal(&block, 1, None))),
        ("a polka of its own round", message(fixture.proposal(&block, 1, Some(1)))),
        ("a polka before the header", message(fixture.proposal(&later, 2, Some(0)))),
        ("a polka for a new block", message(fixture.proposal(&block, 0, Some(0)))),
    ];
    for (what, message) in cases {
        assert_eq!(fixture.verdict(message), Verdict::Reject, "{what}");
    }
    assert!(fixture.replica.running().unwrap().host.blocks.candidates().next().is_none());
    assert_eq!(fixture.verdict(message(good)), Verdict::Forward);
    assert_eq!(fixture.verdict(message(good)), Verdict::Ignore);
    let again = message(fixture.proposal(&block, 1, Some(0)));
    assert_eq!(fixture.verdict(again), Verdict::Forward, "locked, and proposed again");
}

#[test]
fn a_third_proposal_of_a_round_finds_no_slot() {
    let mut fixture = Fixture::new();
    let mut verdicts = Vec::new();
    for _ in 0..4 {
        let block = fixture.block(0);
        let proposal = fixture.proposal(&block, 0, None);
        verdicts.push(fixture.verdict(message(proposal)));
    }
    use Verdict::{Forward, Ignore};
    assert_eq!(verdicts, [Forward, Forward, Ignore, Ignore]);
}

#[test]
fn a_time_not_after_the_parents_is_refused_at_once() {
    let mut fixture = Fixture::new();
    let mut block = fixture.block(0);
    block.header.time = Timestamp::from_ms(1_000);
    let outputs = fixture.send(message(fixture.proposal(&block, 0, None)));
    let nil = outputs.iter().any(|output| {
        matches!(output, Output::Broadcast(ConsensusMessage::Vote(vote))
            if vote.vote.block.is_none() && vote.vote.kind == VoteKind::Prevote)
    });
    assert!(nil, "{outputs:?}");
}

/// A block with a body of several parts.
fn large(fixture: &mut Fixture) -> Block {
    loop {
        let block = fixture.block(0);
        if fixture.parts(&block, 0).len() >= 2 {
            return block;
        }
    }
}

#[test]
fn parts_are_taken_only_under_the_root_of_a_signed_proposal() {
    let mut fixture = Fixture::new();
    let (block, strange) = (large(&mut fixture), large(&mut fixture));
    let proposal = fixture.proposal(&block, 0, None);
    assert_eq!(fixture.verdict(message(proposal)), Verdict::Forward);
    for part in fixture.parts(&strange, 0) {
        // Nobody's fault: the proposer may have signed another proposal, which is still to come.
        assert_eq!(fixture.verdict(ConsensusMessage::Part(part)), Verdict::Ignore);
    }
    let parts = fixture.parts(&block, 0);
    let mut moved = parts[0].clone();
    moved.index = 1;
    assert_eq!(fixture.verdict(ConsensusMessage::Part(moved)), Verdict::Ignore);
    let running = fixture.replica.running().unwrap();
    assert!(running.host.blocks.offers(0)[0].assembly.is_none(), "nothing is kept of them");
    let last = parts.len() - 1;
    for part in &parts[..last] {
        let part = ConsensusMessage::Part(part.clone());
        assert_eq!(fixture.verdict(part.clone()), Verdict::Forward);
        assert_eq!(fixture.verdict(part), Verdict::Ignore);
    }
    let outputs = fixture.send(ConsensusMessage::Part(parts[last].clone()));
    let executed = outputs
        .iter()
        .any(|output| matches!(output, Output::Execute { block: whole } if **whole == block));
    assert!(executed, "{outputs:?}");
    let late = ConsensusMessage::Part(parts[last].clone());
    assert_eq!(fixture.verdict(late), Verdict::Ignore);
}

#[test]
fn parts_that_come_before_their_proposal_are_not_lost() {
    let mut fixture = Fixture::new();
    let block = large(&mut fixture);
    for part in fixture.parts(&block, 0) {
        assert_eq!(fixture.verdict(ConsensusMessage::Part(part)), Verdict::Ignore);
    }
    let outputs = fixture.send(message(fixture.proposal(&block, 0, None)));
    assert!(outputs.iter().any(|output| matches!(output, Output::Execute { .. })));
    assert_eq!(fixture.replica.early.len(), 0);
}

#[test]
fn a_flood_leaves_a_bounded_residue() {
    let mut fixture = Fixture::new();
    let mut random = Random(1);
    for i in 0..3_000_u64 {
        let height = HEIGHT + random.below(3);
        let round = u32::try_from(random.below(14)).unwrap();
        let bytes = random.next().to_le_bytes().to_vec();
        let part =
            BodyPart { height: Height::new(height), round, index: 0, path: Vec::new(), bytes };
        fixture.send(ConsensusMessage::Part(part));
        // A faulty member has no bound on what it signs.
        let liar = fixture.other();
        let block = Some(BlockHash::new(Hash::of_symbol(&i.to_le_bytes())));
        let kind = if i % 2 == 0 { VoteKind::Prevote } else { VoteKind::Precommit };
        let vote = fixture.world.vote(liar, (height, round, kind), block);
        fixture.send(vote);
    }
    assert!(fixture.replica.early.len() <= 64 + 2 * 8, "{}", fixture.replica.early.len());
    let running = fixture.replica.running().unwrap();
    let votes = running.core().driver.votes().all_rounds();
    let kept: usize = votes.values().map(|round| round.received_votes().len()).sum();
    assert!(kept <= 11 * 2, "{kept} votes of one member");
    assert_eq!(running.host.blocks.candidates().count(), 0);
}

#[test]
fn certificates_that_prove_nothing_are_the_senders_fault() {
    let mut fixture = Fixture::new();
    let (height, block) = (Height::new(HEIGHT), hash(3));
    let sign = |fixture: &Fixture, position: u16, kind, block| {
        let vote = fixture.world.vote(position.into(), (HEIGHT, 1, kind), block);
        match vote {
            ConsensusMessage::Vote(vote) => vote.signature,
            other => panic!("{other:?}"),
        }
    };
    let signature = |position| CommitSignature {
        position,
        signature: sign(&fixture, position, VoteKind::Prevote, Some(block)),
    };
    let signatures: Vec<_> = [0, 1, 2].map(signature).into();
    let polka = PolkaCertificate { height, round: 1, block, signatures };
    let mut weak = polka.clone();
    weak.signatures.pop();
    let mut forged = polka.clone();
    forged.signatures[0].signature = Signature::new([1; 64]);
    let vote = |position| RoundVote {
        position,
        kind: VoteKind::Precommit,
        block: None,
        signature: sign(&fixture, position, VoteKind::Precommit, None),
    };
    let votes: Vec<_> = [0, 1, 2].map(vote).into();
    let round = RoundCertificate { height, round: 1, kind: RoundCertificateKind::Precommit, votes };
    let mut few = round.clone();
    few.votes.truncate(2);
    for bad in [ConsensusMessage::Polka(weak), ConsensusMessage::Polka(forged)] {
        assert_eq!(fixture.verdict(bad), Verdict::Reject);
    }
    assert_eq!(fixture.verdict(ConsensusMessage::Round(few)), Verdict::Reject);
    assert_eq!(fixture.replica.round(), Some(0));
    assert_eq!(fixture.verdict(ConsensusMessage::Polka(polka.clone())), Verdict::Forward);
    assert_eq!(fixture.replica.round(), Some(1), "a quorum is ahead");
    assert_eq!(fixture.verdict(ConsensusMessage::Polka(polka)), Verdict::Ignore);
    assert_eq!(fixture.verdict(ConsensusMessage::Round(round.clone())), Verdict::Forward);
    assert_eq!(fixture.verdict(ConsensusMessage::Round(round)), Verdict::Ignore);
}

#[test]
fn an_own_vote_from_another_life_is_kept_to() {
    let mut fixture = Fixture::new();
    let block = Some(hash(4));
    let vote = fixture.world.vote(fixture.me, (HEIGHT, 0, VoteKind::Prevote), block);
    assert_eq!(fixture.verdict(vote.clone()), Verdict::Forward);
    // Its own judgement would be nil: there is no proposal.
    fixture.world.now_ms += TIMEOUTS.propose_ms;
    let now = fixture.world.now(fixture.me);
    let outputs = fixture.replica.handle(now, Input::Tick).unwrap();
    let sent = outputs.iter().filter_map(|output| match output {
        Output::Broadcast(message @ ConsensusMessage::Vote(_)) => Some(message.clone()),
        _ => None,
    });
    assert!(sent.eq([vote]), "{outputs:?}");
}

#[test]
fn a_decision_without_its_body_is_reported_once_and_completed_by_sync() {
    let mut fixture = Fixture::new();
    let block = fixture.block(0);
    let hash = block.header.hash();
    let others: Vec<_> = (0..4).filter(|i| *i != fixture.me).collect();
    let mut missing = 0;
    for i in others {
        let vote = fixture.world.vote(i, (HEIGHT, 0, VoteKind::Precommit), Some(hash));
        let outputs = fixture.send(vote);
        let reported = Output::Missing { height: Height::new(HEIGHT), block: hash };
        missing += outputs.iter().filter(|output| **output == reported).count();
    }
    assert_eq!(missing, 1);
    let running = fixture.replica.running().unwrap();
    let certificate = running.host.precommits.certificate(Height::new(HEIGHT), 0, hash);
    let mut other = block.clone();
    other.header.round = 1;
    let mut weak = certificate.clone();
    weak.signatures.pop();
    let now = fixture.world.now(fixture.me);
    for (block, certificate) in [(&other, &certificate), (&block, &weak)] {
        let (block, certificate) = (Box::new(block.clone()), certificate.clone());
        let outputs = fixture.replica.handle(now, Input::Synced { block, certificate }).unwrap();
        assert_eq!(outputs, [Output::Verdict(Verdict::Reject)]);
    }
    let synced = Input::Synced { block: Box::new(block), certificate };
    let outputs = fixture.replica.handle(now, synced).unwrap();
    assert!(matches!(outputs[..], [Output::Verdict(Verdict::Forward), Output::Execute { .. }]));
    let executed = Input::Executed { block: hash, validity: Validity::Valid };
    let outputs = fixture.replica.handle(now, executed).unwrap();
    assert!(outputs.iter().any(|output| matches!(output, Output::Commit { .. })));
}

#[test]
fn who_is_no_member_follows_in_silence() {
    let mut fixture = Fixture::new();
    let key = KeyPair::from_seed([98; 32]);
    fixture.replica = Replica::new(Config::new(fixture.world.chain, key, TIMEOUTS));
    let mut outputs = fixture.start(HEIGHT);
    let block = large(&mut fixture);
    outputs.extend(fixture.send(message(fixture.proposal(&block, 0, None))));
    for part in fixture.parts(&block, 0) {
        outputs.extend(fixture.send(ConsensusMessage::Part(part)));
    }
    let (hash, now) = (block.header.hash(), fixture.world.now(0));
    let executed = Input::Executed { block: hash, validity: Validity::Valid };
    outputs.extend(fixture.replica.handle(now, executed).unwrap());
    for i in 0..3 {
        let vote = fixture.world.vote(i, (HEIGHT, 0, VoteKind::Precommit), Some(hash));
        outputs.extend(fixture.send(vote));
    }
    assert!(matches!(outputs.last(), Some(Output::Commit { .. })));
    let loud = |output: &Output| {
        matches!(output, Output::Journal(_) | Output::Broadcast(_) | Output::Propose { .. })
    };
    assert!(!outputs.iter().any(loud), "{outputs:?}");
}

#[test]
fn bytes_are_bounded_and_strict() {
    let fixture = Fixture::new();
    let vote = fixture.world.vote(0, (HEIGHT, 0, VoteKind::Prevote), None);
    let bytes = vote.to_bytes();
    assert_eq!(ConsensusMessage::from_bytes(&bytes), Ok(vote));
    for len in 0..bytes.len() {
        assert!(ConsensusMessage::from_bytes(&bytes[..len]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(ConsensusMessage::from_bytes(&longer).is_err());
    assert!(ConsensusMessage::from_bytes(&vec![0; MAX_MESSAGE_BYTES + 1]).is_err());
    let part = |index, steps, len| {
        let (height, path) = (Height::new(HEIGHT), vec![Hash::ZERO; steps]);
        let part = BodyPart { height, round: 0, index, path, bytes: vec![7; len] };
        ConsensusMessage::from_bytes(&ConsensusMessage::Part(part).to_bytes()).is_ok()
    };
    assert!(part(MAX_PARTS - 1, 5, PART_BYTES));
    assert!(!part(MAX_PARTS, 5, PART_BYTES));
    assert!(!part(0, 6, PART_BYTES));
    assert!(!part(0, 5, PART_BYTES + 1));
    assert!(!part(0, 5, 0));
}

#[test]
fn no_bytes_make_a_replica_panic() {
    let mut fixture = Fixture::new();
    let block = large(&mut fixture);
    let mut samples: Vec<_> = fixture
        .world
        .proposal_messages(fixture.world.proposer(HEIGHT, 0), &block, 0, None)
        .iter()
        .map(ConsensusMessage::to_bytes)
        .collect();
    samples.push(fixture.world.vote(0, (HEIGHT, 0, VoteKind::Prevote), None).to_bytes());
    let mut random = Random(77);
    for _ in 0..4_000 {
        let pick = usize::try_from(random.below(samples.len() as u64)).unwrap();
        let mut bytes = samples[pick].clone();
        for _ in 0..=random.below(3) {
            let place = usize::try_from(random.below(bytes.len().min(600) as u64)).unwrap();
            bytes[place] = random.next().to_le_bytes()[0];
        }
        if let Ok(message) = ConsensusMessage::from_bytes(&bytes) {
            fixture.verdict(message);
        }
    }
}
