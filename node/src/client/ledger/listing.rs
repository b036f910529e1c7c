//! Listings: what belongs to an account, and who runs nodes.
//!
//! The index that nodes keep beside the state is unproven. So members that weigh more than all
//! faulty ones together are asked, which makes sure that nothing is left out, and every entry is
//! proven by the state, or by its block (`history.rs`), which makes sure that nothing is invented.
//!
//! Invariants: a listing ends, whatever liars invent. Each page is proven before the next one is
//! asked for, who named what does not prove is not asked for this listing any more, and pages and
//! time are bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use floe_protocol::{
    blob::BlobId,
    committee::QuorumTracker,
    keys::NodeId,
    ledger::{AccountId, IndexEntry, Key, Node, Record, Registration, Stake},
    light::LightError,
    message::{IndexQuery, LedgerRequest, LedgerResponse},
    registration::RegistrationId,
};
use tokio::time::timeout;

use super::{
    LedgerClient, LedgerError, NodeFault, Proven, Purpose,
    asker::{Faults, HEDGE},
};

/// Entries asked for at a time.
pub(super) const PAGE: u16 = 256;
/// Pages of one listing: more entries than any account has.
const PAGES_MAX: usize = 4_096;
/// How long a listing goes on.
pub(super) const LISTING_MAX: Duration = Duration::from_secs(120);
/// So many unproven entries, and most of what a node named, are no accident: registrations may
/// end between index and proof, but few do while there are ever more entries.
const INVENTED_MIN: usize = 8;
/// Bytes of a key or id at the end of an entry.
const ID_BYTES: usize = 32;

impl LedgerClient {
    /// An account's registrations.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn registrations(
        &self,
        account: AccountId,
    ) -> Result<Proven<Vec<(RegistrationId, Registration)>>, LedgerError> {
        let query = IndexQuery::Owned(account);
        self.listed(query, RegistrationId::new, Key::Registration, |id, record| match record {
            Record::Registration(record) if record.owner == account => {
                Some((IndexEntry::Owned(account, record.blob, id), *record))
            }
            _ => None,
        })
        .await
    }

    /// An account's registrations of one blob.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn registrations_of(
        &self,
        account: AccountId,
        blob: BlobId,
    ) -> Result<Proven<Vec<(RegistrationId, Registration)>>, LedgerError> {
        let query = IndexQuery::OwnedOf(account, blob);
        self.listed(query, RegistrationId::new, Key::Registration, |id, record| match record {
            Record::Registration(record) if record.owner == account && record.blob == blob => {
                Some((IndexEntry::Owned(account, blob, id), *record))
            }
            _ => None,
        })
        .await
    }

    /// An account's stakes.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn stakes(
        &self,
        account: AccountId,
    ) -> Result<Proven<Vec<(NodeId, Stake)>>, LedgerError> {
        let query = IndexQuery::Staked(account);
        let key = |node| Key::Stake(account, node);
        self.listed(query, NodeId::new, key, |node, record| match record {
            Record::Stake(stake) => Some((IndexEntry::Staked(account, node), stake)),
            _ => None,
        })
        .await
    }

    /// All nodes of the registry.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn nodes(&self) -> Result<Proven<Vec<(NodeId, Node)>>, LedgerError> {
        self.listed(IndexQuery::Nodes, NodeId::new, Key::Node, |node, record| match record {
            Record::Node(record) => Some((IndexEntry::Registered(node), *record)),
            _ => None,
        })
        .await
    }

    /// All entries of an index, each with what `own` makes of its proven record; those that are
    /// not of the record are left out.
    async fn listed<T: Copy, U>(
        &self,
        query: IndexQuery,
        id: impl Fn([u8; ID_BYTES]) -> T,
        key: impl Fn(T) -> Key,
        own: impl Fn(T, Record) -> Option<(IndexEntry, U)>,
    ) -> Result<Proven<Vec<(T, U)>>, LedgerError> {
        let mut listing = Listing::new(query);
        let listed = self.listed_all(&mut listing, id, key, own);
        match timeout(LISTING_MAX, listed).await {
            Ok(listed) => listed,
            Err(_) => Err(self.asker.no_answer("a listing", &listing.faults)),
        }
    }

    async fn listed_all<T: Copy, U>(
        &self,
        listing: &mut Listing,
        id: impl Fn([u8; ID_BYTES]) -> T,
        key: impl Fn(T) -> Key,
        own: impl Fn(T, Record) -> Option<(IndexEntry, U)>,
    ) -> Result<Proven<Vec<(T, U)>>, LedgerError> {
        let mut listed: Vec<(T, U)> = Vec::new();
        let (mut heights, mut earlier) = (BTreeSet::new(), 0);
        loop {
            let page = self.page(listing, PAGE).await?;
            let (mut ids, mut entries) = (Vec::new(), Vec::new());
            for (entry, named_by) in page.entries {
                match entry.last_chunk::<ID_BYTES>() {
                    Some(bytes) => {
                        ids.push(id(*bytes));
                        entries.push((entry, named_by));
                    }
                    None => listing.count(&named_by, false, page.whole),
                }
            }
            let keys: Vec<_> = ids.iter().map(|id| key(*id)).collect();
            let Proven { value, header, fitness } = self.facts(&keys, Purpose::Decide).await?;
            heights.insert(header.as_ref().map(|header| header.header().height));
            for ((id, (entry, named_by)), record) in ids.into_iter().zip(entries).zip(value) {
                let proven = record.and_then(|record| own(id, record));
                let proven = proven.filter(|(of, _)| of.to_bytes() == entry);
                listing.count(&named_by, proven.is_some(), page.whole);
                listed.extend(proven.map(|(_, value)| (id, value)));
            }
            listing.drop_liars();
            if page.whole {
                earlier = listed.len();
                continue;
            }
            if heights.len() > 1 {
                // All of it is to be so after one and the same block.
                let last = listed.split_off(earlier);
                let keys: Vec<_> = listed.iter().map(|(id, _)| key(*id)).collect();
                let records = self.facts_at(header.as_ref(), &keys).await?;
                let again = std::mem::take(&mut listed).into_iter().zip(records);
                listed
                    .extend(again.filter_map(|((id, _), record)| Some((id, own(id, record?)?.1))));
                listed.extend(last);
            }
            return Ok(Proven { value: listed, header, fitness });
        }
    }

    /// The next entries of a listing, from members that weigh more than all faulty ones together:
    /// as an honest one is among them, the first `limit` of all they say lack nothing.
    pub(super) async fn page(
        &self,
        listing: &mut Listing,
        limit: u16,
    ) -> Result<Page, LedgerError> {
        let committee = self.committee();
        let Listing { query, after, dropped, faults, pages, .. } = listing;
        let range = query.range();
        let mut answered = QuorumTracker::new(&committee);
        let mut entries: BTreeMap<Vec<u8>, BTreeSet<NodeId>> = BTreeMap::new();
        *pages += 1;
        let candidates = if *pages > PAGES_MAX { Vec::new() } else { self.asker.candidates() };
        for node in candidates.into_iter().filter(|node| !dropped.contains(node)) {
            let request = LedgerRequest::Index { query: *query, after: after.clone(), limit };
            match timeout(4 * HEDGE, self.asker.ask(node, request)).await {
                Ok(Ok(LedgerResponse::Index { entries: told })) => {
                    let inside = |entry: &Vec<u8>| {
                        *entry >= range.start
                            && *entry < range.end
                            && after.as_ref().is_none_or(|after| entry > after)
                    };
                    for entry in told.into_iter().filter(inside).take(limit.into()) {
                        entries.entry(entry).or_default().insert(node);
                    }
                    if let Some(position) = committee.position(&node) {
                        answered.add(&committee, position);
                    }
                }
                Ok(Ok(_)) => faults.add(node, NodeFault::WrongAnswer),
                Ok(Err(fault)) => faults.add(node, fault),
                Err(_) => faults.add(node, NodeFault::Busy),
            }
            if committee.is_validity(answered.weight()) {
                let entries: Vec<_> = entries.into_iter().take(limit.into()).collect();
                let whole = entries.len() >= usize::from(limit);
                *after = entries.last().map(|(entry, _)| entry.clone());
                return Ok(Page { entries, whole });
            }
        }
        Err(self.asker.no_answer("a listing", faults))
    }
}

