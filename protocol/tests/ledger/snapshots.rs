//! Snapshots: whole ones give the state again, and nothing else does.

use std::sync::LazyLock;

use floe_protocol::{
    hash::{Domain, Hash},
    ledger::{
        Entry, IndexRange, Key, MemoryStore, NodeReady, Record, SNAPSHOT_CHUNK_BYTES,
        SnapshotError, SnapshotManifest, SnapshotRestore, SnapshotWriter, State, StateProof,
        StateReader as _, SystemOperation, index_of,
    },
    test_support::{Chain, account_key, genesis, node_keys},
};
use proptest::prelude::*;

use super::{N, certify, header, id, register};

/// The snapshot of a chain's last block.
pub(crate) fn make(chain: &Chain) -> (SnapshotManifest, Vec<Vec<u8>>) {
    let (block, _) = chain.blocks.last().unwrap();
    let values = chain.store.values(block.header.height.get());
    make_of(values, block.header, chain.state.committee().to_bytes())
}

fn make_of<'a>(
    values: impl Iterator<Item = (Hash, &'a [u8])>,
    header: floe_protocol::ledger::Header,
    committee: Vec<u8>,
) -> (SnapshotManifest, Vec<Vec<u8>>) {
    let mut writer = SnapshotWriter::default();
    let mut chunks = Vec::new();
    for (key, value) in values {
        chunks.extend(writer.push(&key, value).unwrap());
    }
    let (last, manifest) = writer.finish(header, committee).unwrap();
    chunks.push(last);
    (manifest, chunks)
}

/// A store with nothing but what the chunks hold.
pub(crate) fn restore(
    manifest: &SnapshotManifest,
    chunks: &[Vec<u8>],
) -> Result<MemoryStore, SnapshotError> {
    let mut store = MemoryStore::default();
    let mut restore = SnapshotRestore::new(manifest.clone())?;
    for chunk in chunks {
        store.write(restore.take(chunk)?);
    }
    store.write(restore.finish()?);
    Ok(store)
}

/// A chain whose state fills several chunks.
static LARGE: LazyLock<Chain> = LazyLock::new(|| {
    let mut genesis = genesis(4, N);
    let balance = genesis.accounts[0].balance;
    let extra = (0..6_000_u32).map(|number| {
        let mut seed = [3; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let account = floe_protocol::keys::KeyPair::from_seed(seed).public();
        let account = floe_protocol::ledger::AccountId::new(account);
        floe_protocol::genesis::GenesisAccount { account, balance }
    });
    genesis.accounts.extend(extra);
    genesis.accounts.sort_by_key(|account| account.account);
    let mut chain = Chain::new(&genesis);
    let registered = chain.sign(&account_key(0), vec![register(header(1), 3, true)]);
    let registration = registered.id(&chain.id()).registration(&chain.id(), 0);
    chain.commit(&[registered]);
    let certified = certify(&chain, registration, &header(1));
    chain.commit(&[chain.sign(&account_key(0), vec![certified])]);
    chain.next_epoch();
    chain
});

static SNAPSHOT: LazyLock<(SnapshotManifest, Vec<Vec<u8>>)> = LazyLock::new(|| make(&LARGE));

#[test]
fn a_whole_snapshot_gives_state_proofs_and_index() {
    let (manifest, chunks) = &*SNAPSHOT;
    assert!(chunks.len() > 1, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() <= SNAPSHOT_CHUNK_BYTES));
    assert_eq!(manifest.check().unwrap(), **LARGE.state.committee());
    let (same, _) = make(&LARGE);
    assert_eq!(same.id(), manifest.id());
    let store = restore(manifest, chunks).unwrap();
    let height = manifest.header.height.get();
    let state = |store: &MemoryStore| -> Vec<(Hash, Vec<u8>)> {
        store.values(height).map(|(key, value)| (key, value.to_vec())).collect()
    };
    assert_eq!(state(&store), state(&LARGE.store));
    let key = Key::Account(id(&account_key(0)));
    let proof = StateProof::new(&store, height, &key).unwrap();
    assert_eq!(proof, StateProof::new(&LARGE.store, height, &key).unwrap());
    let record = proof.verify(&manifest.header.state_root, &key).unwrap();
    assert!(matches!(record, Some(Record::Account(_))));
    let epoch = LARGE.state.summary().epoch;
    let entries = LARGE.store.values(height).map(|(_, value)| Entry::from_bytes(value).unwrap());
    assert_eq!(entries.flat_map(|entry| index_of(&entry, epoch)).count(), 4 * 2 + 4);
}

