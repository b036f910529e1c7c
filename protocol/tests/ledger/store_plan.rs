//! Store plans against the machine that they are for: whatever was stored, extended, cut off or
//! deleted before, repeating a store pays once.

use floe_protocol::{
    index::Epoch,
    keys::KeyPair,
    ledger::{AccountId, Amount, Blob, Operation, OperationError, Registration, Timestamp},
    message::IndexQuery,
    registration::RegistrationId,
    test_support::{Chain, account_key},
    transfer::{StorePlan, Wanted},
};
use proptest::{collection::vec, option, prelude::*};

use super::{
    FEE, STORAGE, WRITE, certify, chain, commit, delete, extend, extension, header, id, indexed,
    propose, register, registered,
};

type Own = Vec<(RegistrationId, Registration)>;

// --- plans alone -----------------------------------------------------------------------------

/// What must be true of any plan, said another way than the plan is made.
fn check(epoch: Epoch, wanted: Wanted, blob: Option<&Blob>, own: &Own) -> StorePlan {
    let plan = StorePlan::new(epoch, wanted, blob, own).expect("no invalid blob");
    let end = Epoch::new(epoch.get() + u64::from(wanted.epochs));
    let suits = |r: &Registration| r.is_alive(epoch) && (wanted.deletable || !r.deletable);
    let reaches = |r: &Registration| suits(r) && r.end >= end;
    let find = |id: &RegistrationId| &own.iter().find(|(name, _)| name == id).expect("own").1;
    let permanent = blob.and_then(|blob| blob.permanent_end).is_some_and(|at| at >= end);
    let paid = own.iter().any(|(_, r)| reaches(r)) || permanent;
    match plan {
        StorePlan::Stored { registration: Some(name), end: at } => {
            let found = find(&name);
            assert!(reaches(found) && found.certified.is_some() && found.end == at);
        }
        StorePlan::Stored { registration: None, end: at } => {
            assert!(permanent && blob.and_then(|blob| blob.permanent_end) == Some(at));
        }
        StorePlan::Resume { registration, end: at } => {
            let found = find(&registration);
            assert!(suits(found) && found.certified.is_none() && found.end == at);
            assert!(at.get() + 1 >= end.get(), "one epoch too short at most");
            assert!(at.get() - found.start.get() >= u64::from(wanted.epochs) || at >= end);
        }
        StorePlan::Extend { registration, epochs, end: at } => {
            assert!(!paid, "an extension, though one reaches the end");
            let found = find(&registration);
            assert!(suits(found) && found.certified.is_some() && epochs > 0);
            assert_eq!(found.end.plus(epochs.into()), end);
            assert_eq!(at, end);
        }
        StorePlan::Register { end: at } => {
            assert!(!paid, "a registration, though one reaches the end");
            let certified = own.iter().any(|(_, r)| suits(r) && r.certified.is_some());
            assert!(!certified, "a registration, though one could be extended");
            assert_eq!(at, end);
        }
    }
    let short = matches!(plan, StorePlan::Resume { .. });
    assert!(plan.end() >= end || short, "{plan:?}");
    plan
}

fn own_registrations() -> impl Strategy<Value = Own> {
    let one = (0..24_u64, 1..24_u64, any::<bool>(), option::of(0..3_u64));
    vec(one, 0..5).prop_map(|registrations| {
        let own = |(number, (start, epochs, deletable, certified)): (
            u8,
            (u64, u64, bool, Option<u64>),
        )| {
            let registration = Registration {
                blob: header(1).id(),
                owner: id(&account_key(0)),
                start: Epoch::new(start),
                end: Epoch::new(start + epochs),
                deletable,
                certified: certified.map(|at| (Epoch::new(start + at), Timestamp::from_ms(0))),
                units: 1,
                payments: Vec::new(),
            };
            (RegistrationId::new([number; 32]), registration)
        };
        (0..).zip(registrations).map(own).collect()
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (1..12_u32, any::<bool>()).prop_map(|(epochs, deletable)| Wanted { epochs, deletable })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 4096, ..ProptestConfig::default()
    })]

    #[test]
    fn a_plan_never_buys_what_is_there(
        epoch in 10..20_u64,
        wanted in wanted(),
        permanent_end in option::weighted(0.3, 1..30_u64),
        own in own_registrations(),
    ) {
        let blob = Blob {
            header: header(1),
            registrations: own.len() as u64,
            permanent_end: permanent_end.map(Epoch::new),
            certified: None,
            invalid: false,
        };
        let plan = check(Epoch::new(epoch), wanted, Some(&blob), &own);
        let mut reversed = own;
        reversed.reverse();
        prop_assert_eq!(check(Epoch::new(epoch), wanted, Some(&blob), &reversed), plan);
    }
}

