//! Repair: how a node recovers the pairs of a certified blob that it is to hold and lacks.
//!
//! A write that passed the node by, a disk that was lost, a shard gained without a holder: the
//! ledger says that the pair exists, the node's store says that it does not. [`Recovery`] asks
//! others for symbols of the slivers that cross the lost ones, or for enough rows to have the whole
//! blob where that costs less ([`RecoveryCost`]) or where too few of the other slivers are left. It
//! decides who is asked for what, how much is in flight, and when the work has failed; it never
//! sees a clock or a socket.
//!
//! A driver makes one with the blob's header from the ledger and, for each pair of the blob, the
//! nodes that may have it ([`Holders::of`](crate::holders::Holders::of), itself left out). It
//! reserves [`Recovery::bytes_needed`], then calls [`Recovery::handle`], first with
//! [`RecoveryInput::Tick`], and does what the outputs say: [`RecoveryOutput::Ask`] is a
//! `ReadSymbols` whose answer is verified with [`Symbols::verify`](crate::message::Symbols::verify)
//! before it is handed in, [`RecoveryOutput::AskSliver`] a `ReadSliver` whose proof and sliver are
//! verified. With no input before [`Recovery::wake_at_ms`], it ticks. [`RecoveryOutput::Recover`]
//! and [`RecoveryOutput::Failed`] are the last outputs; what is still in flight then is dropped.
//! A machine may take on fewer pairs than wanted ([`Recovery::pairs`]): the rest is for a next one.
//!
//! Around it: [`Batches`] says how much of a shard to copy from its earlier holder at a time, and
//! [`Standing`] who is not to be asked, and until when.
//!
//! Invariants: memory stays within [`RecoveryConfig::bytes_max`]; no more is on its way than comes
//! in good time ([`Pace`]); every ask ends, and asks are finite, since attempts per node are
//! bounded; a node that sent something false is never asked again; a sliver with another root than committed is never returned, but an
//! [`InconsistencyProof`](crate::inconsistency::InconsistencyProof).

mod cost;
mod events;
mod limits;
mod lines;
mod material;
mod pace;
mod peers;
mod standing;

use std::collections::BTreeMap;

pub use self::{
    cost::{RecoveryCost, RecoveryMethod},
    events::{RecoveryFailure, RecoveryInput, RecoveryOutput},
    limits::{RecoveryConfig, RecoveryPlanError},
    material::{RecoveredPair, RecoveryError, RecoveryMaterial},
    pace::{Batches, Pace, PaceConfig},
    standing::{HolderFault, Standing, Unfit},
};
use self::{
    lines::{Answer, Lines},
    material::Answers,
    peers::Peers,
};
use crate::{
    blob::{BlobHeader, ProofError},
    encoding::{Axis, BlobLayout},
    index::SliverPairIndex,
    keys::NodeId,
    transfer::SliverFault,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Enlarging,
    Ended,
}

/// The recovery of pairs of one blob.
#[derive(Clone, Debug)]
pub struct Recovery {
    config: RecoveryConfig,
    header: BlobHeader,
    layout: BlobLayout,
    pairs: Vec<SliverPairIndex>,
    cost: RecoveryCost,
    /// What is asked for: of each axis one where symbols are, rows alone otherwise.
    groups: Vec<Lines>,
    peers: Peers,
    pace: Pace,
    /// Nothing is asked for before.
    hold_until_ms: u64,
    now_ms: u64,
    phase: Phase,
}

