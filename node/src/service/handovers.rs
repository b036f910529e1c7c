//! Hand-overs: signs the ends of epochs, and collects what others signed into hand-over
//! certificates, by which light peers follow the committees.
//!
//! When an epoch has ended, a node that was a member signs its last header, and answers whoever
//! asks for the signature (`queries`). Every node, member or not, then collects until it has a
//! certificate, which it keeps beside the header and tells in place of the commit certificate.
//! [`HandoverCollection`] decides whom to ask and what counts; this service asks.
//!
//! Invariants: signed is only the end of an epoch that this node has executed and has on disk,
//! never one that came with a snapshot; what is kept was verified. Bounded: a few epochs back, so
//! many questions for each, and each once more at the next boundary if nothing came of it. Without a
//! certificate nothing is lost: the commit certificate is told instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    committee::{Committee, CommitteeFact},
    genesis::Genesis,
    handover::{HandoverCertificate, HandoverFact},
    index::Epoch,
    keys::{BlsSignature, ChainId, NodeId},
    ledger::{State, Timestamp},
    light::{CollectionLimits, CollectionStep, FinalHeader, HandoverCollection, HandoverQuestion},
    message::{LedgerRequest, LedgerResponse, Request, Response},
};
use floe_storage::StorageError;
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{blocking, ledger::Ledger};
use crate::{key_file::NodeKeys, network::Network};

/// Ends of epochs that are signed and collected, the newest ones.
const EPOCHS_MAX: u64 = 8;
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// This node's signatures of the last ends of epochs.
pub(crate) type Signatures = BTreeMap<Epoch, BlsSignature>;

/// What the service needs.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) ledger: Ledger,
    pub(crate) network: Network,
    pub(crate) keys: NodeKeys,
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) signatures: watch::Sender<Signatures>,
    /// Of which of the last epochs there is a certificate.
    pub(crate) certified: watch::Sender<BTreeSet<Epoch>>,
    pub(crate) cancel: CancellationToken,
}

/// Runs until cancelled, or until the ledger has stopped.
pub(crate) async fn run(args: Args) {
    let cancel = args.cancel.clone();
    tokio::select! {
        () = cancel.cancelled() => {}
        // It ends with the ledger only.
        _ = args.follow() => {}
    }
}

/// The end of an epoch, as this node has it.
#[derive(Clone, Debug)]
struct End {
    fact: HandoverFact,
    committee: Arc<Committee>,
    /// Whether this node has executed the block, so that it may sign.
    executed: bool,
    certified: bool,
}

/// What a node answered.
#[derive(Debug)]
enum Answer {
    Certificate(NodeId, Option<Box<FinalHeader>>),
    Signature(NodeId, Option<BlsSignature>),
}

impl Args {
    /// Nothing comes back when the ledger or the runtime has stopped.
    async fn follow(self) -> Option<()> {
        let mut states = self.ledger.state();
        loop {
            let state = states.borrow_and_update().clone();
            let epoch = state.committee().epoch();
            let ends = self.ends(epoch).await?;
            self.sign(&ends, *state.chain()).await?;
            let certified = ends.iter().filter(|end| end.certified).map(|end| end.fact.epoch);
            self.certified.send_replace(certified.collect());
            let missing = ends.into_iter().filter(|end| !end.certified);
            let collections = async {
                join_all(missing.map(|end| self.collect(&state, end))).await;
                std::future::pending::<()>().await;
            };
            // Whatever is still being asked is asked anew, with the end of this epoch.
            let goes_on = tokio::select! {
                next = states.wait_for(|state| state.committee().epoch() != epoch) => next.is_ok(),
                () = collections => false,
            };
            if !goes_on {
                return None;
            }
        }
    }

    /// The last ends of epochs before `running`. Nothing if the store fails, which stops the node
    /// elsewhere.
    async fn ends(&self, running: Epoch) -> Option<Vec<End>> {
        let (ledger, genesis) = (self.ledger.clone(), Arc::clone(&self.genesis));
        let first = running.get().saturating_sub(EPOCHS_MAX);
        let read = blocking(move || {
            let ends = (first..running.get()).map(Epoch::new);
            let ends = ends.map(|epoch| end(&ledger, &genesis, epoch));
            ends.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
        });
        let ends = read.await?;
        ends.inspect_err(|error| tracing::error!(%error, "the ends of epochs cannot be read")).ok()
    }

    /// Signs what this node may sign, for whoever asks. A signature that was given before is the
    /// same again.
    async fn sign(&self, ends: &[End], chain: ChainId) -> Option<()> {
        let (keys, ends) = (self.keys.clone(), ends.to_vec());
        let signed = blocking(move || {
            let signs = |end: &&End| {
                let member = end.committee.member(&keys.node.public());
                end.executed && member.is_some_and(|member| member.bls_key == keys.bls.public())
            };
            let signed = ends.iter().filter(signs);
            signed.map(|end| (end.fact.epoch, end.fact.sign(&chain, &keys.bls))).collect()
        });
        self.signatures.send_replace(signed.await?);
        Some(())
    }

