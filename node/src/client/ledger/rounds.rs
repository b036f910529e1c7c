//! Rounds of questions for the newest header, shared by all who need it, and headers by gossip.
//!
//! One task runs at most one round at a time; whoever asks meanwhile gets its result. Within two
//! seconds of a round, or while the newest header is younger than that, no new one is started. A
//! header that gossip brings is verified, counts at once, and is passed on if it was new. One of a
//! later epoch can't be verified before that epoch's committee is known: it is the reason for a
//! round, so that a client that only listens follows the committees, too.

use std::time::Duration;

use floe_protocol::{
    keys::NodeId,
    ledger::Timestamp,
    light::{Freshness, FreshnessLimits, LightError, Newest, Progress, VerifiedHeader},
    message::{LedgerAnnouncement, LedgerRequest, LedgerResponse, LedgerTopic},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    LedgerError, NodeFault,
    asker::{Asker, Faults, HEDGE},
};
use crate::{client::joined, network::GossipMessage, service::ledger::wall_clock};

/// Questions that wait for the task.
const WAITING_MAX: usize = 256;
/// Rounds in a row that a change of the committee may spoil.
const SPOILT_MAX: usize = 64;
/// Rounds that gossip is the reason for are at least so far apart.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// What a round has found, and what was wrong with the nodes that gave no answer.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) newest: Newest,
    pub(super) answered: usize,
    pub(super) faults: Vec<(String, NodeFault)>,
    /// The root that is too old, if that is why nothing was found.
    too_old: Option<LightError>,
}

type Waiting = oneshot::Sender<Result<Found, LedgerError>>;

/// A handle to the task.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    waiting: mpsc::Sender<Waiting>,
}

impl Rounds {
    /// Starts the task, which ends when aborted or with the last handle.
    pub(super) fn start(
        asker: Asker,
        headers: mpsc::Receiver<GossipMessage>,
    ) -> (Self, AbortHandle) {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(run(asker, receiver, headers));
        (Self { waiting }, task.abort_handle())
    }

    /// The newest header, from a round that is not older than the limits allow.
    pub(super) async fn newest(&self) -> Result<Found, LedgerError> {
        let (reply, found) = oneshot::channel();
        self.waiting.send(reply).await.map_err(|_| LedgerError::Stopped)?;
        found.await.map_err(|_| LedgerError::Stopped)?
    }
}

async fn run(
    asker: Asker,
    mut asked: mpsc::Receiver<Waiting>,
    mut headers: mpsc::Receiver<GossipMessage>,
) {
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut rounds = JoinSet::new();
    let mut last: Option<Found> = None;
    let mut gossip = true;
    let mut begun = Instant::now();
    let mut follow_at: Option<Instant> = None;
    loop {
        tokio::select! {
            reply = asked.recv() => match reply {
                None => return,
                Some(reply) => match still_good(&asker, last.as_ref()) {
                    Some(found) => drop(reply.send(Ok(found))),
                    None => waiting.push(reply),
                },
            },
            Some(round) = rounds.join_next() => {
                let found: Found = joined(round);
                let found = with_known(&asker, found);
                for reply in waiting.drain(..) {
                    drop(reply.send(asker.check_fork().and_then(|()| found.trusted())));
                }
                last = Some(found);
            }
            message = headers.recv(), if gossip => match message {
                Some(message) => {
                    if on_header(&asker, message).await == Heard::LaterEpoch {
                        follow_at = follow_at.or(Some(begun + FOLLOW_INTERVAL));
                    }
                }
                None => gossip = false,
            },
            () = sleep_until(follow_at.unwrap_or(begun)), if follow_at.is_some() => {}
        }
        let follows = follow_at.is_some_and(|at| at <= Instant::now());
        if rounds.is_empty() && (follows || !waiting.is_empty()) {
            (begun, follow_at) = (Instant::now(), None);
            let asker = asker.clone();
            rounds.spawn(async move { round(&asker).await });
        } else if follows {
            // The running round follows.
            follow_at = None;
        }
    }
}

impl Found {
    fn trusted(&self) -> Result<Self, LedgerError> {
        match &self.too_old {
            Some(error) if self.newest.header.is_none() => Err(LedgerError::Trust(error.clone())),
            _ => Ok(self.clone()),
        }
    }
}

/// The result of the last round with what has come since.
fn with_known(asker: &Asker, mut found: Found) -> Found {
    let height = |header: &VerifiedHeader| header.header().height;
    let known = asker.keeper().view().newest;
    if known.as_ref().map(height) > found.newest.header.as_ref().map(height) {
        found.newest.header = known;
    }
    found
}

/// What to answer without a new round, if that is allowed.
fn still_good(asker: &Asker, last: Option<&Found>) -> Option<Found> {
    asker.check_fork().ok()?;
    let found = with_known(asker, last?.clone());
    let now = wall_clock();
    let young = |age_ms: u64| age_ms < FreshnessLimits::default().again_ms;
    let recent = found.newest.validity && !found.newest.may_ask_again(now);
    (recent || found.newest.age_ms(now).is_some_and(young)).then_some(found)
}

