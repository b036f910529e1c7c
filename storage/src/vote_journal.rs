//! The vote journal: what a node said at the running height, on disk before anybody hears it.
//!
//! Proposals, votes and the bodies behind them are appended, flushed, and only then sent. After a
//! crash the node replays them, so that it never says two different things at one height and
//! round. A node *without* its journal cannot know what it said and must abstain; so a missing
//! journal is told apart from an empty one: [`VoteJournal::open`] never creates one.
//!
//! The file is a head of one sector (height, and how many bytes a flush made durable) and entries:
//! length, checksum, bytes. A checksum is bound to height and place, so that what an earlier
//! height left behind in the file is never read. Behind the flushed part a crash may leave
//! anything: the first entry that does not match ends the journal, and it was never sent. Within
//! the flushed part it is damage, and an error.
//!
//! It names the node, and the network once it is bound to one, so that the votes of another are
//! never taken for one's own.
//!
//! Invariants: entries that were flushed come back until [`VoteJournal::start`] of a higher
//! height returns; heights never go back. A sector is written whole or not at all. After a failed
//! write or flush nothing more is written or called durable.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use floe_protocol::{
    hash::{Domain, HASH_BYTES, Hash},
    index::Height,
    keys::{ChainId, NodeId},
};

use crate::{marker, opening};

/// The longest entry: a block body and what surrounds it.
pub const ENTRY_BYTES_MAX: usize = 2 << 20;
/// The longest journal. A height that needs more has gone through dozens of rounds of full blocks.
pub const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// File name within the directory.
pub(crate) const FILE: &str = "votes";
const MAGIC: &[u8; 8] = b"floevote";
const FORMAT_VERSION: u32 = 2;
/// The head has a sector of its own.
const HEAD_BYTES: usize = 512;
/// Where the first entry goes.
const FIRST: u64 = HEAD_BYTES as u64;
const CHECKSUM_BYTES: usize = 16;
/// The network of a journal that was not bound to one yet: keys are made before networks.
const UNBOUND: [u8; HASH_BYTES] = [0; HASH_BYTES];
const ENTRY_HEAD_BYTES: usize = 4 + CHECKSUM_BYTES;
/// A file is made shorter only beyond this: overwriting costs less than growing again.
const KEPT_BYTES: u64 = 4 << 20;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("vote journal {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Another process has it.
    #[error("vote journal {path} is in use by another process: stop it")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// There is one already.
    #[error("vote journal {path} exists: what it holds must not be forgotten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is another node's, or about another network.
    #[error(
        "vote journal {path} belongs to another {whose}: use the node's own directory, or remove \
         the file if that node or network is no more"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Another node or another network.
        whose: &'static str,
    },
    /// What was flushed does not read.
    #[error("vote journal {path} is damaged at byte {offset}: the node must abstain")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// It is about another height.
    #[error("height {found} is not that of the vote journal, {journal}")]
    OtherHeight {
        /// The height asked for.
        found: Height,
        /// The height of the journal.
        journal: Height,
    },
    /// The entry is too long, or the journal would be.
    #[error("no room for {bytes} bytes in the vote journal")]
    Full {
        /// Length of the entry.
        bytes: usize,
    },
    /// An earlier write or flush failed.
    #[error("vote journal stopped after a failed write: restart the node")]
    Stopped,
}

/// An open vote journal, which nobody else has.
#[derive(Debug)]
pub struct VoteJournal {
    path: PathBuf,
    file: File,
    node: NodeId,
    /// The network; zeros before the journal is bound to one.
    chain: [u8; HASH_BYTES],
    height: Height,
    /// Where the next entry goes.
    end: u64,
    /// What is durable.
    flushed: u64,
    stopped: bool,
}

