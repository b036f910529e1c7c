//! One flush for all who wait for one.
//!
//! Many uploads end at once, each needs its pair on disk before it is answered, and a flush costs
//! about the same for one as for all. The first who asks leads; who asks while a flush runs waits
//! for the *next* one, because the running one may have begun before their writes.
//!
//! Invariants: a call returns `Ok` only if a flush that began after the call succeeded. A failure
//! is final, for everybody: after a failed sync the kernel may have dropped what it could not
//! write, and a second sync would succeed without it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::StorageError;

#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    finished: Condvar,
}

/// Flushes are numbered from 1 and never overlap.
#[derive(Debug, Default)]
struct State {
    started: u64,
    finished: u64,
    failed: bool,
}

impl GroupCommit {
    /// Returns after a flush that began after this call; `flush` runs if nobody else leads.
    pub(crate) fn flush(
        &self,
        flush: impl Fn() -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut state = self.lock();
        let awaited = state.started + 1;
        while state.finished < awaited && !state.failed {
            if state.started > state.finished {
                state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.started += 1;
            drop(state);
            let mut lead = Lead { group: self, failed: true };
            flush()?;
            lead.failed = false;
            drop(lead);
            state = self.lock();
        }
        if state.failed { Err(StorageError::Stopped) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flush however it ended, so that nobody waits for ever.
struct Lead<'a> {
    group: &'a GroupCommit,
    failed: bool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        state.finished = state.started;
        state.failed |= self.failed;
        self.group.finished.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn every_caller_gets_a_flush_that_began_after_its_write() {
        let group = GroupCommit::default();
        let (written, durable) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        group
                            .flush(|| {
                                let seen = written.load(Ordering::SeqCst);
                                thread::yield_now();
                                durable.fetch_max(seen, Ordering::SeqCst);
                                Ok(())
                            })
                            .unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
    }

    #[test]
    fn a_failure_is_final_and_wakes_everybody() {
        let group = GroupCommit::default();
        let failed = group.flush(|| Err(StorageError::Corrupt { table: "log" }));
        assert!(matches!(failed, Err(StorageError::Corrupt { .. })));
        let later = group.flush(|| Ok(()));
        assert!(matches!(later, Err(StorageError::Stopped)));
    }
}
