//! The keeper: one thread that owns what the client knows of the ledger, and verifies.
//!
//! Certificates take milliseconds to verify, which no async thread may spend, and the light client
//! must have one owner. So each question is a job that runs on this thread, one after the other;
//! what everybody looks at (running committee, newest header) is published through a watch channel.
//!
//! Invariants: the newest header never goes back; a fork, once seen, stays. The thread ends with
//! the last handle.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    index::Height,
    ledger::{AccountId, SignedTransaction, TransactionId},
    light::{
        CertifiedHeader, Checkpoint, Inclusion, LightClient, LightError, VerifiedHeader,
        VerifiedState,
    },
    message::Handover,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::LedgerError;
use crate::service::ledger::wall_clock;

/// Jobs that wait for the thread.
const JOBS_MAX: usize = 64;

type Job = Box<dyn FnOnce(&mut Knowledge, &watch::Sender<LightView>) + Send>;

/// What everybody may look at.
#[derive(Clone, Debug)]
pub(super) struct LightView {
    pub(super) committee: Arc<Committee>,
    pub(super) newest: Option<VerifiedHeader>,
    /// Once two final headers excluded each other.
    pub(super) fork: Option<LightError>,
}

/// What the thread owns.
struct Knowledge {
    light: LightClient,
    genesis: Arc<Genesis>,
    /// Computed when it is first needed: that takes as long as the genesis has accounts.
    genesis_state: Option<VerifiedState>,
    nonces: BTreeMap<AccountId, Nonces>,
    fork: Option<LightError>,
}

/// Nonces of an account that this client has given to transactions.
#[derive(Debug, Default)]
struct Nonces {
    /// Behind the last one that is known to be committed.
    floor: u64,
    /// Of transactions on their way.
    pending: BTreeSet<u64>,
}

impl Nonces {
    /// The lowest nonce that is free, so that a gap is filled by whoever comes next.
    fn reserve(&mut self, proven: u64) -> u64 {
        let first = self.floor.max(proven);
        self.pending = self.pending.split_off(&first);
        let free = (first..u64::MAX).find(|nonce| !self.pending.contains(nonce));
        let nonce = free.unwrap_or(u64::MAX);
        self.pending.insert(nonce);
        nonce
    }

    fn release(&mut self, nonce: u64, committed: bool) {
        self.pending.remove(&nonce);
        if committed {
            self.floor = self.floor.max(nonce.saturating_add(1));
        }
    }
}

/// A handle to the thread.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    jobs: mpsc::Sender<Job>,
    view: watch::Receiver<LightView>,
}

/// A nonce that is given back when the transaction's fate is known, or nobody waits for it.
#[derive(Debug)]
pub(super) struct ReservedNonce {
    keeper: Keeper,
    account: AccountId,
    pub(super) nonce: u64,
    committed: bool,
}

impl ReservedNonce {
    /// The nonce has been used.
    pub(super) const fn committed(&mut self) {
        self.committed = true;
    }
}

impl Drop for ReservedNonce {
    fn drop(&mut self) {
        let Self { account, nonce, committed, .. } = *self;
        let job: Job = Box::new(move |knowledge, _| {
            knowledge.nonces.entry(account).or_default().release(nonce, committed);
        });
        // With a full queue it stays reserved until the ledger has passed it.
        drop(self.keeper.jobs.try_send(job));
    }
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(light: LightClient, genesis: Arc<Genesis>) -> io::Result<Self> {
        let (jobs, mut receiver) = mpsc::channel::<Job>(JOBS_MAX);
        let first = LightView {
            committee: Arc::clone(light.committee()),
            newest: light.newest().cloned(),
            fork: None,
        };
        let (publish, view) = watch::channel(first);
        let nonces = BTreeMap::new();
        let mut knowledge = Knowledge { light, genesis, genesis_state: None, nonces, fork: None };
        let thread = std::thread::Builder::new().name("floe-light".into());
        thread.spawn(move || {
            while let Some(job) = receiver.blocking_recv() {
                job(&mut knowledge, &publish);
            }
        })?;
        Ok(Self { jobs, view })
    }

    /// What is known now.
    pub(super) fn view(&self) -> LightView {
        self.view.borrow().clone()
    }

    /// What is known, now and after every change.
    pub(super) fn watch(&self) -> watch::Receiver<LightView> {
        self.view.clone()
    }

