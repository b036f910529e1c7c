//! `floe blob-status`: what the network knows of a blob.

use std::fmt;

use clap::Args;
use floe_protocol::ledger::BlobState;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    read::parse_id,
    session::Session,
    size::human_bytes,
};
use crate::{Client, client::VerifiedStatus};

const AFTER_HELP: &str = "\
A certified blob is proven to be stored: the swarm answers for it. A registered one is not yet.
The exit code is 3 if a quorum of the nodes does not know the blob.

Examples:
  floe blob-status ID
  floe blob-status --json ID | jq -r .state";

/// Arguments of `floe blob-status`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct BlobStatusArgs {
    /// The blob
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
}

/// Runs `floe blob-status`.
pub(super) async fn run(session: &Session, arguments: BlobStatusArgs) -> Result<Exit, Failure> {
    let blob = parse_id(&arguments.id)?;
    let client = session.connect(session.network()?).await?;
    let found = client.blob_status(blob).await?;
    let status = StatusOfBlob::new(blob.to_string(), &found, &client);
    client.shutdown().await;
    session.output.result(&status, status.state)?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct StatusOfBlob {
    blob_id: String,
    state: &'static str,
    size_bytes: u64,
    live_registrations: u32,
    /// The first epoch in which nobody answers for it; null: never.
    end_epoch: Option<u64>,
    deletable: bool,
    certified_epoch: Option<u64>,
    /// Shards of the nodes whose signatures the certificate carries.
    confirmed_shards: Option<u16>,
    n_shards: u16,
    readable_with_shards: u16,
}

impl StatusOfBlob {
    fn new(blob_id: String, found: &VerifiedStatus, client: &Client) -> Self {
        let (status, committee) = (&found.status, client.view().committee());
        let certificate = found.certificate.as_ref();
        Self {
            blob_id,
            state: match status.state {
                BlobState::Registered => "registered",
                BlobState::Certified => "certified",
                BlobState::Expired => "expired",
                BlobState::Deleted => "deleted",
                BlobState::Invalid => "invalid",
            },
            size_bytes: status.header.len,
            live_registrations: status.live_registrations,
            end_epoch: Some(status.end.get()).filter(|end| *end != u64::MAX),
            deletable: status.deletable,
            certified_epoch: certificate.map(|certificate| certificate.fact.epoch.get()),
            confirmed_shards: certificate.map(|certificate| certificate.weight(committee)),
            n_shards: committee.n_shards(),
            readable_with_shards: u16::try_from(committee.config().k1())
                .expect("k1 is below n_shards"),
        }
    }
}

impl fmt::Display for StatusOfBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "blob       {}", self.blob_id)?;
        let size = human_bytes(self.size_bytes);
        writeln!(f, "size       {size} ({} bytes)", self.size_bytes)?;
        match (self.certified_epoch, self.confirmed_shards) {
            (Some(epoch), Some(shards)) => writeln!(
                f,
                "state      {} in epoch {epoch} by nodes with {shards} of {} shards",
                self.state, self.n_shards
            )?,
            _ => writeln!(f, "state      {}: no node proves that it is stored", self.state)?,
        }
        writeln!(f, "readable   while any {} shards are left", self.readable_with_shards)?;
        match self.end_epoch {
            Some(end) => writeln!(f, "ends       with epoch {end}")?,
            None => writeln!(f, "ends       never")?,
        }
        write!(f, "deletable  {}", if self.deletable { "yes" } else { "no" })
    }
}
