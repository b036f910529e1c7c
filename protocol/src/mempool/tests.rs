use super::*;
use crate::{
    challenge::{ChallengeCertificate, ChallengeFact},
    hash::Hash,
    index::{ChallengeRound, Epoch, Height},
    keys::{BlsKeyPair, ChainId, KeyPair},
    ledger::{BlockHash, NodeReady, Operation},
    test_support::committee,
    vote::{Equivocation, Vote, VoteKind},
};

mod model;

const CHAIN: ChainId = ChainId::new(Hash::new([7; 32]));
const NEVER: u64 = u64::MAX;

fn key(account: u8) -> KeyPair {
    KeyPair::from_seed([account + 1; 32])
}

fn id_of(account: u8) -> AccountId {
    AccountId::new(key(account).public())
}

/// What a test says of a transaction; the name that it sets makes it longer.
#[derive(Clone, Copy, Debug)]
struct Draft {
    account: u8,
    nonce: u64,
    fee: u128,
    name_bytes: usize,
    expires: u64,
}

impl Draft {
    fn sign(self) -> Arc<VerifiedTransaction> {
        let key = key(self.account);
        let name = "x".repeat(self.name_bytes);
        let transaction = Transaction {
            sender: AccountId::new(key.public()),
            nonce: self.nonce,
            fee: Amount::from_frost(self.fee),
            expires: Timestamp::from_ms(self.expires),
            operations: vec![Operation::SetName { name, blob: None, version: 1 }],
        };
        Arc::new(transaction.sign(&CHAIN, &key).verify(&CHAIN).unwrap())
    }
}

fn draft(account: u8, nonce: u64, fee: u128) -> Draft {
    Draft { account, nonce, fee, name_bytes: 10, expires: NEVER }
}

/// Bytes of what [`draft`] makes.
fn draft_bytes() -> usize {
    draft(0, 0, 1).sign().bytes()
}

fn facts(nonce: u64, balance: u128) -> AccountFacts {
    AccountFacts { nonce, balance: Amount::from_frost(balance) }
}

fn mempool(config: MempoolConfig) -> Mempool {
    Mempool::new(config, Timestamp::from_ms(0))
}

/// Inserts for an account at nonce 0 that can pay everything.
fn insert(mempool: &mut Mempool, draft: Draft) -> Result<Inserted, MempoolError> {
    mempool.insert(0, draft.sign(), facts(0, u128::MAX))
}

fn fill(mempool: &mut Mempool, drafts: &[(u8, u64, u128)]) {
    for &(account, nonce, fee) in drafts {
        let inserted = insert(mempool, draft(account, nonce, fee));
        assert!(inserted.is_ok(), "{account} {nonce} {fee}: {inserted:?}");
    }
}

/// Account and nonce of what is offered, in block order.
fn offered(mempool: &Mempool) -> Vec<(u8, u64)> {
    let account = |id: AccountId| (0..100).find(|account| id_of(*account) == id).unwrap();
    let name = |t: &Transaction| (account(t.sender), t.nonce);
    mempool.candidates().map(|transaction| name(transaction.transaction())).collect()
}

#[test]
fn candidates_come_by_fee_then_arrival_and_by_nonce_within_an_account() {
    for (drafts, expected) in [
        // By fee.
        (vec![(0, 0, 10), (1, 0, 30), (2, 0, 20)], vec![(1, 0), (2, 0), (0, 0)]),
        // Equal fees: by arrival.
        (vec![(2, 0, 10), (0, 0, 10), (1, 0, 10)], vec![(2, 0), (0, 0), (1, 0)]),
        // A dear one ranks as the cheap one before it.
        (vec![(0, 0, 10), (0, 1, 99), (1, 0, 20)], vec![(1, 0), (0, 0), (0, 1)]),
        // A cheap one does not hold up the dear one before it.
        (vec![(0, 0, 30), (0, 1, 10), (1, 0, 20)], vec![(0, 0), (1, 0), (0, 1)]),
        // Whoever closes a gap late comes late, and so do those behind it.
        (vec![(0, 1, 10), (1, 0, 10), (0, 0, 10)], vec![(1, 0), (0, 0), (0, 1)]),
    ] {
        let mut mempool = mempool(MempoolConfig::default());
        fill(&mut mempool, &drafts);
        assert_eq!(offered(&mempool), expected, "{drafts:?}");
    }
}

