//! A network that goes on from a stopped one: what it takes over, and that it goes on.

use std::collections::BTreeSet;

use floe_protocol::{
    committee::Committee,
    genesis::{Genesis, GenesisError},
    index::{Epoch, Height, ShardIndex},
    keys::NodeId,
    ledger::{
        Amount, BlobState, Entry, Key, LoadError, MemoryStore, Operation, Record, SnapshotError,
        SnapshotManifest, SnapshotRestore, State, StateReader as _, Succession, SuccessionError,
        index_of,
    },
    ledger::{StateProof, Timestamp},
    light::{LightClient, OldRoot, Start, VerifiedState},
    message::IndexQuery,
    test_support::{Chain, account_key, genesis, node_keys, operator_key},
};

use super::{
    N, account, blob, certify, challenges, commit,
    epochs::{join, key, ready, three_of_seven_moved},
    fund, header, id, indexed, keepers, large_header, members, registered, registration,
    report_ready, report_shards, stored, to_deadline, transfer,
};

/// Chunks of a first state, as they go from node to node.
type Chunks = (SnapshotManifest, Vec<Vec<u8>>);

fn without(who: &[usize]) -> BTreeSet<NodeId> {
    let keys = node_keys(16);
    who.iter().map(|i| keys[*i].0.public()).collect()
}

/// The successor of a network without some nodes.
fn succeed(chain: &Chain, before: &Genesis, gone: &[usize]) -> (Succession, Genesis, Chunks) {
    succeed_from(&chain.state, &chain.store, before, gone)
}

/// The same from a state that need not be the newest.
fn succeed_from(
    state: &State,
    store: &MemoryStore,
    before: &Genesis,
    gone: &[usize],
) -> (Succession, Genesis, Chunks) {
    let succession = Succession::new(state, store, &without(gone)).unwrap();
    let mut writer = succession.writer();
    let mut chunks = Vec::new();
    for (key, value) in store.values(state.tip().height.get()) {
        chunks.extend(writer.push(&key, value).unwrap());
    }
    let (last, manifest, predecessor) = writer.finish().unwrap();
    chunks.extend(last);
    let genesis = before.successor(predecessor);
    (succession, genesis, (manifest, chunks))
}

fn restore(genesis: &Genesis, (manifest, chunks): &Chunks) -> Result<MemoryStore, SnapshotError> {
    let predecessor = genesis.predecessor.as_ref().unwrap();
    let mut restore = SnapshotRestore::of_first_state(manifest.clone(), predecessor)?;
    let mut store = MemoryStore::default();
    for chunk in chunks {
        store.write(restore.take(chunk)?);
    }
    store.write(restore.finish()?);
    Ok(store)
}

/// A chain with all kinds of records in it, some epochs old.
fn old_chain() -> (Chain, Genesis) {
    let genesis = genesis(7, N);
    let mut chain = Chain::new(&genesis);
    commit(&mut chain, &account_key(0), vec![transfer(1, 5), transfer(2, 6)]);
    stored(&mut chain, &account_key(0), header(1), 20, true);
    chain.next_epoch();
    stored(&mut chain, &account_key(1), large_header(2), 30, false);
    let name = Operation::SetName { name: "n".into(), blob: Some(header(1).id()), version: 1 };
    commit(&mut chain, &account_key(1), vec![name]);
    fund(&mut chain, 2, 1_000_000);
    let node = node_keys(7)[2].0.public();
    let amount = Amount::from_wal(3);
    commit(&mut chain, &account_key(3), vec![Operation::Stake { node, amount }]);
    // The next committee is selected, and some of the epoch is paid for.
    to_deadline(&mut chain);
    registered(&mut chain, &account_key(4), super::register(header(3), 9, true));
    (chain, genesis)
}

