//! `floe node status`: what the ledger says of a node, and what it says of itself.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Args;
use floe_protocol::{
    challenge::Score,
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, Amount, Node},
    message::{ChallengeStatus, NodeStatus, RepairStatus},
};
use serde::Serialize;
use tokio::time::interval;

use super::{place, root};
use crate::{
    Client,
    cli::{
        challenges::pay_bps,
        committee::percent,
        exit::{Exit, Failure},
        receipt::later_by_ms,
        rewards::{Passed, Settled},
        session::Session,
        size::human_bytes,
    },
    client::ledger::RunningEpoch,
    network::RequestError,
};

const STATUS_HELP: &str = "\
Shards, stake, rewards, jail and the score in challenges are proven by the ledger. What is stored, how
far repair has come, and why the node last missed a challenge since it was started, is what it says of
itself; without an answer from it the rest is shown, and the exit code is 5. A node that is in no
committee may not be found.

Why rounds are missed, and what helps:
  nothing can be read     it lacks pairs: wait for repair; if a disk was lost, start it with --repair
  damaged                 the disk fails: replace it, start with --repair
  chain was not read      disk or processor are too slow, or busy with other things
  window was over, no seed, not running, missed blocks
                          it was off, asleep or behind: keep it on, look at its link and its clock
  could not be sent, too few have acknowledged
                          others do not reach it in time: open port 4950, or name it with --external
  certificate too late    its link or the machine is overloaded
Every round is in the node's log (`floe node join -v`), and counted in its metrics, floe_challenges_*.

Examples:
  floe node status --dir ~/floe
  floe node status NODE --json | jq .says.repair";

/// How often a node that cannot be reached is looked for.
const TRIES: usize = 5;
/// How soon it is looked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// A clock that is further from the ledger's time is wrong: the last block is younger than that.
const CLOCK_MAX_MS: u64 = 20_000;

/// Arguments of `floe node status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub(in crate::cli) struct StatusArgs {
    /// The node
    #[arg(required_unless_present = "dir", conflicts_with = "dir")]
    node: Option<NodeId>,
    /// The directory of the node
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs `floe node status`.
pub(super) async fn run(session: &Session, arguments: StatusArgs) -> Result<Exit, Failure> {
    let StatusArgs { node, dir } = arguments;
    let id = match (node, &dir) {
        (Some(node), _) => node,
        (None, Some(dir)) => place::keys(dir)?.node.public(),
        (None, None) => return Err(Failure::usage("usage", "name a node, or its directory")),
    };
    let network = match &dir {
        Some(dir) => {
            let mut network = place::network(session, dir)?;
            // The node is near: nobody else need know where.
            network.bootstrap.extend(place::addresses(dir));
            network
        }
        None => session.network()?,
    };
    let own = dir.as_deref().map(root::path);
    let client = session.connect_from(network, own.as_deref()).await?;
    let facts = client.ledger().running_epoch().await?;
    let record = client.ledger().node(id).await?.value;
    let challenges = client.ledger().challenges(None).await?;
    let challenges = challenges.and_then(|challenges| challenges.score_of(&id));
    let says = ask(&client, id).await;
    client.shutdown().await;
    let shown = Shown::new(id, (&facts, record, challenges), says);
    session.output.result(&shown, shown.brief())?;
    Ok(if shown.says.is_some() { Exit::Done } else { Exit::Temporary })
}