impl Recovery {
    /// A recovery of `wanted` pairs, or the first of them, of the blob with `header`. `holders`
    /// lists, for each pair of the blob, the nodes that may have it, whom to ask first first.
    /// Ask with [`RecoveryInput::Tick`] for the first outputs.
    ///
    /// # Errors
    /// [`RecoveryPlanError`].
    pub fn new(
        config: RecoveryConfig,
        header: &BlobHeader,
        wanted: &[SliverPairIndex],
        holders: &[Vec<NodeId>],
    ) -> Result<Self, RecoveryPlanError> {
        let layout = header.layout().map_err(ProofError::from)?;
        let mut pairs = wanted.to_vec();
        pairs.sort_unstable();
        pairs.dedup();
        let last = pairs.last().ok_or(RecoveryPlanError::Shape)?;
        if last.get() >= header.n_shards || holders.len() != layout.config().n() {
            return Err(RecoveryPlanError::Shape);
        }
        let within = |method| {
            let counts = (pairs.len(), config.spares_max);
            RecoveryCost::within(&layout, method, counts, config.bytes_max)
        };
        let methods = (within(RecoveryMethod::Symbols), within(RecoveryMethod::WholeBlob));
        let cost = match methods {
            (Some(symbols), Some(whole)) if whole.is_cheaper(&symbols) => whole,
            (Some(cost), _) | (None, Some(cost)) => cost,
            (None, None) => {
                let one = |method| RecoveryCost::of(&layout, method, 1, config.spares_max);
                let symbols = one(RecoveryMethod::Symbols).memory_bytes;
                let needed_bytes = symbols.min(one(RecoveryMethod::WholeBlob).memory_bytes);
                let bytes_max = config.bytes_max;
                return Err(RecoveryPlanError::Memory { needed_bytes, bytes_max });
            }
        };
        pairs.truncate(cost.pairs);
        let peers = Peers::new(config, holders);
        let groups = Lines::groups(&layout, header, cost.method, &pairs);
        let (header, pace) = (*header, Pace::new(config.pace));
        Ok(Self {
            config,
            header,
            layout,
            pairs,
            cost,
            groups,
            peers,
            pace,
            hold_until_ms: 0,
            now_ms: 0,
            phase: Phase::Asking,
        })
    }

    /// The pairs that it recovers.
    #[must_use]
    pub fn pairs(&self) -> &[SliverPairIndex] {
        &self.pairs
    }

    /// How it recovers them, and what that costs if all goes well.
    #[must_use]
    pub const fn cost(&self) -> &RecoveryCost {
        &self.cost
    }

    /// Memory that it takes, at most.
    #[must_use]
    pub const fn bytes_needed(&self) -> u64 {
        self.cost.memory_bytes
    }

    /// Nodes that failed, with the last reason of each.
    #[must_use]
    pub const fn faults(&self) -> &BTreeMap<NodeId, SliverFault> {
        self.peers.faults()
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, now_ms: u64, input: RecoveryInput) -> Vec<RecoveryOutput> {
        let mut outputs = Vec::new();
        self.now_ms = now_ms;
        if self.phase == Phase::Ended {
            return outputs;
        }
        match input {
            RecoveryInput::Symbols { node, pair, axis, symbols } => {
                self.on_answer(&node, (pair, axis), Answer::Symbols(symbols));
            }
            RecoveryInput::Sliver { node, proof, sliver } => {
                let place = (proof.index, Axis::Primary);
                self.on_answer(&node, place, Answer::Sliver(proof, sliver));
            }
            RecoveryInput::Failed { node, pair, axis, fault } => {
                self.on_failed(&node, (pair, axis), fault, &mut outputs);
            }
            RecoveryInput::Hold { until_ms } => {
                self.hold_until_ms = self.hold_until_ms.max(until_ms);
            }
            RecoveryInput::Enlarged if self.phase == Phase::Enlarging => {
                self.phase = Phase::Asking;
            }
            RecoveryInput::Enlarged | RecoveryInput::Tick => {}
        }
        if self.phase == Phase::Enlarging {
            return outputs;
        }
        self.mark_late();
        if self.groups.iter().all(Lines::is_complete) {
            self.phase = Phase::Ended;
            outputs.push(RecoveryOutput::Recover(Box::new(self.material())));
            return outputs;
        }
        self.ask(&mut outputs);
        self.check_end(&mut outputs);
        outputs
    }

