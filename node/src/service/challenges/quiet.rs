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
    /// Whether it is not quiet now.
    pub(crate) fn is_over(&self) -> bool {
        *self.until.borrow() <= Instant::now()
    }

    /// Waits until it is over, or has been long enough.
    pub(crate) async fn over(mut self) {
        let latest = Instant::now() + self.longest;
        loop {
            let until = (*self.until.borrow_and_update()).min(latest);
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                changed = self.until.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_waits_for_the_window_and_never_longer_than_two() {
        let (teller, quiet) = channel(1_000);
        let start = Instant::now();
        let waited = || start.elapsed().as_millis();
        quiet.clone().over().await;
        assert_eq!((quiet.is_over(), waited()), (true, 0));
        teller.tell(start + Duration::from_millis(700));
        assert!(!quiet.is_over());
        quiet.clone().over().await;
        assert_eq!((quiet.is_over(), waited()), (true, 700));
        // Another round, and another, and another.
        teller.tell(start + Duration::from_millis(1_500));
        let waits = tokio::spawn(quiet.clone().over());
        tokio::task::yield_now().await;
        teller.tell(start + Duration::from_secs(60));
        waits.await.unwrap();
        assert_eq!((quiet.is_over(), waited()), (false, 2_700));
        let waits = tokio::spawn(quiet.over());
        drop(teller);
        waits.await.unwrap();
        assert_eq!(waited(), 2_700, "nobody tells any more");
    }
}
