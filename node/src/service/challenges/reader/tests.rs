use std::{num::NonZeroUsize, sync::Arc, time::Instant};

use floe_protocol::{
    challenge::{BilledUnits, Challenge, ChallengeParameters, Universe, Walk, challenged_shards},
    encoding::{Axis, EncodedBlob, EncodingConfig, PairHashes, encode, verify_pair},
    hash::slice,
    index::{ChallengeRound, Epoch, Height, ShardIndex, SymbolIndex},
    ledger::{Blob, Certified, Timestamp},
    test_support,
};
use floe_storage::StoreConfig;
use tempfile::TempDir;

use super::*;

const N: u16 = 7;
/// Rows of 100 KB, columns of 60 KB: hashes are kept of the former.
const LONG: usize = 300_000;

/// The store of a node that holds all shards.
struct Kept {
    reader: Reader,
    blob: EncodedBlob,
    dir: TempDir,
}

impl Kept {
    fn new(len: usize) -> Self {
        let config = EncodingConfig::new(N).unwrap();
        let blob = encode(config, test_support::blob(1, len), NonZeroUsize::MIN).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let kept = Self { reader: Reader { store: store(&dir), elsewhere: None }, blob, dir };
        kept.put_proofs();
        for shard in shards() {
            kept.put(shard, |pair| pair);
        }
        kept.reader.store.flush().unwrap();
        kept
    }

    fn id(&self) -> BlobId {
        self.blob.header().id()
    }

    fn put_proofs(&self) {
        let proof = |shard| self.blob.proof(self.id().pair_of(shard, N)).to_bytes();
        let proofs: Vec<_> = shards().map(|shard| (shard, proof(shard))).collect();
        self.reader.store.put_table(self.blob.header(), Height::new(1), &proofs).unwrap();
    }

    /// Puts what `change` makes of the pair in `shard`.
    fn put(&self, shard: ShardIndex, change: impl Fn(Pair) -> Pair) {
        let (store, pair) = (&self.reader.store, self.id().pair_of(shard, N));
        let (primary, secondary) = self.blob.pair(pair);
        let proof = self.blob.proof(pair);
        let hashes = verify_pair(&self.blob.layout(), &proof, &primary, &secondary).unwrap();
        let pair = change(Pair { primary: primary.into(), secondary: secondary.into(), hashes });
        store.delete_pair(shard, &self.id()).unwrap();
        let slivers = [&pair.primary[..], &pair.secondary];
        let hashes = [&pair.hashes.primary[..], &pair.hashes.secondary];
        store.put_hashed_pair((shard, &self.id()), slivers, hashes).unwrap();
    }

    /// All places of the pair in `shard`.
    fn places(&self, shard: ShardIndex) -> Vec<Place> {
        let (layout, header) = (self.blob.layout(), *self.blob.header());
        let blob = header.id();
        let pair = blob.pair_of(shard, N);
        let mut places = Vec::new();
        for axis in [Axis::Primary, Axis::Secondary] {
            for symbol in 0..axis.symbols(layout.config()) {
                let symbol = SymbolIndex::new(u16::try_from(symbol).unwrap());
                places.extend((0..slice::chunks(layout.symbol_bytes())).map(|chunk| Place {
                    blob,
                    header,
                    layout,
                    shard,
                    pair,
                    axis,
                    symbol,
                    chunk,
                }));
            }
        }
        places
    }

    /// How many places of a shard are proven.
    fn proven(&self, shard: ShardIndex) -> usize {
        let none = BTreeSet::new();
        let read = |place: &Place| match self.reader.read(place, (&none, Instant::now())) {
            Some(StepProof::Chunk(chunk)) => {
                assert_eq!(chunk.verify(place), Ok(()));
                assert_eq!(chunk.chunk.len(), place.chunk_bytes());
                true
            }
            other => {
                assert_eq!(other, None);
                false
            }
        };
        self.places(shard).iter().filter(|place| read(place)).count()
    }

    fn hashes(&self, shard: ShardIndex, axis: Axis) -> Option<Vec<Hash>> {
        self.reader.store.symbol_hashes(shard, &self.id(), axis).unwrap()
    }
}

/// What is put.
struct Pair {
    primary: Vec<u8>,
    secondary: Vec<u8>,
    hashes: PairHashes,
}

fn shards() -> impl Iterator<Item = ShardIndex> {
    (0..N).map(ShardIndex::new)
}

fn store(dir: &TempDir) -> Store {
    let (home, marker) = (dir.path().join("store"), dir.path().join("marker"));
    let node = test_support::node_keys(1)[0].0.public();
    Store::open(&StoreConfig::new(home, marker, node)).unwrap()
}

#[test]
fn every_place_of_what_is_stored_is_proven() {
    for len in [0, 1, 1_000, 20_000] {
        let kept = Kept::new(len);
        for shard in shards() {
            let places = kept.places(shard).len();
            assert_eq!(kept.proven(shard), places, "{len} bytes, shard {shard}");
            assert_eq!(kept.hashes(shard, Axis::Primary), None, "short slivers are expanded");
        }
    }
    let kept = Kept::new(LONG);
    for shard in shards().take(2) {
        assert_eq!(kept.proven(shard), kept.places(shard).len());
        assert_eq!(kept.hashes(shard, Axis::Primary).unwrap().len(), usize::from(N));
        assert_eq!(kept.hashes(shard, Axis::Secondary), None);
    }
}