#[test]
fn fees_count_per_byte() {
    let mut mempool = mempool(MempoolConfig::default());
    let long = Draft { name_bytes: 64, ..draft(0, 0, 110) };
    assert!(long.sign().bytes() * 10 > draft_bytes() * 11);
    insert(&mut mempool, long).unwrap();
    insert(&mut mempool, draft(1, 0, 100)).unwrap();
    assert_eq!(offered(&mempool), [(1, 0), (0, 0)]);
}

#[test]
fn what_follows_a_skipped_one_is_not_offered() {
    let mut mempool = mempool(MempoolConfig::default());
    fill(&mut mempool, &[(0, 0, 30), (0, 1, 30), (1, 0, 20), (0, 2, 10), (2, 0, 5)]);
    let mut candidates = mempool.candidates();
    assert_eq!(candidates.next().unwrap().transaction().sender, id_of(0));
    candidates.skip_account(id_of(0));
    let rest: Vec<AccountId> = candidates.map(|t| t.transaction().sender).collect();
    assert_eq!(rest, [id_of(1), id_of(2)]);
}

#[test]
fn refusals() {
    let config = MempoolConfig {
        account_transactions_max: 4,
        account_held_max: 1,
        account_bytes_max: 3 * draft_bytes(),
        fee_min: Amount::from_frost(5),
        ..MempoolConfig::default()
    };
    let start = |drafts: &[(u8, u64, u128)]| {
        let mut mempool = mempool(config);
        mempool.committed(Timestamp::from_ms(1_000), &[], &[]);
        fill(&mut mempool, drafts);
        mempool
    };
    let check = |drafts: &[(u8, u64, u128)], draft: Draft, facts, expected| {
        let (mut mempool, transaction) = (start(drafts), draft.sign());
        let before = (mempool.stats(), offered(&mempool));
        let checked = mempool.check(transaction.transaction(), transaction.bytes(), facts);
        assert_eq!(checked, Err(expected), "{draft:?}");
        assert_eq!(mempool.insert(0, transaction, facts), Err(expected), "{draft:?}");
        assert_eq!((mempool.stats(), offered(&mempool)), before, "{draft:?}");
    };
    let rich = facts(0, 1_000_000);
    let fee_too_low = |min| MempoolError::FeeTooLow { min: Amount::from_frost(min) };
    let too_high = |next| MempoolError::NonceTooHigh { next, transactions_max: 4 };
    check(&[], draft(0, 0, 4), rich, fee_too_low(5));
    check(&[], Draft { expires: 1_000, ..draft(0, 0, 9) }, rich, MempoolError::Expired);
    check(&[], draft(0, 6, 9), facts(7, 100), MempoolError::Stale { next: 7 });
    check(&[], draft(0, 4, 9), rich, too_high(0));
    check(&[], draft(0, NEVER, 9), rich, too_high(0));
    check(&[], draft(0, NEVER, 9), facts(NEVER, 100), too_high(NEVER));
    check(&[], draft(0, 0, 9), AccountFacts::default(), MempoolError::Unaffordable);
    check(&[], draft(0, 0, u128::MAX), facts(0, 100), MempoolError::Unaffordable);
    check(&[(0, 0, 60)], draft(0, 1, 41), facts(0, 100), MempoolError::Unaffordable);
    check(&[(0, 2, 60)], draft(0, 0, 41), facts(0, 100), MempoolError::Unaffordable);
    check(&[(0, 0, 60)], draft(0, 0, 101), facts(0, 100), MempoolError::Unaffordable);
    check(&[(0, 2, 9)], draft(0, 3, 9), rich, MempoolError::AccountFull);
    check(&[(0, 0, 9), (0, 1, 9), (0, 2, 9)], draft(0, 3, 9), rich, MempoolError::AccountFull);
    check(&[(0, 0, 100)], draft(0, 0, 109), rich, fee_too_low(110));
    check(&[(0, 2, 101)], draft(0, 2, 111), rich, fee_too_low(112));
    check(&[(0, 0, 5)], Draft { name_bytes: 9, ..draft(0, 0, 5) }, rich, fee_too_low(6));
}

