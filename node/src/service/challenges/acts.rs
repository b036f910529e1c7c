//! What the service does when the machine says so. What takes time is a task, of whose result the
//! machine is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    challenge::{ChallengeFact, Commitment, RoundInput, RoundOutput, RoundOutputs, Walk},
    committee::CommitteeFact,
    index::ChallengeRound,
    keys::NodeId,
    ledger::SystemOperation,
    message::{Request, Response},
};
use tokio::time::{sleep, timeout};

use super::{Done, Service, settled::settled_of, window_ms};
use crate::{
    network::{AnnounceError, Topic},
    service::{blocking, judging::by_newest},
};

/// How long a node may take to say that it has an acknowledgement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The wait before a commitment is said again that did not leave.
const SAY_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The wait before an acknowledgement is handed in again that was not taken.
const HAND_IN_WAIT: Duration = Duration::from_secs(1);

impl Service {
    /// Does what the machine says.
    pub(super) fn act(&mut self, outputs: RoundOutputs) {
        for (round, output) in outputs {
            match output {
                RoundOutput::Walk(walk) => self.walk(round, *walk),
                RoundOutput::Commit(commitment) => self.commit(commitment),
                // There is nobody to answer but who has just asked.
                RoundOutput::Answer { .. } => {}
                RoundOutput::Ask { node, within_ms } => self.ask((round, node), within_ms),
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
                    self.log.failed(round, failure.into(), failure);
                }
                RoundOutput::Ignored { node, reason } => {
                    let me = self.me();
                    tracing::debug!(%round, %me, %node, %reason, "challenge");
                }
            }
        }
    }

    /// Reads this node's chain to its end.
    fn walk(&mut self, round: ChallengeRound, walk: Walk) {
        self.seeds.insert(round, self.now_ms);
        let (reader, known) = (self.tools.reader.clone(), self.tools.inconsistent.all());
        self.tasks.spawn(async move {
            let walked = blocking(move || reader.walk(walk, &known)).await;
            walked.map_or(Done::Nothing, |walked| Done::Input(round, RoundInput::Walked(walked)))
        });
    }

    /// Finds out which of the blobs that are known to be inconsistent no later round asks for, and
    /// no event has said so, or said so before they were known.
    pub(super) fn look_for_settled(&mut self) {
        let known = self.tools.inconsistent.all();
        if known.is_empty() {
            return;
        }
        let blobs: Vec<_> = known.difference(&self.settled.blobs()).copied().collect();
        let ledger = self.tools.ledger.clone();
        self.tasks.spawn(async move {
            let states = ledger.state();
            let settled = blocking(move || {
                let newest = || states.borrow().clone();
                by_newest(newest, |state| {
                    let record = |blob: &BlobId| state.blob(ledger.store().as_ref(), blob);
                    let settled = settled_of(&blobs, state.summary().epoch, record)?;
                    Ok((state.tip().height, settled))
                })
            });
            match settled.await {
                Some(Ok((height, blobs))) => Done::Settled(height, blobs),
                // They are looked for again after the next round.
                Some(Err(_)) | None => Done::Nothing,
            }
        });
    }

    /// Says where this node's chain ends, again until it has left or can be in time nowhere.
    fn commit(&mut self, commitment: Commitment) {
        let round = commitment.round;
        let seeded_ms = self.seeds.remove(&round).unwrap_or(self.now_ms);
        let took_ms = self.ms(Instant::now()).saturating_sub(seeded_ms);
        self.tools.record.metrics.commitment_ms.set(i64::try_from(took_ms).unwrap_or(i64::MAX));
        let node = self.me();
        tracing::debug!(%round, %node, took_ms, "committed to the end of this node's chain");
        let two_windows_ms = window_ms(&self.tools.ledger).saturating_mul(2);
        let until = self.started + Duration::from_millis(seeded_ms.saturating_add(two_windows_ms));
        let network = self.tools.network.clone();
        self.tasks.spawn(async move {
            loop {
                match network.publish(Topic::Challenges, commitment.to_bytes()).await {
                    Ok(()) => return Done::Nothing,
                    Err(AnnounceError::Busy | AnnounceError::NoPeers) if Instant::now() < until => {
                        sleep(SAY_AGAIN_AFTER).await;
                    }
                    Err(error) => return Done::NotSent(round, error),
                }
            }
        });
    }

    /// Asks a node for its transcript.
    fn ask(&mut self, (round, node): (ChallengeRound, NodeId), within_ms: u64) {
        let within = Duration::from_millis(within_ms);
        let network = self.tools.network.clone();
        self.tasks.spawn(async move {
            let asked = network.request(node, Request::ReadTranscript { round });
            let input = match timeout(within, asked).await {
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

    /// Signs that a node has passed, and hands it the signature while that may be of use.
    fn acknowledge(&mut self, fact: ChallengeFact) {
        let (background, network) = (self.background.clone(), self.tools.network.clone());
        let (chain, bls) = (self.chain, self.tools.keys.bls.clone());
        let states = self.tools.ledger.state();
        self.tools.record.metrics.acknowledged.inc();
        self.tasks.spawn(async move {
            let signed = background.run(move || fact.sign(&chain, &bls)).await;
            let Some(signature) = signed else { return Done::Nothing };
            let ChallengeFact { round, node, .. } = fact;
            while states.borrow().open_challenges().contains(&round) {
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
