//! The run of a scenario: a swarm of processes, its load, and a look around at every boundary.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::Context;
use floe_node::{Client, client::ledger::RunningEpoch};
use floe_protocol::{
    bft,
    ledger::{Amount, LedgerParameters},
};
use tokio::time::timeout;

use super::{
    audit,
    gaps::Gaps,
    load::{Load, PAYERS},
    outcome::{EpochRow, Report, SlowMember},
    plan::{Change, Plan, Slow},
};
use crate::{
    cluster::{Cluster, HOST_PORT, link::Path, wait_for_epoch},
    report::{self, millis},
    up::with_epoch,
};

/// What every node of a local swarm has at stake.
const STAKE: Amount = Amount::from_wal(1_000);
/// Blobs that are there before anything changes.
const FIRST_BLOBS: usize = 3;
/// How many durations of an epoch the next one may take to come, and what is given on top.
const PATIENCE: (u32, Duration) = (6, Duration::from_secs(180));
/// Epochs that are given on top to nodes that have yet to gain shards.
const EPOCHS_MORE: u64 = 10;
/// How often a round trip is measured: the middle one counts.
const ROUND_TRIPS: usize = 5;

impl Plan {
    /// Lets it happen.
    ///
    /// # Errors
    /// If the swarm cannot be started, or the ledger cannot be asked any more. That a promise is
    /// broken is in the report.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let begun = Instant::now();
        let mut run = Box::pin(Run::start(self)).await?;
        let followed = Box::pin(run.follow()).await;
        if let Err(error) = followed {
            run.broken(format!("it could not be followed to its end: {error:#}"));
        }
        let mut report = Box::pin(run.end()).await?;
        report.took_ms = millis(begun.elapsed());
        Ok(report)
    }

    fn rules(&self) -> LedgerParameters {
        // Idle swarms of short epochs still have some blocks in each.
        LedgerParameters { heartbeat_ms: 2_000, ..with_epoch(self.epoch) }
    }

    pub(super) fn patience(&self) -> Duration {
        self.epoch * PATIENCE.0 + PATIENCE.1
    }
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cluster: Cluster,
    pub(super) client: Client,
    pub(super) load: Load,
    pub(super) gaps: Gaps,
    changes: BTreeMap<u64, Vec<Change>>,
    /// Nodes that leave and still run.
    pub(super) leaving: Vec<usize>,
    /// Nodes without room for what they gain.
    pub(super) full: Vec<usize>,
    /// The first boundary at which they had more shards than an epoch can end without.
    gained: Option<u64>,
    pub(super) report: Report,
}

impl<'a> Run<'a> {
    async fn start(plan: &'a Plan) -> anyhow::Result<Self> {
        let mut builder = Cluster::builder().nodes(plan.nodes).shards(plan.shards);
        builder = builder.processes(true).ledger(plan.rules());
        if let Some(dir) = &plan.dir {
            builder = builder.dir(dir);
        }
        if let Some(program) = &plan.executable {
            builder = builder.executable(program);
        }
        if plan.payers {
            builder = builder.extra_accounts(PAYERS);
        }
        if let Some(links) = &plan.links {
            builder = builder.links(links);
        }
        let cluster = builder.start().await?;
        let slow = plan.slow.map(|slow| slow_down(plan, &cluster, slow)).transpose()?;
        let client = cluster.client().await?;
        let load = Load::start(&client, cluster.wallet(), plan);
        let gaps = Gaps::watch(client.clone());
        let report = Report {
            scenario: plan.name,
            seed: plan.seed,
            nodes: plan.nodes,
            n_shards: plan.shards,
            epoch_ms: millis(plan.epoch),
            slow,
            ..Report::default()
        };
        Ok(Self {
            plan,
            cluster,
            client,
            load,
            gaps,
            changes: plan.changes(),
            leaving: Vec::new(),
            full: Vec::new(),
            gained: None,
            report,
        })
    }

    pub(super) fn broken(&mut self, promise: String) {
        report::note(&format!("BROKEN: {promise}"));
        self.report.broken.push(promise);
    }

