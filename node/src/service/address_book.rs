//! The address book: remembers where peers were, so that a node finds its swarm again although
//! its bootstrap peers are gone.
//!
//! What the network learns of committee nodes is written to the store from time to time, and
//! handed back to the network at the next start. Addresses are hints, never facts: whoever
//! answers there proves its key in the handshake.

use std::time::Duration;

use floe_protocol::keys::NodeId;
use floe_storage::Store;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::network::{Multiaddr, Network};

const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// Hands what the store remembers to the network.
pub(crate) async fn restore(store: &Store, network: &Network) {
    let store = store.clone();
    let remembered = match spawn_blocking(move || store.peers()).await {
        Ok(Ok(remembered)) => remembered,
        Ok(Err(error)) => {
            tracing::warn!(%error, "remembered peers cannot be read");
            return;
        }
        Err(_) => return,
    };
    for (node, addresses) in remembered {
        let addresses: Vec<Multiaddr> =
            addresses.iter().filter_map(|address| address.parse().ok()).collect();
        network.add_addresses(node, addresses).await;
    }
}

/// Saves what is known whenever it has changed, until cancelled; once more at the end.
pub(crate) async fn run(store: Store, network: Network, cancel: CancellationToken) {
    let mut peers = network.peers();
    let mut saved = Vec::new();
    loop {
        let cancelled = tokio::select! {
            () = cancel.cancelled() => true,
            () = tokio::time::sleep(SAVE_INTERVAL) => false,
        };
        let known: Vec<(NodeId, Vec<String>)> = {
            let view = peers.borrow_and_update();
            let text =
                |addresses: &Vec<Multiaddr>| addresses.iter().map(ToString::to_string).collect();
            view.committee_addresses
                .iter()
                .map(|(node, addresses)| (*node, text(addresses)))
                .collect()
        };
        if known != saved && !known.is_empty() {
            let (store, entries) = (store.clone(), known.clone());
            match spawn_blocking(move || store.put_peers(&entries)).await {
                Ok(Ok(())) => saved = known,
                Ok(Err(error)) => tracing::warn!(%error, "peers not remembered"),
                Err(_) => return,
            }
        }
        if cancelled {
            return;
        }
    }
}
