//! The ledger's store and the vote journal as a node sees them: against a model, across restarts
//! and crashes, with torn and damaged files.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure ends the test")]

mod common;
mod crash;
mod install;
mod journal;
mod model;
mod replay;
mod store;
