//! Floe's storage node, light-peer client and command line: I/O and wiring, no decisions.
//!
//! Decisions are taken by the pure machines of `floe-protocol`; this crate moves bytes between
//! them, the network, the store and people.
//!
//! ```text
//!   peers ──TCP/QUIC── network::event_loop ──Event──► service::storage_node ──► blocking threads
//!                            ▲    │                       (Lane: so many run,      verify, sled,
//!            Command, oneshot │    └─watch PeersView─►      so many wait)          flush, sign
//!                            │                        service::address_book ──► store
//!   people ── cli ── client ─┘
//! ```
//!
//! Tasks own their state; handles are cheap clones; queues are bounded. Invariants: nothing that
//! hashes, verifies or touches the disk runs on an async thread; libp2p is named only under
//! `network`; a panic of a service ends the process.

pub mod allocator;
pub mod cli;
pub mod client;
mod clock;
pub mod config;
pub mod key_file;
pub mod network;
mod node;
mod service;
pub mod telemetry;

pub use self::{
    client::Client,
    clock::Clock,
    config::NodeConfig,
    node::{Node, NodeError, NodeHandle},
    service::{
        challenges::SymbolSource,
        ledger::{AdoptError, ChainError, CommittedBlock, Ledger, LedgerStopped},
        snapshot::FirstStateError,
    },
};
