//! Storage confirmations and the certificate that a quorum of them makes.
//!
//! A node signs a confirmation only when every pair that the current committee gives it is
//! durable. The writer collects confirmations of a quorum of shards and joins them into a
//! [`Certificate`]: the point of availability of a blob, from which the swarm answers for it.
//!
//! Invariants: the signed bytes bind chain, epoch, blob and registration; a certificate carries
//! signatures of one epoch's committee only and is judged by that committee; its byte layout is
//! canonical (signers as a bitmap in committee order, spare bits zero).

use serde::{Deserialize, Serialize};

use crate::{
    blob::BlobId,
    committee::{Aggregate, AggregateError, Committee},
    index::Epoch,
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, SigningDomain},
    registration::RegistrationId,
};

/// What one node's confirmation, and so a certificate, states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedFact {
    /// The epoch whose committee speaks.
    pub epoch: Epoch,
    /// The blob.
    pub blob: BlobId,
    /// The registration that the blob is stored for.
    pub registration: RegistrationId,
}

impl ConfirmedFact {
    /// What is signed: tag (32), chain id (32), epoch (u64 LE), blob id (32), registration (32).
    #[must_use]
    pub fn message(&self, chain: &ChainId) -> Vec<u8> {
        SigningDomain::StorageConfirmation.message(&[
            chain.as_bytes(),
            &self.epoch.get().to_le_bytes(),
            self.blob.as_bytes(),
            self.registration.as_bytes(),
        ])
    }

    /// Signs the confirmation. The caller answers for the law: persisted first.
    #[must_use]
    pub fn sign(&self, chain: &ChainId, key: &BlsKeyPair) -> BlsSignature {
        key.sign(&self.message(chain))
    }

    /// Whether `signature` is the confirmation of the node with `key`.
    #[must_use]
    pub fn verify(&self, chain: &ChainId, key: &BlsPublicKey, signature: &BlsSignature) -> bool {
        key.verify(&self.message(chain), signature)
    }
}

/// Why a certificate proves nothing.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum CertificateError {
    /// The bytes are no certificate of such a committee.
    #[error("malformed certificate")]
    Malformed,
    /// Signed by another epoch's committee.
    #[error("certificate of epoch {certificate}, not of epoch {committee}")]
    Epoch {
        /// The certificate's epoch.
        certificate: Epoch,
        /// The epoch of the committee that was to judge it.
        committee: Epoch,
    },
    /// The signers hold too few shards.
    #[error("signers hold {weight} of {n_shards} shards, which is no quorum")]
    NoQuorum {
        /// Shards of the signers.
        weight: u16,
        /// Shards of the network.
        n_shards: u16,
    },
    /// The aggregated signature is not the signers'.
    #[error("signature does not verify")]
    Signature,
}

impl From<AggregateError> for CertificateError {
    fn from(error: AggregateError) -> Self {
        match error {
            AggregateError::Malformed => Self::Malformed,
            AggregateError::Signature => Self::Signature,
        }
    }
}

/// A quorum's word that a blob is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What is certified.
    pub fact: ConfirmedFact,
    signers: Aggregate,
}

impl Certificate {
    /// Joins confirmations, given as committee positions and verified signatures over `fact`.
    ///
    /// # Errors
    /// [`CertificateError`] if they make no valid certificate; the signatures themselves must
    /// have been verified before, or the result will not verify.
    pub fn new(
        committee: &Committee,
        fact: ConfirmedFact,
        confirmations: &[(usize, BlsSignature)],
    ) -> Result<Self, CertificateError> {
        let signers = Aggregate::new(committee, confirmations)?;
        let certificate = Self { fact, signers };
        certificate.check_weight(committee)?;
        Ok(certificate)
    }

    /// Checks that a quorum of `committee` signed exactly this fact. Cheap checks come first.
    ///
    /// # Errors
    /// [`CertificateError`]: it proves nothing.
    pub fn verify(&self, committee: &Committee, chain: &ChainId) -> Result<(), CertificateError> {
        self.check_weight(committee)?;
        if self.signers.verify(committee, &self.fact.message(chain)) {
            Ok(())
        } else {
            Err(CertificateError::Signature)
        }
    }

