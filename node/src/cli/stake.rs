//! `floe stake`, `floe unstake`, `floe withdraw`: WAL into a node's pool and out again.

mod list;

use std::fmt;

use clap::{Args, Subcommand};
use floe_protocol::{
    keys::NodeId,
    ledger::{AccountId, Amount, Operation, Pool},
};
use serde::Serialize;

pub(super) use self::list::StakeShown;
use super::{
    exit::{Exit, Failure},
    receipt::{parse_amount, submit},
    session::Session,
};
use crate::client::ledger::Staked;

const STAKE_HELP: &str = "\
Stake earns with the node and is slashed with it. It counts from the next selection of a committee
on. `floe committee` lists the nodes that serve.

Examples:
  floe stake list
  floe stake NODE 100
  floe stake NODE 100 WAL --json";

const UNSTAKE_HELP: &str = "\
What is taken out is paid after the unbonding period, with `floe withdraw`; until then it can still
be slashed. An amount is rounded up to whole shares.

Examples:
  floe unstake NODE 40 WAL
  floe unstake NODE --all
  floe unstake NODE --shares 40000000";

const WITHDRAW_HELP: &str = "\
Pays what has been unstaked for long enough.

Examples:
  floe withdraw NODE";

/// Arguments of `floe stake`.
#[derive(Debug, Args)]
#[command(
    after_help = STAKE_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub(super) struct StakeArgs {
    #[command(subcommand)]
    pub(super) command: Option<StakeCommand>,
    /// The node
    #[arg(required = true)]
    node: Option<NodeId>,
    /// How much
    #[arg(num_args = 1..=2, required = true)]
    amount: Vec<String>,
}

/// Commands about stakes.
#[derive(Debug, Subcommand)]
pub(super) enum StakeCommand {
    /// List what an account has staked, and what is on its way out
    List(list::ListArgs),
}

/// Arguments of `floe unstake`.
#[derive(Debug, Args)]
#[command(after_help = UNSTAKE_HELP)]
pub(super) struct UnstakeArgs {
    /// The node
    node: NodeId,
    /// How much, by what it is worth now
    #[arg(num_args = 1..=2, required_unless_present_any = ["all", "shares"])]
    amount: Vec<String>,
    /// Everything
    #[arg(long, conflicts_with_all = ["amount", "shares"])]
    all: bool,
    /// So many shares of the node's pool
    #[arg(long, value_name = "N", conflicts_with = "amount")]
    shares: Option<u128>,
}

/// Arguments of `floe withdraw`.
#[derive(Debug, Args)]
#[command(after_help = WITHDRAW_HELP)]
pub(super) struct WithdrawArgs {
    /// The node
    node: NodeId,
}

/// Runs `floe stake`.
pub(super) async fn stake(session: &Session, arguments: StakeArgs) -> Result<Exit, Failure> {
    let (node, amount) = match arguments {
        StakeArgs { command: Some(StakeCommand::List(arguments)), .. } => {
            return list::run(session, arguments).await;
        }
        StakeArgs { node: Some(node), amount, .. } => (node, parse_amount(&amount)?),
        StakeArgs { node: None, .. } => return Err(Failure::usage("usage", "name a node")),
    };
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    if client.ledger().node(node).await?.value.is_none() {
        return Err(unknown_node(node));
    }
    let operation = Operation::Stake { node, amount };
    let what = PutIn { node, amount_frost: amount };
    let exit = submit(session, client.ledger(), (operation, &key), what).await?;
    client.shutdown().await;
    Ok(exit)
}

