//! What comes back when a registration ends: what `Registration::paid_from` says, to the FROST.

use floe_protocol::{
    index::Epoch,
    keys::KeyPair,
    ledger::{Amount, EndReason, Executed, Payment},
    registration::RegistrationId,
    test_support::{Chain, account_key},
};
use proptest::{collection::vec, prelude::*};

use super::{
    FEE, STORAGE, WRITE, bucket, chain, commit, delete, ends, extension, frost, header, id,
    register, registered, registration, stored, vote,
};

/// Checks that in `ending` a registration pays back what its record says for epochs from `from` on,
/// and that the owner has it, less what ending it cost.
fn check(
    chain: &mut Chain,
    (key, name): (&KeyPair, RegistrationId),
    (reason, from): (EndReason, u64),
    ending: impl FnOnce(&mut Chain) -> Executed,
) -> u128 {
    let record = registration(chain, name).unwrap();
    let promised = record.paid_from(Epoch::new(from)).unwrap().frost();
    let before = chain.balance(&id(key)).frost();
    let executed = ending(chain);
    assert_eq!(ends(&executed), [(name, promised, reason)]);
    let fee = if reason == EndReason::Deleted { FEE } else { 0 };
    assert_eq!(chain.balance(&id(key)).frost() + fee, before + promised);
    assert_eq!(registration(chain, name), None);
    promised
}

fn deleted(chain: &mut Chain, key: &KeyPair, name: RegistrationId) -> u128 {
    let from = chain.state.summary().epoch.get() + 1;
    check(chain, (key, name), (EndReason::Deleted, from), |chain| {
        commit(chain, key, vec![delete(name)])
    })
}

/// The sweep takes 250 a block. What it reaches only after the next epoch has begun, and the ended
/// one was paid out, must not stop the chain.
#[test]
fn what_is_swept_late_gets_back_what_has_not_been_paid_out() {
    let mut chain = chain();
    for (who, some) in (0..4).flat_map(|who| (0..4_u8).map(move |some| (who, some))) {
        let operations = (50 * some..50 * some + 50).map(|i| register(header(i), 5, true));
        commit(&mut chain, &account_key(who), operations.collect());
    }
    let mut refunds = Vec::new();
    while chain.state.summary().epoch < Epoch::new(4) {
        let deadline = chain.state.epoch_deadline().unwrap();
        chain.now = chain.now.max(deadline);
        let epoch = chain.state.summary().epoch.get();
        let executed = chain.commit(&[]);
        refunds.extend(ends(&executed).into_iter().map(|(_, refund, _)| (epoch, refund)));
    }
    assert_eq!(refunds.len(), 800);
    assert!(refunds.iter().any(|(epoch, _)| *epoch == 3), "some were late");
    for (epoch, refund) in refunds {
        assert_eq!(refund, u128::from(5 - epoch) * STORAGE, "swept in epoch {epoch}");
    }
}

#[test]
fn deleted_at_once_all_but_the_write_and_the_running_epoch_comes_back() {
    let mut chain = chain();
    let key = account_key(0);
    let (mine, paid) = registered(&mut chain, &key, register(header(1), 5, true));
    let record = registration(&chain, mine).unwrap();
    assert_eq!(
        record.paid_from(Epoch::new(0)),
        paid.checked_sub(frost(WRITE)),
        "all but the write"
    );
    assert_eq!(deleted(&mut chain, &key, mine), 4 * STORAGE);
    // In its only epoch there is nothing to give back.
    let (short, _) = registered(&mut chain, &key, register(header(1), 1, true));
    assert_eq!(deleted(&mut chain, &key, short), 0);
}

#[test]
fn deleted_later_the_epochs_to_come_come_back() {
    let mut chain = chain();
    let key = account_key(0);
    for epochs in 1..5 {
        let mine = stored(&mut chain, &key, header(1), 5, true);
        for _ in 1..epochs {
            chain.next_epoch();
        }
        assert_eq!(deleted(&mut chain, &key, mine), (5 - epochs) * STORAGE);
    }
}

#[test]
fn a_lapsed_registration_pays_back_what_it_never_covered() {
    let mut chain = chain();
    let key = account_key(0);
    let (mine, _) = registered(&mut chain, &key, register(header(1), 7, false));
    let deadline = registration(&chain, mine).unwrap().deadline();
    assert_eq!(deadline, Epoch::new(2));
    chain.next_epoch();
    chain.next_epoch();
    let ending = (EndReason::Lapsed, deadline.get());
    let refund = check(&mut chain, (&key, mine), ending, |chain| chain.commit(&[]));
    assert_eq!(refund, 5 * STORAGE);
}

