//! Rows of the ledger's table: one byte that says what a row is, then a key in byte order.
//!
//! Everything lies in one table, since sled keeps a log per database and memory per page. Numbers
//! are big-endian. The state has no rows of its own: its keys are those of entries in runs.
//!
//! A value of any length goes into one *long row*: a head that says how long it is, with the
//! bytes in it if they are few, else in pieces under keys of their own. The pieces are written
//! before their head and removed after it: whoever finds a head finds its pieces, unless the row
//! is removed at the same time.

use std::collections::BTreeSet;

use floe_protocol::hash::Hash;

use crate::{
    StorageError,
    database::{Table, Value},
};

/// Bytes of a long row in its head, or in one piece.
const PIECE_BYTES: usize = 4 << 10;
/// The longest long row: above a block, a certificate, and any record of the state.
const LONG_BYTES_MAX: usize = 64 << 20;

const IN_HEAD: u8 = 0;
const IN_PIECES: u8 = 1;

/// What a row is. The numbers are the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The height of the newest block, and that of the row with the owner's bytes about it.
    Tip = 0,
    /// The owner's own bytes, by the first height that they are about.
    TipBytes = 1,
    /// Headers by height.
    Header = 3,
    /// Bodies by height.
    Body = 4,
    /// Commit certificates by height.
    Certificate = 5,
    /// Heights by block hash, in runs.
    Hash = 6,
    /// Height and position by transaction id, in runs.
    Transaction = 7,
    /// Height of the last block by epoch.
    EpochEnd = 8,
    /// Nodes of the authenticated map by their key, in runs.
    Node = 9,
    /// Versions and values by key hash, in runs.
    Value = 10,
    /// The sorted index, in runs: keys alone.
    Index = 11,
    /// Pieces of long rows, by the key of their head and number.
    Piece = 13,
    /// The version that the state on disk is at, and its runs: see `merge.rs`.
    Checkpoint = 14,
    /// Bytes of chunks of runs by slot: see `runs.rs`.
    Slot = 15,
    /// Layouts of committees by epoch, but for the first.
    Committee = 16,
    /// What is known of a run, by its id.
    Run = 17,
    /// The snapshot that the ledger begins with, if it does: see `install.rs`.
    Base = 18,
    /// Hand-over certificates by epoch, as far as there are any.
    HandoverCertificate = 19,
}

/// The key of a row.
pub(super) fn key(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = Vec::with_capacity(1 + len);
    key.push(kind as u8);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The key of a row named by one number.
pub(super) fn numbered(kind: Kind, number: u64) -> Vec<u8> {
    key(kind, &[&number.to_be_bytes()])
}

/// The number in a key of [`numbered`].
pub(super) fn number(table: &Table, key: &[u8]) -> Result<u64, StorageError> {
    number_of(table, key.get(1..9).unwrap_or_default())
}

/// A number in eight bytes.
pub(super) fn number_of(table: &Table, bytes: &[u8]) -> Result<u64, StorageError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| table.corrupt())
}

/// The key of a node. The tree's keys begin with their version in little-endian order; in
/// big-endian order those of one merge lie together.
pub(super) fn node(node: &[u8]) -> Vec<u8> {
    let mut key = key(Kind::Node, &[node]);
    if let Some(version) = key.get_mut(1..9) {
        version.reverse();
    }
    key
}

/// The keys of the long rows of a numbered kind, and of those that only have pieces.
pub(super) fn keys_of_long_rows(table: &Table, kind: Kind) -> Result<Vec<Vec<u8>>, StorageError> {
    let head = numbered(kind, 0);
    let (first, last) = (piece_key(&head, 0), piece_key(&numbered(kind, u64::MAX), u32::MAX));
    let heads = keys(table, all(kind))?.into_iter().map(|key| key.to_vec());
    let pieces = keys(table, first..=last)?;
    let pieces = pieces.iter().filter_map(|key| key.get(5..5 + head.len())).map(<[u8]>::to_vec);
    let keys: BTreeSet<Vec<u8>> = heads.chain(pieces).collect();
    Ok(keys.into_iter().collect())
}

/// Whether it is the key of a node.
pub(super) fn is_node(key: &[u8]) -> bool {
    key.first() == Some(&(Kind::Node as u8))
}

