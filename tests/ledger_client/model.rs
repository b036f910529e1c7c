//! What the swarm's WAL should be, computed from its blocks with sums of this file's own: accounts,
//! pools, rewards, stakes. It knows what the test does and no more: all shards stay ready with the
//! members that have them at genesis, nobody is slashed, nobody certifies.

use std::collections::BTreeMap;

use floe_protocol::{
    keys::NodeId,
    ledger::{AccountId, Block, Operation},
};

/// What nobody owns of a pool.
const SHARES: u128 = 1_000_000;

/// Sums of WAL and shares, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pool {
    pub(crate) stake: u128,
    pub(crate) shares: u128,
}

impl Pool {
    pub(crate) fn put(&mut self, amount: u128) -> u128 {
        let shares = amount * (self.shares + SHARES) / (self.stake + 1);
        self.stake += amount;
        self.shares += shares;
        shares
    }

    fn take(&mut self, shares: u128) -> u128 {
        let amount = shares * (self.stake + 1) / (self.shares + SHARES);
        self.stake -= amount;
        self.shares -= shares;
        amount
    }
}

/// A node of the swarm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) weight: u128,
    pub(crate) pool: Pool,
    pub(crate) unbonding: Pool,
    /// By epoch.
    pub(crate) incoming: BTreeMap<u64, u128>,
    /// As voted, as agreed for the next epoch, as agreed for the running one.
    pub(crate) commission: [u128; 3],
    /// Epoch, reward, commission of the last epoch.
    pub(crate) settled: Option<(u64, u128, u128)>,
}

/// What an account has with a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stake {
    pub(crate) shares: u128,
    pub(crate) incoming: BTreeMap<u64, u128>,
    /// Shares by the epoch from which on they are paid.
    pub(crate) unbonding: BTreeMap<u64, u128>,
}

/// The ledger.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) epoch_ms: u64,
    pub(crate) n_shards: u128,
    /// Of a unit: for an epoch, and once.
    pub(crate) prices: (u128, u128),
    pub(crate) operator: AccountId,
    pub(crate) accounts: BTreeMap<AccountId, u128>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) stakes: BTreeMap<(AccountId, NodeId), Stake>,
    pub(crate) epoch: u64,
    epoch_start: Option<u64>,
    selected: bool,
    buckets: BTreeMap<u64, u128>,
    /// Amount and shares of what entered a pool with an epoch and was not yet taken.
    rates: BTreeMap<(NodeId, u64), (u128, u128)>,
}

impl Model {
    pub(crate) fn new(
        epoch_ms: u64,
        n_shards: u128,
        prices: (u128, u128),
        operator: AccountId,
    ) -> Self {
        Self {
            epoch_ms,
            n_shards,
            prices,
            operator,
            accounts: BTreeMap::new(),
            nodes: BTreeMap::new(),
            stakes: BTreeMap::new(),
            epoch: 0,
            epoch_start: None,
            selected: false,
            buckets: BTreeMap::new(),
            rates: BTreeMap::new(),
        }
    }

    /// A node as the genesis has it.
    pub(crate) fn add_node(&mut self, id: NodeId, weight: u16, stake: u128) {
        let mut pool = Pool::default();
        let shares = pool.put(stake);
        let (unbonding, incoming) = (Pool::default(), BTreeMap::new());
        let weight = weight.into();
        let node = Node { weight, pool, unbonding, incoming, commission: [0; 3], settled: None };
        self.nodes.insert(id, node);
        self.stakes.insert((self.operator, id), Stake { shares, ..Stake::default() });
    }

    pub(crate) fn balance(&mut self, account: AccountId) -> &mut u128 {
        self.accounts.entry(account).or_default()
    }

    pub(crate) fn apply(&mut self, block: &Block) {
        assert_eq!(block.header.epoch.get(), self.epoch, "at height {}", block.header.height);
        for signed in &block.body.transactions {
            let transaction = &signed.transaction;
            let fee = transaction.fee.frost();
            *self.balance(transaction.sender) -= fee;
            *self.buckets.entry(self.epoch).or_default() += fee;
            for operation in &transaction.operations {
                self.operation(transaction.sender, operation);
            }
        }
        self.tick(block.header.time.ms());
    }