#[test]
fn duplicates_and_replays_are_known() {
    let mut mempool = mempool(MempoolConfig { remembered_max: 2, ..MempoolConfig::default() });
    let transactions: Vec<_> = (0..4).map(|nonce| draft(0, nonce, 9).sign()).collect();
    let rich = facts(0, u128::MAX);
    assert!(!mempool.knows(&transactions[0].id()));
    // One ready, one held.
    for i in [0, 2] {
        mempool.insert(0, Arc::clone(&transactions[i]), rich).unwrap();
        assert!(mempool.knows(&transactions[i].id()));
        assert_eq!(mempool.get(&transactions[i].id()), Some(&transactions[i]));
        let again = mempool.insert(0, Arc::clone(&transactions[i]), rich);
        assert_eq!(again, Err(MempoolError::Known));
    }
    assert_eq!(mempool.len(), 2);
    // Committed, though two of them were never here.
    let ids: Vec<_> = transactions.iter().map(|transaction| transaction.id()).collect();
    mempool.committed(Timestamp::from_ms(1), &ids, &[(id_of(0), facts(4, 9))]);
    assert!(mempool.is_empty());
    let known: Vec<bool> = ids.iter().map(|id| mempool.knows(id)).collect();
    assert_eq!(known, [false, false, true, true], "the latest two");
    let replay = |mempool: &mut Mempool, i: usize| {
        mempool.insert(0, Arc::clone(&transactions[i]), facts(4, u128::MAX))
    };
    assert_eq!(replay(&mut mempool, 3), Err(MempoolError::Known));
    assert_eq!(replay(&mut mempool, 0), Err(MempoolError::Stale { next: 4 }));
}

#[test]
fn a_replacement_pays_a_tenth_more_and_no_less_per_byte() {
    let long = Draft { name_bytes: 64, ..draft(0, 1, 0) };
    let per_byte = (1_000 * long.sign().bytes() as u128).div_ceil(draft_bytes() as u128);
    for (with, accepted) in [
        (draft(0, 1, 1_099), false),
        (draft(0, 1, 1_100), true),
        (Draft { name_bytes: 1, ..draft(0, 1, 1_099) }, false),
        (Draft { name_bytes: 1, ..draft(0, 1, 1_100) }, true),
        (Draft { fee: per_byte - 1, ..long }, false),
        (Draft { fee: per_byte, ..long }, true),
    ] {
        // Ready between two others, and held.
        for (drafts, newly_ready) in
            [(vec![(0, 0, 2_000), (0, 1, 1_000), (0, 2, 3_000)], 1), (vec![(0, 1, 1_000)], 0)]
        {
            let mut mempool = mempool(MempoolConfig::default());
            fill(&mut mempool, &drafts);
            let (before, ready) = (mempool.stats(), offered(&mempool));
            let replaced = draft(0, 1, 1_000).sign().id();
            let result = insert(&mut mempool, with);
            assert_eq!(result.is_ok(), accepted, "{with:?} {result:?}");
            assert_eq!(offered(&mempool), ready, "in the same place");
            if accepted {
                assert_eq!(result, Ok(Inserted { newly_ready, replaced: Some(replaced) }));
                assert!(!mempool.knows(&replaced));
                let after = mempool.stats();
                assert_eq!((after.ready, after.held), (before.ready, before.held));
                let bytes = before.ready_bytes + before.held_bytes + with.sign().bytes();
                assert_eq!(mempool.bytes() + draft_bytes(), bytes);
            } else {
                assert_eq!(mempool.stats(), before);
            }
        }
    }
}