// --- plans on a ledger -----------------------------------------------------------------------

/// What an account may have done before it stores.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// Registers; cut off before the certificate, or not.
    Register {
        who: u8,
        epochs: u32,
        deletable: bool,
        certified: bool,
    },
    /// Extends, deletes or gives away one of the registrations made so far, if it can be.
    Extend {
        which: usize,
        epochs: u32,
    },
    Delete {
        which: usize,
    },
    GiveAway {
        which: usize,
    },
    NextEpoch,
}

fn before() -> impl Strategy<Value = Before> {
    let which = 0..6_usize;
    prop_oneof![
        4 => (0..2_u8, 1..8_u32, any::<bool>(), any::<bool>()).prop_map(
            |(who, epochs, deletable, certified)| {
                Before::Register { who, epochs, deletable, certified }
            }
        ),
        2 => (which.clone(), 1..5_u32).prop_map(|(which, epochs)| Before::Extend { which, epochs }),
        1 => which.clone().prop_map(|which| Before::Delete { which }),
        1 => which.prop_map(|which| Before::GiveAway { which }),
        3 => Just(Before::NextEpoch),
    ]
}

/// A ledger on which account 0 stores one blob again and again.
struct Store {
    chain: Chain,
    names: Vec<RegistrationId>,
    key: KeyPair,
}

impl Store {
    fn new() -> Self {
        Self { chain: chain(), names: Vec::new(), key: account_key(0) }
    }

    fn play(&mut self, before: Before) {
        match before {
            Before::Register { who, epochs, deletable, certified } => {
                let (key, operation) = (account_key(who), register(header(1), epochs, deletable));
                if self.serving(&key, Wanted { epochs, deletable }).is_some() {
                    return;
                }
                let (name, _) = registered(&mut self.chain, &key, operation);
                self.names.push(name);
                if certified {
                    self.certify(name);
                }
            }
            Before::Extend { which, epochs } => {
                self.on(which, |name, record| {
                    record.certified.map(|_| extend(name, record.end.get(), epochs))
                });
            }
            Before::Delete { which } => {
                self.on(which, |name, record| record.deletable.then(|| delete(name)));
            }
            Before::GiveAway { which } => self.on(which, |registration, record| {
                let (one, two) = (id(&account_key(0)), id(&account_key(1)));
                let to = if record.owner == one { two } else { one };
                Some(Operation::TransferBlob { registration, to })
            }),
            Before::NextEpoch => self.chain.next_epoch(),
        }
    }

    /// Lets the owner of one of the living registrations do something with it.
    fn on(
        &mut self,
        which: usize,
        operation: impl Fn(RegistrationId, &Registration) -> Option<Operation>,
    ) {
        let Some(name) = self.names.get(which).copied() else { return };
        let record = self.chain.state.registration(&self.chain.store, &name).unwrap();
        let epoch = self.chain.state.summary().epoch;
        let Some(record) = record.filter(|record| record.is_alive(epoch)) else { return };
        let owner = (0..2).map(account_key).find(|key| id(key) == record.owner);
        if let Some(operation) = operation(name, &record) {
            commit(&mut self.chain, &owner.expect("one of two"), vec![operation]);
        }
    }

    fn certify(&mut self, name: RegistrationId) {
        let operation = certify(&self.chain, name, &header(1));
        commit(&mut self.chain, &account_key(2), vec![operation]);
    }