/// What a header from gossip was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Of an epoch whose committee is not known yet, or it says so.
    LaterEpoch,
    /// Whatever else.
    Other,
}

/// Verifies a header that gossip brought, and judges the message.
async fn on_header(asker: &Asker, message: GossipMessage) -> Heard {
    let GossipMessage { bytes, verdict, .. } = message;
    let announcement = LedgerAnnouncement::decode(LedgerTopic::Headers, &bytes);
    let Ok(LedgerAnnouncement::NewHeader(certified)) = announcement else {
        verdict.reject();
        return Heard::Other;
    };
    let height = certified.header.height;
    let known = asker.keeper().view().newest;
    if known.is_some_and(|known| known.header().height >= height) {
        verdict.ignore();
        return Heard::Other;
    }
    match asker.keeper().accept(*certified).await {
        Ok(Ok(_)) => verdict.accept(),
        // It cannot be judged before the hand-overs to its epoch.
        Ok(Err(LightError::Epoch { epoch, expected })) if epoch > expected => {
            verdict.ignore();
            return Heard::LaterEpoch;
        }
        Ok(Err(LightError::Epoch { .. } | LightError::TooOld { .. } | LightError::Fork(_)))
        | Err(_) => verdict.ignore(),
        Ok(Err(_)) => verdict.reject(),
    }
    Heard::Other
}

/// Asks until members that weigh more than all faulty ones have answered, or time is up.
async fn round(asker: &Asker) -> Found {
    for _ in 0..SPOILT_MAX {
        if let Some(found) = unspoilt_round(asker).await {
            return found;
        }
    }
    let now = wall_clock();
    ended(&fresh_at(asker, Timestamp::from_ms(0)), now, (0, &Faults::default()))
}

fn fresh_at(asker: &Asker, started: Timestamp) -> Freshness {
    Freshness::new(asker.keeper().view().committee, FreshnessLimits::default(), started)
}

/// A round; nothing if the committee changed meanwhile, so that other members have to answer.
async fn unspoilt_round(asker: &Asker) -> Option<Found> {
    let committee = asker.keeper().view().committee;
    let mut fresh = fresh_at(asker, wall_clock());
    let end = Instant::now() + Duration::from_millis(FreshnessLimits::default().deadline_ms);
    let mut candidates = asker.candidates().into_iter();
    let mut faults = Faults::default();
    let mut asked = FuturesUnordered::new();
    let weight = |node: &NodeId| committee.member(node).map_or(0, |member| member.weight());
    // Of those whose answer is there or on its way: enough is asked for when it is enough.
    let mut hoped = 0_u16;
    let mut hedge = Instant::now() + HEDGE;
    let mut answered = 0;
    loop {
        while (!committee.is_validity(hoped) || Instant::now() >= hedge)
            && let Some(node) = candidates.next()
        {
            hoped = hoped.saturating_add(weight(&node));
            hedge = Instant::now() + HEDGE;
            asked.push(async move { (node, tip(asker, node).await) });
        }
        tokio::select! {
            Some((node, answer)) = asked.next() => match answer {
                Ok(newest) => {
                    answered += 1;
                    fresh.answered(&node, newest);
                }
                Err(fault) => {
                    hoped = hoped.saturating_sub(weight(&node));
                    faults.add(node, fault);
                }
            },
            () = sleep_until(hedge.min(end)) => {}
        }
        if asker.keeper().view().committee.epoch() != committee.epoch() {
            return None;
        }
        let nobody_left = asked.is_empty() && candidates.len() == 0;
        let at_end = nobody_left || Instant::now() >= end;
        let now = if at_end { Timestamp::from_ms(u64::MAX) } else { wall_clock() };
        if at_end || matches!(fresh.progress(now), Progress::Done(_)) {
            return Some(ended(&fresh, now, (answered, &faults)));
        }
    }
}

fn ended(fresh: &Freshness, now: Timestamp, (answered, faults): (usize, &Faults)) -> Found {
    let Progress::Done(newest) = fresh.progress(now) else {
        unreachable!("its deadline has passed, or enough have answered")
    };
    Found {
        newest,
        answered: answered + faults.answered(),
        faults: faults.described(),
        too_old: faults.too_old(),
    }
}

/// The verified newest header of a node.
pub(super) async fn tip(asker: &Asker, node: NodeId) -> Result<Option<VerifiedHeader>, NodeFault> {
    match asker.ask(node, LedgerRequest::Tip).await? {
        LedgerResponse::Tip(None) => Ok(None),
        LedgerResponse::Tip(Some(certified)) => asker.accept(node, certified).await.map(Some),
        _ => Err(NodeFault::WrongAnswer),
    }
}
