//! The mempool against a naive one: a list of transactions, sorted and summed up anew each time.

use proptest::prelude::*;

use super::*;

const ACCOUNTS: u8 = 4;

fn config() -> MempoolConfig {
    MempoolConfig {
        bytes_max: 1_300,
        transactions_max: 5,
        account_bytes_max: 1_000,
        account_transactions_max: 6,
        held_max: 4,
        held_bytes_max: 700,
        account_held_max: 3,
        hold_ms: 100,
        remembered_max: 20,
        ..MempoolConfig::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        account: u8,
        /// Over the account's nonce in the state, less 1: some are stale.
        ahead: u64,
        fee: u128,
        name_bytes: usize,
        lifetime: u64,
    },
    /// Takes the first few candidates, and from some account one that was never here.
    Commit {
        taken: usize,
        foreign: Option<u8>,
    },
    Refuse {
        candidate: usize,
    },
    Wait {
        ms: u64,
    },
    /// The state's balance changes; the mempool hears of it with the next block.
    Balance {
        account: u8,
        balance: u128,
    },
}

/// Few fees and lengths, so that equal rates are common.
fn step() -> impl Strategy<Value = Step> {
    let insert = (0..ACCOUNTS, 0..5_u64, 0..15_u128, 0..3_usize, 1..2_000_u64).prop_map(
        |(account, ahead, fee, name_bytes, lifetime)| Step::Insert {
            account,
            ahead,
            fee: fee * 4,
            name_bytes: 1 + name_bytes * 31,
            lifetime,
        },
    );
    prop_oneof![
        12 => insert,
        1 => (0..4_usize, proptest::option::of(0..ACCOUNTS))
            .prop_map(|(taken, foreign)| Step::Commit { taken, foreign }),
        1 => (0..12_usize).prop_map(|candidate| Step::Refuse { candidate }),
        1 => (0..80_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (0..ACCOUNTS, 0..400_u128)
            .prop_map(|(account, balance)| Step::Balance { account, balance }),
    ]
}

#[derive(Clone, Debug)]
struct Item {
    id: TransactionId,
    account: u8,
    nonce: u64,
    fee: u128,
    bytes: usize,
    expires: u64,
    arrival: u64,
    /// Where it is held.
    deadline: Option<u64>,
}

/// A place in the order: the lowest fee and its bytes, the latest arrival, the nonce.
type Rank = (u128, usize, u64, u64);

/// Whether `a` comes before `b`.
fn before(a: &Rank, b: &Rank) -> std::cmp::Ordering {
    let (left, right) = (a.0 * b.1 as u128, b.0 * a.1 as u128);
    right.cmp(&left).then((a.2, a.3).cmp(&(b.2, b.3)))
}

fn pays_less(a: (u128, usize), b: (u128, usize)) -> bool {
    a.0 * (b.1 as u128) < b.0 * (a.1 as u128)
}

#[derive(Clone, Debug, Default)]
struct Model {
    items: Vec<Item>,
    time: u64,
    arrivals: u64,
    /// What the state says: nonce and balance.
    state: [(u64, u128); ACCOUNTS as usize],
    /// All that were ever committed, in order.
    committed: Vec<TransactionId>,
}

impl Model {
    fn of(&self, account: u8) -> Vec<&Item> {
        let mut items: Vec<&Item> = self.items.iter().filter(|i| i.account == account).collect();
        items.sort_by_key(|item| item.nonce);
        items
    }

    /// Ready ones in block order.
    fn ranked(&self) -> Vec<(Rank, &Item)> {
        let mut ranked = Vec::new();
        for account in 0..ACCOUNTS {
            let ready = self.of(account).into_iter().filter(|item| item.deadline.is_none());
            let mut rank: Option<Rank> = None;
            for item in ready {
                let (mut fee, mut bytes, mut arrival) = (item.fee, item.bytes, item.arrival);
                if let Some(previous) = rank {
                    if !pays_less((fee, bytes), (previous.0, previous.1)) {
                        (fee, bytes) = (previous.0, previous.1);
                    }
                    arrival = arrival.max(previous.2);
                }
                rank = Some((fee, bytes, arrival, item.nonce));
                ranked.push(((fee, bytes, arrival, item.nonce), item));
            }
        }
        ranked.sort_by(|a, b| before(&a.0, &b.0));
        ranked
    }

    fn sums(&self, held: bool) -> (usize, usize) {
        let bytes = self.items.iter().filter(|i| i.deadline.is_some() == held).map(|i| i.bytes);
        (bytes.clone().count(), bytes.sum())
    }

    /// Drops what has to go now that `id` is in; false if that must not be.
    fn make_room(&mut self, id: TransactionId, old: Option<TransactionId>) -> bool {
        let config = config();
        let newcomer = self.items.iter().find(|item| item.id == id).unwrap().clone();
        let held = newcomer.deadline.is_some();
        let victims: Vec<TransactionId> = if held {
            let mut items: Vec<&Item> =
                self.items.iter().filter(|i| i.deadline.is_some()).collect();
            items.retain(|i| pays_less((i.fee, i.bytes), (newcomer.fee, newcomer.bytes)));
            let rank = |i: &Item| (i.fee, i.bytes, i.arrival, 0);
            items.sort_by(|a, b| before(&rank(b), &rank(a)));
            items.iter().map(|i| i.id).collect()
        } else {
            let ranked = self.ranked();
            let floor = ranked.iter().find(|(_, item)| item.id == id).unwrap().0;
            let less = |rank: &Rank| pays_less((rank.0, rank.1), (floor.0, floor.1));
            let others = ranked.iter().rev().filter(|(_, i)| i.account != newcomer.account);
            others.filter(|(rank, _)| less(rank)).map(|(_, i)| i.id).collect()
        };
        assert!(old.is_none_or(|old| !victims.contains(&old)));
        let (max, bytes_max) = if held {
            (config.held_max, config.held_bytes_max)
        } else {
            (config.transactions_max, config.bytes_max)
        };
        let mut victims = victims.into_iter();
        loop {
            let (count, bytes) = self.sums(held);
            if count <= max && bytes <= bytes_max {
                return true;
            }
            let Some(victim) = victims.next() else { return false };
            self.items.retain(|item| item.id != victim);
        }
    }

    fn next(&self, account: u8) -> u64 {
        let ready = self.of(account).iter().filter(|item| item.deadline.is_none()).count();
        self.state[usize::from(account)].0 + ready as u64
    }

    fn promote(&mut self, account: u8) {
        loop {
            let next = self.next(account);
            let held = |i: &&mut Item| i.account == account && i.nonce == next;
            let Some(item) = self.items.iter_mut().find(held) else { return };
            item.deadline = None;
            let id = item.id;
            let before = self.clone();
            if !self.make_room(id, None) {
                *self = before;
                self.items.retain(|item| item.id != id);
                return;
            }
        }
    }

    fn insert(&mut self, now: u64, mut item: Item) -> bool {
        let config = config();
        let (nonce, balance) = self.state[usize::from(item.account)];
        let known = self.committed.iter().rev().take(config.remembered_max).any(|i| *i == item.id);
        let same = |i: &&Item| (i.account, i.nonce) == (item.account, item.nonce);
        let old = self.items.iter().find(same).cloned();
        let mut others = self.of(item.account);
        others.retain(|i| i.nonce != item.nonce);
        let fees: u128 = others.iter().map(|i| i.fee).sum();
        let bytes: usize = others.iter().map(|i| i.bytes).sum();
        let held = others.iter().filter(|i| i.deadline.is_some()).count();
        let far = nonce + config.account_transactions_max as u64;
        if known
            || self.items.iter().any(|i| i.id == item.id)
            || item.fee < config.fee_min.frost()
            || item.expires <= self.time
            || item.nonce < nonce
            || item.nonce >= far
            || fees + item.fee > balance
            || bytes + item.bytes > config.account_bytes_max
        {
            return false;
        }
        let gap = item.nonce > self.next(item.account);
        if let Some(old) = &old {
            let dearer = item.fee * 10 >= old.fee * 11 && item.fee > old.fee;
            if !dearer || pays_less((item.fee, item.bytes), (old.fee, old.bytes)) {
                return false;
            }
        } else if gap && held >= config.account_held_max {
            return false;
        }
        item.deadline = gap.then_some(now + config.hold_ms);
        item.arrival = self.arrivals;
        let (id, account) = (item.id, item.account);
        let before = self.clone();
        self.items.retain(|i| Some(i.id) != old.as_ref().map(|old| old.id));
        self.items.push(item);
        if !self.make_room(id, old.map(|old| old.id)) {
            *self = before;
            return false;
        }
        self.arrivals += 1;
        self.promote(account);
        true
    }

    fn drop_from(&mut self, account: u8, nonce: u64) {
        self.items.retain(|item| item.account != account || item.nonce < nonce);
    }

    /// The block holds `ids`, and one of `foreign` that was never here.
    fn commit(&mut self, ids: &[TransactionId], foreign: Option<u8>) {
        for item in self.items.iter().filter(|item| ids.contains(&item.id)) {
            let (nonce, balance) = &mut self.state[usize::from(item.account)];
            *nonce += 1;
            *balance -= item.fee;
        }
        if let Some(foreign) = foreign {
            self.state[usize::from(foreign)].0 += 1;
        }
        self.committed.extend(ids);
        let state = self.state;
        self.items.retain(|item| item.nonce >= state[usize::from(item.account)].0);
        for account in 0..ACCOUNTS {
            let balance = state[usize::from(account)].1;
            while self.of(account).iter().map(|i| i.fee).sum::<u128>() > balance {
                let last = self.of(account).last().unwrap().nonce;
                self.drop_from(account, last);
            }
        }
        self.time += 50;
        while let Some(item) = self.items.iter().find(|i| i.expires <= self.time).cloned() {
            self.drop_from(item.account, item.nonce);
        }
        let mut accounts: Vec<u8> = (0..ACCOUNTS).collect();
        accounts.sort_by_key(|account| id_of(*account));
        for account in accounts {
            self.promote(account);
        }
    }

    fn facts(&self, account: u8) -> AccountFacts {
        let (nonce, balance) = self.state[usize::from(account)];
        facts(nonce, balance)
    }
}

/// What must hold whatever the model says.
fn check_bounds(mempool: &Mempool, model: &Model) {
    let (config, stats) = (config(), mempool.stats());
    assert!(stats.ready <= config.transactions_max && stats.ready_bytes <= config.bytes_max);
    assert!(stats.held <= config.held_max && stats.held_bytes <= config.held_bytes_max);
    assert!(stats.remembered <= config.remembered_max);
    let mut next: BTreeMap<AccountId, u64> =
        (0..ACCOUNTS).map(|account| (id_of(account), model.facts(account).nonce)).collect();
    for transaction in mempool.candidates() {
        let transaction = transaction.transaction();
        let nonce = next.get_mut(&transaction.sender).unwrap();
        assert_eq!(transaction.nonce, *nonce, "by nonce, without a gap");
        *nonce += 1;
    }
    for account in 0..ACCOUNTS {
        let items = model.of(account);
        let bytes: usize = items.iter().map(|item| item.bytes).sum();
        assert!(items.len() <= config.account_transactions_max);
        assert!(bytes <= config.account_bytes_max);
        let pending = mempool.pending_nonce(&id_of(account));
        assert_eq!(pending, (!items.is_empty()).then(|| next[&id_of(account)]));
    }
}

fn check_equal(mempool: &Mempool, model: &Model) {
    let offered: Vec<TransactionId> = mempool.candidates().map(|t| t.id()).collect();
    let ranked: Vec<TransactionId> = model.ranked().iter().map(|(_, item)| item.id).collect();
    assert_eq!(offered, ranked);
    let stats = mempool.stats();
    assert_eq!((stats.ready, stats.ready_bytes), model.sums(false));
    assert_eq!((stats.held, stats.held_bytes), model.sums(true));
    let accounts = (0..ACCOUNTS).filter(|account| !model.of(*account).is_empty()).count();
    assert_eq!((mempool.len(), stats.accounts), (model.items.len(), accounts));
    for item in &model.items {
        assert!(mempool.knows(&item.id));
        assert_eq!(mempool.get(&item.id).map(|t| t.id()), Some(item.id));
    }
}

struct Run {
    mempool: Mempool,
    model: Model,
    now_ms: u64,
}

impl Run {
    fn apply(&mut self, step: &Step) {
        let Self { mempool, model, now_ms } = self;
        match *step {
            Step::Insert { account, ahead, fee, name_bytes, lifetime } => {
                let facts = model.facts(account);
                let nonce = (facts.nonce + ahead).saturating_sub(1);
                let expires = model.time + lifetime - 1;
                let draft = Draft { account, nonce, fee, name_bytes, expires };
                let transaction = draft.sign();
                let (id, bytes) = (transaction.id(), transaction.bytes());
                let arrival = 0;
                let item =
                    Item { id, account, nonce, fee, bytes, expires, arrival, deadline: None };
                let checked = mempool.check(transaction.transaction(), bytes, facts);
                let inserted = mempool.insert(*now_ms, transaction, facts);
                assert_eq!(inserted.is_ok(), model.insert(*now_ms, item), "{inserted:?}");
                if let Err(refused) = checked {
                    assert!(matches!(inserted, Err(e) if e == refused || e == MempoolError::Known));
                }
            }
            Step::Commit { taken, foreign } => {
                let ids: Vec<TransactionId> =
                    mempool.candidates().take(taken).map(|t| t.id()).collect();
                // In the block's order nothing can fail for its fee, unless the balance fell.
                let paid = |account: u8| -> u128 {
                    let items = model.of(account).into_iter();
                    items.filter(|item| ids.contains(&item.id)).map(|item| item.fee).sum()
                };
                let state = &model.state;
                if (0..ACCOUNTS).any(|account| paid(account) > state[usize::from(account)].1) {
                    return;
                }
                model.commit(&ids, foreign);
                let accounts: Vec<_> =
                    (0..ACCOUNTS).map(|account| (id_of(account), model.facts(account))).collect();
                mempool.committed(Timestamp::from_ms(model.time), &ids, &accounts);
            }
            Step::Refuse { candidate } => {
                let ranked = model.ranked();
                let Some((_, item)) = ranked.get(candidate) else { return };
                let Item { id, account, nonce, .. } = **item;
                model.drop_from(account, nonce);
                mempool.refused(&id);
            }
            Step::Wait { ms } => {
                *now_ms += ms;
                model.items.retain(|item| item.deadline.is_none_or(|deadline| deadline > *now_ms));
                mempool.expire(*now_ms);
            }
            Step::Balance { account, balance } => model.state[usize::from(account)].1 = balance,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_naive_one_does(steps in prop::collection::vec(step(), 1..120)) {
        let model = Model { state: [(0, 300); ACCOUNTS as usize], ..Model::default() };
        let mut run = Run { mempool: mempool(config()), model, now_ms: 0 };
        for step in &steps {
            run.apply(step);
            check_bounds(&run.mempool, &run.model);
            check_equal(&run.mempool, &run.model);
        }
    }
}
