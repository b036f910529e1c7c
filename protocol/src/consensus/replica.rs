//! The replica: starts heights, feeds the core, answers the driver.
//!
//! After every input the replica *settles*: it looks whether a quorum has decided, tells the core
//! of blocks whose judgement is complete, prevotes nil at once where a proposal cannot be accepted,
//! and asks for an own block where it is its turn, until nothing is left to do.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use malachite_core::{
    LocallyProposedValue, MisbehaviorEvidence, Params, ProposedValue, State, ThresholdParams,
};
use malachite_types::{
    PolkaCertificate as CorePolka, PolkaSignature, Round, Timeout, TimeoutKind,
    Validity as CoreValidity, ValueOrigin, ValuePayload, VoteExtensionPolicy,
};

use super::{
    buffer::EarlyMessages,
    certificate::PolkaCertificate,
    config::{Config, Now},
    context::{Context, number, to_core},
    error::Fault,
    event::{Input, Output, Start, Validity},
    host::Host,
    journal::{JournalEntry, Step},
    precommits::LatePrecommits,
};
use crate::{
    index::Height,
    keys::{ChainId, NodeId},
    ledger::{Block, BlockHash, LatePrecommit},
    vote::{CommitCertificate, Equivocation},
};

type CoreInput = malachite_core::Input<Context>;

/// One member's view of consensus, or a follower's.
pub struct Replica {
    config: Config,
    pub(super) running: Option<Running>,
    pub(super) early: EarlyMessages,
    pub(super) late: LatePrecommits,
    /// Seen after the last commit.
    equivocations: Vec<Equivocation>,
    stopped: bool,
}

/// The height under way.
pub(super) struct Running {
    core: State<Context>,
    pub(super) host: Host,
    /// From block sync, waiting for the block to be executed.
    pub(super) certified: Option<CommitCertificate>,
    /// Whether the driver was asked for the own block of this round.
    asked: Option<u32>,
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
            late: LatePrecommits::default(),
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

    /// Precommits for recent blocks that are not in the certificates this replica knows, by
    /// ascending height and position: for the next commit record, which leaves out those that an
    /// earlier one holds.
    #[must_use]
    pub fn late_precommits(&self) -> Vec<LatePrecommit> {
        self.late.all()
    }

