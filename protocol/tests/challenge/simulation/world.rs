//! Seven members, a ledger and the links between them, in one thread with a clock of its own. Blocks
//! come every half second and open, certify and close rounds as the ledger's rules say, so that some
//! rounds are always open at a time.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use floe_protocol::{
    challenge::{
        ChallengeCertificate, ChallengeFact, Commitment, Failure, Ignored, RoundInput, RoundOutput,
        RoundOutputs, Rounds, Sight, TranscriptError, Universe, Walk,
    },
    committee::CommitteeFact,
    hash::Hash,
    index::{ChallengeRound, Height},
    keys::BlsSignature,
    ledger::Header,
};

use super::{
    CONFIG, NETWORK, NODES, ROUNDS, RULES,
    faults::{Kind, Nature, Plan, Random},
    records::{Oracle, Record},
};
use crate::{OPENED, header};

#[derive(Debug)]
enum Event {
    /// The next block is made; this happens to nobody in particular.
    Make,
    /// A block is committed.
    Block {
        index: usize,
        by_sync: bool,
    },
    Tick,
    Heard(Commitment),
    /// Something happens to a round.
    Told(ChallengeRound, RoundInput),
}

struct Block {
    header: Header,
    made_ms: u64,
    opened: Option<Arc<Universe>>,
    certified: Vec<(ChallengeRound, usize)>,
    closed: Vec<ChallengeRound>,
}

/// An epoch.
pub(super) struct World {
    random: Random,
    pub(super) plan: Plan,
    pub(super) oracle: Oracle,
    members: Vec<Rounds>,
    queue: BTreeMap<(u64, u64), (usize, Event)>,
    sequence: u64,
    now_ms: u64,
    blocks: Vec<Block>,
    /// When each node commits the last block.
    last_ms: [u64; NODES],
    last_opened_ms: u64,
    /// Certificates that are announced: when, and to whose mempool.
    mempools: [Vec<(u64, ChallengeRound, usize)>; NODES],
    pub(super) records: BTreeMap<ChallengeRound, Record>,
    /// Judging is pure, so members with the same transcript need not all do it.
    verdicts: BTreeMap<(Hash, Bytes), Result<(), TranscriptError>>,
    /// How many requests hang.
    pub(super) hung: u64,
    /// How many chains were not read, as the round was over for their node.
    pub(super) over: u64,
    /// What was ignored, by kind.
    pub(super) ignored: BTreeMap<String, u64>,
}

impl World {
    pub(super) fn new(seed: u64, oracle: Oracle) -> Self {
        let mut random = Random(seed.wrapping_mul(1_000_003));
        let plan = Plan::new(seed, &mut random);
        let members = plan.clocks_ms.iter().enumerate().map(|(at, clock_ms)| {
            let began = (*clock_ms, Height::new(0));
            Rounds::new(CONFIG, NETWORK.node(at), RULES.window_ms, began)
        });
        Self {
            members: members.collect(),
            random,
            plan,
            oracle,
            queue: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            blocks: Vec::new(),
            last_ms: [0; NODES],
            last_opened_ms: 0,
            mempools: Default::default(),
            records: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            hung: 0,
            over: 0,
            ignored: BTreeMap::new(),
        }
    }

    pub(super) fn run(&mut self) {
        (0..NODES).for_each(|at| self.push(0, at, Event::Tick));
        self.push(500, 0, Event::Make);
        while let Some(((at_ms, _), (at, event))) = self.queue.pop_first() {
            self.now_ms = at_ms;
            if matches!(event, Event::Make) {
                if self.make_block() {
                    let next_ms = at_ms + 400 + self.random.below(200);
                    self.push(next_ms, 0, Event::Make);
                } else {
                    return;
                }
            } else if self.plan.natures[at] != Nature::Stopped {
                self.handle(at, event);
            }
        }
    }

    fn push(&mut self, at_ms: u64, to: usize, event: Event) {
        self.sequence += 1;
        // Who stands still gets everything when it goes on.
        let at_ms = match self.plan.trouble(to, at_ms) {
            Some(trouble) if trouble.kind == Kind::Still && !matches!(event, Event::Make) => {
                trouble.to_ms
            }
            _ => at_ms,
        };
        self.queue.insert((at_ms, self.sequence), (to, event));
    }

    fn tell(&mut self, at_ms: u64, to: usize, round: ChallengeRound, input: RoundInput) {
        self.push(at_ms, to, Event::Told(round, input));
    }