/// What goes on from a snapshot is what goes on from all blocks, for many blocks.
#[test]
fn the_blocks_that_follow_execute_on_it() {
    let mut chain = Chain::new(&genesis(4, N));
    let (origin, _) = State::genesis(&genesis(4, N)).unwrap();
    chain.next_epoch();
    let (manifest, chunks) = make(&chain);
    let mut store = restore(&manifest, &chunks).unwrap();
    let mut state = State::load(&origin, &manifest.header, &store).unwrap();
    for seed in 0..20 {
        let register = register(header(seed), 2, true);
        let signed = chain.sign(&account_key(0), vec![register]);
        chain.commit(&[signed]);
        if seed % 5 == 0 {
            chain.next_epoch();
        }
        while state.tip().height < chain.state.tip().height {
            let at = usize::try_from(state.tip().height.get()).unwrap();
            let executed = state.execute(&store, &chain.blocks[at].0, &|_| true).unwrap();
            store.write(executed.change);
            state = executed.next;
            store.prune(state.tip().height.get());
        }
        assert_eq!(state.tip(), chain.state.tip());
    }
}

/// Who reported for the running epoch is among the candidates of the next one.
#[test]
fn who_is_ready_is_known_to_a_restored_state() {
    let mut chain = Chain::new(&genesis(4, N));
    chain.next_epoch();
    let (epoch, tip) = (chain.state.committee().epoch(), *chain.state.tip());
    for (key, _) in &node_keys(4)[..2] {
        let report = NodeReady::new(&chain.id(), key, epoch, (tip.height, tip.hash));
        let (block, _) = chain.propose(&[SystemOperation::NodeReady { report }], &[]).unwrap();
        assert_eq!(block.body.system.len(), 1);
        chain.apply(&block).unwrap();
    }
    let (manifest, chunks) = make(&chain);
    let store = restore(&manifest, &chunks).unwrap();
    let range = IndexRange::ready(epoch);
    let ready = |store: &MemoryStore| store.index(&range.start..&range.end, 9).unwrap();
    assert_eq!(ready(&store).len(), 2);
    assert_eq!(ready(&store), ready(&chain.store));
    // In the next epoch they only wait to be swept, and are not there to be swept.
    chain.next_epoch();
    let (manifest, chunks) = make(&chain);
    assert_eq!(ready(&restore(&manifest, &chunks).unwrap()), Vec::<Vec<u8>>::new());
}

/// Cuts chunks of these entries whatever their order, as a liar can.
fn lie(entries: &[&[u8]]) -> (SnapshotManifest, Vec<Vec<u8>>) {
    let mut chunks = vec![Vec::new()];
    for entry in entries {
        let chunk = chunks.last_mut().unwrap();
        chunk.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        chunk.extend_from_slice(entry);
        if chunk.len() > SNAPSHOT_CHUNK_BYTES - 1_000 {
            chunks.push(Vec::new());
        }
    }
    chunks.retain(|chunk| !chunk.is_empty());
    (named(&chunks, entries.len()), chunks)
}

/// A manifest that names these chunks.
fn named(chunks: &[Vec<u8>], entries: usize) -> SnapshotManifest {
    let hash = |chunk: &Vec<u8>| Domain::SnapshotChunk.hash(&[chunk]);
    SnapshotManifest {
        entries: entries as u64,
        chunks: chunks.iter().map(hash).collect(),
        ..SNAPSHOT.0.clone()
    }
}

fn all_entries() -> Vec<&'static [u8]> {
    let height = SNAPSHOT.0.header.height.get();
    LARGE.store.values(height).map(|(_, value)| value).collect()
}

