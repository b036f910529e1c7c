//! Who pays for a store, and what it is told before.

use floe_protocol::{
    keys::KeyPair,
    ledger::{AccountId, Amount},
};

use super::{
    Storing,
    bill::{Bill, Quote},
};
use crate::{
    Client,
    cli::{exit::Failure, expiry::Calendar, session::Session},
    client::{LedgerError, PreparedStore},
    service::ledger::wall_clock,
};

/// Who pays. A dry run needs no wallet: it is then priced as for a new account.
pub(super) fn payer(
    session: &Session,
    dry_run: bool,
) -> Result<(Option<KeyPair>, Option<AccountId>), Failure> {
    match session.wallet() {
        Ok(key) => {
            let account = AccountId::new(key.public());
            Ok((Some(key).filter(|_| !dry_run), Some(account)))
        }
        Err(failure) if dry_run && failure.code() == "no_wallet" => {
            session.output.note(format_args!("{}: priced as for a new account", failure.message()));
            Ok((None, None))
        }
        Err(failure) => Err(failure),
    }
}

impl Storing<'_> {
    /// Tells what a batch costs before it is paid, and refuses what would be too much.
    pub(super) async fn show_price(
        &mut self,
        client: &Client,
        prepared: &[PreparedStore],
    ) -> Result<(), Failure> {
        let mut bill = Bill::default();
        for prepared in prepared {
            bill.add(prepared, fee(client)?)?;
        }
        self.calendar = calendar(client).await;
        if !self.session.output.is_quiet() {
            self.session.output.note(self.quote(client, &bill).await?);
        }
        self.spent = bill.check(self.spent, self.max_payment)?;
        Ok(())
    }

    pub(super) async fn quote<'a>(
        &self,
        client: &Client,
        bill: &'a Bill,
    ) -> Result<Quote<'a>, Failure> {
        let balance = match self.account {
            Some(account) => Some((account, client.ledger().balance(account).await?.value)),
            None => None,
        };
        Ok(Quote::new(bill, self.wanted.epochs, balance, self.calendar.as_ref()))
    }
}

/// When epochs begin, as far as it can be known now.
pub(super) async fn calendar(client: &Client) -> Option<Calendar> {
    let summary = client.ledger().summary().await.ok()?.value?;
    Some(Calendar::new(&summary, client.ledger().parameters()).started(wall_clock()))
}

/// The fee of one operation.
pub(super) fn fee(client: &Client) -> Result<Amount, Failure> {
    Ok(client.ledger().fee(1).ok_or(LedgerError::Overflow)?)
}
