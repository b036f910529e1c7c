//! Names of the tables, the version of their format, and whose store this is.
//!
//! Three rows tell a store apart: its format version, the node that it was made for, and the
//! *store id*, drawn when it was made. The store id is also written into the marker file (see
//! `marker.rs`), outside the disk that holds the store.
//!
//! A new format gets a new version and a migration from the one before it in this file, never a
//! second reading path elsewhere. Stores of format 1, which also kept registrations, were never
//! in use and are refused. Format 2 had no symbol hashes: a store of it is one of format 3 that keeps
//! none yet, and gets that number when it is opened.

use std::time::{SystemTime, UNIX_EPOCH};

use floe_protocol::{
    hash::{Domain, Hash},
    keys::NodeId,
};

use crate::{
    StorageError,
    database::{Batch, SMALL_BACKLOG_BYTES_MAX, Table},
};

/// The format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 3;

/// The format of the ledger's store. Numbered apart, so that neither kind of store is ever taken
/// for the other.
pub const LEDGER_FORMAT_VERSION: u32 = 1004;

/// One of the two kinds of store.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) version: u32,
    /// The oldest format that needs no more than another number.
    pub(crate) oldest: u32,
    /// Tables that are empty in a store without an identity.
    pub(crate) tables: &'static [&'static str],
    pub(crate) backlog_bytes_max: usize,
}

/// What holds slivers.
pub(crate) const SLIVER_STORE: Kind = Kind {
    version: FORMAT_VERSION,
    oldest: 2,
    tables: &[SLIVERS, VOLUMES, BLOBS],
    backlog_bytes_max: SMALL_BACKLOG_BYTES_MAX,
};
/// What holds the ledger.
pub(crate) const LEDGER_STORE: Kind = Kind {
    version: LEDGER_FORMAT_VERSION,
    oldest: LEDGER_FORMAT_VERSION,
    tables: &[LEDGER],
    backlog_bytes_max: SMALL_BACKLOG_BYTES_MAX,
};

/// Facts about the store itself.
pub(crate) const STORE: &str = "store";
/// Pair records by shard and blob.
pub(crate) const SLIVERS: &str = "slivers";
/// How much was written to each volume that takes no more.
pub(crate) const VOLUMES: &str = "volumes";
/// Pieces by offset, axis and number: the one table of each volume.
pub(crate) const PIECES: &str = "pieces";
/// Pair proofs by shard and blob.
pub(crate) const PAIR_PROOFS: &str = "pair_proofs";
/// Headers by blob.
pub(crate) const BLOBS: &str = "blobs";
/// Everything of the ledger, see `ledger_store/rows.rs`.
pub(crate) const LEDGER: &str = "ledger";
/// Addresses by peer.
pub(crate) const PEERS: &str = "peers";

const VERSION_KEY: &[u8] = b"version";
const NODE_KEY: &[u8] = b"node";
const STORE_ID_KEY: &[u8] = b"id";

/// What a store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) version: u32,
    pub(crate) node: NodeId,
    pub(crate) store: Hash,
}

impl Identity {
    /// The identity of a new store of `node`.
    pub(crate) fn new(node: NodeId, version: u32) -> Self {
        // Told apart from other stores of the same node is all that it needs to be. A clock
        // before 1970 gives 0.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos()).to_le_bytes();
        let process = std::process::id().to_le_bytes();
        Self {
            version,
            node,
            store: Domain::Piece.hash(&[b"store id", node.as_bytes(), &now, &process]),
        }
    }

    /// Reads the identity; none in a new database.
    pub(crate) fn read(table: &Table) -> Result<Option<Self>, StorageError> {
        let version = table.get(VERSION_KEY)?;
        let node = table.get(NODE_KEY)?;
        let store = table.get(STORE_ID_KEY)?;
        match (version, node, store) {
            (None, None, None) => Ok(None),
            (Some(version), Some(node), Some(store)) => {
                let parse = || {
                    Some(Self {
                        version: u32::from_be_bytes((*version).try_into().ok()?),
                        node: NodeId::new((*node).try_into().ok()?),
                        store: Hash::new((*store).try_into().ok()?),
                    })
                };
                parse().map(Some).ok_or_else(|| table.corrupt())
            }
            _ => Err(table.corrupt()),
        }
    }

    /// Writes the identity in one step.
    pub(crate) fn write(&self, table: &Table) -> Result<(), StorageError> {
        let mut batch = Batch::default();
        batch.insert(table, VERSION_KEY, &self.version.to_be_bytes())?;
        batch.insert(table, NODE_KEY, self.node.as_bytes())?;
        batch.insert(table, STORE_ID_KEY, self.store.as_bytes())?;
        batch.commit()
    }
}
