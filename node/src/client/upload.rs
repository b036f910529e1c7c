//! Storing a blob: encodes it, drives [`Upload`], makes the certificate and publishes it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use floe_protocol::{
    bft,
    blob::{BlobHeader, BlobId},
    certificate::{Certificate, ConfirmedFact},
    committee::QuorumTracker,
    encoding::{self, EncodedBlob},
    keys::{BlsSignature, KeyPair},
    message::{Refusal, Request, Response},
    registration::SignedRegistration,
    transfer::{Ask, MemberFailure, Upload, UploadFailure, UploadInput, UploadOutput},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{Client, StoreError, blocking, elapsed_ms, joined, threads};
use crate::network::RequestError;

/// How long the nodes are asked whether the blob is certified already.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the certificate is offered to a node that does not take it.
const CERTIFY_ATTEMPTS: u32 = 5;
const CERTIFY_RETRY_DELAY: Duration = Duration::from_millis(200);
/// The longest wait that a busy node is granted.
const CERTIFY_BUSY_DELAY_MAX: Duration = Duration::from_secs(3);
/// How long it is offered to a node that is busy.
const CERTIFY_BUSY_MAX: Duration = Duration::from_secs(30);

/// What a store is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StorePhase {
    /// Computing slivers and the blob id.
    #[default]
    Encoding,
    /// Sending slivers and collecting confirmations.
    Uploading,
    /// Certified; the last nodes still receive theirs.
    Tail,
}

/// How far a store has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreProgress {
    /// What it is doing.
    pub phase: StorePhase,
    /// The blob, once known.
    pub blob: Option<BlobId>,
    /// Bytes of slivers that nodes have taken.
    pub stored_bytes: u64,
    /// Bytes of slivers to bring to all nodes.
    pub total_bytes: u64,
    /// Shards whose holders have confirmed.
    pub confirmed_shards: u16,
}

/// A stored blob.
#[derive(Clone, Debug)]
pub struct StoreReport {
    /// Its id.
    pub blob: BlobId,
    /// Its header.
    pub header: BlobHeader,
    /// The certificate: from here on the swarm answers for it.
    pub certificate: Certificate,
    /// Whether it had been certified before, so that nothing was sent.
    pub already_certified: bool,
    /// Shards whose holders have confirmed.
    pub confirmed_shards: u16,
    /// Bytes of all slivers.
    pub encoded_bytes: u64,
    /// Time to encode.
    pub encode_ms: u64,
    /// Time from the first request to the published certificate.
    pub certify_ms: u64,
    /// Nodes that were given up, with the reason.
    pub failures: Vec<(usize, MemberFailure)>,
}

impl Client {
    /// Stores a blob and returns once it is certified and the tail has been served.
    ///
    /// Storing again what is stored sends nothing; storing again what was interrupted sends only
    /// what is missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn store(
        &self,
        blob: Bytes,
        writer: &KeyPair,
        progress: &watch::Sender<StoreProgress>,
    ) -> Result<StoreReport, StoreError> {
        let max_bytes = self.view.parameters().max_blob_bytes;
        let len = blob.len() as u64;
        if len > max_bytes {
            return Err(StoreError::TooLarge { len, max_bytes });
        }
        let started = Instant::now();
        let config = self.encoding();
        let encoded = blocking(move || encoding::encode(config, blob, threads())).await?;
        let encode_ms = elapsed_ms(started);
        let header = *encoded.header();
        let registration = SignedRegistration::new(self.view.chain(), encoded.id(), writer, 0);
        self.view.register(&registration, &header)?;

        if let Some(report) = self.already_certified(&encoded, encode_ms).await {
            return Ok(report);
        }
        let mut store = Store::new(self.clone(), Arc::new(encoded), registration, progress);
        let (certificate, certify_ms) = store.run().await?;
        Ok(StoreReport {
            blob: registration.blob,
            header,
            certificate,
            already_certified: false,
            confirmed_shards: store.upload.confirmed_shards(),
            encoded_bytes: store.encoded_bytes(),
            encode_ms,
            certify_ms,
            failures: store.upload.failures(),
        })
    }

    async fn already_certified(
        &self,
        encoded: &EncodedBlob,
        encode_ms: u64,
    ) -> Option<StoreReport> {
        let asked = timeout(STATUS_TIMEOUT, self.certificate(encoded.id())).await;
        let certificate = asked.ok().flatten()?;
        Some(StoreReport {
            blob: encoded.id(),
            header: *encoded.header(),
            already_certified: true,
            confirmed_shards: certificate.weight(self.view.committee()),
            certificate,
            encoded_bytes: encoded_bytes(encoded),
            encode_ms,
            certify_ms: 0,
            failures: Vec::new(),
        })
    }
}

