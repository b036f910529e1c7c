//! `floe extend`: more epochs for a stored blob.

use std::fmt;

use clap::Args;
use floe_protocol::ledger::{Amount, billed_units};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    expiry::{Calendar, Until},
    read::parse_id,
    receipt::Committed,
    session::Session,
};
use crate::Client;

const AFTER_HELP: &str = "\
Pays for more epochs of a blob that the wallet's account has stored: they are added to its end, not
counted from now. `floe store FILE --epochs N` counts from now, and pays only for what is missing.

The price is shown first, and no more is paid. The exit code is 3 if the account has not stored the
blob, and 6 if it has too little WAL.

Examples:
  floe extend ID --epochs 20
  floe extend ID --epochs 20 --json | jq -r .end_epoch";

/// Arguments of `floe extend`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ExtendArgs {
    /// The blob
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    /// How many epochs to add
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
}

/// Runs `floe extend`.
pub(super) async fn run(session: &Session, arguments: ExtendArgs) -> Result<Exit, Failure> {
    let ExtendArgs { id, epochs } = arguments;
    let blob = parse_id(&id)?;
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    let price = show_price(session, &client, &client.blob_status(blob).await?, epochs).await?;
    let extension = client.extend(blob, (epochs, price), &key).await?;
    let now = client.ledger().summary().await.ok().and_then(|summary| summary.value);
    let calendar = now.map(|now| Calendar::new(&now, client.ledger().parameters()));
    client.shutdown().await;
    let extended = Extended {
        blob_id: blob.to_string(),
        registration: extension.registration.to_string(),
        epochs,
        paid_frost: extension.paid,
        until: Until::new(extension.end, calendar.as_ref()),
    };
    let end = extended.until.end_epoch;
    session.output.result(&Committed::new(extended, &extension.receipt), end)?;
    Ok(Exit::Done)
}

/// Tells what is about to be paid: the most that may be.
async fn show_price(
    session: &Session,
    client: &Client,
    status: &crate::client::BlobStatus,
    epochs: u32,
) -> Result<Option<Amount>, Failure> {
    let ledger = client.ledger();
    let prices = ledger.prices().await?.value;
    let price = billed_units(status.header()).ok().and_then(|units| prices.per_epoch(units));
    let price = price.and_then(|price| price.checked_mul(epochs.into()));
    if let (Some(price), Some(fee)) = (price, ledger.fee(1)) {
        session.output.note(format_args!("{price} for {epochs} more epochs, fee {fee}"));
    }
    Ok(price)
}

/// The result.
#[derive(Debug, Serialize)]
struct Extended {
    blob_id: String,
    registration: String,
    epochs: u32,
    paid_frost: Amount,
    #[serde(flatten)]
    until: Until,
}

impl fmt::Display for Extended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blob_id, until, paid_frost, .. } = self;
        write!(f, "{blob_id}  {until}, paid {paid_frost}")
    }
}
