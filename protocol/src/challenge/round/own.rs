//! A node's own part in a round: it walks its chain, commits itself, and collects acknowledgements.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Failure, Ignored, RoundOutput};
use crate::{
    challenge::{
        Challenge, ChallengeCertificate, ChallengeFact, Commitment, StepProof, Universe, Walk,
    },
    committee::{CommitteeFact, Member},
    keys::{BlsSignature, NodeId},
};

/// How far it is.
#[derive(Clone, Debug)]
enum Stage {
    /// Without seed.
    Waiting,
    /// Something is being read.
    Walking(Box<Walk>),
    /// Its chain has ended: acknowledgements are collected.
    Committed {
        fact: ChallengeFact,
        transcript: Bytes,
    },
    /// Enough have acknowledged.
    Submitted,
    /// The certificate is on the ledger.
    Certified,
    GaveUp,
}

/// An acknowledgement, and whether it was verified on its own.
#[derive(Clone, Copy, Debug)]
struct Signed {
    signature: BlsSignature,
    verified: bool,
}

/// By position.
type Acknowledgements = BTreeMap<usize, Signed>;

/// The own part.
#[derive(Clone, Debug)]
pub(super) struct Own {
    stage: Stage,
    give_up_ms: u64,
    acknowledged: Acknowledgements,
    /// Positions of those that signed something else.
    liars: BTreeSet<usize>,
    /// How often each position got the transcript.
    answered: BTreeMap<usize, u32>,
}

impl Own {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Waiting,
            give_up_ms: u64::MAX,
            acknowledged: BTreeMap::new(),
            liars: BTreeSet::new(),
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
        matches!(self.stage, Stage::Submitted)
    }

    pub(super) const fn has_given_up(&self) -> bool {
        matches!(self.stage, Stage::GaveUp)
    }

    /// When it gives up if it has not committed itself.
    pub(super) const fn give_up_ms(&self) -> Option<u64> {
        match self.stage {
            Stage::Walking(_) => Some(self.give_up_ms),
            Stage::Waiting
            | Stage::Committed { .. }
            | Stage::Submitted
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
        self.go_on(Walk::new(challenge), outputs);
    }

    /// Something was read for `step`.
    pub(super) fn read(
        &mut self,
        (now_ms, step): (u64, u16),
        proof: Option<StepProof>,
        universe: (&Universe, NodeId),
        outputs: &mut Vec<RoundOutput>,
    ) {
        let mut walk = match std::mem::replace(&mut self.stage, Stage::GaveUp) {
            Stage::Walking(walk) if walk.step() == step => walk,
            other => {
                self.stage = other;
                return;
            }
        };
        let taken = match proof {
            None => Err(Failure::Absent { step }),
            Some(_) if now_ms > self.give_up_ms => Err(Failure::TooSlow { step }),
            Some(proof) => walk.take(&proof).map_err(|error| Failure::Damaged { step, error }),
        };
        if let Err(failure) = taken {
            outputs.push(RoundOutput::GaveUp(failure));
            return;
        }
        if walk.place().is_some() {
            return self.go_on(*walk, outputs);
        }
        if let Some((end, transcript)) = walk.end() {
            let (universe, node) = universe;
            outputs.push(RoundOutput::Commit(Commitment { round: universe.round, node, end }));
            let fact = ChallengeFact::new(universe, node, end);
            self.stage = Stage::Committed { fact, transcript };
        }
    }

    fn go_on(&mut self, walk: Walk, outputs: &mut Vec<RoundOutput>) {
        let step = walk.step();
        if let Some(place) = walk.place() {
            outputs.push(RoundOutput::Read { step, place: Box::new(place) });
            self.stage = Stage::Walking(Box::new(walk));
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64, outputs: &mut Vec<RoundOutput>) {
        if let Stage::Walking(walk) = &self.stage
            && now_ms > self.give_up_ms
        {
            outputs.push(RoundOutput::GaveUp(Failure::TooSlow { step: walk.step() }));
            self.stage = Stage::GaveUp;
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

    /// The member at `position` says that it acknowledges. Signatures are verified joined, as mostly
    /// all are true; if they are not, each is, once.
    pub(super) fn acknowledged(
        &mut self,
        universe: &Universe,
        (position, signature): (usize, BlsSignature),
        outputs: &mut Vec<RoundOutput>,
    ) {
        let Stage::Committed { fact, .. } = &self.stage else {
            return;
        };
        if self.liars.contains(&position) || self.acknowledged.contains_key(&position) {
            return;
        }
        self.acknowledged.insert(position, Signed { signature, verified: false });
        let mut certificate = join(universe, *fact, &self.acknowledged);
        if certificate == Some(None) {
            let members = universe.committee.members();
            self.acknowledged.retain(|position, signed| {
                let Member { node, bls_key, .. } = &members[*position];
                let (chain, signature) = (&universe.chain, &signed.signature);
                signed.verified = signed.verified || fact.verify(chain, bls_key, signature);
                if !signed.verified {
                    self.liars.insert(*position);
                    let (node, reason) = (*node, Ignored::FalseAcknowledgement);
                    outputs.push(RoundOutput::Ignored { node, reason });
                }
                signed.verified
            });
            certificate = join(universe, *fact, &self.acknowledged);
        }
        if let Some(Some(certificate)) = certificate {
            outputs.push(RoundOutput::Submit(Box::new(certificate)));
            self.stage = Stage::Submitted;
        }
    }

    /// The certificate is on the ledger.
    pub(super) fn certified(&mut self) {
        self.stage = Stage::Certified;
    }
}

/// The certificate of these acknowledgements: none if they weigh too little, none in some if they
/// are not all true.
fn join(
    universe: &Universe,
    fact: ChallengeFact,
    acknowledged: &Acknowledgements,
) -> Option<Option<ChallengeCertificate>> {
    let (committee, chain) = (&universe.committee, &universe.chain);
    let weight = acknowledged.keys().map(|at| committee.members()[*at].weight()).sum();
    committee.is_validity(weight).then(|| {
        let signatures = acknowledged.iter().map(|(at, signed)| (*at, signed.signature));
        let signatures: Vec<_> = signatures.collect();
        let certificate = ChallengeCertificate::new(committee, fact, &signatures).ok();
        certificate.filter(|certificate| certificate.verify(committee, chain).is_ok())
    })
}