impl VoteJournal {
    /// Creates the journal of a `node` whose key was just made, in `dir`, durably. What is there
    /// was left by another node, and goes.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn create_for_new_key(dir: &Path, node: NodeId) -> Result<Self, JournalError> {
        let path = dir.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::Io { path, source })
            }
            Ok(()) | Err(_) => Self::create(dir, node),
        }
    }

    /// Creates the journal of a node that has said nothing at the heights to come, in `dir`,
    /// durably.
    ///
    /// # Errors
    /// [`JournalError::Exists`] if there is one; [`JournalError::Io`].
    pub fn create(dir: &Path, node: NodeId) -> Result<Self, JournalError> {
        let path = dir.join(FILE);
        let failed = |source| JournalError::Io { path: path.clone(), source };
        opening::create(dir).map_err(failed)?;
        if path.try_exists().map_err(failed)? {
            return Err(JournalError::Exists { path });
        }
        let new = dir.join(format!("{FILE}.new"));
        File::create(&new)
            .and_then(|mut file| {
                file.write_all(&head(&node, &UNBOUND, Height::new(0), FIRST))?;
                file.sync_all()?;
                fs::rename(&new, &path)?;
                File::open(marker::parent(&path))?.sync_all()
            })
            .map_err(failed)?;
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        Self::open(dir, node)?.ok_or_else(|| failed(gone()))
    }

    /// The network that a journal is bound to; none if it is bound to none yet.
    #[must_use]
    pub fn chain(&self) -> Option<ChainId> {
        (self.chain != UNBOUND).then(|| ChainId::new(Hash::new(self.chain)))
    }

    /// Opens the journal in `dir`, and cuts off what a crash left of entries that were never
    /// flushed. None if there is no journal: the node must abstain.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] if what was flushed does not read; [`JournalError::Foreign`] if it
    /// is another node's; [`JournalError::Locked`]; [`JournalError::Io`].
    pub fn open(dir: &Path, node: NodeId) -> Result<Option<Self>, JournalError> {
        let path = dir.join(FILE);
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JournalError::Io { path, source }),
        };
        match opening::lock_patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(JournalError::Io { path, source }),
        }
        let height = Height::new(0);
        let chain = UNBOUND;
        let mut journal =
            Self { path, file, node, chain, height, end: 0, flushed: 0, stopped: false };
        journal.recover()?;
        Ok(Some(journal))
    }

    fn recover(&mut self) -> Result<(), JournalError> {
        let bytes = self.file.metadata().map_err(|e| self.io(e))?.len();
        if bytes > JOURNAL_BYTES_MAX {
            return Err(self.damaged(JOURNAL_BYTES_MAX));
        }
        let bytes = self.read(0, bytes)?;
        let head = parse_head(&bytes).ok_or_else(|| self.damaged(0))?;
        if head.node != self.node {
            return Err(JournalError::Foreign { path: self.path.clone(), whose: "node" });
        }
        (self.chain, self.height, self.flushed) = (head.chain, head.height, head.flushed);
        let mut offset = FIRST;
        while let Some(entry) = entry_at(self.height, offset, &bytes) {
            offset += (ENTRY_HEAD_BYTES + entry.len()) as u64;
        }
        if offset < self.flushed {
            return Err(self.damaged(offset));
        }
        self.end = offset;
        self.file
            .set_len(offset)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| self.write_head(offset))
            .map_err(|e| self.io(e))?;
        self.flushed = offset;
        Ok(())
    }

    /// Binds a new journal to a network, durably, or checks that it is bound to this one.
    ///
    /// # Errors
    /// [`JournalError::Foreign`] if it is about another network; others are fatal.
    pub fn bind(&mut self, chain: &ChainId) -> Result<(), JournalError> {
        self.check_running()?;
        if self.chain == *chain.as_bytes() {
            return Ok(());
        }
        if self.chain != UNBOUND {
            return Err(JournalError::Foreign { path: self.path.clone(), whose: "network" });
        }
        self.chain = *chain.as_bytes();
        let bound = self.write_head(self.flushed).and_then(|()| self.file.sync_data());
        self.done(bound)
    }

    /// The height that the entries are about; 0 in a new journal.
    #[must_use]
    pub const fn height(&self) -> Height {
        self.height
    }

    /// Goes on to a height, durably: entries of lower ones are dropped, those of this one stay.
    ///
    /// # Errors
    /// [`JournalError::OtherHeight`] if the journal is of a higher one, whose entries must not be
    /// forgotten; others are fatal.
    pub fn start(&mut self, height: Height) -> Result<(), JournalError> {
        self.check_running()?;
        if height < self.height {
            return Err(JournalError::OtherHeight { found: height, journal: self.height });
        }
        if height == self.height {
            return Ok(());
        }
        self.height = height;
        // The old entries stay where they are, and match no more.
        let before = self.end;
        let started = self.write_head(FIRST).and_then(|()| self.file.sync_data());
        let started = started.and_then(|()| {
            if before > KEPT_BYTES { self.file.set_len(KEPT_BYTES) } else { Ok(()) }
        });
        self.done(started)?;
        self.end = FIRST;
        self.flushed = FIRST;
        Ok(())
    }

    /// Adds an entry: durable after [`Self::flush`].
    ///
    /// # Errors
    /// [`JournalError::OtherHeight`] if the journal is not at `height`; [`JournalError::Full`];
    /// others are fatal.
    pub fn append(&mut self, height: Height, entry: &[u8]) -> Result<(), JournalError> {
        self.check_running()?;
        if height != self.height {
            return Err(JournalError::OtherHeight { found: height, journal: self.height });
        }
        let end = self.end + (ENTRY_HEAD_BYTES + entry.len()) as u64;
        let len = u32::try_from(entry.len()).ok().filter(|_| entry.len() <= ENTRY_BYTES_MAX);
        let Some(len) = len.filter(|_| end <= JOURNAL_BYTES_MAX) else {
            return Err(JournalError::Full { bytes: entry.len() });
        };
        let checksum = checksum(height, self.end, entry);
        let bytes = [&len.to_be_bytes()[..], &checksum, entry].concat();
        let written = self.file.write_all_at(&bytes, self.end);
        self.done(written)?;
        self.end = end;
        Ok(())
    }

    /// Makes all entries durable. Does nothing if they are.
    ///
    /// # Errors
    /// [`JournalError::Io`] or [`JournalError::Stopped`], always fatal.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.check_running()?;
        if self.end == self.flushed {
            return Ok(());
        }
        // The head follows behind: it may say less than is true, never more.
        let flushed = self.file.sync_data().and_then(|()| self.write_head(self.end));
        self.done(flushed)?;
        self.flushed = self.end;
        Ok(())
    }

    /// The height and its entries, in the order in which they were appended.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] or [`JournalError::Io`].
    pub fn entries(&self) -> Result<(Height, Vec<Vec<u8>>), JournalError> {
        let bytes = self.read(0, self.end)?;
        let mut entries = Vec::new();
        let mut offset = FIRST;
        while offset < self.end {
            let entry = entry_at(self.height, offset, &bytes);
            let entry = entry.ok_or_else(|| self.damaged(offset))?;
            offset += (ENTRY_HEAD_BYTES + entry.len()) as u64;
            entries.push(entry.to_vec());
        }
        Ok((self.height, entries))
    }

    fn read(&self, from: u64, to: u64) -> Result<Vec<u8>, JournalError> {
        let len = usize::try_from(to - from).expect("at most JOURNAL_BYTES_MAX");
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, from).map_err(|e| self.io(e))?;
        Ok(bytes)
    }

    fn write_head(&self, flushed: u64) -> io::Result<()> {
        self.file.write_all_at(&head(&self.node, &self.chain, self.height, flushed), 0)
    }

    const fn check_running(&self) -> Result<(), JournalError> {
        if self.stopped { Err(JournalError::Stopped) } else { Ok(()) }
    }

    /// What a write came to. Where one failed, the file is in no known state.
    fn done(&mut self, result: io::Result<()>) -> Result<(), JournalError> {
        self.stopped |= result.is_err();
        result.map_err(|e| self.io(e))
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }

    fn damaged(&self, offset: u64) -> JournalError {
        JournalError::Damaged { path: self.path.clone(), offset }
    }
}

