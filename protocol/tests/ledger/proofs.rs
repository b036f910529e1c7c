//! State proofs, and bytes of strangers.

use floe_protocol::{
    blob::BlobId,
    hash::Hash,
    index::Height,
    keys::{NodeId, PublicKey},
    ledger::{
        AccountId, Block, Entry, Key, MAX_BLOCK_BYTES, Record, SignedTransaction, StateProof,
        StateProofError, TransactionError,
    },
    test_support::{Chain, account_key, node_keys},
};
use proptest::{collection::vec, prelude::*};

use super::{chain, commit, header, id, propose, register, stored, transfer};

fn busy() -> Chain {
    let mut chain = chain();
    for i in 0..3 {
        stored(&mut chain, &account_key(i), header(i), 3, true);
    }
    commit(&mut chain, &account_key(3), vec![transfer(4, 1)]);
    chain
}

fn keys() -> Vec<Key> {
    vec![
        Key::Summary,
        Key::Account(id(&account_key(0))),
        Key::Blob(header(1).id()),
        Key::Node(node_keys(4)[0].0.public()),
        Key::Presence(Height::new(2)),
        // Absent.
        Key::Blob(header(200).id()),
        Key::Account(AccountId::new(PublicKey::new([1; 32]))),
        Key::Node(NodeId::new([2; 32])),
        Key::Presence(Height::new(999)),
    ]
}

