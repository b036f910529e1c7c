//! The command `up`: a swarm that runs until it is told to stop, and takes commands meanwhile.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use floe_protocol::{
    challenge::ChallengeParameters,
    ledger::{AccountId, LedgerParameters},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cluster::{Cluster, ClusterBuilder},
    control::{Answer, Asked, Command, ControlSocket},
    current, report,
};

/// How to run the swarm.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Storage nodes [default: 7, or those of the swarm in DIR]
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Shards of the network [default: 64, or those of the swarm in DIR]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Where the swarm lives. A swarm that is there is started again with its keys and data.
    /// Without it the swarm lives in a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Duration of an epoch of a new swarm [default: 1day]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    epoch: Option<Duration>,
    /// One process per node instead of all in this one
    #[arg(long)]
    processes: bool,
    /// Listen for QUIC too, not only for TCP
    #[arg(long)]
    quic: bool,
}

/// The usual rules with epochs of this duration.
pub(crate) fn with_epoch(epoch: Duration) -> LedgerParameters {
    let epoch_ms = u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX);
    let challenges = ChallengeParameters::for_epoch(epoch_ms);
    LedgerParameters { epoch_ms, challenges, ..LedgerParameters::default() }
}

impl UpArgs {
    fn builder(&self) -> ClusterBuilder {
        let mut builder = Cluster::builder().processes(self.processes).quic(self.quic);
        if let Some(epoch) = self.epoch {
            builder = builder.ledger(with_epoch(epoch));
        }
        if let Some(nodes) = self.nodes {
            builder = builder.nodes(nodes);
        }
        if let Some(shards) = self.shards {
            builder = builder.shards(shards);
        }
        if let Some(dir) = &self.dir {
            builder = builder.dir(dir);
        }
        builder
    }
}

/// Runs a swarm until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: &UpArgs) -> anyhow::Result<()> {
    let mut stop = StopSignals::new()?;
    let started = tokio::select! {
        started = args.builder().start() => started?,
        () = stop.next() => return Ok(()),
    };
    let mut cluster = started;
    let mut socket = ControlSocket::listen(cluster.dir())?;
    let dir = cluster.dir().to_owned();
    if let Err(error) = current::record(&dir) {
        report::note(&format!("{error:#}"));
    }
    announce(args, &cluster);
    loop {
        tokio::select! {
            () = stop.next() => break,
            asked = socket.next() => answer(&mut cluster, asked).await,
            (node, error) = cluster.next_failure() => {
                report::note(&format!("node {node} has failed: {error:#}"));
            }
        }
    }
    report::note("stopping all nodes");
    drop(socket);
    current::forget(&dir);
    cluster.shutdown().await
}

fn announce(args: &UpArgs, cluster: &Cluster) {
    let status = cluster.status();
    let place = if args.processes { "one process each" } else { "in this process" };
    report::note(&format!(
        "{} storage nodes are up with {} shards, {place}, in {}",
        status.nodes.len(),
        status.n_shards,
        status.dir.display()
    ));
    let account = AccountId::new(cluster.wallet().public());
    let genesis = &cluster.network().genesis;
    let funded = genesis.accounts.iter().find(|funded| funded.account == account);
    if let Some(funded) = funded {
        report::note(&format!("the wallet {account} has {} from the genesis", funded.balance));
    }
    report::note("point `floe` at nodes and wallet by running this line in a shell:\n");
    report::line(&cluster.env_line());
    report::note(
        "\n`floe-testnet status|stop N|start N|kill N` from another shell; Ctrl-C stops all",
    );
}

async fn answer(cluster: &mut Cluster, asked: Asked) {
    let done = match asked.command {
        Command::Status => Ok(()),
        Command::Start { node } => cluster.start(node).await,
        Command::Stop { node } => cluster.stop(node).await,
        Command::Kill { node } => cluster.kill(node).await,
    };
    match (&done, asked.command) {
        (Ok(()), Command::Start { node }) => report::note(&format!("node {node} started")),
        (Ok(()), Command::Stop { node }) => report::note(&format!("node {node} stopped")),
        (Ok(()), Command::Kill { node }) => report::note(&format!("node {node} killed")),
        (Ok(()), Command::Status) | (Err(_), _) => {}
    }
    let answer = match done {
        Ok(()) => Answer::Done(cluster.status()),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    // Whoever asked may have gone.
    let _ = asked.answer.send(answer);
}

/// What asks a command to end: Ctrl-C, SIGTERM, and the terminal's end.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl StopSignals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
