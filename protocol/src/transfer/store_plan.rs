//! What a store has to pay for: nothing, a longer life, or a registration of its own.
//!
//! The first step of a store, decided from what the ledger proves: the blob's record and the
//! caller's own registrations of it. So that repeating a store, or resuming one that was cut off,
//! pays once: what is paid already is found, never remembered by the client.
//!
//! A plan also says what it costs, with which operation it is paid, and how many fees it takes.
//! Deliberately not here: what slivers the nodes still lack (they say so themselves).

use crate::{
    blob::BlobHeader,
    index::Epoch,
    ledger::{Amount, Blob, Operation, Prices, Registration, billed_units},
    registration::RegistrationId,
};

/// What the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For how many epochs, the running one included.
    pub epochs: u32,
    /// Whether it may be deleted before its end, and what is left be refunded.
    pub deletable: bool,
}

/// What a store has to do on the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePlan {
    /// Nothing: a certified registration reaches the wanted end.
    Stored {
        /// The caller's own, or somebody's permanent one if none is named.
        registration: Option<RegistrationId>,
        /// The first epoch in which it has ended.
        end: Epoch,
    },
    /// Go on with a registration that was paid for and not yet certified.
    Resume {
        /// The registration.
        registration: RegistrationId,
        /// The first epoch in which it has ended.
        end: Epoch,
    },
    /// Buy epochs for the caller's certified registration, which ends too early.
    Extend {
        /// The registration.
        registration: RegistrationId,
        /// How many epochs.
        epochs: u32,
        /// The first epoch in which it then has ended.
        end: Epoch,
    },
    /// Register the blob.
    Register {
        /// The first epoch in which the registration has ended.
        end: Epoch,
    },
}

/// Why a blob can't be stored.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum StorePlanError {
    /// Its writer encoded it inconsistently.
    #[error("the blob was proven inconsistent and can't be stored again")]
    Invalid,
    /// Nothing is stored for no time.
    #[error("a blob is stored for one epoch at least")]
    NoEpochs,
}

impl StorePlan {
    /// The plan in `epoch`, from the blob's record and the caller's `own` registrations of it.
    ///
    /// What [serves](Registration::serves) is not paid again, and the ledger would refuse it.
    ///
    /// # Errors
    /// [`StorePlanError`].
    pub fn new(
        epoch: Epoch,
        wanted: Wanted,
        blob: Option<&Blob>,
        own: &[(RegistrationId, Registration)],
    ) -> Result<Self, StorePlanError> {
        let end = epoch.plus(wanted.epochs.into());
        if blob.is_some_and(|blob| blob.invalid) {
            return Err(StorePlanError::Invalid);
        }
        if wanted.epochs == 0 {
            return Err(StorePlanError::NoEpochs);
        }
        let suits = |registration: &Registration| {
            registration.is_alive(epoch) && (wanted.deletable || !registration.deletable)
        };
        let suitable = || own.iter().filter(|(_, registration)| suits(registration));
        let certified = || suitable().filter(|(_, own)| own.certified.is_some());
        let latest = certified().max_by_key(|(id, own)| (own.end, *id));
        if let Some((id, own)) = latest.filter(|(_, own)| own.end >= end) {
            return Ok(Self::Stored { registration: Some(*id), end: own.end });
        }
        if let Some(permanent) = blob.and_then(|blob| blob.permanent_end).filter(|at| *at >= end) {
            return Ok(Self::Stored { registration: None, end: permanent });
        }
        let serves = |own: &Registration| own.serves(epoch, wanted.epochs, wanted.deletable);
        let uncertified = suitable().filter(|(_, own)| own.certified.is_none() && serves(own));
        if let Some((id, own)) = uncertified.max_by_key(|(id, own)| (own.end, *id)) {
            return Ok(Self::Resume { registration: *id, end: own.end });
        }
        if let Some((id, own)) = latest {
            let epochs = end.get().saturating_sub(own.end.get());
            let epochs = u32::try_from(epochs).unwrap_or(wanted.epochs);
            return Ok(Self::Extend { registration: *id, epochs, end });
        }
        Ok(Self::Register { end })
    }

