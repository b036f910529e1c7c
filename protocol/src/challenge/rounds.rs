//! All rounds that are open at a member.
//!
//! Beside the rounds themselves it keeps what belongs to none of them yet: commitments of nodes that
//! have seen a block before this one, and the pulse by which it notices that it stood still.
//!
//! Invariants: the ledger closes rounds, so few are open; of each member one commitment is kept for
//! each of the next [`EARLY_HEIGHTS`] heights.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Commitment, Ignored, Round, RoundConfig, RoundInput, RoundOutput, Sight, Universe, round::Pulse,
};
use crate::{
    committee::Committee,
    index::{ChallengeRound, Height},
    keys::NodeId,
    ledger::Header,
};

/// How far ahead of this member's tip a commitment may be.
pub const EARLY_HEIGHTS: u64 = 32;

/// What to do, and for which round.
pub type RoundOutputs = Vec<(ChallengeRound, RoundOutput)>;

/// The open rounds at a member.
#[derive(Clone, Debug)]
pub struct Rounds {
    config: RoundConfig,
    me: NodeId,
    open: BTreeMap<ChallengeRound, Round>,
    /// The height of the last block.
    tip: Height,
    /// With the time when they came.
    early: BTreeMap<(ChallengeRound, NodeId), (Commitment, u64)>,
    pulse: Pulse,
}

impl Rounds {
    /// No round is open at the node `me`, whose last block has the height `tip`.
    #[must_use]
    pub const fn new(
        config: RoundConfig,
        me: NodeId,
        window_ms: u64,
        (now_ms, tip): (u64, Height),
    ) -> Self {
        let pulse = Pulse::new(window_ms, now_ms);
        Self { config, me, open: BTreeMap::new(), tip, early: BTreeMap::new(), pulse }
    }

    /// An open round.
    #[must_use]
    pub fn get(&self, round: ChallengeRound) -> Option<&Round> {
        self.open.get(&round)
    }

    /// The open rounds, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Round> {
        self.open.values()
    }

    /// Until when symbols and secondary slivers are not handed out.
    #[must_use]
    pub fn quiet_until_ms(&self) -> u64 {
        self.open.values().map(Round::quiet_until_ms).max().unwrap_or(0)
    }

    /// When to call [`Rounds::tick`] if nothing else happens before.
    #[must_use]
    pub fn wake_at_ms(&self) -> u64 {
        let rounds = self.open.values().filter_map(Round::wake_at_ms);
        rounds.fold(self.pulse.next_ms(), u64::min)
    }

    /// A block was committed here. If it opens a round, `opened` is the universe of that.
    pub fn committed(
        &mut self,
        now_ms: u64,
        header: &Header,
        sight: Sight,
        opened: Option<Arc<Universe>>,
    ) -> RoundOutputs {
        let mut outputs = self.beat(now_ms);
        self.tip = header.height;
        let opens = opened.and_then(|universe| Round::new(self.config, universe, self.me));
        if let Some(mut round) = opens {
            round.resumed(self.pulse.resumed_ms());
            self.open.insert(round.universe().round, round);
        }
        let input = RoundInput::Committed { header: Box::new(*header), sight };
        self.tell_all(now_ms, &input, &mut outputs);
        let later = ChallengeRound::new(header.height.next().get());
        let later = self.early.split_off(&(later, NodeId::new([0; 32])));
        for ((round, _), (commitment, at_ms)) in std::mem::replace(&mut self.early, later) {
            let input = RoundInput::Commitment { commitment, at_ms };
            self.tell(now_ms, round, input, &mut outputs);
        }
        outputs
    }

    /// Whether a commitment would say anything new. `committee` is that of the next height.
    #[must_use]
    pub fn wants(&self, committee: &Committee, commitment: &Commitment) -> bool {
        let Commitment { round, node, .. } = *commitment;
        if let Some(open) = self.open.get(&round) {
            return open.wants(commitment);
        }
        let is_new = node != self.me && !self.early.contains_key(&(round, node));
        is_new && self.is_early(round) && committee.position(&node).is_some()
    }

    /// A commitment came at `at_ms` that is of its node for sure; `committee` is that of the next
    /// height.
    pub fn commitment(
        &mut self,
        (now_ms, at_ms): (u64, u64),
        committee: &Committee,
        commitment: Commitment,
    ) -> RoundOutputs {
        let mut outputs = self.beat(now_ms);
        let Commitment { round, node, .. } = commitment;
        let reason = if self.open.contains_key(&round) {
            let input = RoundInput::Commitment { commitment, at_ms };
            self.tell(now_ms, round, input, &mut outputs);
            return outputs;
        } else if !self.is_early(round) {
            Ignored::OtherRound
        } else if committee.position(&node).is_none() {
            Ignored::NotAsked
        } else {
            let (first, _) = self.early.entry((round, node)).or_insert((commitment, at_ms));
            if first.end == commitment.end {
                return outputs;
            }
            Ignored::SecondCommitment
        };
        outputs.push((round, RoundOutput::Ignored { node, reason }));
        outputs
    }

    /// Something else happened to a round. What comes for one that is not open changes nothing, and
    /// who wants this node's transcript for it is told that there is none.
    pub fn handle(
        &mut self,
        now_ms: u64,
        round: ChallengeRound,
        input: RoundInput,
    ) -> RoundOutputs {
        let mut outputs = self.beat(now_ms);
        if let RoundInput::Wanted { member } = input
            && !self.open.contains_key(&round)
        {
            outputs.push((round, RoundOutput::Answer { member, transcript: None }));
        }
        self.tell(now_ms, round, input, &mut outputs);
        outputs
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> RoundOutputs {
        let mut outputs = self.beat(now_ms);
        self.tell_all(now_ms, &RoundInput::Tick, &mut outputs);
        outputs
    }

    /// The ledger has closed the round, or its epoch has ended: nothing more is to be done. What it
    /// was, for the records.
    pub fn close(&mut self, round: ChallengeRound) -> Option<Round> {
        self.open.remove(&round)
    }

    /// Whether the round may be opened soon.
    const fn is_early(&self, round: ChallengeRound) -> bool {
        let ahead = round.get().saturating_sub(self.tip.get());
        ahead > 0 && ahead <= EARLY_HEIGHTS
    }

    fn beat(&mut self, now_ms: u64) -> RoundOutputs {
        let mut outputs = Vec::new();
        if let Some(since_ms) = self.pulse.beat(now_ms) {
            self.tell_all(now_ms, &RoundInput::Paused { since_ms }, &mut outputs);
        }
        outputs
    }

    fn tell_all(&mut self, now_ms: u64, input: &RoundInput, outputs: &mut RoundOutputs) {
        for (name, round) in &mut self.open {
            let more = round.handle(now_ms, input.clone()).into_iter();
            outputs.extend(more.map(|output| (*name, output)));
        }
    }

    fn tell(
        &mut self,
        now_ms: u64,
        name: ChallengeRound,
        input: RoundInput,
        outputs: &mut RoundOutputs,
    ) {
        if let Some(round) = self.open.get_mut(&name) {
            let more = round.handle(now_ms, input).into_iter();
            outputs.extend(more.map(|output| (name, output)));
        }
    }
}
