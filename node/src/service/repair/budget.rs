//! What repair may hold in memory and take of the network, however much is missing.
//!
//! Every fetch takes a share of the [`Budget`] for the bytes that it may hold, before it asks, and
//! returns it when they are on disk or given up. The [`Throttle`] spreads what was received over
//! time, so that reads and writes of others find room.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// What a permit stands for.
const UNIT_BYTES: u64 = 1 << 10;

/// Bytes in flight. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// A part of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    units: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(bytes_max: u64) -> Self {
        // More is more than any machine's memory.
        let units_max = u32::try_from(bytes_max / UNIT_BYTES).unwrap_or(u32::MAX >> 3).max(1);
        let units_max = units_max.min(u32::MAX >> 3);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max }
    }

    /// Waits for room for so many bytes. What exceeds the whole budget gets all of it: such a
    /// fetch runs alone.
    pub(super) async fn take(&self, bytes: u64) -> Share {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let units = Arc::clone(&self.units).acquire_many_owned(units.min(self.units_max)).await;
        Share { units: units.ok() }
    }
}

impl Share {
    /// Returns what exceeds so many bytes.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let kept = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        if let Some(units) = &mut self.units {
            let excess = units.num_permits().saturating_sub(kept);
            drop(units.split(excess));
        }
    }
}

/// Bytes per second. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<NonZeroU64>,
    started: Instant,
    /// When all that was received so far has had its time, in nanoseconds since the start.
    free_at: Arc<AtomicU64>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, started: Instant::now(), free_at: Arc::default() }
    }

    /// How long these bytes should take, after those received before. Who asks waits by itself, and
    /// keeps at once what has come: a recovery goes on taking in what comes meanwhile.
    pub(super) fn wait_after_now(&self, bytes: u64) -> Duration {
        self.wait_after(bytes, self.started.elapsed())
    }

    /// How long to wait before more is asked for.
    pub(super) fn wait(&self) -> Duration {
        self.wait_after_now(0)
    }

    fn wait_after(&self, bytes: u64, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let free_after = |free_at: u64| Some(free_at.max(now).saturating_add(cost));
        let before = self.free_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free_after);
        let free_at = before.unwrap_or(now).max(now).saturating_add(cost);
        Duration::from_nanos(free_at - now)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn no_more_is_in_flight_than_the_budget_and_the_largest_fetch_runs_alone() {
        let budget = Budget::new(64 << 10);
        let (first, second) = (budget.take(32 << 10).await, budget.take(1).await);
        assert!(budget.take(32 << 10).now_or_never().is_none(), "31 KiB are left");
        drop(second);
        let third = budget.take(32 << 10).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop((first, third));
        let huge = budget.take(u64::MAX).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(huge);
        assert!(budget.take(1).now_or_never().is_some());
        let mut shrunk = budget.take(64 << 10).now_or_never().unwrap();
        shrunk.shrink(8 << 10);
        shrunk.shrink(9 << 10);
        let rest = budget.take(56 << 10).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none(), "8 KiB are still taken");
        drop((shrunk, rest));
        assert!(budget.take(64 << 10).now_or_never().is_some());
    }

    #[test]
    fn bytes_have_their_time_one_after_the_other() {
        let throttle = Throttle::new(NonZeroU64::new(1_000));
        let second = Duration::from_secs(1);
        assert_eq!(throttle.wait_after(500, second), second / 2);
        assert_eq!(throttle.wait_after(500, second), second);
        assert_eq!(throttle.wait_after(0, second), second);
        assert_eq!(throttle.wait_after(500, 4 * second), second / 2, "what was not used is gone");
        assert_eq!(Throttle::new(None).wait_after(u64::MAX, second), Duration::ZERO);
    }
}
