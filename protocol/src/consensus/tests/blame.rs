//! Nobody is punished for what another honest node passes on, whatever state the two are in.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{
        BodyPart, ConsensusMessage, Input, Output, PolkaCertificate, Proposal, Replica,
        RoundCertificate, RoundCertificateKind, RoundVote, Start, Validity, Verdict, proposer,
    },
    boundary::{Change, LAST},
    network::Random,
};
use crate::{
    committee::Committee,
    hash::Hash,
    index::{Epoch, Height},
    keys::{ChainId, KeyPair, Signature},
    ledger::{Block, BlockHash, Timestamp},
    vote::{CommitSignature, Vote, VoteKind},
};

/// Worlds that the property is tried in.
const SEEDS: u64 = 16;

/// How far a replica has come at its height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begun,
    /// In a later round, to which others have gone.
    Later(u32),
    /// In a later round, to which its own clock has brought it.
    Waited,
    Decided,
}

/// A state that an honest node can be in.
#[derive(Clone, Copy, Debug)]
struct Place {
    height: u64,
    /// Whether it has seen the height before, or began with this one.
    came: bool,
    /// Whether it knows of a next committee.
    selected: bool,
    stage: Stage,
}

/// All that a liar may sign with, and honest members too.
struct Messages {
    change: Change,
    random: Random,
    /// The five nodes, and a stranger.
    keys: Vec<KeyPair>,
    /// The next committee of the next epoch.
    third: Arc<Committee>,
    /// The blocks that honest nodes decide.
    blocks: BTreeMap<u64, Block>,
}

impl Messages {
    fn new(seed: u64) -> Self {
        let mut change = Change::new();
        let mut random = Random(seed);
        // In a third of the cases the epoch goes on.
        if random.below(3) == 0 {
            change.last = u64::MAX;
        }
        let mut keys: Vec<_> = change.world.nodes.iter().map(|node| node.key.clone()).collect();
        keys.push(KeyPair::from_seed([99; 32]));
        let third = Arc::new(Committee::clone(&change.old).in_epoch(Epoch::new(2)));
        Self { change, random, keys, third, blocks: BTreeMap::new() }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let below = u64::try_from(from.len()).unwrap();
        from[usize::try_from(self.random.below(below)).unwrap()].clone()
    }

    fn block_of(&mut self, height: u64) -> Block {
        if let Some(block) = self.blocks.get(&height) {
            return block.clone();
        }
        let committee = Arc::clone(self.change.committee(height));
        let node = proposer(&self.change.world.chain, Height::new(height), 0, &committee);
        let i = self.change.number(&node);
        let block = self.change.world.build(i, Height::new(height), 0);
        self.blocks.insert(height, block.clone());
        block
    }

    fn height(&mut self) -> Height {
        Height::new(LAST - 2 + self.random.below(6))
    }

    fn round(&mut self) -> u32 {
        self.pick(&[0, 0, 0, 1, 1, 2, 3, 4, 10, 12, u32::MAX])
    }

    fn chain(&mut self) -> ChainId {
        let other = ChainId::new(Hash::new([8; 32]));
        if self.random.below(8) == 0 { other } else { self.change.world.chain }
    }

    fn voted(&mut self, height: Height) -> Option<BlockHash> {
        let decided = self.block_of(height.get()).header.hash();
        let other = BlockHash::new(Hash::new([self.random.below(3).to_le_bytes()[0]; 32]));
        self.pick(&[Some(decided), Some(decided), Some(other), None])
    }

    fn kind(&mut self) -> VoteKind {
        self.pick(&[VoteKind::Prevote, VoteKind::Precommit])
    }

    fn vote(&mut self) -> ConsensusMessage {
        let (height, round, kind) = (self.height(), self.round(), self.kind());
        let (block, keys) = (self.voted(height), self.keys.clone());
        let (key, chain) = (self.pick(&keys), self.chain());
        let vote = Vote { height, round, kind, block, voter: key.public() };
        let mut signed = vote.sign(&chain, &key);
        if self.random.below(8) == 0 {
            signed.vote.voter = self.pick(&keys).public();
        }
        ConsensusMessage::Vote(signed)
    }

