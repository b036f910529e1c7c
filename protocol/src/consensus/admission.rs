//! What a replica takes from gossip and block sync.
//!
//! Gossip punishes whoever passes on a message that its receiver rejects. Honest nodes are in
//! different states: a block behind, rounds ahead, before or after the end of an epoch, with another
//! committee in mind. What one of them may pass on, another must not reject.
//!
//! Invariants: a message is rejected only for what it is wrong in by itself, in every state that an
//! honest node can be in: a signature that does not verify, a round that its header cannot have, a
//! bundle that proves nothing to the committee of its height, which is the same for all who have
//! come to it. Whose vote counts and whose turn it is depends on the state: what fails there is
//! ignored. Nothing is forwarded that has not passed every check that somebody may reject it by.
//! The core is fed only what members signed, and proposals only from the member whose turn it is, so
//! strangers fill no slot and cost no memory; of each of the next heights a few messages per member
//! are kept, of this committee or the next, of later ones none; cheap checks come before signatures.

use std::sync::Arc;

use malachite_core::MAX_FUTURE_ROUND_LOOKAHEAD;
use malachite_types::{
    NilOrVal, Round, RoundCertificate as CoreRound, RoundCertificateType, RoundSignature, VoteType,
};

use super::{
    body::{Assembly, binds},
    certificate::{PolkaCertificate, RoundCertificate, RoundCertificateKind},
    context::to_core,
    error::Fault,
    event::{Output, Validity, Verdict},
    host::Host,
    message::{BodyPart, ConsensusMessage, SignedProposal},
    replica::{Replica, Running},
    validators::Validators,
};
use crate::{
    ledger::{Block, BlockHash, Header},
    vote::{CommitCertificate, SignedVote, VoteKind},
};

type CoreInput = malachite_core::Input<super::context::Context>;

/// Rounds around the one under way for which parts are taken.
const PART_ROUNDS_BEHIND: u32 = 1;
const PART_ROUNDS_AHEAD: u32 = 2;

/// The furthest height of which messages are kept: with a round trip of 400 ms and blocks every
/// 50 ms, a node that has just caught up is eight behind, and hears of as many while it fetches them.
const EARLY_HEIGHTS_MAX: u64 = 16;
/// The furthest round of a later height of which messages are kept.
const MAX_EARLY_ROUND: u32 = 3;

impl Replica {
    /// Takes a message from gossip, or not.
    pub(super) fn admit(&mut self, message: ConsensusMessage) -> Result<Verdict, Fault> {
        let Some(running) = self.running() else { return Ok(Verdict::Ignore) };
        let (height, decided) = (running.host.height, running.host.decided);
        if message.height() < height {
            return Ok(self.admit_late(&message));
        }
        if message.height() > height {
            let ahead = message.height().get() - height.get();
            let is_soon = ahead <= EARLY_HEIGHTS_MAX;
            return Ok(if is_soon { self.admit_early(message) } else { Verdict::Ignore });
        }
        match message {
            ConsensusMessage::Vote(vote) if decided => self.admit_after_decision(&vote),
            _ if decided => Ok(Verdict::Ignore),
            ConsensusMessage::Vote(vote) => running.admit_vote(vote, false),
            ConsensusMessage::Proposal(signed) => self.admit_proposal(&signed, false),
            ConsensusMessage::Part(part) => {
                if running.host.blocks.offers(part.round).is_empty() {
                    if running.takes_parts(part.round) {
                        self.early.add_part(part);
                    }
                    return Ok(Verdict::Ignore);
                }
                Ok(running.admit_part(part))
            }
            ConsensusMessage::Polka(certificate) => running.admit_polka(&certificate),
            ConsensusMessage::Round(certificate) => running.admit_round(&certificate),
        }
    }

    /// Takes a message that came before its height, with its signature verified.
    pub(super) fn readmit(&mut self, message: ConsensusMessage) -> Result<(), Fault> {
        let Some(running) = self.running() else { return Ok(()) };
        match message {
            ConsensusMessage::Vote(vote) => running.admit_vote(vote, true).map(drop),
            ConsensusMessage::Proposal(signed) => self.admit_proposal(&signed, true).map(drop),
            // Kept apart, and taken when their proposal comes.
            ConsensusMessage::Part(_) | ConsensusMessage::Polka(_) | ConsensusMessage::Round(_) => {
                Ok(())
            }
        }
    }

