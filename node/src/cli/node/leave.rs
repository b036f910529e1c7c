//! `floe node leave`: takes the stake out, and says when the node may be stopped.
//!
//! A client command, not the node's: it decides by what the ledger proves. A node without stake is
//! not selected again; once it is in no committee, and every shard that it was the last to have
//! whole is ready with another holder, nobody needs it. The node must run until then. Repeating the
//! command is safe: it takes out what is left, and goes on watching.

use std::{fmt, path::PathBuf, time::Duration};

use clap::Args;
use floe_protocol::{
    keys::{KeyPair, NodeId},
    ledger::{AccountId, Operation},
};
use serde::Serialize;
use tokio::time::timeout;

use super::{place, root};
use crate::{
    Client,
    cli::{
        exit::{Exit, Failure},
        receipt::Committed,
        session::Session,
        status_line::{Status, StatusLine, human_wait, shards_of},
    },
    client::ledger::{RunningEpoch, Staked},
};

const LEAVE_HELP: &str = "\
Takes everything that the wallet has staked with the node out of its pool, then watches until nobody
needs the node any more. Let the node run until this command says that it is safe to stop. Ctrl-C only
ends the watching: repeat the command to go on.

The wallet is that of --wallet, or else DIR/operator.key. `floe withdraw`, which pays the stake two
epochs later, needs the same one: --wallet DIR/operator.key.

Examples:
  floe node leave --dir ~/floe
  floe node leave --dir ~/floe --wallet savings.key";

/// How long to wait for a block before the facts are asked for again.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Arguments of `floe node leave`.
#[derive(Debug, Args)]
#[command(after_help = LEAVE_HELP)]
pub(in crate::cli) struct LeaveArgs {
    /// The node's directory
    #[arg(long)]
    dir: PathBuf,
}

/// Runs `floe node leave`.
pub(super) async fn run(session: &Session, arguments: LeaveArgs) -> Result<Exit, Failure> {
    let dir = arguments.dir;
    let node = place::keys(&dir)?.node.public();
    let wallet = place::wallet(session, &dir)?;
    let wallet = wallet.map_or_else(|| session.wallet(), Ok)?;
    let account = place::account(&wallet);
    let network = place::network(session, &dir)?;
    let client = session.connect_from(network, Some(&root::path(&dir))).await?;
    let leaver = Leaver { session, client: &client, node, account, wallet: &wallet };
    let left = leaver.watch().await?;
    client.shutdown().await;
    session.output.result(&left, node)?;
    Ok(Exit::Done)
}

/// Who leaves.
struct Leaver<'a> {
    session: &'a Session,
    client: &'a Client,
    node: NodeId,
    account: AccountId,
    wallet: &'a KeyPair,
}

impl Leaver<'_> {
    /// Takes the stake out as soon as it can be, and watches until nobody needs the node.
    async fn watch(&self) -> Result<Left, Failure> {
        let (session, ledger, node) = (self.session, self.client.ledger(), self.node);
        let mut line = StatusLine::new(session);
        let mut warned = false;
        loop {
            let Some(mut own) = ledger.staked(self.account, node).await? else {
                let message = format!("node {node} is not in the ledger: it holds nothing");
                return Err(Failure::new(Exit::NotFound, "not_found", message));
            };
            if own.worth.shares > 0 {
                self.unstake(own.worth.shares).await?;
                continue;
            }
            self.check_wallet(&own)?;
            let facts = ledger.running_epoch().await?;
            let incoming = own.worth.incoming.first().map(|incoming| incoming.epoch);
            let status = incoming.map(|epoch| Leaving::StakeEnters { epoch: epoch.get() });
            let Some(status) = status.or_else(|| Leaving::new(&facts, &node)) else {
                let until = own.worth.unbonding.pop().map(|(_, until)| until.get());
                return Ok(Left { node, epoch: own.epoch.get(), withdraw_epoch: until });
            };
            line.show(session, &status);
            let pool = own.node.stake_in(own.epoch.plus(2));
            if incoming.is_none() && pool >= ledger.parameters().min_stake && !warned {
                session.output.warning(format_args!(
                    "others have {pool} staked with this node: as long as it runs, it may be \
                     selected again"
                ));
                warned = true;
            }
            // A block may change it; if none comes, the countdown goes on.
            drop(timeout(LOOK_INTERVAL, ledger.reached(facts.height.next())).await);
        }
    }

    /// With a wallet that never had stake here, the node of somebody else would be watched for ever.
    fn check_wallet(&self, own: &Staked) -> Result<(), Failure> {
        let Staked { worth, node, .. } = own;
        let has_any = !worth.incoming.is_empty() || !worth.unbonding.is_empty();
        let pool = node.stake_in(own.epoch.plus(2));
        if has_any || node.operator == self.account || pool.is_zero() {
            return Ok(());
        }
        let message = format!("account {} has no stake with this node", self.account);
        Err(Failure::new(Exit::Refused, "other_wallet", message)
            .hint(format!("name the wallet of its operator, {}, with --wallet", node.operator)))
    }

    async fn unstake(&self, shares: u128) -> Result<(), Failure> {
        let (ledger, node) = (self.client.ledger(), self.node);
        let operation = Operation::Unstake { node, shares };
        let receipt = ledger.submit(vec![operation], self.wallet).await?;
        let own = ledger.staked(self.account, node).await?;
        let until = own.and_then(|own| own.worth.unbonding.last().map(|(_, until)| until.get()));
        let taken = Committed::new(TakenOut { node, withdraw_epoch: until }, &receipt);
        self.session.output.result(&taken, &taken.transaction)
    }
}

