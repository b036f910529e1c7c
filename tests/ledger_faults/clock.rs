//! A node whose wall clock is an hour wrong keeps pace, and its proposals stop nobody.

use floe_node::Clock;
use floe_protocol::{index::Height, keys::KeyPair, ledger::Block, vote::CommitCertificate};
use floe_testnet::Cluster;

use super::swarm::{Puppet, agree, committed, draft, ledger, sign, submit, turn};

const HOUR_MS: i64 = 3_600_000;
const WRONG: usize = 1;
/// Its turns that are waited for.
const TURNS: usize = 3;

/// Whether this block records a precommit of the node for a block before it.
fn records(cluster: &Cluster, block: &Block) -> bool {
    let record = &block.body.commit_record;
    let position = cluster.committee().position(&cluster.node_id(WRONG)).unwrap();
    let is_wrong = |other: u16| usize::from(other) == position;
    let certificate = record.parent.iter().flat_map(|parent| &parent.signatures);
    certificate.map(|signature| signature.position).any(is_wrong)
        || record.late.iter().any(|late| is_wrong(late.position))
}

async fn keeps_pace(offset_ms: i64) {
    let cluster = Cluster::builder()
        .nodes(4)
        .shards(7)
        .configure(move |node, config| {
            if node == WRONG {
                config.clock = Clock::ahead_by_ms(offset_ms);
            }
        })
        .start()
        .await
        .unwrap();
    cluster.wait_connected().await.unwrap();
    let puppet = Puppet::join(&cluster, KeyPair::from_seed([77; 32])).await;
    // Payments are followed on the node with the wrong clock: it has to keep pace for them.
    let mut blocks = ledger(&cluster, WRONG).committed();
    let mut passed = 0;
    let mut recorded = 0;
    let mut next = Height::new(1);
    for nonce in 0.. {
        // Through the wrong node, too: by a clock that is ahead everything has expired.
        let through = cluster.node_id(if nonce % 2 == 0 { 0 } else { WRONG });
        let payment = sign(&cluster, draft(&cluster, nonce)).to_bytes();
        let results = submit(&puppet, through, vec![payment]).await;
        let id = results[0].unwrap();
        let last = committed(&mut blocks, id).await.block.header.height;
        while next <= last {
            let (block, certificate) = ledger(&cluster, WRONG).block(next).unwrap().unwrap();
            passed += usize::from(turn(&cluster, next, 0) == WRONG);
            recorded += usize::from(records(&cluster, &block));
            check(&cluster, &block, &certificate, offset_ms);
            next = next.next();
        }
        if passed >= TURNS && recorded > 0 {
            break;
        }
        assert!(nonce < 200, "after {next}: {passed} turns, {recorded} precommits on record");
    }
    let last = Height::new(next.get() - 1);
    agree(&cluster, &[0, WRONG, 2, 3], last).await;
    cluster.shutdown().await.unwrap();
}

/// Nobody's clock but the right ones' shows in a block.
fn check(cluster: &Cluster, block: &Block, certificate: &CommitCertificate, offset_ms: i64) {
    let (now, header) = (Clock::SYSTEM.now(), &block.header);
    let distance = now.ms_since(header.time).max(header.time.ms_since(now));
    assert!(distance < 120_000, "block {} has the time of a wrong clock", header.height);
    let is_wrong = header.proposer == cluster.node_id(WRONG);
    if offset_ms > 0 {
        // With a clock that is behind it builds just after the parent, which is in time.
        assert!(!is_wrong, "block {} comes from the future", header.height);
        let lost = turn(cluster, header.height, 0) == WRONG;
        assert!(!lost || certificate.round > 0, "somebody else's block, a round later");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_an_hour_ahead_keeps_pace_and_stops_nobody() {
    keeps_pace(HOUR_MS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_an_hour_behind_keeps_pace_and_stops_nobody() {
    keeps_pace(-HOUR_MS).await;
}
