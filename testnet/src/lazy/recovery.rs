//! Recovers single pairs from symbols of others, as a node does that repairs, at once and as often
//! as it likes.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use floe_node::{
    Client,
    network::{self, Network, Role},
};
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::Place,
    encoding::{self, Axis, EncodingConfig},
    genesis::NetworkFile,
    index::{SliverPairIndex, SymbolIndex},
    keys::{KeyPair, NodeId},
    message::{Refusal, Request, Response},
    repair::{Recovery, RecoveryConfig, RecoveryInput, RecoveryOutput},
    transfer::SliverFault,
};
use prometheus_client::registry::Registry;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep_until, timeout},
};

use super::fetcher::Pair;
use crate::{cluster::network_config, workload::fresh_seed};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Memory that one recovery may take.
const BYTES_MAX: u64 = 64 << 20;

/// A light peer that recovers.
#[derive(Debug)]
pub(super) struct Recoverer {
    client: Client,
    network: Network,
}

impl Recoverer {
    pub(super) async fn new(network: &NetworkFile, client: Client) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&fresh_seed().to_le_bytes());
        let mut config = network_config(network, KeyPair::from_seed(seed), Role::LightPeer)?;
        config.limits.loopback_exempt = true;
        let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await?;
        tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
        Ok(Self { client, network })
    }

    /// The pair of a place.
    pub(super) async fn recover(&self, place: &Place) -> anyhow::Result<Pair> {
        let committee = self.client.committee();
        let holder = |pair| {
            let shard = place.blob.shard_of(SliverPairIndex::new(pair), committee.n_shards());
            vec![committee.members()[committee.holder(shard)].node]
        };
        let holders: Vec<_> = (0..committee.n_shards()).map(holder).collect();
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
                        let (network, config) = (self.network.clone(), place.layout.config());
                        let asked = Asked { blob: place.blob, node, pair, axis, targets };
                        asks.spawn(async move { asked.ask(&network, config).await });
                    }
                    RecoveryOutput::AskSliver { node, pair } => {
                        let (network, place) = (self.network.clone(), *place);
                        asks.spawn(async move { ask_row(&network, &place, (node, pair)).await });
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
    async fn ask(self, network: &Network, config: EncodingConfig) -> RecoveryInput {
        let Self { blob, node, pair, axis, targets } = self;
        let failed = |fault| RecoveryInput::Failed { node, pair, axis, fault };
        let request = Request::ReadSymbols { blob, pair, axis, targets: targets.clone() };
        match answer(network, node, request).await {
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
    network: &Network,
    place: &Place,
    (node, pair): (NodeId, SliverPairIndex),
) -> RecoveryInput {
    let axis = Axis::Primary;
    let failed = |fault| RecoveryInput::Failed { node, pair, axis, fault };
    let request = Request::ReadSliver { blob: place.blob, pair, axis };
    let (proof, sliver) = match answer(network, node, request).await {
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

async fn answer(
    network: &Network,
    node: NodeId,
    request: Request,
) -> Result<Response, SliverFault> {
    match timeout(PATIENCE, network.request(node, request)).await {
        Ok(Ok(Response::Refused(Refusal::Busy { retry_after_ms }))) => {
            Err(SliverFault::Busy { retry_after_ms })
        }
        Ok(Ok(Response::Refused(Refusal::NotFound))) => Err(SliverFault::NotFound),
        Ok(Ok(Response::Refused(_)) | Err(_)) | Err(_) => Err(SliverFault::NoAnswer),
        Ok(Ok(response)) => Ok(response),
    }
}
