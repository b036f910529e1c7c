//! A batch of blobs on its way: paid for in one transaction, each brought to a quorum, certified in
//! another one.
//!
//! One blob that fails does not hold up the others: what the ledger refuses for all is done for each
//! on its own. What it refuses because it has gone on is planned anew (`batch/paying.rs`); what an
//! epoch cut off is confirmed anew by the next committee. Each of these loops ends after a few
//! rounds.

mod paying;

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    certificate::Certificate,
    index::Epoch,
    keys::KeyPair,
    ledger::{Amount, Operation, TransactionId},
    message::{Refusal, RefusedOperation, SubmitError},
    registration::RegistrationId,
    transfer::{MemberFailure, StorePlan},
};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{Outcome, PreparedStore, StoreReport, UnreachedNode};
use crate::client::{
    Client, LedgerError, StoreError, elapsed_ms, joined,
    ledger::Receipt,
    upload::{StorePhase, StoreProgress, UploadError, Uploading},
};

/// Blobs on their way to a quorum at a time.
const UPLOADS_MAX: usize = 4;
/// How often the blobs are confirmed anew because another epoch has begun.
const EPOCHS_MAX: u32 = 8;

/// Whether nodes did not confirm because they have, or are in, another committee.
fn tells_of_another_epoch(error: &StoreError) -> bool {
    let StoreError::NoQuorum { failures, .. } = error else { return false };
    failures.iter().any(|(_, _, failure)| {
        matches!(failure, MemberFailure::OtherEpoch | MemberFailure::Refused(Refusal::WrongShard))
    })
}

/// One blob of a batch on its way.
struct Item {
    prepared: PreparedStore,
    /// Where the same blob came first, which is stored for both.
    same_as: Option<usize>,
    registration: Option<RegistrationId>,
    end: Epoch,
    paid: Amount,
    payment: Option<TransactionId>,
    certificate: Option<Certificate>,
    certification: Option<TransactionId>,
    certify_ms: u64,
    served: Option<Served>,
    error: Option<StoreError>,
}

/// What an upload came to in the end.
struct Served {
    confirmed_shards: u16,
    unreached: Vec<UnreachedNode>,
}

/// Uploads that go on behind their quorum: the item's position, and what came of it.
type Tails = JoinSet<(usize, Served)>;

