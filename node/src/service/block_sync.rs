//! Block sync: a node that lags behind, or comes back, fetches what the others have committed.
//!
//! Consensus itself needs no help while all votes arrive. This service listens to the headers that
//! proposers announce, and asks a peer now and then what its newest block is. If that is ahead,
//! it fetches the blocks between, with their certificates, and hands them to the ledger, which
//! believes nobody: every block is verified like a proposal, its certificate like votes.
//!
//! Only what a quorum signed, or what a node says that is asked, makes this node fetch: a member of
//! the committee that it knows, now and then another storage node, and only others while no member
//! is connected, for the members of long ago may have left and follow no more. Who tells of blocks
//! and then has none is left alone, too. A header that cannot be
//! verified here is a reason to ask. Who stalls or sends something wrong is left alone for a while,
//! and blocks are asked of one peer after the other, so that none can hold the node back for long.
//!
//! A node that has no block at all, while others have many, begins with a snapshot if it can.
//!
//! Headers from gossip are judged beside all that. They are passed on only if a quorum signed them,
//! one of each height and none below another: light peers live on them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    genesis::Genesis,
    index::Height,
    keys::NodeId,
    ledger::{Block, State},
    light::CertifiedHeader,
    message::{
        CertifiedBlock, LedgerAnnouncement, LedgerRequest, LedgerResponse, LedgerTopic, Request,
        Response,
    },
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Ledger, LedgerStopped},
    snapshot::{Fetcher, Snapshots},
};
use crate::network::{GossipMessage, Network, PeersView, RequestError};

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
/// How long a peer that stalled or sent something wrong is not asked again.
const PENALTY: Duration = Duration::from_secs(60);
/// Bytes of blocks asked for at a time.
const SYNC_BYTES: u32 = 1 << 20;
/// Every so many turns another node than a member is asked first.
const OTHERS_TURN: usize = 4;
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
        penalties: BTreeMap::new(),
        fetcher,
        snapshot_behind_blocks: args.snapshot_behind_blocks,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = judge_headers(&ledger, headers, news) => {}
        // It ends with the ledger only.
        _ = sync.run(news_receiver) => {}
    }
}

/// What a header from gossip says.
#[derive(Clone, Copy, Debug)]
enum News {
    /// A quorum has committed this height.
    Committed { height: Height, from: NodeId },
    /// Somebody says that there is more, by a committee that is not known here.
    Rumour,
}

