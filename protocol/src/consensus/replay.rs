//! A height begins: fresh, or where its journal left it.
//!
//! The core is fed what it was fed before, in the same order, so it stands where it stood; what it
//! wants signed on the way was signed before and is taken from the journal, and what had not
//! reached the journal is made anew.

use std::sync::Arc;

use malachite_types::{Round, Timeout, TimeoutKind, VoteExtensionPolicy};

use super::{
    context::to_core,
    error::Fault,
    event::Validity,
    host::Host,
    journal::{JournalEntry, Step},
    replica::{CoreInput, Running},
};
use crate::ledger::Block;

impl Running {
    /// Starts the height and replays its journal.
    pub(super) fn begin(&mut self, journal: &[JournalEntry]) -> Result<(), Fault> {
        // Whoever abstains has no journal worth replaying: it would lead to votes.
        let journal = if self.host.abstain { &[] } else { journal };
        for entry in journal {
            if let JournalEntry::Vote(vote) = entry
                && vote.vote.voter == self.host.me()
                && vote.vote.height == self.host.height
            {
                self.host.remember(*vote);
            }
        }
        if !journal.is_empty() {
            self.host.begin_replay(journal);
            // Marks what follows as replayed: no bound on rounds. Own votes are compared by the
            // host, so the core's index stays empty.
            self.core.index_wal_entries(std::iter::empty());
        }
        let validators = self.host.validators.clone();
        let policy = VoteExtensionPolicy::Disabled;
        let height = self.host.height;
        self.feed(CoreInput::StartHeight(height, validators, false, None, policy))?;
        for entry in journal {
            self.replay(entry)?;
        }
        self.core.reset_entries_index();
        self.host.end_replay(self.round());
        Ok(())
    }

    fn replay(&mut self, entry: &JournalEntry) -> Result<(), Fault> {
        let me = self.host.me();
        match entry {
            JournalEntry::Vote(vote) if vote.vote.height == self.host.height => {
                self.host.precommits.add(&self.host.committee, &vote.vote, vote.signature);
                self.feed(CoreInput::Vote(to_core(vote)))
            }
            JournalEntry::Proposal(signed) if signed.proposal.header.height == self.host.height => {
                let hash = signed.proposal.header.hash();
                let round = signed.proposal.round;
                if self.host.blocks.offer(round, &hash).is_none() {
                    self.host.blocks.offer_add(**signed, hash);
                }
                let in_time = self.host.is_in_time(&signed.proposal.header);
                self.host.blocks.entry(hash, signed.proposal.header, round, in_time);
                self.feed(CoreInput::Proposal(Host::core_proposal(signed, hash)))
            }
            JournalEntry::Block { block, in_time } => {
                let (hash, header) = (block.header.hash(), block.header);
                let round = header.round;
                let candidate = self.host.blocks.entry(hash, header, round, *in_time);
                candidate.block = Some(Arc::new(Block::clone(block)));
                candidate.validity = Some(Validity::Valid);
                candidate.in_time = *in_time || header.proposer == me;
                Ok(())
            }
            JournalEntry::Value { block, round, valid } => {
                if let Some(candidate) = self.host.blocks.get_mut(block) {
                    candidate.told = true;
                    let validity = if *valid { Validity::Valid } else { Validity::Invalid };
                    candidate.validity = Some(validity);
                }
                self.tell(*block, *round, *valid)
            }
            JournalEntry::Timeout { step, round } => {
                let kind = match step {
                    Step::Propose => TimeoutKind::Propose,
                    Step::Prevote => TimeoutKind::Prevote,
                    Step::Precommit => TimeoutKind::Precommit,
                };
                self.feed(CoreInput::TimeoutElapsed(Timeout::new(Round::new(*round), kind)))
            }
            JournalEntry::Polka(polka) if polka.height == self.host.height => {
                self.feed_polka(polka)
            }
            // Of another height: not ours to replay.
            JournalEntry::Vote(_) | JournalEntry::Proposal(_) | JournalEntry::Polka(_) => Ok(()),
        }
    }
}
