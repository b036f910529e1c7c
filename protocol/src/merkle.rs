//! Binary Merkle trees over 32-byte leaves, padded to a power of two with zero hashes.
//!
//! Two trees use them: the sliver tree (leaves: symbol hashes of an expanded sliver) and the blob
//! tree (leaves: pair leaves). Inner nodes are keyed by the tree's [`Domain`].
//!
//! Invariant: a path of a tree over `n` leaves has exactly `ceil(log2 n)` steps, and any other
//! length or an index of `n` or more is refused.

use crate::hash::{Domain, Hash};

/// All levels of a Merkle tree, leaves first.
#[derive(Clone, Debug)]
pub struct MerkleTree {
    levels: Vec<Vec<Hash>>,
}

impl MerkleTree {
    /// Builds the tree over `leaves` with inner nodes keyed by `domain`.
    ///
    /// # Panics
    /// If there are no leaves.
    #[must_use]
    pub fn new(domain: Domain, mut leaves: Vec<Hash>) -> Self {
        assert!(!leaves.is_empty(), "a Merkle tree has leaves");
        leaves.resize(leaves.len().next_power_of_two(), Hash::ZERO);
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let next = level.chunks_exact(2).map(|pair| node(domain, &pair[0], &pair[1])).collect();
            levels.push(next);
        }
        Self { levels }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.levels[self.levels.len() - 1][0]
    }

    /// The siblings from leaf `index` up to below the root.
    ///
    /// # Panics
    /// If `index` is not below the padded number of leaves.
    #[must_use]
    pub fn path(&self, index: usize) -> Vec<Hash> {
        let below_root = &self.levels[..self.levels.len() - 1];
        below_root.iter().enumerate().map(|(height, level)| level[(index >> height) ^ 1]).collect()
    }
}

/// The root over `leaves`, without keeping the tree.
///
/// # Panics
/// If there are no leaves.
#[must_use]
pub fn root(domain: Domain, mut leaves: Vec<Hash>) -> Hash {
    assert!(!leaves.is_empty(), "a Merkle tree has leaves");
    let mut width = leaves.len().next_power_of_two();
    leaves.resize(width, Hash::ZERO);
    while width > 1 {
        width /= 2;
        for i in 0..width {
            leaves[i] = node(domain, &leaves[2 * i], &leaves[2 * i + 1]);
        }
    }
    leaves[0]
}

/// Steps of a path in a tree over `n_leaves`: `ceil(log2 n_leaves)`.
#[must_use]
pub const fn path_steps(n_leaves: usize) -> usize {
    n_leaves.next_power_of_two().trailing_zeros() as usize
}

/// Whether `path` proves that leaf `index` of `n_leaves` under `root` is `leaf`.
#[must_use]
pub fn verify(
    domain: Domain,
    root: &Hash,
    (index, n_leaves): (usize, usize),
    leaf: Hash,
    path: &[Hash],
) -> bool {
    if index >= n_leaves || path.len() != path_steps(n_leaves) {
        return false;
    }
    let top = path.iter().enumerate().fold(leaf, |hash, (height, sibling)| {
        if (index >> height) & 1 == 0 {
            node(domain, &hash, sibling)
        } else {
            node(domain, sibling, &hash)
        }
    });
    top == *root
}

fn node(domain: Domain, left: &Hash, right: &Hash) -> Hash {
    domain.hash(&[left.as_bytes(), right.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| Hash::of_symbol(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_leaf_is_proven_by_its_path_and_by_no_other() {
        for n in [1, 2, 3, 4, 7, 64, 100, 256] {
            let tree = MerkleTree::new(Domain::SliverNode, leaves(n));
            assert_eq!(tree.root(), root(Domain::SliverNode, leaves(n)), "n = {n}");
            for (i, leaf) in leaves(n).into_iter().enumerate() {
                let path = tree.path(i);
                assert_eq!(path.len(), path_steps(n), "n = {n}");
                let check = |index, leaf, path: &[Hash]| {
                    verify(Domain::SliverNode, &tree.root(), (index, n), leaf, path)
                };
                assert!(check(i, leaf, &path), "n = {n}, leaf {i}");
                assert!(!check(i + n, leaf, &path), "index out of range");
                assert!(!check(i, Hash::of_symbol(b"other"), &path));
                if n > 1 {
                    assert!(!check((i + 1) % n, leaf, &path), "n = {n}, leaf {i} moved");
                    assert!(!check(i, leaf, &path[1..]), "short path");
                }
                let mut long = path.clone();
                long.push(Hash::ZERO);
                assert!(!check(i, leaf, &long), "long path");
            }
        }
    }

    #[test]
    fn a_padding_leaf_cannot_be_proven() {
        let tree = MerkleTree::new(Domain::BlobNode, leaves(3));
        assert!(!verify(Domain::BlobNode, &tree.root(), (3, 3), Hash::ZERO, &tree.path(3)));
    }

    #[test]
    fn trees_of_different_domains_differ() {
        assert_ne!(root(Domain::SliverNode, leaves(4)), root(Domain::BlobNode, leaves(4)));
    }
}
