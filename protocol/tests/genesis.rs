//! Genesis and the first committee: what the chain id binds, and who gets which shards.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use floe_protocol::{
    bft,
    challenge::ChallengeParameters,
    committee::{Candidate, Committee, CommitteeError, award_shards, shard_cap},
    encoding::EncodingConfig,
    genesis::{Genesis, GenesisError, GenesisMember, NetworkFile, Predecessor},
    hash::{Domain, Hash},
    index::{Epoch, Height, ShardIndex},
    keys::{BlsKeyPair, BlsPublicKey, ChainId, KeyPair, NodeId},
    ledger::{AccountId, Amount, BlockHash, Parameters, State, Timestamp},
    test_support::{genesis, node_keys},
};
use proptest::{collection::vec, prelude::*};

// --- genesis ---------------------------------------------------------------------------------

/// The rules of challenges, as they stand last in those of the ledger.
fn challenges_by_hand(rules: &ChallengeParameters) -> Vec<u8> {
    [
        &rules.interval_ms.to_le_bytes()[..],
        &rules.grace_ms.to_le_bytes(),
        &rules.window_ms.to_le_bytes(),
        &rules.steps.to_le_bytes(),
        &rules.certificate_window_ms.to_le_bytes(),
        &rules.certificate_window_heights.to_le_bytes(),
        &rules.slash_rounds_min.to_le_bytes(),
        &rules.slash_bps.to_le_bytes(),
        &rules.slashes_until_jail.to_le_bytes(),
    ]
    .concat()
}

/// The layout that the documentation of `chain_id` states, written a second time.
fn chain_id_by_hand(genesis: &Genesis) -> ChainId {
    let u16_le = |len: usize| u16::try_from(len).unwrap().to_le_bytes();
    let mut parts: Vec<Vec<u8>> = vec![
        u16_le(genesis.name.len()).to_vec(),
        genesis.name.clone().into_bytes(),
        genesis.n_shards.to_le_bytes().to_vec(),
        genesis.max_blob_bytes.to_le_bytes().to_vec(),
        u16_le(genesis.members.len()).to_vec(),
    ];
    for member in &genesis.members {
        parts.push(member.node.as_bytes().to_vec());
        parts.push(member.bls_key.as_bytes().to_vec());
        parts.push(member.bls_possession.as_bytes().to_vec());
        parts.push(member.operator.key().as_bytes().to_vec());
        parts.push(member.stake_wal.to_le_bytes().to_vec());
    }
    let u32_le = |len: usize| u32::try_from(len).unwrap().to_le_bytes().to_vec();
    let frost = |amount: Amount| amount.frost().to_le_bytes().to_vec();
    parts.push(u32_le(genesis.accounts.len()));
    for account in &genesis.accounts {
        parts.push(account.account.key().as_bytes().to_vec());
        parts.push(frost(account.balance));
    }
    parts.push(vec![u8::from(genesis.faucet.is_some())]);
    if let Some(faucet) = &genesis.faucet {
        parts.push(faucet.seed.as_bytes().to_vec());
        parts.push(frost(faucet.amount));
    }
    let ledger = &genesis.ledger;
    for number in [ledger.epoch_ms, ledger.block_interval_min_ms, ledger.heartbeat_ms] {
        parts.push(number.to_le_bytes().to_vec());
    }
    for number in [ledger.max_epochs_ahead, ledger.unbonding_epochs, ledger.jail_epochs] {
        parts.push(number.to_le_bytes().to_vec());
    }
    parts.push(ledger.equivocation_slash_bps.to_le_bytes().to_vec());
    for amount in
        [ledger.min_stake, ledger.fee_per_operation, ledger.storage_price, ledger.write_price]
    {
        parts.push(frost(amount));
    }
    parts.push(ledger.capacity_units.to_le_bytes().to_vec());
    parts.push(challenges_by_hand(&ledger.challenges));
    if let Some(predecessor) = &genesis.predecessor {
        parts.push(predecessor.chain.as_bytes().to_vec());
        parts.push(predecessor.height.get().to_le_bytes().to_vec());
        parts.push(predecessor.block.hash().as_bytes().to_vec());
        parts.push(predecessor.time.ms().to_le_bytes().to_vec());
        for hash in [predecessor.state_root, predecessor.first_state, predecessor.manifest] {
            parts.push(hash.as_bytes().to_vec());
        }
        parts.push(u32_le(predecessor.committee.len()));
        parts.push(predecessor.committee.clone());
        parts.push(frost(predecessor.supply));
    }
    ChainId::new(Domain::Genesis.hash(&[&parts.concat()]))
}

