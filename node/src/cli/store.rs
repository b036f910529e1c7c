//! `floe store`: files in, in batches that share their transactions.
//!
//! ```text
//!   read, encode, plan ──► batch ──► price shown ──► paid, uploaded, certified ──► results, in order
//! ```
//!
//! Invariants: at most one batch is held encoded, and one more file as it is; nothing is paid before
//! its price was shown and found to be within `--max-payment`; what goes wrong with a file stops no
//! other one.

mod bill;
mod paying;
mod result;

use std::{
    future::Future,
    mem,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use floe_protocol::{
    genesis::NetworkFile,
    keys::KeyPair,
    ledger::{AccountId, Amount},
    transfer::Wanted,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use self::{
    bill::Bill,
    paying::{calendar, fee, payer},
    result::{PlannedBlob, StoredBlob},
};
use super::{
    exit::{Exit, Failure},
    expiry::Calendar,
    input::Input,
    progress::Progress,
    session::Session,
};
use crate::{
    Client,
    client::{PreparedStore, STORE_BATCH_MAX, StorePhase, StoreProgress},
    key_file::generate_key_pair,
};

/// Bytes of the blobs of one batch, if it has more than one: encoded they take five times that.
const BATCH_BYTES_MAX: u64 = 64 << 20;
/// How often the progress is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
A store pays with the wallet's WAL for a number of epochs, the running one included; afterwards the
network forgets the blob, unless `floe extend` has bought more. The price is shown first. A store is
done when storage nodes with more than two thirds of all shards have confirmed it and the ledger has
the certificate. An interrupted or failed store is resumed by repeating it: what was paid counts, and
only what is missing is sent. What is stored for as long already costs nothing.

Blobs are public: anyone with the id can read them. Encrypt first what is not meant for everyone.

Files go in batches that share their transactions; after a failure the rest is still tried, and the
exit code is that of the first failure. It is 6 where WAL is lacking or --max-payment is too little.

Examples:
  floe store holiday.jpg
  floe store *.jpg --epochs 30 --dry-run
  floe store *.jpg --epochs 30 --max-payment 0.5
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
    /// For how many epochs, the running one included [default: epochs of the configuration, or 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Nobody may delete it before its end, not even you
    #[arg(long)]
    permanent: bool,
    /// Show what would be done and paid; pay and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Pay no more than this in all, fees included (0.5, "0.5 WAL", 200FROST)
    #[arg(long, value_name = "AMOUNT")]
    max_payment: Option<Amount>,
}

impl StoreArgs {
    pub(super) fn reads_stdin(&self) -> bool {
        self.files.iter().any(|file| file == Path::new("-"))
    }

    pub(super) const fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Runs `floe store`.
pub(super) async fn run(session: &Session, arguments: StoreArgs) -> Result<Exit, Failure> {
    let inputs: Vec<Input> = arguments.files.iter().cloned().map(Input::from).collect();
    if inputs.iter().filter(|input| **input == Input::Stdin).count() > 1 {
        return Err(Failure::usage("usage", "standard input can be stored only once"));
    }
    let network = session.network()?;
    network.genesis.committee()?;
    let epochs = arguments.epochs.unwrap_or(session.settings.epochs.value);
    let ahead_max = network.genesis.ledger.max_epochs_ahead;
    if epochs > ahead_max {
        let message =
            format!("{epochs} epochs: this network takes payment for {ahead_max} at most");
        return Err(Failure::usage("too_far_ahead", message));
    }
    let (key, account) = payer(session, arguments.dry_run)?;
    let mut storing = Storing {
        session,
        network,
        key,
        account,
        wanted: Wanted { epochs, deletable: !arguments.permanent },
        max_payment: arguments.max_payment,
        files: inputs.len(),
        client: None,
        calendar: None,
        batch: Batch::default(),
        planned: Bill::default(),
        spent: Amount::ZERO,
        exit: Exit::Done,
        stored_any: false,
    };
    for input in &inputs {
        if !storing.take(input).await? {
            break;
        }
    }
    storing.finish().await
}

/// Files that are stored together, each with what it was prepared to or why it was not.
#[derive(Default)]
struct Batch {
    files: Vec<(String, Result<PreparedStore, Failure>)>,
    bytes: u64,
}

impl Batch {
    /// Whether a blob of so many bytes still belongs to it.
    fn takes(&self, bytes: u64) -> bool {
        let fits = self.bytes == 0 || self.bytes.saturating_add(bytes) <= BATCH_BYTES_MAX;
        fits && self.files.len() < STORE_BATCH_MAX
    }

    fn put(&mut self, name: String, prepared: Result<PreparedStore, Failure>) {
        self.bytes += prepared.as_ref().map_or(0, |prepared| prepared.header().len);
        self.files.push((name, prepared));
    }
}

struct Storing<'a> {
    session: &'a Session,
    network: NetworkFile,
    /// None in a dry run.
    key: Option<KeyPair>,
    /// Who pays; none in a dry run without a wallet.
    account: Option<AccountId>,
    wanted: Wanted,
    max_payment: Option<Amount>,
    /// How many were named.
    files: usize,
    /// Joined when the first blob is there to be stored.
    client: Option<Client>,
    calendar: Option<Calendar>,
    batch: Batch,
    /// What a dry run has found so far.
    planned: Bill,
    /// What was paid so far, or may have been.
    spent: Amount,
    exit: Exit,
    stored_any: bool,
}

impl Storing<'_> {
    /// Reads and prepares a file. Whether it makes sense to go on with the next one.
    async fn take(&mut self, input: &Input) -> Result<bool, Failure> {
        let (name, output) = (input.name(), &self.session.output);
        let read = input.read(self.network.genesis.max_blob_bytes, output).await;
        let bytes = read.as_ref().map_or(0, |blob| blob.len() as u64);
        if !self.batch.takes(bytes) {
            self.store_batch().await?;
        }
        let blob = match read {
            Ok(blob) => blob,
            Err(failure) => {
                self.batch.put(name, Err(failure));
                return Ok(true);
            }
        };
        let client = match &self.client {
            Some(client) => client.clone(),
            None => match self.session.connect(self.network.clone()).await {
                Ok(client) => self.client.insert(client).clone(),
                Err(failure) => {
                    // Nobody was there for this file, nor would anybody be for the next.
                    self.batch.put(name, Err(failure));
                    return Ok(false);
                }
            },
        };
        let prepared = self.prepare(&client, &name, blob).await;
        if self.key.is_some() {
            self.batch.put(name, prepared);
        } else {
            // Nothing of it is needed later.
            let planned = match prepared {
                Ok(prepared) => self.plan(&client, &name, &prepared).await,
                Err(failure) => Err(failure),
            };
            self.report(&name, planned)?;
        }
        Ok(true)
    }

    async fn prepare(
        &self,
        client: &Client,
        name: &str,
        blob: Bytes,
    ) -> Result<PreparedStore, Failure> {
        let owner = match self.account {
            Some(account) => account,
            None => AccountId::new(generate_key_pair()?.public()),
        };
        let mut progress = Progress::new(self.session, name, false);
        let prepare = client.prepare_store(blob, self.wanted, owner);
        Ok(showing(prepare, || progress.show("encoding", 0, 0)).await?)
    }

    /// A dry run's result for one file.
    async fn plan(
        &mut self,
        client: &Client,
        name: &str,
        prepared: &PreparedStore,
    ) -> Result<(), Failure> {
        if self.calendar.is_none() {
            self.calendar = calendar(client).await;
        }
        let cost = self.planned.add(prepared, fee(client)?)?;
        let planned = PlannedBlob::new(name, prepared, cost, self.calendar.as_ref());
        let output = &self.session.output;
        if output.is_json() || !output.is_quiet() {
            output.result(&planned, "")?;
        }
        Ok(())
    }

    /// Shows the price of the batch, pays it, stores it, and prints the results in order.
    async fn store_batch(&mut self) -> Result<(), Failure> {
        let Batch { files, .. } = mem::take(&mut self.batch);
        let (mut prepared, mut waiting) = (Vec::new(), Vec::new());
        for (name, file) in files {
            let failure = file.map(|file| prepared.push(file)).err();
            waiting.push((name, failure));
        }
        let stored = match self.client.clone() {
            Some(client) if !prepared.is_empty() => self.store_prepared(&client, prepared).await,
            _ => Vec::new(),
        };
        let mut stored = stored.into_iter();
        for (name, failure) in waiting {
            let result = match failure {
                Some(failure) => Err(failure),
                None => stored.next().expect("one result for each that was prepared"),
            };
            let printed = result.and_then(|stored| {
                self.stored_any = true;
                stored.print(&name, &self.session.output)
            });
            self.report(&name, printed)?;
        }
        Ok(())
    }

    /// One result for each, in their order.
    async fn store_prepared(
        &mut self,
        client: &Client,
        prepared: Vec<PreparedStore>,
    ) -> Vec<Result<StoredBlob, Failure>> {
        let count = prepared.len();
        let Some(key) = self.key.clone() else { return Vec::new() };
        if let Err(failure) = self.show_price(client, &prepared).await {
            return prepared.iter().map(|_| Err(failure.clone())).collect();
        }
        let name = if count == 1 { "store".to_owned() } else { format!("{count} files") };
        let (sender, receiver) = watch::channel(StoreProgress::default());
        let mut progress = Progress::new(self.session, &name, false);
        let show = || {
            let now = *receiver.borrow();
            let doing = match now.phase {
                StorePhase::Paying => "paying",
                StorePhase::Uploading => "uploading",
                StorePhase::Certifying => "certifying",
                StorePhase::Tail => "stored, serving the last nodes",
            };
            progress.show(doing, now.stored_bytes, now.total_bytes);
        };
        let results = showing(client.store_prepared(prepared, &key, &sender), show).await;
        let stored = results.into_iter().map(|result| {
            let report = result?;
            Ok(StoredBlob::new(&report, fee(client)?, client, self.calendar.as_ref()))
        });
        stored.collect()
    }

    /// Prints why a file failed, and remembers the first failure.
    fn report(&mut self, name: &str, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(failure) if self.files == 1 || failure.is_quiet() => Err(failure),
            Err(failure) => {
                self.session.output.failure_of(name, &failure);
                if self.exit == Exit::Done {
                    self.exit = failure.exit();
                }
                Ok(())
            }
        }
    }

    /// Stores what is left, and ends.
    async fn finish(mut self) -> Result<Exit, Failure> {
        self.store_batch().await?;
        let output = &self.session.output;
        if self.stored_any {
            output.note("public: anyone with the id can read it");
        }
        let Some(client) = &self.client else { return Ok(self.exit) };
        if self.key.is_none() && self.planned.has_files() {
            let quote = self.quote(client, &self.planned).await?;
            output.result(&quote, self.planned.total()?)?;
            self.planned.check(Amount::ZERO, self.max_payment)?;
        }
        client.clone().shutdown().await;
        Ok(self.exit)
    }
}

/// Does something, and shows now and then how far it is.
async fn showing<T>(work: impl Future<Output = T>, mut show: impl FnMut()) -> T {
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => show(),
        }
    }
}
