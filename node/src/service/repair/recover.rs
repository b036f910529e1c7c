//! Drives the recovery of one blob's pairs: asks, verifies, and keeps what the machine makes.
//!
//! [`Recovery`] decides whom to ask for what. Answers are verified, and pairs are made of them, on
//! blocking threads. A blob that proves inconsistent is invalidated, if enough members attest it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof, ProofError},
    encoding::{self, Axis, BlobLayout, PairHashes},
    holders::Holders,
    index::{ShardIndex, SliverPairIndex, SymbolIndex},
    keys::NodeId,
    message::{Refusal, Request, Response},
    repair::{
        RecoveredPair, Recovery, RecoveryConfig, RecoveryError, RecoveryInput, RecoveryMaterial,
        RecoveryOutput, Unfit,
    },
    transfer::SliverFault,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    attest,
    budget::Share,
    context::{Context, Failed, Pair, millis},
    scan::{Lack, Looked},
};
use crate::service::on_ended;

/// A recovery that waits for nothing that it knows of looks again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What came of a recovery.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) blob: BlobId,
    /// Shards whose pair is here now, or no longer wanted.
    pub(super) shards: Vec<ShardIndex>,
    /// Who sent something false.
    pub(super) liars: Vec<NodeId>,
}

/// Recovers the missing pairs of a blob, without asking who has lied.
pub(super) async fn recover(
    context: Arc<Context>,
    looked: Arc<Looked>,
    lack: Lack,
    unfit: Arc<Unfit>,
) -> Result<Recovered, Failed> {
    let n_shards = lack.header.n_shards;
    let mut recovered = Recovered { blob: lack.blob, shards: Vec::new(), liars: Vec::new() };
    let mut wanted: Vec<_> =
        lack.shards.iter().map(|shard| lack.blob.pair_of(*shard, n_shards)).collect();
    // A machine may take on fewer pairs than wanted.
    while !wanted.is_empty() {
        let helpers = helpers(context.node(), &looked.holders, &lack, |node| {
            unfit.liars.contains(node) || recovered.liars.contains(node)
        });
        let bytes_max = context.limits.recovery_bytes_max;
        let config = RecoveryConfig { bytes_max, ..RecoveryConfig::default() };
        let recovery = match Recovery::new(config, &lack.header, &wanted, &helpers) {
            Ok(recovery) => recovery,
            Err(error) => {
                tracing::warn!(blob = %lack.blob, %error, "cannot be recovered here");
                break;
            }
        };
        let Some(run) = Run::new(&context, lack.clone(), (recovery, &unfit)).await else { break };
        let (end, liars) = run.drive().await?;
        recovered.liars.extend(liars);
        let End::Made(pairs) = end else { break };
        wanted.retain(|pair| !pairs.contains(pair));
        recovered.shards.extend(pairs.iter().map(|pair| lack.blob.shard_of(*pair, n_shards)));
    }
    Ok(recovered)
}

/// For each pair of the blob, who may have it.
fn helpers(
    me: NodeId,
    holders: &Holders,
    lack: &Lack,
    is_liar: impl Fn(&NodeId) -> bool,
) -> Vec<Vec<NodeId>> {
    let n_shards = lack.header.n_shards;
    let of_pair = |pair| {
        let shard = lack.blob.shard_of(SliverPairIndex::new(pair), n_shards);
        let nodes = holders.of(shard, lack.first.0);
        nodes.filter(|node| *node != me && !is_liar(node)).collect()
    };
    (0..n_shards).map(of_pair).collect()
}

/// How a run ended.
enum End {
    /// These pairs are here, or no longer wanted.
    Made(Vec<SliverPairIndex>),
    Failed,
}

struct Run {
    context: Arc<Context>,
    lack: Lack,
    layout: BlobLayout,
    recovery: Recovery,
    asks: JoinSet<(RecoveryInput, u64)>,
    /// What has come and the machine has not been told.
    inputs: VecDeque<RecoveryInput>,
    liars: Vec<NodeId>,
    started: Instant,
    share: Option<Share>,
    unfit: Arc<Unfit>,
}

