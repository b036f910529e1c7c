//! The genesis of a network: what every node and client starts from.
//!
//! It names the shards, the limits, the first committee, the first accounts with their WAL, and the
//! rules of the ledger. Its hash is the chain id,
//! which is part of every signature and protocol name, so two networks never mix. Where to find
//! the first peers is not part of it: a [`NetworkFile`] adds that. The genesis of a network that goes
//! on from a stopped one names that instead of members and accounts.
//!
//! Invariant: the chain id is the hash of the byte layout below, never of the JSON text, so
//! formatting a genesis file changes nothing.

mod predecessor;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    committee::{Candidate, Committee, CommitteeError},
    encoding::{ConfigError, EncodingConfig},
    hash::{Domain, Hash},
    keys::{BlsKeyPair, BlsPublicKey, BlsSignature, ChainId, KeyPair, NodeId},
    ledger::{AccountId, Amount, LedgerParameters, OutOfRange, Parameters},
};

pub use self::predecessor::Predecessor;

/// Longest name of a network in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Most accounts that a genesis may fund.
pub const MAX_ACCOUNTS: usize = 1 << 17;
/// Most members that a genesis may list. More than `n_shards` of them never hold a shard, and each
/// costs a pairing to check.
pub const MAX_MEMBERS: usize = 1024;

/// Why a genesis is none.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum GenesisError {
    /// The committee cannot be formed.
    #[error(transparent)]
    Committee(#[from] CommitteeError),
    /// No such number of shards.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A member does not prove that it holds its BLS key's secret.
    #[error("node {0} does not prove possession of its BLS key: create its entry again")]
    Possession(NodeId),
    /// The limit of a blob exceeds what the code can carry.
    #[error(
        "max_blob_bytes {bytes} is outside 1 ..= {max_bytes}, which {n_shards} shards can carry"
    )]
    MaxBlobBytes {
        /// What the genesis says.
        bytes: u64,
        /// What is possible.
        max_bytes: u64,
        /// The network's shards.
        n_shards: u16,
    },
    /// The name is empty or too long.
    #[error("the name of a network has 1 to {MAX_NAME_BYTES} bytes")]
    Name,
    /// The list of members is too long.
    #[error("a genesis lists at most {MAX_MEMBERS} members")]
    Members,
    /// The list of accounts is too long, or not ascending without repetition.
    #[error("a genesis funds at most {MAX_ACCOUNTS} accounts, each once, by ascending key")]
    Accounts,
    /// All WAL together exceeds what the ledger can count.
    #[error("accounts and stakes exceed {} in all", MAX_SUPPLY)]
    Supply,
    /// A rule of the ledger is out of range.
    #[error(transparent)]
    Parameters(#[from] OutOfRange),
    /// It names a predecessor, and members or accounts, which it has from there.
    #[error("a network that goes on from another has its members and accounts from there")]
    Predecessor,
    /// The first committee has not the genesis' number of shards.
    #[error("the first committee is of another number of shards than the genesis")]
    OtherShards,
}

/// A storage node as it introduces itself to the maker of a genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisMember {
    /// Its ed25519 node key.
    pub node: NodeId,
    /// Its BLS key.
    pub bls_key: BlsPublicKey,
    /// Its proof that it holds the BLS secret.
    pub bls_possession: BlsSignature,
    /// The account that runs it: it owns the stake, and earns.
    pub operator: AccountId,
    /// Its stake in WAL.
    pub stake_wal: u64,
}

impl GenesisMember {
    /// The entry of a node with these keys.
    #[must_use]
    pub fn new(node: &KeyPair, bls: &BlsKeyPair, operator: AccountId, stake_wal: u64) -> Self {
        Self {
            node: node.public(),
            bls_key: bls.public(),
            bls_possession: bls.prove_possession(&node.public()),
            operator,
            stake_wal,
        }
    }
}

/// An account that has WAL from the start.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct GenesisAccount {
    /// The account.
    pub account: AccountId,
    /// What it has.
    pub balance: Amount,
}

/// An account whose secret everybody knows, so that everybody can take from it: for test networks.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Faucet {
    /// The seed of its key, which is no secret.
    pub seed: Hash,
    /// What a decent user takes at a time.
    pub amount: Amount,
}

impl Faucet {
    /// The key that everybody has.
    #[must_use]
    pub fn key(&self) -> KeyPair {
        KeyPair::from_seed(*self.seed.as_bytes())
    }
}

