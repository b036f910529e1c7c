//! The ledger end to end, without a network.

use floe_protocol::{
    ledger::{AccountId, Amount, Operation},
    test_support::{Chain, account_key, genesis},
};

#[test]
fn a_transfer_moves_wal_and_the_fee_goes_to_the_epoch() {
    let mut chain = Chain::new(&genesis(4, 7));
    let (from, to) = (account_key(0), AccountId::new(account_key(1).public()));
    let amount = Amount::from_wal(5);
    let signed = chain.sign(&from, vec![Operation::Transfer { to, amount }]);
    let fee = signed.transaction.fee;
    let before = chain.state.summary().supply;
    chain.commit(&[signed]);
    assert_eq!(chain.balance(&to), Amount::from_wal(1_005));
    let left = Amount::from_wal(995).checked_sub(fee).unwrap();
    assert_eq!(chain.balance(&AccountId::new(from.public())), left);
    let after = chain.state.summary().supply;
    assert_eq!(after.buckets, fee);
    assert_eq!(after.total(), before.total());
    for _ in 0..5 {
        chain.next_epoch();
    }
    assert_eq!(chain.state.summary().epoch.get(), 5);
}
