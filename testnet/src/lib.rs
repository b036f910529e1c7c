//! Local Floe swarms: real nodes, real sockets, separate stores, on one machine.
//!
//! [`Cluster`] starts them and stops, kills and restarts each, for tests, examples and the program
//! `floe-testnet`, whose commands live in [`cli`]. Nodes run inside the calling process, each on a
//! runtime of its own, or as one process each; they speak TCP over loopback either way.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use bytes::Bytes;
//! use floe_node::client::{ReadOptions, StoreProgress};
//! use floe_protocol::transfer::Wanted;
//! use floe_testnet::Cluster;
//!
//! let mut cluster = Cluster::builder().nodes(7).shards(64).start().await?;
//! let client = cluster.client().await?;
//! let progress = tokio::sync::watch::Sender::new(StoreProgress::default());
//! let (blob, wanted) = (Bytes::from_static(b"hello"), Wanted { epochs: 2, deletable: true });
//! let stored = client.store(blob, wanted, cluster.wallet(), &progress).await?;
//! cluster.stop(0).await?;
//! let blob = client.read(stored.blob, ReadOptions::default()).await?.read_to_end().await?;
//! assert_eq!(blob, b"hello");
//! cluster.shutdown().await
//! # }
//! ```
//!
//! Invariants: a cluster ends only what it started; a temporary directory goes with its cluster;
//! nothing here decides anything for a node. Networks that are slow or lose packets are real, too
//! ([`link`]). Deliberately not here: simulated time, which needs no sockets.

pub mod cli;
pub mod cluster;
pub mod scenario;

mod bench;
mod control;
mod current;
mod demo;
mod lazy;
mod report;
mod up;
mod workload;

pub use self::{
    cluster::{
        Cluster, ClusterBuilder, NodeState, NodeSummary, SwarmStatus, extra_account_key, link,
    },
    workload::content,
};
