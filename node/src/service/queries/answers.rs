//! What the store answers.

use std::sync::Arc;

use floe_protocol::{
    index::{Epoch, Height},
    ledger::{
        Block, SignedTransaction, State, StateProof, StateReader, SystemOperation, TransactionId,
        VerifiedTransaction,
    },
    light::{CertifiedHeader, Inclusion},
    message::{
        CertifiedBlock, Handover, IndexQuery, LedgerRequest, LedgerResponse, SubmitError,
        ledger::{MAX_FACTS_BYTES, MAX_HANDOVERS_BYTES},
    },
};
use floe_storage::{LedgerStore, StorageError};

use crate::service::ledger::{Ledger, wall_clock};

/// Bytes of blocks that one answer carries, at most; a block always fits.
const BLOCKS_BYTES: usize = 1 << 20;

/// Reads the ledger. Every method blocks.
#[derive(Debug)]
pub(super) struct Answers {
    ledger: Ledger,
}

/// Why there is no answer: the store failed, which stops the node elsewhere too.
#[derive(Debug, thiserror::Error)]
enum ReadFailure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    State(#[from] floe_protocol::ledger::ReadError),
}

impl Answers {
    pub(super) const fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }

    fn store(&self) -> &LedgerStore {
        self.ledger.store()
    }

    /// Judges a transaction on its own, and against the newest state if it is the sender's next.
    pub(super) fn check(
        &self,
        signed: SignedTransaction,
    ) -> Result<Arc<VerifiedTransaction>, SubmitError> {
        let state = self.state();
        let verified = signed.verify(state.chain()).map_err(|error| SubmitError::from(&error))?;
        match state.check(self.store(), &verified, wall_clock()) {
            Ok(Ok(())) | Err(_) => Ok(Arc::new(verified)),
            Ok(Err(error)) => Err(SubmitError::from(&error)),
        }
    }

    /// Judges a system operation against the newest state.
    pub(super) fn check_system(&self, operation: &SystemOperation) -> Result<(), SubmitError> {
        match self.state().check_system(self.store(), operation) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(SubmitError::from(&error)),
        }
    }

    /// The proof that a transaction is committed, if it is.
    pub(super) fn inclusion(&self, id: &TransactionId) -> Option<Inclusion> {
        let found = || -> Result<Option<Inclusion>, ReadFailure> {
            let Some((height, index)) = self.store().transaction(id)? else { return Ok(None) };
            let Some((block, certificate)) = self.block(height)? else { return Ok(None) };
            let certified = CertifiedHeader { header: block.header, certificate };
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            Ok(Inclusion::new(self.state().chain(), certified, &block.body, index))
        };
        logged(found()).flatten()
    }

    /// Answers what only needs reading. An empty answer where the store fails.
    pub(super) fn read(&self, request: &LedgerRequest) -> LedgerResponse {
        match request {
            LedgerRequest::Tip => {
                let tip = self.state().tip().height;
                LedgerResponse::Tip(logged(self.certified(tip)).flatten())
            }
            LedgerRequest::Facts { height, keys } => {
                let facts = self.facts(*height, keys);
                let (header, proofs) = logged(facts).unwrap_or_default();
                LedgerResponse::Facts { header, proofs }
            }
            LedgerRequest::Handovers { from, max } => {
                let handovers = logged(self.handovers(*from, *max)).unwrap_or_default();
                LedgerResponse::Handovers { handovers }
            }
            LedgerRequest::Blocks { from, max_bytes } => {
                let max_bytes = usize::try_from(*max_bytes).unwrap_or(usize::MAX);
                let blocks = logged(self.blocks(*from, max_bytes.min(BLOCKS_BYTES)));
                LedgerResponse::Blocks { blocks: blocks.unwrap_or_default() }
            }
            LedgerRequest::Index { query, after, limit } => {
                let entries = self.index(query, after.as_deref(), usize::from(*limit));
                LedgerResponse::Index { entries: logged(entries).unwrap_or_default() }
            }
            LedgerRequest::Block { height } => {
                let block = logged(self.blocks(*height, 1)).unwrap_or_default();
                LedgerResponse::Block(block.into_iter().next())
            }
            LedgerRequest::Submit { .. }
            | LedgerRequest::SubmitSystem(_)
            | LedgerRequest::Transaction { .. } => {
                unreachable!("answered before: they are not reads")
            }
        }
    }

    fn certified(&self, height: Height) -> Result<Option<CertifiedHeader>, ReadFailure> {
        let header = self.store().header(height)?;
        let certificate = self.store().certificate(height)?;
        let certified = header.zip(certificate);
        Ok(certified.map(|(header, certificate)| CertifiedHeader { header, certificate }))
    }

    fn block(
        &self,
        height: Height,
    ) -> Result<Option<(Block, floe_protocol::vote::CommitCertificate)>, ReadFailure> {
        let block = self.store().block(height)?;
        Ok(block.zip(self.store().certificate(height)?))
    }

    /// As many proofs as an answer can carry; none for a height that is not, or no longer, here.
    fn facts(
        &self,
        height: Option<Height>,
        keys: &[floe_protocol::ledger::Key],
    ) -> Result<(Option<CertifiedHeader>, Vec<StateProof>), ReadFailure> {
        let tip = self.state().tip().height;
        let height = height.unwrap_or(tip);
        let oldest = tip.get().saturating_sub(floe_storage::STATE_HEIGHTS);
        if height > tip || height.get() < oldest {
            return Ok((None, Vec::new()));
        }
        let header = self.certified(height)?;
        let mut proofs = Vec::with_capacity(keys.len());
        let mut bytes = borsh::object_length(&header).unwrap_or(0);
        for key in keys {
            let proof = StateProof::new(self.store(), height.get(), key)?;
            bytes += borsh::object_length(&proof).unwrap_or(MAX_FACTS_BYTES);
            if bytes > MAX_FACTS_BYTES / 2 && !proofs.is_empty() {
                break;
            }
            proofs.push(proof);
        }
        Ok((header, proofs))
    }

    fn handovers(&self, from: Epoch, max: u8) -> Result<Vec<Handover>, ReadFailure> {
        let mut handovers = Vec::new();
        let mut bytes = 0;
        for epoch in (from.get()..).take(max.into()).map(Epoch::new) {
            let Some(height) = self.store().epoch_end(epoch)? else { break };
            let Some(last) = self.certified(height)? else { break };
            let Some(committee) = self.committee_after(&last, epoch.plus(1))? else { break };
            let handover = Handover { last, committee };
            bytes += borsh::object_length(&handover).unwrap_or(MAX_HANDOVERS_BYTES);
            if bytes > MAX_HANDOVERS_BYTES / 2 && !handovers.is_empty() {
                break;
            }
            handovers.push(handover);
        }
        Ok(handovers)
    }

    /// The layout of the committee that a handover names.
    fn committee_after(
        &self,
        last: &CertifiedHeader,
        epoch: Epoch,
    ) -> Result<Option<Vec<u8>>, ReadFailure> {
        Ok(self.store().committee(epoch)?.filter(|bytes| {
            let committee = floe_protocol::committee::Committee::from_bytes(bytes);
            committee.is_ok_and(|committee| committee.hash() == last.header.next_committee)
        }))
    }

    fn blocks(&self, from: Height, max_bytes: usize) -> Result<Vec<CertifiedBlock>, ReadFailure> {
        let mut blocks = Vec::new();
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

/// What was read; nothing if the store fails, which others notice and act on.
fn logged<T>(result: Result<T, ReadFailure>) -> Option<T> {
    result.inspect_err(|error| tracing::error!(%error, "a query could not be answered")).ok()
}
