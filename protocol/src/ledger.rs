//! What a node knows to be agreed: committee, parameters, registrations, the state of blobs.
//!
//! Everything else in the system asks a [`LedgerView`] and never where it came from. Today it is
//! built from a genesis, and a blob's record from the registrations and the certificate that
//! nodes keep; once blocks are agreed, both come from committed blocks behind the same questions.
//!
//! Invariant: read-only and pure. A view answers for one moment; it never changes under a reader.

#![deny(clippy::arithmetic_side_effects)]

mod account;
mod amount;
mod block;
mod error;
mod event;
mod execute;
mod genesis_state;
mod key;
mod operation;
mod overlay;
mod parameters;
mod pricing;
mod record;
mod state;
mod store;
mod time;
mod transaction;
mod tree;

use serde::{Deserialize, Serialize};

use crate::{
    blob::{BlobHeader, BlobId},
    certificate::ConfirmedFact,
    committee::Committee,
    genesis::{Genesis, GenesisError},
    index::Epoch,
    keys::{ChainId, PublicKey},
    registration::{Registration, RegistrationId, SignedRegistration},
};

pub use self::{
    account::{AccountId, ParseAccountError},
    amount::{Amount, ParseAmountError},
    block::{
        Block, BlockHash, Body, CommitRecord, Header, LATE_PRECOMMIT_HEIGHTS, LatePrecommit,
        MAX_BLOCK_BYTES, MalformedBlock, SYSTEM_BYTES, beacon_message, genesis_beacon, next_beacon,
    },
    error::{BlockError, CommitRecordError, OperationError},
    event::{BlockEvents, EndReason, Event},
    execute::SWEEP_MAX,
    key::{IndexEntry, IndexRange, Key},
    operation::{
        COMMISSION_BPS_MAX, MAX_BLOB_NAME_BYTES, MAX_NODE_ADDRESS_BYTES, MAX_NODE_ADDRESSES,
        NodeIdentity, NodeSettings, Operation, SystemOperation,
    },
    parameters::LedgerParameters,
    pricing::{UNIT_BYTES, billed_units},
    record::{
        Account, Blob, Certified, EpochRecord, LedgerRegistration, Name, Node, Payment, Pool,
        Presence, Prices, Record, Stake, Summary, Supply, Unbonding,
    },
    state::{Executed, LoadError, Outcome, Proposal, State, Tip},
    store::{MemoryStore, ReadError, StateChange, StateReader, VersionedValue},
    time::Timestamp,
    transaction::{
        MAX_OPERATIONS, MAX_TRANSACTION_BYTES, SignedTransaction, Transaction, TransactionError,
        TransactionId, VerifiedTransaction,
    },
    tree::{StateProof, StateProofError, state_root},
};

/// Registrations that one blob may have at a time on a node.
pub const MAX_REGISTRATIONS_PER_BLOB: usize = 240;

/// What the network fixes for everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Shards of the network.
    pub n_shards: u16,
    /// The largest blob in bytes.
    pub max_blob_bytes: u64,
    /// The rules of the ledger.
    pub ledger: LedgerParameters,
    /// All WAL that there is.
    pub supply: Amount,
}

/// The state of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// Registered, not yet certified: nobody answers for it.
    Registered,
    /// Certified and alive: the swarm answers for it.
    Certified,
    /// Every registration has ended.
    Expired,
    /// Deleted by its owners before the end.
    Deleted,
    /// Proven inconsistent: it reads as invalid everywhere.
    Invalid,
}

/// What the ledger says of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStatus {
    /// The blob's header.
    pub header: BlobHeader,
    /// Its state.
    pub state: BlobState,
    /// Registrations alive.
    pub live_registrations: u32,
    /// The epoch from which no living registration covers it: the latest end.
    pub end: Epoch,
    /// Whether every living registration may be deleted.
    pub deletable: bool,
    /// The earliest certification among the living registrations.
    pub first_certified_epoch: Option<Epoch>,
    /// Its ledger time in milliseconds since the Unix epoch, where there are blocks to tell it.
    pub first_certified_time_ms: Option<u64>,
    /// Given at the first certification, where there is a ledger to count them.
    pub certification_number: Option<u64>,
}

/// What a node keeps of a blob beside its slivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// The blob's header.
    pub header: BlobHeader,
    /// Its registrations on this node.
    pub registrations: Vec<RegistrationId>,
    /// The storage certificate, in its byte layout, verified before it was kept.
    #[serde(with = "serde_bytes")]
    pub certificate: Option<Vec<u8>>,
    /// The epoch of the certificate.
    pub certified: Option<Epoch>,
}

impl BlobRecord {
    /// The record of a blob of which nothing else is known.
    #[must_use]
    pub const fn new(header: BlobHeader) -> Self {
        Self { header, registrations: Vec::new(), certificate: None, certified: None }
    }
}

/// Why a registration is not accepted.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationError {
    /// The writer may not store in this network.
    #[error("writer {0} is not listed by the network's genesis")]
    UnknownWriter(PublicKey),
    /// The signature is not the writer's, or for another network.
    #[error("signature of the registration does not verify")]
    Signature,
    /// The header is another blob's.
    #[error("registration names another blob than the header")]
    OtherBlob,
    /// The blob exceeds the network's limit.
    #[error("blob of {len} bytes exceeds the network's limit of {max_bytes} bytes")]
    BlobTooLarge {
        /// Length of the blob in bytes.
        len: u64,
        /// The network's limit in bytes.
        max_bytes: u64,
    },
}