#[test]
fn a_replacement_lifts_those_behind_it() {
    let mut mempool = mempool(MempoolConfig::default());
    fill(&mut mempool, &[(0, 0, 10), (0, 1, 50), (0, 2, 40), (1, 0, 45)]);
    assert_eq!(offered(&mempool), [(1, 0), (0, 0), (0, 1), (0, 2)]);
    fill(&mut mempool, &[(0, 0, 60)]);
    assert_eq!(offered(&mempool), [(0, 0), (0, 1), (1, 0), (0, 2)]);
}

#[test]
fn gaps_are_held_until_closed_or_overdue() {
    let config = MempoolConfig { hold_ms: 100, ..MempoolConfig::default() };
    let mut mempool = mempool(config);
    let put = |mempool: &mut Mempool, now_ms, nonce| {
        mempool.insert(now_ms, draft(0, nonce, 9).sign(), facts(0, 1_000)).unwrap().newly_ready
    };
    assert_eq!(put(&mut mempool, 0, 2), 0);
    assert_eq!(put(&mut mempool, 10, 1), 0);
    assert_eq!(put(&mut mempool, 20, 4), 0);
    assert_eq!((mempool.pending_nonce(&id_of(0)), mempool.is_idle()), (Some(0), true));
    mempool.expire(99);
    assert_eq!(put(&mut mempool, 99, 0), 3);
    assert_eq!(mempool.pending_nonce(&id_of(0)), Some(3));
    assert_eq!(offered(&mempool), [(0, 0), (0, 1), (0, 2)]);
    mempool.expire(119);
    assert_eq!(mempool.stats().held, 1);
    mempool.expire(120);
    let stats = mempool.stats();
    assert_eq!((stats.held, stats.held_bytes, stats.overdue, stats.ready), (0, 0, 1, 3));
    assert_eq!(put(&mut mempool, 200, 3), 1);
    assert_eq!(mempool.pending_nonce(&id_of(1)), None);
}

#[test]
fn held_places_are_few_and_go_to_the_dearest() {
    let config = MempoolConfig { held_max: 2, ..MempoolConfig::default() };
    let mut mempool = mempool(config);
    fill(&mut mempool, &[(0, 1, 10), (1, 1, 20)]);
    assert_eq!(insert(&mut mempool, draft(2, 1, 10)), Err(MempoolError::Full));
    fill(&mut mempool, &[(2, 1, 11)]);
    assert!(!mempool.knows(&draft(0, 1, 10).sign().id()));
    assert_eq!((mempool.stats().held, mempool.stats().evicted), (2, 1));
    assert_eq!(mempool.pending_nonce(&id_of(0)), None, "nothing is left of it");
    // Whoever closes its gap needs no held place.
    fill(&mut mempool, &[(2, 0, 1)]);
    assert_eq!(offered(&mempool), [(2, 0), (2, 1)]);
}

#[test]
fn a_full_mempool_gives_up_the_end_of_its_order() {
    let config = |transactions_max, bytes| MempoolConfig {
        transactions_max,
        bytes_max: bytes * draft_bytes(),
        ..MempoolConfig::default()
    };
    for config in [config(3, 99), config(99, 3)] {
        let mut mempool = mempool(config);
        fill(&mut mempool, &[(0, 0, 30), (1, 0, 10), (1, 1, 90)]);
        // Equal to the cheapest: no.
        assert_eq!(insert(&mut mempool, draft(2, 0, 10)), Err(MempoolError::Full));
        // Its own cheap head makes the dear follower cheap.
        assert_eq!(insert(&mut mempool, draft(1, 2, 90)), Err(MempoolError::Full));
        // The follower goes first, though its own fee is high.
        fill(&mut mempool, &[(2, 0, 11)]);
        assert_eq!(offered(&mempool), [(0, 0), (2, 0), (1, 0)]);
        fill(&mut mempool, &[(3, 0, 40)]);
        assert_eq!(offered(&mempool), [(3, 0), (0, 0), (2, 0)]);
        assert_eq!((mempool.stats().evicted, mempool.stats().accounts), (2, 3));
    }
}

