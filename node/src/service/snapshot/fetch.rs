//! How a newcomer begins with a snapshot.
//!
//! It follows the committees from genesis as a light peer does, so that it knows which headers are
//! final; asks everybody whom it is connected with what snapshot they have; and takes the newest
//! whose header it can verify, rather one for which honest members of the committee vouch. Chunks
//! come from all who offer the very same, each compared with the manifest; when the state that they
//! make has the header's root, the ledger begins with it.
//!
//! Who sends a wrong chunk, or vouches for chunks that make another state, has lied and is not asked
//! again; who stalls is left out. Then the next offer is tried. Without one the newcomer executes
//! all blocks, as it would have done otherwise, and trusts the genesis no more or less than then.
//!
//! Bounded: one chunk of each of a few peers is in memory, the rest in files.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    genesis::Genesis,
    hash::Hash,
    index::Height,
    keys::NodeId,
    ledger::{SnapshotError, SnapshotOffer, SnapshotRestore, Timestamp},
    light::{LightClient, LightError, OldRoot, Start},
    message::{Handover, LedgerRequest, LedgerResponse, Request, Response, ledger::MAX_HANDOVERS},
};
use floe_storage::CommitError;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Draft, Finished, INCOMING, Snapshots};
use crate::{
    network::{Network, RequestError},
    service::{
        blocking,
        ledger::{Install, Ledger, LedgerStopped},
    },
};

/// Peers that are waited for before the choice among offers, and for how long.
const PEERS_WANTED: usize = 3;
const PEERS_WAIT: Duration = Duration::from_secs(5);
/// Peers that are asked.
const PEERS_MAX: usize = 16;
/// Offers that are tried.
const ATTEMPTS_MAX: usize = 4;
/// How long a peer may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks that are asked for at a time, of one peer each.
const CHUNKS_IN_FLIGHT: usize = 4;
/// How often a peer may fail to send a chunk.
const FAULTS_MAX: u32 = 3;
/// The rest of a peer that was busy.
const BUSY_REST: Duration = Duration::from_millis(200);

/// Fetches snapshots.
#[derive(Debug)]
pub(crate) struct Fetcher {
    ledger: Ledger,
    network: Network,
    snapshots: Snapshots,
    genesis: Arc<Genesis>,
    /// Who has lied.
    liars: BTreeSet<NodeId>,
}

/// The same snapshot, and who offers it.
#[derive(Debug)]
struct Group {
    offer: SnapshotOffer,
    peers: Vec<NodeId>,
}

/// What became of one offer.
enum Attempt {
    /// The ledger has begun with it.
    Installed,
    /// It was none, or cannot be had.
    Failed,
    /// There is no use in trying others.
    GiveUp,
}

/// Why chunks are no state.
enum RestoreError {
    /// Their manifest is a lie.
    Lie(SnapshotError),
    /// This node failed.
    Own(Box<dyn std::error::Error + Send + Sync>),
}

impl Fetcher {
    pub(crate) const fn new(
        ledger: Ledger,
        network: Network,
        snapshots: Snapshots,
        genesis: Arc<Genesis>,
    ) -> Self {
        Self { ledger, network, snapshots, genesis, liars: BTreeSet::new() }
    }

    /// Begins the ledger with a snapshot, if somebody has one; whether it did.
    pub(crate) async fn run(mut self) -> Result<bool, LedgerStopped> {
        let mut view = self.network.peers();
        let enough = view.wait_for(|view| {
            let fit = view.connected.values().filter(|peer| peer.answers_requests);
            fit.count() >= PEERS_WANTED
        });
        // Fewer have to do.
        drop(timeout(PEERS_WAIT, enough).await);
        let Some((light, ends)) = self.follow().await else { return Ok(false) };
        let mut groups = self.offers(&light).await;
        groups.truncate(ATTEMPTS_MAX);
        for group in groups {
            let height = group.offer.manifest.header.height;
            tracing::info!(%height, peers = group.peers.len(), "fetching a snapshot");
            match self.attempt(group, &ends).await? {
                Attempt::Installed => return Ok(true),
                Attempt::Failed => {}
                Attempt::GiveUp => break,
            }
        }
        let files = self.snapshots.files.clone();
        blocking(move || files.discard(INCOMING)).await;
        Ok(false)
    }

    /// Whoever answers requests and has not lied.
    fn peers(&self) -> Vec<NodeId> {
        let view = self.network.peers().borrow().clone();
        let fit = view.connected.iter().filter(|(_, peer)| peer.answers_requests);
        let fit = fit.map(|(node, _)| *node).filter(|node| !self.liars.contains(node));
        fit.take(PEERS_MAX).collect()
    }

    fn caught(&mut self, node: NodeId, error: &dyn std::fmt::Display) {
        tracing::warn!(%node, %error, "lied about a snapshot: not asked for one again");
        self.liars.insert(node);
    }

