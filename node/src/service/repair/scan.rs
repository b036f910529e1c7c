//! What is missing: the ledger's certified blobs held against the store.
//!
//! A [`Scan`] walks through all certified blobs in pages, so that its memory does not grow with
//! their number. [`look`] does the same for a few blobs that somebody is about to work on, and says all
//! that this needs to know of them. All that looks at the stores blocks.

use std::sync::Arc;

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    hash::HASH_BYTES,
    holders::Holders,
    index::{Epoch, ShardIndex},
    keys::NodeId,
    ledger::{BlobState, IndexRange, ReadError, State, StateReader, Timestamp},
};
use floe_storage::{LedgerStore, StorageError, Store};
use tokio::time::Instant;

use super::context::{Context, Failed};
use crate::service::judging::by_newest;

/// Entries of the index in one page.
const PAGE_ENTRIES: usize = 256;

/// A certified blob of which pairs are missing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) blob: BlobId,
    pub(super) header: BlobHeader,
    /// When it was first certified.
    pub(super) first: (Epoch, Timestamp),
    /// The node's shards whose pair is missing, ascending.
    pub(super) shards: Vec<ShardIndex>,
}

/// A part of a scan.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) lacks: Vec<Lack>,
    /// Where the next page begins; none at the end.
    pub(super) next: Option<Vec<u8>>,
}

/// What is known of some blobs.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) holders: Holders,
    /// Those of which something is missing.
    pub(super) lacks: Vec<Lack>,
}

/// Where the walk through all blobs stands.
#[derive(Debug)]
pub(super) struct Scan {
    /// Where the next page begins; none while no scan runs.
    pub(super) next: Option<Vec<u8>>,
    /// A page is being looked through.
    pub(super) paging: bool,
    /// When the next scan is wanted, if one is.
    pub(super) wanted: Option<Instant>,
    pub(super) began: Instant,
    /// Not before this.
    pub(super) rested: Instant,
    /// One has come to its end in this epoch.
    pub(super) finished: bool,
}

impl Scan {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            next: None,
            paging: false,
            wanted: Some(now),
            began: now,
            rested: now,
            finished: false,
        }
    }

    pub(super) fn want(&mut self, at: Instant) {
        self.wanted = Some(self.wanted.map_or(at, |wanted| wanted.min(at)));
    }

    /// When to begin, unless one runs.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.next.is_none() && !self.paging;
        self.wanted.filter(|_| idle).map(|wanted| wanted.max(self.rested))
    }
}

/// The shards that the running committee gives a node.
pub(super) fn own_shards<'a>(state: &'a State, node: &NodeId) -> &'a [ShardIndex] {
    state.committee().member(node).map_or(&[], |member| &member.shards)
}

/// Where a scan begins.
pub(super) fn first_page() -> Vec<u8> {
    IndexRange::all_certified().start
}

/// Looks through one page.
pub(super) fn page(context: &Context, from: &[u8]) -> Result<Page, Failed> {
    let end = IndexRange::all_certified().end;
    let entries = context.ledger.store().index(from..&end, PAGE_ENTRIES)?;
    let blobs = blobs_of(&entries);
    let next = blobs.last().filter(|_| entries.len() == PAGE_ENTRIES);
    // A blob may have more entries than fit into a page.
    let next = next.map(|last| IndexRange::certified_ends(last).end);
    let view = View::of(context);
    let lacks = view.lacks(&blobs)?;
    Ok(Page { lacks, next })
}

/// Looks at these blobs.
pub(super) fn look(context: &Context, blobs: &[BlobId]) -> Result<Looked, Failed> {
    let view = View::of(context);
    let (committee, shards) = by_newest(
        || context.state(),
        |state| Ok((Arc::clone(state.committee()), state.shards(view.ledger)?)),
    )?;
    let holders = Holders::new(committee, shards);
    let holders = holders.ok_or_else(|| ReadError::Failed("not one record per shard".into()))?;
    Ok(Looked { holders, lacks: view.lacks(blobs)? })
}

/// The blobs of entries of certified registrations, which are sorted by them.
fn blobs_of(entries: &[Vec<u8>]) -> Vec<BlobId> {
    let blob = |entry: &Vec<u8>| {
        // Behind the kind of the entry.
        let id: &[u8; HASH_BYTES] = entry.get(1..)?.first_chunk()?;
        Some(BlobId::new(*id))
    };
    let mut blobs: Vec<_> = entries.iter().filter_map(blob).collect();
    blobs.dedup();
    blobs
}

/// What a look is taken with.
struct View<'a> {
    context: &'a Context,
    ledger: &'a LedgerStore,
    store: &'a Store,
}

impl<'a> View<'a> {
    fn of(context: &'a Context) -> Self {
        Self { context, ledger: context.ledger.store().as_ref(), store: &context.store }
    }

    fn lacks(&self, blobs: &[BlobId]) -> Result<Vec<Lack>, Failed> {
        let mut lacks = Vec::new();
        for blob in blobs {
            lacks.extend(self.lack(blob)?);
        }
        Ok(lacks)
    }

    /// What is missing of a blob, if the swarm answers for it.
    fn lack(&self, blob: &BlobId) -> Result<Option<Lack>, Failed> {
        let state = self.context.state();
        let shards = self.missing(&state, blob)?;
        if shards.is_empty() {
            return Ok(None);
        }
        let newest = || self.context.state();
        let known =
            by_newest(newest, |state| Ok((state.blob(self.ledger, blob)?, state.summary().epoch)))?;
        let (Some(record), epoch) = known else { return Ok(None) };
        let certified = record.certified.filter(|_| record.state(epoch) == BlobState::Certified);
        Ok(certified.map(|certified| Lack {
            blob: *blob,
            header: record.header,
            first: (certified.first_epoch, certified.first_time),
            shards,
        }))
    }

    fn missing(&self, state: &State, blob: &BlobId) -> Result<Vec<ShardIndex>, StorageError> {
        let mut missing = Vec::new();
        for shard in own_shards(state, &self.context.node()) {
            if !self.store.has_pair(*shard, blob)? {
                missing.push(*shard);
            }
        }
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{ledger::IndexEntry, registration::RegistrationId};

    use super::*;

    #[test]
    fn each_blob_of_a_page_is_looked_at_once_and_the_next_page_begins_behind_the_last() {
        let entry = |blob: u8, end: u64, registration: u8| {
            let registration = RegistrationId::new([registration; 32]);
            IndexEntry::CertifiedEnd(BlobId::new([blob; 32]), Epoch::new(end), registration)
        };
        let entries = [entry(1, 9, 4), entry(1, 8, 1), entry(2, 8, 1), entry(255, 3, 0)];
        let mut entries: Vec<_> = entries.iter().map(IndexEntry::to_bytes).collect();
        assert!(entries.is_sorted() && entries[0] >= first_page());
        let blobs = [1, 2, 255].map(|seed| BlobId::new([seed; 32]));
        assert_eq!(blobs_of(&entries), blobs);
        for blob in blobs {
            let next = IndexRange::certified_ends(&blob).end;
            let behind = |bytes: &Vec<u8>| *bytes >= next;
            let of_later = |bytes: &Vec<u8>| bytes[1] > blob.as_bytes()[0];
            assert!(entries.iter().all(|bytes| behind(bytes) == of_later(bytes)), "{blob}");
        }
        entries.push(Vec::new());
        assert_eq!(blobs_of(&entries).len(), 3, "no entry, no blob");
    }
}
