//! What the core's effects do: timers, signatures, journal, gossip.
//!
//! Invariants: a host lives for one height, so no timer or vote of another can be met; every place
//! (round and step) is signed once, whatever the core asks for, before or after a restart; nothing
//! is broadcast before a [`Output::Flush`] that covers the journal; what is fed to the core has
//! been authenticated before, so it is not verified again. Handling an effect cannot fail: the
//! first fault is kept and stops the replica, for the core's own loop would swallow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malachite_core::{
    Effect, LivenessMsg, MisbehaviorEvidence, Resumable, Resume, SignedConsensusMsg,
};
use malachite_types::{
    NilOrVal, PolkaCertificate as CorePolka, Round, RoundCertificate as CoreRound,
    RoundCertificateType, SignedMessage, Timeout, TimeoutKind, Validity as CoreValidity, VoteType,
};

use super::{
    blocks::Blocks,
    body::Cut,
    certificate::{PolkaCertificate, RoundCertificate, RoundCertificateKind, RoundVote},
    config::{Config, Now},
    context::{Context, CoreProposal, CoreVote, from_core, number},
    error::Fault,
    event::Output,
    journal::{JournalEntry, Step},
    message::{ConsensusMessage, Proposal, SignedProposal},
    precommits::Precommits,
    validators::Validators,
};
use crate::{
    committee::Committee,
    index::Height,
    keys::{NodeId, Signature},
    ledger::{BlockHash, Timestamp},
    vote::{CommitSignature, Equivocation, SignedVote, VoteKind},
};

type Input = malachite_core::Input<Context>;

/// The journal being replayed.
#[derive(Debug, Default)]
struct Replay {
    /// What need not be journaled again.
    recorded: BTreeSet<Vec<u8>>,
    /// What was to be sent; most of it is of the past.
    messages: Vec<ConsensusMessage>,
}

/// Everything of one height that is not the core's.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) config: Config,
    pub(super) height: Height,
    pub(super) committee: Arc<Committee>,
    pub(super) validators: Validators,
    pub(super) parent_time: Timestamp,
    pub(super) abstain: bool,
    pub(super) now: Now,
    pub(super) outputs: Vec<Output>,
    pub(super) blocks: Blocks,
    pub(super) precommits: Precommits,
    pub(super) equivocations: Vec<Equivocation>,
    /// The round for which the core waits for an own block.
    pub(super) wanted: Option<u32>,
    pub(super) decided: bool,
    /// What this node's key signed, ever, at this height.
    signed: BTreeMap<(u32, VoteKind), SignedVote>,
    /// By deadline, then order of setting.
    timers: BTreeMap<(Duration, u64), Timeout>,
    timers_set: u64,
    /// Journaled, but not flushed.
    unflushed: bool,
    replay: Option<Replay>,
    fault: Option<Fault>,
}

impl Host {
    pub(super) fn new(config: Config, start: &super::Start, now: Now) -> Self {
        let validators = Validators::new(&config.chain, start.height, &start.committee);
        Self {
            config,
            height: start.height,
            committee: Arc::clone(&start.committee),
            validators,
            parent_time: start.parent_time,
            abstain: start.abstain,
            now,
            outputs: Vec::new(),
            blocks: Blocks::default(),
            precommits: Precommits::default(),
            equivocations: Vec::new(),
            wanted: None,
            decided: false,
            signed: BTreeMap::new(),
            timers: BTreeMap::new(),
            timers_set: 0,
            unflushed: false,
            replay: None,
            fault: None,
        }
    }

    pub(super) fn me(&self) -> NodeId {
        self.config.key.public()
    }

    /// The first fault met, once.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Takes note of a vote of this node's key, from the journal or from gossip: whoever signed
    /// it, nothing else may be signed in its place.
    pub(super) fn remember(&mut self, vote: SignedVote) {
        self.signed.entry((vote.vote.round, vote.vote.kind)).or_insert(vote);
    }

