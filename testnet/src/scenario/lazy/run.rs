//! The run of the scenario `lazy`: a swarm of processes on hosts of their own, blobs, and epochs
//! that pass.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use floe_node::{Client, Clock};
use floe_protocol::{blob::BlobHeader, index::Epoch, ledger::Timestamp};
use tokio::time::{sleep, timeout};

use super::{DELAY, Fetching, LazyPlan, LazyReport, Part, UP_PERCENT, expected::Pairs, outcome};
use crate::{
    cluster::{Cluster, link::Path, reach_epoch},
    lazy::Lazy,
    report::{self, millis},
    scenario::{audit, challenged, load::Stored},
};

impl LazyPlan {
    /// Lets it happen.
    ///
    /// # Errors
    /// If the swarm cannot be started, or the ledger cannot be asked any more. That a promise is
    /// broken is in the report.
    pub async fn run(&self) -> anyhow::Result<LazyReport> {
        let begun = Instant::now();
        let mut cluster = self.swarm.start().await?;
        for (node, part) in self.parts() {
            if let Part::Lazy(lazy) = part {
                cluster.stop(node).await?;
                cluster.set_lazy(node, Some(lazy))?;
                cluster.start(node).await?;
            }
        }
        let client = cluster.client().await?;
        let blobs = self.swarm.store((&client, &cluster), self.epochs).await?;
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

    /// Goes through all epochs: everything reads back at the beginning of each, the one that
    /// fetches does so in another way, and the one that stops is up for some time.
    async fn follow(
        &self,
        cluster: &mut Cluster,
        client: &Client,
        (blobs, broken): (&[(Stored, BlobHeader)], &mut Vec<String>),
    ) -> anyhow::Result<()> {
        let patience = self.swarm.patience();
        let stored: Vec<_> = blobs.iter().map(|(stored, _)| *stored).collect();
        for step in 0..=self.epochs {
            let running = timeout(patience, reach_epoch(client, Epoch::new(step))).await;
            let running = running.with_context(|| format!("epoch {step} does not come"))??;
            if running.summary.epoch > Epoch::new(step) {
                bail!("epoch {step} was over before it was looked at");
            }
            if step < self.epochs && !cluster.is_running(self.stopping()) {
                cluster.start(self.stopping()).await?;
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
            if step < self.epochs {
                self.stop_early(cluster, running.summary.epoch_start).await?;
            }
        }
        Ok(())
    }

    /// Stops the node that stops, once it was up for its part of the epoch that began then.
    async fn stop_early(&self, cluster: &mut Cluster, began: Timestamp) -> anyhow::Result<()> {
        let up = Duration::from_millis(self.swarm.rules().epoch_ms) * UP_PERCENT / 100;
        let gone = Duration::from_millis(Clock::SYSTEM.now().ms_since(began));
        sleep(up.saturating_sub(gone)).await;
        cluster.stop(self.stopping()).await
    }

    async fn fetch_by(&self, cluster: &mut Cluster, fetching: Fetching) -> anyhow::Result<()> {
        let is_fetcher = |part: &Part| matches!(part, Part::Lazy(Lazy::Fetches(_)));
        let fetcher = self.parts().into_iter().find(|(_, part)| is_fetcher(part));
        let (node, _) = fetcher.context("nobody fetches")?;
        cluster.stop(node).await?;
        let delay = if fetching.delayed { DELAY } else { Duration::ZERO };
        let host = cluster.host(node).context("the node has no host of its own")?;
        self.swarm.links.set_access(host, Path { delay, lost_permille: 0 });
        cluster.set_lazy(node, Some(Lazy::Fetches(fetching.way)))?;
        cluster.start(node).await
    }
}
