//! Block sync: a node that lags behind, or comes back, fetches what the others have committed.
//!
//! Consensus itself needs no help while all votes arrive. This service listens to the headers that
//! proposers announce, and asks a peer now and then what its newest block is. If that is ahead,
//! it fetches the blocks between, with their certificates, and hands them to the ledger, which
//! believes nobody: every block is verified like a proposal, its certificate like votes.
//!
//! Only what a quorum signed, or what a node says that is asked, makes this node fetch: a member of
//! the committee that it knows, now and then another storage node, and only others while no member
//! is connected, for the members of long ago may have left and follow no more. A header that cannot
//! be verified here is a reason to ask. Who stalls or sends something wrong is left alone for a
//! while, and blocks are asked of one peer after the other, so that none can hold the node back for
//! long. Who has no block of the height that is needed is not at fault: it may have begun with a
//! snapshot. It comes last as long as that height is needed; and if nobody signed what it told, the
//! others are not asked for it.
//!
//! A node that has no block at all, while others have many, begins with a snapshot if it can; it
//! looks for one again as long as it has no block.
//!
//! Headers from gossip are judged beside all that, in [`headers`].

mod candidates;
mod headers;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use floe_protocol::{
    genesis::Genesis,
    index::Height,
    keys::NodeId,
    ledger::Block,
    message::{CertifiedBlock, LedgerRequest, LedgerResponse, Request, Response},
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    candidates::{LeftAlone, candidates},
    headers::{News, judge, judge_headers},
};
use super::{
    ledger::{Ledger, LedgerStopped},
    snapshot::{Fetcher, Snapshots},
};
use crate::network::{GossipMessage, Network, RequestError};

/// How often a peer is asked for its newest block.
const ASKING_INTERVAL: Duration = Duration::from_secs(2);
/// How soon after another question a header that cannot be verified is a reason to ask.
const ASKING_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A header ahead of us is left to consensus for so long: its votes may be on their way.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a peer may take to tell its newest block.
const TIP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer may take to send blocks.
const BLOCKS_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon a node that found no snapshot, and still has no block, looks for one again.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of blocks asked for at a time.
const SYNC_BYTES: u32 = 1 << 20;
/// What headers tell while the other half of the service fetches.
const NEWS_MAX: usize = 16;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) network: Network,
    pub(crate) headers: mpsc::Receiver<GossipMessage>,
    pub(crate) snapshots: Snapshots,
    pub(crate) genesis: Arc<Genesis>,
    /// A node without blocks that is so many behind looks for a snapshot first.
    pub(crate) snapshot_behind_blocks: u64,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let Args { ledger, network, headers, cancel, .. } = args;
    let is_new = ledger.state().borrow().tip().height == Height::new(0);
    let fetcher =
        is_new.then(|| Fetcher::new(ledger.clone(), network.clone(), args.snapshots, args.genesis));
    let (news, news_receiver) = mpsc::channel(NEWS_MAX);
    let sync = BlockSync {
        ledger: ledger.clone(),
        network,
        turn: 0,
        asked_at: None,
        ahead: None,
        left_alone: LeftAlone::default(),
        fetcher,
        snapshot_due: Instant::now(),
        snapshot_behind_blocks: args.snapshot_behind_blocks,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = judge_headers(&ledger, headers, news) => {}
        // It ends with the ledger only.
        _ = sync.run(news_receiver) => {}
    }
}

/// A block that we lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    height: Height,
    /// Who told.
    peer: NodeId,
    /// A quorum has signed it: there is such a block.
    signed: bool,
    due: Instant,
}

impl Ahead {
    /// What to go for after hearing of a height, when the chain here has come to `tip`.
    fn after(
        known: Option<Self>,
        Told { height, peer, signed }: Told,
        tip: Height,
        now: Instant,
    ) -> Option<Self> {
        let known = known.filter(|known| known.height > tip);
        match known {
            Some(known) if height > known.height && (signed || !known.signed) => {
                Some(Self { height, peer, signed, ..known })
            }
            Some(known) => Some(known),
            None if height > tip => {
                // One step ahead is usual: our own decision may be a moment behind.
                let patience = if height > tip.next() { Duration::ZERO } else { PATIENCE };
                Some(Self { height, peer, signed, due: now + patience })
            }
            None => None,
        }
    }
}

/// What somebody told of a block.
#[derive(Clone, Copy, Debug)]
struct Told {
    height: Height,
    peer: NodeId,
    signed: bool,
}

