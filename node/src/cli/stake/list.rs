//! `floe stake list`: what an account has in the pools of nodes.

use std::fmt;

use clap::Args;
use floe_protocol::{
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, Amount, Key, Node, Pool, Record, Stake},
};
use serde::Serialize;

use crate::{
    cli::{
        exit::{Exit, Failure},
        session::Session,
    },
    client::ledger::Purpose,
};

const LIST_HELP: &str = "\
Lists what an account has staked, what it is worth now, and what is on its way out. A stake that earns
is worth more from epoch to epoch.

Examples:
  floe stake list
  floe stake list wal1… --json | jq '.stakes[].worth_frost'";

/// Arguments of `floe stake list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub(in crate::cli) struct ListArgs {
    /// The account [default: the wallet's]
    account: Option<AccountId>,
}

/// Runs `floe stake list`.
pub(super) async fn run(session: &Session, arguments: ListArgs) -> Result<Exit, Failure> {
    let account = session.account_or_own(arguments.account)?;
    let client = session.connect(session.network()?).await?;
    let ledger = client.ledger();
    let stakes = ledger.stakes(account).await?.value;
    let mut keys = vec![Key::Summary];
    keys.extend(stakes.iter().map(|(node, _)| Key::Node(*node)));
    let mut records = ledger.facts(&keys, Purpose::Decide).await?.value.into_iter();
    client.shutdown().await;
    let epoch = match records.next().flatten() {
        Some(Record::Summary(summary)) => summary.epoch,
        _ => return Err(Failure::new(Exit::Verification, "unproven", "the state has no summary")),
    };
    let shown = stakes.iter().zip(records).map(|((node, stake), record)| {
        let record = match record {
            Some(Record::Node(record)) => Some(record),
            _ => None,
        };
        StakeShown::new(*node, stake, record.as_deref())
    });
    let list = List { account, epoch: epoch.get(), stakes: shown.collect() };
    session.output.result(&list, list.brief())?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct List {
    account: AccountId,
    epoch: u64,
    stakes: Vec<StakeShown>,
}

#[derive(Debug, Serialize)]
struct StakeShown {
    node: NodeId,
    shares: String,
    worth_frost: Option<Amount>,
    unbonding: Vec<UnbondingShown>,
}

/// What is on its way out.
#[derive(Debug, Serialize)]
struct UnbondingShown {
    worth_frost: Option<Amount>,
    /// The first epoch in which it can be withdrawn.
    until_epoch: u64,
}

impl StakeShown {
    fn new(node: NodeId, stake: &Stake, record: Option<&Node>) -> Self {
        let worth =
            |pool: fn(&Node) -> &Pool, shares| record.and_then(|node| pool(node).worth(shares));
        let unbonding = stake.unbonding.iter().map(|part| UnbondingShown {
            worth_frost: worth(|node| &node.unbonding, part.shares),
            until_epoch: part.until.get(),
        });
        Self {
            node,
            shares: stake.shares.to_string(),
            worth_frost: worth(|node| &node.pool, stake.shares),
            unbonding: unbonding.collect(),
        }
    }
}

impl List {
    /// Node and worth, one on a line.
    fn brief(&self) -> String {
        let line = |stake: &StakeShown| {
            format!("{} {}", stake.node, stake.worth_frost.unwrap_or_default())
        };
        self.stakes.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stakes.is_empty() {
            return write!(f, "{} has staked nothing", self.account);
        }
        write!(f, "epoch {}", self.epoch)?;
        for StakeShown { node, shares, worth_frost, unbonding } in &self.stakes {
            let worth = worth_frost.unwrap_or_default();
            write!(f, "\n{node}  {worth} ({shares} shares)")?;
            for UnbondingShown { worth_frost, until_epoch } in unbonding {
                let worth = worth_frost.unwrap_or_default();
                if Epoch::new(*until_epoch) <= Epoch::new(self.epoch) {
                    write!(f, "; {worth} can be withdrawn")?;
                } else {
                    write!(f, "; {worth} on its way out until epoch {until_epoch}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{ledger::Unbonding, test_support};

    use super::*;

    #[test]
    fn parts_on_their_way_out_say_until_when() {
        let account = AccountId::new(test_support::account_key(1).public());
        let node = test_support::node_keys(1).swap_remove(0).0.public();
        let unbonding = [4, 6].map(|until| Unbonding { shares: 5, until: Epoch::new(until) });
        let stake = Stake { shares: 7, unbonding: unbonding.to_vec() };
        let list = |stakes| List { account, epoch: 4, stakes };
        let text = list(vec![StakeShown::new(node, &stake, None)]).to_string();
        assert!(text.contains("(7 shares); 0 WAL can be withdrawn"), "{text}");
        assert!(text.ends_with("on its way out until epoch 6"), "{text}");
        assert!(list(Vec::new()).to_string().ends_with("has staked nothing"));
    }
}
