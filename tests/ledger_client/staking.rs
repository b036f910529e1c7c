//! Stake, delegate, earn, unstake, withdraw, through real nodes and a client: to the FROST what a
//! model of the test's own makes of the same blocks.

use std::time::Duration;

use floe_node::client::{Client, LedgerClient};
use floe_protocol::{
    blob::BlobHeader,
    hash::Hash,
    index::{Epoch, Height},
    keys::{KeyPair, NodeId},
    ledger::{Amount, Key, LedgerParameters, NodeSettings, Operation, Record},
};
use floe_testnet::{Cluster, cluster::reach_epoch};
use tokio::time::timeout;

use super::{
    account,
    model::{Model, Pool},
};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(200);
const WAL: u128 = 1_000_000_000;
const COMMISSION_BPS: u16 = 1_234;
/// What the delegators stake.
const STAKES: [u128; 2] = [333_333_333_333, 7 * WAL + 1];

async fn until(client: &Client, epoch: Epoch) {
    timeout(DEADLINE, reach_epoch(client, epoch)).await.expect("epochs go on").unwrap();
}

/// Somebody pays for a blob of one unit.
fn business(i: u8) -> Operation {
    let header = BlobHeader { n_shards: 7, len: 1_000, root: Hash::new([i; 32]) };
    let max_payment = Amount::from_wal(1);
    Operation::RegisterBlob { header, epochs: 2, deletable: true, max_payment }
}

/// The delegators stake with a node, earn for three epochs, take all out again, and are paid.
async fn delegate(client: &Client, wallet: &KeyPair, delegators: &[KeyPair; 2], target: NodeId) {
    let ledger = client.ledger();
    let fund = |key| Operation::Transfer { to: account(key), amount: Amount::from_wal(500) };
    let settings = ledger.node(target).await.unwrap().value.unwrap().settings;
    let settings = NodeSettings { commission_bps: COMMISSION_BPS, ..settings };
    let update = Operation::UpdateNode { node: target, settings };
    let operations = vec![fund(&delegators[0]), fund(&delegators[1]), update];
    ledger.submit(operations, wallet).await.unwrap();
    let mut active = Epoch::new(0);
    for (key, amount) in delegators.iter().zip(STAKES) {
        let stake = Operation::Stake { node: target, amount: Amount::from_frost(amount) };
        ledger.submit(vec![stake], key).await.unwrap();
        let stake = ledger.stake(account(key), target).await.unwrap().value.unwrap();
        active = active.max(stake.incoming[0].epoch);
    }
    for i in 0..3 {
        until(client, active.plus(i)).await;
        ledger.submit(vec![business(u8::try_from(i).unwrap())], wallet).await.unwrap();
    }
    until(client, active.plus(3)).await;
    let mut paid_from = Epoch::new(0);
    for key in delegators {
        let staked = ledger.staked(account(key), target).await.unwrap().unwrap();
        assert!(staked.worth.incoming.is_empty());
        let unstake = Operation::Unstake { node: target, shares: staked.worth.shares };
        ledger.submit(vec![unstake], key).await.unwrap();
        let stake = ledger.stake(account(key), target).await.unwrap().value.unwrap();
        assert_eq!((stake.shares, stake.unbonding.len()), (0, 1));
        paid_from = paid_from.max(stake.unbonding[0].until);
    }
    until(client, paid_from).await;
    for key in delegators {
        ledger.submit(vec![Operation::Withdraw { node: target }], key).await.unwrap();
    }
}

/// The model after all blocks up to one.
async fn replayed(ledger: &LedgerClient, mut model: Model, last: Height) -> Model {
    for height in (1..=last.get()).map(Height::new) {
        let block = ledger.block(height).await.unwrap().expect("it is committed");
        model.apply(&block.block);
    }
    model
}

/// That the newest state is what the model makes of the blocks.
async fn compare(ledger: &LedgerClient, model: Model, delegators: &[KeyPair; 2]) -> Model {
    let operator = model.operator;
    let accounts = delegators.iter().map(account).chain([operator]);
    let (accounts, nodes): (Vec<_>, Vec<_>) =
        (accounts.collect(), model.nodes.keys().copied().collect());
    let keys = accounts.iter().map(|account| Key::Account(*account));
    let keys: Vec<_> = keys.chain(nodes.iter().map(|node| Key::Node(*node))).collect();
    let proven = ledger.facts(&keys, floe_node::client::ledger::Purpose::Decide).await.unwrap();
    let mut model = replayed(ledger, model, proven.height()).await;
    for (account, record) in accounts.iter().zip(&proven.value) {
        let Some(Record::Account(record)) = record else { unreachable!("it has sent something") };
        assert_eq!(record.balance.frost(), *model.balance(*account), "{account}");
    }
    for (id, record) in nodes.iter().zip(&proven.value[accounts.len()..]) {
        let Some(Record::Node(node)) = record else { unreachable!("a node") };
        let expected = &model.nodes[id];
        let pool = |pool: floe_protocol::ledger::Pool| Pool {
            stake: pool.stake.frost(),
            shares: pool.shares,
        };
        // Nothing waits to enter: who was to has left.
        assert!(node.incoming.is_empty() && expected.incoming.is_empty());
        assert_eq!(pool(node.pool), expected.pool, "{id}");
        assert_eq!(pool(node.unbonding), expected.unbonding, "{id}");
        let settled = node.settled.unwrap();
        let shown = (settled.epoch.get(), settled.reward.frost(), settled.commission.frost());
        assert_eq!(Some(shown), expected.settled, "{id}");
        assert!(settled.forfeited.is_zero());
    }
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_delegator_earns_and_is_paid_is_exact_to_the_frost() {
    let rules = LedgerParameters { heartbeat_ms: 500, ..LedgerParameters::for_epoch(2_000) };
    let cluster = Cluster::builder().nodes(4).shards(7).ledger(rules).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    let (ledger, wallet) = (client.ledger(), cluster.wallet());
    let delegators = [KeyPair::from_seed([21; 32]), KeyPair::from_seed([22; 32])];
    let prices = (rules.storage_price.frost(), rules.write_price.frost());
    let mut model = Model::new(rules.epoch_ms, 7, prices, account(wallet));
    for node in 0..4 {
        model.add_node(cluster.node_id(node), cluster.weight(node), 1_000 * WAL);
    }
    *model.balance(account(wallet)) = 1_000_000 * WAL;
    let heavy = (0..4).find(|node| cluster.weight(*node) == 2).unwrap();
    let target = cluster.node_id(heavy);
    delegate(&client, wallet, &delegators, target).await;
    let mut model = compare(ledger, model, &delegators).await;

    // The wallet is every node's operator, and only one of them takes a commission.
    assert_eq!(model.nodes[&target].commission[2], u128::from(COMMISSION_BPS));
    for key in &delegators {
        let (id, fees) = (account(key), 3 * rules.fee_per_operation.frost());
        assert_eq!(ledger.stake(id, target).await.unwrap().value, None, "all was paid");
        assert!(*model.balance(id) > 500 * WAL - fees, "it has earned");
    }
    let total = ledger.summary().await.unwrap().value.unwrap().supply.total();
    assert_eq!(total, Some(Amount::from_wal(2_000_000 + 4_000)));
    assert!(ledger.liars().is_empty());
    client.shutdown().await;
    cluster.shutdown().await.unwrap();
}
