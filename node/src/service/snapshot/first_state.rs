//! The first state of a network that goes on from a stopped one: in a file beside its genesis, in a
//! node's files, and from there in its ledger.
//!
//! A [`StateFile`] is what `floe genesis --from-state` writes, and what people pass on: all chunks,
//! and behind them the manifest. A node takes it into its own files at its first start, or, if it has
//! the genesis alone, from others ([`peers`]); and keeps it for ever, for those who come later.
//!
//! Invariants: nothing counts before it is compared with the manifest that the genesis names, so
//! whoever hands the file on need not be trusted; memory is one chunk.

mod peers;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
};

use floe_protocol::{
    genesis::{Genesis, Predecessor},
    index::Height,
    ledger::{
        BlockHash, MAX_SNAPSHOT_CHUNK_BYTES, SnapshotError, SnapshotManifest, SnapshotOffer,
        SnapshotRestore,
    },
    vote::CommitCertificate,
};
use floe_storage::{CommitError, LedgerStore};

pub(crate) use self::peers::fetch;
use super::files::{FIRST, SnapshotFiles};

/// The end of every state file.
const MAGIC: &[u8; 8] = b"floestat";
/// Magic, and the length of the manifest before it.
const TRAILER_BYTES: u64 = 16;
/// The hashes of as many chunks as there may be, and a committee.
const MANIFEST_BYTES_MAX: u64 = 2 << 20;
/// The draft of a first state.
const TAKING: &str = "first.new";

/// Why a node does not have the first state of its network.
#[derive(Debug, thiserror::Error)]
pub enum FirstStateError {
    /// It is in no file here.
    #[error("the first state of the network is not here")]
    Missing,
    /// A file is none, or damaged.
    #[error("{} is no state file, or damaged", .0.display())]
    NoStateFile(PathBuf),
    /// A file is that of another network.
    #[error("{} is the first state of another network than the network file's", .0.display())]
    OtherNetwork(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The chunks are not those of the state that the genesis names.
    #[error("the first state of the network: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The ledger does not take it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Nobody has sent it.
    #[error("nobody who can be reached has sent the first state of the network")]
    NobodyHasIt,
}

/// Writes a state file: chunks, each after its length (u32 LE), the manifest, its length (u64 LE),
/// magic.
#[derive(Debug)]
pub(crate) struct StateFile<W> {
    file: W,
    bytes: u64,
}

impl<W: Write> StateFile<W> {
    pub(crate) const fn new(file: W) -> Self {
        Self { file, bytes: 0 }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        self.write(&length.to_le_bytes())?;
        self.write(chunk)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.file.write_all(bytes)
    }

    /// Ends it; how many bytes it has.
    pub(crate) fn finish(mut self, manifest: &SnapshotManifest) -> io::Result<u64> {
        let manifest = borsh::to_vec(manifest)?;
        self.write(&manifest)?;
        self.write(&(manifest.len() as u64).to_le_bytes())?;
        self.write(MAGIC)?;
        self.file.flush()?;
        Ok(self.bytes)
    }
}

/// The first state of a network in a node's files.
#[derive(Clone, Debug)]
pub(crate) struct FirstState {
    files: SnapshotFiles,
    predecessor: Predecessor,
}

impl FirstState {
    /// That of a network that goes on from another; none of all others.
    pub(crate) fn of(genesis: &Genesis, dir: &Path, reserve_bytes: u64) -> Option<Self> {
        let predecessor = genesis.predecessor.as_deref()?.clone();
        Some(Self { files: SnapshotFiles::new(dir, reserve_bytes), predecessor })
    }

    /// What it consists of, if it is whole. Blocks.
    pub(crate) fn offer(&self) -> Option<SnapshotOffer> {
        let offer = self.files.offer_of(FIRST)?;
        self.predecessor.names(&offer.manifest).then_some(offer)
    }

    /// A chunk of it. Blocks.
    pub(super) fn chunk(&self, index: usize) -> io::Result<Vec<u8>> {
        self.files.chunk_of(FIRST, index)
    }

    fn failed(&self, source: io::Error) -> FirstStateError {
        FirstStateError::Io { path: self.files.dir().to_owned(), source }
    }

