//! The end of a scenario: what was begun comes to its end, everything is stopped, and disks and
//! ledgers are looked at.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use floe_node::client::ledger::{Purpose, RunningEpoch};
use floe_protocol::{
    index::{Epoch, Height, ShardIndex},
    keys::NodeId,
    ledger::{Key, Record},
};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    audit::{self, Stopped},
    history::{self, History, Source},
    load::{Done, Stored},
    outcome::{LastCommittee, LedgerCounts, LoadCounts, RepairCounts, Report},
    run::Run,
};
use crate::report::millis;

/// A ledger that makes no block for so long has stopped.
const BLOCK_GAP_MAX: Duration = Duration::from_secs(60);
/// How long writers are given to bring a blob, `RepairLimits::grace_ms`, and a few seconds more.
const TOLD_AFTER_MS: u64 = 8_000;
/// Heights that are looked at for votes.
const LATEST_MAX: u64 = 20;

impl Run<'_> {
    /// Ends the load, and waits until every shard is ready and every running member says that it
    /// lacks nothing; but for those that have no room.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.load.finish().await;
        let full = self.full_ids();
        let newest = self.client.ledger().newest().await?;
        let stored = newest.header.as_ref().map_or(Height::new(0), |header| header.header().height);
        // Of what was stored last a node says that it lacks it only after the writer's time is over.
        let told = newest.header.map(|header| header.header().time.plus_ms(TOLD_AFTER_MS));
        let end = Instant::now() + self.plan.patience();
        loop {
            let left: Vec<_> =
                self.leaving.iter().map(|node| self.cluster.node_id(*node)).collect();
            let running = self.wait_until("an epoch with all shards ready", |running| {
                // Before the selection: the committee stays for as long as the stores are opened.
                unready(running).all(|holder| full.contains(&holder))
                    && running.next.is_none()
                    && left.iter().all(|node| !running.needs(node))
            });
            let running = running.await?;
            let mut changes = Vec::new();
            self.stop_those_who_left(&running, &mut changes).await?;
            let mut missing = self.missing(&running).await;
            if missing.is_none() && self.plan.slow.is_some() {
                missing = self.lagging(&running, stored).await?;
                if missing.is_none() && running.time < told {
                    missing = Some("nodes still wait for what was stored last".to_owned());
                }
            }
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() > end {
                self.broken(missing);
                return Ok(());
            }
            // The next block may come with fewer.
            let next = running.height.next();
            drop(timeout(self.plan.epoch, self.client.ledger().reached(next)).await);
        }
    }

    fn full_ids(&self) -> BTreeSet<NodeId> {
        self.full.iter().map(|node| self.cluster.node_id(*node)).collect()
    }

    /// A member that still lacks pairs, in words.
    async fn missing(&self, running: &RunningEpoch) -> Option<String> {
        let full = self.full_ids();
        let members = running.committee.members().iter();
        for member in members.filter(|member| member.weight() > 0 && !full.contains(&member.node)) {
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

    /// A member that has not voted on a block behind this height, in words: it may not know of all
    /// that has been stored.
    async fn lagging(
        &self,
        running: &RunningEpoch,
        stored: Height,
    ) -> anyhow::Result<Option<String>> {
        let first = stored.get().max(running.height.get().saturating_sub(LATEST_MAX)) + 1;
        let keys = (first..=running.height.get()).map(|height| Key::Presence(Height::new(height)));
        let keys: Vec<_> = keys.collect();
        let facts = self.client.ledger().facts(&keys, Purpose::Decide).await?.value;
        let epoch = running.committee.epoch();
        let voted = facts.iter().flatten().filter_map(|fact| match fact {
            Record::Presence(presence) if presence.epoch == epoch => Some(&presence.recorded),
            _ => None,
        });
        let voted: Vec<_> = voted.collect();
        let members = running.committee.members().iter().enumerate();
        let mut members = members.filter(|(_, member)| member.weight() > 0);
        let lags = |position| !voted.iter().any(|recorded| recorded.get(position) == Some(&true));
        let lagging = members.find(|(position, _)| lags(*position));
        Ok(lagging.map(|(_, member)| format!("node {} does not vote", member.node)))
    }

    /// Stops everything, and opens the stores.
    pub(super) async fn end(mut self) -> anyhow::Result<Report> {
        self.load.finish().await;
        let running = self.client.ledger().running_epoch().await;
        self.report.repair = self.repair().await;
        self.report.longest_block_gap_ms = millis(self.gaps.longest());
        let done = self.load.done();
        self.report.load = LoadCounts {
            stores: done.blobs.len(),
            store_failures: done.store_failures,
            stores_impossible: done.stores_impossible,
            stores_late: done.stores_late,
            reads: done.reads,
            read_failures: done.read_failures,
            transfers: done.transfers,
            transfer_failures: done.transfer_failures,
        };
        self.judge_load(&done);
        let numbers: Vec<_> = (0..self.cluster.nodes()).collect();
        let sources = numbers.iter().map(|node| Source {
            dir: self.cluster.node_dir(*node),
            node: self.cluster.node_id(*node),
        });
        let sources: Vec<_> = sources.collect();
        let full = self.full_ids();
        let member = |number: &usize| {
            let node = self.cluster.node_id(*number);
            let member = running.as_ref().ok()?.committee.member(&node)?;
            let dir = self.cluster.node_dir(*number);
            Some(Stopped { number: *number, node, dir, shards: member.shards.clone() })
        };
        let members: Vec<_> = numbers.iter().filter_map(member).collect();
        let must_hold = |m: &Stopped| !m.shards.is_empty() && !full.contains(&m.node);
        let members: Vec<_> = members.into_iter().filter(must_hold).collect();
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
        self.read_history(sources).await;
        let Self { cluster, report, .. } = self;
        cluster.shutdown().await?;
        Ok(report)
    }

    /// Executes the whole ledger again, and takes over what it tells.
    async fn read_history(&mut self, sources: Vec<Source>) {
        let genesis = self.cluster.network().genesis.clone();
        let replayed = spawn_blocking(move || history::replay(&genesis, &sources)).await;
        match replayed.map_err(anyhow::Error::from).flatten() {
            Ok(history) => self.judge_history(history),
            Err(error) => self.broken(format!("the ledger cannot be executed again: {error:#}")),
        }
    }

    fn judge_history(&mut self, history: History) {
        for row in &mut self.report.epochs {
            if let Some(told) = history.epochs.iter().find(|told| told.epoch == row.epoch) {
                (row.took_ms, row.unready) = (told.took_ms, told.unready);
                row.returned = told.returned;
            }
        }
        self.report.ledger = LedgerCounts {
            blocks: history.blocks,
            burned: history.burned,
            longest_gap_ms: history.longest_gap_ms,
        };
        if let Some(mut slow) = self.report.slow.take() {
            for wrong in slow.judge(&self.cluster.node_id(slow.node), &history.epochs) {
                self.broken(wrong);
            }
            self.report.slow = Some(slow);
        }
        if !self.full.is_empty() && history.epochs.iter().all(|row| row.returned == 0) {
            self.broken("nothing had to return from those without room: nothing was shown".into());
        }
        history.broken.into_iter().for_each(|wrong| self.broken(wrong));
    }

    fn judge_load(&mut self, done: &Done) {
        if done.read_failures + done.store_failures + done.transfer_failures > 0 {
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
        blobs: &[Stored],
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

/// The holders of shards that are not ready.
fn unready(running: &RunningEpoch) -> impl Iterator<Item = NodeId> {
    let shards = (0..).map(ShardIndex::new).zip(&running.shards);
    let committee = &running.committee;
    let unready = shards.filter(|(_, shard)| !shard.is_ready());
    unready.map(|(index, _)| committee.members()[committee.holder(index)].node)
}