    /// What a node sends to another.
    fn send(&mut self, (from, to): (usize, usize), round: ChallengeRound, input: RoundInput) {
        if let Some(at_ms) = self.plan.travel(&mut self.random, (from, to), self.now_ms) {
            self.tell(at_ms, to, round, input);
        }
    }

    /// By a node's own clock.
    fn local(&self, at: usize, at_ms: u64) -> u64 {
        self.plan.clocks_ms[at] + at_ms
    }

    /// Makes a block, unless the epoch is over and all rounds are closed.
    fn make_block(&mut self) -> bool {
        let height = Height::new(self.blocks.len() as u64 + 1);
        let time = OPENED.plus_ms(self.now_ms);
        let at_work = |at: &usize| {
            let (nature, trouble) = (self.plan.natures[*at], self.plan.trouble(*at, self.now_ms));
            nature != Nature::Stopped && trouble.is_none()
        };
        let able: Vec<_> = (0..NODES).filter(at_work).collect();
        let draw = usize::try_from(self.random.below(NODES as u64)).unwrap();
        let proposer = able.get(draw % able.len().max(1)).copied().unwrap_or(draw);
        let mut header = header(height.get(), NETWORK.node(proposer), 0);
        header.beacon = Hash::of_symbol(format!("{} {height}", self.plan.seed).as_bytes());

        let mut closed = Vec::new();
        let open = self.records.values_mut().filter(|record| record.closed.is_none());
        for record in open {
            record.ledger.began(time);
            let (round, since) = (record.ledger.round, record.ledger.since);
            if RULES.closes((round, since), (height, time)) {
                record.ledger.close(&record.universe.committee);
                record.closed = Some((self.now_ms, record.ledger.outcomes.clone()));
                closed.push(round);
            }
        }
        let mut certified = Vec::new();
        let (now_ms, records) = (self.now_ms, &mut self.records);
        self.mempools[proposer].retain(|(at_ms, round, at)| {
            if *at_ms > now_ms {
                return true;
            }
            let record = records.get_mut(round).filter(|record| record.closed.is_none());
            if record.is_some_and(|record| record.ledger.pass(*at).is_ok()) {
                certified.push((*round, *at));
            }
            false
        });
        // Where all have passed, nothing can change any more.
        let open = self.records.values_mut().filter(|record| record.closed.is_none());
        for record in open.filter(|record| record.ledger.is_complete()) {
            record.closed = Some((self.now_ms, record.ledger.outcomes.clone()));
            closed.push(record.ledger.round);
        }
        let is_due = self.now_ms - self.last_opened_ms >= RULES.interval_ms;
        let opened = (is_due && self.records.len() < ROUNDS).then(|| {
            self.last_opened_ms = self.now_ms;
            let round = ChallengeRound::new(height.get());
            Arc::new(Universe { round, opened: time, ..(*NETWORK.universe).clone() })
        });
        for record in self.records.values_mut() {
            record.made(&header);
        }
        if let Some(universe) = &opened {
            let record = Record::new(Arc::clone(universe), self.now_ms);
            self.records.insert(universe.round, record);
        }
        let is_over = self.records.len() == ROUNDS
            && self.records.values().all(|record| record.closed.is_some());
        self.blocks.push(Block { header, made_ms: self.now_ms, opened, certified, closed });
        (0..NODES).for_each(|at| self.deliver(at, proposer));
        !is_over
    }

    /// The last block makes its way to a node.
    fn deliver(&mut self, at: usize, proposer: usize) {
        let spread_ms = 5 + self.random.below(75) + self.plan.delay_ms(at, proposer);
        let (late_ms, by_sync) = match self.plan.trouble(at, self.now_ms) {
            Some(trouble) if trouble.kind == Kind::Cut => {
                (trouble.to_ms - self.now_ms + self.random.below(500), true)
            }
            Some(trouble) => match trouble.kind {
                Kind::Synced => (self.random.below(2_000), true),
                Kind::Behind(late_ms) => (late_ms, false),
                Kind::Still | Kind::Cut => (0, false),
            },
            None => (0, false),
        };
        let at_ms = (self.now_ms + spread_ms + late_ms).max(self.last_ms[at]);
        self.last_ms[at] = at_ms;
        self.push(at_ms, at, Event::Block { index: self.blocks.len() - 1, by_sync });
    }