    /// Takes it from a state file into the node's own, if it is not there. Blocks.
    pub(crate) fn take(&self, path: &Path) -> Result<(), FirstStateError> {
        if self.offer().is_some() {
            return Ok(());
        }
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                FirstStateError::NoStateFile(path.to_owned())
            }
            _ => FirstStateError::Io { path: path.to_owned(), source },
        };
        let mut file = File::open(path).map_err(failed)?;
        let manifest = read_manifest(&mut file).map_err(failed)?;
        if !self.predecessor.names(&manifest) {
            return Err(FirstStateError::OtherNetwork(path.to_owned()));
        }
        file.rewind().map_err(failed)?;
        let mut file = BufReader::new(file);
        let draft = self.files.begin(TAKING).map_err(|error| self.failed(error))?;
        for index in 0..manifest.chunks.len() {
            let chunk = read_chunk(&mut file).map_err(failed)?;
            if !manifest.has_chunk(index, &chunk) {
                return Err(FirstStateError::NoStateFile(path.to_owned()));
            }
            draft.write(index, &chunk).map_err(|error| self.failed(error))?;
        }
        let kept = self.files.keep_first(&draft, &offered(manifest));
        kept.map_err(|error| self.failed(error))
    }

    /// Removes what is there of it: it was damaged. Blocks.
    pub(crate) fn discard(&self) {
        self.files.discard(FIRST);
    }

    /// Begins an empty ledger with it. Blocks.
    pub(crate) fn install(&self, store: &LedgerStore, tip: &[u8]) -> Result<(), FirstStateError> {
        let offer = self.offer().ok_or(FirstStateError::Missing)?;
        let chunks = offer.manifest.chunks.len();
        let mut restore = SnapshotRestore::of_first_state(offer.manifest, &self.predecessor)?;
        let mut installation = store.begin_install(Height::new(0))?;
        for index in 0..chunks {
            let chunk = self.chunk(index).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SnapshotError::OtherChunk(index).into(),
                _ => self.failed(error),
            })?;
            installation.write(restore.take(&chunk)?).map_err(CommitError::from)?;
        }
        installation.write(restore.finish()?).map_err(CommitError::from)?;
        Ok(store.install_genesis(installation, tip)?)
    }
}

/// A manifest as nodes offer it: the genesis is what makes it final.
fn offered(manifest: SnapshotManifest) -> SnapshotOffer {
    let header = &manifest.header;
    let certificate = CommitCertificate {
        height: header.height,
        round: 0,
        block: BlockHash::new(header.state_root),
        signatures: Vec::new(),
    };
    SnapshotOffer { manifest, certificate }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn read_manifest(file: &mut File) -> io::Result<SnapshotManifest> {
    let bytes = file.metadata()?.len();
    let trailer = bytes.checked_sub(TRAILER_BYTES).ok_or_else(invalid)?;
    file.seek(SeekFrom::Start(trailer))?;
    let (mut length, mut magic) = ([0; 8], [0; 8]);
    file.read_exact(&mut length)?;
    file.read_exact(&mut magic)?;
    let length = u64::from_le_bytes(length);
    let start = trailer.checked_sub(length).filter(|_| length <= MANIFEST_BYTES_MAX);
    let start = start.filter(|_| magic == *MAGIC).ok_or_else(invalid)?;
    file.seek(SeekFrom::Start(start))?;
    let mut manifest = vec![0; usize::try_from(length).map_err(|_| invalid())?];
    file.read_exact(&mut manifest)?;
    borsh::from_slice(&manifest).map_err(|_| invalid())
}

fn read_chunk(file: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| invalid())?;
    if length > MAX_SNAPSHOT_CHUNK_BYTES {
        return Err(invalid());
    }
    let mut chunk = vec![0; length];
    file.read_exact(&mut chunk)?;
    Ok(chunk)
}

/// Where the state file of a network file is.
pub(crate) fn beside(network: &Path) -> PathBuf {
    let mut name = network.as_os_str().to_owned();
    name.push(".state");
    PathBuf::from(name)
}

