//! The light client: hand-overs followed, lies refused, forks reported, ages judged.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::sync::Arc;

use floe_protocol::{
    committee::Committee,
    genesis::Genesis,
    hash::Hash,
    index::{Epoch, Height},
    keys::{ChainId, KeyPair},
    ledger::{
        Account, AccountId, Amount, BlockHash, Header, Key, Operation, Record, StateProof,
        Timestamp, TransactionId,
    },
    light::{
        CertifiedHeader, Checkpoint, Fitness, Fork, Freshness, FreshnessLimits, Inclusion,
        InclusionError, LightClient, LightError, OldRoot, Progress, Start, Unfit, VerifiedState,
    },
    registration::RegistrationId,
    test_support::{Chain, account_key, committee, genesis, node_keys},
    vote::{CommitCertificate, CommitCertificateError, CommitSignature, Vote, VoteKind},
};

const START_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 3_600_000;

const fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(START_MS + ms)
}

fn account(i: u8) -> AccountId {
    AccountId::new(account_key(i).public())
}

fn network() -> Genesis {
    genesis(4, 7)
}

fn from_genesis(genesis: &Genesis) -> LightClient {
    let start = Start::Genesis { started: Some(at(0)) };
    LightClient::new(genesis, &start, OldRoot::Refuse, at(0)).unwrap()
}

fn certified(chain: &Chain, height: usize) -> CertifiedHeader {
    let (block, certificate) = &chain.blocks[height - 1];
    CertifiedHeader { header: block.header, certificate: certificate.clone() }
}

/// `header`, made final by the members of `committee` at `positions`.
fn sign(
    chain: &ChainId,
    header: Header,
    committee: &Committee,
    positions: &[u16],
) -> CertifiedHeader {
    let keys: Vec<KeyPair> = node_keys(16).into_iter().map(|(node, _)| node).collect();
    let (height, block) = (header.height, header.hash());
    let signature = |position: &u16| {
        let voter = committee.members()[usize::from(*position)].node;
        let key = keys.iter().find(|key| key.public() == voter).unwrap();
        let vote = Vote { height, round: 0, kind: VoteKind::Precommit, block: Some(block), voter };
        CommitSignature { position: *position, signature: vote.sign(chain, key).signature }
    };
    let signatures = positions.iter().map(signature).collect();
    CertifiedHeader {
        header,
        certificate: CommitCertificate { height, round: 0, block, signatures },
    }
}

fn all(committee: &Committee) -> Vec<u16> {
    (0..u16::try_from(committee.members().len()).unwrap()).collect()
}

/// The last header of `epoch` and the layout of the next epoch's committee.
fn handover(chain: &Chain, epoch: u64) -> (CertifiedHeader, Vec<u8>) {
    let last = chain.blocks.iter().rposition(|(block, _)| block.header.epoch.get() == epoch);
    let next = chain.state.committee().in_epoch(Epoch::new(epoch + 1));
    (certified(chain, last.unwrap() + 1), next.to_bytes())
}

/// A chain of so many whole epochs and one block more, with a transfer in the first block.
fn chain(epochs: usize) -> Chain {
    let mut chain = Chain::new(&network());
    let transfer = Operation::Transfer { to: account(1), amount: Amount::from_wal(5) };
    let signed = chain.sign(&account_key(0), vec![transfer]);
    chain.commit(&[signed]);
    for _ in 0..epochs {
        chain.next_epoch();
    }
    chain.commit(&[]);
    chain
}

// --- following -------------------------------------------------------------------------------

