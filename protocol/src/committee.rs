//! The committee of an epoch: which storage node holds which shards, and what they weigh together.
//!
//! Whoever stores or reads a blob goes from the blob id to shards ([`BlobId::shard_of`]) and from
//! shards to members here. Weight is always counted in shards.
//!
//! Invariants: members are sorted by node id; every shard has exactly one holder; no member holds
//! more than `f` shards, so one faulty node never breaks the bound that storage relies on.
//!
//! [`BlobId::shard_of`]: crate::blob::BlobId::shard_of

mod aggregate;
mod assignment;
mod certificate;
mod quorum;

use std::{collections::BTreeMap, sync::OnceLock};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    bft,
    encoding::{ConfigError, EncodingConfig},
    hash::{Domain, Hash},
    index::{Epoch, ShardIndex},
    keys::{BlsPublicKey, NodeId, ParsedBlsKey},
};

pub use self::{
    assignment::{Candidate, award_shards, reassign, shard_cap},
    certificate::{CertificateError, CommitteeCertificate, CommitteeFact},
    quorum::QuorumTracker,
};

/// A storage node of a committee.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// Its ed25519 node key.
    pub node: NodeId,
    /// Its BLS key, whose proof of possession has been verified.
    pub bls_key: BlsPublicKey,
    /// Its shards, ascending.
    pub shards: Vec<ShardIndex>,
}

impl Member {
    /// Its weight: the number of its shards.
    #[must_use]
    pub fn weight(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("at most n_shards")
    }
}

/// Why members and shards do not make a committee.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CommitteeError {
    /// No such number of shards.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two members have one node key or one BLS key.
    #[error("node {0} is listed twice, or its BLS key is another node's too")]
    Duplicate(NodeId),
    /// The bytes are no committee.
    #[error("malformed committee")]
    Malformed,
    /// The shards cannot be placed so that no node holds more than the cap.
    #[error("{n_shards} shards do not fit on {nodes} nodes: no node may hold more than {cap}")]
    Cap {
        /// The network's shards.
        n_shards: u16,
        /// Candidates with stake.
        nodes: usize,
        /// Shards that one node may hold.
        cap: u16,
    },
}

/// The storage nodes of one epoch and their shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committee {
    epoch: Epoch,
    config: EncodingConfig,
    members: Vec<Member>,
    /// Per shard, the position of its holder in `members`.
    holders: Vec<u16>,
    parsed_keys: ParsedKeys,
}

/// The keys of the members, parsed when they are first needed.
#[derive(Clone, Debug, Default)]
struct ParsedKeys(OnceLock<Vec<ParsedBlsKey>>);

/// They say nothing that the members do not.
impl PartialEq for ParsedKeys {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ParsedKeys {}

impl Committee {
    /// The genesis committee: shards awarded to the candidates by stake.
    ///
    /// # Errors
    /// [`CommitteeError`]: the candidates cannot carry `n_shards` under the cap.
    ///
    /// # Panics
    /// With more than 65,536 candidates; a genesis lists far fewer.
    pub fn at_genesis(n_shards: u16, candidates: &[Candidate]) -> Result<Self, CommitteeError> {
        let config = EncodingConfig::new(n_shards)?;
        let mut candidates = candidates.to_vec();
        candidates.sort_by_key(|candidate| candidate.node);
        for (i, candidate) in candidates.iter().enumerate() {
            let twice = |other: &Candidate| {
                other.node == candidate.node || other.bls_key == candidate.bls_key
            };
            if candidates[i + 1..].iter().any(twice) {
                return Err(CommitteeError::Duplicate(candidate.node));
            }
        }
        let holders = award_shards(n_shards, &candidates)?;
        let mut members: Vec<_> = candidates
            .iter()
            .map(|c| Member { node: c.node, bls_key: c.bls_key, shards: Vec::new() })
            .collect();
        for (shard, holder) in (0..n_shards).zip(&holders) {
            members[usize::from(*holder)].shards.push(ShardIndex::new(shard));
        }
        let parsed_keys = ParsedKeys::default();
        Ok(Self { epoch: Epoch::new(0), config, members, holders, parsed_keys })
    }

