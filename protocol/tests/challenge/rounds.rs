//! A round at its members: who reads, commits, asks, judges and acknowledges what, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    challenge::{
        ChallengeCertificate, ChallengeFact, Commitment, EARLY_HEIGHTS, Failure, Ignored, Joining,
        Outcome, Progress, Round, RoundConfig, RoundInput, RoundOutput, Rounds, Sight, Silence,
        StepError, StepProof, TranscriptError, Verification,
    },
    committee::CommitteeFact,
    hash::Hash,
    index::{ChallengeRound, Height},
    keys::{BlsSignature, NodeId},
    ledger::Header,
};

use crate::{Network, ROUND, header};

const W: u64 = 1_000;

/// Rounds of seven members with a shard each, of which member 5 proposes the opening block and
/// member 6 the next one, and what the members tell each other without any loss.
struct Table {
    network: Network,
    rounds: Vec<Round>,
}

impl Table {
    fn new() -> Self {
        let network = Network::new(7, 7, &[40_000, 9]);
        let round = |at| {
            let universe = Arc::clone(&network.universe);
            Round::new(RoundConfig::default(), universe, network.node(at)).unwrap()
        };
        let rounds = (0..7).map(round).collect();
        Self { network, rounds }
    }

    /// The opening block and the one that gives all but its proposer their seeds.
    fn opening(&self) -> [Box<Header>; 2] {
        let block = |after: u8| {
            let proposer = self.network.node(usize::from(5 + after));
            Box::new(header(ROUND.get() + u64::from(after), proposer, after))
        };
        [block(0), block(1)]
    }

    /// Both are committed; what is then to be done.
    fn open(&mut self, at: usize, now_ms: u64, sight: Sight) -> Vec<RoundOutput> {
        let [opening, seed] = self.opening();
        let mut commit =
            |header, sight| self.rounds[at].handle(now_ms, RoundInput::Committed { header, sight });
        assert!(commit(opening, Sight::default()).is_empty(), "no seed yet");
        commit(seed, sight)
    }

    /// Reads what the member asks for until something else is to be done.
    fn walk(&mut self, at: usize, now_ms: u64, mut outputs: Vec<RoundOutput>) -> Vec<RoundOutput> {
        while let [RoundOutput::Read { step, place }] = &outputs[..] {
            let proof = Some(self.network.read(place).unwrap());
            outputs = self.rounds[at].handle(now_ms, RoundInput::Read { step: *step, proof });
        }
        outputs
    }

    /// Seed and opening are committed and the member's own chain is done.
    fn commit(&mut self, at: usize, now_ms: u64) -> Commitment {
        self.commit_with(at, now_ms, Sight::default())
    }

    fn commit_with(&mut self, at: usize, now_ms: u64, sight: Sight) -> Commitment {
        let outputs = self.open(at, now_ms, sight);
        match &self.walk(at, now_ms, outputs)[..] {
            [RoundOutput::Commit(commitment)] => *commitment,
            other => panic!("{other:?}"),
        }
    }

    fn hear(&mut self, at: usize, now_ms: u64, commitment: Commitment) -> Vec<RoundOutput> {
        self.rounds[at].handle(now_ms, RoundInput::Commitment(commitment))
    }

    /// When the member asks for the transcript of this commitment, which comes now.
    fn asks_at(&mut self, at: usize, now_ms: u64, commitment: Commitment) -> u64 {
        match &self.hear(at, now_ms, commitment)[..] {
            [RoundOutput::Ask { node }] if *node == commitment.node => now_ms,
            [] => self.await_turn(at, &commitment.node, now_ms),
            other => panic!("{other:?}"),
        }
    }