#[test]
fn committees_are_followed_over_ten_epochs_and_from_a_checkpoint_in_a_file() {
    let chain = chain(12);
    let mut client = from_genesis(&network());
    assert!(client.checkpoint().is_none(), "nothing verified yet");
    for epoch in 0..10 {
        assert_eq!(client.epoch(), Epoch::new(epoch));
        let (last, next) = handover(&chain, epoch);
        let now = last.header.time;
        let verified = client.handover(last, &next, now).unwrap();
        assert_eq!(client.newest(), Some(&verified));
        assert_eq!(client.committee().hash(), verified.header().next_committee);
    }
    assert_eq!(client.epoch(), Epoch::new(10));

    let text = serde_json::to_string_pretty(&client.checkpoint().unwrap()).unwrap();
    let checkpoint: Checkpoint = serde_json::from_str(&text).unwrap();
    assert_eq!(client.checkpoint(), Some(checkpoint.clone()));
    let start = Start::Checkpoint(Box::new(checkpoint.clone()));
    let now = checkpoint.root.time;
    let mut later = LightClient::new(&network(), &start, OldRoot::Refuse, now).unwrap();
    assert_eq!(later.epoch(), Epoch::new(10));
    assert_eq!(later.committee(), client.committee());
    let tip = certified(&chain, chain.blocks.len());
    let needs = LightError::Epoch { epoch: Epoch::new(12), expected: Epoch::new(10) };
    assert_eq!(later.accept(tip.clone(), now), Err(needs));
    for epoch in 10..12 {
        let (last, next) = handover(&chain, epoch);
        let now = last.header.time;
        later.handover(last, &next, now).unwrap();
    }
    let verified = later.accept(tip.clone(), tip.header.time).unwrap();
    assert_eq!(later.newest(), Some(&verified));
}

#[test]
fn the_newest_header_never_goes_back_and_older_ones_still_verify() {
    let chain = chain(1);
    let mut client = from_genesis(&network());
    let (last, next) = handover(&chain, 0);
    client.handover(last, &next, at(DAY_MS)).unwrap();
    let tip = certified(&chain, chain.blocks.len());
    let newest = client.accept(tip.clone(), at(DAY_MS)).unwrap();
    for height in 1..chain.blocks.len() {
        let old = certified(&chain, height);
        let verified = client.accept(old.clone(), at(DAY_MS)).unwrap();
        assert_eq!(*verified.told(), old.into());
        assert_eq!(client.newest(), Some(&newest));
    }
    assert_eq!(client.accept(tip, at(DAY_MS)), Ok(newest));
}

#[test]
fn a_handover_that_is_none_changes_nothing() {
    let chain = chain(2);
    let mut client = from_genesis(&network());
    let (last, next) = handover(&chain, 0);
    let (second, after) = handover(&chain, 1);
    let epoch = |epoch, expected| LightError::Epoch {
        epoch: Epoch::new(epoch),
        expected: Epoch::new(expected),
    };
    // Signed by a quorum of the running committee, but names itself, or one two epochs later.
    let committee = chain.state.committee().in_epoch(Epoch::new(0));
    let naming = |next: &Committee| {
        let header = Header { next_committee: next.hash(), ..last.header };
        (sign(&chain.id(), header, &committee, &all(&committee)), next.to_bytes())
    };
    let (to_itself, itself) = naming(&committee);
    let (two_on, far) = naming(&committee.in_epoch(Epoch::new(2)));
    let (wide, wide_next) = naming(&self::committee(5, 64).in_epoch(Epoch::new(1)));
    let mut unsigned = last.clone();
    unsigned.certificate.signatures.clear();
    for (name, last, next, error) in [
        ("another committee", last.clone(), after.clone(), LightError::OtherCommittee),
        ("no committee", last.clone(), Vec::new(), LightError::OtherCommittee),
        ("a later epoch", second, after, epoch(1, 0)),
        ("the same committee", to_itself, itself, epoch(0, 1)),
        ("an epoch left out", two_on, far, epoch(2, 1)),
        ("other shards", wide, wide_next, LightError::OtherCommittee),
        (
            "no signatures",
            unsigned,
            next.clone(),
            CommitCertificateError::NoQuorum { weight: 0, n_shards: 7 }.into(),
        ),
    ] {
        assert_eq!(client.handover(last, &next, at(DAY_MS)), Err(error), "{name}");
        assert_eq!((client.epoch(), client.newest()), (Epoch::new(0), None), "{name}");
    }
    client.handover(last.clone(), &next, at(DAY_MS)).unwrap();
    assert_eq!(client.handover(last, &next, at(DAY_MS)), Err(epoch(0, 1)), "again");
}

