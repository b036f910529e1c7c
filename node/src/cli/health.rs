//! `floe health`: whether the ledger goes on, and whether reads and writes are possible.
//!
//! The members of the running committee are asked twice: for their newest header, which proves what
//! is said of the ledger (`health/ledger.rs`), and for what they say of themselves, which decides
//! only who is up. Nodes of the genesis that have left long ago do not count.

mod ledger;

use std::{collections::BTreeSet, fmt};

use clap::Args;
use floe_protocol::{bft, committee::Committee, keys::NodeId, message::NodeStatus};
use serde::Serialize;

use self::ledger::LedgerShown;
use super::{
    exit::{Exit, Failure},
    receipt::later_by_ms,
    session::Session,
    size::human_bytes,
};
use crate::{
    client::{LedgerHealth, LedgerVerdict, MemberStatus},
    service::ledger::wall_clock,
};

/// Digits of a node id in the table: enough to tell nodes apart.
const SHORT_ID_DIGITS: usize = 12;
/// Clocks that are further apart cannot all be right.
const CLOCK_MAX_MS: u64 = 20_000;

const AFTER_HELP: &str = "\
The members of the running committee are asked directly. What the ledger is doing is proven by their
headers; what a node says of itself decides nothing but that it is up. Reads are judged by the shards
of the nodes that answer, writes also by the ledger, which must make blocks. The exit code is 5
unless both are possible, and 1 if this machine's clock is wrong.

Examples:
  floe health
  floe health -q && ./backup.sh
  floe health --json | jq .ledger.waits";

/// Arguments of `floe health`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct HealthArgs {}

/// Runs `floe health`.
pub(super) async fn run(session: &Session, HealthArgs {}: HealthArgs) -> Result<Exit, Failure> {
    let network = session.network()?;
    let genesis = network.genesis.committee()?;
    let health = match session.connect(network).await {
        Ok(client) => {
            let ledger = client.ledger_health().await?;
            let answers = client.member_statuses().await;
            client.shutdown().await;
            SwarmHealth::new(&genesis, answers.into_iter().map(Answer::from), Some(&ledger))
        }
        // That too is an answer to the question.
        Err(failure) if failure.code() == "nobody_answers" => {
            let nobody = genesis.members().iter().map(|member| Answer {
                node: member.node,
                shards: member.weight(),
                status: Err("no bootstrap node answers".to_owned()),
            });
            SwarmHealth::new(&genesis, nobody, None)
        }
        Err(failure) => return Err(failure),
    };
    session.output.result(&health, health.brief())?;
    if let Some(hint) = health.hint() {
        session.output.note(format_args!("hint: {hint}"));
    }
    Ok(health.exit())
}

/// What a member says of itself, or why it does not.
struct Answer {
    node: NodeId,
    shards: u16,
    status: Result<NodeStatus, String>,
}

impl From<MemberStatus> for Answer {
    fn from(MemberStatus { node, shards, status }: MemberStatus) -> Self {
        Self { node, shards, status: status.map_err(|error| error.to_string()) }
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct SwarmHealth {
    reads_possible: bool,
    writes_possible: bool,
    /// Null if nobody could be asked.
    ledger: Option<LedgerShown>,
    n_shards: u16,
    /// Shards that can be read: the nodes that have them whole answered.
    shards_up: u16,
    /// Shards of the nodes that answered and take new slivers.
    shards_writable: u16,
    shards_needed_for_reads: u16,
    shards_needed_for_writes: u16,
    nodes_up: usize,
    /// By how much this machine's clock is ahead of the nodes' (their median), below 0 if it is
    /// behind; null if no node answered.
    clock_ahead_ms: Option<i64>,
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
    /// What its clock showed.
    time_ms: u64,
    /// By how much that was ahead of this machine's.
    #[serde(skip)]
    ahead_ms: i64,
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
            time_ms: status.time.ms(),
            ahead_ms: later_by_ms(status.time, wall_clock()),
        }
    }
}

impl SwarmHealth {
    /// The genesis says how many shards there are, and nothing else.
    fn new(
        genesis: &Committee,
        answers: impl Iterator<Item = Answer>,
        ledger: Option<&LedgerHealth>,
    ) -> Self {
        let (mut up, mut shards_of_up, mut shards_writable) = (BTreeSet::new(), 0, 0);
        let mut nodes = Vec::new();
        for Answer { node, shards, status } in answers {
            if let Ok(status) = &status {
                up.insert(node);
                shards_of_up += shards;
                shards_writable += if status.accepts_slivers { shards } else { 0 };
            }
            let (status, reason) = match status {
                Ok(status) => (Some(status.into()), None),
                Err(reason) => (None, Some(reason)),
            };
            let is_up = status.is_some();
            nodes.push(NodeHealth { node: node.to_string(), shards, up: is_up, status, reason });
        }
        let n_shards = genesis.n_shards();
        let k1 = u16::try_from(genesis.config().k1()).expect("k1 is below n_shards");
        let shards_up = ledger.and_then(|ledger| readable(ledger, &up)).unwrap_or(shards_of_up);
        let clock_ahead_ms = median_ahead(&nodes).map(i64::saturating_neg);
        let makes_blocks = ledger.is_some_and(|ledger| {
            matches!(ledger.verdict, LedgerVerdict::Running | LedgerVerdict::EpochStuck)
        });
        let mut shown = ledger.map(LedgerShown::new);
        // A young block proves the clock right, whatever nodes say. By a wrong one a ledger that
        // goes on looks as if it had stopped.
        if !makes_blocks && clock_ahead_ms.is_some_and(|ms| ms.unsigned_abs() > CLOCK_MAX_MS) {
            shown = shown.map(LedgerShown::by_a_wrong_clock);
        }
        Self {
            reads_possible: shards_up >= k1,
            writes_possible: makes_blocks && bft::is_quorum(shards_writable, n_shards),
            ledger: shown,
            n_shards,
            shards_up,
            shards_writable,
            shards_needed_for_reads: k1,
            shards_needed_for_writes: bft::min_quorum(n_shards),
            nodes_up: up.len(),
            clock_ahead_ms,
            nodes,
        }
    }

