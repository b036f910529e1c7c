//! The replica: starts heights, feeds the core, answers the driver.
//!
//! What belongs to one height is in [`Running`] and goes with it; what outlives heights is here:
//! messages that come early, precommits that come late, evidence not yet handed over.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use malachite_core::{MisbehaviorEvidence, Params, ProposedValue, State, ThresholdParams};
use malachite_types::{
    PolkaCertificate as CorePolka, PolkaSignature, Round, TimeoutKind, Validity as CoreValidity,
    ValueOrigin, ValuePayload,
};

use super::{
    buffer::EarlyMessages,
    certificate::PolkaCertificate,
    config::{Config, Now},
    context::{Context, number},
    error::Fault,
    event::{Input, Output, Start, Verdict},
    host::Host,
    precommits::RecentPrecommits,
};
use crate::{
    index::Height,
    keys::{ChainId, NodeId},
    ledger::{BlockHash, LatePrecommit},
    vote::{CommitCertificate, Equivocation},
};

pub(super) type CoreInput = malachite_core::Input<Context>;

/// One member's view of consensus, or a follower's.
pub struct Replica {
    config: Config,
    pub(super) running: Option<Running>,
    pub(super) early: EarlyMessages,
    pub(super) recent: RecentPrecommits,
    /// Seen after the last commit.
    equivocations: Vec<Equivocation>,
    stopped: bool,
}

/// The height under way.
pub(super) struct Running {
    pub(super) core: State<Context>,
    pub(super) host: Host,
    /// From block sync, waiting for the block to be executed.
    pub(super) certified: Option<CommitCertificate>,
    /// Whether the driver was asked for the own block of this round.
    pub(super) asked: Option<u32>,
    /// Whether the driver was told that the decided block is missing.
    pub(super) missed: bool,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("node", &self.config.key.public())
            .field("height", &self.height())
            .field("round", &self.round())
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// A replica that waits for its first [`Start`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            running: None,
            early: EarlyMessages::default(),
            recent: RecentPrecommits::default(),
            equivocations: Vec::new(),
            stopped: false,
        }
    }

    /// Handles an input; the outputs are to be acted on in order.
    ///
    /// # Errors
    /// [`Fault`]: the replica has stopped, and so must the node.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<Vec<Output>, Fault> {
        if self.stopped {
            return Err(Fault::Stopped);
        }
        let result = self.handle_input(now, input);
        self.stopped = result.is_err();
        result
    }

    /// When the next [`Input::Tick`] is due, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.running.as_ref()?.host.deadline()
    }

    /// The height under way, or just decided.
    #[must_use]
    pub fn height(&self) -> Option<Height> {
        self.running.as_ref().map(|running| running.host.height)
    }

    /// The round under way.
    #[must_use]
    pub fn round(&self) -> Option<u32> {
        self.running.as_ref()?.core.round().as_u32()
    }

    /// Whether the height is decided: the replica waits for the next [`Start`].
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.host.decided)
    }

    /// Who proposes in a round of the height under way.
    #[must_use]
    pub fn proposer(&self, round: u32) -> Option<NodeId> {
        self.running.as_ref().map(|running| running.host.validators.proposer(round).node)
    }

    /// The highest later height at which voters with more than a third of the weight have voted, by
    /// this height's committee or the next one: one of them is honest, so all before it is committed.
    #[must_use]
    pub fn others_voted_at(&self) -> Option<Height> {
        let committees = self.running.as_ref()?.host.next.iter();
        committees.filter_map(|voters| self.early.voted_at(voters)).max()
    }

    /// The precommits known for recent blocks that no block records yet, by ascending height and
    /// committee position: for the next commit record. `is_recorded` is the ledger's word, and
    /// true for the certificate that the same commit record begins with.
    #[must_use]
    pub fn late_precommits(&self, is_recorded: impl Fn(Height, u16) -> bool) -> Vec<LatePrecommit> {
        self.recent.unrecorded(is_recorded)
    }

    fn handle_input(&mut self, now: Now, input: Input) -> Result<Vec<Output>, Fault> {
        if let Some(running) = &mut self.running {
            running.host.now = now;
        }
        match input {
            Input::Start(start) => self.start(now, &start)?,
            Input::Message(message) => {
                let verdict = self.admit(message)?;
                return self.finish(Some(verdict));
            }
            Input::Synced { block, certificate } => {
                let verdict = match &mut self.running {
                    Some(running) => running.synced(*block, certificate),
                    None => Verdict::Ignore,
                };
                return self.finish(Some(verdict));
            }
            Input::Proposed { round, block } => {
                if let Some(running) = &mut self.running {
                    running.proposed(round, *block)?;
                }
            }
            Input::Executed { block, validity } => {
                if let Some(running) = &mut self.running {
                    running.executed(&block, validity);
                }
            }
            Input::Tick => {
                if let Some(running) = &mut self.running {
                    running.tick()?;
                }
            }
        }
        self.finish(None)
    }

    /// Settles and hands over the outputs, the verdict first.
    fn finish(&mut self, verdict: Option<Verdict>) -> Result<Vec<Output>, Fault> {
        let mut outputs: Vec<_> = verdict.map(Output::Verdict).into_iter().collect();
        let Some(running) = &mut self.running else { return Ok(outputs) };
        if let Some(certificate) = running.settle()? {
            self.recent.decided(
                Arc::clone(&running.host.committee),
                &certificate,
                &running.host.precommits,
            );
            let mut equivocations = std::mem::take(&mut self.equivocations);
            equivocations.append(&mut running.host.equivocations);
            running.commit(certificate, equivocations)?;
            self.announce_next();
        }
        if let Some(running) = &mut self.running {
            outputs.append(&mut running.host.outputs);
        }
        Ok(outputs)
    }

    fn start(&mut self, now: Now, start: &Start) -> Result<(), Fault> {
        if let Some(running) = &mut self.running {
            if start.height <= running.host.height {
                return Err(Fault::Order(start.height, running.host.height));
            }
            // Votes that came after the decision may still have contradicted others.
            running.harvest();
            self.equivocations.append(&mut running.host.equivocations);
        }
        let mut running = Running::new(self.config.clone(), start, now);
        running.begin(&start.journal)?;
        self.running = Some(running);
        for message in self.early.take(start.height) {
            self.readmit(message)?;
        }
        Ok(())
    }

    pub(super) fn chain(&self) -> &ChainId {
        &self.config.chain
    }

    pub(super) fn running(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }
}

