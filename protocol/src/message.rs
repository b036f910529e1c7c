//! What peers say to each other: requests, responses, refusals, and their limits.
//!
//! On the wire a message is a head and a payload: `u32` LE length of the head, the head in CBOR,
//! then the raw payload, whose length the head states. Sliver bytes never pass through CBOR.
//! Everything from a peer is decoded here, once: [`Request`] and [`Response`] values hold only
//! what passed the limits of [`Limits`], and their byte strings still await verification against
//! proofs by whoever uses them.
//!
//! Invariants: a head of more than [`MAX_HEAD_BYTES`] is never read; a payload's length is judged
//! by the kind of message and the network's limits before the first byte of it is read; heads
//! with trailing bytes are refused. Deliberately not here: sockets and streams (`floe-node`).

mod challenge;
pub mod ledger;
mod repair;
mod request;
mod response;

use bytes::Bytes;

use crate::{
    blob::PairProof,
    codec::CodecError,
    encoding::{EncodingConfig, MAX_SLIVER_BYTES},
    index::SliverPairIndex,
};

pub use self::{
    challenge::{ChallengeStatus, Miss},
    ledger::{
        CertifiedBlock, Handover, IndexQuery, LedgerAnnouncement, LedgerKind, LedgerRequest,
        LedgerResponse, LedgerTopic, RefusedOperation, SubmitError,
    },
    repair::{MAX_PAIRS, RepairStatus, StoredPair, StoredPairHead, Symbols, SymbolsError},
    request::{Request, RequestHead},
    response::{InvalidReason, NodeStatus, Refusal, Response, ResponseHead},
};

/// Length of the prefix before a head.
pub const PREFIX_BYTES: usize = 4;
/// Longest head in bytes: certificates, headers, proofs and short lists fit.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// Longest version by which a node may call itself.
pub const MAX_VERSION_BYTES: usize = 64;

/// Why bytes are no message of this network.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum MessageError {
    /// The head is too large or no CBOR of a known message.
    #[error("message head: {0}")]
    Head(#[from] CodecError),
    /// The head announces a payload that such a message cannot have.
    #[error("payload of {bytes} bytes exceeds the limit of {max_bytes} of such a message")]
    PayloadTooLarge {
        /// Bytes announced.
        bytes: u64,
        /// Bytes allowed.
        max_bytes: u64,
    },
    /// The payload does not have the length that the head announced.
    #[error("payload does not have the length that its head states")]
    PayloadLength,
    /// The payload is no value of the kind that the head states, or has bytes left over.
    #[error("malformed payload")]
    Payload,
    /// A field is out of range.
    #[error("field out of range")]
    Field,
}

/// A message as it is written: the head and the parts of the payload, in order, uncopied.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The CBOR head, at most [`MAX_HEAD_BYTES`].
    pub head: Vec<u8>,
    /// The payload.
    pub payload: Vec<Bytes>,
}

impl Frame {
    /// Bytes on the wire: prefix, head and payload.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let payload: usize = self.payload.iter().map(Bytes::len).sum();
        PREFIX_BYTES + self.head.len() + payload
    }
}

/// What a network allows, from its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    config: EncodingConfig,
}

impl Limits {
    /// The limits of a network with `config`.
    #[must_use]
    pub const fn new(config: EncodingConfig) -> Self {
        Self { config }
    }

    /// The encoding of the network.
    #[must_use]
    pub const fn config(&self) -> EncodingConfig {
        self.config
    }

    /// The longest primary sliver: `k2` symbols of the largest size.
    #[must_use]
    pub const fn max_primary_bytes(&self) -> u64 {
        self.config.k2() as u64 * self.config.max_symbol_bytes()
    }

    /// The longest secondary sliver: `k1` symbols of the largest size.
    #[must_use]
    pub const fn max_secondary_bytes(&self) -> u64 {
        self.config.k1() as u64 * self.config.max_symbol_bytes()
    }

    /// The longest payload of any message: a sliver pair with its proof.
    #[must_use]
    pub fn max_payload_bytes(&self) -> u64 {
        self.max_primary_bytes() + self.max_secondary_bytes() + self.proof_bytes() as u64
    }

    /// A digest table: `64 n` bytes.
    #[must_use]
    pub const fn table_bytes(&self) -> u64 {
        64 * self.config.n_shards() as u64
    }

    fn proof_bytes(&self) -> usize {
        PairProof::layout_bytes(self.config)
    }
}

// A pair of the largest slivers stays near 8 MiB for every n, so u32 lengths never overflow.
const _: () = assert!(2 * MAX_SLIVER_BYTES + 2 * 256 < u32::MAX as u64);

/// Refuses a payload of more than `max_bytes`.
fn at_most(bytes: u64, max_bytes: u64) -> Result<(), MessageError> {
    if bytes > max_bytes { Err(MessageError::PayloadTooLarge { bytes, max_bytes }) } else { Ok(()) }
}

/// Refuses a pair that no network of `n_shards` has.
fn check_pair(pair: SliverPairIndex, n_shards: u16) -> Result<(), MessageError> {
    if pair.get() < n_shards { Ok(()) } else { Err(MessageError::Field) }
}

/// The length of a payload part, as a head states it.
fn stated(part: &Bytes) -> u32 {
    u32::try_from(part.len()).expect("payload parts are slivers and tables, below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_encoding() {
        // n, bytes of a table, of the largest primary and of the largest secondary sliver
        for (n_shards, table, primary, secondary) in [
            (4, 256, 4_194_306, 2_796_204),
            (7, 448, 4_194_305, 2_516_583),
            (64, 4_096, 4_194_306, 2_145_924),
            (256, 16_384, 4_194_459, 2_109_494),
        ] {
            let limits = Limits::new(EncodingConfig::new(n_shards).unwrap());
            assert_eq!(limits.table_bytes(), table, "n = {n_shards}");
            assert_eq!(limits.max_primary_bytes(), primary, "n = {n_shards}");
            assert_eq!(limits.max_secondary_bytes(), secondary, "n = {n_shards}");
            let pair = limits.max_payload_bytes() - limits.proof_bytes() as u64;
            assert_eq!(pair, primary + secondary, "n = {n_shards}");
        }
    }

    #[test]
    fn a_frame_counts_prefix_head_and_payload() {
        let frame = Frame {
            head: vec![0; 10],
            payload: vec![Bytes::from_static(b"abc"), Bytes::from_static(b"de")],
        };
        assert_eq!(frame.bytes(), 4 + 10 + 5);
    }
}
