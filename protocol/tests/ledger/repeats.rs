//! What is paid once however often it is asked for: registrations that serve already are not
//! bought again, and an extension counts once.

use std::{cell::Cell, sync::Arc};

use floe_protocol::{
    hash::Hash,
    index::Epoch,
    keys::KeyPair,
    ledger::{
        Event, Operation, OperationError, Outcome, ReadError, SignedTransaction, StateReader,
        Transaction, VersionedValue,
    },
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key},
};

use super::{
    FEE, STORAGE, WRITE, certify, chain, commit, delete, ends, extend, fails, header, id, indexed,
    propose, register, registered, registration, spent, stored,
};

fn already(registration: RegistrationId) -> OperationError {
    OperationError::AlreadyRegistered { registration }
}

/// Why `key` can't register the blob for `epochs`, or `None` if it can.
fn refusal(chain: &Chain, key: &KeyPair, epochs: u32, deletable: bool) -> Option<OperationError> {
    let signed = chain.sign(key, vec![register(header(1), epochs, deletable)]);
    let (_, _, refused) = propose(chain, &[], std::slice::from_ref(&signed));
    let error = refused.into_iter().next()?;
    assert_eq!(super::refused(chain, &signed), error);
    Some(error)
}

/// The transaction that comes after `before` of the same sender, with the same operations.
fn repeated(chain: &Chain, key: &KeyPair, before: &SignedTransaction) -> SignedTransaction {
    let transaction = before.transaction.clone();
    Transaction { nonce: transaction.nonce + 1, ..transaction }.sign(&chain.id(), key)
}

fn give(chain: &mut Chain, from: &KeyPair, to: &KeyPair, registration: RegistrationId) {
    commit(chain, from, vec![Operation::TransferBlob { registration, to: id(to) }]);
}

#[test]
fn a_registration_that_is_repeated_in_its_block_pays_once() {
    let mut chain = chain();
    let key = account_key(0);
    let operation = register(header(1), 3, true);
    let first = chain.sign(&key, vec![operation.clone()]);
    let second = repeated(&chain, &key, &first);
    let before = chain.balance(&id(&key));
    let (block, _, refused) = propose(&chain, &[], &[first.clone(), second.clone()]);
    let name = first.id(&chain.id()).registration(&chain.id(), 0);
    assert_eq!(refused, [already(name)]);
    // Within one transaction it is all or nothing.
    let twice = vec![operation.clone(), operation];
    let signed = chain.sign(&key, twice);
    let of_this = signed.id(&chain.id()).registration(&chain.id(), 0);
    assert_eq!(super::refused(&chain, &signed), already(of_this));
    chain.apply(&block).unwrap();
    assert_eq!(spent(before, chain.balance(&id(&key))), WRITE + 3 * STORAGE + FEE);
    assert_eq!(indexed(&chain, IndexQuery::Owned(id(&key))), [name]);
    // Nor in the next block, under the same nonce as before.
    assert_eq!(super::refused(&chain, &second), already(name));
}

#[test]
fn what_waits_for_its_certificate_is_not_bought_again_until_it_lapses() {
    let mut chain = chain();
    let key = account_key(0);
    let (name, paid) = registered(&mut chain, &key, register(header(1), 3, true));
    assert_eq!(refusal(&chain, &key, 3, true), Some(already(name)));
    chain.next_epoch();
    // It ends one epoch earlier than a new one: that is what being cut off cost.
    assert_eq!(refusal(&chain, &key, 3, true), Some(already(name)));
    assert_eq!(refusal(&chain, &key, 4, true), None);
    chain.next_epoch();
    // Lapsed, swept or not.
    assert!(registration(&chain, name).is_some());
    assert_eq!(refusal(&chain, &key, 3, true), None);
    assert_eq!(ends(&chain.commit(&[])).len(), 1);
    let (again, paid_again) = registered(&mut chain, &key, register(header(1), 3, true));
    assert_ne!(again, name);
    assert_eq!(paid_again, paid);
}

