//! What follows from an input: decisions, judgements, refusals, own proposals.
//!
//! Invariants: the core hears of a block once its judgement is complete, and only once; a block
//! whose time was refused is held back until a quorum has prevoted it, and meanwhile answered with
//! nil as if its proposal had not come in time, so that no verdict on it has to be taken back.

use std::sync::Arc;

use malachite_core::LocallyProposedValue;
use malachite_types::{Round, Timeout};

use super::{
    blocks::Offer,
    body::Cut,
    error::Fault,
    event::{Output, Validity},
    journal::JournalEntry,
    replica::{CoreInput, Running},
};
use crate::{
    ledger::{Block, BlockHash},
    vote::{CommitCertificate, Equivocation},
};

/// Own blocks and verdicts.
impl Running {
    pub(super) fn proposed(&mut self, round: u32, block: Block) -> Result<(), Fault> {
        if self.host.decided || self.host.wanted != Some(round) {
            // Too late: the round is over.
            return Ok(());
        }
        let (hash, header) = (block.header.hash(), block.header);
        let fits = header.height == self.host.height
            && header.round == round
            && header.proposer == self.host.me()
            && header.time > self.host.parent_time
            && Cut::new(&block.body).is_some();
        if !fits {
            return Err(Fault::OwnBlock(hash));
        }
        if self.own_block(round).is_none() {
            let entry = JournalEntry::Block { block: Box::new(block.clone()), in_time: true };
            self.host.journal(entry);
            let candidate = self.host.blocks.entry(hash, header, round, true);
            candidate.block = Some(Arc::new(block));
            candidate.validity = Some(Validity::Valid);
        }
        Ok(())
    }

    /// The block that this node made for `round`, before or after a restart.
    fn own_block(&self, round: u32) -> Option<BlockHash> {
        let me = self.host.me();
        let mut candidates = self.host.blocks.candidates();
        let own = candidates.find(|(_, candidate)| {
            candidate.header.proposer == me
                && candidate.header.round == round
                && candidate.validity == Some(Validity::Valid)
                && candidate.block.is_some()
        });
        own.map(|(hash, _)| *hash)
    }

    pub(super) fn executed(&mut self, block: &BlockHash, validity: Validity) {
        let Some(candidate) = self.host.blocks.get_mut(block) else { return };
        if candidate.validity.is_some() {
            return;
        }
        candidate.validity = Some(validity);
        let in_time = candidate.in_time;
        if validity == Validity::Valid
            && let Some(block) = &candidate.block
        {
            // Durable before the prevote: what is decided must be at hand.
            let block = Box::new(Block::clone(block));
            self.host.journal(JournalEntry::Block { block, in_time });
        }
    }

    /// Emits the decision; the height is over but for late votes.
    pub(super) fn commit(
        &mut self,
        certificate: CommitCertificate,
        equivocations: Vec<Equivocation>,
    ) -> Result<(), Fault> {
        let body = self.host.blocks.body(&certificate.block);
        let block = Arc::clone(body.ok_or(Fault::MissingBody(certificate.block))?);
        self.host.flush();
        self.host.stop_timers();
        self.host.decided = true;
        // The core may not know of the decision. It goes on taking votes, for what they may
        // contradict, but has no say any more.
        self.core.params.enabled = false;
        self.host.outputs.push(Output::Commit { block, certificate, equivocations });
        Ok(())
    }
}

/// Settling.
impl Running {
    /// Does all that is due; the certificate, once, if the height is decided.
    pub(super) fn settle(&mut self) -> Result<Option<CommitCertificate>, Fault> {
        while !self.host.decided {
            if let Some(certificate) = self.decision()? {
                self.harvest();
                return Ok(Some(certificate));
            }
            if let Some((block, round, valid)) = self.judged() {
                if let Some(candidate) = self.host.blocks.get_mut(&block) {
                    candidate.told = true;
                }
                self.tell(block, round, valid)?;
            } else if self.must_refuse() {
                let round = self.core.round();
                self.feed(CoreInput::TimeoutElapsed(Timeout::propose(round)))?;
            } else if !self.propose()? {
                break;
            }
        }
        self.report_missing();
        let (host, core) = (&mut self.host, &self.core);
        let kept = core.driver.valid_value().map(|valid| valid.value);
        let (precommits, committee) = (&host.precommits, &host.committee);
        host.blocks
            .forget_bodies(|block| Some(*block) == kept || precommits.is_backed(committee, block));
        Ok(None)
    }

