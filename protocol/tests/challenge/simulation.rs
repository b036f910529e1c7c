//! Whole epochs of rounds at all members, in one thread with a clock of its own: nodes that drop,
//! stop, lie and fill in for each other, links that lose and delay, members that are cut off, stand
//! still or lag. No honest node is slashed, none gets a round that it did not pass.
//!
//! `FLOE_SEEDS=1000` runs as many epochs; a failure names its seed, `FLOE_SEED=n` runs that one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use floe_protocol::{
    challenge::{
        ChallengeFact, Commitment, OpenRound, Outcome, Place, RoundConfig, RoundInput, RoundOutput,
        RoundOutputs, Rounds, Score, Sight, Universe,
    },
    committee::CommitteeFact,
    hash::Hash,
    index::{ChallengeRound, Height},
    keys::BlsSignature,
};

use crate::{Network, header};

const NODES: usize = 7;
/// f is 3, and nobody has more than 3 shards.
const SHARDS: u16 = 10;
const ROUNDS: u64 = 25;
const CUT_PER_NODE_MAX: u64 = ROUNDS * 2 / 5;
const WINDOW_MS: u64 = 1_000;
const ANSWER_TIMEOUT_MS: u64 = 1_500;

static NETWORK: LazyLock<Network> =
    LazyLock::new(|| Network::new(NODES, SHARDS, &[60_000, 1_000, 9, 200_000]));

/// Something of each two nodes.
type Links = [[u64; NODES]; NODES];

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        let hash = Hash::of_symbol(&self.0.to_le_bytes());
        let (word, _) = hash.as_bytes().split_first_chunk::<8>().unwrap();
        u64::from_le_bytes(*word)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }
}

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Honest,
    /// Lacks so many of a thousand symbols.
    Dropped(u64),
    /// Has dropped everything and fetches what it is asked for, each time in so many milliseconds.
    Fetches(u64),
    /// Does nothing.
    Stopped,
    /// Holds everything, but changes a byte of its transcripts and acknowledges nobody.
    Liar,
    /// Holds nothing, commits itself to something, and its like acknowledge it.
    Empty,
}

/// What keeps an honest member out of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing comes or goes.
    Cut,
    /// It stands still for three seconds somewhere around the opening.
    Still { from_ms: u64 },
    /// It gets the block by sync, late.
    Synced,
}

#[derive(Debug)]
enum Event {
    Commit,
    Tick,
    Heard(Commitment),
    Wanted {
        member: usize,
    },
    Answered {
        of: usize,
        transcript: Option<Bytes>,
    },
    Acknowledged {
        member: usize,
        signature: BlsSignature,
    },
    Certified {
        of: usize,
    },
    /// The round gets what it asked for.
    Told(RoundInput),
}

/// One round.
struct World<'a> {
    random: &'a mut Random,
    natures: &'a [Nature],
    troubles: Vec<Option<Trouble>>,
    delays_ms: &'a Links,
    loss_per_mille: &'a Links,
    universe: Arc<Universe>,
    proposer: usize,
    members: Vec<Rounds>,
    queue: BTreeMap<(u64, u64), (usize, Event)>,
    sequence: u64,
    now_ms: u64,
    ledger: OpenRound,
    /// Whose commitment did not come to everybody as soon as half of the window was over.
    unlucky: Vec<bool>,
    /// For who has to find out why a seed failed.
    log: Vec<String>,
}

