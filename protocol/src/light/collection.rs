//! How signatures for a hand-over get together: whom a node asks, in which order, what of the
//! answers counts, and when it is enough.
//!
//! Nothing is sent unasked. After a boundary each node that serves light peers collects for
//! itself, but not all at once: members of the ended epoch take turns, another one first in each
//! epoch, and who comes later first asks those before it for the certificate that they may have by
//! then. So most nodes ask a question or two. Signatures are verified joined, as in most cases all
//! are true; if they are not, each is, once.
//!
//! Invariants: pure, the clock is the caller's and only counts milliseconds; a collection ends, with
//! a certificate that verifies or without one; so many questions are on their way at a time, and
//! only answers to those count; who answers with something false is not asked again, and has cost
//! one check. Deliberately not here: asking, and how long an answer may take.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{FinalHeader, Finality};
use crate::{
    committee::{Committee, CommitteeFact, QuorumTracker},
    handover::{HandoverCertificate, HandoverFact},
    keys::{BlsKeyPair, BlsSignature, ChainId, NodeId},
    ledger::Timestamp,
};

/// What bounds a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectionLimits {
    /// Questions on their way at a time.
    pub questions_max: usize,
    /// Nodes that are asked for the certificate in each round.
    pub holders_max: usize,
    /// Rounds in which everybody is asked who has not signed.
    pub rounds_max: u32,
    /// The rest after the first round in milliseconds; each further one is twice as long.
    pub rest_ms: u64,
    /// By how many milliseconds a member begins after the one before it.
    pub turn_ms: u64,
    /// Turns that are waited for at most, and by nodes that were no members.
    pub turns_max: u32,
}

impl Default for CollectionLimits {
    /// A quarter of an hour in all.
    fn default() -> Self {
        Self {
            questions_max: 8,
            holders_max: 2,
            rounds_max: 12,
            rest_ms: 250,
            turn_ms: 200,
            turns_max: 10,
        }
    }
}

/// What to ask a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HandoverQuestion {
    /// For the hand-over, which it may have a certificate for.
    Certificate(NodeId),
    /// For its signature.
    Signature(NodeId),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectionStep {
    /// Ask these. Each question needs one answer, if only that there is none.
    Ask(Vec<HandoverQuestion>),
    /// Go on when an answer has come.
    AwaitAnswer,
    /// Go on at this time.
    Rest(Timestamp),
    /// It is there, and verifies.
    Done(HandoverCertificate),
    /// Too few have signed, for too long.
    GivenUp,
}

/// A signature, and whether it was verified on its own.
#[derive(Clone, Copy, Debug)]
struct Signed {
    signature: BlsSignature,
    verified: bool,
}

/// Collects the signatures of one hand-over.
#[derive(Clone, Debug)]
pub struct HandoverCollection {
    chain: ChainId,
    committee: Arc<Committee>,
    fact: HandoverFact,
    me: NodeId,
    limits: CollectionLimits,
    /// Members in the order of their turns, then others who may have the certificate.
    ranked: Vec<NodeId>,
    /// My turn.
    rank: usize,
    signed: BTreeMap<usize, Signed>,
    liars: BTreeSet<NodeId>,
    /// None before the first step.
    round: Option<u32>,
    rest_until: Timestamp,
    queue: VecDeque<HandoverQuestion>,
    asked: BTreeSet<HandoverQuestion>,
    certificate: Option<HandoverCertificate>,
}

