//! The client's side of the ledger: proven facts, listings, and transactions with receipts.
//!
//! It drives the pure light client of [`floe_protocol::light`] over the network. Committees are
//! followed from the genesis or a checkpoint; the newest header is asked of members that weigh
//! more than all faulty ones together, or comes by gossip; every fact is proven against it, absence
//! included; every receipt is an inclusion proof. So any node can be asked, and none is believed:
//! one that lies is caught, not asked again, and replaced.
//!
//! ```text
//!   facts, listing, submit ── asker ──► network (one node after the other)
//!            │                  └─────► keeper: a thread that owns the light client, and verifies
//!            └── rounds: a task that finds the newest header, and hears of it by gossip
//! ```
//!
//! Invariants: writes and balances refuse headers older than a minute; a transaction is signed
//! again only when it is proven that its first form can never be committed, so nothing is paid
//! twice; after a receipt every fact is of its height or later.

mod asker;
mod blocks;
mod challenged;
mod epoch;
mod error;
mod facts;
mod history;
mod keeper;
mod listing;
mod rounds;
mod staked;
mod submit;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    index::{Epoch, Height},
    keys::{ChainId, NodeId},
    ledger::LedgerParameters,
    light::{Checkpoint, Fitness, LightClient, Newest, Unfit, VerifiedHeader},
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use self::{
    asker::Asker,
    keeper::Keeper,
    rounds::{Found, Rounds},
};
pub use self::{
    blocks::VerifiedBlock,
    challenged::{Earner, Earnings, EpochChallenges},
    epoch::RunningEpoch,
    error::{LedgerError, NodeFault},
    facts::{Proven, Quote},
    history::HistoryItem,
    staked::Staked,
    submit::Receipt,
};
use crate::{
    network::{GossipMessage, Network},
    service::ledger::wall_clock,
};

/// How long to wait for headers that others seem to have. Longer than the time within which the
/// newest header is not asked for again.
const HEADERS_WAIT: Duration = Duration::from_secs(3);
/// Between two questions of a client that has not found enough members yet: nothing tells it that
/// one can be reached now.
const FIND_AGAIN: Duration = Duration::from_millis(200);

/// The ledger, as a light peer knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LedgerClient {
    chain: ChainId,
    parameters: LedgerParameters,
    asker: Asker,
    rounds: Rounds,
    finding: Finding,
}

/// Whether the client has come: members that weigh more than all faulty ones have once answered.
#[derive(Clone, Debug)]
struct Finding {
    /// How long a question waits for that.
    patience: Duration,
    done: Arc<AtomicBool>,
}

/// What a fact is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To decide something by it: a header older than a minute is refused.
    Decide,
    /// To read a blob: an older header will do, with a warning.
    Read,
}

impl LedgerClient {
    /// Starts the thread that verifies and the task that looks for headers. The task ends when it
    /// is aborted. First questions wait `patience` for members to be found.
    pub(super) fn start(
        network: Network,
        headers: mpsc::Receiver<GossipMessage>,
        genesis: Arc<Genesis>,
        light: LightClient,
        patience: Duration,
    ) -> Result<(Self, AbortHandle), LedgerError> {
        let (chain, parameters) = (*light.chain(), genesis.ledger);
        let asker = Asker::new(network, Keeper::start(light, genesis)?);
        let (rounds, task) = Rounds::start(asker.clone(), headers);
        let finding = Finding { patience, done: Arc::new(AtomicBool::new(false)) };
        Ok((Self { chain, parameters, asker, rounds, finding }, task))
    }

    /// The network.
    #[must_use]
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// The rules of the ledger.
    #[must_use]
    pub const fn parameters(&self) -> &LedgerParameters {
        &self.parameters
    }

    /// The committee of the running epoch, as far as it has been followed.
    #[must_use]
    pub fn committee(&self) -> Arc<Committee> {
        self.asker.keeper().view().committee
    }

    /// The newest verified header, without asking anybody.
    #[must_use]
    pub fn known_header(&self) -> Option<VerifiedHeader> {
        self.asker.keeper().view().newest
    }

    /// The last headers of the epochs whose ends were followed, oldest first, with what proved each:
    /// a commit certificate, or a hand-over certificate. Those of long ago are forgotten.
    ///
    /// # Errors
    /// [`LedgerError::Stopped`].
    pub async fn handovers(&self) -> Result<Vec<VerifiedHeader>, LedgerError> {
        self.asker.keeper().handovers().await
    }

    /// Nodes that were caught lying, which are not asked again.
    #[must_use]
    pub fn liars(&self) -> BTreeSet<NodeId> {
        self.asker.liars()
    }

    /// The newest header: asks members until some that weigh more than all faulty ones together
    /// have answered, or three seconds are over; not more often than every two seconds.
    ///
    /// # Errors
    /// [`LedgerError::Trust`], [`LedgerError::Stopped`]. That nobody answered is in the result.
    pub async fn newest(&self) -> Result<Newest, LedgerError> {
        Ok(self.rounds.newest().await?.newest)
    }

