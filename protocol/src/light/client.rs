//! The light client itself: committees followed, the newest header, and what excludes it.

use std::{collections::VecDeque, sync::Arc};

use super::{
    CertifiedHeader, Checkpoint, FinalHeader, Fork, Inclusion, LightError, OldRoot, Start,
    VerifiedHeader, verified::Point,
};
use crate::{
    committee::Committee,
    genesis::Genesis,
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::ChainId,
    ledger::{BlockHash, Key, Record, SignedTransaction, StateProof, Timestamp, TransactionId},
};

/// Most committees kept, whatever the unbonding period.
const COMMITTEES_MAX: usize = 64;

/// A committee on the way from the root to now.
#[derive(Clone, Debug)]
struct Followed {
    committee: Arc<Committee>,
    hash: Hash,
    /// The last header of its epoch, once the next committee is known.
    last: Option<VerifiedHeader>,
}

impl Followed {
    fn new(committee: Committee) -> Self {
        Self { hash: committee.hash(), committee: Arc::new(committee), last: None }
    }
}

/// Follows a ledger by its headers.
#[derive(Clone, Debug)]
pub struct LightClient {
    chain: ChainId,
    n_shards: u16,
    unbonding_ms: u64,
    old_root: OldRoot,
    root: Point,
    /// The ledger time that trust in the running committee goes back to, where it is known.
    trusted: Option<Timestamp>,
    /// By ascending epoch, the running one last. Never empty.
    committees: VecDeque<Followed>,
    committees_max: usize,
    newest: Option<VerifiedHeader>,
}

impl LightClient {
    /// A client that knows nothing but where to start.
    ///
    /// # Errors
    /// [`LightError::TooOld`] unless `old_root` says otherwise, [`LightError::Genesis`], and for a
    /// checkpoint [`LightError::OtherChain`], [`LightError::OtherHeader`],
    /// [`LightError::Committee`], [`LightError::OtherCommittee`].
    pub fn new(
        genesis: &Genesis,
        start: &Start,
        old_root: OldRoot,
        now: Timestamp,
    ) -> Result<Self, LightError> {
        let chain = genesis.chain_id();
        let first = genesis.committee()?;
        let (root, committee, trusted) = match start {
            Start::Genesis { started } => (genesis_point(&chain), first, *started),
            Start::Checkpoint(checkpoint) => {
                let committee = checkpoint.committee(&chain)?;
                let header = &checkpoint.header;
                let ends_epoch = committee.epoch() != header.epoch;
                let point = Point::new(header, checkpoint.root.hash, ends_epoch);
                (point, committee, Some(header.time))
            }
        };
        if committee.n_shards() != genesis.n_shards {
            return Err(LightError::OtherCommittee);
        }
        let ledger = &genesis.ledger;
        let unbonding = usize::try_from(ledger.unbonding_epochs).unwrap_or(COMMITTEES_MAX);
        let client = Self {
            chain,
            n_shards: genesis.n_shards,
            unbonding_ms: ledger.epoch_ms.saturating_mul(u64::from(ledger.unbonding_epochs)),
            old_root,
            root,
            trusted,
            committees: VecDeque::from([Followed::new(committee)]),
            committees_max: unbonding.saturating_add(2).min(COMMITTEES_MAX),
            newest: None,
        };
        if let Some(trusted) = trusted {
            client.check_age(trusted, now)?;
        }
        Ok(client)
    }

    /// The network.
    #[must_use]
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// The committee of the running epoch, as far as the client has followed.
    #[must_use]
    pub fn committee(&self) -> &Arc<Committee> {
        &self.running().committee
    }