impl Run {
    async fn new(
        context: &Arc<Context>,
        lack: Lack,
        (recovery, unfit): (Recovery, &Arc<Unfit>),
    ) -> Option<Self> {
        let layout = lack.header.layout().ok()?;
        let share = Some(context.budget.take(recovery.bytes_needed()).await);
        let hold = RecoveryInput::Hold { until_ms: millis(context.throttle.wait()) };
        Some(Self {
            context: Arc::clone(context),
            lack,
            layout,
            recovery,
            asks: JoinSet::new(),
            inputs: VecDeque::from([hold]),
            liars: Vec::new(),
            started: Instant::now(),
            share,
            unfit: Arc::clone(unfit),
        })
    }

    /// Runs the machine to its end; what came, and who lied.
    async fn drive(mut self) -> Result<(End, Vec<NodeId>), Failed> {
        loop {
            let input = self.next_input().await?;
            let now_ms = self.now_ms();
            for output in self.recovery.handle(now_ms, input) {
                match output {
                    RecoveryOutput::Ask { node, pair, axis, targets } => {
                        self.ask_symbols(node, (pair, axis), targets);
                    }
                    RecoveryOutput::AskSliver { node, pair } => self.ask_sliver(node, pair),
                    RecoveryOutput::Banned { node } => {
                        let blob = self.lack.blob;
                        tracing::warn!(%node, %blob, "sent false symbols: not asked again");
                        self.liars.push(node);
                    }
                    RecoveryOutput::Enlarge { bytes } => {
                        self.asks.abort_all();
                        self.inputs.clear();
                        self.share = None;
                        self.share = Some(self.context.budget.take(bytes).await);
                        self.inputs.push_back(RecoveryInput::Enlarged);
                    }
                    RecoveryOutput::Recover(material) => {
                        self.asks.abort_all();
                        let end = self.make(*material).await?;
                        return Ok((end, self.liars));
                    }
                    RecoveryOutput::Failed(failure) => {
                        tracing::debug!(blob = %self.lack.blob, %failure, "not recovered");
                        return Ok((End::Failed, self.liars));
                    }
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    async fn next_input(&mut self) -> Result<RecoveryInput, Failed> {
        if let Some(input) = self.inputs.pop_front() {
            return Ok(input);
        }
        let look_again = Instant::now() + LOOK_AGAIN;
        let wake_at = self.recovery.wake_at_ms();
        let wake_at = wake_at.map(|ms| self.started + Duration::from_millis(ms));
        let wake_at = wake_at.map_or(look_again, |at| at.min(look_again));
        loop {
            tokio::select! {
                () = self.context.cancel.cancelled() => return Err(Failed::Stopping),
                Some(answer) = self.asks.join_next() => match answer {
                    Ok((input, bytes)) => {
                        let wait = self.context.charge(bytes);
                        if wait.is_zero() {
                            return Ok(input);
                        }
                        self.inputs.push_back(input);
                        let until_ms = self.now_ms().saturating_add(millis(wait));
                        return Ok(RecoveryInput::Hold { until_ms });
                    }
                    Err(error) => on_ended(Err(error)),
                },
                () = sleep_until(wake_at) => return Ok(RecoveryInput::Tick),
            }
        }
    }

    fn ask_symbols(
        &mut self,
        node: NodeId,
        (pair, axis): (SliverPairIndex, Axis),
        targets: Vec<SymbolIndex>,
    ) {
        let (context, blob, layout) = (Arc::clone(&self.context), self.lack.blob, self.layout);
        self.asks.spawn(async move {
            let failed = |fault| RecoveryInput::Failed { node, pair, axis, fault };
            let request = Request::ReadSymbols { blob, pair, axis, targets: targets.clone() };
            let bytes = (targets.len() * layout.symbol_bytes()) as u64;
            let symbols = match ask(&context, node, request, bytes).await {
                Ok(Response::Symbols(symbols)) => symbols,
                Ok(_) => return (failed(SliverFault::NoAnswer), 0),
                Err(fault) => return (failed(fault), 0),
            };
            let bytes = (symbols.proof.len() + symbols.symbols.len()) as u64;
            let config = layout.config();
            let verified = context
                .compute(move || symbols.verify(config, (&blob, pair, axis), &targets))
                .await;
            let input = match verified {
                Some(Ok(symbols)) => RecoveryInput::Symbols { node, pair, axis, symbols },
                Some(Err(error)) => {
                    tracing::debug!(%node, %blob, %pair, %error, "false symbols");
                    failed(SliverFault::Wrong)
                }
                None => failed(SliverFault::NoAnswer),
            };
            (input, bytes)
        });
    }

    fn ask_sliver(&mut self, node: NodeId, pair: SliverPairIndex) {
        let (context, blob, layout) = (Arc::clone(&self.context), self.lack.blob, self.layout);
        self.asks.spawn(async move {
            let failed = |fault| RecoveryInput::Failed { node, pair, axis: Axis::Primary, fault };
            let request = Request::ReadSliver { blob, pair, axis: Axis::Primary };
            let (proof, sliver) =
                match ask(&context, node, request, layout.primary_bytes() as u64).await {
                    Ok(Response::Sliver { proof, sliver }) => (proof, sliver),
                    Ok(_) => return (failed(SliverFault::NoAnswer), 0),
                    Err(fault) => return (failed(fault), 0),
                };
            let bytes = (proof.len() + sliver.len()) as u64;
            let verified =
                context.compute(move || verify_row(&blob, &layout, pair, (&proof, sliver))).await;
            let input = match verified {
                Some(Some((proof, sliver))) => RecoveryInput::Sliver { node, proof, sliver },
                Some(None) => failed(SliverFault::Wrong),
                None => failed(SliverFault::NoAnswer),
            };
            (input, bytes)
        });
    }

    /// Makes the pairs and keeps them, or has the blob invalidated.
    async fn make(&mut self, material: RecoveryMaterial) -> Result<End, Failed> {
        let (blob, n_shards) = (self.lack.blob, self.lack.header.n_shards);
        let made = self.context.compute(move || hashed(material.recover()?)).await;
        let made = made.ok_or(Failed::Stopping)?;
        let made = match made {
            Ok(made) => made,
            Err(RecoveryError::Inconsistent(proof)) => {
                // The proof is all that is left of it: others need not wait for the members.
                if let Some(share) = &mut self.share {
                    share.shrink(proof.to_bytes().len() as u64);
                }
                attest::invalidate(&self.context, &proof, &self.unfit).await?;
                return Ok(End::Failed);
            }
            Err(error) => {
                tracing::warn!(%blob, %error, "verified answers make no sliver");
                return Ok(End::Failed);
            }
        };
        let indices = made.iter().map(|(made, _)| made.pair).collect();
        let pairs: Vec<_> = made
            .into_iter()
            .map(|(made, hashes)| Pair {
                blob,
                shard: blob.shard_of(made.pair, n_shards),
                proof: made.proof,
                primary: made.primary,
                secondary: made.secondary,
                hashes,
            })
            .collect();
        let kept = self.context.blocking(move |context| {
            let wanted = context.keep(&pairs)?;
            for (pair, _) in pairs.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
                context.progress.recovered(pair.sliver_bytes());
                tracing::debug!(%blob, shard = %pair.shard, "pair recovered");
            }
            Ok(())
        });
        kept.await?;
        Ok(End::Made(indices))
    }
}

/// Each pair with the hashes of its symbols.
fn hashed(made: Vec<RecoveredPair>) -> Result<Vec<(RecoveredPair, PairHashes)>, RecoveryError> {
    let made = made.into_iter().map(|made| {
        let layout = made.proof.header.layout().map_err(ProofError::from)?;
        // Without them they are made when they are needed.
        let hashes = PairHashes::of(&layout, &made.primary, &made.secondary).unwrap_or_default();
        Ok((made, hashes))
    });
    made.collect()
}

/// Asks once; the machine decides whether to ask again.
async fn ask(
    context: &Context,
    node: NodeId,
    request: Request,
    bytes: u64,
) -> Result<Response, SliverFault> {
    match timeout(context.patience(bytes), context.network.request(node, request)).await {
        Ok(Ok(Response::Refused(Refusal::Busy { retry_after_ms }))) => {
            Err(SliverFault::Busy { retry_after_ms })
        }
        Ok(Ok(Response::Refused(Refusal::NotFound))) => Err(SliverFault::NotFound),
        Ok(Ok(Response::Refused(_)) | Err(_)) | Err(_) => Err(SliverFault::NoAnswer),
        Ok(Ok(response)) => Ok(response),
    }
}

/// A row and its proof, if they are true.
fn verify_row(
    blob: &BlobId,
    layout: &BlobLayout,
    pair: SliverPairIndex,
    (proof, sliver): (&[u8], Bytes),
) -> Option<(PairProof, Bytes)> {
    let proof = PairProof::verify_bytes(layout.config(), blob, proof).ok()?;
    let is_asked = proof.index == pair;
    let is_true = is_asked && encoding::verify_primary(layout, &proof, &sliver).is_ok();
    is_true.then_some((proof, sliver))
}