#[test]
fn what_was_there_is_there_and_the_dead_are_not() {
    let (chain, before) = old_chain();
    let gone = [1, 3, 6];
    let (succession, genesis, chunks) = succeed(&chain, &before, &gone);
    let predecessor = genesis.predecessor.clone().unwrap();
    let tip = chain.state.tip();
    assert_eq!((predecessor.chain, predecessor.height), (chain.id(), tip.height));
    assert_eq!((predecessor.block, predecessor.state_root), (tip.hash, tip.state_root));
    let text = serde_json::to_string(&genesis).unwrap();
    assert_eq!(serde_json::from_str::<Genesis>(&text).unwrap(), genesis);
    assert_ne!(genesis.chain_id(), before.chain_id());

    let next = chain.successor(&genesis, restore(&genesis, &chunks).unwrap());
    let (old, new) = (chain.state.summary(), next.state.summary());
    assert_eq!(new.epoch, old.epoch.plus(1), "the epoch that stopped is over");
    assert_eq!((new.supply, new.certifications), (old.supply, old.certifications));
    assert_eq!(genesis.supply().unwrap(), before.supply().unwrap());
    assert_eq!(next.state.tip().height, Height::new(0));

    // The dead hold nothing, nobody more than the cap, and what need not move stays.
    let (running, first) = (chain.state.committee(), next.state.committee());
    assert_eq!(first.as_ref(), succession.committee());
    let dead = without(&gone);
    let shards = next.state.shards(&next.store).unwrap();
    for shard in (0..N).map(ShardIndex::new) {
        let was = running.members()[running.holder(shard)].node;
        let is = &first.members()[first.holder(shard)];
        assert!(!dead.contains(&is.node) && is.weight() <= 2);
        assert_eq!(is.node == was, !dead.contains(&was), "shard {shard}");
        assert_eq!(shards[shard.as_usize()].is_ready(), is.node == was);
        assert_eq!(shards[shard.as_usize()].last_ready, was);
    }
    assert_eq!(succession.ready_shards(), 4);

    // Every record that is not about the epoch or its votes is the very same.
    let mut kept = 0;
    for (key, value) in chain.store.values(tip.height.get()) {
        let entry = Entry::from_bytes(value).unwrap();
        let about_time = matches!(
            entry.key,
            Key::Summary
                | Key::Epoch(_)
                | Key::Committee(_)
                | Key::Terms(_)
                | Key::Presence(_)
                | Key::Shards
                | Key::Attendance
                | Key::Challenges(_)
        );
        if !about_time {
            let (_, carried) = next.store.value(&key, 0).unwrap().unwrap();
            assert_eq!(carried.as_deref(), Some(value), "{:?}", entry.key);
            kept += 1;
            for index in index_of(&entry, new.epoch) {
                let bytes = index.to_bytes();
                let end = [&bytes[..], &[0]].concat();
                assert_eq!(next.store.index(&bytes..&end, 1).unwrap(), [bytes]);
            }
        } else if matches!(entry.key, Key::Presence(_) | Key::Attendance | Key::Challenges(_)) {
            assert_eq!(next.record(&entry.key), None);
        }
    }
    assert!(kept > 20, "{kept}");
    let buckets = |chain: &Chain, epoch: Epoch| match chain.record(&Key::Epoch(epoch)) {
        Some(Record::Epoch(record)) => record.bucket.frost(),
        _ => 0,
    };
    let (ended, begun) = (old.epoch, new.epoch);
    assert!(buckets(&chain, ended) > 0);
    assert_eq!(buckets(&next, ended), 0);
    assert_eq!(buckets(&next, begun), buckets(&chain, ended) + buckets(&chain, begun));
}

#[test]
fn rounds_of_challenges_begin_anew_over_the_same_blobs() {
    let (chain, before) = old_chain();
    assert!(chain.state.challenges().rounds > 0 && !chain.state.open_challenges().is_empty());
    let (succession, genesis, chunks) = succeed(&chain, &before, &[1, 3, 6]);
    let mut next = chain.successor(&genesis, restore(&genesis, &chunks).unwrap());
    assert_eq!(next.state.challenges().rounds, 0);
    next.now = next.now.plus_ms(7 * 24 * 3_600_000);
    next.commit(&[]);
    next.now = next.now.plus_ms(60_000);
    let universe = next.commit(&[]).opened.expect("there are blobs");
    // The third is paid for, but nobody has certified it.
    challenges::assert_asks_for(&universe.units, &[header(1), large_header(2)]);
    // Nobody is asked for what it has just got.
    let asked: usize = universe.shards.iter().map(Vec::len).sum();
    assert_eq!(asked, succession.ready_shards());
}

#[test]
fn a_successor_that_starts_again_asks_for_the_same() {
    let (chain, before) = old_chain();
    let (_, genesis, chunks) = succeed(&chain, &before, &[1, 3, 6]);
    let mut next = chain.successor(&genesis, restore(&genesis, &chunks).unwrap());
    next.now = next.now.plus_ms(7 * 24 * 3_600_000);
    let first = State::first_of_successor(&genesis, &next.store).unwrap();
    let blobs = [header(1), large_header(2), header(9)];
    let (mut certified, mut rounds) = (None, [0; 4]);
    // Long enough for the third to become old enough.
    for step in 0..150 {
        if step == 10 {
            stored(&mut next, &account_key(2), blobs[2], 4, true);
            certified = Some(next.state.tip().time);
        }
        let tip = next.blocks.last().map(|(block, _)| block.header);
        let again = match tip {
            None => State::first_of_successor(&genesis, &next.store),
            Some(header) => State::load(&first, &header, &next.store),
        };
        let again = again.unwrap();
        assert_eq!(again.challenge_deadline(), next.state.challenge_deadline(), "step {step}");
        next.now = next.state.challenge_deadline().unwrap_or(next.now).max(next.now);
        let (block, _) = next.propose(&[], &[]).unwrap();
        let restarted = again.execute(&next.store, &block, &|_| false).unwrap();
        let carried = next.apply(&block).unwrap();
        assert_eq!(restarted.change, carried.change, "step {step}");
        let universes = [restarted.opened.as_deref(), carried.opened.as_deref()];
        challenges::assert_same_universe(universes[0], universes[1]);
        if let Some(universe) = universes[1] {
            let grace_ms = universe.parameters.grace_ms;
            let is_old = certified.is_some_and(|time| universe.opened.ms_since(time) >= grace_ms);
            let asked = if is_old { 3 } else { 2 };
            challenges::assert_asks_for(&universe.units, &blobs[..asked]);
            rounds[asked] += 1;
        }
    }
    assert!(rounds[2] > 0 && rounds[3] > 0, "{rounds:?}");
}

