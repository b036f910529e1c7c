//! Registrations of blobs: what they cost, who may do what with them, how they end.

use floe_protocol::{
    blob::BlobHeader,
    certificate::{Certificate, CertificateError, ConfirmedFact},
    index::Epoch,
    keys::KeyPair,
    ledger::{
        Blob, Certified, EndReason, Event, Key, NodeSettings, Operation, OperationError, Prices,
        Record, SWEEP_MAX, billed_units,
    },
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis},
};
use proptest::prelude::*;

use super::{
    FEE, N, STORAGE, WRITE, blob, bucket, certificate, certificate_of, certify, chain, commit,
    delete, ends, extend, extension, fails, frost, header, id, indexed, large_header, register,
    registered, registration, spent, stored, to_deadline, transfer, vote,
};

fn blob_ends(executed: &floe_protocol::ledger::Executed) -> usize {
    executed.events.iter().filter(|event| matches!(event, Event::BlobEnded { .. })).count()
}

#[test]
fn a_registration_pays_for_each_epoch_that_it_covers() {
    let mut chain = chain();
    let key = account_key(0);
    chain.next_epoch();
    let before = (bucket(&chain, 1), chain.balance(&id(&key)));
    let units = billed_units(&large_header(1)).unwrap();
    assert!(units > 1);
    let (name, paid) = registered(&mut chain, &key, register(large_header(1), 3, false));
    let price = u128::from(units) * (WRITE + 3 * STORAGE);
    assert_eq!(paid, frost(price));
    assert_eq!(spent(before.1, chain.balance(&id(&key))), price + FEE);
    let storage = u128::from(units) * STORAGE;
    assert_eq!(bucket(&chain, 0), (0, 0));
    let first = before.0.1 + u128::from(units) * WRITE + storage + FEE;
    assert_eq!(bucket(&chain, 1), (units, first));
    assert_eq!(bucket(&chain, 2), (units, storage));
    assert_eq!(bucket(&chain, 3), (units, storage));
    assert_eq!(bucket(&chain, 4), (0, 0));
    let record = registration(&chain, name).unwrap();
    assert_eq!((record.start, record.end), (Epoch::new(1), Epoch::new(4)));
    assert_eq!(record.certified, None);
}

#[test]
fn a_registration_is_refused_for_one_reason_each() {
    let mut chain = chain();
    let key = account_key(0);
    let fits = header(1);
    let other_shards = BlobHeader { n_shards: 8, ..fits };
    let too_long = BlobHeader { len: chain.state.parameters().max_blob_bytes + 1, ..fits };
    for header in [other_shards, too_long] {
        let error = fails(&chain, &key, register(header, 1, false));
        assert_eq!(error, OperationError::BlobHeader);
    }
    let error = OperationError::TooFarAhead { epochs: 105, max: 104 };
    assert_eq!(fails(&chain, &key, register(fits, 105, false)), error);
    let far = fails(&chain, &key, register(fits, u32::MAX, false));
    assert_eq!(far, OperationError::TooFarAhead { epochs: u32::MAX.into(), max: 104 });
    let price = frost(WRITE + 2 * STORAGE);
    let with_max = |max_payment| Operation::RegisterBlob {
        header: fits,
        epochs: 2,
        deletable: false,
        max_payment,
    };
    let max_payment = frost(price.frost() - 1);
    let error = OperationError::Price { price, max_payment };
    assert_eq!(fails(&chain, &key, with_max(max_payment)), error);
    commit(&mut chain, &key, vec![with_max(price)]);
    // An account that cannot pay: the fee, but not the price.
    let poor = KeyPair::from_seed([77; 32]);
    let to = id(&poor);
    commit(&mut chain, &key, vec![Operation::Transfer { to, amount: frost(FEE + 1) }]);
    let signed = chain.sign(&poor, vec![register(fits, 2, true)]);
    let error = OperationError::Funds { account: to, balance: frost(1), needed: price };
    assert_eq!(super::refused(&chain, &signed), error);
}