impl HandoverCollection {
    /// Begins to collect what `ended`, the committee of the epoch that has ended, says of `fact`.
    /// The members of `running` may have the certificate, too.
    #[must_use]
    pub fn new(
        chain: ChainId,
        (ended, running): (Arc<Committee>, &Committee),
        fact: HandoverFact,
        me: NodeId,
        limits: CollectionLimits,
    ) -> Self {
        let mut ranked: Vec<_> = ended.members().iter().map(|member| member.node).collect();
        let members = u64::try_from(ranked.len()).unwrap_or(u64::MAX);
        let first = fact.epoch.get().checked_rem(members).unwrap_or(0);
        ranked.rotate_left(usize::try_from(first).unwrap_or(0));
        let turns_max = usize::try_from(limits.turns_max).unwrap_or(usize::MAX);
        let turn = ranked.iter().position(|node| *node == me);
        let others = running.members().iter().map(|member| member.node);
        ranked.extend(others.filter(|node| ended.position(node).is_none()));
        Self {
            chain,
            committee: ended,
            fact,
            me,
            limits,
            ranked,
            rank: turn.unwrap_or(turns_max),
            signed: BTreeMap::new(),
            liars: BTreeSet::new(),
            round: None,
            rest_until: Timestamp::from_ms(0),
            queue: VecDeque::new(),
            asked: BTreeSet::new(),
            certificate: None,
        }
    }

    /// Signs for this node itself, if it was a member. The caller has committed and executed the
    /// block.
    pub fn sign(&mut self, key: &BlsKeyPair) {
        let position = self.committee.position(&self.me);
        let own = |position: &usize| self.committee.members()[*position].bls_key == key.public();
        if let Some(position) = position.filter(own) {
            let signature = self.fact.sign(&self.chain, key);
            self.signed.insert(position, Signed { signature, verified: true });
        }
    }

    /// Nodes that answered with something false.
    #[must_use]
    pub const fn liars(&self) -> &BTreeSet<NodeId> {
        &self.liars
    }

    /// Takes the answer to [`HandoverQuestion::Signature`]; none if the node gave none.
    pub fn on_signature(&mut self, node: NodeId, signature: Option<BlsSignature>) {
        let asked = self.asked.remove(&HandoverQuestion::Signature(node));
        let position = self.committee.position(&node).filter(|_| asked);
        if let (Some(position), Some(signature)) = (position, signature) {
            self.signed.entry(position).or_insert(Signed { signature, verified: false });
        }
    }

    /// Takes the answer to [`HandoverQuestion::Certificate`]: the end of the epoch, as the node tells it;
    /// none if it gave none. Verifies, which takes a millisecond.
    pub fn on_certificate(&mut self, node: NodeId, last: Option<&FinalHeader>) {
        if !self.asked.remove(&HandoverQuestion::Certificate(node)) {
            return;
        }
        let Some(FinalHeader { header, finality }) = last else { return };
        let Finality::Handover(certificate) = finality else { return };
        let right = HandoverFact::new(header) == self.fact && certificate.fact == self.fact;
        if right && certificate.verify(&self.committee, &self.chain).is_ok() {
            self.certificate = Some(certificate.clone());
        } else {
            self.liars.insert(node);
        }
    }

    /// What to do at `now`. Verifies when enough have signed, which takes a millisecond, or one of
    /// each signature if some are false.
    pub fn step(&mut self, now: Timestamp) -> CollectionStep {
        if self.certificate.is_none() {
            self.certificate = self.join();
        }
        if let Some(certificate) = &self.certificate {
            return CollectionStep::Done(certificate.clone());
        }
        let round = match self.round {
            Some(round) => round,
            None => {
                self.rest_until = now.plus_ms(self.turn_ms());
                self.begin(0)
            }
        };
        if now < self.rest_until {
            return CollectionStep::Rest(self.rest_until);
        }
        let questions = self.questions();
        if !questions.is_empty() {
            return CollectionStep::Ask(questions);
        }
        if !self.asked.is_empty() {
            return CollectionStep::AwaitAnswer;
        }
        let next = round.saturating_add(1);
        if next >= self.limits.rounds_max {
            return CollectionStep::GivenUp;
        }
        let times = 1_u64.checked_shl(round).unwrap_or(u64::MAX);
        self.rest_until = now.plus_ms(self.limits.rest_ms.saturating_mul(times));
        self.begin(next);
        CollectionStep::Rest(self.rest_until)
    }

