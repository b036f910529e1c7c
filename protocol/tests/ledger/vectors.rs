//! Golden vectors of everything on the ledger that is hashed, signed or kept.

use std::fmt::Write as _;

use floe_protocol::{
    blob::BlobId,
    certificate::ConfirmedFact,
    challenge::{ChallengeFact, Outcome, RoundRecord, Score},
    hash::Hash,
    index::{ChallengeRound, Epoch, Height},
    keys::{BlsKeyPair, KeyPair, Signature},
    ledger::{
        Account, Attendance, Blob, Block, BlockEvents, BlockHash, Body, Certified, Challenges,
        CommitRecord, Entry, EpochRecord, Event, Header, Incoming, Keeper, Key, LatePrecommit,
        Name, Node, NodeIdentity, NodeSettings, Operation, Payment, Pool, Presence, Prices, Rate,
        Record, Registration, Settlement, ShardRecord, SignedTransaction, Stake, Summary, Supply,
        SystemOperation, Terms, Timestamp, Transaction, Unbonding, beacon_message, genesis_beacon,
        next_beacon,
    },
    registration::RegistrationId,
    test_support::{account_key, genesis, node_keys},
    vote::{CommitCertificate, CommitSignature, Equivocation, Vote, VoteKind},
};

use super::{N, certificate_of, frost, golden, header, id};

fn settings() -> NodeSettings {
    NodeSettings {
        addresses: vec!["/ip4/10.0.0.1/tcp/4000".into(), "/dns/a/udp/1/quic-v1".into()],
        commission_bps: 250,
        storage_price: frost(1),
        write_price: frost(1 << 100),
        capacity_units: 3,
    }
}

fn operations() -> Vec<Operation> {
    let (chain, committee) = (genesis(4, N).chain_id(), genesis(4, N).committee().unwrap());
    let node = node_keys(4)[0].0.public();
    let registration = RegistrationId::new([5; 32]);
    let operator = id(&account_key(0));
    let keys = (KeyPair::from_seed([50; 32]), BlsKeyPair::from_seed([50; 32]));
    let identity = NodeIdentity::new(&chain, &operator, &keys.0, &keys.1);
    let fact = ConfirmedFact { epoch: Epoch::new(0), blob: header(1).id(), registration };
    let certificate = certificate_of(&chain, &committee, fact, &[0, 1, 3]).to_bytes();
    vec![
        Operation::Transfer { to: id(&account_key(1)), amount: frost(1_500_000_000) },
        Operation::RegisterNode { identity: Box::new(identity), settings: settings() },
        Operation::UpdateNode { node, settings: settings() },
        Operation::Unjail { node },
        Operation::Stake { node, amount: frost(u128::MAX) },
        Operation::Unstake { node, shares: 7 },
        Operation::Withdraw { node },
        super::register(header(1), 104, true),
        Operation::CertifyBlob { registration, certificate },
        super::extend(registration, 104, 1),
        Operation::DeleteBlob { registration },
        Operation::TransferBlob { registration, to: id(&account_key(1)) },
        Operation::SetName { name: "prénom".into(), blob: Some(BlobId::new([6; 32])), version: 1 },
        Operation::SetName { name: "n".into(), blob: None, version: u64::MAX },
    ]
}

fn signed(operations: Vec<Operation>) -> SignedTransaction {
    let expires = Timestamp::from_ms(1_700_000_060_000);
    let sender = id(&account_key(0));
    Transaction { sender, nonce: 3, fee: frost(10_000), expires, operations }
        .sign(&genesis(4, N).chain_id(), &account_key(0))
}

fn report() -> SystemOperation {
    let (chain, key) = (genesis(4, N).chain_id(), &node_keys(4)[0].0);
    let vote = |block| Vote {
        height: Height::new(9),
        round: 2,
        kind: VoteKind::Precommit,
        block,
        voter: key.public(),
    };
    let block = BlockHash::new(Hash::new([8; 32]));
    let [first, second] = [vote(None), vote(Some(block))].map(|vote| vote.sign(&chain, key));
    SystemOperation::ReportEquivocation { equivocation: Equivocation { first, second } }
}

