//! Responses and refusals: a closed set, never internal text.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    ChallengeStatus, Frame, LedgerKind, LedgerResponse, Limits, MAX_HEAD_BYTES, MAX_PAIRS,
    MAX_VERSION_BYTES, MessageError, RepairStatus, StoredPair, StoredPairHead, Symbols, at_most,
    challenge::check_transcript, check_pair, stated,
};
use crate::{
    codec,
    index::{Epoch, SliverPairIndex},
    keys::{BlsSignature, ChainId},
    ledger::Timestamp,
};

/// What a node answers when it does not do as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Too much to do: ask again after the given time.
    #[error("busy, ask again in {retry_after_ms} ms")]
    Busy {
        /// Milliseconds to wait.
        retry_after_ms: u32,
    },
    /// The ledger, as far as this node has followed it, has no living registration of that name
    /// for that blob.
    #[error("not registered")]
    NotRegistered,
    /// The pair proofs are not here: send `Table` again.
    #[error("digest table missing")]
    TableMissing,
    /// The pair belongs to a shard of another node.
    #[error("shard is held by another node")]
    WrongShard,
    /// The blob or sliver exceeds the network's limit.
    #[error("too large")]
    TooLarge,
    /// The node's storage quota or disk is full; it still serves reads.
    #[error("storage full")]
    StorageFull,
    /// What was sent does not verify.
    #[error("invalid {0}")]
    Invalid(InvalidReason),
    /// The node does not have it.
    #[error("not found")]
    NotFound,
    /// The node cannot do it now, for reasons of its own.
    #[error("temporarily unavailable")]
    Unavailable,
}

/// What of a request did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidReason {
    /// The digest table does not lead to the blob id.
    Table,
    /// A sliver does not have the root or length that its pair proof states.
    Sliver,
    /// The proof of inconsistency proves nothing.
    Proof,
}

impl std::fmt::Display for InvalidReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "digest table",
            Self::Sliver => "sliver",
            Self::Proof => "proof of inconsistency",
        })
    }
}

/// How a node is doing, in its own words: for people, never for decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's version, at most [`MAX_VERSION_BYTES`] of printable ASCII.
    pub version: String,
    /// The network.
    pub chain: ChainId,
    /// The epoch that it is in.
    pub epoch: Epoch,
    /// Shards that it holds.
    pub shards: u16,
    /// Sliver pairs stored.
    pub pairs: u64,
    /// Bytes on disk.
    pub disk_used_bytes: u64,
    /// Bytes that it may use.
    pub disk_quota_bytes: u64,
    /// Whether it accepts new slivers.
    pub accepts_slivers: bool,
    /// Peers connected.
    pub peers: u32,
    /// Damaged pieces found since the start.
    pub damaged_pieces: u64,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// What its clock shows.
    pub time: Timestamp,
    /// How far it has come with what it is to hold.
    pub repair: RepairStatus,
    /// How it does in challenge rounds.
    pub challenges: ChallengeStatus,
}

/// A response, decoded and within limits, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pair proofs are durable; these pairs of the node's shards are still missing.
    TableStored {
        /// Pairs to send.
        missing: Vec<SliverPairIndex>,
    },
    /// The pair is durable.
    Stored {
        /// Which pair.
        pair: SliverPairIndex,
    },
    /// All pairs of the node's shards are durable.
    Confirmed {
        /// The epoch whose committee the node speaks in.
        epoch: Epoch,
        /// Its signature over the confirmed fact.
        signature: BlsSignature,
    },
    /// Not confirmed: these pairs are missing.
    Missing {
        /// Pairs to send.
        pairs: Vec<SliverPairIndex>,
    },
    /// A sliver with its pair proof.
    Sliver {
        /// The pair proof's byte layout.
        proof: Bytes,
        /// The sliver.
        sliver: Bytes,
    },
    /// Pairs of a shard.
    Pairs {
        /// How many of the blobs asked for, from the first on, were looked up: an answer may be
        /// full before all are.
        looked_up: u16,
        /// Those that were found.
        pairs: Vec<StoredPair>,
    },
    /// Symbols of a sliver, with its pair proof.
    Symbols(Symbols),
    /// The member has verified the proof of inconsistency.
    Attested {
        /// The epoch whose committee the node speaks in.
        epoch: Epoch,
        /// Its signature over the [`InvalidityFact`](crate::invalidity::InvalidityFact).
        signature: BlsSignature,
    },
    /// The node's transcript; none if it is not there, or needed by no further member.
    Transcript(Option<Bytes>),
    /// The node will look at the acknowledgement.
    Taken,
    /// How the node is doing.
    NodeStatus(NodeStatus),
    /// What the node says of the ledger.
    Ledger(Box<LedgerResponse>),
    /// Not done.
    Refused(Refusal),
}

