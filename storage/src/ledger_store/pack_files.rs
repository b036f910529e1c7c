//! Files of packs: the bytes of the nodes of some versions, one pack behind the other.
//!
//! sled writes what is appended to it three or four times over, and nodes are most of what a
//! block writes. So sled keeps a *place* for each pack, and the bytes lie here, in a file for
//! every [`VERSIONS_PER_FILE`] versions, which goes as a whole when all of them are swept.
//!
//! Invariants: bytes are durable before their place is written, and their file is removed after
//! the removal of their places is durable. A place is checked against its checksum. What a
//! crashed commit left in a file has no place, and is skipped.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use borsh::{BorshDeserialize, BorshSerialize};
use floe_protocol::hash::Domain;

use crate::opening;

const VERSIONS_PER_FILE: u64 = 64;
const CHECKSUM_BYTES: usize = 16;

/// Where a pack lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Place {
    file: u64,
    offset: u64,
    bytes: u32,
    checksum: [u8; CHECKSUM_BYTES],
}

/// The files, opened as they are asked for.
#[derive(Debug)]
pub(super) struct PackFiles {
    dir: PathBuf,
    open: Mutex<BTreeMap<u64, Arc<File>>>,
}

impl PackFiles {
    /// The files in the directory of a store.
    pub(super) fn open(store: &Path) -> io::Result<Self> {
        let dir = store.join("packs");
        opening::create(&dir)?;
        Ok(Self { dir, open: Mutex::default() })
    }

    /// Appends the packs of a version, durably; their places.
    pub(super) fn append(&self, version: u64, packs: &[Vec<u8>]) -> io::Result<Vec<Place>> {
        let number = version / VERSIONS_PER_FILE;
        let path = self.path(number);
        let is_new = !path.try_exists()?;
        let file = File::options().create(true).append(true).open(path)?;
        let start = file.metadata()?.len();
        let mut places = Vec::with_capacity(packs.len());
        let mut offset = start;
        for pack in packs {
            let bytes = u32::try_from(pack.len()).map_err(io::Error::other)?;
            places.push(Place { file: number, offset, bytes, checksum: checksum(pack) });
            offset += u64::from(bytes);
        }
        io::Write::write_all(&mut &file, &packs.concat())?;
        file.sync_data()?;
        if is_new {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(places)
    }

    /// The pack at a place; none if its file is gone, an error of kind `InvalidData` if it is
    /// damaged.
    pub(super) fn read(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(place.file)? else {
            return Ok(None);
        };
        let len = usize::try_from(place.bytes).map_err(io::Error::other)?;
        let mut pack = vec![0; len];
        match file.read_exact_at(&mut pack, place.offset) {
            Ok(()) if checksum(&pack) == place.checksum => Ok(Some(pack)),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Removes the files of versions below `version` alone.
    pub(super) fn remove_below(&self, version: u64) -> io::Result<()> {
        let kept = version / VERSIONS_PER_FILE;
        let mut removed = false;
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
            if let Some(number) = number.filter(|number| *number < kept) {
                self.lock().remove(&number);
                fs::remove_file(self.path(number))?;
                removed = true;
            }
        }
        if removed { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    fn file(&self, number: u64) -> io::Result<Option<Arc<File>>> {
        let mut open = self.lock();
        if let Some(file) = open.get(&number) {
            return Ok(Some(Arc::clone(file)));
        }
        match File::open(self.path(number)) {
            Ok(file) => Ok(Some(Arc::clone(open.entry(number).or_insert(Arc::new(file))))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn checksum(pack: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Domain::Piece.hash(&[b"pack", pack]);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    checksum
}
