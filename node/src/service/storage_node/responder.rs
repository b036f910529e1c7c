//! What a storage node answers to each request. Blocking: runs on blocking threads only.
//!
//! Invariants: nothing is stored without a registration; a pair is verified against its own
//! pair proof before it is persisted; `Stored`, `TableStored` and `Certified` are answered after a
//! flush; a confirmation is signed only after every pair of every shard that the current
//! committee gives this node was found in the store and a flush has returned.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    certificate::{Certificate, CertificateError},
    encoding::{self, Axis, DigestTable, EncodingConfig},
    index::{ShardIndex, SliverPairIndex},
    ledger::{BlobRecord, LedgerView, RegistrationError},
    message::{
        Announcement, InvalidReason, Limits, NodeStatus, Refusal, Request, Response, StatusAnswer,
    },
    registration::{Registration, RegistrationId, SignedRegistration},
};
use floe_storage::{StorageError, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{key_file::NodeKeys, network::Network};

/// What is thought of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Verified and kept: pass it on.
    Valid,
    /// A lie: whoever passed it on did not verify it.
    Invalid,
    /// Cannot be judged here and now.
    Unknown,
}

/// Answers requests from the store.
#[derive(Debug)]
pub(super) struct Responder {
    view: watch::Receiver<Arc<LedgerView>>,
    keys: NodeKeys,
    store: Store,
    network: Network,
    started: Instant,
    /// Cancelled when the store can no longer be relied on: the node stops.
    broken: CancellationToken,
}

impl Responder {
    pub(super) fn new(
        view: watch::Receiver<Arc<LedgerView>>,
        keys: NodeKeys,
        store: Store,
        network: Network,
        broken: CancellationToken,
    ) -> Self {
        Self { view, keys, store, network, started: Instant::now(), broken }
    }

    /// The answer, and a certificate to announce if it was new.
    pub(super) fn answer(&self, request: Request) -> (Response, Option<Vec<u8>>) {
        let view = self.view.borrow().clone();
        let mut announcement = None;
        let answer = match request {
            Request::Table { registration, header, table } => {
                self.table(&view, &registration, &header, &table)
            }
            Request::StoreSlivers { registration, pair, primary, secondary } => {
                self.store_slivers(&view, registration, pair, (&primary, &secondary))
            }
            Request::Confirm { registration } => self.confirm(&view, registration),
            Request::Certify { header, certificate } => {
                self.certify(&view, header, certificate).map(|new| {
                    announcement = new;
                    Response::Certified
                })
            }
            Request::BlobStatus { blob } => self.blob_status(&view, &blob),
            Request::ReadSliver { blob, pair, axis } => self.read_sliver(&view, &blob, pair, axis),
            Request::NodeStatus => Ok(self.node_status(&view)),
            // The queries service has them.
            Request::Ledger(_) => Err(Refusal::Unavailable),
        };
        (answer.unwrap_or_else(Response::Refused), announcement)
    }

    /// Judges a gossiped certificate and keeps a valid one.
    pub(super) fn judge(&self, bytes: &[u8]) -> Judgement {
        let view = self.view.borrow().clone();
        let limits = Limits::new(config(&view));
        let Ok(Announcement { header, certificate }) = Announcement::decode(&limits, bytes) else {
            return Judgement::Invalid;
        };
        if header.len > view.parameters().max_blob_bytes {
            return Judgement::Invalid;
        }
        let bytes = certificate.to_bytes();
        match self.store.blob_record(&certificate.fact.blob) {
            Ok(Some((BlobRecord { certificate: Some(known), .. }, _))) => {
                // The same one came by another way; any other is no news. A quorum has many
                // certificates, and none but the first may cost a check and travel on.
                let same = known == bytes;
                return if same { Judgement::Valid } else { Judgement::Unknown };
            }
            Ok(_) => {}
            Err(error) => {
                self.ours(&error);
                return Judgement::Unknown;
            }
        }
        match certificate.verify(view.committee(), view.chain()) {
            Ok(()) => {}
            // The sender may be an epoch ahead or behind: no lie.
            Err(CertificateError::Epoch { .. }) => return Judgement::Unknown,
            Err(
                CertificateError::Malformed
                | CertificateError::NoQuorum { .. }
                | CertificateError::Signature,
            ) => return Judgement::Invalid,
        }
        match self.store.put_certificate(&header, bytes, certificate.fact.epoch) {
            Ok(true) => Judgement::Valid,
            Ok(false) => Judgement::Unknown,
            Err(error) => {
                self.ours(&error);
                Judgement::Unknown
            }
        }
    }

