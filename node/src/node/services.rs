//! Which services a node has, and which of them know of each other: the channels between them.
//!
//! Comes after store, ledger and network are open; each service ends when the node's token is
//! cancelled. The ledger's thread comes first, as all others follow it; those that keep slivers come
//! last, as they answer for what the ledger says. What a service does is said in its own file.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};

use floe_protocol::index::Epoch;
use floe_storage::Store;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::NodeError;
use crate::{
    config::NodeConfig,
    key_file::NodeKeys,
    network::{GossipMessage, Inbound, InboundRequest, Network},
    service::{
        address_book, block_sync,
        challenges::{self, Challenges, Inconsistent, Reader},
        handovers,
        ledger::{self, Chain, Ledger, LedgerThread, Started},
        membership,
        queries::{self, Query},
        readiness, repair, snapshot,
        storage_node::{self, BlobLocks},
        transactions,
    },
};

/// Questions about the ledger that wait for their service.
const QUERIES_MAX: usize = 256;

/// What the services share.
pub(super) struct Parts {
    pub(super) config: NodeConfig,
    pub(super) keys: NodeKeys,
    pub(super) store: Store,
    pub(super) network: Network,
    pub(super) metrics: storage_node::Metrics,
    pub(super) progress: repair::Progress,
    pub(super) record: challenges::Record,
}

/// Starts all services of a node.
pub(super) fn spawn(
    parts: Parts,
    chain: Chain,
    (inbound, certified): (Inbound, watch::Sender<BTreeSet<Epoch>>),
    cancel: &CancellationToken,
) -> Result<(JoinSet<()>, Ledger, LedgerThread), NodeError> {
    let Parts { config, keys, store, network, .. } = &parts;
    let mut services = JoinSet::new();
    let Inbound { requests, transactions, consensus, headers, challenges } = inbound;
    let (ledger, ledger_thread) = start_ledger(
        &mut services,
        ledger::Args {
            chain,
            keys: keys.clone(),
            network: network.clone(),
            consensus,
            timeouts: config.timeouts,
            clock: config.clock,
            cancel: cancel.clone(),
        },
    )?;
    let (snapshots, maker) =
        snapshot::open(&config.paths.snapshots, config.reserve_bytes, &config.network.genesis);
    services.spawn(snapshot::run(snapshot::Args {
        ledger: ledger.clone(),
        maker,
        cancel: cancel.clone(),
    }));
    let genesis = Arc::new(config.network.genesis.clone());
    let (signatures, handovers_signed) = watch::channel(handovers::Signatures::new());
    services.spawn(handovers::run(handovers::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        keys: keys.clone(),
        genesis: Arc::clone(&genesis),
        signatures,
        certified,
        cancel: cancel.clone(),
    }));
    let (queries, queries_receiver) = mpsc::channel(QUERIES_MAX);
    services.spawn(queries::run(queries::Args {
        ledger: ledger.clone(),
        snapshots: snapshots.clone(),
        handovers_signed,
        queries: queries_receiver,
        cancel: cancel.clone(),
    }));
    services.spawn(transactions::run(transactions::Args {
        ledger: ledger.clone(),
        transactions,
        cancel: cancel.clone(),
    }));
    services.spawn(membership::run(ledger.clone(), network.clone(), cancel.clone()));
    services.spawn(block_sync::run(block_sync::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        headers,
        snapshots,
        genesis,
        snapshot_behind_blocks: config.snapshot_behind_blocks,
        cancel: cancel.clone(),
    }));
    services.spawn(readiness::run(readiness::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        key: keys.node.clone(),
        clock: config.clock,
        cancel: cancel.clone(),
    }));
    services.spawn(address_book::run(store.clone(), network.clone(), cancel.clone()));
    let inbound = (requests, challenges, queries);
    spawn_storage(&mut services, parts, &ledger, inbound, cancel);
    Ok((services, ledger, ledger_thread))
}

/// Starts what keeps slivers: the service that answers for them, the one that fetches what this
/// node lacks, and the one that proves that it holds them.
fn spawn_storage(
    services: &mut JoinSet<()>,
    parts: Parts,
    ledger: &Ledger,
    (requests, commitments, queries): (
        mpsc::Receiver<InboundRequest>,
        mpsc::Receiver<GossipMessage>,
        mpsc::Sender<Query>,
    ),
    cancel: &CancellationToken,
) {
    let Parts { config, keys, store, network, metrics, progress, record } = parts;
    let (locks, missing) = (Arc::new(BlobLocks::default()), Arc::new(Notify::new()));
    let (status, score) = (progress.watch(), record.watch());
    let inconsistent = Inconsistent::default();
    let (challenges, links) = Challenges::new(challenges::Args {
        ledger: ledger.clone(),
        network: network.clone(),
        keys: keys.clone(),
        reader: Reader { store: store.clone(), elsewhere: config.elsewhere.clone() },
        commitments,
        inconsistent: inconsistent.clone(),
        record,
        cancel: cancel.clone(),
    });
    services.spawn(challenges.run());
    services.spawn(repair::run(repair::Args {
        ledger: ledger.clone(),
        keys: keys.clone(),
        store: store.clone(),
        network: network.clone(),
        locks: Arc::clone(&locks),
        missing: Arc::clone(&missing),
        inconsistent: inconsistent.clone(),
        progress,
        limits: config.repair,
        clock: config.clock,
        cancel: cancel.clone(),
    }));
    services.spawn(storage_node::run(storage_node::Args {
        ledger: ledger.clone(),
        keys,
        store,
        network,
        locks,
        repair: status,
        requests,
        queries,
        challenges: links,
        score,
        inconsistent,
        limits: config.service,
        clock: config.clock,
        missing,
        scrubbed: Arc::new(AtomicU64::new(0)),
        metrics,
        cancel: cancel.clone(),
    }));
}

/// Starts the ledger's thread, and a task that ends when it does.
fn start_ledger(
    services: &mut JoinSet<()>,
    args: ledger::Args,
) -> Result<(Ledger, LedgerThread), NodeError> {
    let Started { ledger, thread, ended } = ledger::start(args).map_err(NodeError::Thread)?;
    services.spawn(async move {
        match ended.await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::error!(%fault, "the ledger has stopped: the node must, too"),
            Err(_) => tracing::error!("the ledger's thread has panicked"),
        }
    });
    Ok((ledger, thread))
}