/// The head of a response as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ResponseHead {
    /// See [`Response::TableStored`].
    TableStored {
        /// Pairs to send.
        missing: Vec<SliverPairIndex>,
    },
    /// See [`Response::Stored`].
    Stored {
        /// Which pair.
        pair: SliverPairIndex,
    },
    /// See [`Response::Confirmed`].
    Confirmed {
        /// The epoch whose committee the node speaks in.
        epoch: Epoch,
        /// Its signature over the confirmed fact.
        signature: BlsSignature,
    },
    /// See [`Response::Missing`].
    Missing {
        /// Pairs to send.
        pairs: Vec<SliverPairIndex>,
    },
    /// See [`Response::Sliver`].
    Sliver {
        /// The pair proof's byte layout.
        #[serde(with = "serde_bytes")]
        proof: Vec<u8>,
        /// Bytes of the sliver.
        sliver_bytes: u32,
    },
    /// See [`Response::Pairs`].
    Pairs {
        /// How many of the blobs asked for were looked up.
        looked_up: u16,
        /// Those that were found.
        pairs: Vec<StoredPairHead>,
    },
    /// See [`Response::Symbols`].
    Symbols {
        /// The pair proof's byte layout.
        #[serde(with = "serde_bytes")]
        proof: Vec<u8>,
        /// Bytes of one symbol.
        symbol_bytes: u32,
        /// Bytes of all symbols with their paths.
        symbols_bytes: u32,
    },
    /// See [`Response::Attested`].
    Attested {
        /// The epoch whose committee the node speaks in.
        epoch: Epoch,
        /// Its signature.
        signature: BlsSignature,
    },
    /// See [`Response::Transcript`].
    Transcript {
        /// Bytes of the transcript, if there is one.
        transcript_bytes: Option<u32>,
    },
    /// See [`Response::Taken`].
    Taken,
    /// See [`Response::NodeStatus`].
    NodeStatus(NodeStatus),
    /// See [`Response::Ledger`].
    Ledger {
        /// Which question it answers.
        kind: LedgerKind,
        /// Bytes of the response's layout.
        response_bytes: u32,
    },
    /// See [`Response::Refused`].
    Refused(Refusal),
}

impl ResponseHead {
    /// Parses a head and judges the length of the payload that it announces.
    ///
    /// # Errors
    /// [`MessageError`]: the stream is not worth reading on.
    pub fn decode(limits: &Limits, bytes: &[u8]) -> Result<Self, MessageError> {
        let head: Self = codec::decode(bytes, MAX_HEAD_BYTES)?;
        let n_shards = limits.config().n_shards();
        match &head {
            Self::TableStored { missing: pairs } | Self::Missing { pairs } => {
                if pairs.len() > usize::from(n_shards) {
                    return Err(MessageError::Field);
                }
                for pair in pairs {
                    check_pair(*pair, n_shards)?;
                }
            }
            Self::Stored { pair } => check_pair(*pair, n_shards)?,
            Self::NodeStatus(status) => {
                check_version(&status.version)?;
                status.challenges.check()?;
            }
            Self::Transcript { transcript_bytes } => check_transcript(*transcript_bytes)?,
            Self::Sliver { proof, sliver_bytes } => {
                at_most(u64::from(*sliver_bytes), limits.max_primary_bytes())?;
                if proof.len() != limits.proof_bytes() {
                    return Err(MessageError::Field);
                }
            }
            Self::Pairs { looked_up, pairs } => {
                StoredPairHead::check(limits, pairs)?;
                if pairs.len() > usize::from(*looked_up) || usize::from(*looked_up) > MAX_PAIRS {
                    return Err(MessageError::Field);
                }
            }
            Self::Symbols { proof, symbol_bytes, symbols_bytes } => {
                let config = limits.config();
                at_most(u64::from(*symbol_bytes), config.max_symbol_bytes())?;
                let most = Symbols::bytes(config, *symbol_bytes, config.n());
                at_most(u64::from(*symbols_bytes), most.min(limits.max_payload_bytes()))?;
                if proof.len() != limits.proof_bytes() {
                    return Err(MessageError::Field);
                }
            }
            Self::Ledger { kind, response_bytes } => {
                at_most(u64::from(*response_bytes), kind.max_response_bytes() as u64)?;
            }
            Self::Confirmed { .. } | Self::Attested { .. } | Self::Taken | Self::Refused(_) => {}
        }
        Ok(head)
    }

    /// Bytes of the payload that follows the head.
    #[must_use]
    pub fn payload_bytes(&self, limits: &Limits) -> usize {
        match self {
            Self::Pairs { pairs, .. } => {
                let bytes = |pair: &StoredPairHead| {
                    let slivers = pair.primary_bytes as usize + pair.secondary_bytes as usize;
                    limits.proof_bytes() + slivers
                };
                pairs.iter().map(bytes).sum()
            }
            Self::Symbols { symbols_bytes, .. } => *symbols_bytes as usize,
            Self::Sliver { sliver_bytes, .. } => *sliver_bytes as usize,
            Self::Transcript { transcript_bytes } => transcript_bytes.unwrap_or(0) as usize,
            Self::Ledger { response_bytes, .. } => *response_bytes as usize,
            Self::TableStored { .. }
            | Self::Stored { .. }
            | Self::Confirmed { .. }
            | Self::Missing { .. }
            | Self::Attested { .. }
            | Self::Taken
            | Self::NodeStatus(_)
            | Self::Refused(_) => 0,
        }
    }
}

