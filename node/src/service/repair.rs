//! Repair: makes this node hold what it must.
//!
//! The running committee gives the node shards, and the ledger names the certified blobs. What of
//! them is not in the store (a write that passed the node by, a shard gained, a disk lost, a piece
//! damaged) comes from the earlier holder of the shard or is recovered from others. When all of a
//! gained shard is here, the ledger is told.
//!
//! ```text
//!  start, epoch, damage ──► scan: pages of the ledger's index against the store ─┐
//!  BlobCertified, after a grace ─────────────────────────────► work list ◄───────┤ what failed,
//!                                                                 │              │ later
//!                                       task: look ► copy ► recover ─► store ────┘
//! ```
//!
//! One task owns the list and starts all others. `scan` finds what is missing, `list` remembers it,
//! `work` does a few blobs, `plan` says from whom, `migrate` copies, `recover` drives the recovery
//! machine, `attest` has a blob invalidated that proves inconsistent, `report` tells the ledger,
//! `budget` bounds memory and rate, `room` waits for a full disk, `progress` counts. Whom not to ask
//! is decided by the protocol's [`Standing`].
//!
//! Invariants: memory is bounded by the limits, whatever the number of blobs; what runs ends with its
//! epoch; everything is verified
//! before it is kept, and kept before it counts; what is in the store is never fetched again;
//! whatever fails is tried again, later each time; a full disk stops repair and nothing else.

mod args;
mod attest;
mod budget;
mod context;
mod list;
mod migrate;
mod plan;
mod progress;
mod recover;
mod report;
mod room;
mod scan;
mod work;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use floe_protocol::{
    index::{Epoch, ShardIndex},
    ledger::{Event, State},
    repair::Standing,
};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{args::Args, progress::Progress};
use self::{
    context::{Context, Failed, millis},
    list::{ListLimits, WorkList},
    progress::Episode,
    report::Reporter,
    room::Room,
    scan::{Page, Scan},
    work::Outcome,
};
use super::{ledger::CommittedBlock, pace::Pace, readiness::is_current};

/// Blobs that one task works on.
const TASK_BLOBS: usize = 64;
/// Blobs that may be worked on before a scan goes on.
const WINDOW: usize = 512;
/// Between two scans, beside as long as the last one took.
const SCAN_REST: Duration = Duration::from_secs(1);
/// Between two scans that find more than can be remembered.
const RESCAN: Duration = Duration::from_secs(10);
/// While blocks of the past come, nothing is fetched; but when none has come for so long, this is
/// all that there is.
const QUIET: Duration = Duration::from_secs(5);

/// A node that is away again and again is left alone for so many times as long as the first time.
const AWAY_MAX: u64 = 16;
/// For ever: whatever is configured, clocks reach so far.
const WAIT_MAX_MS: u64 = 365 * 24 * 3_600 * 1_000;

/// Runs until cancelled, or until a store can no longer be relied on.
pub(crate) async fn run(args: Args) {
    let missing = Arc::clone(&args.missing);
    let mut repair = Repair::new(args);
    if let Err(error) = repair.serve(&missing).await
        && error.is_fatal()
    {
        tracing::error!(%error, "repair has failed: the node stops");
    }
    // What runs ends by itself: it may be about to keep something.
    repair.cancel.cancel();
    while let Some(ended) = repair.tasks.join_next().await {
        super::on_ended(ended.map(drop));
    }
}

/// What a task has done; of which epoch's list.
type Ended = (Epoch, Result<Done, Failed>);

#[derive(Debug)]
enum Done {
    Page(Page),
    Work(Outcome),
}

struct Repair {
    /// Ends everything.
    cancel: CancellationToken,
    /// Of the epoch.
    context: Arc<Context>,
    /// Of the list.
    epoch: Epoch,
    list: WorkList,
    scan: Scan,
    tasks: JoinSet<Ended>,
    working: usize,
    reporter: Reporter,
    standing: Standing,
    /// What the machine's time counts from.
    started: Instant,
    room: Room,
    /// When the last block came.
    block_at: Instant,
    /// Whether they are of now, whatever the wall clock shows.
    pace: Pace,
    episode: Episode,
}

