//! Storage challenges at this node: shows that it holds what it must, and judges the others.
//!
//! [`Rounds`] decides everything; this service tells it what happens and does what it says.
//!
//! ```text
//!  committed blocks ──────────► ┌────────┐ ──► store: one symbol a step
//!  gossip: commitments ───────► │ Rounds │ ──► gossip: own commitment
//!  requests: transcript wanted, │        │ ──► requests: transcript wanted, acknowledgement
//!            acknowledgement ─► └────────┘ ──► ledger: certificate
//! ```
//!
//! The window counts from when a block is committed, so blocks come first, then what this node reads
//! for its own chain; what others ask comes last. A chain is read on one blocking thread from its
//! first step to its last, since on a busy machine each change of threads costs more than a read. And
//! a commitment came when the network had it, however long it has waited here; transcripts, acknowledgements and certificates are computed on threads of lower
//! priority, for which there is time enough.
//!
//! Invariants: what a stranger sends costs a look, a member's commitment one signature check, its
//! transcript one judgement; no more is on its way than [`Rounds`] asks for, which does not grow
//! with what others send. A node that has missed blocks drops its open rounds: it can neither time
//! nor judge in them any more. Nothing here is written down: a node restarted in a round misses it,
//! and is silent on the others. Deliberately not here: what counts and when, and the score, which is
//! the ledger's.

mod commitments;
mod inconsistent;
mod quiet;
mod reader;
mod record;
mod settled;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use floe_protocol::{
    challenge::{
        ChallengeFact, Commitment, Place, Round, RoundConfig, RoundInput, RoundOutput,
        RoundOutputs, Rounds, Score, Sight, StepProof, Walk,
    },
    committee::CommitteeFact,
    index::{ChallengeRound, Height},
    keys::{ChainId, NodeId},
    ledger::{Event, State, SystemOperation},
    message::{Refusal, Request, Response},
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    commitments::{Claim, is_passed_on, sift, verify},
    quiet::Teller,
    record::Log,
    settled::Settled,
};
pub(crate) use self::{inconsistent::Inconsistent, quiet::Quiet, reader::Reader, record::Record};
use super::{
    background::Background,
    blocking,
    ledger::{CommittedBlock, Ledger},
    on_ended,
};
use crate::{
    key_file::NodeKeys,
    network::{GossipMessage, InboundRequest, Network, Topic},
};

/// Requests of members that wait for the service.
const REQUESTS_MAX: usize = 256;
/// Commitments that are verified together.
const TOGETHER_MAX: usize = 32;
/// Threads for what there is time for.
const THREADS: usize = 2;
/// How long a node may take to answer at most; rounds may give it less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often an acknowledgement is handed in until it is taken, and the wait in between.
const HAND_IN_ATTEMPTS: u32 = 5;
const HAND_IN_WAIT: Duration = Duration::from_secs(1);

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
    pub(crate) requests: mpsc::Sender<InboundRequest>,
    /// Until when others have to wait for what they may not need.
    pub(crate) quiet: Quiet,
}

/// A service that is about to run.
#[derive(Debug)]
pub(crate) struct Challenges {
    args: Args,
    requests: mpsc::Receiver<InboundRequest>,
    quiet: Teller,
}

