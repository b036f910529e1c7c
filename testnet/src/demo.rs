//! The command `demo`: a file survives the loss of more than half of the nodes.
//!
//! Seven nodes, a store that is paid for, a round of challenges that two nodes miss, four nodes stopped, a read by a client that knows nothing
//! yet, a comparison, the nodes started again, another read, a deletion with a refund. After each
//! payment it is proven where all WAL is. Any step that does not come out as promised fails the
//! command; the swarm and its files are gone afterwards either way.

mod challenge;

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use floe_node::{
    Client,
    cli::size::human_bytes,
    client::{ReadOptions, StatusError, StoreProgress, StoreReport, ledger::Purpose},
};
use floe_protocol::{
    blob::BlobId,
    encoding::EncodingConfig,
    ledger::{AccountId, Amount, Key, Record, Supply},
    transfer::Wanted,
};
use serde::Serialize;
use tokio::sync::watch;

use self::challenge::Challenged;
use crate::{
    cluster::Cluster,
    report::{self, Spinner},
    workload,
};

const NODES: usize = 7;
const SHARDS: u16 = 64;
/// Node 0, through which the others joined, is one of them.
const STOPPED: [usize; 4] = [0, 2, 3, 5];
const GENERATED_BYTES: usize = 32 << 20;
/// What is paid for.
const WANTED: Wanted = Wanted { epochs: 2, deletable: true };

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// The file to store [default: 32 MiB of random bytes]
    file: Option<PathBuf>,
    /// One process per node instead of all in this one
    #[arg(long)]
    processes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What happened.
#[derive(Debug, Serialize)]
struct DemoReport {
    blob: BlobId,
    blob_bytes: u64,
    encoded_bytes: u64,
    nodes: usize,
    shards: u16,
    confirmed_shards: u16,
    challenged: Challenged,
    stopped_nodes: Vec<usize>,
    shards_left: u16,
    shards_to_read: u16,
    identical: bool,
    payment: Payment,
    steps: Vec<Step>,
}

/// What the store cost, and where all WAL was before it, after it, and after the deletion.
#[derive(Debug, Serialize)]
struct Payment {
    epochs: u32,
    price: Amount,
    fees: Amount,
    refund: Amount,
    genesis: Money,
    stored: Money,
    deleted: Money,
}

/// Where all WAL is. Proven.
#[derive(Clone, Copy, Debug, Serialize)]
struct Money {
    wallet: Amount,
    supply: Supply,
    /// The sum, which the genesis fixes.
    all: Amount,
}

/// One thing that was done.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    seconds: f64,
    mib_per_second: Option<f64>,
}

/// Prints steps as they are done, and keeps them.
struct Steps {
    json: bool,
    done: Vec<Step>,
}

