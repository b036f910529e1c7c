//! A round at its members: who reads, commits, asks, judges and acknowledges what, and when.

mod certifying;
mod judging;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    challenge::{
        ChallengeCertificate, ChallengeFact, ChallengeParameters, Commitment, EARLY_HEIGHTS,
        Failure, Ignored, Joining, Progress, Round, RoundConfig, RoundInput, RoundOutput, Rounds,
        Sight, Silence, StepError, StepProof, TranscriptError, Verification, WalkError,
    },
    committee::CommitteeFact,
    hash::Hash,
    index::{ChallengeRound, Height},
    keys::{BlsSignature, NodeId},
    ledger::{Header, LedgerParameters},
};

use crate::{Network, ROUND, header};

const W: u64 = 1_000;

/// Rounds of seven members with a shard each, of which member 5 proposes the opening block and
/// member 6 the next one, and what the members tell each other without any loss.
struct Table {
    network: Network,
    rounds: Vec<Round>,
}

/// A commitment that comes as the round begins.
const fn came(commitment: Commitment) -> RoundInput {
    RoundInput::Commitment { commitment, at_ms: 0 }
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

    /// Reads the member's chain, if that is asked for.
    fn walk(&mut self, at: usize, now_ms: u64, outputs: Vec<RoundOutput>) -> Vec<RoundOutput> {
        let [RoundOutput::Walk(walk)] = &outputs[..] else { return outputs };
        let walked = walk.as_ref().clone().run(|place| self.network.read(place).ok());
        self.rounds[at].handle(now_ms, RoundInput::Walked(walked))
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
        self.rounds[at].handle(now_ms, RoundInput::Commitment { commitment, at_ms: now_ms })
    }

    /// When the member asks for the transcript of this commitment, which comes now.
    fn asks_at(&mut self, at: usize, now_ms: u64, commitment: Commitment) -> u64 {
        match &self.hear(at, now_ms, commitment)[..] {
            [RoundOutput::Ask { node, .. }] if *node == commitment.node => now_ms,
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
                [RoundOutput::Ask { node, .. }] if node == of => return now_ms,
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
        assert_eq!(table.rounds[member].quiet_until_ms(), 5 + 2 * W, "one has no seed yet");
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

/// Members ask in turn: three as soon as the window is over, as many as it takes, each of the others
/// a little later.
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
    assert_eq!(asked_at, [W, W, W, W + 500, W + 1_000, W + 1_500]);
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
        assert_eq!(matches!(outputs[..], [RoundOutput::Walk(_)]), begins);
        let outputs = table.rounds[0].handle(6_000, input);
        if begins && outputs.is_empty() {
            assert!(table.await_turn(0, &early.node, 6_000) > 6_000, "it was in time");
        } else {
            let asks = matches!(outputs[..], [RoundOutput::Ask { node, .. }] if node == early.node);
            assert_eq!(asks, begins, "{outputs:?}");
        }
    }
    assert_eq!(table.rounds[0].quiet_until_ms(), 6_000 + W);
}

#[test]
fn strangers_and_other_rounds_are_ignored() {
    let mut table = Table::new();
    table.open(1, 0, Sight::default());
    let stranger = floe_protocol::test_support::node_keys(8)[7].0.public();
    let of = |node, round| Commitment { round, node, end: Hash::ZERO };
    let outputs = table.rounds[1].handle(0, came(of(stranger, ROUND)));
    assert_eq!(ignored(&outputs), Some((stranger, Ignored::NotAsked)));
    let (node, next) = (table.network.node(0), ChallengeRound::new(ROUND.get() + 1));
    let outputs = table.rounds[1].handle(0, came(of(node, next)));
    assert_eq!(ignored(&outputs), Some((node, Ignored::OtherRound)));
    let me = table.network.node(1);
    let outputs = table.rounds[1].handle(0, came(of(me, ROUND)));
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

#[test]
fn what_cannot_be_read_misses_the_round() {
    let absent = Failure::Walk(WalkError::Absent { step: 3 });
    for (reads, late_ms, expected) in [(3, 0, absent), (16, 2 * W + 1, Failure::TooSlow)] {
        let mut table = Table::new();
        let outputs = table.open(0, 0, Sight::default());
        let [RoundOutput::Walk(walk)] = &outputs[..] else { panic!("{outputs:?}") };
        let mut left = reads;
        let walked = walk.as_ref().clone().run(|place| {
            left -= 1;
            (left >= 0).then(|| table.network.read(place).unwrap())
        });
        let input = RoundInput::Walked(walked);
        let outputs = table.rounds[0].handle(late_ms, input.clone());
        assert!(matches!(outputs[..], [RoundOutput::GaveUp(is)] if is == expected), "{outputs:?}");
        assert!(table.rounds[0].handle(late_ms, input).is_empty(), "again");
        assert_eq!(table.progress(0, 0), Progress::Missed);
        assert_eq!(table.transcript(0, 1), None);
    }
    let mut table = Table::new();
    table.open(0, 0, Sight::default());
    assert_eq!(table.rounds[0].wake_at_ms(), Some(2 * W + 1));
    let outputs = table.rounds[0].handle(2 * W + 1, RoundInput::Tick);
    assert!(matches!(outputs[..], [RoundOutput::GaveUp(Failure::TooSlow)]));
}

#[test]
fn what_is_read_is_another_chunk_misses_the_round() {
    let mut table = Table::new();
    let outputs = table.open(0, 0, Sight::default());
    let [RoundOutput::Walk(walk)] = &outputs[..] else { panic!("{outputs:?}") };
    let first = table.network.read(&walk.place().unwrap()).unwrap();
    let walked = walk.as_ref().clone().run(|_| Some(first.clone()));
    let Err(WalkError::Damaged { step, .. }) = walked else { panic!("{walked:?}") };
    assert!(step > 0, "the first one is right");
    let outputs = table.rounds[0].handle(0, RoundInput::Walked(walked));
    assert!(matches!(outputs[..], [RoundOutput::GaveUp(Failure::Walk(_))]), "{outputs:?}");
}

/// Who catches up after a long time neither reads for rounds that are over, nor says anything to
/// them, nor holds anything back; who is behind by less goes on.
#[test]
fn a_round_that_is_over_is_followed_for_the_record_only() {
    let heights = RoundConfig::default().over_heights;
    let behind = |behind_heights| Sight { by_sync: true, behind_heights, ..Sight::default() };
    let known = |at_ms| Sight { later_certified_ms: Some(at_ms), ..Sight::default() };
    for (sight, is_over) in [
        (behind(heights - 1), false),
        (behind(heights), true),
        (known(5_000 - 2 * W), false),
        (known(5_000 - 2 * W - 1), true),
    ] {
        let mut table = Table::new();
        let outputs = table.open(1, 5_000, sight);
        if !is_over {
            assert!(matches!(outputs[..], [RoundOutput::Walk(_)]), "{sight:?}: {outputs:?}");
            assert_eq!(table.rounds[1].quiet_until_ms(), 5_000 + 2 * W);
            continue;
        }
        assert!(matches!(outputs[..], [RoundOutput::GaveUp(Failure::Over)]), "{outputs:?}");
        let round = &table.rounds[1];
        assert_eq!((round.quiet_until_ms(), round.wake_at_ms()), (0, None));
        assert_eq!(table.progress(1, 1), Progress::Missed);
        let node = table.network.node(0);
        let commitment = Commitment { round: ROUND, node, end: Hash::ZERO };
        let outputs = table.hear(1, 5_001, commitment);
        assert_eq!(ignored(&outputs), Some((node, Ignored::Silent(Silence::Over))));
        assert_eq!(table.progress(1, 0), Progress::Answered);
        // Its own certificate may be there already: from before a restart.
        for at in [0, 1] {
            let certified = RoundInput::Certified { node: table.network.node(at) };
            assert!(table.rounds[1].handle(5_002, certified).is_empty());
            assert_eq!(table.progress(1, at), Progress::Certified);
        }
        assert!(table.rounds[1].handle(90_000, RoundInput::Tick).is_empty());
    }
}

/// The seed counts, not the opening: there may be a long time between them.
#[test]
fn who_lags_only_as_the_round_opens_goes_on() {
    let mut table = Table::new();
    let [opening, seed] = table.opening();
    let sight = Sight { behind_heights: 1_000, ..Sight::default() };
    let input = RoundInput::Committed { header: opening, sight };
    assert!(table.rounds[1].handle(0, input).is_empty());
    let input = RoundInput::Committed { header: seed, sight: Sight::default() };
    let outputs = table.rounds[1].handle(0, input);
    assert!(matches!(outputs[..], [RoundOutput::Walk(_)]), "{outputs:?}");
}

#[test]
fn how_far_behind_is_over_follows_from_the_ledgers_pace() {
    let heights = |window_ms, block_interval_min_ms| {
        let challenges = ChallengeParameters { window_ms, ..ChallengeParameters::default() };
        let rules =
            LedgerParameters { challenges, block_interval_min_ms, ..LedgerParameters::default() };
        RoundConfig::for_ledger(&rules).over_heights
    };
    let default = RoundConfig::for_ledger(&LedgerParameters::default());
    assert_eq!(default, RoundConfig::default());
    assert_eq!([(1_000, 300), (100, 50), (1_000, 0)].map(|(w, ms)| heights(w, ms)), [8, 8, 2_000]);
    assert_eq!((heights(1_000, 150), heights(u64::MAX, 1)), (14, u64::MAX));
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
    assert!(rounds.commitment((0, 0), committee, commitment).is_empty());
    assert!(rounds.commitment((0, 0), committee, commitment).is_empty(), "the same again");
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
        let outputs = rounds.commitment((0, 0), committee, commitment);
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
    let walks = outputs.iter().filter(|(_, output)| matches!(output, RoundOutput::Walk(_)));
    assert_eq!(walks.count(), 1, "its own chain begins");
    assert_eq!(rounds.get(ROUND).unwrap().progress(0), Progress::Answered);
    assert_eq!(rounds.quiet_until_ms(), 100 + 2 * W);
    let wanted = |commitment: &Commitment| rounds.wants(committee, commitment);
    assert!(!wanted(&commitment) && wanted(&second), "a second one is to be noticed");
    assert!(!wanted(&Commitment { node: stranger, ..commitment }));
    // Long without a beat: what comes now may be late.
    let late = Commitment { node: table.network.node(2), ..commitment };
    let outputs = rounds.commitment((1_000, 1_000), committee, late);
    let is_silent = |(_, output): &(ChallengeRound, RoundOutput)| {
        let silent = Ignored::Silent(Silence::Paused);
        matches!(output, RoundOutput::Ignored { reason, .. } if *reason == silent)
    };
    assert!(outputs.iter().any(is_silent), "{outputs:?}");
    let closed = rounds.close(ROUND).unwrap();
    assert_eq!(closed.progress(0), Progress::Answered);
    assert!(rounds.handle(2_000, ROUND, RoundInput::Tick).is_empty());
    assert!(rounds.close(ROUND).is_none());
    let member = table.network.node(3);
    let outputs = rounds.handle(2_000, ROUND, RoundInput::Wanted { member });
    let is_told = |(round, output): &(ChallengeRound, RoundOutput)| {
        let RoundOutput::Answer { member: to, transcript: None } = output else { return false };
        *round == ROUND && *to == member
    };
    assert!(outputs.len() == 1 && is_told(&outputs[0]), "{outputs:?}");
    assert_eq!(rounds.iter().count(), 0);
}
