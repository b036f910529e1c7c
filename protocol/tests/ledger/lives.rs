//! The life of a blob as those see it who ask: its state, whose it is, what is there at the tip.

use std::collections::BTreeSet;

use floe_protocol::{
    hash::Hash,
    index::Epoch,
    ledger::{Blob, BlobState, Certified, Event, Operation, Timestamp, TransactionId},
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis},
};

use super::{
    N, certify, chain, commit, delete, ends, extend, header, id, indexed, register, registered,
    stored,
};

/// The state of the blob now, as who holds the store reads it.
fn now(chain: &Chain, i: u8) -> Option<BlobState> {
    let blob = chain.state.blob(&chain.store, &header(i).id()).unwrap();
    blob.map(|blob| blob.state(chain.state.summary().epoch))
}

#[test]
fn a_blob_is_registered_certified_expired_and_gone() {
    let mut chain = chain();
    let key = account_key(0);
    assert_eq!(now(&chain, 1), None);
    let (mine, _) = registered(&mut chain, &key, register(header(1), 2, true));
    assert_eq!(now(&chain, 1), Some(BlobState::Registered));
    let operation = certify(&chain, mine, &header(1));
    commit(&mut chain, &key, vec![operation]);
    assert_eq!(now(&chain, 1), Some(BlobState::Certified));
    chain.next_epoch();
    assert_eq!(now(&chain, 1), Some(BlobState::Certified), "its last epoch");
    chain.next_epoch();
    assert!(chain.state.sweep_pending(&chain.store).unwrap());
    assert_eq!(now(&chain, 1), Some(BlobState::Expired), "before anything was swept");
    chain.commit(&[]);
    assert_eq!(now(&chain, 1), None);
}

#[test]
fn a_blob_without_certified_registrations_is_registered_again() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 5, true);
    let (other, _) = registered(&mut chain, &account_key(1), register(header(1), 9, true));
    assert_eq!(now(&chain, 1), Some(BlobState::Certified));
    commit(&mut chain, &key, vec![delete(mine)]);
    assert_eq!(now(&chain, 1), Some(BlobState::Registered));
    commit(&mut chain, &account_key(1), vec![delete(other)]);
    assert_eq!(now(&chain, 1), None);
}

#[test]
fn a_state_is_judged_by_epoch_certificates_and_proofs() {
    let certified = Certified {
        number: 0,
        end: Epoch::new(5),
        first_epoch: Epoch::new(3),
        first_time: Timestamp::from_ms(1),
    };
    let registered = Blob {
        header: header(1),
        registrations: 1,
        permanent_end: None,
        certified: None,
        invalid: false,
    };
    let alive = Blob { certified: Some(certified), ..registered };
    let invalid = |blob| Blob { invalid: true, ..blob };
    let states = [BlobState::Certified, BlobState::Expired];
    for (epoch, state) in [(0, states[0]), (4, states[0]), (5, states[1]), (u64::MAX, states[1])] {
        let epoch = Epoch::new(epoch);
        assert_eq!(registered.state(epoch), BlobState::Registered, "{epoch}");
        assert_eq!(alive.state(epoch), state, "{epoch}");
        // Whatever else is true of it.
        assert_eq!(invalid(registered).state(epoch), BlobState::Invalid, "{epoch}");
        assert_eq!(invalid(alive).state(epoch), BlobState::Invalid, "{epoch}");
    }
}

#[test]
fn a_state_answers_for_its_own_tip() {
    let mut chain = chain();
    let key = account_key(0);
    let name = header(1).id();
    let at_genesis = chain.state.clone();
    let (mine, _) = registered(&mut chain, &key, register(header(1), 1, true));
    let uncertified = chain.state.clone();
    let operation = certify(&chain, mine, &header(1));
    commit(&mut chain, &key, vec![operation, extend(mine, 1, 2)]);
    let extended = chain.state.clone();
    for _ in 0..3 {
        chain.next_epoch();
    }
    let dead = chain.state.clone();
    chain.commit(&[]);
    let swept = chain.state.clone();

    let store = &chain.store;
    for state in [&at_genesis, &swept] {
        assert_eq!(state.registration(store, &mine).unwrap(), None);
        assert_eq!(state.blob(store, &name).unwrap(), None);
    }
    for (state, end, is_certified) in [(&uncertified, 1, false), (&extended, 3, true)] {
        let record = state.registration(store, &mine).unwrap().unwrap();
        assert_eq!((record.blob, record.owner), (name, id(&key)));
        assert_eq!((record.start, record.end), (Epoch::new(0), Epoch::new(end)));
        assert_eq!(record.certified.is_some(), is_certified);
        let blob = state.blob(store, &name).unwrap().unwrap();
        assert_eq!((blob.header, blob.registrations), (header(1), 1));
        assert_eq!(blob.certified.map(|c| c.end), is_certified.then_some(Epoch::new(end)));
    }
    // Dead, and still to be swept.
    let record = dead.registration(store, &mine).unwrap().unwrap();
    assert!(!record.is_alive(dead.summary().epoch));
    assert!(dead.blob(store, &name).unwrap().is_some());
    let absent = RegistrationId::new([9; 32]);
    assert_eq!(extended.registration(store, &absent).unwrap(), None);
    assert_eq!(extended.blob(store, &header(2).id()).unwrap(), None);
}