    /// Shards of the signers.
    #[must_use]
    pub fn weight(&self, committee: &Committee) -> u16 {
        self.signers.weight(committee)
    }

    /// Committee positions of the signers, ascending.
    pub fn signers<'a>(&'a self, committee: &'a Committee) -> impl Iterator<Item = usize> + 'a {
        self.signers.signers(committee)
    }

    fn check_weight(&self, committee: &Committee) -> Result<(), CertificateError> {
        if self.fact.epoch != committee.epoch() {
            return Err(CertificateError::Epoch {
                certificate: self.fact.epoch,
                committee: committee.epoch(),
            });
        }
        if !self.signers.fits(committee) {
            return Err(CertificateError::Malformed);
        }
        let weight = self.weight(committee);
        if committee.is_quorum(weight) {
            Ok(())
        } else {
            Err(CertificateError::NoQuorum { weight, n_shards: committee.n_shards() })
        }
    }

    /// The canonical layout: epoch (u64 LE), blob id, registration, members (u16 LE), bitmap of
    /// signers (least significant bit first), aggregated signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.fact.epoch.get().to_le_bytes().to_vec();
        bytes.extend_from_slice(self.fact.blob.as_bytes());
        bytes.extend_from_slice(self.fact.registration.as_bytes());
        self.signers.write(&mut bytes);
        bytes
    }

    /// Parses the layout. The certificate is not verified.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        let malformed = CertificateError::Malformed;
        let (epoch, rest) = bytes.split_first_chunk::<8>().ok_or(malformed)?;
        let (blob, rest) = rest.split_first_chunk::<32>().ok_or(malformed)?;
        let (registration, rest) = rest.split_first_chunk::<32>().ok_or(malformed)?;
        Ok(Self {
            fact: ConfirmedFact {
                epoch: Epoch::new(u64::from_le_bytes(*epoch)),
                blob: BlobId::new(*blob),
                registration: RegistrationId::new(*registration),
            },
            signers: Aggregate::from_bytes(rest).ok_or(malformed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    fn fact() -> ConfirmedFact {
        ConfirmedFact {
            epoch: Epoch::new(0),
            blob: BlobId::new([1; 32]),
            registration: RegistrationId::new([2; 32]),
        }
    }

    #[test]
    fn the_signed_message_binds_every_part_at_its_place() {
        let chain = test_support::genesis(4, 4).chain_id();
        let fact = ConfirmedFact { epoch: Epoch::new(0x0102), ..fact() };
        let message = fact.message(&chain);
        assert_eq!(message[..32], SigningDomain::StorageConfirmation.tag());
        assert_eq!(message[32..64], *chain.as_bytes());
        assert_eq!(message[64..72], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[72..104], [1; 32]);
        assert_eq!(message[104..], [2; 32]);
    }

    #[test]
    fn signers_are_a_bitmap_in_committee_order() {
        let (genesis, keys) = (test_support::genesis(9, 9), test_support::node_keys(9));
        let (chain, committee) = (genesis.chain_id(), genesis.committee().unwrap());
        let sign = |position: usize| {
            let node = committee.members()[position].node;
            let (_, bls) = keys.iter().find(|(key, _)| key.public() == node).unwrap();
            (position, fact().sign(&chain, bls))
        };
        let confirmations: Vec<_> = [0, 2, 3, 4, 5, 7, 8].map(sign).into();
        let certificate = Certificate::new(&committee, fact(), &confirmations).unwrap();
        assert_eq!(certificate.verify(&committee, &chain), Ok(()));
        assert_eq!(certificate.weight(&committee), 7);
        let bytes = certificate.to_bytes();
        assert_eq!(bytes[72..76], [9, 0, 0b1011_1101, 0b0000_0001]);
        assert_eq!(bytes.len(), 76 + 96);
    }
}