#[test]
fn capacity_ends_where_it_is_sold() {
    let mut small = genesis(4, N);
    small.ledger.capacity_units = 3;
    let mut chain = Chain::new(&small);
    let key = account_key(0);
    let (first, _) = registered(&mut chain, &key, register(header(1), 2, true));
    commit(&mut chain, &key, vec![register(header(2), 1, true), register(header(3), 1, true)]);
    let full = |epoch, units| OperationError::Capacity { epoch: Epoch::new(epoch), units };
    // Each probe of `fails` comes after a registration of one more unit, so it is that one.
    let signed = chain.sign(&key, vec![register(header(4), 1, true)]);
    assert_eq!(super::refused(&chain, &signed), full(0, 1));
    let units = billed_units(&large_header(5)).unwrap();
    let signed = chain.sign(&key, vec![register(large_header(5), 1, true)]);
    assert_eq!(super::refused(&chain, &signed), full(0, units));
    // What is deleted is free from the next epoch on.
    commit(&mut chain, &key, vec![delete(first)]);
    assert_eq!((bucket(&chain, 0).0, bucket(&chain, 1).0), (3, 0));
    chain.next_epoch();
    let operations = [6, 8, 9].map(|i| register(header(i), 1, true));
    commit(&mut chain, &key, operations.to_vec());
    let signed = chain.sign(&key, vec![register(header(7), 1, true)]);
    assert_eq!(super::refused(&chain, &signed), full(1, 1));
}

#[test]
fn a_certificate_proves_one_registration_to_one_committee() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let (mine, _) = registered(&mut chain, &key, register(header(1), 5, true));
    let (theirs, _) = registered(&mut chain, &other, register(header(1), 5, true));
    let fail = |chain: &Chain, registration, certificate: &Certificate| {
        let certificate = certificate.to_bytes();
        fails(chain, &key, Operation::CertifyBlob { registration, certificate })
    };
    let good = certificate(&chain, mine, &header(1), &[0, 1, 2, 3]);
    // For another registration of the same blob.
    let mut bytes = good.to_bytes();
    bytes[40..72].copy_from_slice(theirs.as_bytes());
    let error = fail(&chain, theirs, &Certificate::from_bytes(&bytes).unwrap());
    assert_eq!(error, OperationError::Certificate(CertificateError::Signature));
    // For another blob.
    let other_blob = certificate(&chain, mine, &header(2), &[0, 1, 2, 3]);
    assert_eq!(fail(&chain, mine, &other_blob), OperationError::OtherBlob);
    // Of a committee of another size, whose members nobody here knows.
    let larger = genesis(5, N).committee().unwrap();
    let unknown = certificate_of(&chain.id(), &larger, good.fact, &[0, 1, 2, 3, 4]);
    let error = OperationError::Certificate(CertificateError::Malformed);
    assert_eq!(fail(&chain, mine, &unknown), error);
    // Below quorum, with a signature for more.
    let mut bytes = good.to_bytes();
    bytes[74] = 0b1001;
    let error =
        fails(&chain, &key, Operation::CertifyBlob { registration: mine, certificate: bytes });
    let no_quorum = |error: &OperationError| {
        matches!(error, OperationError::Certificate(CertificateError::NoQuorum { .. }))
    };
    assert!(no_quorum(&error), "{error:?}");
    // A quorum signed, but not all whom it names.
    let mut bytes = certificate(&chain, mine, &header(1), &[0, 1, 2]).to_bytes();
    bytes[74] = 0b1111;
    let error =
        fails(&chain, &key, Operation::CertifyBlob { registration: mine, certificate: bytes });
    assert_eq!(error, OperationError::Certificate(CertificateError::Signature));
    // The identity of the group.
    let mut bytes = good.to_bytes();
    let at = bytes.len() - 96;
    bytes[at..].fill(0);
    bytes[at] = 0xc0;
    let error =
        fails(&chain, &key, Operation::CertifyBlob { registration: mine, certificate: bytes });
    assert_eq!(error, OperationError::Certificate(CertificateError::Signature));
    // Signed for another network.
    let elsewhere = genesis(5, N).chain_id();
    let foreign = certificate_of(&elsewhere, chain.state.committee(), good.fact, &[0, 1, 2, 3]);
    let error = OperationError::Certificate(CertificateError::Signature);
    assert_eq!(fail(&chain, mine, &foreign), error);
    // Of an epoch that is over, and of one to come.
    chain.next_epoch();
    let wrong = |certificate, committee| {
        let (certificate, committee) = (Epoch::new(certificate), Epoch::new(committee));
        OperationError::Certificate(CertificateError::Epoch { certificate, committee })
    };
    assert_eq!(fail(&chain, mine, &good), wrong(0, 1));
    let next = chain.state.committee().in_epoch(Epoch::new(2));
    let fact = ConfirmedFact { epoch: Epoch::new(2), ..good.fact };
    let early = certificate_of(&chain.id(), &next, fact, &[0, 1, 2, 3]);
    assert_eq!(fail(&chain, mine, &early), wrong(2, 1));
    // The registration stayed: certified now, by anybody, and once.
    let again = certify(&chain, mine, &header(1));
    commit(&mut chain, &other, vec![again.clone()]);
    assert_eq!(fails(&chain, &key, again), OperationError::AlreadyCertified);
    let nobody = certify(&chain, RegistrationId::new([9; 32]), &header(1));
    assert_eq!(fails(&chain, &key, nobody), OperationError::NoRegistration);
}

