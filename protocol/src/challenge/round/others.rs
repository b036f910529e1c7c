//! A member's part in the round of another: it notes when the commitment came, asks for the
//! transcript once the window is over and it is its turn, and acknowledges what is right.
//!
//! Who does not answer within [`RoundConfig::answer_ms`] by this member's own clock is asked again a
//! few times, and so is who builds upon a proof of inconsistency that is not known here: it may be on
//! its way.
//!
//! Invariants: a wrong transcript is the last one of its node that is judged; nothing is
//! acknowledged that came late or could not be timed.

use bytes::Bytes;

use super::{Ignored, RoundConfig, RoundOutput, Silence, Verification};
use crate::{
    challenge::{Challenge, ChallengeFact, StepError, TranscriptError},
    hash::Hash,
    keys::NodeId,
};

/// How far the judging is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Until when there has to be an answer.
    Asked {
        until_ms: u64,
    },
    Verifying,
    Acknowledged,
    /// Nothing more is to be done: it is certified, or not acknowledged.
    Done,
}

/// Another member as this one sees it.
#[derive(Clone, Debug)]
pub(super) struct Other {
    node: NodeId,
    /// Once its seed is known.
    challenge: Option<Challenge>,
    /// Until when a commitment is in time.
    deadline_ms: u64,
    /// This member's position, and how long a turn lasts.
    turns: (usize, u64),
    /// Why this member cannot tell what came in time.
    silence: Option<Silence>,
    /// The first commitment, and when it came.
    committed: Option<(Hash, u64)>,
    /// It has committed itself to something else, too.
    is_double: bool,
    stage: Stage,
    attempts: u32,
    ask_at_ms: u64,
}

impl Other {
    pub(super) const fn new(node: NodeId) -> Self {
        Self {
            node,
            challenge: None,
            deadline_ms: u64::MAX,
            turns: (0, 0),
            silence: None,
            committed: None,
            is_double: false,
            stage: Stage::Waiting,
            attempts: 0,
            ask_at_ms: 0,
        }
    }

    pub(super) const fn has_seed(&self) -> bool {
        self.challenge.is_some()
    }

    pub(super) const fn is_answered(&self) -> bool {
        self.committed.is_some()
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        self.stage == Stage::Acknowledged
    }