// --- old roots -------------------------------------------------------------------------------

#[test]
fn old_roots_are_refused_unless_the_caller_insists() {
    let chain = chain(3);
    let genesis = network();
    let mut client = from_genesis(&genesis);
    client.accept(certified(&chain, 1), at(0)).unwrap();
    let checkpoint = Start::Checkpoint(Box::new(client.checkpoint().unwrap()));
    let max_ms = 2 * DAY_MS;
    for start in [Start::Genesis { started: Some(at(0)) }, checkpoint] {
        for (age_ms, error) in [
            (0, None),
            (max_ms, None),
            (max_ms + 1, Some(LightError::TooOld { age_ms: max_ms + 1, max_ms })),
        ] {
            let client = LightClient::new(&genesis, &start, OldRoot::Refuse, at(age_ms));
            assert_eq!(client.err(), error, "{start:?} after {age_ms} ms");
        }
        let now = at(1_000 * DAY_MS);
        let mut client = LightClient::new(&genesis, &start, OldRoot::Trust, now).unwrap();
        for epoch in 0..3 {
            let (last, next) = handover(&chain, epoch);
            client.handover(last, &next, now).unwrap();
        }
    }
    // Nobody knows when the genesis was made: its first epoch must not have ended long ago.
    let start = Start::Genesis { started: None };
    let late = at(10 * DAY_MS);
    let mut client = LightClient::new(&genesis, &start, OldRoot::Refuse, late).unwrap();
    let (last, next) = handover(&chain, 0);
    let age_ms = late.ms_since(last.header.time);
    assert_eq!(client.handover(last, &next, late), Err(LightError::TooOld { age_ms, max_ms }));
    // What was young when it started is old when it wakes up.
    let mut sleeper = from_genesis(&genesis);
    assert_eq!(
        sleeper.accept(certified(&chain, 1), late),
        Err(LightError::TooOld { age_ms: 10 * DAY_MS, max_ms })
    );
}

#[test]
fn a_checkpoint_whose_parts_do_not_belong_together_is_refused() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    client.accept(certified(&chain, 1), at(0)).unwrap();
    let good = client.checkpoint().unwrap();
    let check = |name: &str, change: &dyn Fn(&mut Checkpoint), error: LightError| {
        let mut checkpoint = good.clone();
        change(&mut checkpoint);
        let start = Start::Checkpoint(Box::new(checkpoint));
        let client = LightClient::new(&network(), &start, OldRoot::Refuse, at(0));
        assert_eq!(client.err(), Some(error), "{name}");
    };
    let other = committee(7, 7).to_bytes();
    check("chain", &|c| c.chain = ChainId::new(Hash::ZERO), LightError::OtherChain);
    check("hash", &|c| c.root.hash = BlockHash::new(Hash::ZERO), LightError::OtherHeader);
    check("time", &|c| c.root.time = at(1), LightError::OtherHeader);
    check("height", &|c| c.root.height = Height::new(2), LightError::OtherHeader);
    check("header", &|c| c.header.state_root = Hash::ZERO, LightError::OtherHeader);
    check("committee", &|c| c.committee.clone_from(&other), LightError::OtherCommittee);
}

// --- facts -----------------------------------------------------------------------------------

