//! What tests, benchmarks and examples of all crates make from a seed: blobs, keys, networks
//! (feature `test-support`).

mod chain;

use bytes::Bytes;

use crate::{
    committee::Committee,
    genesis::{Faucet, Genesis, GenesisAccount, GenesisMember},
    hash::Hash,
    keys::{BlsKeyPair, KeyPair},
    ledger::{AccountId, Amount, LedgerParameters},
};

pub use self::chain::Chain;

/// The node and BLS keys of `nodes` nodes, always the same.
#[must_use]
pub fn node_keys(nodes: usize) -> Vec<(KeyPair, BlsKeyPair)> {
    (0..nodes)
        .map(|i| {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
            (KeyPair::from_seed(seed), BlsKeyPair::from_seed(seed))
        })
        .collect()
}

/// The key of an account that [`genesis`] funds, for `i` below 8.
#[must_use]
pub fn account_key(i: u8) -> KeyPair {
    KeyPair::from_seed([100 + i; 32])
}

/// The key of the operator of node `i`.
#[must_use]
pub fn operator_key(i: usize) -> KeyPair {
    let mut seed = [3; 32];
    seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
    KeyPair::from_seed(seed)
}

/// A genesis of `nodes` nodes with equal stakes, eight accounts with 1,000 WAL each, and a faucet.
#[must_use]
pub fn genesis(nodes: usize, n_shards: u16) -> Genesis {
    let members = node_keys(nodes);
    let config = crate::encoding::EncodingConfig::new(n_shards).expect("a valid number of shards");
    let faucet = Faucet { seed: Hash::new([99; 32]), amount: Amount::from_wal(10) };
    let account = |key: KeyPair| GenesisAccount {
        account: AccountId::new(key.public()),
        balance: Amount::from_wal(1_000),
    };
    let mut accounts: Vec<_> = (0..8).map(|i| account(account_key(i))).collect();
    accounts.push(account(faucet.key()));
    accounts.sort_by_key(|account| account.account);
    let member = |(i, (node, bls)): (usize, &(KeyPair, BlsKeyPair))| {
        GenesisMember::new(node, bls, AccountId::new(operator_key(i).public()), 1_000)
    };
    Genesis {
        name: "test".into(),
        n_shards,
        max_blob_bytes: config.default_max_blob_bytes(),
        members: members.iter().enumerate().map(member).collect(),
        accounts,
        faucet: Some(faucet),
        ledger: LedgerParameters::default(),
        predecessor: None,
    }
}

/// The committee of [`genesis`].
///
/// # Panics
/// If so few nodes cannot carry `n_shards`.
#[must_use]
pub fn committee(nodes: usize, n_shards: u16) -> Committee {
    genesis(nodes, n_shards).committee().expect("enough nodes")
}

/// `len` bytes that depend on `seed` alone and look random.
#[must_use]
pub fn blob(seed: u64, len: usize) -> Bytes {
    // SplitMix64: fast enough for blobs of 64 MiB, and fixed for ever, as golden vectors use it.
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}
