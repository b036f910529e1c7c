//! Nodes that join a running swarm, leave it, and lose their disks.
//!
//! What the ledger says is asked of it through a client, with proofs, and waiting means waiting for
//! its blocks. Invariant: the swarm's wallet is every node's operator, and owns all of their stake.

use std::{ops::Range, time::Duration};

use anyhow::{Context, bail};
use floe_node::{
    Client,
    client::{LedgerError, ledger::RunningEpoch},
    key_file::NodeKeys,
};
use floe_protocol::{
    index::Epoch,
    ledger::{AccountId, Amount, NodeIdentity, NodeSettings, Operation},
};
use futures::future::join_all;
use tokio::time::timeout;

use super::Cluster;

/// How long a block may take before the ledger is asked for its newest one.
const BLOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a client that has just started may take to find the members of a busy machine's swarm.
const FINDING_MS: u64 = 60_000;

impl Cluster {
    /// Adds a node, starts it, and enters it in the ledger with a stake from the swarm's wallet.
    /// Returns its number. It serves from the epoch on for which it is selected.
    ///
    /// # Errors
    /// If it does not start, or the ledger refuses it.
    pub async fn join(&mut self, stake: Amount) -> anyhow::Result<usize> {
        self.join_many(1, stake, None).await?;
        Ok(self.nodes.len() - 1)
    }

    /// Adds so many nodes as [`Self::join`] does, all at once, with stores that may use
    /// `quota_bytes` of disk.
    ///
    /// # Errors
    /// As of [`Self::join`].
    pub async fn join_many(
        &mut self,
        count: usize,
        stake: Amount,
        quota_bytes: Option<u64>,
    ) -> anyhow::Result<Range<usize>> {
        let nodes = self.nodes.len()..self.nodes.len() + count;
        let mut operations = Vec::with_capacity(2 * count);
        for node in nodes.clone() {
            let keys = self.files.create_node(node)?;
            self.add_slot(keys.node.public())?;
            self.nodes[node].quota_bytes = quota_bytes;
            operations.extend(self.entry_of(&keys, stake));
        }
        let bootstrap = self.bootstrap();
        let launches = nodes.clone().map(|node| self.launch(node, bootstrap.clone()));
        for (node, running) in nodes.clone().zip(join_all(launches).await) {
            self.on_started(node, running?)?;
        }
        self.publish_network()?;
        self.submit(operations).await.with_context(|| format!("nodes {nodes:?}"))?;
        Ok(nodes)
    }

    /// What enters a node in the ledger.
    fn entry_of(&self, keys: &NodeKeys, stake: Amount) -> [Operation; 2] {
        let chain = self.network.genesis.chain_id();
        let operator = AccountId::new(self.wallet.public());
        let identity = NodeIdentity::new(&chain, &operator, &keys.node, &keys.bls);
        let rules = &self.network.genesis.ledger;
        let settings = NodeSettings {
            addresses: Vec::new(),
            commission_bps: 0,
            storage_price: rules.storage_price,
            write_price: rules.write_price,
            capacity_units: rules.capacity_units,
        };
        let register = Operation::RegisterNode { identity: Box::new(identity), settings };
        [register, Operation::Stake { node: keys.node.public(), amount: stake }]
    }

    /// Takes all stake out of a node. It is to run on until nobody needs it:
    /// [`RunningEpoch::needs`].
    ///
    /// # Errors
    /// If there is no such node, or it has no stake of the swarm's wallet.
    pub async fn leave(&self, node: usize) -> anyhow::Result<()> {
        self.check_exists(node)?;
        let id = self.nodes[node].id;
        let client = self.client().await?;
        let stake = client.ledger().staked(AccountId::new(self.wallet.public()), id).await;
        client.shutdown().await;
        let shares = stake?.map_or(0, |own| own.worth.shares);
        if shares == 0 {
            bail!("node {node} has no stake");
        }
        self.submit(vec![Operation::Unstake { node: id, shares }]).await
    }

    /// Empties the disk of a node that does not run: slivers and ledger are gone, its keys and what
    /// it has voted stay. Its next start is with `--repair`.
    ///
    /// # Errors
    /// If there is no such node, it runs, or its files cannot be removed.
    pub fn wipe(&mut self, node: usize) -> anyhow::Result<()> {
        self.check_exists(node)?;
        if self.is_running(node) {
            bail!("node {node} is running");
        }
        self.files.empty(node)?;
        self.nodes[node].emptied = true;
        Ok(())
    }

    async fn submit(&self, operations: Vec<Operation>) -> anyhow::Result<()> {
        let client = self.client_with(|config| config.connect_timeout_ms = FINDING_MS).await?;
        let submitted = client.ledger().submit(operations, &self.wallet).await;
        client.shutdown().await;
        Ok(submitted.map(drop)?)
    }
}

/// Waits until the running epoch, as the ledger proves it, is as wanted.
///
/// # Errors
/// If the ledger cannot be asked. It does not end by itself: give it a deadline.
pub async fn wait_for_epoch(
    client: &Client,
    wanted: impl Fn(&RunningEpoch) -> bool,
) -> Result<RunningEpoch, LedgerError> {
    let ledger = client.ledger();
    loop {
        let running = ledger.running_epoch().await?;
        if wanted(&running) {
            return Ok(running);
        }
        // Without a block for a while the next question finds the newest one.
        drop(timeout(BLOCK_PATIENCE, ledger.reached(running.height.next())).await);
    }
}

/// Waits until an epoch runs, or a later one.
///
/// # Errors
/// As of [`wait_for_epoch`].
pub async fn reach_epoch(client: &Client, epoch: Epoch) -> Result<RunningEpoch, LedgerError> {
    wait_for_epoch(client, |running| running.summary.epoch >= epoch).await
}
