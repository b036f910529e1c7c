//! Asking nodes about the ledger: whom, in which order, and what their answers are worth.
//!
//! Connected members of the running committee are asked first, each question starting with another
//! one; then whoever else is connected and answers requests, as the nodes by which a client joins
//! after long, when it knows only a committee whose members have all gone; then the other members. A node whose answer
//! does not verify is caught: it is not asked again in this session. One that is silent, busy or
//! behind is only passed over.
//!
//! Invariants: a question ends, in an answer that was verified or with what was wrong with each
//! node's; the next node is asked as soon as one fails or is slow, never all at once.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use floe_protocol::{
    committee::{Committee, QuorumTracker},
    keys::NodeId,
    light::{CertifiedHeader, LightError, VerifiedHeader},
    message::{LedgerRequest, LedgerResponse, Refusal, Request, Response, ledger::MAX_HANDOVERS},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{LedgerError, NodeFault, keeper::Keeper};
use crate::{client::upload::short, network::Network};

/// After so long without an answer another node is asked too.
pub(super) const HEDGE: Duration = Duration::from_millis(500);
/// How long a question goes on.
const QUESTION_MAX: Duration = Duration::from_secs(12);
/// How long to wait before nodes that were behind or busy are asked again.
const AGAIN: Duration = Duration::from_millis(50);
/// The golden part of 2^64: multiples of it fill the circle evenly.
const TURN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Batches of hand-overs that are followed at a time: more epochs than anybody waits for.
const HANDOVER_BATCHES_MAX: usize = 4_096;

/// Asks nodes, and knows which of them lied.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    network: Network,
    keeper: Keeper,
    liars: Arc<watch::Sender<BTreeSet<NodeId>>>,
    turn: Arc<AtomicU64>,
}

/// What was wrong with each node's answer to one question.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) of: Vec<(NodeId, NodeFault)>,
}

impl Faults {
    pub(super) fn add(&mut self, node: NodeId, fault: NodeFault) {
        self.of.retain(|(known, _)| *known != node);
        self.of.push((node, fault));
    }

    pub(super) fn answered(&self) -> usize {
        self.of.iter().filter(|(_, fault)| fault.answered()).count()
    }

    pub(super) fn described(&self) -> Vec<(String, NodeFault)> {
        self.of.iter().map(|(node, fault)| (short(node), fault.clone())).collect()
    }

    /// The root that is too old, if that is what was wrong.
    pub(super) fn too_old(&self) -> Option<LightError> {
        self.of.iter().find_map(|(_, fault)| match fault {
            NodeFault::TooOld(error) => Some(error.clone()),
            _ => None,
        })
    }

    /// The weight of the members with faults of a kind.
    pub(super) fn weight(&self, committee: &Committee, of: impl Fn(&NodeFault) -> bool) -> u16 {
        let mut weight = QuorumTracker::new(committee);
        for (node, _) in self.of.iter().filter(|(_, fault)| of(fault)) {
            if let Some(position) = committee.position(node) {
                weight.add(committee, position);
            }
        }
        weight.weight()
    }
}

/// How one round of questions ended without an answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nobody had one.
    Nobody(Faults),
    /// The client cannot go on.
    Failed(LedgerError),
}

impl Asker {
    pub(super) fn new(network: Network, keeper: Keeper) -> Self {
        let key = network.local_node();
        let first = key.as_bytes().first_chunk().copied().unwrap_or_default();
        Self {
            network,
            keeper,
            liars: Arc::new(watch::Sender::new(BTreeSet::new())),
            // Clients draw their keys: each starts with another node.
            turn: Arc::new(AtomicU64::new(u64::from_le_bytes(first))),
        }
    }

    pub(super) const fn network(&self) -> &Network {
        &self.network
    }

    pub(super) const fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Nodes that were caught lying.
    pub(super) fn liars(&self) -> BTreeSet<NodeId> {
        self.liars.borrow().clone()
    }

    /// Whom to ask, in order.
    pub(super) fn candidates(&self) -> Vec<NodeId> {
        let committee = self.keeper.view().committee;
        let peers = self.network.peers().borrow().clone();
        let liars = self.liars.borrow();
        let mut members: Vec<_> = committee.members().iter().map(|member| member.node).collect();
        // Its upper half is spread evenly, whatever pattern questions come in.
        let turn = self.turn.fetch_add(TURN_STEP, Ordering::Relaxed) >> 32;
        let turn = usize::try_from(turn).unwrap_or(usize::MAX);
        let first = turn.checked_rem(members.len()).unwrap_or(0);
        members.rotate_left(first);
        let is_connected = |node: &NodeId| peers.connected.contains_key(node);
        let (mut candidates, away): (Vec<_>, Vec<_>) = members.into_iter().partition(is_connected);
        let others = peers.connected.iter().filter(|(node, view)| {
            // One that has not introduced itself yet may be a node.
            (view.answers_requests || view.agent.is_empty()) && committee.position(node).is_none()
        });
        candidates.extend(others.map(|(node, _)| *node));
        candidates.extend(away);
        candidates.retain(|node| !liars.contains(node));
        candidates
    }

