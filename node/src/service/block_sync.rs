//! Block sync: a node that lags behind, or comes back, fetches what the others have committed.
//!
//! Consensus itself needs no help while all votes arrive. This service listens to the headers that
//! proposers announce, and asks a peer now and then what its newest block is. If that is ahead,
//! it fetches the blocks between, with their certificates, and hands them to the ledger, which
//! believes nobody: every block is verified like a proposal, its certificate like votes.
//!
//! Headers from gossip are passed on only if a quorum signed them: light peers live on them.

use std::time::Duration;

use floe_protocol::{
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
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, LedgerStopped};
use crate::network::{GossipMessage, Network};

/// How often a peer is asked for its newest block.
const ASKING_INTERVAL: Duration = Duration::from_secs(2);
/// A header ahead of us is left to consensus for so long: its votes may be on their way.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes of blocks asked for at a time.
const SYNC_BYTES: u32 = 1 << 20;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) network: Network,
    pub(crate) headers: mpsc::Receiver<GossipMessage>,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let Args { ledger, network, mut headers, cancel } = args;
    let mut missing = ledger.missing();
    let mut sync = BlockSync { ledger, network, asked: 0, ahead: None };
    let mut asking = interval(ASKING_INTERVAL);
    asking.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = sync.ahead.map(|ahead| ahead.due);
        let result = tokio::select! {
            () = cancel.cancelled() => return,
            Some(event) = headers.recv() => { sync.on_header(event).await; Ok(()) }
            _ = asking.tick() => sync.ask().await,
            Ok(()) = missing.changed() => sync.ask().await,
            () = wait(due) => sync.catch_up().await,
        };
        if let Err(LedgerStopped) = result {
            return;
        }
    }
}

async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A peer that has a block which we lack.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    height: Height,
    peer: NodeId,
    due: Instant,
}

struct BlockSync {
    ledger: Ledger,
    network: Network,
    /// How many peers have been asked: the next one is another.
    asked: usize,
    ahead: Option<Ahead>,
}

impl BlockSync {
    fn tip(&self) -> Height {
        self.ledger.state().borrow().tip().height
    }

    async fn on_header(&mut self, event: GossipMessage) {
        let GossipMessage { from, bytes, verdict, .. } = event;
        let decoded = LedgerAnnouncement::decode(LedgerTopic::Headers, &bytes);
        let Ok(LedgerAnnouncement::NewHeader(certified)) = decoded else {
            return verdict.reject();
        };
        let state = self.ledger.state().borrow().clone();
        let height = certified.header.height;
        let judged = spawn_blocking(move || judge(&state, &certified)).await;
        match judged {
            Ok(Some(true)) => {
                verdict.accept();
                self.heard_of(height, from);
            }
            Ok(Some(false)) => verdict.reject(),
            Ok(None) => {
                verdict.ignore();
                self.heard_of(height, from);
            }
            Err(_) => verdict.ignore(),
        }
    }

    /// Somebody says that there is a block of this height. It is only a reason to ask.
    fn heard_of(&mut self, height: Height, peer: NodeId) {
        let tip = self.tip();
        self.ahead = self.ahead.filter(|ahead| ahead.height > tip);
        if height > tip && self.ahead.is_none() {
            // One step ahead is usual: our own decision may be a moment behind.
            let patience = if height > tip.next() { Duration::ZERO } else { PATIENCE };
            self.ahead = Some(Ahead { height, peer, due: Instant::now() + patience });
        }
    }

    /// Asks one connected member for its newest block.
    async fn ask(&mut self) -> Result<(), LedgerStopped> {
        let state = self.ledger.state().borrow().clone();
        let peers = self.network.peers().borrow().clone();
        let members = state.committee().members().iter().map(|member| member.node);
        let connected: Vec<_> = members.filter(|node| peers.connected.contains_key(node)).collect();
        if connected.is_empty() {
            return Ok(());
        }
        self.asked = self.asked.wrapping_add(1);
        let peer = connected[self.asked % connected.len()];
        let answer = self.network.request(peer, Request::Ledger(LedgerRequest::Tip)).await;
        if let Ok(Response::Ledger(answer)) = answer
            && let LedgerResponse::Tip(Some(newest)) = *answer
        {
            self.heard_of(newest.header.height, peer);
        }
        Ok(())
    }

    /// Fetches what the peer ahead has, until there is no more.
    async fn catch_up(&mut self) -> Result<(), LedgerStopped> {
        let Some(Ahead { peer, height, .. }) = self.ahead.take() else { return Ok(()) };
        let first = self.tip();
        while self.tip() < height {
            let from = self.tip().next();
            let request = LedgerRequest::Blocks { from, max_bytes: SYNC_BYTES };
            let answer = self.network.request(peer, Request::Ledger(request)).await;
            let Ok(Response::Ledger(answer)) = answer else { break };
            let LedgerResponse::Blocks { blocks } = *answer else { break };
            let parsed = spawn_blocking(move || {
                let parse = |CertifiedBlock { block, certificate }: CertifiedBlock| {
                    Block::from_bytes(&block).map(|block| (block, certificate))
                };
                blocks.into_iter().map(parse).collect::<Result<Vec<_>, _>>()
            });
            let Ok(Ok(blocks)) = parsed.await else { break };
            if blocks.is_empty() {
                break;
            }
            if !self.ledger.synced(blocks).await? {
                tracing::warn!(%peer, "sent blocks that are not the chain's");
                break;
            }
            if self.tip() < from {
                break;
            }
        }
        if self.tip() > first {
            tracing::info!(from = %first, to = %self.tip(), %peer, "caught up");
        }
        Ok(())
    }
}

/// Whether a quorum signed the header; none if its committee is not known here.
fn judge(state: &State, certified: &CertifiedHeader) -> Option<bool> {
    let committees = [state.committee(), state.previous_committee()];
    let epoch = certified.header.epoch;
    let committee = committees.into_iter().find(|committee| committee.epoch() == epoch)?;
    Some(certified.verify(committee, state.chain()).is_ok())
}
