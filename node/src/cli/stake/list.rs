//! `floe stake list`: what an account has in the pools of nodes.

use std::fmt;

use clap::Args;
use floe_protocol::{
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, Amount, StakeWorth},
};
use serde::Serialize;

use crate::{
    cli::{
        exit::{Exit, Failure},
        session::Session,
    },
    client::ledger::Staked,
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
    let mut stakes = Vec::new();
    for (node, _) in ledger.stakes(account).await?.value {
        stakes.extend(ledger.staked(account, node).await?.map(|own| StakeShown::new(node, own)));
    }
    client.shutdown().await;
    let list = List { account, stakes };
    session.output.result(&list, list.brief())?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct List {
    account: AccountId,
    stakes: Vec<StakeShown>,
}

/// A stake with one node.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct StakeShown {
    node: NodeId,
    epoch: u64,
    /// What is in the pool: it can be unstaked.
    shares: String,
    worth_frost: Amount,
    incoming: Vec<Part>,
    unbonding: Vec<Part>,
    /// What withdrawing gives back because the pool was closed before it entered.
    returned_frost: Amount,
}

/// What enters or leaves.
#[derive(Debug, Serialize)]
struct Part {
    worth_frost: Amount,
    /// The first epoch in which it is in the pool, or can be withdrawn.
    from_epoch: u64,
}

impl StakeShown {
    pub(in crate::cli) fn new(node: NodeId, own: Staked) -> Self {
        Self::of(node, own.epoch, own.worth)
    }

    fn of(node: NodeId, epoch: Epoch, worth: StakeWorth) -> Self {
        let part =
            |(worth_frost, from): (Amount, Epoch)| Part { worth_frost, from_epoch: from.get() };
        let incoming = worth.incoming.iter().map(|incoming| (incoming.amount, incoming.epoch));
        Self {
            node,
            epoch: epoch.get(),
            shares: worth.shares.to_string(),
            worth_frost: worth.active,
            incoming: incoming.map(part).collect(),
            unbonding: worth.unbonding.into_iter().map(part).collect(),
            returned_frost: worth.returned,
        }
    }
}

impl List {
    /// Node and worth, one on a line.
    fn brief(&self) -> String {
        let line = |stake: &StakeShown| format!("{} {}", stake.node, stake.worth_frost);
        self.stakes.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.stakes.as_slice() else {
            return write!(f, "{} has staked nothing", self.account);
        };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|stake| write!(f, "\n{stake}"))
    }
}

impl fmt::Display for StakeShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, epoch, shares, worth_frost, .. } = self;
        write!(f, "{node}  {worth_frost} ({shares} shares)")?;
        for Part { worth_frost, from_epoch } in &self.incoming {
            write!(f, "; {worth_frost} enter with epoch {from_epoch}")?;
        }
        for Part { worth_frost, from_epoch } in &self.unbonding {
            if from_epoch <= epoch {
                write!(f, "; {worth_frost} can be withdrawn")?;
            } else {
                write!(f, "; {worth_frost} on their way out until epoch {from_epoch}")?;
            }
        }
        if self.returned_frost.is_zero() {
            return Ok(());
        }
        write!(f, "; {} come back: the pool is closed", self.returned_frost)
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        ledger::Incoming,
        test_support::{account_key, node_keys},
    };

    use super::*;

    #[test]
    fn parts_on_their_way_say_from_when_on() {
        let node = node_keys(1).swap_remove(0).0.public();
        let wal = Amount::from_wal;
        let worth = StakeWorth {
            shares: 7,
            active: wal(3),
            incoming: vec![Incoming { epoch: Epoch::new(6), amount: wal(5) }],
            returned: Amount::ZERO,
            unbonding: [4, 6].map(|until| (wal(1), Epoch::new(until))).to_vec(),
        };
        let shown = StakeShown::of(node, Epoch::new(4), worth);
        let expected = format!(
            "{node}  3 WAL (7 shares); 5 WAL enter with epoch 6; 1 WAL can be withdrawn; 1 WAL on \
             their way out until epoch 6"
        );
        assert_eq!(shown.to_string(), expected);
        let account = AccountId::new(account_key(1).public());
        let none = List { account, stakes: Vec::new() };
        assert!(none.to_string().ends_with("has staked nothing"));
    }
}