    /// Whose turn it is in the eyes of some committee, or somebody.
    fn proposer(&mut self, height: Height, round: u32) -> KeyPair {
        let keys = self.keys.clone();
        if self.random.below(4) == 0 {
            return self.pick(&keys);
        }
        let committee = self.pick(&[Arc::clone(&self.change.old), Arc::clone(&self.change.new)]);
        let node = proposer(&self.change.world.chain, height, round, &committee);
        keys.into_iter().find(|key| key.public() == node).unwrap()
    }

    fn proposal(&mut self) -> ConsensusMessage {
        let (height, round) = (self.height(), self.round());
        let key = self.proposer(height, round);
        let mut header = self.block_of(height.get()).header;
        header.events_root = Hash::new([self.random.below(2).to_le_bytes()[0]; 32]);
        header.round = if self.random.below(3) == 0 { self.round() } else { round };
        header.proposer = self.proposer(height, header.round).public();
        header.time = self.pick(&[header.time, Timestamp::from_ms(0)]);
        let pol_round = (self.random.below(3) == 0).then(|| self.round());
        let parts_root = Hash::new([1; 32]);
        let proposer = key.public();
        let proposal = Proposal { round, pol_round, parts_root, parts: 1, proposer, header };
        let mut signed = proposal.sign(&self.chain(), &key);
        if self.random.below(8) == 0 {
            signed.proposal.parts += 1;
        }
        ConsensusMessage::Proposal(Box::new(signed))
    }

    /// Signatures of some of a committee, in its order or nearly, mostly good.
    fn signatures(&mut self, vote: Vote) -> Vec<CommitSignature> {
        let committee = self.pick(&[Arc::clone(&self.change.old), Arc::clone(&self.change.new)]);
        let chain = self.chain();
        let mut signatures = Vec::new();
        for (position, member) in (0..).zip(committee.members()) {
            let key = self.keys.iter().find(|key| key.public() == member.node).unwrap().clone();
            let mut signature = Vote { voter: member.node, ..vote }.sign(&chain, &key).signature;
            if self.random.below(20) == 0 {
                signature = Signature::new([1; 64]);
            }
            if self.random.below(6) != 0 {
                signatures.push(CommitSignature { position, signature });
            }
        }
        if self.random.below(10) == 0 {
            signatures.reverse();
        }
        signatures
    }

    fn certificate(&mut self) -> ConsensusMessage {
        // No quorum of members, of which two thirds are honest, signs anything of the last round.
        let (height, round) = (self.height(), self.round().min(20));
        let (block, voter) = (self.voted(height), self.keys[0].public());
        if let Some(block) = block
            && self.random.below(2) == 0
        {
            let kind = VoteKind::Prevote;
            let signatures =
                self.signatures(Vote { height, round, kind, block: Some(block), voter });
            return ConsensusMessage::Polka(PolkaCertificate { height, round, block, signatures });
        }
        let kind = self.kind();
        let signatures = self.signatures(Vote { height, round, kind, block, voter });
        let votes = signatures.into_iter().map(|CommitSignature { position, signature }| {
            RoundVote { position, kind, block, signature }
        });
        let votes = votes.collect();
        let kind = self.pick(&[RoundCertificateKind::Skip, RoundCertificateKind::Precommit]);
        ConsensusMessage::Round(RoundCertificate { height, round, kind, votes })
    }

    fn message(&mut self) -> ConsensusMessage {
        let message = match self.random.below(8) {
            0..=2 => self.vote(),
            3..=5 => self.proposal(),
            6 => self.certificate(),
            _ => {
                let (height, round) = (self.height(), self.round());
                let (index, path, bytes) = (0, Vec::new(), vec![1]);
                ConsensusMessage::Part(BodyPart { height, round, index, path, bytes })
            }
        };
        // What does not parse is rejected by all.
        ConsensusMessage::from_bytes(&message.to_bytes()).unwrap()
    }

    fn handle(&mut self, replica: &mut Replica, input: Input) -> Vec<Output> {
        replica.handle(self.change.world.now(0), input).unwrap()
    }