#[test]
fn false_facts_are_refused() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    let first = client.accept(certified(&chain, 1), at(0)).unwrap();
    let second = client.accept(certified(&chain, 2), at(200)).unwrap();
    let mine = Key::Account(account(0));
    let blob = Key::Registration(RegistrationId::new([7; 32]));
    let prove = |version, key: &Key| StateProof::new(&chain.store, version, key).unwrap();
    let (balance, absent) = (prove(1, &mine), prove(1, &blob));
    let Some(Record::Account(found)) = first.fact(&mine, &balance).unwrap() else {
        panic!("the account is there");
    };
    assert_eq!((found.balance, found.nonce), (chain.balance(&account(0)), 1));
    assert_eq!(first.fact(&blob, &absent), Ok(None));

    let rich = Record::Account(Account { balance: Amount::from_wal(1_000_000), nonce: 1 });
    let value =
        |proof: &StateProof, value: Option<Vec<u8>>| StateProof { value, path: proof.path.clone() };
    let bytes = borsh::to_vec(&rich).unwrap();
    let truth = balance.value.clone();
    for (name, key, proof) in [
        ("a false balance", &mine, value(&balance, Some(bytes.clone()))),
        ("a present account called absent", &mine, value(&balance, None)),
        ("absence proven by another key's path", &mine, absent.clone()),
        ("an absent blob called present", &blob, value(&absent, Some(bytes))),
        ("an absent blob with another record", &blob, value(&absent, truth.clone())),
        ("another account's proof", &mine, prove(1, &Key::Account(account(1)))),
        ("another account's path", &mine, value(&prove(1, &Key::Account(account(1))), truth)),
        ("the proof of another height", &mine, prove(0, &mine)),
        ("no path", &mine, StateProof { path: Vec::new(), ..balance.clone() }),
        (
            "a path that never ends",
            &mine,
            StateProof { path: vec![0; 64 << 10], ..balance.clone() },
        ),
    ] {
        assert!(matches!(first.fact(key, &proof), Err(LightError::Proof(_))), "{name}");
    }
    // The account is the same after the second block, but the tree around it is not.
    assert!(matches!(second.fact(&mine, &balance), Err(LightError::Proof(_))));
    assert_eq!(second.fact(&mine, &prove(2, &mine)), Ok(Some(Record::Account(found))));
}

#[test]
fn an_answer_has_one_proof_per_key_at_the_height_that_was_asked() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    let keys = [Key::Account(account(0)), Key::Registration(RegistrationId::new([7; 32]))];
    let prove = |key: &Key| StateProof::new(&chain.store, 1, key).unwrap();
    let proofs = keys.each_ref().map(prove);
    let first = || certified(&chain, 1);
    let height = Some(Height::new(1));
    for (name, asked, proofs) in [
        ("another height", (Some(Height::new(2)), &keys[..]), &proofs[..]),
        ("a proof missing", (height, &keys[..]), &proofs[..1]),
        ("a proof too many", (height, &keys[..1]), &proofs[..]),
    ] {
        let answer = client.facts(asked, first(), proofs, at(0));
        assert_eq!(answer, Err(LightError::OtherAnswer), "{name}");
    }
    let swapped = [proofs[1].clone(), proofs[0].clone()];
    let answer = client.facts((None, &keys), first(), &swapped, at(0));
    assert!(matches!(answer, Err(LightError::Proof(_))));
    for asked in [None, height] {
        let (header, records) = client.facts((asked, &keys), first(), &proofs, at(0)).unwrap();
        assert_eq!(Some(&header), client.newest());
        assert!(matches!(records[..], [Some(Record::Account(_)), None]), "{records:?}");
    }
}

#[test]
fn before_the_first_block_facts_are_proven_by_the_genesis() {
    let chain = Chain::new(&network());
    let state = VerifiedState::genesis(&network()).unwrap();
    assert_eq!(state.height(), Height::new(0));
    let key = Key::Account(account(0));
    let proof = StateProof::new(&chain.store, 0, &key).unwrap();
    let account = Account { balance: Amount::from_wal(1_000), nonce: 0 };
    assert_eq!(state.fact(&key, &proof), Ok(Some(Record::Account(account))));
    assert!(state.fact(&Key::Summary, &proof).is_err());
}