impl World<'_> {
    fn push(&mut self, at_ms: u64, to: usize, event: Event) {
        self.sequence += 1;
        // Who stands still gets everything when it goes on.
        let at_ms = match self.troubles[to] {
            Some(Trouble::Still { from_ms }) if (from_ms..from_ms + 3_000).contains(&at_ms) => {
                from_ms + 3_000
            }
            _ => at_ms,
        };
        self.queue.insert((at_ms, self.sequence), (to, event));
    }

    /// When a message between two nodes arrives, unless one is cut off. What the link loses is sent
    /// again, each time later.
    fn travel(&mut self, from: usize, to: usize) -> Option<u64> {
        let is_cut = |at: usize| self.troubles[at] == Some(Trouble::Cut);
        if is_cut(from) || is_cut(to) {
            return None;
        }
        let loss = between(self.loss_per_mille, from, to);
        let mut at_ms = self.now_ms + between(self.delays_ms, from, to) + self.random.below(20);
        let mut again_ms = 250;
        while self.random.per_mille(loss) {
            at_ms += again_ms;
            again_ms *= 2;
        }
        Some(at_ms)
    }

    fn run(&mut self) {
        for at in 0..NODES {
            let jitter = self.random.below(80);
            let late = if self.troubles[at] == Some(Trouble::Synced) { 2_500 } else { 0 };
            self.push(3_000 + jitter + late, at, Event::Commit);
            self.push(0, at, Event::Tick);
        }
        while let Some(((at_ms, _), (at, event))) = self.queue.pop_first() {
            if at_ms > 33_000 {
                break;
            }
            self.now_ms = at_ms;
            if self.natures[at] != Nature::Stopped {
                self.handle(at, event);
            }
        }
    }

    fn handle(&mut self, at: usize, event: Event) {
        let (round, now_ms) = (self.universe.round, self.now_ms);
        let members = &mut self.members;
        let node = |of: usize| NETWORK.node(of);
        let outputs = match event {
            Event::Commit => return self.commit(at),
            Event::Tick => {
                let outputs = members[at].tick(now_ms);
                let next_ms = members[at].wake_at_ms().max(now_ms + 1);
                self.push(next_ms, at, Event::Tick);
                outputs
            }
            Event::Heard(commitment) => {
                members[at].commitment(now_ms, &self.universe.committee, commitment)
            }
            Event::Wanted { member } => {
                members[at].handle(now_ms, round, RoundInput::Wanted { member: node(member) })
            }
            Event::Answered { of, transcript } => {
                let input = RoundInput::Transcript { node: node(of), transcript };
                members[at].handle(now_ms, round, input)
            }
            Event::Acknowledged { member, signature } => {
                let input = RoundInput::Acknowledged { member: node(member), signature };
                members[at].handle(now_ms, round, input)
            }
            Event::Certified { of } => {
                members[at].handle(now_ms, round, RoundInput::Certified { node: node(of) })
            }
            Event::Told(input) => members[at].handle(now_ms, round, input),
        };
        self.perform(at, outputs);
    }

    /// The opening block is committed, and a while later two more, of others.
    fn commit(&mut self, at: usize) {
        let by_sync = self.troubles[at] == Some(Trouble::Synced);
        let height = self.universe.round.get();
        let sight = Sight { by_sync, ..Sight::default() };
        for further in 0..3 {
            let proposer = NETWORK.node((self.proposer + further) % NODES);
            let beacon = u8::try_from((height + further as u64) % 251).unwrap();
            let header = header(height + further as u64, proposer, beacon);
            let opened = (further == 0).then(|| Arc::clone(&self.universe));
            let outputs = self.members[at].committed(self.now_ms, &header, sight, opened);
            self.perform(at, outputs);
        }
        if self.natures[at] == Nature::Empty {
            let (round, node) = (self.universe.round, NETWORK.node(at));
            self.say(at, Commitment { round, node, end: Hash::ZERO });
            // Its friends acknowledge it unseen.
            let fact = ChallengeFact::new(&self.universe, node, Hash::ZERO);
            for friend in (0..NODES).filter(|friend| self.natures[*friend] == Nature::Empty) {
                let signature = fact.sign(NETWORK.chain(), NETWORK.bls(friend));
                self.push(self.now_ms + 50, at, Event::Acknowledged { member: friend, signature });
            }
        }
    }

    fn perform(&mut self, at: usize, outputs: RoundOutputs) {
        for (_, output) in outputs {
            match output {
                RoundOutput::Read { step, place } => {
                    let proof = self.read(at, &place);
                    let took_ms = match self.natures[at] {
                        Nature::Fetches(round_trip_ms) => round_trip_ms,
                        _ => self.random.below(15),
                    };
                    let read = Event::Told(RoundInput::Read { step, proof });
                    self.push(self.now_ms + took_ms, at, read);
                }
                RoundOutput::Commit(commitment) => self.say(at, commitment),
                RoundOutput::Answer { member, transcript } => {
                    let to = self.universe.committee.position(&member).unwrap();
                    let transcript = transcript.map(|transcript| self.corrupted(at, &transcript));
                    if let Some(at_ms) = self.travel(at, to) {
                        self.push(at_ms, to, Event::Answered { of: at, transcript });
                    }
                }
                RoundOutput::Ask { node } => {
                    let of = self.universe.committee.position(&node).unwrap();
                    if let Some(at_ms) = self.travel(at, of) {
                        self.push(at_ms, of, Event::Wanted { member: at });
                    }
                    let timeout = Event::Told(RoundInput::NoAnswer { node });
                    self.push(self.now_ms + ANSWER_TIMEOUT_MS, at, timeout);
                }
                RoundOutput::Verify(verification) => {
                    let (node, verdict) =
                        (*verification.challenge.node(), verification.run(&BTreeSet::new()));
                    self.push(
                        self.now_ms + 1,
                        at,
                        Event::Told(RoundInput::Judged { node, verdict }),
                    );
                }
                RoundOutput::Join(joining) => {
                    let joined = RoundInput::Joined(Box::new(joining.run()));
                    self.push(self.now_ms + 2, at, Event::Told(joined));
                }
                RoundOutput::Acknowledge(fact) => self.acknowledge(at, &fact),
                RoundOutput::Submit(certificate) => {
                    let (committee, chain) = (&self.universe.committee, NETWORK.chain());
                    assert_eq!(certificate.verify(committee, chain), Ok(()));
                    assert_eq!(certificate.fact().node, NETWORK.node(at));
                    // Gossip and the mempools of all bring it into a block.
                    if self.troubles[at] != Some(Trouble::Cut) {
                        let _again = self.ledger.pass(at);
                        for to in 0..NODES {
                            self.push(self.now_ms + 150, to, Event::Certified { of: at });
                        }
                    }
                }
                RoundOutput::GaveUp(failure) => {
                    self.log.push(format!("{}: {at} gave up: {failure}", self.now_ms));
                }
                RoundOutput::Ignored { node, reason } => {
                    let of = self.universe.committee.position(&node).unwrap();
                    self.log.push(format!("{}: {at} of {of}: {reason}", self.now_ms));
                }
            }
        }
    }

    /// What is at a place of this node's disk.
    fn read(&self, at: usize, place: &Place) -> Option<floe_protocol::challenge::StepProof> {
        let lacks = match self.natures[at] {
            Nature::Dropped(per_mille) => {
                let name =
                    format!("{} {} {:?} {}", place.blob, place.pair, place.axis, place.symbol);
                let hash = Hash::of_symbol(name.as_bytes());
                let (word, _) = hash.as_bytes().split_first_chunk::<4>().unwrap();
                u64::from(u32::from_le_bytes(*word)) % 1_000 < per_mille
            }
            Nature::Empty => true,
            Nature::Honest | Nature::Fetches(_) | Nature::Liar | Nature::Stopped => false,
        };
        (!lacks).then(|| NETWORK.read(place).unwrap())
    }

    /// Gossip: who is not reached directly hears it from others, a hop later.
    fn say(&mut self, at: usize, commitment: Commitment) {
        for to in (0..NODES).filter(|to| *to != at) {
            let direct = self.travel(at, to);
            let passes_on =
                |by: &usize| *by != at && *by != to && self.natures[*by] != Nature::Stopped;
            let others: Vec<_> = (0..NODES).filter(passes_on).collect();
            let by_others = others.into_iter().filter_map(|by| {
                let first = self.travel(at, by)?;
                Some(first + self.travel(by, to)?.saturating_sub(self.now_ms))
            });
            if let Some(at_ms) = by_others.chain(direct).min() {
                self.push(at_ms, to, Event::Heard(commitment));
                self.unlucky[at] |= at_ms > self.now_ms + WINDOW_MS / 2;
            }
        }
    }

    fn corrupted(&mut self, at: usize, transcript: &Bytes) -> Bytes {
        if self.natures[at] != Nature::Liar {
            return transcript.clone();
        }
        let mut bytes = transcript.to_vec();
        let place = self.random.below(bytes.len() as u64);
        bytes[usize::try_from(place).unwrap()] ^= 1 << self.random.below(8);
        bytes.into()
    }

    fn acknowledge(&mut self, at: usize, fact: &ChallengeFact) {
        if matches!(self.natures[at], Nature::Liar | Nature::Empty) {
            return;
        }
        let of = self.universe.committee.position(&fact.node).unwrap();
        let signature = fact.sign(NETWORK.chain(), NETWORK.bls(at));
        if let Some(at_ms) = self.travel(at, of) {
            self.push(at_ms, of, Event::Acknowledged { member: at, signature });
        }
    }
}

