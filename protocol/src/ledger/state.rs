//! The replicated state: where the ledger stands, and what the next block would make of it.
//!
//! [`State`] holds the little that every block needs (tip, committee); the records are in a store
//! behind [`StateReader`]. [`State::execute`] judges a block and computes what it changes, without
//! changing anything: consensus may have several candidates for one height. Once a block is
//! decided, its driver writes the [`Executed::change`] with the block, at once, and goes on with
//! [`Executed::next`].
//!
//! Invariants: pure and deterministic: the same blocks give the same roots on every node; a block
//! is refused whole or accepted whole; nothing a block can hold makes this panic.

mod challenges;
mod next_block;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Account, AccountId, Blob, BlockHash, Challenges, CommitRecord, Header, Key, LatePrecommit,
    Node, OperationError, Parameters, ReadError, Registration, ShardRecord, StakeWorth,
    StateReader, Summary, SystemOperation, Timestamp, VerifiedTransaction,
    error::Failure,
    execute::{BLS_WORK_MAX, Executor},
    genesis_beacon,
    overlay::Overlay,
};
use crate::{
    blob::BlobId,
    challenge::BilledUnits,
    committee::Committee,
    hash::Hash,
    index::{Epoch, Height},
    keys::{ChainId, NodeId},
    registration::RegistrationId,
    vote::CommitCertificate,
};

pub use self::next_block::{Executed, IsKnown, Known, Outcome, Proposal, Proposed};

/// The last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height; 0 at genesis.
    pub height: Height,
    /// Its hash; the chain id at genesis.
    pub hash: BlockHash,
    /// Its time; at genesis 0, or that of the state that a stopped network has left.
    pub time: Timestamp,
    /// The beacon after it.
    pub beacon: Hash,
    /// The root of the authenticated map after it.
    pub state_root: Hash,
}

/// Where the ledger stands.
#[derive(Clone, Debug)]
pub struct State {
    chain: ChainId,
    parameters: Arc<Parameters>,
    tip: Tip,
    /// Of the next height.
    committee: Arc<Committee>,
    /// Of the tip's height.
    previous: Arc<Committee>,
    summary: Summary,
    /// Of the next height's epoch.
    challenges: Arc<Challenges>,
    /// Of all certified blobs. Derived from their records.
    units: BilledUnits,
}

/// A genesis or a store from which no state can be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The genesis is no valid one.
    #[error("invalid genesis: {0}")]
    Genesis(#[from] crate::genesis::GenesisError),
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store holds another state than the header says.
    #[error("the stored state at height {0} is not the one that its block names")]
    OtherState(Height),
}

impl State {
    /// The state before the first block, and what it writes as version 0.
    #[must_use]
    pub(super) fn at_genesis(
        chain: ChainId,
        parameters: Parameters,
        committee: Committee,
        (time, root, summary): (Timestamp, Hash, Summary),
    ) -> Self {
        let tip = Tip {
            height: Height::new(0),
            hash: BlockHash::genesis(&chain),
            time,
            beacon: genesis_beacon(&chain),
            state_root: root,
        };
        let committee = Arc::new(committee);
        let previous = Arc::clone(&committee);
        let challenges = Arc::new(Challenges::new(committee.members().len()));
        Self {
            chain,
            parameters: Arc::new(parameters),
            tip,
            committee,
            previous,
            summary,
            challenges,
            units: BilledUnits::new(),
        }
    }

    /// The state after the block with `header`, from a store that holds it. `genesis` is the state
    /// at genesis.
    ///
    /// # Errors
    /// [`LoadError`]: the store fails or holds another state.
    pub fn load(
        genesis: &Self,
        header: &Header,
        reader: &dyn StateReader,
    ) -> Result<Self, LoadError> {
        let damaged = || LoadError::OtherState(header.height);
        if super::state_root(reader, header.height.get())? != header.state_root {
            return Err(damaged());
        }
        let mut overlay = Overlay::new(reader, Some(header.height));
        let summary = overlay.summary()?;
        let mut committee = |epoch: Epoch| -> Result<Arc<Committee>, LoadError> {
            let bytes = overlay.committee(epoch)?.ok_or_else(damaged)?;
            Ok(Arc::new(Committee::from_bytes(&bytes).map_err(|_| damaged())?))
        };
        let state = Self {
            chain: genesis.chain,
            parameters: Arc::clone(&genesis.parameters),
            tip: Tip {
                height: header.height,
                hash: header.hash(),
                time: header.time,
                beacon: header.beacon,
                state_root: header.state_root,
            },
            committee: committee(summary.epoch)?,
            previous: committee(header.epoch)?,
            summary,
            challenges: Arc::default(),
            units: BilledUnits::new(),
        };
        if state.committee.hash() != header.next_committee {
            return Err(damaged());
        }
        state.recalled(reader)
    }

