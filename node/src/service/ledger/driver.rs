//! The driver: one thread that owns replica, state, mempool and journal, and does what they say.
//!
//! Here is the loop: when a height begins, what the replica is told and wants. What is done with
//! blocks is in [`blocks`], what others ask for in [`commands`].

mod blocks;
mod commands;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use floe_protocol::{
    consensus::{
        Config, ConsensusMessage, Fault as ReplicaFault, Input, JournalEntry, Now, Output, Replica,
        Start, Verdict,
    },
    index::Height,
    ledger::{BlockError, BlockHash, Executed, State, SystemOperation, Timestamp},
    mempool::{Mempool, MempoolConfig},
    message::LedgerAnnouncement,
    pace::{Pace, Reasons},
};
use floe_storage::VoteJournal;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Args, Command, CommittedBlock, chain::Chain, chain::ChainError, lag::Lag, outbox::Outbox,
};
use crate::{
    clock::Clock,
    key_file::NodeKeys,
    network::{GossipMessage, Network, Topic, VerdictHandle},
};

/// How far the time of a block may be from a clock.
const CLOCK_SKEW_MS: u64 = 10_000;
/// Live commits after which a node that lost its journal votes again.
const COMMITS_BEFORE_VOTING: u32 = 2;

/// Why the service ended by itself: the node must stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The chain or the journal failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The replica stopped.
    #[error(transparent)]
    Replica(#[from] ReplicaFault),
    /// A block that a quorum decided cannot be executed here.
    #[error("block {height} was decided, but this node cannot execute it: {error}")]
    Decided {
        /// Its height.
        height: Height,
        /// Why.
        error: BlockError,
    },
    /// A proposed block cannot be judged, because the store failed.
    #[error("cannot execute a block: {0}")]
    Execute(BlockError),
    /// No block can be built on the state.
    #[error("cannot build a block: {0}")]
    Build(BlockError),
    /// The replica speaks although there is no vote journal.
    #[error("a vote was to be sent without a vote journal")]
    NoJournal,
    /// The vote journal holds what is no entry.
    #[error("the vote journal holds an entry that is none")]
    JournalEntry,
}

/// Who is told of every block.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) state: watch::Sender<Arc<State>>,
    pub(super) committed: broadcast::Sender<Arc<CommittedBlock>>,
    pub(super) missing: watch::Sender<Height>,
    /// What is known of blocks that are not here yet: others add to it.
    pub(super) lag: Arc<watch::Sender<Lag>>,
}

/// Where a block comes from that is being committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The committee's votes, as they were cast.
    Votes,
    /// Another node, which has committed it before.
    Sync,
}

/// The thread's state.
pub(super) struct Driver {
    chain: Chain,
    keys: NodeKeys,
    network: Network,
    clock: Clock,
    consensus: mpsc::Receiver<GossipMessage>,
    cancel: CancellationToken,
    listeners: Listeners,
    replica: Replica,
    mempool: Mempool,
    pace: Pace,
    outbox: Outbox,
    started: Instant,
    /// When that was by the wall clock.
    born: Timestamp,
    /// Blocks of the running height that were executed here.
    executed: BTreeMap<BlockHash, Executed>,
    /// When the last height ended.
    last_commit: Duration,
    /// Others have begun the next height.
    others_began: bool,
    /// The state has dead records to sweep.
    sweep: bool,
    /// Commits that a node without a journal has yet to see; 0 if it votes.
    abstains: u32,
    /// Follows the running height without a word.
    silent: bool,
    /// Where the block being committed comes from.
    source: Source,
    /// How long what is being handled has waited here for that.
    waited: Duration,
    /// How often something was announced again, and when last.
    again: (u32, Option<Instant>),
}

