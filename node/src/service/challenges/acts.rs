//! What the service does when the machine says so. What takes time is a task, of whose result the
//! machine is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use floe_protocol::{
    challenge::{ChallengeFact, Commitment, Round, RoundInput, RoundOutput, RoundOutputs},
    committee::CommitteeFact,
    index::ChallengeRound,
    keys::NodeId,
    ledger::SystemOperation,
    message::{Request, Response},
};
use tokio::time::{sleep, timeout};

use super::{Done, Service};
use crate::{network::Topic, service::blocking};

/// How long a node may take to answer at most; rounds may give it less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How often an acknowledgement is handed in until it is taken, and the wait in between.
const HAND_IN_ATTEMPTS: u32 = 5;
const HAND_IN_WAIT: Duration = Duration::from_secs(1);

impl Service {
    /// Does what the machine says.
    pub(super) fn act(&mut self, outputs: RoundOutputs) {
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
            let proofs = blocking(move || reader.read_on(walk, &known)).await;
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