#[test]
fn dear_transactions_behind_a_cheap_one_flush_nobody() {
    let mut mempool = mempool(MempoolConfig { transactions_max: 8, ..MempoolConfig::default() });
    let honest: Vec<_> = (0..8).map(|account| (account, 0, 20)).collect();
    fill(&mut mempool, &honest);
    assert_eq!(insert(&mut mempool, draft(9, 0, 1)), Err(MempoolError::Full));
    for nonce in 1..10 {
        insert(&mut mempool, draft(9, nonce, 1_000_000)).unwrap();
    }
    // Not even when the head comes last and would make them all ready at once.
    assert_eq!(insert(&mut mempool, draft(9, 0, 20)), Err(MempoolError::Full));
    let expected: Vec<_> = (0..8).map(|account| (account, 0)).collect();
    assert_eq!((offered(&mempool), mempool.stats().evicted), (expected, 0));
}

#[test]
fn a_refused_insert_evicts_nothing() {
    // Room for the long one would take a cheap and a dear one.
    let config = MempoolConfig { bytes_max: 3 * draft_bytes(), ..MempoolConfig::default() };
    let mut mempool = mempool(config);
    fill(&mut mempool, &[(0, 0, 10), (1, 0, 1_000), (2, 0, 1_000)]);
    let long = Draft { name_bytes: 20, ..draft(3, 0, 500) };
    assert_eq!(insert(&mut mempool, long), Err(MempoolError::Full));
    assert_eq!(offered(&mempool), [(1, 0), (2, 0), (0, 0)]);
    insert(&mut mempool, Draft { fee: 5_000, ..long }).unwrap();
    assert_eq!(offered(&mempool), [(3, 0), (1, 0)]);
}

#[test]
fn a_commit_drops_what_cannot_be_executed_any_more() {
    let start = || {
        let mut mempool = mempool(MempoolConfig::default());
        fill(&mut mempool, &[(0, 0, 10), (0, 1, 20), (0, 2, 30), (0, 4, 40), (1, 0, 10)]);
        mempool
    };
    // Account's nonce and balance after the block: what is offered, how many are held.
    for (nonce, balance, expected, held) in [
        (0, 1_000, vec![(0, 0), (0, 1), (0, 2), (1, 0)], 1),
        (1, 1_000, vec![(0, 1), (0, 2), (1, 0)], 1),
        (3, 1_000, vec![(1, 0)], 1),
        (4, 1_000, vec![(0, 4), (1, 0)], 0),
        (9, 1_000, vec![(1, 0)], 0),
        (0, 60, vec![(0, 0), (0, 1), (0, 2), (1, 0)], 0),
        (0, 59, vec![(0, 0), (0, 1), (1, 0)], 0),
        (0, 9, vec![(1, 0)], 0),
    ] {
        let mut mempool = start();
        mempool.committed(Timestamp::from_ms(1), &[], &[(id_of(0), facts(nonce, balance))]);
        let left = (offered(&mempool), mempool.stats().held);
        assert_eq!(left, (expected, held), "{nonce} {balance}");
    }
    // The ids alone say as much.
    let mut mempool = start();
    let ids = [draft(0, 0, 10), draft(0, 1, 20)].map(|draft| draft.sign().id());
    mempool.committed(Timestamp::from_ms(1), &ids, &[]);
    assert_eq!(offered(&mempool), [(0, 2), (1, 0)]);
    assert_eq!(mempool.pending_nonce(&id_of(0)), Some(3));
}

#[test]
fn a_newer_nonce_at_an_insert_is_believed() {
    let mut mempool = mempool(MempoolConfig::default());
    fill(&mut mempool, &[(0, 0, 10), (0, 1, 10), (0, 3, 10)]);
    let inserted = mempool.insert(0, draft(0, 2, 10).sign(), facts(2, 1_000)).unwrap();
    assert_eq!(inserted, Inserted { newly_ready: 2, replaced: None });
    assert_eq!(offered(&mempool), [(0, 2), (0, 3)]);
    // An older one is not.
    let stale = mempool.insert(0, draft(0, 1, 99).sign(), facts(0, 1_000));
    assert_eq!(stale, Err(MempoolError::Stale { next: 2 }));
}

