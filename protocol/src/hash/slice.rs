//! Slices: one chunk of a message and the hashes that lead from it to the message's plain BLAKE3
//! hash, as in BLAKE3's verified streaming.
//!
//! A storage challenge asks for 1 KiB of a symbol that may have 100: the symbol's hash is a leaf of
//! its sliver's tree, and BLAKE3 is itself a tree over chunks. The shape of that tree follows from
//! the message's length, which the caller has from where it can be trusted (a blob's header), so a
//! slice holds nothing but the siblings on the way up: no lengths, no positions, no parents that a
//! reader could find two ways to read. A chunk of another length, or one sibling too few or too
//! many, is refused before anything is hashed.
//!
//! Invariant: [`hash_of`] is the message's [`Hash::of_symbol`] for the chunk and siblings of
//! [`siblings`], and another hash if any byte of them is changed, moved or left out.

use blake3::{
    CHUNK_LEN, Hasher,
    hazmat::{
        ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root,
        merge_subtrees_root,
    },
};

use super::Hash;

/// BLAKE3's chunk.
pub const CHUNK_BYTES: usize = CHUNK_LEN;

/// Chunks of a message of `len` bytes; the last one may be shorter, that of no bytes is empty.
#[must_use]
pub const fn chunks(len: usize) -> usize {
    if len == 0 { 1 } else { len.div_ceil(CHUNK_BYTES) }
}

/// Bytes of chunk `chunk` of a message of `len` bytes, none from [`chunks`] on.
#[must_use]
pub const fn chunk_bytes(len: usize, chunk: usize) -> usize {
    let rest = len.saturating_sub(chunk.saturating_mul(CHUNK_BYTES));
    if rest < CHUNK_BYTES { rest } else { CHUNK_BYTES }
}

/// The way down to chunk `chunk` of a message of `len` bytes, from the root: of each subtree on it
/// the bytes of its left half, and whether the way turns right.
fn turns(len: usize, chunk: usize) -> impl Iterator<Item = (usize, bool)> {
    let (mut rest, mut place) = (len, chunk);
    std::iter::from_fn(move || {
        if rest <= CHUNK_BYTES {
            return None;
        }
        let left = left_bytes(rest);
        let is_right = place >= left / CHUNK_BYTES;
        (rest, place) =
            if is_right { (rest - left, place - left / CHUNK_BYTES) } else { (left, place) };
        Some((left, is_right))
    })
}

/// Siblings of chunk `chunk` in a message of `len` bytes.
#[must_use]
pub fn steps(len: usize, chunk: usize) -> usize {
    turns(len, chunk).count()
}

/// The siblings of chunk `chunk` of `message` from the chunk up to below the root, none from
/// [`chunks`] on.
#[must_use]
pub fn siblings(message: &[u8], chunk: usize) -> Option<Vec<Hash>> {
    if chunk >= chunks(message.len()) {
        return None;
    }
    let (mut rest, mut offset, mut siblings) = (message, 0, Vec::new());
    for (left_bytes, is_right) in turns(message.len(), chunk) {
        let (left, right) = rest.split_at(left_bytes);
        let middle = offset + left_bytes;
        if is_right {
            siblings.push(subtree(left, offset));
            (rest, offset) = (right, middle);
        } else {
            siblings.push(subtree(right, middle));
            rest = left;
        }
    }
    siblings.reverse();
    Some(siblings)
}

/// The hash of a message of `len` bytes whose chunk `chunk` is `bytes`. None if such a chunk has
/// another length or another number of siblings.
#[must_use]
pub fn hash_of((len, chunk): (usize, usize), bytes: &[u8], siblings: &[Hash]) -> Option<Hash> {
    let fits = chunk < chunks(len)
        && bytes.len() == chunk_bytes(len, chunk)
        && siblings.len() == steps(len, chunk);
    if !fits {
        return None;
    }
    let Some((top, below)) = siblings.split_last() else {
        return Some(Hash::of_symbol(bytes));
    };
    let turns: Vec<_> = turns(len, chunk).map(|(_, is_right)| is_right).collect();
    let mut value = subtree(bytes, chunk * CHUNK_BYTES);
    for (sibling, is_right) in below.iter().zip(turns.iter().skip(1).rev()) {
        let (left, right) = ordered(&value, sibling, *is_right);
        value = Hash(merge_subtrees_non_root(left, right, Mode::Hash));
    }
    let (left, right) = ordered(&value, top, turns[0]);
    Some(Hash(merge_subtrees_root(left, right, Mode::Hash).into()))
}