#[test]
fn a_chain_through_what_is_stored_convinces_the_others() {
    let kept = Kept::new(LONG);
    let certified = Certified {
        number: 0,
        end: Epoch::new(9),
        first_epoch: Epoch::new(0),
        first_time: Timestamp::from_ms(0),
    };
    let record = Blob {
        header: *kept.blob.header(),
        registrations: 1,
        permanent_end: None,
        certified: Some(certified),
        invalid: false,
    };
    let opened = Timestamp::from_ms(1_800_000_000_000);
    let mut units = BilledUnits::new();
    units.update(None, Some(&record)).unwrap();
    units.advance(Epoch::new(0), opened);
    let committee = test_support::committee(4, N);
    let ready = vec![Some(Timestamp::from_ms(0)); usize::from(N)];
    let universe = Arc::new(Universe {
        chain: test_support::genesis(4, N).chain_id(),
        round: ChallengeRound::new(9),
        opened,
        parameters: ChallengeParameters::default(),
        shards: challenged_shards(&committee, &ready, opened),
        committee: Arc::new(committee),
        units,
    });
    let node = universe.committee.members()[1].node;
    let challenge = Challenge::new(universe, node, Hash::new([7; 32])).unwrap();
    let known = BTreeSet::new();
    let answer = kept.reader.walk(Walk::new(challenge.clone()), &known).unwrap();
    let end = answer.commitment().end;
    assert_eq!(challenge.verify(answer.transcript(), &end, &known), Ok(()));
    // A shard of the node is lost: it comes as far as its chain goes without it.
    let shard = challenge.place(&challenge.start()).shard;
    kept.reader.store.remove_pair(shard, &kept.id()).unwrap();
    let walked = kept.reader.walk(Walk::new(challenge), &known);
    assert_eq!(walked.unwrap_err(), WalkError::Absent { step: 0 });
}

#[test]
fn what_is_absent_or_damaged_proves_nothing() {
    let kept = Kept::new(LONG);
    let [absent, unproven, changed, sound] = [0, 1, 2, 3].map(ShardIndex::new);
    kept.reader.store.delete_pair(absent, &kept.id()).unwrap();
    assert_eq!(kept.proven(absent), 0);
    kept.reader.store.remove_pair(unproven, &kept.id()).unwrap();
    assert_eq!(kept.proven(unproven), 0);
    // One bit, with the right checksum: places in another chunk of another symbol are proven as
    // long as the hashes are there, and none of a sliver that has to be expanded.
    let symbol_bytes = kept.blob.layout().symbol_bytes();
    let chunks = slice::chunks(symbol_bytes);
    let symbols = |axis: Axis| axis.symbols(kept.blob.layout().config());
    kept.put(changed, |mut pair| {
        pair.primary[0] ^= 1;
        pair.secondary[0] ^= 1;
        pair
    });
    assert_eq!(kept.proven(changed), (symbols(Axis::Primary) - 1) * chunks);
    assert_eq!(kept.proven(sound), kept.places(sound).len());
}

#[test]
fn hashes_that_are_absent_or_false_are_made_anew() {
    let kept = Kept::new(LONG);
    let shard = ShardIndex::new(4);
    let places = kept.places(shard).len();
    let wrong: [fn(&mut Vec<Hash>); 4] = [
        Vec::clear,
        |hashes| hashes.truncate(3),
        |hashes| hashes[6] = Hash::ZERO,
        |hashes| hashes.push(Hash::ZERO),
    ];
    for change in wrong {
        kept.put(shard, |mut pair| {
            change(&mut pair.hashes.primary);
            pair
        });
        assert_eq!(kept.proven(shard), places);
    }
}

#[test]
fn hashes_outlive_a_restart_and_go_with_their_pair() {
    let Kept { reader, blob, dir } = Kept::new(LONG);
    let live_bytes = reader.store.usage().live_bytes;
    drop(reader);
    let kept = Kept { reader: Reader { store: store(&dir), elsewhere: None }, blob, dir };
    assert_eq!(kept.reader.store.usage().live_bytes, live_bytes);
    let shard = ShardIndex::new(5);
    assert_eq!(kept.hashes(shard, Axis::Primary).unwrap().len(), usize::from(N));
    assert_eq!(kept.proven(shard), kept.places(shard).len());
    kept.reader.store.remove_pair(shard, &kept.id()).unwrap();
    assert_eq!(kept.hashes(shard, Axis::Primary), None);
    assert_eq!(kept.proven(shard), 0);
}

#[test]
fn a_blob_that_is_known_to_be_inconsistent_stands_for_what_cannot_be_there() {
    let kept = Kept::new(1_000);
    let shard = ShardIndex::new(0);
    let place = kept.places(shard)[0];
    let known = BTreeSet::from([kept.id()]);
    let with = |known: &BTreeSet<BlobId>| kept.reader.read(&place, (known, Instant::now()));
    assert!(matches!(with(&known), Some(StepProof::Chunk(_))), "which convinces everybody");
    kept.reader.store.remove_pair(shard, &kept.id()).unwrap();
    assert_eq!(with(&known), Some(StepProof::Inconsistent));
    assert_eq!(with(&BTreeSet::new()), None);
}