    fn operation(&mut self, sender: AccountId, operation: &Operation) {
        match operation {
            Operation::Transfer { to, amount } => {
                *self.balance(sender) -= amount.frost();
                *self.balance(*to) += amount.frost();
            }
            Operation::UpdateNode { node, settings } => {
                self.nodes.get_mut(node).expect("ours").commission[0] =
                    settings.commission_bps.into();
            }
            Operation::RegisterBlob { epochs, .. } => {
                // Blobs of one unit.
                let (storage, write) = self.prices;
                *self.balance(sender) -= write + storage * u128::from(*epochs);
                *self.buckets.entry(self.epoch).or_default() += write;
                for epoch in self.epoch..self.epoch + u64::from(*epochs) {
                    *self.buckets.entry(epoch).or_default() += storage;
                }
            }
            Operation::Stake { node, amount } => {
                *self.balance(sender) -= amount.frost();
                self.claim(sender, *node);
                let active = self.epoch + if self.selected { 2 } else { 1 };
                let all = &mut self.nodes.get_mut(node).expect("ours").incoming;
                let own = &mut self.stakes.entry((sender, *node)).or_default().incoming;
                for incoming in [all, own] {
                    *incoming.entry(active).or_default() += amount.frost();
                }
            }
            Operation::Unstake { node, shares } => {
                self.claim(sender, *node);
                let record = self.nodes.get_mut(node).expect("ours");
                let stake = self.stakes.get_mut(&(sender, *node)).expect("it has one");
                stake.shares -= shares;
                let unbonding = record.unbonding.put(record.pool.take(*shares));
                // Two whole epochs after the last one that it backs.
                let until = self.epoch + if self.selected { 2 } else { 1 } + 2;
                *stake.unbonding.entry(until).or_default() += unbonding;
            }
            Operation::Withdraw { node } => {
                self.claim(sender, *node);
                let record = self.nodes.get_mut(node).expect("ours");
                let stake = self.stakes.get_mut(&(sender, *node)).expect("it has one");
                let later = stake.unbonding.split_off(&(self.epoch + 1));
                let due = std::mem::replace(&mut stake.unbonding, later);
                let paid: u128 =
                    due.into_values().map(|shares| record.unbonding.take(shares)).sum();
                *self.balance(sender) += paid;
            }
            other => unreachable!("the test does nothing like {other:?}"),
        }
    }

    /// An account takes its shares of what has entered a pool.
    fn claim(&mut self, account: AccountId, node: NodeId) {
        let stake = self.stakes.entry((account, node)).or_default();
        let later = stake.incoming.split_off(&(self.epoch + 1));
        for (epoch, amount) in std::mem::replace(&mut stake.incoming, later) {
            let rate = self.rates.get_mut(&(node, epoch)).expect("it has entered");
            let shares = rate.1 * amount / rate.0;
            *rate = (rate.0 - amount, rate.1 - shares);
            stake.shares += shares;
        }
    }

    /// Selects the next committee at half of the epoch, and ends it at its end.
    fn tick(&mut self, time: u64) {
        let passed = time - *self.epoch_start.get_or_insert(time);
        if passed >= self.epoch_ms / 2 && !self.selected {
            self.selected = true;
            for node in self.nodes.values_mut() {
                node.commission[1] = node.commission[0];
            }
        }
        if passed >= self.epoch_ms {
            self.end_epoch();
            (self.epoch, self.epoch_start, self.selected) = (self.epoch + 1, Some(time), false);
        }
    }

    fn end_epoch(&mut self) {
        let bucket = self.buckets.remove(&self.epoch).unwrap_or(0);
        let (mut left, mut commissions) = (bucket, 0);
        for (id, node) in &mut self.nodes {
            let due = bucket * node.weight / self.n_shards;
            let commission = due * node.commission[2] / 10_000;
            node.pool.stake += due - commission;
            commissions += commission;
            left -= due;
            if due > 0 {
                node.settled = Some((self.epoch, due - commission, commission));
            }
            node.commission[2] = node.commission[1];
            if let Some(amount) = node.incoming.remove(&(self.epoch + 1)) {
                let shares = node.pool.put(amount);
                self.rates.insert((*id, self.epoch + 1), (amount, shares));
            }
        }
        *self.balance(self.operator) += commissions;
        *self.buckets.entry(self.epoch + 1).or_default() += left;
    }
}
