//! What a storage node answers to each request. Blocking: runs on blocking threads only.
//!
//! Invariants: nothing is stored without a registration that lives on the ledger; a pair is
//! verified against its own pair proof before it is persisted; `Stored` and `TableStored` are
//! answered after a flush; a confirmation is signed only after every pair of every shard that the
//! current committee gives this node was found in the store and a flush has returned. Who writes or
//! signs holds the blob's lock from the look at the ledger on, so that the collector can't remove
//! in between what is being vouched for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    certificate::ConfirmedFact,
    committee::CommitteeFact,
    encoding::{self, Axis, DigestTable, EncodingConfig},
    index::{ShardIndex, SliverPairIndex},
    ledger::{Key, ReadError, Registration, State, StateReader},
    message::{
        ChallengeStatus, InvalidReason, NodeStatus, Refusal, RepairStatus, Request, Response,
    },
    registration::RegistrationId,
};
use floe_storage::{StorageError, Store};
use tokio::sync::{RwLockReadGuard, watch};

use super::{blob_locks::BlobLocks, faults::Faults, pairs::Pairs};
use crate::{clock::Clock, key_file::NodeKeys, network::Network, service::ledger::Ledger};

/// What the responder needs.
#[derive(Debug)]
pub(super) struct Args {
    pub(super) ledger: Ledger,
    pub(super) keys: NodeKeys,
    pub(super) store: Store,
    pub(super) locks: Arc<BlobLocks>,
    pub(super) network: Network,
    pub(super) pairs: Pairs,
    /// Pairs read by the scrubber since the start.
    pub(super) scrubbed: Arc<AtomicU64>,
    /// How far repair has come.
    pub(super) repair: watch::Receiver<RepairStatus>,
    /// How the node does in challenges.
    pub(super) score: watch::Receiver<ChallengeStatus>,
    pub(super) clock: Clock,
    pub(super) faults: Faults,
}

/// Answers requests from the store.
#[derive(Debug)]
pub(super) struct Responder {
    ledger: Ledger,
    keys: NodeKeys,
    store: Store,
    locks: Arc<BlobLocks>,
    network: Network,
    pairs: Pairs,
    scrubbed: Arc<AtomicU64>,
    repair: watch::Receiver<RepairStatus>,
    score: watch::Receiver<ChallengeStatus>,
    clock: Clock,
    started: Instant,
    faults: Faults,
}

/// What a writer may rely on while it holds the lock.
struct Held<'a> {
    state: Arc<State>,
    registration: Registration,
    _lock: RwLockReadGuard<'a, ()>,
}

impl Responder {
    pub(super) fn new(args: Args) -> Self {
        Self {
            ledger: args.ledger,
            keys: args.keys,
            store: args.store,
            locks: args.locks,
            network: args.network,
            pairs: args.pairs,
            scrubbed: args.scrubbed,
            repair: args.repair,
            score: args.score,
            clock: args.clock,
            started: Instant::now(),
            faults: args.faults,
        }
    }

    /// The answer.
    pub(super) fn answer(&self, request: Request) -> Response {
        let answer = match request {
            Request::Table { registration, header, table } => {
                self.table(&registration, &header, &table)
            }
            Request::StoreSlivers { registration, pair, primary, secondary } => {
                self.store_slivers(&registration, pair, (&primary, &secondary))
            }
            Request::Confirm { registration } => self.confirm(&registration),
            Request::ReadSliver { blob, pair, axis } => self.read_sliver(&blob, pair, axis),
            Request::NodeStatus => Ok(self.node_status()),
            Request::ReadPairs { shard, blobs } => {
                self.pairs.answer(config(&self.state()), shard, &blobs)
            }
            // Other services have them.
            Request::ReadSymbols { .. }
            | Request::Attest { .. }
            | Request::ReadTranscript { .. }
            | Request::Acknowledge { .. }
            | Request::Ledger(_) => Err(Refusal::Unavailable),
        };
        answer.unwrap_or_else(Response::Refused)
    }

    /// Whether the ledger, as far as this node has followed it, has a living registration.
    pub(super) fn knows(&self, id: &RegistrationId) -> bool {
        self.living(&self.state(), id).is_ok()
    }

    /// The ledger's state, now and after every block.
    pub(super) fn states(&self) -> watch::Receiver<Arc<State>> {
        self.ledger.state()
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }

