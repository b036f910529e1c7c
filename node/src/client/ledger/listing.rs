//! Listings: what belongs to an account, who runs nodes, what happened, and whole blocks.
//!
//! The index that nodes keep beside the state is unproven. So members that weigh more than all
//! faulty ones together are asked, which makes sure that nothing is left out, and every entry is
//! proven by the state or by its block, which makes sure that nothing is invented. A block is
//! proven by its certificate; one of an epoch whose committee is forgotten, by members that weigh
//! more than all faulty ones together and name the same header.
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
    index::Height,
    keys::NodeId,
    ledger::{
        AccountId, Block, BlockHash, Header, IndexEntry, Key, Node, Operation, Record,
        Registration, SignedTransaction, Stake, TransactionId,
    },
    light::{CertifiedHeader, Finality, LightError, VerifiedHeader},
    message::{CertifiedBlock, IndexQuery, LedgerRequest, LedgerResponse},
    registration::RegistrationId,
};
use tokio::time::timeout;

use super::{
    LedgerClient, LedgerError, NodeFault, Proven, Purpose,
    asker::{Faults, HEDGE},
};
use crate::client::blocking;

/// Entries asked for at a time.
const PAGE: u16 = 256;
/// The fewest entries of the history asked for at a time: one lie in them is worth little.
const HISTORY_PAGE_MIN: u16 = 16;
/// Pages of one listing: more entries than any account has.
const PAGES_MAX: usize = 4_096;
/// How long a listing goes on.
const LISTING_MAX: Duration = Duration::from_secs(120);
/// So many unproven entries, and most of what a node named, are no accident: registrations may
/// end between index and proof, but few do while there are ever more entries.
const INVENTED_MIN: usize = 8;
/// Bytes of a key or id at the end of an entry.
const ID_BYTES: usize = 32;
/// Bytes of height and position at the end of an entry of the history.
const PLACE_BYTES: usize = 12;

/// A committed transaction that concerns an account.
#[derive(Clone, Debug)]
pub struct HistoryItem {
    /// The header of its block.
    pub header: Header,
    /// Its position among the block's transactions.
    pub position: u32,
    /// Its id.
    pub id: TransactionId,
    /// What was done.
    pub transaction: SignedTransaction,
}