    fn handle(&mut self, at: usize, event: Event) {
        let now_ms = self.local(at, self.now_ms);
        let member = &mut self.members[at];
        let outputs = match event {
            Event::Make => return,
            Event::Block { index, by_sync } => return self.commit(at, index, by_sync),
            Event::Tick => {
                let outputs = member.tick(now_ms);
                let next_ms = member.wake_at_ms().max(now_ms + 1) - self.plan.clocks_ms[at];
                self.push(next_ms, at, Event::Tick);
                outputs
            }
            Event::Heard(commitment) => {
                if let Some(record) = self.records.get_mut(&commitment.round) {
                    let of = record.universe.committee.position(&commitment.node).unwrap();
                    record.heard(of, at, self.now_ms, commitment.end);
                    self.lie(at, of, commitment.round);
                }
                let (member, committee) = (&mut self.members[at], &NETWORK.universe.committee);
                if member.wants(committee, &commitment) {
                    member.commitment((now_ms, now_ms), committee, commitment)
                } else {
                    Vec::new()
                }
            }
            Event::Told(round, input) => {
                let is_wanted = matches!(input, RoundInput::Wanted { .. });
                if is_wanted && self.plan.natures[at] == Nature::Hangs {
                    self.hung += 1;
                    return;
                }
                member.handle(now_ms, round, input)
            }
        };
        self.perform(at, outputs);
    }

    fn commit(&mut self, at: usize, index: usize, by_sync: bool) {
        let now_ms = self.local(at, self.now_ms);
        let block = &self.blocks[index];
        // That others are further shows a little after the next block was made, to who listens.
        let next = self.blocks.get(index + 1).map(|next| {
            let at_ms = next.made_ms + 60;
            let still = self.plan.trouble(at, at_ms).filter(|it| it.kind == Kind::Still);
            still.map_or(at_ms, |trouble| trouble.to_ms)
        });
        // Who is cut off then hears of later blocks first.
        let is_cut = |at_ms: &u64| {
            self.plan.trouble(at, *at_ms).is_some_and(|trouble| trouble.kind == Kind::Cut)
        };
        let later_ms = next.filter(|at_ms| *at_ms < self.now_ms && !(by_sync && is_cut(at_ms)));
        let recent_ms = self.now_ms.saturating_sub(RULES.window_ms);
        let is_recent = |at_ms| at_ms >= recent_ms;
        let tells = later_ms.map_or(!by_sync, is_recent)
            && !self.plan.went_on(at, (recent_ms, self.now_ms));
        for record in self.records.values_mut() {
            record.block_came(block.header.height, at, (self.now_ms, tells));
        }
        let later_certified_ms = later_ms.map(|at_ms| self.local(at, at_ms));
        let later = &self.blocks[index + 1..];
        let behind = later.iter().take_while(|later| later.made_ms + 60 < self.now_ms).count();
        let behind_heights = u64::try_from(behind).unwrap();
        let sight = Sight { by_sync, later_certified_ms, behind_heights };
        let (header, opened) = (block.header, block.opened.clone());
        let (certified, closed) = (block.certified.clone(), block.closed.clone());
        let outputs = self.members[at].committed(now_ms, &header, sight, opened);
        let is_over = behind_heights >= CONFIG.over_heights;
        let walks = outputs.iter().any(|(_, output)| matches!(output, RoundOutput::Walk(_)));
        assert!(!(walks && is_over), "seed {}, node {at}, {header:?}", self.plan.seed);
        self.perform(at, outputs);
        for (round, of) in certified {
            let input = RoundInput::Certified { node: NETWORK.node(of) };
            let outputs = self.members[at].handle(now_ms, round, input);
            self.perform(at, outputs);
        }
        for round in closed {
            let closed = self.members[at].close(round);
            assert!(closed.is_some(), "node {at} knows round {round}");
        }
        if self.plan.natures[at] == Nature::Empty {
            self.boast(at, header.height);
        }
    }

