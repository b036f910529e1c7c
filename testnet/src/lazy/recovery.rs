//! Recovers single pairs from symbols of others, as a node does that repairs, at once and as often
//! as it likes.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::Place,
    encoding::{self, Axis, EncodingConfig},
    index::{Epoch, SliverPairIndex, SymbolIndex},
    keys::NodeId,
    message::{Request, Response},
    repair::{Recovery, RecoveryConfig, RecoveryInput, RecoveryOutput},
    transfer::SliverFault,
};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::sleep_until,
};

use super::{fetcher::Pair, stranger::Stranger};

/// Memory that one recovery may take.
const BYTES_MAX: u64 = 64 << 20;

/// Recovers.
#[derive(Debug)]
pub(super) struct Recoverer {
    stranger: Stranger,
}

impl Recoverer {
    pub(super) const fn new(stranger: Stranger) -> Self {
        Self { stranger }
    }

    /// The pair of a place.
    pub(super) async fn recover(&self, place: &Place) -> anyhow::Result<Pair> {
        let known = self.stranger.holders();
        let n_shards = known.committee().n_shards();
        let holders = |pair| {
            let shard = place.blob.shard_of(SliverPairIndex::new(pair), n_shards);
            known.of(shard, Epoch::new(0)).collect()
        };
        let holders: Vec<_> = (0..n_shards).map(holders).collect();
        let config = RecoveryConfig { bytes_max: BYTES_MAX, ..RecoveryConfig::default() };
        let mut recovery = Recovery::new(config, &place.header, &[place.pair], &holders)?;
        let (began, mut asks) = (Instant::now(), JoinSet::new());
        let mut input = RecoveryInput::Tick;
        loop {
            let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let mut next = None;
            for output in recovery.handle(now_ms, input) {
                match output {
                    RecoveryOutput::Ask { node, pair, axis, targets } => {
                        let (stranger, config) = (self.stranger.clone(), place.layout.config());
                        let asked = Asked { blob: place.blob, node, pair, axis, targets };
                        asks.spawn(async move { asked.ask(&stranger, config).await });
                    }
                    RecoveryOutput::AskSliver { node, pair } => {
                        let (stranger, place) = (self.stranger.clone(), *place);
                        asks.spawn(async move { ask_row(&stranger, &place, (node, pair)).await });
                    }
                    RecoveryOutput::Enlarge { .. } => {
                        asks.abort_all();
                        next = Some(RecoveryInput::Enlarged);
                    }
                    RecoveryOutput::Banned { .. } => {}
                    RecoveryOutput::Recover(material) => {
                        let made = spawn_blocking(move || material.recover()).await??;
                        let made = made.into_iter().find(|made| made.pair == place.pair);
                        let made = made.context("another pair was recovered")?;
                        return Ok((made.proof, made.primary, made.secondary));
                    }
                    RecoveryOutput::Failed(failure) => bail!(failure),
                }
            }
            input = match next {
                Some(input) => input,
                None => {
                    let wake_at = recovery.wake_at_ms().map(Duration::from_millis);
                    tokio::select! {
                        Some(answer) = asks.join_next() => answer?,
                        () = until(wake_at.map(|wake_at| began + wake_at)) => RecoveryInput::Tick,
                    }
                }
            };
        }
    }
}

/// Comes when the machine wants to be told the time; never if it only waits for answers.
async fn until(wake_at: Option<Instant>) {
    match wake_at {
        Some(wake_at) => sleep_until(wake_at.into()).await,
        None => std::future::pending().await,
    }
}

/// Symbols that are asked for.
struct Asked {
    blob: BlobId,
    node: NodeId,
    pair: SliverPairIndex,
    axis: Axis,
    targets: Vec<SymbolIndex>,
}

impl Asked {
    async fn ask(self, stranger: &Stranger, config: EncodingConfig) -> RecoveryInput {
        let Self { blob, node, pair, axis, targets } = self;
        let failed = |fault| RecoveryInput::Failed { node, pair, axis, fault };
        let request = Request::ReadSymbols { blob, pair, axis, targets: targets.clone() };
        match stranger.ask(node, request).await {
            Ok(Response::Symbols(symbols)) => {
                match symbols.verify(config, (&blob, pair, axis), &targets) {
                    Ok(symbols) => RecoveryInput::Symbols { node, pair, axis, symbols },
                    Err(_) => failed(SliverFault::Wrong),
                }
            }
            Ok(_) => failed(SliverFault::NoAnswer),
            Err(fault) => failed(fault),
        }
    }
}

async fn ask_row(
    stranger: &Stranger,
    place: &Place,
    (node, pair): (NodeId, SliverPairIndex),
) -> RecoveryInput {
    let axis = Axis::Primary;
    let failed = |fault| RecoveryInput::Failed { node, pair, axis, fault };
    let request = Request::ReadSliver { blob: place.blob, pair, axis };
    let (proof, sliver) = match stranger.ask(node, request).await {
        Ok(Response::Sliver { proof, sliver }) => (proof, sliver),
        Ok(_) => return failed(SliverFault::NoAnswer),
        Err(fault) => return failed(fault),
    };
    let proof = PairProof::verify_bytes(place.layout.config(), &place.blob, &proof).ok();
    let proof = proof.filter(|proof| {
        let root = encoding::sliver_root(&place.layout, axis, &sliver);
        proof.index == pair && root.is_ok_and(|root| root == proof.digest.primary)
    });
    match proof {
        Some(proof) => RecoveryInput::Sliver { node, proof, sliver },
        None => failed(SliverFault::Wrong),
    }
}
