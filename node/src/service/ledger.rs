//! The ledger service: takes part in consensus, executes blocks, keeps the chain.
//!
//! It runs on a thread of its own, because it executes, verifies and waits for the disk inline:
//! what a vote rests on is durable before the vote leaves. Its driver decides nothing. It feeds
//! the machines of `floe-protocol` (replica, state, mempool, pace) and does what they answer.
//!
//! ```text
//!  gossip: consensus ──► ┌────────┐ ──► vote journal, ledger store
//!  transactions ───────► │ driver │ ──► gossip: consensus, transactions, headers
//!  synced blocks ──────► └────────┘ ──► watch State, broadcast CommittedBlock
//! ```
//!
//! Others read committed state from the store, at the height of the [`State`] that they see.

mod chain;
mod driver;
mod lag;
mod outbox;
mod succession;

use std::{io, sync::Arc, thread, time::Instant};

use floe_protocol::{
    challenge::Universe,
    consensus::Timeouts,
    index::Height,
    ledger::{
        Account, AccountId, Block, BlockEvents, ReadError, SnapshotOffer, State, SystemOperation,
        Timestamp, TransactionId, VerifiedTransaction,
    },
    mempool::{MempoolError, MempoolStats},
    message::Handover,
    vote::CommitCertificate,
};
use floe_storage::{Installation, LedgerStore, StorageError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::{chain::ChainError, succession::AdoptError};
pub(crate) use self::{
    chain::{Chain, stand},
    succession::Adoption,
};
use self::{driver::Driver, lag::Lag};
use crate::{
    clock::Clock,
    key_file::NodeKeys,
    network::{GossipMessage, Network},
};

/// Commands that wait for the driver.
const COMMANDS_MAX: usize = 256;
/// Blocks that a slow listener may lag behind before it misses some.
const COMMITTED_MAX: usize = 256;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) chain: Chain,
    pub(crate) keys: NodeKeys,
    pub(crate) network: Network,
    pub(crate) consensus: mpsc::Receiver<GossipMessage>,
    pub(crate) timeouts: Timeouts,
    pub(crate) clock: Clock,
    pub(crate) cancel: CancellationToken,
}

/// A block that has become final, for those who follow.
#[derive(Clone, Debug)]
pub struct CommittedBlock {
    /// The block.
    pub block: Arc<Block>,
    /// Why it is final.
    pub certificate: CommitCertificate,
    /// Its transactions, in order.
    pub transactions: Vec<TransactionId>,
    /// What happened.
    pub events: BlockEvents,
    /// Whether it came from others that had committed it, and not by votes.
    pub by_sync: bool,
    /// When it was committed here.
    pub at: Instant,
    /// Since when this node has had proof that others were as far, if it had before.
    pub known_since: Option<Instant>,
    /// What the round that it has opened asks for.
    pub opened: Option<Arc<Universe>>,
}

/// Blocks that another node has sent.
#[derive(Debug)]
pub(crate) struct SyncedBlocks {
    /// Consecutive blocks with their certificates.
    pub(crate) blocks: Vec<(Block, CommitCertificate)>,
    /// Whether they were taken.
    pub(crate) reply: oneshot::Sender<bool>,
}

/// A snapshot whose state is verified and written, but does not count yet.
#[derive(Debug)]
pub(crate) struct Install {
    /// The state.
    pub(crate) installation: Installation,
    /// Its block; a certificate that was verified.
    pub(crate) offer: SnapshotOffer,
    /// The ends of epochs that led to it, verified.
    pub(crate) ends: Vec<Handover>,
}

/// What the driver is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// Take transactions into the mempool.
    Insert {
        transactions: Vec<Arc<VerifiedTransaction>>,
        /// Whether to spread them: they came from a client, not from gossip.
        spread: bool,
        reply: oneshot::Sender<Vec<Result<(), MempoolError>>>,
    },
    /// Take a verified system operation into the mempool.
    InsertSystem {
        operation: Box<SystemOperation>,
        spread: bool,
        reply: oneshot::Sender<Result<(), MempoolError>>,
    },
    /// Tell which operations the mempool has, or has seen committed.
    KnowsSystem { operations: Vec<SystemOperation>, reply: oneshot::Sender<Vec<bool>> },
    /// Commit blocks that others have committed.
    Synced(SyncedBlocks),
    /// Begin with a snapshot.
    Install {
        install: Box<Install>,
        /// Whether it did: not if there are blocks already.
        reply: oneshot::Sender<bool>,
    },
    /// Tell the mempool's numbers.
    Stats(oneshot::Sender<MempoolStats>),
}

/// A handle to the service. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<Arc<State>>,
    committed: broadcast::Sender<Arc<CommittedBlock>>,
    /// The last height that was decided without its block.
    missing: watch::Receiver<Height>,
    lag: Arc<watch::Sender<Lag>>,
    store: Arc<LedgerStore>,
}

/// The service has stopped.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("the ledger service has stopped")]
pub struct LedgerStopped;

impl Ledger {
    /// Where the ledger stands, now and after every block.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// Every block from now on.
    #[must_use]
    pub fn committed(&self) -> broadcast::Receiver<Arc<CommittedBlock>> {
        self.committed.subscribe()
    }

    /// The block of a height with what makes it final, if this node has it. Blocks: it reads the
    /// disk.
    ///
    /// # Errors
    /// [`StorageError`], always fatal.
    pub fn block(
        &self,
        height: Height,
    ) -> Result<Option<(Block, CommitCertificate)>, StorageError> {
        Ok(self.store.block(height)?.zip(self.store.certificate(height)?))
    }

