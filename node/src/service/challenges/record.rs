//! How this node does in rounds, for whoever asks: the log, the node's status, metrics, tests.
//!
//! Each round that ends is told in one line with what is known of why it ended so.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use floe_protocol::{
    challenge::{Failure, Outcome, Progress, Round, Score},
    index::ChallengeRound,
    keys::NodeId,
    message::{ChallengeStatus, MAX_FAILURE_BYTES},
};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::watch;

/// Rounds whose failure is remembered: more than are ever open.
const FAILURES_MAX: usize = 64;

/// How it does. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    status: Arc<watch::Sender<ChallengeStatus>>,
    pub(super) metrics: Metrics,
}

/// What the service counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    passed: Counter,
    missed: Counter,
    void: Counter,
    pub(super) acknowledged: Counter,
    pub(super) acknowledgements: Counter,
    absent: Counter,
    damaged: Counter,
    too_slow: Counter,
    judged: Counter,
    refused: Counter,
    judging_seconds: Counter<f64, AtomicU64>,
    pub(super) transcripts_sent: Counter,
    pub(super) commitments: Counter,
    pub(super) commitment_ms: Gauge,
}

impl Record {
    /// Counts that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let m = &metrics;
        let registry = registry.sub_registry_with_prefix("floe_challenges");
        for (name, help, counter) in [
            ("passed", "Rounds that this node has passed", &m.passed),
            ("missed", "Rounds that it has missed, void ones left out", &m.missed),
            ("void", "Rounds that it has missed as too many others", &m.void),
            ("acknowledged", "Nodes that it has acknowledged in a round", &m.acknowledged),
            (
                "acknowledgements",
                "Acknowledgements that others have handed it",
                &m.acknowledgements,
            ),
            ("absent", "Rounds missed as it lacks what was asked for", &m.absent),
            ("damaged", "Rounds missed as what it has is damaged", &m.damaged),
            ("too_slow", "Rounds missed as it has read too slowly", &m.too_slow),
            ("judged", "Transcripts that it has judged", &m.judged),
            ("refused", "Transcripts that it has judged to be wrong", &m.refused),
            ("transcripts_sent", "Times that it has handed out its own", &m.transcripts_sent),
            ("commitments", "Commitments of others that said something new", &m.commitments),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "judging_seconds",
            "Time that it took to judge transcripts",
            m.judging_seconds.clone(),
        );
        registry.register(
            "commitment_ms",
            "Milliseconds from its last seed to its commitment",
            m.commitment_ms.clone(),
        );
        Self { status: Arc::new(watch::Sender::new(ChallengeStatus::default())), metrics }
    }

    /// How it does, now and after every round.
    pub(crate) fn watch(&self) -> watch::Receiver<ChallengeStatus> {
        self.status.subscribe()
    }

    /// What the ledger says of it in the running epoch.
    pub(super) fn show(&self, score: Score) {
        let Score { passed, missed, void } = score;
        self.status.send_if_modified(|status| {
            let before = (status.passed, status.missed, status.void);
            (status.passed, status.missed, status.void) = (passed, missed, void);
            before != (passed, missed, void)
        });
    }

    /// A round has come to this for the node itself. Why, if it has missed it.
    fn closed(&self, round: ChallengeRound, outcome: Outcome, why: Option<String>) {
        match outcome {
            Outcome::Passed => &self.metrics.passed,
            Outcome::Missed => &self.metrics.missed,
            Outcome::Void => &self.metrics.void,
            Outcome::NotAsked | Outcome::Open => return,
        }
        .inc();
        self.status.send_modify(|status| {
            status.round = Some(round);
            if why.is_some() {
                status.last_failure = why;
            }
        });
    }
}

impl Metrics {
    /// The node's own chain came to nothing.
    pub(super) fn gave_up(&self, failure: &Failure) {
        let counter = match failure {
            Failure::Absent { .. } => &self.absent,
            Failure::Damaged { .. } => &self.damaged,
            Failure::TooSlow { .. } => &self.too_slow,
        };
        counter.inc();
    }

    /// A transcript was judged, within so long.
    pub(super) fn judged(&self, is_right: bool, took: Duration) {
        self.judged.inc();
        self.judging_seconds.inc_by(took.as_secs_f64());
        if !is_right {
            self.refused.inc();
        }
    }
}

/// What is known of rounds that are open.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Why this node has missed them.
    failures: BTreeMap<ChallengeRound, String>,
}

impl Log {
    /// The node has missed a round.
    pub(super) fn failed(&mut self, round: ChallengeRound, why: String) {
        tracing::info!(%round, why, "this node misses a round of challenges");
        if self.failures.len() >= FAILURES_MAX {
            self.failures.pop_first();
        }
        self.failures.insert(round, why);
    }

