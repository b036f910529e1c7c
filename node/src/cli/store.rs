//! `floe store`: stores files, one after the other.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use floe_protocol::{genesis::NetworkFile, keys::KeyPair, transfer::Wanted};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    exit::{Exit, Failure},
    input::Input,
    progress::Progress,
    session::Session,
    size::human_bytes,
};
use crate::{
    Client,
    client::{Outcome, StorePhase, StoreProgress, StoreReport},
};

/// How often the progress is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
A store is done when storage nodes with more than two thirds of all shards have confirmed it. An
interrupted or failed store is resumed by repeating it: only what is missing is sent. Blobs are
public: anyone with the id can read them. Encrypt first what is not meant for everyone.

Several files are stored one after the other; after a failure the rest is still tried, and the exit
code is that of the first failure.

Examples:
  floe store holiday.jpg
  floe store *.jpg
  tar c notes | floe store -
  id=$(floe -q store holiday.jpg)
  floe store --json holiday.jpg | jq -r .blob_id";

/// Arguments of `floe store`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct StoreArgs {
    /// Files to store; - is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// For how many epochs, the running one included
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Nobody may delete it before its end, not even you
    #[arg(long)]
    permanent: bool,
}

impl StoreArgs {
    pub(super) fn reads_stdin(&self) -> bool {
        self.files.iter().any(|file| file == Path::new("-"))
    }
}

/// Runs `floe store`.
pub(super) async fn run(session: &Session, arguments: StoreArgs) -> Result<Exit, Failure> {
    let inputs: Vec<Input> = arguments.files.into_iter().map(Input::from).collect();
    if inputs.iter().filter(|input| **input == Input::Stdin).count() > 1 {
        return Err(Failure::usage("usage", "standard input can be stored only once"));
    }
    let network = session.network()?;
    network.genesis.committee()?;
    let wallet = session.wallet()?;
    let wanted = Wanted { epochs: arguments.epochs, deletable: !arguments.permanent };
    let mut storing = Storing { session, network, wallet, wanted, client: None };
    let mut exit = Exit::Done;
    let mut stored_any = false;
    for input in &inputs {
        match storing.store(input).await {
            Ok(()) => stored_any = true,
            Err(failure) if inputs.len() == 1 || failure.is_quiet() => return Err(failure),
            Err(failure) => {
                session.output.failure_of(&input.name(), &failure);
                if exit == Exit::Done {
                    exit = failure.exit();
                }
                if storing.client.is_none() && failure.exit() == Exit::Temporary {
                    // Nobody was there for this file, nor would anybody be for the next.
                    break;
                }
            }
        }
    }
    if stored_any {
        session.output.note("public: anyone with the id can read it");
    }
    if let Some(client) = storing.client {
        client.shutdown().await;
    }
    Ok(exit)
}

struct Storing<'a> {
    session: &'a Session,
    network: NetworkFile,
    wallet: KeyPair,
    wanted: Wanted,
    /// Joined when the first blob is there to be stored.
    client: Option<Client>,
}

impl Storing<'_> {
    async fn store(&mut self, input: &Input) -> Result<(), Failure> {
        let output = &self.session.output;
        let blob = input.read(self.network.genesis.max_blob_bytes, output).await?;
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = self.session.connect(self.network.clone()).await?;
                self.client.insert(client).clone()
            }
        };
        let report = self.follow(&client, &input.name(), blob).await?;
        let stored = StoredBlob::new(input.name(), &report, &client);
        for failure in &stored.unreached {
            let shards = failure.shards;
            output.warning(format_args!(
                "node {} ({shards} shards): {}",
                failure.node, failure.reason
            ));
        }
        output.result(&stored, &stored.blob_id)
    }

    /// Stores a blob and shows how far it is.
    async fn follow(
        &self,
        client: &Client,
        name: &str,
        blob: Bytes,
    ) -> Result<StoreReport, Failure> {
        let (sender, receiver) = watch::channel(StoreProgress::default());
        let mut progress = Progress::new(self.session, name, false);
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut store = Box::pin(client.store(blob, self.wanted, &self.wallet, &sender));
        loop {
            tokio::select! {
                result = &mut store => return Ok(result?),
                _ = ticks.tick() => {
                    let now = *receiver.borrow();
                    let doing = match now.phase {
                        StorePhase::Paying => "paying",
                        StorePhase::Uploading => "uploading",
                        StorePhase::Certifying => "certifying",
                        StorePhase::Tail => "stored, serving the last nodes",
                    };
                    progress.show(doing, now.stored_bytes, now.total_bytes);
                }
            }
        }
    }
}

/// The result of storing one file.
#[derive(Debug, Serialize)]
struct StoredBlob {
    blob_id: String,
    file: String,
    size_bytes: u64,
    encoded_bytes: u64,
    already_certified: bool,
    end_epoch: u64,
    confirmed_shards: Option<u16>,
    n_shards: u16,
    /// Readable while so many of the shards are left.
    readable_with_shards: u16,
    /// So many shards may be lost, whichever they are.
    survives_lost_shards: Option<u16>,
    public: bool,
    encode_ms: u64,
    certify_ms: u64,
    unreached: Vec<UnreachedNode>,
}

#[derive(Debug, Serialize)]
struct UnreachedNode {
    node: String,
    shards: u16,
    reason: String,
}

impl StoredBlob {
    fn new(file: String, report: &StoreReport, client: &Client) -> Self {
        let unreached = report.unreached.iter().map(|node| UnreachedNode {
            node: node.node.to_string(),
            shards: node.shards,
            reason: node.reason.to_string(),
        });
        let k1 = u16::try_from(client.encoding().k1()).expect("k1 is below n_shards");
        Self {
            blob_id: report.blob.to_string(),
            file,
            size_bytes: report.header.len,
            encoded_bytes: report.encoded_bytes,
            already_certified: report.outcome == Outcome::AlreadyStored,
            end_epoch: report.end.get(),
            confirmed_shards: report.confirmed_shards,
            n_shards: client.encoding().n_shards(),
            readable_with_shards: k1,
            survives_lost_shards: report.confirmed_shards.map(|shards| shards.saturating_sub(k1)),
            public: true,
            encode_ms: report.encode_ms,
            certify_ms: report.certify_ms,
            unreached: unreached.collect(),
        }
    }
}

impl fmt::Display for StoredBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blob_id, file, n_shards, end_epoch, .. } = self;
        let size = human_bytes(self.size_bytes);
        write!(f, "{blob_id}  {file}  {size}, until epoch {end_epoch}")?;
        match (self.confirmed_shards, self.survives_lost_shards) {
            (Some(confirmed), Some(lost)) => write!(
                f,
                ", {confirmed} of {n_shards} shards confirmed, survives the loss of any {lost}"
            ),
            _ => write!(f, ", stored before"),
        }
    }
}
