//! Storage challenges at this node: shows that it holds what it must, and judges the others.
//!
//! [`Rounds`] decides everything; this service tells it what happens and does what it says.
//!
//! ```text
//!  committed blocks ──────────► ┌────────┐ ──► store: a chain, one symbol a step
//!  gossip: commitments ───────► │ Rounds │ ──► gossip: own commitment
//!  requests: transcript wanted, │        │ ──► requests: transcript wanted, acknowledgement
//!            acknowledgement ─► └────────┘ ──► ledger: certificate
//! ```
//!
//! The window counts from when a block is committed, so blocks come first, then what this node reads
//! for its own chain; what others ask comes last. A chain is read on one blocking thread from its
//! first step to its last, since on a busy machine each change of threads costs more than a read. And
//! a commitment came when the network had it, however long it has waited here; transcripts,
//! acknowledgements and certificates are computed on threads of lower priority, for which there is
//! time enough.
//!
//! Invariants: what a stranger sends costs a look, a member's commitment the same, its
//! transcript one judgement, or as many as it is asked if it builds upon a proof of inconsistency that
//! is not known here; no more is on its way than [`Rounds`] asks for, which does not grow
//! with what others send. A node that has missed blocks drops its open rounds: it can neither time
//! nor judge in them any more. Nothing here is written down: a node restarted in a round misses it,
//! and is silent on the others. Deliberately not here: what counts and when, and the score, which is
//! the ledger's.

mod acts;
mod commitments;
mod inconsistent;
mod quiet;
mod reader;
mod record;
mod requests;
mod settled;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use floe_protocol::{
    blob::BlobId,
    challenge::{
        Outcome, RoundConfig, RoundInput, RoundOutput, RoundOutputs, Rounds, Score, Sight,
    },
    index::{ChallengeRound, Height},
    keys::{ChainId, NodeId},
    ledger::{Event, State},
    message::{Miss, Refusal, Request, Response},
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

pub use self::reader::SymbolSource;
pub(crate) use self::{
    inconsistent::Inconsistent, quiet::Quiet, reader::Reader, record::Record, requests::Requests,
};
use self::{quiet::Teller, record::Log, requests::Asked, settled::Settled};
use super::{
    background::Background,
    ledger::{CommittedBlock, Ledger},
    on_ended,
};
use crate::{
    key_file::NodeKeys,
    network::{AnnounceError, GossipMessage, InboundRequest, Network},
};

/// Threads for what there is time for.
const THREADS: usize = 2;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) network: Network,
    pub(crate) keys: NodeKeys,
    pub(crate) reader: Reader,
    pub(crate) commitments: mpsc::Receiver<GossipMessage>,
    pub(crate) inconsistent: Inconsistent,
    pub(crate) record: Record,
    pub(crate) cancel: CancellationToken,
}

/// What other services have of this one.
#[derive(Debug)]
pub(crate) struct Links {
    /// Where members' requests about rounds go.
    pub(crate) requests: Requests<InboundRequest>,
    /// Until when others have to wait for what they may not need.
    pub(crate) quiet: Quiet,
}

/// A service that is about to run.
#[derive(Debug)]
pub(crate) struct Challenges {
    args: Args,
    requests: mpsc::Receiver<Asked<InboundRequest>>,
    quiet: Teller,
}

impl Challenges {
    /// The service, and what others have of it.
    pub(crate) fn new(args: Args) -> (Self, Links) {
        let (sender, requests) = requests::channel();
        let (teller, quiet) = quiet::channel(window_ms(&args.ledger));
        (Self { args, requests, quiet: teller }, Links { requests: sender, quiet })
    }

    /// Runs until cancelled, or until network or ledger have stopped.
    pub(crate) async fn run(self) {
        let Self { args, mut requests, quiet } = self;
        let Args { ledger, network, keys, reader, mut commitments, .. } = args;
        let (inconsistent, record, cancel) = (args.inconsistent, args.record, args.cancel);
        let mut blocks = ledger.committed();
        let tools = Tools { ledger, network, keys, reader, inconsistent, record };
        let mut service = Service::new(tools, quiet);
        loop {
            let wake = service.wake_at();
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                block = blocks.recv() => match block {
                    Ok(block) => service.on_block(&block),
                    Err(RecvError::Lagged(blocks)) => service.on_missed(blocks),
                    Err(RecvError::Closed) => break,
                },
                Some(ended) = service.tasks.join_next() => match ended {
                    Ok(done) => service.on_done(done),
                    Err(error) => on_ended(Err(error)),
                },
                () = sleep_until(wake.into()) => service.on_tick(),
                message = commitments.recv() => match message {
                    Some(message) => service.on_message(message),
                    None => break,
                },
                request = requests.recv() => match request {
                    Some(asked) => service.on_request(asked.request),
                    None => break,
                },
            }
        }
    }
}

