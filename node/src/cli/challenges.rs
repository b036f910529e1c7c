//! `floe challenges`: the rounds of an epoch, who passed them, and what that makes of its members.

use std::fmt;

use clap::Args;
use floe_protocol::{
    challenge::{ChallengeParameters, Outcome, RoundRecord, Score},
    committee::Committee,
    index::Epoch,
    keys::NodeId,
    ledger::Timestamp,
};
use serde::Serialize;

use super::{
    committee::percent,
    exit::{Exit, Failure},
    receipt::human_moment,
    session::Session,
    status_line::human_wait,
};
use crate::client::ledger::EpochChallenges;

const AFTER_HELP: &str = "\
In a round each member shows by some chunks, drawn at random, that it holds its slivers. Others check
that and make a certificate; who has none in time has missed the round. Pay is the part of all rounds
that were passed. Rounds that too many missed are void: they cost nobody stake. The ledger proves all
of it, and keeps the last rounds one by one; why a node missed one, `floe node status` says.

Who misses more than half of an epoch's rounds, void ones aside and of 20 or more, loses 1 % of its
pool, and after three such epochs in a row is jailed: not selected, until `floe node join` brings it
back two epochs later. That is by default: see `rules` in --json.

A blob is asked for once it has been certified for `rules.grace_ms` (10 minutes, or a tenth of a
shorter epoch). Until there is one no round opens, however long it is due.

Examples:
  floe challenges
  floe challenges --epoch 6 --rounds 0
  floe challenges --json | jq '.members[] | select(.missed > 0)'";

/// Arguments of `floe challenges`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ChallengesArgs {
    /// The epoch [default: the running one]
    #[arg(long, value_name = "N")]
    epoch: Option<u64>,
    /// How many of the last rounds to show: the ledger keeps the open ones and eight that are over
    #[arg(long, value_name = "N", default_value_t = 8)]
    rounds: usize,
}

/// Runs `floe challenges`.
pub(super) async fn run(session: &Session, arguments: ChallengesArgs) -> Result<Exit, Failure> {
    let client = session.connect(session.network()?).await?;
    let epoch = arguments.epoch.map(Epoch::new);
    let facts = client.ledger().challenges(epoch).await?;
    let rules = client.ledger().parameters().challenges;
    client.shutdown().await;
    let facts = facts.ok_or_else(|| {
        let epoch = epoch.unwrap_or_default();
        let message = format!("the ledger has no committee of epoch {epoch}");
        Failure::new(Exit::NotFound, "not_found", message)
            .hint("see `floe epoch` for the running one; those of long ago are forgotten")
    })?;
    let shown = Shown::new(&facts, &rules, arguments.rounds);
    session.output.result(&shown, shown.brief())?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    running_epoch: u64,
    height: u64,
    rules: ChallengeParameters,
    /// Rounds opened so far, and how many of them are not over.
    rounds: u32,
    rounds_open: usize,
    /// When the next one may open; null before the first block, and in an epoch that does not run.
    next_in_ms: Option<u64>,
    members: Vec<MemberShown>,
    /// The last rounds that the ledger keeps, oldest first.
    last_rounds: Vec<RoundShown>,
}

#[derive(Debug, Serialize)]
struct MemberShown {
    node: NodeId,
    shards: u16,
    #[serde(flatten)]
    score: Score,
    /// The part of its reward that it earns, in ten-thousandths.
    pay_bps: u16,
    /// Whether the score would cost it stake if the epoch ended now.
    costs_stake: bool,
}

#[derive(Debug, Serialize)]
struct RoundShown {
    round: u64,
    opened_ms: u64,
    is_open: bool,
    passed: Vec<NodeId>,
    missed: Vec<NodeId>,
    /// Who missed it as too many others.
    void: Vec<NodeId>,
    /// Whose certificate can still come.
    waiting: Vec<NodeId>,
    /// For whom it does not count.
    not_asked: Vec<NodeId>,
}

impl Shown {
    fn new(facts: &EpochChallenges, rules: &ChallengeParameters, rounds_max: usize) -> Self {
        let EpochChallenges { summary, committee, challenges, height, time } = facts;
        let runs = committee.epoch() == summary.epoch;
        let last = challenges.last.unwrap_or(summary.epoch_start);
        let due = last.plus_ms(rules.interval_ms);
        let members = committee.members().iter().enumerate().map(|(position, member)| {
            let score = challenges.score(position);
            MemberShown {
                node: member.node,
                shards: member.weight(),
                score,
                pay_bps: pay_bps(&score),
                costs_stake: score.is_slashed(rules),
            }
        });
        let shown = |round: &RoundRecord, is_open| {
            RoundShown::new((round.round.get(), round.opened, is_open), &round.outcomes, committee)
        };
        let closed = challenges.closed.iter().map(|round| shown(round, false));
        let open = challenges.open.iter().map(|round| shown(round, true));
        let mut last_rounds: Vec<_> = closed.chain(open).collect();
        last_rounds.drain(..last_rounds.len().saturating_sub(rounds_max));
        Self {
            epoch: committee.epoch().get(),
            running_epoch: summary.epoch.get(),
            height: height.get(),
            rules: *rules,
            rounds: challenges.rounds,
            rounds_open: challenges.open.len(),
            next_in_ms: time.filter(|_| runs).map(|time| due.ms_since(time)),
            members: members.collect(),
            last_rounds,
        }
    }

