//! Registrations: who stores which blob until when.
//!
//! No sliver is accepted without one. A registration names blob, owner and epochs; several may
//! name one blob. Until the ledger records paid registrations, a *writer* that the genesis lists
//! signs a [`SignedRegistration`], which travels in `Table` requests and is verified by every
//! node; it runs from epoch 0 without end and cannot be deleted.
//!
//! Invariant: the id binds blob, writer and nonce, and the signature binds the id to the chain,
//! so repeating a store gives the same registration and no other network accepts it.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    blob::{BlobHeader, BlobId},
    hash::{Domain, HASH_BYTES, Hash},
    index::Epoch,
    keys::{ChainId, KeyPair, PublicKey, Signature, SigningDomain},
};

/// The name of a registration.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct RegistrationId(Hash);

impl RegistrationId {
    /// Wraps raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(Hash::new(bytes))
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        self.0.as_bytes()
    }

    /// H(domain, blob id, writer key, nonce as u64 LE).
    #[must_use]
    pub fn of(blob: &BlobId, writer: &PublicKey, nonce: u64) -> Self {
        let nonce = nonce.to_le_bytes();
        Self(Domain::Registration.hash(&[blob.as_bytes(), writer.as_bytes(), &nonce]))
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A writer's signed wish to store a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRegistration {
    /// The blob.
    pub blob: BlobId,
    /// Who asks.
    pub writer: PublicKey,
    /// Tells registrations of one blob by one writer apart.
    pub nonce: u64,
    /// Over tag, chain id and registration id.
    pub signature: Signature,
}

impl SignedRegistration {
    /// Signs the registration of `blob`.
    #[must_use]
    pub fn new(chain: &ChainId, blob: BlobId, writer: &KeyPair, nonce: u64) -> Self {
        let id = RegistrationId::of(&blob, &writer.public(), nonce);
        let signature = writer.sign(&message(chain, &id));
        Self { blob, writer: writer.public(), nonce, signature }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> RegistrationId {
        RegistrationId::of(&self.blob, &self.writer, self.nonce)
    }

    /// Whether the writer signed this for `chain`.
    #[must_use]
    pub fn verify(&self, chain: &ChainId) -> bool {
        self.writer.verify(&message(chain, &self.id()), &self.signature)
    }
}

fn message(chain: &ChainId, id: &RegistrationId) -> Vec<u8> {
    SigningDomain::Registration.message(&[chain.as_bytes(), id.as_bytes()])
}

/// A registration as nodes keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name.
    pub id: RegistrationId,
    /// The blob that it names.
    pub header: BlobHeader,
    /// Who may extend or delete it.
    pub owner: PublicKey,
    /// First epoch that it covers.
    pub start: Epoch,
    /// First epoch that it no longer covers.
    pub end: Epoch,
    /// Whether the owner may delete it before its end.
    pub deletable: bool,
    /// The epoch in which it was certified.
    pub certified: Option<Epoch>,
}

impl Registration {
    /// Whether it covers `epoch`.
    #[must_use]
    pub fn is_alive(&self, epoch: Epoch) -> bool {
        (self.start..self.end).contains(&epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, test_support};

    #[test]
    fn ids_bind_blob_writer_and_nonce() {
        let (blob, writer) = (BlobId::new([1; 32]), test_support::writer_key().public());
        let id = RegistrationId::of(&blob, &writer, 0);
        assert_eq!(RegistrationId::of(&blob, &writer, 0), id);
        let other_writer = KeyPair::from_seed([3; 32]).public();
        for other in [
            RegistrationId::of(&BlobId::new([2; 32]), &writer, 0),
            RegistrationId::of(&blob, &other_writer, 0),
            RegistrationId::of(&blob, &writer, 1),
        ] {
            assert_ne!(other, id);
        }
    }

    #[test]
    fn a_signature_is_for_one_chain() {
        let (ours, theirs) =
            (test_support::genesis(4, 4).chain_id(), test_support::genesis(4, 7).chain_id());
        let writer = test_support::writer_key();
        let signed = SignedRegistration::new(&ours, BlobId::new([1; 32]), &writer, 0);
        assert!(signed.verify(&ours));
        assert!(!signed.verify(&theirs));
    }

    #[test]
    fn the_end_is_exclusive() {
        let registration = |start, end| Registration {
            id: RegistrationId::new([0; 32]),
            header: BlobHeader { n_shards: 4, len: 1, root: Hash::ZERO },
            owner: test_support::writer_key().public(),
            start: Epoch::new(start),
            end: Epoch::new(end),
            deletable: false,
            certified: None,
        };
        for (start, end, epoch, alive) in [
            (2, 5, 1, false),
            (2, 5, 2, true),
            (2, 5, 4, true),
            (2, 5, 5, false),
            (2, 2, 2, false),
            (0, u64::MAX, 0, true),
        ] {
            let is_alive = registration(start, end).is_alive(Epoch::new(epoch));
            assert_eq!(is_alive, alive, "{start} .. {end} in epoch {epoch}");
        }
    }
}