    /// Does what the core wants.
    pub(super) fn perform(&mut self, effect: Effect<Context>) -> Resume<Context> {
        match effect {
            Effect::CancelAllTimeouts(resume) => {
                self.timers.clear();
                resume.resume_with(())
            }
            Effect::CancelTimeout(timeout, resume) => {
                self.timers.retain(|_, set| *set != timeout);
                resume.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, resume) => {
                self.schedule(timeout);
                resume.resume_with(())
            }
            Effect::StartRound(_, round, _, _, resume) => {
                self.flush();
                self.wanted = None;
                self.blocks.forget_parts(number(round).saturating_sub(1));
                resume.resume_with(())
            }
            Effect::GetValue(_, round, _, resume) => {
                self.wanted = Some(number(round));
                resume.resume_with(())
            }
            Effect::PublishConsensusMsg(message, resume) => {
                match message {
                    SignedConsensusMsg::Vote(vote) => self.broadcast_vote(&from_core(&vote)),
                    SignedConsensusMsg::Proposal(proposal) => {
                        let CoreProposal { round, value, .. } = proposal.message;
                        self.broadcast_proposal(number(round), &value);
                    }
                }
                resume.resume_with(())
            }
            Effect::PublishLivenessMsg(message, resume) => {
                match message {
                    LivenessMsg::Vote(vote) => self.broadcast_vote(&from_core(&vote)),
                    LivenessMsg::PolkaCertificate(certificate) => {
                        let certificate = self.polka(&certificate);
                        self.broadcast(ConsensusMessage::Polka(certificate));
                    }
                    LivenessMsg::SkipRoundCertificate(certificate) => {
                        self.broadcast_round(&certificate);
                    }
                }
                resume.resume_with(())
            }
            Effect::RepublishVote(vote, resume) => {
                self.broadcast_vote(&from_core(&vote));
                resume.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, resume) => {
                self.broadcast_round(&certificate);
                resume.resume_with(())
            }
            effect => self.perform_rest(effect),
        }
    }

    /// The effects that sign, verify, journal and end a height.
    fn perform_rest(&mut self, effect: Effect<Context>) -> Resume<Context> {
        match effect {
            Effect::SignVote(vote, resume) => resume.resume_with(self.sign_vote(vote)),
            Effect::SignProposal(proposal, resume) => {
                resume.resume_with(self.sign_proposal(proposal))
            }
            Effect::WalAppend(_, input, resume) => {
                if let Some(entry) = self.entry(input) {
                    self.journal(entry);
                }
                resume.resume_with(())
            }
            Effect::VerifySignature(_, _, resume) => resume.resume_with(true),
            Effect::VerifyCommitCertificate(_, _, _, resume)
            | Effect::VerifyExtendedCommitCertificate(_, _, _, _, resume)
            | Effect::VerifyPolkaCertificate(_, _, _, resume)
            | Effect::VerifyRoundCertificate(_, _, _, resume) => resume.resume_with(Ok(())),
            Effect::Finalize(_, _, evidence, resume) => {
                self.take_evidence(&evidence);
                resume.resume_with(())
            }
            // The body goes with every proposal published; a quorum of precommits, counted by the
            // replica, decides; synced blocks never pass through the core.
            Effect::RestreamProposal(_, _, _, _, _, resume)
            | Effect::Decide(_, _, resume)
            | Effect::CertVerifiedSyncValue(_, _, resume)
            | Effect::CertRejectedSyncValue(_, _, _, resume) => resume.resume_with(()),
            // Disabled.
            Effect::ExtendVote(_, _, _, _, resume) => resume.resume_with(None),
            Effect::VerifyVoteExtension(_, _, _, _, _, _, resume) => {
                resume.resume_with(Err(malachite_core::VoteExtensionError::InvalidVoteExtension))
            }
            // Handled by the caller.
            Effect::CancelAllTimeouts(resume)
            | Effect::CancelTimeout(_, resume)
            | Effect::ScheduleTimeout(_, resume)
            | Effect::StartRound(_, _, _, _, resume)
            | Effect::GetValue(_, _, _, resume)
            | Effect::PublishConsensusMsg(_, resume)
            | Effect::PublishLivenessMsg(_, resume)
            | Effect::RepublishVote(_, resume)
            | Effect::RepublishRoundCertificate(_, resume) => resume.resume_with(()),
        }
    }
}

/// Timers.
impl Host {
    fn schedule(&mut self, timeout: Timeout) {
        if self.decided {
            return;
        }
        let (timeouts, round) = (self.config.timeouts, number(timeout.round));
        let base_ms = match timeout.kind {
            TimeoutKind::Propose => timeouts.propose_ms,
            TimeoutKind::Prevote => timeouts.prevote_ms,
            TimeoutKind::Precommit => timeouts.precommit_ms,
            TimeoutKind::Rebroadcast => timeouts.rebroadcast_ms,
            // Only with a target time, which is never given.
            TimeoutKind::FinalizeHeight(_) => return,
        };
        // Votes are sent again while others wait for them: that interval does not grow.
        let round = if timeout.kind == TimeoutKind::Rebroadcast { 0 } else { round };
        self.timers.retain(|_, set| *set != timeout);
        let deadline = self.now.monotonic.saturating_add(timeouts.in_round(base_ms, round));
        self.timers_set += 1;
        self.timers.insert((deadline, self.timers_set), timeout);
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Takes the next timer that is due.
    pub(super) fn due(&mut self) -> Option<Timeout> {
        let timer = self.timers.first_entry()?;
        (timer.key().0 <= self.now.monotonic).then(|| timer.remove())
    }

    pub(super) fn stop_timers(&mut self) {
        self.timers.clear();
    }
}

/// Signatures.
impl Host {
    fn sign_vote(&mut self, vote: CoreVote) -> SignedMessage<Context, CoreVote> {
        let plain = vote.to_vote();
        let place = (plain.round, plain.kind);
        let signed = match self.signed.get(&place) {
            Some(signed) => *signed,
            None => plain.sign(&self.config.chain, &self.config.key),
        };
        self.signed.insert(place, signed);
        self.precommits.add(&self.committee, &signed.vote, signed.signature);
        super::context::to_core(&signed)
    }