fn encoded_bytes(encoded: &EncodedBlob) -> u64 {
    let layout = encoded.layout();
    let pair = layout.primary_bytes() + layout.secondary_bytes();
    pair as u64 * u64::from(encoded.header().n_shards)
}

/// One store on its way.
struct Store<'a> {
    client: Client,
    encoded: Arc<EncodedBlob>,
    registration: SignedRegistration,
    table: Bytes,
    fact: ConfirmedFact,
    upload: Upload,
    confirmations: BTreeMap<usize, BlsSignature>,
    asks: JoinSet<(UploadInput, Option<BlsSignature>)>,
    publishing: JoinSet<Result<Certificate, StoreError>>,
    progress: &'a watch::Sender<StoreProgress>,
    started: Instant,
}

impl<'a> Store<'a> {
    fn new(
        client: Client,
        encoded: Arc<EncodedBlob>,
        registration: SignedRegistration,
        progress: &'a watch::Sender<StoreProgress>,
    ) -> Self {
        let layout = encoded.layout();
        let pair_bytes = layout.primary_bytes() + layout.secondary_bytes();
        let committee = client.view.committee().clone();
        let upload =
            Upload::new(client.config.upload, committee, &registration.blob, pair_bytes, 0);
        progress.send_replace(StoreProgress {
            phase: StorePhase::Uploading,
            blob: Some(registration.blob),
            total_bytes: encoded_bytes(&encoded),
            ..StoreProgress::default()
        });
        Self {
            fact: client.view.fact(registration.blob, registration.id()),
            table: encoded.table().to_bytes().into(),
            client,
            encoded,
            registration,
            upload,
            confirmations: BTreeMap::new(),
            asks: JoinSet::new(),
            publishing: JoinSet::new(),
            progress,
            started: Instant::now(),
        }
    }

    fn encoded_bytes(&self) -> u64 {
        encoded_bytes(&self.encoded)
    }

    /// Runs to the certificate and through the tail.
    async fn run(&mut self) -> Result<(Certificate, u64), StoreError> {
        let mut published = None;
        let mut finished = self.on_input(UploadInput::Tick)?;
        while !finished || published.is_none() {
            let wake_at = self.upload.wake_at_ms();
            let wake_at = wake_at.map(|ms| self.started + Duration::from_millis(ms));
            let now = Instant::now();
            tokio::select! {
                Some(answer) = self.asks.join_next() => {
                    let (input, signature) = joined(answer);
                    if let (UploadInput::Confirmed { member }, Some(signature)) = (&input, signature) {
                        self.confirmations.insert(*member, signature);
                    }
                    finished |= self.on_input(input)?;
                }
                Some(result) = self.publishing.join_next() => {
                    published = Some((joined(result)?, elapsed_ms(self.started)));
                    self.progress.send_modify(|progress| progress.phase = StorePhase::Tail);
                }
                () = sleep_until(wake_at.unwrap_or(now)), if wake_at.is_some() => {
                    finished |= self.on_input(UploadInput::Tick)?;
                }
            }
        }
        Ok(published.expect("the loop ends with it"))
    }

    /// Feeds the machine and does what it says; true once it has finished.
    fn on_input(&mut self, input: UploadInput) -> Result<bool, StoreError> {
        if let UploadInput::Stored { .. } = input {
            let bytes = self.encoded_bytes() / u64::from(self.encoded.header().n_shards);
            self.progress.send_modify(|progress| progress.stored_bytes += bytes);
        }
        let mut finished = false;
        for output in self.upload.handle(elapsed_ms(self.started), input) {
            match output {
                UploadOutput::Ask { member, ask } => self.send(member, ask),
                UploadOutput::Quorum => self.publish(),
                UploadOutput::Finished => finished = true,
                UploadOutput::Failed(failure) => return Err(self.no_quorum(&failure)),
            }
        }
        let confirmed_shards = self.upload.confirmed_shards();
        self.progress.send_modify(|progress| progress.confirmed_shards = confirmed_shards);
        Ok(finished)
    }

