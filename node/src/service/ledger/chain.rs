//! The chain on disk and where it stands: opening, committing, and the vote journal beside it.
//!
//! A chain begins with its genesis, or, in a network that goes on from a stopped one, with the first
//! state that the genesis names.

use std::{path::Path, sync::Arc};

use floe_protocol::{
    committee::Committee,
    genesis::{Genesis, GenesisError},
    index::Height,
    ledger::{Block, BlockError, Executed, LoadError, ReadError, State},
    message::Handover,
    vote::CommitCertificate,
};
use floe_storage::{
    CommitError, InstalledEnd, JournalError, LedgerStore, LedgerStoreConfig, OpenError, Snapshot,
    StorageError, VoteJournal,
};

use super::Install;
use crate::service::snapshot::{FirstState, FirstStateError};

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
    /// A block that was committed does not execute again: state or blocks are damaged.
    #[error("block {height} was committed, and is refused when it is executed again: {error}")]
    Replay {
        /// Its height.
        height: Height,
        /// Why.
        error: Box<BlockError>,
    },
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The vote journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The first state of a network that goes on from another is not to be had.
    #[error(transparent)]
    FirstState(#[from] FirstStateError),
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
        first: Option<&FirstState>,
        (journal_dir, vote_now): (&Path, bool),
    ) -> Result<Self, ChainError> {
        genesis.committee()?;
        let store = Arc::new(LedgerStore::open(config)?);
        let (state, certificate) = match store.tip()? {
            None => (begin(genesis, &store, first)?, None),
            Some(_) => {
                let state = stand(genesis, &store, config)?;
                let certificate = store.certificate(state.tip().height)?;
                (state, certificate)
            }
        };
        let mut journal = VoteJournal::open(journal_dir, config.node)?;
        if journal.is_none() && vote_now {
            tracing::warn!("the vote journal is lost, and this node votes at once, as it was told");
            journal = Some(VoteJournal::create(journal_dir, config.node)?);
        }
        if let Some(journal) = &mut journal {
            journal.bind(state.chain())?;
        }
        Ok(Self { store, state, certificate, journal, journal_dir: journal_dir.to_owned() })
    }

    /// The committee of the next epoch, once it is selected.
    pub(super) fn next_committee(&self) -> Result<Option<Arc<Committee>>, ChainError> {
        let next = self.state.committee().epoch().plus(1);
        let committee = self.state.committee_of(self.store.as_ref(), next)?;
        Ok(committee.map(Arc::new))
    }

    /// Makes a decided block durable and goes on from it.
    pub(super) fn commit(
        &mut self,
        block: &Block,
        certificate: CommitCertificate,
        executed: Executed,
    ) -> Result<(), ChainError> {
        let tip = self.state.chain().as_bytes();
        self.store.commit_executed(block, &certificate, &executed, tip)?;
        self.state = executed.next;
        self.certificate = Some(certificate);
        Ok(())
    }

    /// Begins with a snapshot, in place of genesis.
    pub(super) fn install(&mut self, install: Install) -> Result<(), ChainError> {
        let Install { installation, offer, ends } = install;
        let header = &offer.manifest.header;
        let ends = ends.iter().map(|Handover { last, committee }| InstalledEnd {
            header: &last.header,
            finality: &last.finality,
            next_committee: committee,
        });
        let ends: Vec<_> = ends.collect();
        let committee = &offer.manifest.committee;
        let epoch = Committee::from_bytes(committee).map(|committee| committee.epoch());
        let next_committee = epoch.is_ok_and(|epoch| epoch > header.epoch);
        let snapshot = Snapshot {
            header,
            certificate: &offer.certificate,
            next_committee: next_committee.then_some(committee),
            ends: &ends,
            tip: self.state.chain().as_bytes(),
        };
        self.store.install(installation, &snapshot)?;
        self.state = State::load(&self.state, header, self.store.as_ref())?;
        self.certificate = Some(offer.certificate);
        Ok(())
    }
}

/// Begins a chain in an empty store.
fn begin(
    genesis: &Genesis,
    store: &LedgerStore,
    first: Option<&FirstState>,
) -> Result<State, ChainError> {
    let Some(first) = first else {
        let (origin, change) = State::genesis(genesis)?;
        store.commit_genesis(&change, origin.chain().as_bytes())?;
        return Ok(origin);
    };
    first.install(store, genesis.chain_id().as_bytes())?;
    Ok(State::first_of_successor(genesis, store)?)
}

/// Where a chain stands that is in a store already.
///
/// # Errors
/// [`ChainError`]; [`ChainError::OtherNetwork`] too if there is none.
pub(crate) fn stand(
    genesis: &Genesis,
    store: &LedgerStore,
    config: &LedgerStoreConfig,
) -> Result<State, ChainError> {
    let mine = store.tip()?.filter(|(_, chain)| chain == genesis.chain_id().as_bytes());
    let Some((tip, _)) = mine else {
        return Err(ChainError::OtherNetwork(config.dir.display().to_string()));
    };
    let is_first = store.checkpoint().is_none_or(|checkpoint| checkpoint == Height::new(0));
    let origin = match &genesis.predecessor {
        None => State::genesis(genesis)?.0,
        Some(_) if is_first => State::first_of_successor(genesis, store)?,
        Some(_) => State::outline(genesis)?,
    };
    replay(origin, store, tip)
}

/// The state at the tip: the one at the store's checkpoint, and the blocks above executed again.
/// Their certificates and signatures were verified before they were committed.
fn replay(origin: State, store: &LedgerStore, tip: Height) -> Result<State, ChainError> {
    let damaged = |height| move || LoadError::OtherState(height);
    let checkpoint = store.checkpoint().ok_or_else(damaged(tip))?;
    let mut state = origin;
    if checkpoint > Height::new(0) {
        let header = store.header(checkpoint)?.ok_or_else(damaged(checkpoint))?;
        state = State::load(&state, &header, store)?;
    }
    if checkpoint < tip {
        tracing::info!(%checkpoint, %tip, "executing blocks again");
    }
    while state.tip().height < tip {
        let height = state.next_height();
        let block = store.block(height)?.ok_or_else(damaged(height))?;
        let executed = state.execute(store, &block, &|_| true).map_err(|error| match error {
            BlockError::Read(error) => ChainError::Read(error),
            error => ChainError::Replay { height, error: Box::new(error) },
        })?;
        store.replay(executed.hash, &executed.transactions, &executed.change)?;
        state = executed.next;
    }
    Ok(state)
}
