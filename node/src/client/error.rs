//! What can go wrong for a user, said so that the next step is clear.

use floe_protocol::{
    blob::BlobId,
    encoding::{ConfigError, UnsupportedCpu},
    genesis::GenesisError,
    ledger::RegistrationError,
    light::LightError,
    transfer::{MemberFailure, SliverFault},
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
    /// The writer may not store here.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
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
    /// The certificate was made but too few nodes took it.
    #[error("the certificate reached storage nodes with {shards} of {n_shards} shards only")]
    NotPublished {
        /// Shards of the nodes that keep it.
        shards: u16,
        /// Shards of the network.
        n_shards: u16,
    },
}

/// Why a blob was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its status could not be had.
    #[error(transparent)]
    Status(#[from] StatusError),
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
    /// A quorum does not know it.
    #[error("no blob {blob}: storage nodes with {shards} of {n_shards} shards do not know it")]
    NotFound {
        /// The blob.
        blob: BlobId,
        /// Shards of the nodes that answered so.
        shards: u16,
        /// Shards of the network.
        n_shards: u16,
    },
    /// Too few nodes answered to say anything.
    #[error(
        "{answered} of {nodes} storage nodes answered, none of them knows blob {blob}, and too few \
         to say that it is not there"
    )]
    TooFewAnswers {
        /// The blob.
        blob: BlobId,
        /// Nodes that answered.
        answered: usize,
        /// Nodes of the committee.
        nodes: usize,
    },
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
