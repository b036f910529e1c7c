//! Strict, bounded borsh: exactly one value, one encoding, counted lists.
//!
//! The caller has bounded the bytes; here lists are bounded by their count before anything of
//! them is read, and bytes left over are refused.

use std::io::{self, Read};

use borsh::{BorshDeserialize, BorshSerialize};

use crate::message::{MessageError, at_most};

/// Encodes a value of at most `max_bytes`.
pub(in crate::message) fn encode<T: BorshSerialize>(
    value: &T,
    max_bytes: usize,
) -> Result<Vec<u8>, MessageError> {
    let bytes = borsh::to_vec(value).expect("writing to memory");
    check(bytes.len(), max_bytes)?;
    Ok(bytes)
}

/// Decodes exactly one value that fills `bytes`, which are at most `max_bytes`.
pub(in crate::message) fn decode<T: BorshDeserialize>(
    bytes: &[u8],
    max_bytes: usize,
) -> Result<T, MessageError> {
    check(bytes.len(), max_bytes)?;
    borsh::from_slice(bytes).map_err(|_| MessageError::Payload)
}

fn check(bytes: usize, max_bytes: usize) -> Result<(), MessageError> {
    at_most(bytes as u64, max_bytes as u64)
}

/// Reads a list of at most `MAX` items.
pub(super) fn list<R: Read, T: BorshDeserialize, const MAX: usize>(
    reader: &mut R,
) -> io::Result<Vec<T>> {
    let count = usize::try_from(u32::deserialize_reader(reader)?).unwrap_or(usize::MAX);
    if count > MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    // Grows as items come: a count that lies reserves nothing.
    (0..count).map(|_| T::deserialize_reader(reader)).collect()
}