/// A listing on its way.
pub(super) struct Listing {
    pub(super) query: IndexQuery,
    /// Where the next page starts.
    pub(super) after: Option<Vec<u8>>,
    /// How many entries of whole pages each node has named, and how many of them did not prove.
    named: BTreeMap<NodeId, (usize, usize)>,
    /// Who is not asked any more.
    pub(super) dropped: BTreeSet<NodeId>,
    pub(super) faults: Faults,
    /// How many were asked for.
    pages: usize,
}

/// Some entries of an index, and who named each.
pub(super) struct Page {
    pub(super) entries: Vec<(Vec<u8>, BTreeSet<NodeId>)>,
    /// There may be more.
    pub(super) whole: bool,
}

impl Listing {
    pub(super) fn new(query: IndexQuery) -> Self {
        Self {
            query,
            after: None,
            named: BTreeMap::new(),
            dropped: BTreeSet::new(),
            faults: Faults::default(),
            pages: 0,
        }
    }

    /// Counts an entry for or against those who named it. Only whole pages lead on to others.
    pub(super) fn count(&mut self, named_by: &BTreeSet<NodeId>, is_proven: bool, whole: bool) {
        for node in named_by.iter().filter(|_| whole) {
            let (named, unproven) = self.named.entry(*node).or_default();
            *named += 1;
            *unproven += usize::from(!is_proven);
        }
    }

    /// Asks nobody any more who mostly names what does not prove.
    pub(super) fn drop_liars(&mut self) {
        for (node, (named, unproven)) in &self.named {
            let invents = *unproven >= INVENTED_MIN && *unproven * 2 > *named;
            if invents && self.dropped.insert(*node) {
                tracing::warn!(%node, "node invents entries and is not asked for this listing");
                self.faults.add(*node, NodeFault::Lied(LightError::OtherAnswer));
            }
        }
    }
}
