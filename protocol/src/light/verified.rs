//! What a light client has verified, and what can be proven against it.

use std::sync::Arc;

use super::{FinalHeader, LightError};
use crate::{
    genesis::{Genesis, GenesisError},
    hash::Hash,
    index::{Epoch, Height},
    ledger::{BlockHash, Header, Key, Record, State, StateProof, Timestamp},
};

/// A header that a committee known to the client made final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedHeader {
    told: Arc<FinalHeader>,
    hash: BlockHash,
}

impl VerifiedHeader {
    pub(super) fn new(told: FinalHeader, hash: BlockHash) -> Self {
        Self { told: Arc::new(told), hash }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.told.header
    }

    /// Its hash.
    #[must_use]
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The header with what made it final, to show to others.
    #[must_use]
    pub fn told(&self) -> &FinalHeader {
        &self.told
    }

    /// The state after its block.
    #[must_use]
    pub fn state(&self) -> VerifiedState {
        VerifiedState { height: self.header().height, root: self.header().state_root }
    }

    /// Checks what the state after its block holds under `key`.
    ///
    /// # Errors
    /// [`LightError::Proof`]: it proves nothing.
    pub fn fact(&self, key: &Key, proof: &StateProof) -> Result<Option<Record>, LightError> {
        self.state().fact(key, proof)
    }
}

/// The root of a state that facts are proven against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedState {
    height: Height,
    root: Hash,
}

impl VerifiedState {
    /// The state before the first block, for which there is no header. Computed from the genesis,
    /// which takes as long as it has accounts: keep it.
    ///
    /// # Errors
    /// [`GenesisError`] if the genesis is no valid one.
    pub fn genesis(genesis: &Genesis) -> Result<Self, GenesisError> {
        if let Some(predecessor) = &genesis.predecessor {
            return Ok(Self { height: Height::new(0), root: predecessor.first_state });
        }
        let (state, _) = State::genesis(genesis)?;
        Ok(Self { height: state.tip().height, root: state.tip().state_root })
    }

    /// The height after whose block it is the state; 0 at genesis.
    #[must_use]
    pub const fn height(&self) -> Height {
        self.height
    }

    /// Checks what the state holds under `key`: a record, or that there is none.
    ///
    /// # Errors
    /// [`LightError::Proof`]: it proves nothing.
    pub fn fact(&self, key: &Key, proof: &StateProof) -> Result<Option<Record>, LightError> {
        Ok(proof.verify(&self.root, key)?)
    }
}

/// A place in the chain that others must fit to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) height: Height,
    pub(super) hash: BlockHash,
    pub(super) time: Timestamp,
    /// None at genesis.
    pub(super) parent: Option<BlockHash>,
    pub(super) epoch: Epoch,
    /// Whether the next height is of another epoch.
    pub(super) ends_epoch: bool,
}

impl Point {
    pub(super) const fn new(header: &Header, hash: BlockHash, ends_epoch: bool) -> Self {
        Self {
            height: header.height,
            hash,
            time: header.time,
            parent: Some(header.parent),
            epoch: header.epoch,
            ends_epoch,
        }
    }

    /// Whether no chain holds both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        if self.height == other.height {
            return self.hash != other.hash;
        }
        let (low, high) = if self.height < other.height { (self, other) } else { (other, self) };
        let child = high.height == low.height.next();
        low.time >= high.time
            || low.epoch > high.epoch
            || (low.ends_epoch && low.epoch == high.epoch)
            || (child && high.parent != Some(low.hash))
    }
}