    fn handle_input(&mut self, now: Now, input: Input) -> Result<Vec<Output>, Fault> {
        if let Some(running) = &mut self.running {
            running.host.now = now;
        }
        match input {
            Input::Start(start) => self.start(now, start)?,
            Input::Message(message) => {
                let verdict = self.admit(message)?;
                return self.finish(Some(verdict));
            }
            Input::Synced { block, certificate } => {
                let verdict = match &mut self.running {
                    Some(running) => running.synced(*block, certificate),
                    None => super::Verdict::Ignore,
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
    fn finish(&mut self, verdict: Option<super::Verdict>) -> Result<Vec<Output>, Fault> {
        let mut outputs: Vec<_> = verdict.map(Output::Verdict).into_iter().collect();
        let Some(running) = &mut self.running else { return Ok(outputs) };
        if let Some(certificate) = running.settle()? {
            self.late.decided(
                Arc::clone(&running.host.committee),
                &certificate,
                &running.host.precommits,
            );
            let mut equivocations = std::mem::take(&mut self.equivocations);
            equivocations.append(&mut running.host.equivocations);
            running.commit(certificate, equivocations)?;
        }
        outputs.append(&mut running.host.outputs);
        Ok(outputs)
    }

    fn start(&mut self, now: Now, start: Start) -> Result<(), Fault> {
        if let Some(running) = &mut self.running {
            if start.height <= running.host.height {
                return Err(Fault::Order(start.height, running.host.height));
            }
            // Votes that came after the decision may still have contradicted others.
            running.harvest();
            self.equivocations.append(&mut running.host.equivocations);
        }
        let mut running = Running::new(self.config.clone(), &start, now);
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
            enabled: !start.abstain,
        };
        // The core's own queue stays empty: early messages are kept, bounded, by the replica.
        let core = State::new(Context, host.height, host.validators.clone(), params, 1, 1);
        Self { core, host, certified: None, asked: None }
    }

    /// Starts the height and replays its journal.
    fn begin(&mut self, journal: &[JournalEntry]) -> Result<(), Fault> {
        // Whoever abstains has no journal worth replaying: it would lead to votes.
        let journal = if self.host.abstain { &[] } else { journal };
        for entry in journal {
            if let JournalEntry::Vote(vote) = entry
                && vote.vote.voter == self.host.me()
                && vote.vote.height == self.host.height
            {
                self.host.remember(*vote);
            }
        }
        if !journal.is_empty() {
            self.host.begin_replay(journal);
            // Marks what follows as replayed: no bound on rounds. Own votes are compared by the
            // host, so the core's index stays empty.
            self.core.index_wal_entries(std::iter::empty());
        }
        let validators = self.host.validators.clone();
        let policy = VoteExtensionPolicy::Disabled;
        let height = self.host.height;
        self.feed(CoreInput::StartHeight(height, validators, false, None, policy))?;
        for entry in journal {
            self.replay(entry)?;
        }
        self.core.reset_entries_index();
        self.host.end_replay(self.round());
        Ok(())
    }

    fn replay(&mut self, entry: &JournalEntry) -> Result<(), Fault> {
        let me = self.host.me();
        match entry {
            JournalEntry::Vote(vote) if vote.vote.height == self.host.height => {
                self.host.precommits.add(&self.host.committee, &vote.vote, vote.signature);
                self.feed(CoreInput::Vote(to_core(vote)))
            }
            JournalEntry::Proposal(signed) if signed.proposal.header.height == self.host.height => {
                let hash = signed.proposal.header.hash();
                let round = signed.proposal.round;
                if self.host.blocks.offer(round, &hash).is_none() {
                    self.host.blocks.offer_add(**signed, hash);
                }
                let in_time = self.host.is_in_time(&signed.proposal.header);
                self.host.blocks.entry(hash, signed.proposal.header, round, in_time);
                self.feed(CoreInput::Proposal(Host::core_proposal(signed, hash)))
            }
            JournalEntry::Block { block, in_time } => {
                let (hash, header) = (block.header.hash(), block.header);
                let round = header.round;
                let candidate = self.host.blocks.entry(hash, header, round, *in_time);
                candidate.block = Some(Arc::new(Block::clone(block)));
                candidate.validity = Some(Validity::Valid);
                candidate.in_time = *in_time || header.proposer == me;
                Ok(())
            }
            JournalEntry::Value { block, round, valid } => {
                if let Some(candidate) = self.host.blocks.get_mut(block) {
                    candidate.told = true;
                    let validity = if *valid { Validity::Valid } else { Validity::Invalid };
                    candidate.validity = Some(validity);
                }
                self.tell(*block, *round, *valid)
            }
            JournalEntry::Timeout { step, round } => {
                let kind = match step {
                    Step::Propose => TimeoutKind::Propose,
                    Step::Prevote => TimeoutKind::Prevote,
                    Step::Precommit => TimeoutKind::Precommit,
                };
                self.feed(CoreInput::TimeoutElapsed(Timeout::new(Round::new(*round), kind)))
            }
            JournalEntry::Polka(polka) if polka.height == self.host.height => {
                self.feed_polka(polka)
            }
            // Of another height: not ours to replay.
            JournalEntry::Vote(_) | JournalEntry::Proposal(_) | JournalEntry::Polka(_) => Ok(()),
        }
    }

    /// Hands one input to the core and does what it wants done.
    pub(super) fn feed(&mut self, input: CoreInput) -> Result<(), Fault> {
        let Self { core, host, .. } = self;
        // A closure, since the macro expands to a loop that breaks with the result.
        let process = || -> Result<(), malachite_core::Error<Context>> {
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
        result.map_err(Fault::from)
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
    fn tell(&mut self, block: BlockHash, round: u32, valid: bool) -> Result<(), Fault> {
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

    fn harvest(&mut self) {
        let evidence = MisbehaviorEvidence {
            proposals: self.core.driver.take_proposal_evidence(),
            votes: self.core.driver.take_vote_evidence(),
        };
        self.host.take_evidence(&evidence);
    }
}

/// Own blocks and verdicts.
impl Running {
    fn proposed(&mut self, round: u32, block: Block) -> Result<(), Fault> {
        if self.host.decided || self.host.wanted != Some(round) {
            // Too late: the round is over.
            return Ok(());
        }
        let (hash, header) = (block.header.hash(), block.header);
        let fits = header.height == self.host.height
            && header.round == round
            && header.proposer == self.host.me()
            && header.time > self.host.parent_time
            && super::body::Cut::new(&block.body).is_some();
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

    fn executed(&mut self, block: &BlockHash, validity: Validity) {
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
    fn commit(
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
    fn settle(&mut self) -> Result<Option<CommitCertificate>, Fault> {
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
        let refused = |offer: &super::blocks::Offer| {
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
