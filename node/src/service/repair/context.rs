//! What all parts of repair share: the stores, the network, and the limits; how they ask others
//! and how they keep what came.
//!
//! Law of the node: what came is verified by whoever fetched it, then kept here: under the blob's
//! lock, and only if the ledger, looked at under that lock, still wants it. It counts after a flush.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::PairHashes,
    index::ShardIndex,
    keys::NodeId,
    ledger::{BlobState, ReadError, State},
    message::{Refusal, Request, Response},
};
use floe_storage::{StorageError, Store};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    budget::{Budget, Throttle},
    progress::Progress,
    scan::own_shards,
};
use crate::{
    clock::Clock,
    config::RepairLimits,
    key_file::NodeKeys,
    network::{Network, RequestError},
    service::{
        background::Background, blocking, challenges::Inconsistent, judging::by_newest,
        ledger::Ledger, storage_node::BlobLocks,
    },
};

/// How often a busy node is asked again.
const BUSY_ATTEMPTS: u32 = 5;
/// What a busy node is given at most.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);
/// What a node is given that may be a block behind.
const BEHIND_WAIT: Duration = Duration::from_millis(400);

/// What all parts share. Clones share it, too.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) ledger: Ledger,
    pub(super) keys: NodeKeys,
    pub(super) store: Store,
    pub(super) network: Network,
    pub(super) locks: Arc<BlobLocks>,
    pub(super) limits: RepairLimits,
    pub(super) clock: Clock,
    pub(super) budget: Budget,
    pub(super) throttle: Throttle,
    pub(super) inconsistent: Inconsistent,
    pub(super) progress: Progress,
    /// For what only computes.
    pub(super) background: Background,
    /// The epoch is over, or the node goes down.
    pub(super) cancel: CancellationToken,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Ledger(#[from] ReadError),
    #[error("the node is going down, or the epoch is over")]
    Stopping,
}

impl Failed {
    /// Whether the node must not go on.
    pub(super) const fn is_fatal(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_fatal(),
            Self::Ledger(error) => error.is_fatal(),
            Self::Stopping => false,
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        matches!(self, Self::Storage(StorageError::Full { .. }))
    }
}

/// A verified pair.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) blob: BlobId,
    pub(super) shard: ShardIndex,
    pub(super) proof: PairProof,
    pub(super) primary: Bytes,
    pub(super) secondary: Bytes,
    pub(super) hashes: PairHashes,
}

impl Pair {
    pub(super) fn sliver_bytes(&self) -> u64 {
        (self.primary.len() + self.secondary.len()) as u64
    }
}

/// A node gave no answer that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It is away or too busy.
    Away,
    /// It took too long.
    Late,
    /// It refuses, speaks another version, or what came is no answer to the question. That proves
    /// nothing against it.
    Unusable,
    /// This node is going down, or the epoch is over.
    Stopping,
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Context {
    /// The same, until another end.
    pub(super) fn with_cancel(&self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self.clone() }
    }

    pub(super) const fn node(&self) -> NodeId {
        self.network.local_node()
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }

    /// Asks a node for something, again a few times if it is busy. Request and answer have so many
    /// bytes.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: Request,
        bytes: u64,
    ) -> Result<Response, NoAnswer> {
        let patience = self.patience(bytes);
        for _ in 0..BUSY_ATTEMPTS {
            let answer = tokio::select! {
                () = self.cancel.cancelled() => return Err(NoAnswer::Stopping),
                answer = timeout(patience, self.network.request(node, request.clone())) => answer,
            };
            let wait = match answer {
                Ok(Ok(Response::Refused(Refusal::Busy { retry_after_ms }))) => {
                    Duration::from_millis(retry_after_ms.into()).min(BUSY_WAIT_MAX)
                }
                // It may not have come to the block that makes us ask.
                Ok(Ok(Response::Refused(Refusal::WrongShard | Refusal::Unavailable))) => {
                    BEHIND_WAIT
                }
                Ok(Ok(Response::Refused(_))) => return Err(NoAnswer::Unusable),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(
                    RequestError::Malformed | RequestError::Unsupported | RequestError::TooLarge,
                )) => return Err(NoAnswer::Unusable),
                Ok(Err(RequestError::Stopped)) => return Err(NoAnswer::Stopping),
                Ok(Err(RequestError::Unreachable | RequestError::Closed)) => {
                    return Err(NoAnswer::Away);
                }
                Ok(Err(RequestError::Timeout)) | Err(_) => return Err(NoAnswer::Late),
            };
            self.sleep(wait).await;
        }
        Err(NoAnswer::Away)
    }

    /// How long an exchange of so many bytes may take.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        let limits = &self.limits;
        let mib = bytes.div_ceil(1 << 20);
        let by_size = limits.answer_timeout_per_mib_ms.saturating_mul(mib);
        Duration::from_millis(limits.answer_timeout_ms.saturating_add(by_size))
    }

    /// Sleeps, but not longer than the node runs, or the epoch.
    pub(super) async fn sleep(&self, wait: Duration) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = sleep(wait) => {}
        }
    }

    /// Counts what came; how long nothing more is to be asked for.
    pub(super) fn charge(&self, bytes: u64) -> Duration {
        self.progress.fetched(bytes);
        self.throttle.wait_after_now(bytes)
    }

    /// Waits until `ask_at`, when what came for somebody, and all that came before, has had its time.
    /// What comes for others meanwhile is theirs to wait for, or this might never have its turn.
    pub(super) async fn hold(&self, ask_at: Instant) -> Result<(), Failed> {
        self.sleep(ask_at.saturating_duration_since(Instant::now())).await;
        if self.cancel.is_cancelled() { Err(Failed::Stopping) } else { Ok(()) }
    }

    /// Runs what only computes, where it disturbs nobody.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.background.run(work).await
    }

    /// Runs on a blocking thread.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, Failed> {
        let context = Arc::clone(self);
        blocking(move || work(&context)).await.unwrap_or(Err(Failed::Stopping))
    }

    /// Keeps verified pairs, durably; whether each of them is still wanted. Blocks.
    pub(super) fn keep(&self, pairs: &[Pair]) -> Result<Vec<bool>, Failed> {
        let mut wanted = Vec::with_capacity(pairs.len());
        let mut failed = None;
        for pair in pairs {
            match self.keep_one(pair) {
                Ok(kept) => wanted.push(kept),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // What was put before it failed is as good as any.
        self.store.flush()?;
        failed.map_or(Ok(wanted), Err)
    }

    fn keep_one(&self, pair: &Pair) -> Result<bool, Failed> {
        let Pair { blob, shard, proof, primary, secondary, hashes } = pair;
        let _lock = self.locks.write(blob);
        let newest = || self.state();
        let (wanted, height) = by_newest(newest, |state| {
            let record = state.blob(self.ledger.store().as_ref(), blob)?;
            let epoch = state.summary().epoch;
            let lives = record.is_some_and(|record| record.state(epoch) == BlobState::Certified);
            let is_own = own_shards(state, &self.node()).contains(shard);
            Ok((lives && is_own, state.tip().height))
        })?;
        if wanted {
            let proofs = [(*shard, proof.to_bytes())];
            self.store.put_table(&proof.header, height, &proofs)?;
            let hashes = [&hashes.primary[..], &hashes.secondary[..]];
            self.store.put_hashed_pair((*shard, blob), [primary, secondary], hashes)?;
        }
        Ok(wanted)
    }
}
