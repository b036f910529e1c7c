//! Symbols of expanded slivers, for those who repair theirs, and attestations: what a node computes
//! for others.
//!
//! A lost sliver is recovered from one symbol of each of many others, and each symbol costs its
//! holder the expansion of a whole sliver. So what is bounded here is work, not answers. Every
//! request is paid from its peer's budget, in bytes that have to be expanded for it: a sliver
//! that is at hand expanded costs little. Members of the committee and all others are two classes
//! with queues, budgets, lanes, kept trees and threads of their own, so that no crowd of strangers
//! keeps a member waiting; and the threads have a lower priority than those of reads and writes.
//! Beyond that the answer is `Busy`, with the time after which there is something to spend again.
//! Strangers that do not heed it are not heard for a while. While nodes are challenged all of them
//! wait in their queues: what they ask for may be what they are challenged for.
//!
//! ```text
//!  request ─► patience, lane, budget ─► kept tree? ────────────────────► answer
//!                                           └─► look up ─► pay ─► expand ─► keep ┘
//! ```
//!
//! Invariants: a sliver is expanded once at a time, however many ask for it; only slivers with the
//! root of their proof are served; at most as many trees are in memory as are kept, being expanded
//! and being answered from. A kept tree may outlive its sliver by a while: its symbols are true.

mod budgets;
mod class;
mod patience;
mod trees;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::{
    blob::PairProof,
    encoding::{BlobLayout, EncodingConfig, SliverTree},
    index::{ShardIndex, SymbolIndex},
    keys::NodeId,
    message::{Refusal, Request, Response},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    class::{Class, Turned},
    trees::{Expanded, SliverKey, expanded_bytes},
};
use super::{attester::Attester, members::Members, metrics::Metrics, pairs::Pairs};
use crate::{
    config::ServiceLimits,
    network::{InboundRequest, ReplyHandle},
    service::{blocking, challenges::Quiet, lane::Place, on_ended},
};

/// What an attestation costs beside its proof, and how much each byte of that: it is decoded,
/// expanded and hashed.
const ATTEST_BYTES: u64 = 1 << 20;
const ATTEST_PER_PROOF_BYTE: u64 = 4;
/// What the service needs.
#[derive(Debug)]
pub(super) struct Args {
    pub(super) config: EncodingConfig,
    pub(super) pairs: Pairs,
    pub(super) attester: Attester,
    pub(super) members: Members,
    /// While nodes are challenged nobody is served.
    pub(super) quiet: Quiet,
    pub(super) limits: ServiceLimits,
    pub(super) metrics: Metrics,
}

/// Where requests wait for the service: those of strangers are looked at after those of members.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) members: mpsc::Receiver<InboundRequest>,
    pub(super) strangers: mpsc::Receiver<InboundRequest>,
}

/// Who waits for symbols of a sliver.
#[derive(Debug)]
struct Asked {
    peer: NodeId,
    is_member: bool,
    /// For more than the request itself.
    has_paid: bool,
    targets: Vec<SymbolIndex>,
    reply: ReplyHandle,
    place: Place,
}

/// What is needed to expand a sliver.
#[derive(Debug)]
struct Found {
    proof: PairProof,
    layout: BlobLayout,
}

/// What a task has done.
#[derive(Debug)]
enum Step {
    LookedUp(SliverKey, Result<Found, Refusal>),
    /// With the turn that it took, until everybody who waits is answered: so many trees are in
    /// memory that are not kept.
    Expanded(SliverKey, bool, Result<(Arc<Expanded>, OwnedSemaphorePermit), Refusal>),
    Ended,
}

/// The service.
#[derive(Debug)]
pub(super) struct Symbols {
    config: EncodingConfig,
    pairs: Pairs,
    attester: Attester,
    members: Members,
    quiet: Quiet,
    of_members: Class,
    of_strangers: Class,
    /// By the sliver that is being looked up or expanded.
    waiting: BTreeMap<SliverKey, Vec<Asked>>,
    tasks: JoinSet<Step>,
    metrics: Metrics,
}

impl Symbols {
    pub(super) fn new(args: Args) -> Self {
        let Args { config, pairs, attester, members, quiet, limits, metrics } = args;
        Self {
            config,
            pairs,
            attester,
            members,
            quiet,
            of_members: Class::of_members(config, &limits),
            of_strangers: Class::of_strangers(config, &limits),
            waiting: BTreeMap::new(),
            tasks: JoinSet::new(),
            metrics,
        }
    }