    /// Something is on its way or being verified.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. } | Stage::Verifying)
    }

    /// Its seed is there. `me` is this member's position.
    pub(super) fn begin(
        &mut self,
        challenge: Challenge,
        (me, config): (usize, &RoundConfig),
        (now_ms, silence): (u64, Option<Silence>),
        outputs: &mut Vec<RoundOutput>,
    ) {
        self.deadline_ms = now_ms.saturating_add(challenge.universe().parameters.window_ms);
        self.turns = (me, config.turn_ms);
        self.silence = silence;
        self.challenge = Some(challenge);
        self.prepare(now_ms, outputs);
    }

    /// Whether a commitment to `end` would say anything new.
    pub(super) fn wants(&self, end: &Hash) -> bool {
        let is_new = self.committed.is_none_or(|(first, _)| first != *end && !self.is_double);
        is_new && self.stage != Stage::Done
    }

    /// A commitment came at `at_ms`, and is told now.
    pub(super) fn commitment(
        &mut self,
        end: Hash,
        (now_ms, at_ms): (u64, u64),
        outputs: &mut Vec<RoundOutput>,
    ) {
        if let Some((first, _)) = self.committed {
            if first != end {
                self.is_double = true;
                self.ignore(Ignored::SecondCommitment, outputs);
            }
            return;
        }
        self.committed = Some((end, at_ms));
        self.prepare(now_ms, outputs);
    }

    /// It has its turn, or none, once commitment and seed are there.
    fn prepare(&mut self, now_ms: u64, outputs: &mut Vec<RoundOutput>) {
        let (Some(challenge), Some((_, at_ms))) = (&self.challenge, self.committed) else { return };
        let late_ms = at_ms.saturating_sub(self.deadline_ms);
        let reason = match self.silence {
            _ if self.stage != Stage::Waiting => return,
            Some(silence) => silence.into(),
            None if late_ms > 0 => Ignored::Late { late_ms },
            None => {
                // Drawn only now: it takes a hash of every member.
                let (me, turn_ms) = self.turns;
                let wait_ms = turn_ms.saturating_mul(turn(challenge, me));
                self.ask_at_ms = now_ms.max(self.deadline_ms).saturating_add(wait_ms);
                return;
            }
        };
        self.stage = Stage::Done;
        self.ignore(reason, outputs);
    }

    /// This process stood still from `since_ms` on: what comes in a window that this touched may
    /// have come too late.
    pub(super) fn paused(&mut self, since_ms: u64) {
        if self.committed.is_none() && since_ms <= self.deadline_ms && self.has_seed() {
            self.silence = self.silence.or(Some(Silence::Paused));
        }
    }

    /// When it is to be asked; none if it is not.
    pub(super) fn ask_at_ms(&self) -> Option<u64> {
        let is_ready = self.stage == Stage::Waiting && self.has_seed() && self.is_answered();
        is_ready.then_some(self.ask_at_ms)
    }

    /// Until when it has to answer, if it was asked.
    pub(super) const fn answer_until_ms(&self) -> Option<u64> {
        if let Stage::Asked { until_ms } = self.stage { Some(until_ms) } else { None }
    }

    pub(super) fn ask(
        &mut self,
        (now_ms, config): (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        self.stage = Stage::Asked { until_ms: now_ms.saturating_add(config.answer_ms) };
        self.attempts += 1;
        let (node, within_ms) = (self.node, config.answer_ms);
        outputs.push(RoundOutput::Ask { node, within_ms });
    }

    /// It has answered. What comes just too late is taken all the same, a refusal is not.
    pub(super) fn answered(&mut self, transcript: Option<Bytes>, outputs: &mut Vec<RoundOutput>) {
        let (Some(challenge), Some((end, _))) = (&self.challenge, self.committed) else {
            return;
        };
        match self.stage {
            Stage::Asked { .. } => {}
            Stage::Waiting if self.attempts > 0 && transcript.is_some() => {}
            Stage::Waiting | Stage::Verifying | Stage::Acknowledged | Stage::Done => return,
        }
        if let Some(transcript) = transcript {
            let challenge = challenge.clone();
            self.stage = Stage::Verifying;
            let verification = Verification { challenge, end, transcript };
            outputs.push(RoundOutput::Verify(Box::new(verification)));
        } else {
            self.stage = Stage::Done;
            self.ignore(Ignored::NoTranscript, outputs);
        }
    }

    /// It has not answered.
    pub(super) fn not_answered(
        &mut self,
        known: (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        if matches!(self.stage, Stage::Asked { .. }) {
            self.again_or(Ignored::NoAnswer, known, outputs);
        }
    }

    /// Time has passed: who was asked may have had enough of it.
    pub(super) fn tick(&mut self, known: (u64, &RoundConfig), outputs: &mut Vec<RoundOutput>) {
        if self.answer_until_ms().is_some_and(|until_ms| until_ms <= known.0) {
            self.not_answered(known, outputs);
        }
    }

    /// Asks again later, or gives up if it was asked often enough.
    fn again_or(
        &mut self,
        reason: Ignored,
        (now_ms, config): (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        if self.attempts < config.attempts_max {
            self.stage = Stage::Waiting;
            self.ask_at_ms = now_ms.saturating_add(config.retry_ms);
        } else {
            self.stage = Stage::Done;
            self.ignore(reason, outputs);
        }
    }

    /// Its transcript was judged. Who has sent a wrong one is not asked again.
    pub(super) fn judged(
        &mut self,
        verdict: Result<(), TranscriptError>,
        known: (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        let (Stage::Verifying, Some(challenge), Some((end, _))) =
            (self.stage, &self.challenge, self.committed)
        else {
            return;
        };
        match verdict {
            Ok(()) => {
                let fact = ChallengeFact::new(challenge.universe(), self.node, end);
                self.stage = Stage::Acknowledged;
                outputs.push(RoundOutput::Acknowledge(fact));
            }
            Err(error @ TranscriptError::Step { error: StepError::NotInconsistent(_), .. }) => {
                self.again_or(error.into(), known, outputs);
            }
            Err(error) => {
                self.stage = Stage::Done;
                self.ignore(error.into(), outputs);
            }
        }
    }

    /// Its certificate is on the ledger.
    pub(super) fn certified(&mut self) {
        if self.stage != Stage::Acknowledged {
            self.stage = Stage::Done;
        }
    }

    fn ignore(&self, reason: Ignored, outputs: &mut Vec<RoundOutput>) {
        outputs.push(RoundOutput::Ignored { node: self.node, reason });
    }
}

/// The turn of the member at `me`: 0 while those before it are too few for a certificate, then one
/// for each further member.
fn turn(challenge: &Challenge, me: usize) -> u64 {
    let committee = &challenge.universe().committee;
    let (mut weight, mut turn) = (0_u16, 0);
    for position in challenge.turns() {
        turn += u64::from(committee.is_validity(weight));
        if position == me {
            break;
        }
        weight = weight.saturating_add(committee.members()[position].weight());
    }
    turn
}
