//! Bringing one blob to a quorum: drives [`Upload`] and makes the storage certificate.
//!
//! The middle of a store: the blob is registered and paid for, and what comes of this is certified
//! on the ledger by [`store`](super::store). An upload speaks to one committee. When another epoch
//! begins before a quorum has confirmed, it ends as [`UploadError::OtherEpoch`], and a new one asks
//! the new committee, whose members already hold what was sent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::{
    bft,
    certificate::{Certificate, ConfirmedFact},
    committee::{Committee, CommitteeFact},
    encoding::EncodedBlob,
    keys::{BlsSignature, NodeId},
    message::{Request, Response},
    registration::RegistrationId,
    transfer::{Ask, MemberFailure, Upload, UploadFailure, UploadInput, UploadOutput},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{Client, StoreError, blocking, elapsed_ms, joined};
use crate::network::RequestError;

/// What a store is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StorePhase {
    /// Registering on the ledger, and paying.
    #[default]
    Paying,
    /// Sending slivers and collecting confirmations.
    Uploading,
    /// Committing the certificates.
    Certifying,
    /// Certified; the last nodes still receive theirs.
    Tail,
}

/// How far a store of one or several blobs has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreProgress {
    /// What it is doing.
    pub phase: StorePhase,
    /// Bytes of slivers that nodes have taken.
    pub stored_bytes: u64,
    /// Bytes of slivers to bring to all nodes.
    pub total_bytes: u64,
}

/// Why no certificate came of an upload.
#[derive(Debug)]
pub(super) enum UploadError {
    /// Too few nodes took it.
    NoQuorum(StoreError),
    /// Another epoch has begun: its committee must confirm.
    OtherEpoch,
}

/// One upload on its way.
#[derive(Debug)]
pub(super) struct Uploading {
    client: Client,
    committee: Arc<Committee>,
    encoded: Arc<EncodedBlob>,
    table: Bytes,
    fact: ConfirmedFact,
    upload: Upload,
    confirmations: BTreeMap<usize, BlsSignature>,
    asks: JoinSet<(UploadInput, Option<BlsSignature>)>,
    progress: watch::Sender<StoreProgress>,
    started: Instant,
    finished: bool,
}

impl Uploading {
    /// An upload to `committee`.
    pub(super) fn new(
        client: Client,
        committee: Arc<Committee>,
        encoded: Arc<EncodedBlob>,
        registration: RegistrationId,
        progress: watch::Sender<StoreProgress>,
    ) -> Self {
        let (blob, epoch) = (encoded.id(), committee.epoch());
        let config = client.config.upload;
        let upload =
            Upload::new(config, Committee::clone(&committee), &blob, pair_bytes(&encoded), 0);
        Self {
            fact: ConfirmedFact { epoch, blob, registration },
            table: encoded.table().to_bytes().into(),
            client,
            committee,
            encoded,
            upload,
            confirmations: BTreeMap::new(),
            asks: JoinSet::new(),
            progress,
            started: Instant::now(),
            finished: false,
        }
    }

    /// Shards whose holders have confirmed.
    pub(super) const fn confirmed_shards(&self) -> u16 {
        self.upload.confirmed_shards()
    }

    /// Members given up: each one's name, shards and last reason.
    pub(super) fn failures(&self) -> Vec<(NodeId, u16, MemberFailure)> {
        self.named(self.upload.failures())
    }

    /// Runs until a quorum has confirmed.
    pub(super) async fn reach_quorum(&mut self) -> Result<Certificate, UploadError> {
        let mut quorum = self.on_input(UploadInput::Tick)?;
        while !quorum {
            quorum = self.step().await?;
            if self.client.committee().epoch() != self.committee.epoch() {
                return Err(UploadError::OtherEpoch);
            }
        }
        let confirmations: Vec<_> = self.confirmations.iter().map(|(m, s)| (*m, *s)).collect();
        let (committee, fact) = (Arc::clone(&self.committee), self.fact);
        let made = blocking(move || Certificate::new(&committee, fact, &confirmations)).await;
        Ok(made.expect("a quorum of verified confirmations makes a certificate"))
    }

    /// Serves the members that have not confirmed yet, for a bounded time, or until another epoch
    /// begins: then those who lack something repair it themselves.
    pub(super) async fn serve_tail(&mut self) {
        while !self.finished && self.client.committee().epoch() == self.committee.epoch() {
            // Behind a quorum nothing fails any more.
            if self.step().await.is_err() {
                break;
            }
        }
    }

    /// Waits for whatever comes next; whether a quorum has just been reached.
    async fn step(&mut self) -> Result<bool, UploadError> {
        let wake_at = self.upload.wake_at_ms();
        let wake_at = wake_at.map(|ms| self.started + Duration::from_millis(ms));
        let now = Instant::now();
        let input = tokio::select! {
            Some(answer) = self.asks.join_next() => {
                let (input, signature) = joined(answer);
                if let (UploadInput::Confirmed { member }, Some(signature)) = (&input, signature) {
                    self.confirmations.insert(*member, signature);
                }
                input
            }
            () = sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => UploadInput::Tick,
        };
        self.on_input(input)
    }