#[test]
fn a_receipt_is_of_one_transaction_in_one_block() {
    let chain = chain(0);
    let client = from_genesis(&network());
    let (body, id) = (&chain.blocks[0].0.body, chain.id());
    let good = Inclusion::new(&id, certified(&chain, 1), body, 0).unwrap();
    assert!(Inclusion::new(&id, certified(&chain, 1), body, 1).is_none());
    let wanted = body.transactions[0].id(&id);
    let (header, signed) = client.inclusion(&good, &wanted).unwrap();
    assert_eq!((header.header().height, signed), (Height::new(1), body.transactions[0].clone()));

    let other = TransactionId::new(Hash::ZERO);
    let check = |name: &str, id, change: &dyn Fn(&mut Inclusion), error: InclusionError| {
        let mut inclusion = good.clone();
        change(&mut inclusion);
        assert_eq!(client.inclusion(&inclusion, id), Err(error.into()), "{name}");
    };
    let (path, same) = (InclusionError::Path, InclusionError::OtherTransaction);
    check("another id", &other, &|_| (), same);
    check("no bytes", &wanted, &|i| i.transaction.clear(), InclusionError::Malformed);
    check("another signature", &wanted, &|i| i.transaction[150] ^= 1, same);
    check("another block", &wanted, &|i| i.certified = certified(&chain, 2), path);
    check("a longer path", &wanted, &|i| i.path.push(Hash::ZERO), path);
    check("another place", &wanted, &|i| i.position = 1, path);
    check("impossible leaves", &wanted, &|i| i.leaves = u32::MAX, path);
    let mut unsigned = good.clone();
    unsigned.certified.certificate.signatures.clear();
    assert!(matches!(client.inclusion(&unsigned, &wanted), Err(LightError::Certificate(_))));
}

// --- forged headers --------------------------------------------------------------------------

#[test]
fn forged_headers_are_refused() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    let good = certified(&chain, 1);
    let committee = chain.state.committee();
    let forged = Header { state_root: Hash::ZERO, ..good.header };
    let quorum = sign(&chain.id(), good.header, committee, &[0, 1, 2]);
    let change = |change: &dyn Fn(&mut CertifiedHeader)| {
        let mut certified = quorum.clone();
        change(&mut certified);
        certified
    };
    let elsewhere = sign(&ChainId::new(Hash::ZERO), good.header, committee, &[0, 1, 2, 3]);
    let other_epoch = Header { epoch: Epoch::new(1), ..good.header };
    let weight = |positions: &[usize]| -> u16 {
        positions.iter().map(|position| committee.members()[*position].weight()).sum()
    };
    let signers: LightError = CommitCertificateError::Signers.into();
    let two = CommitCertificateError::NoQuorum { weight: weight(&[0, 1]), n_shards: 7 };
    let bad = |position| LightError::from(CommitCertificateError::Signature(position));
    for (name, certified, error) in [
        ("below quorum", sign(&chain.id(), good.header, committee, &[0, 1]), two.into()),
        ("another header", change(&|c| c.header = forged), LightError::OtherBlock),
        (
            "another height",
            change(&|c| c.certificate.height = Height::new(2)),
            LightError::OtherBlock,
        ),
        (
            "another block's signatures",
            change(&|c| {
                c.header = forged;
                c.certificate.block = forged.hash();
            }),
            bad(0),
        ),
        ("another round's", change(&|c| c.certificate.round = 1), bad(0)),
        (
            "a signer twice",
            change(&|c| c.certificate.signatures[1] = c.certificate.signatures[0]),
            signers.clone(),
        ),
        ("out of order", change(&|c| c.certificate.signatures.swap(0, 1)), signers.clone()),
        ("an unknown signer", change(&|c| c.certificate.signatures[2].position = 4), signers),
        (
            "a member's signature for another",
            change(&|c| c.certificate.signatures[2].position = 3),
            bad(3),
        ),
        ("another chain's", elsewhere, bad(0)),
        (
            "another epoch's",
            sign(&chain.id(), other_epoch, committee, &[0, 1, 2]),
            LightError::Epoch { epoch: Epoch::new(1), expected: Epoch::new(0) },
        ),
    ] {
        assert_eq!(client.accept(certified, at(0)), Err(error), "{name}");
        assert_eq!(client.newest(), None, "{name}");
    }
    client.accept(quorum, at(0)).unwrap();
}

