//! What a node does until its ledger is open, in a network that goes on from a stopped one: its files
//! become those of the network, and the first state comes into them.

use floe_protocol::keys::NodeId;
use floe_storage::{LedgerStoreConfig, NetworkFiles, Store};
use prometheus_client::registry::Registry;
use tokio::task::spawn_blocking;

use super::{NodeError, network_config};
use crate::{
    config::NodeConfig,
    key_file::{NodeKeys, journal_dir},
    network::{self, NetworkConfig, Role},
    service::{
        ledger::{Adoption, Chain, ChainError},
        snapshot::{self, FirstState, FirstStateError},
    },
};

/// Makes the node's files those of its network, if it has served that network's predecessor.
pub(super) async fn adopt(
    config: &NodeConfig,
    node: NodeId,
    slivers: &Store,
) -> Result<(), NodeError> {
    let (genesis, adoption) = (config.network.genesis.clone(), adoption(config, node, slivers));
    let adopted = spawn_blocking(move || adoption.adopt(&genesis));
    Ok(adopted.await.map_err(|_| NodeError::Interrupted)??)
}

fn adoption(config: &NodeConfig, node: NodeId, slivers: &Store) -> Adoption {
    let paths = &config.paths;
    let files = NetworkFiles {
        ledger: paths.ledger.clone(),
        ledger_marker: paths.ledger_marker.clone(),
        snapshots: paths.snapshots.clone(),
        journal_dir: journal_dir(&paths.key).to_owned(),
    };
    let abandon_blocks = config.abandon_blocks;
    Adoption { node, files, slivers: slivers.clone(), abandon_blocks }
}

/// The first state of a network that goes on from another, in the node's files: from the file beside
/// the network's, or from others.
async fn first_state(
    config: &NodeConfig,
    keys: &NodeKeys,
    slivers: &Store,
) -> Result<Option<FirstState>, NodeError> {
    let genesis = &config.network.genesis;
    let first = FirstState::of(genesis, &config.paths.snapshots, config.reserve_bytes);
    let Some(first) = first else { return Ok(None) };
    let failed = |error: FirstStateError| NodeError::Ledger(error.into());
    let (taken, file) = (first.clone(), config.first_state.clone());
    let is_there = spawn_blocking(move || {
        file.map_or(Ok(()), |file| taken.take(&file)).map(|()| taken.offer().is_some())
    });
    if is_there.await.map_err(|_| NodeError::Interrupted)?.map_err(failed)? {
        return Ok(Some(first));
    }
    let adoption = adoption(config, keys.node.public(), slivers);
    let has_begun = spawn_blocking(move || adoption.has_begun());
    if has_begun.await.map_err(|_| NodeError::Interrupted)?? {
        return Ok(Some(first));
    }
    let committee = genesis.committee()?;
    let members = committee.members().iter().map(|member| member.node).collect();
    let network = network_config(config, keys, (committee.config(), members))?;
    let network = NetworkConfig {
        role: Role::LightPeer,
        listen: Vec::new(),
        external: Vec::new(),
        ..network
    };
    let (network, _inbound, task) = network::start(network, &mut Registry::default()).await?;
    let fetched = snapshot::fetch_first_state(&first, genesis, &network).await;
    network.shutdown().await;
    // It ends with the handle.
    drop(task.await);
    fetched.map_err(failed)?;
    Ok(Some(first))
}

/// Opens the ledger of a node, or begins it. A first state that is damaged on this disk is taken or
/// fetched once more: everybody else may have it whole.
pub(super) async fn ledger(
    config: &NodeConfig,
    keys: &NodeKeys,
    slivers: &Store,
) -> Result<Chain, NodeError> {
    let node = keys.node.public();
    let first = first_state(config, keys, slivers).await?;
    let error = match open_chain(config, node, first.clone()).await {
        Err(NodeError::Ledger(ChainError::FirstState(FirstStateError::Snapshot(error)))) => error,
        opened => return opened,
    };
    tracing::warn!(%error, "the first state of the network is damaged here: it is got once more");
    if let Some(first) = first {
        let removed = spawn_blocking(move || first.discard());
        removed.await.map_err(|_| NodeError::Interrupted)?;
    }
    let first = first_state(config, keys, slivers).await?;
    open_chain(config, node, first).await
}

async fn open_chain(
    config: &NodeConfig,
    node: NodeId,
    first: Option<FirstState>,
) -> Result<Chain, NodeError> {
    let paths = &config.paths;
    let store = LedgerStoreConfig {
        accept_empty: config.accept_empty,
        ..LedgerStoreConfig::new(paths.ledger.clone(), paths.ledger_marker.clone(), node)
    };
    let journal_dir = journal_dir(&paths.key).to_owned();
    let genesis = config.network.genesis.clone();
    let vote_now = config.vote_now;
    let opened = spawn_blocking(move || {
        Chain::open(&genesis, &store, first.as_ref(), (&journal_dir, vote_now))
    })
    .await;
    Ok(opened.map_err(|_| NodeError::Interrupted)??)
}
