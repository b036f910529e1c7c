//! One round at one member: its own answer, and its judgement of the others'.
//!
//! A driver makes a [`Round`] when a block opens one, hands in each block that is committed after
//! that one, and does what the outputs say. With no input before [`Round::wake_at_ms`], it ticks.
//! It drops the machine when the ledger has closed the round or its epoch has ended.
//!
//! ```text
//!   own     seed -> Walk -> Commit -> Answer members -> Submit -> certified
//!   others  seed and commitment in time -> Ask in turn -> Verify -> Acknowledge
//! ```
//!
//! Once the window is over, which leaves the machines to those who read their chains, members ask
//! for a transcript in an order that the seed draws: those first whose shards are just
//! enough, then one more at each turn, until the certificate is on the ledger. So a node hands out
//! its transcript about as often as it must, and nobody chooses his judges.
//!
//! Invariants: the window counts from this member's own commit of the seed's block, and who cannot
//! tell what came in time is silent: only late answers are refused for their time; the first
//! commitment of a node counts; no more than [`RoundConfig::busy_max`] transcripts are in memory; who
//! sends a wrong one has cost one check, or as many as it is asked if it builds upon a proof of
//! inconsistency that is not known here; all other verdicts are final.

mod acknowledgements;
mod events;
mod others;
mod own;
mod sight;

use std::sync::Arc;

pub(super) use self::sight::Pulse;
pub use self::{
    acknowledgements::{Joined, Joining},
    events::{Failure, Ignored, RoundInput, RoundOutput, Silence, Verification},
    sight::Sight,
};
use self::{others::Other, own::Own};
use super::{Challenge, ChallengeParameters, Commitment, Seeds, Universe};
use crate::{
    keys::NodeId,
    ledger::{Header, LedgerParameters},
};

/// So many heights at least are others further for whom a round is over.
const OVER_HEIGHTS_MIN: u64 = 8;

/// The limits of a round. Where certificates count for less than half a minute, the times are cut
/// to what leaves room for some attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundConfig {
    /// Transcripts that are asked for or judged at a time.
    pub busy_max: usize,
    /// By how many milliseconds a member asks later than the one before it, once enough have asked.
    pub turn_ms: u64,
    /// How often a node is asked for its transcript, and answers each member; how many
    /// acknowledgements it takes of each, and how often it submits its certificate.
    pub attempts_max: u32,
    /// How many milliseconds a node has to answer.
    pub answer_ms: u64,
    /// Wait before it is asked again in milliseconds.
    pub retry_ms: u64,
    /// Who commits a seed's block when others are known to be so many heights further has missed
    /// the round: two windows at least.
    pub over_heights: u64,
}

impl Default for RoundConfig {
    fn default() -> Self {
        Self {
            busy_max: 16,
            turn_ms: 500,
            attempts_max: 10,
            answer_ms: 3_000,
            retry_ms: 1_000,
            over_heights: 40,
        }
    }
}

impl RoundConfig {
    /// The limits for a ledger with these rules.
    #[must_use]
    pub fn for_ledger(rules: &LedgerParameters) -> Self {
        let two_windows_ms = rules.challenges.window_ms.saturating_mul(2);
        // Blocks do not come faster, so it takes two windows for so many.
        let heights = two_windows_ms.div_ceil(rules.block_interval_min_ms.max(1));
        Self { over_heights: heights.max(OVER_HEIGHTS_MIN), ..Self::default() }
    }

    fn cut(self, rules: &ChallengeParameters, members: usize) -> Self {
        let wait_ms = rules.certificate_window_ms;
        // All turns are over long before certificates cease to count.
        let turn_max_ms = wait_ms / 4 / (members.max(1) as u64);
        Self {
            turn_ms: self.turn_ms.min(turn_max_ms),
            answer_ms: self.answer_ms.min(wait_ms / 8).max(1),
            retry_ms: self.retry_ms.min(wait_ms / 16).max(1),
            ..self
        }
    }
}

/// How far a member is in a round, as another one sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The round does not count for it.
    NotAsked,
    /// It is asked.
    Opened,
    /// Its commitment came.
    Answered,
    /// This member has acknowledged it; of itself, enough others have.
    Acknowledged,
    /// Its certificate is on the ledger.
    Certified,
    /// It has missed the round, as this member knows of itself alone.
    Missed,
}

/// A round at one member.
#[derive(Clone, Debug)]
pub struct Round {
    config: RoundConfig,
    universe: Arc<Universe>,
    me: NodeId,
    position: usize,
    seeds: Seeds,
    own: Own,
    /// By position; nothing ever happens at the own one.
    others: Vec<Other>,
    certified: Vec<bool>,
    /// When this process last went on after it had stood still.
    resumed_ms: Option<u64>,
    quiet_until_ms: u64,
    now_ms: u64,
}

