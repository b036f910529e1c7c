//! From nothing to serving, one step at a time.

use floe_protocol::{
    ledger::{Incoming, NodeSettings, Pool},
    test_support,
};

use super::*;

fn wanted() -> Wanted {
    let account = AccountId::new(test_support::account_key(1).public());
    Wanted { account, stake: Some(Amount::from_wal(100)), addresses: Vec::new() }
}

fn facts() -> Facts {
    Facts {
        height: 12,
        age_ms: Some(900),
        heartbeat_ms: 10_000,
        epoch: 6,
        deadline_ms: 20_000,
        epoch_ms: 60_000,
        fee: Amount::from_frost(10_000),
        min_stake: Amount::from_wal(100),
        ..Facts::default()
    }
}

fn node(stake: Amount) -> Node {
    let keys = test_support::node_keys(1).swap_remove(0);
    Node {
        operator: wanted().account,
        bls_key: keys.1.public(),
        settings: NodeSettings {
            addresses: Vec::new(),
            commission_bps: 0,
            storage_price: Amount::ZERO,
            write_price: Amount::ZERO,
            capacity_units: 0,
        },
        pool: Pool { stake, shares: stake.frost() },
        incoming: Vec::new(),
        unbonding: Pool { stake: Amount::ZERO, shares: 0 },
        closed: false,
        jailed: None,
        bad_epochs: 0,
        ready: None,
        ready_stake: Amount::ZERO,
        settled: None,
    }
}

#[track_caller]
fn check(facts: &Facts, action: Option<Action>, text: &str) {
    let step = next(facts, &wanted());
    assert_eq!((step.action, step.waiting.to_string().as_str()), (action, text));
}

#[test]
fn a_volunteer_comes_from_nothing_to_serving() {
    let mut facts = Facts { newest: Some(340), age_ms: Some(900_000), ..facts() };
    check(&facts, None, "following the ledger: block 12 of 340");
    (facts.newest, facts.age_ms) = (None, Some(900_000));
    check(&facts, None, "following the ledger: block 12, 15 min old");
    facts.age_ms = Some(900);
    let account = wanted().account;
    let send = format!("waiting for WAL: send at least 100.00002 WAL to {account}");
    check(&facts, None, &send);
    facts.newest = Some(15);
    check(&facts, None, "following the ledger: block 12 of 15");
    facts.newest = Some(13);
    check(&facts, None, &send);
    facts.balance = Amount::from_wal(101);
    check(&facts, Some(Action::Register), "registering the node");
    facts.node = Some(node(Amount::ZERO));
    check(&facts, Some(Action::Stake(Amount::from_wal(100))), "staking 100 WAL");
    facts.node = Some(node(Amount::from_wal(100)));
    check(&facts, None, "registered, waiting for the selection in 20 s");
    facts.selected = Some(0);
    check(&facts, None, "registered, not in the next committee; the selection after it is in 50 s");
    facts.selected = Some(9);
    check(&facts, None, "selected: serves 9 shards from epoch 7, in 20 s");
    (facts.shards, facts.ready, facts.selected) = (9, 3, None);
    (facts.pairs, facts.missing_pairs) = (280, 120);
    check(&facts, None, "copying shards: 3 of 9 ready, 120 of 400 pairs missing");
    facts.ready = 9;
    check(&facts, None, "serving 9 shards, repairing, 120 of 400 pairs missing");
    facts.missing_pairs = 0;
    check(&facts, None, "serving 9 shards");
}

#[test]
fn only_what_is_missing_is_asked_for() {
    let mut facts = Facts { balance: Amount::from_wal(1_000), ..facts() };
    facts.node = Some(node(Amount::from_wal(60)));
    check(&facts, Some(Action::Stake(Amount::from_wal(40))), "staking 40 WAL");
    let mut staked = node(Amount::from_wal(60));
    staked.incoming.push(Incoming { epoch: Epoch::new(8), amount: Amount::from_wal(40) });
    facts.node = Some(staked);
    check(&facts, None, "registered, waiting for the selection in 20 s");
    facts.node = Some(node(Amount::from_wal(500)));
    check(&facts, None, "registered, waiting for the selection in 20 s");
    assert!(has_staked(&facts, &wanted()));
    let alone = Wanted { stake: None, ..wanted() };
    assert!(!has_staked(&facts, &alone), "nothing was wished for");
    facts.node = Some(node(Amount::from_wal(60)));
    assert!(!has_staked(&facts, &wanted()));
    let step = next(&facts, &alone);
    assert_eq!(step.action, None);
    let text =
        "registered, waiting for stake: the node has 60 WAL, 100 WAL are needed to be selected";
    assert_eq!(step.waiting.to_string(), text);
}

#[test]
fn addresses_are_updated_by_the_operator_alone() {
    let there = Wanted { addresses: vec!["/ip4/203.0.113.7/tcp/4950".into()], ..wanted() };
    let mut facts = Facts { balance: Amount::from_wal(1), ..facts() };
    facts.node = Some(node(Amount::from_wal(100)));
    assert_eq!(next(&facts, &there).action, Some(Action::Update));
    let stranger = AccountId::new(test_support::account_key(2).public());
    assert_eq!(next(&facts, &Wanted { account: stranger, ..there.clone() }).action, None);
    facts.node.as_mut().unwrap().settings.addresses.clone_from(&there.addresses);
    assert_eq!(next(&facts, &there).action, None);
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut facts = Facts { balance: Amount::from_wal(1_000), ..facts() };
    let mut jailed = node(Amount::from_wal(100));
    jailed.jailed = Some(Epoch::new(4));
    facts.node = Some(jailed);
    facts.jail_epochs = 3;
    let told = "jailed since epoch 4, for voting twice or missed challenges: `floe node join` with \
                its operator's wallet unjails it in epoch 7";
    check(&facts, None, told);
    facts.epoch = 7;
    check(&facts, Some(Action::Unjail), told);
    facts.node.as_mut().unwrap().operator = AccountId::new(test_support::account_key(2).public());
    check(&facts, None, told);
    facts.epoch = 6;
    let mut closed = node(Amount::ZERO);
    closed.closed = true;
    facts.node = Some(closed);
    check(&facts, None, "the node's pool was slashed to nothing: it needs another key");
    // A member whose operator is poor serves all the same.
    facts.node = Some(node(Amount::from_wal(60)));
    (facts.balance, facts.shards, facts.ready) = (Amount::ZERO, 4, 4);
    check(&facts, None, "serving 4 shards");
}

#[test]
fn a_countdown_alone_is_no_change() {
    let phase = |in_ms| Waiting::Selection { in_ms, passed_over: false }.phase();
    assert_eq!(phase(1_000), phase(2_000));
    let selected = |epoch| Waiting::Selected { epoch, shards: 3, in_ms: 5 }.phase();
    assert_ne!(selected(7), selected(8));
}