    /// The network.
    #[must_use]
    pub const fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// What the genesis fixes.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The last block.
    #[must_use]
    pub const fn tip(&self) -> &Tip {
        &self.tip
    }

    /// The height of the next block.
    #[must_use]
    pub const fn next_height(&self) -> Height {
        self.tip.height.next()
    }

    /// The committee of the next height.
    #[must_use]
    pub const fn committee(&self) -> &Arc<Committee> {
        &self.committee
    }

    /// The committee of the tip's height.
    #[must_use]
    pub const fn previous_committee(&self) -> &Arc<Committee> {
        &self.previous
    }

    /// The ledger at a glance, after the tip.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// How much ledger time is left from the tip to [`State::epoch_deadline`]. Of local clocks only
    /// monotonic ones may measure it: a wall clock that is fast would find it over again and again.
    #[must_use]
    pub fn epoch_wait(&self) -> Option<Duration> {
        let deadline = self.epoch_deadline()?;
        Some(Duration::from_millis(deadline.ms_since(self.tip.time)))
    }

    /// When the running epoch's next deadline is: its next half duration, or, past that, when a
    /// selection need no longer wait for reports. A block at or after it changes the epoch's state:
    /// it selects the next committee, again if the epoch stretches, or ends the epoch. Past the
    /// second half the epoch ends with the block in which enough shards are reported ready, which
    /// has a reason of its own. None before the first block.
    #[must_use]
    pub fn epoch_deadline(&self) -> Option<Timestamp> {
        let epoch_ms = self.parameters.ledger.epoch_ms;
        let begun = self.tip.height > Height::new(0);
        begun.then(|| self.summary.deadline(self.tip.time, epoch_ms))
    }

