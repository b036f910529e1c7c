//! A member that proposes nothing but invalid blocks stops nobody.

use std::{collections::BTreeMap, time::Instant};

use floe_node::{CommittedBlock, Ledger, key_file::NodeKeys};
use floe_protocol::{
    consensus::{ConsensusMessage, PART_BYTES, Timeouts},
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsKeyPair, Signature},
    ledger::{
        Block, BlockHash, CommitRecord, MAX_BLOCK_BYTES, NodeSettings, Operation, SYSTEM_BYTES,
        Timestamp, Transaction, beacon_message, next_beacon,
    },
    vote::VoteKind,
};
use floe_testnet::Cluster;

use super::swarm::{Mirror, Payments, Puppet, agree, draft, judged, keys, ledger, sign, turn};

/// What is sent in place of the body, if not the body.
type Bytes = Option<Vec<u8>>;

/// Makes a valid block invalid.
type Lie = fn(&Cluster, &Mirror, &mut Block) -> Bytes;

/// The first one is none: it shows that the liar is listened to.
const LIES: [(&str, Lie); 17] = [
    ("nothing", |_, _, _| None),
    ("state root", |_, _, block| {
        block.header.state_root = Hash::ZERO;
        None
    }),
    ("events root", |_, _, block| {
        block.header.events_root = Hash::ZERO;
        None
    }),
    ("time of its parent", |_, mirror, block| {
        block.header.time = mirror.state.tip().time;
        None
    }),
    ("no time", |_, _, block| {
        block.header.time = Timestamp::from_ms(0);
        None
    }),
    ("time of the future", |_, _, block| {
        block.header.time = block.header.time.plus_ms(3_600_000);
        None
    }),
    ("parent", |_, _, block| {
        block.header.parent = BlockHash::new(Hash::ZERO);
        None
    }),
    ("epoch", |_, _, block| {
        block.header.epoch = Epoch::new(1);
        None
    }),
    ("next committee", |_, _, block| {
        block.header.next_committee = Hash::ZERO;
        None
    }),
    ("beacon", |_, _, block| {
        block.header.beacon = Hash::ZERO;
        None
    }),
    ("beacon of another key", |_, mirror, block| {
        let before = mirror.state.tip().beacon;
        let message = beacon_message(mirror.state.chain(), &before, block.header.height);
        block.header.beacon_signature = BlsKeyPair::from_seed([66; 32]).sign(&message);
        block.header.beacon = next_beacon(&before, &block.header.beacon_signature);
        None
    }),
    ("commit record", |_, _, block| {
        block.body.commit_record = CommitRecord::default();
        block.header.commit_record = block.body.commit_record.hash();
        None
    }),
    ("forged transaction", |cluster, mirror, block| {
        let mut forged = sign(cluster, draft(cluster, 0));
        forged.signature = Signature::new([1; 64]);
        block.body.transactions.push(forged);
        block.header.transactions_root = block.body.transactions_root(mirror.state.chain());
        None
    }),
    ("another body", |cluster, _, block| {
        block.body.transactions.push(sign(cluster, draft(cluster, 0)));
        None
    }),
    ("over-full body", |cluster, mirror, block| {
        overfill(cluster, block);
        block.header.transactions_root = block.body.transactions_root(mirror.state.chain());
        None
    }),
    ("longest garbage", |_, _, _| Some(vec![0xa5; 22 * PART_BYTES])),
    ("short garbage", |_, _, _| Some(vec![0xff; 100])),
];

/// Fills the room of system operations with transactions.
fn overfill(cluster: &Cluster, block: &mut Block) {
    let settings = NodeSettings {
        addresses: vec!["x".repeat(128); 8],
        commission_bps: 0,
        storage_price: cluster.network().genesis.ledger.storage_price,
        write_price: cluster.network().genesis.ledger.write_price,
        capacity_units: 1,
    };
    let update = Operation::UpdateNode { node: cluster.node_id(0), settings };
    let transaction = Transaction { operations: vec![update; 28], ..draft(cluster, 0) };
    let large = sign(cluster, transaction);
    let bytes = large.to_bytes().len();
    block.body.transactions = vec![large; (MAX_BLOCK_BYTES - SYSTEM_BYTES) / bytes + 1];
    assert!(block.to_bytes().len() < MAX_BLOCK_BYTES, "only its transactions are too many");
}