    fn begin(&mut self, replica: &mut Replica, height: u64, selected: bool) -> Vec<Output> {
        let next = if height > self.change.last { &self.third } else { &self.change.new };
        let start = Start {
            height: Height::new(height),
            committee: Arc::clone(self.change.committee(height)),
            // None is needed for the end of an epoch only.
            next: (selected || height == self.change.last).then(|| Arc::clone(next)),
            parent_time: Timestamp::from_ms(0),
            journal: Vec::new(),
            abstain: false,
        };
        self.handle(replica, Input::Start(start))
    }

    /// The members of a height, by their numbers.
    fn members(&self, height: u64) -> Vec<usize> {
        let members = self.change.committee(height).members().iter();
        members.map(|member| self.change.number(&member.node)).collect()
    }

    fn decide(&mut self, replica: &mut Replica, height: u64) -> Vec<Output> {
        let block = self.block_of(height);
        let hash = block.header.hash();
        let members = self.members(height);
        let proposer = self.change.number(&block.header.proposer);
        let mut messages = self.change.world.proposal_messages(proposer, &block, 0, None);
        for i in members {
            for kind in [VoteKind::Prevote, VoteKind::Precommit] {
                messages.push(self.change.world.vote(i, (height, 0, kind), Some(hash)));
            }
        }
        let mut outputs = Vec::new();
        for message in messages {
            outputs.extend(self.handle(replica, Input::Message(message)));
            let validity = Validity::Valid;
            outputs.extend(self.handle(replica, Input::Executed { block: hash, validity }));
        }
        assert!(replica.is_decided(), "{outputs:?}");
        outputs
    }

    /// A node in a certain state, and all that it has said on the way there.
    fn replica(&mut self, me: usize, place: Place) -> (Replica, Vec<Output>) {
        let mut replica = self.change.replica(me);
        let mut outputs = Vec::new();
        if place.came {
            outputs.extend(self.begin(&mut replica, place.height - 1, place.selected));
            outputs.extend(self.decide(&mut replica, place.height - 1));
        }
        outputs.extend(self.begin(&mut replica, place.height, place.selected));
        match place.stage {
            Stage::Begun => {}
            Stage::Later(round) => {
                for i in self.members(place.height).into_iter().filter(|i| *i != me) {
                    let vote = (place.height, round, VoteKind::Prevote);
                    let vote = self.change.world.vote(i, vote, None);
                    outputs.extend(self.handle(&mut replica, Input::Message(vote)));
                }
                assert_eq!(replica.round(), Some(round));
            }
            Stage::Waited => {
                for kind in [VoteKind::Prevote, VoteKind::Precommit] {
                    for i in self.members(place.height).into_iter().filter(|i| *i != me) {
                        let vote = self.change.world.vote(i, (place.height, 0, kind), None);
                        outputs.extend(self.handle(&mut replica, Input::Message(vote)));
                    }
                    self.change.world.now_ms += 5_000;
                    outputs.extend(self.handle(&mut replica, Input::Tick));
                }
                assert!(replica.round() > Some(0));
            }
            Stage::Decided => outputs.extend(self.decide(&mut replica, place.height)),
        }
        (replica, outputs)
    }

    fn places(&mut self) -> Vec<Place> {
        let mut places = Vec::new();
        for height in LAST - 1..=LAST + 2 {
            for stage in
                [Stage::Begun, Stage::Later(1), Stage::Later(3), Stage::Waited, Stage::Decided]
            {
                let (came, selected) = (self.random.below(2) == 0, self.random.below(2) == 0);
                places.push(Place { height, came, selected, stage });
            }
        }
        places
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let below = u64::try_from(i + 1).unwrap();
            list.swap(i, usize::try_from(self.random.below(below)).unwrap());
        }
    }
}

fn verdict(outputs: &[Output]) -> Verdict {
    match outputs.first() {
        Some(Output::Verdict(verdict)) => *verdict,
        other => panic!("no verdict but {other:?}"),
    }
}

/// Who judged a message how, at first sight.
#[derive(Debug, Default)]
struct Judged {
    forwarded: Option<Place>,
    rejected: Option<Place>,
    ignored: bool,
}

