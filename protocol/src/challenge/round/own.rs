//! A node's own part in a round: it walks its chain, commits itself, and collects acknowledgements.
//!
//! It begins with its seed, and ends with its certificate on the ledger or when it cannot go on. A
//! transaction may get lost on its way, so the certificate is submitted a few times.
//!
//! Invariants: a commitment is made once, at the end of the chain; each member gets the transcript a
//! few times at most, and nobody once the node needs no more acknowledgements.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    Failure, Ignored, RoundConfig, RoundOutput,
    acknowledgements::{Acknowledgements, Joined},
};
use crate::{
    challenge::{
        Answer, Challenge, ChallengeCertificate, ChallengeFact, Commitment, Universe, Walk,
        WalkError,
    },
    keys::BlsSignature,
};

/// After so many waits of [`RoundConfig::retry_ms`] a certificate is submitted again.
const WAITS_UNTIL_SUBMITTED_AGAIN: u64 = 3;

/// How far it is.
#[derive(Clone, Debug)]
enum Stage {
    /// Without seed.
    Waiting,
    /// Its chain is being read.
    Walking,
    /// Its chain has ended: acknowledgements are collected.
    Committed {
        fact: ChallengeFact,
        transcript: Bytes,
    },
    /// Enough have acknowledged.
    Submitted {
        certificate: Box<ChallengeCertificate>,
        times: u32,
        again_ms: u64,
    },
    /// The certificate is on the ledger.
    Certified,
    GaveUp,
}

/// The own part.
#[derive(Clone, Debug)]
pub(super) struct Own {
    stage: Stage,
    give_up_ms: u64,
    acknowledged: Acknowledgements,
    /// How often each position got the transcript.
    answered: BTreeMap<usize, u32>,
}

impl Own {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Waiting,
            give_up_ms: u64::MAX,
            acknowledged: Acknowledgements::default(),
            answered: BTreeMap::new(),
        }
    }

    pub(super) const fn has_seed(&self) -> bool {
        !matches!(self.stage, Stage::Waiting)
    }

    pub(super) const fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Committed { .. })
    }

    pub(super) const fn is_acknowledged(&self) -> bool {
        matches!(self.stage, Stage::Submitted { .. })
    }

    pub(super) const fn has_given_up(&self) -> bool {
        matches!(self.stage, Stage::GaveUp)
    }

    /// When it has to go on by itself.
    pub(super) const fn wake_at_ms(&self, config: &RoundConfig) -> Option<u64> {
        match &self.stage {
            Stage::Walking => Some(self.give_up_ms.saturating_add(1)),
            Stage::Submitted { times, again_ms, .. } if *times < config.attempts_max => {
                Some(*again_ms)
            }
            Stage::Waiting
            | Stage::Committed { .. }
            | Stage::Submitted { .. }
            | Stage::Certified
            | Stage::GaveUp => None,
        }
    }

    /// The seed is there. Others may have committed its block later than this node, and count from
    /// then: so it goes on for a second window.
    pub(super) fn begin(
        &mut self,
        challenge: Challenge,
        now_ms: u64,
        outputs: &mut Vec<RoundOutput>,
    ) {
        let window_ms = challenge.universe().parameters.window_ms;
        self.give_up_ms = now_ms.saturating_add(window_ms.saturating_mul(2));
        self.stage = Stage::Walking;
        outputs.push(RoundOutput::Walk(Box::new(Walk::new(challenge))));
    }

    /// The seed is there, and it is too late for it.
    pub(super) fn miss(&mut self, outputs: &mut Vec<RoundOutput>) {
        self.give_up(Failure::Over, outputs);
    }

    /// Its chain was read, or cannot be.
    pub(super) fn walked(
        &mut self,
        now_ms: u64,
        walked: Result<Answer, WalkError>,
        universe: &Universe,
        outputs: &mut Vec<RoundOutput>,
    ) {
        if !matches!(self.stage, Stage::Walking) {
            return;
        }
        match walked {
            Err(error) => self.give_up(error.into(), outputs),
            Ok(_) if now_ms > self.give_up_ms => self.give_up(Failure::TooSlow, outputs),
            Ok(answer) => {
                let Commitment { node, end, .. } = *answer.commitment();
                outputs.push(RoundOutput::Commit(*answer.commitment()));
                let fact = ChallengeFact::new(universe, node, end);
                self.stage = Stage::Committed { fact, transcript: answer.transcript().clone() };
            }
        }
    }

    fn give_up(&mut self, failure: Failure, outputs: &mut Vec<RoundOutput>) {
        outputs.push(RoundOutput::GaveUp(failure));
        self.stage = Stage::GaveUp;
    }

    /// Time has passed: it may be too late, or time to submit again.
    pub(super) fn tick(
        &mut self,
        (now_ms, config): (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        match &mut self.stage {
            Stage::Walking if now_ms > self.give_up_ms => {
                self.give_up(Failure::TooSlow, outputs);
            }
            Stage::Submitted { certificate, times, again_ms }
                if *times < config.attempts_max && now_ms >= *again_ms =>
            {
                *times += 1;
                *again_ms = submit_again_ms(now_ms, config);
                outputs.push(RoundOutput::Submit(certificate.clone()));
            }
            _ => {}
        }
    }

    /// What the member at `position` gets that asks for the transcript, so often at most: nothing
    /// once enough have acknowledged it.
    pub(super) fn transcript(&mut self, position: usize, answers_max: u32) -> Option<Bytes> {
        let Stage::Committed { transcript, .. } = &self.stage else {
            return None;
        };
        let answered = self.answered.entry(position).or_default();
        *answered = answered.saturating_add(1);
        (*answered <= answers_max).then(|| transcript.clone())
    }

    /// The member at `position` says that it acknowledges.
    pub(super) fn acknowledged(
        &mut self,
        universe: &Arc<Universe>,
        (position, signature): (usize, BlsSignature),
        most: u32,
        outputs: &mut Vec<RoundOutput>,
    ) {
        if let Stage::Committed { fact, .. } = self.stage {
            self.acknowledged.add(position, signature, most);
            let joining = self.acknowledged.join(universe, fact);
            outputs.extend(joining.map(|joining| RoundOutput::Join(Box::new(joining))));
        }
    }

    /// Acknowledgements have been joined.
    pub(super) fn joined(
        &mut self,
        universe: &Arc<Universe>,
        joined: Joined,
        (now_ms, config): (u64, &RoundConfig),
        outputs: &mut Vec<RoundOutput>,
    ) {
        let Stage::Committed { fact, .. } = self.stage else {
            return;
        };
        let (certificate, liars) = self.acknowledged.joined(joined);
        outputs.extend(liars.into_iter().map(|position| RoundOutput::Ignored {
            node: universe.committee.members()[position].node,
            reason: Ignored::FalseAcknowledgement,
        }));
        if let Some(certificate) = certificate.map(Box::new) {
            outputs.push(RoundOutput::Submit(certificate.clone()));
            let again_ms = submit_again_ms(now_ms, config);
            self.stage = Stage::Submitted { certificate, times: 1, again_ms };
        } else {
            // More may have come meanwhile.
            let joining = self.acknowledged.join(universe, fact);
            outputs.extend(joining.map(|joining| RoundOutput::Join(Box::new(joining))));
        }
    }

    /// The certificate is on the ledger.
    pub(super) fn certified(&mut self) {
        self.stage = Stage::Certified;
    }
}

const fn submit_again_ms(now_ms: u64, config: &RoundConfig) -> u64 {
    now_ms.saturating_add(config.retry_ms.saturating_mul(WAITS_UNTIL_SUBMITTED_AGAIN))
}
