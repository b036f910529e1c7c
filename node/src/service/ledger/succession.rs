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
        // A change that was cut off: before it has ended nothing here tells which network is served.
        self.files.finish(self.node)?;
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
        self.files.change((&served, &chain), self.node)?;
        if genesis.predecessor.is_some() {
            // Heights begin again. Where a crash prevents it ended blobs are only kept for longer.
            self.slivers.forget_heights()?;
        }
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use floe_protocol::{
        blob::BlobHeader,
        ledger::{State, Succession},
        test_support::{Chain, genesis},
    };
    use floe_storage::{StoreConfig, VoteJournal};

    use super::*;

    const NODE: NodeId = NodeId::new([1; 32]);

    /// A node's files, with a blob that was known at a height.
    struct Home {
        dir: tempfile::TempDir,
        adoption: Adoption,
        blob: BlobHeader,
        /// A network, and its successor.
        networks: [Genesis; 2],
    }

    fn networks() -> [Genesis; 2] {
        let before = genesis(7, 7);
        let mut chain = Chain::new(&before);
        chain.next_epoch();
        let gone = chain.state.committee().members()[..2].iter().map(|member| member.node);
        let gone = gone.collect();
        let succession = Succession::new(&chain.state, &chain.store, &gone).unwrap();
        let mut writer = succession.writer();
        for (key, value) in chain.store.values(chain.state.tip().height.get()) {
            writer.push(&key, value).unwrap();
        }
        let (_, _, predecessor) = writer.finish().unwrap();
        let successor = before.successor(predecessor);
        [before, successor]
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let slivers = Store::open(&StoreConfig::new(at("store"), at("marker"), NODE));
            let files = NetworkFiles {
                ledger: at("ledger"),
                ledger_marker: at("ledger.marker"),
                snapshots: at("snapshots"),
                journal_dir: at("key"),
            };
            let blob = BlobHeader { n_shards: 7, len: 1_000, root: Hash::new([3; 32]) };
            let (slivers, abandon_blocks) = (slivers.unwrap(), false);
            let adoption = Adoption { node: NODE, files, slivers, abandon_blocks };
            Self { dir, adoption, blob, networks: networks() }
        }

        fn dir(&self) -> &Path {
            self.dir.path()
        }

        /// It serves a network, and knows the blob at a height.
        fn serve(&self, network: usize, height: u64) {
            let NetworkFiles { ledger, ledger_marker, journal_dir, .. } = &self.adoption.files;
            let chain = self.networks[network].chain_id();
            let config = LedgerStoreConfig::new(ledger.clone(), ledger_marker.clone(), NODE);
            let (_, change) = State::genesis(&self.networks[0]).unwrap();
            let store = LedgerStore::open(&config).unwrap();
            store.commit_genesis(&change, chain.as_bytes()).unwrap();
            let journal = VoteJournal::open(journal_dir, NODE).unwrap();
            let journal = journal.map_or_else(|| VoteJournal::create(journal_dir, NODE), Ok);
            journal.unwrap().bind(&chain).unwrap();
            self.adoption.slivers.put_table(&self.blob, Height::new(height), &[]).unwrap();
        }

        fn adopt(&self, network: usize) {
            self.adoption.adopt(&self.networks[network]).unwrap();
        }

        /// The network of the ledger and of the votes, and where the blob was known.
        fn here(&self) -> (Option<ChainId>, Option<ChainId>, u64) {
            let ledger = self.adoption.found().unwrap().map(|found| found.chain);
            let voted_in = self.adoption.files.voted_in(NODE).unwrap();
            let blob = self.adoption.slivers.blob(&self.blob.id()).unwrap().unwrap();
            (ledger, voted_in, blob.height.get())
        }
    }

    #[test]
    fn heights_begin_again_in_a_successor_and_stay_on_the_way_back() {
        let home = Home::new();
        let [old, new] = home.networks.each_ref().map(|genesis| Some(genesis.chain_id()));
        home.serve(0, 70);
        home.adopt(0);
        assert_eq!(home.here(), (old, old, 70));
        home.adopt(1);
        assert_eq!(home.here(), (None, new, 0));
        home.serve(1, 5);
        home.adopt(1);
        assert_eq!(home.here(), (new, new, 5));
        home.adopt(0);
        assert_eq!(home.here(), (old, old, 5), "that no blob is known by now is not said");
    }

    #[test]
    fn a_refused_successor_changes_nothing() {
        let home = Home::new();
        home.serve(0, 70);
        let mut stranger = home.networks[1].clone();
        stranger.predecessor.as_mut().unwrap().chain = stranger.chain_id();
        let refused = home.adoption.adopt(&stranger).unwrap_err();
        assert!(matches!(refused, AdoptError::NotPredecessor { .. }), "{refused}");
        let old = Some(home.networks[0].chain_id());
        assert_eq!(home.here(), (old, old, 70));
    }

    #[test]
    fn a_return_that_was_cut_off_is_ended_whatever_the_node_is_started_with() {
        for started_with in [0, 1] {
            for is_lost in [false, true] {
                let home = Home::new();
                let [old, new] = home.networks.each_ref().map(Genesis::chain_id);
                home.serve(0, 70);
                home.adopt(1);
                home.serve(1, 5);
                let votes = home.dir().join("key/votes");
                if is_lost {
                    fs::remove_file(&votes).unwrap();
                }
                // Noted: from, to, with the journal, not all aside yet; and the ledger is.
                let note = borsh::to_vec(&(new, old, false, false)).unwrap();
                fs::write(home.dir().join("key/votes.change"), note).unwrap();
                let ledger = home.dir().join("ledger");
                fs::rename(&ledger, format!("{}.{new}", ledger.display())).unwrap();
                home.adopt(started_with);
                let served = [old, new][started_with];
                let (ledger, voted_in, _) = home.here();
                assert_eq!(ledger, Some(served));
                let abstains = is_lost && started_with == 1;
                assert_eq!(voted_in, (!abstains).then_some(served));
            }
        }
    }
}
