//! What `floe health` says of the ledger: whether it goes on, whether its epoch can end, and which
//! shards wait for whom.

use std::fmt;

use floe_protocol::keys::NodeId;
use serde::{Serialize, Serializer};

use super::SHORT_ID_DIGITS;
use crate::{
    cli::status_line::human_wait,
    client::{LedgerHealth, LedgerVerdict, ShardsWaiting, ledger::RunningEpoch},
};

/// The ledger's part of the result.
#[derive(Debug, Serialize)]
pub(super) struct LedgerShown {
    #[serde(serialize_with = "verdict_code")]
    verdict: LedgerVerdict,
    /// The newest block that is proven; null if there is none.
    height: Option<u64>,
    /// Its age by this machine's clock.
    age_ms: Option<u64>,
    epoch: u64,
    members: usize,
    members_answering: usize,
    n_shards: u16,
    /// Shards of the members that answered, and how many make blocks.
    shards_answering: u16,
    shards_needed: u16,
    /// Shards that are complete with their holders; null if that is not proven. As many as
    /// `shards_needed` let an epoch end.
    shards_ready: Option<u16>,
    /// The same, and those that members which answer may still complete.
    shards_within_reach: Option<u16>,
    /// By how much the epoch has lasted longer than planned; null if it has not.
    stretched_ms: Option<u64>,
    /// The shards that are not complete.
    waits: Vec<Waits>,
}

/// Shards of one holder that are not complete.
#[derive(Debug, Serialize)]
struct Waits {
    node: NodeId,
    answers: bool,
    /// The last that had them whole: it may be the holder itself.
    from: NodeId,
    from_answers: bool,
    shards: Vec<u16>,
}

fn verdict_code<S: Serializer>(verdict: &LedgerVerdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match verdict {
        LedgerVerdict::Running => "running",
        LedgerVerdict::EpochStuck => "epoch_stuck",
        LedgerVerdict::PowerMissing => "power_missing",
        LedgerVerdict::Stalled => "stalled",
        LedgerVerdict::Clock => "clock",
        LedgerVerdict::NoBlock => "no_block",
    })
}

impl LedgerShown {
    pub(super) fn new(health: &LedgerHealth) -> Self {
        let waits = |ShardsWaiting { holder, from, shards }| Waits {
            node: holder,
            answers: health.answers(&holder),
            from,
            from_answers: health.answers(&from),
            shards: shards.into_iter().map(|shard| shard.get()).collect(),
        };
        Self {
            verdict: health.verdict,
            height: health.header.as_ref().map(|header| header.header().height.get()),
            age_ms: health.age_ms,
            epoch: health.epoch.get(),
            members: health.members.0,
            members_answering: health.members.1,
            n_shards: health.n_shards,
            shards_answering: health.shards_answering,
            shards_needed: health.shards_needed,
            shards_ready: health.shards_ready,
            shards_within_reach: health.shards_within_reach(),
            stretched_ms: health.running.as_ref().and_then(RunningEpoch::stretched_ms),
            waits: health.waiting().into_iter().map(waits).collect(),
        }
    }

    /// The same, by a clock that is found to be wrong.
    pub(super) fn by_a_wrong_clock(self) -> Self {
        Self { verdict: LedgerVerdict::Clock, ..self }
    }

    pub(super) const fn verdict(&self) -> LedgerVerdict {
        self.verdict
    }

