//! What a node keeps of each network, when the network changes under it: a stopped one that its
//! people go on from, or back to, in another ([`Genesis::predecessor`]).
//!
//! Slivers stay: the next network answers for the same blobs. Ledger, marker, snapshots and vote
//! journal are of one chain alone. They are *put aside* under a name that ends in the chain's id,
//! and come back if the node ever serves that chain again. Nothing is removed, and no vote that was
//! ever cast is forgotten: who had a journal of a chain gets that one back, never an empty one.
//!
//! Crashes: each step is a rename that is skipped where it is done. The vote journal goes last: it tells
//! which network is served, and [`NetworkFiles::resume`] does what was left to do behind it. The caller
//! holds the lock on the node's key.
//!
//! Deliberately not here: whether a change is right. The caller has compared the genesis with the
//! ledger.
//!
//! [`Genesis::predecessor`]: floe_protocol::genesis::Genesis::predecessor

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use floe_protocol::keys::{ChainId, NodeId};

use crate::{JournalError, VoteJournal, marker, vote_journal};

/// Why the files of a network cannot be put aside or taken back.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// A file cannot be renamed.
    #[error("cannot rename {from} to {to}: {source}", from = from.display(), to = to.display())]
    Rename {
        /// What it is called.
        from: PathBuf,
        /// What it is to be called.
        to: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// There is something already where files are to be put aside.
    #[error(
        "{} is there already: files of that network were put aside before; move it away if it is \
         not needed", .0.display()
    )]
    InTheWay(PathBuf),
    /// The vote journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The files of a node that belong to one network.
#[derive(Clone, Debug)]
pub struct NetworkFiles {
    /// The ledger's directory.
    pub ledger: PathBuf,
    /// Its marker.
    pub ledger_marker: PathBuf,
    /// The directory of snapshots.
    pub snapshots: PathBuf,
    /// The directory of the vote journal.
    pub journal_dir: PathBuf,
}

impl NetworkFiles {
    fn journal(&self) -> PathBuf {
        self.journal_dir.join(vote_journal::FILE)
    }

    /// The network that the files are of, as the vote journal says.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn voted_in(&self, node: NodeId) -> Result<Option<ChainId>, JournalError> {
        Ok(VoteJournal::open(&self.journal_dir, node)?.and_then(|journal| journal.chain()))
    }

    /// Whether files of a network are put aside here.
    #[must_use]
    pub fn has_aside(&self, chain: &ChainId) -> bool {
        aside(&self.ledger, chain).exists()
    }

    /// Puts the files of one network aside and takes back, or makes, those of another.
    ///
    /// # Errors
    /// [`SuccessionError`]: what was not done is done when it is repeated.
    pub fn change(
        &self,
        (from, to): (&ChainId, &ChainId),
        node: NodeId,
    ) -> Result<(), SuccessionError> {
        let journal = self.journal();
        let voted_in = self.voted_in(node)?;
        if voted_in.as_ref().is_some_and(|chain| chain != from && chain != to) {
            return Err(JournalError::Foreign { path: journal, whose: "network" }.into());
        }
        let is_last_done = voted_in.as_ref() == Some(to);
        let kept = [&self.ledger, &self.ledger_marker, &self.snapshots];
        for path in kept.into_iter().chain((!is_last_done).then_some(&journal)) {
            let aside = aside(path, from);
            if path.exists() && aside.exists() {
                return Err(SuccessionError::InTheWay(aside));
            }
        }
        // Where it never had a ledger it has said nothing. Where it had one, a journal that is lost
        // stays lost: then it abstains.
        let next = aside(&journal, to);
        if !is_last_done && !next.exists() && !self.has_aside(to) {
            self.make_journal(to, node, &next)?;
        }
        for path in kept {
            rename(path, &aside(path, from))?;
        }
        if !is_last_done {
            rename(&journal, &aside(&journal, from))?;
        }
        self.resume(to)
    }

    /// Takes back what was put aside of a network, as far as it is not there.
    ///
    /// # Errors
    /// [`SuccessionError::Rename`].
    pub fn resume(&self, chain: &ChainId) -> Result<(), SuccessionError> {
        let journal = self.journal();
        for path in [&self.ledger, &self.ledger_marker, &self.snapshots, &journal] {
            if !path.exists() {
                rename(&aside(path, chain), path)?;
            }
        }
        Ok(())
    }

    /// An empty journal of `chain`, put aside.
    fn make_journal(
        &self,
        chain: &ChainId,
        node: NodeId,
        path: &Path,
    ) -> Result<(), SuccessionError> {
        let dir = self.journal_dir.join(format!("{}.next", vote_journal::FILE));
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(JournalError::Io { path: dir, source }.into());
            }
            Ok(()) | Err(_) => {}
        }
        let mut made = VoteJournal::create(&dir, node)?;
        made.bind(chain)?;
        drop(made);
        rename(&dir.join(vote_journal::FILE), path)?;
        fs::remove_dir(&dir).map_err(|source| JournalError::Io { path: dir, source }.into())
    }
}

/// The name of a file that is put aside.
fn aside(path: &Path, chain: &ChainId) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(chain.to_string());
    PathBuf::from(name)
}