    /// The registration that it is about, if there is one already.
    #[must_use]
    pub const fn registration(&self) -> Option<RegistrationId> {
        match self {
            Self::Stored { registration, .. } => *registration,
            Self::Resume { registration, .. } | Self::Extend { registration, .. } => {
                Some(*registration)
            }
            Self::Register { .. } => None,
        }
    }

    /// What it costs at `prices`, fees not included. None for a header of no possible blob, and
    /// beyond what an amount can be.
    #[must_use]
    pub fn price(&self, header: &BlobHeader, wanted: Wanted, prices: &Prices) -> Option<Amount> {
        let units = billed_units(header).ok()?;
        match self {
            Self::Stored { .. } | Self::Resume { .. } => Some(Amount::ZERO),
            Self::Extend { epochs, .. } => {
                prices.per_epoch(units)?.checked_mul(u128::from(*epochs))
            }
            Self::Register { .. } => prices.total(units, wanted.epochs),
        }
    }

    /// The operation that pays, at most `max_payment`; none if there is nothing to pay.
    #[must_use]
    pub fn payment(
        &self,
        header: &BlobHeader,
        wanted: Wanted,
        max_payment: Amount,
    ) -> Option<Operation> {
        let Wanted { epochs, deletable } = wanted;
        match *self {
            Self::Stored { .. } | Self::Resume { .. } => None,
            Self::Extend { registration, epochs, end } => {
                let end = Epoch::new(end.get().saturating_sub(epochs.into()));
                Some(Operation::ExtendBlob { registration, end, epochs, max_payment })
            }
            Self::Register { .. } => {
                Some(Operation::RegisterBlob { header: *header, epochs, deletable, max_payment })
            }
        }
    }

    /// Whether the blob has to be confirmed and certified.
    #[must_use]
    pub const fn needs_certificate(&self) -> bool {
        matches!(self, Self::Resume { .. } | Self::Register { .. })
    }

    /// Operations that it takes in all, each for a fee: to pay, and to certify.
    #[must_use]
    pub const fn operations(&self) -> usize {
        match self {
            Self::Stored { .. } => 0,
            Self::Resume { .. } | Self::Extend { .. } => 1,
            Self::Register { .. } => 2,
        }
    }