/// Two owners with two registrations of each of two blobs: who asks for an account's finds those
/// that it owns, by blob.
#[test]
fn the_index_of_owners_follows_registrations() {
    let mut chain = chain();
    let mut expected = BTreeSet::new();
    let first = [(0, 1), (1, 1), (0, 2), (1, 2)].map(|owned| (owned, 5));
    let longer = [(0, 1), (1, 2), (1, 1), (0, 2)].map(|owned| (owned, 6));
    for ((who, i), epochs) in first.into_iter().chain(longer) {
        let key = account_key(who);
        let (name, _) = registered(&mut chain, &key, register(header(i), epochs, true));
        expected.insert((who, i, name));
    }
    let check = |chain: &Chain, expected: &BTreeSet<(u8, u8, RegistrationId)>| {
        for who in 0..3 {
            let mut all = BTreeSet::new();
            for i in 1..4 {
                let own = expected.iter().filter(|(owner, blob, _)| (*owner, *blob) == (who, i));
                let own: Vec<_> = own.map(|(_, _, name)| *name).collect();
                let query = IndexQuery::OwnedOf(id(&account_key(who)), header(i).id());
                assert_eq!(indexed(chain, query), own, "account {who}, blob {i}");
                all.extend(own);
            }
            let found = indexed(chain, IndexQuery::Owned(id(&account_key(who))));
            assert_eq!(found.len(), all.len(), "account {who}");
            assert_eq!(BTreeSet::from_iter(found), all, "account {who}");
        }
    };
    check(&chain, &expected);

    let of = |expected: &BTreeSet<_>, who, i| {
        let own = |(owner, blob, _): &&(u8, u8, RegistrationId)| (*owner, *blob) == (who, i);
        *expected.iter().find(own).expect("registered twice")
    };
    let given = of(&expected, 0, 1);
    let to = id(&account_key(2));
    commit(
        &mut chain,
        &account_key(0),
        vec![Operation::TransferBlob { registration: given.2, to }],
    );
    expected.remove(&given);
    expected.insert((2, 1, given.2));
    check(&chain, &expected);

    let deleted = of(&expected, 1, 2);
    commit(&mut chain, &account_key(1), vec![delete(deleted.2)]);
    expected.remove(&deleted);
    check(&chain, &expected);

    // Uncertified as they all are, they lapse, and none is left.
    chain.next_epoch();
    chain.next_epoch();
    check(&chain, &expected);
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed).len(), expected.len());
    check(&chain, &BTreeSet::new());
}

#[test]
fn several_blobs_register_and_certify_in_one_transaction() {
    let mut chain = chain();
    let key = account_key(0);
    let blobs: Vec<u8> = (1..6).collect();
    let operations = blobs.iter().map(|i| register(header(*i), 3, true)).collect();
    let signed = chain.sign(&key, operations);
    let transaction = signed.id(&chain.id());
    let executed = chain.commit(&[signed]);
    let names = executed.events.iter().filter_map(|event| match event {
        Event::BlobRegistered { registration, blob, .. } => Some((*registration, *blob)),
        _ => None,
    });
    let expected =
        |(at, i): (u32, &u8)| (transaction.registration(&chain.id(), at), header(*i).id());
    let names: Vec<_> = names.collect();
    assert_eq!(names, (0..).zip(&blobs).map(expected).collect::<Vec<_>>());

    let pairs = || names.iter().map(|(name, _)| *name).zip(&blobs);
    let mut operations: Vec<_> =
        pairs().map(|(name, i)| certify(&chain, name, &header(*i))).collect();
    // All or none: one that nobody signed for spoils the others.
    let last = operations.pop().unwrap();
    let mut spoilt = operations.clone();
    spoilt.push(certify(&chain, names[4].0, &header(9)));
    super::refused(&chain, &chain.sign(&key, spoilt));
    operations.push(last);
    commit(&mut chain, &key, operations);
    for (number, i) in (0..).zip(&blobs) {
        assert_eq!(now(&chain, *i), Some(BlobState::Certified), "blob {i}");
        let blob = super::blob(&chain, &header(*i)).unwrap();
        assert_eq!(blob.certified.map(|certified| certified.number), Some(number));
    }
}

#[test]
fn a_registration_is_of_one_operation_transaction_and_chain() {
    let (one, two) = (TransactionId::new(Hash::new([1; 32])), TransactionId::new(Hash::ZERO));
    let (here, there) = (genesis(4, N).chain_id(), genesis(5, N).chain_id());
    let names = [
        one.registration(&here, 0),
        one.registration(&here, 1),
        one.registration(&here, u32::MAX),
        two.registration(&here, 0),
        one.registration(&there, 0),
    ];
    assert_eq!(BTreeSet::from(names).len(), names.len());
    assert_eq!(names[0], one.registration(&here, 0));
}
