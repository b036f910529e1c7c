//! Storage confirmations and the certificate that a quorum of them makes.
//!
//! A node signs a confirmation only when every pair that the current committee gives it is
//! durable. The writer collects confirmations of a quorum of shards and joins them into a
//! [`Certificate`]: the point of availability of a blob, from which the swarm answers for it.
//!
//! Invariant: the signed bytes bind chain, epoch, blob and registration. Who signs keeps the law of
//! a storage node: persisted first.

use serde::{Deserialize, Serialize};

use crate::{
    blob::BlobId,
    committee::{Committee, CommitteeCertificate, CommitteeFact},
    index::Epoch,
    keys::SigningDomain,
    registration::RegistrationId,
};

pub use crate::committee::CertificateError;

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

impl CommitteeFact for ConfirmedFact {
    const DOMAIN: SigningDomain = SigningDomain::StorageConfirmation;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_proven_by(committee: &Committee, weight: u16) -> bool {
        committee.is_quorum(weight)
    }

    /// Epoch (u64 LE), blob id, registration.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.epoch.get().to_le_bytes());
        bytes.extend_from_slice(self.blob.as_bytes());
        bytes.extend_from_slice(self.registration.as_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (epoch, rest) = bytes.split_first_chunk::<8>()?;
        let (blob, rest) = rest.split_first_chunk::<32>()?;
        let (registration, rest) = rest.split_first_chunk::<32>()?;
        let fact = Self {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            blob: BlobId::new(*blob),
            registration: RegistrationId::new(*registration),
        };
        Some((fact, rest))
    }
}

/// A quorum's word that a blob is stored.
pub type Certificate = CommitteeCertificate<ConfirmedFact>;

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
