//! Who may ask this node to help with repair as a member: the members of the running committee and
//! of the next one, once it is selected.
//!
//! The running committee is in the ledger's state; the next one is a record, read now and then
//! beside the requests, so that asking costs nothing.

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    committee::Committee,
    keys::NodeId,
    ledger::{ReadError, State},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use crate::service::{blocking, ledger::Ledger};

/// Between two looks at the record.
const INTERVAL: Duration = Duration::from_millis(500);

/// The members. Clones see the same.
#[derive(Clone, Debug)]
pub(super) struct Members {
    state: watch::Receiver<Arc<State>>,
    next: watch::Receiver<Option<Arc<Committee>>>,
}

impl Members {
    /// The members, and what keeps them up to date.
    pub(super) fn new(ledger: Ledger, faults: Faults) -> (Self, Follower) {
        let (sender, next) = watch::channel(None);
        (Self { state: ledger.state(), next }, Follower { ledger, faults, next: sender })
    }

    /// Whether `node` is in the running committee or the next.
    pub(super) fn has(&self, node: &NodeId) -> bool {
        let running = self.state.borrow().committee().member(node).is_some();
        running || self.next.borrow().as_ref().is_some_and(|next| next.member(node).is_some())
    }
}

/// Follows the record of the next committee.
#[derive(Debug)]
pub(super) struct Follower {
    ledger: Ledger,
    faults: Faults,
    next: watch::Sender<Option<Arc<Committee>>>,
}

impl Follower {
    /// Runs until `over` is cancelled.
    pub(super) async fn run(self, over: CancellationToken) {
        let mut states = self.ledger.state();
        loop {
            let state = states.borrow_and_update().clone();
            let ledger = self.ledger.clone();
            let found = blocking(move || next_committee(&ledger, &state)).await;
            match found {
                Some(Ok(next)) => drop(self.next.send_replace(next.map(Arc::new))),
                // Overtaken: the next look is at a newer state.
                Some(Err(ReadError::NoSuchVersion { .. })) => {}
                Some(Err(error)) => {
                    self.faults.ledger(&error);
                    return;
                }
                None => return,
            }
            let change = async {
                sleep(INTERVAL).await;
                states.changed().await
            };
            if !matches!(over.run_until_cancelled(change).await, Some(Ok(()))) {
                return;
            }
        }
    }
}

/// The committee of the epoch after the running one, once it is selected.
pub(super) fn next_committee(
    ledger: &Ledger,
    state: &State,
) -> Result<Option<Committee>, ReadError> {
    state.committee_of(ledger.store().as_ref(), state.summary().epoch.plus(1))
}