/// What the ledger says of a node in the running epoch.
fn score(state: &State, node: &NodeId) -> Score {
    let position = state.committee().position(node);
    position.map_or_else(Score::default, |position| state.challenges().score(position))
}

fn window_ms(ledger: &Ledger) -> u64 {
    ledger.state().borrow().parameters().ledger.challenges.window_ms
}

/// What the service works with.
#[derive(Debug)]
struct Tools {
    ledger: Ledger,
    network: Network,
    keys: NodeKeys,
    reader: Reader,
    inconsistent: Inconsistent,
    record: Record,
}

/// What a task has done.
#[derive(Debug)]
enum Done {
    /// Something for a round.
    Input(ChallengeRound, RoundInput),
    /// This node's commitment has not left it.
    NotSent(ChallengeRound, AnnounceError),
    /// These blobs had ended or were invalidated at this height at the latest.
    Settled(Height, BTreeSet<BlobId>),
    Nothing,
}

struct Service {
    tools: Tools,
    chain: ChainId,
    rounds: Rounds,
    /// What the machine's time counts from.
    started: Instant,
    /// The time that it was told last: it never goes back.
    now_ms: u64,
    tasks: JoinSet<Done>,
    /// For what there is time for.
    background: Background,
    quiet: Teller,
    log: Log,
    settled: Settled,
    /// When this node's seed of a round came.
    seeds: BTreeMap<ChallengeRound, u64>,
}

impl Service {
    fn new(tools: Tools, quiet: Teller) -> Self {
        let state = tools.ledger.state().borrow().clone();
        let (me, tip) = (tools.keys.node.public(), state.tip().height);
        let rules = &state.parameters().ledger;
        let (config, window_ms) = (RoundConfig::for_ledger(rules), rules.challenges.window_ms);
        tools.record.show(score(&state, &me));
        Self {
            chain: *state.chain(),
            rounds: Rounds::new(config, me, window_ms, (0, tip)),
            started: Instant::now(),
            now_ms: 0,
            tasks: JoinSet::new(),
            background: Background::start(THREADS),
            quiet,
            log: Log::default(),
            settled: Settled::default(),
            seeds: BTreeMap::new(),
            tools,
        }
    }

    fn me(&self) -> NodeId {
        self.tools.keys.node.public()
    }

