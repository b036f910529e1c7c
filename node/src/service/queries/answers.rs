//! What the store answers.

use std::sync::Arc;

use floe_protocol::{
    index::{Epoch, Height},
    ledger::{
        Header, Key, OperationError, ReadError, SignedTransaction, State, StateProof, StateReader,
        SystemOperation, TransactionError, TransactionId, VerifiedTransaction,
    },
    light::{CertifiedHeader, FinalHeader, Finality, Inclusion},
    message::{
        CertifiedBlock, Handover, IndexQuery, LedgerRequest, LedgerResponse, SubmitError,
        ledger::{MAX_FACTS_BYTES, MAX_HANDOVERS_BYTES},
    },
};
use floe_storage::{LedgerStore, StorageError};
use tokio::sync::watch;

use crate::service::{
    handovers::Signatures,
    judging::{BlsBudget, by_newest, check_certificates},
    ledger::Ledger,
    snapshot::Snapshots,
};

/// Bytes of blocks that one answer carries, at most; a block always fits.
const BLOCKS_BYTES: usize = 1 << 20;

/// Reads the ledger. Every method blocks.
#[derive(Debug)]
pub(super) struct Answers {
    ledger: Ledger,
    snapshots: Snapshots,
    handovers_signed: watch::Receiver<Signatures>,
}

/// Why there is no answer: the store failed, which stops the node elsewhere too, or the node runs
/// so far ahead that each state is forgotten while it is read. Whoever asked is told nothing, for
/// an empty answer would be a lie.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    State(#[from] ReadError),
    #[error("block {0} is committed, but not in the store")]
    Block(Height),
}

impl Answers {
    pub(super) const fn new(
        ledger: Ledger,
        snapshots: Snapshots,
        handovers_signed: watch::Receiver<Signatures>,
    ) -> Self {
        Self { ledger, snapshots, handovers_signed }
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }

    fn store(&self) -> &LedgerStore {
        self.ledger.store()
    }

    /// Judges each transaction on its own, and against the newest state if it is its sender's
    /// next. One result for each.
    pub(super) fn check(
        &self,
        transactions: &[Vec<u8>],
    ) -> Result<Vec<Result<Arc<VerifiedTransaction>, SubmitError>>, ReadFailure> {
        let mut budget = BlsBudget::default();
        let mut malformed = Vec::with_capacity(transactions.len());
        let mut parsed = Vec::with_capacity(transactions.len());
        for bytes in transactions {
            match SignedTransaction::from_bytes(bytes) {
                Ok(signed) => {
                    parsed.push(signed);
                    malformed.push(None);
                }
                Err(error) => malformed.push(Some(error)),
            }
        }
        let mut verified = SignedTransaction::verify_all(parsed, self.state().chain()).into_iter();
        let judge = |malformed: Option<TransactionError>| {
            let verified = match malformed {
                Some(error) => Err(error),
                None => verified.next().expect("one result for each that was parsed"),
            };
            let verified = match verified {
                Ok(verified) => verified,
                Err(error) => return Ok(Err(SubmitError::from(&error))),
            };
            if !budget.allows(verified.transaction()) {
                return Ok(Err(SubmitError::Full));
            }
            let checked = by_newest(|| self.state(), |state| self.checked(state, &verified))?;
            Ok(checked.map(|()| Arc::new(verified)).map_err(|error| SubmitError::from(&error)))
        };
        malformed.into_iter().map(judge).collect()
    }

    /// What is taken here is told to others, who convict those that tell wrong certificates.
    fn checked(
        &self,
        state: &State,
        verified: &VerifiedTransaction,
    ) -> Result<Result<(), OperationError>, ReadError> {
        let transaction = verified.transaction();
        // By the ledger's time: a wrong clock here is no reason to turn wallets away.
        let checked = state.check(self.store(), verified, state.tip().time)?;
        let next = state.account(self.store(), &transaction.sender)?.nonce;
        if checked.is_ok() && transaction.nonce > next {
            return check_certificates(state, self.store(), transaction);
        }
        Ok(checked)
    }

    /// Judges a system operation against the newest state.
    pub(super) fn check_system(
        &self,
        operation: &SystemOperation,
    ) -> Result<Result<(), SubmitError>, ReadFailure> {
        let checked =
            by_newest(|| self.state(), |state| state.check_system(self.store(), operation))?;
        Ok(checked.map_err(|error| SubmitError::from(&error)))
    }

    /// The proof that a transaction is committed, if it is.
    pub(super) fn inclusion(&self, id: &TransactionId) -> Result<Option<Inclusion>, ReadFailure> {
        let Some((height, index)) = self.store().transaction(id)? else { return Ok(None) };
        let block = self.store().block(height)?;
        let (block, certificate) =
            block.zip(self.store().certificate(height)?).ok_or(ReadFailure::Block(height))?;
        let certified = CertifiedHeader { header: block.header, certificate };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        Ok(Inclusion::new(self.state().chain(), certified, &block.body, index))
    }