    /// The shards that the current committee gives this node.
    fn own_shards<'a>(&self, view: &'a LedgerView) -> &'a [ShardIndex] {
        view.committee().member(&self.keys.node.public()).map_or(&[], |member| &member.shards)
    }

    /// The node's own pairs of a blob, with the shard of each.
    fn own_pairs<'a>(
        &self,
        view: &'a LedgerView,
        blob: BlobId,
    ) -> impl Iterator<Item = (ShardIndex, SliverPairIndex)> + 'a {
        let n_shards = view.parameters().n_shards;
        let shards = self.own_shards(view).iter();
        shards.map(move |shard| (*shard, blob.pair_of(*shard, n_shards)))
    }

    fn missing_pairs(
        &self,
        view: &LedgerView,
        blob: BlobId,
    ) -> Result<Vec<SliverPairIndex>, Refusal> {
        let mut missing = Vec::new();
        for (shard, pair) in self.own_pairs(view, blob) {
            if !self.store.has_pair(shard, &blob).map_err(|error| self.ours(&error))? {
                missing.push(pair);
            }
        }
        Ok(missing)
    }

    fn table(
        &self,
        view: &LedgerView,
        signed: &SignedRegistration,
        header: &BlobHeader,
        table: &[u8],
    ) -> Result<Response, Refusal> {
        let registration = view.register(signed, header).map_err(|error| match error {
            RegistrationError::UnknownWriter(_) | RegistrationError::Signature => {
                Refusal::NotRegistered
            }
            RegistrationError::OtherBlob => Refusal::Invalid(InvalidReason::Table),
            RegistrationError::BlobTooLarge { .. } => Refusal::TooLarge,
        })?;
        if self.own_shards(view).is_empty() {
            return Err(Refusal::WrongShard);
        }
        if !self.has_table(view, &registration)? {
            self.check_sole_registration(&registration)?;
            let config = config(view);
            let proofs = DigestTable::from_bytes(config, table)
                .and_then(|table| table.proofs(header))
                .map_err(|_| Refusal::Invalid(InvalidReason::Table))?;
            let own: Vec<_> = self
                .own_pairs(view, signed.blob)
                .map(|(shard, pair)| (shard, proofs[pair.as_usize()].to_bytes()))
                .collect();
            self.store.put_table(&registration, &own).map_err(|error| self.ours(&error))?;
        }
        // Also when another request wrote it: that one may not have flushed yet.
        self.store.flush().map_err(|error| self.ours(&error))?;
        Ok(Response::TableStored { missing: self.missing_pairs(view, signed.blob)? })
    }

    /// A writer registers a blob once: with ever new nonces it could fill the blob's record and
    /// lock out everybody else.
    fn check_sole_registration(&self, registration: &Registration) -> Result<(), Refusal> {
        let blob = registration.header.id();
        let kept = self.store.blob_record(&blob).map_err(|error| self.ours(&error))?;
        let others = kept.iter().flat_map(|(_, registrations)| registrations);
        let again =
            |other: &Registration| other.owner == registration.owner && other.id != registration.id;
        if { others }.any(again) { Err(Refusal::NotRegistered) } else { Ok(()) }
    }

    /// Whether the registration and the proofs of all pairs of the node's shards are here.
    fn has_table(&self, view: &LedgerView, registration: &Registration) -> Result<bool, Refusal> {
        if self.store.registration(&registration.id).map_err(|error| self.ours(&error))?.is_none() {
            return Ok(false);
        }
        let blob = registration.header.id();
        for (shard, _) in self.own_pairs(view, blob) {
            if self.pair_proof(view, shard, &blob)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A registration that is alive now.
    fn registration(
        &self,
        view: &LedgerView,
        id: &RegistrationId,
    ) -> Result<Registration, Refusal> {
        self.store
            .registration(id)
            .map_err(|error| self.ours(&error))?
            .filter(|registration| registration.is_alive(view.epoch()))
            .ok_or(Refusal::NotRegistered)
    }

    fn store_slivers(
        &self,
        view: &LedgerView,
        registration: RegistrationId,
        pair: SliverPairIndex,
        (primary, secondary): (&Bytes, &Bytes),
    ) -> Result<Response, Refusal> {
        let registration = self.registration(view, &registration)?;
        let header = registration.header;
        let blob = header.id();
        let shard = blob.shard_of(pair, view.parameters().n_shards);
        if !self.own_shards(view).contains(&shard) {
            return Err(Refusal::WrongShard);
        }
        let proof = self.pair_proof(view, shard, &blob)?.ok_or(Refusal::TableMissing)?;
        if !self.store.has_pair(shard, &blob).map_err(|error| self.ours(&error))? {
            let layout = header.layout().map_err(|_| Refusal::TooLarge)?;
            encoding::verify_pair(&layout, &proof, primary, secondary)
                .map_err(|_| Refusal::Invalid(InvalidReason::Sliver))?;
            self.store
                .put_pair(shard, &blob, primary, secondary)
                .map_err(|error| self.ours(&error))?;
        }
        self.store.flush().map_err(|error| self.ours(&error))?;
        Ok(Response::Stored { pair })
    }

    fn confirm(&self, view: &LedgerView, id: RegistrationId) -> Result<Response, Refusal> {
        let registration = self.registration(view, &id)?;
        let blob = registration.header.id();
        if self.own_shards(view).is_empty() {
            return Err(Refusal::WrongShard);
        }
        for (shard, _) in self.own_pairs(view, blob) {
            if self.pair_proof(view, shard, &blob)?.is_none() {
                return Err(Refusal::TableMissing);
            }
        }
        let missing = self.missing_pairs(view, blob)?;
        if !missing.is_empty() {
            return Ok(Response::Missing { pairs: missing });
        }
        self.store.flush().map_err(|error| self.ours(&error))?;
        let signature = view.fact(blob, id).sign(view.chain(), &self.keys.bls);
        Ok(Response::Confirmed { epoch: view.epoch(), signature })
    }

    /// Keeps a valid certificate; returns it to be announced if it was new.
    fn certify(
        &self,
        view: &LedgerView,
        header: BlobHeader,
        certificate: Certificate,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let invalid = Refusal::Invalid(InvalidReason::Certificate);
        if header.id() != certificate.fact.blob || header.len > view.parameters().max_blob_bytes {
            return Err(invalid);
        }
        certificate.verify(view.committee(), view.chain()).map_err(|_| invalid)?;
        let new = self
            .store
            .put_certificate(&header, certificate.to_bytes(), certificate.fact.epoch)
            .map_err(|error| self.ours(&error))?;
        self.store.flush().map_err(|error| self.ours(&error))?;
        Ok(new.then(|| Announcement { header, certificate }.encode().ok()).flatten())
    }

    fn blob_status(&self, view: &LedgerView, blob: &BlobId) -> Result<Response, Refusal> {
        let kept = self.store.blob_record(blob).map_err(|error| self.ours(&error))?;
        let (record, registrations) = kept.ok_or(Refusal::NotFound)?;
        Ok(Response::BlobStatus(StatusAnswer {
            status: view.blob_status(&record, &registrations),
            certificate: record.certificate,
        }))
    }

    fn read_sliver(
        &self,
        view: &LedgerView,
        blob: &BlobId,
        pair: SliverPairIndex,
        axis: Axis,
    ) -> Result<Response, Refusal> {
        let shard = blob.shard_of(pair, view.parameters().n_shards);
        let proof = self.pair_proof(view, shard, blob)?.ok_or(Refusal::NotFound)?;
        let sliver = self.store.sliver(shard, blob, axis).map_err(|error| self.ours(&error))?;
        let sliver = sliver.ok_or(Refusal::NotFound)?;
        Ok(Response::Sliver { proof: proof.to_bytes().into(), sliver })
    }

    fn node_status(&self, view: &LedgerView) -> Response {
        let usage = self.store.usage();
        let peers = self.network.peers().borrow().connected.len();
        Response::NodeStatus(NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            chain: *view.chain(),
            epoch: view.epoch(),
            shards: u16::try_from(self.own_shards(view).len()).unwrap_or(u16::MAX),
            pairs: usage.pairs,
            disk_used_bytes: usage.disk_bytes,
            disk_quota_bytes: usage.quota_bytes,
            accepts_slivers: usage.accepts_slivers,
            peers: u32::try_from(peers).unwrap_or(u32::MAX),
            damaged_pieces: usage.damaged_pieces,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The stored pair proof, verified again: the disk may have lied. A damaged one counts as
    /// absent, so the writer sends the table once more.
    fn pair_proof(
        &self,
        view: &LedgerView,
        shard: ShardIndex,
        blob: &BlobId,
    ) -> Result<Option<PairProof>, Refusal> {
        let Some(bytes) = self.store.pair_proof(shard, blob).map_err(|error| self.ours(&error))?
        else {
            return Ok(None);
        };
        let proof = PairProof::verify_bytes(config(view), blob, &bytes);
        if let Err(error) = &proof {
            tracing::warn!(%shard, %blob, %error, "stored pair proof is damaged");
        }
        Ok(proof.ok())
    }

    /// Storage trouble is our own: strangers learn only what they can act on.
    fn ours(&self, error: &StorageError) -> Refusal {
        if error.is_fatal() {
            tracing::error!(%error, "store failed: the node stops");
            self.broken.cancel();
            return Refusal::Unavailable;
        }
        tracing::warn!(%error, "not stored");
        match error {
            StorageError::Full { .. } | StorageError::TooManyRegistrations(_) => {
                Refusal::StorageFull
            }
            StorageError::Length { .. } => Refusal::TooLarge,
            StorageError::Io(_) | StorageError::Corrupt { .. } | StorageError::Stopped => {
                Refusal::Unavailable
            }
        }
    }
}

fn config(view: &LedgerView) -> EncodingConfig {
    view.committee().config()
}
