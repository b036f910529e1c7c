//! The sweep: dead registrations leave the state, a bounded number in each block.
//!
//! Nothing is written when an epoch ends: a registration is dead because its end has come. The
//! blocks after clear such records away, in the order of the index. So they do with the candidates
//! of past selections, which are in the index only.

use super::{Executor, blobs::registration_of};
use crate::ledger::{EndReason, IndexRange, OperationError, error::Failure};

/// Most registrations that one block sweeps. Each touches about four records; a thousand would
/// keep a slow node busy for longer than a block may take.
pub const SWEEP_MAX: usize = 250;

impl Executor<'_> {
    pub(in crate::ledger) fn sweep(&mut self) -> Result<(), Failure> {
        let stale = self.overlay.index(&IndexRange::ready_before(self.epoch()), SWEEP_MAX)?;
        for entry in stale {
            self.overlay.remove_index_bytes(entry);
        }
        for entry in self.overlay.index(&IndexRange::dead(self.epoch()), SWEEP_MAX)? {
            let id = registration_of(&entry);
            let registration = self.overlay.registration(&id)?;
            let registration = registration.ok_or(OperationError::NoRegistration)?;
            let reason = match registration.certified {
                Some(_) => EndReason::Expired,
                None => EndReason::Lapsed,
            };
            self.end_registration(id, &registration, reason)?;
        }
        Ok(())
    }
}
