//! What a node commits itself to, what members acknowledge, and the certificate that they make.
//!
//! Within the window a node gossips its [`Commitment`] to the last value of its chain. Members that
//! got it in time and have checked the transcript acknowledge it with their BLS keys;
//! acknowledgements of more than `f` shards, the node's own not among them, make a
//! [`ChallengeCertificate`]: one honest member at least saw it right and in time.
//!
//! Invariants: the signed bytes bind chain, round, node and last value; nobody acknowledges itself;
//! byte layouts are canonical and parsed strictly.

use borsh::{BorshDeserialize, BorshSerialize};

use super::Universe;
use crate::{
    committee::{CertificateError, Committee, CommitteeCertificate, CommitteeFact},
    hash::Hash,
    index::{ChallengeRound, Epoch},
    keys::{BlsSignature, ChainId, NodeId, SigningDomain},
};

/// A node's word where its chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Commitment {
    /// The round.
    pub round: ChallengeRound,
    /// The node.
    pub node: NodeId,
    /// The last value of its chain.
    pub end: Hash,
}

/// Bytes that are no commitment.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("malformed commitment")]
pub struct MalformedCommitment;

impl Commitment {
    /// Bytes of the layout.
    pub const BYTES: usize = 8 + 32 + 32;

    /// The layout: round (u64 LE), node, end. It is not signed: gossip signs each message with its
    /// source's key, and its topic names the chain.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to memory")
    }

    /// Parses the layout, to the last byte. Whose it is says its envelope.
    ///
    /// # Errors
    /// [`MalformedCommitment`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedCommitment> {
        borsh::from_slice(bytes).map_err(|_| MalformedCommitment)
    }
}

/// What a member acknowledges: it had the commitment in time, and the transcript is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeFact {
    /// The epoch whose committee speaks.
    pub epoch: Epoch,
    /// The round.
    pub round: ChallengeRound,
    /// The node that has passed it.
    pub node: NodeId,
    /// The last value of its chain.
    pub end: Hash,
}

impl ChallengeFact {
    /// That `node` has passed the round of `universe` with a chain that ends so.
    #[must_use]
    pub fn new(universe: &Universe, node: NodeId, end: Hash) -> Self {
        Self { epoch: universe.epoch(), round: universe.round, node, end }
    }
}

impl CommitteeFact for ChallengeFact {
    const DOMAIN: SigningDomain = SigningDomain::ChallengeAcknowledgement;

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// More than `f`: one honest member at least. That the node is none of them is not asked here.
    fn is_proven_by(committee: &Committee, weight: u16) -> bool {
        committee.is_validity(weight)
    }

    /// Epoch (u64 LE), round (u64 LE), node, end.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.epoch.get().to_le_bytes());
        bytes.extend_from_slice(&self.round.get().to_le_bytes());
        bytes.extend_from_slice(self.node.as_bytes());
        bytes.extend_from_slice(self.end.as_bytes());
    }

    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (epoch, rest) = bytes.split_first_chunk::<8>()?;
        let (round, rest) = rest.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk::<32>()?;
        let (end, rest) = rest.split_first_chunk::<32>()?;
        let fact = Self {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            round: ChallengeRound::new(u64::from_le_bytes(*round)),
            node: NodeId::new(*node),
            end: Hash::new(*end),
        };
        Some((fact, rest))
    }
}

/// Why a certificate passes nobody.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeCertificateError {
    /// It is none of this committee, or too few have signed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The node is no member of the committee.
    #[error("node {0} is no member")]
    NoMember(NodeId),
    /// The node has acknowledged itself.
    #[error("node {0} is among those that acknowledge it")]
    Own(NodeId),
}

/// Acknowledgements of other members with more than `f` shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeCertificate(CommitteeCertificate<ChallengeFact>);

impl ChallengeCertificate {
    /// Joins acknowledgements, given as committee positions and signatures over `fact`. They must be
    /// valid, or the result will not verify.
    ///
    /// # Errors
    /// [`ChallengeCertificateError`] if they make no certificate.
    pub fn new(
        committee: &Committee,
        fact: ChallengeFact,
        acknowledgements: &[(usize, BlsSignature)],
    ) -> Result<Self, ChallengeCertificateError> {
        let certificate = Self(CommitteeCertificate::new(committee, fact, acknowledgements)?);
        certificate.check_own(committee)?;
        Ok(certificate)
    }

    /// Checks that other members of `committee` with more than `f` shards acknowledged exactly this.
    /// Cheap checks come first.
    ///
    /// # Errors
    /// [`ChallengeCertificateError`]: it proves nothing.
    pub fn verify(
        &self,
        committee: &Committee,
        chain: &ChainId,
    ) -> Result<(), ChallengeCertificateError> {
        self.check_own(committee)?;
        Ok(self.0.verify(committee, chain)?)
    }

    /// What is acknowledged.
    #[must_use]
    pub const fn fact(&self) -> &ChallengeFact {
        &self.0.fact
    }

    /// Committee positions of the signers, ascending.
    pub fn signers<'a>(&'a self, committee: &'a Committee) -> impl Iterator<Item = usize> + 'a {
        self.0.signers(committee)
    }

    fn check_own(&self, committee: &Committee) -> Result<(), ChallengeCertificateError> {
        let node = self.fact().node;
        let position = committee.position(&node);
        let position = position.ok_or(ChallengeCertificateError::NoMember(node))?;
        if self.signers(committee).any(|signer| signer == position) {
            return Err(ChallengeCertificateError::Own(node));
        }
        Ok(())
    }

    /// The canonical layout: the fact's (epoch, round, node, end), members (u16 LE), bitmap of
    /// signers, aggregated signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Parses the layout. The certificate is not verified.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self(CommitteeCertificate::from_bytes(bytes)?))
    }
}