    /// Goes through all epochs, and lets what was begun come to its end.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let stored = timeout(self.plan.patience(), self.load.stored(FIRST_BLOBS)).await;
        stored.context("nothing can be stored at the start")?;
        let mut epoch = self.client.ledger().running_epoch().await?.summary.epoch;
        let mut step = 0;
        while step <= self.plan.epochs || self.waits_for_gainers(step) {
            let what = format!("epoch {epoch}");
            let begun = |running: &RunningEpoch| running.summary.epoch >= epoch;
            let running = self.wait_until(&what, begun).await?;
            self.boundary(&running, step).await?;
            // On a slow machine one may have been missed.
            epoch = running.summary.epoch.plus(1);
            step += 1;
        }
        self.settle().await
    }

    /// Whether an epoch in which nodes without room hold too many shards has still to end.
    fn waits_for_gainers(&self, step: u64) -> bool {
        let shown = self.plan.full == 0 || self.gained.is_some_and(|gained| gained + 1 < step);
        !shown && step <= self.plan.epochs + EPOCHS_MORE
    }

    /// Waits until the running epoch is as wanted, and hears of nodes that end meanwhile.
    pub(super) async fn wait_until(
        &mut self,
        what: &str,
        wanted: impl Fn(&RunningEpoch) -> bool,
    ) -> anyhow::Result<RunningEpoch> {
        let patience = self.plan.patience();
        let client = self.client.clone();
        let mut waiting = Box::pin(timeout(patience, wait_for_epoch(&client, wanted)));
        loop {
            let (node, error) = tokio::select! {
                running = &mut waiting => {
                    let late = || format!("{what} did not come within {} s", patience.as_secs());
                    return Ok(running.with_context(late)??);
                }
                failure = self.cluster.next_failure() => failure,
            };
            self.broken(format!("node {node} ended by itself: {error:#}"));
        }
    }

    /// Looks around at the beginning of an epoch, then lets happen what is planned for it.
    async fn boundary(&mut self, running: &RunningEpoch, step: u64) -> anyhow::Result<()> {
        let blobs = self.load.done().blobs;
        let (read_back, wrong) = audit::read_all(&self.client, &blobs, running).await;
        let supply = self.cluster.network().genesis.supply()?;
        let wrong_ledger = audit::ledger(&self.client, running, supply).await?;
        let epoch = running.summary.epoch;
        for wrong in wrong.into_iter().chain(wrong_ledger) {
            self.broken(format!("epoch {epoch}: {wrong}"));
        }
        let of_full =
            self.full.iter().map(|node| running.shards_of(&self.cluster.node_id(*node)).0);
        if self.gained.is_none() && of_full.sum::<u16>() > bft::max_faulty(self.plan.shards) {
            self.gained = Some(step);
        }
        let mut row = self.row(running, read_back);
        self.stop_those_who_left(running, &mut row.changes).await?;
        for change in self.changes.remove(&step).unwrap_or_default() {
            self.apply(change).await.with_context(|| change.to_string())?;
            row.changes.push(change.to_string());
        }
        let then = row.changes.join(", ");
        report::note(&format!("epoch {epoch}: {read_back} blobs read back; {then}"));
        self.report.epochs.push(row);
        Ok(())
    }

    fn row(&self, running: &RunningEpoch, read_back: usize) -> EpochRow {
        let mut times = self.load.take_read_times();
        times.sort_unstable();
        let nodes = 0..self.cluster.nodes();
        EpochRow {
            epoch: running.summary.epoch.get(),
            height: running.height.get(),
            members: holding(running),
            running: nodes.filter(|node| self.cluster.is_running(*node)).count(),
            ready: running.ready(),
            read_back,
            reads: times.len(),
            read_p50_ms: times.get(times.len() / 2).copied().map(millis),
            stored: self.load.done().blobs.len(),
            ..EpochRow::default()
        }
    }

    async fn apply(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Leave(node) => {
                self.cluster.leave(node).await?;
                self.leaving.push(node);
            }
            Change::Join => drop(self.cluster.join(STAKE).await?),
            Change::JoinFull(count) => {
                let quota = Some(self.plan.full_quota_bytes);
                self.full.extend(self.cluster.join_many(count, STAKE, quota).await?);
            }
            Change::Kill(node) => self.cluster.kill(node).await?,
            Change::Return(node) => {
                self.cluster.wipe(node)?;
                self.cluster.start(node).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn stop_those_who_left(
        &mut self,
        running: &RunningEpoch,
        changes: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        for node in std::mem::take(&mut self.leaving) {
            if running.needs(&self.cluster.node_id(node)) {
                self.leaving.push(node);
            } else {
                self.cluster.stop(node).await?;
                changes.push(format!("{node} has left"));
            }
        }
        Ok(())
    }
}

/// Delays all that a member sends and receives, and measures what comes of it.
fn slow_down(plan: &Plan, cluster: &Cluster, slow: Slow) -> anyhow::Result<SlowMember> {
    let links = plan.links.as_ref().context("a slow member needs links")?;
    let node = plan.nodes - 1;
    let host = |node: usize| cluster.host(node).context("a node has no host of its own");
    let path = Path { delay: slow.delay, lost_permille: slow.lost_permille };
    links.set_access(host(node)?, path);
    let round_trip = |to: usize| {
        let to = SocketAddrV4::new(host(to)?.address(), HOST_PORT);
        let from = host(0)?;
        let times = (0..ROUND_TRIPS).map(|_| from.round_trip(to));
        let mut times = times.collect::<Result<Vec<_>, _>>()?;
        times.sort_unstable();
        Ok::<_, anyhow::Error>(micros(times[times.len() / 2]))
    };
    Ok(SlowMember {
        node,
        delay_ms: millis(slow.delay),
        lost_permille: slow.lost_permille,
        round_trip_us: round_trip(node)?,
        others_round_trip_us: round_trip(1)?,
        epochs: Vec::new(),
    })
}

/// Nodes that hold shards in the running committee.
fn holding(running: &RunningEpoch) -> usize {
    running.committee.members().iter().filter(|member| member.weight() > 0).count()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