/// The word of two other members that the first has passed a round.
fn passed() -> SystemOperation {
    let chain = super::Chain::new(&genesis(4, N));
    let node = chain.state.committee().members()[0].node;
    let (epoch, round) = (Epoch::new(0), ChallengeRound::new(9));
    let fact = ChallengeFact { epoch, round, node, end: Hash::new([8; 32]) };
    super::challenges::certified(&chain, fact, &[1, 3])
}

#[test]
fn transactions_are_those_of_the_golden_vectors() {
    let chain = genesis(4, N).chain_id();
    let mut text = String::from(
        "# Golden vectors of transactions. Written by tests/ledger/vectors.rs; changed only on\n\
         # purpose. The network is that of four nodes and seven shards in genesis.txt's\n\
         # manner; the sender's seed is 32 bytes 64 (hexadecimal).\n\n",
    );
    writeln!(text, "chain {chain}").unwrap();
    let all = operations();
    let lists = all.iter().map(|operation| vec![operation.clone()]);
    for operations in lists.chain([all[..3].to_vec()]) {
        let names: Vec<_> = operations.iter().map(Operation::name).collect();
        let signed = signed(operations);
        let bytes = signed.to_bytes();
        assert_eq!(SignedTransaction::from_bytes(&bytes).as_ref(), Ok(&signed));
        assert!(signed.clone().verify(&chain).is_ok());
        let id = signed.id(&chain);
        writeln!(text, "\ntransaction {}", names.join(" ")).unwrap();
        writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
        writeln!(text, "id {id}").unwrap();
        writeln!(text, "registration 0 {}", id.registration(&chain, 0)).unwrap();
    }
    for (name, operation) in [("report_equivocation", report()), ("pass_challenge", passed())] {
        writeln!(text, "\nsystem {name}").unwrap();
        writeln!(text, "bytes {}", golden::hex(&borsh_bytes(&operation))).unwrap();
    }
    golden::check("transactions.txt", include_str!("../vectors/transactions.txt"), &text);
}

/// The layout of a system operation, as it stands in a body that holds nothing else.
fn borsh_bytes(operation: &SystemOperation) -> Vec<u8> {
    let empty = block(Body::default()).to_bytes();
    let full = block(Body { system: vec![operation.clone()], ..Body::default() }).to_bytes();
    // A body is the record (no parent: 1, no late ones: 4), then counts of 4 bytes each.
    let end = full.len() - 4;
    full[empty.len() - 4..end].to_vec()
}

fn block(body: Body) -> Block {
    let (chain, (node, bls)) = (genesis(4, N).chain_id(), &node_keys(4)[1]);
    let before = genesis_beacon(&chain);
    let beacon_signature = bls.sign(&beacon_message(&chain, &before, Height::new(1)));
    let header = Header {
        height: Height::new(1),
        round: 2,
        time: Timestamp::from_ms(1_700_000_000_000),
        parent: BlockHash::genesis(&chain),
        commit_record: body.commit_record.hash(),
        epoch: Epoch::new(0),
        proposer: node.public(),
        transactions_root: body.transactions_root(&chain),
        state_root: Hash::new([1; 32]),
        events_root: Hash::new([2; 32]),
        beacon: next_beacon(&before, &beacon_signature),
        beacon_signature,
        next_committee: genesis(4, N).committee().unwrap().hash(),
    };
    Block { header, body }
}