    fn sign_proposal(&mut self, proposal: CoreProposal) -> SignedMessage<Context, CoreProposal> {
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
    pub(super) fn journal(&mut self, entry: JournalEntry) {
        let recorded =
            self.replay.as_ref().is_some_and(|replay| replay.recorded.contains(&entry.to_bytes()));
        if self.abstain || self.decided || recorded {
            return;
        }
        self.unflushed = true;
        self.outputs.push(Output::Journal(entry));
    }

    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed) {
            self.outputs.push(Output::Flush);
        }
    }

    /// The entry for an input that the core wants to survive.
    fn entry(&self, input: Input) -> Option<JournalEntry> {
        Some(match input {
            Input::Vote(vote) => JournalEntry::Vote(from_core(&vote)),
            Input::Proposal(proposal) => {
                let CoreProposal { round, value, .. } = proposal.message;
                let signed = self.blocks.offer(number(round), &value)?;
                JournalEntry::Proposal(Box::new(*signed))
            }
            Input::ProposedValue(proposed, _) => JournalEntry::Value {
                block: proposed.value,
                round: number(proposed.round),
                valid: proposed.validity == CoreValidity::Valid,
            },
            Input::TimeoutElapsed(timeout) => {
                let step = match timeout.kind {
                    TimeoutKind::Propose => Step::Propose,
                    TimeoutKind::Prevote => Step::Prevote,
                    TimeoutKind::Precommit => Step::Precommit,
                    TimeoutKind::Rebroadcast | TimeoutKind::FinalizeHeight(_) => return None,
                };
                JournalEntry::Timeout { step, round: number(timeout.round) }
            }
            Input::PolkaCertificate(polka) => JournalEntry::Polka(self.polka(&polka)),
            // Never journaled: made again by the replica, or dissolved into votes.
            Input::StartHeight(..)
            | Input::RoundCertificate(_)
            | Input::Propose(_)
            | Input::SyncValueResponse(_) => return None,
        })
    }

    /// From here on `entries` are fed to the core again.
    pub(super) fn begin_replay(&mut self, entries: &[JournalEntry]) {
        let recorded = entries.iter().map(JournalEntry::to_bytes).collect();
        self.replay = Some(Replay { recorded, messages: Vec::new() });
    }

    /// Sends what the replay wanted sent in the round it led to, and what it had to make anew.
    pub(super) fn end_replay(&mut self, round: u32) {
        let Some(replay) = self.replay.take() else { return };
        for message in replay.messages {
            if message.round() >= round {
                self.broadcast(message);
            }
        }
    }
}

/// Gossip.
impl Host {
    fn broadcast(&mut self, message: ConsensusMessage) {
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

    fn broadcast_vote(&mut self, vote: &SignedVote) {
        self.broadcast(ConsensusMessage::Vote(*vote));
    }

    fn broadcast_round(&mut self, certificate: &CoreRound<Context>) {
        let certificate = self.round(certificate);
        self.broadcast(ConsensusMessage::Round(certificate));
    }

    /// Sends the proposal of a block in a round, and the body.
    pub(super) fn broadcast_proposal(&mut self, round: u32, block: &BlockHash) {
        let Some(signed) = self.blocks.offer(round, block).copied() else { return };
        self.broadcast(ConsensusMessage::Proposal(Box::new(signed)));
        let cut = self.blocks.body(block).and_then(|block| Cut::new(&block.body));
        let Some(cut) = cut else { return };
        for part in cut.messages(&signed.proposal.header, round) {
            self.broadcast(ConsensusMessage::Part(part));
        }
    }

    /// Sends an own proposal again, for those who missed it.
    pub(super) fn repeat_proposal(&mut self, round: u32) {
        let own = self.blocks.offer_by(round, &self.me());
        if let Some(signed) = own {
            let block = signed.proposal.header.hash();
            self.broadcast_proposal(round, &block);
        }
    }

    /// Whose proposal this is, as the core holds it.
    pub(super) fn core_proposal(
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

    fn polka(&self, certificate: &CorePolka<Context>) -> PolkaCertificate {
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
    pub(super) fn take_evidence(&mut self, evidence: &MisbehaviorEvidence<Context>) {
        for (_, pairs) in evidence.votes.iter() {
            self.equivocations.extend(pairs.iter().map(|(first, second)| Equivocation {
                first: from_core(first),
                second: from_core(second),
            }));
        }
    }
}
