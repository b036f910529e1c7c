//! What is sent, and the core's certificates and evidence in our own terms.

use malachite_core::MisbehaviorEvidence;
use malachite_types::{
    NilOrVal, PolkaCertificate as CorePolka, Round, RoundCertificate as CoreRound,
    RoundCertificateType, SignedMessage, VoteType,
};

use super::{
    super::{
        body::Cut,
        certificate::{PolkaCertificate, RoundCertificate, RoundCertificateKind, RoundVote},
        context::{Context, CoreProposal, from_core, number},
        event::Output,
        message::{ConsensusMessage, Proposal, SignedProposal},
    },
    Host,
};
use crate::{
    keys::NodeId,
    ledger::BlockHash,
    vote::{CommitSignature, Equivocation, SignedVote, VoteKind},
};

/// Gossip.
impl Host {
    pub(super) fn broadcast(&mut self, message: ConsensusMessage) {
        if self.decided {
            return;
        }
        if let Some(replay) = &mut self.replay {
            replay.messages.push(message);
            return;
        }
        self.flush();
        self.outputs.push(Output::Broadcast(message));
    }

    pub(super) fn broadcast_vote(&mut self, vote: &SignedVote) {
        self.broadcast(ConsensusMessage::Vote(*vote));
    }

    pub(super) fn broadcast_round(&mut self, certificate: &CoreRound<Context>) {
        let certificate = self.round(certificate);
        self.broadcast(ConsensusMessage::Round(certificate));
    }

    /// Sends the proposal of a block in a round, and the body.
    pub(in super::super) fn broadcast_proposal(&mut self, round: u32, block: &BlockHash) {
        let Some(signed) = self.blocks.offer(round, block).copied() else { return };
        self.broadcast(ConsensusMessage::Proposal(Box::new(signed)));
        let cut = self.blocks.body(block).and_then(|block| Cut::new(&block.body));
        let Some(cut) = cut else { return };
        for part in cut.messages(&signed.proposal.header, round) {
            self.broadcast(ConsensusMessage::Part(part));
        }
    }

    /// Sends an own proposal again, for those who missed it.
    pub(in super::super) fn repeat_proposal(&mut self, round: u32) {
        let own = self.blocks.offer_by(round, &self.me());
        if let Some(signed) = own {
            let block = signed.proposal.header.hash();
            self.broadcast_proposal(round, &block);
        }
    }

    /// Whose proposal this is, as the core holds it.
    pub(in super::super) fn core_proposal(
        signed: &SignedProposal,
        block: BlockHash,
    ) -> SignedMessage<Context, CoreProposal> {
        let Proposal { round, pol_round, proposer, header, .. } = &signed.proposal;
        let proposal = CoreProposal {
            height: header.height,
            round: Round::new(*round),
            value: block,
            pol_round: Round::from(*pol_round),
            proposer: *proposer,
        };
        SignedMessage::new(proposal, signed.signature)
    }
}

/// Certificates and evidence, between the core's addresses and our positions.
impl Host {
    fn position(&self, node: &NodeId) -> Option<u16> {
        self.committee.position(node).and_then(|position| u16::try_from(position).ok())
    }

    pub(super) fn polka(&self, certificate: &CorePolka<Context>) -> PolkaCertificate {
        let signatures = certificate.polka_signatures.iter().filter_map(|signed| {
            let position = self.position(&signed.address)?;
            Some(CommitSignature { position, signature: signed.signature })
        });
        let mut signatures: Vec<_> = signatures.collect();
        signatures.sort_by_key(|signature| signature.position);
        signatures.dedup_by_key(|signature| signature.position);
        PolkaCertificate {
            height: certificate.height,
            round: number(certificate.round),
            block: certificate.value_id,
            signatures,
        }
    }

    fn round(&self, certificate: &CoreRound<Context>) -> RoundCertificate {
        let votes = certificate.round_signatures.iter().filter_map(|signed| {
            let kind = match signed.vote_type {
                VoteType::Prevote => VoteKind::Prevote,
                VoteType::Precommit => VoteKind::Precommit,
            };
            let block = match signed.value_id {
                NilOrVal::Nil => None,
                NilOrVal::Val(block) => Some(block),
            };
            let position = self.position(&signed.address)?;
            Some(RoundVote { position, kind, block, signature: signed.signature })
        });
        let mut votes: Vec<_> = votes.collect();
        votes.sort_by_key(|vote| vote.position);
        votes.dedup_by_key(|vote| vote.position);
        let kind = match certificate.cert_type {
            RoundCertificateType::Skip => RoundCertificateKind::Skip,
            RoundCertificateType::Precommit => RoundCertificateKind::Precommit,
        };
        let (height, round) = (certificate.height, number(certificate.round));
        RoundCertificate { height, round, kind, votes }
    }

    /// Keeps the votes that contradict each other.
    pub(in super::super) fn take_evidence(&mut self, evidence: &MisbehaviorEvidence<Context>) {
        for (_, pairs) in evidence.votes.iter() {
            self.equivocations.extend(pairs.iter().map(|(first, second)| Equivocation {
                first: from_core(first),
                second: from_core(second),
            }));
        }
    }
}
