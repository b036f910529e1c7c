//! The command `demo`: a file survives the loss of more than half of the nodes.
//!
//! Seven nodes, a store, four nodes stopped, a read by a client that knows nothing yet, a
//! comparison, the nodes started again, another read. Any step that does not come out as promised
//! fails the command; the swarm and its files are gone afterwards either way.

use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use floe_node::{
    Client,
    cli::size::human_bytes,
    client::{ReadOptions, StoreProgress, StoreReport},
    key_file,
};
use floe_protocol::{
    blob::BlobId,
    encoding::EncodingConfig,
    ledger::{AccountId, Amount, Operation, Supply},
    transfer::Wanted,
};
use serde::Serialize;
use tokio::sync::watch;

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
/// What one wallet pays another.
const PAID: Amount = Amount::from_wal(5);

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
    stopped_nodes: Vec<usize>,
    shards_left: u16,
    shards_to_read: u16,
    identical: bool,
    payment: Payment,
    steps: Vec<Step>,
}

/// A transfer between two wallets, and where all WAL is before and after it. Everything proven.
#[derive(Debug, Serialize)]
struct Payment {
    amount: Amount,
    fee: Amount,
    payer_before: Amount,
    payer_after: Amount,
    payee_before: Amount,
    payee_after: Amount,
    supply: Supply,
    genesis_supply: Amount,
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

/// What is left of the swarm when the nodes are stopped.
struct Left {
    shards_left: u16,
    shards_to_read: u16,
}

async fn demonstrate(
    steps: &mut Steps,
    cluster: &mut Cluster,
    file: &Bytes,
) -> anyhow::Result<(StoreReport, Left, Payment)> {
    let bytes = Some(file.len() as u64);
    let client = cluster.client().await?;
    let confirmed = |report: &StoreReport| {
        let encoded = human_bytes(report.encoded_bytes);
        let shards = report.confirmed_shards.unwrap_or(0);
        format!("{encoded} with redundancy, {shards} of {SHARDS} shards confirmed")
    };
    let stored = steps.run(("store the file", bytes), store(cluster, &client, file), confirmed);
    let stored = stored.await?;
    client.shutdown().await;
    steps.line("blob id", "", "", &stored.blob.to_string());

    let left = stop_nodes(steps, cluster).await?;
    // A client that has never seen the swarm: nothing comes from a memory of the first one.
    let identical = |(): &()| "identical".to_owned();
    let read = read_back(cluster, stored.blob, file);
    steps.run(("read it back", bytes), read, identical).await?;

    let restart = async {
        for node in STOPPED {
            cluster.start(node).await?;
        }
        cluster.wait_connected().await
    };
    let rejoined = |(): &()| format!("{} nodes connected again", STOPPED.len());
    steps.run(("start them again", None), restart, rejoined).await?;
    let read = read_back(cluster, stored.blob, file);
    steps.run(("read it once more", bytes), read, identical).await?;
    let told = |payment: &Payment| {
        format!(
            "{} for a fee of {}; all WAL together is what it was at genesis",
            payment.amount, payment.fee
        )
    };
    let payment = steps.run(("pay another wallet", None), pay(cluster), told).await?;
    steps.line("payer", "", "", &format!("{} -> {}", payment.payer_before, payment.payer_after));
    steps.line("payee", "", "", &format!("{} -> {}", payment.payee_before, payment.payee_after));
    let Supply { balances, stakes, buckets, burned } = payment.supply;
    let sum = format!(
        "{balances} in wallets + {stakes} staked + {buckets} paid for epochs + {burned} burned = {}",
        payment.genesis_supply
    );
    steps.line("all WAL", "", "", &sum);
    Ok((stored, left, payment))
}

/// Pays from the swarm's wallet, which the genesis has funded, to a new one.
async fn pay(cluster: &Cluster) -> anyhow::Result<Payment> {
    let client = cluster.client().await?;
    let ledger = client.ledger();
    let payer = AccountId::new(cluster.wallet().public());
    let payee = AccountId::new(key_file::generate_key_pair()?.public());
    let payer_before = ledger.balance(payer).await?.value;
    let payee_before = ledger.balance(payee).await?.value;
    let transfer = Operation::Transfer { to: payee, amount: PAID };
    let receipt = ledger.submit(vec![transfer], cluster.wallet()).await?;
    let payer_after = ledger.balance(payer).await?.value;
    let payee_after = ledger.balance(payee).await?.value;
    let summary = ledger.summary().await?.value.context("every state has a summary")?;
    let genesis_supply = cluster.network().genesis.supply()?;
    client.shutdown().await;
    ensure!(payee_after == PAID, "{payee_after} arrived, not {PAID}");
    ensure!(summary.supply.total() == Some(genesis_supply), "WAL was made or lost");
    Ok(Payment {
        amount: PAID,
        fee: receipt.fee,
        payer_before,
        payer_after,
        payee_before,
        payee_after,
        supply: summary.supply,
        genesis_supply,
    })
}

async fn stop_nodes(steps: &mut Steps, cluster: &mut Cluster) -> anyhow::Result<Left> {
    let stop = async {
        for node in STOPPED {
            cluster.stop(node).await?;
        }
        let status = cluster.status();
        Ok(Left { shards_left: status.running_shards, shards_to_read: status.read_shards })
    };
    let detail = |left: &Left| {
        format!(
            "nodes {STOPPED:?}: {} of {SHARDS} shards left, a read needs {}",
            left.shards_left, left.shards_to_read
        )
    };
    steps.run(("stop 4 of 7 nodes", None), stop, detail).await
}

async fn store(cluster: &Cluster, client: &Client, file: &Bytes) -> anyhow::Result<StoreReport> {
    let progress = watch::Sender::new(StoreProgress::default());
    Ok(client.store(file.clone(), WANTED, cluster.wallet(), &progress).await?)
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