#[test]
fn an_old_committee_decides_nothing_after_its_epoch() {
    let chain = chain(1);
    let mut client = from_genesis(&network());
    let old = chain.state.committee().in_epoch(Epoch::new(0));
    let new = committee(7, 7).in_epoch(Epoch::new(1));
    let (last, _) = handover(&chain, 0);
    let last = Header { next_committee: new.hash(), ..last.header };
    let certified = sign(&chain.id(), last, &old, &all(&old));
    client.handover(certified, &new.to_bytes(), at(DAY_MS)).unwrap();

    let next = Header {
        height: last.height.next(),
        parent: last.hash(),
        time: last.time.plus_ms(50),
        epoch: Epoch::new(1),
        ..last
    };
    let by_old = sign(&chain.id(), next, &old, &all(&old));
    assert!(matches!(client.accept(by_old, at(DAY_MS)), Err(LightError::Certificate(_))));
    client.accept(sign(&chain.id(), next, &new, &all(&new)), at(DAY_MS)).unwrap();
    // Going on in its own epoch, with valid signatures, the old committee proves its lie.
    let longer = Header { epoch: Epoch::new(0), next_committee: old.hash(), ..next };
    let longer = sign(&chain.id(), longer, &old, &all(&old));
    let Err(LightError::Fork(fork)) = client.accept(longer.clone(), at(DAY_MS)) else {
        panic!("two ends of an epoch");
    };
    assert_eq!((fork.known.header, fork.other), (last, longer.into()));
}

#[test]
fn certified_headers_that_exclude_each_other_are_a_fork_with_both_certificates() {
    let chain = chain(0);
    let id = chain.id();
    let committee = chain.state.committee();
    let known = certified(&chain, 2);
    let header = known.header;
    let final_ = |header| sign(&id, header, committee, &[0, 1, 2]);
    let mut client = from_genesis(&network());
    let newest = client.accept(known.clone(), at(200)).unwrap();
    let above = Height::new(3);
    for (name, other) in [
        ("the same height", Header { state_root: Hash::ZERO, ..header }),
        ("another parent", Header { height: above, time: header.time.plus_ms(1), ..header }),
        ("later, but not by time", Header { height: above, parent: newest.hash(), ..header }),
        ("not the parent", Header { round: 1, ..certified(&chain, 1).header }),
    ] {
        let other = final_(other);
        let Err(LightError::Fork(fork)) = client.accept(other.clone(), at(200)) else {
            panic!("{name} is a fork");
        };
        let both = Fork { known: known.clone().into(), other: other.into() };
        assert_eq!(*fork, both, "{name}");
        assert_eq!(client.newest(), Some(&newest), "{name}");
    }
    // The same block with other signers of the quorum is no fork.
    assert_eq!(client.accept(final_(header), at(200)).unwrap().hash(), newest.hash());
    // What excludes the root has no second certificate to show.
    let orphan = Header { parent: BlockHash::new(Hash::ZERO), ..certified(&chain, 1).header };
    let excluded = Err(LightError::ExcludesRoot(Height::new(1)));
    assert_eq!(client.accept(final_(orphan), at(200)), excluded);
}

// --- freshness -------------------------------------------------------------------------------