#[test]
fn the_successor_goes_on_as_any_network() {
    let (chain, before) = old_chain();
    let (_, genesis, chunks) = succeed(&chain, &before, &[1, 3, 6]);
    let mut next = chain.successor(&genesis, restore(&genesis, &chunks).unwrap());
    next.now = next.now.plus_ms(7 * 24 * 3_600_000);
    // A light peer needs the genesis alone, for facts before the first block too.
    let proof = StateProof::new(&next.store, 0, &Key::Summary).unwrap();
    let fact = VerifiedState::genesis(&genesis).unwrap().fact(&Key::Summary, &proof).unwrap();
    assert_eq!(fact, Some(Record::Summary(*next.state.summary())));
    let now = Timestamp::from_ms(0);
    let start = Start::Genesis { started: None };
    let mut light = LightClient::new(&genesis, &start, OldRoot::Trust, now).unwrap();

    commit(&mut next, &account_key(0), vec![transfer(5, 7)]);
    let uncertified = indexed(&next, IndexQuery::Owned(id(&account_key(4))));
    let [uncertified] = uncertified[..] else { panic!("{uncertified:?}") };
    let certificate = certify(&next, uncertified, &header(3));
    commit(&mut next, &account_key(4), vec![certificate]);
    stored(&mut next, &account_key(2), header(9), 4, true);
    report_shards(&mut next, &[0, 2, 4, 5]);
    for _ in 0..3 {
        let epoch = next.state.committee().epoch();
        let ready: Vec<_> = [0, 2, 4, 5].into_iter().collect();
        report_ready(&mut next, &ready);
        next.next_epoch();
        assert_eq!(next.state.committee().epoch(), epoch.plus(1));
    }
    for (block, certificate) in &next.blocks {
        let (header, certificate) = (block.header, certificate.clone());
        let certified = floe_protocol::light::CertifiedHeader { header, certificate };
        if header.epoch == light.epoch() {
            light.accept(certified.clone(), now).unwrap();
        }
        let committee = next.record(&Key::Committee(header.epoch.plus(1)));
        if header.next_committee != light.committee().hash()
            && let Some(Record::Committee(committee)) = committee
        {
            light.handover(certified, &committee, now).unwrap();
        }
    }
    assert_eq!(light.epoch(), next.state.committee().epoch());
    let epoch = next.state.summary().epoch;
    for header in [header(1), large_header(2), header(9)] {
        let state = blob(&next, &header).map(|blob| blob.state(epoch));
        assert_eq!(state, Some(BlobState::Certified));
    }
    let total = next.state.summary().supply.total();
    assert_eq!(total, Some(before.supply().unwrap()));
    assert_eq!(account(&next, &id(&account_key(0))).nonce, 4);
    // Those who are left out still have their stake.
    let gone = node_keys(7)[1].0.public();
    assert!(super::node(&next, &gone).pool.stake > Amount::ZERO);
    assert!(super::worth(&next, &operator_key(1), &gone).active > Amount::ZERO);
    assert!(registration(&next, uncertified).is_some());
}