    /// Asks one node. Refusals of its own are faults.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: LedgerRequest,
    ) -> Result<LedgerResponse, NodeFault> {
        match self.network.request(node, Request::Ledger(request)).await? {
            Response::Ledger(answer) => Ok(*answer),
            Response::Refused(Refusal::Busy { .. }) => Err(NodeFault::Busy),
            _ => Err(NodeFault::WrongAnswer),
        }
    }

    /// What an error of the light client says of the node whose answer it judged.
    pub(super) fn caught(&self, node: NodeId, error: LightError) -> NodeFault {
        match error {
            LightError::TooOld { .. } => NodeFault::TooOld(error),
            // Two quorums contradict each other: that is not this node's doing.
            LightError::Fork(_) => NodeFault::Lied(error),
            error => {
                tracing::warn!(%node, %error, "node lied about the ledger and is not asked again");
                self.liars.send_modify(|liars| {
                    liars.insert(node);
                });
                NodeFault::Lied(error)
            }
        }
    }

    /// Verifies a header that `node` told, after its hand-overs if it is of a later epoch.
    pub(super) async fn accept(
        &self,
        node: NodeId,
        certified: CertifiedHeader,
    ) -> Result<VerifiedHeader, NodeFault> {
        for _ in 0..HANDOVER_BATCHES_MAX {
            match self.keeper.accept(certified.clone()).await.map_err(stopped)? {
                Ok(header) => return Ok(header),
                Err(LightError::Epoch { epoch, expected }) if epoch > expected => {
                    self.follow(node).await?;
                }
                // Of an epoch whose committee is forgotten.
                Err(LightError::Epoch { .. }) => return Err(NodeFault::Behind),
                Err(error) => return Err(self.caught(node, error)),
            }
        }
        Err(NodeFault::Behind)
    }

    /// Follows the hand-overs that `node` tells: at least one, or it is at fault.
    pub(super) async fn follow(&self, node: NodeId) -> Result<(), NodeFault> {
        let from = self.keeper.view().committee.epoch();
        let max = u8::try_from(MAX_HANDOVERS).unwrap_or(u8::MAX);
        let answer = self.ask(node, LedgerRequest::Handovers { from, max }).await?;
        let LedgerResponse::Handovers { handovers } = answer else {
            return Err(NodeFault::WrongAnswer);
        };
        if handovers.is_empty() {
            return Err(NodeFault::Behind);
        }
        for handover in handovers {
            match self.keeper.handover(handover).await.map_err(stopped)? {
                Ok(_) => {}
                // Somebody else has told it meanwhile.
                Err(LightError::Epoch { epoch, expected }) if epoch < expected => {}
                Err(error) => return Err(self.caught(node, error)),
            }
        }
        Ok(())
    }

    /// Asks one node after the other, the next one after `hedge` or at once when one fails, until
    /// one gives an answer that `ask` has verified. `stop` may end it earlier.
    pub(super) async fn in_turn<T, Asked: Future<Output = Result<T, NodeFault>>>(
        &self,
        (hedge, end): (Duration, Instant),
        ask: impl Fn(NodeId) -> Asked,
        stop: impl Fn(&Faults) -> bool,
    ) -> Result<T, Unanswered> {
        let mut candidates = self.candidates().into_iter();
        let mut faults = Faults::default();
        let mut asked = FuturesUnordered::new();
        loop {
            self.check_fork().map_err(Unanswered::Failed)?;
            let next = candidates.next();
            if next.is_none() && asked.is_empty() {
                return Err(Unanswered::Nobody(faults));
            }
            let more = next.is_some();
            if let Some(node) = next {
                let answer = ask(node);
                asked.push(async move { (node, answer.await) });
            }
            let until = if more { end.min(Instant::now() + hedge) } else { end };
            tokio::select! {
                Some((node, answer)) = asked.next() => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(fault) => faults.add(node, fault),
                },
                () = sleep_until(until) => {}
            }
            if stop(&faults) || Instant::now() >= end {
                return Err(Unanswered::Nobody(faults));
            }
        }
    }

    /// As [`Self::in_turn`], again and again while nodes that are only behind or busy may still
    /// answer.
    pub(super) async fn question<T, Asked: Future<Output = Result<T, NodeFault>>>(
        &self,
        what: &'static str,
        ask: impl Fn(NodeId) -> Asked,
    ) -> Result<T, LedgerError> {
        let end = Instant::now() + QUESTION_MAX;
        loop {
            let faults = match self.in_turn((HEDGE, end), &ask, |_| false).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Nobody(faults)) => faults,
            };
            let passing = |fault: &NodeFault| matches!(fault, NodeFault::Busy | NodeFault::Behind);
            let again = faults.of.iter().any(|(_, fault)| passing(fault));
            if !again || Instant::now() + AGAIN >= end {
                return Err(self.no_answer(what, &faults));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(super) fn no_answer(&self, what: &'static str, faults: &Faults) -> LedgerError {
        if let Some(error) = faults.too_old() {
            return LedgerError::Trust(error);
        }
        let nodes = self.keeper.view().committee.members().len();
        LedgerError::NoAnswer {
            what,
            answered: faults.answered(),
            nodes,
            faults: faults.described(),
        }
    }

    /// Refuses to go on when the ledger has forked.
    pub(super) fn check_fork(&self) -> Result<(), LedgerError> {
        self.keeper.view().fork.map_or(Ok(()), |fork| Err(LedgerError::Trust(fork)))
    }
}

/// The client is going down: the node has nothing to do with it.
fn stopped(_: LedgerError) -> NodeFault {
    NodeFault::Silent(crate::network::RequestError::Stopped)
}