    /// Waits for a header of `height` or later.
    pub(super) async fn reached(&self, height: Height) -> Result<VerifiedHeader, LedgerError> {
        let later = |header: &VerifiedHeader| header.header().height >= height;
        let mut view = self.view.clone();
        let reached = view.wait_for(|view| view.newest.as_ref().is_some_and(later)).await;
        let newest = reached.map_err(|_| LedgerError::Stopped)?.newest.clone();
        newest.ok_or(LedgerError::Stopped)
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Knowledge) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move |knowledge, publish| {
            let result = job(knowledge);
            // First the view: who has a receipt must see its header.
            publish.send_if_modified(|view| knowledge.publish(view));
            drop(reply.send(result));
        });
        self.jobs.send(job).await.map_err(|_| LedgerError::Stopped)?;
        result.await.map_err(|_| LedgerError::Stopped)
    }

    /// Verifies a header and keeps it if it is the newest.
    pub(super) async fn accept(
        &self,
        certified: CertifiedHeader,
    ) -> Result<Result<VerifiedHeader, LightError>, LedgerError> {
        self.run(|knowledge| {
            let accepted = knowledge.light.accept(certified, wall_clock());
            knowledge.noticed(accepted)
        })
        .await
    }

    /// Goes on to the next epoch.
    pub(super) async fn handover(
        &self,
        Handover { last, committee }: Handover,
    ) -> Result<Result<VerifiedHeader, LightError>, LedgerError> {
        self.run(move |knowledge| {
            let followed = knowledge.light.handover(last, &committee, wall_clock());
            knowledge.noticed(followed)
        })
        .await
    }

    /// The ends of epochs that were followed, oldest first, as far as they are kept.
    pub(super) async fn handovers(&self) -> Result<Vec<VerifiedHeader>, LedgerError> {
        self.run(|knowledge| knowledge.light.handovers().cloned().collect()).await
    }

    /// Verifies that a transaction is in a block, and keeps the block's header if it is the newest.
    pub(super) async fn inclusion(
        &self,
        inclusion: Inclusion,
        id: TransactionId,
    ) -> Result<Result<(VerifiedHeader, SignedTransaction), LightError>, LedgerError> {
        self.run(move |knowledge| {
            let included = knowledge.light.inclusion(&inclusion, &id);
            let (header, signed) = knowledge.noticed(included)?;
            knowledge.light.accept(inclusion.certified, wall_clock())?;
            Ok((header, signed))
        })
        .await
    }

    /// The state before the first block.
    pub(super) async fn genesis_state(&self) -> Result<VerifiedState, LedgerError> {
        let state = self.run(|knowledge| {
            if let Some(state) = knowledge.genesis_state {
                return Ok(state);
            }
            let state = VerifiedState::genesis(&knowledge.genesis)?;
            Ok(*knowledge.genesis_state.insert(state))
        });
        state.await?.map_err(|error| LedgerError::Trust(LightError::Genesis(error)))
    }

    /// A root to pass on.
    pub(super) async fn checkpoint(&self) -> Result<Option<Checkpoint>, LedgerError> {
        self.run(|knowledge| knowledge.light.checkpoint()).await
    }

    /// A nonce for the next transaction of an account, which by a proof has sent `proven`.
    pub(super) async fn reserve(
        &self,
        account: AccountId,
        proven: u64,
    ) -> Result<ReservedNonce, LedgerError> {
        let reserve = move |knowledge: &mut Knowledge| {
            knowledge.nonces.entry(account).or_default().reserve(proven)
        };
        let nonce = self.run(reserve).await?;
        Ok(ReservedNonce { keeper: self.clone(), account, nonce, committed: false })
    }
}

impl Knowledge {
    /// Remembers a fork: from then on nothing is believed any more.
    fn noticed<T>(&mut self, result: Result<T, LightError>) -> Result<T, LightError> {
        if let Err(error @ LightError::Fork(_)) = &result {
            self.fork.get_or_insert_with(|| error.clone());
        }
        result
    }

    /// Brings a view up to date; whether it has changed.
    fn publish(&self, view: &mut LightView) -> bool {
        let height = |header: Option<&VerifiedHeader>| header.map(|header| header.header().height);
        let changed = view.committee.epoch() != self.light.epoch()
            || height(view.newest.as_ref()) != height(self.light.newest())
            || view.fork.is_some() != self.fork.is_some();
        if changed {
            *view = LightView {
                committee: Arc::clone(self.light.committee()),
                newest: self.light.newest().cloned(),
                fork: self.fork.clone(),
            };
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_given_once_and_gaps_are_filled() {
        let mut nonces = Nonces::default();
        assert_eq!((nonces.reserve(5), nonces.reserve(5), nonces.reserve(5)), (5, 6, 7));
        nonces.release(6, false);
        assert_eq!(nonces.reserve(5), 6, "it was refused: the gap is filled first");
        nonces.release(5, true);
        assert_eq!(nonces.reserve(5), 8, "what was proven is older than the receipt");
        assert_eq!(nonces.reserve(20), 20, "somebody else uses the account too");
        assert_eq!(nonces.pending.len(), 1);
    }
}
