//! Whole blocks.
//!
//! A block is proven by its certificate; one of an epoch whose committee is forgotten, by members
//! that weigh more than all faulty ones together and name the same header.

use std::collections::BTreeMap;

use floe_protocol::{
    committee::QuorumTracker,
    index::Height,
    keys::{ChainId, NodeId},
    ledger::{Block, BlockHash},
    light::{CertifiedHeader, Finality, LightError, VerifiedHeader},
    message::{CertifiedBlock, LedgerRequest, LedgerResponse},
};

use super::{LedgerClient, LedgerError, NodeFault, Purpose, asker::Faults};
use crate::client::blocking;

/// A block that a quorum has committed, or of which an honest member at least says so.
#[derive(Clone, Debug)]
pub struct VerifiedBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// The block.
    pub block: Block,
    /// Shards of the members in its certificate; none if it is not of the running epoch.
    pub signed_shards: Option<u16>,
}

impl LedgerClient {
    /// A committed block; none above the newest height.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn block(&self, height: Height) -> Result<Option<VerifiedBlock>, LedgerError> {
        let known = |client: &Self| {
            client.known_header().is_some_and(|header| header.header().height >= height)
        };
        if height.get() == 0 {
            return Ok(None);
        }
        if !known(self) {
            self.fresh(Purpose::Read).await?;
            if !known(self) {
                return Ok(None);
            }
        }
        // Certificates of epochs before the first committee known can't be judged.
        let judged = self.asker.question("a block", |node| self.judged_block(node, height)).await?;
        match judged {
            Ok(block) => Ok(Some(block)),
            Err(()) => self.witnessed_block(height).await.map(Some),
        }
    }

    async fn told_block(
        &self,
        node: NodeId,
        height: Height,
    ) -> Result<(Block, CertifiedBlock), NodeFault> {
        let answer = self.asker.ask(node, LedgerRequest::Block { height }).await?;
        let LedgerResponse::Block(told) = answer else { return Err(NodeFault::WrongAnswer) };
        let told = told.ok_or(NodeFault::Behind)?;
        let chain = self.chain;
        let checked =
            blocking(move || check_body(&told, height, &chain).map(|block| (block, told)));
        checked.await.map_err(|error| self.asker.caught(node, error))
    }

    /// A block with its certificate verified; the inner error says that nobody can.
    async fn judged_block(
        &self,
        node: NodeId,
        height: Height,
    ) -> Result<Result<VerifiedBlock, ()>, NodeFault> {
        let (block, told) = self.told_block(node, height).await?;
        let certified = CertifiedHeader { header: block.header, certificate: told.certificate };
        let header = match self.asker.accept(node, certified).await {
            Ok(header) => header,
            Err(NodeFault::Behind) => return Ok(Err(())),
            Err(fault) => return Err(fault),
        };
        let signed_shards = self.signed_shards(&header);
        Ok(Ok(VerifiedBlock { hash: header.hash(), block, signed_shards }))
    }

    /// Shards of the members that signed for a header of the running epoch.
    fn signed_shards(&self, header: &VerifiedHeader) -> Option<u16> {
        let committee = self.committee();
        if committee.epoch() != header.header().epoch {
            return None;
        }
        let Finality::Commit(certificate) = &header.told().finality else { return None };
        let mut weight = QuorumTracker::new(&committee);
        for signature in &certificate.signatures {
            weight.add(&committee, signature.position.into());
        }
        Some(weight.weight())
    }

    /// A block of an epoch whose committee is forgotten: the header that members with more than
    /// `f` shards name alike.
    async fn witnessed_block(&self, height: Height) -> Result<VerifiedBlock, LedgerError> {
        let committee = self.committee();
        let mut witnesses: BTreeMap<BlockHash, QuorumTracker> = BTreeMap::new();
        let mut faults = Faults::default();
        for node in self.asker.candidates() {
            let (block, _) = match self.told_block(node, height).await {
                Ok(told) => told,
                Err(fault) => {
                    faults.add(node, fault);
                    continue;
                }
            };
            let hash = block.header.hash();
            let weight = witnesses.entry(hash).or_insert_with(|| QuorumTracker::new(&committee));
            if let Some(position) = committee.position(&node) {
                weight.add(&committee, position);
            }
            if committee.is_validity(weight.weight()) {
                return Ok(VerifiedBlock { hash, block, signed_shards: None });
            }
        }
        Err(self.asker.no_answer("an old block", &faults))
    }
}

/// Checks that a block is of the height asked for and that its header binds its body.
fn check_body(told: &CertifiedBlock, height: Height, chain: &ChainId) -> Result<Block, LightError> {
    let block = Block::from_bytes(&told.block).map_err(|_| LightError::OtherAnswer)?;
    let header = &block.header;
    let bound = header.height == height
        && header.transactions_root == block.body.transactions_root(chain)
        && header.commit_record == block.body.commit_record.hash();
    if bound { Ok(block) } else { Err(LightError::OtherAnswer) }
}