#[test]
fn the_chain_id_is_the_hash_of_the_documented_layout() {
    for (nodes, n_shards) in [(4, 4), (7, 7), (5, 64)] {
        let genesis = genesis(nodes, n_shards);
        assert_eq!(genesis.chain_id(), chain_id_by_hand(&genesis));
    }
}

/// A network that goes on from another.
fn successor() -> Genesis {
    let before = genesis(5, 7);
    let hash = |byte| Hash::new([byte; 32]);
    before.successor(Predecessor {
        chain: before.chain_id(),
        height: Height::new(1_234),
        block: BlockHash::new(hash(1)),
        time: Timestamp::from_ms(1_700_000_000_000),
        state_root: hash(2),
        first_state: hash(3),
        manifest: hash(4),
        committee: before.committee().unwrap().in_epoch(Epoch::new(9)).to_bytes(),
        supply: before.supply().unwrap(),
    })
}

#[test]
fn the_chain_id_of_a_successor_binds_all_that_it_goes_on_from() {
    let genesis = successor();
    assert_eq!(genesis.chain_id(), chain_id_by_hand(&genesis));
    assert_eq!(genesis.committee().unwrap().epoch(), Epoch::new(9));
    let changes: [fn(&mut Predecessor); 9] = [
        |p| p.chain = ChainId::new(Hash::ZERO),
        |p| p.height = p.height.next(),
        |p| p.block = BlockHash::new(Hash::ZERO),
        |p| p.time = p.time.plus_ms(1),
        |p| p.state_root = Hash::ZERO,
        |p| p.first_state = Hash::ZERO,
        |p| p.manifest = Hash::ZERO,
        |p| p.committee[0] ^= 1,
        |p| p.supply = Amount::ZERO,
    ];
    for change in changes {
        let mut other = genesis.clone();
        change(other.predecessor.as_mut().unwrap());
        assert_ne!(other.chain_id(), genesis.chain_id());
    }
    let mut without = genesis.clone();
    without.predecessor = None;
    assert_ne!(without.chain_id(), genesis.chain_id());
    let mut other = genesis;
    other.n_shards = 10;
    assert_eq!(other.committee(), Err(GenesisError::OtherShards));
}

#[test]
fn the_format_of_the_json_does_not_change_the_chain_id() {
    // Without what a file may leave out.
    let genesis = Genesis { accounts: Vec::new(), faucet: None, ..genesis(4, 7) };
    let value = serde_json::to_value(&genesis).unwrap();
    let members = serde_json::to_string(&value["members"]).unwrap();
    let by_hand = format!(
        "\n{{\t\"members\" :{members},\"max_blob_bytes\": {},\n\
         \"n_shards\":7 , \"name\":\"t\\u0065st\"}}\n",
        genesis.max_blob_bytes
    );
    let texts = [
        serde_json::to_string(&genesis).unwrap(),
        serde_json::to_string_pretty(&genesis).unwrap(),
        in_capital_digits(&by_hand),
        by_hand,
    ];
    for text in texts {
        let parsed: Genesis = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed, genesis, "{text}");
        assert_eq!(parsed.chain_id(), genesis.chain_id());
    }
}