/// The start of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The network's name, for people.
    pub name: String,
    /// Shards.
    pub n_shards: u16,
    /// The largest blob in bytes.
    pub max_blob_bytes: u64,
    /// The first committee.
    pub members: Vec<GenesisMember>,
    /// Who has WAL from the start, by ascending key, the members' stakes not counted.
    #[serde(default)]
    pub accounts: Vec<GenesisAccount>,
    /// The account that everybody may take from, if there is one.
    #[serde(default)]
    pub faucet: Option<Faucet>,
    /// The rules of the ledger.
    #[serde(default)]
    pub ledger: LedgerParameters,
    /// The stopped network that this one goes on from, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Box<Predecessor>>,
}

impl Genesis {
    /// The chain id: hash of name (u16 LE length), `n_shards` (u16 LE), `max_blob_bytes` (u64 LE),
    /// members (u16 LE count; node, BLS key, possession, operator, stake u64 LE each), then
    /// accounts, faucet and ledger parameters in borsh's layout, and so the predecessor if there is
    /// one.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        let count = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        let mut bytes = count(self.name.len()).to_vec();
        bytes.extend_from_slice(self.name.as_bytes());
        bytes.extend_from_slice(&self.n_shards.to_le_bytes());
        bytes.extend_from_slice(&self.max_blob_bytes.to_le_bytes());
        bytes.extend_from_slice(&count(self.members.len()));
        for member in &self.members {
            bytes.extend_from_slice(member.node.as_bytes());
            bytes.extend_from_slice(member.bls_key.as_bytes());
            bytes.extend_from_slice(member.bls_possession.as_bytes());
            bytes.extend_from_slice(member.operator.key().as_bytes());
            bytes.extend_from_slice(&member.stake_wal.to_le_bytes());
        }
        let ledger = (&self.accounts, &self.faucet, &self.ledger);
        borsh::to_writer(&mut bytes, &ledger).expect("writing to memory");
        if let Some(predecessor) = &self.predecessor {
            borsh::to_writer(&mut bytes, predecessor).expect("writing to memory");
        }
        ChainId::new(Domain::Genesis.hash(&[&bytes]))
    }

    /// All WAL that there is and will be.
    ///
    /// # Errors
    /// [`GenesisError::Supply`] above [`MAX_SUPPLY`].
    pub fn supply(&self) -> Result<Amount, GenesisError> {
        if let Some(predecessor) = &self.predecessor {
            let supply = Some(predecessor.supply);
            return supply.filter(|sum| *sum <= MAX_SUPPLY).ok_or(GenesisError::Supply);
        }
        let stakes = self.members.iter().map(|member| Amount::from_wal(member.stake_wal));
        let balances = self.accounts.iter().map(|account| account.balance);
        let sum = stakes.chain(balances).try_fold(Amount::ZERO, Amount::checked_add);
        sum.filter(|sum| *sum <= MAX_SUPPLY).ok_or(GenesisError::Supply)
    }

    /// What the network fixes for everyone.
    ///
    /// # Errors
    /// [`GenesisError::Supply`].
    pub fn parameters(&self) -> Result<Parameters, GenesisError> {
        Ok(Parameters {
            n_shards: self.n_shards,
            max_blob_bytes: self.max_blob_bytes,
            ledger: self.ledger,
            supply: self.supply()?,
        })
    }

    /// Checks everything and forms the first committee.
    ///
    /// # Errors
    /// [`GenesisError`]: no network can start from it.
    pub fn committee(&self) -> Result<Committee, GenesisError> {
        let config = EncodingConfig::new(self.n_shards)?;
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            return Err(GenesisError::Name);
        }
        if self.members.len() > MAX_MEMBERS {
            return Err(GenesisError::Members);
        }
        if self.accounts.len() > MAX_ACCOUNTS
            || !self.accounts.is_sorted_by(|a, b| a.account < b.account)
        {
            return Err(GenesisError::Accounts);
        }
        self.supply()?;
        if let Some(rule) = self.ledger.out_of_range() {
            return Err(rule.into());
        }
        let max_bytes = config.max_blob_bytes_possible();
        if self.max_blob_bytes == 0 || self.max_blob_bytes > max_bytes {
            return Err(GenesisError::MaxBlobBytes {
                bytes: self.max_blob_bytes,
                max_bytes,
                n_shards: self.n_shards,
            });
        }
        if let Some(predecessor) = &self.predecessor {
            return self.first_committee(predecessor);
        }
        for member in &self.members {
            if !member.bls_key.verify_possession(&member.node, &member.bls_possession) {
                return Err(GenesisError::Possession(member.node));
            }
        }
        let candidates: Vec<_> = self
            .members
            .iter()
            .map(|member| Candidate {
                node: member.node,
                bls_key: member.bls_key,
                stake: Amount::from_wal(member.stake_wal).frost(),
            })
            .collect();
        Ok(Committee::at_genesis(self.n_shards, &candidates)?)
    }

    /// The genesis of the network that goes on from this one.
    #[must_use]
    pub fn successor(&self, predecessor: Predecessor) -> Self {
        Self {
            members: Vec::new(),
            accounts: Vec::new(),
            predecessor: Some(Box::new(predecessor)),
            ..self.clone()
        }
    }

    /// The first committee of a network that goes on from another.
    fn first_committee(&self, predecessor: &Predecessor) -> Result<Committee, GenesisError> {
        if !self.members.is_empty() || !self.accounts.is_empty() {
            return Err(GenesisError::Predecessor);
        }
        let committee = Committee::from_bytes(&predecessor.committee)?;
        if committee.n_shards() != self.n_shards {
            return Err(GenesisError::OtherShards);
        }
        Ok(committee)
    }
}

