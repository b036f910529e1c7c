//! A network of replicas in one thread: virtual time, a seed, and everything that goes wrong.
//!
//! The ledger is a toy: a body is valid if its state root is zero. Every broadcast vote and every
//! commit is checked against all others, so a test only has to run the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::super::{
    Config, ConsensusMessage, Input, JournalEntry, Now, Output, Proposal, Replica, Start, Timeouts,
    Validity, Verdict, body::Cut,
};
use crate::{
    committee::Committee,
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsSignature, ChainId, KeyPair, Signature},
    ledger::{Block, BlockHash, Body, CommitRecord, Header, LatePrecommit, Timestamp},
    test_support,
    vote::{CommitCertificate, Equivocation, Vote, VoteKind},
};

/// The wall clock when the virtual time is 0.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

pub(crate) const TIMEOUTS: Timeouts = Timeouts::LAN;

/// Numbers that look random.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }
}

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Honest,
    /// Votes for nil too, and proposes two blocks.
    TwoFaced,
    /// Proposes blocks that nobody can execute.
    BadBuilder,
    /// Signs a header, then sends the parts of another body.
    BadParts,
}

/// What the network does to messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) delay_ms: (u64, u64),
    pub(crate) loss_per_mille: u64,
    pub(crate) duplicate_per_mille: u64,
    /// Chance that a node dies at an output.
    pub(crate) crash_per_mille: u64,
}

impl Weather {
    pub(crate) const FAIR: Self =
        Self { delay_ms: (1, 5), loss_per_mille: 0, duplicate_per_mille: 0, crash_per_mille: 0 };
}

#[derive(Clone, Debug)]
enum Event {
    Deliver(Box<ConsensusMessage>),
    Input(Box<Input>),
    Restart,
    PollSync,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: KeyPair,
    pub(crate) nature: Nature,
    pub(crate) replica: Option<Replica>,
    /// Counts lives: what was meant for an earlier one is lost.
    life: u32,
    pub(crate) journal: Vec<JournalEntry>,
    flushed: usize,
    pub(crate) chain: Vec<(Arc<Block>, CommitCertificate)>,
    pub(crate) committed_ms: Vec<u64>,
    pub(crate) equivocations: Vec<Equivocation>,
    pub(crate) clock_offset_ms: i64,
    pub(crate) abstain: bool,
    pub(crate) group: u8,
    pub(crate) rejected: u64,
    pub(crate) syncs: bool,
    pub(crate) synced: u64,
    pub(crate) executed: Vec<BlockHash>,
}

/// Whether a message from one replica to another arrives.
pub(crate) type Filter = Box<dyn FnMut(usize, usize, &ConsensusMessage) -> bool>;

/// A vote's place and what was voted there.
type Votes = BTreeMap<(usize, Height, u32, VoteKind), Option<BlockHash>>;

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) chain: ChainId,
    pub(crate) committee: Arc<Committee>,
    /// The committee that takes over, and its first height.
    pub(crate) successor: Option<(Height, Arc<Committee>)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) weather: Weather,
    pub(crate) now_ms: u64,
    events: BTreeMap<(u64, u64), (usize, u32, Event)>,
    events_made: u64,
    pub(crate) votes: Votes,
    pub(crate) proposed: BTreeMap<(usize, Height, u32), BlockHash>,
    pub(crate) decided: BTreeMap<Height, BlockHash>,
    /// Drops what it says true for: sender, receiver, message.
    pub(crate) filter: Filter,
    pub(crate) crashes: u64,
    pub(crate) pace_ms: u64,
    /// A node, and from what to what each message takes longer that it sends or receives.
    pub(crate) slow: Option<(usize, u64, u64)>,
    pub(crate) handled: u64,
}

impl World {
    pub(crate) fn new(seed: u64, n: usize) -> Self {
        let committee = Arc::new(test_support::committee(n, u16::try_from(n).unwrap()));
        Self::with(seed, committee)
    }

    pub(crate) fn with(seed: u64, committee: Arc<Committee>) -> Self {
        let n = committee.members().len();
        Self::of_nodes(seed, committee, n)
    }