#[test]
fn any_changed_bit_spoils_a_proof() {
    let chain = busy();
    let tip = chain.state.tip();
    let (version, root) = (tip.height.get(), tip.state_root);
    let mut absent = 0;
    for key in keys() {
        let proof = StateProof::new(&chain.store, version, &key).unwrap();
        let record = chain.record(&key);
        absent += usize::from(record.is_none());
        assert_eq!(proof.verify(&root, &key), Ok(record.clone()));
        for bit in 0..8 * proof.path.len() {
            let mut changed = proof.clone();
            changed.path[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(changed.verify(&root, &key), Err(StateProofError), "{key:?}, bit {bit}");
        }
        for bit in 0..8 * proof.value.as_ref().map_or(0, Vec::len) {
            let mut changed = proof.clone();
            changed.value.as_mut().unwrap()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(changed.verify(&root, &key), Err(StateProofError), "{key:?}, bit {bit}");
        }
        for bit in 0..256 {
            let mut bytes = *root.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(proof.verify(&Hash::new(bytes), &key), Err(StateProofError));
        }
        // Present as absent, absent as present, cut, and longer.
        let made_up = Entry { key: key.clone(), record: Record::Offence(Height::new(1)) };
        let other = record.map_or_else(|| Some(made_up.to_bytes()), |_| None);
        assert_eq!(
            StateProof { value: other, ..proof.clone() }.verify(&root, &key),
            Err(StateProofError)
        );
        for cut in 0..proof.path.len() {
            let cut = StateProof { path: proof.path[..cut].to_vec(), ..proof.clone() };
            assert_eq!(cut.verify(&root, &key), Err(StateProofError));
        }
        let long = StateProof { path: [&proof.path[..], &[0]].concat(), ..proof.clone() };
        assert_eq!(long.verify(&root, &key), Err(StateProofError));
        let huge = StateProof { path: vec![0; 1 << 20], ..proof };
        assert_eq!(huge.verify(&root, &key), Err(StateProofError));
    }
    assert_eq!(absent, 4);
}

#[test]
fn a_proof_is_of_one_key_and_one_height() {
    let chain = busy();
    let tip = chain.state.tip();
    let (version, root) = (tip.height.get(), tip.state_root);
    for key in keys() {
        let proof = StateProof::new(&chain.store, version, &key).unwrap();
        for other in keys() {
            let truth = chain.record(&other);
            match proof.verify(&root, &other) {
                Ok(record) => assert_eq!(record, truth, "what it shows is true all the same"),
                Err(StateProofError) => assert_ne!(other, key),
            }
        }
    }
    let summary = StateProof::new(&chain.store, version - 1, &Key::Summary).unwrap();
    assert_eq!(summary.verify(&root, &Key::Summary), Err(StateProofError));
    let before = chain.blocks[chain.blocks.len() - 2].0.header.state_root;
    assert!(summary.verify(&before, &Key::Summary).unwrap().is_some());
    assert!(StateProof::new(&chain.store, version + 1, &Key::Summary).is_err());
}

#[test]
fn lengths_that_lie_are_refused() {
    let chain = busy();
    let signed = chain.sign(&account_key(0), vec![transfer(1, 1), register(header(9), 1, true)]);
    let bytes = signed.to_bytes();
    // The count of operations is behind sender, nonce, fee and expiry.
    let mut lie = bytes.clone();
    lie[64..68].fill(0xff);
    assert_eq!(SignedTransaction::from_bytes(&lie), Err(TransactionError::Malformed));
    let (block, _, _) = propose(&chain, &[], &[signed]);
    let bytes = block.to_bytes();
    for at in 0..bytes.len() - 4 {
        let mut lie = bytes.clone();
        lie[at..at + 4].fill(0xff);
        let parsed = Block::from_bytes(&lie);
        assert!(parsed.is_err() || parsed != Ok(block.clone()));
    }
    let entry = Entry { key: Key::Shards, record: Record::Committee(vec![7; 9]) };
    let bytes_of = entry.to_bytes();
    let mut lie = bytes_of.clone();
    let length = lie.len() - 13;
    lie[length..length + 4].fill(0xff);
    assert_eq!(Entry::from_bytes(&lie), None);
    assert_eq!(Entry::from_bytes(&bytes_of), Some(entry));
    assert!(bytes.len() < MAX_BLOCK_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..2_000), kind in 0..16_u8) {
        if let Ok(signed) = SignedTransaction::from_bytes(&bytes) {
            prop_assert_eq!(signed.to_bytes(), bytes.clone());
        }
        if let Ok(block) = Block::from_bytes(&bytes) {
            prop_assert_eq!(block.to_bytes(), bytes.clone());
        }
        let record = [&[kind][..], &bytes].concat();
        for bytes in [&bytes, &record] {
            if let Some(record) = Entry::from_bytes(bytes) {
                prop_assert_eq!(record.to_bytes(), bytes.clone());
            }
        }
    }

    /// What nearly is a block, or a transaction, is parsed to exactly that or refused.
    #[test]
    fn damaged_bytes_never_panic(changes in vec((any::<u16>(), any::<u8>()), 1..8)) {
        let chain = chain();
        let signed = chain.sign(&account_key(0), vec![transfer(1, 1), register(header(9), 1, true)]);
        let (block, _, _) = propose(&chain, &[], std::slice::from_ref(&signed));
        for original in [signed.to_bytes(), block.to_bytes()] {
            let mut bytes = original;
            for (at, byte) in &changes {
                let at = usize::from(*at) % bytes.len();
                bytes[at] = *byte;
            }
            if let Ok(parsed) = SignedTransaction::from_bytes(&bytes) {
                prop_assert_eq!(parsed.to_bytes(), bytes.clone());
            }
            if let Ok(parsed) = Block::from_bytes(&bytes) {
                prop_assert_eq!(&parsed.to_bytes(), &bytes);
                // In which round it was made is for consensus to judge.
                let mut same_round = parsed.clone();
                same_round.header.round = block.header.round;
                let same = same_round == block;
                prop_assert_eq!(chain.state.execute(&chain.store, &parsed, &|_| false).is_ok(), same);
            }
        }
    }

    #[test]
    fn random_keys_are_proven_absent(byte in any::<[u8; 32]>()) {
        let chain = chain();
        let tip = chain.state.tip();
        let key = Key::Blob(BlobId::new(byte));
        let proof = StateProof::new(&chain.store, tip.height.get(), &key).unwrap();
        prop_assert_eq!(proof.verify(&tip.state_root, &key), Ok(None));
    }
}