    /// The running epoch, as far as the client has followed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.committee().epoch()
    }

    /// The newest header that was accepted.
    #[must_use]
    pub const fn newest(&self) -> Option<&VerifiedHeader> {
        self.newest.as_ref()
    }

    /// A root to pass on, or to start from next time: the newest header. None before the first
    /// one, and between the last header of an epoch and its hand-over.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let header = self.newest.as_ref()?.header();
        let running = self.running();
        (header.next_committee == running.hash)
            .then(|| Checkpoint::new(self.chain, *header, &running.committee))
    }

    /// The last headers of the epochs whose ends were followed, as long as they are kept, with what
    /// proved each of them.
    pub fn handovers(&self) -> impl Iterator<Item = &VerifiedHeader> {
        self.committees.iter().filter_map(|followed| followed.last.as_ref())
    }

    /// Goes on to the next epoch: `last` is the last header of the running one, by a commit
    /// certificate or a hand-over certificate, `committee` the layout of the committee that it names.
    ///
    /// # Errors
    /// [`LightError`]: nothing has changed.
    pub fn handover(
        &mut self,
        last: impl Into<FinalHeader>,
        committee: &[u8],
        now: Timestamp,
    ) -> Result<VerifiedHeader, LightError> {
        let last = last.into();
        let time = last.header.time;
        // A genesis does not say when it was made: then the end of its first epoch must be young.
        self.check_age(self.trusted.unwrap_or(time), now)?;
        if last.header.epoch != self.epoch() {
            return Err(LightError::Epoch { epoch: last.header.epoch, expected: self.epoch() });
        }
        if Domain::Committee.hash(&[committee]) != last.header.next_committee {
            return Err(LightError::OtherCommittee);
        }
        let verified = self.verify_final(last)?;
        let committee = Committee::from_bytes(committee)?;
        let expected = self.epoch().plus(1);
        if committee.epoch() != expected {
            return Err(LightError::Epoch { epoch: committee.epoch(), expected });
        }
        if committee.n_shards() != self.n_shards {
            return Err(LightError::OtherCommittee);
        }
        self.keep(&verified);
        if let Some(running) = self.committees.back_mut() {
            running.last = Some(verified.clone());
        }
        self.committees.push_back(Followed::new(committee));
        while self.committees.len() > self.committees_max {
            self.committees.pop_front();
        }
        Ok(verified)
    }

    /// Accepts a final header and keeps it if it is the newest. An older one is verified all the
    /// same.
    ///
    /// # Errors
    /// [`LightError`]: nothing has changed. [`LightError::Epoch`] of a later epoch asks for
    /// hand-overs first.
    pub fn accept(
        &mut self,
        certified: CertifiedHeader,
        now: Timestamp,
    ) -> Result<VerifiedHeader, LightError> {
        self.check_age(self.trusted.unwrap_or(certified.header.time), now)?;
        let verified = self.verify(certified)?;
        self.keep(&verified);
        Ok(verified)
    }

    /// Checks a header of the running epoch, or of one before whose committee is still kept,
    /// against the committee and everything known.
    ///
    /// # Errors
    /// [`LightError::Epoch`], [`LightError::OtherBlock`], [`LightError::Certificate`],
    /// [`LightError::Fork`], [`LightError::ExcludesRoot`].
    pub fn verify(&self, certified: CertifiedHeader) -> Result<VerifiedHeader, LightError> {
        self.verify_final(certified.into())
    }

    fn verify_final(&self, told: FinalHeader) -> Result<VerifiedHeader, LightError> {
        let newest = self.newest.as_ref().filter(|newest| *newest.told() == told);
        if let Some(newest) = newest {
            return Ok(newest.clone());
        }
        let epoch = told.header.epoch;
        let known = self.followed(epoch);
        let followed = known.ok_or_else(|| LightError::Epoch { epoch, expected: self.epoch() })?;
        let hash = told.verify(&followed.committee, &self.chain)?;
        let verified = VerifiedHeader::new(told, hash);
        self.check_fit(&verified, followed)?;
        Ok(verified)
    }

    /// Accepts the header of an answer to [`LedgerRequest::Facts`] and checks that the proofs are
    /// of `keys`, one each. Gives the records in their order.
    ///
    /// # Errors
    /// [`LightError::OtherAnswer`] if the header is of another height than `height`, or proofs are
    /// missing or too many; [`LightError::Proof`], or as [`Self::accept`].
    ///
    /// [`LedgerRequest::Facts`]: crate::message::LedgerRequest::Facts
    pub fn facts(
        &mut self,
        (height, keys): (Option<Height>, &[Key]),
        certified: CertifiedHeader,
        proofs: &[StateProof],
        now: Timestamp,
    ) -> Result<(VerifiedHeader, Vec<Option<Record>>), LightError> {
        let asked = height.is_none_or(|height| height == certified.header.height);
        if !asked || keys.len() != proofs.len() {
            return Err(LightError::OtherAnswer);
        }
        let verified = self.accept(certified, now)?;
        let records = keys.iter().zip(proofs).map(|(key, proof)| verified.fact(key, proof));
        let records = records.collect::<Result<_, _>>()?;
        Ok((verified, records))
    }

    /// Checks that a transaction is in a block, and gives both.
    ///
    /// # Errors
    /// [`LightError::Inclusion`], or as [`Self::verify`].
    pub fn inclusion(
        &self,
        inclusion: &Inclusion,
        id: &TransactionId,
    ) -> Result<(VerifiedHeader, SignedTransaction), LightError> {
        let signed = inclusion.verify(&self.chain, &inclusion.certified.header, id)?;
        Ok((self.verify(inclusion.certified.clone())?, signed))
    }

    fn running(&self) -> &Followed {
        self.committees
            .back()
            .expect("a client starts with a committee and drops none but old ones")
    }

    fn followed(&self, epoch: Epoch) -> Option<&Followed> {
        self.committees.iter().find(|followed| followed.committee.epoch() == epoch)
    }

    fn keep(&mut self, verified: &VerifiedHeader) {
        let header = verified.header();
        let newest = self.newest.as_ref().map_or(self.root.height, |newest| newest.header().height);
        if header.height > newest {
            self.newest = Some(verified.clone());
            self.trusted = Some(self.trusted.map_or(header.time, |time| time.max(header.time)));
        }
    }

    fn check_age(&self, trusted: Timestamp, now: Timestamp) -> Result<(), LightError> {
        let (age_ms, max_ms) = (now.ms_since(trusted), self.unbonding_ms);
        match self.old_root {
            OldRoot::Refuse if age_ms > max_ms => Err(LightError::TooOld { age_ms, max_ms }),
            OldRoot::Refuse | OldRoot::Trust => Ok(()),
        }
    }

    /// Refuses a final header that excludes another one, or the root.
    fn check_fit(&self, verified: &VerifiedHeader, followed: &Followed) -> Result<(), LightError> {
        let point = point(verified, followed);
        if self.root.excludes(&point) {
            return Err(LightError::ExcludesRoot(point.height));
        }
        for known in self.handovers().chain(&self.newest) {
            let Some(followed) = self.followed(known.header().epoch) else { continue };
            if self::point(known, followed).excludes(&point) {
                let (known, other) = (known.told().clone(), verified.told().clone());
                return Err(LightError::Fork(Box::new(Fork { known, other })));
            }
        }
        Ok(())
    }
}

fn point(verified: &VerifiedHeader, followed: &Followed) -> Point {
    let header = verified.header();
    Point::new(header, verified.hash(), header.next_committee != followed.hash)
}

fn genesis_point(chain: &ChainId) -> Point {
    Point {
        height: Height::new(0),
        hash: BlockHash::genesis(chain),
        time: Timestamp::from_ms(0),
        parent: None,
        epoch: Epoch::new(0),
        ends_epoch: false,
    }
}
