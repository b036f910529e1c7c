//! The name of a registration: an account's paid claim that a blob be stored.
//!
//! The [ledger](crate::ledger) gives it when a transaction registers the blob
//! ([`TransactionId::registration`](crate::ledger::TransactionId::registration)) and keeps the
//! [record](crate::ledger::Registration) behind it. Nodes accept slivers for it, confirmations and
//! certificates bind to it. Several registrations may name one blob.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::hash::{HASH_BYTES, Hash};

/// The name of a registration.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    BorshSerialize,
    BorshDeserialize,
)]
#[serde(transparent)]
pub struct RegistrationId(Hash);

impl RegistrationId {
    /// Wraps raw bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(Hash::new(bytes))
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