/// Magic, version, height, bytes that are durable, node, chain, checksum.
fn head(node: &NodeId, chain: &[u8; HASH_BYTES], height: Height, flushed: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    head.extend_from_slice(&height.get().to_be_bytes());
    head.extend_from_slice(&flushed.to_be_bytes());
    head.extend_from_slice(node.as_bytes());
    head.extend_from_slice(chain);
    let checksum = checksum(height, 0, &head);
    head.extend_from_slice(&checksum);
    head.resize(HEAD_BYTES, 0);
    head
}

/// What a head says.
struct Head {
    node: NodeId,
    chain: [u8; HASH_BYTES],
    height: Height,
    flushed: u64,
}

fn parse_head(bytes: &[u8]) -> Option<Head> {
    let read = bytes.get(..HEAD_BYTES)?;
    let number = |at: usize| Some(u64::from_be_bytes(read.get(at..at + 8)?.try_into().ok()?));
    let (height, flushed) = (Height::new(number(12)?), number(20)?);
    let node = NodeId::new(read.get(28..60)?.try_into().ok()?);
    let chain = read.get(60..92)?.try_into().ok()?;
    (read == head(&node, &chain, height, flushed)).then_some(Head { node, chain, height, flushed })
}

/// The entry at `offset`, if there is one and it matches.
fn entry_at(height: Height, offset: u64, bytes: &[u8]) -> Option<&[u8]> {
    let entry = bytes.get(usize::try_from(offset).ok()?..)?;
    let (len, entry) = entry.split_first_chunk()?;
    let (found, entry) = entry.split_first_chunk::<CHECKSUM_BYTES>()?;
    let entry = entry.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    (checksum(height, offset, entry) == *found).then_some(entry)
}

fn checksum(height: Height, offset: u64, entry: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let (height, offset) = (height.get().to_be_bytes(), offset.to_be_bytes());
    let hash = Domain::Piece.hash(&[b"vote journal", &height, &offset, entry]);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    checksum
}