impl Challenges {
    /// The service, and what others have of it.
    pub(crate) fn new(args: Args) -> (Self, Links) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
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
            let mut messages = Vec::new();
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
                count = commitments.recv_many(&mut messages, TOGETHER_MAX),
                    if !service.is_verifying =>
                {
                    if count == 0 {
                        break;
                    }
                    service.on_messages(messages);
                }
                request = requests.recv() => match request {
                    Some(request) => service.on_request(request),
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

/// What is read at the places of a chain, until there is something wrong. Blocks.
fn read_on(mut walk: Walk, read: impl Fn(&Place) -> Option<StepProof>) -> Vec<Option<StepProof>> {
    let mut proofs = Vec::new();
    while let Some(place) = walk.place() {
        let proof = read(&place);
        let is_right = proof.as_ref().is_some_and(|proof| walk.take(proof).is_ok());
        proofs.push(proof);
        if !is_right {
            break;
        }
    }
    proofs
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
    /// What is at the places of a chain, from this step on.
    Walked(ChallengeRound, u16, Vec<Option<StepProof>>),
    /// Something for a round.
    Input(ChallengeRound, RoundInput),
    /// These signatures are true, or false.
    Verified(Vec<(Claim, bool)>),
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
    /// Signatures of commitments are being verified.
    is_verifying: bool,
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
        let window_ms = state.parameters().ledger.challenges.window_ms;
        tools.record.show(score(&state, &me));
        Self {
            chain: *state.chain(),
            rounds: Rounds::new(RoundConfig::default(), me, window_ms, (0, tip)),
            started: Instant::now(),
            now_ms: 0,
            tasks: JoinSet::new(),
            background: Background::start(THREADS),
            is_verifying: false,
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
        let sight = Sight { by_sync: committed.by_sync, later_certified_ms };
        let opened = committed.opened.clone();
        outputs.extend(self.rounds.committed(now_ms, header, sight, opened));
        self.act(outputs);
        let quiet_until_ms = self.rounds.quiet_until_ms();
        let quiet_until = self.started + Duration::from_millis(quiet_until_ms);
        self.quiet.tell(quiet_until.into());
        let oldest = self.rounds.iter().map(|round| round.universe().round).min();
        self.tools.inconsistent.forget(&self.settled.take_over(oldest));
    }

    fn on_event(&mut self, (now_ms, height): (u64, Height), event: &Event) -> RoundOutputs {
        match event {
            Event::ChallengePassed { round, node } => {
                let input = RoundInput::Certified { node: *node };
                return self.rounds.handle(now_ms, *round, input);
            }
            Event::ChallengeClosed { round, outcomes } => {
                let me = self.me();
                let state = self.tools.ledger.state().borrow().clone();
                let open = self.rounds.get(*round);
                let committee = open.map_or(state.committee(), |open| &open.universe().committee);
                let position = committee.position(&me);
                self.tools.record.show(score(&state, &me));
                let of = (*round, outcomes.as_slice());
                self.log.closed(&self.tools.record, of, (&me, position), open);
                self.drop_round(*round);
            }
            Event::EpochChanged { .. } => {
                self.drop_all();
                let state = self.tools.ledger.state().borrow().clone();
                self.tools.record.show(score(&state, &self.me()));
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

    /// Blocks have passed this service by: seeds and certificates of its rounds may be among them.
    fn on_missed(&mut self, blocks: u64) {
        tracing::warn!(blocks, "the challenges service was too slow: its open rounds are dropped");
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
        self.rounds.close(round, Vec::new());
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
            Done::Walked(round, first, proofs) => self.on_walked(round, first, proofs),
            Done::Verified(claims) => self.on_verified(claims),
            Done::Nothing => {}
        }
    }

    fn on_walked(&mut self, round: ChallengeRound, first: u16, proofs: Vec<Option<StepProof>>) {
        let last = proofs.len().saturating_sub(1);
        for (at, (step, proof)) in (first..).zip(proofs).enumerate() {
            let now_ms = self.now();
            let mut outputs = self.rounds.handle(now_ms, round, RoundInput::Read { step, proof });
            if at < last {
                // It is read already.
                outputs.retain(|(_, output)| !matches!(output, RoundOutput::Read { .. }));
            }
            self.act(outputs);
        }
    }

    fn on_messages(&mut self, messages: Vec<GossipMessage>) {
        let state = self.tools.ledger.state().borrow().clone();
        let claims = sift(messages, |said| self.rounds.wants(state.committee(), said));
        if claims.is_empty() {
            return;
        }
        self.is_verifying = true;
        let chain = self.chain;
        self.tools.record.metrics.commitments_checked.inc_by(claims.len() as u64);
        self.tasks.spawn(async move {
            let verified = blocking(move || verify(&chain, claims)).await;
            Done::Verified(verified.unwrap_or_default())
        });
    }

    fn on_verified(&mut self, claims: Vec<(Claim, bool)>) {
        self.is_verifying = false;
        let state = self.tools.ledger.state().borrow().clone();
        for (Claim { signed, received, verdict }, is_true) in claims {
            if !is_true {
                verdict.reject();
                continue;
            }
            let Commitment { node, .. } = signed.commitment;
            let came_ms = self.ms(received);
            let outputs = self.rounds.commitment(came_ms, state.committee(), signed.commitment);
            if is_passed_on(&node, &outputs) {
                verdict.accept();
            } else {
                verdict.ignore();
            }
            self.act(outputs);
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

    /// Does what the machine says.
    fn act(&mut self, outputs: RoundOutputs) {
        for (round, output) in outputs {
            match output {
                RoundOutput::Read { step, .. } => self.read(round, step),
                RoundOutput::Commit(commitment) => self.commit(commitment),
                // There is nobody to answer but who has just asked.
                RoundOutput::Answer { .. } => {}
                RoundOutput::Ask { node } => self.ask(round, node),
                RoundOutput::Verify(verification) => {
                    let (known, node) =
                        (self.tools.inconsistent.all(), *verification.challenge.node());
                    let metrics = self.tools.record.metrics.clone();
                    self.compute(round, move || {
                        let began = Instant::now();
                        let verdict = verification.run(&known);
                        metrics.judged(verdict.is_ok(), began.elapsed());
                        RoundInput::Judged { node, verdict }
                    });
                }
                RoundOutput::Join(joining) => {
                    self.compute(round, move || RoundInput::Joined(Box::new(joining.run())));
                }
                RoundOutput::Acknowledge(fact) => self.acknowledge(fact),
                RoundOutput::Submit(certificate) => {
                    let certificate = certificate.to_bytes();
                    self.submit(round, SystemOperation::PassChallenge { certificate });
                }
                RoundOutput::GaveUp(failure) => {
                    self.tools.record.metrics.gave_up(&failure);
                    self.log.failed(round, failure.to_string());
                }
                RoundOutput::Ignored { node, reason } => {
                    let me = self.me();
                    tracing::debug!(%round, %me, %node, %reason, "challenge");
                }
            }
        }
    }

    /// Reads what a step asks for and all steps after it, at once.
    fn read(&mut self, round: ChallengeRound, step: u16) {
        let Some(walk) = self.rounds.get(round).and_then(Round::walk).cloned() else { return };
        self.seeds.entry(round).or_insert(self.now_ms);
        let (reader, known) = (self.tools.reader.clone(), self.tools.inconsistent.all());
        self.tasks.spawn(async move {
            let proofs = blocking(move || read_on(walk, |place| reader.read(place, &known))).await;
            Done::Walked(round, step, proofs.unwrap_or_default())
        });
    }

    /// Says where this node's chain ends.
    fn commit(&mut self, commitment: Commitment) {
        let signed = commitment.sign(&self.chain, &self.tools.keys.node);
        let sent = self.tools.network.try_publish(Topic::Challenges, signed.to_bytes());
        let round = commitment.round;
        if let Err(error) = sent {
            self.log.failed(round, format!("its commitment was not sent: {error}"));
        }
        let seeded_ms = self.seeds.remove(&round).unwrap_or(self.now_ms);
        let took_ms = self.ms(Instant::now()).saturating_sub(seeded_ms);
        self.tools.record.metrics.commitment_ms.set(i64::try_from(took_ms).unwrap_or(i64::MAX));
        let node = self.me();
        tracing::debug!(%round, %node, took_ms, "committed to the end of this node's chain");
    }

    /// Asks a node for its transcript.
    fn ask(&mut self, round: ChallengeRound, node: NodeId) {
        let network = self.tools.network.clone();
        self.tasks.spawn(async move {
            let asked = network.request(node, Request::ReadTranscript { round });
            let input = match timeout(ANSWER_TIMEOUT, asked).await {
                Ok(Ok(Response::Transcript(transcript))) => {
                    // What waits to be judged holds no more than itself.
                    let transcript = transcript.map(|bytes| Bytes::copy_from_slice(&bytes));
                    RoundInput::Transcript { node, transcript }
                }
                Ok(_) | Err(_) => RoundInput::NoAnswer { node },
            };
            Done::Input(round, input)
        });
    }

    /// Computes something for a round, where it disturbs nobody.
    fn compute(
        &mut self,
        round: ChallengeRound,
        work: impl FnOnce() -> RoundInput + Send + 'static,
    ) {
        let background = self.background.clone();
        self.tasks.spawn(async move {
            let input = background.run(work).await;
            input.map_or(Done::Nothing, |input| Done::Input(round, input))
        });
    }

    /// Signs that a node has passed, and hands it the signature.
    fn acknowledge(&mut self, fact: ChallengeFact) {
        let (background, network) = (self.background.clone(), self.tools.network.clone());
        let (chain, bls) = (self.chain, self.tools.keys.bls.clone());
        self.tools.record.metrics.acknowledged.inc();
        self.tasks.spawn(async move {
            let signed = background.run(move || fact.sign(&chain, &bls)).await;
            let Some(signature) = signed else { return Done::Nothing };
            let ChallengeFact { round, node, .. } = fact;
            for _ in 0..HAND_IN_ATTEMPTS {
                let asked = network.request(node, Request::Acknowledge { round, signature });
                if let Ok(Ok(Response::Taken)) = timeout(ANSWER_TIMEOUT, asked).await {
                    return Done::Nothing;
                }
                sleep(HAND_IN_WAIT).await;
            }
            tracing::debug!(%round, %node, "does not take the acknowledgement of its transcript");
            Done::Nothing
        });
    }

    fn submit(&mut self, round: ChallengeRound, operation: SystemOperation) {
        let ledger = self.tools.ledger.clone();
        self.tasks.spawn(async move {
            match ledger.insert_system(operation, true).await {
                Ok(Ok(())) => tracing::debug!(%round, "certificate submitted"),
                Ok(Err(error)) => tracing::debug!(%round, %error, "certificate not taken"),
                Err(error) => tracing::debug!(%round, %error, "certificate not submitted"),
            }
            Done::Nothing
        });
    }
}
