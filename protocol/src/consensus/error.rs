//! Why a replica stops for good.

use super::context::Context;
use crate::{index::Height, ledger::BlockHash};

/// A fault of this node, or of more than a third of the committee: the replica answers nothing any
/// more. Going on could mean voting against oneself.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The core could not handle an input.
    #[error("the consensus core failed")]
    Core(#[source] CoreFault),
    /// A height was started twice, or before a later one.
    #[error("height {0} was started after height {1}")]
    Order(Height, Height),
    /// The block builder's block does not fit the height and round asked for, or is too long.
    #[error("own block {0} does not fit its round")]
    OwnBlock(BlockHash),
    /// The body of a block to be proposed again is gone.
    #[error("the body of block {0} is missing")]
    MissingBody(BlockHash),
    /// A quorum decided a block that cannot be executed here: this node's state differs.
    #[error("a quorum decided block {0}, which is invalid here")]
    InvalidDecision(BlockHash),
    /// An earlier fault stopped the replica.
    #[error("the replica has stopped")]
    Stopped,
}

/// What the core reported.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CoreFault(Box<malachite_core::Error<Context>>);

impl From<malachite_core::Error<Context>> for Fault {
    fn from(error: malachite_core::Error<Context>) -> Self {
        Self::Core(CoreFault(Box::new(error)))
    }
}