/// Keys in capital digits, as some tools write them.
fn in_capital_digits(json: &str) -> String {
    let is_key = |word: &str| word.len() >= 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = json
        .split('"')
        .map(|word| if is_key(word) { word.to_uppercase() } else { word.to_owned() });
    words.collect::<Vec<_>>().join("\"")
}

type Change = fn(&mut Genesis, NodeId);

#[test]
fn every_field_changes_the_chain_id() {
    let original = genesis(5, 7);
    let key = KeyPair::from_seed([9; 32]).public();
    let changes: [(&str, Change); 19] = [
        ("name", |genesis, _| genesis.name.push('x')),
        ("shards", |genesis, _| genesis.n_shards = 8),
        ("limit", |genesis, _| genesis.max_blob_bytes -= 1),
        ("fewer members", |genesis, _| {
            genesis.members.pop();
        }),
        ("order of members", |genesis, _| genesis.members.swap(0, 1)),
        ("node key", |genesis, key| genesis.members[2].node = key),
        ("BLS key", |genesis, _| {
            genesis.members[2].bls_key = genesis.members[1].bls_key;
        }),
        ("possession", |genesis, _| {
            genesis.members[2].bls_possession = genesis.members[1].bls_possession;
        }),
        ("stake", |genesis, _| genesis.members[4].stake_wal += 1),
        ("operator", |genesis, key| genesis.members[2].operator = AccountId::new(key)),
        ("account", |genesis, key| genesis.accounts[3].account = AccountId::new(key)),
        ("balance", |genesis, _| genesis.accounts[3].balance = Amount::ZERO),
        ("fewer accounts", |genesis, _| genesis.accounts.truncate(3)),
        ("no faucet", |genesis, _| genesis.faucet = None),
        ("faucet", |genesis, _| genesis.faucet.as_mut().unwrap().seed = Hash::ZERO),
        ("epoch", |genesis, _| genesis.ledger.epoch_ms += 1),
        ("slash", |genesis, _| genesis.ledger.equivocation_slash_bps += 1),
        ("min stake", |genesis, _| genesis.ledger.min_stake = Amount::from_wal(101)),
        ("capacity", |genesis, _| genesis.ledger.capacity_units += 1),
    ];
    let mut ids = vec![original.chain_id()];
    for (what, change) in changes {
        let mut changed = original.clone();
        change(&mut changed, key);
        let id = changed.chain_id();
        assert!(!ids.contains(&id), "{what}");
        ids.push(id);
    }
}

#[test]
fn genesis_files_are_parsed_strictly() {
    let network =
        NetworkFile { genesis: genesis(4, 4), bootstrap: vec!["/ip4/127.0.0.1/tcp/4000".into()] };
    let value = serde_json::to_value(&network).unwrap();
    let parse = |value: &serde_json::Value| serde_json::from_value::<NetworkFile>(value.clone());
    assert_eq!(parse(&value).unwrap(), network);

    let mut no_bootstrap = value.clone();
    no_bootstrap.as_object_mut().unwrap().remove("bootstrap");
    assert_eq!(parse(&no_bootstrap).unwrap().bootstrap, [] as [&str; 0]);
    // What a file may leave out: a network without peers to knock at, accounts, or rules of its own.
    let optional = ["bootstrap", "accounts", "faucet", "ledger"];
    let objects = ["", "/genesis", "/genesis/members/0", "/genesis/accounts/0", "/genesis/faucet"];
    for pointer in objects {
        let mut more = value.clone();
        let object = more.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        object.insert("more".into(), 1.into());
        assert!(parse(&more).is_err(), "unknown field in {pointer:?}");
        let names: Vec<_> = value.pointer(pointer).unwrap().as_object().unwrap().keys().collect();
        for name in names.into_iter().filter(|name| !optional.contains(&name.as_str())) {
            let mut less = value.clone();
            let object = less.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
            object.remove(name);
            assert!(parse(&less).is_err(), "{pointer:?} without {name}");
        }
    }
}

