//! `floe delete`: ends what an account has stored, and refunds the epochs that have not begun.

use std::fmt;

use clap::Args;
use floe_protocol::{
    blob::BlobId,
    ledger::{Amount, BlobState},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    expiry::{Calendar, Until},
    read::parse_id,
    receipt::Committed,
    session::Session,
};
use crate::{Client, client::StatusError};

const AFTER_HELP: &str = "\
Ends all registrations of a blob that the wallet's account has and may delete. What was paid for
epochs that have not begun comes back. Nodes then free the blob's slivers, unless somebody else has
stored the same bytes: it stays readable for as long as anybody keeps it. Copies that others have
read are not touched.

The exit code is 3 if the account has not stored the blob, and 6 if it was stored with --permanent.

Examples:
  floe delete ID
  floe delete ID --json | jq -r .refund_frost";

/// Arguments of `floe delete`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DeleteArgs {
    /// The blob
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
}

/// Runs `floe delete`.
pub(super) async fn run(session: &Session, arguments: DeleteArgs) -> Result<Exit, Failure> {
    let blob = parse_id(&arguments.id)?;
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    let deletion = client.delete(blob, &key).await?;
    let stays = match stays(&client, blob).await {
        Ok(until) => until,
        Err(error) => {
            // It is deleted, whatever can't be asked now.
            session.output.warning(format_args!("whether others keep it is not known: {error}"));
            None
        }
    };
    client.shutdown().await;
    let deleted = Deleted {
        blob_id: blob.to_string(),
        registrations: deletion.registrations.iter().map(ToString::to_string).collect(),
        refund_frost: deletion.refund,
        still_stored: stays,
    };
    let refund = deleted.refund_frost;
    session.output.result(&Committed::new(deleted, &deletion.receipt), refund)?;
    Ok(Exit::Done)
}

/// Until when others, or a permanent registration, keep the blob all the same.
async fn stays(client: &Client, blob: BlobId) -> Result<Option<Until>, StatusError> {
    let status = match client.blob_status(blob).await {
        Ok(status) => status,
        Err(StatusError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let certified = status.record.certified.filter(|_| status.state == BlobState::Certified);
    let Some(certified) = certified else { return Ok(None) };
    let now = client.ledger().summary().await?.value;
    let calendar = now.map(|now| Calendar::new(&now, client.ledger().parameters()));
    Ok(Some(Until::new(certified.end, calendar.as_ref())))
}

/// The result.
#[derive(Debug, Serialize)]
struct Deleted {
    blob_id: String,
    registrations: Vec<String>,
    refund_frost: Amount,
    /// Until when it stays readable all the same; null if nobody else keeps it.
    still_stored: Option<Until>,
}

impl fmt::Display for Deleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  deleted, ", self.blob_id)?;
        if self.refund_frost.is_zero() {
            write!(f, "nothing to refund: no epoch that was paid for is still to begin")?;
        } else {
            write!(f, "{} refunded for epochs that have not begun", self.refund_frost)?;
        }
        match &self.still_stored {
            Some(until) => write!(f, "\nothers keep it: readable {until}"),
            None => Ok(()),
        }
    }
}
