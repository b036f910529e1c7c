//! Signing and journaling: once for each place, and on record before anyone hears of it.

use malachite_types::{SignedMessage, TimeoutKind, Validity as CoreValidity};

use super::{
    super::{
        body::Cut,
        context::{Context, CoreProposal, CoreVote, from_core, number, to_core},
        error::Fault,
        event::Output,
        journal::{JournalEntry, Step},
        message::Proposal,
        replica::CoreInput,
    },
    Host, Replay,
};
use crate::keys::Signature;

/// Signatures.
impl Host {
    pub(super) fn sign_vote(&mut self, vote: &CoreVote) -> SignedMessage<Context, CoreVote> {
        let plain = vote.to_vote();
        let place = (plain.round, plain.kind);
        let signed = match self.signed.get(&place) {
            Some(signed) => *signed,
            None => plain.sign(&self.config.chain, &self.config.key),
        };
        self.signed.insert(place, signed);
        self.precommits.add(&self.committee, &signed.vote, signed.signature);
        to_core(&signed)
    }

    pub(super) fn sign_proposal(
        &mut self,
        proposal: CoreProposal,
    ) -> SignedMessage<Context, CoreProposal> {
        let round = number(proposal.round);
        let signature = match self.blocks.offer_by(round, &self.me()) {
            // Once a round, like votes: only a replica that replays gets here.
            Some(signed) => Some(signed.signature),
            None => self.make_proposal(&proposal),
        };
        if signature.is_none() {
            self.fail(Fault::MissingBody(proposal.value));
        }
        let signature = signature.unwrap_or_else(|| Signature::new([0; 64]));
        SignedMessage::new(proposal, signature)
    }

    fn make_proposal(&mut self, proposal: &CoreProposal) -> Option<Signature> {
        let block = self.blocks.body(&proposal.value)?;
        let cut = Cut::new(&block.body)?;
        let made = Proposal {
            round: number(proposal.round),
            pol_round: proposal.pol_round.as_u32(),
            parts_root: cut.root(),
            parts: cut.parts(),
            proposer: self.me(),
            header: block.header,
        };
        let signed = made.sign(&self.config.chain, &self.config.key);
        self.blocks.offer_add(signed, proposal.value);
        Some(signed.signature)
    }
}

/// The journal.
impl Host {
    /// Journals, unless the entry is being replayed or nobody votes here.
    pub(in super::super) fn journal(&mut self, entry: JournalEntry) {
        let recorded =
            self.replay.as_ref().is_some_and(|replay| replay.recorded.contains(&entry.to_bytes()));
        if self.abstain || self.decided || recorded {
            return;
        }
        self.unflushed = true;
        self.outputs.push(Output::Journal(entry));
    }

    pub(in super::super) fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed) {
            self.outputs.push(Output::Flush);
        }
    }

    /// The entry for an input that the core wants to survive.
    pub(super) fn entry(&self, input: CoreInput) -> Option<JournalEntry> {
        Some(match input {
            CoreInput::Vote(vote) => JournalEntry::Vote(from_core(&vote)),
            CoreInput::Proposal(proposal) => {
                let CoreProposal { round, value, .. } = proposal.message;
                let signed = self.blocks.offer(number(round), &value)?;
                JournalEntry::Proposal(Box::new(*signed))
            }
            CoreInput::ProposedValue(proposed, _) => JournalEntry::Value {
                block: proposed.value,
                round: number(proposed.round),
                valid: proposed.validity == CoreValidity::Valid,
            },
            CoreInput::TimeoutElapsed(timeout) => {
                let step = match timeout.kind {
                    TimeoutKind::Propose => Step::Propose,
                    TimeoutKind::Prevote => Step::Prevote,
                    TimeoutKind::Precommit => Step::Precommit,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
                };
                JournalEntry::Timeout { step, round: number(timeout.round) }
            }
            CoreInput::PolkaCertificate(polka) => JournalEntry::Polka(self.polka(&polka)),
            // Never journaled: made again by the replica, or dissolved into votes.
            CoreInput::StartHeight(..)
            | CoreInput::RoundCertificate(_)
            | CoreInput::Propose(_)
            | CoreInput::SyncValueResponse(_) => return None,
        })
    }

    /// From here on `entries` are fed to the core again.
    pub(in super::super) fn begin_replay(&mut self, entries: &[JournalEntry]) {
        let recorded = entries.iter().map(JournalEntry::to_bytes).collect();
        self.replay = Some(Replay { recorded, messages: Vec::new() });
    }

    /// Sends what the replay wanted sent in the round it led to, and what it had to make anew.
    pub(in super::super) fn end_replay(&mut self, round: u32) {
        let Some(replay) = self.replay.take() else { return };
        for message in replay.messages {
            if message.round() >= round {
                self.broadcast(message);
            }
        }
    }
}
