//! Requests: what a client or node asks of a storage node.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Frame, LedgerKind, LedgerRequest, Limits, MAX_HEAD_BYTES, MAX_PAIRS, MessageError, at_most,
    check_pair, stated,
};
use crate::{
    blob::{BlobHeader, BlobId, HEADER_BYTES},
    codec,
    encoding::Axis,
    index::{ChallengeRound, ShardIndex, SliverPairIndex, SymbolIndex},
    keys::BlsSignature,
    registration::RegistrationId,
};

/// A request, decoded and within limits, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Hands over the digest table of a blob, from which the node derives the pair proofs of its
    /// shards. Answered by [`Response::TableStored`](super::Response::TableStored).
    Table {
        /// The registration that it is stored for.
        registration: RegistrationId,
        /// The blob's header.
        header: BlobHeader,
        /// The digest table, `64 n` bytes.
        table: Bytes,
    },
    /// Hands over one sliver pair.
    StoreSlivers {
        /// The registration that it is stored for.
        registration: RegistrationId,
        /// Which pair.
        pair: SliverPairIndex,
        /// Primary sliver.
        primary: Bytes,
        /// Secondary sliver.
        secondary: Bytes,
    },
    /// Asks for a signed confirmation that all pairs of the node's shards are durable.
    Confirm {
        /// The registration.
        registration: RegistrationId,
    },
    /// Asks for one sliver with its pair proof.
    ReadSliver {
        /// The blob.
        blob: BlobId,
        /// The pair that the sliver belongs to.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
    },
    /// Asks the earlier holder of a shard for pairs of it. Answered by
    /// [`Response::Pairs`](super::Response::Pairs).
    ReadPairs {
        /// The shard.
        shard: ShardIndex,
        /// Blobs, at most [`MAX_PAIRS`].
        blobs: Vec<BlobId>,
    },
    /// Asks for symbols of an expanded sliver, to recover lines that cross it. Answered by
    /// [`Response::Symbols`](super::Response::Symbols).
    ReadSymbols {
        /// The blob.
        blob: BlobId,
        /// The pair that the sliver belongs to.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
        /// Places in the expanded sliver, at least one, ascending.
        targets: Vec<SymbolIndex>,
    },
    /// Asks a member to attest that a blob is inconsistent. Answered by
    /// [`Response::Attested`](super::Response::Attested).
    Attest {
        /// The byte layout of an [`InconsistencyProof`](crate::inconsistency::InconsistencyProof).
        proof: Bytes,
    },
    /// Asks a challenged node for its transcript of a round. Answered by
    /// [`Response::Transcript`](super::Response::Transcript).
    ReadTranscript {
        /// The round.
        round: ChallengeRound,
    },
    /// Hands a challenged node the acknowledgement of its transcript. Answered by
    /// [`Response::Taken`](super::Response::Taken).
    Acknowledge {
        /// The round.
        round: ChallengeRound,
        /// The asker's signature over the [`ChallengeFact`](crate::challenge::ChallengeFact): of the
        /// round's epoch, of the node that is asked, and of its commitment.
        signature: BlsSignature,
    },
    /// Asks how the node is doing.
    NodeStatus,
    /// Asks about the ledger. Answered by [`Response::Ledger`](super::Response::Ledger).
    Ledger(LedgerRequest),
}

/// The head of a request as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RequestHead {
    /// See [`Request::Table`].
    #[serde(rename = "table")]
    Table {
        /// The registration that it is stored for.
        registration: RegistrationId,
        /// The blob header's byte layout.
        #[serde(with = "serde_bytes")]
        header: Vec<u8>,
        /// Bytes of the table.
        table_bytes: u32,
    },
    /// See [`Request::StoreSlivers`].
    #[serde(rename = "store_slivers")]
    StoreSlivers {
        /// The registration that it is stored for.
        registration: RegistrationId,
        /// Which pair.
        pair: SliverPairIndex,
        /// Bytes of the primary sliver.
        primary_bytes: u32,
        /// Bytes of the secondary sliver.
        secondary_bytes: u32,
    },
    /// See [`Request::Confirm`].
    #[serde(rename = "confirm")]
    Confirm {
        /// The registration.
        registration: RegistrationId,
    },
    /// See [`Request::ReadSliver`].
    #[serde(rename = "read_sliver")]
    ReadSliver {
        /// The blob.
        blob: BlobId,
        /// The pair that the sliver belongs to.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
    },
    /// See [`Request::ReadPairs`].
    #[serde(rename = "read_pairs")]
    ReadPairs {
        /// The shard.
        shard: ShardIndex,
        /// Blobs.
        blobs: Vec<BlobId>,
    },
    /// See [`Request::ReadSymbols`].
    #[serde(rename = "read_symbols")]
    ReadSymbols {
        /// The blob.
        blob: BlobId,
        /// The pair that the sliver belongs to.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
        /// Places in the expanded sliver.
        targets: Vec<SymbolIndex>,
    },
    /// See [`Request::Attest`].
    #[serde(rename = "attest")]
    Attest {
        /// Bytes of the proof.
        proof_bytes: u32,
    },
    /// See [`Request::ReadTranscript`].
    #[serde(rename = "read_transcript")]
    ReadTranscript {
        /// The round.
        round: ChallengeRound,
    },
    /// See [`Request::Acknowledge`].
    #[serde(rename = "acknowledge")]
    Acknowledge {
        /// The round.
        round: ChallengeRound,
        /// The asker's signature.
        signature: BlsSignature,
    },
    /// See [`Request::NodeStatus`].
    #[serde(rename = "node_status")]
    NodeStatus,
    /// See [`Request::Ledger`].
    #[serde(rename = "ledger")]
    Ledger {
        /// What is asked.
        kind: LedgerKind,
        /// Bytes of the request's layout.
        request_bytes: u32,
    },
}