impl Repair {
    fn new(args: Args) -> Self {
        let limits = args.limits;
        let epoch = args.ledger.state().borrow().summary().epoch;
        let list = ListLimits {
            blobs_max: limits.blobs_max,
            retry_min: Duration::from_millis(limits.retry_min_ms.min(WAIT_MAX_MS)),
            retry_max: Duration::from_millis(limits.retry_max_ms.min(WAIT_MAX_MS)),
        };
        let away_ms = limits.away_ms.min(WAIT_MAX_MS);
        let standing = Standing::new(away_ms, away_ms.saturating_mul(AWAY_MAX));
        let cancel = args.cancel.child_token();
        Self {
            context: Arc::new(args.into_context(cancel.child_token())),
            cancel,
            epoch,
            list: WorkList::new(list),
            scan: Scan::new(),
            tasks: JoinSet::new(),
            working: 0,
            reporter: Reporter::new(epoch),
            standing,
            started: Instant::now(),
            room: Room::new(list.retry_min, list.retry_max),
            block_at: Instant::now(),
            pace: Pace::new(Instant::now()),
            episode: Episode::default(),
        }
    }

    async fn serve(&mut self, missing: &Notify) -> Result<(), Failed> {
        let mut blocks = self.context.ledger.committed();
        let cancel = self.cancel.clone();
        loop {
            self.follow_epoch();
            self.start_due();
            self.show();
            if self.scan.finished {
                // Of what has moved; what is certified meanwhile does not hold a report up.
                let complete = self.complete_shards(false);
                self.reporter.report(&self.context, &complete).await?;
            }
            let due = self.next_due();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                block = blocks.recv() => self.on_block(block)?,
                () = missing.notified() => self.scan.want(Instant::now()),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(ended) => self.on_task(ended)?,
                    Err(error) => super::on_ended(Err(error)),
                },
                () = wait(due) => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// A new committee: other shards, another list, and nobody waits for what is asked of the old.
    fn follow_epoch(&mut self) {
        let epoch = self.context.state().summary().epoch;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.context.cancel.cancel();
            self.context = Arc::new(self.context.with_cancel(self.cancel.child_token()));
            self.list.clear();
            self.scan = Scan::new();
            self.reporter = Reporter::new(epoch);
            self.standing.forget();
        }
    }

    /// Whether the state is the one to work by.
    fn is_settled(&self) -> bool {
        let missing = *self.context.ledger.missing().borrow();
        let state = self.context.state();
        is_current(&state, missing, self.context.clock.now())
            || missing <= state.tip().height && self.pace.is_steady(Instant::now())
            || self.block_at.elapsed() >= QUIET
    }

    fn own_shards(&self, state: &State) -> BTreeSet<ShardIndex> {
        scan::own_shards(state, &self.context.node()).iter().copied().collect()
    }

    /// By the last scan and what came of it.
    fn complete_shards(&self, with_fresh: bool) -> BTreeSet<ShardIndex> {
        let incomplete = self.list.incomplete_shards(with_fresh);
        let own = self.own_shards(&self.context.state());
        own.difference(&incomplete).copied().collect()
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        if !self.is_settled() {
            return;
        }
        if self.scan.due().is_some_and(|due| due <= now) {
            (self.scan.wanted, self.scan.began) = (None, now);
            if self.own_shards(&self.context.state()).is_empty() {
                self.scan.finished = true;
            } else {
                self.scan.next = Some(scan::first_page());
            }
        }
        if !self.scan.paging
            && self.list.pressing(now) < WINDOW
            && let Some(from) = self.scan.next.take()
        {
            self.scan.paging = true;
            self.spawn_page(from);
        }
        let is_full = self.room.full_until().is_some_and(|until| until > now);
        while !is_full && self.working < self.context.limits.tasks_max.max(1) {
            let blobs = self.list.take(now, TASK_BLOBS);
            if blobs.is_empty() {
                break;
            }
            self.working += 1;
            let unfit = self.standing.unfit(self.now_ms());
            let (context, epoch) = (Arc::clone(&self.context), self.epoch);
            self.tasks.spawn(async move {
                (epoch, work::work(context, blobs, unfit).await.map(Done::Work))
            });
        }
    }

    fn spawn_page(&mut self, from: Vec<u8>) {
        let (context, epoch) = (Arc::clone(&self.context), self.epoch);
        self.tasks.spawn(async move {
            let page = context.blocking(move |context| scan::page(context, &from)).await;
            (epoch, page.map(Done::Page))
        });
    }

