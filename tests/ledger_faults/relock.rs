//! A block that a node is locked on is proposed again two rounds later, decided with the header of
//! its first round, and synced by a newcomer.

use std::{collections::BTreeMap, fs};

use floe_node::key_file::NodeKeys;
use floe_protocol::{
    consensus::{ConsensusMessage, Timeouts},
    index::Height,
    keys::KeyPair,
    ledger::{BlockHash, LedgerParameters},
    vote::{Vote, VoteKind},
};
use floe_testnet::Cluster;

use super::swarm::{
    Mirror, Payments, Puppet, TURNS_MAX, agree, keys, ledger, reached, silence, tip, turn,
};

/// The only node that is left to itself.
const REAL: usize = 0;

/// Waits until the real node is heard voting at a place; for what.
async fn heard(puppet: &mut Puppet, place: (Height, u32, VoteKind), real: &KeyPair) -> Vote {
    loop {
        if let ConsensusMessage::Vote(signed) = puppet.hear().await
            && signed.vote.voter == real.public()
            && (signed.vote.height, signed.vote.round, signed.vote.kind) == place
        {
            return signed.vote;
        }
    }
}

/// Everybody but the real node votes the same.
async fn vote_all(
    puppet: &Puppet,
    puppets: &BTreeMap<usize, NodeKeys>,
    place: (Height, u32, VoteKind),
    block: Option<BlockHash>,
) {
    for keys in puppets.values() {
        puppet.vote(&keys.node, place, block).await;
    }
}

/// A swarm in which hardly a height begins without a payment, and rounds that are lost are lost soon.
async fn quiet_cluster() -> Cluster {
    let parameters = LedgerParameters { heartbeat_ms: 20_000, ..LedgerParameters::default() };
    let builder = Cluster::builder().nodes(4).shards(4).ledger(parameters);
    let builder = builder.configure(|_, config| {
        config.accept_empty = true;
        let lan = Timeouts::LAN;
        config.timeouts = Timeouts { prevote_ms: 200, precommit_ms: 200, delta_ms: 100, ..lan };
    });
    let cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_block_proposed_again_in_round_2_is_synced_by_a_newcomer() {
    let mut cluster = quiet_cluster().await;
    let puppets: BTreeMap<_, _> = (1..4).map(|node| (node, keys(&cluster, node))).collect();
    let real = keys(&cluster, REAL).node;
    // Until the real node is the one that has to propose the block again.
    let mut payments = Payments::new(&cluster, REAL);
    let mut turns = 0;
    let height = loop {
        turns += 1;
        assert!(turns <= TURNS_MAX, "the height begins too soon each time");
        let is_its_turn = |height| [0, 2].map(|round| turn(&cluster, height, round) == REAL);
        let height = payments.until(&cluster, |height| is_its_turn(height) == [false, true]).await;
        if silence(&mut cluster, &[1, 2, 3], height).await {
            break height;
        }
    };
    let mut puppet = Puppet::join(&cluster, puppets[&1].node.clone()).await;

    // Round 0: all prevote the block, so the node locks on it; the others precommit nil.
    let mut mirror = Mirror::new(&cluster.network().genesis);
    mirror.follow(&ledger(&cluster, REAL));
    let proposer = &puppets[&turn(&cluster, height, 0)];
    let block = mirror.build(proposer, 0);
    let hash = block.header.hash();
    let body = borsh::to_vec(&block.body).unwrap();
    payments.pay(&cluster).await;
    puppet.propose(&proposer.node, block.header, &body).await;
    vote_all(&puppet, &puppets, (height, 0, VoteKind::Prevote), Some(hash)).await;
    let vote = heard(&mut puppet, (height, 0, VoteKind::Precommit), &real).await;
    assert_eq!(vote.block, Some(hash), "locked");
    vote_all(&puppet, &puppets, (height, 0, VoteKind::Precommit), None).await;
    // Round 1: nothing is proposed, unless it is the node's turn here, too; all others vote nil.
    vote_all(&puppet, &puppets, (height, 1, VoteKind::Prevote), None).await;
    let vote = heard(&mut puppet, (height, 1, VoteKind::Precommit), &real).await;
    assert_eq!(vote.block, None);
    vote_all(&puppet, &puppets, (height, 1, VoteKind::Precommit), None).await;
    // Round 2: the node proposes what it is locked on, and it is decided.
    let proposal = loop {
        if let ConsensusMessage::Proposal(signed) = puppet.hear().await
            && signed.proposal.round == 2
        {
            break signed.proposal;
        }
    };
    assert_eq!((proposal.round, proposal.pol_round), (2, Some(0)));
    assert_eq!((proposal.header, proposal.proposer), (block.header, real.public()));
    vote_all(&puppet, &puppets, (height, 2, VoteKind::Prevote), Some(hash)).await;
    vote_all(&puppet, &puppets, (height, 2, VoteKind::Precommit), Some(hash)).await;
    assert_eq!(reached(&cluster, REAL, height).await.0, hash);
    let (kept, certificate) = ledger(&cluster, REAL).block(height).unwrap().unwrap();
    assert_eq!((kept, certificate.round), (block, 2));
    puppet.network.shutdown().await;

    // A newcomer takes it from the node, with the certificate of the later round.
    let newcomer = 1;
    fs::remove_dir_all(cluster.dir().join(format!("node-{newcomer}")).join("ledger")).unwrap();
    cluster.start(newcomer).await.unwrap();
    assert_eq!(tip(&cluster, newcomer), Height::new(0));
    agree(&cluster, &[REAL, newcomer], height).await;
    let (block, certificate) = ledger(&cluster, newcomer).block(height).unwrap().unwrap();
    assert_eq!((block.header.hash(), block.header.round, certificate.round), (hash, 0, 2));
    // The others come back, and go on from it.
    for node in [2, 3] {
        cluster.start(node).await.unwrap();
    }
    let last = payments.paid(&cluster).await;
    assert!(last > height);
    agree(&cluster, &[0, 1, 2, 3], last).await;
    cluster.shutdown().await.unwrap();
}
