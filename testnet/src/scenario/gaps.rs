//! How long blocks keep a client waiting.

use std::time::{Duration, Instant};

use floe_node::Client;
use tokio::{sync::watch, task::AbortHandle};

/// Watches it. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Gaps {
    longest: watch::Receiver<(Duration, Instant)>,
    task: AbortHandle,
}

impl Gaps {
    pub(super) fn watch(client: Client) -> Self {
        let (sender, longest) = watch::channel((Duration::ZERO, Instant::now()));
        let task = tokio::spawn(async move {
            let ledger = client.ledger();
            loop {
                let known = ledger.known_header().map_or(0, |header| header.header().height.get());
                let next = floe_protocol::index::Height::new(known.saturating_add(1));
                if ledger.reached(next).await.is_err() {
                    return;
                }
                sender.send_modify(|(longest, last)| {
                    *longest = (*longest).max(last.elapsed());
                    *last = Instant::now();
                });
            }
        });
        Self { longest, task: task.abort_handle() }
    }

    /// The longest time so far, that since the last block included.
    pub(super) fn longest(&self) -> Duration {
        let (longest, last) = *self.longest.borrow();
        longest.max(last.elapsed())
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.task.abort();
    }
}