    /// An account after the tip of `state`. Blocks: it reads the disk.
    ///
    /// # Errors
    /// [`ReadError`]; of a state that has just been looked up it is fatal.
    pub fn account(&self, state: &State, id: &AccountId) -> Result<Account, ReadError> {
        state.account(self.store.as_ref(), id)
    }

    /// Tells of heights that were decided before their block has come.
    pub(crate) fn missing(&self) -> watch::Receiver<Height> {
        self.missing.clone()
    }

    /// What is on disk.
    #[must_use]
    pub(crate) fn store(&self) -> &Arc<LedgerStore> {
        &self.store
    }

    /// Puts verified transactions into the mempool, and tells others of them if `spread`.
    ///
    /// # Errors
    /// [`LedgerStopped`]; what the mempool says of each is the result.
    pub async fn insert(
        &self,
        transactions: Vec<Arc<VerifiedTransaction>>,
        spread: bool,
    ) -> Result<Vec<Result<(), MempoolError>>, LedgerStopped> {
        self.ask(|reply| Command::Insert { transactions, spread, reply }).await
    }

    /// Puts a verified system operation into the mempool.
    ///
    /// # Errors
    /// [`LedgerStopped`]; what the mempool says is the result.
    pub async fn insert_system(
        &self,
        operation: SystemOperation,
        spread: bool,
    ) -> Result<Result<(), MempoolError>, LedgerStopped> {
        let operation = Box::new(operation);
        self.ask(|reply| Command::InsertSystem { operation, spread, reply }).await
    }

    /// Whether an operation like each of these waits in the mempool or was committed lately: such
    /// ones need not be verified.
    pub(crate) async fn knows_system(
        &self,
        operations: Vec<SystemOperation>,
    ) -> Result<Vec<bool>, LedgerStopped> {
        self.ask(|reply| Command::KnowsSystem { operations, reply }).await
    }

    /// Hands over blocks from another node; whether all were taken.
    pub(crate) async fn synced(
        &self,
        blocks: Vec<(Block, CommitCertificate)>,
    ) -> Result<bool, LedgerStopped> {
        self.ask(|reply| Command::Synced(SyncedBlocks { blocks, reply })).await
    }

    /// Tells that a quorum has committed the block of `height`, of which there is proof.
    pub(crate) fn proven(&self, height: Height) {
        self.lag.send_modify(|lag| lag.proven(height, Instant::now()));
    }

    /// Tells that the block of `height` is final, of which there is proof: maybe for long.
    pub(crate) fn reached(&self, height: Height) {
        self.lag.send_modify(|lag| lag.reached(height));
    }

    /// The highest block that is known to be final, here or elsewhere.
    pub(crate) fn highest(&self) -> Height {
        self.lag.borrow().highest()
    }

    /// Hands over a snapshot to begin with; whether the ledger did.
    pub(crate) async fn install(&self, install: Install) -> Result<bool, LedgerStopped> {
        let install = Box::new(install);
        self.ask(|reply| Command::Install { install, reply }).await
    }

    /// The mempool's numbers.
    ///
    /// # Errors
    /// [`LedgerStopped`].
    pub async fn mempool(&self) -> Result<MempoolStats, LedgerStopped> {
        self.ask(Command::Stats).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, LedgerStopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| LedgerStopped)?;
        answer.await.map_err(|_| LedgerStopped)
    }
}

/// The service's thread. Dropping it stops the service and waits for its end, so that the store
/// can be opened again.
#[derive(Debug)]
pub(crate) struct LedgerThread {
    cancel: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for LedgerThread {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic has been told already: whoever waits for the end finds nothing sent.
            drop(thread.join());
        }
    }
}

/// What [`start`] gives.
pub(crate) struct Started {
    pub(crate) ledger: Ledger,
    pub(crate) thread: LedgerThread,
    /// Gets the reason why the service ended; nothing if it panicked.
    pub(crate) ended: oneshot::Receiver<Result<(), driver::Fault>>,
}

/// Starts the service.
///
/// # Errors
/// The system gives no thread.
pub(crate) fn start(args: Args) -> io::Result<Started> {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (state, state_receiver) = watch::channel(Arc::new(args.chain.state.clone()));
    let (committed, _) = broadcast::channel(COMMITTED_MAX);
    let (missing, missing_receiver) = watch::channel(Height::new(0));
    let store = Arc::clone(&args.chain.store);
    let lag = Arc::new(watch::Sender::new(Lag::default()));
    let ledger = Ledger {
        commands,
        state: state_receiver,
        committed: committed.clone(),
        missing: missing_receiver,
        lag: Arc::clone(&lag),
        store,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (ended, end) = oneshot::channel();
    let listeners = driver::Listeners { state, committed, missing, lag };
    let cancel = args.cancel.clone();
    let thread = thread::Builder::new().name("floe-ledger".into()).spawn(move || {
        let result = runtime.block_on(Driver::new(args, listeners).run(receiver));
        // Nobody waits any more only when the node is gone.
        drop(ended.send(result));
    })?;
    let thread = LedgerThread { cancel, thread: Some(thread) };
    Ok(Started { ledger, thread, ended: end })
}

/// What the machine's wall clock says.
pub(crate) fn wall_clock() -> Timestamp {
    Clock::SYSTEM.now()
}
