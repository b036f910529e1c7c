//! `floe epoch`: where the running epoch stands, and what it waits for.

use std::fmt;

use clap::Args;
use floe_protocol::ledger::Timestamp;
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    receipt::human_moment,
    session::Session,
    status_line::human_wait,
};
use crate::client::ledger::RunningEpoch;

const AFTER_HELP: &str = "\
An epoch ends when its time is over and the shards of a quorum are complete with their holders; until
then it stretches. The next committee is selected at half of it. If too few nodes could be selected,
the running committee stays for the next epoch, too.

Examples:
  floe epoch
  floe epoch --json | jq .ends_in_ms";

/// Arguments of `floe epoch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct EpochArgs {}

/// Runs `floe epoch`.
pub(super) async fn run(session: &Session, EpochArgs {}: EpochArgs) -> Result<Exit, Failure> {
    let client = session.connect(session.network()?).await?;
    let facts = client.ledger().running_epoch().await?;
    client.shutdown().await;
    let shown = Shown::new(&facts);
    session.output.result(&shown, shown.epoch)?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    height: u64,
    /// None of these before the first block, which starts the clock.
    begun_ms: Option<u64>,
    ends_ms: Option<u64>,
    ends_in_ms: u64,
    /// Whether the next committee is selected; else in how many milliseconds it is.
    selected: bool,
    selection_in_ms: Option<u64>,
    next_members: Option<usize>,
    /// The epoch for which the last selection could form no committee, so that the one before it
    /// stays: the next one or the running one; null if it could.
    selection_failed_epoch: Option<u64>,
    shards_ready: u16,
    shards_needed: u16,
    n_shards: u16,
    /// By how much it has lasted longer than planned; null if it has not.
    stretched_ms: Option<u64>,
}

impl Shown {
    fn new(facts: &RunningEpoch) -> Self {
        let holding = |next: &floe_protocol::committee::Committee| {
            next.members().iter().filter(|member| member.weight() > 0).count()
        };
        Self {
            epoch: facts.summary.epoch.get(),
            height: facts.height.get(),
            begun_ms: facts.time.map(|_| facts.summary.epoch_start.ms()),
            ends_ms: facts.ends().map(Timestamp::ms),
            ends_in_ms: facts.ends_in_ms(),
            selected: facts.next.is_some(),
            selection_in_ms: facts.selection_in_ms(),
            next_members: facts.next.as_ref().map(holding),
            selection_failed_epoch: facts.summary.selection_failed.map(|epoch| epoch.get()),
            shards_ready: facts.ready(),
            shards_needed: facts.ready_needed(),
            n_shards: facts.committee.n_shards(),
            stretched_ms: facts.stretched_ms(),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, shards_ready, shards_needed, n_shards, .. } = self;
        writeln!(f, "epoch      {epoch}")?;
        let Some((begun, ends)) = self.begun_ms.zip(self.ends_ms) else {
            return write!(f, "not begun: the first block starts the clock");
        };
        let moment = |ms| human_moment(Timestamp::from_ms(ms));
        writeln!(f, "begun      {}", moment(begun))?;
        match self.stretched_ms {
            None => {
                let wait = human_wait(self.ends_in_ms);
                writeln!(f, "ends       about {}, in {wait}", moment(ends))?;
            }
            Some(over) => writeln!(
                f,
                "stretched  by {} so far: it ends once {shards_needed} shards are ready",
                human_wait(over)
            )?,
        }
        match (self.next_members, self.selection_in_ms) {
            (Some(members), _) if self.selection_failed_epoch > Some(*epoch) => writeln!(
                f,
                "selection  FAILED: too few nodes could be selected, so the {members} of this \
                 epoch stay"
            )?,
            (Some(members), _) => writeln!(f, "selection  made: {members} nodes serve next")?,
            (None, Some(0)) => writeln!(f, "selection  due, not made yet")?,
            (None, wait) => {
                writeln!(f, "selection  in {}", human_wait(wait.unwrap_or_default()))?;
            }
        }
        if self.selection_failed_epoch == Some(*epoch) {
            writeln!(
                f,
                "committee  of the epoch before: too few nodes could be selected for this one"
            )?;
        }
        write!(f, "shards     {shards_ready} of {n_shards} ready, {shards_needed} needed to end")
    }
}
