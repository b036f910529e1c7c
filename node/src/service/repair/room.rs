//! Whether the disk has room for what is missing: when it had none, it is tried again, less and less
//! often.

use std::time::Duration;

use tokio::time::Instant;

/// Whether the disk has room, as far as the last attempt has shown.
#[derive(Debug)]
pub(super) struct Room {
    retry_min: Duration,
    retry_max: Duration,
    /// Attempts that found none, and when to try again.
    full: Option<(u32, Instant)>,
}

impl Room {
    pub(super) const fn new(retry_min: Duration, retry_max: Duration) -> Self {
        Self { retry_min, retry_max, full: None }
    }

    /// There was none. Says so once.
    pub(super) fn none(&mut self, now: Instant) {
        let attempts = self.full.map_or(0, |(attempts, _)| attempts);
        if attempts == 0 {
            tracing::warn!("the disk is full: what is missing here waits until there is room");
        }
        let wait = self.retry_min.saturating_mul(1 << attempts.min(16)).min(self.retry_max);
        self.full = Some((attempts.saturating_add(1), now + wait));
    }

    /// Something was kept.
    pub(super) fn some(&mut self) {
        if self.full.take().is_some() {
            tracing::info!("there is room again: repair goes on");
        }
    }

    /// Until when nothing is fetched, if the disk was full.
    pub(super) fn full_until(&self) -> Option<Instant> {
        self.full.map(|(_, until)| until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_full_disk_is_tried_less_and_less_often() {
        let (mut room, now) = (Room::new(SECOND, 3 * SECOND), Instant::now());
        assert_eq!(room.full_until(), None);
        for wait in [1, 2, 3, 3] {
            room.none(now);
            assert_eq!(room.full_until(), Some(now + wait * SECOND));
        }
        room.some();
        assert_eq!(room.full_until(), None);
        room.none(now);
        assert_eq!(room.full_until(), Some(now + SECOND));
    }
}