    /// Whether dead registrations wait to be swept.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn sweep_pending(&self, reader: &dyn StateReader) -> Result<bool, ReadError> {
        let range = super::IndexRange::dead(self.summary.epoch);
        Ok(!reader.index(&range.start..&range.end, 1)?.is_empty())
    }

    /// What the next block records: the parent's `certificate`, and of the precommits in `late`
    /// those that no block has recorded yet.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn commit_record(
        &self,
        reader: &dyn StateReader,
        certificate: Option<CommitCertificate>,
        late: Vec<LatePrecommit>,
    ) -> Result<CommitRecord, ReadError> {
        let mut overlay = Overlay::new(reader, Some(self.tip.height));
        let mut record = CommitRecord { parent: certificate, late: Vec::new() };
        let in_certificate = |position: u16| {
            let signatures = record.parent.iter().flat_map(|parent| &parent.signatures);
            signatures.into_iter().any(|signature| signature.position == position)
        };
        let mut unrecorded = Vec::new();
        for precommit in late {
            let position = usize::from(precommit.position);
            let missing = if precommit.height == self.tip.height {
                record.parent.is_some() && !in_certificate(precommit.position)
            } else {
                match overlay.presence(precommit.height)? {
                    // Without its committee a vote can no longer be checked.
                    Some(presence) if overlay.has(&Key::Committee(presence.epoch))? => {
                        presence.recorded.get(position) == Some(&false)
                    }
                    Some(_) | None => false,
                }
            };
            if missing && unrecorded.len() < usize::from(self.parameters.n_shards) {
                unrecorded.push(precommit);
            }
        }
        unrecorded.sort_by_key(|precommit| (precommit.height, precommit.position));
        unrecorded.dedup_by_key(|precommit| (precommit.height, precommit.position));
        record.late = unrecorded;
        Ok(record)
    }

    /// Judges a transaction against the state after the tip, as of `now`, if it is its sender's
    /// next one: what of it can be known before a block is made. It costs at most what the BLS
    /// checks of one transaction may. The outer error is a store that fails.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn check(
        &self,
        reader: &dyn StateReader,
        transaction: &VerifiedTransaction,
        now: Timestamp,
    ) -> Result<Result<(), OperationError>, ReadError> {
        let sender = transaction.transaction().sender;
        if transaction.transaction().nonce > self.account(reader, &sender)?.nonce {
            return Ok(Ok(()));
        }
        judged(self.executor(reader, now).transaction(transaction, 0))
    }

    /// Judges a system operation against the state after the tip.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn check_system(
        &self,
        reader: &dyn StateReader,
        operation: &SystemOperation,
    ) -> Result<Result<(), OperationError>, ReadError> {
        judged(self.executor(reader, self.tip.time).system(operation))
    }

    fn executor<'a>(&'a self, reader: &'a dyn StateReader, time: Timestamp) -> Executor<'a> {
        Executor {
            overlay: Overlay::new(reader, Some(self.tip.height)),
            chain: &self.chain,
            parameters: &self.parameters,
            committee: &self.committee,
            units: self.units.clone(),
            opened: None,
            known: &|_| false,
            height: self.next_height(),
            time,
            parent: (self.tip.hash, self.tip.time),
            events: Vec::new(),
            bls_work: 0,
            bls_work_max: BLS_WORK_MAX,
        }
    }

    /// An account after the tip.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn account(&self, reader: &dyn StateReader, id: &AccountId) -> Result<Account, ReadError> {
        Overlay::new(reader, Some(self.tip.height)).account(id)
    }

    /// What the stake of an account with a node is worth after the tip. None if there is none.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn stake_worth(
        &self,
        reader: &dyn StateReader,
        account: &AccountId,
        node: &NodeId,
    ) -> Result<Option<StakeWorth>, ReadError> {
        let mut overlay = Overlay::new(reader, Some(self.tip.height));
        let (Some(stake), Some(record)) = (overlay.stake(account, node)?, overlay.node(node)?)
        else {
            return Ok(None);
        };
        let mut rates = BTreeMap::new();
        for incoming in &stake.incoming {
            rates.insert(incoming.epoch, overlay.rate(node, incoming.epoch)?);
        }
        let rate = |epoch| rates.get(&epoch).copied().flatten();
        Ok(stake.worth(&record, self.summary.epoch, &rate))
    }

    /// A registration after the tip, dead ones included that have not been swept.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn registration(
        &self,
        reader: &dyn StateReader,
        id: &RegistrationId,
    ) -> Result<Option<Registration>, ReadError> {
        let record = Overlay::new(reader, Some(self.tip.height)).registration(id)?;
        Ok(record.map(|record| *record))
    }

    /// The readiness of all shards after the tip.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn shards(&self, reader: &dyn StateReader) -> Result<Vec<ShardRecord>, ReadError> {
        Overlay::new(reader, Some(self.tip.height)).shards()
    }

    /// A node of the registry after the tip.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn node(&self, reader: &dyn StateReader, id: &NodeId) -> Result<Option<Node>, ReadError> {
        Ok(Overlay::new(reader, Some(self.tip.height)).node(id)?.map(|node| *node))
    }

    /// The committee of an epoch that is kept after the tip: the running one, those before as long
    /// as they can be punished, and the next one once it is selected.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn committee_of(
        &self,
        reader: &dyn StateReader,
        epoch: Epoch,
    ) -> Result<Option<Committee>, ReadError> {
        let bytes = Overlay::new(reader, Some(self.tip.height)).committee(epoch)?;
        Ok(bytes.and_then(|bytes| Committee::from_bytes(&bytes).ok()))
    }

    /// A blob after the tip.
    ///
    /// # Errors
    /// [`ReadError`] if the store fails.
    pub fn blob(&self, reader: &dyn StateReader, id: &BlobId) -> Result<Option<Blob>, ReadError> {
        Overlay::new(reader, Some(self.tip.height)).blob(id)
    }
}

fn judged<T>(result: Result<T, Failure>) -> Result<Result<(), OperationError>, ReadError> {
    match result {
        Ok(_) => Ok(Ok(())),
        Err(Failure::Refused(error)) => Ok(Err(error)),
        Err(Failure::Read(error)) => Err(error),
    }
}