    /// A registration that is alive now.
    fn living(&self, state: &State, id: &RegistrationId) -> Result<Registration, Refusal> {
        let registration = state.registration(self.ledger.store().as_ref(), id);
        registration
            .map_err(|error| self.faults.ledger(&error))?
            .filter(|registration| registration.is_alive(state.summary().epoch))
            .ok_or(Refusal::NotRegistered)
    }

    /// A living registration of a blob that nobody removes meanwhile.
    fn hold(&self, id: &RegistrationId) -> Result<Held<'_>, Refusal> {
        let blob = self.living(&self.state(), id)?.blob;
        let lock = self.locks.write(&blob);
        // Once more: while this waited for the lock, the last registration may have ended.
        let state = self.state();
        let registration = self.living(&state, id)?;
        Ok(Held { state, registration, _lock: lock })
    }

    /// The shards that the current committee gives this node.
    fn own_shards<'a>(&self, state: &'a State) -> &'a [ShardIndex] {
        state.committee().member(&self.keys.node.public()).map_or(&[], |member| &member.shards)
    }

    /// The node's own pairs of a blob, with the shard of each.
    fn own_pairs<'a>(
        &self,
        state: &'a State,
        blob: BlobId,
    ) -> impl Iterator<Item = (ShardIndex, SliverPairIndex)> + 'a {
        let n_shards = state.parameters().n_shards;
        let shards = self.own_shards(state).iter();
        shards.map(move |shard| (*shard, blob.pair_of(*shard, n_shards)))
    }

    fn missing_pairs(&self, state: &State, blob: BlobId) -> Result<Vec<SliverPairIndex>, Refusal> {
        let mut missing = Vec::new();
        for (shard, pair) in self.own_pairs(state, blob) {
            if !self.store.has_pair(shard, &blob).map_err(|error| self.ours(&error))? {
                missing.push(pair);
            }
        }
        Ok(missing)
    }

    fn table(
        &self,
        registration: &RegistrationId,
        header: &BlobHeader,
        table: &[u8],
    ) -> Result<Response, Refusal> {
        let Held { state, registration, _lock } = self.hold(registration)?;
        let blob = registration.blob;
        if header.id() != blob {
            return Err(Refusal::Invalid(InvalidReason::Table));
        }
        if self.own_shards(&state).is_empty() {
            return Err(Refusal::WrongShard);
        }
        let proofs = if self.has_proofs(&state, blob)? {
            Vec::new()
        } else {
            let proofs = DigestTable::from_bytes(config(&state), table)
                .and_then(|table| table.proofs(header))
                .map_err(|_| Refusal::Invalid(InvalidReason::Table))?;
            let own = self.own_pairs(&state, blob);
            own.map(|(shard, pair)| (shard, proofs[pair.as_usize()].to_bytes())).collect()
        };
        // Also without new proofs: from this height on the ledger knows the blob.
        let height = state.tip().height;
        self.store.put_table(header, height, &proofs).map_err(|error| self.ours(&error))?;
        self.store.flush().map_err(|error| self.ours(&error))?;
        Ok(Response::TableStored { missing: self.missing_pairs(&state, blob)? })
    }

    /// Whether the proofs of all pairs of the node's shards are here.
    fn has_proofs(&self, state: &State, blob: BlobId) -> Result<bool, Refusal> {
        for (shard, _) in self.own_pairs(state, blob) {
            if self.pair_proof(state, shard, &blob)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn store_slivers(
        &self,
        registration: &RegistrationId,
        pair: SliverPairIndex,
        (primary, secondary): (&Bytes, &Bytes),
    ) -> Result<Response, Refusal> {
        let Held { state, registration, _lock } = self.hold(registration)?;
        let blob = registration.blob;
        let shard = blob.shard_of(pair, state.parameters().n_shards);
        if !self.own_shards(&state).contains(&shard) {
            return Err(Refusal::WrongShard);
        }
        let kept = self.store.blob(&blob).map_err(|error| self.ours(&error))?;
        let header = kept.ok_or(Refusal::TableMissing)?.header;
        let proof = self.pair_proof(&state, shard, &blob)?.ok_or(Refusal::TableMissing)?;
        if !self.store.has_pair(shard, &blob).map_err(|error| self.ours(&error))? {
            let layout = header.layout().map_err(|_| Refusal::TooLarge)?;
            let hashes = encoding::verify_pair(&layout, &proof, primary, secondary)
                .map_err(|_| Refusal::Invalid(InvalidReason::Sliver))?;
            let hashes = [&hashes.primary[..], &hashes.secondary[..]];
            self.store
                .put_hashed_pair((shard, &blob), [primary, secondary], hashes)
                .map_err(|error| self.ours(&error))?;
        }
        self.store.flush().map_err(|error| self.ours(&error))?;
        Ok(Response::Stored { pair })
    }

    fn confirm(&self, id: &RegistrationId) -> Result<Response, Refusal> {
        let Held { state, registration, _lock } = self.hold(id)?;
        let blob = registration.blob;
        if self.own_shards(&state).is_empty() {
            return Err(Refusal::WrongShard);
        }
        if !self.has_proofs(&state, blob)? {
            return Err(Refusal::TableMissing);
        }
        let missing = self.missing_pairs(&state, blob)?;
        if !missing.is_empty() {
            return Ok(Response::Missing { pairs: missing });
        }
        self.raise_height(&state, blob, id)?;
        self.store.flush().map_err(|error| self.ours(&error))?;
        let epoch = state.summary().epoch;
        let fact = ConfirmedFact { epoch, blob, registration: *id };
        Ok(Response::Confirmed { epoch, signature: fact.sign(state.chain(), &self.keys.bls) })
    }

    /// Notes that the ledger knows the blob now, if what is stored is older than the registration:
    /// a state from before it says nothing about the blob.
    fn raise_height(
        &self,
        state: &State,
        blob: BlobId,
        id: &RegistrationId,
    ) -> Result<(), Refusal> {
        let stored = self.store.blob(&blob).map_err(|error| self.ours(&error))?;
        let stored = stored.ok_or(Refusal::TableMissing)?;
        let key = Key::Registration(*id).hash();
        let known_then = match self.ledger.store().value(&key, stored.height.get()) {
            Ok(value) => matches!(value, Some((_, Some(_)))),
            // So old that it is forgotten.
            Err(ReadError::NoSuchVersion { .. }) => false,
            Err(error) => return Err(self.faults.ledger(&error)),
        };
        if known_then || stored.height >= state.tip().height {
            return Ok(());
        }
        let height = state.tip().height;
        self.store.put_table(&stored.header, height, &[]).map_err(|error| self.ours(&error))
    }

    fn read_sliver(
        &self,
        blob: &BlobId,
        pair: SliverPairIndex,
        axis: Axis,
    ) -> Result<Response, Refusal> {
        let state = self.state();
        let shard = blob.shard_of(pair, state.parameters().n_shards);
        let proof = self.pairs.proof(config(&state), shard, blob)?.ok_or(Refusal::NotFound)?;
        let sliver = self.pairs.sliver(shard, blob, axis)?.ok_or(Refusal::NotFound)?;
        Ok(Response::Sliver { proof: proof.to_bytes().into(), sliver })
    }

    fn node_status(&self) -> Response {
        let state = self.state();
        let usage = self.store.usage();
        let peers = self.network.peers().borrow().connected.len();
        Response::NodeStatus(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain: *state.chain(),
            epoch: state.summary().epoch,
            shards: u16::try_from(self.own_shards(&state).len()).unwrap_or(u16::MAX),
            pairs: usage.pairs,
            disk_used_bytes: usage.disk_bytes,
            disk_quota_bytes: usage.quota_bytes,
            accepts_slivers: usage.accepts_slivers,
            peers: u32::try_from(peers).unwrap_or(u32::MAX),
            damaged_pieces: usage.damaged_pieces,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            time: self.clock.now(),
            repair: RepairStatus {
                scrubbed_pairs: self.scrubbed.load(Ordering::Relaxed),
                ..*self.repair.borrow()
            },
            challenges: *self.score.borrow(),
        })
    }

    /// The stored pair proof, verified again: the disk may have lied. A damaged one counts as
    /// absent, so the writer sends the table once more.
    fn pair_proof(
        &self,
        state: &State,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<PairProof>, Refusal> {
        let Some(bytes) = self.store.pair_proof(shard, blob).map_err(|error| self.ours(&error))?
        else {
            return Ok(None);
        };
        let proof = PairProof::verify_bytes(config(state), blob, &bytes);
        if let Err(error) = &proof {
            tracing::warn!(%shard, %blob, %error, "stored pair proof is damaged");
        }
        Ok(proof.ok())
    }

    fn ours(&self, error: &StorageError) -> Refusal {
        self.faults.storage(error)
    }
}

fn config(state: &State) -> EncodingConfig {
    state.committee().config()
}