#[test]
fn chain_ids_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of genesis. Written by tests/genesis.rs; changed only on purpose. The\n\
         # nodes are those of certificates.txt, with 1000 WAL each.\n\n",
    );
    for (nodes, n_shards) in [(4, 4), (7, 7), (5, 64)] {
        let genesis = genesis(nodes, n_shards);
        let Genesis { name, max_blob_bytes, .. } = &genesis;
        writeln!(
            text,
            "genesis name={name} nodes={nodes} n_shards={n_shards} max_blob_bytes={max_blob_bytes}"
        )
        .unwrap();
        let chain = genesis.chain_id();
        let hex = golden::hex(chain.as_bytes());
        writeln!(text, "chain {hex} short={}", chain.short()).unwrap();
    }
    let hex = golden::hex(successor().chain_id().as_bytes());
    writeln!(text, "successor of nodes=5 n_shards=7 in epoch 9\nchain {hex}").unwrap();
    golden::check("genesis.txt", include_str!("vectors/genesis.txt"), &text);
}

// --- committee -------------------------------------------------------------------------------

fn candidates(stakes: &[u128]) -> Vec<Candidate> {
    let candidate = |(i, stake): (u16, &u128)| {
        let [high, low] = i.to_be_bytes();
        let mut bytes = [0; 48];
        (bytes[0], bytes[1]) = (high, low);
        Candidate {
            node: NodeId::new(*bytes.first_chunk().unwrap()),
            bls_key: BlsPublicKey::new(bytes),
            stake: *stake,
        }
    };
    (0..).zip(stakes).map(candidate).collect()
}

