//! Transactions: what is refused before the state is asked, and what the state refuses.

use floe_protocol::{
    blob::BlobId,
    hash::Hash,
    keys::Signature,
    ledger::{
        AccountId, Amount, COMMISSION_BPS_MAX, Key, MAX_BLOB_NAME_BYTES, MAX_NODE_ADDRESS_BYTES,
        MAX_NODE_ADDRESSES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Name, NodeSettings, Operation,
        OperationError, Record, SignedTransaction, Timestamp, Transaction, TransactionError,
    },
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis, node_keys},
};

use super::{chain, commit, fails, frost, header, id, refused, register, transfer};

/// A transaction of account 0 that can be changed before it is signed.
fn draft(chain: &Chain, operations: Vec<Operation>) -> Transaction {
    chain.sign(&account_key(0), operations).transaction
}

fn sign(chain: &Chain, transaction: Transaction) -> SignedTransaction {
    transaction.sign(&chain.id(), &account_key(0))
}

fn settings() -> NodeSettings {
    NodeSettings {
        addresses: vec!["/ip4/127.0.0.1/tcp/4000".into()],
        commission_bps: 100,
        storage_price: frost(1),
        write_price: frost(1),
        capacity_units: 1,
    }
}

#[test]
fn a_transfer_moves_wal_and_the_fee_goes_to_the_epoch() {
    let mut chain = chain();
    let (from, to) = (account_key(0), id(&account_key(1)));
    let amount = Amount::from_wal(5);
    let signed = chain.sign(&from, vec![Operation::Transfer { to, amount }]);
    let fee = signed.transaction.fee;
    let before = chain.state.summary().supply;
    chain.commit(&[signed]);
    assert_eq!(chain.balance(&to), Amount::from_wal(1_005));
    let left = Amount::from_wal(995).checked_sub(fee).unwrap();
    assert_eq!(chain.balance(&id(&from)), left);
    let after = chain.state.summary().supply;
    assert_eq!(after.buckets, fee);
    assert_eq!(after.total(), before.total());
    for _ in 0..5 {
        chain.next_epoch();
    }
    assert_eq!(chain.state.summary().epoch.get(), 5);
}

#[test]
fn fields_out_of_range_are_refused_without_the_state() {
    let chain = chain();
    let node = node_keys(4)[0].0.public();
    let update = |change: fn(&mut NodeSettings)| {
        let mut settings = settings();
        change(&mut settings);
        Operation::UpdateNode { node, settings }
    };
    let name = |name: String, version| Operation::SetName { name, blob: None, version };
    let registration = RegistrationId::new([1; 32]);
    let certificate = super::certificate(&chain, registration, &header(1), &[0, 1, 2]).to_bytes();
    let cut = certificate[1..].to_vec();
    let other = RegistrationId::new([2; 32]);
    let field = TransactionError::Field;
    for (operation, expected) in [
        (transfer(1, 0), field("amount")),
        (Operation::Stake { node, amount: Amount::ZERO }, field("amount")),
        (Operation::Unstake { node, shares: 0 }, field("shares")),
        (register(header(1), 0, false), field("epochs")),
        (super::extend(registration, 5, 0), field("epochs")),
        (Operation::CertifyBlob { registration, certificate: cut }, field("certificate")),
        (Operation::CertifyBlob { registration: other, certificate }, field("certificate")),
        (name(String::new(), 1), field("name")),
        (name("x".repeat(MAX_BLOB_NAME_BYTES + 1), 1), field("name")),
        (name("a/b".into(), 1), field("name")),
        (name("a\nb".into(), 1), field("name")),
        (name("a".into(), 0), field("version")),
        (update(|s| s.addresses = vec!["a".into(); MAX_NODE_ADDRESSES + 1]), field("settings")),
        (update(|s| s.addresses = vec![String::new()]), field("settings")),
        (update(|s| s.addresses = vec!["x".repeat(MAX_NODE_ADDRESS_BYTES + 1)]), field("settings")),
        (update(|s| s.commission_bps = COMMISSION_BPS_MAX + 1), field("settings")),
    ] {
        let signed = sign(&chain, draft(&chain, vec![operation.clone()]));
        assert_eq!(signed.verify(&chain.id()), Err(expected), "{operation:?}");
    }
    let longest = name("x".repeat(MAX_BLOB_NAME_BYTES), 1);
    assert!(sign(&chain, draft(&chain, vec![longest])).verify(&chain.id()).is_ok());
}