/// Why the node is still needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Leaving {
    /// Stake that is on its way into the pool can't be taken out before it is there.
    StakeEnters { epoch: u64 },
    /// It is a member, and no next committee is selected.
    Member { epoch: u64, shards: u16, selection_in_ms: u64 },
    /// It is a member, but not of the next committee.
    LastEpoch { epoch: u64, shards: u16, ends_in_ms: u64 },
    /// It is a member of the next committee, too.
    SelectedAgain { epoch: u64, shards: u16 },
    /// It is no member; others may still need what it had.
    Copying { shards: u16 },
}

impl Leaving {
    /// None: nobody needs the node any more.
    fn new(facts: &RunningEpoch, node: &NodeId) -> Option<Self> {
        let (shards, _) = facts.shards_of(node);
        let epoch = facts.summary.epoch.get();
        match facts.next_shards_of(node) {
            Some(next) if next > 0 => {
                return Some(Self::SelectedAgain { epoch: epoch.saturating_add(1), shards: next });
            }
            Some(_) if shards > 0 => {
                return Some(Self::LastEpoch { epoch, shards, ends_in_ms: facts.ends_in_ms() });
            }
            None if shards > 0 => {
                let selection_in_ms = facts.selection_in_ms().unwrap_or_default();
                return Some(Self::Member { epoch, shards, selection_in_ms });
            }
            Some(_) | None => {}
        }
        let shards = facts.kept_by(node);
        (shards > 0).then_some(Self::Copying { shards })
    }
}

impl Status for Leaving {
    fn phase(&self) -> String {
        match self {
            Self::Member { epoch, .. } => format!("member {epoch}"),
            Self::LastEpoch { epoch, .. } => format!("last {epoch}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StakeEnters { epoch } => {
                write!(f, "waiting for epoch {epoch}, with which the last stake enters the pool")
            }
            Self::Member { epoch, shards, selection_in_ms } => write!(
                f,
                "still serves {} in epoch {epoch}; the next selection is in {}",
                shards_of(*shards),
                human_wait(*selection_in_ms)
            ),
            Self::LastEpoch { epoch, shards, ends_in_ms } => write!(
                f,
                "serves {} until epoch {epoch} ends, in {}",
                shards_of(*shards),
                human_wait(*ends_in_ms)
            ),
            Self::SelectedAgain { epoch, shards } => {
                let shards = shards_of(*shards);
                write!(f, "selected for epoch {epoch} with {shards}: keep it running")
            }
            Self::Copying { shards } => {
                let shards = shards_of(*shards);
                write!(f, "others may still need {shards} that it had: keep it running")
            }
        }
    }
}

/// What was taken out.
#[derive(Debug, Serialize)]
struct TakenOut {
    node: NodeId,
    withdraw_epoch: Option<u64>,
}

impl fmt::Display for TakenOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "took the stake out of node {}", self.node)
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct Left {
    node: NodeId,
    epoch: u64,
    /// The first epoch in which everything can be withdrawn; null if nothing is on its way.
    withdraw_epoch: Option<u64>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} holds nothing that others need: it is safe to stop", self.node)?;
        let Some(until) = self.withdraw_epoch else { return Ok(()) };
        write!(f, "\n`floe withdraw {}` with the same wallet pays its stake ", self.node)?;
        if until > self.epoch { write!(f, "from epoch {until} on") } else { f.write_str("now") }
    }
}
