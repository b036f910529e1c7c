//! The committee's word that a blob is inconsistent.
//!
//! Whoever meets an inconsistent blob proves it to the members
//! ([`InconsistencyProof`](crate::inconsistency::InconsistencyProof)). Each that verifies the proof
//! attests it with its BLS key. Attestations of more than `f` shards make an
//! [`InvalidityCertificate`]: one honest member at least has verified a proof. The ledger then marks
//! the blob invalid, for ever.
//!
//! Invariant: the signed bytes bind chain, epoch and blob. Who signs has verified a proof.

use serde::{Deserialize, Serialize};

use crate::{
    blob::BlobId,
    committee::{Committee, CommitteeCertificate, CommitteeFact},
    index::Epoch,
    keys::SigningDomain,
};

/// What a member attests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidityFact {
    /// The epoch whose committee speaks.
    pub epoch: Epoch,
    /// The blob.
    pub blob: BlobId,
}

impl CommitteeFact for InvalidityFact {
    const DOMAIN: SigningDomain = SigningDomain::Invalidity;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// More than `f`: one honest member at least.
    fn is_proven_by(committee: &Committee, weight: u16) -> bool {
        committee.is_validity(weight)
    }

    /// Epoch (u64 LE), blob id.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.epoch.get().to_le_bytes());
        bytes.extend_from_slice(self.blob.as_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (epoch, rest) = bytes.split_first_chunk::<8>()?;
        let (blob, rest) = rest.split_first_chunk::<32>()?;
        let epoch = Epoch::new(u64::from_le_bytes(*epoch));
        Some((Self { epoch, blob: BlobId::new(*blob) }, rest))
    }
}

/// Attestations of members with more than `f` shards.
pub type InvalidityCertificate = CommitteeCertificate<InvalidityFact>;
