//! `floe rewards`: what storage nodes have earned, forfeited and lost, and what the running epoch
//! would bring them.

use std::fmt;

use clap::Args;
use floe_protocol::{
    challenge::Score,
    keys::NodeId,
    ledger::{Amount, Prospect, Settlement},
};
use serde::Serialize;

use super::{
    challenges::pay_bps,
    committee::percent,
    exit::{Exit, Failure},
    session::Session,
};
use crate::client::ledger::{Earner, Earnings};

const AFTER_HELP: &str = "\
Each shard is worth an equal part of what was paid for the epoch, and a node earns the part of that
which its challenges say. What it does not earn is burned, and who fails most of them loses stake as
well; after some such epochs in a row it is jailed. The ledger proves all of it. What the running
epoch would bring is as if it ended now: more may be paid into it, and more rounds come.

Examples:
  floe rewards
  floe rewards NODE
  floe rewards --json | jq '.nodes[] | {node, last_epoch}'";

/// Arguments of `floe rewards`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RewardsArgs {
    /// The node [default: all members of the running committee]
    node: Option<NodeId>,
}

/// Runs `floe rewards`.
pub(super) async fn run(session: &Session, arguments: RewardsArgs) -> Result<Exit, Failure> {
    let client = session.connect(session.network()?).await?;
    let earnings = client.ledger().earnings(arguments.node).await?;
    client.shutdown().await;
    let earnings = earnings.ok_or_else(|| {
        Failure::new(Exit::NotFound, "not_found", "the ledger knows no such node")
            .hint("`floe committee` lists the nodes that serve")
    })?;
    let shown = Shown::new(earnings);
    session.output.result(&shown, shown.brief())?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    height: u64,
    /// What has been paid for the running epoch so far.
    bucket_frost: Amount,
    nodes: Vec<NodeShown>,
}

#[derive(Debug, Serialize)]
struct NodeShown {
    node: NodeId,
    stake_frost: Amount,
    /// What the last epoch brought in which it had shards and there was something to earn, or
    /// challenges; null if there was none.
    last_epoch: Option<Settled>,
    /// What the running epoch would bring; null if the node is no member.
    this_epoch: Option<Running>,
    /// Epochs in a row whose score cost it stake.
    bad_epochs: u32,
    /// The epoch in which it was jailed, while it is.
    jailed_epoch: Option<u64>,
}

/// What an ended epoch has brought.
#[derive(Debug, Serialize)]
pub(super) struct Settled {
    epoch: u64,
    /// What the pool got, which is its stakers' part.
    reward_frost: Amount,
    /// What the operator got.
    commission_frost: Amount,
    /// What its shards were worth but it did not earn: burned.
    forfeited_frost: Amount,
    /// What of its stake was burned for a bad score.
    slashed_frost: Amount,
    score: Score,
    pay_bps: u16,
}

#[derive(Debug, Serialize)]
struct Running {
    shards: u16,
    reward_frost: Amount,
    commission_frost: Amount,
    forfeited_frost: Amount,
    score: Score,
    pay_bps: u16,
}

impl From<Settlement> for Settled {
    fn from(settlement: Settlement) -> Self {
        let Settlement { epoch, reward, commission, forfeited, score, slashed } = settlement;
        Self {
            epoch: epoch.get(),
            reward_frost: reward,
            commission_frost: commission,
            forfeited_frost: forfeited,
            slashed_frost: slashed,
            pay_bps: pay_bps(&score),
            score,
        }
    }
}

impl Shown {
    fn new(earnings: Earnings) -> Self {
        let Earnings { epoch, bucket, nodes, height } = earnings;
        let shown = |earner: Earner| {
            let Earner { id, node, weight, score, prospect } = earner;
            let running = |Prospect { reward, commission, forfeited }| Running {
                shards: weight,
                reward_frost: reward,
                commission_frost: commission,
                forfeited_frost: forfeited,
                pay_bps: pay_bps(&score),
                score,
            };
            NodeShown {
                node: id,
                stake_frost: node.pool_in(epoch).stake,
                this_epoch: prospect.map(running),
                last_epoch: node.settled.map(Settled::from),
                bad_epochs: node.bad_epochs,
                jailed_epoch: node.jailed.map(|epoch| epoch.get()),
            }
        };
        Self {
            epoch: epoch.get(),
            height: height.get(),
            bucket_frost: bucket,
            nodes: nodes.into_iter().map(shown).collect(),
        }
    }