impl Round {
    /// The round of `universe` at the member `me`; none if it is no member. The first input is the
    /// opening block.
    #[must_use]
    pub fn new(config: RoundConfig, universe: Arc<Universe>, me: NodeId) -> Option<Self> {
        let position = universe.committee.position(&me)?;
        let others = universe.committee.members().iter().map(|member| Other::new(member.node));
        let others: Vec<_> = others.collect();
        Some(Self {
            config: config.cut(&universe.parameters, others.len()),
            me,
            position,
            seeds: Seeds::new(universe.round),
            own: Own::new(),
            certified: vec![false; others.len()],
            others,
            resumed_ms: None,
            quiet_until_ms: 0,
            now_ms: 0,
            universe,
        })
    }

    /// What the round asks for.
    #[must_use]
    pub const fn universe(&self) -> &Arc<Universe> {
        &self.universe
    }

    /// Until when symbols and secondary slivers are not handed out: the windows known so far, and the
    /// next one, if somebody has no seed yet.
    #[must_use]
    pub const fn quiet_until_ms(&self) -> u64 {
        self.quiet_until_ms
    }

    /// How far the member at `position` is.
    #[must_use]
    pub fn progress(&self, position: usize) -> Progress {
        let Some(other) = self.others.get(position).filter(|_| self.universe.counts_for(position))
        else {
            return Progress::NotAsked;
        };
        let (is_acknowledged, is_answered, is_missed) = if position == self.position {
            let own = &self.own;
            (own.is_acknowledged(), own.is_answered(), own.has_given_up())
        } else {
            (other.is_acknowledged(), other.is_answered(), false)
        };
        let reached = [
            (self.certified[position], Progress::Certified),
            (is_acknowledged, Progress::Acknowledged),
            (is_answered, Progress::Answered),
            (is_missed, Progress::Missed),
        ];
        let furthest = reached.into_iter().find(|(is_reached, _)| *is_reached);
        furthest.map_or(Progress::Opened, |(_, progress)| progress)
    }

    /// Takes in what happened and says what to do, in order. The time does not go back.
    pub fn handle(&mut self, now_ms: u64, input: RoundInput) -> Vec<RoundOutput> {
        let mut outputs = Vec::new();
        self.now_ms = self.now_ms.max(now_ms);
        let now_ms = self.now_ms;
        let config = self.config;
        let known = (now_ms, &config);
        match input {
            RoundInput::Committed { header, sight } => {
                self.on_committed(&header, &sight, &mut outputs);
            }
            RoundInput::Paused { since_ms } => {
                self.resumed_ms = Some(now_ms);
                self.others.iter_mut().for_each(|other| other.paused(since_ms));
            }
            RoundInput::Walked(walked) => {
                self.own.walked(now_ms, walked, &self.universe, &mut outputs);
            }
            RoundInput::Commitment { commitment, at_ms } => {
                self.on_commitment(&commitment, at_ms, &mut outputs);
            }
            RoundInput::Wanted { member } => self.on_wanted(member, &mut outputs),
            RoundInput::Transcript { node, transcript } => {
                if let Some(other) = self.other_mut(&node) {
                    other.answered(transcript, &mut outputs);
                }
            }
            RoundInput::NoAnswer { node } => {
                if let Some(other) = self.other_mut(&node) {
                    other.not_answered(known, &mut outputs);
                }
            }
            RoundInput::Judged { node, verdict } => {
                if let Some(other) = self.other_mut(&node) {
                    other.judged(verdict, known, &mut outputs);
                }
            }
            RoundInput::Acknowledged { member, signature } => match self.other(&member) {
                Some(position) => {
                    let (acknowledgement, most) = ((position, signature), self.config.attempts_max);
                    self.own.acknowledged(&self.universe, acknowledgement, most, &mut outputs);
                }
                None => ignore(member, Ignored::NotAsked, &mut outputs),
            },
            RoundInput::Joined(joined) => {
                self.own.joined(&self.universe, *joined, known, &mut outputs);
            }
            RoundInput::Certified { node } => self.on_certified(&node),
            RoundInput::Tick => {}
        }
        self.own.tick(known, &mut outputs);
        self.others.iter_mut().for_each(|other| other.tick(known, &mut outputs));
        self.ask(&mut outputs);
        outputs
    }

    /// Whether a commitment to this round would say anything new.
    #[must_use]
    pub fn wants(&self, commitment: &Commitment) -> bool {
        let position = self.other(&commitment.node);
        let other = position.filter(|position| self.universe.counts_for(*position));
        let is_of_this = commitment.round == self.universe.round;
        is_of_this && other.is_some_and(|position| self.others[position].wants(&commitment.end))
    }

