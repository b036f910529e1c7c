use std::num::NonZeroUsize;

use floe_protocol::{encoding::EncodedBlob, index::Height, keys::NodeId, test_support};
use floe_storage::StoreConfig;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::*;

const SHARD: ShardIndex = ShardIndex::new(2);

/// A store with one pair, and what is told of missing ones.
struct Kept {
    pairs: Pairs,
    missing: Arc<Notify>,
    broken: CancellationToken,
    blob: EncodedBlob,
    _dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let config = EncodingConfig::new(7).unwrap();
        let file = test_support::blob(1, 30_000);
        let blob = encoding::encode(config, file, NonZeroUsize::MIN).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (home, marker) = (dir.path().join("store"), dir.path().join("marker"));
        let store = Store::open(&StoreConfig::new(home, marker, NodeId::new([1; 32]))).unwrap();
        let (missing, broken) = (Arc::new(Notify::new()), CancellationToken::new());
        let pairs = Pairs::new(
            store,
            Arc::new(BlobLocks::default()),
            Arc::clone(&missing),
            Faults::new(broken.clone()),
            Metrics::default(),
        );
        let kept = Self { pairs, missing, broken, blob, _dir: dir };
        let proof = kept.blob.proof(kept.index()).to_bytes();
        kept.put_proof(proof);
        let (primary, secondary) = kept.slivers();
        kept.put(&primary, &secondary);
        kept
    }

    fn id(&self) -> BlobId {
        self.blob.header().id()
    }

    fn index(&self) -> floe_protocol::index::SliverPairIndex {
        self.id().pair_of(SHARD, 7)
    }

    fn slivers(&self) -> (Bytes, Bytes) {
        self.blob.pair(self.index())
    }

    fn put_proof(&self, proof: Vec<u8>) {
        let proofs = [(SHARD, proof)];
        self.pairs.store.put_table(self.blob.header(), Height::new(1), &proofs).unwrap();
    }

    fn put(&self, primary: &[u8], secondary: &[u8]) {
        self.pairs.store.delete_pair(SHARD, &self.id()).unwrap();
        self.pairs.store.put_pair(SHARD, &self.id(), primary, secondary).unwrap();
    }

    fn scrub(&self) -> Condition {
        self.pairs.scrub(self.blob.layout().config(), SHARD, &self.id()).unwrap()
    }

    fn answered(&self) -> usize {
        let config = self.blob.layout().config();
        match self.pairs.answer(config, SHARD, &[self.id()]).unwrap() {
            Response::Pairs { looked_up: 1, pairs } => pairs.len(),
            other => panic!("{other:?}"),
        }
    }

    /// Whether repair was told since the last time.
    fn is_told(&self) -> bool {
        self.missing.notified().now_or_never().is_some()
    }
}

