//! The state at genesis: accounts, nodes with their stakes, the first committee and prices. That of a
//! network that goes on from a stopped one is in the store before, in whole, and only loaded here.

use super::{
    Account, EpochRecord, IndexEntry, Key, LedgerParameters, LoadError, MemoryStore, NodeSettings,
    Prices, Record, ShardRecord, Stake, State, StateChange, StateReader, Summary, Supply, Terms,
    Timestamp, execute::new_node, overlay::Overlay,
};
use crate::{
    committee::Committee,
    genesis::{Genesis, GenesisError, GenesisMember},
    hash::Hash,
    index::{Epoch, Height, ShardIndex},
    ledger::Amount,
};

impl State {
    /// The state before the first block, and what it writes as version 0.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is no valid one.
    pub fn genesis(genesis: &Genesis) -> Result<(Self, StateChange), GenesisError> {
        let committee = genesis.committee()?;
        let parameters = genesis.parameters()?;
        let (summary, records) = records(genesis, &committee);
        let empty = MemoryStore::default();
        let mut overlay = Overlay::new(&empty, None);
        for (key, record) in records {
            if let Key::Node(node) = &key {
                overlay.add_index(IndexEntry::Registered(*node));
            }
            if let Key::Stake(account, node) = &key {
                overlay.add_index(IndexEntry::Staked(*account, *node));
            }
            overlay.put(key, record).expect("memory can be read");
        }
        let (root, change) = overlay.finish(Height::new(0)).expect("memory can be read");
        let first = (Timestamp::from_ms(0), root, summary);
        Ok((Self::at_genesis(genesis.chain_id(), parameters, committee, first), change))
    }

    /// The state before the first block of a network that goes on from a stopped one, from a store
    /// that holds it as version 0.
    ///
    /// # Errors
    /// [`LoadError`]: the genesis is none of that kind, or the store fails or holds another state.
    pub fn first_of_successor(
        genesis: &Genesis,
        reader: &dyn StateReader,
    ) -> Result<Self, LoadError> {
        let origin = Height::new(0);
        let other = || LoadError::OtherState(origin);
        let committee = genesis.committee()?;
        let parameters = genesis.parameters()?;
        let predecessor = genesis.predecessor.as_deref().ok_or_else(other)?;
        if super::state_root(reader, origin.get())? != predecessor.first_state {
            return Err(other());
        }
        let mut overlay = Overlay::new(reader, Some(origin));
        let summary = overlay.summary()?;
        let stored = overlay.committee(summary.epoch)?;
        let total = summary.supply.total();
        if stored.as_ref() != Some(&predecessor.committee)
            || summary.epoch != committee.epoch()
            || total != Some(predecessor.supply)
        {
            return Err(other());
        }
        let first = (predecessor.time, predecessor.first_state, summary);
        Self::at_genesis(genesis.chain_id(), parameters, committee, first).recalled(reader)
    }
}

impl State {
    /// What all states of a network that goes on from a stopped one have in common, to load a later
    /// one with. It says nothing of accounts, prices or the supply.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is no valid one.
    pub fn outline(genesis: &Genesis) -> Result<Self, GenesisError> {
        let committee = genesis.committee()?;
        let parameters = genesis.parameters()?;
        let none = Prices { storage: Amount::ZERO, write: Amount::ZERO, capacity_units: 0 };
        let summary = Summary {
            epoch: committee.epoch(),
            epoch_start: Timestamp::from_ms(0),
            prices: none,
            next_prices: None,
            selections: 0,
            selection_failed: None,
            resumed: None,
            certifications: 0,
            supply: Supply::default(),
        };
        let first = (Timestamp::from_ms(0), Hash::ZERO, summary);
        Ok(Self::at_genesis(genesis.chain_id(), parameters, committee, first))
    }
}

fn records(genesis: &Genesis, committee: &Committee) -> (Summary, Vec<(Key, Record)>) {
    let epoch = Epoch::new(0);
    let mut records = Vec::new();
    let mut supply = Supply::default();
    let add = |sum: &mut Amount, amount: Amount| {
        *sum = sum.checked_add(amount).expect("the genesis' supply has been checked");
    };
    for account in &genesis.accounts {
        let record = Account { balance: account.balance, nonce: 0 };
        records.push((Key::Account(account.account), Record::Account(record)));
        add(&mut supply.balances, account.balance);
    }
    for member in &genesis.members {
        add(&mut supply.stakes, Amount::from_wal(member.stake_wal));
        records.extend(member_records(member, &genesis.ledger));
    }
    let prices = Prices {
        storage: genesis.ledger.storage_price,
        write: genesis.ledger.write_price,
        capacity_units: genesis.ledger.capacity_units,
    };
    let summary = Summary {
        epoch,
        epoch_start: Timestamp::from_ms(0),
        prices,
        next_prices: None,
        selections: 0,
        selection_failed: None,
        resumed: None,
        certifications: 0,
        supply,
    };
    let first = EpochRecord { first_height: Some(Height::new(1)), ..EpochRecord::default() };
    records.push((Key::Epoch(epoch), Record::Epoch(first)));
    records.push((Key::Committee(epoch), Record::Committee(committee.to_bytes())));
    let terms = committee.members().iter();
    let terms = terms.map(|member| Terms { commission_bps: 0, paid_shards: member.weight() });
    records.push((Key::Terms(epoch), Record::Terms(terms.collect())));
    let holder = |shard| committee.members()[committee.holder(ShardIndex::new(shard))].node;
    let shards = (0..committee.n_shards()).map(|shard| ShardRecord::settled(holder(shard)));
    let shards = shards.collect();
    records.push((Key::Shards, Record::Shards(shards)));
    records.push((Key::Summary, Record::Summary(summary)));
    (summary, records)
}

/// A member with its first stake, which is its operator's.
fn member_records(member: &GenesisMember, ledger: &LedgerParameters) -> Vec<(Key, Record)> {
    let settings = NodeSettings {
        addresses: Vec::new(),
        commission_bps: 0,
        storage_price: ledger.storage_price,
        write_price: ledger.write_price,
        capacity_units: ledger.capacity_units,
    };
    let mut node = new_node(member.operator, member.bls_key, settings);
    let mut records = vec![(Key::BlsKey(member.bls_key), Record::BlsKey(member.node))];
    let amount = Amount::from_wal(member.stake_wal);
    if !amount.is_zero() {
        let shares = node.pool.mint(amount).expect("the genesis' supply has been checked");
        let stake = Stake { shares, ..Stake::default() };
        records.push((Key::Stake(member.operator, member.node), Record::Stake(stake)));
    }
    records.push((Key::Node(member.node), Record::Node(Box::new(node))));
    records
}