    /// Node and score, one on a line.
    fn brief(&self) -> String {
        let line = |member: &MemberShown| {
            let MemberShown { node, score: Score { passed, missed, void }, .. } = member;
            format!("{node} {passed} {missed} {void}")
        };
        self.members.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl RoundShown {
    fn new(
        (round, opened, is_open): (u64, Timestamp, bool),
        outcomes: &[Outcome],
        committee: &Committee,
    ) -> Self {
        let of = |wanted: Outcome| {
            let members = committee.members().iter().zip(outcomes);
            let wanted = members.filter(|(_, outcome)| **outcome == wanted);
            wanted.map(|(member, _)| member.node).collect()
        };
        Self {
            round,
            opened_ms: opened.ms(),
            is_open,
            passed: of(Outcome::Passed),
            missed: of(Outcome::Missed),
            void: of(Outcome::Void),
            waiting: of(Outcome::Open),
            not_asked: of(Outcome::NotAsked),
        }
    }
}

/// The part of its reward that a score earns, in ten-thousandths.
pub(super) fn pay_bps(score: &Score) -> u16 {
    let (passed, all) = score.pay();
    let bps = passed.saturating_mul(10_000).checked_div(all).unwrap_or_default();
    u16::try_from(bps).unwrap_or(10_000)
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, running_epoch, height, rounds, rounds_open, .. } = self;
        write!(f, "challenges of epoch {epoch}")?;
        if epoch < running_epoch {
            write!(f, ", which is over")?;
        } else if epoch > running_epoch {
            write!(f, ", which has not begun")?;
        }
        writeln!(f, ": {rounds} rounds, {rounds_open} of them open, proven by block {height}")?;
        let ChallengeParameters { interval_ms, window_ms, steps, .. } = self.rules;
        let seconds = |ms: u64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
        let seconds = |ms| seconds(ms).trim_end_matches('0').trim_end_matches('.').to_owned();
        let (every, within) = (seconds(interval_ms), seconds(window_ms));
        write!(f, "a round every {every} s, {steps} steps within {within} s")?;
        match self.next_in_ms {
            Some(0) => writeln!(f, "; the next one is due")?,
            Some(wait) => writeln!(f, "; the next one in {}", human_wait(wait))?,
            None => writeln!(f)?,
        }
        write!(
            f,
            "{:<64}  {:>6}  {:>6}  {:>6}  {:>6}  {:>8}",
            "node", "shards", "passed", "missed", "void", "pay"
        )?;
        for member in &self.members {
            write!(f, "\n{member}")?;
        }
        self.last_rounds.iter().try_for_each(|round| write!(f, "\n{round}"))
    }
}

impl fmt::Display for MemberShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, shards, score: Score { passed, missed, void }, .. } = self;
        let (node, pay) = (node.to_string(), percent(self.pay_bps));
        write!(f, "{node:<64}  {shards:>6}  {passed:>6}  {missed:>6}  {void:>6}  {pay:>8}")?;
        if self.costs_stake { write!(f, "  costs stake") } else { Ok(()) }
    }
}

impl fmt::Display for RoundShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [&self.passed, &self.missed, &self.void, &self.waiting];
        let all: usize = all.iter().map(|nodes| nodes.len()).sum();
        let opened = human_moment(Timestamp::from_ms(self.opened_ms));
        write!(f, "round {} of {opened}: {} of {all} passed", self.round, self.passed.len())?;
        let (missed, word) = match (self.is_open, self.void.is_empty()) {
            (true, _) => return write!(f, " so far"),
            (false, true) => (&self.missed, "missed by"),
            (false, false) => (&self.void, "void, missed by"),
        };
        if missed.is_empty() {
            return Ok(());
        }
        let missed: Vec<_> = missed.iter().map(NodeId::to_string).collect();
        write!(f, "; {word} {}", missed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support;

    use super::*;

    #[test]
    fn rounds_say_who_missed_them() {
        let committee = test_support::committee(4, 7);
        let opened = Timestamp::from_ms(1_800_000_000_000);
        use Outcome::{Missed, NotAsked, Open, Passed, Void};
        let node = |position: usize| committee.members()[position].node;
        let text = |is_open, outcomes: &[Outcome]| {
            RoundShown::new((9, opened, is_open), outcomes, &committee).to_string()
        };
        let head = "round 9 of 2027-01-15T08:00:00Z: ";
        assert_eq!(
            text(true, &[Open, Passed, Open, NotAsked]),
            format!("{head}1 of 3 passed so far")
        );
        let closed = text(false, &[Passed, Missed, Passed, Passed]);
        assert_eq!(closed, format!("{head}3 of 4 passed; missed by {}", node(1)));
        let closed = text(false, &[Void, Void, Passed, NotAsked]);
        let both = format!("{}, {}", node(0), node(1));
        assert_eq!(closed, format!("{head}1 of 3 passed; void, missed by {both}"));
        assert_eq!(text(false, &[Passed; 4]), format!("{head}4 of 4 passed"));
    }

    #[test]
    fn pay_is_the_part_of_all_rounds_that_was_passed() {
        let score = |passed, missed, void| Score { passed, missed, void };
        for (score, bps) in [
            (score(0, 0, 0), 10_000),
            (score(0, 3, 0), 0),
            (score(2, 1, 0), 6_666),
            (score(5, 0, 5), 5_000),
            (score(u32::MAX, 0, 0), 10_000),
        ] {
            assert_eq!(pay_bps(&score), bps, "{score:?}");
        }
    }
}