    /// Node, reward and commission of the last epoch, one on a line.
    fn brief(&self) -> String {
        let line = |shown: &NodeShown| {
            let last = shown.last_epoch.as_ref();
            let [reward, commission] =
                last.map_or([Amount::ZERO; 2], |last| [last.reward_frost, last.commission_frost]);
            format!("{} {} {}", shown.node, reward.frost(), commission.frost())
        };
        self.nodes.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, height, bucket_frost, nodes } = self;
        write!(
            f,
            "rewards: {bucket_frost} are paid for epoch {epoch} so far, proven by block {height}"
        )?;
        nodes.iter().try_for_each(|node| write!(f, "\n{node}"))
    }
}

impl fmt::Display for NodeShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  stake {}", self.node, self.stake_frost)?;
        match &self.last_epoch {
            Some(last) => write!(f, "\n  {last}")?,
            None => write!(f, "\n  has earned nothing yet")?,
        }
        if let Some(running) = &self.this_epoch {
            write!(f, "\n  {running}")?;
        }
        match self.bad_epochs {
            0 => {}
            1 => write!(f, "\n  its last epoch cost it stake")?,
            epochs => write!(f, "\n  its last {epochs} epochs cost it stake")?,
        }
        self.jailed_epoch.map_or(Ok(()), |epoch| write!(f, "\n  jailed since epoch {epoch}"))
    }
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, reward_frost, commission_frost, .. } = self;
        write!(
            f,
            "epoch {epoch}: {reward_frost} for stakers, {commission_frost} commission; passed {}",
            Passed(&self.score, self.pay_bps)
        )?;
        if !self.forfeited_frost.is_zero() {
            write!(f, "; forfeited {}", self.forfeited_frost)?;
        }
        if !self.slashed_frost.is_zero() {
            write!(f, "; SLASHED by {}", self.slashed_frost)?;
        }
        Ok(())
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shards, reward_frost, commission_frost, .. } = self;
        write!(
            f,
            "this epoch: {reward_frost} for stakers, {commission_frost} commission by {shards} \
             shards; passed {}",
            Passed(&self.score, self.pay_bps)
        )?;
        if self.forfeited_frost.is_zero() {
            return Ok(());
        }
        write!(f, "; {} forfeited", self.forfeited_frost)
    }
}

/// A score in words.
pub(super) struct Passed<'a>(pub(super) &'a Score, pub(super) u16);

impl fmt::Display for Passed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Score { passed, missed, void }, pay_bps) = self;
        let all = u64::from(*passed) + u64::from(*missed) + u64::from(*void);
        if all == 0 {
            return write!(f, "no rounds, as there was none");
        }
        write!(f, "{passed} of {all} rounds ({})", percent(*pay_bps))?;
        if *void > 0 { write!(f, ", {void} void") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::index::Epoch;

    use super::*;

    #[test]
    fn what_an_epoch_brought_is_told_with_its_reason() {
        let wal = Amount::from_wal;
        let mut settlement = Settlement {
            epoch: Epoch::new(4),
            reward: wal(9),
            commission: wal(1),
            forfeited: Amount::ZERO,
            score: Score { passed: 20, missed: 0, void: 0 },
            slashed: Amount::ZERO,
        };
        let text = |settlement: Settlement| Settled::from(settlement).to_string();
        let good = "epoch 4: 9 WAL for stakers, 1 WAL commission; passed 20 of 20 rounds (100 %)";
        assert_eq!(text(settlement), good);
        settlement.score = Score { passed: 5, missed: 14, void: 1 };
        (settlement.forfeited, settlement.slashed) = (wal(30), wal(2));
        let bad = "epoch 4: 9 WAL for stakers, 1 WAL commission; passed 5 of 20 rounds (25 %), 1 \
                   void; forfeited 30 WAL; SLASHED by 2 WAL";
        assert_eq!(text(settlement), bad);
        settlement.score = Score::default();
        assert!(text(settlement).contains("no rounds, as there was none"));
    }
}