/// Runs `floe unstake`.
pub(super) async fn unstake(session: &Session, arguments: UnstakeArgs) -> Result<Exit, Failure> {
    let node = arguments.node;
    let amount = match arguments.amount.as_slice() {
        [] => None,
        words => Some(parse_amount(words)?),
    };
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    let (ledger, account) = (client.ledger(), AccountId::new(key.public()));
    let Some(Staked { node: record, worth: own, epoch }) = ledger.staked(account, node).await?
    else {
        return Err(unknown_node(node));
    };
    let pool = record.pool_in(epoch);
    let shares = match (amount, arguments.shares) {
        (Some(amount), _) => shares_worth(&pool, amount, own.shares).ok_or_else(|| {
            let message = format!("of the account's stake {} can be taken out", own.active);
            Failure::new(Exit::Refused, "stake", message).hint("take all of it with --all")
        })?,
        (None, Some(shares)) => shares,
        (None, None) => own.shares,
    };
    if shares == 0 {
        let failure = Failure::new(Exit::Refused, "stake", "nothing in this node's pool is yours");
        return Err(match own.incoming.first() {
            Some(incoming) => failure.hint(format!(
                "{} enter it with epoch {}, and can be taken out from then on",
                incoming.amount, incoming.epoch
            )),
            None => failure,
        });
    }
    let worth = pool.worth(shares).unwrap_or_default();
    if worth.is_zero() {
        let message = format!("{shares} shares of this node's pool are worth less than 1 FROST");
        return Err(Failure::new(Exit::Refused, "stake", message)
            .hint("name an amount instead: floe unstake NODE 1.5 WAL"));
    }
    let unbonding_epochs = ledger.parameters().unbonding_epochs;
    let what = Unstaked { node, shares: shares.to_string(), worth_frost: worth, unbonding_epochs };
    let operation = Operation::Unstake { node, shares };
    let exit = submit(session, ledger, (operation, &key), what).await?;
    client.shutdown().await;
    Ok(exit)
}

/// Runs `floe withdraw`.
pub(super) async fn withdraw(session: &Session, arguments: WithdrawArgs) -> Result<Exit, Failure> {
    let WithdrawArgs { node } = arguments;
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    let ledger = client.ledger();
    let Some(Staked { worth: own, epoch, .. }) =
        ledger.staked(AccountId::new(key.public()), node).await?
    else {
        return Err(unknown_node(node));
    };
    let first = own.unbonding.first().map(|(_, until)| *until);
    if first.is_none_or(|first| epoch < first) && own.returned.is_zero() {
        let failure = Failure::new(Exit::Refused, "unbonding", "nothing to withdraw yet");
        return Err(match first {
            Some(first) => failure.hint(format!("the next part is free in epoch {first}")),
            None => failure.hint("`floe unstake` takes WAL out of a node's pool first"),
        });
    }
    let operation = Operation::Withdraw { node };
    let exit = submit(session, ledger, (operation, &key), Withdrawn { node }).await?;
    client.shutdown().await;
    Ok(exit)
}

fn unknown_node(node: NodeId) -> Failure {
    Failure::new(Exit::NotFound, "not_found", format!("no storage node {node}"))
        .hint("`floe committee` lists the members")
}

/// The fewest of `own` shares that are worth `amount`.
fn shares_worth(pool: &Pool, amount: Amount, own: u128) -> Option<u128> {
    let enough = |shares: u128| pool.worth(shares).is_some_and(|worth| worth >= amount);
    if !enough(own) {
        return None;
    }
    let (mut too_few, mut enough_at) = (0, own);
    while enough_at - too_few > 1 {
        let middle = too_few + (enough_at - too_few) / 2;
        if enough(middle) { enough_at = middle } else { too_few = middle }
    }
    Some(enough_at)
}

#[derive(Debug, Serialize)]
struct PutIn {
    node: NodeId,
    amount_frost: Amount,
}

impl fmt::Display for PutIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "staked {} with node {}", self.amount_frost, self.node)
    }
}

#[derive(Debug, Serialize)]
struct Unstaked {
    node: NodeId,
    shares: String,
    worth_frost: Amount,
    unbonding_epochs: u32,
}

impl fmt::Display for Unstaked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, shares, worth_frost, unbonding_epochs } = self;
        writeln!(f, "took {shares} shares worth {worth_frost} out of node {node}")?;
        write!(f, "floe withdraw {node} pays it once {unbonding_epochs} whole epochs are over")
    }
}

#[derive(Debug, Serialize)]
struct Withdrawn {
    node: NodeId,
}

impl fmt::Display for Withdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "withdrew what node {} owed", self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_shares_that_are_worth_an_amount_are_found() {
        let pool = Pool { stake: Amount::from_wal(300), shares: 100_000_000_000 };
        for wal in [1, 7, 99, 299] {
            let amount = Amount::from_wal(wal);
            let shares = shares_worth(&pool, amount, pool.shares).unwrap();
            assert!(pool.worth(shares).unwrap() >= amount, "{wal}");
            assert!(pool.worth(shares - 1).unwrap() < amount, "{wal}");
        }
        assert_eq!(
            shares_worth(&pool, Amount::from_wal(2), 1_000),
            None,
            "not so many of one's own"
        );
        assert_eq!(shares_worth(&pool, Amount::from_wal(2), 0), None);
    }
}