#[test]
fn blocks_are_those_of_the_golden_vectors() {
    let chain = genesis(4, N).chain_id();
    let mut text = String::from(
        "# Golden vectors of blocks. Written by tests/ledger/vectors.rs; changed only on purpose.\n\
         # The network is that of transactions.txt; state and events roots are made up.\n\n",
    );
    let signature = Signature::new([7; 64]);
    let certificate = CommitCertificate {
        height: Height::new(1),
        round: 3,
        block: BlockHash::new(Hash::new([4; 32])),
        signatures: vec![CommitSignature { position: 2, signature }],
    };
    let late = LatePrecommit { height: Height::new(1), round: 0, position: 1, signature };
    let commit_record = CommitRecord { parent: Some(certificate), late: vec![late] };
    let transactions =
        vec![signed(operations()[..1].to_vec()), signed(operations()[12..].to_vec())];
    let full = Body { commit_record, system: vec![report()], transactions };
    let committee = genesis(4, N).committee().unwrap();
    writeln!(text, "chain {chain}").unwrap();
    writeln!(text, "committee {}", golden::hex(&committee.to_bytes())).unwrap();
    writeln!(text, "committee_hash {}", committee.hash()).unwrap();
    writeln!(text, "genesis_beacon {}", genesis_beacon(&chain)).unwrap();
    for (name, body) in [("empty", Body::default()), ("full", full)] {
        let block = block(body);
        let bytes = block.to_bytes();
        assert_eq!(Block::from_bytes(&bytes).as_ref(), Ok(&block));
        writeln!(text, "\nblock {name}").unwrap();
        writeln!(text, "bytes {}", golden::hex(&bytes)).unwrap();
        writeln!(text, "hash {}", block.header.hash()).unwrap();
        writeln!(text, "commit_record {}", block.header.commit_record).unwrap();
        writeln!(text, "transactions_root {}", block.header.transactions_root).unwrap();
        writeln!(text, "beacon {}", block.header.beacon).unwrap();
    }
    let moved =
        Event::Transferred { from: id(&account_key(0)), to: id(&account_key(1)), amount: frost(5) };
    let changed = Event::EpochChanged { epoch: Epoch::new(1) };
    let groups = vec![vec![moved.clone(), moved], vec![], vec![changed]];
    writeln!(text, "\nevents_root nothing {}", BlockEvents::default().root()).unwrap();
    writeln!(text, "events_root three groups {}", BlockEvents { groups }.root()).unwrap();
    golden::check("blocks.txt", include_str!("../vectors/blocks.txt"), &text);
}

fn summary() -> Summary {
    let (epoch, time) = (Epoch::new(3), Timestamp::from_ms(5));
    let prices = Prices { storage: frost(1), write: frost(2), capacity_units: 3 };
    let supply =
        Supply { balances: frost(1), stakes: frost(2), buckets: frost(3), burned: frost(4) };
    Summary {
        epoch,
        epoch_start: time,
        prices,
        next_prices: Some(prices),
        selections: 3,
        selection_failed: Some(epoch),
        resumed: Some(time),
        certifications: 6,
        supply,
    }
}

/// Each kind of key with a record of its kind.
fn records() -> Vec<(&'static str, Key, Record)> {
    let (account, node) = (id(&account_key(0)), node_keys(4)[0].0.public());
    let (blob, registration) = (header(1), RegistrationId::new([5; 32]));
    let (epoch, height, time) = (Epoch::new(3), Height::new(4), Timestamp::from_ms(5));
    let pool = Pool { stake: frost(8), shares: 9 };
    let settled = Settlement {
        epoch,
        reward: frost(3),
        commission: frost(2),
        forfeited: frost(1),
        score: Score { passed: 5, missed: 4, void: 3 },
        slashed: frost(6),
    };
    let (bls_key, invalid) = (node_keys(4)[0].1.public(), false);
    let registered = Node {
        operator: account,
        bls_key,
        settings: settings(),
        pool,
        incoming: vec![Incoming { epoch, amount: frost(7) }],
        unbonding: pool,
        closed: true,
        jailed: Some(epoch),
        bad_epochs: 2,
        ready: Some(epoch),
        ready_stake: frost(6),
        settled: Some(settled),
    };
    let certified = Some(Certified { number: 1, end: epoch, first_epoch: epoch, first_time: time });
    let stored =
        Blob { header: blob, registrations: 2, permanent_end: Some(epoch), certified, invalid };
    let claim = Registration {
        blob: blob.id(),
        owner: account,
        start: Epoch::new(1),
        end: epoch,
        deletable: true,
        certified: Some((epoch, time)),
        units: 7,
        payments: vec![Payment { start: Epoch::new(1), end: epoch, per_epoch: frost(10) }],
    };
    let stake = Stake {
        shares: 1,
        incoming: vec![Incoming { epoch, amount: frost(7) }],
        unbonding: vec![Unbonding { shares: 2, until: epoch }],
    };
    let bucket = EpochRecord { bucket: frost(1), units: 2, first_height: Some(height) };
    let block = BlockHash::new(Hash::new([4; 32]));
    let presence = Presence { block, time, epoch, recorded: vec![true, false] };
    let name = Name { blob: Some(blob.id()), version: 2 };
    let committee = genesis(4, N).committee().unwrap().to_bytes();
    vec![
        ("summary", Key::Summary, Record::Summary(summary())),
        (
            "account",
            Key::Account(account),
            Record::Account(Account { balance: frost(1), nonce: 2 }),
        ),
        ("node", Key::Node(node), Record::Node(Box::new(registered))),
        ("bls_key", Key::BlsKey(bls_key), Record::BlsKey(node)),
        ("stake", Key::Stake(account, node), Record::Stake(stake)),
        ("blob", Key::Blob(blob.id()), Record::Blob(stored)),
        ("registration", Key::Registration(registration), Record::Registration(Box::new(claim))),
        ("name", Key::Name(account, "site".into()), Record::Name(name)),
        ("epoch", Key::Epoch(epoch), Record::Epoch(bucket)),
        ("committee", Key::Committee(epoch), Record::Committee(committee)),
        ("presence", Key::Presence(height), Record::Presence(presence)),
        ("offence", Key::Offence(node, epoch), Record::Offence(height)),
    ]
}