    /// Collects the certificate of an end. Nothing comes back when the runtime is going down.
    async fn collect(&self, state: &State, end: End) -> Option<()> {
        let End { fact, committee, executed, .. } = end;
        let running = Arc::clone(state.committee());
        let (chain, keys) = (*state.chain(), self.keys.clone());
        let mut collection = blocking(move || {
            let me = keys.node.public();
            let limits = CollectionLimits::default();
            let committees = (committee, &*running);
            let mut collection = HandoverCollection::new(chain, committees, fact, me, limits);
            if executed {
                collection.sign(&keys.bls);
            }
            collection
        })
        .await?;
        let started = Instant::now();
        let mut asked = FuturesUnordered::new();
        loop {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let now = Timestamp::from_ms(elapsed_ms);
            let (next, step) = blocking(move || {
                let step = collection.step(now);
                (collection, step)
            })
            .await?;
            collection = next;
            match step {
                CollectionStep::Ask(questions) => {
                    asked.extend(questions.into_iter().map(|question| self.ask(question, fact)));
                }
                CollectionStep::AwaitAnswer => {
                    let answer = asked.next().await.expect("a question is on its way");
                    collection = blocking(move || heard(collection, answer)).await?;
                }
                CollectionStep::Rest(until) => {
                    sleep_until(started + Duration::from_millis(until.ms())).await;
                }
                step @ (CollectionStep::Done(_) | CollectionStep::GivenUp) => {
                    for node in collection.liars() {
                        tracing::warn!(%node, epoch = %fact.epoch, "tells a false hand-over");
                    }
                    if let CollectionStep::Done(certificate) = step {
                        self.keep(certificate).await?;
                    } else {
                        tracing::info!(epoch = %fact.epoch, "too few have signed the hand-over");
                    }
                    return Some(());
                }
            }
        }
    }

    async fn keep(&self, certificate: HandoverCertificate) -> Option<()> {
        let ledger = self.ledger.clone();
        let epoch = certificate.fact.epoch;
        match blocking(move || ledger.store().put_handover_certificate(&certificate)).await? {
            Ok(_) => {
                tracing::debug!(%epoch, "the hand-over is certified");
                self.certified.send_modify(|certified| {
                    certified.insert(epoch);
                });
            }
            Err(error) => tracing::error!(%error, "a hand-over certificate cannot be kept"),
        }
        Some(())
    }

    async fn ask(&self, question: HandoverQuestion, fact: HandoverFact) -> Answer {
        let epoch = fact.epoch;
        match question {
            HandoverQuestion::Certificate(node) => {
                let request = LedgerRequest::Handovers { from: epoch, max: 1 };
                let last = match self.request(node, request).await {
                    Some(LedgerResponse::Handovers { handovers }) => handovers.into_iter().next(),
                    _ => None,
                };
                Answer::Certificate(node, last.map(|handover| Box::new(handover.last)))
            }
            HandoverQuestion::Signature(node) => {
                match self.request(node, LedgerRequest::SignHandover { epoch }).await {
                    Some(LedgerResponse::HandoverSigned(signed)) => Answer::Signature(node, signed),
                    _ => Answer::Signature(node, None),
                }
            }
        }
    }

    async fn request(&self, node: NodeId, request: LedgerRequest) -> Option<LedgerResponse> {
        let answer = self.network.request(node, Request::Ledger(request));
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Response::Ledger(answer))) => Some(*answer),
            _ => None,
        }
    }
}

/// Takes an answer. Verifies.
fn heard(mut collection: HandoverCollection, answer: Answer) -> HandoverCollection {
    match answer {
        Answer::Certificate(node, last) => collection.on_certificate(node, last.as_deref()),
        Answer::Signature(node, signature) => collection.on_signature(node, signature),
    }
    collection
}

/// The end of an epoch; none if it is not known here, or its committee is not.
fn end(ledger: &Ledger, genesis: &Genesis, epoch: Epoch) -> Result<Option<End>, StorageError> {
    let store = ledger.store();
    let Some(height) = store.epoch_end(epoch)? else { return Ok(None) };
    let Some(header) = store.header(height)? else { return Ok(None) };
    let committee = match store.committee(epoch)? {
        Some(bytes) => Committee::from_bytes(&bytes).ok(),
        None => genesis.committee().ok(),
    };
    let Some(committee) = committee.filter(|committee| committee.epoch() == epoch) else {
        return Ok(None);
    };
    Ok(Some(End {
        fact: HandoverFact::new(&header),
        committee: Arc::new(committee),
        executed: height > store.first(),
        certified: store.handover_certificate(epoch)?.is_some(),
    }))
}