    /// The registration for which the ledger refuses another one of `key`'s, if it does.
    fn serving(&self, key: &KeyPair, wanted: Wanted) -> Option<RegistrationId> {
        let Wanted { epochs, deletable } = wanted;
        let signed = self.chain.sign(key, vec![register(header(1), epochs, deletable)]);
        let (_, _, refused) = propose(&self.chain, &[], &[signed]);
        let error = refused.into_iter().next()?;
        let OperationError::AlreadyRegistered { registration } = error else {
            unreachable!("refused for another reason: {error}")
        };
        let (state, store) = (&self.chain.state, &self.chain.store);
        let record = state.registration(store, &registration).unwrap().expect("there is one");
        assert_eq!(record.owner, id(key));
        assert!(record.serves(state.summary().epoch, epochs, deletable), "{record:?}");
        Some(registration)
    }

    fn account(&self) -> AccountId {
        id(&self.key)
    }

    fn balance(&self) -> Amount {
        self.chain.balance(&self.account())
    }

    /// The account's own registrations of the blob.
    fn own(&self) -> Own {
        let (state, store) = (&self.chain.state, &self.chain.store);
        let own = indexed(&self.chain, IndexQuery::OwnedOf(self.account(), header(1).id()));
        let record = |name: RegistrationId| {
            (name, state.registration(store, &name).unwrap().expect("the index is right"))
        };
        own.into_iter().map(record).collect()
    }

    /// What a client reads before it stores: the blob's record and its own registrations.
    fn plan(&self, wanted: Wanted) -> StorePlan {
        let (state, store) = (&self.chain.state, &self.chain.store);
        let blob = state.blob(store, &header(1).id()).unwrap();
        check(state.summary().epoch, wanted, blob.as_ref(), &self.own())
    }

    /// What is to be done as far as the account's own registrations go.
    fn plan_alone(&self, wanted: Wanted) -> StorePlan {
        check(self.chain.state.summary().epoch, wanted, None, &self.own())
    }

    fn check_supply(&self) {
        let supply = self.chain.state.summary().supply;
        assert_eq!(supply.total(), Some(self.chain.state.parameters().supply));
    }

    /// Does what a plan says on the ledger; what it cost, and what is to be certified next.
    fn pay(&mut self, wanted: Wanted, plan: StorePlan) -> (u128, Option<RegistrationId>) {
        // What has died is swept first: its refund is none of this store's.
        while self.chain.state.sweep_pending(&self.chain.store).unwrap() {
            self.chain.commit(&[]);
        }
        let before = self.balance().frost();
        let key = account_key(0);
        let (price, open) = match plan {
            StorePlan::Stored { .. } => (0, None),
            StorePlan::Resume { registration, .. } => (0, Some(registration)),
            StorePlan::Extend { registration, epochs, .. } => {
                let operation = extension(&self.chain, registration, epochs);
                commit(&mut self.chain, &key, vec![operation]);
                (u128::from(epochs) * STORAGE + FEE, None)
            }
            StorePlan::Register { .. } => {
                let operation = register(header(1), wanted.epochs, wanted.deletable);
                let (name, _) = registered(&mut self.chain, &key, operation);
                (WRITE + u128::from(wanted.epochs) * STORAGE + FEE, Some(name))
            }
        };
        assert_eq!(before - self.balance().frost(), price, "{plan:?}");
        (price, open)
    }

    /// Stores, planning again after each step as who was cut off there would; what it paid.
    fn store(&mut self, wanted: Wanted) -> u128 {
        let plan = self.plan(wanted);
        let (price, open) = self.pay(wanted, plan);
        if let Some(name) = open {
            let resumed = StorePlan::Resume { registration: name, end: plan.end() };
            assert_eq!(self.plan(wanted), resumed, "after {plan:?}");
            self.certify(name);
        }
        price
    }