/// The most WAL that a network can have: 2^60 WAL, so that sums and products stay in range.
pub const MAX_SUPPLY: Amount = Amount::from_wal(1 << 60);

/// What a newcomer is given: the genesis, and where to knock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// The genesis.
    pub genesis: Genesis,
    /// Multiaddresses of nodes to join through.
    #[serde(default)]
    pub bootstrap: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support;

    fn check(change: impl Fn(&mut Genesis), expected: &GenesisError) {
        let mut genesis = test_support::genesis(5, 7);
        assert!(genesis.committee().is_ok());
        change(&mut genesis);
        assert_eq!(genesis.committee().as_ref(), Err(expected));
    }

    #[test]
    fn names_and_lists_have_limits() {
        check(|genesis| genesis.name.clear(), &GenesisError::Name);
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        check(|genesis| genesis.name.clone_from(&long), &GenesisError::Name);
        let members = vec![test_support::genesis(4, 4).members[0]; MAX_MEMBERS + 1];
        check(|genesis| genesis.members.clone_from(&members), &GenesisError::Members);

        let mut longest = test_support::genesis(5, 7);
        longest.name = "x".repeat(MAX_NAME_BYTES);
        assert!(longest.committee().is_ok());
    }

    #[test]
    fn shards_and_blob_limit_are_what_the_code_can_carry() {
        for n_shards in [0, 3, 257] {
            let error = GenesisError::Config(ConfigError::Shards(n_shards));
            check(|genesis| genesis.n_shards = n_shards, &error);
        }
        let max_bytes = 12 << 20;
        for bytes in [0, max_bytes + 1, u64::MAX] {
            let error = GenesisError::MaxBlobBytes { bytes, max_bytes, n_shards: 7 };
            check(|genesis| genesis.max_blob_bytes = bytes, &error);
        }
        let mut smallest = test_support::genesis(5, 7);
        smallest.max_blob_bytes = 1;
        assert!(smallest.committee().is_ok());
    }

    #[test]
    fn rules_of_the_ledger_are_possible() {
        let (name, value) = ("heartbeat_ms", 30_000);
        let error = OutOfRange { name, value, min: 1, max: 20_000 };
        check(|genesis| genesis.ledger.heartbeat_ms = value, &GenesisError::Parameters(error));
    }

    #[test]
    fn members_prove_their_keys() {
        let node = test_support::genesis(5, 7).members[1].node;
        let error = GenesisError::Possession(node);
        check(
            |genesis| genesis.members[1].bls_possession = genesis.members[2].bls_possession,
            &error,
        );
        // Another's key and proof: a proof is bound to its node.
        check(
            |genesis| {
                genesis.members[1].bls_key = genesis.members[2].bls_key;
                genesis.members[1].bls_possession = genesis.members[2].bls_possession;
            },
            &error,
        );
    }

    #[test]
    fn members_carry_the_shards_and_come_once() {
        let cap = |nodes| CommitteeError::Cap { n_shards: 7, nodes, cap: 2 };
        let error = GenesisError::Committee(cap(3));
        check(|genesis| genesis.members.truncate(3), &error);
        let without_stake = |genesis: &mut Genesis| {
            genesis.members[0].stake_wal = 0;
            genesis.members[3].stake_wal = 0;
        };
        check(without_stake, &error);
        check(|genesis| genesis.members.clear(), &GenesisError::Committee(cap(0)));
        let node = test_support::genesis(5, 7).members[1].node;
        let error = GenesisError::Committee(CommitteeError::Duplicate(node));
        check(|genesis| genesis.members[4] = genesis.members[1], &error);
    }
}