/// The key of a value.
pub(super) fn value(hash: &Hash) -> Vec<u8> {
    key(Kind::Value, &[hash.as_bytes()])
}

/// All keys of one kind.
pub(super) fn all(kind: Kind) -> std::ops::Range<Vec<u8>> {
    vec![kind as u8]..vec![kind as u8 + 1]
}

/// Writes a long row.
pub(super) fn put(table: &Table, key: &[u8], bytes: &[u8]) -> Result<(), StorageError> {
    if bytes.len() <= PIECE_BYTES {
        let mut head = Vec::with_capacity(1 + bytes.len());
        head.push(IN_HEAD);
        head.extend_from_slice(bytes);
        return table.insert(key, &head);
    }
    if bytes.len() > LONG_BYTES_MAX {
        let what = "row of the ledger";
        return Err(StorageError::Length { what, bytes: bytes.len(), max_bytes: LONG_BYTES_MAX });
    }
    for (number, piece) in (0_u32..).zip(bytes.chunks(PIECE_BYTES)) {
        table.insert(&piece_key(key, number), piece)?;
    }
    let mut head = vec![IN_PIECES];
    head.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    table.insert(key, &head)
}

/// Reads a long row.
pub(super) fn get(table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    match table.get(key)? {
        None => Ok(None),
        Some(head) => assemble(table, key, &head).map(Some),
    }
}

/// The bytes of the long row with this head.
fn assemble(table: &Table, key: &[u8], head: &[u8]) -> Result<Vec<u8>, StorageError> {
    let Some(len) = len_in_pieces(table, head)? else {
        return Ok(head[1..].to_vec());
    };
    let mut bytes = Vec::with_capacity(len);
    for number in 0_u32.. {
        if bytes.len() >= len {
            break;
        }
        let piece = table.get(&piece_key(key, number))?.ok_or_else(|| table.corrupt())?;
        if piece.is_empty() {
            return Err(table.corrupt());
        }
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() == len { Ok(bytes) } else { Err(table.corrupt()) }
}

/// Removes a long row that nobody asks for any more. Interrupted, it is repeated with
/// [`remove_unfinished`].
pub(super) fn remove(table: &Table, key: &[u8]) -> Result<(), StorageError> {
    match table.take(key)? {
        Some(head) if len_in_pieces(table, &head)?.is_some() => remove_pieces(table, key),
        _ => Ok(()),
    }
}

/// Removes whatever there is of a row whose writing or removal may have stopped half way.
pub(super) fn remove_unfinished(table: &Table, key: &[u8]) -> Result<(), StorageError> {
    remove_pieces(table, key)?;
    table.remove(key).map(drop)
}

fn remove_pieces(table: &Table, key: &[u8]) -> Result<(), StorageError> {
    let pieces = piece_key(key, 0)..=piece_key(key, u32::MAX);
    for piece in keys(table, pieces)? {
        table.remove(&piece)?;
    }
    Ok(())
}

/// The keys of a range, which is known to be short.
pub(super) fn keys(
    table: &Table,
    range: impl std::ops::RangeBounds<Vec<u8>>,
) -> Result<Vec<Value>, StorageError> {
    table.range(range).map(|row| row.map(|(key, _)| key)).collect()
}

/// The length of a long row whose bytes are in pieces; none if they are in the head.
fn len_in_pieces(table: &Table, head: &[u8]) -> Result<Option<usize>, StorageError> {
    match head.split_first() {
        Some((&IN_HEAD, _)) => Ok(None),
        Some((&IN_PIECES, len)) => {
            let len = len.try_into().ok().map(u64::from_be_bytes);
            let len = len.and_then(|len| usize::try_from(len).ok());
            match len.filter(|len| *len <= LONG_BYTES_MAX) {
                Some(len) => Ok(Some(len)),
                None => Err(table.corrupt()),
            }
        }
        _ => Err(table.corrupt()),
    }
}

/// The length in the key keeps the pieces of one row apart from those of any other.
fn piece_key(head: &[u8], number: u32) -> Vec<u8> {
    let len = u32::try_from(head.len()).expect("keys are short");
    key(Kind::Piece, &[&len.to_be_bytes(), head, &number.to_be_bytes()])
}