    /// Feeds the machine and does what it says; whether a quorum has just been reached.
    fn on_input(&mut self, input: UploadInput) -> Result<bool, UploadError> {
        if let UploadInput::Stored { .. } = input {
            let bytes = pair_bytes(&self.encoded) as u64;
            self.progress.send_modify(|progress| {
                progress.stored_bytes = (progress.stored_bytes + bytes).min(progress.total_bytes);
            });
        }
        let mut quorum = false;
        for output in self.upload.handle(elapsed_ms(self.started), input) {
            match output {
                UploadOutput::Ask { member, ask } => self.send(member, ask),
                UploadOutput::Quorum => quorum = true,
                UploadOutput::Finished => self.finished = true,
                UploadOutput::Failed(failure) => {
                    return Err(UploadError::NoQuorum(self.no_quorum(failure)));
                }
            }
        }
        Ok(quorum)
    }

    fn send(&mut self, member: usize, ask: Ask) {
        let registration = self.fact.registration;
        let request = match ask {
            Ask::Table => Request::Table {
                registration,
                header: *self.encoded.header(),
                table: self.table.clone(),
            },
            Ask::Pair(pair) => {
                let (primary, secondary) = self.encoded.pair(pair);
                Request::StoreSlivers { registration, pair, primary, secondary }
            }
            Ask::Confirm => Request::Confirm { registration },
        };
        let (client, committee, fact) = (self.client.clone(), self.committee.clone(), self.fact);
        self.asks.spawn(async move {
            let answer = client.ask(committee.members()[member].node, request).await;
            client.upload_input((&committee, member), ask, &fact, answer).await
        });
    }

    fn named(&self, failures: Vec<(usize, MemberFailure)>) -> Vec<(NodeId, u16, MemberFailure)> {
        let named = failures.into_iter().map(|(member, reason)| {
            let member = &self.committee.members()[member];
            (member.node, member.weight(), reason)
        });
        named.collect()
    }

    fn no_quorum(&self, failure: UploadFailure) -> StoreError {
        let named = self.named(failure.failures).into_iter();
        StoreError::NoQuorum {
            confirmed_shards: failure.confirmed_shards,
            n_shards: self.committee.n_shards(),
            quorum_shards: bft::min_quorum(self.committee.n_shards()),
            failures: named.map(|(node, shards, reason)| (short(&node), shards, reason)).collect(),
        }
    }
}

impl Client {
    /// What an answer means to the upload, with a confirmation's verified signature.
    async fn upload_input(
        &self,
        (committee, member): (&Committee, usize),
        ask: Ask,
        fact: &ConfirmedFact,
        answer: Result<Response, RequestError>,
    ) -> (UploadInput, Option<BlsSignature>) {
        let failed = |failure| (UploadInput::Failed { member, ask, failure }, None);
        match (ask, answer) {
            (Ask::Table, Ok(Response::TableStored { missing })) => {
                (UploadInput::TableStored { member, missing }, None)
            }
            (Ask::Pair(pair), Ok(Response::Stored { pair: stored })) if stored == pair => {
                (UploadInput::Stored { member, pair }, None)
            }
            (Ask::Confirm, Ok(Response::Missing { pairs })) => {
                (UploadInput::Missing { member, pairs }, None)
            }
            (Ask::Confirm, Ok(Response::Confirmed { epoch, .. })) if epoch != fact.epoch => {
                // Whether it is ahead or only says so, the ledger proves; the upload then ends.
                if epoch > fact.epoch
                    && let Err(error) = self.ledger.newest().await
                {
                    tracing::debug!(%error, "no newest header");
                }
                failed(MemberFailure::OtherEpoch)
            }
            (Ask::Confirm, Ok(Response::Confirmed { signature, .. })) => {
                let key = committee.members()[member].bls_key;
                let (chain, fact) = (*self.chain(), *fact);
                if blocking(move || fact.verify(&chain, &key, &signature)).await {
                    (UploadInput::Confirmed { member }, Some(signature))
                } else {
                    failed(MemberFailure::WrongAnswer)
                }
            }
            (_, Ok(Response::Refused(refusal))) => failed(MemberFailure::Refused(refusal)),
            (_, Ok(_)) | (_, Err(RequestError::Malformed)) => failed(MemberFailure::WrongAnswer),
            (_, Err(error)) => {
                tracing::debug!(member, ?ask, %error, "no answer");
                failed(MemberFailure::NoAnswer)
            }
        }
    }
}

fn pair_bytes(encoded: &EncodedBlob) -> usize {
    let layout = encoded.layout();
    layout.primary_bytes() + layout.secondary_bytes()
}

/// Bytes of all slivers.
pub(super) fn encoded_bytes(encoded: &EncodedBlob) -> u64 {
    pair_bytes(encoded) as u64 * u64::from(encoded.header().n_shards)
}

/// The first digits of a node id: enough for people to tell nodes apart.
pub(super) fn short(node: &NodeId) -> String {
    node.to_string()[..12].to_owned()
}