/// The state file beside one of these network files, the first that is there.
pub(crate) fn first_beside<'a>(networks: impl IntoIterator<Item = &'a Path>) -> Option<PathBuf> {
    networks.into_iter().map(beside).find(|path| fs::metadata(path).is_ok_and(|m| m.is_file()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use floe_protocol::{
        ledger::{State, Succession},
        test_support::{Chain, genesis},
    };
    use floe_storage::LedgerStoreConfig;

    use super::*;

    /// A successor's genesis, and its state file.
    fn successor(dir: &Path) -> (Genesis, PathBuf) {
        let before = genesis(7, 7);
        let mut chain = Chain::new(&before);
        chain.next_epoch();
        let gone = chain.state.committee().members()[..3].iter().map(|member| member.node);
        let gone: BTreeSet<_> = gone.collect();
        let succession = Succession::new(&chain.state, &chain.store, &gone).unwrap();
        let mut writer = succession.writer();
        let path = beside(&dir.join("network.json"));
        let mut file = StateFile::new(File::create(&path).unwrap());
        for (key, value) in chain.store.values(chain.state.tip().height.get()) {
            for chunk in writer.push(&key, value).unwrap() {
                file.push(&chunk).unwrap();
            }
        }
        let (chunks, manifest, predecessor) = writer.finish().unwrap();
        for chunk in &chunks {
            file.push(chunk).unwrap();
        }
        let bytes = file.finish(&manifest).unwrap();
        assert_eq!(bytes, fs::metadata(&path).unwrap().len());
        (before.successor(predecessor), path)
    }

    #[test]
    fn a_state_file_becomes_a_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let (genesis, path) = successor(dir.path());
        let first = FirstState::of(&genesis, &dir.path().join("snapshots"), 0).unwrap();
        let node = genesis.committee().unwrap().members()[0].node;
        let config = LedgerStoreConfig::new(
            dir.path().join("ledger"),
            dir.path().join("ledger.marker"),
            node,
        );
        let store = LedgerStore::open(&config).unwrap();
        let tip = genesis.chain_id();
        let refused = first.install(&store, tip.as_bytes()).unwrap_err();
        assert!(matches!(refused, FirstStateError::Missing), "{refused}");
        assert_eq!(first_beside([dir.path().join("network.json").as_path()]), Some(path.clone()));
        first.take(&path).unwrap();
        first.take(&dir.path().join("not there")).unwrap();
        first.install(&store, tip.as_bytes()).unwrap();
        let state = State::first_of_successor(&genesis, &store).unwrap();
        drop(store);
        // It is there after a start, and is not begun with twice.
        let store = LedgerStore::open(&config).unwrap();
        assert_eq!(store.tip().unwrap(), Some((Height::new(0), tip.as_bytes().to_vec())));
        let again = State::first_of_successor(&genesis, &store).unwrap();
        assert_eq!(again.tip(), state.tip());
        assert!(first.install(&store, tip.as_bytes()).is_err());
    }

    #[test]
    fn what_was_damaged_on_the_disk_is_taken_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let (genesis, path) = successor(dir.path());
        let snapshots = dir.path().join("snapshots");
        let first = FirstState::of(&genesis, &snapshots, 0).unwrap();
        let node = genesis.committee().unwrap().members()[0].node;
        let [ledger, marker] = ["ledger", "ledger.marker"].map(|name| dir.path().join(name));
        let store = LedgerStore::open(&LedgerStoreConfig::new(ledger, marker, node)).unwrap();
        let tip = genesis.chain_id();
        first.take(&path).unwrap();
        let chunk = snapshots.join(FIRST).join("00000");
        let damages: [&dyn Fn(); 3] = [
            &|| fs::write(&chunk, b"").unwrap(),
            &|| fs::write(&chunk, vec![7; 100]).unwrap(),
            &|| fs::remove_file(&chunk).unwrap(),
        ];
        for damage in damages {
            damage();
            let refused = first.install(&store, tip.as_bytes()).unwrap_err();
            assert!(matches!(refused, FirstStateError::Snapshot(_)), "{refused}");
            first.discard();
            assert!(first.offer().is_none());
            first.take(&path).unwrap();
        }
        first.install(&store, tip.as_bytes()).unwrap();
        State::first_of_successor(&genesis, &store).unwrap();
    }

    #[test]
    fn files_that_are_damaged_or_of_another_network_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, path) = successor(dir.path());
        let first =
            |genesis: &Genesis| FirstState::of(genesis, &dir.path().join("snapshots"), 0).unwrap();
        let mut other = mine.clone();
        other.predecessor.as_mut().unwrap().manifest = floe_protocol::hash::Hash::ZERO;
        let refused = first(&other).take(&path).unwrap_err();
        assert!(matches!(refused, FirstStateError::OtherNetwork(_)), "{refused}");
        let whole = fs::read(&path).unwrap();
        let last = whole.len() - 1;
        for place in [0, 9, last - 20, last - 8, last] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(first(&mine).take(&path).is_err(), "byte {place}");
        }
        for len in [0, 5, whole.len() / 2, last] {
            fs::write(&path, &whole[..len]).unwrap();
            let refused = first(&mine).take(&path).unwrap_err();
            assert!(matches!(refused, FirstStateError::NoStateFile(_)), "{refused}");
        }
        assert!(first(&mine).offer().is_none(), "nothing of it was kept");
        fs::write(&path, whole).unwrap();
        first(&mine).take(&path).unwrap();
        assert!(first(&mine).offer().is_some());
        assert!(first(&other).offer().is_none());
    }
}
