//! The ledger: accounts, nodes and their stakes, registrations of blobs, prices, epochs.
//!
//! A pure machine over committed blocks. [`State`] judges a block and computes what it changes in
//! an authenticated map of [`Record`]s under [`Key`]s; whoever holds a header can check any of them,
//! absence included, with a [`StateProof`]. A blob is registered and paid for here before any node
//! takes a sliver of it, certified here once a quorum holds it (the point of availability), and
//! forgotten here when its last registration has ended: nodes then free its slivers.
//!
//! Invariants: the same blocks give the same state on every node; the sum of all WAL never
//! changes; nothing a block can hold makes this panic. How blocks are agreed is in
//! [`consensus`](crate::consensus), how they are checked by those who hold nothing in
//! [`light`](crate::light).

#![deny(clippy::arithmetic_side_effects)]

mod account;
mod amount;
mod block;
mod challenges;
mod entry;
mod error;
mod event;
mod execute;
mod genesis_state;
mod key;
mod operation;
mod overlay;
mod parameters;
mod pool;
mod pricing;
mod prospect;
mod readiness;
mod record;
mod shard_record;
mod snapshot;
mod state;
mod store;
mod succession;
mod summary;
mod time;
mod transaction;
mod tree;

pub use self::{
    account::{AccountId, ParseAccountError},
    amount::{Amount, ParseAmountError},
    block::{
        Block, BlockHash, Body, CommitRecord, Header, LATE_PRECOMMIT_HEIGHTS, LatePrecommit,
        MAX_BLOCK_BYTES, MalformedBlock, SYSTEM_BYTES, beacon_message, genesis_beacon, next_beacon,
    },
    challenges::{CLOSED_ROUNDS_KEPT, Challenges, OPEN_ROUNDS_MAX},
    entry::{Entry, index_of},
    error::{BlockError, CommitRecordError, OperationError},
    event::{BlockEvents, EndReason, Event, SlashReason},
    execute::SWEEP_MAX,
    key::{IndexEntry, IndexRange, Key},
    operation::{
        COMMISSION_BPS_MAX, MAX_BLOB_NAME_BYTES, MAX_NODE_ADDRESS_BYTES, MAX_NODE_ADDRESSES,
        NodeIdentity, NodeSettings, Operation, SystemOperation,
    },
    parameters::{LedgerParameters, OutOfRange},
    pool::StakeWorth,
    pricing::{UNIT_BYTES, billed_units},
    prospect::Prospect,
    readiness::{NODE_READY_AGE_MAX_MS, NodeReady, ShardsReady},
    record::{
        Account, Attendance, Blob, BlobState, Certified, EpochRecord, Incoming, Name, Node,
        Payment, Pool, Presence, Prices, Rate, Record, Registration, Settlement, Stake, Terms,
        Unbonding,
    },
    shard_record::{KEEPERS_MAX, Keeper, ShardRecord},
    snapshot::{
        MAX_SNAPSHOT_CHUNK_BYTES, MAX_SNAPSHOT_CHUNKS, SNAPSHOT_CHUNK_BYTES, SnapshotError,
        SnapshotManifest, SnapshotOffer, SnapshotRestore, SnapshotWriter,
    },
    state::{Executed, IsKnown, Known, LoadError, Outcome, Proposal, Proposed, State, Tip},
    store::{MemoryStore, ReadError, StateChange, StateReader, VersionedValue},
    succession::{Succession, SuccessionError, SuccessionWriter},
    summary::{Summary, Supply},
    time::Timestamp,
    transaction::{
        MAX_OPERATIONS, MAX_TRANSACTION_BYTES, SignedTransaction, Transaction, TransactionError,
        TransactionId, VerifiedTransaction,
    },
    tree::{StateProof, StateProofError, state_root},
};

pub(crate) use self::shard_record::origin;

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
