//! The load of a scenario: a writer and two readers that never rest, and where blocks are to follow
//! each other without a pause, payers.
//!
//! What has been stored is published, so that readers and audits can compare it. A read of a blob
//! that ended meanwhile proves nothing and is not counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use floe_node::{
    Client,
    client::{ReadOptions, StoreProgress},
};
use floe_protocol::{
    blob::BlobId,
    index::Epoch,
    keys::KeyPair,
    ledger::{AccountId, Amount, Operation},
    transfer::Wanted,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::plan::Plan;
use crate::{
    cluster::extra_account_key,
    workload::{Dice, content},
};

/// Readers that read at the same time.
const READERS: u64 = 2;
/// How soon after a read the next one begins.
const READ_PACE: Duration = Duration::from_millis(100);
/// How soon after a transfer the next one of the same account begins.
const PAY_PACE: Duration = Duration::from_millis(20);
/// Accounts that pay in one transaction after the other.
pub(super) const PAYERS: u32 = 4;
/// Failures that are kept in words.
const FAILURES_MAX: usize = 20;
/// For how many epochs every fourth blob is paid: it ends while the scenario runs.
const SHORT_LIFE: u32 = 2;

/// A blob that was certified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) id: BlobId,
    pub(super) seed: u64,
    pub(super) bytes: usize,
    /// The first epoch in which it may be gone.
    pub(super) end: Epoch,
}

/// What the load has done so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) blobs: Vec<Stored>,
    pub(super) store_failures: u64,
    /// Stores that failed while holders with room were no quorum.
    pub(super) stores_impossible: u64,
    /// Stores that failed after more than an epoch: what they had paid may have lapsed.
    pub(super) stores_late: u64,
    pub(super) reads: u64,
    pub(super) read_failures: u64,
    pub(super) transfers: u64,
    pub(super) transfer_failures: u64,
    /// Of reads since the last time they were taken.
    pub(super) read_times: Vec<Duration>,
    /// The first failures, in words.
    pub(super) failures: Vec<String>,
}

impl Done {
    fn fail(&mut self, what: String) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(what);
        }
    }
}

