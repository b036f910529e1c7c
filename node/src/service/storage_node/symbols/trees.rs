//! Expanded slivers, kept for the next who asks: bounded in bytes, those asked for longest ago go
//! first.
//!
//! Who repairs many lost shards asks for symbols of the same slivers again and again, and so do all
//! who repair the same blob: expanding is what costs.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::{Axis, EncodingConfig, ProvenSymbol, SliverTree},
    hash::HASH_BYTES,
    index::{SliverPairIndex, SymbolIndex},
    message::Symbols,
};

/// A sliver's name.
pub(super) type SliverKey = (BlobId, SliverPairIndex, Axis);

/// What a tree costs beside its symbols, for each of them: two nodes and a handle.
const SYMBOL_OVERHEAD_BYTES: usize = 128;

/// A sliver with the right root, expanded.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) proof: PairProof,
    pub(super) tree: SliverTree,
}

impl Expanded {
    /// The symbols at `targets`, which are below `n`, and at least one.
    pub(super) fn symbols(&self, targets: &[SymbolIndex]) -> Option<Symbols> {
        let symbol =
            |index: &SymbolIndex| ProvenSymbol::new(self.proof.clone(), &self.tree, *index);
        let symbols: Option<Vec<_>> = targets.iter().map(symbol).collect();
        symbols.filter(|symbols| !symbols.is_empty()).map(|symbols| Symbols::of(&symbols))
    }

    /// Bytes of one symbol with its path.
    pub(super) fn symbol_bytes(&self) -> usize {
        let symbols = usize::from(self.proof.header.n_shards).max(1);
        let path = symbols.next_power_of_two().ilog2() as usize * HASH_BYTES;
        self.tree.expanded_bytes() / symbols + path
    }

    fn bytes(&self) -> usize {
        let symbols = usize::from(self.proof.header.n_shards);
        self.tree.expanded_bytes() + symbols * SYMBOL_OVERHEAD_BYTES
    }
}

/// Bytes of the sliver of `axis` of a blob, expanded: the same for rows and columns.
pub(super) fn expanded_bytes(config: EncodingConfig, symbol_bytes: usize) -> u64 {
    (config.n() * symbol_bytes) as u64
}

/// The trees of one class of peers.
#[derive(Debug)]
pub(super) struct Trees {
    bytes_max: usize,
    bytes: usize,
    /// With the moment of the last use.
    trees: BTreeMap<SliverKey, (Arc<Expanded>, u64)>,
    /// By the moment of the last use.
    used: BTreeMap<u64, SliverKey>,
    uses: u64,
}

impl Trees {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, trees: BTreeMap::new(), used: BTreeMap::new(), uses: 0 }
    }

    /// The tree of a sliver, if it is here.
    pub(super) fn get(&mut self, sliver: &SliverKey) -> Option<Arc<Expanded>> {
        let (tree, last) = self.trees.get_mut(sliver)?;
        self.used.remove(last);
        self.uses += 1;
        *last = self.uses;
        self.used.insert(self.uses, *sliver);
        Some(Arc::clone(tree))
    }

    /// Keeps a tree, in place of those used longest ago.
    pub(super) fn insert(&mut self, sliver: SliverKey, tree: Arc<Expanded>) {
        self.remove(&sliver);
        if tree.bytes() > self.bytes_max {
            return;
        }
        while self.bytes + tree.bytes() > self.bytes_max {
            let Some((_, oldest)) = self.used.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
        }
        self.bytes += tree.bytes();
        self.uses += 1;
        self.used.insert(self.uses, sliver);
        self.trees.insert(sliver, (tree, self.uses));
    }

    fn remove(&mut self, sliver: &SliverKey) {
        if let Some((tree, last)) = self.trees.remove(sliver) {
            self.used.remove(&last);
            self.bytes -= tree.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use floe_protocol::{
        encoding::{self, EncodedBlob},
        test_support,
    };

    use super::*;

    fn encoded(seed: u64, bytes: usize) -> EncodedBlob {
        let config = EncodingConfig::new(7).unwrap();
        encoding::encode(config, test_support::blob(seed, bytes), NonZeroUsize::MIN).unwrap()
    }

    fn expanded(blob: &EncodedBlob, pair: u16) -> (SliverKey, Arc<Expanded>) {
        let pair = SliverPairIndex::new(pair);
        let (primary, _) = blob.pair(pair);
        let tree = SliverTree::new(&blob.layout(), Axis::Primary, primary).unwrap();
        let key = (blob.header().id(), pair, Axis::Primary);
        (key, Arc::new(Expanded { proof: blob.proof(pair), tree }))
    }

    #[test]
    fn trees_stay_below_their_bytes_and_the_one_used_longest_ago_goes() {
        let blob = encoded(1, 15_000);
        let all: Vec<_> = (0..7).map(|pair| expanded(&blob, pair)).collect();
        let each = all[0].1.bytes();
        assert!(each > 7_000, "{each}");
        let mut trees = Trees::new(3 * each + each / 2);
        for (key, tree) in &all {
            trees.insert(*key, Arc::clone(tree));
            assert!(trees.get(&all[0].0).is_some(), "the first is used all the time");
            assert!(trees.bytes <= trees.bytes_max);
        }
        let kept: Vec<bool> = all.iter().map(|(key, _)| trees.get(key).is_some()).collect();
        assert_eq!(kept, [true, false, false, false, false, true, true]);
        assert_eq!((trees.bytes, trees.used.len()), (3 * each, 3));
        trees.insert(all[5].0, Arc::clone(&all[5].1));
        assert_eq!((trees.bytes, trees.used.len()), (3 * each, 3), "counted once");
    }

    #[test]
    fn a_tree_above_the_bound_is_not_kept() {
        let (key, tree) = expanded(&encoded(2, 15_000), 3);
        let mut trees = Trees::new(tree.bytes() - 1);
        trees.insert(key, tree);
        assert!(trees.get(&key).is_none());
        assert_eq!(trees.bytes, 0);
    }

    #[test]
    fn symbols_verify_at_the_side_of_who_asked() {
        let blob = encoded(3, 5_000);
        let config = EncodingConfig::new(7).unwrap();
        let (key, tree) = expanded(&blob, 2);
        let targets = [0, 3, 6].map(SymbolIndex::new);
        let symbols = tree.symbols(&targets).unwrap();
        let (id, pair, axis) = key;
        let proven = symbols.verify(config, (&id, pair, axis), &targets).unwrap();
        assert_eq!(proven.len(), 3);
        assert!(tree.symbols(&[SymbolIndex::new(7)]).is_none());
        assert!(tree.symbols(&[]).is_none());
    }
}