impl Steps {
    /// Runs one step; what it returns may be told by `detail`.
    async fn run<T>(
        &mut self,
        (step, bytes): (&'static str, Option<u64>),
        work: impl Future<Output = anyhow::Result<T>>,
        detail: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<T> {
        let spinner = Spinner::new(step);
        let started = Instant::now();
        let result = work.await;
        let time = started.elapsed();
        drop(spinner);
        let result = result.with_context(|| format!("failed to {step}"))?;
        let mib_per_second = bytes.map(|bytes| report::mib_per_second(bytes, time));
        self.print(step, time, mib_per_second, &detail(&result));
        self.done.push(Step { step, seconds: time.as_secs_f64(), mib_per_second });
        Ok(result)
    }

    fn print(&self, step: &str, time: Duration, mib_per_second: Option<f64>, detail: &str) {
        let rate = mib_per_second.map_or_else(String::new, |r| report::rate(r) + " MiB/s");
        self.line(step, &report::seconds(time), &rate, detail);
    }

    fn line(&self, step: &str, time: &str, rate: &str, detail: &str) {
        if !self.json {
            let line = format!("  {step:<20}{time:>8}{rate:>14}   {detail}");
            report::line(line.trim_end());
        }
    }
}

/// Runs the demonstration.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let file = load(args)?;
    let mut steps = Steps { json: args.json, done: Vec::new() };
    if !args.json {
        let place = if args.processes { "one process each" } else { "in this process" };
        report::line(&format!(
            "Floe demo: {} stored on {NODES} nodes with {SHARDS} shards, {place}, real sockets\n",
            human_bytes(file.len() as u64)
        ));
    }
    let builder = Cluster::builder().nodes(NODES).shards(SHARDS).processes(args.processes);
    let builder = builder.rounds_every(challenge::INTERVAL);
    let start = async { builder.start().await };
    let all_connected = |_: &Cluster| "all connected with each other".to_owned();
    let mut cluster = steps.run(("start the nodes", None), start, all_connected).await?;

    let demonstrated = Box::pin(demonstrate(&mut steps, &mut cluster, &file)).await?;
    let (stored, demonstrated, payment) = demonstrated;
    cluster.shutdown().await.context("the swarm did not stop in order")?;
    let report = DemoReport {
        blob: stored.blob,
        blob_bytes: file.len() as u64,
        encoded_bytes: stored.encoded_bytes,
        nodes: NODES,
        shards: SHARDS,
        confirmed_shards: stored.confirmed_shards.unwrap_or(0),
        challenged: demonstrated.challenged,
        stopped_nodes: STOPPED.to_vec(),
        shards_left: demonstrated.shards_left,
        shards_to_read: demonstrated.shards_to_read,
        identical: true,
        payment,
        steps: steps.done,
    };
    if args.json {
        return report::json(&report);
    }
    report::line(&format!(
        "\nThe file came back identical with {} of {NODES} nodes gone. Everything is cleaned up.",
        STOPPED.len()
    ));
    Ok(())
}

/// What was shown of challenges, and what was left of the swarm when nodes were stopped.
struct Demonstrated {
    challenged: Challenged,
    shards_left: u16,
    shards_to_read: u16,
}

async fn demonstrate(
    steps: &mut Steps,
    cluster: &mut Cluster,
    file: &Bytes,
) -> anyhow::Result<(StoreReport, Demonstrated, Payment)> {
    let bytes = Some(file.len() as u64);
    let client = cluster.client().await?;
    let confirmed = |(report, _): &(StoreReport, Payment)| {
        let encoded = human_bytes(report.encoded_bytes);
        let shards = report.confirmed_shards.unwrap_or(0);
        format!("{encoded} with redundancy, {shards} of {SHARDS} shards confirmed")
    };
    let stored = steps.run(("store the file", bytes), store(cluster, &client, file), confirmed);
    let (stored, mut paid) = stored.await?;
    client.shutdown().await;
    let blob = stored.blob;
    steps.line("blob id", "", "", &blob.to_string());
    let price = format!(
        "{} for {} epochs, and {} for two transactions",
        paid.price, WANTED.epochs, paid.fees
    );
    steps.line("price", "", "", &price);
    tell_money(steps, (paid.genesis, paid.stored));

    let challenged = challenge::show(steps, cluster).await?;
    let (shards_left, shards_to_read) = stop_nodes(steps, cluster).await?;
    // A client that has never seen the swarm: nothing comes from a memory of the first one.
    let identical = |(): &()| "identical".to_owned();
    let read = read_back(cluster, blob, file);
    steps.run(("read it back", bytes), read, identical).await?;

    let restart = async {
        for node in STOPPED {
            cluster.start(node).await?;
        }
        cluster.wait_connected().await
    };
    let rejoined = |(): &()| format!("{} nodes connected again", STOPPED.len());
    steps.run(("start them again", None), restart, rejoined).await?;
    let read = read_back(cluster, blob, file);
    steps.run(("read it once more", bytes), read, identical).await?;
    let deletion = steps.run(("delete it", None), delete(cluster, &mut paid, blob), |refund| {
        format!("{refund} came back for what had not begun")
    });
    deletion.await?;
    tell_money(steps, (paid.stored, paid.deleted));
    Ok((stored, Demonstrated { challenged, shards_left, shards_to_read }, paid))
}

/// Stops the nodes: shards left, and shards that a read needs.
async fn stop_nodes(steps: &mut Steps, cluster: &mut Cluster) -> anyhow::Result<(u16, u16)> {
    let stop = async {
        for node in STOPPED {
            cluster.stop(node).await?;
        }
        let status = cluster.status();
        Ok((status.running_shards, status.read_shards))
    };
    let detail = |(left, needed): &(u16, u16)| {
        format!("nodes {STOPPED:?}: {left} of {SHARDS} shards left, a read needs {needed}")
    };
    steps.run(("stop 4 of 7 nodes", None), stop, detail).await
}

/// Stores the file and looks where the WAL went that it cost.
async fn store(
    cluster: &Cluster,
    client: &Client,
    file: &Bytes,
) -> anyhow::Result<(StoreReport, Payment)> {
    let (wallet, ledger) = (cluster.wallet(), client.ledger());
    let genesis = money(cluster, client).await?;
    let prepared = client.prepare_store(file.clone(), WANTED, AccountId::new(wallet.public()));
    let prepared = prepared.await?;
    let price = prepared.price();
    let progress = watch::Sender::new(StoreProgress::default());
    let stored = client.store_prepared(vec![prepared], wallet, &progress).await.pop();
    let report = stored.context("one result for each blob")??;
    ensure!(report.paid == price, "{} was paid, not {price}", report.paid);
    let stored = money(cluster, client).await?;
    // One transaction registers, one certifies.
    let fees = ledger.fee(2).context("fees are small")?;
    let spent = price.checked_add(fees).context("it was paid")?;
    ensure!(
        genesis.wallet.checked_sub(stored.wallet) == Some(spent)
            && stored.supply.buckets.checked_sub(genesis.supply.buckets) == Some(spent),
        "not exactly {spent} went from the wallet to the epochs"
    );
    let refund = Amount::ZERO;
    let payment =
        Payment { epochs: WANTED.epochs, price, fees, refund, genesis, stored, deleted: stored };
    Ok((report, payment))
}

/// Deletes the file; what came back for it.
async fn delete(cluster: &Cluster, payment: &mut Payment, blob: BlobId) -> anyhow::Result<Amount> {
    let client = cluster.client().await?;
    let deletion = client.delete(blob, cluster.wallet()).await?;
    payment.deleted = money(cluster, &client).await?;
    payment.refund = deletion.refund;
    let gained = payment.deleted.wallet.checked_add(deletion.receipt.fee);
    ensure!(
        gained == payment.stored.wallet.checked_add(deletion.refund),
        "not exactly {} came back",
        deletion.refund
    );
    let gone = matches!(client.blob_status(blob).await, Err(StatusError::NotFound { .. }));
    ensure!(gone, "the ledger still knows it");
    client.shutdown().await;
    Ok(deletion.refund)
}

/// Where all WAL is now, proven by one header: nothing was made or lost.
async fn money(cluster: &Cluster, client: &Client) -> anyhow::Result<Money> {
    let keys = [Key::Account(AccountId::new(cluster.wallet().public())), Key::Summary];
    let facts = client.ledger().facts(&keys, Purpose::Decide).await?.value;
    let [Some(Record::Account(account)), Some(Record::Summary(summary))] = facts.as_slice() else {
        bail!("the genesis has made both records");
    };
    let all = cluster.network().genesis.supply()?;
    ensure!(summary.supply.total() == Some(all), "WAL was made or lost");
    Ok(Money { wallet: account.balance, supply: summary.supply, all })
}

fn tell_money(steps: &Steps, (before, after): (Money, Money)) {
    steps.line("wallet", "", "", &format!("{} -> {}", before.wallet, after.wallet));
    let Supply { balances, stakes, buckets, burned } = after.supply;
    let sum = format!(
        "{balances} in wallets + {stakes} staked + {buckets} paid for epochs + {burned} burned = {}, \
         as at genesis",
        after.all
    );
    steps.line("all WAL", "", "", &sum);
}

async fn read_back(cluster: &Cluster, blob: BlobId, file: &Bytes) -> anyhow::Result<()> {
    let client = cluster.client().await?;
    let read = client.read(blob, ReadOptions::default()).await?.read_to_end().await?;
    ensure!(read == file[..], "the file came back changed");
    client.shutdown().await;
    Ok(())
}

/// The file, if the network that is about to be made takes it.
fn load(args: &DemoArgs) -> anyhow::Result<Bytes> {
    let Some(path) = &args.file else {
        return Ok(workload::content(workload::fresh_seed(), GENERATED_BYTES));
    };
    let max_bytes = EncodingConfig::new(SHARDS)?.default_max_blob_bytes();
    let name = path.display();
    let unreadable = || format!("cannot read {name}");
    let file = File::open(path).with_context(unreadable)?;
    // One byte beyond the limit tells, also of what has no length, as a pipe.
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).with_context(unreadable)?;
    ensure!(
        bytes.len() as u64 <= max_bytes,
        "{name} has more than {} ({max_bytes} bytes), the limit of one blob with {SHARDS} shards: \
         choose a smaller file",
        human_bytes(max_bytes)
    );
    Ok(bytes.into())
}