    /// A world of `n` nodes, of which some may not be members.
    pub(crate) fn of_nodes(seed: u64, committee: Arc<Committee>, n: usize) -> Self {
        let mut keys: Vec<_> = test_support::node_keys(n).into_iter().map(|keys| keys.0).collect();
        keys.sort_by_key(KeyPair::public);
        let nodes = keys.into_iter().map(|key| Node {
            key,
            nature: Nature::Honest,
            replica: None,
            life: 0,
            journal: Vec::new(),
            flushed: 0,
            chain: Vec::new(),
            committed_ms: Vec::new(),
            equivocations: Vec::new(),
            clock_offset_ms: 0,
            abstain: false,
            group: 0,
            rejected: 0,
            syncs: true,
            synced: 0,
            executed: Vec::new(),
        });
        Self {
            seed,
            random: Random(seed),
            chain: ChainId::new(Hash::new([7; 32])),
            committee,
            successor: None,
            nodes: nodes.collect(),
            weather: Weather::FAIR,
            now_ms: 0,
            events: BTreeMap::new(),
            events_made: 0,
            votes: Votes::new(),
            proposed: BTreeMap::new(),
            decided: BTreeMap::new(),
            filter: Box::new(|_, _, _| false),
            crashes: 0,
            pace_ms: 10,
            slow: None,
            handled: 0,
        }
    }

    pub(crate) fn now(&self, node: usize) -> Now {
        let wall = EPOCH_MS + self.now_ms;
        let wall = wall.checked_add_signed(self.nodes[node].clock_offset_ms).unwrap();
        Now { monotonic: Duration::from_millis(self.now_ms), wall: Timestamp::from_ms(wall) }
    }

    /// Starts a node at the height after its chain, with what is left of its journal.
    pub(crate) fn boot(&mut self, i: usize) {
        let config = Config::new(self.chain, self.nodes[i].key.clone(), TIMEOUTS);
        self.nodes[i].replica = Some(Replica::new(config));
        self.schedule(self.now_ms + 100, i, Event::PollSync);
        self.start_height(i);
    }

    pub(crate) fn boot_all(&mut self) {
        for i in 0..self.nodes.len() {
            self.boot(i);
        }
    }

    fn start_height(&mut self, i: usize) {
        let height = self.next_height(i);
        let successor = self.successor.as_ref().filter(|(first, _)| *first > height);
        let start = Start {
            height,
            committee: Arc::clone(self.committee_at(height)),
            next: successor.map(|(_, next)| Arc::clone(next)),
            parent_time: self.parent_time(i),
            journal: self.nodes[i].journal.clone(),
            abstain: self.nodes[i].abstain,
        };
        self.input(i, Input::Start(start));
    }

    fn committee_at(&self, height: Height) -> &Arc<Committee> {
        let successor = self.successor.as_ref().filter(|(first, _)| *first <= height);
        successor.map_or(&self.committee, |(_, committee)| committee)
    }

    pub(crate) fn next_height(&self, i: usize) -> Height {
        Height::new(self.nodes[i].chain.len() as u64 + 1)
    }

    fn parent_time(&self, i: usize) -> Timestamp {
        self.nodes[i].chain.last().map_or(Timestamp::from_ms(0), |(block, _)| block.header.time)
    }

    pub(crate) fn crash(&mut self, i: usize, restart_ms: u64) {
        let node = &mut self.nodes[i];
        node.replica = None;
        node.life += 1;
        // Of what was written but not flushed, some may have reached the disk.
        let unflushed = (node.journal.len() - node.flushed) as u64;
        let kept = usize::try_from(self.random.below(unflushed + 1)).unwrap();
        let node = &mut self.nodes[i];
        node.journal.truncate(node.flushed + kept);
        node.flushed = node.journal.len();
        self.crashes += 1;
        self.schedule(self.now_ms + restart_ms, i, Event::Restart);
    }

    /// The node dies and its store is lost; it comes back at height 1.
    pub(crate) fn crash_without_journal(&mut self, i: usize) {
        self.nodes[i].journal.clear();
        self.nodes[i].flushed = 0;
        self.crash(i, 50);
    }

    fn schedule(&mut self, at_ms: u64, to: usize, event: Event) {
        self.events_made += 1;
        let life = self.nodes[to].life;
        self.events.insert((at_ms, self.events_made), (to, life, event));
    }

