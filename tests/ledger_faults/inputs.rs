//! What strangers send is refused with a reason, and changes nothing.

use floe_node::network::Topic;
use floe_protocol::{
    consensus::{ConsensusMessage, MAX_MESSAGE_BYTES},
    hash::Hash,
    index::Height,
    keys::{ChainId, KeyPair, NodeId, Signature},
    ledger::{
        AccountId, Amount, BlockHash, MAX_OPERATIONS, NodeSettings, Operation, Timestamp,
        Transaction,
    },
    message::{RefusedOperation, SubmitError},
    vote::{Vote, VoteKind},
};
use floe_testnet::Cluster;

use super::swarm::{
    Puppet, agree, committed, draft, keys, ledger, pay, recipient, reports_anybody, sign, submit,
    tip, turn,
};

fn transfer(amount: u128) -> Operation {
    Operation::Transfer { to: recipient(), amount: Amount::from_frost(amount) }
}

/// Longer than any transaction may be.
fn oversized() -> Vec<Operation> {
    let settings = NodeSettings {
        addresses: vec!["x".repeat(128); 8],
        commission_bps: 0,
        storage_price: Amount::from_frost(1),
        write_price: Amount::from_frost(1),
        capacity_units: 1,
    };
    vec![Operation::UpdateNode { node: NodeId::new([1; 32]), settings }; 32]
}

