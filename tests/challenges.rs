//! Storage challenges among real nodes: who holds what it must passes round after round, whatever
//! others do; who does not, misses them.
//!
//! Nothing here waits for a time: every test follows what the ledger says of rounds.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use floe_node::{
    CommittedBlock,
    client::{Client, StoreProgress},
    config::{NodeConfig, NodePaths},
};
use floe_protocol::{
    blob::BlobId,
    challenge::{ChallengeParameters, Outcome},
    index::{ChallengeRound, ShardIndex},
    ledger::{Event, LedgerParameters, Operation},
    test_support,
    transfer::Wanted,
};
use floe_storage::{Store, StoreConfig};
use floe_testnet::{Cluster, ClusterBuilder};
use tokio::{
    sync::{broadcast, watch},
    time::timeout,
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(120);
const SHARDS: u16 = 7;

/// A round every three seconds.
fn builder(nodes: usize) -> ClusterBuilder {
    let challenges = ChallengeParameters {
        interval_ms: 3_000,
        window_ms: 300,
        certificate_window_ms: 2_400,
        certificate_window_heights: 4,
        grace_ms: 0,
        ..ChallengeParameters::default()
    };
    let ledger = LedgerParameters { challenges, ..LedgerParameters::default() };
    Cluster::builder().nodes(nodes).shards(SHARDS).ledger(ledger)
}

async fn store(client: &Client, cluster: &Cluster, seed: u64, bytes: usize) -> BlobId {
    let (progress, _) = watch::channel(StoreProgress::default());
    let wanted = Wanted { epochs: 2, deletable: true };
    let content = test_support::blob(seed, bytes);
    client.store(content, wanted, cluster.wallet(), &progress).await.unwrap().blob
}

/// Waits for an event; what it tells.
async fn told<T>(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    of: impl Fn(&Event) -> Option<T>,
) -> T {
    let told = async {
        loop {
            if let Some(told) = blocks.recv().await.unwrap().events.iter().find_map(&of) {
                return told;
            }
        }
    };
    timeout(DEADLINE, told).await.expect("it happens")
}

/// Waits until a round opens.
async fn opened(blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>) -> ChallengeRound {
    told(blocks, |event| match event {
        Event::ChallengeOpened { round } => Some(*round),
        _ => None,
    })
    .await
}

/// What the round came to.
async fn closed(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    round: ChallengeRound,
) -> Vec<Outcome> {
    told(blocks, |event| match event {
        Event::ChallengeClosed { round: closed, outcomes } if *closed == round => {
            Some(outcomes.clone())
        }
        _ => None,
    })
    .await
}

/// What the next round that opens comes to, of each node.
async fn next_round(cluster: &Cluster, node: usize) -> Vec<Outcome> {
    let mut blocks = cluster.node(node).expect("a running node").ledger().committed();
    let round = opened(&mut blocks).await;
    closed(&mut blocks, round).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_pass_while_they_hold_what_they_must() {
    let cluster = builder(4).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    // The slivers of the last one are too long to be read whole.
    for (seed, bytes) in [(1, 10), (2, 50_000), (3, 1_000_000)] {
        store(&client, &cluster, seed, bytes).await;
    }
    for _ in 0..3 {
        assert_eq!(next_round(&cluster, 0).await, [Outcome::Passed; 4]);
    }
    for node in 0..4 {
        let mut score = cluster.node(node).unwrap().challenges();
        let passed = timeout(DEADLINE, score.wait_for(|score| score.passed >= 3)).await;
        let score = passed.expect("it counts its rounds").unwrap().clone();
        assert_eq!((score.missed, score.last_failure), (0, None));
        let metrics = cluster.metrics(node).await.unwrap();
        for line in metrics.lines().filter(|line| line.starts_with("floe_challenges")) {
            eprintln!("{node} {line}");
        }
    }
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}