    /// The first epoch in which the blob may be gone.
    #[must_use]
    pub const fn end(&self) -> Epoch {
        match self {
            Self::Stored { end, .. }
            | Self::Resume { end, .. }
            | Self::Extend { end, .. }
            | Self::Register { end } => *end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        blob::{BlobHeader, BlobId},
        hash::Hash,
        ledger::{AccountId, Timestamp},
        test_support,
    };

    const NOW: u64 = 10;

    fn own(number: u8, (start, end): (u64, u64), flags: &str) -> (RegistrationId, Registration) {
        let registration = Registration {
            blob: BlobId::new([1; 32]),
            owner: AccountId::new(test_support::account_key(0).public()),
            start: Epoch::new(start),
            end: Epoch::new(end),
            deletable: flags.contains('d'),
            certified: flags.contains('c').then(|| (Epoch::new(start), Timestamp::from_ms(0))),
            units: 1,
            payments: Vec::new(),
        };
        (RegistrationId::new([number; 32]), registration)
    }

    fn blob(permanent_end: Option<u64>) -> Blob {
        Blob {
            header: BlobHeader { n_shards: 7, len: 1, root: Hash::ZERO },
            registrations: 1,
            permanent_end: permanent_end.map(Epoch::new),
            certified: None,
            invalid: false,
        }
    }

    /// The plan of who wants 5 epochs, deletable or not.
    fn check(
        deletable: bool,
        permanent_end: Option<u64>,
        own: &[(RegistrationId, Registration)],
        expected: StorePlan,
    ) {
        let wanted = Wanted { epochs: 5, deletable };
        let blob = blob(permanent_end);
        let plan = StorePlan::new(Epoch::new(NOW), wanted, Some(&blob), own);
        assert_eq!(plan, Ok(expected), "deletable {deletable}, {permanent_end:?}, {own:?}");
    }

    fn id(number: u8) -> RegistrationId {
        RegistrationId::new([number; 32])
    }

    const END: Epoch = Epoch::new(NOW + 5);

    #[test]
    fn nothing_is_paid_twice() {
        let registered = StorePlan::Register { end: END };
        check(true, None, &[], registered);
        check(true, Some(14), &[], registered);
        check(true, Some(15), &[], StorePlan::Stored { registration: None, end: END });
        check(false, Some(15), &[], StorePlan::Stored { registration: None, end: END });

        let stored = StorePlan::Stored { registration: Some(id(1)), end: END };
        check(true, None, &[own(1, (8, 15), "cd")], stored);
        check(true, None, &[own(1, (8, 15), "c")], stored);
        check(false, None, &[own(1, (8, 15), "c")], stored);
        // What may be deleted is not what was asked for.
        check(false, None, &[own(1, (8, 15), "cd")], registered);

        let resumed = |end| StorePlan::Resume { registration: id(1), end: Epoch::new(end) };
        check(true, None, &[own(1, (10, 15), "d")], resumed(15));
        check(true, None, &[own(1, (9, 14), "d")], resumed(14));
        check(true, None, &[own(1, (9, 13), "d")], registered);
        check(false, None, &[own(1, (9, 14), "d")], registered);
        // Lapsed: the epoch after its own is over.
        check(true, None, &[own(1, (8, 15), "d")], registered);

        let extended = StorePlan::Extend { registration: id(1), epochs: 3, end: END };
        check(true, None, &[own(1, (8, 12), "cd")], extended);
        check(true, None, &[own(1, (8, 12), "cd"), own(2, (8, 11), "cd")], extended);
        check(true, None, &[own(1, (10, 15), "d"), own(2, (8, 12), "cd")], resumed(15));
        check(true, None, &[own(1, (8, 10), "cd")], registered);
    }

    /// What each plan costs at 3 a unit and epoch and 50 a unit, how it is paid, and its fees.
    #[test]
    fn a_plan_says_what_it_costs_and_how_it_is_paid() {
        let header = BlobHeader { n_shards: 7, len: 1, root: Hash::ZERO };
        let wanted = Wanted { epochs: 5, deletable: true };
        let prices = Prices {
            storage: Amount::from_frost(3),
            write: Amount::from_frost(50),
            capacity_units: 9,
        };
        let max_payment = Amount::from_frost(99);
        let (registration, end) = (id(1), END);
        let extension = Operation::ExtendBlob {
            registration,
            end: Epoch::new(NOW + 3),
            epochs: 2,
            max_payment,
        };
        let payment = Operation::RegisterBlob { header, epochs: 5, deletable: true, max_payment };
        let some = Some(registration);
        for (plan, about, price, paid_with, operations) in [
            (StorePlan::Stored { registration: None, end }, None, 0, None, 0),
            (StorePlan::Resume { registration, end }, some, 0, None, 1),
            (StorePlan::Extend { registration, epochs: 2, end }, some, 6, Some(extension), 1),
            (StorePlan::Register { end }, None, 65, Some(payment), 2),
        ] {
            assert_eq!(plan.registration(), about);
            assert_eq!(plan.price(&header, wanted, &prices), Some(Amount::from_frost(price)));
            let pays = usize::from(paid_with.is_some());
            assert_eq!(plan.payment(&header, wanted, max_payment), paid_with);
            assert_eq!(plan.operations(), operations);
            assert_eq!(usize::from(plan.needs_certificate()) + pays, operations);
        }
        let impossible = BlobHeader { n_shards: 0, ..header };
        assert_eq!(StorePlan::Register { end }.price(&impossible, wanted, &prices), None);
    }

    #[test]
    fn an_inconsistent_blob_is_not_stored_again() {
        let invalid = Blob { invalid: true, ..blob(Some(99)) };
        let wanted = Wanted { epochs: 1, deletable: true };
        let plan = StorePlan::new(Epoch::new(NOW), wanted, Some(&invalid), &[]);
        assert_eq!(plan, Err(StorePlanError::Invalid));
        let never = Wanted { epochs: 0, ..wanted };
        let plan = StorePlan::new(Epoch::new(NOW), never, Some(&blob(Some(NOW))), &[]);
        assert_eq!(plan, Err(StorePlanError::NoEpochs));
        let unknown = StorePlan::new(Epoch::new(NOW), wanted, None, &[]);
        assert_eq!(unknown, Ok(StorePlan::Register { end: Epoch::new(NOW + 1) }));
    }
}
