//! A node as a process of its own, and the two ends of the pipe between it and its swarm.
//!
//! The swarm runs the program `floe-testnet` again with the hidden command `node-process`. The
//! child reports on stdout, one JSON object a line: that it is up, then every change of its
//! connections and of its committee, and its metrics when SIGUSR1 asks for them. Its stdin carries
//! nothing; when it closes, the child stops in order. So a child never outlives its swarm, even one
//! that was killed. Children have a process group of their own:
//! Ctrl-C in a terminal reaches the swarm alone, which then stops them.

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use floe_node::{Clock, NodeConfig};
use floe_protocol::{committee::Committee, genesis::NetworkFile, keys::NodeId, ledger::State};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch::{self, error::RecvError},
    time::timeout,
};

use super::{
    builder::{Options, node_config},
    link::Host,
    peer::{Kind, Peer},
};
use crate::lazy::Lazy;

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const METRICS_DEADLINE: Duration = Duration::from_secs(10);
const PROGRAM: &str = "floe-testnet";

/// What the command `node-process` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProcessArgs {
    /// The node's directory.
    #[arg(long)]
    dir: PathBuf,
    /// The network file to join by.
    #[arg(long)]
    network: PathBuf,
    /// Addresses to listen on.
    #[arg(long)]
    listen: Vec<String>,
    /// Memory of the store's cache.
    #[arg(long)]
    cache_bytes: Option<u64>,
    /// Bytes of disk that the store may use.
    #[arg(long)]
    pub(super) quota_bytes: Option<u64>,
    /// Answer without verifying or storing.
    #[arg(long)]
    sink: bool,
    /// Start although the disk was emptied.
    #[arg(long)]
    pub(super) repair: bool,
    /// How far the node's clock is ahead of the machine's.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(super) clock_ahead_ms: i64,
    /// Do less than a storage node is to do.
    #[arg(long)]
    pub(super) lazy: Option<Lazy>,
}

/// What a child reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    /// It serves.
    Up { addresses: Vec<String> },
    /// It is connected with these peers.
    Connected(BTreeSet<NodeId>),
    /// It is in an epoch with this committee, in its byte layout.
    Committee(Vec<u8>),
    /// What it counts, as asked for.
    Metrics(String),
    /// It does not start.
    Failed(String),
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(super) struct ProcessNode {
    child: Child,
    stdin: ChildStdin,
    addresses: Vec<String>,
    connected: watch::Receiver<BTreeSet<NodeId>>,
    committee: watch::Receiver<Option<Arc<Committee>>>,
    metrics: watch::Receiver<String>,
}

impl ProcessArgs {
    pub(super) fn new(
        options: &Options,
        dir: PathBuf,
        network: PathBuf,
        listen: Vec<String>,
    ) -> Self {
        let Options { cache_bytes, sinks, .. } = *options;
        let quota_bytes = None;
        Self {
            dir,
            network,
            listen,
            cache_bytes,
            quota_bytes,
            sink: sinks,
            repair: false,
            clock_ahead_ms: 0,
            lazy: None,
        }
    }

    fn add_to(&self, command: &mut Command) {
        command.arg("node-process").arg("--dir").arg(&self.dir);
        command.arg("--network").arg(&self.network);
        for address in &self.listen {
            command.arg("--listen").arg(address);
        }
        let sizes = [("--cache-bytes", self.cache_bytes), ("--quota-bytes", self.quota_bytes)];
        for (flag, bytes) in sizes {
            if let Some(bytes) = bytes {
                command.arg(flag).arg(bytes.to_string());
            }
        }
        command.arg("--clock-ahead-ms").arg(self.clock_ahead_ms.to_string());
        if let Some(lazy) = self.lazy {
            command.arg("--lazy").arg(lazy.to_string());
        }
        for (set, flag) in [(self.sink, "--sink"), (self.repair, "--repair")] {
            if set {
                command.arg(flag);
            }
        }
    }
}

impl ProcessNode {
    /// Starts the process, on a host of its own if there is one.
    pub(super) async fn start(
        options: &Options,
        args: &ProcessArgs,
        host: Option<&Host>,
    ) -> anyhow::Result<Self> {
        let program = program(options)?;
        let log_path = args.dir.join("log");
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = Command::new(&program);
        args.add_to(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.process_group(0).kill_on_drop(true);
        let runtime = Handle::current();
        let mut spawn = || {
            let _entered = runtime.enter();
            command.spawn()
        };
        let child = match host {
            Some(host) => host.within(spawn)?,
            None => spawn(),
        };
        let mut child = child.with_context(|| format!("cannot run {}", program.display()))?;
        let stdin = child.stdin.take().context("the child has no stdin")?;
        let stdout = child.stdout.take().context("the child has no stdout")?;
        let mut reports = BufReader::new(stdout).lines();
        let first = timeout(START_DEADLINE, reports.next_line()).await;
        let first = first.context("it takes too long")??;
        let addresses = match first.as_deref().map(serde_json::from_str) {
            Some(Ok(Report::Up { addresses })) => addresses,
            Some(Ok(Report::Failed(error))) => bail!(error),
            Some(_) => bail!(
                "it does not speak as a node process: is {} of this version?",
                program.display()
            ),
            None => bail!("it ended at once: see {}", log_path.display()),
        };
        let (connected_sender, connected) = watch::channel(BTreeSet::new());
        let (committee_sender, committee) = watch::channel(None);
        let (metrics_sender, metrics) = watch::channel(String::new());
        let told = Told {
            connected: connected_sender,
            committee: committee_sender,
            metrics: metrics_sender,
        };
        tokio::spawn(follow(reports, told));
        Ok(Self { child, stdin, addresses, connected, committee, metrics })
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    pub(super) fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) fn connected(&self) -> Vec<NodeId> {
        self.connected.borrow().iter().copied().collect()
    }

    pub(super) fn committee(&self) -> Option<Arc<Committee>> {
        self.committee.borrow().clone()
    }

    pub(super) async fn wait_connected(&self, others: &[NodeId]) {
        let mut connected = self.connected.clone();
        let all = |connected: &BTreeSet<_>| others.iter().all(|node| connected.contains(node));
        if connected.wait_for(all).await.is_err() {
            // The process has ended: nobody will ever be connected.
            std::future::pending::<()>().await;
        }
    }

    /// Asks the process what it counts.
    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.context("its process has ended")?;
        let mut metrics = self.metrics.clone();
        metrics.mark_unchanged();
        kill_process(pid, Signal::USR1).context("its process cannot be asked")?;
        timeout(METRICS_DEADLINE, metrics.changed()).await.context("it does not answer")??;
        Ok(metrics.borrow().clone())
    }