impl RequestHead {
    /// Parses a head and judges the length of the payload that it announces.
    ///
    /// # Errors
    /// [`MessageError`]: the stream is not worth reading on.
    pub fn decode(limits: &Limits, bytes: &[u8]) -> Result<Self, MessageError> {
        let head: Self = codec::decode(bytes, MAX_HEAD_BYTES)?;
        let n_shards = limits.config().n_shards();
        match &head {
            Self::Table { header, table_bytes, .. } => {
                at_most(u64::from(*table_bytes), limits.table_bytes())?;
                check_header(header)?;
            }
            Self::StoreSlivers { pair, primary_bytes, secondary_bytes, .. } => {
                at_most(u64::from(*primary_bytes), limits.max_primary_bytes())?;
                at_most(u64::from(*secondary_bytes), limits.max_secondary_bytes())?;
                check_pair(*pair, n_shards)?;
            }
            Self::ReadSliver { pair, .. } => check_pair(*pair, n_shards)?,
            Self::ReadPairs { shard, blobs } => {
                let many = blobs.is_empty() || blobs.len() > MAX_PAIRS;
                if many || shard.get() >= n_shards {
                    return Err(MessageError::Field);
                }
            }
            Self::ReadSymbols { pair, targets, .. } => {
                check_pair(*pair, n_shards)?;
                let last = targets.last().ok_or(MessageError::Field)?;
                if last.get() >= n_shards || !targets.is_sorted_by(|a, b| a < b) {
                    return Err(MessageError::Field);
                }
            }
            Self::Attest { proof_bytes } => {
                at_most(u64::from(*proof_bytes), limits.max_payload_bytes())?;
            }
            Self::Ledger { kind, request_bytes } => {
                at_most(u64::from(*request_bytes), kind.max_request_bytes() as u64)?;
            }
            Self::Confirm { .. }
            | Self::ReadTranscript { .. }
            | Self::Acknowledge { .. }
            | Self::NodeStatus => {}
        }
        Ok(head)
    }

    /// As of [`Request::is_urgent`].
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        matches!(self, Self::ReadTranscript { .. } | Self::Acknowledge { .. })
    }

    /// Bytes of the payload that follows the head.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Table { table_bytes, .. } => *table_bytes as usize,
            Self::StoreSlivers { primary_bytes, secondary_bytes, .. } => {
                *primary_bytes as usize + *secondary_bytes as usize
            }
            Self::Attest { proof_bytes } => *proof_bytes as usize,
            Self::Ledger { request_bytes, .. } => *request_bytes as usize,
            Self::Confirm { .. }
            | Self::ReadSliver { .. }
            | Self::ReadPairs { .. }
            | Self::ReadSymbols { .. }
            | Self::ReadTranscript { .. }
            | Self::Acknowledge { .. }
            | Self::NodeStatus => 0,
        }
    }
}

