//! What the authenticated map keeps: a record together with its key.
//!
//! The map itself knows hashes of keys only. With the key beside it a state can be read as a whole:
//! a snapshot names what it holds, and the index is derived from it again.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{IndexEntry, Key, Record};
use crate::index::Epoch;

/// A record and its key: a value of the map.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// Where it lives.
    pub key: Key,
    /// What is there.
    pub record: Record,
}

impl Entry {
    /// The bytes of the layout: key, then record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        entry_bytes(&self.key, &self.record)
    }

    /// Parses the layout strictly.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        borsh::from_slice(bytes).ok()
    }

    /// The record of `key`; none if the bytes are another's.
    #[must_use]
    pub fn record_of(key: &Key, bytes: &[u8]) -> Option<Record> {
        let entry = Self::from_bytes(bytes)?;
        (entry.key == *key).then_some(entry.record)
    }
}

/// What the index has because of an entry, while `epoch` runs. Execution keeps the index by itself;
/// a state that is restored derives it here. Not derived is the history of transactions, which no
/// entry tells, and what past selections left, which is only there to be swept.
#[must_use]
pub fn index_of(entry: &Entry, epoch: Epoch) -> Vec<IndexEntry> {
    match (&entry.key, &entry.record) {
        (Key::Node(id), Record::Node(node)) => {
            let ready = IndexEntry::Ready(epoch, node.ready_stake, *id);
            let ready = (node.ready == Some(epoch)).then_some(ready);
            std::iter::once(IndexEntry::Registered(*id)).chain(ready).collect()
        }
        (Key::Stake(account, node), Record::Stake(_)) => vec![IndexEntry::Staked(*account, *node)],
        (Key::Registration(id), Record::Registration(registration)) => {
            let blob = registration.blob;
            let mut entries = vec![
                IndexEntry::Deadline(registration.deadline(), *id),
                IndexEntry::Owned(registration.owner, blob, *id),
            ];
            if let Some((epoch, time)) = registration.certified {
                entries.push(IndexEntry::CertifiedEnd(blob, registration.end, *id));
                entries.push(IndexEntry::Certified(blob, (epoch, time.ms()), *id));
            }
            entries
        }
        _ => Vec::new(),
    }
}

/// The layout of an [`Entry`], without owning its parts.
pub(super) fn entry_bytes(key: &Key, record: &Record) -> Vec<u8> {
    borsh::to_vec(&(key, record)).expect("writing to memory")
}
