//! What a node keeps of each network, when the network changes under it: a stopped one that its
//! people go on from, or back to, in another ([`Genesis::predecessor`]).
//!
//! Slivers stay: the next network answers for the same blobs. Ledger, marker, snapshots and vote
//! journal are of one chain alone. They are *put aside* under a name that ends in the chain's id,
//! and come back if the node ever serves that chain again. Nothing is removed, and no vote that was
//! ever cast is forgotten: who had a journal of a chain gets that one back, never an empty one.
//!
//! Crashes: before the first rename a note says what changes, and another one, that all is put aside:
//! while there is a note the files may be of two networks, and [`NetworkFiles::finish`] ends the change
//! first, whichever network the node is started with. The caller holds the lock on the node's key.
//!
//! Deliberately not here: whether a change is right. The caller has compared the genesis with the
//! ledger.
//!
//! [`Genesis::predecessor`]: floe_protocol::genesis::Genesis::predecessor

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use borsh::{BorshDeserialize, BorshSerialize};
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
    /// [`SuccessionError`]: what was not done is done by [`Self::finish`].
    pub fn change(
        &self,
        (from, to): (&ChainId, &ChainId),
        node: NodeId,
    ) -> Result<(), SuccessionError> {
        self.finish(node)?;
        let journal = self.journal();
        let voted_in = self.voted_in(node)?;
        if voted_in.as_ref().is_some_and(|chain| chain != from && chain != to) {
            return Err(JournalError::Foreign { path: journal, whose: "network" }.into());
        }
        let mut change = Change { from: *from, to: *to, keeps_journal: false, is_aside: false };
        change.keeps_journal = voted_in.as_ref() == Some(to);
        for path in self.changed_by(&change) {
            let aside = aside(&path, from);
            if path.exists() && aside.exists() {
                return Err(SuccessionError::InTheWay(aside));
            }
        }
        self.note(&change)?;
        self.finish(node)
    }

    /// Ends a change that was cut off, if one was: then the files are of one network again.
    ///
    /// # Errors
    /// [`SuccessionError`].
    pub fn finish(&self, node: NodeId) -> Result<(), SuccessionError> {
        let Some(change) = self.noted()? else { return Ok(()) };
        let Change { from, to, keeps_journal, is_aside } = change;
        let paths = self.changed_by(&change);
        if !is_aside {
            // Where it never had a ledger it has said nothing. Where it had one, a journal that is
            // lost stays lost: then it abstains.
            let next = aside(&self.journal(), &to);
            if !keeps_journal && !next.exists() && !self.has_aside(&to) {
                self.make_journal(&to, node, &next)?;
            }
            for path in &paths {
                rename(path, &aside(path, &from))?;
            }
            self.note(&Change { is_aside: true, ..change })?;
        }
        for path in &paths {
            if !path.exists() {
                rename(&aside(path, &to), path)?;
            }
        }
        let path = self.change_note();
        let removed = fs::remove_file(&path).and_then(|()| sync_parent(&path));
        removed.map_err(|source| JournalError::Io { path, source }.into())
    }

    /// What a change renames.
    fn changed_by(&self, change: &Change) -> Vec<PathBuf> {
        let kept = [&self.ledger, &self.ledger_marker, &self.snapshots].into_iter().cloned();
        kept.chain((!change.keeps_journal).then(|| self.journal())).collect()
    }

    fn change_note(&self) -> PathBuf {
        self.journal_dir.join(format!("{}.change", vote_journal::FILE))
    }

    /// The change that has begun and not ended.
    fn noted(&self) -> Result<Option<Change>, JournalError> {
        let path = self.change_note();
        let noted = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.and_then(|bytes| borsh::from_slice(&bytes)),
        };
        noted.map(Some).map_err(|source| JournalError::Io { path, source })
    }

    /// Makes a change the one that has begun, durably.
    fn note(&self, change: &Change) -> Result<(), JournalError> {
        let path = self.change_note();
        let new = self.journal_dir.join(format!("{}.change.new", vote_journal::FILE));
        let noted = borsh::to_vec(change).and_then(|bytes| {
            fs::create_dir_all(&self.journal_dir)?;
            let mut file = File::create(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_parent(&path)
        });
        noted.map_err(|source| JournalError::Io { path, source })
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

/// A change of networks that has begun.
#[derive(Clone, Copy, Debug, BorshSerialize, BorshDeserialize)]
struct Change {
    from: ChainId,
    to: ChainId,
    /// The vote journal is the next network's already.
    keeps_journal: bool,
    /// All that was the old network's is put aside: what is here is the next one's.
    is_aside: bool,
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(marker::parent(path))?.sync_all()
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
    let durable = renamed.and_then(|()| sync_parent(to));
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

    /// Does the first `steps` steps of a change, as [`NetworkFiles::change`] does them; how many
    /// there are.
    fn cut_off(files: &NetworkFiles, (from, to): (u8, u8), steps: usize) -> usize {
        let (from, to) = (chain(from), chain(to));
        let change = Change { from, to, keeps_journal: false, is_aside: false };
        let paths = files.changed_by(&change);
        let next = aside(&files.journal(), &to);
        let mut done: Vec<Box<dyn Fn() + '_>> = vec![Box::new(|| files.note(&change).unwrap())];
        if !next.exists() && !files.has_aside(&to) {
            done.push(Box::new(|| files.make_journal(&to, NODE, &next).unwrap()));
        }
        for path in &paths {
            done.push(Box::new(|| rename(path, &aside(path, &from)).unwrap()));
        }
        done.push(Box::new(|| files.note(&Change { is_aside: true, ..change }).unwrap()));
        for path in &paths {
            done.push(Box::new(|| rename(&aside(path, &to), path).unwrap()));
        }
        done.iter().take(steps).for_each(|step| step());
        done.len()
    }

    /// In which network somebody voted, and where.
    type Voted = Option<(Option<ChainId>, Height)>;

    /// What is here of a network: ledger, marker, snapshots; where it voted.
    fn here(dir: &Path) -> ([Option<Vec<u8>>; 3], Voted) {
        let kept = ["ledger/log", "ledger.marker", "snapshots/first"];
        let journal = VoteJournal::open(dir, NODE).unwrap();
        let voted = journal.map(|journal| (journal.chain(), journal.height()));
        (kept.map(|path| fs::read(dir.join(path)).ok()), voted)
    }

    #[test]
    fn a_change_that_was_cut_off_anywhere_is_ended_there_and_back() {
        let files_of = |network: u8| [(); 3].map(|()| Some(vec![network]));
        let first = |dir: &Path, network: u8| {
            fs::create_dir_all(dir.join("snapshots")).unwrap();
            fs::write(dir.join("snapshots/first"), [network]).unwrap();
        };
        for is_lost in [false, true] {
            let (mut done, mut steps) = (0, usize::MAX);
            while done <= steps {
                let home = tempfile::tempdir().unwrap();
                let (dir, files) = (home.path(), files(home.path()));
                served(dir, 1, 77);
                first(dir, 1);
                let lose = || is_lost.then(|| fs::remove_file(files.journal()).unwrap());
                lose();
                let there = cut_off(&files, (1, 2), done);
                files.finish(NODE).unwrap();
                // What was noted is ended; before, nothing has happened.
                if done == 0 {
                    files.change((&chain(1), &chain(2)), NODE).unwrap();
                }
                let new = Some((Some(chain(2)), Height::new(0)));
                assert_eq!(here(dir), ([None, None, None], new), "{done} steps");
                served(dir, 2, 5);
                first(dir, 2);
                lose();
                let back = cut_off(&files, (2, 1), done);
                // Whatever it is started with: first the change is ended, and then done again.
                files.change((&chain(1), &chain(2)), NODE).unwrap_or_else(|error| {
                    assert!(done == 0, "{done} steps: {error}");
                });
                if done > 0 {
                    let voted = (!is_lost).then(|| (Some(chain(2)), Height::new(5)));
                    assert_eq!(here(dir), (files_of(2), voted), "{done} steps");
                    files.change((&chain(2), &chain(1)), NODE).unwrap();
                    let voted = (!is_lost).then(|| (Some(chain(1)), Height::new(77)));
                    assert_eq!(here(dir), (files_of(1), voted), "{done} steps");
                }
                steps = there.max(back);
                done += 1;
            }
            assert_eq!(steps, 11);
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
