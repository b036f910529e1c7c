//! A newcomer that has only the genesis of a network that goes on from another gets the first state
//! of others, before its own ledger is there.
//!
//! The genesis names the manifest, and that every chunk: nobody can lie for long, only be slow. So
//! chunks come from all who name that manifest, members first, and who sends a wrong one is not asked
//! again.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    index::Height,
    keys::NodeId,
    ledger::SnapshotManifest,
    message::{LedgerRequest, LedgerResponse},
};
use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{FirstState, FirstStateError, TAKING, offered};
use crate::{
    network::Network,
    service::{
        blocking,
        snapshot::fetch::{FetchError, Known, Standing, Wanted, ask},
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
    let mut liars = BTreeSet::new();
    while Instant::now() < end {
        let connected = timeout_at(end, connected(network)).await.unwrap_or_default();
        let peers = connected.into_iter().filter(|peer| !liars.contains(peer)).collect();
        let (manifest, peers) =
            who_has_it(first, network, in_order(&committee, &chance, peers)).await;
        if let Some(manifest) = manifest
            && fetch_from(first, network, (manifest, peers), &mut liars).await?
        {
            return Ok(());
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

/// The manifest that the genesis names, and which of some peers name it, in their order.
async fn who_has_it(
    first: &FirstState,
    network: &Network,
    peers: Vec<NodeId>,
) -> (Option<SnapshotManifest>, Vec<NodeId>) {
    let asked = peers.into_iter().map(async |peer| {
        let request = LedgerRequest::Snapshot { height: Some(Height::new(0)) };
        let answer = ask(network, peer, request).await;
        let Ok(LedgerResponse::Snapshot(Some(offer))) = answer else { return None };
        first.predecessor.names(&offer.manifest).then_some((peer, offer.manifest))
    });
    let named = join_all(asked).await.into_iter().flatten();
    let (peers, mut manifests): (Vec<_>, Vec<_>) = named.unzip();
    (manifests.pop(), peers)
}

/// Whether these peers sent all of it. Who sent a wrong chunk goes to `liars`.
async fn fetch_from(
    first: &FirstState,
    network: &Network,
    (manifest, peers): (SnapshotManifest, Vec<NodeId>),
    liars: &mut BTreeSet<NodeId>,
) -> Result<bool, FirstStateError> {
    let offer = Arc::new(offered(manifest));
    let chunks = offer.manifest.chunks.len();
    tracing::info!(peers = peers.len(), chunks, "fetching the first state of the network");
    let files = first.files.clone();
    let Some(draft) = blocking(move || files.begin(TAKING)).await else { return Ok(false) };
    let draft = Arc::new(draft.map_err(|error| first.failed(error))?);
    let wanted =
        Wanted { network: network.clone(), offer: Arc::clone(&offer), draft: Arc::clone(&draft) };
    let mut wrong = Vec::new();
    let limit = Standing::Vouched.limit(chunks);
    let fetched = timeout(limit, wanted.fetch(peers, &mut wrong)).await;
    for (peer, chunk) in wrong {
        tracing::warn!(%peer, chunk, "sent a wrong chunk of the first state: not asked again");
        liars.insert(peer);
    }
    match fetched {
        Ok(Ok(())) => {}
        Ok(Err(FetchError::Unwritten(error))) => return Err(first.failed(error)),
        Ok(Err(error @ FetchError::NobodyLeft)) => {
            tracing::warn!(%error, "the first state of the network does not come");
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
