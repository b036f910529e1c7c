//! How this node does in rounds, for whoever asks: the log, the node's status, metrics, tests.
//!
//! Each round that ends is told in one line with what is known of why it ended so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use floe_protocol::{
    challenge::{Failure, Outcome, Progress, Round, Score, WalkError},
    index::ChallengeRound,
    keys::NodeId,
    message::{ChallengeStatus, Miss},
};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::watch;

/// Rounds of which something is remembered: more than are ever open.
const ROUNDS_MAX: usize = 64;

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
    over: Counter,
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
            ("over", "Rounds missed as this node was far behind the others", &m.over),
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
    fn closed(&self, round: ChallengeRound, outcome: Outcome, why: Option<Miss>) {
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
            Failure::Walk(WalkError::Absent { .. }) => &self.absent,
            Failure::Walk(WalkError::Damaged { .. }) => &self.damaged,
            Failure::TooSlow => &self.too_slow,
            Failure::Over => &self.over,
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

/// What is known of rounds.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Why this node has missed them, while they are open.
    failures: BTreeMap<ChallengeRound, Miss>,
    /// Those that have been told: who lags tells of what it has yet to hear of.
    told: BTreeSet<ChallengeRound>,
}

impl Log {
    /// The node has missed a round.
    pub(super) fn failed(&mut self, round: ChallengeRound, miss: Miss, why: impl Display) {
        tracing::info!(%round, ?miss, %why, "this node misses a round of challenges");
        if self.failures.len() >= ROUNDS_MAX {
            self.failures.pop_first();
        }
        self.failures.insert(round, miss);
    }

    /// The ledger has closed a round, which the node `me` knew as `open`, if it did. Told once.
    pub(super) fn closed(
        &mut self,
        record: &Record,
        (round, outcomes): (ChallengeRound, &[Outcome]),
        (me, position): (&NodeId, Option<usize>),
        open: Option<&Round>,
    ) {
        let failure = self.failures.remove(&round);
        if !self.told.insert(round) {
            return;
        }
        if self.told.len() > ROUNDS_MAX {
            self.told.pop_first();
        }
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
            let why = missed.then(|| failure.unwrap_or_else(|| why(reached)));
            record.closed(round, *outcome, why);
            let ChallengeStatus { passed, missed, void, .. } = *record.status.borrow();
            let why = why.map(tracing::field::display);
            let what = "this node's round of challenges is over";
            tracing::info!(%round, node = %me, ?outcome, why, passed, missed, void, what);
        }
    }

    /// Nothing of these rounds counts.
    pub(super) fn forget(&mut self, round: ChallengeRound) {
        self.failures.remove(&round);
    }
}

/// Why a round was missed for which nothing has failed: how far the node had come in it says so.
const fn why(reached: Option<Progress>) -> Miss {
    match reached {
        None => Miss::Unknown,
        Some(Progress::NotAsked | Progress::Opened) => Miss::NoSeed,
        Some(Progress::Answered) => Miss::NotAcknowledged,
        Some(Progress::Acknowledged | Progress::Certified | Progress::Missed) => Miss::NotCertified,
    }
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
            *record.watch().borrow()
        };
        let status = closed(&mut log, 5, Outcome::Passed);
        let expected = ChallengeStatus { round: Some(round(5)), ..Default::default() };
        assert_eq!((status, record.metrics.passed.get()), (expected, 1));
        log.failed(round(9), Miss::TooSlow, "too slow");
        let status = closed(&mut log, 9, Outcome::Missed);
        assert_eq!(status.last_failure, Some(Miss::TooSlow));
        assert_eq!((record.metrics.missed.get(), status.round), (1, Some(round(9))));
        let status = closed(&mut log, 12, Outcome::Void);
        assert_eq!(record.metrics.void.get(), 1);
        assert_eq!(status.last_failure, Some(Miss::Unknown));
        let status = closed(&mut log, 13, Outcome::NotAsked);
        assert_eq!((status.round, record.metrics.void.get()), (Some(round(12)), 1));
        // Once more, by who lagged: it was told already.
        let again = closed(&mut log, 9, Outcome::Missed);
        assert_eq!((again.round, record.metrics.missed.get()), (Some(round(12)), 1));
        record.show(Score { passed: 7, missed: 2, void: 1 });
        let status = *record.watch().borrow();
        assert_eq!((status.passed, status.missed, status.void), (7, 2, 1));
    }

    #[test]
    fn a_failure_is_told_by_how_far_the_node_came() {
        for (reached, miss) in [
            (Progress::Opened, Miss::NoSeed),
            (Progress::Answered, Miss::NotAcknowledged),
            (Progress::Acknowledged, Miss::NotCertified),
        ] {
            assert_eq!(why(Some(reached)), miss);
        }
    }

    #[test]
    fn failures_of_few_rounds_are_remembered() {
        let mut log = Log::default();
        for number in 0..1_000 {
            log.failed(ChallengeRound::new(number), Miss::Over, Failure::Over);
        }
        assert_eq!(log.failures.len(), ROUNDS_MAX);
        log.forget(ChallengeRound::new(999));
        assert_eq!(log.failures.len(), ROUNDS_MAX - 1);
    }
}
