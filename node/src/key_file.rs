//! Key files: secrets of nodes and accounts, readable by their owner alone.
//!
//! A key file is a small JSON object of mode 0600. A file that others may read is refused, because
//! its secret is no longer one. A running node holds a lock on its key file, so that a second
//! process with the same key refuses to start, whatever store it points at.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use floe_protocol::keys::{BlsKeyPair, KeyPair};
use floe_storage::{JournalError, VoteJournal};
use serde::{Deserialize, Serialize};

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("no key file at {}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("key file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is in the way; keys are never overwritten.
    #[error("{} exists already, and keys are never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the secret.
    #[error("key file {} can be read by others (mode {mode:o})", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key of the expected kind.
    #[error("{} is no {expected} key file", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// Another process runs with this key.
    #[error("another process is running with the key {}", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The vote journal that a new key needs cannot be made.
    #[error("the vote journal of a new node: {0}")]
    Journal(#[from] JournalError),
    /// The system gives no randomness.
    #[error("no randomness from the system: {0}")]
    Randomness(getrandom::Error),
}

/// The two keys of a storage node.
#[derive(Clone, Debug)]
pub struct NodeKeys {
    /// ed25519: its identity.
    pub node: KeyPair,
    /// BLS: its storage confirmations.
    pub bls: BlsKeyPair,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum KeyFile {
    Node { node_seed: String, bls_seed: String },
    Wallet { seed: String },
}

impl NodeKeys {
    /// Draws fresh keys.
    ///
    /// # Errors
    /// [`KeyFileError::Randomness`].
    pub fn generate() -> Result<Self, KeyFileError> {
        let node = KeyPair::from_seed(random_seed()?);
        Ok(Self { node, bls: BlsKeyPair::from_seed(random_seed()?) })
    }

    /// Writes the keys to a new file, and beside it an empty vote journal: keys that were just
    /// drawn have never voted. A node that finds no journal must assume that it has.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`], [`KeyFileError::Io`], [`KeyFileError::Journal`].
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        if path.exists() {
            return Err(KeyFileError::Exists { path: path.to_owned() });
        }
        // Closed again: the node opens it when it runs.
        drop(VoteJournal::create_for_new_key(journal_dir(path), self.node.public())?);
        let node_seed = hex(self.node.seed());
        write_new(path, &KeyFile::Node { node_seed, bls_seed: hex(self.bls.seed()) })
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let malformed = || KeyFileError::Malformed { path: path.to_owned(), expected: "node" };
        let KeyFile::Node { node_seed, bls_seed } = read(path, "node")? else {
            return Err(malformed());
        };
        let node = KeyPair::from_seed(unhex(&node_seed).ok_or_else(malformed)?);
        Ok(Self { node, bls: BlsKeyPair::from_seed(unhex(&bls_seed).ok_or_else(malformed)?) })
    }
}

/// The directory of the vote journal of the node with this key file.
#[must_use]
pub fn journal_dir(key: &Path) -> &Path {
    key.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Draws a fresh account or light peer key.
///
/// # Errors
/// [`KeyFileError::Randomness`].
pub fn generate_key_pair() -> Result<KeyPair, KeyFileError> {
    Ok(KeyPair::from_seed(random_seed()?))
}

/// Writes an account's key to a new file.
///
/// # Errors
/// [`KeyFileError::Exists`], [`KeyFileError::Io`].
pub fn create_wallet(path: &Path, key: &KeyPair) -> Result<(), KeyFileError> {
    write_new(path, &KeyFile::Wallet { seed: hex(key.seed()) })
}

/// Reads an account's key.
///
/// # Errors
/// [`KeyFileError`].
pub fn open_wallet(path: &Path) -> Result<KeyPair, KeyFileError> {
    let malformed = || KeyFileError::Malformed { path: path.to_owned(), expected: "wallet" };
    let KeyFile::Wallet { seed } = read(path, "wallet")? else {
        return Err(malformed());
    };
    Ok(KeyPair::from_seed(unhex(&seed).ok_or_else(malformed)?))
}

/// Keeps other processes from running with this key file for as long as it lives.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
}

impl KeyLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`KeyFileError::Locked`] if another process holds it.
    pub fn take(path: &Path) -> Result<Self, KeyFileError> {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(KeyFileError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(io_error(path, source)),
        }
    }
}

fn read(path: &Path, expected: &'static str) -> Result<KeyFile, KeyFileError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions { path: path.to_owned(), mode });
    }
    let text = fs::read_to_string(path).map_err(|source| io_error(path, source))?;
    serde_json::from_str(&text)
        .map_err(|_| KeyFileError::Malformed { path: path.to_owned(), expected })
}

fn write_new(path: &Path, key: &KeyFile) -> Result<(), KeyFileError> {
    let mut text = serde_json::to_string_pretty(key).expect("strings serialise");
    text.push('\n');
    create_durably(path, |file| file.write_all(text.as_bytes()))
}

/// Creates a file that is there, with its name, after a power cut; or leaves none.
fn create_durably(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), KeyFileError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Io { path: path.to_owned(), source },
    })?;
    let written = fill(&mut file).and_then(|()| file.sync_all()).and_then(|()| sync_dir_of(path));
    written.map_err(|source| {
        // Half a key is none, but would stand in the way of the next try.
        drop(fs::remove_file(path));
        KeyFileError::Io { path: path.to_owned(), source }
    })
}

/// Makes the file's name durable, where its directory can be flushed at all.
fn sync_dir_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

fn io_error(path: &Path, source: io::Error) -> KeyFileError {
    match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::NotFound { path: path.to_owned() },
        _ => KeyFileError::Io { path: path.to_owned(), source },
    }
}

fn random_seed() -> Result<[u8; 32], KeyFileError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(KeyFileError::Randomness)?;
    Ok(seed)
}

fn hex(seed: &[u8; 32]) -> String {
    floe_protocol::keys::PublicKey::new(*seed).to_string()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    text.parse().ok().map(|bytes: floe_protocol::keys::PublicKey| *bytes.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let keys = NodeKeys::generate().unwrap();
        keys.create(&path).unwrap();
        let again = NodeKeys::open(&path).unwrap();
        assert_eq!(again.node.public(), keys.node.public());
        assert_eq!(again.bls.public(), keys.bls.public());
        assert!(matches!(keys.create(&path), Err(KeyFileError::Exists { .. })));
        assert!(matches!(open_wallet(&path), Err(KeyFileError::Malformed { .. })));
    }

    #[test]
    fn a_key_that_cannot_be_written_whole_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let full = create_durably(&path, |file| {
            file.write_all(b"{")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(full, Err(KeyFileError::Io { .. })));
        assert!(!path.exists());
        assert!(NodeKeys::generate().unwrap().create(&path).is_ok());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wallet.key");
        create_wallet(&path, &generate_key_pair().unwrap()).unwrap();
        assert!(open_wallet(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open_wallet(&path), Err(KeyFileError::Permissions { mode: 0o640, .. })));
    }

    #[test]
    fn a_second_holder_of_the_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        NodeKeys::generate().unwrap().create(&path).unwrap();
        let lock = KeyLock::take(&path).unwrap();
        assert!(matches!(KeyLock::take(&path), Err(KeyFileError::Locked { .. })));
        drop(lock);
        assert!(KeyLock::take(&path).is_ok());
        let absent = dir.path().join("absent");
        assert!(matches!(KeyLock::take(&absent), Err(KeyFileError::NotFound { .. })));
    }
}