    /// A valid block of node `i`.
    pub(crate) fn build(&mut self, i: usize, height: Height, round: u32) -> Block {
        let node = &self.nodes[i];
        let parent = node.chain.last();
        // Fills the body so that it takes several parts.
        let filler = LatePrecommit {
            height,
            round,
            position: 0,
            signature: Signature::new([self.random.0.to_le_bytes()[0]; 64]),
        };
        let filler = vec![filler; usize::try_from(self.random.below(1_500)).unwrap()];
        let commit_record = CommitRecord {
            parent: parent.map(|(_, certificate)| certificate.clone()),
            late: filler,
        };
        let body = Body { commit_record, ..Body::default() };
        let time = self.now(i).wall.max(self.parent_time(i).plus_ms(1));
        let header = Header {
            height,
            round,
            time,
            parent: parent
                .map_or(BlockHash::genesis(&self.chain), |(block, _)| block.header.hash()),
            commit_record: body.commit_record.hash(),
            epoch: Epoch::new(0),
            proposer: node.key.public(),
            transactions_root: body.transactions_root(&self.chain),
            state_root: Hash::ZERO,
            events_root: Hash::new(self.random.next().to_le_bytes().repeat(4).try_into().unwrap()),
            beacon: Hash::ZERO,
            beacon_signature: BlsSignature::new([0; 96]),
            next_committee: Hash::ZERO,
        };
        Block { header, body }
    }

    fn validity(&self, i: usize, block: &Block) -> Validity {
        let parent = self.nodes[i].chain.last();
        let parent =
            parent.map_or(BlockHash::genesis(&self.chain), |(block, _)| block.header.hash());
        let is_valid = block.header.state_root == Hash::ZERO && block.header.parent == parent;
        if is_valid { Validity::Valid } else { Validity::Invalid }
    }

    /// The messages by which node `i` proposes `block` in `round`.
    pub(crate) fn proposal_messages(
        &self,
        i: usize,
        block: &Block,
        round: u32,
        pol_round: Option<u32>,
    ) -> Vec<ConsensusMessage> {
        let cut = Cut::new(&block.body).unwrap();
        let key = &self.nodes[i].key;
        let proposal = Proposal {
            round,
            pol_round,
            parts_root: cut.root(),
            parts: cut.parts(),
            proposer: key.public(),
            header: block.header,
        };
        let signed = Box::new(proposal.sign(&self.chain, key));
        let parts = cut.messages(&block.header, round).map(ConsensusMessage::Part);
        std::iter::once(ConsensusMessage::Proposal(signed)).chain(parts).collect()
    }

    pub(crate) fn vote(
        &self,
        i: usize,
        place: (u64, u32, VoteKind),
        block: Option<BlockHash>,
    ) -> ConsensusMessage {
        let (key, (height, round, kind)) = (&self.nodes[i].key, place);
        let vote = Vote { height: Height::new(height), round, kind, block, voter: key.public() };
        ConsensusMessage::Vote(vote.sign(&self.chain, key))
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, message: &ConsensusMessage) {
        let cut = self.nodes[from].group != self.nodes[to].group;
        if cut || (self.filter)(from, to, message) {
            return;
        }
        if self.random.per_mille(self.weather.loss_per_mille) {
            return;
        }
        let copies = 1 + u64::from(self.random.per_mille(self.weather.duplicate_per_mille));
        for _ in 0..copies {
            let (low, high) = self.weather.delay_ms;
            let at_ms = self.now_ms + low + self.random.below(high - low + 1);
            let at_ms = at_ms + self.delay_ms(from) + self.delay_ms(to);
            // Through the wire format, as in life.
            let message = ConsensusMessage::from_bytes(&message.to_bytes()).unwrap();
            self.schedule(at_ms, to, Event::Deliver(Box::new(message)));
        }
    }

    fn delay_ms(&mut self, i: usize) -> u64 {
        let Some((_, low, high)) = self.slow.filter(|(slow, ..)| *slow == i) else { return 0 };
        low + self.random.below(high - low + 1)
    }

    pub(crate) fn broadcast(&mut self, from: usize, message: &ConsensusMessage) {
        for to in 0..self.nodes.len() {
            if to != from {
                self.send(from, to, message);
            }
        }
    }

    /// Gives a node an input and acts on the outputs; the node may die on the way.
    pub(crate) fn input(&mut self, i: usize, input: Input) {
        let now = self.now(i);
        let Some(replica) = &mut self.nodes[i].replica else { return };
        self.handled += 1;
        let outputs = replica.handle(now, input);
        let outputs =
            outputs.unwrap_or_else(|fault| panic!("seed {}: node {i}: {fault}", self.seed));
        let mut committed = false;
        for output in outputs {
            if self.random.per_mille(self.weather.crash_per_mille) {
                let restart_ms = self.random.below(3_000);
                self.crash(i, restart_ms);
                return;
            }
            committed |= matches!(output, Output::Commit { .. });
            self.act(i, output);
        }
        if committed {
            let pace_ms = self.pace_ms;
            self.schedule(self.now_ms + pace_ms, i, Event::Restart);
        }
    }