#[test]
fn what_is_certified_is_not_bought_again_until_it_ends_too_early() {
    let mut chain = chain();
    let key = account_key(0);
    let name = stored(&mut chain, &key, header(1), 3, true);
    for epochs in 1..=3 {
        assert_eq!(refusal(&chain, &key, epochs, true), Some(already(name)), "{epochs}");
    }
    assert_eq!(refusal(&chain, &key, 4, true), None);
    chain.next_epoch();
    assert_eq!(refusal(&chain, &key, 2, true), Some(already(name)));
    assert_eq!(refusal(&chain, &key, 3, true), None, "certified, it does not reach that far");
    // Extended, it does.
    commit(&mut chain, &key, vec![extend(name, 3, 1)]);
    assert_eq!(refusal(&chain, &key, 3, true), Some(already(name)));
    for _ in 0..3 {
        chain.next_epoch();
    }
    assert!(registration(&chain, name).is_some(), "dead, and still to be swept");
    assert_eq!(refusal(&chain, &key, 1, true), None);
}

#[test]
fn what_was_deleted_can_be_registered_again() {
    let mut chain = chain();
    let key = account_key(0);
    for certified in [false, true] {
        let (name, _) = registered(&mut chain, &key, register(header(1), 3, true));
        if certified {
            let operation = certify(&chain, name, &header(1));
            commit(&mut chain, &key, vec![operation]);
        }
        // In one transaction, in this order only.
        let again = register(header(1), 3, true);
        let early = chain.sign(&key, vec![again.clone(), delete(name)]);
        assert_eq!(super::refused(&chain, &early), already(name));
        let executed = commit(&mut chain, &key, vec![delete(name), again]);
        assert_eq!(ends(&executed).len(), 1);
        let [new] = indexed(&chain, IndexQuery::Owned(id(&key)))[..] else {
            unreachable!("the new one only")
        };
        assert_ne!(new, name);
        commit(&mut chain, &key, vec![delete(new)]);
        assert_eq!(refusal(&chain, &key, 3, true), None);
    }
}

#[test]
fn a_permanent_registration_serves_as_a_deletable_one_but_not_the_other_way_round() {
    for certified in [false, true] {
        let mut chain = chain();
        let key = account_key(0);
        let buy = |chain: &mut Chain, deletable| {
            let (name, _) = registered(chain, &key, register(header(1), 3, deletable));
            if certified {
                let operation = certify(chain, name, &header(1));
                commit(chain, &key, vec![operation]);
            }
            name
        };
        let deletable = buy(&mut chain, true);
        assert_eq!(refusal(&chain, &key, 3, true), Some(already(deletable)));
        let permanent = buy(&mut chain, false);
        assert_eq!(refusal(&chain, &key, 3, false), Some(already(permanent)));
        commit(&mut chain, &key, vec![delete(deletable)]);
        assert_eq!(refusal(&chain, &key, 3, true), Some(already(permanent)));
        // A longer one is another thing, and is paid in full.
        let (_, paid) = registered(&mut chain, &key, register(header(1), 4, true));
        assert_eq!(paid.frost(), WRITE + 4 * STORAGE);
        assert_eq!(refusal(&chain, &key, 4, false), None);
    }
}

#[test]
fn somebody_elses_registration_is_no_hindrance_until_it_is_given_away() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let theirs = stored(&mut chain, &other, header(1), 5, false);
    assert_eq!(refusal(&chain, &other, 5, true), Some(already(theirs)));
    assert_eq!(refusal(&chain, &key, 5, true), None);
    // Given and asked for in one block: the gift counts at once.
    let gift = Operation::TransferBlob { registration: theirs, to: id(&key) };
    let gift = chain.sign(&other, vec![gift]);
    let asked = chain.sign(&key, vec![register(header(1), 5, true)]);
    let (block, _, refused) = propose(&chain, &[], &[gift, asked.clone()]);
    assert_eq!(refused, [already(theirs)]);
    chain.apply(&block).unwrap();
    assert_eq!(super::refused(&chain, &asked), already(theirs));
    // Who gave it away has none any more.
    assert_eq!(refusal(&chain, &other, 5, true), None);
    let (again, _) = registered(&mut chain, &other, register(header(1), 5, true));
    assert_eq!(refusal(&chain, &other, 5, true), Some(already(again)));
}

/// A store that counts what is read of its index.
struct Counting<'a> {
    reader: &'a dyn StateReader,
    entries: Cell<usize>,
}