pub(super) struct Batch<'a> {
    client: &'a Client,
    wallet: &'a KeyPair,
    progress: &'a watch::Sender<StoreProgress>,
    items: Vec<Item>,
    started: Instant,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        client: &'a Client,
        prepared: Vec<PreparedStore>,
        wallet: &'a KeyPair,
        progress: &'a watch::Sender<StoreProgress>,
    ) -> Self {
        let mut first = BTreeMap::new();
        let mut items: Vec<Item> = Vec::with_capacity(prepared.len());
        for (position, prepared) in prepared.into_iter().enumerate() {
            let key = (prepared.blob(), prepared.wanted.epochs, prepared.wanted.deletable);
            let same_as = first.get(&key).copied();
            first.entry(key).or_insert(position);
            items.push(Item {
                registration: prepared.plan.registration(),
                end: prepared.plan.end(),
                prepared,
                same_as,
                paid: Amount::ZERO,
                payment: None,
                certificate: None,
                certification: None,
                certify_ms: 0,
                served: None,
                error: None,
            });
        }
        Self { client, wallet, progress, items, started: Instant::now() }
    }

    pub(super) async fn run(mut self) -> Vec<Result<StoreReport, StoreError>> {
        self.pay().await;
        let mut tails = Tails::new();
        let total = self.pending().map(|at| self.items[at].prepared.encoded_bytes()).sum();
        self.progress.send_modify(|progress| progress.total_bytes = total);
        for _ in 0..EPOCHS_MAX {
            let pending: Vec<usize> = self.pending().collect();
            if pending.is_empty() {
                break;
            }
            self.phase(StorePhase::Uploading);
            let ready = self.upload(pending, &mut tails).await;
            self.phase(StorePhase::Certifying);
            self.certify(&ready).await;
        }
        for at in self.pending().collect::<Vec<_>>() {
            self.items[at].error = Some(StoreError::EpochsTooShort);
        }
        self.phase(StorePhase::Tail);
        while let Some(served) = tails.join_next().await {
            let (at, served) = joined(served);
            self.items[at].served = Some(served);
        }
        self.reports()
    }

    fn phase(&self, phase: StorePhase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    /// Items that are registered and not certified yet.
    fn pending(&self) -> impl Iterator<Item = usize> + '_ {
        let pending = |item: &Item| {
            item.prepared.plan.needs_certificate()
                && item.same_as.is_none()
                && item.certification.is_none()
                && item.error.is_none()
        };
        (0..self.items.len()).filter(move |at| pending(&self.items[*at]))
    }

    /// Brings blobs to a quorum of the running epoch's committee; those that got there. Their tails
    /// go on.
    async fn upload(&mut self, pending: Vec<usize>, tails: &mut Tails) -> Vec<usize> {
        let committee = self.client.committee();
        let turns = Arc::new(Semaphore::new(UPLOADS_MAX));
        let mut quorums = Vec::new();
        for at in pending {
            let item = &self.items[at];
            let registration = item.registration.expect("what is pending was registered");
            let mut uploading = Uploading::new(
                self.client.clone(),
                Arc::clone(&committee),
                Arc::clone(&item.prepared.encoded),
                registration,
                self.progress.clone(),
            );
            let (sender, quorum) = oneshot::channel();
            quorums.push((at, quorum));
            let turns = Arc::clone(&turns);
            tails.spawn(async move {
                let turn = turns.acquire_owned().await;
                let quorum = uploading.reach_quorum().await;
                drop(turn);
                let reached = quorum.is_ok();
                // Nobody listens only when the store was given up, and then this ends, too.
                if sender.send(quorum).is_ok() && reached {
                    uploading.serve_tail().await;
                }
                let unreached = uploading.failures().into_iter();
                let unreached =
                    unreached.map(|(node, shards, reason)| UnreachedNode { node, shards, reason });
                let confirmed_shards = uploading.confirmed_shards();
                (at, Served { confirmed_shards, unreached: unreached.collect() })
            });
        }
        let mut ready = Vec::new();
        for (at, quorum) in quorums {
            match quorum.await.expect("the upload says what came of it") {
                Ok(certificate) => {
                    self.items[at].certificate = Some(certificate);
                    ready.push(at);
                }
                // Those who refused may have done so because their epoch is another one.
                Err(UploadError::NoQuorum(error))
                    if self.client.committee().epoch() == committee.epoch()
                        && !(tells_of_another_epoch(&error)
                            && self.client.ledger.is_over(committee.epoch()).await) =>
                {
                    self.items[at].error = Some(error);
                }
                Err(UploadError::NoQuorum(_) | UploadError::OtherEpoch) => {}
            }
        }
        ready
    }

    /// Commits certificates, in one transaction if they let it. What is refused because another
    /// epoch has begun stays pending.
    async fn certify(&mut self, ready: &[usize]) {
        if ready.is_empty() {
            return;
        }
        let result = self.submit_certificates(ready).await;
        match result {
            Ok(receipt) => {
                for at in ready {
                    self.items[*at].certification = Some(receipt.id);
                    self.items[*at].certify_ms = elapsed_ms(self.started);
                }
            }
            Err(error) if self.is_of_another_epoch(ready, &error).await => {}
            // One of them spoils it for all: each on its own.
            Err(LedgerError::Refused { .. }) if ready.len() > 1 => {
                for at in ready {
                    Box::pin(self.certify(&[*at])).await;
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for at in ready {
                    self.failed_to_certify(*at, &error).await;
                }
            }
        }
    }

    async fn submit_certificates(&self, ready: &[usize]) -> Result<Receipt, LedgerError> {
        let operations = ready.iter().map(|at| {
            let item = &self.items[*at];
            Operation::CertifyBlob {
                registration: item.registration.expect("what is ready was registered"),
                certificate: item.certificate.as_ref().expect("it is ready").to_bytes(),
            }
        });
        self.client.ledger.submit(operations.collect(), self.wallet).await
    }

    /// Whether certificates were refused because their epoch is over.
    async fn is_of_another_epoch(&self, ready: &[usize], error: &LedgerError) -> bool {
        let refused = matches!(
            error,
            LedgerError::Refused {
                refusal: SubmitError::Refused(RefusedOperation::Certificate),
                ..
            } | LedgerError::Expired(_)
        );
        if !refused {
            return false;
        }
        let certificates = ready.iter().filter_map(|at| self.items[*at].certificate.as_ref());
        let epoch = certificates.map(|certificate| certificate.fact.epoch).min();
        match epoch {
            Some(epoch) => self.client.ledger.is_over(epoch).await,
            None => false,
        }
    }

    /// A refused certification is no failure if somebody else, resuming the same store, was faster.
    async fn failed_to_certify(&mut self, at: usize, error: &Arc<LedgerError>) {
        let id = self.items[at].registration.expect("what was certified is registered");
        let now = self.client.ledger.registration(id).await;
        let item = &mut self.items[at];
        match now {
            Ok(now) if now.value.as_ref().is_some_and(|now| now.certified.is_some()) => {
                item.certificate = None;
                item.prepared.plan = StorePlan::Stored { registration: Some(id), end: item.end };
            }
            _ => item.error = Some(StoreError::Ledger(Arc::clone(error))),
        }
    }

    fn reports(self) -> Vec<Result<StoreReport, StoreError>> {
        let mut results: Vec<Result<StoreReport, StoreError>> = Vec::new();
        for item in self.items {
            let result = match (item.same_as, item.error) {
                (Some(first), _) => match &results[first] {
                    Ok(report) => Ok(StoreReport {
                        outcome: Outcome::AlreadyStored,
                        paid: Amount::ZERO,
                        payment: None,
                        ..report.clone()
                    }),
                    Err(error) => Err(StoreError::SameAs(error.to_string())),
                },
                (None, Some(error)) => Err(error),
                (None, None) => Ok(StoreReport {
                    blob: item.prepared.blob(),
                    header: *item.prepared.header(),
                    outcome: match item.prepared.plan {
                        StorePlan::Stored { .. } => Outcome::AlreadyStored,
                        StorePlan::Extend { .. } => Outcome::Extended,
                        StorePlan::Resume { .. } => Outcome::Resumed,
                        StorePlan::Register { .. } => Outcome::Stored,
                    },
                    registration: item.registration,
                    end: item.end,
                    paid: item.paid,
                    payment: item.payment,
                    certificate: item.certificate,
                    certification: item.certification,
                    confirmed_shards: item.served.as_ref().map(|served| served.confirmed_shards),
                    encoded_bytes: item.prepared.encoded_bytes(),
                    encode_ms: item.prepared.encode_ms,
                    certify_ms: item.certify_ms,
                    unreached: item.served.map(|served| served.unreached).unwrap_or_default(),
                }),
            };
            results.push(result);
        }
        results
    }
}
