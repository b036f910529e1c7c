//! Fetches the chunks of one offered snapshot into files: one at a time of each of a few peers, each
//! compared with the manifest before it is written.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use floe_protocol::{
    index::Height,
    keys::NodeId,
    ledger::SnapshotOffer,
    message::{LedgerRequest, LedgerResponse},
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{super::Draft, ask, pace::Pace};
use crate::{network::Network, service::blocking};

/// Chunks that are asked for at a time, of one peer each.
const CHUNKS_IN_FLIGHT: usize = 4;

/// What is fetched, and where it goes.
#[derive(Clone, Debug)]
pub(in super::super) struct Wanted {
    pub(in super::super) network: Network,
    pub(in super::super) offer: Arc<SnapshotOffer>,
    pub(in super::super) draft: Arc<Draft>,
}

/// Why not all chunks came.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum FetchError {
    #[error("nobody is left who sends chunks of it")]
    NobodyLeft,
    #[error("a chunk cannot be written: {0}")]
    Unwritten(std::io::Error),
}

/// What came of one chunk.
enum Got {
    /// So many bytes.
    Written(usize),
    /// Not what the manifest names.
    Wrong,
    /// Nothing, in time.
    Nothing,
    /// This node's disk failed or is full.
    Unwritten(std::io::Error),
}

impl Wanted {
    fn height(&self) -> Height {
        self.offer.manifest.header.height
    }

    /// Fetches all chunks, of those peers first that come first. Who sends a wrong one goes to
    /// `liars`, with its number.
    pub(in super::super) async fn fetch(
        &self,
        peers: Vec<NodeId>,
        liars: &mut Vec<(NodeId, usize)>,
    ) -> Result<(), FetchError> {
        let chunks = u16::try_from(self.offer.manifest.chunks.len()).unwrap_or(u16::MAX);
        let mut wanted: VecDeque<u16> = (0..chunks).collect();
        let mut pace = Pace::default();
        let mut idle = VecDeque::from(peers);
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < CHUNKS_IN_FLIGHT
                && let Some(peer) = idle.pop_front()
            {
                let Some(index) = wanted.pop_front() else {
                    idle.push_front(peer);
                    break;
                };
                under_way.push(self.clone().fetch_chunk(peer, index));
            }
            let Some((peer, index, got, took)) = under_way.next().await else {
                return if wanted.is_empty() { Ok(()) } else { Err(FetchError::NobodyLeft) };
            };
            let goes_on = match got {
                Got::Written(bytes) => pace.brought(peer, bytes, took),
                Got::Wrong => {
                    liars.push((peer, index.into()));
                    wanted.push_front(index);
                    false
                }
                Got::Nothing => {
                    wanted.push_front(index);
                    pace.failed(peer, took)
                }
                Got::Unwritten(error) => return Err(FetchError::Unwritten(error)),
            };
            if goes_on {
                idle.push_back(peer);
            } else {
                tracing::debug!(%peer, "sends chunks too slowly, wrong or not at all");
            }
        }
    }

    async fn fetch_chunk(self, peer: NodeId, index: u16) -> (NodeId, u16, Got, Duration) {
        let begun = Instant::now();
        let request = LedgerRequest::SnapshotChunk { height: self.height(), index };
        let answer = ask(&self.network, peer, request).await;
        let took = begun.elapsed();
        let Ok(LedgerResponse::SnapshotChunk(Some(chunk))) = answer else {
            return (peer, index, Got::Nothing, took);
        };
        let got = blocking(move || {
            if !self.offer.manifest.has_chunk(index.into(), &chunk) {
                return Got::Wrong;
            }
            let written = self.draft.write(index.into(), &chunk);
            written.map_or_else(Got::Unwritten, |()| Got::Written(chunk.len()))
        });
        (peer, index, got.await.unwrap_or(Got::Nothing), took)
    }
}
