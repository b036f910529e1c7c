//! Caps of bytes per second, shared by all streams of a direction.
//!
//! A kibibyte is one cell of the limiter: cells of a byte would last so few nanoseconds that
//! rounding them takes percents of the rate. The burst is one second's worth.

use std::{num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

const CELL_BYTES: u32 = 1 << 10;

/// A cap on one direction, or none.
#[derive(Clone, Debug, Default)]
pub(super) struct Throttle {
    limiter: Option<(Arc<DefaultDirectRateLimiter>, NonZeroU32)>,
}

impl Throttle {
    /// A throttle to so many bytes in a second.
    pub(super) fn new(bytes_per_second: Option<NonZeroU32>) -> Self {
        let limiter = bytes_per_second.map(|bytes| {
            let cells = NonZeroU32::new(bytes.get() / CELL_BYTES).unwrap_or(NonZeroU32::MIN);
            (Arc::new(RateLimiter::direct(Quota::per_second(cells))), cells)
        });
        Self { limiter }
    }

    /// Waits until `bytes` may pass.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some((limiter, burst)) = &self.limiter else {
            return;
        };
        let mut cells = u32::try_from(bytes.div_ceil(CELL_BYTES as usize)).unwrap_or(u32::MAX);
        while let Some(part) = NonZeroU32::new(cells.min(burst.get())) {
            let passed = limiter.until_n_ready(part).await;
            debug_assert!(passed.is_ok(), "a part never exceeds the burst");
            cells -= part.get();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn what_exceeds_the_burst_waits_and_the_rate_holds() {
        let throttle = Throttle::new(NonZeroU32::new(100 * CELL_BYTES));
        let start = Instant::now();
        throttle.pass(110 * CELL_BYTES as usize).await;
        assert!(start.elapsed() >= Duration::from_millis(95), "ten cells beyond the burst");
        Throttle::new(None).pass(usize::MAX).await;
    }
}
