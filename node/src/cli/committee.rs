//! `floe committee`: who holds which shards in an epoch, with how much stake, and how far.

use std::fmt;

use clap::Args;
use floe_protocol::{
    committee::{Committee, Member},
    index::Epoch,
    keys::NodeId,
    ledger::{Amount, Key, Record},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    session::Session,
};
use crate::client::{
    LedgerClient,
    ledger::{Purpose, RunningEpoch},
};

const AFTER_HELP: &str = "\
Everything is proven by the ledger: members and their shards, the stake in their pools, and which
shards are complete with their holders. Committees of past epochs are kept as long as they can be
punished; the next one is there once it is selected, at half of the epoch.

Examples:
  floe committee
  floe committee --epoch next
  floe committee --epoch 6 --json | jq '.members[].shards'";

/// Arguments of `floe committee`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct CommitteeArgs {
    /// The epoch: a number, or `next` [default: the running one]
    #[arg(long, value_name = "N|next", value_parser = parse_which)]
    epoch: Option<Which>,
}

/// Which committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Next,
    Of(Epoch),
}

fn parse_which(text: &str) -> Result<Which, String> {
    if text == "next" {
        return Ok(Which::Next);
    }
    let number = text.parse().map_err(|_| "name an epoch by its number, or `next`")?;
    Ok(Which::Of(Epoch::new(number)))
}

/// Runs `floe committee`.
pub(super) async fn run(session: &Session, arguments: CommitteeArgs) -> Result<Exit, Failure> {
    let client = session.connect(session.network()?).await?;
    let ledger = client.ledger();
    let facts = ledger.running_epoch().await?;
    let running = facts.summary.epoch;
    let epoch = match arguments.epoch {
        None => running,
        Some(Which::Next) => running.plus(1),
        Some(Which::Of(epoch)) => epoch,
    };
    let committee = if epoch == running {
        Some(facts.committee.clone())
    } else {
        ledger.committee_of(epoch).await?
    };
    let Some(committee) = committee else {
        let message = format!("the ledger has no committee of epoch {epoch}");
        let failure = Failure::new(Exit::NotFound, "not_found", message);
        return Err(if epoch > running {
            failure.hint("the next one is selected at half of the running epoch: see `floe epoch`")
        } else {
            failure.hint("committees of long ago are forgotten")
        });
    };
    let shown = Shown::new(ledger, (&committee, &facts)).await?;
    client.shutdown().await;
    session.output.result(&shown, shown.brief())?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    running_epoch: u64,
    n_shards: u16,
    height: u64,
    members: Vec<MemberShown>,
}

#[derive(Debug, Serialize)]
struct MemberShown {
    node: NodeId,
    shards: Vec<u16>,
    /// Of these, how many are complete; null in an epoch that does not run.
    ready: Option<u16>,
    stake_frost: Option<Amount>,
    commission_bps: Option<u16>,
    jailed: bool,
}

impl Shown {
    async fn new(
        ledger: &LedgerClient,
        (committee, facts): (&Committee, &RunningEpoch),
    ) -> Result<Self, Failure> {
        let keys: Vec<_> =
            committee.members().iter().map(|member| Key::Node(member.node)).collect();
        let nodes = ledger.facts(&keys, Purpose::Decide).await?.value;
        let runs = committee.epoch() == facts.summary.epoch;
        let member = |(member, record): (&Member, Option<Record>)| {
            let node = match record {
                Some(Record::Node(node)) => Some(node),
                _ => None,
            };
            MemberShown {
                node: member.node,
                shards: member.shards.iter().map(|shard| shard.get()).collect(),
                ready: runs.then(|| facts.shards_of(&member.node).1),
                stake_frost: node.as_ref().map(|node| node.pool_in(facts.summary.epoch).stake),
                commission_bps: node.as_ref().map(|node| node.settings.commission_bps),
                jailed: node.is_some_and(|node| node.jailed.is_some()),
            }
        };
        Ok(Self {
            epoch: committee.epoch().get(),
            running_epoch: facts.summary.epoch.get(),
            n_shards: committee.n_shards(),
            height: facts.height.get(),
            members: committee.members().iter().zip(nodes).map(member).collect(),
        })
    }

    /// The members' ids, one on a line.
    fn brief(&self) -> String {
        let ids: Vec<_> = self.members.iter().map(|member| member.node.to_string()).collect();
        ids.join("\n")
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, running_epoch, n_shards, height, members } = self;
        let holding = members.iter().filter(|member| !member.shards.is_empty()).count();
        write!(f, "committee of epoch {epoch}")?;
        match epoch.cmp(running_epoch) {
            std::cmp::Ordering::Less => write!(f, ", which is over")?,
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => write!(f, ", which has not begun")?,
        }
        writeln!(f, ": {n_shards} shards on {holding} nodes, proven by block {height}")?;
        write!(
            f,
            "{:<64}  {:>6}  {:>5}  {:>14}  {:>10}",
            "node", "shards", "ready", "stake", "commission"
        )?;
        for member in members {
            write!(f, "\n{member}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MemberShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready.map_or("-".into(), |ready| ready.to_string());
        let stake = self.stake_frost.map_or("-".into(), |stake| stake.to_string());
        let commission = self.commission_bps.map_or("-".into(), percent);
        let Self { node, shards, jailed, .. } = self;
        let node = node.to_string();
        write!(f, "{node:<64}  {:>6}  {ready:>5}  {stake:>14}  {commission:>10}", shards.len())?;
        if *jailed { write!(f, "  jailed") } else { Ok(()) }
    }
}

/// Hundredths of a per cent as people write them.
pub(super) fn percent(bps: u16) -> String {
    let (whole, part) = (bps / 100, bps % 100);
    if part == 0 { format!("{whole} %") } else { format!("{whole}.{part:02} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committees_are_named_by_number_or_as_the_next() {
        assert_eq!(parse_which("next"), Ok(Which::Next));
        assert_eq!(parse_which("7"), Ok(Which::Of(Epoch::new(7))));
        for wrong in ["", "-1", "last", "1.5"] {
            assert!(parse_which(wrong).is_err(), "{wrong}");
        }
        assert_eq!([percent(0), percent(250), percent(10_000)], ["0 %", "2.50 %", "100 %"]);
    }
}