    /// A block that a quorum precommitted and that this node can commit.
    fn decision(&self) -> Result<Option<CommitCertificate>, Fault> {
        let counted =
            self.host.precommits.quorum().map(|(round, block)| {
                self.host.precommits.certificate(self.host.height, round, block)
            });
        for certificate in counted.into_iter().chain(self.certified.clone()) {
            let Some(candidate) = self.host.blocks.get(&certificate.block) else { continue };
            match candidate.validity {
                Some(Validity::Valid) if candidate.block.is_some() => {
                    return Ok(Some(certificate));
                }
                Some(Validity::Invalid) => {
                    return Err(Fault::InvalidDecision(certificate.block));
                }
                Some(Validity::Valid) | None => {}
            }
        }
        Ok(None)
    }

    /// Says once that the block of a quorum is not at hand.
    fn report_missing(&mut self) {
        let Some((_, block)) = self.host.precommits.quorum() else { return };
        if self.host.decided || self.missed || self.host.blocks.body(&block).is_some() {
            return;
        }
        self.missed = true;
        self.host.outputs.push(Output::Missing { height: self.host.height, block });
    }

    /// A block whose judgement is complete and of which the core was not told. One whose time was
    /// refused is held back until a quorum has prevoted it.
    fn judged(&self) -> Option<(BlockHash, u32, bool)> {
        let mut candidates = self.host.blocks.candidates();
        let (block, candidate) = candidates.find(|(block, candidate)| {
            !candidate.told
                && match candidate.validity {
                    None => false,
                    Some(Validity::Invalid) => true,
                    Some(Validity::Valid) => {
                        let own = candidate.header.proposer == self.host.me();
                        // An own block goes to the core as a proposal.
                        let pending = own && self.host.wanted == Some(candidate.header.round);
                        !pending && (candidate.in_time || self.has_polka_for(block))
                    }
                }
        })?;
        Some((*block, candidate.round, candidate.validity == Some(Validity::Valid)))
    }

    /// Whether the proposal of this round can only be answered with nil, right away.
    fn must_refuse(&self) -> bool {
        if !self.core.driver.step_is_propose() {
            return false;
        }
        let offers = self.host.blocks.offers(self.round());
        let refused = |offer: &Offer| {
            let candidate = self.host.blocks.get(&offer.block);
            let in_time = candidate.is_some_and(|candidate| candidate.in_time);
            let is_new = offer.signed.proposal.pol_round.is_none();
            offer.spoiled || (is_new && !in_time && !self.has_polka_for(&offer.block))
        };
        !offers.is_empty() && offers.iter().all(refused)
    }

    /// Proposes an own block, or asks for one; true if the core was fed.
    fn propose(&mut self) -> Result<bool, Fault> {
        let Some(round) = self.host.wanted else { return Ok(false) };
        if self.host.blocks.offer_by(round, &self.host.me()).is_some() {
            self.host.wanted = None;
            return Ok(true);
        }
        if let Some(value) = self.own_block(round) {
            self.host.wanted = None;
            if let Some(candidate) = self.host.blocks.get_mut(&value) {
                candidate.told = true;
            }
            let height = self.host.height;
            let round = Round::new(round);
            self.feed(CoreInput::Propose(LocallyProposedValue { height, round, value }))?;
            return Ok(true);
        }
        if self.asked != Some(round) {
            self.asked = Some(round);
            self.host.outputs.push(Output::Propose { height: self.host.height, round });
        }
        Ok(false)
    }
}