    fn send(&mut self, member: usize, ask: Ask) {
        let request = match ask {
            Ask::Table => Request::Table {
                registration: self.registration,
                header: *self.encoded.header(),
                table: self.table.clone(),
            },
            Ask::Pair(pair) => {
                let (primary, secondary) = self.encoded.pair(pair);
                let registration = self.registration.id();
                Request::StoreSlivers { registration, pair, primary, secondary }
            }
            Ask::Confirm => Request::Confirm { registration: self.registration.id() },
        };
        let (client, fact) = (self.client.clone(), self.fact);
        self.asks.spawn(async move {
            let answer = client.ask(member, request).await;
            client.upload_input(member, ask, &fact, answer).await
        });
    }

    /// Makes the certificate from the confirmations so far and offers it to everybody.
    fn publish(&mut self) {
        let confirmations: Vec<_> = self.confirmations.iter().map(|(m, s)| (*m, *s)).collect();
        let (client, header, fact) = (self.client.clone(), *self.encoded.header(), self.fact);
        self.publishing.spawn(async move {
            let view = client.view.clone();
            let certificate =
                blocking(move || Certificate::new(view.committee(), fact, &confirmations)).await;
            let certificate =
                certificate.expect("a quorum of verified confirmations makes a certificate");
            client.publish(header, certificate).await
        });
    }

    fn no_quorum(&self, failure: &UploadFailure) -> StoreError {
        let committee = self.client.view.committee();
        let describe = |(member, reason): &(usize, MemberFailure)| {
            let member = &committee.members()[*member];
            (short(&member.node), member.weight(), *reason)
        };
        StoreError::NoQuorum {
            confirmed_shards: failure.confirmed_shards,
            n_shards: committee.n_shards(),
            quorum_shards: bft::min_quorum(committee.n_shards()),
            failures: failure.failures.iter().map(describe).collect(),
        }
    }
}

impl Client {
    /// What an answer means to the upload, with a confirmation's verified signature.
    async fn upload_input(
        &self,
        member: usize,
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
            (Ask::Confirm, Ok(Response::Confirmed { epoch, signature })) if epoch == fact.epoch => {
                let key = self.view.committee().members()[member].bls_key;
                let (chain, fact) = (*self.view.chain(), *fact);
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

    /// Hands the certificate to a member; whether it keeps it.
    async fn offer(&self, member: usize, header: BlobHeader, certificate: Certificate) -> bool {
        let started = Instant::now();
        let mut attempts = 0;
        while attempts < CERTIFY_ATTEMPTS && started.elapsed() < CERTIFY_BUSY_MAX {
            let request = Request::Certify { header, certificate: certificate.clone() };
            let mut delay = CERTIFY_RETRY_DELAY;
            match self.ask(member, request).await {
                Ok(Response::Certified) => return true,
                Ok(Response::Refused(Refusal::Busy { retry_after_ms })) => {
                    let wanted = Duration::from_millis(retry_after_ms.into());
                    delay = wanted.clamp(CERTIFY_RETRY_DELAY, CERTIFY_BUSY_DELAY_MAX);
                }
                Ok(_) | Err(_) => attempts += 1,
            }
            tokio::time::sleep(delay).await;
        }
        false
    }

    /// Hands the certificate to every member; done when at least one honest node keeps it.
    async fn publish(
        &self,
        header: BlobHeader,
        certificate: Certificate,
    ) -> Result<Certificate, StoreError> {
        let committee = self.view.committee();
        let mut kept = QuorumTracker::new(committee);
        let mut offers = JoinSet::new();
        for member in 0..committee.members().len() {
            let (client, certificate) = (self.clone(), certificate.clone());
            offers.spawn(async move {
                client.offer(member, header, certificate).await.then_some(member)
            });
        }
        while let Some(offer) = offers.join_next().await {
            if let Ok(Some(member)) = offer {
                kept.add(committee, member);
            }
            if committee.is_validity(kept.weight()) {
                // The rest learn of it too: from this client while it lives, or by gossip.
                offers.detach_all();
                return Ok(certificate);
            }
        }
        Err(StoreError::NotPublished { shards: kept.weight(), n_shards: committee.n_shards() })
    }
}

/// The first digits of a node id: enough for people to tell nodes apart.
pub(super) fn short(node: &floe_protocol::keys::NodeId) -> String {
    node.to_string()[..12].to_owned()
}
