//! A committee's word: what enough of its members have signed, with one BLS signature for all.
//!
//! The certificates of the protocol differ in what they state and in how many shards must say so:
//! [storage](crate::certificate), [invalidity](crate::invalidity) and
//! [hand-overs](crate::handover). All else is here.
//!
//! Invariants: a certificate carries signatures of one epoch's committee only and is judged by that
//! committee; its byte layout is canonical (signers as a bitmap in committee order, spare bits
//! zero).

use super::{Committee, aggregate::Aggregate};
use crate::{
    index::Epoch,
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, SigningDomain},
};

/// What members of a committee can state together.
pub trait CommitteeFact: Sized {
    /// Tells it from whatever else is signed.
    const DOMAIN: SigningDomain;

    /// The epoch whose committee speaks.
    fn epoch(&self) -> Epoch;

    /// Whether members with so many shards of `committee` prove it.
    fn is_proven_by(committee: &Committee, weight: u16) -> bool;

    /// Appends the layout, whose length is the same for all such facts.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Parses the layout from the beginning of `bytes`; what follows it is left.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])>;

    /// What is signed: tag and chain id (32 bytes each), then the layout.
    #[must_use]
    fn message(&self, chain: &ChainId) -> Vec<u8> {
        let mut layout = Vec::new();
        self.write(&mut layout);
        Self::DOMAIN.message(&[chain.as_bytes(), &layout])
    }

    /// Signs it. The caller answers for its truth.
    #[must_use]
    fn sign(&self, chain: &ChainId, key: &BlsKeyPair) -> BlsSignature {
        key.sign(&self.message(chain))
    }

    /// Whether `signature` is that of the member with `key`.
    #[must_use]
    fn verify(&self, chain: &ChainId, key: &BlsPublicKey, signature: &BlsSignature) -> bool {
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

/// A fact with the signatures that prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitteeCertificate<F> {
    /// What is certified.
    pub fact: F,
    signers: Aggregate,
}

impl<F: CommitteeFact> CommitteeCertificate<F> {
    /// Joins signatures over `fact`, each with its signer's position in `committee`. They must have
    /// been verified before, or the result will not verify.
    ///
    /// # Errors
    /// [`CertificateError`] if they make no certificate.
    pub fn new(
        committee: &Committee,
        fact: F,
        signatures: &[(usize, BlsSignature)],
    ) -> Result<Self, CertificateError> {
        let signers = Aggregate::new(committee, signatures)?;
        let certificate = Self { fact, signers };
        certificate.check_weight(committee)?;
        Ok(certificate)
    }

    /// Checks that enough members of `committee` signed exactly this fact. Cheap checks come first.
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
        let (certificate, epoch) = (self.fact.epoch(), committee.epoch());
        if certificate != epoch {
            return Err(CertificateError::Epoch { certificate, committee: epoch });
        }
        if !self.signers.fits(committee) {
            return Err(CertificateError::Malformed);
        }
        let weight = self.weight(committee);
        if F::is_proven_by(committee, weight) {
            Ok(())
        } else {
            Err(CertificateError::NoQuorum { weight, n_shards: committee.n_shards() })
        }
    }

    /// The canonical layout: the fact's, members (u16 LE), bitmap of signers (least significant bit
    /// first), aggregated signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fact.write(&mut bytes);
        self.signers.write(&mut bytes);
        bytes
    }

    /// Parses the layout. The certificate is not verified.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        let (fact, rest) = F::parse(bytes).ok_or(CertificateError::Malformed)?;
        let signers = Aggregate::from_bytes(rest).ok_or(CertificateError::Malformed)?;
        Ok(Self { fact, signers })
    }
}