impl StateReader for Counting<'_> {
    fn node(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        self.reader.node(key)
    }

    fn value(&self, key: &Hash, version: u64) -> Result<Option<VersionedValue>, ReadError> {
        self.reader.value(key, version)
    }

    fn index(
        &self,
        range: std::ops::Range<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadError> {
        let entries = self.reader.index(range, limit)?;
        self.entries.set(self.entries.get() + entries.len());
        Ok(entries)
    }
}

/// What proposing one registration reads of the index, whether it is refused or not.
fn entries_read(chain: &Chain, key: &KeyPair) -> usize {
    let signed = chain.sign(key, vec![register(header(1), 5, true)]);
    let store = Counting { reader: &chain.store, entries: Cell::new(0) };
    let mut next = Some(Arc::new(signed.verify(&chain.id()).unwrap()));
    let mut candidates = |_: Outcome<'_>| next.take();
    chain.state.propose(&store, chain.proposal(), (&[], &|_| false), &mut candidates).unwrap();
    store.entries.get()
}

#[test]
fn an_owner_may_be_given_many_registrations_and_pays_for_few_looks() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let mut read = Vec::new();
    for gift in 0..24 {
        let (name, _) = registered(&mut chain, &other, register(header(1), 1, true));
        give(&mut chain, &other, &key, name);
        read.push(entries_read(&chain, &key));
        assert_eq!(refusal(&chain, &key, 5, true), None, "gift {gift}");
    }
    assert!(read[8..].iter().all(|entries| *entries == read[7]), "{read:?}");
    // Its own is found if it is among the first, and else bought as before this rule.
    for _ in 0..4 {
        let before = chain.balance(&id(&key));
        let own = indexed(&chain, IndexQuery::OwnedOf(id(&key), header(1).id()));
        let serves = |name: &&RegistrationId| {
            registration(&chain, **name).unwrap().serves(Epoch::new(0), 5, true)
        };
        let found = own.iter().take(8).find(serves);
        assert_eq!(refusal(&chain, &key, 5, true), found.copied().map(already));
        if found.is_none() {
            registered(&mut chain, &key, register(header(1), 5, true));
            assert_eq!(spent(before, chain.balance(&id(&key))), WRITE + 5 * STORAGE + FEE);
        }
    }
    // Who looks itself and deletes what is short is served as ever.
    for name in indexed(&chain, IndexQuery::OwnedOf(id(&key), header(1).id())) {
        if registration(&chain, name).unwrap().end == Epoch::new(1) {
            commit(&mut chain, &key, vec![delete(name)]);
        }
    }
    assert!(matches!(
        refusal(&chain, &key, 5, true),
        Some(OperationError::AlreadyRegistered { .. })
    ));
}

#[test]
fn an_extension_that_is_repeated_counts_once() {
    let mut chain = chain();
    let key = account_key(0);
    let name = stored(&mut chain, &key, header(1), 5, true);
    let other_end = |end| OperationError::OtherEnd { end: Epoch::new(end) };
    for end in [0, 4, 6, u64::MAX] {
        assert_eq!(fails(&chain, &key, extend(name, end, 2)), other_end(5));
    }
    let first = chain.sign(&key, vec![extend(name, 5, 2)]);
    let second = repeated(&chain, &key, &first);
    let before = chain.balance(&id(&key));
    let (block, executed, refused) = propose(&chain, &[], &[first, second.clone()]);
    assert_eq!(refused, [other_end(7)]);
    let extended = executed.events.iter().filter(|e| matches!(e, Event::BlobExtended { .. }));
    assert_eq!(extended.count(), 1);
    chain.apply(&block).unwrap();
    assert_eq!(spent(before, chain.balance(&id(&key))), 2 * STORAGE + FEE);
    assert_eq!(registration(&chain, name).unwrap().end, Epoch::new(7));
    assert_eq!(super::refused(&chain, &second), other_end(7));
    let twice = chain.sign(&key, vec![extend(name, 7, 2); 2]);
    assert_eq!(super::refused(&chain, &twice), other_end(9));
    // One after the other, each counts.
    commit(&mut chain, &key, vec![extend(name, 7, 2), extend(name, 9, 1)]);
    assert_eq!(registration(&chain, name).unwrap().end, Epoch::new(10));
    assert_eq!(spent(before, chain.balance(&id(&key))), 5 * STORAGE + 3 * FEE);
}
