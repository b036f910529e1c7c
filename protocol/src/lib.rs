//! Floe's pure core.

pub mod bft;
pub mod blob;
pub mod certificate;
pub mod codec;
pub mod committee;
pub mod encoding;
pub mod genesis;
pub mod hash;
pub mod inconsistency;
pub mod index;
pub mod keys;
pub mod ledger;
pub mod merkle;
pub mod message;
pub mod registration;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod transfer;