    /// Serves until `over` is cancelled.
    pub(super) async fn run(mut self, mut queues: Queues, over: CancellationToken) {
        loop {
            let request = tokio::select! {
                biased;
                () = over.cancelled() => break,
                Some(ended) = self.tasks.join_next() => {
                    // What is under way is not answered in quiet either.
                    if over.run_until_cancelled(self.quiet.over()).await.is_none() {
                        break;
                    }
                    match ended {
                        Ok(step) => self.on_step(step),
                        Err(error) => on_ended(Err(error)),
                    }
                    continue;
                }
                request = queues.members.recv() => request,
                Some(request) = queues.strangers.recv() => Some(request),
            };
            let Some(request) = request else { break };
            // Whoever comes waits in his queue; who brings a proof needs nothing of what is kept back.
            let waits = matches!(request.request, Request::ReadSymbols { .. });
            if waits && over.run_until_cancelled(self.quiet.over()).await.is_none() {
                break;
            }
            self.on_request(request);
        }
        while let Some(ended) = self.tasks.join_next().await {
            on_ended(ended.map(drop));
        }
    }

    fn on_request(&mut self, InboundRequest { peer, request, reply }: InboundRequest) {
        let is_member = self.members.has(&peer);
        let more_bytes = match &request {
            Request::Attest { proof } => {
                ATTEST_BYTES.saturating_add(proof.len() as u64 * ATTEST_PER_PROOF_BYTE)
            }
            _ => 0,
        };
        let place = self.class(is_member).admit(peer, more_bytes);
        if matches!(request, Request::ReadSymbols { .. }) {
            self.metrics.symbol_requests.inc();
        }
        let place = match place {
            Ok(place) => place,
            Err(Turned::Busy(wait)) => return self.refuse_busy(reply, wait),
            Err(Turned::CoolDown(length)) => {
                tracing::debug!(%peer, ?length, "does not heed that it is to wait: not heard");
                self.metrics.cool_downs.inc();
                return reply.cool_down(length);
            }
        };
        match request {
            Request::ReadSymbols { blob, pair, axis, targets } => {
                let asked = Asked { peer, is_member, has_paid: false, targets, reply, place };
                self.on_asked((blob, pair, axis), asked);
            }
            Request::Attest { proof } => self.attest(is_member, proof, (reply, place)),
            // Others are none of this service's.
            _ => reply.reply(Response::Refused(Refusal::Unavailable)),
        }
    }

    fn on_asked(&mut self, sliver: SliverKey, asked: Asked) {
        let [first, second] = if asked.is_member {
            [&mut self.of_members.trees, &mut self.of_strangers.trees]
        } else {
            [&mut self.of_strangers.trees, &mut self.of_members.trees]
        };
        if let Some(tree) = first.get(&sliver).or_else(|| second.get(&sliver)) {
            self.metrics.symbol_tree_hits.inc();
            self.answer(asked, tree, None);
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&sliver) {
            waiting.push(asked);
            return;
        }
        let running = self.class(asked.is_member).running();
        self.waiting.insert(sliver, vec![asked]);
        let (pairs, config) = (self.pairs.clone(), self.config);
        self.tasks.spawn(async move {
            let Ok(_turn) = running.acquire_owned().await else { return Step::Ended };
            let looked_up = blocking(move || look_up(&pairs, config, &sliver)).await;
            looked_up.map_or(Step::Ended, |found| Step::LookedUp(sliver, found))
        });
    }

    fn on_step(&mut self, step: Step) {
        match step {
            Step::Ended => {}
            Step::LookedUp(sliver, Ok(found)) => self.on_found(sliver, found),
            Step::LookedUp(sliver, Err(refusal)) | Step::Expanded(sliver, _, Err(refusal)) => {
                for asked in self.waiting.remove(&sliver).unwrap_or_default() {
                    asked.reply.reply(Response::Refused(refusal));
                }
            }
            Step::Expanded(sliver, by_member, Ok((tree, turn))) => {
                let trees = &mut self.class(by_member).trees;
                trees.insert(sliver, Arc::clone(&tree));
                let turn = Arc::new(turn);
                for asked in self.waiting.remove(&sliver).unwrap_or_default() {
                    self.answer(asked, Arc::clone(&tree), Some(Arc::clone(&turn)));
                }
            }
        }
    }

    /// Has a sliver expanded that somebody who waits for it can pay, members first.
    fn on_found(&mut self, sliver: SliverKey, found: Found) {
        let mut waiting = self.waiting.remove(&sliver).unwrap_or_default();
        waiting.sort_by_key(|asked| !asked.is_member);
        let bytes = expanded_bytes(self.config, found.layout.symbol_bytes());
        let mut waits = Vec::with_capacity(waiting.len());
        for asked in &mut waiting {
            match self.class(asked.is_member).spend(asked.peer, bytes) {
                Ok(()) => {
                    asked.has_paid = true;
                    self.metrics.symbol_expanded_bytes.inc_by(bytes);
                    self.expand(sliver, asked.is_member, found);
                    self.waiting.insert(sliver, waiting);
                    return;
                }
                Err(wait) => waits.push(wait),
            }
        }
        for (asked, wait) in waiting.into_iter().zip(waits) {
            self.refuse_busy(asked.reply, wait);
        }
    }

