//! The one CBOR codec: message heads on the wire and values in tables.
//!
//! Invariants: encoded values never exceed the limit that the caller states, so memory is bounded
//! before the first byte is parsed; trailing bytes are refused; nesting is bounded by the library
//! (128). CBOR is not canonical, so nothing encoded here is ever hashed or signed: what is has a
//! byte layout of its own beside its type. This is the only file that names `serde_cbor`.

use serde::{Serialize, de::DeserializeOwned};

/// Why a value was not encoded or decoded.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum CodecError {
    /// More bytes than the limit.
    #[error("{bytes} bytes exceed the limit of {max_bytes}")]
    TooLarge {
        /// Bytes offered.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// Not a CBOR value of the expected type, or one with trailing bytes.
    #[error("malformed CBOR")]
    Malformed,
}

/// Encodes `value`.
///
/// # Errors
/// [`CodecError::TooLarge`] above `max_bytes`.
pub fn encode<T: Serialize>(value: &T, max_bytes: usize) -> Result<Vec<u8>, CodecError> {
    let bytes = serde_cbor::to_vec(value).map_err(|_| CodecError::Malformed)?;
    check(bytes.len(), max_bytes)?;
    Ok(bytes)
}

/// Decodes exactly one value that fills `bytes`.
///
/// # Errors
/// [`CodecError::TooLarge`] above `max_bytes`, before anything is parsed; otherwise
/// [`CodecError::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max_bytes: usize) -> Result<T, CodecError> {
    check(bytes.len(), max_bytes)?;
    serde_cbor::from_slice(bytes).map_err(|_| CodecError::Malformed)
}

fn check(bytes: usize, max_bytes: usize) -> Result<(), CodecError> {
    if bytes > max_bytes { Err(CodecError::TooLarge { bytes, max_bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_and_nothing_behind_it() {
        let mut bytes = encode(&(1_u8, "x"), 100).unwrap();
        assert_eq!(decode::<(u8, String)>(&bytes, 100), Ok((1, "x".into())));
        bytes.push(0);
        assert_eq!(decode::<(u8, String)>(&bytes, 100), Err(CodecError::Malformed));
    }

    #[test]
    fn limits_hold_both_ways() {
        let too_large = CodecError::TooLarge { bytes: 12, max_bytes: 11 };
        assert_eq!(encode(&"x".repeat(11), 11), Err(too_large));
        assert_eq!(decode::<String>(&[0; 12], 11), Err(too_large));
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let deep = vec![0x81; 100_000];
        assert_eq!(decode::<u8>(&deep, usize::MAX), Err(CodecError::Malformed));
    }

    #[test]
    fn a_length_that_lies_is_an_error() {
        // An array header that announces 2^40 items.
        let lie = [0x9b, 0, 0, 1, 0, 0, 0, 0, 0];
        assert_eq!(decode::<Vec<u64>>(&lie, 100), Err(CodecError::Malformed));
    }
}
