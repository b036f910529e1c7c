//! The selection of the next committee, at half of an epoch.
//!
//! Candidates are the nodes that reported in this epoch that they follow the ledger, have the least
//! stake, are not jailed, and, if they are members, whose precommits were recorded for at least half
//! of the epoch's heights that are no longer open. So dead stake leaves the committee, whoever it
//! belongs to. What is fixed here holds for the whole next epoch: members with their keys and
//! shards, commissions, prices.
//!
//! At most [`CANDIDATES_MAX`] candidates are looked at, those who had most stake when they reported;
//! each has locked the least stake at least, so it takes so many times that sum to hide a node, and
//! its own stake as many times. If the candidates cannot carry all shards under the cap the
//! committee stays as it is.

use super::{Executor, epoch::HALVES_TO_RETURN};
use crate::{
    committee::{Candidate, Committee},
    keys::NodeId,
    ledger::{
        Event, IndexRange, Key, Node, NodeSettings, Prices, Record, Summary, Terms, error::Failure,
    },
};

/// Most nodes that a selection looks at: each is one record to read.
const CANDIDATES_MAX: usize = 4_096;

impl Executor<'_> {
    /// Selects the next committee, when `halves` half durations of the epoch are over.
    pub(super) fn select(&mut self, summary: &mut Summary, halves: u32) -> Result<(), Failure> {
        if summary.selections == 0 {
            self.note_paid_shards()?;
        }
        summary.selections = halves;
        let epoch = summary.epoch.plus(1);
        let candidates = self.candidates()?;
        let returning = self.returning(halves)?;
        let committee = match self.committee.reassigned(epoch, &candidates, &returning) {
            Ok(committee) => {
                summary.selection_failed = None;
                committee
            }
            Err(_) => {
                summary.selection_failed = Some(epoch);
                self.events.push(Event::SelectionFailed { epoch });
                self.committee.in_epoch(epoch)
            }
        };
        let settings = self.settings_of(&committee)?;
        let votes = settings.iter().map(|(weight, settings)| (*weight, settings));
        let prices = Prices::voted(votes, self.parameters.n_shards);
        summary.next_prices = Some(prices);
        self.overlay.put(Key::Summary, Record::Summary(*summary))?;
        let terms = settings.iter().map(|(weight, settings)| Terms {
            commission_bps: settings.commission_bps,
            paid_shards: *weight,
        });
        self.overlay.put(Key::Terms(epoch), Record::Terms(terms.collect()))?;
        self.overlay.put(Key::Committee(epoch), Record::Committee(committee.to_bytes()))?;
        self.events.push(Event::EpochSelected { epoch, prices });
        Ok(())
    }

    fn candidates(&mut self) -> Result<Vec<Candidate>, Failure> {
        let next = self.epoch().plus(1);
        let attendance = self.attendance()?;
        let mut candidates = Vec::new();
        for entry in self.overlay.index(&IndexRange::ready(self.epoch()), CANDIDATES_MAX)? {
            let Some(id) = entry.last_chunk().map(|id| NodeId::new(*id)) else { continue };
            let node = self.registered(&id)?;
            // Who holds no shard has no vote that could be recorded.
            let voter = self.committee.position(&id);
            let voter = voter.filter(|position| self.committee.members()[*position].weight() > 0);
            let absent = voter.is_some_and(|position| {
                let recorded = attendance.recorded.get(position).copied().unwrap_or(0);
                recorded.saturating_mul(2) < attendance.heights
            });
            let stake = node.stake_in(next);
            if node.jailed.is_none() && stake >= self.parameters.ledger.min_stake && !absent {
                let (bls_key, stake) = (node.bls_key, stake.frost());
                candidates.push(Candidate { node: id, bls_key, stake });
            }
        }
        Ok(candidates)
    }

    /// Per shard, who takes it back if it is eligible.
    fn returning(&mut self, halves: u32) -> Result<Vec<Option<NodeId>>, Failure> {
        if halves < HALVES_TO_RETURN {
            return Ok(Vec::new());
        }
        let shards = self.overlay.shards()?;
        let last = shards.iter().map(|shard| (!shard.is_ready()).then_some(shard.last_ready));
        Ok(last.collect())
    }

    /// Weight and settings of each member.
    fn settings_of(&mut self, committee: &Committee) -> Result<Vec<(u16, NodeSettings)>, Failure> {
        let mut settings = Vec::with_capacity(committee.members().len());
        for member in committee.members() {
            let node: Node = self.registered(&member.node)?;
            settings.push((member.weight(), node.settings));
        }
        Ok(settings)
    }
}
