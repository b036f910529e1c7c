//! `floe list-blobs`: what an account has stored, until when, and whether it can be deleted.

use std::fmt;

use clap::Args;
use floe_protocol::{
    ledger::{AccountId, Registration},
    registration::RegistrationId,
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    expiry::{Calendar, Until, about},
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
    let calendar = summary.map(|now| Calendar::new(&now, ledger.parameters()));
    let item = |(id, registration): &(RegistrationId, Registration)| {
        Item::new(id, registration, calendar.as_ref())
    };
    let mut blobs: Vec<_> = registrations.iter().map(item).collect();
    client.shutdown().await;
    blobs.sort_by(|a, b| (a.until.end_epoch, &a.blob_id).cmp(&(b.until.end_epoch, &b.blob_id)));
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
    /// Its end, or where it lapses uncertified.
    #[serde(flatten)]
    until: Until,
    alive: bool,
    certified: bool,
    deletable: bool,
    units: u64,
}

impl Item {
    fn new(id: &RegistrationId, registration: &Registration, calendar: Option<&Calendar>) -> Self {
        Self {
            blob_id: registration.blob.to_string(),
            registration: id.to_string(),
            start_epoch: registration.start.get(),
            until: Until::new(registration.deadline(), calendar),
            alive: calendar.is_some_and(|calendar| registration.is_alive(calendar.epoch())),
            certified: registration.certified.is_some(),
            deletable: registration.deletable,
            units: registration.units,
        }
    }
}

impl fmt::Display for BlobList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blobs.is_empty() {
            return write!(f, "no blobs");
        }
        write!(f, "{:<43}  {:>6}  {:<16}  state", "blob", "until", "about")?;
        for item in &self.blobs {
            let about = item.until.expires_ms.map(about).unwrap_or_default();
            let state = match (item.alive, item.certified) {
                (false, _) => "ended",
                (true, true) => "certified",
                (true, false) => "not certified",
            };
            let deletable = if item.deletable { ", deletable" } else { ", permanent" };
            write!(
                f,
                "\n{}  {:>6}  {about:<16}  {state}{deletable}",
                item.blob_id, item.until.end_epoch
            )?;
        }
        Ok(())
    }
}