/// Whether each that is neither faulty nor in trouble has more than f shards of its like beside it.
fn is_bearable(natures: &[Nature], troubles: &[Option<Trouble>]) -> bool {
    let committee = &NETWORK.universe.committee;
    let fit = |at: &usize| natures[*at] == Nature::Honest && troubles[*at].is_none();
    let weight: u16 = (0..NODES).filter(fit).map(|at| committee.members()[at].weight()).sum();
    let of = |at: usize| committee.members()[at].weight();
    (0..NODES).filter(fit).all(|at| committee.is_validity(weight - of(at)))
}

fn natures(random: &mut Random) -> Vec<Nature> {
    let committee = &NETWORK.universe.committee;
    let mut natures = vec![Nature::Honest; NODES];
    let mut weight = 0;
    for _ in 0..4 {
        let at = usize::try_from(random.below(NODES as u64)).unwrap();
        let more = committee.members()[at].weight();
        if natures[at] == Nature::Honest && weight + more <= committee.config().max_faulty() {
            weight += more;
            natures[at] = match random.below(7) {
                0 => Nature::Dropped(30),
                1 => Nature::Dropped(300),
                2 => Nature::Stopped,
                3 => Nature::Liar,
                4 => Nature::Fetches(30),
                5 => Nature::Fetches(100),
                _ => Nature::Empty,
            };
        }
    }
    natures
}