fn changed(bytes: &Bytes, at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

#[test]
fn a_sound_pair_stays_and_nobody_is_told() {
    let kept = Kept::new();
    let (primary, secondary) = kept.slivers();
    assert_eq!(kept.scrub(), Condition::Sound { bytes: primary.len() + secondary.len() });
    assert_eq!(kept.answered(), 1);
    assert!(!kept.is_told());
}

#[test]
fn slivers_changed_with_their_checksums_are_damage() {
    let kept = Kept::new();
    let (primary, secondary) = kept.slivers();
    let wrong = [
        (changed(&primary, 5), secondary.to_vec()),
        (primary.to_vec(), changed(&secondary, secondary.len() - 1)),
        (primary[1..].to_vec(), secondary.to_vec()),
        (secondary.to_vec(), primary.to_vec()),
    ];
    for (wrong_primary, wrong_secondary) in wrong {
        kept.put(&wrong_primary, &wrong_secondary);
        assert_eq!(kept.scrub(), Condition::Damaged);
        assert!(!kept.pairs.store.has_pair(SHARD, &kept.id()).unwrap());
        assert!(kept.is_told());
        assert_eq!(kept.scrub(), Condition::Absent);
        assert!(!kept.is_told(), "once");
        assert_eq!(kept.answered(), 0);
        // Its proof is still there: storing it again is all that it takes.
        kept.put(&primary, &secondary);
        assert_eq!(kept.answered(), 1);
    }
}

#[test]
fn a_pair_without_a_sound_proof_goes_with_it() {
    let kept = Kept::new();
    let (primary, secondary) = kept.slivers();
    let (sound, config) = (kept.blob.proof(kept.index()).to_bytes(), kept.blob.layout().config());
    let other = floe_protocol::index::SliverPairIndex::new((kept.index().get() + 1) % 7);
    for wrong in [changed(&sound.clone().into(), 70), kept.blob.proof(other).to_bytes()] {
        kept.put_proof(wrong);
        // Whoever meets it, here a read.
        assert!(kept.pairs.proof(config, SHARD, &kept.id()).unwrap().is_none());
        assert!(kept.is_told());
        assert!(!kept.pairs.store.has_pair(SHARD, &kept.id()).unwrap());
        assert_eq!(kept.pairs.store.pair_proof(SHARD, &kept.id()).unwrap(), None);
        kept.put_proof(sound.clone());
        kept.put(&primary, &secondary);
        assert_eq!(kept.answered(), 1);
    }
    assert!(!kept.broken.is_cancelled(), "damage does not stop a node");
}

/// The bytes behind the end belong to nobody, but a certified blob may have some.
#[test]
fn a_row_with_bytes_in_its_padding_is_what_its_writer_has_made() {
    let kept = Kept::new();
    let len = kept.blob.header().len - 1;
    let header = floe_protocol::blob::BlobHeader { len, ..*kept.blob.header() };
    let (blob, layout) = (header.id(), header.layout().unwrap());
    assert_eq!(layout.symbol_bytes(), kept.blob.layout().symbol_bytes());
    let row = usize::try_from(len).unwrap() / layout.primary_bytes();
    let pair = floe_protocol::index::SliverPairIndex::new(u16::try_from(row).unwrap());
    let (shard, (primary, secondary)) = (blob.shard_of(pair, 7), kept.blob.pair(pair));
    let proof = &kept.blob.table().proofs(&header).unwrap()[row];
    let judged = encoding::verify_pair(&layout, proof, &primary, &secondary);
    assert_eq!(judged, Err(encoding::SliverError::Padding), "its writer brings it in vain");

    let store = &kept.pairs.store;
    store.put_table(&header, Height::new(1), &[(shard, proof.to_bytes())]).unwrap();
    store.put_pair(shard, &blob, &primary, &secondary).unwrap();
    let config = layout.config();
    for _ in 0..2 {
        let condition = kept.pairs.scrub(config, shard, &blob).unwrap();
        assert_eq!(condition, Condition::Sound { bytes: primary.len() + secondary.len() });
    }
    let answer = kept.pairs.answer(config, shard, &[blob]).unwrap();
    assert!(matches!(answer, Response::Pairs { looked_up: 1, pairs } if pairs.len() == 1));
    assert!(!kept.is_told());
}

#[test]
fn a_damaged_proof_that_waits_for_its_slivers_is_found_and_a_sound_one_stays() {
    let kept = Kept::new();
    let (sound, config) = (kept.blob.proof(kept.index()).to_bytes(), kept.blob.layout().config());
    let stored = || kept.pairs.store.pair_proof(SHARD, &kept.id()).unwrap();
    assert!(kept.pairs.store.delete_pair(SHARD, &kept.id()).unwrap());
    kept.pairs.scrub_proofs(config, &kept.id()).unwrap();
    assert_eq!(stored().as_ref(), Some(&sound));
    kept.put_proof(changed(&sound.into(), 70));
    kept.pairs.scrub_proofs(config, &kept.id()).unwrap();
    assert_eq!(stored(), None);
    assert!(!kept.broken.is_cancelled());
}

#[test]
fn a_damaged_pair_is_not_sent_to_who_takes_its_shard_over() {
    let kept = Kept::new();
    let (primary, secondary) = kept.slivers();
    kept.put(&primary, &changed(&secondary, 3));
    assert_eq!(kept.answered(), 0);
    assert!(kept.is_told());
    assert!(!kept.pairs.store.has_pair(SHARD, &kept.id()).unwrap());
}
