//! `floe blob-status`: what the ledger knows of a blob.

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
use crate::{Client, client::BlobStatus};

const AFTER_HELP: &str = "\
A certified blob is stored: the swarm answers for it until its end. A registered one is paid for but
not stored yet. The exit code is 3 if it is proven that the ledger knows no such blob.

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
    registrations: u64,
    /// The first epoch in which nobody answers for it; null while it is not certified.
    end_epoch: Option<u64>,
    /// Until here at least it stays, whatever its owners do; null if all of them may delete it.
    permanent_end_epoch: Option<u64>,
    certified_epoch: Option<u64>,
    epoch: u64,
    /// The block after which it is so.
    height: u64,
    n_shards: u16,
    readable_with_shards: u16,
}

impl StatusOfBlob {
    fn new(blob_id: String, found: &BlobStatus, client: &Client) -> Self {
        let (record, config) = (&found.record, client.encoding());
        Self {
            blob_id,
            state: match found.state {
                BlobState::Registered => "registered",
                BlobState::Certified => "certified",
                BlobState::Expired => "expired",
                BlobState::Invalid => "invalid",
            },
            size_bytes: record.header.len,
            registrations: record.registrations,
            end_epoch: record.certified.map(|certified| certified.end.get()),
            permanent_end_epoch: record.permanent_end.map(|end| end.get()),
            certified_epoch: record.certified.map(|certified| certified.first_epoch.get()),
            epoch: found.epoch.get(),
            height: found.height.get(),
            n_shards: config.n_shards(),
            readable_with_shards: u16::try_from(config.k1()).expect("k1 is below n_shards"),
        }
    }
}

impl fmt::Display for StatusOfBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "blob           {}", self.blob_id)?;
        let size = human_bytes(self.size_bytes);
        writeln!(f, "size           {size} ({} bytes)", self.size_bytes)?;
        match (self.certified_epoch, self.end_epoch) {
            (Some(epoch), Some(end)) => {
                writeln!(f, "state          {} in epoch {epoch}, until epoch {end}", self.state)?;
            }
            _ => writeln!(f, "state          {}: nobody answers for it", self.state)?,
        }
        match self.permanent_end_epoch {
            Some(end) => writeln!(f, "deletable      not before epoch {end}")?,
            None => writeln!(f, "deletable      by its owners")?,
        }
        writeln!(f, "registrations  {}", self.registrations)?;
        writeln!(f, "readable       while any {} shards are left", self.readable_with_shards)?;
        write!(f, "proven         by block {}, in epoch {}", self.height, self.epoch)
    }
}
