//! A newcomer that has only the genesis of a network that goes on from another gets the first state
//! of others, before its own ledger is there.
//!
//! The genesis names the manifest, and that every chunk: nobody can lie, only be slow. So whoever
//! answers is asked, members first.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    index::Height,
    keys::NodeId,
    message::{LedgerRequest, LedgerResponse},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{FirstState, FirstStateError, TAKING, offered};
use crate::{
    network::Network,
    service::{
        blocking,
        snapshot::fetch::{Known, Standing, Wanted, ask},
    },
};

/// How long anybody is looked for who has it.
const LOOK_FOR: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Fetches the first state into the node's files.
///
/// # Errors
/// [`FirstStateError::NobodyHasIt`] after a while; others if the disk fails.
pub(crate) async fn fetch(
    first: &FirstState,
    genesis: &Genesis,
    network: &Network,
) -> Result<(), FirstStateError> {
    let committee = genesis.committee().map_err(|_| FirstStateError::Missing)?;
    let chance = RandomState::new();
    let end = Instant::now() + LOOK_FOR;
    while Instant::now() < end {
        let connected = timeout_at(end, connected(network)).await.unwrap_or_default();
        for peer in in_order(&committee, &chance, connected) {
            if fetch_from(first, network, peer).await? {
                return Ok(());
            }
        }
        sleep(PAUSE).await;
    }
    Err(FirstStateError::NobodyHasIt)
}

/// Members first, others by lot.
fn in_order(committee: &Committee, chance: &RandomState, peers: Vec<NodeId>) -> Vec<NodeId> {
    let known = Known { committee, proven: &|_| false, draw: &|bytes| chance.hash_one(bytes) };
    known.order(peers)
}

/// Whoever answers requests, once there is somebody.
async fn connected(network: &Network) -> Vec<NodeId> {
    let mut view = network.peers();
    let fit = view.wait_for(|view| view.connected.values().any(|peer| peer.answers_requests)).await;
    let Ok(view) = fit else { return Vec::new() };
    let fit = view.connected.iter().filter(|(_, peer)| peer.answers_requests);
    fit.map(|(node, _)| *node).collect()
}

/// Whether a peer sent all of it.
async fn fetch_from(
    first: &FirstState,
    network: &Network,
    peer: NodeId,
) -> Result<bool, FirstStateError> {
    let request = LedgerRequest::Snapshot { height: Some(Height::new(0)) };
    let Ok(LedgerResponse::Snapshot(Some(offer))) = ask(network, peer, request).await else {
        return Ok(false);
    };
    if !first.predecessor.names(&offer.manifest) {
        return Ok(false);
    }
    let offer = Arc::new(offered(offer.manifest));
    let chunks = offer.manifest.chunks.len();
    tracing::info!(%peer, chunks, "fetching the first state of the network");
    let files = first.files.clone();
    let Some(draft) = blocking(move || files.begin(TAKING)).await else { return Ok(false) };
    let draft = Arc::new(draft.map_err(|error| first.failed(error))?);
    let wanted =
        Wanted { network: network.clone(), offer: Arc::clone(&offer), draft: Arc::clone(&draft) };
    let mut liars = Vec::new();
    let limit = Standing::Vouched.limit(chunks);
    match timeout(limit, wanted.fetch(vec![peer], &mut liars)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "the first state of the network does not come");
            return Ok(false);
        }
        Err(_) => return Ok(false),
    }
    let files = first.files.clone();
    let kept = blocking(move || files.keep_first(&draft, &offer)).await;
    match kept {
        Some(kept) => kept.map(|()| true).map_err(|error| first.failed(error)),
        None => Ok(false),
    }
}
