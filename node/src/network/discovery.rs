//! When to dial again: pauses that double, for lost committee members and bootstrap addresses.
//!
//! Pure: the event loop passes the time in and does the dialling.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// Targets that shall be connected, and when each is due to be dialled next.
#[derive(Debug)]
pub(super) struct Redial<T> {
    min: Duration,
    max: Duration,
    targets: BTreeMap<T, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    /// None while the target needs no dialling.
    due: Option<Instant>,
    pause: Duration,
}

impl<T: Ord + Clone> Redial<T> {
    /// All targets are due at once.
    pub(super) fn new(
        targets: impl IntoIterator<Item = T>,
        now: Instant,
        (min, max): (Duration, Duration),
    ) -> Self {
        let attempt = |target| {
            let attempt = Attempt { due: Some(now), pause: min };
            (target, attempt)
        };
        Self { min, max, targets: targets.into_iter().map(attempt).collect() }
    }

    /// Other targets from now on. Those that stay keep their pauses; new ones are due at once,
    /// unless they are connected.
    pub(super) fn set_targets(
        &mut self,
        targets: impl IntoIterator<Item = T>,
        now: Instant,
        is_connected: impl Fn(&T) -> bool,
    ) {
        let mut before = std::mem::take(&mut self.targets);
        for target in targets {
            let attempt = before.remove(&target).unwrap_or_else(|| {
                let due = (!is_connected(&target)).then_some(now);
                Attempt { due, pause: self.min }
            });
            self.targets.insert(target, attempt);
        }
    }

    /// The targets that are due. Each is due again after its pause, which doubles.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<T> {
        let mut due = Vec::new();
        for (target, attempt) in &mut self.targets {
            if attempt.due.is_some_and(|due| due <= now) {
                attempt.due = Some(now + attempt.pause);
                attempt.pause = attempt.pause.saturating_mul(2).min(self.max);
                due.push(target.clone());
            }
        }
        due
    }

    /// The target is connected. Its pause stays until it is known to be what it should.
    pub(super) fn connected(&mut self, target: &T) {
        if let Some(attempt) = self.targets.get_mut(target) {
            attempt.due = None;
        }
    }

    /// The target is connected and of use: pauses begin anew.
    pub(super) fn confirmed(&mut self, target: &T) {
        if let Some(attempt) = self.targets.get_mut(target) {
            attempt.pause = self.min;
        }
    }

    /// The target's connection is lost: due after its pause.
    pub(super) fn lost(&mut self, target: &T, now: Instant) {
        if let Some(attempt) = self.targets.get_mut(target) {
            attempt.due = Some(now + attempt.pause);
        }
    }

    /// All connections are lost.
    pub(super) fn all_lost(&mut self, now: Instant) {
        for attempt in self.targets.values_mut() {
            attempt.due = Some(now + self.min);
            attempt.pause = self.min;
        }
    }

    /// Dialling has better chances from now on: what is not connected is due at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        for attempt in self.targets.values_mut() {
            if attempt.due.is_some() {
                attempt.due = Some(now);
                attempt.pause = self.min;
            }
        }
    }

    /// Whether the target is to be dialled sooner or later.
    pub(super) fn wants(&self, target: &T) -> bool {
        self.targets.get(target).is_some_and(|attempt| attempt.due.is_some())
    }

    /// Whether the target has been dialled more than once since its pauses began.
    pub(super) fn is_persistent(&self, target: &T) -> bool {
        let twice = self.min.saturating_mul(4).min(self.max);
        self.targets.get(target).is_some_and(|attempt| attempt.pause >= twice)
    }

    /// When the next target is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.targets.values().filter_map(|attempt| attempt.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_connection() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pauses = (Duration::from_millis(100), Duration::from_millis(300));
        let mut redial = Redial::new(["a", "b"], start, pauses);
        redial.connected(&"b");
        let mut dialled = Vec::new();
        for ms in 0..1_000 {
            for target in redial.take_due(at(ms)) {
                dialled.push((target, ms));
                assert_eq!(redial.is_persistent(&target), dialled.len() > 1);
            }
        }
        assert_eq!(dialled, [("a", 0), ("a", 100), ("a", 300), ("a", 600), ("a", 900)]);
        redial.connected(&"a");
        assert_eq!(redial.next_due(), None);
        redial.lost(&"a", at(700));
        assert_eq!(redial.next_due(), Some(at(1_000)), "it was of no use");
        redial.connected(&"a");
        redial.confirmed(&"a");
        redial.lost(&"a", at(1_000));
        assert_eq!(redial.next_due(), Some(at(1_100)));
        assert_eq!(redial.take_due(at(1_100)), ["a"]);
        assert_eq!(redial.next_due(), Some(at(1_200)));
        redial.all_lost(at(1_150));
        assert_eq!(redial.take_due(at(1_250)), ["a", "b"]);
        redial.connected(&"b");
        assert!(redial.wants(&"a") && !redial.wants(&"b"));
        redial.hurry(at(1_260));
        assert_eq!(redial.take_due(at(1_260)), ["a"]);
        redial.set_targets(["b", "c", "d"], at(2_000), |target| *target == "c");
        assert!(!redial.wants(&"a") && !redial.wants(&"b") && !redial.wants(&"c"));
        assert_eq!(redial.take_due(at(2_000)), ["d"]);
        redial.lost(&"c", at(2_000));
        assert_eq!(redial.take_due(at(2_100)), ["c", "d"]);
    }
}