    fn admit_proposal(
        &mut self,
        signed: &SignedProposal,
        verified: bool,
    ) -> Result<Verdict, Fault> {
        let Some(running) = self.running() else { return Ok(Verdict::Ignore) };
        let verdict = running.admit_proposal(signed, verified)?;
        if verdict == Verdict::Forward {
            let (height, round) = (running.host.height, signed.proposal.round);
            let parts = self.early.take_parts(height, round);
            if let Some(running) = self.running() {
                for part in parts {
                    running.admit_part(part);
                }
            }
        }
        Ok(verdict)
    }

    /// A precommit for a recent block is worth keeping, everything else of the past is not.
    fn admit_late(&mut self, message: &ConsensusMessage) -> Verdict {
        let ConsensusMessage::Vote(vote) = message else { return Verdict::Ignore };
        if !self.recent.wants(&vote.vote) {
            return Verdict::Ignore;
        }
        if !vote.verify(self.chain()) {
            return Verdict::Reject;
        }
        self.recent.add(&vote.vote, vote.signature);
        Verdict::Forward
    }

    /// A vote of the height just decided: counted as present, or as a contradiction.
    fn admit_after_decision(&mut self, vote: &SignedVote) -> Result<Verdict, Fault> {
        let wanted = self.recent.wants(&vote.vote);
        let Some(running) = self.running() else { return Ok(Verdict::Ignore) };
        let verdict = running.admit_vote(*vote, false)?;
        if wanted && verdict == Verdict::Forward {
            self.recent.add(&vote.vote, vote.signature);
        }
        Ok(verdict)
    }

    /// A message of one of the next heights. One that is known already still says that others are there.
    fn admit_early(&mut self, message: ConsensusMessage) -> Verdict {
        let verdict = self.keep_early(message);
        self.announce_next();
        verdict
    }

    /// Says that others have begun the next height, if this one is decided and a member's message
    /// shows it.
    pub(super) fn announce_next(&mut self) {
        let Some(running) = &mut self.running else { return };
        if running.host.decided && self.early.has_begun(running.host.height.next()) {
            running.host.outputs.push(Output::NextHeight);
        }
    }

    /// Keeps a message of one of the next heights, judged by the committee of this one and by the next
    /// epoch's: which of them it belongs to is known when this height is over.
    fn keep_early(&mut self, message: ConsensusMessage) -> Verdict {
        let Some(running) = &self.running else { return Verdict::Ignore };
        if message.round() > MAX_EARLY_ROUND {
            return Verdict::Ignore;
        }
        let chain = running.host.config.chain;
        let next = running.host.next.iter();
        match message {
            ConsensusMessage::Vote(vote) => {
                let is_member = next.clone().any(|voters| voters.get(&vote.vote.voter).is_some());
                if !is_member || !self.early.wants_vote(&vote) {
                    return Verdict::Ignore;
                }
                if !vote.verify(&chain) {
                    return Verdict::Reject;
                }
                self.early.add_vote(vote);
            }
            ConsensusMessage::Proposal(signed) => {
                if !signed.proposal.fits_round() {
                    return Verdict::Reject;
                }
                let is_due = |voters: &Validators| voters.is_due_later(&chain, &signed.proposal);
                if !self.early.wants_proposal(&signed) || !next.clone().any(is_due) {
                    return Verdict::Ignore;
                }
                if !signed.verify(&chain) {
                    return Verdict::Reject;
                }
                self.early.add_proposal(*signed);
            }
            ConsensusMessage::Part(part) => {
                self.early.add_part(part);
                return Verdict::Ignore;
            }
            // Sent again if they are still needed then.
            ConsensusMessage::Polka(_) | ConsensusMessage::Round(_) => return Verdict::Ignore,
        }
        Verdict::Forward
    }
}