#[test]
fn only_the_owner_extends_deletes_and_gives_away() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let (mine, _) = registered(&mut chain, &key, register(header(1), 5, true));
    let absent = RegistrationId::new([9; 32]);
    let give = |registration, to: &KeyPair| Operation::TransferBlob { registration, to: id(to) };
    let operations = |registration| {
        [extend(registration, 5, 1), delete(registration), give(registration, &other)]
    };
    for operation in operations(mine) {
        let error = OperationError::NotOwner { owner: id(&key) };
        assert_eq!(fails(&chain, &other, operation.clone()), error, "{operation:?}");
    }
    for operation in operations(absent) {
        let error = fails(&chain, &key, operation.clone());
        assert_eq!(error, OperationError::NoRegistration, "{operation:?}");
    }
    assert_eq!(fails(&chain, &key, extension(&chain, mine, 1)), OperationError::NotCertified);
    let operation = certify(&chain, mine, &header(1));
    commit(&mut chain, &key, vec![operation]);
    let permanent = stored(&mut chain, &key, header(1), 5, false);
    assert_eq!(fails(&chain, &key, delete(permanent)), OperationError::Permanent);
    // Given away, also to oneself: the index of owners follows.
    commit(&mut chain, &key, vec![give(mine, &key), give(mine, &other)]);
    let owned = |chain: &Chain, key: &KeyPair| indexed(chain, IndexQuery::Owned(id(key))).len();
    assert_eq!((owned(&chain, &key), owned(&chain, &other)), (1, 1));
    let error = OperationError::NotOwner { owner: id(&other) };
    assert_eq!(fails(&chain, &key, delete(mine)), error);
    let before = chain.balance(&id(&other));
    commit(&mut chain, &other, vec![delete(mine)]);
    let refund = chain.balance(&id(&other)).frost() + FEE - before.frost();
    assert_eq!(refund, 4 * STORAGE, "to who owns it, not to who paid");
    assert_eq!(fails(&chain, &other, delete(mine)), OperationError::NoRegistration);
}