/// A member that lies whenever it is its turn.
struct Liar {
    puppet: Puppet,
    keys: NodeKeys,
    number: usize,
    /// Lies told so far.
    told: usize,
    /// What was proposed where, and how it was wrong.
    proposed: BTreeMap<BlockHash, (&'static str, Instant)>,
    places: BTreeMap<(Height, u32), BlockHash>,
}

impl Liar {
    /// Lies, if it is its turn and it has not done so.
    async fn lie(&mut self, cluster: &Cluster, mirror: &Mirror, round: u32) {
        let height = mirror.state.next_height();
        let is_turn = turn(cluster, height, round) == self.number;
        if !is_turn || self.places.contains_key(&(height, round)) {
            return;
        }
        let (name, lie) = LIES[self.told % LIES.len()];
        self.told += 1;
        let mut block = mirror.build(&self.keys, round);
        let bytes = lie(cluster, mirror, &mut block);
        let bytes = bytes.unwrap_or_else(|| borsh::to_vec(&block.body).unwrap());
        let hash = block.header.hash();
        self.proposed.insert(hash, (name, Instant::now()));
        self.places.insert((height, round), hash);
        self.puppet.propose(&self.keys.node, block.header, &bytes).await;
        // It stands by its word.
        for kind in [VoteKind::Prevote, VoteKind::Precommit] {
            self.puppet.vote(&self.keys.node, (height, round, kind), Some(hash)).await;
        }
    }

    /// Looks at the block of a height where it may have lied; whether that is its own, honest one.
    fn judge(&self, block: &CommittedBlock) -> bool {
        let (header, certificate) = (&block.block.header, &block.certificate);
        let lie = self.proposed.get(&header.hash());
        assert!(lie.is_none_or(|(name, _)| *name == "nothing"), "committed: {lie:?}");
        for round in 0..certificate.round {
            let Some(hash) = self.places.get(&(header.height, round)) else { continue };
            let (name, since) = self.proposed[hash];
            let took = since.elapsed();
            println!("height {}, round {round}: {name}, {took:?}", header.height);
            let waited = took.as_millis() >= u128::from(PROPOSE_MS);
            assert!(!waited, "{name}: somebody waited for a valid proposal: {took:?}");
        }
        lie.is_some()
    }
}

/// How long a proposal is waited for: so long that it shows if anybody does.
const PROPOSE_MS: u64 = 5_000;

/// Lies at every turn until all lies are told; the last height.
async fn tell_all(cluster: &Cluster, liar: &mut Liar, honest: &Ledger, through: usize) -> Height {
    let mut payments = Payments::new(cluster, through);
    let mut mirror = Mirror::new(&cluster.network().genesis);
    let mut listened_to = false;
    mirror.follow(honest);
    while liar.told < LIES.len() || !listened_to {
        payments.pay(cluster).await;
        assert!(payments.made < 400, "its turn comes by its weight: {} lies", liar.told);
        liar.lie(cluster, &mirror, 0).await;
        tokio::select! {
            block = payments.next_block() => {
                mirror.follow(honest);
                listened_to |= liar.judge(&block);
            }
            message = liar.puppet.consensus.recv() => {
                // Whoever precommits nil is about to begin the next round.
                if let ConsensusMessage::Vote(signed) = judged(message.unwrap())
                    && (signed.vote.height, signed.vote.block) == (mirror.state.next_height(), None)
                    && signed.vote.kind == VoteKind::Precommit
                {
                    liar.lie(cluster, &mirror, signed.vote.round + 1).await;
                }
            }
        }
    }
    mirror.state.tip().height
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposer_of_invalid_blocks_stops_nobody() {
    let builder = Cluster::builder().nodes(4).shards(7).configure(|_, config| {
        config.timeouts = Timeouts { propose_ms: PROPOSE_MS, precommit_ms: 100, ..Timeouts::LAN };
    });
    let mut cluster = builder.start().await.unwrap();
    cluster.wait_connected().await.unwrap();
    let number = (0..4).max_by_key(|node| cluster.weight(*node)).unwrap();
    let others: Vec<_> = (0..4).filter(|node| *node != number).collect();
    let keys = keys(&cluster, number);
    cluster.stop(number).await.unwrap();
    let puppet = Puppet::join(&cluster, keys.node.clone()).await;
    let (proposed, places) = (BTreeMap::new(), BTreeMap::new());
    let mut liar = Liar { puppet, keys, number, told: 0, proposed, places };
    let honest = ledger(&cluster, others[0]);
    let last = tell_all(&cluster, &mut liar, &honest, others[0]).await;
    agree(&cluster, &others, last).await;
    cluster.shutdown().await.unwrap();
}