    /// What is wrong, in few words.
    pub(super) const fn brief(&self) -> Option<&'static str> {
        match self.verdict {
            LedgerVerdict::Running => None,
            LedgerVerdict::EpochStuck => Some("the epoch cannot end"),
            LedgerVerdict::PowerMissing | LedgerVerdict::Stalled => Some("the ledger has stopped"),
            LedgerVerdict::Clock => Some("this machine's clock is wrong"),
            LedgerVerdict::NoBlock => Some("the ledger has not begun"),
        }
    }

    fn power(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_shards: n, shards_answering: answering, shards_needed: needed, .. } = self;
        let missing = n.saturating_sub(*answering);
        write!(
            f,
            "members with {missing} of {n} shards do not answer, and blocks need {needed} shards"
        )
    }

    fn epoch(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, n_shards: n, shards_needed: needed, .. } = self;
        let Some(ready) = self.shards_ready else { return Ok(()) };
        if ready == *n && self.stretched_ms.is_none() {
            return Ok(());
        }
        write!(f, "\nepoch   {epoch}")?;
        match self.stretched_ms {
            Some(_) if self.verdict == LedgerVerdict::EpochStuck => write!(f, " CANNOT END")?,
            _ => {}
        }
        if let Some(over) = self.stretched_ms {
            write!(f, ", {} over time", human_wait(over))?;
        }
        write!(f, ": {ready} of {n} shards are ready, {needed} let it end")?;
        match self.shards_within_reach.map(|reach| n.saturating_sub(reach)) {
            Some(away) if away > 0 => {
                write!(f, "; {away} of the others are with members that do not answer")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for LedgerShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger  ")?;
        let height = self.height.unwrap_or_default();
        let age = human_wait(self.age_ms.unwrap_or_default());
        let (answering, n) = (self.shards_answering, self.n_shards);
        match self.verdict {
            LedgerVerdict::Running | LedgerVerdict::EpochStuck => {
                write!(f, "goes on: block {height} is {age} old")?;
                if answering < self.shards_needed {
                    write!(f, "; but ")?;
                    self.power(f)?;
                }
            }
            LedgerVerdict::PowerMissing if self.height.is_none() => {
                write!(f, "NOT known: ")?;
                self.power(f)?;
            }
            LedgerVerdict::PowerMissing => {
                write!(f, "HAS STOPPED: block {height} is {age} old; ")?;
                self.power(f)?;
                write!(f, "; it goes on once enough of them are back")?;
            }
            LedgerVerdict::Stalled => write!(
                f,
                "HAS STOPPED: block {height} is {age} old, although members with {answering} of \
                 {n} shards answer"
            )?,
            LedgerVerdict::Clock => {
                write!(f, "NOT judged: this machine's clock is wrong; the last block is {height}")?;
            }
            LedgerVerdict::NoBlock => write!(f, "has not begun: nobody knows a block yet")?,
        }
        self.epoch(f)?;
        for waits in &self.waits {
            write!(f, "\nwaits   {waits}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let down = |answers| if answers { "" } else { " (does not answer)" };
        let short = |node: &NodeId| node.to_string().chars().take(SHORT_ID_DIGITS).collect();
        let (node, from): (String, String) = (short(&self.node), short(&self.from));
        let (word, shards) =
            (if self.shards.len() == 1 { "shard" } else { "shards" }, ranges(&self.shards));
        write!(f, "{word} {shards} of {node}{}", down(self.answers))?;
        if self.node == self.from {
            return write!(f, ", which had them whole and repairs them");
        }
        write!(f, ", which copies them from {from}{}", down(self.from_answers))
    }
}

/// Numbers in ascending order, with runs written shorter.
fn ranges(numbers: &[u16]) -> String {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let runs = runs.filter_map(|run| match (run.first()?, run.last()?) {
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(verdict: LedgerVerdict) -> LedgerShown {
        LedgerShown {
            verdict,
            height: Some(9),
            age_ms: Some(40_000),
            epoch: 3,
            members: 4,
            members_answering: 2,
            n_shards: 7,
            shards_answering: 4,
            shards_needed: 5,
            shards_ready: Some(7),
            shards_within_reach: Some(7),
            stretched_ms: None,
            waits: Vec::new(),
        }
    }

    #[test]
    fn a_ledger_that_has_stopped_is_said_to_have_stopped_and_why() {
        let text = shown(LedgerVerdict::PowerMissing).to_string();
        let why = "members with 3 of 7 shards do not answer, and blocks need 5 shards";
        assert!(text.contains("HAS STOPPED: block 9 is 40 s old") && text.contains(why), "{text}");
        let text = shown(LedgerVerdict::Stalled).to_string();
        assert!(text.contains("although members with 4 of 7 shards answer"), "{text}");
        let text = shown(LedgerVerdict::Running).to_string();
        assert!(
            text.contains("goes on") && text.contains(why) && !text.contains("epoch"),
            "{text}"
        );
    }

    #[test]
    fn an_epoch_that_cannot_end_says_which_shards_wait_for_whom() {
        let mut shown = shown(LedgerVerdict::EpochStuck);
        (shown.shards_ready, shown.shards_within_reach) = (Some(3), Some(4));
        shown.stretched_ms = Some(61_000);
        let (node, from) = (NodeId::new([0x11; 32]), NodeId::new([0x22; 32]));
        let shards = vec![0, 4, 5, 6];
        shown.waits = vec![
            Waits { node, answers: false, from, from_answers: true, shards },
            Waits { node, answers: true, from: node, from_answers: true, shards: vec![2] },
        ];
        let text = shown.to_string();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "epoch   3 CANNOT END, 61 s over time: 3 of 7 shards are ready, 5 let it end; 3 of \
                 the others are with members that do not answer",
                "waits   shards 0, 4-6 of 111111111111 (does not answer), which copies them from \
                 222222222222",
                "waits   shard 2 of 111111111111, which had them whole and repairs them",
            ]
        );
    }

    #[test]
    fn runs_of_numbers_are_written_shorter() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[3, 5, 6, 7, 9, 10]), "3, 5-7, 9-10");
    }
}