    /// When to come back with a [`RecoveryInput::Tick`] if nothing else happens before.
    #[must_use]
    pub fn wake_at_ms(&self) -> Option<u64> {
        if self.phase != Phase::Asking {
            return None;
        }
        let late_after_ms = self.peers.late_after_ms();
        let give_up_ms = self.config.give_up_ms;
        let asked = self.groups.iter().flat_map(Lines::asked).map(|asked| {
            asked.at_ms + if asked.late { give_up_ms } else { late_after_ms.min(give_up_ms) }
        });
        let idle = self.groups.iter().flat_map(Lines::idle);
        let retries = idle.flat_map(|(pair, gone)| self.peers.retries(pair, gone));
        let retries = retries.map(|at_ms| at_ms.max(self.hold_until_ms));
        asked.chain(retries).filter(|at_ms| *at_ms > self.now_ms).min()
    }

    fn on_answer(&mut self, node: &NodeId, place: (SliverPairIndex, Axis), answer: Answer) {
        let Some(peer) = self.peers.find(node).filter(|peer| !self.peers.is_banned(*peer)) else {
            return;
        };
        let Some(lines) = self.groups.iter_mut().find(|lines| lines.takes(place, &answer)) else {
            return;
        };
        let (at_ms, other) = lines.answered(place.0, peer, answer);
        let took_ms = at_ms.map(|at_ms| self.now_ms.saturating_sub(at_ms));
        if let Some(took_ms) = took_ms {
            self.pace.answered(self.cost.answer_bytes(), took_ms);
        }
        self.peers.answered(peer, took_ms);
        if let Some(other) = other {
            self.peers.released(other);
        }
    }

    fn on_failed(
        &mut self,
        node: &NodeId,
        (pair, axis): (SliverPairIndex, Axis),
        fault: SliverFault,
        outputs: &mut Vec<RecoveryOutput>,
    ) {
        let Some(peer) = self.peers.find(node) else {
            return;
        };
        let lines = self.groups.iter_mut().find(|lines| lines.axis() == axis);
        // Nobody reads slivers again before they are sent whole: a false one may be a damaged one.
        let is_lie = lines.as_ref().is_some_and(|lines| !lines.is_whole());
        if fault == SliverFault::Wrong && self.peers.ban(peer) && is_lie {
            outputs.push(RecoveryOutput::Banned { node: *node });
        }
        if lines.is_some_and(|lines| lines.failed(pair, peer, fault)) {
            self.peers.failed(self.now_ms, peer, fault);
            if fault == SliverFault::NoAnswer {
                self.pace.unanswered(self.now_ms);
            }
        }
        self.forget_given_up(peer);
    }

    /// Waits no longer for what a node was asked that is given up.
    fn forget_given_up(&mut self, peer: usize) {
        if self.peers.is_given_up(peer) {
            for lines in &mut self.groups {
                lines.forget(peer);
            }
            self.peers.forget(peer);
        }
    }

    fn mark_late(&mut self) {
        let (now_ms, late_after_ms) = (self.now_ms, self.peers.late_after_ms());
        for group in 0..self.groups.len() {
            let late = self.groups[group].mark_late(now_ms, late_after_ms);
            for peer in late {
                self.peers.late(peer);
            }
            let over = self.groups[group].take_overdue(now_ms, self.config.give_up_ms);
            for peer in over {
                self.pace.unanswered(now_ms);
                self.peers.failed(now_ms, peer, SliverFault::NoAnswer);
                self.forget_given_up(peer);
            }
        }
    }