    fn verdict(&self) -> Option<LedgerVerdict> {
        self.ledger.as_ref().map(LedgerShown::verdict)
    }

    fn brief(&self) -> String {
        let possible = match (self.reads_possible, self.writes_possible) {
            (true, true) => "reads and writes are possible",
            (true, false) => "reads are possible, writes are not",
            (false, true) => "writes are possible, reads are not",
            (false, false) => "neither reads nor writes are possible",
        };
        match self.ledger.as_ref().and_then(LedgerShown::brief) {
            Some(ledger) => format!("{ledger}: {possible}"),
            None => possible.to_owned(),
        }
    }

    fn exit(&self) -> Exit {
        match self.verdict() {
            _ if self.reads_possible && self.writes_possible => Exit::Done,
            Some(LedgerVerdict::Clock) => Exit::Failed,
            _ => Exit::Temporary,
        }
    }

    /// What to do about it.
    fn hint(&self) -> Option<&'static str> {
        match self.verdict() {
            Some(LedgerVerdict::Clock) => Some("set this machine's clock"),
            Some(LedgerVerdict::Stalled) => Some(
                "the nodes' logs say what they wait for; more than a third of the shards may be \
                 with nodes that have fallen behind",
            ),
            Some(LedgerVerdict::EpochStuck) => Some(
                "start the nodes that shards wait for; nodes without room or with damaged disks \
                 say so in their logs",
            ),
            Some(LedgerVerdict::NoBlock) => Some("try again in a moment"),
            Some(LedgerVerdict::PowerMissing) => Some(
                "start the nodes that are down (in a local swarm: `floe-testnet start N`); if too \
                 many are lost for good, `floe genesis --from-state` begins a successor network",
            ),
            _ if self.reads_possible && self.writes_possible => None,
            _ => Some("start the nodes that are down (in a local swarm: `floe-testnet start N`)"),
        }
    }
}

/// The median of the nodes' clocks, by this machine's.
fn median_ahead(nodes: &[NodeHealth]) -> Option<i64> {
    let answers = nodes.iter().filter_map(|node| node.status.as_ref());
    let mut ahead: Vec<_> = answers.map(|status| status.ahead_ms).collect();
    ahead.sort_unstable();
    ahead.get(ahead.len() / 2).copied()
}

/// The shards that can be read: a node that answers has them whole; none if it is not known who
/// does.
fn readable(ledger: &LedgerHealth, up: &BTreeSet<NodeId>) -> Option<u16> {
    let running = ledger.running.as_ref()?;
    let members = running.committee.members();
    let is_up = |node: &NodeId| match running.committee.position(node) {
        Some(_) => up.contains(node),
        None => ledger.answers(node),
    };
    let held = members.iter().flat_map(|member| {
        member.shards.iter().map(move |shard| (member.node, &running.shards[shard.as_usize()]))
    });
    let readable = held.filter(|(holder, shard)| {
        let whole = if shard.is_ready() { holder } else { &shard.last_ready };
        is_up(whole)
    });
    u16::try_from(readable.count()).ok()
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
        writeln!(f, "nodes   {} of {nodes} are up", self.nodes_up)?;
        if let Some(ledger) = &self.ledger {
            writeln!(f, "{ledger}")?;
        }
        let wrong = self.clock_ahead_ms.filter(|ms| ms.unsigned_abs() > CLOCK_MAX_MS);
        if let Some(ahead) = wrong.filter(|_| self.verdict() == Some(LedgerVerdict::Clock)) {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            let s = ahead.unsigned_abs() / 1_000;
            writeln!(f, "clock   this machine's clock is {s} s {way} those of the nodes")?;
        }
        let possible = |possible| if possible { "possible" } else { "NOT possible" };
        let (reads, up) = (possible(self.reads_possible), self.shards_up);
        let needed = self.shards_needed_for_reads;
        writeln!(f, "reads   {reads}: {needed} shards are needed, {up} of {n} are up")?;
        let writes = possible(self.writes_possible);
        let (needed, writable) = (self.shards_needed_for_writes, self.shards_writable);
        write!(f, "writes  {writes}: {needed} shards are needed, {writable} accept slivers")?;
        match self.verdict() {
            Some(LedgerVerdict::Running | LedgerVerdict::EpochStuck) => Ok(()),
            _ => write!(f, ", and a ledger that makes blocks"),
        }
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
        if status.ahead_ms.unsigned_abs() > CLOCK_MAX_MS {
            let way = if status.ahead_ms > 0 { "ahead of" } else { "behind" };
            let s = status.ahead_ms.unsigned_abs() / 1_000;
            write!(f, "; its clock is {s} s {way} this machine's")?;
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
