//! The run of the scenario `lazy`: a swarm of processes on hosts of their own, blobs, and epochs
//! that pass.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use floe_node::Client;
use floe_protocol::{blob::BlobHeader, index::Epoch};
use tokio::time::timeout;

use super::{DELAY, Fetching, LazyPlan, LazyReport, Part, expected::Pairs, outcome};
use crate::{
    cluster::{Cluster, link::Path, reach_epoch},
    lazy::Lazy,
    report,
    scenario::{audit, challenged, load::Stored, millis},
};

/// Epochs more than the scenario lasts for which blobs are paid.
const EPOCHS_MORE: u64 = 4;
/// How many durations of an epoch the next one may take to come, and what is given on top.
const PATIENCE: (u32, Duration) = (3, Duration::from_secs(120));

impl LazyPlan {
    /// Lets it happen.
    ///
    /// # Errors
    /// If the swarm cannot be started, or the ledger cannot be asked any more. That a promise is
    /// broken is in the report.
    pub async fn run(&self) -> anyhow::Result<LazyReport> {
        let begun = Instant::now();
        let rules = self.rules();
        let mut builder = Cluster::builder().nodes(self.nodes).shards(self.shards);
        builder = builder.processes(true).ledger(rules).links(&self.links);
        if let Some(dir) = &self.dir {
            builder = builder.dir(dir);
        }
        if let Some(program) = &self.executable {
            builder = builder.executable(program);
        }
        let mut cluster = builder.start().await?;
        for (node, part) in self.parts() {
            cluster.stop(node).await?;
            if let Part::Lazy(lazy) = part {
                cluster.set_lazy(node, Some(lazy))?;
                cluster.start(node).await?;
            }
        }
        let client = cluster.client().await?;
        let size = (self.blobs, self.epochs + EPOCHS_MORE, self.seed);
        let blobs = challenged::store(&client, &cluster, size).await?;
        let mut broken = Vec::new();
        self.follow(&mut cluster, &client, (&blobs, &mut broken)).await?;
        client.shutdown().await;
        let (ids, epochs) = challenged::end(cluster).await?;
        let pairs = Pairs::new(blobs.iter().map(|(_, header)| *header))?;
        let mut report = outcome::report(self, &epochs, (&ids, &pairs));
        report.broken.splice(0..0, broken);
        report.took_ms = millis(begun.elapsed());
        Ok(report)
    }

    /// Goes through all epochs: everything reads back at the beginning of each, and the one that
    /// fetches does so in another way.
    async fn follow(
        &self,
        cluster: &mut Cluster,
        client: &Client,
        (blobs, broken): (&[(Stored, BlobHeader)], &mut Vec<String>),
    ) -> anyhow::Result<()> {
        let patience = Duration::from_millis(self.rules().epoch_ms) * PATIENCE.0 + PATIENCE.1;
        let stored: Vec<_> = blobs.iter().map(|(stored, _)| *stored).collect();
        for step in 0..=self.epochs {
            let running = timeout(patience, reach_epoch(client, Epoch::new(step))).await;
            let running = running.with_context(|| format!("epoch {step} does not come"))??;
            if running.summary.epoch > Epoch::new(step) {
                bail!("epoch {step} was over before it was looked at");
            }
            let (read_back, wrong) = audit::read_all(client, &stored, &running).await;
            broken.extend(wrong.into_iter().map(|wrong| format!("epoch {step}: {wrong}")));
            let fetching = Self::fetching(step);
            if step < self.epochs {
                self.fetch_by(cluster, fetching).await?;
            }
            report::note(&format!(
                "epoch {step}: {read_back} of {} blobs read back; who holds nothing {}",
                stored.len(),
                fetching.name()
            ));
        }
        Ok(())
    }

    async fn fetch_by(&self, cluster: &mut Cluster, fetching: Fetching) -> anyhow::Result<()> {
        let is_fetcher = |part: &Part| matches!(part, Part::Lazy(Lazy::Fetches(_)));
        let fetcher = self.parts().into_iter().find(|(_, part)| is_fetcher(part));
        let (node, _) = fetcher.context("nobody fetches")?;
        cluster.stop(node).await?;
        let delay = if fetching.delayed { DELAY } else { Duration::ZERO };
        let host = cluster.host(node).context("the node has no host of its own")?;
        self.links.set_access(host, Path { delay, lost_permille: 0 });
        cluster.set_lazy(node, Some(Lazy::Fetches(fetching.way)))?;
        cluster.start(node).await
    }
}
