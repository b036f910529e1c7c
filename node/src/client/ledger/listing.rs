//! Listings: what belongs to an account, who runs nodes, what happened, and whole blocks.
//!
//! The index that nodes keep beside the state is unproven. So members that weigh more than all
//! faulty ones together are asked, which makes sure that nothing is left out, and every entry is
//! proven by the state or by its block, which makes sure that nothing is invented. A block is
//! proven by its certificate; one of an epoch whose committee is forgotten, by members that weigh
//! more than all faulty ones together and name the same header.

use std::collections::{BTreeMap, BTreeSet};

use floe_protocol::{
    blob::BlobId,
    committee::QuorumTracker,
    index::Height,
    keys::NodeId,
    ledger::{
        AccountId, Block, BlockHash, Header, Key, Node, Operation, Record, Registration,
        SignedTransaction, Stake, TransactionId,
    },
    light::{LightError, VerifiedHeader},
    message::{CertifiedBlock, IndexQuery, LedgerRequest, LedgerResponse},
    registration::RegistrationId,
};

use super::{
    LedgerClient, LedgerError, NodeFault, Proven, Purpose,
    asker::{Faults, HEDGE},
};
use crate::client::blocking;

/// Entries asked for at a time.
const PAGE: u16 = 256;
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
        let listed = self.listed(query, RegistrationId::new, Key::Registration).await?;
        let own = |(id, record): (RegistrationId, Record)| match record {
            Record::Registration(record) if record.owner == account => Some((id, *record)),
            _ => None,
        };
        Ok(listed.filtered(own))
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
        let listed = self.listed(query, RegistrationId::new, Key::Registration).await?;
        let own = |(id, record): (RegistrationId, Record)| match record {
            Record::Registration(record) if record.owner == account && record.blob == blob => {
                Some((id, *record))
            }
            _ => None,
        };
        Ok(listed.filtered(own))
    }

    /// An account's stakes.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn stakes(
        &self,
        account: AccountId,
    ) -> Result<Proven<Vec<(NodeId, Stake)>>, LedgerError> {
        let key = |node| Key::Stake(account, node);
        let listed = self.listed(IndexQuery::Staked(account), NodeId::new, key).await?;
        Ok(listed.filtered(|(node, record)| match record {
            Record::Stake(stake) => Some((node, stake)),
            _ => None,
        }))
    }

    /// All nodes of the registry.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn nodes(&self) -> Result<Proven<Vec<(NodeId, Node)>>, LedgerError> {
        let listed = self.listed(IndexQuery::Nodes, NodeId::new, Key::Node).await?;
        Ok(listed.filtered(|(node, record)| match record {
            Record::Node(record) => Some((node, *record)),
            _ => None,
        }))
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
        let query = IndexQuery::History(account);
        let mut after = before.map(|(height, position)| place_entry(&query, height, position));
        let mut items = Vec::new();
        let mut block: Option<VerifiedBlock> = None;
        while items.len() < max {
            let limit = u16::try_from(max - items.len()).unwrap_or(PAGE).min(PAGE);
            let page = self.page(query, after.as_deref(), limit).await?;
            let whole = page.len() >= usize::from(limit);
            for (height, position) in page.iter().filter_map(|entry| place(entry)) {
                if block.as_ref().is_none_or(|block| block.block.header.height != height) {
                    block = self.block(height).await?;
                }
                let Some(found) = &block else { continue };
                items.extend(self.item(&account, found, position));
            }
            after = page.into_iter().next_back();
            if !whole || after.is_none() {
                break;
            }
        }
        items.truncate(max);
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
        let certified = floe_protocol::light::CertifiedHeader {
            header: block.header,
            certificate: told.certificate,
        };
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
        let mut weight = QuorumTracker::new(&committee);
        for signature in &header.certified().certificate.signatures {
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

    /// All entries of an index, each with its proven record; those without one are left out.
    async fn listed<T: Copy>(
        &self,
        query: IndexQuery,
        id: impl Fn([u8; ID_BYTES]) -> T,
        key: impl Fn(T) -> Key,
    ) -> Result<Proven<Vec<(T, Record)>>, LedgerError> {
        let mut ids = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.page(query, after.as_deref(), PAGE).await?;
            let whole = page.len() >= usize::from(PAGE);
            let own = page.iter().filter_map(|entry| entry.last_chunk::<ID_BYTES>());
            ids.extend(own.map(|bytes| id(*bytes)));
            after = page.into_iter().next_back();
            if !whole || after.is_none() {
                break;
            }
        }
        let keys: Vec<_> = ids.iter().map(|id| key(*id)).collect();
        let Proven { value, header, fitness } = self.facts(&keys, Purpose::Decide).await?;
        let listed = ids.into_iter().zip(value);
        let value = listed.filter_map(|(id, record)| Some((id, record?))).collect();
        Ok(Proven { value, header, fitness })
    }

    /// The next entries after one, from members that weigh more than all faulty ones together: as
    /// an honest one is among them, the first `limit` of all they say lack nothing.
    async fn page(
        &self,
        query: IndexQuery,
        after: Option<&[u8]>,
        limit: u16,
    ) -> Result<Vec<Vec<u8>>, LedgerError> {
        let committee = self.committee();
        let range = query.range();
        let mut answered = QuorumTracker::new(&committee);
        let mut entries = BTreeSet::new();
        let mut faults = Faults::default();
        for node in self.asker.candidates() {
            let request = LedgerRequest::Index { query, after: after.map(<[u8]>::to_vec), limit };
            let answer = tokio::time::timeout(4 * HEDGE, self.asker.ask(node, request)).await;
            match answer {
                Ok(Ok(LedgerResponse::Index { entries: told })) => {
                    let inside = |entry: &Vec<u8>| {
                        *entry >= range.start
                            && *entry < range.end
                            && after.is_none_or(|after| entry.as_slice() > after)
                    };
                    entries.extend(told.into_iter().filter(inside).take(limit.into()));
                    if let Some(position) = committee.position(&node) {
                        answered.add(&committee, position);
                    }
                }
                Ok(Ok(_)) => faults.add(node, NodeFault::WrongAnswer),
                Ok(Err(fault)) => faults.add(node, fault),
                Err(_) => faults.add(node, NodeFault::Busy),
            }
            if committee.is_validity(answered.weight()) {
                return Ok(entries.into_iter().take(limit.into()).collect());
            }
        }
        Err(self.asker.no_answer("a listing", &faults))
    }
}

impl<T> Proven<Vec<T>> {
    fn filtered<U>(self, keep: impl FnMut(T) -> Option<U>) -> Proven<Vec<U>> {
        let Self { value, header, fitness } = self;
        Proven { value: value.into_iter().filter_map(keep).collect(), header, fitness }
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
