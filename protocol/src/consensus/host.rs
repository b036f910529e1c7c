//! What the core's effects do: timers, signatures, journal, gossip.
//!
//! Invariants: a host lives for one height, so no timer or vote of another can be met; every place
//! (round and step) is signed once, whatever the core asks for, before or after a restart; nothing
//! is broadcast before a [`Output::Flush`] that covers the journal; what is fed to the core has
//! been authenticated before, so it is not verified again. Handling an effect cannot fail: the
//! first fault is kept and stops the replica, for the core's own loop would swallow it.

mod gossip;
mod journaling;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use malachite_core::{Effect, LivenessMsg, Resumable, Resume, SignedConsensusMsg};
use malachite_types::{Timeout, TimeoutKind};

use super::{
    blocks::Blocks,
    config::{Config, Now},
    context::{Context, CoreProposal, from_core, number},
    error::Fault,
    event::{Output, Start},
    message::ConsensusMessage,
    precommits::Precommits,
    validators::Validators,
};
use crate::{
    committee::Committee,
    index::Height,
    keys::NodeId,
    ledger::Timestamp,
    vote::{Equivocation, SignedVote, VoteKind},
};

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
    /// Those of the next height: if the epoch goes on, and if it ends with this one.
    pub(super) next: Vec<Validators>,
    pub(super) parent_time: Timestamp,
    /// Told to, or no member: nothing is signed, so nothing is journaled.
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
    pub(super) fn new(config: Config, start: &Start, now: Now) -> Self {
        let of = |height, committee: &Committee| Validators::new(&config.chain, height, committee);
        let validators = of(start.height, &start.committee);
        let next = std::iter::once(&start.committee).chain(&start.next);
        let next = next.map(|committee| of(start.height.next(), committee)).collect();
        let is_member = validators.get(&config.key.public()).is_some();
        Self {
            config,
            height: start.height,
            committee: Arc::clone(&start.committee),
            validators,
            next,
            parent_time: start.parent_time,
            abstain: start.abstain || !is_member,
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
            Effect::SignVote(vote, resume) => resume.resume_with(self.sign_vote(&vote)),
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