/// Asks the node itself. A client that has just come may not find it at the first try.
async fn ask(client: &Client, node: NodeId) -> Result<NodeStatus, RequestError> {
    let mut due = interval(AGAIN);
    let mut answer = Err(RequestError::Unreachable);
    for _ in 0..TRIES {
        due.tick().await;
        answer = client.node_status(node).await;
        if !matches!(answer, Err(RequestError::Unreachable)) {
            break;
        }
    }
    answer
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    node: NodeId,
    epoch: u64,
    /// Null if the ledger does not know the node.
    registered: Option<Registered>,
    shards: u16,
    shards_ready: u16,
    /// Shards in the next committee; null while that is not selected.
    next_shards: Option<u16>,
    /// Shards that it keeps because nobody else is known to have them whole, or not for long.
    shards_kept: u16,
    /// How it does in the challenges of the running epoch; null if it is no member.
    challenges: Option<Challenged>,
    /// By how much the node's clock is ahead of the last block, below 0 if it is behind; null if
    /// the node did not answer, or there is no block.
    clock_ahead_ms: Option<i64>,
    /// What the node says of itself; null if it did not answer.
    says: Option<Says>,
    /// Why it did not answer.
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Registered {
    operator: AccountId,
    commission_bps: u16,
    pool_frost: Amount,
    incoming_frost: Amount,
    unbonding_frost: Amount,
    /// What the last epoch brought in which it had shards and there was something to earn, or
    /// challenges.
    last_rewards: Option<Settled>,
    /// The epoch in which it was jailed, while it is.
    jailed_epoch: Option<u64>,
    closed: bool,
    /// The last epoch in which it reported that it follows the ledger.
    reported_epoch: Option<u64>,
    addresses: Vec<String>,
}

/// A score in the running epoch.
#[derive(Debug, Serialize)]
struct Challenged {
    #[serde(flatten)]
    score: Score,
    /// The part of its reward that it earns, in ten-thousandths.
    pay_bps: u16,
}

#[derive(Debug, Serialize)]
struct Says {
    epoch: u64,
    pairs: u64,
    disk_used_bytes: u64,
    disk_quota_bytes: u64,
    damaged_pieces: u64,
    peers: u32,
    uptime_ms: u64,
    repair: RepairStatus,
    challenges: ChallengeStatus,
}

impl Shown {
    fn new(
        node: NodeId,
        (facts, record, challenges): (&RunningEpoch, Option<Node>, Option<Score>),
        status: Result<NodeStatus, RequestError>,
    ) -> Self {
        let (shards, shards_ready) = facts.shards_of(&node);
        let now = status.as_ref().ok().map(|status| status.time);
        let clock_ahead_ms = now.zip(facts.time).map(|(now, block)| later_by_ms(now, block));
        let (says, reason) = match status {
            Ok(status) => (Some(Says::from(status)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            node,
            epoch: facts.summary.epoch.get(),
            registered: record.map(|node| Registered::new(node, facts.summary.epoch)),
            shards,
            shards_ready,
            next_shards: facts.next_shards_of(&node),
            shards_kept: facts.kept_by(&node),
            challenges: challenges.map(|score| Challenged { pay_bps: pay_bps(&score), score }),
            clock_ahead_ms,
            says,
            reason,
        }
    }

    fn brief(&self) -> String {
        format!("{} of {} shards ready", self.shards_ready, self.shards)
    }
}

impl Registered {
    fn new(node: Node, epoch: Epoch) -> Self {
        let pool = node.pool_in(epoch).stake;
        let all = node.stake_in(epoch.plus(2));
        Self {
            incoming_frost: all.checked_sub(pool).unwrap_or_default(),
            operator: node.operator,
            commission_bps: node.settings.commission_bps,
            pool_frost: pool,
            unbonding_frost: node.unbonding.stake,
            last_rewards: node.settled.map(Settled::from),
            jailed_epoch: node.jailed.map(|epoch| epoch.get()),
            closed: node.closed,
            reported_epoch: node.ready.map(|epoch| epoch.get()),
            addresses: node.settings.addresses,
        }
    }
}

impl From<NodeStatus> for Says {
    fn from(status: NodeStatus) -> Self {
        Self {
            epoch: status.epoch.get(),
            pairs: status.pairs,
            disk_used_bytes: status.disk_used_bytes,
            disk_quota_bytes: status.disk_quota_bytes,
            damaged_pieces: status.damaged_pieces,
            peers: status.peers,
            uptime_ms: status.uptime_ms,
            repair: status.repair,
            challenges: status.challenges,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, epoch, shards, shards_ready, .. } = self;
        writeln!(f, "node        {node}")?;
        writeln!(f, "epoch       {epoch}")?;
        match shards {
            0 => write!(f, "shards      none")?,
            _ => write!(f, "shards      {shards}, {shards_ready} of them ready")?,
        }
        match self.next_shards {
            Some(next) => write!(f, "; {next} in the next epoch")?,
            None => write!(f, "; the next committee is not selected yet")?,
        }
        if *shards == 0 && self.shards_kept > 0 {
            write!(f, "\nneeded for  {} shards that it had and others may lack", self.shards_kept)?;
        }
        if let Some(Challenged { score, pay_bps }) = &self.challenges {
            write!(f, "\nchallenges  passed {}", Passed(score, *pay_bps))?;
        }
        match &self.registered {
            Some(registered) => write!(f, "\n{registered}")?,
            None => write!(f, "\nregistered  no: `floe node join` does that")?,
        }
        if let Some(ahead) = self.clock_ahead_ms.filter(|ms| ms.unsigned_abs() > CLOCK_MAX_MS) {
            let (s, way) =
                (ahead.unsigned_abs() / 1_000, if ahead > 0 { "ahead" } else { "behind" });
            write!(
                f,
                "\nclock       {s} s {way} of the ledger: set it, or the node is not selected"
            )?;
        }
        match (&self.says, &self.reason) {
            (Some(says), _) => write!(f, "\n{says}"),
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("no reason is known");
                write!(f, "\nanswers     no: {reason}")
            }
        }
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operator    {}, commission {}", self.operator, percent(self.commission_bps))?;
        let Self { pool_frost, incoming_frost, unbonding_frost, .. } = self;
        write!(
            f,
            "stake       {pool_frost}; {incoming_frost} on its way in, {unbonding_frost} out"
        )?;
        if let Some(last) = &self.last_rewards {
            write!(f, "\nearned      {last}")?;
        }
        if self.closed {
            write!(f, "\nclosed      its pool was slashed to nothing")?;
        }
        if let Some(epoch) = self.jailed_epoch {
            write!(f, "\njailed      since epoch {epoch}")?;
        }
        match self.reported_epoch {
            Some(epoch) => write!(f, "\nreported    in epoch {epoch} that it follows the ledger"),
            None => write!(f, "\nreported    never that it follows the ledger"),
        }
    }
}

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, quota) = (human_bytes(self.disk_used_bytes), human_bytes(self.disk_quota_bytes));
        writeln!(f, "stores      {} pairs, {used} of {quota}", self.pairs)?;
        let RepairStatus { missing_pairs, moved_pairs, recovered_pairs, .. } = self.repair;
        let RepairStatus { gained_bytes, fetched_bytes, scrubbed_pairs, .. } = self.repair;
        writeln!(f, "missing     {missing_pairs} pairs")?;
        write!(
            f,
            "gained      {moved_pairs} pairs copied, {recovered_pairs} recovered: {} from {} \
             fetched; {scrubbed_pairs} read again",
            human_bytes(gained_bytes),
            human_bytes(fetched_bytes)
        )?;
        if self.damaged_pieces > 0 {
            write!(f, "\ndamaged     {} pieces", self.damaged_pieces)?;
        }
        if let Some(failure) = &self.challenges.last_failure {
            write!(f, "\nchallenge   last missed: {failure}")?;
        }
        Ok(())
    }
}