    /// Follows the committees as far as anybody tells, with the ends of epochs on the way. Nothing
    /// if the genesis is none.
    async fn follow(&mut self) -> Option<(LightClient, Vec<Handover>)> {
        let start = Start::Genesis { started: None };
        // As old as it may be: executing all blocks would trust it, too.
        let now = Timestamp::from_ms(0);
        let light = LightClient::new(&self.genesis, &start, OldRoot::Trust, now).ok()?;
        let mut followed = (light, Vec::new());
        for peer in self.peers() {
            loop {
                let from = followed.0.epoch();
                let max = u8::try_from(MAX_HANDOVERS).unwrap_or(u8::MAX);
                let request = LedgerRequest::Handovers { from, max };
                let Ok(LedgerResponse::Handovers { handovers }) = self.ask(peer, request).await
                else {
                    break;
                };
                if handovers.is_empty() {
                    break;
                }
                let (mut light, mut ends) = followed;
                let (next, failed) = blocking(move || {
                    for handover in handovers {
                        let Handover { last, committee } = &handover;
                        if let Err(error) = light.handover(last.clone(), committee, now) {
                            return ((light, ends), Some(error));
                        }
                        ends.push(handover);
                    }
                    ((light, ends), None)
                })
                .await?;
                followed = next;
                if let Some(error) = failed {
                    self.caught(peer, &error);
                    break;
                }
            }
        }
        Some(followed)
    }