#[test]
fn expired_and_refused_transactions_take_their_followers_along() {
    let start = || {
        let mut mempool = mempool(MempoolConfig::default());
        fill(&mut mempool, &[(0, 0, 10), (1, 0, 10)]);
        let middle = Draft { expires: 50, ..draft(0, 1, 10) };
        insert(&mut mempool, middle).unwrap();
        fill(&mut mempool, &[(0, 2, 10), (0, 4, 10)]);
        (mempool, middle.sign().id())
    };
    let left = [(0, 0), (1, 0)];
    let (mut mempool, _) = start();
    mempool.committed(Timestamp::from_ms(49), &[], &[]);
    assert_eq!(mempool.len(), 5);
    mempool.committed(Timestamp::from_ms(50), &[], &[]);
    assert_eq!(offered(&mempool), left);
    assert_eq!((mempool.len(), mempool.stats().expired), (2, 3));
    let (mut mempool, id) = start();
    mempool.refused(&id);
    assert_eq!(offered(&mempool), left);
    assert_eq!((mempool.len(), mempool.stats().refused), (2, 3));
    assert!(!mempool.knows(&id), "it may come again when the state has changed");
    mempool.refused(&id);
    assert_eq!(mempool.stats().refused, 3);
}

fn equivocation(offender: u8, height: u64, round: u32) -> SystemOperation {
    let voter = key(offender).public();
    let vote = |byte| {
        let block = Some(BlockHash::new(Hash::new([byte; 32])));
        let height = Height::new(height);
        Vote { height, round, kind: VoteKind::Prevote, block, voter }.sign(&CHAIN, &key(offender))
    };
    let equivocation = Equivocation { first: vote(1), second: vote(2) };
    SystemOperation::ReportEquivocation { equivocation }
}

#[test]
fn system_operations_are_few_and_one_per_key() {
    let config =
        MempoolConfig { system_max: 4, system_per_node_max: 2, ..MempoolConfig::default() };
    let mut mempool = mempool(config);
    let first = equivocation(0, 1, 0);
    assert!(mempool.is_idle() && !mempool.knows_system(&first));
    assert_eq!(mempool.insert_system(first.clone()), Ok(()));
    assert!(!mempool.is_idle() && mempool.is_empty());
    assert!(mempool.knows_system(&equivocation(0, 1, 5)), "another round, the same offence");
    assert_eq!(mempool.insert_system(equivocation(0, 1, 5)), Err(MempoolError::Known));
    let full = Err(MempoolError::SystemFull);
    for (offender, height, expected) in
        [(0, 2, Ok(())), (0, 3, full), (1, 1, Ok(())), (2, 1, Ok(())), (3, 1, full)]
    {
        let inserted = mempool.insert_system(equivocation(offender, height, 0));
        assert_eq!(inserted, expected, "{offender} {height}");
    }
    assert_eq!(mempool.system_candidates().count(), 4);
    mempool.committed_system(&[first, equivocation(9, 9, 0)], (Epoch::new(0), &[]));
    assert_eq!(mempool.insert_system(equivocation(0, 1, 7)), Err(MempoolError::Known));
    assert_eq!(mempool.insert_system(equivocation(9, 9, 0)), Err(MempoolError::Known));
    let later = equivocation(0, 2, 0);
    mempool.refused_system(&later);
    assert_eq!((mempool.stats().system, mempool.knows_system(&later)), (2, false));
    assert_eq!(mempool.insert_system(later), Ok(()));
}

