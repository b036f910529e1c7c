//! The run of the scenario `faults`.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use floe_node::Client;
use floe_protocol::index::Epoch;
use tokio::time::{sleep, timeout};

use super::{Fault, FaultsPlan, FaultsReport, SLOTS, outcome};
use crate::{
    cluster::{Cluster, link::Path, reach_epoch},
    report::{self, millis},
    scenario::{audit, challenged, load::Stored},
};

/// By how much the wrong clock is ahead.
const AHEAD_MS: i64 = 3_600_000;
/// How long a process stands still.
const PAUSE: Duration = Duration::from_secs(3);
/// How many of a thousand packets a lossy link loses, and one that is cut.
const LOSSY: u16 = 300;
const CUT: u16 = 1_000;
/// Of a slot the part, in tenths, after which links are as they were. The rest is for the nodes to
/// find each other again: what was on its way is sent again later and later.
const TENTHS: u32 = 4;
/// The slot in which a clock is put wrong, and the one of the next epoch in which it is put right.
const CLOCK_WRONG: usize = 3;
const CLOCK_RIGHT: usize = 1;
impl FaultsPlan {
    /// Lets it happen.
    ///
    /// # Errors
    /// If the swarm cannot be started, or the ledger cannot be asked any more. That a promise is
    /// broken is in the report.
    pub async fn run(&self) -> anyhow::Result<FaultsReport> {
        let begun = Instant::now();
        let mut cluster = self.swarm.start().await?;
        let client = cluster.client().await?;
        let blobs = self.swarm.store((&client, &cluster), self.seeds).await?;
        let blobs: Vec<_> = blobs.into_iter().map(|(stored, _)| stored).collect();
        let broken = self.follow(&mut cluster, &client, &blobs).await?;
        client.shutdown().await;
        let (ids, epochs) = challenged::end(cluster).await?;
        let mut report = outcome::report(self, &epochs, &ids);
        report.broken.splice(0..0, broken);
        report.took_ms = millis(begun.elapsed());
        Ok(report)
    }

    /// Goes through all epochs; what did not read back at the beginning of one.
    async fn follow(
        &self,
        cluster: &mut Cluster,
        client: &Client,
        blobs: &[Stored],
    ) -> anyhow::Result<Vec<String>> {
        let duration = Duration::from_millis(self.swarm.rules().epoch_ms);
        let patience = self.swarm.patience();
        let mut broken = Vec::new();
        // The first epoch passes without faults: blobs are stored in it.
        for step in 1..=self.seeds + 1 {
            let running = timeout(patience, reach_epoch(client, Epoch::new(step))).await;
            let running = running.with_context(|| format!("epoch {step} does not come"))??;
            let began = Instant::now();
            if running.summary.epoch > Epoch::new(step) {
                bail!("epoch {step} was over before it was looked at");
            }
            let (_, wrong) = audit::read_all(client, blobs, &running).await;
            broken.extend(wrong.into_iter().map(|wrong| format!("epoch {step}: {wrong}")));
            if step > self.seeds {
                break;
            }
            let drawn = self.faults(step);
            let slot = duration / u32::try_from(SLOTS)?;
            for (number, fault) in drawn.into_iter().enumerate() {
                sleep((slot * u32::try_from(number)?).saturating_sub(began.elapsed())).await;
                let (wrong, next) = (self.wrong_clock(step), self.wrong_clock(step + 1));
                if let Some(node) = wrong.filter(|_| number == CLOCK_RIGHT) {
                    restart(cluster, node, 0).await?;
                }
                if let Some(node) = next.filter(|_| number == CLOCK_WRONG) {
                    restart(cluster, node, AHEAD_MS).await?;
                }
                self.happen(cluster, fault, slot * TENTHS / 10).await?;
            }
            let told = drawn.map(|fault| format!("{:?} {}", fault.nodes(), fault.name()));
            report::note(&format!("epoch {step}: {}", told.join(", ")));
        }
        Ok(broken)
    }

    /// Lets a fault happen for so long, and ends it.
    async fn happen(
        &self,
        cluster: &mut Cluster,
        fault: Fault,
        time: Duration,
    ) -> anyhow::Result<()> {
        let path = |lost_permille| Path { delay: Duration::ZERO, lost_permille };
        match fault {
            Fault::Restart(node) => {
                cluster.stop(node).await?;
                cluster.start(node).await
            }
            Fault::Pause(node) => cluster.pause(node, PAUSE).await,
            Fault::Cut(nodes) => {
                self.set_access(cluster, &nodes, path(CUT))?;
                sleep(time).await;
                self.set_access(cluster, &nodes, path(0))
            }
            Fault::Loss([a, b]) => {
                self.set_path(cluster, (a, b), path(LOSSY))?;
                sleep(time).await;
                self.set_path(cluster, (a, b), path(0))
            }
        }
    }

    fn set_access(&self, cluster: &Cluster, nodes: &[usize], path: Path) -> anyhow::Result<()> {
        for node in nodes {
            let host = cluster.host(*node).context("a node has no host of its own")?;
            self.swarm.links.set_access(host, path);
        }
        Ok(())
    }

    fn set_path(
        &self,
        cluster: &Cluster,
        (a, b): (usize, usize),
        path: Path,
    ) -> anyhow::Result<()> {
        let host = |node| cluster.host(node).context("a node has no host of its own");
        let (a, b) = (host(a)?, host(b)?);
        self.swarm.links.set_path(a, b, path);
        self.swarm.links.set_path(b, a, path);
        Ok(())
    }
}

/// Restarts a node with a clock that is so far ahead.
async fn restart(cluster: &mut Cluster, node: usize, ahead_ms: i64) -> anyhow::Result<()> {
    cluster.stop(node).await?;
    cluster.set_clock(node, ahead_ms)?;
    cluster.start(node).await
}