/// What is wrong, the bytes, and why they are refused.
type Case = (&'static str, Vec<u8>, SubmitError);

/// A transaction of these operations, with the least fee.
fn of(cluster: &Cluster, nonce: u64, operations: Vec<Operation>) -> Vec<u8> {
    let fee = cluster.network().genesis.ledger.fee_per_operation.frost();
    let fee = Amount::from_frost(fee * operations.len().max(1) as u128);
    sign(cluster, Transaction { fee, operations, ..draft(cluster, nonce) }).to_bytes()
}

/// Transactions that are refused whatever the state is.
fn malformed(cluster: &Cluster, next: u64) -> Vec<Case> {
    let operations = |operations| of(cluster, next, operations);
    let good = sign(cluster, draft(cluster, next));
    let mut forged = good.clone();
    forged.signature = Signature::new([1; 64]);
    let mut altered = good.clone();
    altered.transaction.operations = vec![transfer(2)];
    let elsewhere = draft(cluster, next).sign(&ChainId::new(Hash::ZERO), cluster.wallet());
    let long = [good.to_bytes(), vec![0]].concat();
    use SubmitError::{Malformed, Signature as Forged};
    vec![
        ("no transaction", vec![1, 2, 3], Malformed),
        ("nothing", Vec::new(), Malformed),
        ("bytes left over", long, Malformed),
        ("oversized", operations(oversized()), Malformed),
        ("no operation", operations(Vec::new()), Malformed),
        ("too many operations", operations(vec![transfer(1); MAX_OPERATIONS + 1]), Malformed),
        ("a transfer of nothing", operations(vec![transfer(0)]), Malformed),
        ("a forged signature", forged.to_bytes(), Forged),
        ("changed after it was signed", altered.to_bytes(), Forged),
        ("for another network", elsewhere.to_bytes(), Forged),
    ]
}

/// Transactions that the state refuses to a wallet whose next nonce is `next`, which is above 0.
fn refused(cluster: &Cluster, next: u64) -> Vec<Case> {
    let time = ledger(cluster, 0).state().borrow().tip().time;
    let genesis = &cluster.network().genesis;
    let fee = genesis.ledger.fee_per_operation;
    let rich = genesis
        .accounts
        .iter()
        .find(|account| account.account == AccountId::new(cluster.wallet().public()));
    let rich = rich.unwrap().balance.frost();
    let with = |change: &dyn Fn(&mut Transaction)| {
        let mut transaction = draft(cluster, next);
        change(&mut transaction);
        sign(cluster, transaction).to_bytes()
    };
    let operations = |operations| of(cluster, next, operations);
    let stranger = KeyPair::from_seed([55; 32]);
    let poor =
        Transaction { sender: AccountId::new(stranger.public()), nonce: 0, ..draft(cluster, next) };
    let nonce = SubmitError::Nonce { expected: next };
    use SubmitError::{Expired, Fee, Funds};
    vec![
        ("a nonce that was used", with(&|t| t.nonce = next - 1), nonce),
        ("a nonce too far ahead", with(&|t| t.nonce = next + 10_000), nonce),
        ("the last nonce", with(&|t| t.nonce = u64::MAX), nonce),
        ("expired", with(&|t| t.expires = Timestamp::from_ms(1)), Expired),
        ("expired just now", with(&|t| t.expires = Timestamp::from_ms(time.ms() - 1)), Expired),
        ("too low a fee", with(&|t| t.fee = Amount::from_frost(fee.frost() - 1)), Fee { min: fee }),
        ("a fee beyond the balance", with(&|t| t.fee = Amount::from_frost(rich + 1)), Funds),
        ("the largest fee", with(&|t| t.fee = Amount::from_frost(u128::MAX)), Funds),
        ("more than the balance", operations(vec![transfer(rich)]), Funds),
        ("the largest amount", operations(vec![transfer(u128::MAX)]), Funds),
        ("amounts that overflow", operations(vec![transfer(u128::MAX); 2]), Funds),
        ("the balance twice", operations(vec![transfer(rich / 2 + 1); 2]), Funds),
        ("an account without WAL", poor.sign(&genesis.chain_id(), &stranger).to_bytes(), Funds),
        (
            "stake on no node",
            operations(vec![Operation::Stake {
                node: NodeId::new([1; 32]),
                amount: Amount::from_wal(1),
            }]),
            SubmitError::Refused(RefusedOperation::Node),
        ),
        (
            "more shares than there are",
            operations(vec![Operation::Unstake { node: cluster.node_id(0), shares: u128::MAX }]),
            SubmitError::Refused(RefusedOperation::Stake),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_transactions_are_refused_with_a_reason_and_change_nothing() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let puppet = Puppet::join(&cluster, KeyPair::from_seed([77; 32])).await;
    let node = cluster.node_id(0);
    let honest = ledger(&cluster, 0);
    let mut blocks = honest.committed();
    let replayed = sign(&cluster, draft(&cluster, 0)).to_bytes();
    let results = submit(&puppet, node, vec![replayed.clone()]).await;
    committed(&mut blocks, results[0].unwrap()).await;
    let wallet = AccountId::new(cluster.wallet().public());
    let account = || {
        let state = honest.state().borrow().clone();
        (honest.account(&state, &wallet).unwrap(), state.summary().supply)
    };
    let before = account();
    assert_eq!(before.0.nonce, 1);

    let mut cases = malformed(&cluster, 1);
    cases.extend(refused(&cluster, 1));
    cases.push(("replayed", replayed, SubmitError::Nonce { expected: 1 }));
    for (what, bytes, expected) in &cases {
        let results = submit(&puppet, node, vec![bytes.clone()]).await;
        assert_eq!(results, [Err(*expected)], "{what}");
    }
    let stats = honest.mempool().await.unwrap();
    assert_eq!((stats.ready, stats.held, stats.accounts), (0, 0, 0));
    assert_eq!(account(), before);

    // Among others they spoil nothing, and what comes in the wrong order waits for the rest.
    let good = |nonce| sign(&cluster, draft(&cluster, nonce)).to_bytes();
    let mut transactions = vec![good(3), good(2)];
    transactions.extend(cases.iter().map(|(_, bytes, _)| bytes.clone()));
    transactions.push(good(1));
    let results = submit(&puppet, node, transactions).await;
    let taken: Vec<_> = results.iter().filter_map(|result| result.ok()).collect();
    assert_eq!(taken.len(), 3, "{results:?}");
    let last = committed(&mut blocks, taken[0]).await.block.header.height;
    let (after, supply) = account();
    assert_eq!((after.nonce, supply.total()), (4, before.1.total()));
    for node in 0..4 {
        agree(&cluster, &[0, node], last).await;
        let stats = ledger(&cluster, node).mempool().await.unwrap();
        assert_eq!((stats.ready, stats.held), (0, 0), "node {node}");
    }
    cluster.shutdown().await.unwrap();
}

/// Votes that no node has a use for, at any time; the first half is nobody's fault.
fn useless(cluster: &Cluster, height: Height) -> (Vec<ConsensusMessage>, Vec<ConsensusMessage>) {
    let chain = cluster.network().genesis.chain_id();
    let member = keys(cluster, 3).node;
    let vote = |key: &KeyPair, height, round, kind| {
        let block = Some(BlockHash::new(Hash::new([1; 32])));
        Vote { height, round, kind, block, voter: key.public() }.sign(&chain, key)
    };
    let far = [height.get() + 100, height.get() + 1_000_000, u64::MAX - 1, u64::MAX];
    let mut ignored = Vec::new();
    for height in far.map(Height::new) {
        for kind in [VoteKind::Prevote, VoteKind::Precommit] {
            ignored.push(vote(&member, height, 0, kind));
            ignored.push(vote(&member, height, u32::MAX, kind));
        }
    }
    ignored.push(vote(&member, height, u32::MAX, VoteKind::Precommit));
    let stranger = KeyPair::from_seed([88; 32]);
    let mut rejected = Vec::new();
    for ahead in 0..2 {
        let height = Height::new(height.get() + ahead);
        rejected.push(vote(&stranger, height, 0, VoteKind::Precommit));
        let mut forged = vote(&member, height, 0, VoteKind::Precommit);
        forged.signature = Signature::new([1; 64]);
        rejected.push(forged);
    }
    let messages = |votes: Vec<_>| votes.into_iter().map(ConsensusMessage::Vote).collect();
    (messages(ignored), messages(rejected))
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_of_strangers_and_for_far_heights_change_nothing() {
    let cluster = Cluster::builder().nodes(4).shards(7).start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let useful = Puppet::join(&cluster, KeyPair::from_seed([77; 32])).await;
    let hostile = Puppet::join(&cluster, KeyPair::from_seed([78; 32])).await;
    let mut blocks = ledger(&cluster, 0).committed();
    let mut last = Height::new(0);
    for nonce in 0..10 {
        let (ignored, rejected) = useless(&cluster, tip(&cluster, 0).next());
        for message in &ignored {
            useful.say(message).await;
        }
        for message in &rejected {
            hostile.say(message).await;
        }
        // Garbage of any length, too.
        for bytes in [Vec::new(), vec![0xff; 1_000], vec![0; MAX_MESSAGE_BYTES]] {
            let _ = hostile.network.publish(Topic::Consensus, bytes).await;
        }
        let id = pay(&cluster, 0, nonce).await;
        last = committed(&mut blocks, id).await.block.header.height;
    }
    agree(&cluster, &[0, 1, 2, 3], last).await;
    for height in (1..=last.get()).map(Height::new) {
        let (block, certificate) = ledger(&cluster, 0).block(height).unwrap().unwrap();
        assert!(!reports_anybody(&block), "nobody is reported: block {height}");
        assert!(
            block.header.proposer == cluster.node_id(turn(&cluster, height, block.header.round))
        );
        assert!(certificate.round < 10, "no round was skipped for a vote from afar");
    }
    for node in 0..4 {
        // At most what each of the four nodes reports of itself.
        assert!(ledger(&cluster, node).mempool().await.unwrap().system <= 4, "node {node}");
    }
    cluster.shutdown().await.unwrap();
}
