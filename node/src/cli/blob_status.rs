//! `floe blob-status`: what the ledger knows of a blob.

use std::fmt;

use clap::Args;
use floe_protocol::{
    ledger::{BlobState, Key, Record},
    light::Fitness,
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    expiry::{Calendar, Until, about},
    read::{parse_id, warn_if_old},
    receipt::age_ms,
    session::Session,
    size::human_bytes,
};
use crate::{
    Client,
    client::{BlobStatus, ledger::Purpose},
};

const AFTER_HELP: &str = "\
A certified blob is stored: the swarm answers for it until its end. A registered one is paid for but
not stored yet. What is shown is proven by a block that a quorum of the committee signed. The exit
code is 3 if it is proven that the ledger knows no such blob.

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
    warn_if_old(&session.output, &found);
    let now = client.ledger().facts(&[Key::Summary], Purpose::Read).await?;
    let calendar = match now.value.as_slice() {
        [Some(Record::Summary(now))] => Some(Calendar::new(now, client.ledger().parameters())),
        _ => None,
    };
    let age_ms = now.time().map(age_ms);
    let status = StatusOfBlob { age_ms, ..StatusOfBlob::new(&found, &client, calendar.as_ref()) };
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
    /// The first epoch in which nobody answers for it, and about when that begins; null while it is
    /// not certified.
    end_epoch: Option<u64>,
    expires_ms: Option<u64>,
    /// Until here at least it stays, whatever its owners do; null if all of them may delete it.
    permanent_end_epoch: Option<u64>,
    certified_epoch: Option<u64>,
    certified_ms: Option<u64>,
    epoch: u64,
    /// The block after which it is so.
    height: u64,
    /// How old the newest block is that could be had.
    age_ms: Option<u64>,
    /// Whether that is new enough to decide by.
    fresh: bool,
    n_shards: u16,
    readable_with_shards: u16,
}

impl StatusOfBlob {
    fn new(found: &BlobStatus, client: &Client, calendar: Option<&Calendar>) -> Self {
        let (record, config) = (&found.record, client.encoding());
        let until = record.certified.map(|certified| Until::new(certified.end, calendar));
        Self {
            blob_id: record.header.id().to_string(),
            state: match found.state {
                BlobState::Registered => "registered",
                BlobState::Certified => "certified",
                BlobState::Expired => "expired",
                BlobState::Invalid => "invalid",
            },
            size_bytes: record.header.len,
            registrations: record.registrations,
            end_epoch: until.map(|until| until.end_epoch),
            expires_ms: until.and_then(|until| until.expires_ms),
            permanent_end_epoch: record.permanent_end.map(|end| end.get()),
            certified_epoch: record.certified.map(|certified| certified.first_epoch.get()),
            certified_ms: record.certified.map(|certified| certified.first_time.ms()),
            epoch: found.epoch.get(),
            height: found.height.get(),
            age_ms: None,
            fresh: found.fitness == Fitness::Fresh,
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
        let meaning = match self.state {
            "certified" => "certified: the swarm answers for it",
            "registered" => "registered, not certified yet: nobody answers for it",
            "expired" => "expired: nobody answers for it any more",
            _ => "invalid: its writer made it wrong, nobody can read it",
        };
        writeln!(f, "state          {meaning}")?;
        if let (Some(epoch), Some(ms)) = (self.certified_epoch, self.certified_ms) {
            writeln!(f, "certified      in epoch {epoch} ({})", about(ms))?;
        }
        if let Some(end_epoch) = self.end_epoch {
            writeln!(f, "stored         {}", Until { end_epoch, expires_ms: self.expires_ms })?;
        }
        match self.permanent_end_epoch {
            Some(end) => writeln!(f, "deletable      not before epoch {end}")?,
            None => writeln!(f, "deletable      by those who stored it")?,
        }
        writeln!(f, "registrations  {}", self.registrations)?;
        writeln!(f, "readable       while any {} shards are left", self.readable_with_shards)?;
        write!(f, "proven         by block {}, in epoch {}", self.height, self.epoch)?;
        self.age_ms.map_or(Ok(()), |ms| write!(f, ", {} s old", ms / 1_000))
    }
}
