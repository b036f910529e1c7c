//! All values of one version, in the order of their keys.
//!
//! Runs never change and stay while they are held; what memory says of the version is copied once,
//! which costs a pointer for each value that changed lately. So the list is that of one version
//! from its first entry to its last, however long it takes to read and whatever is committed
//! meanwhile.

use std::iter::Peekable;

use floe_protocol::{hash::Hash, ledger::ReadError};

use super::{
    memory::Shared,
    merge,
    rows::{self, Kind},
    runs::Merged,
    state::States,
};
use crate::{StorageError, database::Table};

/// The values of a version: hash of the key and bytes, ascending. Each step may read the disk.
#[derive(Debug)]
pub struct StateValues {
    table: Table,
    /// What memory knows better than the runs; none where the key is removed.
    known: Peekable<std::vec::IntoIter<(Hash, Option<Shared>)>>,
    stored: Merged,
    next_stored: Option<(Hash, Vec<u8>)>,
}

impl StateValues {
    pub(super) fn new(states: &States, version: u64) -> Result<Self, ReadError> {
        let (known, runs) = {
            let memory = states.memory();
            let oldest = memory.floor;
            if version < oldest || memory.tip.is_none() {
                return Err(ReadError::NoSuchVersion { version, oldest });
            }
            (memory.values_at(version), memory.runs())
        };
        let failed = |error: StorageError| ReadError::Failed(error.into());
        let start = rows::all(Kind::Value).start;
        let stored = Merged::new(&states.table, &runs.state, &start).map_err(failed)?;
        let table = states.table.clone();
        let known = known.into_iter().peekable();
        let mut values = Self { table, known, stored, next_stored: None };
        values.next_stored = values.read_stored().map_err(failed)?;
        Ok(values)
    }

    fn read_stored(&mut self) -> Result<Option<(Hash, Vec<u8>)>, StorageError> {
        while let Some(entry) = self.stored.next()? {
            let Some((kind, key)) = entry.key.split_first() else { continue };
            if *kind != Kind::Value as u8 {
                break;
            }
            if let Some(value) = entry.value {
                let key: [u8; 32] = key.try_into().map_err(|_| self.table.corrupt())?;
                let (_, value) = merge::parse_value(&self.table, value)?;
                return Ok(value.map(|value| (Hash::new(key), value)));
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<(Hash, Vec<u8>)>, StorageError> {
        loop {
            let known = self.known.peek().map(|(key, _)| *key);
            let stored = self.next_stored.as_ref().map(|(key, _)| *key);
            if let Some(key) = known
                && stored.is_none_or(|stored| key <= stored)
            {
                if stored == Some(key) {
                    self.next_stored = self.read_stored()?;
                }
                if let Some((key, Some(value))) = self.known.next() {
                    return Ok(Some((key, value.to_vec())));
                }
                continue;
            }
            let next = if stored.is_some() { self.read_stored()? } else { None };
            return Ok(std::mem::replace(&mut self.next_stored, next));
        }
    }
}

impl Iterator for StateValues {
    type Item = Result<(Hash, Vec<u8>), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
