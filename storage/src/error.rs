//! What can go wrong with the store, while it is opened and while it is used.
//!
//! [`OpenError`] is read by the person who starts a node: each variant says what to do next.
//! [`StorageError`] is read by the node's services. `Full` and `Length` concern one request;
//! [`StorageError::is_fatal`] tells the rest apart. The text of sled's own errors goes to
//! the log, never into these types: sled is named in `database.rs` alone.

use std::{fmt, io, path::PathBuf};

use floe_protocol::keys::NodeId;

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on the store.
    #[error("store {dir} is in use by another process: stop it, or give this node its own folder")]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A file is where the directory should be.
    #[error("{path} is not a directory: give the node a directory for its store")]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// The directory or the marker may not be written.
    #[error("{path} is not writable: give the node's user write access to it ({source})")]
    NotWritable {
        /// What was to be written.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Any other failure to read or write a file.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The database does not read.
    #[error(
        "the database in {dir} is damaged ({detail}): move it away and start with an accepted \
         empty store; what it held is then missing on this node"
    )]
    Corrupt {
        /// The store's directory.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The marker tells of a store that is not there: a disk was emptied, replaced or not mounted.
    #[error(
        "{marker} says that this node keeps a store in {dir}, but it is empty or another one: \
         mount or restore its disk, or start it for repair: with an empty store, refilled from the swarm"
    )]
    Emptied {
        /// The store's directory.
        dir: PathBuf,
        /// The marker file.
        marker: PathBuf,
    },
    /// The store was made for another node.
    #[error("store {dir} belongs to node {found}, not to {expected}: check folder and key")]
    OtherNode {
        /// The store's directory.
        dir: PathBuf,
        /// Whose store it is.
        found: Box<NodeId>,
        /// Who opens it.
        expected: Box<NodeId>,
    },
    /// The store was written by a version of Floe with another format.
    #[error("store {dir} has format {found}, this program reads {supported}: use its version")]
    Version {
        /// The store's directory.
        dir: PathBuf,
        /// The format on disk.
        found: u32,
        /// The format that this program reads and writes.
        supported: u32,
    },
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk failed.
    #[error("disk failed: {0}")]
    Io(#[from] io::Error),
    /// A table does not read, or holds what was never written.
    #[error("table {table} is damaged")]
    Corrupt {
        /// The table.
        table: &'static str,
    },
    /// No room: nothing was written, reads go on.
    #[error("store is full: {limit}")]
    Full {
        /// The limit that was met.
        limit: FullLimit,
    },
    /// An earlier write or flush failed. What is on disk is unknown until the next start, so
    /// nothing more is written or called durable.
    #[error("store stopped after a failed write: restart the node")]
    Stopped,
    /// A value that the store is not made for.
    #[error("{what} of {bytes} bytes, at most {max_bytes} and not empty expected")]
    Length {
        /// What it is.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The largest in bytes.
        max_bytes: usize,
    },
}

impl StorageError {
    /// Whether the node should stop: the store can no longer be relied on.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        match self {
            Self::Io(_) | Self::Corrupt { .. } | Self::Stopped => true,
            Self::Full { .. } | Self::Length { .. } => false,
        }
    }
}

/// Which limit a store met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullLimit {
    /// The store's own quota.
    Quota {
        /// Disk space that the store takes.
        disk_bytes: u64,
        /// The quota.
        quota_bytes: u64,
    },
    /// The free disk space that is left to others.
    Reserve {
        /// Free on the disk.
        free_bytes: u64,
        /// To be kept free.
        reserve_bytes: u64,
    },
}

impl fmt::Display for FullLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota { disk_bytes, quota_bytes } => {
                write!(f, "{disk_bytes} of {quota_bytes} bytes of its quota")
            }
            Self::Reserve { free_bytes, reserve_bytes } => {
                write!(f, "{free_bytes} bytes free on the disk, {reserve_bytes} reserved")
            }
        }
    }
}