#[test]
fn made_up_snapshots_are_refused() {
    let entries = all_entries();
    let (manifest, chunks) = lie(&entries);
    restore(&manifest, &chunks).unwrap();
    let refused = |entries: &[&[u8]]| {
        let (manifest, chunks) = lie(entries);
        restore(&manifest, &chunks).unwrap_err()
    };
    let mut missing = entries.clone();
    missing.remove(3_000);
    assert!(matches!(refused(&missing), SnapshotError::OtherState));
    let mut cut = entries.clone();
    cut.pop();
    assert!(matches!(refused(&cut), SnapshotError::OtherState));
    let mut twice = entries.clone();
    twice.insert(10, entries[10]);
    assert!(matches!(refused(&twice), SnapshotError::Order(0)));
    let mut swapped = entries.clone();
    swapped.swap(20, 21);
    assert!(matches!(refused(&swapped), SnapshotError::Order(0)));
    let absent = Entry { key: Key::Name(id(&account_key(0)), "x".into()), record: name() };
    let mut more = entries.clone();
    let bytes = absent.to_bytes();
    let place = more
        .partition_point(|entry| Entry::from_bytes(entry).unwrap().key.hash() < absent.key.hash());
    more.insert(place, &bytes);
    assert!(matches!(refused(&more), SnapshotError::OtherState));
    let garbage = [&entries[..1], &[b"no entry"]].concat();
    assert!(matches!(refused(&garbage), SnapshotError::Malformed(0)));
}

fn name() -> Record {
    Record::Name(floe_protocol::ledger::Name { blob: None, version: 1 })
}

#[test]
fn manifests_that_do_not_fit_are_refused() {
    let (manifest, chunks) = SNAPSHOT.clone();
    let refused =
        |manifest: &SnapshotManifest, chunks: &[Vec<u8>]| restore(manifest, chunks).unwrap_err();
    let fewer = SnapshotManifest { entries: manifest.entries - 1, ..manifest.clone() };
    assert!(matches!(refused(&fewer, &chunks), SnapshotError::Count));
    let more = SnapshotManifest { entries: manifest.entries + 1, ..manifest.clone() };
    assert!(matches!(refused(&more, &chunks), SnapshotError::Count));
    assert!(matches!(refused(&manifest, &chunks[1..]), SnapshotError::OtherChunk(0)));
    assert!(matches!(refused(&manifest, &chunks[..1]), SnapshotError::Count));
    let too_many = [&chunks[..], &chunks[..1]].concat();
    assert!(matches!(refused(&manifest, &too_many), SnapshotError::Count));
    let mut committee = manifest.clone();
    committee.committee[0] ^= 1;
    assert!(matches!(refused(&committee, &chunks), SnapshotError::Committee));
    let none = SnapshotManifest { chunks: Vec::new(), ..manifest.clone() };
    assert!(matches!(refused(&none, &[]), SnapshotError::Manifest));
    let mut genesis = manifest;
    genesis.header.height = floe_protocol::index::Height::new(0);
    assert!(matches!(refused(&genesis, &chunks), SnapshotError::Manifest));
}

#[test]
fn entries_are_written_in_their_order_and_no_longer_than_a_chunk() {
    let mut writer = SnapshotWriter::default();
    let key = |byte| Hash::new([byte; 32]);
    assert!(writer.push(&key(2), b"value").unwrap().is_none());
    assert!(matches!(writer.push(&key(2), b"value"), Err(SnapshotError::Order(_))));
    assert!(matches!(writer.push(&key(1), b"value"), Err(SnapshotError::Order(_))));
    let long = vec![0; 300 << 10];
    let full = writer.push(&key(3), &long).unwrap().expect("the first chunk");
    assert_eq!(full, b"\x05\0\0\0value");
    assert!(matches!(writer.push(&key(4), &vec![0; 512 << 10]), Err(SnapshotError::TooLarge)));
    let empty = SnapshotWriter::default().finish(SNAPSHOT.0.header, Vec::new());
    assert!(matches!(empty, Err(SnapshotError::Manifest)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 40, ..ProptestConfig::default()
    })]

    /// Whether or not the manifest names the damage.
    #[test]
    fn a_wrong_byte_anywhere_is_found(place in any::<proptest::sample::Index>(), bit in 0..8_u8) {
        let (manifest, chunks) = &*SNAPSHOT;
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        let mut place = place.index(bytes);
        let mut damaged = chunks.clone();
        let damaged_chunk = damaged.iter_mut().find(|chunk| match place.checked_sub(chunk.len()) {
            Some(behind) => { place = behind; false }
            None => true,
        });
        damaged_chunk.unwrap()[place] ^= 1 << bit;
        prop_assert!(matches!(
            restore(manifest, &damaged), Err(SnapshotError::OtherChunk(_))
        ));
        let named = named(&damaged, usize::try_from(manifest.entries).unwrap());
        prop_assert!(restore(&named, &damaged).is_err());
    }
}
