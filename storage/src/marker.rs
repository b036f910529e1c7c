//! The marker file: a note beside the node's key that says which store the node keeps.
//!
//! A node whose data disk was emptied, replaced or not mounted would otherwise start with an empty
//! store, answer `Missing` for all that it confirmed, and be paid for nothing. The marker lives
//! elsewhere, so that it does not vanish with the disk. It is one line of text, written beside the
//! old one and renamed over it.
//!
//! Invariant: the marker is written after the store's identity is durable, so a marker without its
//! store always means that something was lost.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use floe_protocol::hash::Hash;

const HEAD: &str = "floe store ";
/// A longer file is no marker.
const MARKER_BYTES_MAX: u64 = 1024;

/// What the marker file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// There is none: the node never had a store.
    Absent,
    /// Its text.
    Present(String),
}

impl Marker {
    /// Reads the marker at `path`.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > MARKER_BYTES_MAX => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "not a marker file"))
            }
            Ok(_) => fs::read_to_string(path).map(Self::Present),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(error),
        }
    }

    /// Whether it is the marker of `store`.
    pub(crate) fn names(&self, store: &Hash) -> bool {
        matches!(self, Self::Present(text) if *text == line(store))
    }
}

/// Makes `path` the marker of `store`, durably.
pub(crate) fn write(path: &Path, store: &Hash) -> io::Result<()> {
    let parent = parent(path);
    fs::create_dir_all(&parent)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = File::create(&new)?;
    file.write_all(line(store).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(parent)?.sync_all()
}

/// The directory of `path`, which may be given relative to the working directory.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn line(store: &Hash) -> String {
    format!("{HEAD}{store}\n")
}
