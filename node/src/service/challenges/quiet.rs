//! Quiet while nodes are being challenged: for the length of a window no symbols and no secondary
//! slivers are handed out, so that who lacks what it is asked for cannot fetch it in time. Reads
//! need primary slivers only, and are served as ever.
//!
//! Whoever asks for the rest waits where he is, for two windows at most: an answer that takes so
//! long is not late for those who repair, while `Busy` would have them wait as long as that and more.
//!
//! Invariant: nobody is kept waiting longer than that, whatever rounds are opened meanwhile.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Until when it is quiet, for those who tell. Clones tell the same.
#[derive(Clone, Debug)]
pub(super) struct Teller(watch::Sender<Instant>);

/// Until when it is quiet, for those who heed it.
#[derive(Clone, Debug)]
pub(crate) struct Quiet {
    until: watch::Receiver<Instant>,
    longest: Duration,
}

/// Both sides, where windows have this length.
pub(super) fn channel(window_ms: u64) -> (Teller, Quiet) {
    let (sender, until) = watch::channel(Instant::now());
    let longest = Duration::from_millis(window_ms.saturating_mul(2));
    (Teller(sender), Quiet { until, longest })
}

impl Teller {
    /// It is quiet until then.
    pub(super) fn tell(&self, until: Instant) {
        self.0.send_if_modified(|known| std::mem::replace(known, until) != until);
    }
}

impl Quiet {
    /// How long it is going to be quiet, as far as is known.
    pub(crate) fn left(&self) -> Duration {
        let until = *self.until.borrow();
        until.saturating_duration_since(Instant::now()).min(self.longest)
    }

    /// Waits until it is over, or has been long enough, or nobody tells any more: the node stops.
    pub(crate) async fn over(&self) {
        let latest = Instant::now() + self.longest;
        let mut until = self.until.clone();
        loop {
            let over = (*until.borrow_and_update()).min(latest);
            if over <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(over) => {}
                told = until.changed() => if told.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_waits_for_the_window_and_never_longer_than_two() {
        let (teller, quiet) = channel(40);
        let start = Instant::now();
        quiet.over().await;
        assert_eq!(quiet.left(), Duration::ZERO);
        teller.tell(start + Duration::from_millis(30));
        quiet.over().await;
        assert!(start.elapsed() >= Duration::from_millis(30));
        // Another round, and another, and another.
        let asked = Instant::now();
        teller.tell(asked + Duration::from_secs(3_600));
        assert!(quiet.left() > Duration::from_millis(40));
        quiet.over().await;
        assert!(asked.elapsed() >= Duration::from_millis(80));
        assert!(asked.elapsed() < Duration::from_secs(3_600));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_node_that_stops() {
        let (teller, quiet) = channel(3_600_000);
        teller.tell(Instant::now() + Duration::from_secs(3_600));
        let waits = tokio::spawn(async move { quiet.over().await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(teller);
        waits.await.unwrap();
    }
}