    fn act(&mut self, i: usize, output: Output) {
        match output {
            Output::Journal(entry) => {
                assert!(!self.nodes[i].abstain, "seed {}: abstains", self.seed);
                let entry = JournalEntry::from_bytes(&entry.to_bytes()).unwrap();
                self.nodes[i].journal.push(entry);
            }
            Output::Flush => self.nodes[i].flushed = self.nodes[i].journal.len(),
            Output::Broadcast(message) => self.act_broadcast(i, &message),
            Output::Verdict(verdict) => {
                self.nodes[i].rejected += u64::from(verdict == Verdict::Reject);
            }
            Output::Propose { height, round } => self.act_propose(i, height, round),
            Output::Execute { block } => {
                let hash = block.header.hash();
                self.nodes[i].executed.push(hash);
                let validity = self.validity(i, &block);
                let input = Input::Executed { block: hash, validity };
                self.schedule(self.now_ms + 1, i, Event::Input(Box::new(input)));
            }
            Output::Commit { block, certificate, equivocations } => {
                self.act_commit(i, block, certificate, equivocations);
            }
            // Block sync asks now and then anyway.
            Output::NextHeight | Output::Missing { .. } => {}
        }
    }

    fn act_propose(&mut self, i: usize, height: Height, round: u32) {
        let mut block = self.build(i, height, round);
        match self.nodes[i].nature {
            Nature::Honest | Nature::BadParts => {}
            Nature::BadBuilder => block.header.state_root = Hash::new([1; 32]),
            Nature::TwoFaced => {
                let other = self.build(i, height, round);
                for message in self.proposal_messages(i, &other, round, None) {
                    for to in (0..self.nodes.len()).filter(|to| to % 2 == 0 && *to != i) {
                        self.send(i, to, &message);
                    }
                }
            }
        }
        let input = Input::Proposed { round, block: Box::new(block) };
        self.schedule(self.now_ms + 1, i, Event::Input(Box::new(input)));
    }

    fn act_broadcast(&mut self, i: usize, message: &ConsensusMessage) {
        let node = &self.nodes[i];
        let (seed, me) = (self.seed, node.key.public());
        match message {
            ConsensusMessage::Vote(signed) if signed.vote.voter == me => {
                assert!(!node.abstain, "seed {seed}: node {i} abstains and votes");
                let vote = signed.vote;
                let recorded = node.journal[..node.flushed].contains(&JournalEntry::Vote(*signed));
                assert!(recorded, "seed {seed}: node {i} sends a vote that is not durable");
                let has_body = |block: &BlockHash| {
                    node.journal[..node.flushed].iter().any(|entry| {
                        matches!(entry, JournalEntry::Block { block: kept, .. }
                            if kept.header.hash() == *block)
                    })
                };
                let at_hand = vote.block.as_ref().is_none_or(has_body);
                assert!(at_hand, "seed {seed}: node {i} votes for what it could lose");
                let place = (i, vote.height, vote.round, vote.kind);
                let voted = *self.votes.entry(place).or_insert(vote.block);
                assert_eq!(voted, vote.block, "seed {seed}: node {i} votes twice: {vote:?}");
                if node.nature == Nature::TwoFaced && vote.block.is_some() {
                    let place = (vote.height.get(), vote.round, vote.kind);
                    let nil = self.vote(i, place, None);
                    self.broadcast(i, &nil);
                }
            }
            ConsensusMessage::Proposal(signed) if signed.proposal.proposer == me => {
                let Proposal { round, header, .. } = signed.proposal;
                let place = (i, header.height, round);
                let proposed = *self.proposed.entry(place).or_insert(header.hash());
                assert_eq!(proposed, header.hash(), "seed {seed}: node {i} proposes twice");
                if node.nature == Nature::BadParts {
                    let mut other = self.build(i, header.height, round);
                    other.header = header;
                    for message in self.proposal_messages(i, &other, round, None) {
                        self.broadcast(i, &message);
                    }
                    return;
                }
            }
            _ => {}
        }
        self.broadcast(i, message);
    }