    /// What snapshots there are, the best first.
    async fn offers(&mut self, light: &LightClient) -> Vec<Group> {
        let peers = self.peers();
        let mut asked: FuturesUnordered<_> = peers
            .into_iter()
            .map(async |peer| {
                (peer, self.ask(peer, LedgerRequest::Snapshot { height: None }).await)
            })
            .collect();
        let mut offers = Vec::new();
        while let Some((peer, answer)) = asked.next().await {
            if let Ok(LedgerResponse::Snapshot(Some(offer))) = answer {
                offers.push((peer, *offer));
            }
        }
        drop(asked);
        let mut groups = BTreeMap::<Hash, Group>::new();
        for (peer, offer) in offers {
            let judge = light.clone();
            let judged = blocking(move || {
                let verified = offer.manifest.check().map_err(|error| error.to_string());
                let verified = verified.map(|_| judge.verify(offer.certified()));
                (offer.manifest.id(), offer, verified)
            });
            let Some((id, offer, verified)) = judged.await else { return Vec::new() };
            match verified {
                Ok(Ok(_)) => {
                    let new = || Group { offer, peers: Vec::new() };
                    groups.entry(id).or_insert_with(new).peers.push(peer);
                }
                // Of an epoch that nobody has led to, or that is forgotten: nobody's fault.
                Ok(Err(LightError::Epoch { .. })) => {}
                Ok(Err(error)) => self.caught(peer, &error),
                Err(error) => self.caught(peer, &error),
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_cached_key(|group| {
            let committee = light.committee();
            let members = group.peers.iter().filter_map(|peer| committee.member(peer));
            let vouched = committee.is_validity(members.map(|member| member.weight()).sum());
            (vouched, group.offer.manifest.header.height, group.peers.len())
        });
        groups.reverse();
        groups
    }

    async fn attempt(&mut self, group: Group, ends: &[Handover]) -> Result<Attempt, LedgerStopped> {
        let Group { offer, peers } = group;
        let peers = peers.into_iter().filter(|peer| !self.liars.contains(peer)).collect();
        let files = self.snapshots.files.clone();
        let Some(draft) = blocking(move || files.begin(INCOMING)).await else {
            return Ok(Attempt::GiveUp);
        };
        let draft = match draft {
            Ok(draft) => Arc::new(draft),
            Err(error) => {
                tracing::warn!(%error, "no place for a snapshot");
                return Ok(Attempt::GiveUp);
            }
        };
        let offer = Arc::new(offer);
        let Some(peers) = self.fetch(&offer, &draft, peers).await else {
            return Ok(Attempt::Failed);
        };
        let (ledger, restored) = (self.ledger.clone(), Arc::clone(&offer));
        let from = Arc::clone(&draft);
        let Some(restored) = blocking(move || restore(&ledger, &restored, &from)).await else {
            return Ok(Attempt::GiveUp);
        };
        let installation = match restored {
            Ok(installation) => installation,
            Err(RestoreError::Lie(error)) => {
                for peer in peers {
                    self.caught(peer, &error);
                }
                return Ok(Attempt::Failed);
            }
            Err(RestoreError::Own(error)) => {
                tracing::warn!(%error, "a snapshot cannot be restored");
                return Ok(Attempt::GiveUp);
            }
        };
        let height = offer.manifest.header.height;
        let ends = ends.to_vec();
        let install = Install { installation, offer: SnapshotOffer::clone(&offer), ends };
        if !self.ledger.install(install).await? {
            return Ok(Attempt::GiveUp);
        }
        tracing::info!(%height, "the ledger begins with a snapshot");
        if let (Ok(draft), Ok(offer)) = (Arc::try_unwrap(draft), Arc::try_unwrap(offer)) {
            // If it is not taken, others offer it.
            drop(self.snapshots.fetched.send(Finished { draft, offer }).await);
        }
        Ok(Attempt::Installed)
    }

    /// Fetches all chunks into files; who offers the snapshot and was not caught. None if they
    /// cannot be had.
    async fn fetch(
        &mut self,
        offer: &Arc<SnapshotOffer>,
        draft: &Arc<Draft>,
        peers: Vec<NodeId>,
    ) -> Option<Vec<NodeId>> {
        let height = offer.manifest.header.height;
        let chunks = u16::try_from(offer.manifest.chunks.len()).ok()?;
        let mut wanted: VecDeque<u16> = (0..chunks).collect();
        let mut faults = BTreeMap::<NodeId, u32>::new();
        let mut idle: VecDeque<NodeId> = peers.iter().copied().collect();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < CHUNKS_IN_FLIGHT
                && let Some(peer) = idle.pop_front()
            {
                let Some(index) = wanted.pop_front() else {
                    idle.push_front(peer);
                    break;
                };
                under_way.push(fetch_chunk(
                    (self.network.clone(), peer),
                    (height, index),
                    (Arc::clone(offer), Arc::clone(draft)),
                ));
            }
            let Some((peer, index, got)) = under_way.next().await else {
                let all = wanted.is_empty();
                return all
                    .then(|| peers.iter().copied().filter(|p| !self.liars.contains(p)))
                    .map(Iterator::collect);
            };
            match got {
                Got::Written => idle.push_back(peer),
                Got::Wrong => {
                    self.caught(peer, &SnapshotError::OtherChunk(index.into()));
                    wanted.push_front(index);
                }
                Got::Nothing => {
                    wanted.push_front(index);
                    let faults = faults.entry(peer).or_default();
                    *faults += 1;
                    if *faults < FAULTS_MAX {
                        idle.push_back(peer);
                    }
                }
                Got::Unwritten(error) => {
                    tracing::warn!(%error, "a chunk of a snapshot cannot be written");
                    return None;
                }
            }
        }
    }

    async fn ask(
        &self,
        peer: NodeId,
        request: LedgerRequest,
    ) -> Result<LedgerResponse, RequestError> {
        ask(&self.network, peer, request).await
    }
}

async fn ask(
    network: &Network,
    peer: NodeId,
    request: LedgerRequest,
) -> Result<LedgerResponse, RequestError> {
    let end = Instant::now() + ANSWER_TIMEOUT;
    let answer = network.request(peer, Request::Ledger(request));
    match timeout_at(end, answer).await.map_err(|_| RequestError::Timeout)?? {
        Response::Ledger(answer) => Ok(*answer),
        Response::Refused(_) => {
            tokio::time::sleep(BUSY_REST).await;
            Err(RequestError::Timeout)
        }
        _ => Err(RequestError::Malformed),
    }
}

/// What came of one chunk.
enum Got {
    Written,
    /// Not what the manifest names.
    Wrong,
    /// Nothing, in time.
    Nothing,
    /// This node's disk failed.
    Unwritten(std::io::Error),
}

async fn fetch_chunk(
    (network, peer): (Network, NodeId),
    (height, index): (Height, u16),
    (offer, draft): (Arc<SnapshotOffer>, Arc<Draft>),
) -> (NodeId, u16, Got) {
    let answer = ask(&network, peer, LedgerRequest::SnapshotChunk { height, index }).await;
    let Ok(LedgerResponse::SnapshotChunk(Some(chunk))) = answer else {
        return (peer, index, Got::Nothing);
    };
    let got = blocking(move || {
        if !offer.manifest.has_chunk(index.into(), &chunk) {
            return Got::Wrong;
        }
        draft.write(index.into(), &chunk).map_or_else(Got::Unwritten, |()| Got::Written)
    });
    (peer, index, got.await.unwrap_or(Got::Nothing))
}

/// Makes the state of the chunks, beside what the store has.
fn restore(
    ledger: &Ledger,
    offer: &SnapshotOffer,
    draft: &Draft,
) -> Result<floe_storage::Installation, RestoreError> {
    let lie = |error: SnapshotError| match error {
        // It was what the manifest names when it came.
        SnapshotError::OtherChunk(_) => RestoreError::Own(error.into()),
        error => RestoreError::Lie(error),
    };
    let own = |error: CommitError| RestoreError::Own(error.into());
    let store = ledger.store();
    let mut installation = store.begin_install(offer.manifest.header.height).map_err(own)?;
    let mut restore = SnapshotRestore::new(offer.manifest.clone()).map_err(lie)?;
    for index in 0..offer.manifest.chunks.len() {
        let chunk = draft.read(index).map_err(|error| RestoreError::Own(error.into()))?;
        let part = restore.take(&chunk).map_err(lie)?;
        installation.write(part).map_err(|error| own(error.into()))?;
    }
    let rest = restore.finish().map_err(lie)?;
    installation.write(rest).map_err(|error| own(error.into()))?;
    Ok(installation)
}