#[test]
fn transactions_are_judged_together_as_they_are_one_by_one() {
    let chain = chain();
    let mut list: Vec<_> = (1..=12_u128)
        .map(|amount| sign(&chain, draft(&chain, vec![transfer(1, amount)])))
        .collect();
    let together = |list: &[SignedTransaction]| {
        let results = SignedTransaction::verify_all(list.iter().cloned(), &chain.id());
        let alone: Vec<_> = list.iter().cloned().map(|t| t.verify(&chain.id())).collect();
        assert_eq!(results, alone);
        results.into_iter().map(Result::err).collect::<Vec<_>>()
    };
    assert_eq!(together(&[]), []);
    assert_eq!(together(&list), [None; 12]);
    let mut expected = [None; 12];
    list[0].transaction.nonce += 1;
    list[4].signature = list[5].signature;
    list[11].transaction.sender = AccountId::new(account_key(3).public());
    for forged in [0, 4, 11] {
        expected[forged] = Some(TransactionError::Signature);
    }
    assert_eq!(together(&list), expected);
    // What is refused without a look at the signature.
    list[3] = sign(&chain, draft(&chain, Vec::new()));
    list[4].transaction.operations.clear();
    expected[3] = Some(TransactionError::Operations);
    expected[4] = Some(TransactionError::Operations);
    assert_eq!(together(&list), expected);
}

#[test]
fn the_number_of_operations_and_the_bytes_are_limited() {
    let chain = chain();
    let with = |count| sign(&chain, draft(&chain, vec![transfer(1, 1); count]));
    for count in [0, MAX_OPERATIONS + 1] {
        assert_eq!(with(count).verify(&chain.id()), Err(TransactionError::Operations));
    }
    assert!(with(1).verify(&chain.id()).is_ok());
    assert!(with(MAX_OPERATIONS).verify(&chain.id()).is_ok());

    let addresses = vec!["x".repeat(MAX_NODE_ADDRESS_BYTES); MAX_NODE_ADDRESSES];
    let update = Operation::UpdateNode {
        node: node_keys(4)[0].0.public(),
        settings: NodeSettings { addresses, ..settings() },
    };
    let large = sign(&chain, draft(&chain, vec![update; 32]));
    let bytes = large.to_bytes().len();
    assert!(bytes > MAX_TRANSACTION_BYTES);
    let error = TransactionError::TooLarge { bytes };
    assert_eq!(SignedTransaction::from_bytes(&large.to_bytes()), Err(error));
    assert_eq!(large.verify(&chain.id()), Err(error));

    let bytes = with(2).to_bytes();
    assert_eq!(SignedTransaction::from_bytes(&bytes), Ok(with(2)));
    let long = [bytes.as_slice(), &[0]].concat();
    for malformed in [&long[..], &bytes[..bytes.len() - 1], &[]] {
        let parsed = SignedTransaction::from_bytes(malformed);
        assert_eq!(parsed, Err(TransactionError::Malformed));
    }
}