impl Running {
    fn new(config: Config, start: &Start, now: Now) -> Self {
        let host = Host::new(config, start, now);
        let params = Params {
            address: host.me(),
            threshold_params: ThresholdParams::default(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: !host.abstain,
        };
        // The core's own queue stays empty: early messages are kept, bounded, by the replica.
        let core = State::new(Context, host.height, host.validators.clone(), params, 1, 1);
        Self { core, host, certified: None, asked: None, missed: false }
    }

    /// Hands one input to the core and does what it wants done.
    pub(super) fn feed(&mut self, input: CoreInput) -> Result<(), Fault> {
        let Self { core, host, .. } = self;
        // A closure, since the macro expands to a loop that breaks with the result.
        let process = || -> Result<(), Fault> {
            malachite_core::process!(
                input: input,
                state: core,
                metrics: &(),
                with: effect => Ok::<_, Infallible>(host.perform(effect))
            )
        };
        let result = process();
        if let Some(fault) = self.host.take_fault() {
            return Err(fault);
        }
        result
    }

    pub(super) fn feed_polka(&mut self, polka: &PolkaCertificate) -> Result<(), Fault> {
        let signatures = polka
            .votes(&self.host.committee)
            .map(|(_, signed)| PolkaSignature::new(signed.vote.voter, signed.signature));
        let polka_signatures = signatures.collect();
        self.feed(CoreInput::PolkaCertificate(CorePolka {
            height: polka.height,
            round: Round::new(polka.round),
            value_id: polka.block,
            polka_signatures,
        }))
    }

    /// Tells the core what a block is worth.
    pub(super) fn tell(&mut self, block: BlockHash, round: u32, valid: bool) -> Result<(), Fault> {
        let value = ProposedValue {
            height: self.host.height,
            round: Round::new(round),
            valid_round: Round::Nil,
            proposer: self.host.validators.proposer(round).node,
            value: block,
            validity: CoreValidity::from_bool(valid),
        };
        self.feed(CoreInput::ProposedValue(value, ValueOrigin::Consensus))
    }

    pub(super) fn core(&self) -> &State<Context> {
        &self.core
    }

    pub(super) fn round(&self) -> u32 {
        number(self.core.round())
    }

    fn tick(&mut self) -> Result<(), Fault> {
        while !self.host.decided
            && let Some(timeout) = self.host.due()
        {
            let round = self.round();
            self.feed(CoreInput::TimeoutElapsed(timeout))?;
            let repeats = timeout.kind == TimeoutKind::Rebroadcast && round == self.round();
            if repeats && !self.has_polka_in(round) {
                self.host.repeat_proposal(round);
            }
        }
        Ok(())
    }

    fn has_polka_in(&self, round: u32) -> bool {
        let polkas = self.core.driver.polka_certificates();
        polkas.iter().any(|polka| polka.round == Round::new(round))
    }

    pub(super) fn has_polka_for(&self, block: &BlockHash) -> bool {
        self.core.driver.polka_certificates().iter().any(|polka| polka.value_id == *block)
    }

    pub(super) fn harvest(&mut self) {
        let evidence = MisbehaviorEvidence {
            proposals: self.core.driver.take_proposal_evidence(),
            votes: self.core.driver.take_vote_evidence(),
        };
        self.host.take_evidence(&evidence);
    }
}