    /// The same nodes with the same shards in another epoch.
    #[must_use]
    pub fn in_epoch(&self, epoch: Epoch) -> Self {
        Self { epoch, ..self.clone() }
    }

    /// The committee of `epoch` after this one: shards by the candidates' stakes, with the fewest
    /// moves. `returning` names, per shard, who takes it back if it is a candidate. Members are
    /// those who get a shard.
    ///
    /// # Errors
    /// [`CommitteeError::Cap`]: the candidates cannot carry all shards under the cap.
    pub fn reassigned(
        &self,
        epoch: Epoch,
        candidates: &[Candidate],
        returning: &[Option<NodeId>],
    ) -> Result<Self, CommitteeError> {
        let holder = |holder: &u16| self.members[usize::from(*holder)].node;
        let previous: Vec<_> = self.holders.iter().map(holder).collect();
        let next = reassign(&previous, candidates, returning)?;
        let mut members = BTreeMap::<NodeId, Vec<ShardIndex>>::new();
        for (shard, node) in (0_u16..).zip(&next) {
            members.entry(*node).or_default().push(ShardIndex::new(shard));
        }
        let mut with_keys = Vec::with_capacity(members.len());
        for candidate in candidates {
            if let Some(shards) = members.remove(&candidate.node) {
                let (node, bls_key) = (candidate.node, candidate.bls_key);
                with_keys.push(Member { node, bls_key, shards });
            }
        }
        with_keys.sort_by_key(|member| member.node);
        let mut holders = vec![0; next.len()];
        for (position, member) in (0_u16..).zip(&with_keys) {
            for shard in &member.shards {
                holders[shard.as_usize()] = position;
            }
        }
        let parsed_keys = ParsedKeys::default();
        Ok(Self { epoch, config: self.config, members: with_keys, holders, parsed_keys })
    }

    /// The layout: epoch (u64 LE), `n_shards` (u16 LE), members (u32 LE count; node key, BLS key,
    /// shards (u32 LE count, u16 LE each) of each).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let layout = (self.epoch, self.n_shards(), &self.members);
        borsh::to_vec(&layout).expect("writing to memory")
    }