#[test]
fn an_extension_is_bounded_and_agreed() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 100, true);
    let error = OperationError::TooFarAhead { epochs: 105, max: 104 };
    assert_eq!(fails(&chain, &key, extension(&chain, mine, 5)), error);
    let error = fails(&chain, &key, extension(&chain, mine, u32::MAX));
    let epochs = u64::from(u32::MAX) + 100;
    assert_eq!(error, OperationError::TooFarAhead { epochs, max: 104 });
    let (price, max_payment) = (frost(4 * STORAGE), frost(4 * STORAGE - 1));
    let end = Epoch::new(100);
    let cheap = Operation::ExtendBlob { registration: mine, end, epochs: 4, max_payment };
    assert_eq!(fails(&chain, &key, cheap), OperationError::Price { price, max_payment });
    let exact = Operation::ExtendBlob { registration: mine, end, epochs: 4, max_payment: price };
    commit(&mut chain, &key, vec![exact]);
    assert_eq!(registration(&chain, mine).unwrap().end, Epoch::new(104));
    assert_eq!(bucket(&chain, 103), (1, STORAGE));
}

#[test]
fn refunds_are_exact_after_price_changes_and_extensions() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 3, true);
    vote(&mut chain, 700, 900, 1 << 20);
    chain.next_epoch();
    let prices = Prices { storage: frost(700), write: frost(900), capacity_units: 1 << 20 };
    assert_eq!(chain.state.summary().prices, prices);
    let operation = extension(&chain, mine, 2);
    commit(&mut chain, &key, vec![operation]);
    vote(&mut chain, 30, 40, 1 << 20);
    chain.next_epoch();
    let operation = extension(&chain, mine, 1);
    commit(&mut chain, &key, vec![operation]);
    // Epochs 0, 1, 2 at the first price, 3 and 4 at the second, 5 at the third; now is 2.
    let before: Vec<_> = (0..7).map(|epoch| bucket(&chain, epoch)).collect();
    let balance = chain.balance(&id(&key));
    let executed = commit(&mut chain, &key, vec![delete(mine)]);
    let refund = 2 * 700 + 30;
    assert_eq!(ends(&executed), [(mine, refund, EndReason::Deleted)]);
    assert_eq!(blob_ends(&executed), 1);
    assert_eq!(chain.balance(&id(&key)).frost(), balance.frost() + refund - FEE);
    for (epoch, taken) in [(0, 0), (1, 0), (3, 700), (4, 700), (5, 30), (6, 0)] {
        let (units, paid) = before[usize::try_from(epoch).unwrap()];
        let units = if taken > 0 { units - 1 } else { units };
        assert_eq!(bucket(&chain, epoch), (units, paid - taken), "epoch {epoch}");
    }
    assert_eq!(bucket(&chain, 2), (before[2].0, before[2].1 + FEE));
    assert_eq!(registration(&chain, mine), None);
    assert_eq!(blob(&chain, &header(1)), None);
}

#[test]
fn an_uncertified_registration_lapses_after_the_epoch_behind_its_own() {
    let mut chain = chain();
    let key = account_key(0);
    chain.next_epoch();
    let (long, _) = registered(&mut chain, &key, register(header(1), 10, false));
    let (short, _) = registered(&mut chain, &key, register(header(2), 1, false));
    chain.next_epoch();
    let balance = chain.balance(&id(&key));
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed), [(short, 0, EndReason::Lapsed)]);
    let operation = certify(&chain, long, &header(1));
    let live = chain.sign(&key, vec![operation]);
    assert_eq!(super::propose(&chain, &[], &[live]).2, [], "it can still be certified");
    chain.next_epoch();
    // Dead at once, though nothing has been swept.
    assert!(registration(&chain, long).is_some());
    assert!(chain.state.sweep_pending(&chain.store).unwrap());
    let operation = certify(&chain, long, &header(1));
    assert_eq!(fails(&chain, &key, operation), OperationError::NoRegistration);
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed), [(long, 8 * STORAGE, EndReason::Lapsed)]);
    assert_eq!(blob_ends(&executed), 1);
    let refunded = chain.balance(&id(&key)).frost() - balance.frost();
    assert_eq!(refunded, 8 * STORAGE);
    assert!(!chain.state.sweep_pending(&chain.store).unwrap());
    assert_eq!(bucket(&chain, 3).0, 0, "only what the rewards before left over");
    for epoch in 4..12 {
        assert_eq!(bucket(&chain, epoch), (0, 0), "epoch {epoch}");
    }
}

