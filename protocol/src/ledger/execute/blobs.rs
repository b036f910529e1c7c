//! Registrations of blobs: paid, certified, extended, deleted, given away; and names.

use super::{Executor, Origin};
use crate::{
    blob::{BlobHeader, BlobId},
    certificate::Certificate,
    hash::Hash,
    index::Epoch,
    ledger::{
        AccountId, Amount, Blob, Certified, EndReason, Event, IndexEntry, IndexRange, Key, Name,
        OperationError, Payment, Record, Registration, Timestamp, billed_units, error::Failure,
    },
    registration::RegistrationId,
};

/// Registrations of one owner and blob that a new one is compared with.
const OWN_LOOKED_AT_MAX: usize = 8;

impl Executor<'_> {
    pub(super) fn register_blob(
        &mut self,
        origin: Origin,
        header: &BlobHeader,
        (epochs, deletable): (u32, bool),
        max_payment: Amount,
    ) -> Result<(), Failure> {
        let (id, epoch, owner) = (header.id(), self.epoch(), origin.sender);
        let parameters = self.parameters;
        if header.n_shards != parameters.n_shards || header.len > parameters.max_blob_bytes {
            return Err(OperationError::BlobHeader.into());
        }
        let units = billed_units(header).map_err(|_| OperationError::BlobHeader)?;
        let mut blob = self.overlay.blob(&id)?.unwrap_or(Blob {
            header: *header,
            registrations: 0,
            permanent_end: None,
            certified: None,
            invalid: false,
        });
        if blob.invalid {
            return Err(OperationError::BlobInvalid.into());
        }
        let end = self.end_ahead(epoch, epochs)?;
        self.check_unserved(&owner, &id, (epochs, deletable))?;
        let prices = self.overlay.summary()?.prices;
        let price = prices.total(units, epochs).ok_or(OperationError::Overflow)?;
        if price > max_payment {
            return Err(OperationError::Price { price, max_payment }.into());
        }
        self.debit(&owner, price)?;
        let write = prices.write.checked_mul(units.into()).ok_or(OperationError::Overflow)?;
        self.pay_epoch(epoch, write)?;
        let per_epoch = prices.per_epoch(units).ok_or(OperationError::Overflow)?;
        let payment = Payment { start: epoch, end, per_epoch };
        self.buy(payment, units)?;

        let registration = origin.transaction.registration(self.chain, origin.index);
        let record = Registration {
            blob: id,
            owner,
            start: epoch,
            end,
            deletable,
            certified: None,
            units,
            payments: vec![payment],
        };
        blob.registrations = blob.registrations.checked_add(1).ok_or(OperationError::Overflow)?;
        self.overlay.put(Key::Blob(id), Record::Blob(blob))?;
        self.overlay.add_index(IndexEntry::Deadline(record.deadline(), registration));
        self.overlay.add_index(IndexEntry::Owned(owner, id, registration));
        self.put_registration(registration, record)?;
        let paid = price;
        self.events.push(Event::BlobRegistered { registration, blob: id, owner, end, paid });
        Ok(())
    }

    /// Refuses what the owner has already. Of an owner's registrations of one blob only some are
    /// looked at: strangers may have given it many, and then it has to look itself.
    fn check_unserved(
        &mut self,
        owner: &AccountId,
        blob: &BlobId,
        (epochs, deletable): (u32, bool),
    ) -> Result<(), Failure> {
        let epoch = self.epoch();
        let own = IndexRange::owned_of(owner, blob);
        for entry in self.overlay.few_index(&own, OWN_LOOKED_AT_MAX)? {
            let id = registration_of(&entry);
            let registration = self.overlay.registration(&id)?;
            if registration.is_some_and(|own| own.serves(epoch, epochs, deletable)) {
                return Err(OperationError::AlreadyRegistered { registration: id }.into());
            }
        }
        Ok(())
    }

    pub(super) fn certify_blob(
        &mut self,
        id: &RegistrationId,
        certificate: &[u8],
    ) -> Result<(), Failure> {
        let certificate = Certificate::from_bytes(certificate)?;
        let mut registration = self.living(id)?;
        if registration.certified.is_some() {
            return Err(OperationError::AlreadyCertified.into());
        }
        if certificate.fact.blob != registration.blob || certificate.fact.registration != *id {
            return Err(OperationError::OtherBlob.into());
        }
        let mut blob = self.blob_of(&registration)?;
        if blob.invalid {
            return Err(OperationError::BlobInvalid.into());
        }
        // Last, since it costs a pairing: everything that a stranger can get wrong comes before.
        self.spend_on_certificate(certificate.signers(self.committee).count())?;
        certificate.verify(self.committee, self.chain)?;

        let (epoch, end, time) = (self.epoch(), registration.end, self.time);
        self.overlay.remove_index(IndexEntry::Deadline(registration.deadline(), *id));
        registration.certified = Some((epoch, time));
        self.overlay.add_index(IndexEntry::Deadline(registration.deadline(), *id));
        self.overlay.add_index(IndexEntry::CertifiedEnd(registration.blob, end, *id));
        let place = (epoch, time.ms());
        self.overlay.add_index(IndexEntry::Certified(registration.blob, place, *id));

        blob.certified = Some(match blob.certified {
            Some(living) if epoch < living.end => Certified { end: living.end.max(end), ..living },
            Some(_) | None => {
                let mut summary = self.overlay.summary()?;
                let number = summary.certifications;
                summary.certifications = number.checked_add(1).ok_or(OperationError::Overflow)?;
                self.overlay.put(Key::Summary, Record::Summary(summary))?;
                Certified { number, end, first_epoch: epoch, first_time: time }
            }
        });
        if !registration.deletable {
            blob.permanent_end = blob.permanent_end.max(Some(end));
        }
        let event = Event::BlobCertified { registration: *id, blob: registration.blob, end };
        self.overlay.put(Key::Blob(registration.blob), Record::Blob(blob))?;
        self.put_registration(*id, registration)?;
        self.events.push(event);
        Ok(())
    }

    pub(super) fn extend_blob(
        &mut self,
        sender: AccountId,
        id: &RegistrationId,
        (present_end, epochs): (Epoch, u32),
        max_payment: Amount,
    ) -> Result<(), Failure> {
        let mut registration = self.owned(sender, id)?;
        if registration.end != present_end {
            return Err(OperationError::OtherEnd { end: registration.end }.into());
        }
        if registration.certified.is_none() {
            return Err(OperationError::NotCertified.into());
        }
        let mut blob = self.blob_of(&registration)?;
        if blob.invalid {
            return Err(OperationError::BlobInvalid.into());
        }
        let (start, end) = (registration.end, self.end_ahead(registration.end, epochs)?);
        let prices = self.overlay.summary()?.prices;
        let per_epoch = prices.per_epoch(registration.units).ok_or(OperationError::Overflow)?;
        let price = per_epoch.checked_mul(epochs.into()).ok_or(OperationError::Overflow)?;
        if price > max_payment {
            return Err(OperationError::Price { price, max_payment }.into());
        }
        self.debit(&sender, price)?;
        let payment = Payment { start, end, per_epoch };
        self.buy(payment, registration.units)?;

        let name = registration.blob;
        self.overlay.remove_index(IndexEntry::Deadline(start, *id));
        self.overlay.remove_index(IndexEntry::CertifiedEnd(name, start, *id));
        self.overlay.add_index(IndexEntry::Deadline(end, *id));
        self.overlay.add_index(IndexEntry::CertifiedEnd(name, end, *id));
        registration.end = end;
        let epoch = self.epoch();
        // Epochs that are over can't be refunded: forget them, and the list stays short.
        registration.payments.retain(|payment| payment.end > epoch);
        registration.payments.push(payment);
        if let Some(certified) = &mut blob.certified {
            certified.end = certified.end.max(end);
        }
        if !registration.deletable {
            blob.permanent_end = blob.permanent_end.max(Some(end));
        }
        self.overlay.put(Key::Blob(name), Record::Blob(blob))?;
        self.put_registration(*id, registration)?;
        self.events.push(Event::BlobExtended { registration: *id, blob: name, end, paid: price });
        Ok(())
    }

    pub(super) fn delete_blob(
        &mut self,
        sender: AccountId,
        id: &RegistrationId,
    ) -> Result<(), Failure> {
        let registration = self.owned(sender, id)?;
        if !registration.deletable {
            return Err(OperationError::Permanent.into());
        }
        self.end_registration(*id, &registration, EndReason::Deleted)
    }

    pub(super) fn transfer_blob(
        &mut self,
        sender: AccountId,
        id: &RegistrationId,
        to: AccountId,
    ) -> Result<(), Failure> {
        let mut registration = self.owned(sender, id)?;
        self.overlay.remove_index(IndexEntry::Owned(sender, registration.blob, *id));
        self.overlay.add_index(IndexEntry::Owned(to, registration.blob, *id));
        registration.owner = to;
        self.put_registration(*id, registration)?;
        self.events.push(Event::BlobTransferred { registration: *id, from: sender, to });
        Ok(())
    }

    pub(super) fn set_name(
        &mut self,
        sender: AccountId,
        name: &str,
        blob: Option<BlobId>,
        version: u64,
    ) -> Result<(), Failure> {
        let before = self.overlay.name(&sender, name)?.map_or(0, |name| name.version);
        let expected = before.checked_add(1).ok_or(OperationError::Overflow)?;
        if version != expected {
            return Err(OperationError::NameVersion { version, expected }.into());
        }
        let key = Key::Name(sender, name.to_owned());
        self.overlay.put(key, Record::Name(Name { blob, version }))?;
        self.events.push(Event::NameSet { account: sender, name: name.to_owned(), blob });
        Ok(())
    }

    /// Ends a registration: pays back what epochs not yet begun, or never covered, had got, and
    /// forgets it. The blob goes with its last registration.
    pub(super) fn end_registration(
        &mut self,
        id: RegistrationId,
        registration: &Registration,
        reason: EndReason,
    ) -> Result<(), Failure> {
        let refund_from = match reason {
            EndReason::Deleted => self.epoch().plus(1),
            // Swept late, after a flood of others: what ended epochs had got has been paid out.
            EndReason::Lapsed | EndReason::Expired => registration.deadline().max(self.epoch()),
        };
        let refund = self.give_back(registration, refund_from)?;
        if !refund.is_zero() {
            self.credit(&registration.owner, refund)?;
        }
        let name = registration.blob;
        self.overlay.remove_index(IndexEntry::Deadline(registration.deadline(), id));
        self.overlay.remove_index(IndexEntry::Owned(registration.owner, name, id));
        if let Some((epoch, time)) = registration.certified {
            self.overlay.remove_index(IndexEntry::CertifiedEnd(name, registration.end, id));
            self.overlay.remove_index(IndexEntry::Certified(name, (epoch, time.ms()), id));
        }
        self.overlay.put(Key::Registration(id), None)?;
        self.events.push(Event::RegistrationEnded { registration: id, blob: name, refund, reason });

        let mut blob = self.blob_of(registration)?;
        blob.registrations = blob.registrations.checked_sub(1).ok_or(OperationError::Overflow)?;
        if registration.certified.is_some() {
            blob.certified = self.certified_now(&name, blob.certified)?;
        }
        if blob.registrations == 0 {
            self.events.push(Event::BlobEnded { blob: name });
        }
        let keep = blob.registrations > 0 || blob.invalid;
        let record = keep.then_some(Record::Blob(blob));
        Ok(self.overlay.put(Key::Blob(name), record)?)
    }

    /// The certified life of a blob after one of its certified registrations is gone.
    fn certified_now(
        &mut self,
        blob: &BlobId,
        before: Option<Certified>,
    ) -> Result<Option<Certified>, Failure> {
        let latest = self.overlay.first_index(&IndexRange::certified_ends(blob))?;
        let earliest = self.overlay.first_index(&IndexRange::certified(blob))?;
        let (Some(latest), Some(earliest), Some(before)) = (latest, earliest, before) else {
            return Ok(None);
        };
        let number = |entry: &[u8], at: usize| {
            let bytes = entry.get(at..).and_then(|rest| rest.first_chunk::<8>());
            u64::from_be_bytes(*bytes.expect("entries of the index have fixed lengths"))
        };
        // Behind the kind (1) and the blob id (32); ends are written latest first.
        let first = (Epoch::new(number(&earliest, 33)), Timestamp::from_ms(number(&earliest, 41)));
        // What is older than this life is of an earlier one, and has not been swept yet.
        let (first_epoch, first_time) = first.max((before.first_epoch, before.first_time));
        let end = Epoch::new(!number(&latest, 33));
        Ok(Some(Certified { number: before.number, end, first_epoch, first_time }))
    }

    /// Pays for each epoch of `payment` and takes the capacity.
    fn buy(&mut self, payment: Payment, units: u64) -> Result<(), Failure> {
        let capacity = self.overlay.summary()?.prices.capacity_units;
        for epoch in (payment.start.get()..payment.end.get()).map(Epoch::new) {
            let mut record = self.overlay.epoch(epoch)?;
            let full = OperationError::Capacity { epoch, units };
            let used = record.units.checked_add(units).filter(|used| *used <= capacity);
            record.units = used.ok_or(full)?;
            let bucket = record.bucket.checked_add(payment.per_epoch);
            record.bucket = bucket.ok_or(OperationError::Overflow)?;
            self.overlay.put(Key::Epoch(epoch), Record::Epoch(record))?;
        }
        Ok(())
    }

    /// Takes capacity and payments of all epochs from `from` on back; what was paid for them.
    fn give_back(&mut self, registration: &Registration, from: Epoch) -> Result<Amount, Failure> {
        let mut refund = Amount::ZERO;
        for payment in &registration.payments {
            for epoch in (payment.start.max(from).get()..payment.end.get()).map(Epoch::new) {
                let mut record = self.overlay.epoch(epoch)?;
                let units = record.units.checked_sub(registration.units);
                record.units = units.ok_or(OperationError::Overflow)?;
                let bucket = record.bucket.checked_sub(payment.per_epoch);
                record.bucket = bucket.ok_or(OperationError::Overflow)?;
                self.overlay.put(Key::Epoch(epoch), Record::Epoch(record))?;
                let sum = refund.checked_add(payment.per_epoch);
                refund = sum.ok_or(OperationError::Overflow)?;
            }
        }
        Ok(refund)
    }

    /// The end of something that begins at `start` and lasts `epochs`, if it may be paid now.
    fn end_ahead(&self, start: Epoch, epochs: u32) -> Result<Epoch, Failure> {
        let max = self.parameters.ledger.max_epochs_ahead;
        let end = start.plus(epochs.into());
        let ahead = end.get().saturating_sub(self.epoch().get());
        if ahead > u64::from(max) {
            return Err(OperationError::TooFarAhead { epochs: ahead, max }.into());
        }
        Ok(end)
    }

    fn living(&mut self, id: &RegistrationId) -> Result<Registration, Failure> {
        let epoch = self.epoch();
        let registration = self.overlay.registration(id)?;
        let living = registration.filter(|registration| registration.is_alive(epoch));
        Ok(*living.ok_or(OperationError::NoRegistration)?)
    }

    fn owned(&mut self, sender: AccountId, id: &RegistrationId) -> Result<Registration, Failure> {
        let registration = self.living(id)?;
        if registration.owner != sender {
            return Err(OperationError::NotOwner { owner: registration.owner }.into());
        }
        Ok(registration)
    }

    fn blob_of(&mut self, registration: &Registration) -> Result<Blob, Failure> {
        Ok(self.overlay.blob(&registration.blob)?.ok_or(OperationError::NoRegistration)?)
    }

    fn put_registration(
        &mut self,
        id: RegistrationId,
        registration: Registration,
    ) -> Result<(), Failure> {
        let record = Record::Registration(Box::new(registration));
        Ok(self.overlay.put(Key::Registration(id), record)?)
    }
}

/// The registration at the end of an index entry.
pub(super) fn registration_of(entry: &[u8]) -> RegistrationId {
    let id = entry.last_chunk::<32>().expect("entries end with an id");
    RegistrationId::new(*Hash::new(*id).as_bytes())
}
