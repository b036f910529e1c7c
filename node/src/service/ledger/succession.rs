//! A node whose network has stopped goes on in the one that its people have founded after it.
//!
//! It is told so by being started with that network's genesis, and believes it only if the genesis
//! names the network that the node served, and, as far as the node's own ledger reaches, its very
//! block: so a wrong file changes nothing. Slivers stay as they are. What is of the old chain alone is
//! put aside, not removed, and comes back if the node is started with the old genesis again
//! ([`NetworkFiles`]).
//!
//! A ledger that has come further than the successor goes on from holds what would not count any
//! more: such a node refuses, unless it is told to abandon that.

use floe_protocol::{
    genesis::Genesis,
    hash::Hash,
    index::Height,
    keys::{ChainId, NodeId},
};
use floe_storage::{
    JournalError, LedgerStore, LedgerStoreConfig, NetworkFiles, OpenError, StorageError, Store,
    SuccessionError,
};

/// Why a node does not go on in another network.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Its own ledger has come further.
    #[error(
        "this node's ledger has come to height {tip}, and the network that is to follow goes on \
         from height {height}: what came after would not count"
    )]
    Ahead {
        /// Where it stands.
        tip: Height,
        /// What the genesis goes on from.
        height: Height,
    },
    /// Its own ledger has another block there.
    #[error(
        "the network that is to follow goes on from a block of height {0} that this node's ledger \
         does not have: it is of another network, or the ledger has forked"
    )]
    OtherBlock(Height),
    /// It has served yet another network.
    #[error(
        "this node has served network {served}, and the network file's goes on from {predecessor}"
    )]
    NotPredecessor {
        /// The node's network.
        served: ChainId,
        /// The one that the genesis names.
        predecessor: ChainId,
    },
    /// The ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The vote journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The files of the old network cannot be put aside.
    #[error(transparent)]
    Files(#[from] SuccessionError),
}

/// A node's files, and what it is told to do with them.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) node: NodeId,
    pub(crate) files: NetworkFiles,
    pub(crate) slivers: Store,
    /// Blocks above the one that the successor goes on from may be abandoned.
    pub(crate) abandon_blocks: bool,
}

/// What the ledger on disk is.
struct Found {
    chain: ChainId,
    tip: Height,
    store: LedgerStore,
}

impl Adoption {
    /// Makes the files those of a network, if the node has served its predecessor, or has been in
    /// both; leaves them as they are if not. Blocks.
    ///
    /// # Errors
    /// [`AdoptError`]: everything is as it was, or is put right at the next start.
    pub(crate) fn adopt(&self, genesis: &Genesis) -> Result<(), AdoptError> {
        let chain = genesis.chain_id();
        self.files.resume(&chain)?;
        let voted_in = self.files.voted_in(self.node)?;
        if voted_in == Some(chain) {
            return Ok(());
        }
        let found = self.found()?;
        let served = found.as_ref().map(|found| found.chain).or(voted_in);
        let Some(served) = served.filter(|served| *served != chain) else { return Ok(()) };
        match &genesis.predecessor {
            Some(before) if before.chain == served => {
                if let Some(found) = &found {
                    self.compare(found, (before.height, before.block.hash()))?;
                }
            }
            _ if self.files.has_aside(&chain) => {}
            Some(before) => {
                return Err(AdoptError::NotPredecessor { served, predecessor: before.chain });
            }
            // Its files are another network's: opening them says so.
            None => return Ok(()),
        }
        drop(found);
        self.slivers.forget_heights()?;
        self.files.change((&served, &chain), self.node)?;
        tracing::info!(
            from = %served, to = %chain,
            "the node goes on in another network: its slivers stay, the ledger before is put aside"
        );
        Ok(())
    }

    /// The ledger on disk, if there is one with a tip.
    fn found(&self) -> Result<Option<Found>, AdoptError> {
        let NetworkFiles { ledger, ledger_marker, .. } = &self.files;
        if !ledger.exists() {
            return Ok(None);
        }
        let config = LedgerStoreConfig::new(ledger.clone(), ledger_marker.clone(), self.node);
        let store = match LedgerStore::open(&config) {
            // It is lost: there is nothing to compare with.
            Err(OpenError::Emptied { .. }) => return Ok(None),
            opened => opened?,
        };
        let tip = store.tip()?;
        let chain = tip.and_then(|(tip, chain)| {
            let chain = <[u8; 32]>::try_from(chain).ok()?;
            Some((tip, ChainId::new(Hash::new(chain))))
        });
        Ok(chain.map(|(tip, chain)| Found { chain, tip, store }))
    }

    /// Whether there is a ledger that has begun: then its first state is not needed any more. Blocks.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub(crate) fn has_begun(&self) -> Result<bool, AdoptError> {
        Ok(self.found()?.is_some())
    }

    fn compare(
        &self,
        Found { tip, store, .. }: &Found,
        (height, block): (Height, &Hash),
    ) -> Result<(), AdoptError> {
        if let Some(header) = store.header(height)?
            && header.hash().hash() != block
        {
            return Err(AdoptError::OtherBlock(height));
        }
        if *tip > height && !self.abandon_blocks {
            return Err(AdoptError::Ahead { tip: *tip, height });
        }
        Ok(())
    }
}
