//! What a block builder takes from a mempool, one by one.

use std::{
    collections::{BTreeSet, btree_map},
    sync::Arc,
};

use super::order::Order;
use crate::ledger::{AccountId, VerifiedTransaction};

/// A walk over the ready transactions in block order. Lazy: what is not taken costs nothing.
///
/// Whoever leaves one out (it fails against the state, or is too long for what is left of the
/// block) calls [`Candidates::skip_account`]: what follows it would fail, too.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    pub(super) ready: btree_map::Iter<'a, Order, Arc<VerifiedTransaction>>,
    pub(super) skipped: BTreeSet<AccountId>,
}

impl Candidates<'_> {
    /// Offers no further transaction of this account.
    pub fn skip_account(&mut self, account: AccountId) {
        self.skipped.insert(account);
    }
}

impl<'a> Iterator for Candidates<'a> {
    type Item = &'a Arc<VerifiedTransaction>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { ready, skipped } = self;
        let offered = |t: &&Arc<VerifiedTransaction>| !skipped.contains(&t.transaction().sender);
        ready.map(|(_, transaction)| transaction).find(offered)
    }
}