    /// Answers what only needs reading; nothing if there is no answer to a question about a state
    /// that is not, or no longer, here.
    pub(super) fn read(
        &self,
        request: &LedgerRequest,
    ) -> Result<Option<LedgerResponse>, ReadFailure> {
        Ok(Some(match request {
            LedgerRequest::Tip => LedgerResponse::Tip(self.certified(self.state().tip().height)?),
            LedgerRequest::Facts { height, keys } => return self.facts(*height, keys),
            LedgerRequest::Handovers { from, max } => {
                LedgerResponse::Handovers { handovers: self.handovers(*from, *max)? }
            }
            LedgerRequest::Blocks { from, max_bytes } => {
                let max_bytes = usize::try_from(*max_bytes).unwrap_or(usize::MAX);
                let blocks = self.blocks(*from, max_bytes.min(BLOCKS_BYTES))?;
                LedgerResponse::Blocks { blocks }
            }
            LedgerRequest::Index { query, after, limit } => {
                let entries = self.index(query, after.as_deref(), usize::from(*limit))?;
                LedgerResponse::Index { entries }
            }
            LedgerRequest::Block { height } => {
                LedgerResponse::Block(self.blocks(*height, 1)?.into_iter().next())
            }
            LedgerRequest::Snapshot { height } => {
                let offer = self.snapshots.offer(*height);
                LedgerResponse::Snapshot(offer.map(|offer| Box::new((*offer).clone())))
            }
            LedgerRequest::SnapshotChunk { height, index } => {
                LedgerResponse::SnapshotChunk(self.snapshots.chunk(*height, *index))
            }
            LedgerRequest::SignHandover { epoch } => {
                let signature = self.handovers_signed.borrow().get(epoch).copied();
                LedgerResponse::HandoverSigned(signature)
            }
            LedgerRequest::Submit { .. }
            | LedgerRequest::SubmitSystem(_)
            | LedgerRequest::Transaction { .. } => {
                unreachable!("answered before: they are not reads")
            }
        }))
    }

    /// The header of a committed height; none for the genesis, which has none.
    fn certified(&self, height: Height) -> Result<Option<CertifiedHeader>, ReadFailure> {
        if height == Height::new(0) {
            return Ok(None);
        }
        let header = self.store().header(height)?;
        let (header, certificate) =
            header.zip(self.store().certificate(height)?).ok_or(ReadFailure::Block(height))?;
        Ok(Some(CertifiedHeader { header, certificate }))
    }

    /// As many proofs as an answer can carry; nothing for a height that is not, or no longer, here.
    /// No header only means the genesis.
    fn facts(
        &self,
        height: Option<Height>,
        keys: &[Key],
    ) -> Result<Option<LedgerResponse>, ReadFailure> {
        let tip = self.state().tip().height;
        let height = height.unwrap_or(tip);
        if height > tip || !self.is_kept(height) {
            return Ok(None);
        }
        let header = self.certified(height)?;
        let mut proofs = Vec::with_capacity(keys.len());
        let mut bytes = borsh::object_length(&header).unwrap_or(0);
        for key in keys {
            let proof = match StateProof::new(self.store(), height.get(), key) {
                Ok(proof) => proof,
                // It was forgotten while it was read.
                Err(_) if !self.is_kept(height) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            bytes += borsh::object_length(&proof).unwrap_or(MAX_FACTS_BYTES);
            if bytes > MAX_FACTS_BYTES / 2 && !proofs.is_empty() {
                break;
            }
            proofs.push(proof);
        }
        Ok(Some(LedgerResponse::Facts { header, proofs }))
    }

    /// Whether the state after a height can still be read.
    fn is_kept(&self, height: Height) -> bool {
        self.store().oldest_state().is_some_and(|oldest| height >= oldest)
    }

    fn handovers(&self, from: Epoch, max: u8) -> Result<Vec<Handover>, ReadFailure> {
        let mut handovers = Vec::new();
        let mut bytes = 0;
        for epoch in (from.get()..=u64::MAX).take(max.into()).map(Epoch::new) {
            let Some(last) = self.epoch_end(epoch)? else { break };
            let Some(committee) = self.committee_after(&last.header)? else { break };
            let handover = Handover { last, committee };
            bytes += borsh::object_length(&handover).unwrap_or(MAX_HANDOVERS_BYTES);
            if bytes > MAX_HANDOVERS_BYTES / 2 && !handovers.is_empty() {
                break;
            }
            handovers.push(handover);
        }
        Ok(handovers)
    }

    /// The last header of an epoch, by its hand-over certificate if there is one.
    fn epoch_end(&self, epoch: Epoch) -> Result<Option<FinalHeader>, ReadFailure> {
        let store = self.store();
        let Some(height) = store.epoch_end(epoch)? else { return Ok(None) };
        let header = store.header(height)?.ok_or(ReadFailure::Block(height))?;
        let finality = match store.handover_certificate(epoch)? {
            Some(certificate) => Finality::Handover(certificate),
            None => {
                let certificate = store.certificate(height)?;
                Finality::Commit(certificate.ok_or(ReadFailure::Block(height))?)
            }
        };
        Ok(Some(FinalHeader { header, finality }))
    }

    /// The layout of the committee that the last header of an epoch names.
    fn committee_after(&self, last: &Header) -> Result<Option<Vec<u8>>, ReadFailure> {
        Ok(self.store().committee(last.epoch.plus(1))?.filter(|bytes| {
            let committee = floe_protocol::committee::Committee::from_bytes(bytes);
            committee.is_ok_and(|committee| committee.hash() == last.next_committee)
        }))
    }

    fn blocks(&self, from: Height, max_bytes: usize) -> Result<Vec<CertifiedBlock>, ReadFailure> {
        let mut blocks = Vec::new();
        if from > self.state().tip().height {
            return Ok(blocks);
        }
        for stored in self.store().blocks(from, max_bytes)? {
            let Ok(certificate) = borsh::from_slice(&stored.certificate) else { break };
            blocks.push(CertifiedBlock { block: stored.block, certificate });
        }
        Ok(blocks)
    }

    fn index(
        &self,
        query: &IndexQuery,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, ReadFailure> {
        let range = query.range();
        // The smallest entry above the last one that the asker has.
        let behind = after.map(|after| [after, &[0]].concat());
        let start = behind.filter(|behind| *behind > range.start).unwrap_or(range.start);
        if start >= range.end {
            return Ok(Vec::new());
        }
        Ok(self.store().index(&start..&range.end, limit)?)
    }
}
