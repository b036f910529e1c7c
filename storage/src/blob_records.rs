//! Blobs and their registrations: what a node knows of a blob beside its slivers.
//!
//! A record is born with the first `Table` request of a registration, gains further registrations
//! and, once, the storage certificate, in the byte layout in which it was verified. Values are CBOR
//! of the protocol's own types.
//!
//! Invariants: a record and the registrations that it names are written in one step, and what a
//! failed write tore apart is put right at the next start. A certificate is never replaced. Who
//! changes a blob's record holds its lock.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    codec,
    hash::HASH_BYTES,
    index::Epoch,
    ledger::{BlobRecord, MAX_REGISTRATIONS_PER_BLOB},
    registration::{Registration, RegistrationId},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    StorageError,
    database::{Batch, Table, VALUE_BYTES_MAX, Value},
    usage::{Space, row_bytes},
};

/// Writers of different blobs rarely meet in one of so many locks.
const LOCKS: usize = 64;

#[derive(Debug)]
pub(crate) struct BlobRecords {
    blobs: Table,
    registrations: Table,
    space: Arc<Space>,
    locks: Vec<Mutex<()>>,
    count: AtomicU64,
}

impl BlobRecords {
    /// Takes over the tables: counts, and undoes half-written registrations.
    pub(crate) fn open(
        blobs: Table,
        registrations: Table,
        space: Arc<Space>,
    ) -> Result<Self, StorageError> {
        let records = Self {
            blobs,
            registrations,
            space,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            count: AtomicU64::new(0),
        };
        for row in records.blobs.rows() {
            let (key, value) = row?;
            let blob = records.parse_id(&key)?;
            let mut record: BlobRecord = decode(&records.blobs, &value)?;
            let named = record.registrations.len();
            let mut known = Vec::with_capacity(named);
            for id in record.registrations {
                if records.registrations.get(id.as_bytes())?.is_some() {
                    known.push(id);
                }
            }
            record.registrations = known;
            let mut bytes = value.len();
            if record.registrations.len() < named {
                let value = encode(&records.blobs, &record)?;
                records.blobs.insert(blob.as_bytes(), &value)?;
                bytes = value.len();
            }
            records.count.fetch_add(1, Ordering::Relaxed);
            records.space.add(row_bytes(HASH_BYTES, bytes));
        }
        records.drop_dangling_registrations()?;
        Ok(records)
    }

    /// Removes registrations that no record names: their blob's part of the step was lost.
    fn drop_dangling_registrations(&self) -> Result<(), StorageError> {
        let mut dangling = Vec::new();
        for row in self.registrations.rows() {
            let (key, value) = row?;
            let registration: Registration = decode(&self.registrations, &value)?;
            let record = self.record(&registration.header.id())?;
            if record.is_some_and(|record| record.registrations.contains(&registration.id)) {
                self.space.add(row_bytes(key.len(), value.len()));
            } else {
                dangling.push(key);
            }
        }
        for key in dangling {
            self.registrations.remove(&key)?;
        }
        Ok(())
    }

