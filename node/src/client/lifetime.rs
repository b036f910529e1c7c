//! How long blobs live: more epochs for a certified one, an early end for a deletable one.

use floe_protocol::{
    blob::BlobId,
    index::Epoch,
    keys::KeyPair,
    ledger::{AccountId, Amount, MAX_OPERATIONS, Operation, Registration},
    registration::RegistrationId,
};

use super::{Client, LedgerError, LifetimeError, ledger::Receipt};

/// A registration that lives longer.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The registration.
    pub registration: RegistrationId,
    /// The first epoch that it no longer covers.
    pub end: Epoch,
    /// What was paid, the fee not included.
    pub paid: Amount,
    /// Proof of the transaction.
    pub receipt: Receipt,
}

/// Registrations that were ended.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The registrations.
    pub registrations: Vec<RegistrationId>,
    /// What came back for epochs not begun.
    pub refund: Amount,
    /// Proof of the transaction, of the last one if it took several.
    pub receipt: Receipt,
}

impl Client {
    /// Buys `epochs` more epochs for the wallet's certified registration of a blob, the one that
    /// ends last if there are several, for at most `max_payment` if that is given.
    ///
    /// # Errors
    /// [`LifetimeError`]: nothing was paid.
    pub async fn extend(
        &self,
        blob: BlobId,
        (epochs, max_payment): (u32, Option<Amount>),
        wallet: &KeyPair,
    ) -> Result<Extension, LifetimeError> {
        let (epoch, own) = self.living_registrations(blob, wallet).await?;
        let certified = own.iter().filter(|(_, own)| own.certified.is_some());
        let Some((registration, own)) = certified.max_by_key(|(id, own)| (own.end, *id)) else {
            return Err(LifetimeError::NotCertified { blob });
        };
        let end = own.end.plus(epochs.into());
        let (ahead, max) =
            (end.get().saturating_sub(epoch.get()), self.parameters.ledger.max_epochs_ahead);
        if ahead > u64::from(max) {
            return Err(LifetimeError::TooFarAhead { epochs: ahead, max });
        }
        let per_epoch = self.ledger.prices().await?.value.per_epoch(own.units);
        let paid = per_epoch.and_then(|price| price.checked_mul(epochs.into()));
        let paid = paid.ok_or(LedgerError::Overflow)?;
        if let Some(max_payment) = max_payment.filter(|max| paid > *max) {
            return Err(LifetimeError::PriceRose { shown: max_payment, price: paid });
        }
        let (account, balance) = self.balance(wallet).await?;
        if balance < paid {
            return Err(LedgerError::Funds { account, balance, needed: paid }.into());
        }
        let registration = *registration;
        let operation =
            Operation::ExtendBlob { registration, end: own.end, epochs, max_payment: paid };
        let receipt = self.ledger.submit(vec![operation], wallet).await?;
        Ok(Extension { registration, end, paid, receipt })
    }

    /// Ends all of the wallet's deletable registrations of a blob. The blob stays readable while
    /// other registrations of it live.
    ///
    /// # Errors
    /// [`LifetimeError`]: nothing was ended.
    pub async fn delete(&self, blob: BlobId, wallet: &KeyPair) -> Result<Deletion, LifetimeError> {
        let (_, own) = self.living_registrations(blob, wallet).await?;
        let end = own.iter().map(|(_, own)| own.end).max().unwrap_or(Epoch::new(0));
        let deletable: Vec<_> = own.into_iter().filter(|(_, own)| own.deletable).collect();
        if deletable.is_empty() {
            return Err(LifetimeError::Permanent { blob, end });
        }
        let mut deletion: Option<Deletion> = None;
        for chunk in deletable.chunks(MAX_OPERATIONS) {
            let delete = |(id, _): &(_, _)| Operation::DeleteBlob { registration: *id };
            let receipt = self.ledger.submit(chunk.iter().map(delete).collect(), wallet).await?;
            let from = receipt.header.header().epoch.plus(1);
            let (mut registrations, before) = match deletion {
                Some(before) => (before.registrations, before.refund),
                None => (Vec::new(), Amount::ZERO),
            };
            let mut refunds = chunk.iter().map(|(_, own)| own.paid_from(from));
            let refund = refunds.try_fold(before, |sum, refund| sum.checked_add(refund?));
            registrations.extend(chunk.iter().map(|(id, _)| *id));
            let refund = refund.ok_or(LedgerError::Overflow)?;
            deletion = Some(Deletion { registrations, refund, receipt });
        }
        Ok(deletion.expect("there is something to delete"))
    }

    /// The running epoch, and the wallet's living registrations of a blob: at least one.
    async fn living_registrations(
        &self,
        blob: BlobId,
        wallet: &KeyPair,
    ) -> Result<(Epoch, Vec<(RegistrationId, Registration)>), LifetimeError> {
        let account = AccountId::new(wallet.public());
        let epoch = self.ledger.summary().await?.value.map(|summary| summary.epoch);
        let epoch = epoch.ok_or(LedgerError::Stopped)?;
        let own = self.ledger.registrations_of(account, blob).await?.value.into_iter();
        let own: Vec<_> = own.filter(|(_, own)| own.is_alive(epoch)).collect();
        if own.is_empty() {
            return Err(LifetimeError::NotOwned { blob, account });
        }
        Ok((epoch, own))
    }

    async fn balance(&self, wallet: &KeyPair) -> Result<(AccountId, Amount), LedgerError> {
        let account = AccountId::new(wallet.public());
        Ok((account, self.ledger.balance(account).await?.value))
    }
}
