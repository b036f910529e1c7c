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
//! epoch, so a signature made again is the same.
//!
//! Keys are safe to aggregate: members of a genesis and nodes registered later have proven that
//! they hold the secret of their BLS key. Deliberately not here: a punishment for signing two
//! headers. Two certificates that exclude each other name their signers, but the ledger slashes for
//! votes alone.

use std::io::{self, Read, Write};

use crate::{
    committee::{Committee, CommitteeCertificate, CommitteeFact},
    encoding::MAX_SHARDS,
    hash::Hash,
    index::{Epoch, Height},
    keys::SigningDomain,
    ledger::{BlockHash, Header},
};

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
}

impl CommitteeFact for HandoverFact {
    const DOMAIN: SigningDomain = SigningDomain::Handover;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_proven_by(committee: &Committee, weight: u16) -> bool {
        committee.is_quorum(weight)
    }

    /// Epoch (u64 LE), height (u64 LE), header hash.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.epoch.get().to_le_bytes());
        bytes.extend_from_slice(&self.height.get().to_le_bytes());
        bytes.extend_from_slice(self.last.hash().as_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (epoch, rest) = bytes.split_first_chunk::<8>()?;
        let (height, rest) = rest.split_first_chunk::<8>()?;
        let (last, rest) = rest.split_first_chunk::<32>()?;
        let fact = Self {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            height: Height::new(u64::from_le_bytes(*height)),
            last: BlockHash::new(Hash::new(*last)),
        };
        Some((fact, rest))
    }
}

/// A quorum's word that a header ended its epoch.
pub type HandoverCertificate = CommitteeCertificate<HandoverFact>;

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
        // One for each shard at most.
        if members > MAX_SHARDS {
            return Err(malformed());
        }
        let mut rest = vec![0; usize::from(members.div_ceil(8)) + 96];
        reader.read_exact(&mut rest)?;
        bytes.append(&mut rest);
        Self::from_bytes(&bytes).map_err(|_| malformed())
    }
}