#[test]
fn a_blob_with_two_owners_survives_the_deletion_by_one() {
    let mut chain = chain();
    let (key, other, third) = (account_key(0), account_key(1), account_key(2));
    // Somebody else's before, one's own, and somebody else's after.
    let (before, paid) = registered(&mut chain, &other, register(header(1), 5, true));
    let mine = stored(&mut chain, &key, header(1), 5, true);
    let certified = blob(&chain, &header(1)).unwrap().certified.unwrap();
    let (after, paid_later) = registered(&mut chain, &third, register(header(1), 5, true));
    assert_eq!(paid, paid_later, "each pays in full");
    assert_eq!(blob(&chain, &header(1)).unwrap().registrations, 3);
    assert_eq!(blob(&chain, &header(1)).unwrap().certified, Some(certified));
    // Uncertified ones do not keep a certificate alive, but the blob.
    let executed = commit(&mut chain, &key, vec![delete(mine)]);
    assert_eq!(blob_ends(&executed), 0);
    let left = blob(&chain, &header(1)).unwrap();
    assert_eq!((left.registrations, left.certified), (2, None));
    let operation = certify(&chain, before, &header(1));
    commit(&mut chain, &other, vec![operation]);
    let again = blob(&chain, &header(1)).unwrap().certified.unwrap();
    assert_eq!(again.number, certified.number + 1, "numbers are never used again");
    let executed = commit(&mut chain, &third, vec![delete(after)]);
    assert_eq!(blob_ends(&executed), 0);
    assert_eq!(blob(&chain, &header(1)).unwrap().certified, Some(again));
    let executed = commit(&mut chain, &other, vec![delete(before)]);
    assert_eq!(blob_ends(&executed), 1);
    assert_eq!(blob(&chain, &header(1)), None);
}

#[test]
fn the_certified_life_of_a_blob_is_that_of_its_living_registrations() {
    let mut chain = chain();
    let key = account_key(0);
    let first = stored(&mut chain, &key, header(1), 4, true);
    let time = chain.state.tip().time;
    let one = blob(&chain, &header(1)).unwrap();
    let certified =
        Certified { number: 0, end: Epoch::new(4), first_epoch: Epoch::new(0), first_time: time };
    assert_eq!((one.certified, one.permanent_end), (Some(certified), None));
    chain.next_epoch();
    let second = stored(&mut chain, &key, header(1), 9, true);
    let second_time = chain.state.tip().time;
    let both = Certified { end: Epoch::new(10), ..certified };
    assert_eq!(blob(&chain, &header(1)).unwrap().certified, Some(both));
    stored(&mut chain, &key, header(2), 1, false);
    assert_eq!(blob(&chain, &header(2)).unwrap().certified.unwrap().number, 1);
    // The number stays, the rest is that of who is left.
    commit(&mut chain, &key, vec![delete(first)]);
    let left = Certified { first_epoch: Epoch::new(1), first_time: second_time, ..both };
    assert_eq!(blob(&chain, &header(1)).unwrap().certified, Some(left));
    let permanent = stored(&mut chain, &key, header(1), 2, false);
    let now = blob(&chain, &header(1)).unwrap();
    assert_eq!((now.certified, now.permanent_end), (Some(left), Some(Epoch::new(3))));
    let operation = extension(&chain, permanent, 20);
    commit(&mut chain, &key, vec![operation]);
    let now = blob(&chain, &header(1)).unwrap();
    assert_eq!(now.certified.unwrap().end, Epoch::new(23));
    assert_eq!(now.permanent_end, Some(Epoch::new(23)));
    commit(&mut chain, &key, vec![extend(second, 10, 1), delete(second)]);
    let now = blob(&chain, &header(1)).unwrap();
    assert_eq!(now.certified.unwrap().end, Epoch::new(23));
    assert_eq!(now.certified.unwrap().number, 0);
}