    /// How long those before this node may take.
    fn turn_ms(&self) -> u64 {
        let turns = u64::try_from(self.rank).unwrap_or(u64::MAX).min(self.limits.turns_max.into());
        turns.saturating_mul(self.limits.turn_ms)
    }

    /// Plans the questions of a round.
    fn begin(&mut self, round: u32) -> u32 {
        self.round = Some(round);
        let fit = |node: &&NodeId| **node != self.me && !self.liars.contains(*node);
        // In the first round only those who began before this node have had the time.
        let began = if round == 0 { self.rank.min(self.ranked.len()) } else { self.ranked.len() };
        let mut holders: Vec<_> = self.ranked[..began].iter().filter(fit).copied().collect();
        let first = usize::try_from(round).unwrap_or(0).saturating_mul(self.limits.holders_max);
        let first = first.saturating_add(self.spread());
        let first = first.checked_rem(holders.len()).unwrap_or(0);
        holders.rotate_left(first);
        holders.truncate(self.limits.holders_max);
        let members = self.committee.members().len();
        let mut signers: Vec<_> = self.ranked[..members].iter().filter(fit).copied().collect();
        let lacks = |node: &NodeId| {
            let position = self.committee.position(node);
            position.is_some_and(|position| !self.signed.contains_key(&position))
        };
        signers.retain(lacks);
        let first = self.rank.checked_rem(signers.len()).unwrap_or(0);
        signers.rotate_left(first);
        self.queue = holders
            .into_iter()
            .map(HandoverQuestion::Certificate)
            .chain(signers.into_iter().map(HandoverQuestion::Signature))
            .collect();
        round
    }

    /// Where nodes that were no members begin among the holders, so that not all ask the same.
    fn spread(&self) -> usize {
        if self.committee.position(&self.me).is_some() {
            return 0;
        }
        let bytes = self.me.as_bytes().first_chunk().copied().unwrap_or_default();
        usize::from(u16::from_le_bytes(bytes))
    }

    /// The questions that may go out now. While one for the certificate is on its way, none for
    /// signatures does.
    fn questions(&mut self) -> Vec<HandoverQuestion> {
        let mut questions = Vec::new();
        while self.asked.len() < self.limits.questions_max
            && let Some(question) = self.queue.front().copied()
        {
            let certificate =
                |question: &HandoverQuestion| matches!(question, HandoverQuestion::Certificate(_));
            if !certificate(&question) && self.asked.iter().any(certificate) {
                break;
            }
            self.queue.pop_front();
            let (HandoverQuestion::Certificate(node) | HandoverQuestion::Signature(node)) =
                question;
            if !self.liars.contains(&node) {
                self.asked.insert(question);
                questions.push(question);
            }
        }
        questions
    }

    /// The certificate, if enough have signed. Who signed falsely is found, and left out.
    fn join(&mut self) -> Option<HandoverCertificate> {
        let mut tracker = QuorumTracker::new(&self.committee);
        for position in self.signed.keys() {
            tracker.add(&self.committee, *position);
        }
        if !self.committee.is_quorum(tracker.weight()) {
            return None;
        }
        if let Some(certificate) = self.joined() {
            return Some(certificate);
        }
        let (committee, chain, fact) = (&self.committee, &self.chain, &self.fact);
        let liars = &mut self.liars;
        self.signed.retain(|position, signed| {
            let member = &committee.members()[*position];
            signed.verified =
                signed.verified || fact.verify(chain, &member.bls_key, &signed.signature);
            if !signed.verified {
                liars.insert(member.node);
            }
            signed.verified
        });
        self.joined()
    }

    /// What there is as a certificate, if it is one.
    fn joined(&self) -> Option<HandoverCertificate> {
        let signatures = self.signed.iter().map(|(position, signed)| (*position, signed.signature));
        let signatures: Vec<_> = signatures.collect();
        let certificate = HandoverCertificate::new(&self.committee, self.fact, &signatures).ok()?;
        certificate.verify(&self.committee, &self.chain).is_ok().then_some(certificate)
    }
}