/// Renames what is there, durably.
fn rename(from: &Path, to: &Path) -> Result<(), SuccessionError> {
    let renamed = match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => return Ok(()),
        renamed => renamed,
    };
    let durable = renamed.and_then(|()| File::open(marker::parent(to))?.sync_all());
    durable.map_err(|source| SuccessionError::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use floe_protocol::{hash::Hash, index::Height};

    use super::*;

    const NODE: NodeId = NodeId::new([1; 32]);

    fn chain(byte: u8) -> ChainId {
        ChainId::new(Hash::new([byte; 32]))
    }

    fn files(dir: &Path) -> NetworkFiles {
        NetworkFiles {
            ledger: dir.join("ledger"),
            ledger_marker: dir.join("ledger.marker"),
            snapshots: dir.join("snapshots"),
            journal_dir: dir.to_owned(),
        }
    }

    /// A node that has voted in a network at a height.
    fn served(dir: &Path, network: u8, height: u64) {
        fs::create_dir_all(dir.join("ledger")).unwrap();
        fs::write(dir.join("ledger/log"), [network]).unwrap();
        fs::write(dir.join("ledger.marker"), [network]).unwrap();
        let mut journal = match VoteJournal::open(dir, NODE).unwrap() {
            Some(journal) => journal,
            None => VoteJournal::create(dir, NODE).unwrap(),
        };
        journal.bind(&chain(network)).unwrap();
        journal.start(Height::new(height)).unwrap();
    }

    fn voted_at(dir: &Path) -> Height {
        VoteJournal::open(dir, NODE).unwrap().expect("a journal").height()
    }

    #[test]
    fn there_and_back_nothing_is_lost_and_no_vote_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let (dir, files) = (home.path(), files(home.path()));
        served(dir, 1, 77);
        files.change((&chain(1), &chain(2)), NODE).unwrap();
        assert!(!files.ledger.exists() && !files.ledger_marker.exists());
        assert!(files.has_aside(&chain(1)));
        assert_eq!(files.voted_in(NODE).unwrap(), Some(chain(2)));
        assert_eq!(voted_at(dir), Height::new(0), "a journal of its own");
        served(dir, 2, 5);
        files.change((&chain(2), &chain(1)), NODE).unwrap();
        assert_eq!(fs::read(dir.join("ledger/log")).unwrap(), [1]);
        assert_eq!(fs::read(dir.join("ledger.marker")).unwrap(), [1]);
        assert_eq!(
            (files.voted_in(NODE).unwrap(), voted_at(dir)),
            (Some(chain(1)), Height::new(77))
        );
        files.change((&chain(1), &chain(2)), NODE).unwrap();
        assert_eq!(fs::read(dir.join("ledger/log")).unwrap(), [2]);
        assert_eq!(voted_at(dir), Height::new(5), "what it voted before");
    }

    #[test]
    fn a_change_that_was_cut_off_anywhere_is_ended() {
        for done in 0..=5 {
            let home = tempfile::tempdir().unwrap();
            let (dir, files) = (home.path(), files(home.path()));
            served(dir, 1, 77);
            fs::create_dir(&files.snapshots).unwrap();
            // As far as it came.
            let journal = files.journal();
            if done > 0 {
                files.make_journal(&chain(2), NODE, &aside(&journal, &chain(2))).unwrap();
            }
            let steps = [&files.ledger, &files.ledger_marker, &files.snapshots, &journal];
            for path in steps.into_iter().take(usize::saturating_sub(done, 1)) {
                rename(path, &aside(path, &chain(1))).unwrap();
            }
            files.resume(&chain(2)).unwrap();
            if files.voted_in(NODE).unwrap() != Some(chain(2)) {
                files.change((&chain(1), &chain(2)), NODE).unwrap();
            }
            assert_eq!(files.voted_in(NODE).unwrap(), Some(chain(2)), "{done} steps");
            assert!(!files.ledger.exists() && files.has_aside(&chain(1)));
            files.change((&chain(2), &chain(1)), NODE).unwrap();
            assert_eq!(voted_at(dir), Height::new(77));
            assert!(files.ledger.exists() && files.ledger_marker.exists());
        }
    }

    #[test]
    fn a_journal_that_is_lost_stays_lost() {
        let home = tempfile::tempdir().unwrap();
        let (dir, files) = (home.path(), files(home.path()));
        served(dir, 1, 77);
        fs::remove_file(files.journal()).unwrap();
        files.change((&chain(1), &chain(2)), NODE).unwrap();
        assert_eq!(files.voted_in(NODE).unwrap(), Some(chain(2)));
        served(dir, 2, 5);
        files.change((&chain(2), &chain(1)), NODE).unwrap();
        assert!(VoteJournal::open(dir, NODE).unwrap().is_none(), "it must abstain");
        assert!(files.ledger.exists());
    }

    #[test]
    fn what_is_in_the_way_stays() {
        let home = tempfile::tempdir().unwrap();
        let (dir, files) = (home.path(), files(home.path()));
        served(dir, 1, 77);
        fs::create_dir(aside(&files.ledger, &chain(1))).unwrap();
        let refused = files.change((&chain(1), &chain(2)), NODE).unwrap_err();
        assert!(matches!(refused, SuccessionError::InTheWay(_)), "{refused}");
        assert_eq!(
            (files.voted_in(NODE).unwrap(), voted_at(dir)),
            (Some(chain(1)), Height::new(77))
        );
    }
}