    /// The machine's time at `instant`.
    fn ms(&self, instant: Instant) -> u64 {
        let elapsed = instant.saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// The machine's time when something happened that it is told of now.
    fn time_of(&mut self, instant: Instant) -> u64 {
        self.now_ms = self.now_ms.max(self.ms(instant));
        self.now_ms
    }

    fn now(&mut self) -> u64 {
        self.time_of(Instant::now())
    }

    fn wake_at(&self) -> Instant {
        self.started + Duration::from_millis(self.rounds.wake_at_ms())
    }

    fn on_tick(&mut self) {
        let now_ms = self.now();
        let outputs = self.rounds.tick(now_ms);
        self.act(outputs);
    }

    fn on_block(&mut self, committed: &CommittedBlock) {
        let now_ms = self.time_of(committed.at);
        let header = &committed.block.header;
        let mut outputs = RoundOutputs::new();
        for event in committed.events.iter() {
            outputs.extend(self.on_event((now_ms, header.height), event));
        }
        let later_certified_ms = committed.known_since.map(|since| self.ms(since));
        let highest = self.tools.ledger.highest();
        let behind_heights = highest.get().saturating_sub(header.height.get());
        let sight = Sight { by_sync: committed.by_sync, later_certified_ms, behind_heights };
        let opened = committed.opened.clone();
        outputs.extend(self.rounds.committed(now_ms, header, sight, opened));
        self.act(outputs);
        let quiet_until_ms = self.rounds.quiet_until_ms();
        let quiet_until = self.started + Duration::from_millis(quiet_until_ms);
        self.quiet.tell(quiet_until.into());
        let oldest = self.rounds.iter().map(|round| round.universe().round).min();
        self.tools.inconsistent.forget(&self.settled.take_over(oldest, header.height));
    }

    fn on_event(&mut self, (now_ms, height): (u64, Height), event: &Event) -> RoundOutputs {
        match event {
            Event::ChallengePassed { round, node } => {
                let input = RoundInput::Certified { node: *node };
                return self.rounds.handle(now_ms, *round, input);
            }
            Event::ChallengeClosed { round, outcomes } => {
                self.on_closed(&self.show_score(), (*round, outcomes));
                self.look_for_settled();
            }
            Event::EpochChanged { .. } => {
                self.drop_all();
                self.show_score();
            }
            Event::BlobInvalidated { blob } => {
                self.tools.inconsistent.add(*blob);
                self.settled.add(*blob, height);
            }
            Event::BlobEnded { blob } => self.settled.add(*blob, height),
            _ => {}
        }
        RoundOutputs::new()
    }

    /// The ledger, of which the node's score is shown.
    fn show_score(&self) -> Arc<State> {
        let state = self.tools.ledger.state().borrow().clone();
        self.tools.record.show(score(&state, &self.me()));
        state
    }

    /// The ledger has closed a round.
    fn on_closed(&mut self, state: &State, (round, outcomes): (ChallengeRound, &[Outcome])) {
        let (me, open) = (self.me(), self.rounds.get(round));
        let committee = open.map_or(state.committee(), |open| &open.universe().committee);
        let position = committee.position(&me);
        self.log.closed(&self.tools.record, (round, outcomes), (&me, position), open);
        self.drop_round(round);
    }

    /// Blocks have passed this service by: seeds and certificates of its rounds may be among them.
    /// What became of those that the ledger has closed lately is told while it is known why.
    fn on_missed(&mut self, blocks: u64) {
        tracing::warn!(blocks, "the challenges service was too slow: its open rounds are dropped");
        let state = self.show_score();
        for closed in &state.challenges().closed {
            if self.rounds.get(closed.round).is_some() {
                self.on_closed(&state, (closed.round, &closed.outcomes));
            }
        }
        self.drop_all();
    }

    fn drop_all(&mut self) {
        let open: Vec<_> = self.rounds.iter().map(|round| round.universe().round).collect();
        for round in open {
            self.drop_round(round);
        }
    }

    /// The round is over, whatever it came to.
    fn drop_round(&mut self, round: ChallengeRound) {
        self.rounds.close(round);
        self.log.forget(round);
        self.seeds.remove(&round);
    }

    fn on_done(&mut self, done: Done) {
        let now_ms = self.now();
        match done {
            Done::Input(round, input) => {
                let outputs = self.rounds.handle(now_ms, round, input);
                self.act(outputs);
            }
            Done::NotSent(round, error) => self.log.failed(round, Miss::NotSent, error),
            Done::Settled(height, blobs) => {
                blobs.into_iter().for_each(|blob| self.settled.add(blob, height));
            }
            Done::Nothing => {}
        }
    }

    fn on_request(&mut self, InboundRequest { peer, request, reply }: InboundRequest) {
        let now_ms = self.now();
        let (round, input) = match request {
            Request::ReadTranscript { round } => (round, RoundInput::Wanted { member: peer }),
            Request::Acknowledge { round, signature } => {
                self.tools.record.metrics.acknowledgements.inc();
                (round, RoundInput::Acknowledged { member: peer, signature })
            }
            // Others are none of this service's.
            _ => return reply.reply(Response::Refused(Refusal::Unavailable)),
        };
        let mut answer = Response::Taken;
        let mut outputs = self.rounds.handle(now_ms, round, input);
        outputs.retain_mut(|(_, output)| match output {
            RoundOutput::Answer { member, transcript } if *member == peer => {
                answer = Response::Transcript(transcript.take());
                false
            }
            _ => true,
        });
        if matches!(answer, Response::Transcript(Some(_))) {
            self.tools.record.metrics.transcripts_sent.inc();
        }
        reply.reply(answer);
        self.act(outputs);
    }
}