/// A block that a quorum has committed, or of which an honest member at least says so.
#[derive(Clone, Debug)]
pub struct VerifiedBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// The block.
    pub block: Block,
    /// Shards of the members in its certificate; none if it is not of the running epoch.
    pub signed_shards: Option<u16>,
}

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

    /// The transactions that concern an account, latest first: at most `max`, those before the
    /// place `before` (height and position) if there is one.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn history(
        &self,
        account: AccountId,
        before: Option<(Height, u32)>,
        max: usize,
    ) -> Result<Vec<HistoryItem>, LedgerError> {
        let (newest, _) = self.fresh(Purpose::Read).await?;
        let Some(newest) = newest else { return Ok(Vec::new()) };
        let mut listing = Listing::new(IndexQuery::History(account));
        // What is above the newest header known can't be proven, and is not asked for.
        let known = place_entry(&listing.query, newest.header().height.next(), 0);
        let before = before.map(|(height, position)| place_entry(&listing.query, height, position));
        listing.after = before.max(Some(known));
        let history = self.history_of(&account, &mut listing, max);
        match timeout(LISTING_MAX, history).await {
            Ok(items) => items,
            Err(_) => Err(self.asker.no_answer("a history", &listing.faults)),
        }
    }

    async fn history_of(
        &self,
        account: &AccountId,
        listing: &mut Listing,
        max: usize,
    ) -> Result<Vec<HistoryItem>, LedgerError> {
        let mut items = Vec::new();
        let mut block: Option<VerifiedBlock> = None;
        while items.len() < max {
            let limit = u16::try_from(max - items.len()).unwrap_or(PAGE);
            let page = self.page(listing, limit.clamp(HISTORY_PAGE_MIN, PAGE)).await?;
            for (entry, named_by) in page.entries {
                if items.len() == max {
                    break;
                }
                // Each costs a block: who has lied is not worth one more.
                if named_by.is_subset(&listing.dropped) {
                    continue;
                }
                let item = match place(&entry) {
                    Some((height, position))
                        if entry == place_entry(&listing.query, height, position) =>
                    {
                        if block.as_ref().is_none_or(|block| block.block.header.height != height) {
                            block = self.block(height).await?;
                        }
                        block.as_ref().and_then(|found| self.item(account, found, position))
                    }
                    _ => None,
                };
                listing.count(&named_by, item.is_some(), page.whole);
                listing.drop_liars();
                items.extend(item);
            }
            if !page.whole {
                break;
            }
        }
        Ok(items)
    }

    /// The transaction at a position of a block, if it concerns the account: entries are unproven.
    fn item(
        &self,
        account: &AccountId,
        found: &VerifiedBlock,
        position: u32,
    ) -> Option<HistoryItem> {
        let index = usize::try_from(position).ok()?;
        let transaction = found.block.body.transactions.get(index)?;
        concerns(transaction, account).then(|| HistoryItem {
            header: found.block.header,
            position,
            id: transaction.id(&self.chain),
            transaction: transaction.clone(),
        })
    }

    /// A committed transaction; none if the members asked know none.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn transaction(&self, id: TransactionId) -> Result<Option<HistoryItem>, LedgerError> {
        let Some((header, transaction)) = self.inclusion(id).await? else { return Ok(None) };
        let height = header.header().height;
        let block = self.block(height).await?;
        let ids = block.iter().flat_map(|block| &block.block.body.transactions);
        let position = ids.take_while(|other| other.id(&self.chain) != id).count();
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        Ok(Some(HistoryItem { header: *header.header(), position, id, transaction }))
    }

    /// A committed block; none above the newest height.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn block(&self, height: Height) -> Result<Option<VerifiedBlock>, LedgerError> {
        let known = |client: &Self| {
            client.known_header().is_some_and(|header| header.header().height >= height)
        };
        if height.get() == 0 {
            return Ok(None);
        }
        if !known(self) {
            self.fresh(Purpose::Read).await?;
            if !known(self) {
                return Ok(None);
            }
        }
        // Certificates of epochs before the first committee known can't be judged.
        let judged = self.asker.question("a block", |node| self.judged_block(node, height)).await?;
        match judged {
            Ok(block) => Ok(Some(block)),
            Err(()) => self.witnessed_block(height).await.map(Some),
        }
    }

    async fn told_block(
        &self,
        node: NodeId,
        height: Height,
    ) -> Result<(Block, CertifiedBlock), NodeFault> {
        let answer = self.asker.ask(node, LedgerRequest::Block { height }).await?;
        let LedgerResponse::Block(told) = answer else { return Err(NodeFault::WrongAnswer) };
        let told = told.ok_or(NodeFault::Behind)?;
        let chain = self.chain;
        let checked =
            blocking(move || check_body(&told, height, &chain).map(|block| (block, told)));
        checked.await.map_err(|error| self.asker.caught(node, error))
    }

    /// A block with its certificate verified; the inner error says that nobody can.
    async fn judged_block(
        &self,
        node: NodeId,
        height: Height,
    ) -> Result<Result<VerifiedBlock, ()>, NodeFault> {
        let (block, told) = self.told_block(node, height).await?;
        let certified = CertifiedHeader { header: block.header, certificate: told.certificate };
        let header = match self.asker.accept(node, certified).await {
            Ok(header) => header,
            Err(NodeFault::Behind) => return Ok(Err(())),
            Err(fault) => return Err(fault),
        };
        let signed_shards = self.signed_shards(&header);
        Ok(Ok(VerifiedBlock { hash: header.hash(), block, signed_shards }))
    }

    /// Shards of the members that signed for a header of the running epoch.
    fn signed_shards(&self, header: &VerifiedHeader) -> Option<u16> {
        let committee = self.committee();
        if committee.epoch() != header.header().epoch {
            return None;
        }
        let Finality::Commit(certificate) = &header.told().finality else { return None };
        let mut weight = QuorumTracker::new(&committee);
        for signature in &certificate.signatures {
            weight.add(&committee, signature.position.into());
        }
        Some(weight.weight())
    }

    /// A block of an epoch whose committee is forgotten: the header that members with more than
    /// `f` shards name alike.
    async fn witnessed_block(&self, height: Height) -> Result<VerifiedBlock, LedgerError> {
        let committee = self.committee();
        let mut witnesses: BTreeMap<BlockHash, QuorumTracker> = BTreeMap::new();
        let mut faults = Faults::default();
        for node in self.asker.candidates() {
            let (block, _) = match self.told_block(node, height).await {
                Ok(told) => told,
                Err(fault) => {
                    faults.add(node, fault);
                    continue;
                }
            };
            let hash = block.header.hash();
            let weight = witnesses.entry(hash).or_insert_with(|| QuorumTracker::new(&committee));
            if let Some(position) = committee.position(&node) {
                weight.add(&committee, position);
            }
            if committee.is_validity(weight.weight()) {
                return Ok(VerifiedBlock { hash, block, signed_shards: None });
            }
        }
        Err(self.asker.no_answer("an old block", &faults))
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
    async fn page(&self, listing: &mut Listing, limit: u16) -> Result<Page, LedgerError> {
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
struct Listing {
    query: IndexQuery,
    /// Where the next page starts.
    after: Option<Vec<u8>>,
    /// How many entries of whole pages each node has named, and how many of them did not prove.
    named: BTreeMap<NodeId, (usize, usize)>,
    /// Who is not asked any more.
    dropped: BTreeSet<NodeId>,
    faults: Faults,
    /// How many were asked for.
    pages: usize,
}

/// Some entries of an index, and who named each.
struct Page {
    entries: Vec<(Vec<u8>, BTreeSet<NodeId>)>,
    /// There may be more.
    whole: bool,
}

impl Listing {
    fn new(query: IndexQuery) -> Self {
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
    fn count(&mut self, named_by: &BTreeSet<NodeId>, is_proven: bool, whole: bool) {
        for node in named_by.iter().filter(|_| whole) {
            let (named, unproven) = self.named.entry(*node).or_default();
            *named += 1;
            *unproven += usize::from(!is_proven);
        }
    }

    /// Asks nobody any more who mostly names what does not prove.
    fn drop_liars(&mut self) {
        for (node, (named, unproven)) in &self.named {
            let invents = *unproven >= INVENTED_MIN && *unproven * 2 > *named;
            if invents && self.dropped.insert(*node) {
                tracing::warn!(%node, "node invents entries and is not asked for this listing");
                self.faults.add(*node, NodeFault::Lied(LightError::OtherAnswer));
            }
        }
    }
}

/// Whether a transaction belongs into an account's history.
fn concerns(signed: &SignedTransaction, account: &AccountId) -> bool {
    let transaction = &signed.transaction;
    transaction.sender == *account
        || transaction.operations.iter().any(|operation| match operation {
            Operation::Transfer { to, .. } | Operation::TransferBlob { to, .. } => to == account,
            _ => false,
        })
}

/// Checks that a block is of the height asked for and that its header binds its body.
fn check_body(
    told: &CertifiedBlock,
    height: Height,
    chain: &floe_protocol::keys::ChainId,
) -> Result<Block, LightError> {
    let block = Block::from_bytes(&told.block).map_err(|_| LightError::OtherAnswer)?;
    let header = &block.header;
    let bound = header.height == height
        && header.transactions_root == block.body.transactions_root(chain)
        && header.commit_record == block.body.commit_record.hash();
    if bound { Ok(block) } else { Err(LightError::OtherAnswer) }
}

/// Height and position of an entry of the history, where they are written backwards.
fn place(entry: &[u8]) -> Option<(Height, u32)> {
    let place = entry.last_chunk::<PLACE_BYTES>()?;
    let (height, position) = place.split_first_chunk::<8>()?;
    let position = u32::from_be_bytes(position.try_into().ok()?);
    Some((Height::new(u64::MAX - u64::from_be_bytes(*height)), u32::MAX - position))
}

fn place_entry(query: &IndexQuery, height: Height, position: u32) -> Vec<u8> {
    let height = (u64::MAX - height.get()).to_be_bytes();
    let position = (u32::MAX - position).to_be_bytes();
    [query.range().start.as_slice(), &height, &position].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use floe_protocol::{keys::PublicKey, ledger::IndexEntry};

    #[test]
    fn places_are_read_as_the_index_writes_them() {
        let account = AccountId::new(PublicKey::new([9; 32]));
        let entry = IndexEntry::History(account, Height::new(77), 5).to_bytes();
        assert_eq!(place(&entry), Some((Height::new(77), 5)));
        assert_eq!(place_entry(&IndexQuery::History(account), Height::new(77), 5), entry);
        assert_eq!(place(&entry[..3]), None);
    }
}