/// Stakes with ties, with none, and with the largest that a genesis can state.
fn stakes() -> impl Strategy<Value = Vec<u128>> {
    let stake = prop_oneof![
        1 => Just(0),
        4 => 1..4_u128,
        4 => 1..1_000_000_u128,
        1 => any::<u64>().prop_map(|wal| u128::from(wal) * Amount::FROST_PER_WAL),
    ];
    vec(stake, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shards_go_to_the_highest_quotients_below_the_cap(n in 4..=256_u16, stakes in stakes()) {
        let staked = stakes.iter().filter(|stake| **stake > 0).count();
        let cap = shard_cap(n, staked);
        let awarded = award_shards(n, &candidates(&stakes));
        if staked * usize::from(cap) < usize::from(n) {
            let error = CommitteeError::Cap { n_shards: n, nodes: staked, cap };
            prop_assert_eq!(awarded, Err(error));
            return Ok(());
        }
        let holders = awarded.unwrap();
        prop_assert_eq!(holders.len(), usize::from(n));
        prop_assert!(cap <= bft::max_faulty(n));
        let mut counts = vec![0_u16; stakes.len()];
        for holder in &holders {
            counts[usize::from(*holder)] += 1;
        }
        for (i, stake) in stakes.iter().enumerate() {
            prop_assert!(counts[i] <= cap);
            prop_assert!(*stake > 0 || counts[i] == 0);
            for (j, other) in stakes.iter().enumerate() {
                // The last shard of i beat what j would have needed for one more.
                if counts[i] > 0 && counts[j] < cap && i != j {
                    let quotient = stake * (u128::from(counts[j]) + 1);
                    let refused = other * u128::from(counts[i]);
                    prop_assert!(
                        quotient > refused || (quotient == refused && i < j),
                        "{i} of stake {stake} has {}, {j} of stake {other} has {}",
                        counts[i], counts[j]
                    );
                }
            }
        }
    }

    #[test]
    fn the_order_of_candidates_is_irrelevant(
        (stakes, shuffled) in vec(1..5_u128, 4..30).prop_flat_map(|stakes| {
            let candidates = candidates(&stakes);
            (Just(stakes), Just(candidates).prop_shuffle())
        }),
        n in 16..=256_u16,
    ) {
        let sorted = Committee::at_genesis(n, &candidates(&stakes));
        prop_assert_eq!(&Committee::at_genesis(n, &shuffled), &sorted);
        let Ok(committee) = sorted else { return Ok(()) };
        prop_assert!(committee.members().is_sorted_by_key(|member| member.node));
        let mut held = 0;
        for (position, member) in committee.members().iter().enumerate() {
            prop_assert!(member.shards.is_sorted());
            prop_assert_eq!(committee.position(&member.node), Some(position));
            for shard in &member.shards {
                prop_assert_eq!(committee.holder(*shard), position);
            }
            held += member.weight();
        }
        prop_assert_eq!(held, n, "every shard has one holder");
    }
}

#[test]
fn ties_go_to_the_lower_node_id() {
    let mut members = candidates(&[1; 4]);
    members.reverse();
    let committee = Committee::at_genesis(13, &members).unwrap();
    let weights: Vec<_> = committee.members().iter().map(|m| m.weight()).collect();
    assert_eq!(weights, [4, 3, 3, 3]);
    assert_eq!(committee.holder(ShardIndex::new(0)), 0);
    assert_eq!(committee.holder(ShardIndex::new(12)), 0);
}

#[test]
fn a_key_is_one_members_only() {
    let original = candidates(&[1; 5]);
    let mut same_node = original.clone();
    same_node[4].node = same_node[1].node;
    let duplicate = Err(CommitteeError::Duplicate(original[1].node));
    assert_eq!(Committee::at_genesis(7, &same_node), duplicate);
    let mut same_bls = original.clone();
    same_bls[4].bls_key = same_bls[1].bls_key;
    assert_eq!(Committee::at_genesis(7, &same_bls), duplicate);
    assert!(Committee::at_genesis(7, &original).is_ok());
}

#[test]
fn a_stranger_is_no_member() {
    let committee = genesis(4, 7).committee().unwrap();
    let stranger = KeyPair::from_seed([9; 32]).public();
    assert_eq!(committee.position(&stranger), None);
    assert_eq!(committee.member(&stranger), None);
    let (node, bls) = &node_keys(4)[2];
    assert_eq!(committee.member(&node.public()).unwrap().bls_key, bls.public());
}

#[test]
fn parameters_are_what_the_genesis_says() {
    let genesis = Genesis { max_blob_bytes: 12_345, ..genesis(4, 7) };
    let parameters = genesis.parameters().unwrap();
    let Parameters { n_shards, max_blob_bytes, ledger, supply } = parameters;
    assert_eq!((n_shards, max_blob_bytes, ledger), (7, 12_345, genesis.ledger));
    // Four stakes, eight accounts and the faucet's.
    assert_eq!(supply, Amount::from_wal(4 * 1_000 + 9 * 1_000));
    let (state, _) = State::genesis(&genesis).unwrap();
    assert_eq!(state.parameters(), &parameters);
    assert_eq!(*state.chain(), genesis.chain_id());
    assert_eq!(state.summary().epoch, Epoch::new(0));
    assert_eq!(Ok(state.committee().as_ref()), genesis.committee().as_ref());

    let mut too_much = genesis;
    too_much.accounts[0].balance = Amount::from_frost(u128::MAX);
    assert_eq!(too_much.parameters(), Err(GenesisError::Supply));
}

#[test]
fn a_node_without_stake_is_a_member_without_shards() {
    let mut genesis = genesis(5, 7);
    let (node, bls) = (KeyPair::from_seed([9; 32]), BlsKeyPair::from_seed([9; 32]));
    let operator = AccountId::new(node.public());
    genesis.members.push(GenesisMember::new(&node, &bls, operator, 0));
    let committee = genesis.committee().unwrap();
    assert_eq!(committee.member(&node.public()).unwrap().weight(), 0);
    let config = EncodingConfig::new(7).unwrap();
    assert_eq!(committee.config(), config);
}