#[test]
fn another_state_or_manifest_is_refused() {
    let (chain, before) = old_chain();
    let (_, genesis, (manifest, chunks)) = succeed(&chain, &before, &[1, 3, 6]);
    let (_, other, _) = succeed(&chain, &before, &[0, 3, 6]);
    let refused = restore(&other, &(manifest.clone(), chunks.clone())).unwrap_err();
    assert!(matches!(refused, SnapshotError::Manifest), "{refused}");
    let mut more = manifest.clone();
    more.entries += 1;
    assert!(restore(&genesis, &(more, chunks.clone())).is_err());
    let mut damaged = chunks.clone();
    damaged[0][40] ^= 1;
    let refused = restore(&genesis, &(manifest.clone(), damaged)).unwrap_err();
    assert!(matches!(refused, SnapshotError::OtherChunk(0)), "{refused}");
    // It is no snapshot of a block, whatever a stranger says.
    assert!(matches!(SnapshotRestore::new(manifest.clone()), Err(SnapshotError::Manifest)));

    let store = restore(&genesis, &(manifest, chunks)).unwrap();
    let refused = State::first_of_successor(&other, &store).unwrap_err();
    assert!(matches!(refused, LoadError::OtherState(_)), "{refused}");
    let refused = State::first_of_successor(&before, &store).unwrap_err();
    assert!(matches!(refused, LoadError::OtherState(_)), "{refused}");
    let mut mixed = genesis;
    mixed.accounts.clone_from(&before.accounts);
    assert_eq!(mixed.committee(), Err(GenesisError::Predecessor));
}

#[test]
fn too_few_that_are_left_are_refused_and_so_are_unknown_nodes() {
    let (chain, _) = old_chain();
    let refused = |gone: &BTreeSet<NodeId>| Succession::new(&chain.state, &chain.store, gone);
    let error = refused(&without(&[0, 1, 2, 3])).unwrap_err();
    assert!(matches!(error, SuccessionError::Committee { nodes: 3, .. }), "{error}");
    let stranger = node_keys(9)[8].0.public();
    let error = refused(&BTreeSet::from([stranger])).unwrap_err();
    assert!(matches!(error, SuccessionError::Unknown(node) if node == stranger), "{error}");
    assert!(refused(&BTreeSet::new()).is_ok(), "whom to leave out is for people to say");
}

#[test]
fn whoever_repeats_it_gets_the_same_genesis() {
    let (chain, before) = old_chain();
    let (_, one, chunks) = succeed(&chain, &before, &[1, 3, 6]);
    let (_, other, again) = succeed(&chain, &before, &[6, 1, 3]);
    assert_eq!((one.chain_id(), chunks), (other.chain_id(), again));
}

#[test]
fn who_keeps_a_shard_keeps_it_though_its_dead_holder_had_it_complete() {
    let (mut chain, held_by, losers) = three_of_seven_moved();
    let interim = chain.state.committee().clone();
    // So that no loser is a candidate.
    for i in [6, 7] {
        join(&mut chain, i, Amount::from_wal(300));
    }
    report_ready(&mut chain, &[6, 7]);
    let all = members(&chain);
    report_shards(&mut chain, &all);
    assert_eq!((chain.state.summary().epoch.get(), ready(&chain)), (1, 7), "a quorum of flags");
    let holder = |committee: &Committee, shard| committee.members()[committee.holder(shard)].node;
    let mut kept = 0;
    for gone in all {
        let (_, genesis, chunks) = succeed(&chain, &genesis(6, N), &[gone]);
        let next = chain.successor(&genesis, restore(&genesis, &chunks).unwrap());
        let shards = next.state.shards(&next.store).unwrap();
        for shard in (0..N).map(ShardIndex::new) {
            let (loser, dead) = (holder(&held_by, shard), holder(&interim, shard));
            if loser == dead || dead != key(gone) {
                continue;
            }
            assert!(losers.iter().any(|i| key(*i) == loser));
            let record = &shards[shard.as_usize()];
            assert!(!record.is_ready() && record.last_ready == dead);
            assert!(record.keepers.iter().any(|keeper| keeper.node == loser), "{record:?}");
            assert_eq!(keepers::plan_of(&next, &loser, shard).guarded, [shard]);
            kept += 1;
        }
    }
    assert_eq!(kept, 3, "each shard that had moved");
}

#[test]
fn what_came_after_a_state_changes_nothing_in_what_follows_from_it() {
    let (mut chain, _, _) = three_of_seven_moved();
    let all = members(&chain);
    report_shards(&mut chain, &all);
    join(&mut chain, 6, Amount::from_wal(300));
    report_ready(&mut chain, &[6]);
    let (state, before) = (chain.state.clone(), genesis(6, N));
    let (succession, expected, chunks) = succeed(&chain, &before, &[all[0]]);
    assert!(succession.committee().member(&key(6)).is_some(), "it has reported");

    // Somebody reports for the first time, a node joins, and the index of reports is swept.
    report_ready(&mut chain, &[0, 1, 2, 3, 4, 5]);
    join(&mut chain, 7, Amount::from_wal(900));
    report_ready(&mut chain, &[7]);
    for _ in 0..3 {
        let now = members(&chain);
        report_shards(&mut chain, &now);
        chain.next_epoch();
    }
    let (_, genesis, again) = succeed_from(&state, &chain.store, &before, &[all[0]]);
    assert_eq!((genesis.chain_id(), again), (expected.chain_id(), chunks));
}
