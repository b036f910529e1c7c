//! Readiness: once in each epoch the node says on the ledger that it follows it.
//!
//! Without this report a node is not selected for the next committee. It names the newest block
//! that everybody at this height can look up, the tip's parent. So it is made only while this node
//! is where the others are, and made anew with a newer block if it was not committed: the first one
//! may have reached nobody, or have been too old when it did.
//! Every registered node reports, member or not. One that is jailed does not: it can't be selected.
//! Nor does one whose clock is wrong, which cannot know where it is; that is told in the log.

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    index::{Epoch, Height},
    keys::KeyPair,
    ledger::{Node, NodeReady, ReadError, State, SystemOperation, Timestamp, Tip},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{blocking, judging::by_newest, ledger::Ledger, pace::Pace};
use crate::{clock::Clock, network::Network};

/// How often the node looks whether a report is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a report may take to be committed before a newer one is made.
const RETRY: Duration = Duration::from_secs(4);
/// How old the last block may be, by this node's clock, for it to be where the others are.
const TIP_AGE_MAX_MS: u64 = 20_000;
/// How old it may be for something to be removed: blocks come every ten seconds at least.
const REMOVAL_AGE_MAX_MS: u64 = 60_000;
/// For how long blocks must come live, and look as if they did not, before the clock is to blame.
const WRONG_MIN: Duration = Duration::from_secs(30);
/// How often that is told.
const WARNING_INTERVAL: Duration = Duration::from_secs(600);

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

/// Whether something may be removed because of the state with this tip: no later block has been
/// heard of, and by this node's clock it is neither old nor of the future. A clock that is behind,
/// as after a start without any, would take every state for young.
pub(crate) fn is_recent(tip: &Tip, missing: Height, now: Timestamp) -> bool {
    missing <= tip.height
        && now.ms_since(tip.time) <= REMOVAL_AGE_MAX_MS
        && tip.time.ms_since(now) <= TIP_AGE_MAX_MS
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
    let mut watch = ClockWatch::new(Instant::now());
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let state = ledger.state().borrow().clone();
        let connected = !network.peers().borrow().connected.is_empty();
        let missing = *ledger.missing().borrow();
        let follows = missing <= state.tip().height;
        if let Some(wrong) = watch.look(state.tip(), (follows, clock.now()), Instant::now()) {
            tracing::warn!("{wrong}: set it, or the node is not selected again");
        }
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

/// How wrong the node's clock is, by the ledger's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum WrongClock {
    #[error("this machine's clock is {} s ahead of the network's", ms / 1_000)]
    Ahead { ms: u64 },
    #[error("this machine's clock is {} s behind the network's", ms / 1_000)]
    Behind { ms: u64 },
}

/// Holds the clock against blocks that come as they are made.
#[derive(Debug)]
struct ClockWatch {
    pace: Pace,
    height: Height,
    /// Since when every block that came was too old or too young.
    wrong: Option<Instant>,
    told: Option<Instant>,
}

impl ClockWatch {
    const fn new(now: Instant) -> Self {
        Self { pace: Pace::new(now), height: Height::new(0), wrong: None, told: None }
    }

    /// What is wrong, if it is to be told now. The node follows the ledger, as far as it knows, and
    /// its clock shows a time.
    fn look(
        &mut self,
        tip: &Tip,
        (follows, shown): (bool, Timestamp),
        now: Instant,
    ) -> Option<WrongClock> {
        if tip.height == self.height {
            return None;
        }
        self.height = tip.height;
        self.pace.block(tip.time, now);
        let (ahead, behind) = (shown.ms_since(tip.time), tip.time.ms_since(shown));
        let wrong = if ahead > TIP_AGE_MAX_MS {
            Some(WrongClock::Ahead { ms: ahead })
        } else if behind > TIP_AGE_MAX_MS {
            Some(WrongClock::Behind { ms: behind })
        } else {
            None
        };
        let wrong = wrong.filter(|_| follows && self.pace.is_steady(now));
        self.wrong = wrong.map(|_| self.wrong.unwrap_or(now));
        let long = self.wrong.is_some_and(|since| now - since >= WRONG_MIN);
        let silent = self.told.is_none_or(|told| now - told >= WARNING_INTERVAL);
        let wrong = wrong.filter(|_| long && silent)?;
        self.told = Some(now);
        Some(wrong)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a clock that is so far ahead while so many blocks come, one a second.
    fn told(
        watch: &mut ClockWatch,
        (tip, now): (&mut Tip, &mut Instant),
        ahead_ms: i64,
    ) -> Vec<WrongClock> {
        let mut told = Vec::new();
        for _ in 0..60 {
            tip.height = tip.height.next();
            tip.time = tip.time.plus_ms(1_000);
            *now += Duration::from_secs(1);
            let shown = Timestamp::from_ms(tip.time.ms().saturating_add_signed(ahead_ms));
            told.extend(watch.look(tip, (true, shown), *now));
        }
        told
    }

    #[test]
    fn a_state_is_recent_by_a_clock_that_may_be_right_and_if_nothing_later_is_known() {
        let genesis = floe_protocol::test_support::genesis(4, 7);
        let mut tip = *floe_protocol::test_support::Chain::new(&genesis).state.tip();
        (tip.height, tip.time) = (Height::new(9), Timestamp::from_ms(1_700_000_000_000));
        let recent = |ahead_ms: i64, missing| {
            let now = Timestamp::from_ms(tip.time.ms().saturating_add_signed(ahead_ms));
            is_recent(&tip, Height::new(missing), now)
        };
        for (ahead_ms, expected) in [
            (0, true),
            (60_000, true),
            (60_001, false),
            (-20_000, true),
            (-20_001, false),
            (-1_700_000_000_000, false),
        ] {
            assert_eq!(recent(ahead_ms, 9), expected, "{ahead_ms} ms");
        }
        assert!(recent(0, 0));
        assert!(!recent(0, 10), "a later block is known");
    }

    #[tokio::test]
    async fn a_clock_is_to_blame_only_for_blocks_that_come_live() {
        let genesis = floe_protocol::test_support::genesis(4, 7);
        let mut tip = *floe_protocol::test_support::Chain::new(&genesis).state.tip();
        tip.time = Timestamp::from_ms(1_700_000_000_000);
        let mut now = Instant::now();
        let mut watch = ClockWatch::new(now);
        assert_eq!(told(&mut watch, (&mut tip, &mut now), 19_000), []);
        let ahead = told(&mut watch, (&mut tip, &mut now), 25_000);
        assert_eq!(ahead, [WrongClock::Ahead { ms: 25_000 }], "once");
        assert_eq!(ahead[0].to_string(), "this machine's clock is 25 s ahead of the network's");
        let mut other = ClockWatch::new(now);
        let behind = told(&mut other, (&mut tip, &mut now), -3_600_000);
        assert_eq!(behind, [WrongClock::Behind { ms: 3_600_000 }]);
        // A node that catches up: blocks are old, and ten of them come in a second.
        let mut late = ClockWatch::new(now);
        let shown = tip.time.plus_ms(3_600_000);
        for _ in 0..600 {
            tip.height = tip.height.next();
            tip.time = tip.time.plus_ms(1_000);
            now += Duration::from_millis(100);
            assert_eq!(late.look(&tip, (true, shown), now), None);
        }
    }
}