    /// Waits until the process ends by itself.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow!("its process ended: {status}"),
            Err(error) => anyhow!(error),
        }
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stdin);
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(status) => check(status?),
            Err(_) => {
                self.child.kill().await?;
                bail!("it was killed after {} s", STOP_DEADLINE.as_secs())
            }
        }
    }

    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn check(status: ExitStatus) -> anyhow::Result<()> {
    if status.success() { Ok(()) } else { bail!("its process ended: {status}") }
}

/// Where what the child reports is published.
struct Told {
    connected: watch::Sender<BTreeSet<NodeId>>,
    committee: watch::Sender<Option<Arc<Committee>>>,
    metrics: watch::Sender<String>,
}

/// Publishes what the child reports until it ends.
async fn follow(
    mut reports: Lines<BufReader<ChildStdout>>,
    Told { connected, committee, metrics }: Told,
) {
    while let Ok(Some(line)) = reports.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Report::Connected(nodes)) => drop(connected.send_replace(nodes)),
            Ok(Report::Committee(bytes)) => {
                committee.send_replace(Committee::from_bytes(&bytes).ok().map(Arc::new));
            }
            Ok(Report::Metrics(text)) => drop(metrics.send_replace(text)),
            Ok(Report::Up { .. } | Report::Failed(_)) | Err(_) => {}
        }
    }
}

/// The program that runs a node.
fn program(options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(program) = &options.executable {
        return Ok(program.clone());
    }
    let current = std::env::current_exe().context("cannot find the running program")?;
    // Tests and examples lie in `deps` or `examples` below the programs of the same build.
    let dirs = current.ancestors().skip(1).take(2);
    let program = dirs.map(|dir| dir.join(PROGRAM)).find(|program| program.is_file());
    program.with_context(|| {
        format!(
            "no program {PROGRAM} near {}: build it with `cargo build -p floe-testnet`, or name it",
            current.display()
        )
    })
}

/// What a child does: runs one node until its stdin closes or it is told to terminate.
pub(crate) async fn run(args: ProcessArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut metrics_wanted = signal(SignalKind::user_defined1())?;
    let mut peer = match start(&args).await {
        Ok(peer) => peer,
        Err(error) => {
            report(&Report::Failed(format!("{error:#}")));
            return Err(error);
        }
    };
    report(&Report::Up { addresses: peer.addresses() });
    let mut peers = peer.peers();
    let mut state = peer.state();
    let mut connected = BTreeSet::new();
    let mut epoch = None;
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    let failure = loop {
        let now: BTreeSet<_> = peers.borrow_and_update().connected.keys().copied().collect();
        if now != connected {
            connected.clone_from(&now);
            report(&Report::Connected(now));
        }
        let committee = state.as_mut().map(|state| state.borrow_and_update().committee().clone());
        if let Some(committee) = committee.filter(|committee| Some(committee.epoch()) != epoch) {
            epoch = Some(committee.epoch());
            report(&Report::Committee(committee.to_bytes()));
        }
        tokio::select! {
            Ok(()) = peers.changed() => {}
            Ok(()) = changed(&mut state) => {}
            read = stdin.read(&mut ignored) => if !matches!(read, Ok(1..)) { break None },
            _ = terminate.recv() => break None,
            _ = metrics_wanted.recv() => report(&Report::Metrics(peer.metrics())),
            error = peer.failed() => break Some(error),
        }
    };
    match failure {
        Some(error) => Err(error),
        None => {
            let stopped = timeout(STOP_DEADLINE, peer.shutdown()).await;
            stopped.context("the node did not stop in time")
        }
    }
}

async fn changed(state: &mut Option<watch::Receiver<Arc<State>>>) -> Result<(), RecvError> {
    match state {
        Some(state) => state.changed().await,
        None => std::future::pending().await,
    }
}

async fn start(args: &ProcessArgs) -> anyhow::Result<Peer> {
    let network = std::fs::read(&args.network)
        .with_context(|| format!("cannot read {}", args.network.display()))?;
    let network: NetworkFile = serde_json::from_slice(&network)
        .with_context(|| format!("{} is no network file", args.network.display()))?;
    let mut config: NodeConfig = node_config(&args.dir, network, &args.listen)?;
    if let Some(bytes) = args.cache_bytes {
        config.cache_bytes = bytes;
    }
    if let Some(bytes) = args.quota_bytes {
        config.quota_bytes = bytes;
    }
    config.accept_empty = args.repair;
    config.clock = Clock::ahead_by_ms(args.clock_ahead_ms);
    Peer::start(config, Kind::new(args.lazy, args.sink)).await
}

/// One line to the swarm. If it is gone, stdin says so too, and the node stops.
fn report(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else {
        return;
    };
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
}