#[test]
fn a_forged_transaction_does_not_verify() {
    let chain = chain();
    let good = sign(&chain, draft(&chain, vec![transfer(1, 1), transfer(2, 2)]));
    assert!(good.clone().verify(&chain.id()).is_ok());
    let changes: [fn(&mut Transaction); 7] = [
        |t| t.sender = id(&account_key(1)),
        |t| t.nonce += 1,
        |t| t.fee = frost(t.fee.frost() + 1),
        |t| t.expires = t.expires.plus_ms(1),
        |t| t.operations.swap(0, 1),
        |t| t.operations.truncate(1),
        |t| t.operations[1] = transfer(2, 3),
    ];
    let mut forged: Vec<_> = changes
        .iter()
        .map(|change| {
            let mut forged = good.clone();
            change(&mut forged.transaction);
            forged
        })
        .collect();
    for bit in 0..512 {
        let mut signature = *good.signature.as_bytes();
        signature[bit / 8] ^= 1 << (bit % 8);
        forged.push(SignedTransaction { signature: Signature::new(signature), ..good.clone() });
    }
    for forged in forged {
        assert_ne!(forged.id(&chain.id()), good.id(&chain.id()));
        assert_eq!(forged.verify(&chain.id()), Err(TransactionError::Signature));
    }
    let elsewhere = Chain::new(&genesis(5, 7));
    let replayed = good.clone().verify(&elsewhere.id());
    assert_eq!(replayed, Err(TransactionError::Signature), "another network's");
}

#[test]
fn a_nonce_is_used_once_and_in_order() {
    let mut chain = chain();
    let sender = id(&account_key(0));
    let with_nonce = |chain: &Chain, nonce| {
        sign(chain, Transaction { nonce, ..draft(chain, vec![transfer(1, 1)]) })
    };
    let (first, second) = (with_nonce(&chain, 0), with_nonce(&chain, 1));
    let error = |nonce, expected| OperationError::Nonce { account: sender, nonce, expected };
    assert_eq!(refused(&chain, &second), error(1, 0), "reordered");
    assert_eq!(refused(&chain, &with_nonce(&chain, u64::MAX)), error(u64::MAX, 0));
    // One after the other in one block, though offered twice.
    let offered = [first.clone(), first.clone(), second.clone(), second.clone()];
    let (block, _, refusals) = super::propose(&chain, &[], &offered);
    assert_eq!(block.body.transactions, [first.clone(), second.clone()]);
    assert_eq!(refusals, [error(0, 1), error(1, 2)]);
    chain.apply(&block).unwrap();
    assert_eq!(refused(&chain, &first), error(0, 2), "replayed");
    let other = Transaction { nonce: 1, ..draft(&chain, vec![transfer(2, 9)]) };
    assert_eq!(refused(&chain, &sign(&chain, other)), error(1, 2), "used");
    assert_eq!(super::account(&chain, &sender).nonce, 2);
}

#[test]
fn a_transaction_expires_by_the_blocks_time() {
    let mut chain = chain();
    commit(&mut chain, &account_key(1), vec![transfer(2, 1)]);
    let time = chain.now;
    let expiring =
        |expires| sign(&chain, Transaction { expires, ..draft(&chain, vec![transfer(1, 1)]) });
    let late = Timestamp::from_ms(time.ms() - 1);
    let error = OperationError::Expired { expires: late, time };
    assert_eq!(refused(&chain, &expiring(late)), error);
    let last = expiring(time);
    chain.commit(&[last]);
}

#[test]
fn fees_have_a_least_and_must_be_paid() {
    let mut chain = chain();
    let min = frost(2 * chain.state.parameters().ledger.fee_per_operation.frost());
    let with_fee = |chain: &Chain, fee: Amount| {
        let operations = vec![transfer(1, 1), transfer(1, 1)];
        sign(chain, Transaction { fee, ..draft(chain, operations) })
    };
    let fee = frost(min.frost() - 1);
    assert_eq!(refused(&chain, &with_fee(&chain, fee)), OperationError::Fee { fee, min });
    let (sender, balance) = (id(&account_key(0)), Amount::from_wal(1_000));
    let needed = frost(balance.frost() + 1);
    let error = OperationError::Funds { account: sender, balance, needed };
    assert_eq!(refused(&chain, &with_fee(&chain, needed)), error);
    // The fee can be paid, but nothing is left for the rest.
    let all = with_fee(&chain, balance);
    let error = OperationError::Funds { account: sender, balance: frost(0), needed: frost(1) };
    assert_eq!(refused(&chain, &all), error);
    let voluntary = with_fee(&chain, frost(min.frost() + 7));
    chain.commit(&[voluntary]);
    assert_eq!(super::bucket(&chain, 0).1, min.frost() + 7);

    let mut dear = genesis(4, 7);
    dear.ledger.fee_per_operation = frost(u128::MAX);
    let chain = Chain::new(&dear);
    let two = vec![transfer(1, 1), transfer(1, 1)];
    let draft = Transaction {
        sender,
        nonce: 0,
        fee: frost(u128::MAX),
        expires: chain.now,
        operations: two,
    };
    assert_eq!(refused(&chain, &sign(&chain, draft)), OperationError::Overflow);
}

