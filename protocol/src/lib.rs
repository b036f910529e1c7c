//! Floe's pure core: same input, same output, on every node.
//!
//! A blob is encoded into slivers ([`encoding`]), named by a hash that commits to all of them
//! ([`blob`]), placed on the shards of a [`committee`], registered ([`registration`]), stored and
//! confirmed by its holders ([`certificate`]), and read back from any `k1` of them ([`transfer`]).
//! What peers say to each other is in [`message`], what a network starts from in [`genesis`], what
//! everyone agrees on in [`ledger`], how in [`consensus`], what waits for a block in [`mempool`],
//! how those who hold nothing check it all in [`light`], and what spares them most of that in
//! [`handover`]. That nodes still hold what they promised is shown in rounds of [`challenge`].
//!
//! ```text
//!   bft  index  hash ── merkle ── blob ── encoding ── inconsistency
//!                  │                │
//!                 keys ── committee ┴ certificate ── ledger ── message
//!                              │                      │  │
//!                           transfer             mempool genesis
//! ```
//!
//! Invariants of the crate: no sockets, no files, no clock, no randomness, no iteration over hash
//! maps (`protocol/.clippy.toml` enforces it): time and seeds are arguments. What is hashed or
//! signed has a byte layout of its own, fixed by golden vectors in `protocol/tests/vectors`; CBOR
//! is for the wire and for tables. Every byte from a peer is bounded, parsed strictly and verified
//! before use, and none makes it panic.

pub mod bft;
pub mod blob;
pub mod certificate;
pub mod challenge;
pub mod codec;
pub mod committee;
pub mod consensus;
pub mod encoding;
pub mod genesis;
pub mod handover;
pub mod hash;
pub mod holders;
pub mod inconsistency;
pub mod index;
pub mod invalidity;
pub mod keys;
pub mod ledger;
pub mod light;
pub mod mempool;
pub mod merkle;
pub mod message;
pub mod migration;
pub mod pace;
pub mod registration;
pub mod repair;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod transfer;
pub mod vote;