impl Response {
    /// The response as it is written.
    ///
    /// # Errors
    /// [`MessageError`] if the head exceeds its limit, or an answer about the ledger its own.
    pub fn into_frame(self) -> Result<Frame, MessageError> {
        let mut payload = Vec::new();
        let head = match self {
            Self::TableStored { missing } => ResponseHead::TableStored { missing },
            Self::Stored { pair } => ResponseHead::Stored { pair },
            Self::Confirmed { epoch, signature } => ResponseHead::Confirmed { epoch, signature },
            Self::Missing { pairs } => ResponseHead::Missing { pairs },
            Self::Sliver { proof, sliver } => {
                let head =
                    ResponseHead::Sliver { proof: proof.to_vec(), sliver_bytes: stated(&sliver) };
                payload.push(sliver);
                head
            }
            Self::Pairs { looked_up, pairs } => {
                let heads = pairs.iter().map(|pair| StoredPairHead {
                    blob: pair.blob,
                    primary_bytes: stated(&pair.primary),
                    secondary_bytes: stated(&pair.secondary),
                });
                let head = ResponseHead::Pairs { looked_up, pairs: heads.collect() };
                payload = pairs.into_iter().flat_map(StoredPair::into_parts).collect();
                head
            }
            Self::Symbols(Symbols { proof, symbol_bytes, symbols }) => {
                let (proof, symbols_bytes) = (proof.to_vec(), stated(&symbols));
                payload.push(symbols);
                ResponseHead::Symbols { proof, symbol_bytes, symbols_bytes }
            }
            Self::Attested { epoch, signature } => ResponseHead::Attested { epoch, signature },
            Self::Transcript(transcript) => {
                let transcript_bytes = transcript.as_ref().map(stated);
                payload.extend(transcript);
                ResponseHead::Transcript { transcript_bytes }
            }
            Self::Taken => ResponseHead::Taken,
            Self::NodeStatus(status) => ResponseHead::NodeStatus(status),
            Self::Ledger(response) => {
                let bytes = Bytes::from(response.encode()?);
                let (kind, response_bytes) = (response.kind(), stated(&bytes));
                payload.push(bytes);
                ResponseHead::Ledger { kind, response_bytes }
            }
            Self::Refused(refusal) => ResponseHead::Refused(refusal),
        };
        Ok(Frame { head: codec::encode(&head, MAX_HEAD_BYTES)?, payload })
    }

    /// Joins a decoded head and the payload that followed it.
    ///
    /// # Errors
    /// [`MessageError`] if they do not belong together, or the payload is malformed.
    pub fn from_parts(
        limits: &Limits,
        head: ResponseHead,
        mut payload: Bytes,
    ) -> Result<Self, MessageError> {
        if payload.len() != head.payload_bytes(limits) {
            return Err(MessageError::PayloadLength);
        }
        Ok(match head {
            ResponseHead::TableStored { missing } => Self::TableStored { missing },
            ResponseHead::Stored { pair } => Self::Stored { pair },
            ResponseHead::Confirmed { epoch, signature } => Self::Confirmed { epoch, signature },
            ResponseHead::Missing { pairs } => Self::Missing { pairs },
            ResponseHead::Sliver { proof, .. } => {
                Self::Sliver { proof: Bytes::from(proof), sliver: payload }
            }
            ResponseHead::Pairs { looked_up, pairs } => {
                let pairs = pairs.into_iter().map(|head| StoredPair {
                    blob: head.blob,
                    proof: payload.split_to(limits.proof_bytes()),
                    primary: payload.split_to(head.primary_bytes as usize),
                    secondary: payload.split_to(head.secondary_bytes as usize),
                });
                Self::Pairs { looked_up, pairs: pairs.collect() }
            }
            ResponseHead::Symbols { proof, symbol_bytes, .. } => {
                Self::Symbols(Symbols { proof: Bytes::from(proof), symbol_bytes, symbols: payload })
            }
            ResponseHead::Attested { epoch, signature } => Self::Attested { epoch, signature },
            ResponseHead::Transcript { transcript_bytes } => {
                Self::Transcript(transcript_bytes.map(|_| payload))
            }
            ResponseHead::Taken => Self::Taken,
            ResponseHead::NodeStatus(status) => Self::NodeStatus(status),
            ResponseHead::Ledger { kind, .. } => {
                Self::Ledger(Box::new(LedgerResponse::decode(kind, &payload)?))
            }
            ResponseHead::Refused(refusal) => Self::Refused(refusal),
        })
    }
}

/// A version ends up on people's terminals: printable ASCII only.
fn check_version(version: &str) -> Result<(), MessageError> {
    let printable = version.bytes().all(|byte| byte.is_ascii_graphic());
    if version.len() <= MAX_VERSION_BYTES && printable { Ok(()) } else { Err(MessageError::Field) }
}