    fn perform(&mut self, at: usize, outputs: RoundOutputs) {
        let soon_ms = self.now_ms + 2;
        for (round, output) in outputs {
            match output {
                RoundOutput::Walk(walk) => self.walk(at, round, *walk),
                RoundOutput::Commit(commitment) => {
                    self.records.get_mut(&round).unwrap().committed[at] = Some(commitment.end);
                    self.say(at, commitment);
                    if self.plan.natures[at] == Nature::Doubles {
                        self.say(at, Commitment { end: Hash::ZERO, ..commitment });
                    }
                }
                RoundOutput::Answer { member, transcript } => {
                    let (to, node) = (position(&member), NETWORK.node(at));
                    let transcript = transcript.and_then(|transcript| self.corrupt(at, transcript));
                    self.send((at, to), round, RoundInput::Transcript { node, transcript });
                }
                RoundOutput::Ask { node, .. } => {
                    let (of, member) = (position(&node), NETWORK.node(at));
                    self.send((at, of), round, RoundInput::Wanted { member });
                }
                RoundOutput::Verify(verification) => {
                    let node = *verification.challenge.node();
                    let key = (verification.end, verification.transcript.clone());
                    let verdict = self.verdicts.entry(key);
                    let verdict = *verdict.or_insert_with(|| verification.run(&BTreeSet::new()));
                    self.tell(soon_ms, at, round, RoundInput::Judged { node, verdict });
                }
                RoundOutput::Join(joining) => {
                    let joined = RoundInput::Joined(Box::new(joining.run()));
                    self.tell(soon_ms, at, round, joined);
                }
                RoundOutput::Acknowledge(fact) => self.acknowledge(at, round, &fact),
                RoundOutput::Submit(certificate) => {
                    let record = self.records.get_mut(&round).unwrap();
                    record.check_submitted(at, &certificate, &self.plan);
                    self.announce(at, round);
                }
                RoundOutput::GaveUp(failure) => {
                    self.over += u64::from(failure == Failure::Over);
                    self.records.get_mut(&round).unwrap().failed[at] = true;
                }
                RoundOutput::Ignored { reason, .. } => self.note(at, reason),
            }
        }
    }

    /// Who proposes a block hands in what is in its own mempool: a node's own certificate, and those
    /// of which an announcement came. Any may be lost, to all or to some: who has it once does not
    /// pass on what is announced again.
    fn announce(&mut self, at: usize, round: ChallengeRound) {
        self.mempools[at].push((self.now_ms, round, at));
        if self.random.per_mille(300) {
            return;
        }
        for to in (0..NODES).filter(|to| *to != at) {
            let comes_ms = self.plan.travel(&mut self.random, (at, to), self.now_ms);
            let comes_ms = comes_ms.filter(|_| !self.random.per_mille(300));
            self.mempools[to].extend(comes_ms.map(|at_ms| (at_ms, round, at)));
        }
    }

    /// Counts what fair members ignored.
    fn note(&mut self, at: usize, reason: Ignored) {
        if self.plan.natures[at].is_fair() {
            let name = match reason {
                Ignored::Silent(silence) => format!("{silence:?}"),
                _ => format!("{reason:?}"),
            };
            let name = name.split([' ', '{', '(']).next().unwrap_or_default();
            *self.ignored.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// A node reads its disk, or fetches, one step after the other.
    fn walk(&mut self, at: usize, round: ChallengeRound, walk: Walk) {
        let Self { plan, random, oracle, .. } = self;
        let mut took_ms = 0;
        let walked = walk.run(|place| {
            let (more_ms, is_there) = match plan.natures[at] {
                Nature::Fetches(round_trip_ms) => (round_trip_ms, true),
                _ => (random.below(15), plan.holds(at, place)),
            };
            took_ms += more_ms;
            is_there.then(|| oracle.read(place))
        });
        self.tell(self.now_ms + took_ms, at, round, RoundInput::Walked(walked));
    }

    /// Gossip: who is not reached directly hears it from others, a hop later.
    fn say(&mut self, at: usize, commitment: Commitment) {
        let (plan, random) = (&self.plan, &mut self.random);
        let mut heard = Vec::new();
        for to in (0..NODES).filter(|to| *to != at) {
            let mut first_ms = plan.travel(random, (at, to), self.now_ms);
            for by in (0..NODES).filter(|by| *by != at && *by != to) {
                let passes_on = plan.natures[by].is_fair();
                let by_ms = plan.travel(random, (at, by), self.now_ms).filter(|_| passes_on);
                let then_ms = by_ms.and_then(|by_ms| plan.travel(random, (by, to), by_ms));
                first_ms = [first_ms, then_ms].into_iter().flatten().min();
            }
            heard.extend(first_ms.map(|at_ms| (at_ms, to)));
        }
        for (at_ms, to) in heard {
            self.push(at_ms, to, Event::Heard(commitment));
        }
    }
}

fn position(node: &floe_protocol::keys::NodeId) -> usize {
    NETWORK.universe.committee.position(node).unwrap()
}
