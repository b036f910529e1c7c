//! Storing blobs: plan, pay, upload, certify.
//!
//! ```text
//!   prepare: encode, ask the ledger what is to be paid ([`StorePlan`])
//!   pay:     one transaction registers or extends all blobs of the batch
//!   upload:  each blob to a quorum of confirmations, some at a time
//!   certify: one transaction commits all certificates: the point of availability
//!   tail:    the nodes that were slow still get their slivers, for a bounded time
//! ```
//!
//! Nothing is remembered between runs: what was paid and what nodes hold is asked of them, so a
//! store that was cut off anywhere is resumed by repeating it, and pays once. When an epoch ends
//! between confirmations and certificate, the new committee confirms and the blobs are certified
//! then; their registrations stay.

mod batch;

use std::sync::Arc;

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId},
    certificate::Certificate,
    encoding::{self, EncodedBlob},
    index::Epoch,
    keys::{KeyPair, NodeId},
    ledger::{AccountId, Amount, Key, Operation, Record, TransactionId},
    registration::RegistrationId,
    transfer::{MemberFailure, StorePlan, Wanted},
};
use tokio::{sync::watch, time::Instant};

use self::batch::Batch;
use super::{
    Client, LedgerError, StoreError, blocking, elapsed_ms,
    ledger::Purpose,
    threads,
    upload::{StoreProgress, encoded_bytes},
};

/// Blobs that are registered, and certified, in one transaction: some 10 KiB of certificates.
pub const STORE_BATCH_MAX: usize = 32;

/// A blob that is encoded, and what storing it will do and cost.
#[derive(Clone, Debug)]
pub struct PreparedStore {
    encoded: Arc<EncodedBlob>,
    wanted: Wanted,
    plan: StorePlan,
    price: Amount,
    encode_ms: u64,
}

impl PreparedStore {
    /// The blob.
    #[must_use]
    pub fn blob(&self) -> BlobId {
        self.encoded.id()
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &BlobHeader {
        self.encoded.header()
    }

    /// What is to be done on the ledger.
    #[must_use]
    pub const fn plan(&self) -> &StorePlan {
        &self.plan
    }

    /// What it costs, fees not included, and at most: the ledger takes no more.
    #[must_use]
    pub const fn price(&self) -> Amount {
        self.price
    }

    /// Bytes of all slivers.
    #[must_use]
    pub fn encoded_bytes(&self) -> u64 {
        encoded_bytes(&self.encoded)
    }

    /// What is to be paid, as an operation, if anything.
    fn operation(&self) -> Option<Operation> {
        self.plan.payment(self.header(), self.wanted, self.price)
    }
}

/// What a store did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it was stored for as long before.
    AlreadyStored,
    /// It was stored before, and now is for longer.
    Extended,
    /// An earlier store, paid for but cut off, was brought to its end.
    Resumed,
    /// It was registered, stored and certified.
    Stored,
}

/// A stored blob.
#[derive(Clone, Debug)]
pub struct StoreReport {
    /// Its id.
    pub blob: BlobId,
    /// Its header.
    pub header: BlobHeader,
    /// What was done.
    pub outcome: Outcome,
    /// The caller's registration; none if somebody else's permanent one keeps the blob.
    pub registration: Option<RegistrationId>,
    /// The first epoch in which the blob may be gone.
    pub end: Epoch,
    /// What was paid for it at most, fees not included: less only if an epoch with lower prices
    /// has begun in the moment of paying.
    pub paid: Amount,
    /// The transaction that paid, which it may share with others.
    pub payment: Option<TransactionId>,
    /// The certificate that was committed now: from here on the swarm answers for the blob.
    pub certificate: Option<Certificate>,
    /// The transaction that committed it.
    pub certification: Option<TransactionId>,
    /// Shards whose holders have confirmed now; none if nothing had to be confirmed.
    pub confirmed_shards: Option<u16>,
    /// Bytes of all slivers.
    pub encoded_bytes: u64,
    /// Time to encode.
    pub encode_ms: u64,
    /// Time from the first request to the committed certificate.
    pub certify_ms: u64,
    /// Nodes that were given up.
    pub unreached: Vec<UnreachedNode>,
}

