//! Opening a store: the checks between a directory's name and a store that may be trusted.
//!
//! In this order: marker and directory agree that there is (or is not) a store; the directory is
//! there and writable; nobody else works on it; the database reads; it is this node's, in this
//! format, and the very one that the marker names. Only then are tables handed out.
//!
//! Invariant: a store that should be there and is not is never quietly replaced by an empty one.
//! With `accept_empty` the person says that it may be.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    thread,
    time::Duration,
};

use crate::{
    OpenError, StorageError, StoreConfig,
    database::{Database, DatabaseError, LOG_FILE, Table},
    marker::{self, Marker},
    schema::{self, Identity, Kind},
};

const LOCK_FILE: &str = "lock";
const LOCK_ATTEMPTS_MAX: u32 = 10;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// An open database that belongs to the node, and the lock on its directory.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) database: Database,
    pub(crate) lock: File,
}

/// Opens or creates the store of `kind` that `config` names.
pub(crate) fn open(config: &StoreConfig, kind: &Kind) -> Result<Opened, OpenError> {
    let dir = &config.dir;
    let marker = Marker::read(&config.marker).map_err(|e| io_error(&config.marker, e))?;
    let was_lost = marker != Marker::Absent && !has_log(dir)?;
    if was_lost && !config.accept_empty {
        return Err(emptied(config));
    }
    create(dir).map_err(|e| io_error(dir, e))?;
    let lock = lock(dir)?;
    let database = Database::open(dir, config.cache_bytes, kind.backlog_bytes_max)
        .map_err(|e| database_error(dir, e))?;
    let table = table(&database, dir, schema::STORE)?;

    let identity = Identity::read(&table).map_err(|e| storage_error(dir, e))?;
    let Some(identity) = identity else {
        check_blank(&database, dir, kind)?;
        if marker != Marker::Absent && !config.accept_empty {
            return Err(emptied(config));
        }
        initialise(config, kind, &database, &table)?;
        return Ok(Opened { database, lock });
    };
    if !(kind.oldest..=kind.version).contains(&identity.version) {
        return Err(OpenError::Version {
            dir: dir.clone(),
            found: identity.version,
            supported: kind.version,
        });
    }
    if identity.node != config.node {
        return Err(OpenError::OtherNode {
            dir: dir.clone(),
            found: Box::new(identity.node),
            expected: Box::new(config.node),
        });
    }
    if !marker.names(&identity.store) {
        if marker != Marker::Absent && !config.accept_empty {
            return Err(emptied(config));
        }
        write_marker(config, &identity)?;
    }
    if identity.version < kind.version {
        let raised = Identity { version: kind.version, ..identity };
        let written = raised.write(&table).and_then(|()| database.flush());
        written.map_err(|e| storage_error(dir, e))?;
        tracing::info!(from = identity.version, to = kind.version, "store has another format now");
    }
    Ok(Opened { database, lock })
}

/// A table of a database that is being opened.
pub(crate) fn table(
    database: &Database,
    dir: &Path,
    name: &'static str,
) -> Result<Table, OpenError> {
    database.table(name).map_err(|e| database_error(dir, e))
}

/// The error of a store whose tables do not read when it is opened.
pub(crate) fn storage_error(dir: &Path, error: StorageError) -> OpenError {
    match error {
        StorageError::Io(error) => io_error(dir, error),
        other => OpenError::Corrupt { dir: dir.to_owned(), detail: other.to_string() },
    }
}

/// Makes a blank database this node's store: first the identity, durable, then the marker.
fn initialise(
    config: &StoreConfig,
    kind: &Kind,
    database: &Database,
    table: &Table,
) -> Result<(), OpenError> {
    let identity = Identity::new(config.node, kind.version);
    identity
        .write(table)
        .and_then(|()| database.flush())
        .map_err(|e| storage_error(&config.dir, e))?;
    write_marker(config, &identity)
}

fn write_marker(config: &StoreConfig, identity: &Identity) -> Result<(), OpenError> {
    marker::write(&config.marker, &identity.store).map_err(|e| io_error(&config.marker, e))
}

/// Without an identity nothing else may be there: it was written first.
fn check_blank(database: &Database, dir: &Path, kind: &Kind) -> Result<(), OpenError> {
    for name in kind.tables {
        if !table(database, dir, name)?.is_empty() {
            return Err(OpenError::Corrupt {
                dir: dir.to_owned(),
                detail: "its identity is lost".into(),
            });
        }
    }
    Ok(())
}

/// Whether `dir` holds a log with anything in it.
fn has_log(dir: &Path) -> Result<bool, OpenError> {
    let log = dir.join(LOG_FILE);
    match fs::metadata(&log) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(dir, error)),
    }
}

/// Creates `dir` and makes it and its ancestors durable.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = marker::parent(dir);
    if dir != parent {
        create(&parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !dir.is_dir() => {
            Err(io::ErrorKind::NotADirectory.into())
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Takes the lock on the store. The operating system gives it back when the process ends.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error(&path, e))?;
    match lock_patiently(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error(&path, error)),
    }
}

/// Locks a file. A process that this one is just starting holds a copy of the lock of what was
/// closed just before, until it runs its own program: so a held lock is waited for, briefly.
pub(crate) fn lock_patiently(file: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_ATTEMPTS_MAX {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_RETRY),
            other => return other,
        }
    }
    file.try_lock()
}

fn emptied(config: &StoreConfig) -> OpenError {
    OpenError::Emptied { dir: config.dir.clone(), marker: config.marker.clone() }
}

fn database_error(dir: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Io(error) => io_error(dir, error),
        DatabaseError::Corrupt(detail) => OpenError::Corrupt { dir: dir.to_owned(), detail },
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotADirectory => OpenError::NotADirectory { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable { path, source }
        }
        _ => OpenError::Io { path, source },
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::keys::NodeId;

    use super::*;
    use crate::{FORMAT_VERSION, Store};

    #[test]
    fn another_format_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (dir, marker) = (home.path().join("store"), home.path().join("marker"));
        let config = StoreConfig::new(dir, marker, NodeId::new([1; 32]));
        let opened = open(&config, &schema::SLIVER_STORE).unwrap();
        let table = table(&opened.database, &config.dir, schema::STORE).unwrap();
        let identity = Identity::read(&table).unwrap().unwrap();
        let newer = Identity { version: FORMAT_VERSION + 1, ..identity };
        newer.write(&table).unwrap();
        opened.database.flush().unwrap();
        drop((table, opened));
        let refused = Store::open(&config).unwrap_err();
        let OpenError::Version { found, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(found, FORMAT_VERSION + 1);
    }

    #[test]
    fn a_store_of_the_format_before_becomes_one_of_this() {
        let home = tempfile::tempdir().unwrap();
        let (dir, marker) = (home.path().join("store"), home.path().join("marker"));
        let config = StoreConfig::new(dir, marker, NodeId::new([1; 32]));
        let before = Kind { version: 2, ..schema::SLIVER_STORE };
        drop(open(&config, &before).unwrap());
        drop(Store::open(&config).unwrap());
        let refused = open(&config, &before).unwrap_err();
        let OpenError::Version { found, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(found, FORMAT_VERSION);
    }
}
