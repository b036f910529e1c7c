//! What a recovery is told, and what it says is to be done.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::RecoveryMaterial;
use crate::{
    blob::PairProof,
    encoding::{Axis, ProvenSymbol},
    index::{SliverPairIndex, SymbolIndex},
    keys::NodeId,
    transfer::SliverFault,
};

/// What happened.
#[derive(Clone, Debug)]
pub enum RecoveryInput {
    /// Symbols came and have been verified against the targets that were asked for.
    Symbols {
        /// Who sent them.
        node: NodeId,
        /// The pair whose sliver they are of.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
        /// The symbols.
        symbols: Vec<ProvenSymbol>,
    },
    /// A primary sliver came and has been verified, and its proof.
    Sliver {
        /// Who sent it.
        node: NodeId,
        /// The proof of its pair.
        proof: PairProof,
        /// The sliver.
        sliver: Bytes,
    },
    /// A request came to nothing.
    Failed {
        /// Who was asked.
        node: NodeId,
        /// The pair.
        pair: SliverPairIndex,
        /// Which sliver of the pair; primary if the sliver itself was asked for.
        axis: Axis,
        /// Why.
        fault: SliverFault,
    },
    /// The node's share of the network is used up until then: nothing is asked for before. What is
    /// on its way comes all the same.
    Hold {
        /// Until when.
        until_ms: u64,
    },
    /// The memory that [`RecoveryOutput::Enlarge`] asked for is there.
    Enlarged,
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum RecoveryOutput {
    /// Ask the node for symbols.
    Ask {
        /// Whom.
        node: NodeId,
        /// The pair whose sliver they are of.
        pair: SliverPairIndex,
        /// Which sliver of the pair.
        axis: Axis,
        /// Which symbols of it.
        targets: Vec<SymbolIndex>,
    },
    /// Ask the node for the primary sliver of the pair.
    AskSliver {
        /// Whom.
        node: NodeId,
        /// The pair.
        pair: SliverPairIndex,
    },
    /// The node sent a false symbol: it is not asked again, and should be by nobody here. Nodes look
    /// at the slivers that they make symbols of, so this is no fault of their disks.
    Banned {
        /// Who.
        node: NodeId,
    },
    /// Symbols cannot be had: the whole blob is to be read, and takes more memory. What came so
    /// far has been dropped. Give back what was reserved, reserve this, then report
    /// [`RecoveryInput::Enlarged`].
    Enlarge {
        /// Bytes needed from now on.
        bytes: u64,
    },
    /// Enough is there: make the pairs of it, where it disturbs nobody. The last output.
    Recover(Box<RecoveryMaterial>),
    /// The pairs cannot be recovered now. The last output.
    Failed(RecoveryFailure),
}

/// Why pairs could not be recovered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryFailure {
    /// Too few slivers can be had.
    #[error("{rows} rows of the blob can be had or are here, {rows_needed} are needed")]
    TooFewHelpers {
        /// Rows that are here or might still be had.
        rows: usize,
        /// Rows needed.
        rows_needed: usize,
        /// Nodes that failed, with the last reason of each.
        faults: BTreeMap<NodeId, SliverFault>,
    },
    /// Symbols cannot be had, and the whole blob does not fit into the memory allowed.
    #[error("the whole blob is needed and takes {needed_bytes} bytes, {bytes_max} are allowed")]
    Memory {
        /// What it takes.
        needed_bytes: u64,
        /// What is allowed.
        bytes_max: u64,
        /// Nodes that failed, with the last reason of each.
        faults: BTreeMap<NodeId, SliverFault>,
    },
}
