//! What can go wrong for a user, said so that the next step is clear.

use std::sync::Arc;

use floe_protocol::{
    blob::BlobId,
    encoding::{ConfigError, UnsupportedCpu},
    genesis::GenesisError,
    index::{Epoch, Height},
    ledger::{AccountId, Amount, BlobState},
    light::LightError,
    transfer::{MemberFailure, SliverFault, StorePlanError},
};

use super::LedgerError;
use crate::{key_file::KeyFileError, network::NetworkError};

/// Why a client did not join.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network file names no valid network.
    #[error("invalid genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// A bootstrap address is none.
    #[error("a bootstrap address of the network file is no multiaddress")]
    BootstrapAddress,
    /// There is nobody to knock at.
    #[error("the network file names no bootstrap address")]
    NoBootstrap,
    /// Nobody answered.
    #[error("no node answered within {waited_ms} ms at {}", addresses.join(", "))]
    NobodyAnswers {
        /// Where it knocked.
        addresses: Vec<String>,
        /// For how long.
        waited_ms: u64,
    },
    /// The network layer did not start.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No key could be drawn.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The processor cannot run the erasure code.
    #[error(transparent)]
    Cpu(#[from] UnsupportedCpu),
    /// What to start from cannot be trusted.
    #[error(transparent)]
    Light(#[from] LightError),
    /// The ledger cannot be followed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The blob exceeds the network's limit.
    #[error("{len} bytes exceed this network's limit of {max_bytes} bytes for one blob")]
    TooLarge {
        /// Length of the blob in bytes.
        len: u64,
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// The code cannot carry it.
    #[error(transparent)]
    Encoding(#[from] ConfigError),
    /// It can't be stored at all.
    #[error(transparent)]
    Plan(#[from] StorePlanError),
    /// The ledger gave no answer, or refused to register or certify it.
    #[error(transparent)]
    Ledger(Arc<LedgerError>),
    /// Another epoch has begun, and it costs more than was shown.
    #[error("the price has risen from {shown} to {price} with the epoch: nothing was paid")]
    PriceRose {
        /// What it was.
        shown: Amount,
        /// What it is.
        price: Amount,
    },
    /// Epochs pass faster than nodes confirm.
    #[error("epochs pass faster than the blob could be certified")]
    EpochsTooShort,
    /// The same bytes came before in one batch, and failed.
    #[error("the same bytes could not be stored before: {0}")]
    SameAs(String),
    /// Too few nodes took it.
    #[error(
        "storage nodes with {confirmed_shards} of {n_shards} shards confirmed, {quorum_shards} are \
         needed{}",
        list(failures)
    )]
    NoQuorum {
        /// Shards whose holders confirmed.
        confirmed_shards: u16,
        /// Shards of the network.
        n_shards: u16,
        /// Shards needed.
        quorum_shards: u16,
        /// Nodes given up: short id, shards and reason.
        failures: Vec<(String, u16, MemberFailure)>,
    },
}

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Arc::new(error))
    }
}

/// Why the end of a registration was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LifetimeError {
    /// The ledger gave no answer, or refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The account has none.
    #[error("account {account} has no living registration of blob {blob}")]
    NotOwned {
        /// The blob.
        blob: BlobId,
        /// The account.
        account: AccountId,
    },
    /// Only what is certified can be extended.
    #[error("blob {blob} is registered but not certified: store it again first")]
    NotCertified {
        /// The blob.
        blob: BlobId,
    },
    /// What is permanent can't be deleted.
    #[error("blob {blob} was stored as permanent: it stays until epoch {end}")]
    Permanent {
        /// The blob.
        blob: BlobId,
        /// The first epoch in which it may be gone.
        end: Epoch,
    },
    /// Another epoch has begun, and it costs more than was agreed to.
    #[error("the price is {price}, more than the agreed {shown}: nothing was paid")]
    PriceRose {
        /// What was agreed to.
        shown: Amount,
        /// What it is.
        price: Amount,
    },
    /// So far ahead nothing can be paid for.
    #[error("it would end {epochs} epochs ahead: at most {max} can be paid for")]
    TooFarAhead {
        /// Epochs ahead.
        epochs: u64,
        /// The most.
        max: u32,
    },
}

/// Why a blob was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its status could not be had.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// Nobody answers for it: not yet, no more, or never.
    #[error("blob {blob} can't be read: it is {}", describe(*state))]
    NotReadable {
        /// The blob.
        blob: BlobId,
        /// Its state.
        state: BlobState,
    },
    /// The range starts behind the end.
    #[error("range starts at byte {start} of a blob of {len} bytes")]
    Range {
        /// Where it starts.
        start: u64,
        /// Length of the blob in bytes.
        len: u64,
    },
    /// Too few slivers can be had now.
    #[error(
        "{rows} of {rows_needed} slivers needed to read blob {blob} could be had{}",
        faults_list(faults)
    )]
    TooFewSlivers {
        /// The blob.
        blob: BlobId,
        /// Slivers received.
        rows: usize,
        /// Slivers needed.
        rows_needed: usize,
        /// Nodes that failed: short id and reason.
        faults: Vec<(String, SliverFault)>,
    },
    /// The read ended by itself, which only a defect of the client can cause.
    #[error("the read was cut off {bytes} bytes before its end")]
    CutOff {
        /// Bytes that did not come.
        bytes: u64,
    },
    /// The writer encoded it inconsistently: nobody can read it.
    #[error("blob {blob} was encoded inconsistently by its writer and cannot be read")]
    Inconsistent {
        /// The blob.
        blob: BlobId,
    },
}

/// Why a blob's status could not be had.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// It is proven that there is none.
    #[error("no blob {blob}: the ledger proves that at height {height} it has none of this id")]
    NotFound {
        /// The blob.
        blob: BlobId,
        /// The height of the proof.
        height: Height,
    },
    /// The ledger gave no answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

const fn describe(state: BlobState) -> &'static str {
    match state {
        BlobState::Registered => "registered, but not certified yet",
        BlobState::Certified => "certified",
        BlobState::Expired => "expired",
        BlobState::Invalid => "proven inconsistent: its writer encoded it wrongly",
    }
}

fn list(failures: &[(String, u16, MemberFailure)]) -> String {
    let failure = |(node, shards, reason): &(String, u16, MemberFailure)| {
        format!("node {node} ({shards} shards): {reason}")
    };
    join(failures.iter().map(failure))
}

fn faults_list(faults: &[(String, SliverFault)]) -> String {
    join(faults.iter().map(|(node, reason)| format!("node {node}: {reason}")))
}

fn join(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() { String::new() } else { format!(" ({})", items.join("; ")) }
}