impl Driver {
    pub(super) fn new(args: Args, listeners: Listeners) -> Self {
        let Args { chain, keys, network, consensus, timeouts, clock, cancel } = args;
        let config = Config::new(*chain.state.chain(), keys.node.clone(), timeouts);
        let abstains = if chain.journal.is_some() { 0 } else { COMMITS_BEFORE_VOTING };
        if abstains > 0 {
            tracing::warn!(
                "the vote journal is lost: this node does not vote until it has followed the others for a while"
            );
        }
        Self {
            replica: Replica::new(config),
            mempool: Mempool::new(MempoolConfig::default(), chain.state.tip().time),
            pace: Pace::new(&chain.state.parameters().ledger),
            outbox: Outbox::default(),
            started: Instant::now(),
            born: clock.now(),
            executed: BTreeMap::new(),
            last_commit: Duration::ZERO,
            others_began: true,
            sweep: false,
            abstains,
            silent: true,
            source: Source::Votes,
            waited: Duration::ZERO,
            again: (0, None),
            chain,
            keys,
            network,
            clock,
            consensus,
            cancel,
            listeners,
        }
    }

    /// Runs until cancelled, until network or node are gone, or until something is broken.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Fault> {
        loop {
            self.settle()?;
            let wake = tokio::time::Instant::from_std(self.started + self.next_wake());
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(()),
                event = self.consensus.recv() => match event {
                    Some(event) => self.on_consensus(event)?,
                    None => return Ok(()),
                },
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command)?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake) => self.on_tick(),
            }
            self.waited = Duration::ZERO;
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall: self.clock.now() }
    }

    /// Begins the next height if it is time, and sends what waited for company.
    fn settle(&mut self) -> Result<(), Fault> {
        // Every turn, not only when nothing else waits: a flood must not stop the clock.
        let now = self.started.elapsed();
        if self.replica.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.feed(Input::Tick)?;
        }
        if self.begins_at().is_some_and(|at| at <= self.started.elapsed()) {
            self.begin_height()?;
        }
        if let Some(transactions) = self.outbox.take_due(Instant::now()) {
            self.spread(transactions);
        }
        Ok(())
    }

    fn next_wake(&self) -> Duration {
        let outbox = self.outbox.due().map(|due| due.saturating_duration_since(self.started));
        let replica = self.replica.next_deadline();
        let soonest = [self.begins_at(), outbox, replica].into_iter().flatten().min();
        soonest.unwrap_or_else(|| self.started.elapsed() + Duration::from_secs(1))
    }

    /// When the next height begins; none while one is running.
    fn begins_at(&self) -> Option<Duration> {
        let running = self.replica.height() == Some(self.chain.state.next_height());
        if running {
            return None;
        }
        let reasons = Reasons {
            work: !self.mempool.is_idle() || self.sweep,
            others_began: self.others_began,
            epoch_wait: self.chain.state.epoch_wait(),
            challenge_wait: self.chain.state.challenge_wait(),
        };
        Some(self.pace.next_height(self.last_commit, &reasons))
    }

    fn begin_height(&mut self) -> Result<(), Fault> {
        let height = self.chain.state.next_height();
        let (journal, abstain) = self.journal_of(height)?;
        self.silent = abstain;
        self.executed.clear();
        self.others_began = false;
        let start = Start {
            height,
            committee: Arc::clone(self.chain.state.committee()),
            next: self.chain.next_committee()?,
            parent_time: self.chain.state.tip().time,
            journal,
            abstain,
        };
        self.feed(Input::Start(start)).map(drop)
    }

    /// The entries to replay at `height`, and whether the node must stay silent there.
    fn journal_of(&mut self, height: Height) -> Result<(Vec<JournalEntry>, bool), Fault> {
        let fault = |error| Fault::from(ChainError::from(error));
        if self.chain.journal.is_none() && self.abstains == 0 {
            let node = self.keys.node.public();
            let mut journal = VoteJournal::create(&self.chain.journal_dir, node).map_err(fault)?;
            journal.bind(self.chain.state.chain()).map_err(fault)?;
            self.chain.journal = Some(journal);
            tracing::info!(%height, "this node votes again, with a new vote journal");
        }
        let Some(journal) = &mut self.chain.journal else { return Ok((Vec::new(), true)) };
        if journal.height() > height {
            // The store is older than the journal: what was said below it is not known any more.
            return Ok((Vec::new(), true));
        }
        let mut replay = Vec::new();
        if journal.height() == height {
            let (_, entries) = journal.entries().map_err(fault)?;
            for entry in entries {
                let entry = JournalEntry::from_bytes(&entry).map_err(|_| Fault::JournalEntry)?;
                replay.push(entry);
            }
        }
        journal.start(height).map_err(fault)?;
        Ok((replay, false))
    }

    /// Gives the replica an input, does what it wants, and so on until it is quiet.
    fn feed(&mut self, input: Input) -> Result<Option<Verdict>, Fault> {
        self.feed_and_tell(input, None)
    }

    /// [`Self::feed`]; the verdict on a message from gossip is told as soon as it is known, since
    /// what the message leads to may take its time.
    fn feed_and_tell(
        &mut self,
        input: Input,
        mut handle: Option<VerdictHandle>,
    ) -> Result<Option<Verdict>, Fault> {
        let mut verdict = None;
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.replica.handle(self.now(), input)? {
                if let Output::Verdict(judged) = output {
                    verdict.get_or_insert(judged);
                    if let Some(handle) = handle.take() {
                        tell(handle, judged);
                    }
                } else {
                    inputs.extend(self.act(output)?);
                }
            }
        }
        Ok(verdict)
    }

    fn act(&mut self, output: Output) -> Result<Option<Input>, Fault> {
        match output {
            Output::Journal(entry) => self.journal(&entry)?,
            Output::Flush => self.flush()?,
            Output::Broadcast(message) => self.publish(Topic::Consensus, message.to_bytes()),
            Output::Propose { round, .. } => return self.propose(round).map(Some),
            Output::Execute { block } => return self.execute(&block).map(Some),
            Output::Commit { block, certificate, equivocations } => {
                self.commit(&block, certificate)?;
                for equivocation in equivocations {
                    let operation = SystemOperation::ReportEquivocation { equivocation };
                    self.insert_system(operation, true).unwrap_or_else(|error| {
                        tracing::debug!(%error, "equivocation not reported");
                    });
                }
            }
            Output::Missing { height, .. } => {
                self.proven(height, Instant::now());
                self.listeners.missing.send_replace(height);
            }
            Output::NextHeight => self.others_began = true,
            Output::Verdict(_) => {}
        }
        Ok(None)
    }

    fn journal(&mut self, entry: &JournalEntry) -> Result<(), Fault> {
        if self.silent {
            // It only follows: nothing of it leaves, so nothing has to be remembered.
            return Ok(());
        }
        let height = self.chain.state.next_height();
        let journal = self.chain.journal.as_mut().ok_or(Fault::NoJournal)?;
        Ok(journal.append(height, &entry.to_bytes()).map_err(ChainError::from)?)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if let Some(journal) = &mut self.chain.journal {
            journal.flush().map_err(ChainError::from)?;
        }
        Ok(())
    }

    /// Gossip is not reliable: what does not leave is sent again by the replica's timers.
    fn publish(&self, topic: Topic, bytes: Vec<u8>) {
        if let Err(error) = self.network.try_publish(topic, bytes) {
            tracing::debug!(%error, ?topic, "not published");
        }
    }

    fn announce(&self, topic: Topic, announcement: &LedgerAnnouncement) {
        match announcement.encode() {
            Ok(bytes) => self.publish(topic, bytes),
            Err(error) => tracing::error!(%error, ?topic, "an announcement of this node is none"),
        }
    }

    fn on_consensus(&mut self, event: GossipMessage) -> Result<(), Fault> {
        let GossipMessage { bytes, verdict, received, .. } = event;
        let Ok(message) = ConsensusMessage::from_bytes(&bytes) else {
            verdict.reject();
            return Ok(());
        };
        self.waited = received.elapsed();
        let is_later = message.height() > self.chain.state.next_height();
        self.feed_and_tell(Input::Message(message), Some(verdict))?;
        if is_later && let Some(height) = self.replica.others_voted_at() {
            self.proven(Height::new(height.get().saturating_sub(1)), received);
        }
        Ok(())
    }

    fn on_tick(&mut self) {
        let now = self.started.elapsed();
        self.mempool.expire(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }

    /// Others have committed the block at `height`.
    fn proven(&self, height: Height, at: Instant) {
        self.listeners.lag.send_modify(|lag| lag.proven(height, at));
    }
}

fn tell(handle: VerdictHandle, verdict: Verdict) {
    match verdict {
        Verdict::Forward => handle.accept(),
        Verdict::Ignore => handle.ignore(),
        Verdict::Reject => handle.reject(),
    }
}
