//! `floe health`: asks every storage node how it is, and says whether reads and writes are possible.

use std::fmt;

use clap::Args;
use floe_protocol::{bft, committee::Committee, genesis::NetworkFile, message::NodeStatus};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    session::Session,
    size::human_bytes,
};
use crate::client::{Client, ClientConfig, ConnectError};

/// Digits of a node id in the table: enough to tell nodes apart.
const SHORT_ID_DIGITS: usize = 12;

const AFTER_HELP: &str = "\
Nodes are asked directly; what a node says of itself decides nothing. Reads and writes are judged by
the shards of the nodes that answered. The exit code is 5 unless both are possible.

Examples:
  floe health
  floe health -q && ./backup.sh";

/// Arguments of `floe health`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct HealthArgs {}

/// Runs `floe health`.
pub(super) async fn run(session: &Session, HealthArgs {}: HealthArgs) -> Result<Exit, Failure> {
    let network = session.network()?;
    let committee = network.genesis.committee()?;
    let answers = ask_all(network, &committee).await?;
    let health = SwarmHealth::new(&committee, answers);
    session.output.result(&health, health.verdict())?;
    if health.reads_possible && health.writes_possible {
        return Ok(Exit::Done);
    }
    session
        .output
        .note("hint: start the nodes that are down (in a local swarm: `floe-testnet start N`)");
    Ok(Exit::Temporary)
}

/// What each member answered, in committee order, or why it did not.
async fn ask_all(
    network: NetworkFile,
    committee: &Committee,
) -> Result<Vec<Result<NodeStatus, String>>, Failure> {
    let client = match Client::connect(ClientConfig::new(network)).await {
        Ok(client) => client,
        // That too is an answer to the question.
        Err(ConnectError::NobodyAnswers { .. }) => {
            let nobody = || Err("no bootstrap node answers".to_owned());
            return Ok(committee.members().iter().map(|_| nobody()).collect());
        }
        Err(error) => return Err(error.into()),
    };
    let statuses = client.member_statuses().await;
    client.shutdown().await;
    let answer =
        |status: Result<_, crate::network::RequestError>| status.map_err(|error| error.to_string());
    Ok(statuses.into_iter().map(|member| answer(member.status)).collect())
}

/// The result.
#[derive(Debug, Serialize)]
struct SwarmHealth {
    reads_possible: bool,
    writes_possible: bool,
    n_shards: u16,
    shards_up: u16,
    /// Shards of the nodes that answered and take new slivers.
    shards_writable: u16,
    shards_needed_for_reads: u16,
    shards_needed_for_writes: u16,
    nodes_up: usize,
    nodes: Vec<NodeHealth>,
}

#[derive(Debug, Serialize)]
struct NodeHealth {
    node: String,
    /// Its shards by the committee.
    shards: u16,
    up: bool,
    /// What it says of itself.
    status: Option<StatusOfNode>,
    /// Why it counts as down.
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct StatusOfNode {
    version: String,
    epoch: u64,
    shards: u16,
    pairs: u64,
    disk_used_bytes: u64,
    disk_quota_bytes: u64,
    accepts_slivers: bool,
    peers: u32,
    damaged_pieces: u64,
    uptime_ms: u64,
}

impl From<NodeStatus> for StatusOfNode {
    fn from(status: NodeStatus) -> Self {
        // A node chooses its own text: nothing of it may steer the terminal.
        let version = status.version.chars().filter(|c| c.is_ascii_graphic()).take(20).collect();
        Self {
            version,
            epoch: status.epoch.get(),
            shards: status.shards,
            pairs: status.pairs,
            disk_used_bytes: status.disk_used_bytes,
            disk_quota_bytes: status.disk_quota_bytes,
            accepts_slivers: status.accepts_slivers,
            peers: status.peers,
            damaged_pieces: status.damaged_pieces,
            uptime_ms: status.uptime_ms,
        }
    }
}

impl SwarmHealth {
    fn new(committee: &Committee, answers: Vec<Result<NodeStatus, String>>) -> Self {
        let (mut shards_up, mut shards_writable) = (0, 0);
        let mut nodes = Vec::new();
        for (member, answer) in committee.members().iter().zip(answers) {
            let shards = member.weight();
            if let Ok(status) = &answer {
                shards_up += shards;
                shards_writable += if status.accepts_slivers { shards } else { 0 };
            }
            let (status, reason) = match answer {
                Ok(status) => (Some(status.into()), None),
                Err(reason) => (None, Some(reason)),
            };
            let up = status.is_some();
            nodes.push(NodeHealth { node: member.node.to_string(), shards, up, status, reason });
        }
        let n_shards = committee.n_shards();
        let k1 = u16::try_from(committee.config().k1()).expect("k1 is below n_shards");
        Self {
            reads_possible: shards_up >= k1,
            writes_possible: bft::is_quorum(shards_writable, n_shards),
            n_shards,
            shards_up,
            shards_writable,
            shards_needed_for_reads: k1,
            shards_needed_for_writes: bft::min_quorum(n_shards),
            nodes_up: nodes.iter().filter(|node| node.up).count(),
            nodes,
        }
    }

    const fn verdict(&self) -> &'static str {
        match (self.reads_possible, self.writes_possible) {
            (true, true) => "reads and writes are possible",
            (true, false) => "reads are possible, writes are not",
            (false, true) => "writes are possible, reads are not",
            (false, false) => "neither reads nor writes are possible",
        }
    }
}

impl fmt::Display for SwarmHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}  {:<5}  {:<8}  {:>6}  {:>8}  {:>21}  {:>5}  up for",
            "node", "state", "version", "shards", "pairs", "disk used", "peers"
        )?;
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        let (nodes, n) = (self.nodes.len(), self.n_shards);
        writeln!(f)?;
        writeln!(
            f,
            "nodes   {} of {nodes} are up, with {} of {n} shards",
            self.nodes_up, self.shards_up
        )?;
        let possible = |possible| if possible { "possible" } else { "NOT possible" };
        let reads = possible(self.reads_possible);
        writeln!(f, "reads   {reads}: {} shards are needed", self.shards_needed_for_reads)?;
        let writes = possible(self.writes_possible);
        let (needed, writable) = (self.shards_needed_for_writes, self.shards_writable);
        write!(f, "writes  {writes}: {needed} shards are needed, {writable} accept slivers")
    }
}

impl fmt::Display for NodeHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = &self.node[..SHORT_ID_DIGITS];
        let Some(status) = &self.status else {
            let reason = self.reason.as_deref().unwrap_or("no answer");
            return write!(f, "{id}  {:<5}  {:<8}  {:>6}  {reason}", "down", "", self.shards);
        };
        let state = if status.accepts_slivers { "up" } else { "full" };
        let quota = human_bytes(status.disk_quota_bytes);
        let disk = format!("{} of {quota}", human_bytes(status.disk_used_bytes));
        let up_for = human_time(status.uptime_ms);
        write!(
            f,
            "{id}  {state:<5}  {:<8}  {:>6}  {:>8}  {disk:>21}  {:>5}  {up_for}",
            status.version, self.shards, status.pairs, status.peers
        )?;
        if status.shards != self.shards {
            write!(f, "; says that it has {} shards", status.shards)?;
        }
        if status.damaged_pieces > 0 {
            write!(f, "; {} damaged pieces", status.damaged_pieces)?;
        }
        Ok(())
    }
}

/// A time in its two largest units.
fn human_time(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