    /// The ledger has closed a round, which the node `me` knew as `open`, if it did.
    pub(super) fn closed(
        &mut self,
        record: &Record,
        (round, outcomes): (ChallengeRound, &[Outcome]),
        (me, position): (&NodeId, Option<usize>),
        open: Option<&Round>,
    ) {
        let failure = self.failures.remove(&round);
        for (at, outcome) in outcomes.iter().enumerate() {
            let node = open.and_then(|open| open.universe().committee.members().get(at));
            let node = node.map(|member| member.node);
            if Some(at) != position {
                let seen = open.map(|open| open.progress(at));
                tracing::debug!(%round, position = at, ?node, ?outcome, ?seen, "round is over");
                continue;
            }
            if *outcome == Outcome::NotAsked {
                continue;
            }
            let missed = matches!(outcome, Outcome::Missed | Outcome::Void);
            let reached = open.map(|open| open.progress(at));
            let why = missed.then(|| why(failure.clone(), reached));
            record.closed(round, *outcome, why.clone());
            let ChallengeStatus { passed, missed, void, .. } = *record.status.borrow();
            let why = why.as_deref().unwrap_or("certified");
            let what = "this node's round of challenges is over";
            tracing::info!(%round, node = %me, ?outcome, why, passed, missed, void, what);
        }
    }

    /// Nothing of these rounds counts.
    pub(super) fn forget(&mut self, round: ChallengeRound) {
        self.failures.remove(&round);
    }
}

/// Why a round was missed, as far as that is known: how far the node had come in it says the rest.
fn why(failure: Option<String>, reached: Option<Progress>) -> String {
    let why = failure.unwrap_or_else(|| {
        let why = match reached {
            None => "this node was not running when it was opened, or missed blocks",
            Some(Progress::NotAsked | Progress::Opened) => "no seed came, or it was read too late",
            Some(Progress::Answered) => "too few members have acknowledged it",
            Some(_) => "its certificate came too late",
        };
        why.to_owned()
    });
    // What people see on their terminals.
    let printable = why.chars().filter(|c| *c == ' ' || c.is_ascii_graphic());
    printable.take(MAX_FAILURE_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_with_the_reason_of_the_last_that_was_missed() {
        let record = Record::register(&mut Registry::default());
        let round = ChallengeRound::new;
        let mut log = Log::default();
        let me = NodeId::new([7; 32]);
        let closed = |log: &mut Log, number, outcome| {
            let outcomes = [Outcome::Passed, outcome, Outcome::Missed];
            log.closed(&record, (round(number), &outcomes), (&me, Some(1)), None);
            record.watch().borrow().clone()
        };
        let status = closed(&mut log, 5, Outcome::Passed);
        let expected = ChallengeStatus { round: Some(round(5)), ..Default::default() };
        assert_eq!((status, record.metrics.passed.get()), (expected, 1));
        log.failed(round(9), format!("step 3: {}\n", "x".repeat(300)));
        let status = closed(&mut log, 9, Outcome::Missed);
        let failure = status.last_failure.unwrap();
        assert!(failure.starts_with("step 3: xxx") && failure.len() == MAX_FAILURE_BYTES);
        assert_eq!((record.metrics.missed.get(), status.round), (1, Some(round(9))));
        let status = closed(&mut log, 12, Outcome::Void);
        assert_eq!(record.metrics.void.get(), 1);
        assert!(status.last_failure.unwrap().starts_with("this node was not running"));
        let status = closed(&mut log, 13, Outcome::NotAsked);
        assert_eq!((status.round, record.metrics.void.get()), (Some(round(12)), 1));
        record.show(Score { passed: 7, missed: 2, void: 1 });
        let status = record.watch().borrow().clone();
        assert_eq!((status.passed, status.missed, status.void), (7, 2, 1));
    }

    #[test]
    fn a_failure_is_told_by_how_far_the_node_came() {
        let reason = |reached| why(None, Some(reached));
        assert_ne!(reason(Progress::Opened), reason(Progress::Answered));
        assert_ne!(reason(Progress::Acknowledged), reason(Progress::Answered));
        assert_eq!(why(Some("step 1: gone".into()), Some(Progress::Missed)), "step 1: gone");
    }

    #[test]
    fn failures_of_few_rounds_are_remembered() {
        let mut log = Log::default();
        for number in 0..1_000 {
            log.failed(ChallengeRound::new(number), String::new());
        }
        assert_eq!(log.failures.len(), FAILURES_MAX);
        log.forget(ChallengeRound::new(999));
        assert_eq!(log.failures.len(), FAILURES_MAX - 1);
    }
}