    fn ask(&mut self, outputs: &mut Vec<RecoveryOutput>) {
        if self.now_ms < self.hold_until_ms {
            return;
        }
        loop {
            let expected: usize = self.groups.iter().map(|g| g.expected(&self.peers)).sum();
            let outstanding = self.groups.iter().flat_map(Lines::asked).count();
            // Late requests may still be under way: hedging at most doubles what is on the wire.
            let most = self.pace.answers(self.cost.answer_bytes()).min(self.config.in_flight_max);
            if expected >= most || outstanding >= 2 * most {
                return;
            }
            let (peers, spares) = (&self.peers, self.config.spares_max);
            let next = self.groups.iter().enumerate().find_map(|(group, lines)| {
                lines.next_ask(peers, self.now_ms, spares).map(|next| (group, next))
            });
            let Some((group, (pair, peer))) = next else {
                return;
            };
            self.peers.asked(peer);
            let node = self.peers.node(peer);
            let lines = &mut self.groups[group];
            lines.ask(pair, peer, self.now_ms);
            outputs.push(if lines.is_whole() {
                RecoveryOutput::AskSliver { node, pair }
            } else {
                let (axis, targets) = (lines.axis(), lines.targets().to_vec());
                RecoveryOutput::Ask { node, pair, axis, targets }
            });
        }
    }

    fn check_end(&mut self, outputs: &mut Vec<RecoveryOutput>) {
        let short = |lines: &Lines| lines.possible(&self.peers) < lines.needed();
        if !self.groups.iter().any(short) {
            return;
        }
        let rows_needed = self.layout.config().k1();
        let rows = match self.cost.method {
            RecoveryMethod::Symbols => self.peers.pardonable_pairs(),
            RecoveryMethod::WholeBlob => self.groups[0].possible(&self.peers),
        };
        if rows < rows_needed {
            let faults = self.peers.faults().clone();
            return self
                .fail(RecoveryFailure::TooFewHelpers { rows, rows_needed, faults }, outputs);
        }
        self.turn_to_whole_blob(outputs);
    }

    /// Too few slivers cross the lost ones: fewer rows make the blob.
    fn turn_to_whole_blob(&mut self, outputs: &mut Vec<RecoveryOutput>) {
        let (method, spares) = (RecoveryMethod::WholeBlob, self.config.spares_max);
        let (counts, bytes_max) = ((self.pairs.len(), spares), self.config.bytes_max);
        let Some(cost) = RecoveryCost::within(&self.layout, method, counts, bytes_max) else {
            let needed_bytes = RecoveryCost::of(&self.layout, method, 1, spares).memory_bytes;
            let faults = self.peers.faults().clone();
            return self.fail(RecoveryFailure::Memory { needed_bytes, bytes_max, faults }, outputs);
        };
        self.cost = cost;
        self.pairs.truncate(cost.pairs);
        self.groups = Lines::groups(&self.layout, &self.header, method, &self.pairs);
        self.peers.pardon();
        self.phase = Phase::Enlarging;
        // What has just been asked for is no longer wanted.
        outputs.retain(|output| matches!(output, RecoveryOutput::Banned { .. }));
        outputs.push(RecoveryOutput::Enlarge { bytes: cost.memory_bytes });
    }

    fn fail(&mut self, failure: RecoveryFailure, outputs: &mut Vec<RecoveryOutput>) {
        self.phase = Phase::Ended;
        outputs.retain(|output| matches!(output, RecoveryOutput::Banned { .. }));
        outputs.push(RecoveryOutput::Failed(failure));
    }

    fn material(&mut self) -> RecoveryMaterial {
        let answers = self.groups.iter_mut().flat_map(Lines::take_answers);
        let (mut symbols, mut rows) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Answer::Symbols(more) => symbols.extend(more),
                Answer::Sliver(proof, sliver) => rows.push((proof, sliver)),
            }
        }
        let answers = match self.cost.method {
            RecoveryMethod::Symbols => Answers::Symbols(symbols),
            RecoveryMethod::WholeBlob => Answers::Rows(rows),
        };
        RecoveryMaterial { header: self.header, pairs: self.pairs.clone(), answers }
    }
}