/// The agreed facts at one moment.
#[derive(Clone, Debug)]
pub struct LedgerView {
    chain: ChainId,
    parameters: Parameters,
    committee: Committee,
    writers: Vec<PublicKey>,
}

impl LedgerView {
    /// The view at genesis.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is no valid one.
    pub fn from_genesis(genesis: &Genesis) -> Result<Self, GenesisError> {
        let committee = genesis.committee()?;
        Ok(Self {
            chain: genesis.chain_id(),
            parameters: Parameters {
                n_shards: genesis.n_shards,
                max_blob_bytes: genesis.max_blob_bytes,
                ledger: genesis.ledger,
                supply: genesis.supply()?,
            },
            committee,
            writers: genesis.writers.clone(),
        })
    }

    /// The network.
    #[must_use]
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// The running epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.committee.epoch()
    }

    /// The committee of the running epoch.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.committee
    }

    /// What the network fixes for everyone.
    #[must_use]
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Judges a writer's registration of the blob with `header`.
    ///
    /// # Errors
    /// [`RegistrationError`]: slivers of it are refused.
    pub fn register(
        &self,
        signed: &SignedRegistration,
        header: &BlobHeader,
    ) -> Result<Registration, RegistrationError> {
        let max_bytes = self.parameters.max_blob_bytes;
        if header.id() != signed.blob {
            return Err(RegistrationError::OtherBlob);
        }
        if header.len > max_bytes {
            return Err(RegistrationError::BlobTooLarge { len: header.len, max_bytes });
        }
        if !self.writers.contains(&signed.writer) {
            return Err(RegistrationError::UnknownWriter(signed.writer));
        }
        if !signed.verify(&self.chain) {
            return Err(RegistrationError::Signature);
        }
        Ok(Registration {
            id: signed.id(),
            header: *header,
            owner: signed.writer,
            start: Epoch::new(0),
            end: Epoch::new(u64::MAX),
            deletable: false,
            certified: None,
        })
    }

    /// What a confirmation for `registration` states in this epoch.
    #[must_use]
    pub const fn fact(&self, blob: BlobId, registration: RegistrationId) -> ConfirmedFact {
        ConfirmedFact { epoch: self.epoch(), blob, registration }
    }

    /// The state of a blob, from the record that a node keeps of it and its registrations.
    #[must_use]
    pub fn blob_status(&self, record: &BlobRecord, registrations: &[Registration]) -> BlobStatus {
        let epoch = self.epoch();
        let alive = || registrations.iter().filter(|registration| registration.is_alive(epoch));
        // A certificate that reached this node without a registration is of a permanent one:
        // there are no others yet.
        let permanent_end = record.certified.map(|_| Epoch::new(u64::MAX));
        let state = if record.certified.is_some() {
            BlobState::Certified
        } else if alive().next().is_some() {
            BlobState::Registered
        } else {
            BlobState::Expired
        };
        BlobStatus {
            header: record.header,
            state,
            live_registrations: u32::try_from(alive().count()).unwrap_or(u32::MAX),
            end: alive().map(|r| r.end).chain(permanent_end).max().unwrap_or(epoch),
            deletable: alive().next().is_some() && alive().all(|r| r.deletable),
            first_certified_epoch: record.certified,
            first_certified_time_ms: None,
            certification_number: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::Hash, test_support};

    const HEADER: BlobHeader = BlobHeader { n_shards: 7, len: 1, root: Hash::ZERO };

    fn registration(start: u64, end: u64, deletable: bool) -> Registration {
        Registration {
            id: RegistrationId::new([0; 32]),
            header: HEADER,
            owner: test_support::writer_key().public(),
            start: Epoch::new(start),
            end: Epoch::new(end),
            deletable,
            certified: None,
        }
    }

    /// State, live registrations, end, deletable.
    fn check(
        certified: Option<u64>,
        registrations: &[Registration],
        expected: (BlobState, u32, u64, bool),
    ) {
        let view = LedgerView::from_genesis(&test_support::genesis(4, 7)).unwrap();
        let record = BlobRecord { certified: certified.map(Epoch::new), ..BlobRecord::new(HEADER) };
        let status = view.blob_status(&record, registrations);
        let (state, live_registrations, end, deletable) = expected;
        let expected = BlobStatus {
            header: HEADER,
            state,
            live_registrations,
            end: Epoch::new(end),
            deletable,
            first_certified_epoch: certified.map(Epoch::new),
            first_certified_time_ms: None,
            certification_number: None,
        };
        assert_eq!(status, expected, "{certified:?} {registrations:?}");
    }

    #[test]
    fn the_state_of_a_blob_follows_certificate_and_registrations() {
        use BlobState::{Certified, Expired, Registered};
        let (ended, later) = (registration(0, 0, false), registration(1, 9, false));
        let permanent = registration(0, u64::MAX, false);
        let (short, deletable) = (registration(0, 3, false), registration(0, 5, true));
        let none: &[Registration] = &[];
        check(None, none, (Expired, 0, 0, false));
        check(None, &[ended], (Expired, 0, 0, false));
        check(None, &[later], (Expired, 0, 0, false));
        check(None, &[short], (Registered, 1, 3, false));
        check(None, &[deletable], (Registered, 1, 5, true));
        check(None, &[short, deletable, ended], (Registered, 2, 5, false));
        check(None, &[permanent], (Registered, 1, u64::MAX, false));
        check(Some(0), &[permanent], (Certified, 1, u64::MAX, false));
        // Learnt by gossip: certified, but never registered on this node.
        check(Some(0), none, (Certified, 0, u64::MAX, false));
    }
}