    /// After a store, another one has nothing left to do, but to lengthen what was bought in the
    /// epoch before by the one that has passed.
    fn check_stored(&mut self, wanted: Wanted) {
        let end = self.chain.state.summary().epoch.plus(wanted.epochs.into());
        let mut plan = self.plan(wanted);
        if let StorePlan::Extend { epochs, .. } = plan {
            assert_eq!(epochs, 1, "only what a resumed one lacks");
            assert_eq!(self.store(wanted), STORAGE + FEE);
            plan = self.plan(wanted);
        }
        assert!(matches!(plan, StorePlan::Stored { .. }) && plan.end() >= end, "{plan:?}");
        assert_eq!(self.store(wanted), 0, "paid once");
        assert_eq!(self.plan(wanted), plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 48, ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_pays_once_whatever_was_before(
        steps in vec(before(), 0..12),
        wanted in vec(wanted(), 1..4),
    ) {
        let mut store = Store::new();
        for step in steps {
            store.play(step);
        }
        for wanted in wanted {
            let short = matches!(
                store.plan(wanted),
                StorePlan::Resume { end, .. }
                    if end < store.chain.state.summary().epoch.plus(wanted.epochs.into())
            );
            store.store(wanted);
            let longer = matches!(store.plan(wanted), StorePlan::Extend { .. });
            prop_assert_eq!(longer, short);
            store.check_stored(wanted);
        }
    }

    /// The ledger refuses to sell what the plan would not buy, and nothing else: also to who
    /// never asked for a plan.
    #[test]
    fn the_ledger_refuses_a_registration_exactly_if_the_plan_is_to_use_another(
        steps in vec(before(), 0..16),
        wanted in vec(wanted(), 1..6),
    ) {
        let mut store = Store::new();
        for step in steps {
            store.play(step);
        }
        store.check_supply();
        for wanted in wanted {
            // Behind these it does not look.
            if store.own().len() > 8 {
                break;
            }
            let serving = store.serving(&account_key(0), wanted);
            match store.plan_alone(wanted) {
                StorePlan::Stored { .. } | StorePlan::Resume { .. } => {
                    prop_assert!(serving.is_some());
                    let operation = register(header(1), wanted.epochs, wanted.deletable);
                    let signed = store.chain.sign(&account_key(0), vec![operation]);
                    super::refused(&store.chain, &signed);
                }
                plan @ (StorePlan::Extend { .. } | StorePlan::Register { .. }) => {
                    prop_assert_eq!(serving, None, "{:?}", plan);
                    store.pay(wanted, StorePlan::Register { end: plan.end() });
                    store.check_supply();
                    if store.own().len() <= 8 {
                        prop_assert!(store.serving(&account_key(0), wanted).is_some());
                    }
                }
            }
        }
    }

    /// Cut off between payment and certificate, and resumed in the same epoch or the next.
    #[test]
    fn a_store_that_was_cut_off_is_resumed_and_not_paid_again(
        wanted in wanted(),
        boundary in any::<bool>(),
    ) {
        let mut store = Store::new();
        let plan = store.plan(wanted);
        let (_, open) = store.pay(wanted, plan);
        let name = open.unwrap();
        if boundary {
            store.chain.next_epoch();
        }
        let resumed = StorePlan::Resume { registration: name, end: plan.end() };
        if boundary && wanted.epochs == 1 {
            // It has ended with its only epoch.
            let end = store.chain.state.summary().epoch.plus(1);
            prop_assert_eq!(store.plan(wanted), StorePlan::Register { end });
            return Ok(());
        }
        prop_assert_eq!(store.plan(wanted), resumed);
        prop_assert_eq!(store.store(wanted), 0);
        store.check_stored(wanted);
        // A second epoch later it had lapsed: it was certified, and lives.
        if wanted.epochs > 2 {
            store.chain.next_epoch();
            let again = store.plan(wanted);
            let end = again.end();
            prop_assert_eq!(again, StorePlan::Extend { registration: name, epochs: 1, end });
        }
    }
}

#[test]
fn what_lapsed_is_registered_anew() {
    let mut store = Store::new();
    let wanted = Wanted { epochs: 5, deletable: true };
    store.pay(wanted, StorePlan::Register { end: Epoch::new(5) });
    store.chain.next_epoch();
    store.chain.next_epoch();
    assert_eq!(store.plan(wanted), StorePlan::Register { end: Epoch::new(7) });
    assert_eq!(store.store(wanted), WRITE + 5 * STORAGE + FEE);
    store.check_stored(wanted);
}

/// Somebody's permanent registration serves everybody; a deletable one may go at any time.
#[test]
fn others_permanent_registrations_serve_and_deletable_ones_do_not() {
    for (deletable, cost) in [(false, 0), (true, WRITE + 3 * STORAGE + FEE)] {
        let mut store = Store::new();
        store.play(Before::Register { who: 1, epochs: 5, deletable, certified: true });
        assert_eq!(store.store(Wanted { epochs: 3, deletable: true }), cost);
        store.check_stored(Wanted { epochs: 3, deletable: true });
    }
}