#[test]
fn a_round_ends_when_an_honest_member_must_have_answered_or_at_its_deadline() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    let low = client.accept(certified(&chain, 1), at(0)).unwrap();
    let high = client.accept(certified(&chain, 2), at(0)).unwrap();
    let committee = Arc::clone(client.committee());
    let stranger = node_keys(9)[8].0.public();
    let node = |position: usize| committee.members()[position].node;
    assert_eq!(
        committee.members().iter().map(|member| member.weight()).max(),
        Some(2),
        "no member alone weighs more than f = 2 of 7"
    );
    let limits = FreshnessLimits::default();
    let start = || Freshness::new(Arc::clone(&committee), limits, at(0));
    let asking = Progress::Asking { until: at(3_000) };
    // Answers, then when the round is over with what.
    for (answers, now, expected) in [
        (vec![], at(2_999), None),
        (vec![], at(3_000), Some((None, false))),
        (vec![(node(0), Some(&high))], at(2_999), None),
        (vec![(node(0), Some(&high)); 5], at(2_999), None),
        (vec![(node(0), Some(&high))], at(3_000), Some((Some(&high), false))),
        (vec![(stranger, Some(&high)), (node(0), Some(&low))], at(10), None),
        (vec![(node(0), None), (node(1), None)], at(10), Some((None, true))),
        (vec![(node(0), Some(&low)), (node(1), Some(&low))], at(10), Some((Some(&low), true))),
        (vec![(node(0), Some(&high)), (node(1), Some(&low))], at(10), Some((Some(&high), true))),
        (vec![(node(0), Some(&low)), (node(1), Some(&high))], at(10), Some((Some(&high), true))),
        (
            vec![(stranger, Some(&high)), (node(0), None), (node(1), Some(&low))],
            at(10),
            Some((Some(&high), true)),
        ),
    ] {
        let mut round = start();
        for (node, newest) in &answers {
            round.answered(node, newest.cloned());
        }
        match (round.progress(now), expected) {
            (progress, None) => assert_eq!(progress, asking, "{answers:?} at {now}"),
            (Progress::Done(newest), Some((header, validity))) => {
                assert_eq!((newest.header.as_ref(), newest.validity), (header, validity));
                assert_eq!(newest.ended, now);
                assert!(!newest.may_ask_again(now.plus_ms(1_999)));
                assert!(newest.may_ask_again(now.plus_ms(2_000)));
            }
            (progress, Some(_)) => panic!("{progress:?} for {answers:?} at {now}"),
        }
    }
}

#[test]
fn age_says_what_a_header_is_good_for() {
    let chain = chain(0);
    let mut client = from_genesis(&network());
    let header = client.accept(certified(&chain, 1), at(0)).unwrap();
    let time = header.header().time;
    let members = client.committee().members().to_vec();
    let found = |header: Option<_>, answers: usize, now: Timestamp| {
        let limits = FreshnessLimits::default();
        let mut round = Freshness::new(Arc::clone(client.committee()), limits, now);
        for member in &members[..answers] {
            round.answered(&member.node, Option::clone(&header));
        }
        match round.progress(now.plus_ms(limits.deadline_ms)) {
            Progress::Done(newest) => newest,
            Progress::Asking { .. } => panic!("the deadline has passed"),
        }
    };
    let newest = found(Some(header), 2, time);
    let max_ms = 60_000;
    for (now, expected) in [
        (time, Ok(())),
        (time.plus_ms(max_ms), Ok(())),
        (time.plus_ms(max_ms + 1), Err(Unfit::TooOld { age_ms: max_ms + 1, max_ms })),
        (Timestamp::from_ms(time.ms() - max_ms), Ok(())),
        (Timestamp::from_ms(time.ms() - max_ms - 1), Err(Unfit::Clock { ahead_ms: max_ms + 1 })),
    ] {
        assert_eq!(newest.for_write(now), expected, "at {now}");
        let fitness = expected.map_or_else(Fitness::Old, |()| Fitness::Fresh);
        assert_eq!(newest.for_read(now), fitness, "at {now}");
    }
    assert_eq!(newest.age_ms(time.plus_ms(7)), Some(7));
    // No block yet: an honest member says so, or nobody does.
    assert_eq!(found(None, 2, time).for_write(time), Ok(()));
    for answers in [0, 1] {
        assert_eq!(found(None, answers, time).for_write(time), Err(Unfit::NoAnswer));
    }
    assert_eq!(found(None, 2, time).age_ms(time), None);
}