/// What a peer gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    /// Blocks: there may be more.
    Blocks,
    /// It has no block of that height.
    Lacks,
    /// Nothing, for which it cannot be blamed.
    Nothing,
    /// Something wrong, or nothing for too long.
    Wrong,
}

/// A peer stalls or answers something else than it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Misbehaved;

struct BlockSync {
    ledger: Ledger,
    network: Network,
    /// Counts the choices among peers: the next one is another.
    turn: usize,
    asked_at: Option<Instant>,
    ahead: Option<Ahead>,
    /// Who is not asked, or last.
    left_alone: LeftAlone,
    /// While there is no block here.
    fetcher: Option<Fetcher>,
    /// When it is tried next.
    snapshot_due: Instant,
    snapshot_behind_blocks: u64,
}

impl BlockSync {
    /// Dropped when the service is cancelled, wherever it waits.
    async fn run(mut self, mut news: mpsc::Receiver<News>) -> Result<(), LedgerStopped> {
        let mut missing = self.ledger.missing();
        let mut asking = interval(ASKING_INTERVAL);
        asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.ahead.map(|ahead| ahead.due);
            tokio::select! {
                Some(news) = news.recv() => match news {
                    News::Committed { height, from } => {
                        self.heard_of(Told { height, peer: from, signed: true });
                    }
                    News::Rumour if self.asked_lately() => {}
                    News::Rumour => self.ask().await,
                },
                _ = asking.tick() => self.ask().await,
                changed = missing.changed() => match changed {
                    Ok(()) => self.ask().await,
                    Err(_) => return Err(LedgerStopped),
                },
                () = wait(due) => self.catch_up().await?,
            }
        }
    }

    fn tip(&self) -> Height {
        self.ledger.state().borrow().tip().height
    }

    fn is_member(&self, node: &NodeId) -> bool {
        self.ledger.state().borrow().committee().position(node).is_some()
    }

    /// There is a block of this height, as a quorum or a member says.
    fn heard_of(&mut self, told: Told) {
        self.ahead = Ahead::after(self.ahead, told, self.tip(), Instant::now());
    }

    fn asked_lately(&self) -> bool {
        self.asked_at.is_some_and(|at| at.elapsed() < ASKING_INTERVAL_MIN)
    }

    /// Asks one connected peer for its newest block.
    async fn ask(&mut self) {
        self.asked_at = Some(Instant::now());
        let Some(peer) = self.candidates().pop_front() else { return };
        let newest = match self.request(peer, LedgerRequest::Tip, TIP_TIMEOUT).await {
            Ok(Some(LedgerResponse::Tip(Some(newest)))) => newest,
            Ok(Some(LedgerResponse::Tip(None)) | None) => return,
            Ok(Some(_)) | Err(Misbehaved) => return self.penalise(peer),
        };
        let height = newest.header.height;
        let state = self.ledger.state().borrow().clone();
        if height <= state.tip().height {
            return;
        }
        match spawn_blocking(move || judge(&state, &newest)).await {
            Ok(Some(true)) => {
                self.ledger.reached(height);
                self.heard_of(Told { height, peer, signed: true });
            }
            // Of a committee that is not known here the peer's word is all there is.
            Ok(None) => self.heard_of(Told { height, peer, signed: false }),
            Ok(Some(false)) => self.penalise(peer),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Fetches what others have, of one after the other, until nobody gives more.
    async fn catch_up(&mut self) -> Result<(), LedgerStopped> {
        let Some(Ahead { peer: told, height, signed, .. }) = self.ahead.take() else {
            return Ok(());
        };
        self.begin_with_snapshot(height).await?;
        let first = self.tip();
        let mut candidates = self.candidates();
        if let Some(position) = candidates.iter().position(|peer| *peer == told) {
            candidates.swap(0, position);
        }
        while self.tip() < height {
            let Some(peer) = candidates.pop_front() else { break };
            match self.fetch(peer).await? {
                Fetched::Blocks => candidates.push_back(peer),
                Fetched::Lacks if peer == told => {
                    self.left_alone.lacks(peer, self.tip().next());
                    if !signed && !self.is_member(&peer) {
                        // There may be no such block at all: no reason to ask everybody.
                        break;
                    }
                }
                Fetched::Lacks | Fetched::Nothing => {}
                Fetched::Wrong => self.penalise(peer),
            }
        }
        if self.tip() > first {
            tracing::info!(from = %first, to = %self.tip(), "caught up");
        }
        Ok(())
    }

    /// Looks for a snapshot, now and then, if there is no block here and many elsewhere.
    async fn begin_with_snapshot(&mut self, height: Height) -> Result<(), LedgerStopped> {
        if self.tip() > Height::new(0) {
            self.fetcher = None;
        }
        if height.get() >= self.snapshot_behind_blocks
            && Instant::now() >= self.snapshot_due
            && let Some(fetcher) = &mut self.fetcher
            && !fetcher.run().await?
        {
            tracing::info!("nobody has a snapshot to begin with: executing all blocks");
            self.snapshot_due = Instant::now() + SNAPSHOT_AGAIN;
        }
        Ok(())
    }

    /// Fetches the next blocks of a peer.
    async fn fetch(&self, peer: NodeId) -> Result<Fetched, LedgerStopped> {
        let from = self.tip().next();
        let request = LedgerRequest::Blocks { from, max_bytes: SYNC_BYTES };
        let blocks = match self.request(peer, request, BLOCKS_TIMEOUT).await {
            Ok(Some(LedgerResponse::Blocks { blocks })) if blocks.is_empty() => {
                return Ok(Fetched::Lacks);
            }
            Ok(Some(LedgerResponse::Blocks { blocks })) => blocks,
            Ok(None) => return Ok(Fetched::Nothing),
            Ok(Some(_)) | Err(Misbehaved) => return Ok(Fetched::Wrong),
        };
        let parsed = spawn_blocking(move || {
            let parse = |CertifiedBlock { block, certificate }: CertifiedBlock| {
                Block::from_bytes(&block).map(|block| (block, certificate))
            };
            blocks.into_iter().map(parse).collect::<Result<Vec<_>, _>>()
        });
        let blocks = match parsed.await {
            Ok(Ok(blocks)) => blocks,
            Ok(Err(_)) => return Ok(Fetched::Wrong),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(LedgerStopped),
        };
        let starts_right = blocks.first().is_some_and(|(block, _)| block.header.height == from);
        if !starts_right || !self.ledger.synced(blocks).await? {
            return Ok(Fetched::Wrong);
        }
        Ok(if self.tip() < from { Fetched::Nothing } else { Fetched::Blocks })
    }

    /// Asks a peer, for so long at most; nothing if it is away or busy.
    async fn request(
        &self,
        peer: NodeId,
        request: LedgerRequest,
        limit: Duration,
    ) -> Result<Option<LedgerResponse>, Misbehaved> {
        match timeout(limit, self.network.request(peer, Request::Ledger(request))).await {
            Ok(Ok(Response::Ledger(answer))) => Ok(Some(*answer)),
            Ok(Ok(Response::Refused(_))) => Ok(None),
            Ok(Ok(_) | Err(RequestError::Malformed | RequestError::Timeout)) | Err(_) => {
                Err(Misbehaved)
            }
            Ok(Err(_)) => Ok(None),
        }
    }

    fn penalise(&mut self, peer: NodeId) {
        tracing::warn!(%peer, "stalls or sends what is not the chain's: not asked for a while");
        self.left_alone.penalise(peer, Instant::now());
    }

    /// Whom to ask, each call another one first.
    fn candidates(&mut self) -> VecDeque<NodeId> {
        self.turn = self.turn.wrapping_add(1);
        self.left_alone.forget(Instant::now(), self.tip().next());
        let peers = self.network.peers().borrow().clone();
        let state = self.ledger.state().borrow().clone();
        candidates(&state, &peers, &self.left_alone, self.turn)
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(seed: u8) -> NodeId {
        NodeId::new([seed; 32])
    }

    #[test]
    fn one_step_ahead_is_left_to_consensus_for_a_moment() {
        let now = Instant::now();
        let tip = Height::new(5);
        let rumour = Told { height: Height::new(99), peer: node(3), signed: false };
        let after = |known, height| {
            let told = Told { height: Height::new(height), peer: node(1), signed: true };
            Ahead::after(known, told, tip, now)
        };
        assert_eq!(after(None, 5), None);
        let one = after(None, 6);
        assert_eq!(one.map(|ahead| ahead.due), Some(now + PATIENCE));
        let more = after(one, 9).unwrap();
        assert_eq!((more.height, more.due), (Height::new(9), now + PATIENCE));
        assert_eq!(after(Some(more), 7), Some(more), "less than what is known");
        assert_eq!(Ahead::after(Some(more), rumour, tip, now), Some(more), "nobody signed it");
        assert_eq!(after(None, 7).map(|ahead| ahead.due), Some(now));
        let reached = Some(Ahead { height: tip, peer: node(2), signed: true, due: now });
        assert_eq!(after(reached, 5), None);
    }
}
