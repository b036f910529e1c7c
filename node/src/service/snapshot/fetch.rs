//! How a newcomer begins with a snapshot.
//!
//! It follows the committees from genesis as a light peer does, so that it knows which headers are
//! final; asks members first, and others drawn by lot, what snapshot they have; and drops what is
//! not of the last block of an epoch whose header a committee signed. What is left is tried in the
//! order of [`choice`]: by who vouches, then by how new it is. Chunks come from all who offer the
//! very same, each compared with the manifest; when the state that they make has the header's root,
//! the ledger begins with it.
//!
//! Who sends a wrong chunk, or vouches for chunks that make another state, has lied and is not asked
//! again; who stalls or drips is left out ([`pace`]). An attempt ends in time, however its peers
//! behave, and the next offer is tried. Without one the newcomer executes all blocks, as it would
//! have done otherwise, and trusts the genesis no more or less than then.
//!
//! Bounded: one chunk of each of a few peers is in memory, the rest in files, for which the disk has
//! room beside its reserve before the first chunk and at each.

mod choice;
mod chunks;
mod pace;
mod restore;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    keys::NodeId,
    ledger::{SNAPSHOT_CHUNK_BYTES, SnapshotError, SnapshotOffer, Timestamp},
    light::{LightClient, LightError, OldRoot, Start},
    message::{Handover, LedgerRequest, LedgerResponse, Request, Response, ledger::MAX_HANDOVERS},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, timeout, timeout_at};

use self::{
    choice::Group,
    restore::{RestoreError, restore},
};
pub(super) use self::{
    choice::{Known, Standing},
    chunks::{FetchError, Wanted},
};
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
/// Offers that are tried.
const ATTEMPTS_MAX: usize = 4;
/// How long a peer may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one peer may lead from epoch to epoch, before the next one does.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(60);
/// The rest of a peer that was busy.
const BUSY_REST: Duration = Duration::from_millis(200);
/// A snapshot is on the disk in chunks, and as the state that they make; that once more while its
/// parts are merged.
const COPIES_ON_DISK: u64 = 3;

/// Fetches snapshots.
#[derive(Debug)]
pub(crate) struct Fetcher {
    ledger: Ledger,
    network: Network,
    snapshots: Snapshots,
    genesis: Arc<Genesis>,
    /// Who has lied.
    liars: BTreeSet<NodeId>,
    /// Who has shown hand-overs that hold.
    proven: BTreeSet<NodeId>,
    /// Decides among equals.
    chance: RandomState,
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

impl Fetcher {
    pub(crate) fn new(
        ledger: Ledger,
        network: Network,
        snapshots: Snapshots,
        genesis: Arc<Genesis>,
    ) -> Self {
        Self {
            ledger,
            network,
            snapshots,
            genesis,
            liars: BTreeSet::new(),
            proven: BTreeSet::new(),
            chance: RandomState::new(),
        }
    }