    fn transcript(&mut self, of: usize, member: usize) -> Option<Bytes> {
        let member = self.network.node(member);
        match &self.rounds[of].handle(0, RoundInput::Wanted { member })[..] {
            [RoundOutput::Answer { member: to, transcript }] if *to == member => transcript.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Ticks until the member asks a node for its transcript.
    fn await_turn(&mut self, at: usize, of: &NodeId, mut now_ms: u64) -> u64 {
        loop {
            match &self.rounds[at].handle(now_ms, RoundInput::Tick)[..] {
                [RoundOutput::Ask { node }] if node == of => return now_ms,
                [] => now_ms = self.rounds[at].wake_at_ms().expect("a turn is to come"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The verdict of a member on a transcript of `of` that it has asked for.
    fn judge(&mut self, at: usize, of: usize, now_ms: u64, transcript: Bytes) -> Vec<RoundOutput> {
        let node = self.network.node(of);
        let input = RoundInput::Transcript { node, transcript: Some(transcript) };
        let verdict = match &self.rounds[at].handle(now_ms, input)[..] {
            [RoundOutput::Verify(verification)] => verification.run(&BTreeSet::new()),
            other => panic!("{other:?}"),
        };
        self.rounds[at].handle(now_ms, RoundInput::Judged { node, verdict })
    }

    /// A member's acknowledgement comes, and what is to be joined then is.
    fn acknowledge(
        &mut self,
        of: usize,
        member: usize,
        signature: BlsSignature,
    ) -> Vec<RoundOutput> {
        match self.heard(of, member, signature) {
            Some(joining) => {
                let joined = RoundInput::Joined(Box::new(joining.run()));
                self.rounds[of].handle(0, joined)
            }
            None => Vec::new(),
        }
    }

    /// A member's acknowledgement comes.
    fn heard(&mut self, of: usize, member: usize, signature: BlsSignature) -> Option<Joining> {
        let member = self.network.node(member);
        let mut outputs = self.rounds[of].handle(0, RoundInput::Acknowledged { member, signature });
        match outputs.pop() {
            Some(RoundOutput::Join(joining)) if outputs.is_empty() => Some(*joining),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn progress(&self, at: usize, of: usize) -> Progress {
        self.rounds[at].progress(of)
    }
}

fn ignored(outputs: &[RoundOutput]) -> Option<(NodeId, Ignored)> {
    match outputs {
        [RoundOutput::Ignored { node, reason }] => Some((*node, *reason)),
        _ => None,
    }
}

#[test]
fn one_round_from_seed_to_certificate() {
    let mut table = Table::new();
    assert_eq!(table.progress(0, 0), Progress::Opened);
    let commitment = table.commit(0, 0);
    assert_eq!(table.progress(0, 0), Progress::Answered);
    let mut submitted = None;
    for member in 1..7 {
        if member < 6 {
            table.commit(member, 5);
        } else {
            table.open(member, 5, Sight::default());
        }
        assert_eq!(table.rounds[member].quiet_until_ms(), 5 + W);
        let now_ms = table.asks_at(member, 5 + W, commitment);
        assert_eq!(table.progress(member, 0), Progress::Answered);
        let transcript = table.transcript(0, member);
        if submitted.is_some() {
            assert_eq!(transcript, None, "nobody else is needed");
            continue;
        }
        let outputs = table.judge(member, 0, now_ms, transcript.unwrap());
        let [RoundOutput::Acknowledge(fact)] = outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(table.progress(member, 0), Progress::Acknowledged);
        let signature = fact.sign(table.network.chain(), table.network.bls(member));
        let outputs = table.acknowledge(0, member, signature);
        assert!(table.acknowledge(0, member, signature).is_empty(), "twice");
        if let [RoundOutput::Submit(certificate)] = &outputs[..] {
            submitted = Some((member, certificate.clone()));
        }
    }
    let (member, certificate) = submitted.unwrap();
    assert_eq!(member, 3, "three are more than f");
    let universe = &table.network.universe;
    assert_eq!(certificate.verify(&universe.committee, &universe.chain), Ok(()));
    assert_eq!(table.progress(0, 0), Progress::Acknowledged);
    let node = table.network.node(0);
    for at in 0..7 {
        table.rounds[at].handle(9_000, RoundInput::Certified { node });
        assert_eq!(table.progress(at, 0), Progress::Certified);
    }
}

/// Members ask in turn: three at once, as many as it takes, each of the others a little later.
#[test]
fn as_many_ask_at_once_as_it_takes() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let mut asked_at: Vec<_> = (1..7)
        .map(|member| {
            if member < 6 {
                table.commit(member, 0);
            } else {
                table.open(member, 0, Sight::default());
            }
            table.asks_at(member, 100, commitment)
        })
        .collect();
    asked_at.sort_unstable();
    assert_eq!(asked_at, [100, 100, 100, 600, 1_100, 1_600]);
}

#[test]
fn who_proposes_the_block_after_the_opening_begins_with_the_next_of_another() {
    let mut table = Table::new();
    assert!(table.open(6, 0, Sight::default()).is_empty(), "no seed yet");
    let commitment = |end: u8| Commitment {
        round: ROUND,
        node: table.network.node(6),
        end: Hash::new([end; 32]),
    };
    let early = commitment(1);
    table.commit(0, 0);
    assert!(table.hear(0, 5_000, early).is_empty(), "no seed, so no window, yet");
    let own = header(ROUND.get() + 2, table.network.node(6), 2);
    let next = header(ROUND.get() + 3, table.network.node(5), 3);
    for (height, begins) in [(own, false), (next, true)] {
        let (header, sight) = (Box::new(height), Sight::default());
        let input = RoundInput::Committed { header, sight };
        let outputs = table.rounds[6].handle(6_000, input.clone());
        assert_eq!(matches!(outputs[..], [RoundOutput::Read { step: 0, .. }]), begins);
        let outputs = table.rounds[0].handle(6_000, input);
        if begins && outputs.is_empty() {
            assert!(table.await_turn(0, &early.node, 6_000) > 6_000, "it was in time");
        } else {
            let asks = matches!(outputs[..], [RoundOutput::Ask { node }] if node == early.node);
            assert_eq!(asks, begins, "{outputs:?}");
        }
    }
    assert_eq!(table.rounds[0].quiet_until_ms(), 6_000 + W);
}

#[test]
fn a_late_commitment_counts_for_nothing() {
    let mut table = Table::new();
    table.commit(1, 50);
    let node = table.network.node(0);
    let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
    let outputs = table.hear(1, 50 + W + 1, commitment);
    assert_eq!(ignored(&outputs), Some((node, Ignored::Late { late_ms: 1 })));
    assert!(table.rounds[1].handle(60_000, RoundInput::Tick).is_empty(), "never asked");
}

#[test]
fn the_first_commitment_counts() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let false_one = Commitment { end: Hash::ZERO, ..commitment };
    let now_ms = table.asks_at(1, 10, false_one);
    let node = table.network.node(0);
    let outputs = table.hear(1, now_ms, commitment);
    assert_eq!(ignored(&outputs), Some((node, Ignored::SecondCommitment)));
    let transcript = table.transcript(0, 1).unwrap();
    let outputs = table.judge(1, 0, now_ms, transcript);
    let reason = Ignored::Transcript(TranscriptError::OtherEnd);
    assert_eq!(ignored(&outputs), Some((node, reason)), "it is not the transcript of the first");
}

#[test]
fn strangers_and_other_rounds_are_ignored() {
    let mut table = Table::new();
    table.open(1, 0, Sight::default());
    let stranger = floe_protocol::test_support::node_keys(8)[7].0.public();
    let of = |node, round| Commitment { round, node, end: Hash::ZERO };
    let outputs = table.rounds[1].handle(0, RoundInput::Commitment(of(stranger, ROUND)));
    assert_eq!(ignored(&outputs), Some((stranger, Ignored::NotAsked)));
    let (node, next) = (table.network.node(0), ChallengeRound::new(ROUND.get() + 1));
    let outputs = table.rounds[1].handle(0, RoundInput::Commitment(of(node, next)));
    assert_eq!(ignored(&outputs), Some((node, Ignored::OtherRound)));
    let me = table.network.node(1);
    let outputs = table.rounds[1].handle(0, RoundInput::Commitment(of(me, ROUND)));
    assert!(outputs.is_empty(), "its own");
    assert!(Round::new(RoundConfig::default(), table.network.universe.clone(), stranger).is_none());

    let commitment = table.commit(0, 0);
    let answer = table.rounds[0].handle(0, RoundInput::Wanted { member: stranger });
    assert!(matches!(&answer[..], [RoundOutput::Answer { transcript: None, .. }]));
    let fact = ChallengeFact::new(&table.network.universe, node, commitment.end);
    let signature = fact.sign(table.network.chain(), table.network.bls(1));
    for member in [stranger, node] {
        let input = RoundInput::Acknowledged { member, signature };
        let outputs = table.rounds[0].handle(0, input);
        assert_eq!(ignored(&outputs), Some((member, Ignored::NotAsked)), "nor is its own counted");
    }
}

/// What stops a member, or somebody in its name, does not stop a true word of it.
#[test]
fn false_acknowledgements_harm_nobody() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let node = table.network.node(0);
    let fact = ChallengeFact::new(&table.network.universe, node, commitment.end);
    let other = ChallengeFact { end: Hash::ZERO, ..fact };
    let sign = |network: &Network, fact: &ChallengeFact, by: usize| {
        fact.sign(network.chain(), network.bls(by))
    };
    // Of another transcript, another member's, and no signature at all: noticed when they count.
    let of_other = sign(&table.network, &other, 1);
    assert!(table.acknowledge(0, 1, of_other).is_empty());
    let of_member = sign(&table.network, &fact, 6);
    assert!(table.acknowledge(0, 2, of_member).is_empty());
    let outputs = table.acknowledge(0, 3, BlsSignature::new([0; 96]));
    let liars: Vec<_> =
        outputs.iter().map(|output| ignored(std::slice::from_ref(output)).unwrap()).collect();
    let expected = [1, 2, 3].map(|at| (table.network.node(at), Ignored::FalseAcknowledgement));
    assert_eq!(liars, expected);
    for (member, done) in [(1, false), (4, false), (2, true)] {
        let signature = sign(&table.network, &fact, member);
        let outputs = table.acknowledge(0, member, signature);
        assert_eq!(matches!(outputs[..], [RoundOutput::Submit(_)]), done, "member {member}");
    }
}

/// While acknowledgements are checked elsewhere, others come; a false one does not hide the true one
/// behind it.
#[test]
fn acknowledgements_are_checked_beside_and_taken_meanwhile() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let node = table.network.node(0);
    let fact = ChallengeFact::new(&table.network.universe, node, commitment.end);
    let other = ChallengeFact { end: Hash::ZERO, ..fact };
    let [lie, truth] = [other, fact]
        .map(|fact| [1, 2, 3, 4].map(|by| fact.sign(table.network.chain(), table.network.bls(by))));
    assert!(table.heard(0, 1, lie[0]).is_none());
    assert!(table.heard(0, 1, truth[0]).is_none(), "kept behind the other");
    assert!(table.heard(0, 2, truth[1]).is_none());
    let joining = table.heard(0, 3, lie[2]).expect("three may be enough");
    assert!(table.heard(0, 4, truth[3]).is_none(), "one at a time");
    let joined = RoundInput::Joined(Box::new(joining.run()));
    let outputs = table.rounds[0].handle(0, joined.clone());
    let [first, second, RoundOutput::Join(joining)] = &outputs[..] else { panic!("{outputs:?}") };
    for (output, liar) in [(first, 1), (second, 3)] {
        let expected = (table.network.node(liar), Ignored::FalseAcknowledgement);
        assert_eq!(ignored(std::slice::from_ref(output)), Some(expected));
    }
    let input = RoundInput::Joined(Box::new(joining.clone().run()));
    let outputs = table.rounds[0].handle(0, input);
    let [RoundOutput::Submit(certificate)] = &outputs[..] else { panic!("{outputs:?}") };
    let universe = &table.network.universe;
    assert!(certificate.signers(&universe.committee).eq([1, 2, 4]));
    assert_eq!(certificate.verify(&universe.committee, &universe.chain), Ok(()));
    assert!(table.rounds[0].handle(0, joined).is_empty(), "again, and too late");
}

#[test]
fn of_each_member_a_few_acknowledgements_are_taken() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let fact = ChallengeFact::new(&table.network.universe, commitment.node, commitment.end);
    let sign = |table: &Table, by| fact.sign(table.network.chain(), table.network.bls(by));
    for member in [1, 2] {
        let signature = sign(&table, member);
        assert!(table.heard(0, member, signature).is_none());
    }
    let most = RoundConfig::default().attempts_max;
    let checked = (0..100_u8).filter(|number| {
        let outputs = table.acknowledge(0, 3, BlsSignature::new([*number; 96]));
        !outputs.is_empty()
    });
    assert_eq!(checked.count(), most as usize);
    let signature = sign(&table, 3);
    assert!(table.heard(0, 3, signature).is_none(), "it has lied too often");
    let signature = sign(&table, 4);
    assert!(matches!(table.acknowledge(0, 4, signature)[..], [RoundOutput::Submit(_)]));
}

/// A transaction may get lost.
#[test]
fn a_certificate_is_submitted_until_it_is_on_the_ledger() {
    let config = RoundConfig::default();
    for certified_after in [1, 4, 100] {
        let mut table = Table::new();
        let commitment = table.commit(0, 0);
        let fact = ChallengeFact::new(&table.network.universe, commitment.node, commitment.end);
        let mut outputs = Vec::new();
        for member in 1..4 {
            let signature = fact.sign(table.network.chain(), table.network.bls(member));
            outputs = table.acknowledge(0, member, signature);
        }
        let mut submitted = 0;
        let mut last_ms = 0;
        loop {
            assert!(matches!(outputs[..], [RoundOutput::Submit(_)]), "{outputs:?}");
            submitted += 1;
            if submitted == certified_after {
                let certified = RoundInput::Certified { node: commitment.node };
                assert!(table.rounds[0].handle(last_ms, certified).is_empty());
            }
            let Some(at_ms) = table.rounds[0].wake_at_ms() else { break };
            assert_eq!(at_ms, last_ms + 3 * config.retry_ms);
            assert!(table.rounds[0].handle(at_ms - 1, RoundInput::Tick).is_empty());
            outputs = table.rounds[0].handle(at_ms, RoundInput::Tick);
            last_ms = at_ms;
        }
        assert_eq!(submitted, certified_after.min(config.attempts_max));
    }
}

/// Neither a flood of wrong transcripts nor one of requests costs more than a few checks.
#[test]
fn wrong_transcripts_are_judged_once() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let (node, mut wrong) = (commitment.node, table.transcript(0, 1).unwrap().to_vec());
    let unasked = RoundInput::Transcript { node, transcript: Some(wrong.clone().into()) };
    assert!(table.rounds[1].handle(0, unasked.clone()).is_empty(), "not asked for");
    let mut now_ms = table.asks_at(1, 10, commitment);
    wrong[100] ^= 1;
    let outputs = table.judge(1, 0, now_ms, wrong.into());
    let Some((of, Ignored::Transcript(TranscriptError::Step { step: 0, error }))) =
        ignored(&outputs)
    else {
        panic!("{outputs:?}");
    };
    assert_eq!((of, error), (node, StepError::Chunk));
    for _ in 0..100 {
        assert!(table.rounds[1].handle(now_ms, unasked.clone()).is_empty());
        let judged = RoundInput::Judged { node, verdict: Ok(()) };
        assert!(table.rounds[1].handle(now_ms, judged).is_empty(), "a verdict is final");
        now_ms += 500;
        assert!(table.rounds[1].handle(now_ms, RoundInput::Tick).is_empty(), "not asked again");
    }
    let most = RoundConfig::default().attempts_max as usize;
    let answers = (0..100).filter(|_| table.transcript(0, 2).is_some()).count();
    assert_eq!(answers, most, "a member gets it a few times");
}

#[test]
fn who_does_not_answer_is_asked_a_few_times() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    table.commit(1, 0);
    let mut outputs = table.hear(1, 10, commitment);
    let (node, mut now_ms, mut asked) = (table.network.node(0), 10, 0);
    loop {
        match &outputs[..] {
            [] => {
                now_ms = table.rounds[1].wake_at_ms().unwrap();
                outputs = table.rounds[1].handle(now_ms, RoundInput::Tick);
            }
            [RoundOutput::Ask { .. }] => {
                asked += 1;
                outputs = table.rounds[1].handle(now_ms, RoundInput::NoAnswer { node });
            }
            other => {
                assert_eq!(ignored(other), Some((node, Ignored::NoAnswer)));
                break;
            }
        }
    }
    assert_eq!(asked, RoundConfig::default().attempts_max);
    // Who says that it needs nobody is left in peace.
    let commitment = table.commit(2, 0);
    let now_ms = table.asks_at(1, 10, commitment);
    let node = commitment.node;
    let input = RoundInput::Transcript { node, transcript: None };
    let outputs = table.rounds[1].handle(now_ms, input);
    assert_eq!(ignored(&outputs), Some((node, Ignored::NoTranscript)));
    assert!(table.rounds[1].handle(now_ms + 60_000, RoundInput::Tick).is_empty());
}

/// Who is asked and says nothing keeps nobody else waiting.
#[test]
fn who_hangs_frees_his_place_by_the_clock() {
    let config = RoundConfig { busy_max: 2, attempts_max: 2, ..RoundConfig::default() };
    let mut table = Table::new();
    let universe = Arc::clone(&table.network.universe);
    table.rounds[1] = Round::new(config, universe, table.network.node(1)).unwrap();
    table.open(1, 0, Sight::default());
    let mut hanging: Vec<_> = [0, 2, 3, 4].map(|at| table.network.node(at)).to_vec();
    let mut outputs = Vec::new();
    for node in hanging.clone() {
        outputs.extend(table.hear(1, 0, Commitment { round: ROUND, node, end: Hash::ZERO }));
    }
    let honest = table.commit(5, 0);
    outputs.extend(table.hear(1, 0, honest));
    let (mut now_ms, mut asked, mut served_ms) = (0, BTreeMap::<NodeId, u64>::new(), None);
    loop {
        for output in std::mem::take(&mut outputs) {
            match output {
                RoundOutput::Ask { node } if node == honest.node => served_ms = Some(now_ms),
                RoundOutput::Ask { node } => {
                    assert!(asked.insert(node, now_ms).is_none_or(|at_ms| {
                        now_ms >= at_ms + config.answer_ms + config.retry_ms
                    }));
                }
                RoundOutput::Ignored { node, reason: Ignored::NoAnswer } => {
                    hanging.retain(|one| *one != node);
                }
                // What it has read for its own chain is not told.
                RoundOutput::Read { .. } | RoundOutput::GaveUp(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if let Some(at_ms) = served_ms.take() {
            assert!(at_ms <= 4 * config.answer_ms + 6 * config.turn_ms, "at {at_ms}");
            let node = honest.node;
            let input = RoundInput::Transcript { node, transcript: table.transcript(5, 1) };
            outputs = table.rounds[1].handle(now_ms, input);
            assert!(matches!(outputs[0], RoundOutput::Verify(_)), "{outputs:?}");
            outputs.remove(0);
            let judged = RoundInput::Judged { node, verdict: Ok(()) };
            outputs.extend(table.rounds[1].handle(now_ms, judged));
            let acknowledged = |output: &RoundOutput| matches!(output, RoundOutput::Acknowledge(_));
            assert!(outputs.iter().any(acknowledged), "{outputs:?}");
            outputs.retain(|output| !acknowledged(output));
            continue;
        }
        let Some(at_ms) = table.rounds[1].wake_at_ms() else { break };
        assert!(at_ms > now_ms, "something is due that is not done");
        now_ms = at_ms;
        outputs = table.rounds[1].handle(now_ms, RoundInput::Tick);
    }
    assert!(hanging.is_empty() && asked.len() == 4, "each was given up");
    assert_eq!(table.progress(1, 5), Progress::Acknowledged);
}

/// The proof that a blob is inconsistent may arrive a moment after the transcript that builds on it.
#[test]
fn a_proof_of_inconsistency_may_come_late() {
    let mut table = Table::new();
    let outputs = table.open(0, 0, Sight::default());
    let [RoundOutput::Read { step: 0, place }] = &outputs[..] else { panic!("{outputs:?}") };
    let blob = place.blob;
    let input = RoundInput::Read { step: 0, proof: Some(StepProof::Inconsistent) };
    let outputs = table.rounds[0].handle(0, input);
    let outputs = table.walk(0, 0, outputs);
    let [RoundOutput::Commit(commitment)] = outputs[..] else { panic!("{outputs:?}") };
    table.commit(1, 0);
    let mut now_ms = table.asks_at(1, 10, commitment);
    let node = commitment.node;
    let judge = |table: &mut Table, now_ms, known: &BTreeSet<_>| {
        let transcript = table.transcript(0, 1);
        let outputs = table.rounds[1].handle(now_ms, RoundInput::Transcript { node, transcript });
        let [RoundOutput::Verify(verification)] = &outputs[..] else { panic!("{outputs:?}") };
        let verdict = verification.run(known);
        table.rounds[1].handle(now_ms, RoundInput::Judged { node, verdict })
    };
    for _ in 0..3 {
        assert!(judge(&mut table, now_ms, &BTreeSet::new()).is_empty(), "not yet, perhaps");
        now_ms = table.await_turn(1, &node, now_ms);
    }
    let outputs = judge(&mut table, now_ms, &BTreeSet::from([blob]));
    assert!(matches!(outputs[..], [RoundOutput::Acknowledge(_)]), "{outputs:?}");
}

#[test]
fn without_a_proof_of_inconsistency_nothing_is_acknowledged() {
    let mut table = Table::new();
    table.commit(1, 0);
    let node = table.network.node(0);
    let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
    let mut now_ms = table.asks_at(1, 10, commitment);
    let error = StepError::NotInconsistent(BlobId::new([1; 32]));
    let error = TranscriptError::Step { step: 3, error };
    let (mut asked, reason) = (0, Ignored::Transcript(error));
    loop {
        asked += 1;
        let transcript = Some(Bytes::new());
        let outputs = table.rounds[1].handle(now_ms, RoundInput::Transcript { node, transcript });
        assert!(matches!(outputs[..], [RoundOutput::Verify(_)]), "{outputs:?}");
        let judged = RoundInput::Judged { node, verdict: Err(error) };
        let outputs = table.rounds[1].handle(now_ms, judged);
        if !outputs.is_empty() {
            assert_eq!(ignored(&outputs), Some((node, reason)));
            break;
        }
        now_ms = table.await_turn(1, &node, now_ms);
    }
    assert_eq!(asked, RoundConfig::default().attempts_max);
    assert!(table.rounds[1].handle(now_ms + 60_000, RoundInput::Tick).is_empty());
}

#[test]
fn who_cannot_tell_the_time_is_silent() {
    for (sight, silence) in [
        (Sight { by_sync: true, ..Sight::default() }, Silence::Synced),
        (
            Sight { later_certified_ms: Some(3_000), ..Sight::default() },
            Silence::Behind { behind_ms: 2_000 },
        ),
    ] {
        let mut table = Table::new();
        table.commit_with(1, 5_000, sight);
        let node = table.network.node(0);
        let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
        let outputs = table.hear(1, 5_001, commitment);
        assert_eq!(ignored(&outputs), Some((node, Ignored::Silent(silence))));
        assert!(table.rounds[1].handle(60_000, RoundInput::Tick).is_empty(), "never asked");
    }
}

#[test]
fn who_stands_still_within_a_window_judges_only_what_came_before() {
    let mut table = Table::new();
    let before = table.commit(0, 0);
    table.commit(1, 0);
    let mut asked = !table.hear(1, 100, before).is_empty();
    let outputs = table.rounds[1].handle(2_500, RoundInput::Paused { since_ms: 200 });
    asked |= matches!(outputs[..], [RoundOutput::Ask { node }] if node == before.node);
    assert!(asked, "{outputs:?}");
    let node = table.network.node(2);
    let after = Commitment { round: ROUND, node, end: Hash::ZERO };
    let outputs = table.hear(1, 2_501, after);
    assert_eq!(ignored(&outputs), Some((node, Ignored::Silent(Silence::Paused))));
}

#[test]
fn what_cannot_be_read_misses_the_round() {
    for (proof_is_there, late_ms) in [(false, 0), (true, 2 * W + 1)] {
        let mut table = Table::new();
        let outputs = table.open(0, 0, Sight::default());
        let [RoundOutput::Read { step: 0, place }] = &outputs[..] else { panic!("{outputs:?}") };
        let proof = proof_is_there.then(|| table.network.read(place).unwrap());
        let stray = RoundInput::Read { step: 1, proof: None };
        assert!(table.rounds[0].handle(0, stray).is_empty(), "of another step");
        let outputs = table.rounds[0].handle(late_ms, RoundInput::Read { step: 0, proof });
        let [RoundOutput::GaveUp(failure)] = outputs[..] else { panic!("{outputs:?}") };
        let expected =
            if proof_is_there { Failure::TooSlow { step: 0 } } else { Failure::Absent { step: 0 } };
        assert_eq!(failure, expected);
        assert_eq!(table.progress(0, 0), Progress::Missed);
        assert_eq!(table.transcript(0, 1), None);
    }
    let mut table = Table::new();
    table.open(0, 0, Sight::default());
    assert_eq!(table.rounds[0].wake_at_ms(), Some(2 * W + 1));
    let outputs = table.rounds[0].handle(2 * W + 1, RoundInput::Tick);
    let too_slow = Failure::TooSlow { step: 0 };
    assert!(matches!(outputs[..], [RoundOutput::GaveUp(failure)] if failure == too_slow));
}

#[test]
fn a_closed_round_does_nothing_more() {
    let mut table = Table::new();
    table.open(0, 0, Sight::default());
    let outcomes = [
        Outcome::Missed,
        Outcome::Passed,
        Outcome::Void,
        Outcome::NotAsked,
        Outcome::Passed,
        Outcome::Passed,
        Outcome::Passed,
    ];
    table.rounds[0].close(outcomes.to_vec());
    let progress = [0, 1, 2, 3, 4, 7].map(|of| table.progress(0, of));
    let expected = [
        Progress::Missed,
        Progress::Certified,
        Progress::Void,
        Progress::NotAsked,
        Progress::Certified,
        Progress::NotAsked,
    ];
    assert_eq!(progress, expected);
    assert_eq!(table.rounds[0].wake_at_ms(), None);
    assert!(table.rounds[0].handle(60_000, RoundInput::Tick).is_empty());
}

/// Commitments may come before the block that opens their round.
#[test]
fn what_comes_before_its_block_is_kept_within_bounds() {
    let mut table = Table::new();
    let commitment = table.commit(0, 0);
    let (me, universe) = (table.network.node(1), Arc::clone(&table.network.universe));
    let tip = Height::new(ROUND.get() - 1);
    let mut rounds = Rounds::new(RoundConfig::default(), me, W, (0, tip));
    assert_eq!(rounds.wake_at_ms(), 250);
    let committee = &universe.committee;
    assert!(rounds.wants(committee, &commitment));
    assert!(rounds.commitment(0, committee, commitment).is_empty());
    assert!(rounds.commitment(0, committee, commitment).is_empty(), "the same again");
    assert!(!rounds.wants(committee, &commitment));
    let second = Commitment { end: Hash::ZERO, ..commitment };
    let far = ChallengeRound::new(tip.get() + EARLY_HEIGHTS + 1);
    let past = ChallengeRound::new(tip.get());
    let stranger = NodeId::new([9; 32]);
    for (commitment, reason) in [
        (second, Ignored::SecondCommitment),
        (Commitment { round: far, ..commitment }, Ignored::OtherRound),
        (Commitment { round: past, ..commitment }, Ignored::OtherRound),
        (Commitment { node: stranger, ..commitment }, Ignored::NotAsked),
    ] {
        assert!(!rounds.wants(committee, &commitment), "{commitment:?}");
        let outputs = rounds.commitment(0, committee, commitment);
        let [(_, RoundOutput::Ignored { reason: is, .. })] = outputs[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(is, reason);
    }
    let last = Commitment { round: ChallengeRound::new(far.get() - 1), ..commitment };
    assert!(rounds.wants(committee, &last));
    assert!(!rounds.wants(committee, &Commitment { node: me, ..last }), "its own");
    let [opening, seed] = table.opening();
    let opened = Some(Arc::clone(&universe));
    assert!(rounds.committed(100, &opening, Sight::default(), opened).is_empty());
    let outputs = rounds.committed(100, &seed, Sight::default(), None);
    let reads = outputs.iter().filter(|(_, output)| matches!(output, RoundOutput::Read { .. }));
    assert_eq!(reads.count(), 1, "its own chain begins");
    assert_eq!(rounds.get(ROUND).unwrap().progress(0), Progress::Answered);
    assert_eq!(rounds.quiet_until_ms(), 100 + W);
    let wanted = |commitment: &Commitment| rounds.wants(committee, commitment);
    assert!(!wanted(&commitment) && wanted(&second), "a second one is to be noticed");
    assert!(!wanted(&Commitment { node: stranger, ..commitment }));
    // Long without a beat: what comes now may be late.
    let late = Commitment { node: table.network.node(2), ..commitment };
    let outputs = rounds.commitment(1_000, committee, late);
    let is_silent = |(_, output): &(ChallengeRound, RoundOutput)| {
        let silent = Ignored::Silent(Silence::Paused);
        matches!(output, RoundOutput::Ignored { reason, .. } if *reason == silent)
    };
    assert!(outputs.iter().any(is_silent), "{outputs:?}");
    let closed = rounds.close(ROUND, Vec::new()).unwrap();
    assert_eq!(closed.wake_at_ms(), None);
    assert!(rounds.handle(2_000, ROUND, RoundInput::Tick).is_empty());
    assert!(rounds.close(ROUND, Vec::new()).is_none());
    let member = table.network.node(3);
    let outputs = rounds.handle(2_000, ROUND, RoundInput::Wanted { member });
    let is_told = |(round, output): &(ChallengeRound, RoundOutput)| {
        let RoundOutput::Answer { member: to, transcript: None } = output else { return false };
        *round == ROUND && *to == member
    };
    assert!(outputs.len() == 1 && is_told(&outputs[0]), "{outputs:?}");
    assert_eq!(rounds.iter().count(), 0);
}

/// What f others do, whatever it is, does not make an empty node pass.
#[test]
fn f_friends_are_not_enough() {
    let network = Network::new(7, 7, &[1_000]);
    let fact = ChallengeFact::new(&network.universe, network.node(0), Hash::ZERO);
    let sign = |at: usize| (at, fact.sign(network.chain(), network.bls(at)));
    let committee = &network.universe.committee;
    assert!(ChallengeCertificate::new(committee, fact, &[sign(0), sign(1), sign(2)]).is_err());
    assert!(ChallengeCertificate::new(committee, fact, &[sign(1), sign(2)]).is_err());
    // And nobody honest acknowledges what it cannot show, be it as long as it should be.
    let challenge = network.challenge(0);
    let (end, transcript) = network.answer(&challenge);
    let judge = |end, transcript: Vec<u8>| {
        let (challenge, transcript) = (challenge.clone(), transcript.into());
        Verification { challenge, end, transcript }.run(&BTreeSet::new())
    };
    assert_eq!(judge(end, transcript.to_vec()), Ok(()));
    assert_eq!(judge(Hash::ZERO, transcript.to_vec()), Err(TranscriptError::OtherEnd));
    assert_eq!(judge(end, Vec::new()), Err(TranscriptError::TooShort));
    let head = 72;
    let mut forged = transcript.to_vec();
    forged[head..].fill(0);
    let error = StepError::Pair;
    assert_eq!(judge(end, forged), Err(TranscriptError::Step { step: 0, error }));
    // With all that is public, but for the chunk: the first byte tells its kind.
    let mut forged = transcript.to_vec();
    forged[head + 1..head + 41].fill(0);
    let error = StepError::Chunk;
    assert_eq!(judge(end, forged), Err(TranscriptError::Step { step: 0, error }));
}