/// A number below `most` for each two nodes: [`between`].
fn links(random: &mut Random, most: u64) -> Links {
    std::array::from_fn(|_| std::array::from_fn(|_| random.below(most)))
}

fn between(links: &Links, a: usize, b: usize) -> u64 {
    links[a.max(b)][a.min(b)]
}

/// The score of each member after an epoch, and how many rounds trouble took from it.
fn epoch(seed: u64) -> (Vec<Nature>, Vec<Score>, Vec<u64>) {
    let mut random = Random(seed.wrapping_mul(1_000_003));
    let natures = natures(&mut random);
    let (most_ms, most_lost) = (1 + random.below(120), 1 + random.below(2) * 300);
    let (delays_ms, loss) = (links(&mut random, most_ms), links(&mut random, most_lost));
    let troubled = random.below(500);
    let (mut scores, mut troubles) = (vec![Score::default(); NODES], vec![0; NODES]);
    for number in 0..ROUNDS {
        let mut universe = (*NETWORK.universe).clone();
        universe.round = ChallengeRound::new(100 * (seed + 1) + 10 * number);
        let now: Vec<_> = (0..NODES).map(|_| random.below(1_000)).collect();
        let mut these = vec![None; NODES];
        for at in 0..NODES {
            if now[at] >= troubled || troubles[at] >= CUT_PER_NODE_MAX {
                continue;
            }
            these[at] = Some(match random.below(3) {
                0 => Trouble::Cut,
                1 => Trouble::Still { from_ms: 500 + random.below(4_000) },
                _ => Trouble::Synced,
            });
            if natures[at] == Nature::Honest && !is_bearable(&natures, &these) {
                these[at] = None;
            }
            troubles[at] += u64::from(these[at].is_some());
        }
        let universe = Arc::new(universe);
        let tip = Height::new(universe.round.get() - 1);
        let rounds =
            |at| Rounds::new(RoundConfig::default(), NETWORK.node(at), WINDOW_MS, (0, tip));
        let proposer = usize::try_from(random.below(NODES as u64)).unwrap();
        let mut world = World {
            natures: &natures,
            troubles: these,
            delays_ms: &delays_ms,
            loss_per_mille: &loss,
            ledger: OpenRound::new(&universe),
            universe,
            proposer,
            members: (0..NODES).map(rounds).collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            random: &mut random,
            unlucky: vec![false; NODES],
            log: Vec::new(),
        };
        world.run();
        let outcomes = world.ledger.close(&NETWORK.universe.committee);
        for (at, outcome) in outcomes.into_iter().enumerate() {
            if world.unlucky[at] && world.troubles[at].is_none() {
                troubles[at] += 1;
            } else if world.troubles[at].is_none() && natures[at] == Nature::Honest {
                let (troubles, log) = (&world.troubles, world.log.join("\n"));
                let state = format!("{natures:?} {troubles:?} {delays_ms:?} {loss:?}\n{log}");
                let place = format!("seed {seed}, round {number}, node {at}");
                assert_eq!(outcome, Outcome::Passed, "{place}: {state}");
            }
            scores[at].count(outcome);
        }
    }
    (natures, scores, troubles)
}

#[test]
fn honest_nodes_are_never_slashed_and_nobody_passes_undeserved() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seeds: Vec<u64> = match number("FLOE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("FLOE_SEEDS").unwrap_or(4)).collect(),
    };
    let (mut rounds, mut lost) = (0, 0);
    for seed in seeds {
        let (natures, scores, troubles) = epoch(seed);
        for at in 0..NODES {
            let (nature, score) = (natures[at], scores[at]);
            let state = format!("seed {seed}, node {at}, {nature:?}: {score:?}, {}", troubles[at]);
            let rules = NETWORK.universe.parameters;
            match nature {
                Nature::Honest => {
                    assert!(!score.is_slashed(&rules), "{state}");
                    rounds += ROUNDS;
                    lost += troubles[at];
                    let (passed, of) = score.pay();
                    assert!(passed + troubles[at] >= of, "{state}");
                }
                // Nothing prevents it where links are fast.
                Nature::Fetches(30) => assert!(score.passed > 0, "{state}"),
                Nature::Fetches(_) | Nature::Stopped | Nature::Liar | Nature::Empty => {
                    assert_eq!(score.passed, 0, "{state}");
                    let counted = u64::from(score.missed + score.void);
                    assert_eq!(counted, ROUNDS, "{state}");
                }
                // 16 steps on three quarters of what it should hold: one round in 300.
                Nature::Dropped(300) => assert!(score.passed <= 3, "{state}"),
                Nature::Dropped(_) => assert!(score.passed <= 24, "{state}"),
            }
        }
    }
    println!("{rounds} rounds of honest nodes, {lost} of them in trouble");
}