    /// Begins the ledger with a snapshot, if somebody has one; whether it did.
    pub(crate) async fn run(&mut self) -> Result<bool, LedgerStopped> {
        let mut view = self.network.peers();
        let enough = view.wait_for(|view| {
            let fit = view.connected.values().filter(|peer| peer.answers_requests);
            fit.count() >= PEERS_WANTED
        });
        // Fewer have to do.
        drop(timeout(PEERS_WAIT, enough).await);
        let Some((light, ends)) = self.follow().await else { return Ok(false) };
        let offers = self.offers(&light).await;
        let mut groups = self.known(light.committee(), |known| known.rank(offers));
        groups.truncate(ATTEMPTS_MAX);
        for group in groups {
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

    fn known<T>(&self, committee: &Committee, look: impl FnOnce(&Known<'_>) -> T) -> T {
        look(&Known {
            committee,
            proven: &|peer| self.proven.contains(peer),
            draw: &|bytes| self.chance.hash_one(bytes),
        })
    }

    /// Who answers requests and has not lied, the members of a committee first, others by lot.
    fn peers(&self, committee: &Committee) -> Vec<NodeId> {
        let view = self.network.peers().borrow().clone();
        let fit = view.connected.iter().filter(|(_, peer)| peer.answers_requests);
        let fit = fit.map(|(node, _)| *node).filter(|node| !self.liars.contains(node));
        self.known(committee, |known| known.order(fit.collect()))
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
        let peers = self.peers(light.committee());
        let mut followed = (light, Vec::new());
        for peer in peers {
            let end = Instant::now() + FOLLOW_TIMEOUT;
            while Instant::now() < end {
                let from = followed.0.epoch();
                let max = u8::try_from(MAX_HANDOVERS).unwrap_or(u8::MAX);
                let request = LedgerRequest::Handovers { from, max };
                let Ok(LedgerResponse::Handovers { handovers }) =
                    ask(&self.network, peer, request).await
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
                self.proven.insert(peer);
            }
        }
        Some(followed)
    }

    /// What snapshots there are whose headers are final and end an epoch.
    async fn offers(&mut self, light: &LightClient) -> Vec<(NodeId, SnapshotOffer)> {
        let peers = self.peers(light.committee());
        let network = &self.network;
        let mut asked: FuturesUnordered<_> = peers
            .into_iter()
            .map(async |peer| {
                (peer, ask(network, peer, LedgerRequest::Snapshot { height: None }).await)
            })
            .collect();
        let mut answers = Vec::new();
        while let Some((peer, answer)) = asked.next().await {
            if let Ok(LedgerResponse::Snapshot(Some(offer))) = answer {
                answers.push((peer, *offer));
            }
        }
        drop(asked);
        let mut offers = Vec::new();
        for (peer, offer) in answers {
            let light = light.clone();
            let judged = blocking(move || judge(&light, &offer).map(|()| offer)).await;
            match judged {
                Some(Ok(offer)) => offers.push((peer, offer)),
                // Of an epoch that nobody has led to, or that is forgotten: nobody's fault.
                Some(Err(OfferError::Header(LightError::Epoch { .. }))) => {}
                Some(Err(error)) => self.caught(peer, &error),
                None => return Vec::new(),
            }
        }
        offers
    }

    /// An empty draft, if there is room for so many chunks and the state that they make. Nothing if
    /// the node is going down.
    async fn draft(&self, chunks: usize) -> Option<std::io::Result<Draft>> {
        let files = self.snapshots.files.clone();
        let bytes = u64::try_from(chunks.saturating_mul(SNAPSHOT_CHUNK_BYTES)).unwrap_or(u64::MAX);
        let begin = move || {
            let draft = files.begin(INCOMING)?;
            draft.has_room_for(bytes.saturating_mul(COPIES_ON_DISK)).map(|()| draft)
        };
        blocking(begin).await
    }

    async fn attempt(&mut self, group: Group, ends: &[Handover]) -> Result<Attempt, LedgerStopped> {
        let Group { offer, peers, standing } = group;
        let (height, chunks) = (offer.manifest.header.height, offer.manifest.chunks.len());
        let peers: Vec<_> = peers.into_iter().filter(|peer| !self.liars.contains(peer)).collect();
        tracing::info!(%height, chunks, peers = peers.len(), ?standing, "fetching a snapshot");
        let draft = match self.draft(chunks).await {
            Some(Ok(draft)) => Arc::new(draft),
            Some(Err(error)) => {
                tracing::warn!(%height, chunks, %error, "no place for a snapshot");
                // Another may be smaller, and what is made up has any size.
                return Ok(Attempt::Failed);
            }
            None => return Ok(Attempt::GiveUp),
        };
        let offer = Arc::new(offer);
        let wanted = Wanted {
            network: self.network.clone(),
            offer: Arc::clone(&offer),
            draft: Arc::clone(&draft),
        };
        let mut liars = Vec::new();
        let fetched = timeout(standing.limit(chunks), wanted.fetch(peers.clone(), &mut liars));
        let fetched = fetched.await;
        drop(wanted);
        for (peer, index) in liars {
            self.caught(peer, &SnapshotError::OtherChunk(index));
        }
        match fetched {
            Ok(Ok(())) => {}
            Ok(Err(error @ (FetchError::NobodyLeft | FetchError::Unwritten(_)))) => {
                tracing::warn!(%height, %error, "a snapshot cannot be had");
                return Ok(Attempt::Failed);
            }
            Err(_) => {
                tracing::warn!(%height, "a snapshot does not come in time");
                return Ok(Attempt::Failed);
            }
        }
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
}

/// Why an offer is none.
#[derive(Debug, thiserror::Error)]
enum OfferError {
    #[error(transparent)]
    Manifest(#[from] SnapshotError),
    #[error("its block is not the last one of an epoch")]
    InMidEpoch,
    #[error(transparent)]
    Header(#[from] LightError),
}

/// Whether a committee on the way signed the offer's header, and it ends that committee's epoch.
fn judge(light: &LightClient, offer: &SnapshotOffer) -> Result<(), OfferError> {
    let next = offer.manifest.check()?;
    if !choice::ends_epoch(&offer.manifest, &next) {
        return Err(OfferError::InMidEpoch);
    }
    light.verify(offer.certified())?;
    Ok(())
}

pub(super) async fn ask(
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