    fn act_commit(
        &mut self,
        i: usize,
        block: Arc<Block>,
        certificate: CommitCertificate,
        equivocations: Vec<Equivocation>,
    ) {
        let (seed, height) = (self.seed, block.header.height);
        assert_eq!(height, self.next_height(i), "seed {seed}: node {i} skips a height");
        certificate.verify(self.committee_at(height), &self.chain).unwrap();
        assert_eq!(certificate.block, block.header.hash(), "seed {seed}");
        let decided = *self.decided.entry(height).or_insert(certificate.block);
        assert_eq!(decided, certificate.block, "seed {seed}: two blocks at height {height}");
        for equivocation in equivocations {
            assert_eq!(equivocation.verify(&self.chain), Ok(()), "seed {seed}");
            let offender = self.committee.position(&equivocation.offender()).unwrap();
            let nature = self.nodes[offender].nature;
            assert_eq!(nature, Nature::TwoFaced, "seed {seed}: node {offender} is framed");
            self.nodes[i].equivocations.push(equivocation);
        }
        let now_ms = self.now_ms;
        let node = &mut self.nodes[i];
        node.chain.push((block, certificate));
        node.committed_ms.push(now_ms);
        // The commit is durable, so the journal may go.
        node.journal.clear();
        node.flushed = 0;
    }

    fn poll_sync(&mut self, i: usize) {
        self.schedule(self.now_ms + 300, i, Event::PollSync);
        let (tip, group) = (self.nodes[i].chain.len(), self.nodes[i].group);
        let mut ahead =
            self.nodes.iter().filter(|node| node.group == group && node.chain.len() > tip);
        let Some(peer) = ahead.next_back() else { return };
        let decided = self.nodes[i].replica.as_ref().is_none_or(Replica::is_decided);
        if decided || !self.nodes[i].syncs {
            return;
        }
        let (block, certificate) = peer.chain[tip].clone();
        self.nodes[i].synced += 1;
        self.input(i, Input::Synced { block: Box::new(Block::clone(&block)), certificate });
    }

    fn deadline_ms(&self, i: usize) -> Option<u64> {
        let deadline = self.nodes[i].replica.as_ref()?.next_deadline()?;
        Some(u64::try_from(deadline.as_millis()).unwrap())
    }

    /// Does the next thing that happens; false if that is after `until_ms`.
    fn step(&mut self, until_ms: u64) -> bool {
        let timer = (0..self.nodes.len()).filter_map(|i| Some((self.deadline_ms(i)?, i))).min();
        let event = self.events.first_key_value().map(|(key, _)| key.0);
        let timer_first = match (timer, event) {
            (None, None) => return false,
            (Some((timer, _)), event) => event.is_none_or(|event| timer < event),
            (None, Some(_)) => false,
        };
        let next_ms = if timer_first { timer.map(|timer| timer.0) } else { event };
        let Some(next_ms) = next_ms.filter(|next| *next <= until_ms) else { return false };
        self.now_ms = self.now_ms.max(next_ms);
        if let Some((_, i)) = timer.filter(|_| timer_first) {
            self.input(i, Input::Tick);
            return true;
        }
        let Some((_, (to, life, event))) = self.events.pop_first() else { return false };
        if life != self.nodes[to].life {
            return true;
        }
        match event {
            Event::Deliver(message) => self.input(to, Input::Message(*message)),
            Event::Input(input) => self.input(to, *input),
            Event::Restart if self.nodes[to].replica.is_none() => self.boot(to),
            Event::Restart => self.start_height(to),
            Event::PollSync => self.poll_sync(to),
        }
        true
    }

    /// Runs until `done`, which must be within `ms`.
    pub(crate) fn run_until(&mut self, ms: u64, what: &str, done: impl Fn(&Self) -> bool) {
        let until_ms = self.now_ms + ms;
        while !done(self) {
            let tips: Vec<_> = self.nodes.iter().map(|node| node.chain.len()).collect();
            assert!(self.step(until_ms), "seed {}: not in time: {what}; at {tips:?}", self.seed);
        }
    }

    /// Runs for `ms`, whatever happens.
    pub(crate) fn run(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.step(until_ms) {}
        self.now_ms = until_ms;
    }

    /// Whether all nodes have committed `height`.
    pub(crate) fn all_at(&self, height: usize) -> bool {
        self.nodes.iter().all(|node| node.chain.len() >= height)
    }

    /// The node whose turn it is.
    pub(crate) fn proposer(&self, height: u64, round: u32) -> usize {
        let height = Height::new(height);
        let node = super::super::proposer(&self.chain, height, round, self.committee_at(height));
        self.nodes.iter().position(|candidate| candidate.key.public() == node).unwrap()
    }

    /// Members that were reported by anybody.
    pub(crate) fn offenders(&self) -> BTreeSet<usize> {
        let reported = self.nodes.iter().flat_map(|node| &node.equivocations);
        let offenders = reported.map(Equivocation::offender);
        offenders.map(|offender| self.committee.position(&offender).unwrap()).collect()
    }
}