#[test]
fn what_one_honest_node_forwards_no_other_rejects() {
    let (mut forwarded, mut rejected, mut elsewhere_ignored) = (0, 0, 0);
    for seed in 1..=SEEDS {
        let mut messages = Messages::new(seed);
        let mut lies: Vec<_> = (0..80).map(|_| (messages.message(), Judged::default())).collect();
        let mut said = Vec::new();
        for place in messages.places() {
            let me = usize::try_from(messages.random.below(5)).unwrap();
            let (mut replica, outputs) = messages.replica(me, place);
            said.extend(outputs);
            messages.shuffle(&mut lies);
            for (message, judged) in &mut lies {
                let outputs = messages.handle(&mut replica, Input::Message(message.clone()));
                match verdict(&outputs) {
                    Verdict::Forward => judged.forwarded = Some(place),
                    Verdict::Reject => judged.rejected = Some(place),
                    Verdict::Ignore => judged.ignored = true,
                }
                said.extend(outputs);
            }
        }
        for (message, judged) in &lies {
            let both = judged.forwarded.is_some() && judged.rejected.is_some();
            assert!(!both, "seed {seed}: {message:?}: {judged:?}");
            forwarded += usize::from(judged.forwarded.is_some());
            rejected += usize::from(judged.rejected.is_some());
            elsewhere_ignored += usize::from(judged.forwarded.is_some() && judged.ignored);
        }
        // Nor is anybody punished for what it says itself.
        let said = said.into_iter().filter_map(|output| match output {
            Output::Broadcast(message) => Some(message),
            _ => None,
        });
        let mut said: Vec<_> = said.collect();
        said.dedup();
        messages.shuffle(&mut said);
        for place in messages.places() {
            let (mut replica, _) = messages.replica(0, place);
            for message in said.iter().take(60) {
                let outputs = messages.handle(&mut replica, Input::Message(message.clone()));
                assert_ne!(
                    verdict(&outputs),
                    Verdict::Reject,
                    "seed {seed}: {place:?}: {message:?}"
                );
            }
        }
    }
    let enough = forwarded > 200 && rejected > 200 && elsewhere_ignored > 200;
    assert!(
        enough,
        "{forwarded} forwarded, {rejected} rejected, {elsewhere_ignored} ignored by some"
    );
}

#[test]
fn a_next_committee_of_liars_leaves_a_bounded_residue() {
    let mut messages = Messages::new(3);
    messages.change.last = LAST;
    let me = messages.change.leaves;
    let mut replica = messages.change.replica(me);
    messages.begin(&mut replica, LAST, true);
    let height = Height::new(LAST + 1);
    let mut forwarded = 0;
    for i in 0..3_000_u64 {
        let keys = messages.keys.clone();
        let key = messages.pick(&keys);
        let (round, kind) = (u32::try_from(i % 6).unwrap(), messages.kind());
        let block = Some(BlockHash::new(Hash::of_symbol(&i.to_le_bytes())));
        let vote = Vote { height, round, kind, block, voter: key.public() };
        let mut all = vec![ConsensusMessage::Vote(vote.sign(&messages.change.world.chain, &key))];
        let mut header = messages.block_of(height.get()).header;
        (header.round, header.proposer) = (round, key.public());
        header.events_root = Hash::of_symbol(&i.to_le_bytes());
        let (parts_root, proposer) = (Hash::ZERO, key.public());
        let proposal = Proposal { round, pol_round: None, parts_root, parts: 1, proposer, header };
        let signed = proposal.sign(&messages.change.world.chain, &key);
        all.push(ConsensusMessage::Proposal(Box::new(signed)));
        let bytes = i.to_le_bytes().to_vec();
        let part = BodyPart { height, round, index: 0, path: Vec::new(), bytes };
        all.push(ConsensusMessage::Part(part));
        for message in all {
            let outputs = messages.handle(&mut replica, Input::Message(message));
            forwarded += usize::from(verdict(&outputs) == Verdict::Forward);
        }
    }
    // Eight votes of each of the five members of either committee, and a proposal of each turn.
    assert!(forwarded <= 5 * 8 + 2 * 4, "{forwarded}");
    assert!(replica.early.len() <= 5 * 8 + 5 + 64, "{}", replica.early.len());
}