/// Messages of the height under way.
impl Running {
    fn is_too_far(&self, round: u32) -> bool {
        round > self.round().saturating_add(MAX_FUTURE_ROUND_LOOKAHEAD)
    }

    fn admit_vote(&mut self, signed: SignedVote, verified: bool) -> Result<Verdict, Fault> {
        let vote = signed.vote;
        if self.host.validators.get(&vote.voter).is_none() {
            // Who was a block behind took it for the other committee's.
            return Ok(Verdict::Ignore);
        }
        let core_vote = to_core(&signed);
        let votes = self.core().driver.votes();
        if self.is_too_far(vote.round)
            || votes.has_vote(&core_vote)
            || votes.is_saturated_conflict(&core_vote)
        {
            return Ok(Verdict::Ignore);
        }
        if !verified && !signed.verify(&self.host.config.chain) {
            return Ok(Verdict::Reject);
        }
        if vote.voter == self.host.me() {
            // This node's key signed it, in another life: nothing else may be signed there.
            self.host.remember(signed);
        }
        self.host.precommits.add(&self.host.committee, &vote, signed.signature);
        self.feed(CoreInput::Vote(core_vote))?;
        Ok(Verdict::Forward)
    }

    fn admit_proposal(
        &mut self,
        signed: &SignedProposal,
        verified: bool,
    ) -> Result<Verdict, Fault> {
        let proposal = &signed.proposal;
        if !proposal.fits_round() {
            return Ok(Verdict::Reject);
        }
        if !self.host.validators.is_due(proposal) {
            return Ok(Verdict::Ignore);
        }
        let (round, header) = (proposal.round, proposal.header);
        let hash = header.hash();
        let known = self.host.blocks.offer(round, &hash).is_some();
        if self.is_too_far(round) || known || !self.host.blocks.has_room(round) {
            return Ok(Verdict::Ignore);
        }
        if !verified && !signed.verify(&self.host.config.chain) {
            return Ok(Verdict::Reject);
        }
        self.host.blocks.offer_add(*signed, hash);
        let in_time = self.host.is_in_time(&header);
        let parent_time = self.host.parent_time;
        let candidate = self.host.blocks.entry(hash, header, round, in_time);
        if header.time <= parent_time {
            candidate.validity = Some(Validity::Invalid);
        }
        self.feed(CoreInput::Proposal(Host::core_proposal(signed, hash)))?;
        Ok(Verdict::Forward)
    }

    /// Whether parts of proposals of `round` are of use.
    fn takes_parts(&self, round: u32) -> bool {
        let now = self.round();
        round >= now.saturating_sub(PART_ROUNDS_BEHIND)
            && round <= now.saturating_add(PART_ROUNDS_AHEAD)
    }

    fn admit_part(&mut self, part: BodyPart) -> Verdict {
        if !self.takes_parts(part.round) {
            return Verdict::Ignore;
        }
        let chain = self.host.config.chain;
        let index = part.index;
        let offers = self.host.blocks.offers(part.round).iter();
        let proven = offers.clone().position(|offer| {
            part.verify(&offer.signed.proposal.parts_root, offer.signed.proposal.parts)
        });
        // A part is not signed: it may be of another proposal of a member that made two.
        let Some(position) = proven else { return Verdict::Ignore };
        let hash = self.host.blocks.offers(part.round)[position].block;
        let complete = self.host.blocks.body(&hash).is_some();
        let offer = &mut self.host.blocks.offers_mut(part.round)[position];
        if complete || offer.spoiled {
            return Verdict::Ignore;
        }
        let header = offer.signed.proposal.header;
        let assembly =
            offer.assembly.get_or_insert_with(|| Assembly::new(offer.signed.proposal.parts));
        if assembly.has(index) {
            return Verdict::Ignore;
        }
        if assembly.add(index, part.bytes) {
            let body = assembly.body(&header, &chain);
            offer.assembly = None;
            offer.spoiled = body.is_none();
            if let Some(body) = body {
                self.complete(hash, Block { header, body });
            }
        }
        Verdict::Forward
    }