/// Gives every header its verdict; ends when the network does.
async fn judge_headers(
    ledger: &Ledger,
    mut headers: mpsc::Receiver<GossipMessage>,
    news: mpsc::Sender<News>,
) {
    let mut relay = Relay { newest: ledger.state().borrow().tip().height };
    while let Some(GossipMessage { from, bytes, verdict, .. }) = headers.recv().await {
        let decoded = LedgerAnnouncement::decode(LedgerTopic::Headers, &bytes);
        let Ok(LedgerAnnouncement::NewHeader(certified)) = decoded else {
            verdict.reject();
            continue;
        };
        let height = certified.header.height;
        if !relay.wants(height) {
            verdict.ignore();
            continue;
        }
        let state = ledger.state().borrow().clone();
        let tip = state.tip().height;
        let told = match spawn_blocking(move || judge(&state, &certified)).await {
            Ok(Some(true)) => {
                relay.newest = height;
                verdict.accept();
                News::Committed { height, from }
            }
            Ok(Some(false)) => {
                verdict.reject();
                continue;
            }
            Ok(None) => {
                verdict.ignore();
                News::Rumour
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        if height > tip {
            // If the other half is busy, it is fetching, and asks again afterwards.
            let _ = news.try_send(told);
        }
    }
}

/// Which headers are passed on: a valid one that is old, or has other signatures, would go around
/// for ever.
#[derive(Debug)]
struct Relay {
    /// The highest that was passed on, or that was committed before this node started.
    newest: Height,
}

impl Relay {
    fn wants(&self, height: Height) -> bool {
        height > self.newest
    }
}

/// A block that we lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ahead {
    height: Height,
    /// Who told.
    peer: NodeId,
    due: Instant,
}

impl Ahead {
    /// What to go for after hearing of a height, when the chain here has come to `tip`.
    fn after(
        known: Option<Self>,
        (height, peer): (Height, NodeId),
        tip: Height,
        now: Instant,
    ) -> Option<Self> {
        let known = known.filter(|known| known.height > tip);
        match known {
            Some(known) if height > known.height => Some(Self { height, peer, ..known }),
            Some(known) => Some(known),
            None if height > tip => {
                // One step ahead is usual: our own decision may be a moment behind.
                let patience = if height > tip.next() { Duration::ZERO } else { PATIENCE };
                Some(Self { height, peer, due: now + patience })
            }
            None => None,
        }
    }
}

/// What a peer gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetched {
    /// Blocks: there may be more.
    Blocks,
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
    /// Until when peers are left alone.
    penalties: BTreeMap<NodeId, Instant>,
    /// While there is no block here, until it has been tried.
    fetcher: Option<Fetcher>,
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
                    News::Committed { height, from } => self.heard_of(height, from),
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
    fn heard_of(&mut self, height: Height, peer: NodeId) {
        self.ahead = Ahead::after(self.ahead, (height, peer), self.tip(), Instant::now());
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
            // Of a committee that is not known here the peer's word is all there is.
            Ok(Some(true) | None) => self.heard_of(height, peer),
            Ok(Some(false)) => self.penalise(peer),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    /// Fetches what others have, of one after the other, until nobody gives more.
    async fn catch_up(&mut self) -> Result<(), LedgerStopped> {
        let Some(Ahead { peer: told, height, .. }) = self.ahead.take() else { return Ok(()) };
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
                // A stranger told of blocks that it does not have.
                Fetched::Nothing if peer == told && !self.is_member(&peer) => self.penalise(peer),
                Fetched::Nothing => {}
                Fetched::Wrong => self.penalise(peer),
            }
        }
        if self.tip() > first {
            tracing::info!(from = %first, to = %self.tip(), "caught up");
        }
        Ok(())
    }

    /// Looks for a snapshot, once, if there is no block here and many elsewhere.
    async fn begin_with_snapshot(&mut self, height: Height) -> Result<(), LedgerStopped> {
        if self.tip() > Height::new(0) {
            self.fetcher = None;
        }
        if height.get() >= self.snapshot_behind_blocks
            && let Some(fetcher) = self.fetcher.take()
            && !fetcher.run().await?
        {
            tracing::info!("nobody has a snapshot to begin with: executing all blocks");
        }
        Ok(())
    }

    /// Fetches the next blocks of a peer.
    async fn fetch(&self, peer: NodeId) -> Result<Fetched, LedgerStopped> {
        let from = self.tip().next();
        let request = LedgerRequest::Blocks { from, max_bytes: SYNC_BYTES };
        let blocks = match self.request(peer, request, BLOCKS_TIMEOUT).await {
            Ok(Some(LedgerResponse::Blocks { blocks })) if blocks.is_empty() => {
                return Ok(Fetched::Nothing);
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
        self.penalties.insert(peer, Instant::now() + PENALTY);
    }

    /// Whom to ask, each call another one first.
    fn candidates(&mut self) -> VecDeque<NodeId> {
        self.turn = self.turn.wrapping_add(1);
        let now = Instant::now();
        self.penalties.retain(|_, until| *until > now);
        let peers = self.network.peers().borrow().clone();
        let state = self.ledger.state().borrow().clone();
        candidates(&state, &peers, &self.penalties, self.turn)
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The connected members of the committee, then whoever else answers requests, who comes first every
/// few turns. Without those who are left alone, unless nobody else is there.
fn candidates(
    state: &State,
    peers: &PeersView,
    penalties: &BTreeMap<NodeId, Instant>,
    turn: usize,
) -> VecDeque<NodeId> {
    let members = state.committee().members().iter().map(|member| member.node);
    let members: Vec<_> = members.filter(|node| peers.connected.contains_key(node)).collect();
    let others = peers
        .connected
        .iter()
        .filter(|(node, view)| view.answers_requests && state.committee().position(node).is_none());
    let others: Vec<_> = others.map(|(node, _)| *node).collect();
    let fit = |nodes: &[NodeId], turn: usize| {
        let fit = nodes.iter().filter(|node| !penalties.contains_key(node));
        let mut fit: VecDeque<_> = fit.copied().collect();
        let turn = turn.checked_rem(fit.len()).unwrap_or(0);
        fit.rotate_left(turn);
        fit
    };
    let (mut first, mut second) = (fit(&members, turn), fit(&others, turn / OTHERS_TURN));
    if turn % OTHERS_TURN == OTHERS_TURN - 1 {
        std::mem::swap(&mut first, &mut second);
    }
    first.append(&mut second);
    if first.is_empty() {
        let everybody = members.into_iter().chain(others);
        return everybody.min_by_key(|node| penalties.get(node)).into_iter().collect();
    }
    first
}

/// Whether a quorum signed the header; none if its committee is not known here.
fn judge(state: &State, certified: &CertifiedHeader) -> Option<bool> {
    let committees = [state.committee(), state.previous_committee()];
    let epoch = certified.header.epoch;
    let committee = committees.into_iter().find(|committee| committee.epoch() == epoch)?;
    Some(certified.verify(committee, state.chain()).is_ok())
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support;

    use super::*;
    use crate::network::PeerView;

    fn node(seed: u8) -> NodeId {
        NodeId::new([seed; 32])
    }

    fn peer(answers_requests: bool) -> PeerView {
        PeerView {
            address: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
            connections: 1,
            answers_requests,
            agent: String::new(),
            gossip_score: 0.0,
        }
    }

    #[test]
    fn one_header_of_a_height_is_passed_on_and_no_older_one() {
        let mut relay = Relay { newest: Height::new(5) };
        assert!(!relay.wants(Height::new(5)), "committed before the node started");
        assert!(relay.wants(Height::new(7)));
        relay.newest = Height::new(7);
        assert!(!relay.wants(Height::new(7)), "the same with other signatures");
        assert!(!relay.wants(Height::new(6)), "older");
        assert!(relay.wants(Height::new(8)));
    }

    #[test]
    fn one_step_ahead_is_left_to_consensus_for_a_moment() {
        let now = Instant::now();
        let tip = Height::new(5);
        let after = |known, height| Ahead::after(known, (Height::new(height), node(1)), tip, now);
        assert_eq!(after(None, 5), None);
        let one = after(None, 6);
        assert_eq!(one.map(|ahead| ahead.due), Some(now + PATIENCE));
        let more = after(one, 9).unwrap();
        assert_eq!((more.height, more.due), (Height::new(9), now + PATIENCE));
        assert_eq!(after(Some(more), 7), Some(more), "less than what is known");
        assert_eq!(after(None, 7).map(|ahead| ahead.due), Some(now));
        let reached = Some(Ahead { height: tip, peer: node(2), due: now });
        assert_eq!(after(reached, 5), None);
    }

    #[test]
    fn members_are_asked_before_strangers_and_who_stalled_last_of_all() {
        let genesis = test_support::genesis(4, 7);
        let (state, _) = State::genesis(&genesis).unwrap();
        let members: Vec<_> = state.committee().members().iter().map(|m| m.node).collect();
        let mut peers = PeersView::default();
        peers.connected.insert(node(1), peer(true));
        peers.connected.insert(node(2), peer(false));
        let none = BTreeMap::new();
        assert_eq!(candidates(&state, &peers, &none, 3), [node(1)], "a storage node");
        peers.connected.insert(members[0], peer(true));
        peers.connected.insert(members[2], peer(true));
        assert_eq!(candidates(&state, &peers, &none, 0), [members[0], members[2], node(1)]);
        assert_eq!(candidates(&state, &peers, &none, 1), [members[2], members[0], node(1)]);
        // Members of long ago may know no more than this node.
        assert_eq!(candidates(&state, &peers, &none, 3), [node(1), members[2], members[0]]);
        peers.connected.remove(&node(1));
        let soon = Instant::now() + PENALTY;
        let mut penalties = BTreeMap::from([(members[0], soon)]);
        for turn in 0..3 {
            assert_eq!(candidates(&state, &peers, &penalties, turn), [members[2]]);
        }
        penalties.insert(members[2], soon + PENALTY);
        assert_eq!(candidates(&state, &peers, &penalties, 0), [members[0]], "nobody else is there");
    }
}