    fn on_task(&mut self, (epoch, done): Ended) -> Result<(), Failed> {
        match done {
            Ok(Done::Page(page)) if epoch == self.epoch => self.on_page(page),
            Ok(Done::Page(_)) => {}
            Ok(Done::Work(outcome)) => {
                self.working -= 1;
                self.on_outcome(outcome, epoch == self.epoch);
            }
            Err(error) if error.is_fatal() => return Err(error),
            // A page of a state that was forgotten meanwhile: once more from the start.
            Err(error) => {
                tracing::debug!(%error, "scan was cut short");
                if epoch == self.epoch {
                    (self.scan.paging, self.scan.next) = (false, None);
                    self.scan.want(Instant::now() + SCAN_REST);
                }
            }
        }
        Ok(())
    }

    fn on_page(&mut self, page: Page) {
        let now = Instant::now();
        let (state, clock) = (self.context.state(), self.context.clock);
        let ledger_now = state.tip().time.max(clock.now());
        for lack in page.lacks {
            let (first_epoch, time) = lack.first;
            let age_ms = ledger_now.ms_since(time);
            let grace_ms = self.context.limits.grace_ms.saturating_sub(age_ms);
            // Earlier holders have nothing of it, so nobody waits for it to be here.
            let fresh = first_epoch >= self.epoch;
            let due = if fresh { after(now, grace_ms) } else { now };
            self.list.found(lack.blob, lack.shards, (due, fresh));
        }
        (self.scan.paging, self.scan.next) = (false, page.next);
        if self.scan.next.is_none() {
            self.list.scanned();
            self.scan.finished = true;
            self.scan.rested = now + SCAN_REST.max(self.scan.began.elapsed());
            if self.list.has_dropped() {
                self.scan.want(now + RESCAN);
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome, is_current: bool) {
        let now = Instant::now();
        if outcome.full {
            self.room.none(now);
        } else if outcome.kept {
            self.room.some();
        }
        if !is_current {
            return;
        }
        let now_ms = self.now_ms();
        for node in &outcome.delivered {
            self.standing.delivered(node);
        }
        for (node, fault) in outcome.faults {
            self.standing.note(now_ms, node, fault);
        }
        for blob in outcome.settled {
            self.list.done(&blob, now);
        }
        for (blob, missing) in outcome.missing {
            self.context.progress.failed();
            self.list.failed(&blob, missing, now);
        }
    }

    fn on_block(&mut self, block: Result<Arc<CommittedBlock>, RecvError>) -> Result<(), Failed> {
        let now = Instant::now();
        self.block_at = now;
        let block = match block {
            Ok(block) => block,
            Err(RecvError::Lagged(_)) => {
                self.scan.want(now);
                return Ok(());
            }
            Err(RecvError::Closed) => return Err(Failed::Stopping),
        };
        self.pace.block(block.block.header.time, now);
        let own = !scan::own_shards(&self.context.state(), &self.context.node()).is_empty();
        // What was certified in an earlier epoch may be new to this node, but not to its shards.
        let current = block.block.header.epoch == self.epoch && self.is_settled();
        for event in block.events.iter() {
            match event {
                Event::BlobCertified { blob, .. } if own => {
                    let due = after(now, self.context.limits.grace_ms);
                    if !current || !self.list.certified(*blob, due) {
                        self.scan.want(due);
                    }
                }
                Event::BlobEnded { blob } | Event::BlobInvalidated { blob } => {
                    self.list.remove(blob);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let report = self.reporter.next_due();
        if !self.is_settled() {
            return Some(self.block_at + QUIET);
        }
        let has_room = self.working < self.context.limits.tasks_max.max(1);
        let work = self.list.next_due().filter(|_| has_room);
        let work = work.map(|due| self.room.full_until().map_or(due, |until| due.max(until)));
        [report, work, self.scan.due()].into_iter().flatten().min()
    }

    fn show(&mut self) {
        let complete = if self.scan.finished { self.complete_shards(true).len() } else { 0 };
        let counts = (complete, self.list.missing_pairs());
        let scanned = self.scan.finished && self.scan.next.is_none();
        self.episode.show(&self.context.progress, self.epoch, counts, scanned);
    }
}

fn after(now: Instant, wait_ms: u64) -> Instant {
    now + Duration::from_millis(wait_ms.min(WAIT_MAX_MS))
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
