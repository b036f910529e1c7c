//! The committee's word that a blob is inconsistent.
//!
//! Whoever meets an inconsistent blob proves it to the members
//! ([`InconsistencyProof`](crate::inconsistency::InconsistencyProof)). Each that verifies the proof
//! attests it with its BLS key. Attestations of more than `f` shards make an
//! [`InvalidityCertificate`]: one honest member at least has verified a proof. The ledger then marks
//! the blob invalid, for ever.
//!
//! Invariants: the signed bytes bind chain, epoch and blob; a certificate carries attestations of
//! one epoch's committee and is judged by that committee; its byte layout is canonical.

use serde::{Deserialize, Serialize};

use crate::{
    blob::BlobId,
    certificate::CertificateError,
    committee::{Aggregate, Committee},
    index::Epoch,
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, SigningDomain},
};

/// What a member attests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidityFact {
    /// The epoch whose committee speaks.
    pub epoch: Epoch,
    /// The blob.
    pub blob: BlobId,
}

impl InvalidityFact {
    /// What is signed: tag (32), chain id (32), epoch (u64 LE), blob id (32).
    #[must_use]
    pub fn message(&self, chain: &ChainId) -> Vec<u8> {
        SigningDomain::Invalidity.message(&[
            chain.as_bytes(),
            &self.epoch.get().to_le_bytes(),
            self.blob.as_bytes(),
        ])
    }

    /// Signs it. The caller has verified a proof.
    #[must_use]
    pub fn sign(&self, chain: &ChainId, key: &BlsKeyPair) -> BlsSignature {
        key.sign(&self.message(chain))
    }

    /// Whether `signature` is the attestation of the node with `key`.
    #[must_use]
    pub fn verify(&self, chain: &ChainId, key: &BlsPublicKey, signature: &BlsSignature) -> bool {
        key.verify(&self.message(chain), signature)
    }
}

/// Attestations of members with more than `f` shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidityCertificate {
    /// What is attested.
    pub fact: InvalidityFact,
    signers: Aggregate,
}

impl InvalidityCertificate {
    /// Joins attestations, given as committee positions and verified signatures over `fact`.
    ///
    /// # Errors
    /// [`CertificateError`] if they make no valid certificate.
    pub fn new(
        committee: &Committee,
        fact: InvalidityFact,
        attestations: &[(usize, BlsSignature)],
    ) -> Result<Self, CertificateError> {
        let signers = Aggregate::new(committee, attestations)?;
        let certificate = Self { fact, signers };
        certificate.check_weight(committee)?;
        Ok(certificate)
    }

    /// Checks that members of `committee` with more than `f` shards attested exactly this.
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

    /// Committee positions of the signers, ascending.
    pub fn signers<'a>(&'a self, committee: &'a Committee) -> impl Iterator<Item = usize> + 'a {
        self.signers.signers(committee)
    }

    fn check_weight(&self, committee: &Committee) -> Result<(), CertificateError> {
        let (certificate, epoch) = (self.fact.epoch, committee.epoch());
        if certificate != epoch {
            return Err(CertificateError::Epoch { certificate, committee: epoch });
        }
        if !self.signers.fits(committee) {
            return Err(CertificateError::Malformed);
        }
        let weight = self.signers.weight(committee);
        if committee.is_validity(weight) {
            Ok(())
        } else {
            Err(CertificateError::NoQuorum { weight, n_shards: committee.n_shards() })
        }
    }

    /// The canonical layout: epoch (u64 LE), blob id, members (u16 LE), bitmap of signers,
    /// aggregated signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.fact.epoch.get().to_le_bytes().to_vec();
        bytes.extend_from_slice(self.fact.blob.as_bytes());
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
        let epoch = Epoch::new(u64::from_le_bytes(*epoch));
        let fact = InvalidityFact { epoch, blob: BlobId::new(*blob) };
        Ok(Self { fact, signers: Aggregate::from_bytes(rest).ok_or(malformed)? })
    }
}
