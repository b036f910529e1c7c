//! The run of a scenario: a swarm of processes, its load, and a look around at every boundary.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use floe_node::{Client, client::ledger::RunningEpoch};
use floe_protocol::{
    index::Epoch,
    ledger::{Amount, LedgerParameters},
};
use tokio::{sync::watch, task::AbortHandle, time::timeout};

use super::{
    audit::{self, Stopped},
    load::Load,
    outcome::{EpochRow, LastCommittee, LoadCounts, RepairCounts, Report},
    plan::{Change, Plan},
};
use crate::{
    cluster::{Cluster, wait_for_epoch},
    report,
    up::with_epoch,
};

/// What every node of a local swarm has at stake.
const STAKE: Amount = Amount::from_wal(1_000);
/// Blobs that are there before anything changes.
const FIRST_BLOBS: usize = 3;
/// How many durations of an epoch the next one may take to come, and what is given on top.
const PATIENCE: (u32, Duration) = (6, Duration::from_secs(180));
/// A ledger that makes no block for so long has stopped.
const BLOCK_GAP_MAX: Duration = Duration::from_secs(60);

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

    fn patience(&self) -> Duration {
        self.epoch * PATIENCE.0 + PATIENCE.1
    }
}

struct Run<'a> {
    plan: &'a Plan,
    cluster: Cluster,
    client: Client,
    load: Load,
    gaps: Gaps,
    changes: BTreeMap<u64, Vec<Change>>,
    /// Nodes that leave and still run.
    leaving: Vec<usize>,
    report: Report,
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
        let cluster = builder.start().await?;

        let client = cluster.client().await?;
        let load = Load::start(&client, cluster.wallet(), plan);
        let gaps = Gaps::watch(client.clone());
        let report = Report {
            scenario: plan.name,
            seed: plan.seed,
            nodes: plan.nodes,
            n_shards: plan.shards,
            epoch_ms: millis(plan.epoch),
            ..Report::default()
        };
        let (changes, leaving) = (plan.changes(), Vec::new());
        Ok(Self { plan, cluster, client, load, gaps, changes, leaving, report })
    }

    fn broken(&mut self, promise: String) {
        report::note(&format!("BROKEN: {promise}"));
        self.report.broken.push(promise);
    }

    /// Goes through all epochs, and lets what was begun come to its end.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let stored = timeout(self.plan.patience(), self.load.stored(FIRST_BLOBS)).await;
        stored.context("nothing can be stored at the start")?;
        let first = self.client.ledger().running_epoch().await?.summary.epoch;
        for step in 0..=self.plan.epochs {
            let epoch = first.plus(step);
            let what = format!("epoch {epoch}");
            let begun = |running: &RunningEpoch| running.summary.epoch >= epoch;
            let running = self.wait_until(&what, begun).await?;
            self.boundary(&running, step).await?;
        }
        self.settle().await
    }

    /// Waits until the running epoch is as wanted, and hears of nodes that end meanwhile.
    async fn wait_until(
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
            changes: Vec::new(),
        }
    }

    async fn apply(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Leave(node) => {
                self.cluster.leave(node).await?;
                self.leaving.push(node);
            }
            Change::Join => drop(self.cluster.join(STAKE).await?),
            Change::Kill(node) => self.cluster.kill(node).await?,
            Change::Return(node) => {
                self.cluster.wipe(node)?;
                self.cluster.start(node).await?;
            }
        }
        Ok(())
    }

    async fn stop_those_who_left(
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

    /// Ends the load, and waits until every shard is ready and every running member says that it
    /// lacks nothing.
    async fn settle(&mut self) -> anyhow::Result<()> {
        self.load.finish().await;
        let n_shards = self.plan.shards;
        let end = Instant::now() + self.plan.patience();
        loop {
            let left: Vec<_> =
                self.leaving.iter().map(|node| self.cluster.node_id(*node)).collect();
            let running = self.wait_until("an epoch with all shards ready", |running| {
                // Before the selection: the committee stays for as long as the stores are opened.
                running.ready() == n_shards
                    && running.next.is_none()
                    && left.iter().all(|node| !running.needs(node))
            });
            let running = running.await?;
            let mut changes = Vec::new();
            self.stop_those_who_left(&running, &mut changes).await?;
            let Some(missing) = self.missing(&running).await else { return Ok(()) };
            if Instant::now() > end {
                self.broken(missing);
                return Ok(());
            }
            // The next block may come with fewer.
            let next = running.height.next();
            drop(timeout(self.plan.epoch, self.client.ledger().reached(next)).await);
        }
    }

    /// A member that still lacks pairs, in words.
    async fn missing(&self, running: &RunningEpoch) -> Option<String> {
        for member in running.committee.members().iter().filter(|member| member.weight() > 0) {
            match self.client.node_status(member.node).await {
                Ok(status) if status.repair.missing_pairs == 0 => {}
                Ok(status) => {
                    let pairs = status.repair.missing_pairs;
                    return Some(format!("node {} still lacks {pairs} pairs", member.node));
                }
                Err(error) => return Some(format!("node {}: {error}", member.node)),
            }
        }
        None
    }

    /// Stops everything, and opens the stores.
    async fn end(mut self) -> anyhow::Result<Report> {
        self.load.finish().await;
        let running = self.client.ledger().running_epoch().await;
        self.report.repair = self.repair().await;
        self.report.longest_block_gap_ms = millis(self.gaps.longest());
        let done = self.load.done();
        self.report.load = LoadCounts {
            stores: done.blobs.len(),
            store_failures: done.store_failures,
            reads: done.reads,
            read_failures: done.read_failures,
        };
        self.judge_load(&done);
        let numbers: Vec<_> = (0..self.cluster.nodes()).collect();
        let member = |number: &usize| {
            let node = self.cluster.node_id(*number);
            let member = running.as_ref().ok()?.committee.member(&node)?;
            let dir = self.cluster.node_dir(*number);
            Some(Stopped { number: *number, node, dir, shards: member.shards.clone() })
        };
        let members: Vec<_> = numbers.iter().filter_map(member).collect();
        let members: Vec<_> = members.into_iter().filter(|m| !m.shards.is_empty()).collect();
        self.client.clone().shutdown().await;
        for node in numbers {
            if self.cluster.is_running(node) {
                self.cluster.stop(node).await?;
            }
        }
        match running {
            Ok(running) => self.open_stores(members, &running, &done.blobs).await?,
            Err(error) => self.broken(format!("the ledger cannot be asked at the end: {error}")),
        }
        let Self { cluster, report, .. } = self;
        cluster.shutdown().await?;
        Ok(report)
    }

    fn judge_load(&mut self, done: &super::load::Done) {
        if done.read_failures > 0 || done.store_failures > 0 {
            for failure in &done.failures {
                self.broken(format!("the load met an error: {failure}"));
            }
        }
        let gap = self.gaps.longest();
        if gap > BLOCK_GAP_MAX {
            self.broken(format!("no block for {} s", gap.as_secs()));
        }
    }

    async fn open_stores(
        &mut self,
        members: Vec<Stopped>,
        running: &RunningEpoch,
        blobs: &[super::load::Stored],
    ) -> anyhow::Result<()> {
        // Dead members cannot hold anything: they are not of those that must.
        let epoch: Epoch = running.summary.epoch;
        let alive = blobs.iter().filter(|blob| epoch < blob.end).copied();
        let mut alive: Vec<_> = alive.collect();
        alive.sort_by_key(|blob| blob.id);
        alive.dedup_by_key(|blob| blob.id);
        let shards: usize = members.iter().map(|member| member.shards.len()).sum();
        let (count, blobs) = (members.len(), alive.len());
        let config = self.cluster.committee().config();
        let (pairs, missing) = audit::stores(members, alive, config).await?;
        let (epoch, pairs_wanted) = (epoch.get(), shards * blobs);
        self.report.last =
            Some(LastCommittee { epoch, members: count, blobs, pairs, pairs_wanted });
        for missing in missing {
            self.broken(missing);
        }
        Ok(())
    }

    /// What the nodes that run say of what they moved and recovered.
    async fn repair(&self) -> RepairCounts {
        let mut counts = RepairCounts::default();
        for node in (0..self.cluster.nodes()).filter(|node| self.cluster.is_running(*node)) {
            if let Ok(status) = self.client.node_status(self.cluster.node_id(node)).await {
                counts.add(&status.repair);
            }
        }
        counts
    }
}

/// Nodes that hold shards in the running committee.
fn holding(running: &RunningEpoch) -> usize {
    running.committee.members().iter().filter(|member| member.weight() > 0).count()
}

/// Watches how long blocks keep a client waiting. Dropping it ends it.
#[derive(Debug)]
struct Gaps {
    longest: watch::Receiver<(Duration, Instant)>,
    task: AbortHandle,
}

impl Gaps {
    fn watch(client: Client) -> Self {
        let (sender, longest) = watch::channel((Duration::ZERO, Instant::now()));
        let task = tokio::spawn(async move {
            let ledger = client.ledger();
            loop {
                let known = ledger.known_header().map_or(0, |header| header.header().height.get());
                let next = floe_protocol::index::Height::new(known.saturating_add(1));
                if ledger.reached(next).await.is_err() {
                    return;
                }
                sender.send_modify(|(longest, last)| {
                    *longest = (*longest).max(last.elapsed());
                    *last = Instant::now();
                });
            }
        });
        Self { longest, task: task.abort_handle() }
    }

    /// The longest time so far, that since the last block included.
    fn longest(&self) -> Duration {
        let (longest, last) = *self.longest.borrow();
        longest.max(last.elapsed())
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