/// A node that did not take its slivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreachedNode {
    /// The node.
    pub node: NodeId,
    /// Shards that it holds.
    pub shards: u16,
    /// Why it was given up.
    pub reason: MemberFailure,
}

impl Client {
    /// Stores a blob and returns once it is certified and the tail has been served.
    ///
    /// Storing again what is stored pays and sends nothing; storing again what was interrupted
    /// pays nothing and sends only what is missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn store(
        &self,
        blob: Bytes,
        wanted: Wanted,
        wallet: &KeyPair,
        progress: &watch::Sender<StoreProgress>,
    ) -> Result<StoreReport, StoreError> {
        let owner = AccountId::new(wallet.public());
        let prepared = self.prepare_store(blob, wanted, owner).await?;
        let mut stored = self.store_prepared(vec![prepared], wallet, progress).await;
        stored.pop().expect("one result for each blob")
    }

    /// Encodes a blob and asks the ledger what storing it for `owner` will do and cost. Pays and
    /// sends nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prepare_store(
        &self,
        blob: Bytes,
        wanted: Wanted,
        owner: AccountId,
    ) -> Result<PreparedStore, StoreError> {
        let (len, max_bytes) = (blob.len() as u64, self.parameters.max_blob_bytes);
        if len > max_bytes {
            return Err(StoreError::TooLarge { len, max_bytes });
        }
        let started = Instant::now();
        let config = self.encoding;
        let encoded = blocking(move || encoding::encode(config, blob, threads())).await?;
        let encode_ms = elapsed_ms(started);
        let (plan, price) = self.plan_store(encoded.header(), wanted, owner).await?;
        Ok(PreparedStore { encoded: Arc::new(encoded), wanted, plan, price, encode_ms })
    }

    /// What storing a blob of this header for `owner` will do and cost, fees not included.
    async fn plan_store(
        &self,
        header: &BlobHeader,
        wanted: Wanted,
        owner: AccountId,
    ) -> Result<(StorePlan, Amount), StoreError> {
        let blob = header.id();
        let keys = [Key::Summary, Key::Blob(blob)];
        let facts = self.ledger.facts(&keys, Purpose::Decide).await?.value;
        let [Some(Record::Summary(summary)), record] = facts.as_slice() else {
            return Err(LedgerError::Stopped.into());
        };
        let known = match record {
            Some(Record::Blob(known)) => Some(*known),
            _ => None,
        };
        // A blob that the ledger does not know has no registrations.
        let own = match known {
            Some(_) => self.ledger.registrations_of(owner, blob).await?.value,
            None => Vec::new(),
        };
        let plan = StorePlan::new(summary.epoch, wanted, known.as_ref(), &own)?;
        let price = plan.price(header, wanted, &summary.prices);
        Ok((plan, price.ok_or(LedgerError::Overflow)?))
    }

    /// Stores what was prepared: pays for all in one transaction, uploads, and certifies all in
    /// another one, [`STORE_BATCH_MAX`] at a time. One result for each, in their order; a blob that
    /// fails does not hold up the others.
    pub async fn store_prepared(
        &self,
        prepared: Vec<PreparedStore>,
        wallet: &KeyPair,
        progress: &watch::Sender<StoreProgress>,
    ) -> Vec<Result<StoreReport, StoreError>> {
        let mut results = Vec::with_capacity(prepared.len());
        let mut prepared = prepared.into_iter().peekable();
        while prepared.peek().is_some() {
            let batch = prepared.by_ref().take(STORE_BATCH_MAX).collect();
            results.extend(Box::pin(Batch::new(self, batch, wallet, progress).run()).await);
        }
        results
    }
}
