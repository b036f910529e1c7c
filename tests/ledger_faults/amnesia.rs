//! A node that is killed between its prevote and the commit, and loses its disk, says nothing that
//! contradicts what it said before.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use floe_node::Clock;
use floe_protocol::{
    consensus::ConsensusMessage,
    index::Height,
    keys::{KeyPair, NodeId},
    ledger::{BlockHash, LedgerParameters},
    vote::{Vote, VoteKind},
};
use floe_testnet::Cluster;

use super::swarm::{
    Payments, Puppet, TURNS_MAX, agree, ledger, reports_anybody, silence, tip, turn,
};

/// What the victim was heard voting, by place.
#[derive(Default)]
struct Heard(BTreeMap<(Height, u32, VoteKind), BTreeSet<Option<BlockHash>>>);

impl Heard {
    /// Takes a vote of `voter`, if the message is one.
    fn take(&mut self, message: &ConsensusMessage, voter: NodeId, puppet: &Puppet) -> Option<Vote> {
        let ConsensusMessage::Vote(signed) = message else { return None };
        let vote = signed.vote;
        if vote.voter != voter || !signed.verify(&puppet.chain) {
            return None;
        }
        let place = (vote.height, vote.round, vote.kind);
        let votes = self.0.entry(place).or_default();
        votes.insert(vote.block);
        assert_eq!(votes.len(), 1, "two votes at {place:?}");
        Some(vote)
    }
}

/// A swarm in which hardly a height begins without a payment, and not many of them in a second.
async fn quiet_cluster() -> Cluster {
    let parameters = LedgerParameters {
        heartbeat_ms: 20_000,
        block_interval_min_ms: 200,
        ..LedgerParameters::default()
    };
    let builder = Cluster::builder().nodes(4).shards(7).ledger(parameters);
    // The disk is meant to be lost: nobody has to be asked whether the store may be empty.
    let builder = builder.configure(|_, config| config.accept_empty = true);
    let cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    cluster
}

/// All nodes agree, and no block up to there reports anybody.
async fn nobody_is_reported(cluster: &Cluster, last: Height) {
    agree(cluster, &[0, 1, 2, 3], last).await;
    for height in (1..=last.get()).map(Height::new) {
        let (block, _) = ledger(cluster, 0).block(height).unwrap().unwrap();
        assert!(!reports_anybody(&block), "block {height}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_votes_between_prevote_and_commit_does_not_vote_twice() {
    let mut cluster = quiet_cluster().await;
    let (witness, victim, away) = (0, 1, [2, 3]);
    let voter = cluster.node_id(victim);
    let mut puppet = Puppet::join(&cluster, KeyPair::from_seed([77; 32])).await;
    let mut heard = Heard::default();
    let mut payments = Payments::new(&cluster, witness);
    // What it forgets is the block that it made itself. Two alone decide nothing, so it stays
    // between prevote and commit.
    let mut turns = 0;
    let height = loop {
        turns += 1;
        assert!(turns <= TURNS_MAX, "the height begins too soon each time");
        let is_its_turn = |height| turn(&cluster, height, 0) == victim;
        let height = payments.until(&cluster, is_its_turn).await;
        if silence(&mut cluster, &away, height).await {
            break height;
        }
    };
    payments.pay(&cluster).await;
    let first = loop {
        let message = puppet.hear().await;
        if let Some(vote) = heard.take(&message, voter, &puppet)
            && vote.height == height
        {
            break vote;
        }
    };
    assert_eq!((first.round, first.kind), (0, VoteKind::Prevote));
    assert!(first.block.is_some(), "for its own block");
    cluster.kill(victim).await.unwrap();
    assert_eq!(tip(&cluster, witness).next(), height, "it was not committed");
    // What is heard from here on, it says without knowing of what it said.
    for message in puppet.hear_out(cluster.node_id(witness)).await {
        heard.take(&message, voter, &puppet);
    }
    let dir = cluster.node_dir(victim);
    fs::remove_dir_all(dir.join("ledger")).unwrap();
    fs::remove_file(dir.join("votes")).unwrap();

    let born = Clock::SYSTEM.now();
    for node in [victim, away[0], away[1]] {
        cluster.start(node).await.unwrap();
    }
    let vote = loop {
        payments.pay(&cluster).await;
        tokio::select! {
            message = puppet.hear() => {
                let vote = heard.take(&message, voter, &puppet);
                if let Some(vote) = vote.filter(|vote| *vote != first && vote.height >= height) {
                    break vote;
                }
            }
            _ = payments.next_block() => {}
        }
    };
    assert!(vote.height >= height.next().next(), "it has seen two heights since: {vote:?}");
    // And these were made while it was there, or anybody could have played old ones to it.
    let before = Height::new(vote.height.get() - 1);
    agree(&cluster, &[0, 1, 2, 3], before).await;
    for height in [before.get(), before.get() - 1].map(Height::new) {
        let (block, _) = ledger(&cluster, witness).block(height).unwrap().unwrap();
        assert!(block.header.time > born.plus_ms(10_000), "block {height}");
    }
    // It is one of those who decide again, and nobody has anything to report.
    let last = payments.paid(&cluster).await;
    nobody_is_reported(&cluster, last).await;
    cluster.shutdown().await.unwrap();
}
