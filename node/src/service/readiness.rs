//! Readiness: once in each epoch the node says on the ledger that it follows it.
//!
//! Without this report a node is not selected for the next committee. It names the newest block
//! that everybody at this height can look up, the tip's parent. So it is made only while this node
//! is where the others are, and made anew with a newer block if it was not committed: the first one
//! may have reached nobody, or have been too old when it did.
//! Every registered node reports, member or not. One that is jailed does not: it can't be selected.

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    index::{Epoch, Height},
    keys::KeyPair,
    ledger::{Node, NodeReady, ReadError, State, SystemOperation, Timestamp},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{blocking, judging::by_newest, ledger::Ledger};
use crate::{clock::Clock, network::Network};

/// How often the node looks whether a report is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a report may take to be committed before a newer one is made.
const RETRY: Duration = Duration::from_secs(4);
/// How old the last block may be, by this node's clock, for it to be where the others are.
const TIP_AGE_MAX_MS: u64 = 20_000;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) network: Network,
    pub(crate) key: KeyPair,
    pub(crate) clock: Clock,
    pub(crate) cancel: CancellationToken,
}

/// Whether a state is the newest there is, as far as this node can know: no later block has been
/// heard of, and its own is young.
pub(crate) fn is_current(state: &State, missing: Height, now: Timestamp) -> bool {
    let tip = state.tip();
    tip.height > Height::new(0) && missing <= tip.height && now.ms_since(tip.time) <= TIP_AGE_MAX_MS
}

/// Runs until cancelled, or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let cancel = args.cancel.clone();
    tokio::select! {
        () = cancel.cancelled() => {}
        () = report(args) => {}
    }
}

async fn report(args: Args) {
    let Args { ledger, network, key, clock, .. } = args;
    let mut sent: Option<(Epoch, Height, Instant)> = None;
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let state = ledger.state().borrow().clone();
        let connected = !network.peers().borrow().connected.is_empty();
        let missing = *ledger.missing().borrow();
        let waits = sent.is_some_and(|(epoch, height, at)| {
            epoch == state.summary().epoch && (at.elapsed() < RETRY || height >= state.tip().height)
        });
        if waits || !connected || !is_current(&state, missing, clock.now()) {
            continue;
        }
        let (reader, own) = (ledger.clone(), key.clone());
        let operation = match blocking(move || operation(&reader, &own)).await {
            Some(Ok(Some(operation))) => operation,
            Some(Ok(None) | Err(ReadError::NoSuchVersion { .. })) => continue,
            Some(Err(error)) => {
                tracing::error!(%error, "the ledger's store has failed: the node stops");
                return;
            }
            None => return,
        };
        let (epoch, height) = (operation.epoch, operation.height);
        tracing::debug!(%epoch, %height, "reporting that this node follows the ledger");
        let operation = SystemOperation::NodeReady { report: operation };
        match ledger.insert_system(operation, true).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "report not taken"),
            Err(_) => return,
        }
        sent = Some((epoch, height, Instant::now()));
    }
}

/// The report that the ledger lacks. Blocks.
fn operation(ledger: &Ledger, key: &KeyPair) -> Result<Option<NodeReady>, ReadError> {
    let newest = || Arc::clone(&ledger.state().borrow());
    by_newest(newest, |state| {
        let node = state.node(ledger.store().as_ref(), &key.public())?;
        let epoch = state.summary().epoch;
        if !node.is_some_and(|node| is_due(&node, epoch)) {
            return Ok(None);
        }
        let tip = state.tip().height;
        let header = ledger.store().header(tip).map_err(|error| ReadError::Failed(error.into()))?;
        let parent = header.map(|header| header.parent);
        let Some((height, block)) = tip.get().checked_sub(1).map(Height::new).zip(parent) else {
            return Ok(None);
        };
        let report = NodeReady::new(state.chain(), key, epoch, (height, block));
        let operation = SystemOperation::NodeReady { report };
        let judged = state.check_system(ledger.store().as_ref(), &operation)?;
        if let Err(error) = &judged {
            tracing::debug!(%epoch, %height, %error, "the report would be refused now");
        }
        Ok(judged.is_ok().then_some(report))
    })
}

/// Whether the ledger lacks the report of a registered node.
fn is_due(node: &Node, epoch: Epoch) -> bool {
    node.jailed.is_none() && node.ready != Some(epoch)
}