/// The running load. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Load {
    done: Arc<watch::Sender<Done>>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub(super) fn start(client: &Client, wallet: &KeyPair, plan: &Plan) -> Self {
        let done = Arc::new(watch::Sender::new(Done::default()));
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let worker = |dice| Worker {
            client: client.clone(),
            done: Arc::clone(&done),
            dice: Dice::new(plan.seed ^ dice),
            stop: stop.subscribe(),
        };
        tasks.spawn(worker(0).store(wallet.clone(), plan.clone()));
        for reader in 1..=READERS {
            tasks.spawn(worker(reader).read());
        }
        if plan.payers {
            for payer in 0..PAYERS {
                tasks.spawn(worker(0).pay(extra_account_key(payer)));
            }
        }
        Self { done, tasks, stop }
    }

    /// What has been done so far.
    pub(super) fn done(&self) -> Done {
        self.done.borrow().clone()
    }

    /// The times of reads since the last call.
    pub(super) fn take_read_times(&self) -> Vec<Duration> {
        let mut times = Vec::new();
        self.done.send_modify(|done| times = std::mem::take(&mut done.read_times));
        times
    }

    /// Waits until so many blobs are stored.
    pub(super) async fn stored(&self, blobs: usize) {
        let mut done = self.done.subscribe();
        // The sender is here.
        drop(done.wait_for(|done| done.blobs.len() >= blobs).await);
    }

    /// Begins nothing more, and waits for what has begun.
    pub(super) async fn finish(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Worker {
    client: Client,
    done: Arc<watch::Sender<Done>>,
    dice: Dice,
    stop: watch::Receiver<bool>,
}

impl Worker {
    async fn store(mut self, wallet: KeyPair, plan: Plan) {
        let progress = watch::Sender::new(StoreProgress::default());
        let long = u32::try_from(plan.epochs).unwrap_or(u32::MAX).saturating_add(20);
        let mut due = interval(plan.store_every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.next(&mut due).await {
            let mut impossible = plan.full > 0 && lacks_quorum(&self.client).await;
            let (seed, bytes) = (self.dice.next(), 1 + self.dice.below(plan.blob_bytes_max));
            let epochs = if self.dice.below(4) == 0 { SHORT_LIFE } else { long };
            let wanted = Wanted { epochs, deletable: true };
            let begun = Instant::now();
            let stored = self.client.store(content(seed, bytes), wanted, &wallet, &progress).await;
            if stored.is_err() && plan.full > 0 {
                impossible |= lacks_quorum(&self.client).await;
            }
            self.done.send_modify(|done| match stored {
                Err(_) if impossible => done.stores_impossible += 1,
                Err(_) if begun.elapsed() > plan.epoch => done.stores_late += 1,
                Ok(stored) => {
                    done.blobs.push(Stored { id: stored.blob, seed, bytes, end: stored.end });
                }
                Err(error) => {
                    done.store_failures += 1;
                    done.fail(format!("store: {error}"));
                }
            });
        }
    }

    async fn read(mut self) {
        let mut due = interval(READ_PACE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.next(&mut due).await {
            let epoch = self.client.committee().epoch();
            let pick = |done: &Done, dice: &mut Dice| {
                let alive = done.blobs.iter().filter(|blob| epoch < blob.end);
                let alive: Vec<_> = alive.copied().collect();
                (!alive.is_empty()).then(|| alive[dice.below(alive.len())])
            };
            let picked = pick(&self.done.borrow(), &mut self.dice);
            let Some(blob) = picked else { continue };
            let begun = Instant::now();
            let read = read_back(&self.client, &blob).await;
            self.done.send_modify(|done| match read {
                Ok(true) => {
                    done.reads += 1;
                    done.read_times.push(begun.elapsed());
                }
                Ok(false) => {}
                Err(error) => {
                    done.read_failures += 1;
                    done.fail(error);
                }
            });
        }
    }

    /// Pays itself, again and again.
    async fn pay(mut self, key: KeyPair) {
        let mut due = interval(PAY_PACE);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (to, amount) = (AccountId::new(key.public()), Amount::from_frost(1));
        while self.next(&mut due).await {
            let transfer = vec![Operation::Transfer { to, amount }];
            let paid = self.client.ledger().submit(transfer, &key).await;
            self.done.send_modify(|done| match paid {
                Ok(_) => done.transfers += 1,
                Err(error) => {
                    done.transfer_failures += 1;
                    done.fail(format!("transfer: {error}"));
                }
            });
        }
    }

    /// Waits until it is time for the next thing; false if nothing more is to begin.
    async fn next(&mut self, due: &mut tokio::time::Interval) -> bool {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => false,
            _ = due.tick() => true,
        }
    }
}

/// Reads a blob and compares it; false if it has ended meanwhile.
pub(super) async fn read_back(client: &Client, blob: &Stored) -> Result<bool, String> {
    let read = async { client.read(blob.id, ReadOptions::default()).await?.read_to_end().await };
    match read.await {
        Ok(bytes) if bytes == content(blob.seed, blob.bytes)[..] => Ok(true),
        Ok(bytes) => {
            let (id, read, stored) = (blob.id, bytes.len(), blob.bytes);
            Err(format!("blob {id} came back changed: {read} bytes of {stored}"))
        }
        Err(error) => match has_ended(client, blob).await {
            true => Ok(false),
            false => Err(format!("read of {}: {error}", blob.id)),
        },
    }
}

/// Whether the shards that are ready are no quorum: if the others have no room, nothing can be
/// certified.
async fn lacks_quorum(client: &Client) -> bool {
    let running = client.ledger().running_epoch().await;
    running.is_ok_and(|running| running.ready() < running.ready_needed())
}

async fn has_ended(client: &Client, blob: &Stored) -> bool {
    let running = client.ledger().running_epoch().await;
    running.is_ok_and(|running| running.summary.epoch >= blob.end)
}
