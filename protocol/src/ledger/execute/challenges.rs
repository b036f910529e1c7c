//! Storage challenges: rounds open and close by the clock of the ledger, certificates pass members.
//!
//! A block first closes what is due, then opens a round if it is time: what the round asks for is
//! fixed by the state after this block. None opens once the epoch has lasted its duration, and none
//! while there is nothing to ask anybody for. Rounds that are open when the epoch ends count for
//! nobody.

use std::sync::Arc;

use super::Executor;
use crate::{
    challenge::{
        ChallengeCertificate, ChallengeCertificateError, ChallengeFact, RoundRecord, Universe,
        challenged_shards,
    },
    index::{ChallengeRound, Epoch},
    ledger::{Challenges, Event, Key, OperationError, ReadError, Record, Summary, error::Failure},
};

impl Executor<'_> {
    /// `is_known`: the certificate was verified before, and its signatures need no check.
    pub(super) fn pass_challenge(
        &mut self,
        certificate: &[u8],
        is_known: bool,
    ) -> Result<(), Failure> {
        let certificate = ChallengeCertificate::from_bytes(certificate)
            .map_err(ChallengeCertificateError::from)?;
        let ChallengeFact { epoch, round, node, .. } = *certificate.fact();
        if epoch != self.epoch() {
            return Err(OperationError::OtherEpoch { epoch: self.epoch() }.into());
        }
        let rules = &self.parameters.ledger.challenges;
        let mut challenges = self.challenges()?;
        let open = challenges.open_at(rules, round, (self.height, self.time));
        let open = open.ok_or(OperationError::ChallengeRound(round))?;
        let position = self.committee.position(&node);
        open.pass(position.ok_or(ChallengeCertificateError::NoMember(node))?)?;
        self.spend_on_certificate(certificate.signers(self.committee).count())?;
        if !is_known {
            certificate.verify(self.committee, self.chain)?;
        }
        self.put_challenges(challenges)?;
        self.events.push(Event::ChallengePassed { round, node });
        Ok(())
    }

    /// Closes and opens rounds as the block's time calls for; `stretched` if the epoch has lasted
    /// its duration.
    pub(super) fn rounds(&mut self, summary: &Summary, stretched: bool) -> Result<(), Failure> {
        self.follow_blobs()?;
        let rules = &self.parameters.ledger.challenges;
        let mut challenges = self.challenges()?;
        let mut changed = challenges.begin(self.time);
        let closed = challenges.close(rules, self.committee, (self.height, self.time));
        let opens = !stretched && challenges.opens(rules, summary.epoch_start, self.time);
        changed |= !closed.is_empty();
        for round in closed {
            let (round, outcomes) = (round.round, round.outcomes);
            self.events.push(Event::ChallengeClosed { round, outcomes });
        }
        if opens {
            changed |= self.open_round(&mut challenges)?;
        }
        if changed {
            self.put_challenges(challenges)?;
        }
        Ok(())
    }

    /// Opens a round if there is anything to ask for; whether that is noted.
    fn open_round(&mut self, challenges: &mut Challenges) -> Result<bool, Failure> {
        let rules = self.parameters.ledger.challenges;
        let cutoff = self.time.minus_ms(rules.grace_ms);
        self.units.advance(self.epoch(), cutoff);
        // In a network without blobs nothing is looked for, and no block made for it.
        if self.units.is_empty() {
            return Ok(false);
        }
        challenges.last = Some(self.time);
        let ready_since = self.overlay.shards()?.into_iter().map(|shard| shard.ready_since);
        let ready_since: Vec<_> = ready_since.collect();
        let universe = Universe {
            chain: *self.chain,
            round: ChallengeRound::new(self.height.get()),
            opened: self.time,
            parameters: rules,
            committee: Arc::clone(self.committee),
            shards: challenged_shards(self.committee, &ready_since, cutoff),
            units: self.units.clone(),
        };
        if (0..universe.committee.members().len()).all(|position| !universe.counts_for(position)) {
            return Ok(true);
        }
        challenges.rounds = challenges.rounds.saturating_add(1);
        challenges.open.push(RoundRecord::new(&universe));
        self.events.push(Event::ChallengeOpened { round: universe.round });
        self.opened = Some(Arc::new(universe));
        Ok(true)
    }

    /// Drops the rounds that are still open when the epoch ends.
    pub(super) fn drop_rounds(&mut self) -> Result<(), Failure> {
        let mut challenges = self.challenges()?;
        if challenges.open.is_empty() {
            return Ok(());
        }
        challenges.open.clear();
        self.put_challenges(challenges)
    }

    /// Blobs that end with the epoch before `next` are no reason for a block that would open a round.
    pub(super) fn leave_blobs(&mut self, next: Epoch) {
        let cutoff = self.time.minus_ms(self.parameters.ledger.challenges.grace_ms);
        self.units.advance(next, cutoff);
    }

    /// Brings the units of blobs up to what the block has done to them.
    fn follow_blobs(&mut self) -> Result<(), Failure> {
        for (before, after) in self.overlay.changed_blobs() {
            self.units
                .update(before.as_ref(), after.as_ref())
                .map_err(|error| ReadError::Failed(error.into()))?;
        }
        Ok(())
    }

    /// The challenges of the running epoch.
    pub(in crate::ledger) fn challenges(&mut self) -> Result<Challenges, ReadError> {
        let stored = self.overlay.stored_challenges(self.committee.epoch())?;
        Ok(stored.map_or_else(|| Challenges::new(self.committee.members().len()), |record| *record))
    }

    fn put_challenges(&mut self, challenges: Challenges) -> Result<(), Failure> {
        let record = Record::Challenges(Box::new(challenges));
        Ok(self.overlay.put(Key::Challenges(self.epoch()), record)?)
    }
}