    /// Writes `registration`, its place in the blob's record and whatever `stage` adds, in one
    /// step. `stage` says how many bytes its rows count.
    pub(crate) fn register(
        &self,
        registration: &Registration,
        stage: impl FnOnce(&mut Batch, &BlobId) -> Result<u64, StorageError>,
    ) -> Result<(), StorageError> {
        let blob = registration.header.id();
        let _lock = self.lock(&blob);
        let mut batch = Batch::default();
        let mut bytes = stage(&mut batch, &blob)?;

        let old = self.blobs.get(blob.as_bytes())?;
        let is_new_blob = old.is_none();
        let mut record = match &old {
            Some(value) => decode(&self.blobs, value)?,
            None => BlobRecord::new(registration.header),
        };
        let value = encode(&self.registrations, registration)?;
        let old_registration = self.registrations.get(registration.id.as_bytes())?;
        if old_registration.as_deref() != Some(&value[..]) {
            batch.insert(&self.registrations, registration.id.as_bytes(), &value)?;
            if old_registration.is_none() {
                bytes += row_bytes(HASH_BYTES, value.len());
            }
        }
        if !record.registrations.contains(&registration.id) {
            if record.registrations.len() >= MAX_REGISTRATIONS_PER_BLOB {
                return Err(StorageError::TooManyRegistrations(blob));
            }
            record.registrations.push(registration.id);
            let value = encode(&self.blobs, &record)?;
            batch.insert(&self.blobs, blob.as_bytes(), &value)?;
            let before = old.map_or(0, |old| row_bytes(HASH_BYTES, old.len()));
            bytes += row_bytes(HASH_BYTES, value.len()).saturating_sub(before);
        }

        self.space.reserve(bytes)?;
        batch.commit().inspect_err(|_| self.space.release(bytes))?;
        if is_new_blob {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Keeps the first certificate of a blob; whether this one was the first.
    pub(crate) fn put_certificate(
        &self,
        header: &BlobHeader,
        certificate: Vec<u8>,
        epoch: Epoch,
    ) -> Result<bool, StorageError> {
        let blob = header.id();
        let _lock = self.lock(&blob);
        let old = self.blobs.get(blob.as_bytes())?;
        let mut record = match &old {
            Some(value) => decode(&self.blobs, value)?,
            None => BlobRecord::new(*header),
        };
        if record.certificate.is_some() {
            return Ok(false);
        }
        record.certificate = Some(certificate);
        record.certified = Some(epoch);
        let value = encode(&self.blobs, &record)?;
        self.blobs.insert(blob.as_bytes(), &value)?;
        if let Some(old) = old {
            self.space.release(row_bytes(HASH_BYTES, old.len()));
        } else {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.space.add(row_bytes(HASH_BYTES, value.len()));
        Ok(true)
    }

    pub(crate) fn registration(
        &self,
        id: &RegistrationId,
    ) -> Result<Option<Registration>, StorageError> {
        let value = self.registrations.get(id.as_bytes())?;
        value.map(|value| decode(&self.registrations, &value)).transpose()
    }

    pub(crate) fn record(&self, blob: &BlobId) -> Result<Option<BlobRecord>, StorageError> {
        let value = self.blobs.get(blob.as_bytes())?;
        value.map(|value| decode(&self.blobs, &value)).transpose()
    }

    /// A blob's record with its registrations.
    pub(crate) fn record_with_registrations(
        &self,
        blob: &BlobId,
    ) -> Result<Option<(BlobRecord, Vec<Registration>)>, StorageError> {
        let Some(record) = self.record(blob)? else {
            return Ok(None);
        };
        let mut registrations = Vec::with_capacity(record.registrations.len());
        for id in &record.registrations {
            let registration = self.registration(id)?;
            registrations.push(registration.ok_or_else(|| self.registrations.corrupt())?);
        }
        Ok(Some((record, registrations)))
    }

    /// All records in the order of blob ids.
    pub(crate) fn rows(
        &self,
    ) -> impl Iterator<Item = Result<(BlobId, BlobRecord), StorageError>> + use<'_> {
        self.blobs.rows().map(|row| {
            let (key, value) = row?;
            Ok((self.parse_id(&key)?, decode(&self.blobs, &value)?))
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn parse_id(&self, key: &[u8]) -> Result<BlobId, StorageError> {
        let id = key.try_into().map_err(|_| self.blobs.corrupt())?;
        Ok(BlobId::new(id))
    }

    fn lock(&self, blob: &BlobId) -> MutexGuard<'_, ()> {
        let index = usize::from(blob.as_bytes()[HASH_BYTES - 1]) % LOCKS;
        self.locks[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode<T: Serialize>(table: &Table, value: &T) -> Result<Vec<u8>, StorageError> {
    codec::encode(value, VALUE_BYTES_MAX).map_err(|error| match error {
        codec::CodecError::TooLarge { bytes, max_bytes } => {
            StorageError::Length { what: "record", bytes, max_bytes }
        }
        codec::CodecError::Malformed => table.corrupt(),
    })
}

fn decode<T: DeserializeOwned>(table: &Table, value: &Value) -> Result<T, StorageError> {
    codec::decode(value, VALUE_BYTES_MAX).map_err(|_| table.corrupt())
}

#[cfg(test)]
mod tests {
    use floe_protocol::{hash::Hash, keys::PublicKey};

    use super::*;
    use crate::{database::Database, schema};

    fn open(dir: &std::path::Path) -> (BlobRecords, Database) {
        let database = Database::open(dir, 1 << 20, crate::database::BACKLOG_BYTES_MAX).unwrap();
        let blobs = database.table(schema::BLOBS).unwrap();
        let registrations = database.table(schema::REGISTRATIONS).unwrap();
        let space = Arc::new(Space::new(dir, u64::MAX, 0));
        (BlobRecords::open(blobs, registrations, space).unwrap(), database)
    }

    fn registration(number: u8) -> Registration {
        let header = BlobHeader { n_shards: 7, len: 9, root: Hash::new([number; HASH_BYTES]) };
        let owner = PublicKey::new([2; 32]);
        Registration {
            id: RegistrationId::of(&header.id(), &owner, 0),
            header,
            owner,
            start: Epoch::new(0),
            end: Epoch::new(9),
            deletable: true,
            certified: None,
        }
    }

    #[test]
    fn halves_of_a_registration_are_removed_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (records, database) = open(dir.path());
        for number in [1, 2, 3] {
            records.register(&registration(number), |_, _| Ok(0)).unwrap();
        }
        let [whole, unnamed, lost] = [1, 2, 3].map(registration);
        records.blobs.remove(unnamed.header.id().as_bytes()).unwrap();
        records.registrations.remove(lost.id.as_bytes()).unwrap();
        database.flush().unwrap();
        drop((records, database));

        let (records, _database) = open(dir.path());
        assert_eq!(records.registration(&whole.id).unwrap(), Some(whole));
        assert_eq!(records.registration(&unnamed.id).unwrap(), None);
        let found = records.record_with_registrations(&lost.header.id()).unwrap();
        let (record, registrations) = found.unwrap();
        assert_eq!((record.registrations.len(), registrations.len()), (0, 0));
        assert_eq!(records.count(), 2);
    }
}
