//! The store as its users see it: what is put can be got, survives, stays within limits, and is
//! never served damaged.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure ends the test")]

mod common;
mod crash;
mod damage;
mod hashes;
mod opening;
mod pairs;
mod records;
mod removal;
mod space;