#[test]
fn a_report_that_names_a_later_block_replaces_the_earlier_one() {
    let config = MempoolConfig { system_max: 1, ..MempoolConfig::default() };
    let mut mempool = mempool(config);
    let report = |epoch, height| {
        let block = (Height::new(height), BlockHash::new(Hash::ZERO));
        let report = NodeReady::new(&CHAIN, &key(0), Epoch::new(epoch), block);
        SystemOperation::NodeReady { report }
    };
    assert_eq!(mempool.insert_system(report(3, 10)), Ok(()));
    for old in [9, 10] {
        assert_eq!(mempool.insert_system(report(3, old)), Err(MempoolError::Known));
    }
    assert!(!mempool.knows_system(&report(3, 11)));
    assert_eq!(mempool.insert_system(report(3, 11)), Ok(()), "though there is no other place");
    assert_eq!(mempool.system_candidates().collect::<Vec<_>>(), [&report(3, 11)]);
    assert_eq!(mempool.insert_system(report(4, 12)), Err(MempoolError::SystemFull));
    mempool.committed_system(&[report(3, 11)], (Epoch::new(3), &[]));
    assert_eq!(mempool.insert_system(report(3, 12)), Err(MempoolError::Known));
    // Nobody commits this one, and its epoch ends.
    assert_eq!(mempool.insert_system(report(4, 13)), Ok(()));
    mempool.committed_system(&[], (Epoch::new(5), &[]));
    assert_eq!(mempool.insert_system(report(5, 14)), Ok(()), "its place is free again");
}

#[test]
fn challenge_certificates_have_places_of_their_own_while_their_rounds_are_open() {
    let config = MempoolConfig {
        system_max: 1,
        system_per_node_max: 1,
        system_challenges_max: 3,
        ..MempoolConfig::default()
    };
    let mut mempool = mempool(config);
    let committee = committee(4, 7);
    let passed = |round: u64, position: usize, end: u8| {
        let (epoch, round) = (Epoch::new(0), ChallengeRound::new(round));
        let node = committee.members()[position].node;
        let fact = ChallengeFact { epoch, round, node, end: Hash::new([end; 32]) };
        let others = (0..4).filter(|other| *other != position);
        // The pool looks at no signature.
        let sign = |other| (other, BlsKeyPair::from_seed([9; 32]).sign(&[]));
        let others: Vec<_> = others.map(sign).collect();
        let certificate = ChallengeCertificate::new(&committee, fact, &others).unwrap().to_bytes();
        SystemOperation::PassChallenge { certificate }
    };
    assert_eq!(mempool.insert_system(passed(5, 0, 1)), Ok(()));
    assert!(mempool.is_idle(), "it goes into a block that comes anyway");
    assert_eq!(mempool.insert_system(equivocation(0, 1, 0)), Ok(()));
    assert!(!mempool.is_idle());
    assert_eq!(mempool.insert_system(passed(5, 0, 2)), Err(MempoolError::Known), "one is enough");
    assert_eq!(mempool.insert_system(passed(6, 0, 1)), Ok(()));
    assert_eq!(mempool.insert_system(passed(5, 1, 1)), Ok(()));
    assert_eq!(mempool.insert_system(passed(5, 2, 1)), Err(MempoolError::SystemFull));
    assert_eq!(mempool.insert_system(equivocation(0, 2, 0)), Err(MempoolError::SystemFull));
    assert_eq!(mempool.system_candidates().next(), Some(&equivocation(0, 1, 0)), "the rarer first");
    // One is committed, and the other round closes.
    let open = [ChallengeRound::new(5)];
    mempool.committed_system(&[passed(5, 0, 3)], (Epoch::new(0), &open));
    assert_eq!(mempool.system_candidates().count(), 2);
    assert!(mempool.knows_system(&passed(5, 0, 1)) && !mempool.knows_system(&passed(6, 0, 1)));
    assert!(mempool.knows_system(&passed(5, 1, 1)));
    mempool.committed_system(&[], (Epoch::new(1), &[]));
    assert_eq!(mempool.system_candidates().collect::<Vec<_>>(), [&equivocation(0, 1, 0)]);
    let malformed = SystemOperation::PassChallenge { certificate: vec![1, 2, 3] };
    assert_eq!(mempool.insert_system(malformed), Err(MempoolError::Known), "it has no key");
}