#[test]
fn nobody_sends_what_he_does_not_have() {
    let mut chain = chain();
    let (poor, rich) = (floe_protocol::keys::KeyPair::from_seed([77; 32]), account_key(0));
    let error = |account: AccountId, balance: u128, needed: u128| OperationError::Funds {
        account,
        balance: frost(balance),
        needed: frost(needed),
    };
    let signed = chain.sign(&poor, vec![transfer(1, 1)]);
    assert_eq!(refused(&chain, &signed), error(id(&poor), 0, 10_000));
    let signed = chain.sign(&rich, vec![transfer(1, u128::MAX)]);
    let left = 1_000_000_000_000 - 10_000;
    assert_eq!(refused(&chain, &signed), error(id(&rich), left, u128::MAX));
    // Twice the same WAL.
    let half = vec![transfer(1, left - 10_000), transfer(1, 1)];
    let signed = chain.sign(&rich, half);
    assert_eq!(refused(&chain, &signed), error(id(&rich), 0, 1));
    // To oneself it moves nothing, but must be there.
    let operations = vec![transfer(0, left - 10_000), transfer(0, left - 10_000)];
    commit(&mut chain, &rich, operations);
    assert_eq!(chain.balance(&id(&rich)), frost(left - 10_000));
}

#[test]
fn names_have_versions() {
    let mut chain = chain();
    let (key, other) = (account_key(0), account_key(1));
    let set = |blob: Option<u8>, version| Operation::SetName {
        name: "site".into(),
        blob: blob.map(|byte| BlobId::new([byte; 32])),
        version,
    };
    let error = |version, expected| OperationError::NameVersion { version, expected };
    assert_eq!(fails(&chain, &key, set(Some(1), 2)), error(2, 1));
    commit(&mut chain, &key, vec![set(Some(1), 1)]);
    assert_eq!(fails(&chain, &key, set(Some(2), 1)), error(1, 2), "somebody was faster");
    assert_eq!(fails(&chain, &key, set(Some(2), u64::MAX)), error(u64::MAX, 2));
    commit(&mut chain, &key, vec![set(Some(2), 2), set(None, 3)]);
    let record = |account| chain.record(&Key::Name(account, "site".into()));
    assert_eq!(record(id(&key)), Some(Record::Name(Name { blob: None, version: 3 })));
    assert_eq!(record(id(&other)), None);
    commit(&mut chain, &other, vec![set(Some(9), 1)]);
    let record = chain.record(&Key::Name(id(&other), "site".into()));
    let blob = Some(BlobId::new([9; 32]));
    assert_eq!(record, Some(Record::Name(Name { blob, version: 1 })));
}

#[test]
fn an_operation_in_the_middle_takes_everything_back() {
    let chain = chain();
    let absent = Operation::DeleteBlob { registration: RegistrationId::new([9; 32]) };
    let key = account_key(0);
    assert_eq!(fails(&chain, &key, absent.clone()), OperationError::NoRegistration);
    let signed = chain.sign(&key, vec![transfer(1, 5), absent, transfer(2, 5)]);
    assert_eq!(refused(&chain, &signed), OperationError::NoRegistration);
    assert_eq!(chain.record(&Key::Blob(BlobId::new(*Hash::ZERO.as_bytes()))), None);
}
