//! The commit record: which precommits a block records, checked and counted.
//!
//! Nodes hold different valid certificates of one block. What counts is only what a later block
//! records: the parent's certificate, and precommits that came too late for it.

use super::Executor;
use crate::{
    committee::Committee,
    index::Height,
    ledger::{
        Attendance, BlockHash, CommitRecord, CommitRecordError, Key, LATE_PRECOMMIT_HEIGHTS,
        LatePrecommit, Presence, ReadError, Record, Timestamp,
    },
    vote::{SignedVote, Vote, VoteKind},
};

/// What stops a commit record.
pub(in crate::ledger) enum RecordFailure {
    /// It is wrong.
    Refused(CommitRecordError),
    /// The store failed.
    Read(ReadError),
}

impl From<ReadError> for RecordFailure {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<CommitRecordError> for RecordFailure {
    fn from(error: CommitRecordError) -> Self {
        Self::Refused(error)
    }
}

impl Executor<'_> {
    /// Checks the record against `parent`, voted on by `committee`, and counts what it records.
    pub(in crate::ledger) fn commit_record(
        &mut self,
        record: &CommitRecord,
        (parent, time): (BlockHash, Timestamp),
        committee: &Committee,
    ) -> Result<(), RecordFailure> {
        let parent_height = Height::new(self.height.get().saturating_sub(1));
        let certificate = match &record.parent {
            None if parent_height == Height::new(0) && record.late.is_empty() => return Ok(()),
            Some(certificate)
                if certificate.height == parent_height
                    && certificate.block == parent
                    && parent_height > Height::new(0) =>
            {
                certificate
            }
            Some(_) | None => return Err(CommitRecordError::Parent.into()),
        };
        certificate.verify(committee, self.chain).map_err(CommitRecordError::Certificate)?;
        let mut recorded = vec![false; committee.members().len()];
        for signature in &certificate.signatures {
            recorded[usize::from(signature.position)] = true;
        }
        let presence = Presence { block: parent, time, epoch: committee.epoch(), recorded };
        self.put_presence(parent_height, Some(presence))?;
        // First, so that what is no longer one of the last heights counts no more.
        let forgotten = parent_height.get().checked_sub(LATE_PRECOMMIT_HEIGHTS);
        if let Some(height) = forgotten.filter(|height| *height > 0).map(Height::new) {
            if let Some(presence) = self.overlay.presence(height)? {
                self.count_attendance(&presence)?;
            }
            self.put_presence(height, None)?;
        }
        self.late(&record.late)
    }

    /// Counts who was recorded for a height for which nobody can be recorded any more.
    fn count_attendance(&mut self, presence: &Presence) -> Result<(), ReadError> {
        if presence.epoch != self.committee.epoch() {
            return Ok(());
        }
        let mut attendance = self.attendance()?;
        attendance.heights = attendance.heights.saturating_add(1);
        for (count, recorded) in attendance.recorded.iter_mut().zip(&presence.recorded) {
            *count = count.saturating_add(u64::from(*recorded));
        }
        self.overlay.put(Key::Attendance, Record::Attendance(attendance))
    }

    /// Who was recorded in the running epoch so far.
    pub(super) fn attendance(&mut self) -> Result<Attendance, ReadError> {
        let epoch = self.committee.epoch();
        let counted = self.overlay.attendance()?.filter(|attendance| attendance.epoch == epoch);
        let none = || {
            let recorded = vec![0; self.committee.members().len()];
            Attendance { epoch, heights: 0, recorded }
        };
        Ok(counted.unwrap_or_else(none))
    }

    fn late(&mut self, late: &[LatePrecommit]) -> Result<(), RecordFailure> {
        let place = |precommit: &LatePrecommit| (precommit.height, precommit.position);
        let ascending = late.is_sorted_by(|a, b| place(a) < place(b));
        if !ascending || late.len() > usize::from(self.parameters.n_shards) {
            let height = late.last().map_or(self.height, |precommit| precommit.height);
            return Err(CommitRecordError::Late(height).into());
        }
        for precommit in late {
            let refused = CommitRecordError::Late(precommit.height);
            let presence = self.overlay.presence(precommit.height)?;
            let mut presence = presence.ok_or(refused)?;
            let committee = self.overlay.committee(presence.epoch)?;
            let committee = committee.and_then(|bytes| Committee::from_bytes(&bytes).ok());
            let committee = committee.ok_or(refused)?;
            let position = usize::from(precommit.position);
            let member = committee.members().get(position).ok_or(refused)?;
            let recorded = presence.recorded.get_mut(position).ok_or(refused)?;
            let vote = Vote {
                height: precommit.height,
                round: precommit.round,
                kind: VoteKind::Precommit,
                block: Some(presence.block),
                voter: member.node,
            };
            let signed = SignedVote { vote, signature: precommit.signature };
            if std::mem::replace(recorded, true) || !signed.verify(self.chain) {
                return Err(refused.into());
            }
            self.put_presence(precommit.height, Some(presence))?;
        }
        Ok(())
    }

    fn put_presence(
        &mut self,
        height: Height,
        presence: Option<Presence>,
    ) -> Result<(), ReadError> {
        self.overlay.put(Key::Presence(height), presence.map(Record::Presence))
    }
}