#[test]
fn a_dead_blob_that_waits_for_the_sweep_is_certified_anew() {
    let mut chain = chain();
    let key = account_key(0);
    stored(&mut chain, &key, header(1), 1, true);
    let (later, _) = registered(&mut chain, &key, register(header(1), 5, true));
    let (last, _) = registered(&mut chain, &account_key(1), register(header(1), 5, true));
    chain.next_epoch();
    let (one, two) = (certify(&chain, later, &header(1)), certify(&chain, last, &header(1)));
    // One block: two are certified and one of them goes, before the dead one is swept.
    let executed = commit(&mut chain, &key, vec![one, two, delete(later)]);
    assert_eq!(ends(&executed).len(), 2);
    let certified = blob(&chain, &header(1)).unwrap().certified.unwrap();
    assert_eq!((certified.number, certified.first_epoch), (1, Epoch::new(1)));
    assert_eq!(blob(&chain, &header(1)).unwrap().registrations, 1);
}

#[test]
fn the_sweep_is_bounded_and_goes_on() {
    let mut chain = chain();
    // Each owner's is longer than its one before, and all lapse together.
    let all: Vec<_> = (0..4).flat_map(|who| (2..72).map(move |epochs| (who, epochs))).collect();
    assert_eq!(all.len(), SWEEP_MAX + 30);
    for some in all.chunks(35) {
        let operations = some.iter().map(|(_, epochs)| register(header(1), *epochs, true));
        commit(&mut chain, &account_key(some[0].0), operations.collect());
    }
    chain.next_epoch();
    chain.next_epoch();
    // What the sweep has not reached can be neither used nor refunded twice.
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed).len(), SWEEP_MAX);
    assert_eq!(blob_ends(&executed), 0);
    assert_eq!(blob(&chain, &header(1)).unwrap().registrations, 30);
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed).len(), 30);
    assert_eq!(blob_ends(&executed), 1);
    assert_eq!(blob(&chain, &header(1)), None);
    let executed = chain.commit(&[]);
    assert_eq!(ends(&executed), []);
}

#[test]
fn a_blob_proven_invalid_is_nobodys_any_more() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 5, true);
    let (other, _) = registered(&mut chain, &key, register(header(1), 6, true));
    let invalid = Blob { invalid: true, ..blob(&chain, &header(1)).unwrap() };
    plant_blob(&mut chain, &invalid);
    let operation = certify(&chain, other, &header(1));
    for operation in [register(header(1), 1, true), operation, extension(&chain, mine, 1)] {
        assert_eq!(fails(&chain, &key, operation), OperationError::BlobInvalid);
    }
    commit(&mut chain, &key, vec![delete(mine), delete(other)]);
    let left = blob(&chain, &header(1)).unwrap();
    assert!(left.invalid, "it stays, so that it cannot be registered again");
    assert_eq!(left.registrations, 0);
}

fn plant_blob(chain: &mut Chain, blob: &Blob) {
    super::plant(chain, &Key::Blob(blob.header.id()), &Record::Blob(*blob));
}

#[test]
fn prices_that_no_amount_can_hold_are_refused() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 5, true);
    vote(&mut chain, u128::MAX, 1, 1 << 20);
    chain.next_epoch();
    let signed = chain.sign(&key, vec![register(header(2), 2, true)]);
    assert_eq!(super::refused(&chain, &signed), OperationError::Overflow);
    let signed = chain.sign(&key, vec![extension(&chain, mine, 2)]);
    assert_eq!(super::refused(&chain, &signed), OperationError::Overflow);
}

// --- prices ----------------------------------------------------------------------------------

