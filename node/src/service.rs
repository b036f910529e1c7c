//! The services of a storage node. Each is one task with its own state, reached through bounded
//! channels; what is hashed, verified or written runs on blocking threads.

pub(crate) mod address_book;
pub(crate) mod block_sync;
mod lane;
pub(crate) mod ledger;
pub(crate) mod queries;
pub(crate) mod storage_node;
pub(crate) mod transactions;
