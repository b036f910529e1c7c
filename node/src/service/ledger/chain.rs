//! The chain on disk and where it stands: opening, committing, and the vote journal beside it.

use std::{path::Path, sync::Arc};

use floe_protocol::{
    genesis::{Genesis, GenesisError},
    index::Height,
    ledger::{Block, Executed, LoadError, ReadError, State},
    vote::CommitCertificate,
};
use floe_storage::{
    CommitError, Committed, EpochEnd, JournalError, LedgerStore, LedgerStoreConfig, OpenError,
    StorageError, VoteJournal,
};

/// Stale entries that are removed after each block, at least; more if the block left more.
const PRUNED_MIN: usize = 256;

/// Why the chain cannot be opened or gone on with. All of it stops the node.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The genesis is no valid one.
    #[error("invalid genesis: {0}")]
    Genesis(#[from] GenesisError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The store refused or failed a commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store does not hold what its last block says.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The vote journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store belongs to another network.
    #[error("the ledger in {0} is another network's")]
    OtherNetwork(String),
}

/// The chain: its store, its state, and the journal of what this node says about its next block.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) store: Arc<LedgerStore>,
    pub(crate) state: State,
    /// The certificate of the last block.
    pub(crate) certificate: Option<CommitCertificate>,
    /// None: it is lost, and the node must abstain.
    pub(crate) journal: Option<VoteJournal>,
    pub(crate) journal_dir: std::path::PathBuf,
}

impl Chain {
    /// Opens the chain of a network, or begins it.
    ///
    /// # Errors
    /// [`ChainError`].
    pub(crate) fn open(
        genesis: &Genesis,
        config: &LedgerStoreConfig,
        journal_dir: &Path,
    ) -> Result<Self, ChainError> {
        let (origin, change) = State::genesis(genesis)?;
        let store = Arc::new(LedgerStore::open(config)?);
        let (state, certificate) = match store.tip()? {
            None => {
                store.commit_genesis(&change, origin.chain().as_bytes())?;
                (origin, None)
            }
            Some((_, chain)) if chain != origin.chain().as_bytes() => {
                return Err(ChainError::OtherNetwork(config.dir.display().to_string()));
            }
            Some((height, _)) if height == Height::new(0) => (origin, None),
            Some((height, _)) => {
                let damaged = || LoadError::OtherState(height);
                let header = store.header(height)?.ok_or_else(damaged)?;
                let state = State::load(&origin, &header, store.as_ref())?;
                (state, Some(store.certificate(height)?.ok_or_else(damaged)?))
            }
        };
        let mut journal = VoteJournal::open(journal_dir, config.node)?;
        if let Some(journal) = &mut journal {
            journal.bind(state.chain())?;
        }
        Ok(Self { store, state, certificate, journal, journal_dir: journal_dir.to_owned() })
    }

    /// Makes a decided block durable and goes on from it.
    pub(super) fn commit(
        &mut self,
        block: &Block,
        certificate: CommitCertificate,
        executed: Executed,
    ) -> Result<(), ChainError> {
        let epoch = block.header.epoch;
        let ends = executed.next.committee().epoch() > epoch;
        let next_committee = executed.next.committee().to_bytes();
        self.store.commit(&Committed {
            block,
            hash: executed.hash,
            certificate: &certificate,
            transactions: &executed.transactions,
            change: &executed.change,
            epoch_end: ends.then_some(EpochEnd { epoch, next_committee: &next_committee }),
            tip: self.state.chain().as_bytes(),
        })?;
        let stale = executed.change.stale_nodes.len() + executed.change.stale_values.len();
        self.state = executed.next;
        self.certificate = Some(certificate);
        // Somewhat more than each block adds, so that a backlog shrinks.
        self.store.prune_step(PRUNED_MIN.max(2 * stale))?;
        Ok(())
    }
}
