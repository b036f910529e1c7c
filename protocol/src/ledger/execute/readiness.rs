//! What nodes report of themselves, and the committee of blobs that are inconsistent.
//!
//! Reports are free, so only a node with the least stake of a candidate can say that it is ready:
//! whoever wants to crowd the list of candidates has to lock that stake for each entry.

use super::Executor;
use crate::{
    index::Height,
    invalidity::InvalidityCertificate,
    ledger::{
        Event, IndexEntry, Key, NODE_READY_AGE_MAX_MS, NodeReady, OperationError, Record,
        ShardsReady, error::Failure,
    },
};

impl Executor<'_> {
    pub(super) fn node_ready(&mut self, report: &NodeReady) -> Result<(), Failure> {
        let mut node = self.registered(&report.node)?;
        if report.epoch != self.epoch() {
            return Err(OperationError::OtherEpoch { epoch: self.epoch() }.into());
        }
        if node.ready == Some(report.epoch) {
            return Err(OperationError::Reported.into());
        }
        let (stake, min) = (node.stake_in(report.epoch.plus(1)), self.parameters.ledger.min_stake);
        if stake < min {
            return Err(OperationError::MinStake { stake, min }.into());
        }
        let named = self.recent(report.height)?.filter(|(block, _)| *block == report.block);
        let age = named.map(|(_, time)| self.time.ms_since(time));
        if age.is_none_or(|age| age > NODE_READY_AGE_MAX_MS) {
            return Err(OperationError::OldBlock(report.height).into());
        }
        if !report.verify(self.chain) {
            return Err(OperationError::Report.into());
        }
        node.ready = Some(report.epoch);
        node.ready_stake = stake;
        self.overlay.add_index(IndexEntry::Ready(report.epoch, stake, report.node));
        self.put_node(report.node, node)?;
        let (node, epoch) = (report.node, report.epoch);
        self.events.push(Event::NodeReported { node, epoch });
        Ok(())
    }

    pub(super) fn shards_ready(&mut self, report: &ShardsReady) -> Result<(), Failure> {
        if report.epoch != self.epoch() {
            return Err(OperationError::OtherEpoch { epoch: self.epoch() }.into());
        }
        let own = self.committee.member(&report.node).map_or(&[][..], |member| &member.shards);
        let listed = report.shards.is_sorted_by(|a, b| a < b)
            && report.shards.iter().all(|shard| own.binary_search(shard).is_ok());
        if !listed {
            return Err(OperationError::ForeignShard.into());
        }
        let mut shards = self.overlay.shards()?;
        let mut changed = false;
        for shard in &report.shards {
            let record = shards.get_mut(shard.as_usize()).ok_or(OperationError::ForeignShard)?;
            changed |= record.report_ready(report.node, self.time);
        }
        if !changed {
            return Err(OperationError::Reported.into());
        }
        if !report.verify(self.chain) {
            return Err(OperationError::Report.into());
        }
        self.overlay.put(Key::Shards, Record::Shards(shards))?;
        let (node, shards) = (report.node, report.shards.clone());
        self.events.push(Event::ShardsCompleted { node, shards });
        Ok(())
    }

    pub(super) fn invalidate_blob(&mut self, certificate: &[u8]) -> Result<(), Failure> {
        let certificate = InvalidityCertificate::from_bytes(certificate)?;
        let id = certificate.fact.blob;
        let mut blob = self.overlay.blob(&id)?.ok_or(OperationError::NoBlob)?;
        if blob.invalid {
            return Err(OperationError::BlobInvalid.into());
        }
        self.spend_on_certificate(certificate.signers(self.committee).count())?;
        certificate.verify(self.committee, self.chain)?;
        blob.invalid = true;
        self.overlay.put(Key::Blob(id), Record::Blob(blob))?;
        self.events.push(Event::BlobInvalidated { blob: id });
        Ok(())
    }

    /// Hash and time of a recent block, the parent included.
    fn recent(
        &mut self,
        height: Height,
    ) -> Result<Option<(crate::ledger::BlockHash, crate::ledger::Timestamp)>, Failure> {
        if height.next() == self.height {
            return Ok(Some(self.parent));
        }
        let presence = self.overlay.presence(height)?;
        Ok(presence.map(|presence| (presence.block, presence.time)))
    }
}
