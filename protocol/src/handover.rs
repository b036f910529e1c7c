//! Hand-over certificates: one aggregated signature to follow an epoch's end by.
//!
//! The last header of an epoch names the next epoch's committee. Its commit certificate proves
//! that, by a signature of each member; it is what consensus leaves. A hand-over certificate
//! proves the same by one BLS signature of a quorum of the committee whose epoch has ended, for
//! those who only follow committees ([`light`](crate::light)). Members sign it at the boundary;
//! whoever serves light peers asks them after each boundary
//! ([`HandoverCollection`](crate::light::HandoverCollection)).
//!
//! Invariants: the signed bytes bind chain, epoch, height and header, and so the next committee; a
//! member signs only a header that it has committed and executed itself, which is one of each
//! epoch, so a signature made again is the same; a certificate carries signatures of the ended
//! epoch's committee only and is judged by it; its byte layout is canonical.
//!
//! Keys are safe to aggregate: members of a genesis and nodes registered later have proven that
//! they hold the secret of their BLS key. Deliberately not here: a punishment for signing two
//! headers. Two certificates that exclude each other name their signers, but the ledger slashes for
//! votes alone.

use std::io::{self, Read, Write};

use crate::{
    certificate::CertificateError,
    committee::{Aggregate, Committee},
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, SigningDomain},
    ledger::{BlockHash, Header},
};

/// Most members that a committee can have: one for each shard.
const MAX_MEMBERS: u16 = 256;

/// What a member signs at the end of its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoverFact {
    /// The epoch that has ended, whose committee speaks.
    pub epoch: Epoch,
    /// The height of its last block.
    pub height: Height,
    /// The hash of that block's header, which names the next committee.
    pub last: BlockHash,
}

impl HandoverFact {
    /// That `last` ends its epoch. The caller answers for it.
    #[must_use]
    pub fn new(last: &Header) -> Self {
        Self { epoch: last.epoch, height: last.height, last: last.hash() }
    }

    /// What is signed: tag (32), chain id (32), epoch (u64 LE), height (u64 LE), header hash (32).
    #[must_use]
    pub fn message(&self, chain: &ChainId) -> Vec<u8> {
        SigningDomain::Handover.message(&[
            chain.as_bytes(),
            &self.epoch.get().to_le_bytes(),
            &self.height.get().to_le_bytes(),
            self.last.hash().as_bytes(),
        ])
    }

    /// Signs it. The caller has committed and executed the block.
    #[must_use]
    pub fn sign(&self, chain: &ChainId, key: &BlsKeyPair) -> BlsSignature {
        key.sign(&self.message(chain))
    }

    /// Whether `signature` is that of the member with `key`.
    #[must_use]
    pub fn verify(&self, chain: &ChainId, key: &BlsPublicKey, signature: &BlsSignature) -> bool {
        key.verify(&self.message(chain), signature)
    }
}

/// A quorum's word that a header ended its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoverCertificate {
    /// What is certified.
    pub fact: HandoverFact,
    signers: Aggregate,
}

impl HandoverCertificate {
    /// Joins signatures over `fact`, each with its signer's position in `committee`. The
    /// signatures must be valid, or the result will not verify.
    ///
    /// # Errors
    /// [`CertificateError`] if they make no certificate.
    pub fn new(
        committee: &Committee,
        fact: HandoverFact,
        signatures: &[(usize, BlsSignature)],
    ) -> Result<Self, CertificateError> {
        let signers = Aggregate::new(committee, signatures)?;
        let certificate = Self { fact, signers };
        certificate.check_weight(committee)?;
        Ok(certificate)
    }

    /// Checks that a quorum of `committee` signed exactly this. Cheap checks come first.
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
        let (certificate, epoch) = (self.fact.epoch, committee.epoch());
        if certificate != epoch {
            return Err(CertificateError::Epoch { certificate, committee: epoch });
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

    /// The canonical layout: epoch (u64 LE), height (u64 LE), header hash, members (u16 LE), bitmap
    /// of signers (least significant bit first), aggregated signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.fact.epoch.get().to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.fact.height.get().to_le_bytes());
        bytes.extend_from_slice(self.fact.last.hash().as_bytes());
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
        let (height, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
        let (last, rest) = rest.split_first_chunk::<32>().ok_or(malformed)?;
        let fact = HandoverFact {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            height: Height::new(u64::from_le_bytes(*height)),
            last: BlockHash::new(Hash::new(*last)),
        };
        Ok(Self { fact, signers: Aggregate::from_bytes(rest).ok_or(malformed)? })
    }
}

/// In an answer it stands as its own layout, which says how long it is.
impl borsh::BorshSerialize for HandoverCertificate {
    fn serialize<W: Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(&self.to_bytes())
    }
}

impl borsh::BorshDeserialize for HandoverCertificate {
    fn deserialize_reader<R: Read>(reader: &mut R) -> io::Result<Self> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let mut bytes = vec![0; 8 + 8 + 32 + 2];
        reader.read_exact(&mut bytes)?;
        let members = bytes.last_chunk().map_or(u16::MAX, |members| u16::from_le_bytes(*members));
        if members > MAX_MEMBERS {
            return Err(malformed());
        }
        let mut rest = vec![0; usize::from(members.div_ceil(8)) + 96];
        reader.read_exact(&mut rest)?;
        bytes.append(&mut rest);
        Self::from_bytes(&bytes).map_err(|_| malformed())
    }
}