    /// A block is whole: have it judged, unless it was.
    fn complete(&mut self, hash: BlockHash, block: Block) {
        let Some(candidate) = self.host.blocks.get_mut(&hash) else { return };
        let block = Arc::new(block);
        candidate.block = Some(Arc::clone(&block));
        if candidate.validity.is_none() {
            self.host.outputs.push(Output::Execute { block });
        }
    }

    fn admit_polka(&mut self, certificate: &PolkaCertificate) -> Result<Verdict, Fault> {
        let round = Round::new(certificate.round);
        if self.core().polka_certificate(round, &certificate.block).is_some() {
            return Ok(Verdict::Ignore);
        }
        let (committee, chain) = (&self.host.committee, &self.host.config.chain);
        if certificate.verify(committee, chain).is_err() {
            return Ok(Verdict::Reject);
        }
        self.feed_polka(certificate)?;
        Ok(Verdict::Forward)
    }

    fn admit_round(&mut self, certificate: &RoundCertificate) -> Result<Verdict, Fault> {
        let over = match certificate.kind {
            RoundCertificateKind::Precommit => certificate.round < self.round(),
            RoundCertificateKind::Skip => certificate.round <= self.round(),
        };
        let committee = Arc::clone(&self.host.committee);
        let votes: Vec<_> = certificate.votes(&committee).map(|(_, vote)| vote).collect();
        let known = self.core().driver.votes();
        let news = votes.iter().any(|vote| !known.has_vote(&to_core(vote)));
        if over || !news {
            return Ok(Verdict::Ignore);
        }
        if certificate.verify(&committee, &self.host.config.chain).is_err() {
            return Ok(Verdict::Reject);
        }
        for vote in &votes {
            if vote.vote.voter == self.host.me() {
                self.host.remember(*vote);
            }
            self.host.precommits.add(&committee, &vote.vote, vote.signature);
        }
        self.feed(CoreInput::RoundCertificate(to_core_round(certificate, &votes)))?;
        Ok(Verdict::Forward)
    }

    /// Takes a block from block sync, or not.
    pub(super) fn synced(&mut self, block: Block, certificate: CommitCertificate) -> Verdict {
        let (hash, header) = (block.header.hash(), block.header);
        if self.host.decided || certificate.height != self.host.height {
            return Verdict::Ignore;
        }
        let (committee, chain) = (&self.host.committee, &self.host.config.chain);
        let proven = certificate.block == hash
            && header.height == certificate.height
            && binds(&header, &block.body, chain)
            && certificate.verify(committee, chain).is_ok();
        if !proven {
            return Verdict::Reject;
        }
        let round = certificate.round;
        self.certified = Some(certificate);
        let in_time = self.host.is_in_time(&header);
        let candidate = self.host.blocks.entry(hash, header, round, in_time);
        if candidate.block.is_none() {
            self.complete(hash, block);
        }
        Verdict::Forward
    }
}

impl Host {
    /// Whether a new block's time is near the wall clock's.
    pub(super) fn is_in_time(&self, header: &Header) -> bool {
        let (wall, time) = (self.now.wall, header.time);
        wall.ms_since(time).max(time.ms_since(wall)) <= self.config.max_clock_skew_ms
    }
}

/// The certificate as the core knows it.
fn to_core_round(
    certificate: &RoundCertificate,
    votes: &[SignedVote],
) -> CoreRound<super::context::Context> {
    let round_signatures = votes.iter().map(|SignedVote { vote, signature }| {
        let kind = match vote.kind {
            VoteKind::Prevote => VoteType::Prevote,
            VoteKind::Precommit => VoteType::Precommit,
        };
        let value = vote.block.map_or(NilOrVal::Nil, NilOrVal::Val);
        RoundSignature::new(kind, value, vote.voter, *signature)
    });
    let round_signatures = round_signatures.collect();
    let cert_type = match certificate.kind {
        RoundCertificateKind::Skip => RoundCertificateType::Skip,
        RoundCertificateKind::Precommit => RoundCertificateType::Precommit,
    };
    let round = Round::new(certificate.round);
    CoreRound { height: certificate.height, round, cert_type, round_signatures }
}
