//! `floe list-blobs`: what an account has stored, until when, and whether it can be deleted.

use std::fmt;

use clap::Args;
use floe_protocol::{
    index::Epoch,
    ledger::{AccountId, LedgerParameters, Registration, Summary, Timestamp},
    registration::RegistrationId,
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    receipt::human_moment,
    session::Session,
};

const AFTER_HELP: &str = "\
Lists the registrations of an account that the ledger still has: blob, the first epoch in which it is
no longer stored, about when that begins, and what can be done with it. A registration that is not
certified is not stored yet, and lapses with the epoch after its own.

Examples:
  floe list-blobs
  floe list-blobs --account wal1…
  floe list-blobs --json | jq -r '.blobs[] | select(.certified) | .blob_id'";

/// Arguments of `floe list-blobs`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ListBlobsArgs {
    /// The account [default: the wallet's]
    #[arg(long)]
    account: Option<AccountId>,
}

/// Runs `floe list-blobs`.
pub(super) async fn run(session: &Session, arguments: ListBlobsArgs) -> Result<Exit, Failure> {
    let account = session.account_or_own(arguments.account)?;
    let client = session.connect(session.network()?).await?;
    let ledger = client.ledger();
    let registrations = ledger.registrations(account).await?.value;
    let summary = ledger.summary().await?.value;
    let item = |(id, registration): &(RegistrationId, Registration)| {
        Item::new(id, registration, summary.as_ref(), ledger.parameters())
    };
    let mut blobs: Vec<_> = registrations.iter().map(item).collect();
    client.shutdown().await;
    blobs.sort_by(|a, b| (a.end_epoch, &a.blob_id).cmp(&(b.end_epoch, &b.blob_id)));
    let list = BlobList { account, epoch: summary.map(|summary| summary.epoch.get()), blobs };
    let brief: Vec<_> = list.blobs.iter().map(|item| item.blob_id.as_str()).collect();
    session.output.result(&list, brief.join("\n"))?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct BlobList {
    account: AccountId,
    epoch: Option<u64>,
    blobs: Vec<Item>,
}

#[derive(Debug, Serialize)]
struct Item {
    blob_id: String,
    registration: String,
    start_epoch: u64,
    /// The first epoch in which it is dead: its end, or where it lapses uncertified.
    end_epoch: u64,
    /// About when that begins, if epochs last as long as they should.
    expires_ms: Option<u64>,
    alive: bool,
    certified: bool,
    deletable: bool,
    units: u64,
}

impl Item {
    fn new(
        id: &RegistrationId,
        registration: &Registration,
        summary: Option<&Summary>,
        parameters: &LedgerParameters,
    ) -> Self {
        let end = registration.deadline();
        Self {
            blob_id: registration.blob.to_string(),
            registration: id.to_string(),
            start_epoch: registration.start.get(),
            end_epoch: end.get(),
            expires_ms: summary.and_then(|now| begins(end, now, parameters)).map(Timestamp::ms),
            alive: summary.is_some_and(|summary| registration.is_alive(summary.epoch)),
            certified: registration.certified.is_some(),
            deletable: registration.deletable,
            units: registration.units,
        }
    }
}

/// About when an epoch begins or began; nothing before the first block, which starts the clock.
pub(super) fn begins(
    epoch: Epoch,
    now: &Summary,
    parameters: &LedgerParameters,
) -> Option<Timestamp> {
    let start = Some(now.epoch_start).filter(|start| start.ms() > 0)?;
    let duration = |epochs: u64| parameters.epoch_ms.saturating_mul(epochs);
    match epoch.get().checked_sub(now.epoch.get()) {
        Some(ahead) => Some(start.plus_ms(duration(ahead))),
        None => {
            let back = duration(now.epoch.get() - epoch.get());
            Some(Timestamp::from_ms(start.ms().saturating_sub(back)))
        }
    }
}

impl fmt::Display for BlobList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blobs.is_empty() {
            return write!(f, "no blobs");
        }
        write!(f, "{:<43}  {:>6}  {:<20}  state", "blob", "until", "about")?;
        for item in &self.blobs {
            let about = item.expires_ms.map(|ms| human_moment(Timestamp::from_ms(ms)));
            let about = about.as_deref().unwrap_or("");
            let state = match (item.alive, item.certified) {
                (false, _) => "ended",
                (true, true) => "certified",
                (true, false) => "not certified",
            };
            let deletable = if item.deletable { ", deletable" } else { ", permanent" };
            write!(
                f,
                "\n{}  {:>6}  {about:<20}  {state}{deletable}",
                item.blob_id, item.end_epoch
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floe_protocol::ledger::{Amount, Prices, Supply};

    #[test]
    fn expiry_is_estimated_from_the_running_epoch() {
        let prices = Prices { storage: Amount::ZERO, write: Amount::ZERO, capacity_units: 0 };
        let summary = |epoch, start_ms| Summary {
            epoch: Epoch::new(epoch),
            epoch_start: Timestamp::from_ms(start_ms),
            prices,
            next_prices: None,
            certifications: 0,
            supply: Supply::default(),
        };
        let parameters = LedgerParameters { epoch_ms: 1_000, ..LedgerParameters::default() };
        let at = |epoch, now| begins(Epoch::new(epoch), &now, &parameters).map(Timestamp::ms);
        assert_eq!(at(5, summary(3, 10_000)), Some(12_000));
        assert_eq!(at(3, summary(3, 10_000)), Some(10_000));
        assert_eq!(at(1, summary(3, 10_000)), Some(8_000));
        assert_eq!(at(5, summary(0, 0)), None, "no block has started the clock yet");
    }
}