/// The records of epochs and their committees.
fn epoch_records() -> Vec<(&'static str, Key, Record)> {
    let (node, epoch) = (node_keys(4)[0].0.public(), Epoch::new(3));
    let attendance = Attendance { epoch, heights: 5, recorded: vec![5, 2] };
    let terms = vec![Terms { commission_bps: 250, paid_shards: 2 }];
    let keeper = Keeper { node, until: epoch, complete: true };
    let shards = vec![
        ShardRecord::settled(node),
        ShardRecord { ready_since: None, last_ready: node, keepers: vec![keeper] },
    ];
    let outcomes = vec![Outcome::NotAsked, Outcome::Open, Outcome::Passed];
    let at = Timestamp::from_ms;
    let open = RoundRecord { round: ChallengeRound::new(9), opened: at(8), since: None, outcomes };
    let outcomes = vec![Outcome::Missed, Outcome::Void, Outcome::Passed];
    let round = ChallengeRound::new(7);
    let challenges = Challenges {
        last: Some(Timestamp::from_ms(8)),
        rounds: 2,
        open: vec![open],
        closed: vec![RoundRecord { round, opened: at(6), since: Some(at(7)), outcomes }],
        scores: vec![Score { passed: 3, missed: 2, void: 1 }, Score::default()],
    };
    let rate = Rate { amount: frost(1), shares: 1_000_000 };
    vec![
        ("shards", Key::Shards, Record::Shards(shards)),
        ("attendance", Key::Attendance, Record::Attendance(attendance)),
        ("terms", Key::Terms(epoch), Record::Terms(terms)),
        ("rate", Key::Rate(node, epoch), Record::Rate(rate)),
        ("challenges", Key::Challenges(epoch), Record::Challenges(Box::new(challenges))),
    ]
}

#[test]
fn records_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of the state: key hashes and records, and the state at genesis. Written\n\
         # by tests/ledger/vectors.rs; changed only on purpose.\n",
    );
    for (name, key, record) in records().into_iter().chain(epoch_records()) {
        let key_hash = key.hash();
        let entry = Entry { key, record };
        let bytes = entry.to_bytes();
        assert_eq!(Entry::from_bytes(&bytes), Some(entry));
        writeln!(text, "\n{name}").unwrap();
        writeln!(text, "key_hash {key_hash}").unwrap();
        writeln!(text, "entry {}", golden::hex(&bytes)).unwrap();
    }
    for (nodes, n_shards) in [(4, N), (5, 64)] {
        let chain = floe_protocol::test_support::Chain::new(&genesis(nodes, n_shards));
        let root = chain.state.tip().state_root;
        writeln!(text, "\ngenesis nodes={nodes} n_shards={n_shards}").unwrap();
        writeln!(text, "chain {}", chain.id()).unwrap();
        writeln!(text, "state_root {root}").unwrap();
    }
    golden::check("records.txt", include_str!("../vectors/records.txt"), &text);
}