    /// Waits until a header of `height` or later has come, by gossip or by whatever else is asked.
    ///
    /// # Errors
    /// [`LedgerError::Stopped`].
    pub async fn reached(&self, height: Height) -> Result<VerifiedHeader, LedgerError> {
        self.asker.keeper().reached(height).await
    }

    /// Tells the network which committee runs, now and whenever it changes, and keeps the one before
    /// in its good books, which still holds shards. Ends with the client.
    pub(super) async fn tell_committees(self) {
        let mut view = self.asker.keeper().watch();
        let mut running = view.borrow_and_update().committee.clone();
        // With a checkpoint the client begins with a later committee than that of the genesis.
        let first = running.members().iter().map(|member| member.node).collect();
        self.asker.network().set_committee(first).await;
        loop {
            let epoch = running.epoch();
            let changed = view.wait_for(|view| view.committee.epoch() != epoch).await;
            let Ok(next) = changed.map(|view| Arc::clone(&view.committee)) else { return };
            let both = next.members().iter().chain(running.members());
            let both: BTreeSet<_> = both.map(|member| member.node).collect();
            self.asker.network().set_committee(both.into_iter().collect()).await;
            running = next;
        }
    }

    /// Whether an epoch is over. Nodes that say so may know before this client does: it waits a
    /// moment for the headers that prove it.
    pub(super) async fn is_over(&self, epoch: Epoch) -> bool {
        let over = || self.committee().epoch() > epoch;
        let end = Instant::now() + HEADERS_WAIT;
        while !over() && Instant::now() < end {
            self.next_header().await;
        }
        over()
    }

    /// Waits for a header behind the newest known one, but not for long.
    pub(super) async fn next_header(&self) {
        let known = self.known_header();
        let next = known.map_or(Height::new(1), |header| header.header().height.next());
        if timeout(HEADERS_WAIT, self.reached(next)).await.is_err() {
            // Nothing came by itself.
            drop(self.newest().await);
        }
    }

    /// The verified newest header of a node; none before the first block.
    pub(super) async fn tip_of(&self, node: NodeId) -> Result<Option<VerifiedHeader>, NodeFault> {
        rounds::tip(&self.asker, node).await
    }

    /// A root of trust to pass on to others, or to start from next time.
    ///
    /// # Errors
    /// [`LedgerError`]. Nothing before the first block.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, LedgerError> {
        self.fresh(Purpose::Decide).await?;
        if let Some(checkpoint) = self.asker.keeper().checkpoint().await? {
            return Ok(Some(checkpoint));
        }
        if self.known_header().is_none() {
            return Ok(None);
        }
        // The newest header is the last of its epoch: its hand-over says who comes next.
        let asker = &self.asker;
        asker.question("the next committee", |node| asker.follow(node)).await?;
        asker.keeper().checkpoint().await
    }

    /// The newest header, new enough for a purpose.
    async fn fresh(
        &self,
        purpose: Purpose,
    ) -> Result<(Option<VerifiedHeader>, Fitness), LedgerError> {
        let Found { newest, answered, faults, .. } = self.found(purpose).await?;
        let now = wall_clock();
        let fitness = newest.for_read(now);
        match (fitness, purpose) {
            (Fitness::Old(unfit), Purpose::Decide) => {
                let nodes = self.committee().members().len();
                Err(LedgerError::Unfit { unfit, answered, nodes, faults })
            }
            // Nothing at all is known, not even that there is no block yet.
            (Fitness::Old(unfit), Purpose::Read) if newest.header.is_none() => {
                let nodes = self.committee().members().len();
                Err(LedgerError::Unfit { unfit, answered, nodes, faults })
            }
            _ => Ok((newest.header, fitness)),
        }
    }

    /// What a round has found. A client that has just come may know too few members: until enough
    /// have once answered, it asks again rather than giving up.
    async fn found(&self, purpose: Purpose) -> Result<Found, LedgerError> {
        let end = Instant::now() + self.finding.patience;
        loop {
            let found = self.rounds.newest().await?;
            if found.newest.validity {
                self.finding.done.store(true, Ordering::Relaxed);
            }
            let will_do = match (found.newest.for_read(wall_clock()), purpose) {
                (Fitness::Fresh | Fitness::Old(Unfit::Clock { .. }), _) => true,
                (Fitness::Old(_), Purpose::Read) => found.newest.header.is_some(),
                (Fitness::Old(_), Purpose::Decide) => false,
            };
            let done = self.finding.done.load(Ordering::Relaxed);
            if will_do || done || Instant::now() + FIND_AGAIN >= end {
                return Ok(found);
            }
            sleep(FIND_AGAIN).await;
        }
    }
}