    fn expand(&mut self, sliver: SliverKey, by_member: bool, found: Found) {
        let class = self.class(by_member);
        let (working, background) = (Arc::clone(&class.working), class.background.clone());
        let (pairs, config) = (self.pairs.clone(), self.config);
        self.tasks.spawn(async move {
            let Ok(turn) = working.acquire_owned().await else { return Step::Ended };
            // Whoever holds a lock of the store is not to have a low priority.
            let (stored, Found { proof, layout }) = (pairs.clone(), found);
            let read = blocking(move || read(&stored, config, &sliver)).await;
            let expanded = match read {
                Some(Ok(bytes)) => background.run(move || expand(proof, &layout, &sliver, bytes)),
                Some(Err(refusal)) => return Step::Expanded(sliver, by_member, Err(refusal)),
                None => return Step::Ended,
            };
            let expanded = match expanded.await {
                Some(Some(tree)) => Ok((Arc::new(tree), turn)),
                Some(None) => {
                    let discarded = blocking(move || discard(&pairs, config, &sliver)).await;
                    Err(discarded.unwrap_or(Refusal::NotFound))
                }
                None => return Step::Ended,
            };
            Step::Expanded(sliver, by_member, expanded)
        });
    }

    /// Answers from an expanded sliver. Who did not pay for the expansion pays for the answer.
    fn answer(
        &mut self,
        asked: Asked,
        tree: Arc<Expanded>,
        turn: Option<Arc<OwnedSemaphorePermit>>,
    ) {
        let Asked { peer, is_member, has_paid, targets, reply, place } = asked;
        let bytes = (targets.len() * tree.symbol_bytes()) as u64;
        let class = self.class(is_member);
        if !has_paid && let Err(wait) = class.spend(peer, bytes) {
            return self.refuse_busy(reply, wait);
        }
        let (running, background) = (class.running(), class.background.clone());
        self.tasks.spawn(async move {
            let Ok(_turn) = running.acquire_owned().await else { return Step::Ended };
            let symbols = background.run(move || tree.symbols(&targets)).await;
            drop((turn, place));
            if let Some(symbols) = symbols {
                // Targets are below n: the message was refused otherwise.
                let symbols = symbols.map(Response::Symbols);
                reply.reply(symbols.unwrap_or(Response::Refused(Refusal::NotFound)));
            }
            Step::Ended
        });
    }

    fn attest(&mut self, is_member: bool, proof: Bytes, (reply, place): (ReplyHandle, Place)) {
        let working = Arc::clone(&self.class(is_member).working);
        let attester = self.attester.clone();
        self.tasks.spawn(async move {
            let Ok(_turn) = working.acquire_owned().await else { return Step::Ended };
            let attested = blocking(move || attester.attest(&proof)).await;
            drop(place);
            if let Some(attested) = attested {
                reply.reply(attested.unwrap_or_else(Response::Refused));
            }
            Step::Ended
        });
    }

    fn refuse_busy(&self, reply: ReplyHandle, wait: Duration) {
        self.metrics.symbol_requests_busy.inc();
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        reply.reply(Response::Refused(Refusal::Busy { retry_after_ms }));
    }

    const fn class(&mut self, is_member: bool) -> &mut Class {
        if is_member { &mut self.of_members } else { &mut self.of_strangers }
    }
}

fn shard_of((blob, pair, _): &SliverKey, config: EncodingConfig) -> ShardIndex {
    blob.shard_of(*pair, config.n_shards())
}

/// Looks a sliver up without reading it.
fn look_up(pairs: &Pairs, config: EncodingConfig, sliver: &SliverKey) -> Result<Found, Refusal> {
    let shard = shard_of(sliver, config);
    if !pairs.has(shard, &sliver.0)? {
        return Err(Refusal::NotFound);
    }
    let proof = pairs.proof(config, shard, &sliver.0)?.ok_or(Refusal::NotFound)?;
    let layout = proof.header.layout().map_err(|_| Refusal::NotFound)?;
    Ok(Found { proof, layout })
}

/// Reads a sliver, its pieces checked.
fn read(pairs: &Pairs, config: EncodingConfig, sliver: &SliverKey) -> Result<Bytes, Refusal> {
    let (blob, _, axis) = sliver;
    pairs.sliver(shard_of(sliver, config), blob, *axis)?.ok_or(Refusal::NotFound)
}

/// Expands a sliver, if it has the root of its proof.
fn expand(
    proof: PairProof,
    layout: &BlobLayout,
    (_, _, axis): &SliverKey,
    bytes: Bytes,
) -> Option<Expanded> {
    let tree = SliverTree::new(layout, *axis, bytes).ok()?;
    (tree.root() == axis.root_of(&proof.digest)).then_some(Expanded { proof, tree })
}

/// A sliver without the root of its proof is damaged.
fn discard(pairs: &Pairs, config: EncodingConfig, sliver: &SliverKey) -> Refusal {
    let discarded = pairs.discard_if_damaged(config, shard_of(sliver, config), &sliver.0);
    discarded.err().unwrap_or(Refusal::NotFound)
}
