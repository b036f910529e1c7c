//! One BLS signature in place of many: members of a committee who signed the same message.
//!
//! Certificates are made of it. What is signed, and how much weight it takes, is theirs to say.
//!
//! Invariant: the byte layout is canonical: members (u16 LE), bitmap of signers in committee order
//! (least significant bit first, spare bits zero), aggregated signature.

use super::{CertificateError, Committee, QuorumTracker};
use crate::keys::BlsSignature;

/// Members who signed, and their signatures joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aggregate {
    signers: Vec<bool>,
    signature: BlsSignature,
}

impl Aggregate {
    /// Joins verified signatures over one message, each with its signer's position.
    pub(super) fn new(
        committee: &Committee,
        signatures: &[(usize, BlsSignature)],
    ) -> Result<Self, CertificateError> {
        let mut signers = vec![false; committee.members().len()];
        for (position, _) in signatures {
            let signer = signers.get_mut(*position).ok_or(CertificateError::Malformed)?;
            if std::mem::replace(signer, true) {
                return Err(CertificateError::Malformed);
            }
        }
        let signatures: Vec<_> = signatures.iter().map(|(_, signature)| *signature).collect();
        let signature =
            BlsSignature::aggregate(&signatures).map_err(|_| CertificateError::Signature)?;
        Ok(Self { signers, signature })
    }

    /// Whether it is one of a committee with as many members.
    pub(super) fn fits(&self, committee: &Committee) -> bool {
        self.signers.len() == committee.members().len()
    }

    /// Shards of the signers.
    pub(super) fn weight(&self, committee: &Committee) -> u16 {
        let mut tracker = QuorumTracker::new(committee);
        for position in self.signers(committee) {
            tracker.add(committee, position);
        }
        tracker.weight()
    }

    /// Positions of the signers, ascending.
    pub(super) fn signers<'a>(
        &'a self,
        committee: &'a Committee,
    ) -> impl Iterator<Item = usize> + 'a {
        let positions = self.signers.iter().take(committee.members().len()).enumerate();
        positions.filter(|(_, signed)| **signed).map(|(position, _)| position)
    }

    /// Whether all signers signed `message`.
    pub(super) fn verify(&self, committee: &Committee, message: &[u8]) -> bool {
        let keys: Vec<_> = self.signers(committee).map(|at| &committee.parsed_keys()[at]).collect();
        self.signature.verify_aggregate(message, &keys)
    }

    /// Appends the layout.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let members = u16::try_from(self.signers.len()).expect("at most n_shards members");
        bytes.extend_from_slice(&members.to_le_bytes());
        bytes.extend(self.signers.chunks(8).map(|bits| {
            bits.iter().enumerate().fold(0_u8, |byte, (i, bit)| byte | (u8::from(*bit) << i))
        }));
        bytes.extend_from_slice(self.signature.as_bytes());
    }

    /// Parses the layout, to the last byte.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (members, rest) = bytes.split_first_chunk::<2>()?;
        let members = usize::from(u16::from_le_bytes(*members));
        let (bitmap, signature) = rest.split_at_checked(members.div_ceil(8))?;
        let signature: &[u8; 96] = signature.try_into().ok()?;
        let bit = |i: usize| (bitmap[i / 8] >> (i % 8)) & 1 == 1;
        if (members..8 * bitmap.len()).any(bit) {
            return None;
        }
        let signers = (0..members).map(bit).collect();
        Some(Self { signers, signature: BlsSignature::new(*signature) })
    }
}
