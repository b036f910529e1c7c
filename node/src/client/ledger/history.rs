//! What happened: the transactions that concern an account, and single ones.
//!
//! The index says where they are; each is proven by its block, so that nothing is invented.
//! Invariant: a listing of the history ends as any other does (`listing.rs`).

use floe_protocol::{
    index::Height,
    ledger::{AccountId, Header, Operation, SignedTransaction, TransactionId},
    message::IndexQuery,
};
use tokio::time::timeout;

use super::{
    LedgerClient, LedgerError, Purpose, VerifiedBlock,
    listing::{LISTING_MAX, Listing, PAGE},
};

/// The fewest entries of the history asked for at a time: one lie in them is worth little.
const HISTORY_PAGE_MIN: u16 = 16;
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

impl LedgerClient {
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