fn voted(votes: &[(u16, u128, u64)], n_shards: u16) -> (u128, u64) {
    let settings: Vec<_> = votes
        .iter()
        .map(|(weight, price, capacity_units)| {
            let settings = NodeSettings {
                addresses: Vec::new(),
                commission_bps: 0,
                storage_price: frost(*price),
                write_price: frost(*price),
                capacity_units: *capacity_units,
            };
            (*weight, settings)
        })
        .collect();
    let votes = settings.iter().map(|(weight, settings)| (*weight, settings));
    let prices = Prices::voted(votes, n_shards);
    assert_eq!(prices.storage, prices.write);
    (prices.storage.frost(), prices.capacity_units)
}

#[test]
fn a_quorum_of_shards_finds_the_price_high_and_the_capacity_low_enough() {
    // Weight, price, capacity of each; the quorum of 7 is 5.
    for (votes, expected) in [
        (&[(2, 10, 10), (2, 20, 20), (2, 30, 30), (1, 40, 40)][..], (30, 20)),
        (&[(1, 10, 10), (2, 20, 20), (2, 30, 30), (2, 40, 40)], (30, 20)),
        (&[(2, 1, 1), (2, 1, 1), (2, 1, 1), (1, u128::MAX, u64::MAX)], (1, 1)),
        (&[(2, u128::MAX, u64::MAX), (2, 5, 5), (2, 5, 5), (1, 5, 5)], (5, 5)),
        (&[(2, 9, 0), (2, 9, 0), (2, 0, 9), (1, 0, 9)], (9, 0)),
        (&[(7, 3, 4)], (3, 4)),
        // Who holds no shards has no say.
        (&[(0, 1, 100), (5, 3, 4), (2, 8, 2), (0, 99, 0)], (3, 4)),
    ] {
        assert_eq!(voted(votes, 7), expected, "{votes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_third_of_the_shards_cannot_set_a_price(
        honest in proptest::collection::vec(1..1_000_u64, 5),
        liars in proptest::collection::vec(any::<u64>(), 2),
    ) {
        let votes: Vec<_> =
            honest.iter().chain(&liars).map(|vote| (1, u128::from(*vote), *vote)).collect();
        let (price, capacity) = voted(&votes, 7);
        let (least, most) = (*honest.iter().min().unwrap(), *honest.iter().max().unwrap());
        prop_assert!(price >= u128::from(least) && price <= u128::from(most));
        prop_assert!((least..=most).contains(&capacity));
    }
}

#[test]
fn prices_are_fixed_at_half_of_an_epoch_for_the_next() {
    let mut chain = chain();
    chain.commit(&[]);
    let old = chain.state.summary().prices;
    vote(&mut chain, 1, 2, 3);
    assert_eq!(chain.state.summary().next_prices, None);
    let executed = to_deadline(&mut chain);
    let new = Prices { storage: frost(1), write: frost(2), capacity_units: 3 };
    let selected = Event::EpochSelected { epoch: Epoch::new(1), prices: new };
    assert!(executed.events.iter().any(|event| *event == selected));
    assert_eq!(chain.state.summary().next_prices, Some(new));
    assert_eq!(chain.state.summary().prices, old, "a quote holds for an epoch");
    vote(&mut chain, 7, 7, 7);
    chain.next_epoch();
    assert_eq!(chain.state.summary().prices, new, "too late for this one");
    assert_eq!(chain.state.summary().next_prices, None);
    chain.next_epoch();
    assert_eq!(chain.state.summary().prices.storage, frost(7));
    // Epochs that pass between two blocks are one, selected when nodes had time to report and left
    // at once.
    chain.now = chain.now.plus_ms(10 * chain.state.parameters().ledger.epoch_ms);
    let epoch = chain.state.summary().epoch;
    let signed = chain.sign(&account_key(0), vec![transfer(1, 1)]);
    chain.commit(&[signed]);
    assert_eq!(chain.state.summary().epoch, epoch);
    let executed = to_deadline(&mut chain);
    assert_eq!(chain.state.summary().epoch, epoch.plus(1));
    let changed = Event::EpochChanged { epoch: epoch.plus(1) };
    assert_eq!(executed.events.iter().last(), Some(&changed));
}