    /// Parses the layout and checks the invariants, but for the cap and the BLS keys' proofs of
    /// possession: the caller has a hash of the bytes from whom it trusts.
    ///
    /// # Errors
    /// [`CommitteeError::Malformed`], [`CommitteeError::Config`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CommitteeError> {
        let layout: (Epoch, u16, Vec<Member>) =
            borsh::from_slice(bytes).map_err(|_| CommitteeError::Malformed)?;
        let (epoch, n_shards, members) = layout;
        let config = EncodingConfig::new(n_shards)?;
        let mut holders = vec![None; config.n()];
        let ascending = members.is_sorted_by(|a, b| a.node < b.node)
            && members.iter().all(|member| member.shards.is_sorted_by(|a, b| a < b));
        if !ascending {
            return Err(CommitteeError::Malformed);
        }
        for (position, member) in (0_u16..).zip(&members) {
            for shard in &member.shards {
                let holder = holders.get_mut(shard.as_usize()).ok_or(CommitteeError::Malformed)?;
                *holder = Some(position);
            }
        }
        let listed: usize = members.iter().map(|member| member.shards.len()).sum();
        let holders: Option<Vec<_>> = holders.into_iter().collect();
        match holders {
            Some(holders) if listed == holders.len() => {
                Ok(Self { epoch, config, members, holders, parsed_keys: ParsedKeys::default() })
            }
            _ => Err(CommitteeError::Malformed),
        }
    }

    /// The keyed hash of the layout: what headers and light peers know a committee by.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Domain::Committee.hash(&[&self.to_bytes()])
    }

    /// The epoch that this committee serves.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The encoding of the network.
    #[must_use]
    pub const fn config(&self) -> EncodingConfig {
        self.config
    }

    /// Shards of the network, the total weight.
    #[must_use]
    pub const fn n_shards(&self) -> u16 {
        self.config.n_shards()
    }

    /// The members, sorted by node id.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Their BLS keys, by position.
    fn parsed_keys(&self) -> &[ParsedBlsKey] {
        let parse = || self.members.iter().map(|member| (&member.bls_key).into()).collect();
        self.parsed_keys.0.get_or_init(parse)
    }

    /// Position of the member that holds `shard`.
    ///
    /// # Panics
    /// If `shard` is not below `n_shards`.
    #[must_use]
    pub fn holder(&self, shard: ShardIndex) -> usize {
        usize::from(self.holders[shard.as_usize()])
    }

    /// Position of the member with this node key.
    #[must_use]
    pub fn position(&self, node: &NodeId) -> Option<usize> {
        self.members.binary_search_by_key(node, |member| member.node).ok()
    }

    /// The member with this node key.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.position(node).map(|position| &self.members[position])
    }

    /// Whether `weight` shards are a quorum.
    #[must_use]
    pub const fn is_quorum(&self, weight: u16) -> bool {
        bft::is_quorum(weight, self.n_shards())
    }

    /// Whether `weight` shards must contain an honest one.
    #[must_use]
    pub const fn is_validity(&self, weight: u16) -> bool {
        bft::is_validity(weight, self.n_shards())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    #[test]
    fn every_shard_has_one_holder_who_lists_it() {
        for (nodes, n_shards) in [(4, 4), (7, 7), (5, 64), (30, 256)] {
            let committee = test_support::committee(nodes, n_shards);
            assert_eq!(committee.n_shards(), n_shards);
            assert!(committee.members().is_sorted_by_key(|member| member.node));
            for shard in (0..n_shards).map(ShardIndex::new) {
                let listing = committee.members().iter().enumerate();
                let listing = listing.filter(|(_, member)| member.shards.contains(&shard));
                let listing: Vec<_> = listing.map(|(position, _)| position).collect();
                assert_eq!(listing, [committee.holder(shard)], "shard {shard} of {n_shards}");
            }
        }
    }

    #[test]
    fn the_layout_is_parsed_strictly() {
        let committee = test_support::committee(5, 64).in_epoch(Epoch::new(3));
        let bytes = committee.to_bytes();
        let parsed = Committee::from_bytes(&bytes).unwrap();
        assert_eq!(parsed, committee);
        assert_eq!(parsed.hash(), committee.hash());
        assert_ne!(committee.hash(), committee.in_epoch(Epoch::new(4)).hash());
        assert_eq!(Committee::from_bytes(&bytes[1..]), Err(CommitteeError::Malformed));
        assert!(Committee::from_bytes(&[&bytes[..], &[0]].concat()).is_err());

        let change = |change: &dyn Fn(&mut Vec<Member>)| {
            let mut members = committee.members().to_vec();
            change(&mut members);
            let layout = (committee.epoch(), 64_u16, members);
            Committee::from_bytes(&borsh::to_vec(&layout).unwrap())
        };
        assert!(change(&|_| ()).is_ok());
        for (name, result) in [
            ("a shard without a holder", change(&|members| members[0].shards.clear())),
            ("no such shard", change(&|members| members[0].shards.push(ShardIndex::new(64)))),
            (
                "a shard with two holders",
                change(&|members| {
                    let last = members[1].shards[members[1].shards.len() - 1];
                    let last_of_first = members[0].shards.len() - 1;
                    members[0].shards[last_of_first] = last;
                    members[0].shards.sort_unstable();
                }),
            ),
            ("members out of order", change(&|members| members.swap(0, 1))),
            ("shards out of order", change(&|members| members[0].shards.swap(0, 1))),
            ("a member twice", change(&|members| members.insert(0, members[0].clone()))),
        ] {
            assert_eq!(result, Err(CommitteeError::Malformed), "{name}");
        }
    }

    #[test]
    fn quorum_and_validity_are_counted_in_shards() {
        let committee = test_support::committee(5, 64);
        assert!(!committee.is_quorum(42));
        assert!(committee.is_quorum(43));
        assert!(!committee.is_validity(21));
        assert!(committee.is_validity(22));
    }
}
