//! Follows one round of storage challenges, from the block that opens it to the certificates.
//!
//! You will see what the round asks for, where each node's chain begins and what it has to read
//! first, which nodes were acknowledged by others with more than a third of the shards, and what the
//! round came to in the ledger.
//!
//! ```sh
//! cargo run --release --example challenge_round
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use floe_node::client::StoreProgress;
use floe_protocol::{
    challenge::{Challenge, ChallengeCertificate, Outcome, Seeds, Universe, Walk},
    encoding::Axis,
    ledger::{Event, SystemOperation},
    transfer::Wanted,
};
use floe_testnet::Cluster;
use tokio::{sync::watch, time::timeout};

/// Rounds that nobody passes, on a machine that is busy with something else, before this gives up.
const ROUNDS_MAX: usize = 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await
}

/// The example, also run by `tests/examples.rs`.
pub async fn run() -> anyhow::Result<()> {
    // By default there is a round a minute.
    let builder = Cluster::builder().nodes(4).shards(16).rounds_every(Duration::from_secs(5));
    let cluster = builder.start().await?;
    let client = cluster.client().await?;
    let (blob, wanted) = (Bytes::from(vec![7; 100_000]), Wanted { epochs: 2, deletable: true });
    let progress = watch::Sender::new(StoreProgress::default());
    let stored = client.store(blob, wanted, cluster.wallet(), &progress).await?;
    println!("stored {}", stored.blob);
    client.shutdown().await;
    let mut passed = 0;
    for _ in 0..ROUNDS_MAX {
        passed = timeout(Duration::from_secs(60), follow(&cluster)).await??;
        if passed > 0 {
            break;
        }
    }
    ensure!(passed > 0, "nobody has passed in {ROUNDS_MAX} rounds");
    cluster.shutdown().await
}

/// Follows the next round, with the eyes of one node; how many pass it.
async fn follow(cluster: &Cluster) -> anyhow::Result<usize> {
    let ledger = cluster.node(0).context("it runs")?.ledger();
    let mut blocks = ledger.committed();
    let mut round: Option<(Arc<Universe>, Seeds, Vec<bool>)> = None;
    loop {
        let block = blocks.recv().await?;
        if round.is_none()
            && let Some(universe) = &block.opened
        {
            let (units, members) = (universe.units.total(), universe.committee.members().len());
            println!(
                "\nblock {} opens a round: {units} billed units, {members} members",
                universe.round
            );
            let seeds = Seeds::new(universe.round);
            round = Some((Arc::clone(universe), seeds, vec![false; members]));
        }
        let Some((universe, seeds, begun)) = &mut round else { continue };
        seeds.committed(&block.block.header);
        for (position, member) in universe.committee.members().iter().enumerate() {
            let Some(seed) = seeds.of(&member.node).filter(|_| !begun[position]) else { continue };
            begun[position] = true;
            let challenge = Challenge::new(Arc::clone(universe), member.node, seed);
            let Some(challenge) = challenge else { continue };
            let place = Walk::new(challenge).place().context("a chain has steps")?;
            let axis = if place.axis == Axis::Primary { "primary" } else { "secondary" };
            println!(
                "  block {}: {} reads chunk {} of symbol {} of the {axis} sliver of its shard {} first",
                block.block.header.height, member.node, place.chunk, place.symbol, place.shard
            );
        }
        for operation in &block.block.body.system {
            let SystemOperation::PassChallenge { certificate } = operation else { continue };
            let bytes = certificate.len();
            let certificate = ChallengeCertificate::from_bytes(certificate)?;
            if certificate.fact().round != universe.round {
                continue;
            }
            // The block is final, so nodes have looked at it; anybody can.
            certificate.verify(&universe.committee, &universe.chain)?;
            println!(
                "  block {}: {} passes, acknowledged by {} others, {bytes} bytes",
                block.block.header.height,
                certificate.fact().node,
                certificate.signers(&universe.committee).count()
            );
        }
        for event in block.events.iter() {
            if let Event::ChallengeClosed { round, outcomes } = event
                && *round == universe.round
            {
                let passed = outcomes.iter().filter(|outcome| **outcome == Outcome::Passed);
                let passed = passed.count();
                println!("  block {}: over, {passed} passed", block.block.header.height);
                return Ok(passed);
            }
        }
    }
}