fn ordered<'a>(
    value: &'a Hash,
    sibling: &'a Hash,
    is_right: bool,
) -> (&'a ChainingValue, &'a ChainingValue) {
    if is_right { (&sibling.0, &value.0) } else { (&value.0, &sibling.0) }
}

/// Bytes of the left subtree of a message of more than one chunk.
fn left_bytes(len: usize) -> usize {
    usize::try_from(left_subtree_len(len as u64)).expect("at most the length")
}

/// The value of the subtree over `bytes`, which begin at `offset` and are not all of the message.
fn subtree(bytes: &[u8], offset: usize) -> Hash {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset as u64);
    hasher.update(bytes);
    Hash(hasher.finalize_non_root())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::blob;

    /// Every shape of up to 40 chunks, at, before and behind each boundary.
    fn lengths() -> impl Iterator<Item = usize> {
        let around = |chunks: usize| {
            let len = chunks * CHUNK_BYTES;
            [len.saturating_sub(1), len, len + 1, len + 500]
        };
        (0..40).chain([64, 70, 1_366]).flat_map(around)
    }

    #[test]
    fn every_chunk_leads_to_the_hash_of_its_message() {
        for len in lengths() {
            let message = blob(len as u64, len);
            let hash = Hash::of_symbol(&message);
            let step = (chunks(len) / 50).max(1);
            for chunk in (0..chunks(len)).step_by(step).chain([chunks(len) - 1]) {
                let start = chunk * CHUNK_BYTES;
                let bytes = &message[start..start + chunk_bytes(len, chunk)];
                let siblings = siblings(&message, chunk).unwrap();
                assert_eq!(siblings.len(), steps(len, chunk), "{len}, {chunk}");
                assert_eq!(hash_of((len, chunk), bytes, &siblings), Some(hash), "{len}, {chunk}");
            }
            assert_eq!(siblings(&message, chunks(len)), None, "{len}");
        }
    }

    #[test]
    fn nothing_else_does() {
        for len in [1, 1_024, 1_025, 3_000, 5_000, 70_000] {
            let message = blob(7, len);
            let hash = Some(Hash::of_symbol(&message));
            for chunk in (0..chunks(len)).step_by(7) {
                let start = chunk * CHUNK_BYTES;
                let bytes = message[start..start + chunk_bytes(len, chunk)].to_vec();
                let siblings = siblings(&message, chunk).unwrap();
                for byte in (0..bytes.len()).step_by(97) {
                    let mut changed = bytes.clone();
                    changed[byte] ^= 1;
                    assert_ne!(hash_of((len, chunk), &changed, &siblings), hash);
                }
                for sibling in 0..siblings.len() {
                    let mut changed = siblings.clone();
                    changed[sibling].0[31] ^= 0x80;
                    assert_ne!(hash_of((len, chunk), &bytes, &changed), hash);
                    changed.remove(sibling);
                    assert_eq!(hash_of((len, chunk), &bytes, &changed), None, "one too few");
                }
                let long = [&siblings[..], &[Hash::ZERO]].concat();
                assert_eq!(hash_of((len, chunk), &bytes, &long), None, "one too many");
                assert_eq!(hash_of((len, chunk), &bytes[1..], &siblings), None, "short chunk");
                let other = (chunk + 1) % chunks(len);
                if other != chunk {
                    assert_ne!(hash_of((len, other), &bytes, &siblings), hash, "another place");
                }
            }
            assert_eq!(hash_of((len, chunks(len)), &[], &[]), None, "no such chunk");
        }
    }
}
