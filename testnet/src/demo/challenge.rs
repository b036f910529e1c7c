//! The part of the demo that shows a round of storage challenges: who runs passes it, who does not
//! run misses it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use floe_node::Client;
use floe_protocol::{
    challenge::{Outcome, RoundRecord},
    index::Height,
};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::{NODES, SHARDS, Steps};
use crate::cluster::Cluster;

/// Those that miss a round: too few shards for it to be void.
pub(super) const ABSENT: [usize; 2] = [1, 4];
/// A round may be opened and over in a few seconds; some are looked at, if the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds come so often here. By default there is one a minute.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the ledger.
const LOOK: Duration = Duration::from_millis(200);

/// A round that is over.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Challenged {
    round: u64,
    passed: Vec<usize>,
    missed: Vec<usize>,
}

impl Challenged {
    fn new(cluster: &Cluster, round: &RoundRecord) -> anyhow::Result<Self> {
        let committee = cluster.running_committee();
        let (mut passed, mut missed) = (Vec::new(), Vec::new());
        for node in 0..cluster.nodes() {
            let position = committee.position(&cluster.node_id(node));
            let outcome = position.and_then(|position| round.outcomes.get(position));
            match outcome.context("a node is no member")? {
                Outcome::Passed => passed.push(node),
                Outcome::Missed => missed.push(node),
                other => bail!("node {node} has neither passed nor missed: {other:?}"),
            }
        }
        Ok(Self { round: round.round.get(), passed, missed })
    }
}

/// Stops two nodes, waits for a round that the others pass, and starts them again.
pub(super) async fn show(steps: &mut Steps, cluster: &mut Cluster) -> anyhow::Result<Challenged> {
    let detail = |shown: &Challenged| {
        format!(
            "round {}: nodes {:?} showed what they hold; {:?} are stopped, and missed it",
            shown.round, shown.passed, shown.missed
        )
    };
    let work = async {
        for node in ABSENT {
            cluster.stop(node).await?;
        }
        let client = cluster.client().await?;
        let round = timeout(PATIENCE, missed_round(cluster, &client)).await;
        let round = round.context("no round is passed by all that run")??;
        client.shutdown().await;
        for node in ABSENT {
            cluster.start(node).await?;
        }
        cluster.wait_connected().await?;
        Ok(round)
    };
    let shown = steps.run(("challenge the nodes", None), work, detail).await?;
    ensure!(shown.passed.len() + shown.missed.len() == NODES, "not all of {SHARDS} shards");
    Ok(shown)
}

/// The first round opened from now on that all nodes pass but those that do not run. On a busy
/// machine one that runs may be late: then it is the next round.
async fn missed_round(cluster: &Cluster, client: &Client) -> anyhow::Result<Challenged> {
    let newest = client.ledger().newest().await?.header;
    let from = newest.map_or(Height::new(0), |header| header.header().height);
    loop {
        let known = client.ledger().challenges(None).await?.context("the epoch has a committee")?;
        for round in known.challenges.closed.iter().filter(|round| round.round.get() > from.get()) {
            if let Ok(shown) = Challenged::new(cluster, round)
                && shown.missed == ABSENT
            {
                return Ok(shown);
            }
        }
        sleep(LOOK).await;
    }
}