impl Request {
    /// A short name for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Table { .. } => "table",
            Self::StoreSlivers { .. } => "store_slivers",
            Self::Confirm { .. } => "confirm",
            Self::ReadSliver { .. } => "read_sliver",
            Self::ReadPairs { .. } => "read_pairs",
            Self::ReadSymbols { .. } => "read_symbols",
            Self::Attest { .. } => "attest",
            Self::ReadTranscript { .. } => "read_transcript",
            Self::Acknowledge { .. } => "acknowledge",
            Self::NodeStatus => "node_status",
            Self::Ledger(request) => request.kind().name(),
        }
    }

    /// Whether it is of a challenge between members: it has a time in which it counts, so it waits
    /// behind no others, and what others hold up is not its room. It brings no payload.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        matches!(self, Self::ReadTranscript { .. } | Self::Acknowledge { .. })
    }

    /// Bytes of payload that the request carries.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Table { table, .. } => table.len(),
            Self::StoreSlivers { primary, secondary, .. } => primary.len() + secondary.len(),
            Self::Ledger(request) => borsh::object_length(request).unwrap_or(usize::MAX),
            Self::Attest { proof } => proof.len(),
            Self::Confirm { .. }
            | Self::ReadSliver { .. }
            | Self::ReadPairs { .. }
            | Self::ReadSymbols { .. }
            | Self::ReadTranscript { .. }
            | Self::Acknowledge { .. }
            | Self::NodeStatus => 0,
        }
    }

    /// The request as it is written.
    ///
    /// # Errors
    /// [`MessageError`] if the head exceeds its limit, or a question about the ledger its own.
    pub fn into_frame(self) -> Result<Frame, MessageError> {
        let (head, payload) = match self {
            Self::Table { registration, header, table } => {
                let header = header.to_bytes().to_vec();
                let head = RequestHead::Table { registration, header, table_bytes: stated(&table) };
                (head, vec![table])
            }
            Self::StoreSlivers { registration, pair, primary, secondary } => {
                let head = RequestHead::StoreSlivers {
                    registration,
                    pair,
                    primary_bytes: stated(&primary),
                    secondary_bytes: stated(&secondary),
                };
                (head, vec![primary, secondary])
            }
            Self::Confirm { registration } => (RequestHead::Confirm { registration }, Vec::new()),
            Self::ReadSliver { blob, pair, axis } => {
                (RequestHead::ReadSliver { blob, pair, axis }, Vec::new())
            }
            Self::ReadPairs { shard, blobs } => {
                (RequestHead::ReadPairs { shard, blobs }, Vec::new())
            }
            Self::ReadSymbols { blob, pair, axis, targets } => {
                (RequestHead::ReadSymbols { blob, pair, axis, targets }, Vec::new())
            }
            Self::Attest { proof } => {
                (RequestHead::Attest { proof_bytes: stated(&proof) }, vec![proof])
            }
            Self::ReadTranscript { round } => (RequestHead::ReadTranscript { round }, Vec::new()),
            Self::Acknowledge { round, signature } => {
                (RequestHead::Acknowledge { round, signature }, Vec::new())
            }
            Self::NodeStatus => (RequestHead::NodeStatus, Vec::new()),
            Self::Ledger(request) => {
                let payload = Bytes::from(request.encode()?);
                let (kind, request_bytes) = (request.kind(), stated(&payload));
                (RequestHead::Ledger { kind, request_bytes }, vec![payload])
            }
        };
        Ok(Frame { head: codec::encode(&head, MAX_HEAD_BYTES)?, payload })
    }

    /// Joins a decoded head and the payload that followed it.
    ///
    /// # Errors
    /// [`MessageError`] if they do not belong together or a field is malformed.
    pub fn from_parts(
        limits: &Limits,
        head: RequestHead,
        mut payload: Bytes,
    ) -> Result<Self, MessageError> {
        if payload.len() != head.payload_bytes() {
            return Err(MessageError::PayloadLength);
        }
        let header = |bytes: &[u8]| {
            BlobHeader::from_bytes(limits.config(), bytes).map_err(|_| MessageError::Field)
        };
        Ok(match head {
            RequestHead::Table { registration, header: bytes, .. } => {
                Self::Table { registration, header: header(&bytes)?, table: payload }
            }
            RequestHead::StoreSlivers { registration, pair, primary_bytes, .. } => {
                let primary = payload.split_to(primary_bytes as usize);
                Self::StoreSlivers { registration, pair, primary, secondary: payload }
            }
            RequestHead::Confirm { registration } => Self::Confirm { registration },
            RequestHead::ReadSliver { blob, pair, axis } => Self::ReadSliver { blob, pair, axis },
            RequestHead::ReadPairs { shard, blobs } => Self::ReadPairs { shard, blobs },
            RequestHead::ReadSymbols { blob, pair, axis, targets } => {
                Self::ReadSymbols { blob, pair, axis, targets }
            }
            RequestHead::Attest { .. } => Self::Attest { proof: payload },
            RequestHead::ReadTranscript { round } => Self::ReadTranscript { round },
            RequestHead::Acknowledge { round, signature } => Self::Acknowledge { round, signature },
            RequestHead::NodeStatus => Self::NodeStatus,
            RequestHead::Ledger { kind, .. } => {
                Self::Ledger(LedgerRequest::decode(kind, &payload)?)
            }
        })
    }
}

fn check_header(bytes: &[u8]) -> Result<(), MessageError> {
    if bytes.len() == HEADER_BYTES { Ok(()) } else { Err(MessageError::Field) }
}