#[test]
fn an_expired_registration_pays_nothing_back() {
    let mut chain = chain();
    let key = account_key(0);
    let mine = stored(&mut chain, &key, header(1), 2, false);
    chain.next_epoch();
    chain.next_epoch();
    let ending = (EndReason::Expired, 2);
    let refund = check(&mut chain, (&key, mine), ending, |chain| chain.commit(&[]));
    assert_eq!(refund, 0);
}

/// Each epoch comes back at the price that it was bought at, whenever the registration ends.
#[test]
fn extensions_at_another_price_come_back_at_theirs() {
    for epoch in 1..9 {
        let mut chain = chain();
        let key = account_key(0);
        // Epochs 0 to 2 at the first price, 3 to 5 at the second, 6 to 8 at the third.
        let mine = stored(&mut chain, &key, header(1), 3, true);
        vote(&mut chain, 700, 900, 1 << 20);
        chain.next_epoch();
        let operation = extension(&chain, mine, 3);
        commit(&mut chain, &key, vec![operation]);
        vote(&mut chain, 30, 40, 1 << 20);
        if epoch > 1 {
            chain.next_epoch();
            let operation = extension(&chain, mine, 3);
            commit(&mut chain, &key, vec![operation]);
        }
        for _ in 2..epoch {
            chain.next_epoch();
        }
        let end = if epoch > 1 { 9 } else { 6 };
        let price = |epoch: u64| match epoch {
            0..3 => STORAGE,
            3..6 => 700,
            _ => 30,
        };
        let expected: u128 = (epoch + 1..end).map(price).sum();
        let future: Vec<_> = (epoch + 1..end).map(|epoch| bucket(&chain, epoch)).collect();
        assert_eq!(deleted(&mut chain, &key, mine), expected, "in epoch {epoch}");
        for (at, (units, paid)) in (epoch + 1..end).zip(future) {
            assert_eq!(bucket(&chain, at), (units - 1, paid - price(at)), "bucket {at}");
        }
    }
}

#[test]
fn what_no_amount_can_hold_is_not_promised() {
    let mut chain = chain();
    let (mine, _) = registered(&mut chain, &account_key(0), register(header(1), 5, true));
    let mut record = registration(&chain, mine).unwrap();
    let payment = |start, end, per_epoch| Payment {
        start: Epoch::new(start),
        end: Epoch::new(end),
        per_epoch: frost(per_epoch),
    };
    record.payments = vec![payment(0, 2, u128::MAX)];
    assert_eq!(record.paid_from(Epoch::new(0)), None);
    assert_eq!(record.paid_from(Epoch::new(1)), Some(frost(u128::MAX)));
    record.payments.push(payment(2, 3, 1));
    assert_eq!(record.paid_from(Epoch::new(1)), None);
    assert_eq!(record.paid_from(Epoch::new(2)), Some(frost(1)));
    assert_eq!(record.paid_from(Epoch::new(u64::MAX)), Some(Amount::ZERO));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 16, ..ProptestConfig::default()
    })]

    /// Buys and waits in any order: counted epoch by epoch, with the price of the day.
    #[test]
    fn what_comes_back_is_what_each_epoch_was_bought_for(
        first in 1..6_u32,
        steps in vec((0..4_u32, 1..1_000_u128), 0..6),
    ) {
        let mut chain = chain();
        let key = account_key(0);
        let mine = stored(&mut chain, &key, header(1), first, true);
        let mut bought = vec![STORAGE; usize::try_from(first).unwrap()];
        for (epochs, price) in steps {
            if bought.len() as u64 <= chain.state.summary().epoch.get() + 1 {
                break;
            }
            vote(&mut chain, price, price, 1 << 20);
            chain.next_epoch();
            if epochs > 0 {
                let operation = extension(&chain, mine, epochs);
                commit(&mut chain, &key, vec![operation]);
                bought.extend((0..epochs).map(|_| price));
            }
            let record = registration(&chain, mine).unwrap();
            for from in chain.state.summary().epoch.get()..bought.len() as u64 + 2 {
                let skipped = usize::try_from(from).unwrap();
                let expected: u128 = bought.iter().skip(skipped).sum();
                prop_assert_eq!(record.paid_from(Epoch::new(from)), Some(frost(expected)));
            }
        }
        let next = usize::try_from(chain.state.summary().epoch.get() + 1).unwrap();
        let expected: u128 = bought.iter().skip(next).sum();
        prop_assert_eq!(deleted(&mut chain, &key, mine), expected);
    }
}