    /// This process had gone on then after it had stood still, before the round was opened.
    pub(super) const fn resumed(&mut self, at_ms: Option<u64>) {
        self.resumed_ms = at_ms;
    }

    /// When to come back with a [`RoundInput::Tick`] if nothing else happens before.
    #[must_use]
    pub fn wake_at_ms(&self) -> Option<u64> {
        let asks = self.others.iter().filter_map(Other::ask_at_ms);
        let answers = self.others.iter().filter_map(Other::answer_until_ms);
        let waits = asks.filter(|at_ms| *at_ms > self.now_ms).chain(answers);
        waits.chain(self.own.wake_at_ms(&self.config)).min()
    }

    /// Position of another member.
    fn other(&self, node: &NodeId) -> Option<usize> {
        self.universe.committee.position(node).filter(|position| *position != self.position)
    }

    fn other_mut(&mut self, node: &NodeId) -> Option<&mut Other> {
        let position = self.other(node)?;
        Some(&mut self.others[position])
    }

    fn on_committed(&mut self, header: &Header, sight: &Sight, outputs: &mut Vec<RoundOutput>) {
        self.seeds.committed(header);
        let window_ms = self.universe.parameters.window_ms;
        let is_over = sight.is_over(self.now_ms, (window_ms, self.config.over_heights));
        let silence = sight.silence((self.now_ms, self.resumed_ms), window_ms);
        let silence = if is_over { Some(Silence::Over) } else { silence };
        let (mut begins, mut waits) = (false, false);
        for position in 0..self.others.len() {
            let is_own = position == self.position;
            let has_seed =
                if is_own { self.own.has_seed() } else { self.others[position].has_seed() };
            let node = self.universe.committee.members()[position].node;
            let seed = self.seeds.of(&node).filter(|_| !has_seed);
            let universe = Arc::clone(&self.universe);
            let Some(challenge) = seed.and_then(|seed| Challenge::new(universe, node, seed)) else {
                waits |= !has_seed && self.universe.counts_for(position);
                continue;
            };
            begins = true;
            if is_own && is_over {
                self.own.miss(outputs);
            } else if is_own {
                self.own.begin(challenge, self.now_ms, outputs);
            } else {
                let (me, known) = ((self.position, &self.config), (self.now_ms, silence));
                self.others[position].begin(challenge, me, known, outputs);
            }
        }
        if begins && !is_over {
            // Who waits for the next beacon gets it within a window, if nobody dawdles.
            let windows_ms = window_ms.saturating_mul(if waits { 2 } else { 1 });
            self.quiet_until_ms = self.now_ms.saturating_add(windows_ms);
        }
    }

    fn on_commitment(
        &mut self,
        commitment: &Commitment,
        at_ms: u64,
        outputs: &mut Vec<RoundOutput>,
    ) {
        let (node, times) = (commitment.node, (self.now_ms, at_ms.min(self.now_ms)));
        if commitment.round != self.universe.round {
            return ignore(node, Ignored::OtherRound, outputs);
        }
        match self.other(&node).filter(|position| self.universe.counts_for(*position)) {
            Some(position) => {
                self.others[position].commitment(commitment.end, times, outputs);
            }
            None if node == self.me => {}
            None => ignore(node, Ignored::NotAsked, outputs),
        }
    }

    fn on_wanted(&mut self, member: NodeId, outputs: &mut Vec<RoundOutput>) {
        let answers_max = self.config.attempts_max;
        let position = self.other(&member);
        let transcript = position.and_then(|at| self.own.transcript(at, answers_max));
        outputs.push(RoundOutput::Answer { member, transcript });
    }

    fn on_certified(&mut self, node: &NodeId) {
        let Some(position) = self.universe.committee.position(node) else {
            return;
        };
        self.certified[position] = true;
        if position == self.position {
            self.own.certified();
        } else {
            self.others[position].certified();
        }
    }

    /// Asks for transcripts whose turn it is, those first that have waited longest.
    fn ask(&mut self, outputs: &mut Vec<RoundOutput>) {
        let busy = self.others.iter().filter(|other| other.is_busy()).count();
        for _ in busy..self.config.busy_max {
            let ready =
                self.others.iter_mut().filter_map(|other| Some((other.ask_at_ms()?, other)));
            let due = ready.filter(|(at_ms, _)| *at_ms <= self.now_ms);
            let Some((_, other)) = due.min_by_key(|(at_ms, _)| *at_ms) else {
                return;
            };
            other.ask((self.now_ms, &self.config), outputs);
        }
    }
}

fn ignore(node: NodeId, reason: Ignored, outputs: &mut Vec<RoundOutput>) {
    outputs.push(RoundOutput::Ignored { node, reason });
}
