//! Compaction: volumes that are mostly dead are emptied, so that they can go.
//!
//! A step copies a few pairs that live in such a volume to the active one, every piece checked,
//! makes the copies durable, and replaces the records. A pair that was removed, found damaged or
//! flushed meanwhile has another record by then: its copy is dead, and if it still lives in the
//! volume it is met again. When nothing lives there the directory goes (see `volumes.rs`).
//!
//! Pairs of a volume are found by passing over the table of records, a bounded number a step. The
//! place is kept in memory: after a restart the pass begins anew. Moving takes disk before it gives
//! back more: it may pass the quota by what lives in one volume, and it may use half of the reserve.

use std::{ops::Bound, sync::PoisonError};

use bytes::Bytes;
use floe_protocol::encoding::Axis;

use crate::{
    StorageError,
    key::PairKey,
    pair_record::{PairRecord, State},
    pieces::Contents,
    slivers::Slivers,
    volume::Volume,
    volumes::KEPT_BYTES_MAX,
};

/// A step ends when it has moved so many bytes,
const STEP_BYTES: u64 = 1 << 20;
/// or passed so many records.
const STEP_RECORDS: usize = 4096;
/// Of so many bytes given by a volume ...
const OF_BYTES: u64 = 5;
/// ... this many may be dead: moving three to get back two is the worst that happens.
const DEAD_BYTES_MAX: u64 = 2;

/// Where the pass over the records is.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The volume that is being emptied.
    volume: Option<u32>,
    /// The last record that was passed.
    after: Option<PairKey>,
    /// Whether any record named the volume in this pass.
    met: bool,
}

/// A pair on its way: its record, and the one that names its copy.
type Moving = (PairKey, PairRecord, PairRecord);

impl Slivers {
    /// Moves at most a few pairs or removes empty volumes; whether there may be more to do.
    pub(crate) fn compact_step(&self) -> Result<bool, StorageError> {
        let mut cursor = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        if self.volumes.remove_empty()? {
            return Ok(true);
        }
        self.volumes.seal_if(is_mostly_dead)?;
        let mut emptying = self.volumes.all_sealed();
        emptying
            .retain(|volume| !volume.is_empty() && (volume.is_lost() || is_mostly_dead(volume)));
        let current = emptying.iter().find(|volume| Some(volume.number()) == cursor.volume);
        let Some(volume) =
            current.or_else(|| emptying.iter().max_by_key(|volume| volume.dead_bytes()))
        else {
            return Ok(false);
        };
        if cursor.volume != Some(volume.number()) {
            *cursor = Cursor { volume: Some(volume.number()), ..Cursor::default() };
        }
        // No pair is larger than its slivers by much.
        if !self.space.has_room_to_move(STEP_BYTES)? {
            return Ok(false);
        }
        self.pass(&mut cursor, volume)?;
        Ok(true)
    }

    /// Goes on with the pass over the records.
    fn pass(&self, cursor: &mut Cursor, volume: &Volume) -> Result<(), StorageError> {
        let start = cursor.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.records.range::<PairKey, _>((start, Bound::Unbounded));
        let (mut moving, mut moved_bytes) = (Vec::new(), 0);
        let mut ended = false;
        for _ in 0..STEP_RECORDS {
            let Some(row) = rows.next() else {
                ended = true;
                break;
            };
            let (pair, record) = self.parse_row(row?)?;
            cursor.after = Some(pair);
            if record.place.volume != volume.number() || record.state == State::Damaged {
                continue;
            }
            cursor.met = true;
            if record.is_whole()
                && let Some(copy) = self.copy(&pair, record)?
            {
                moving.push((pair, record, copy));
                moved_bytes += record.live_bytes();
            }
            if moved_bytes >= STEP_BYTES {
                break;
            }
        }
        self.arrive(moving)?;
        if ended {
            if !cursor.met {
                // A sealed volume that no record names, and none ever will.
                tracing::warn!(volume = volume.number(), "a volume counted pairs that are not");
                volume.release_all();
            }
            *cursor = Cursor { volume: cursor.volume, ..Cursor::default() };
        }
        if volume.is_empty() {
            self.volumes.remove_empty()?;
        }
        Ok(())
    }

    /// Copies a pair to the active volume; none of one that turned out damaged or gone.
    fn copy(&self, pair: &PairKey, record: PairRecord) -> Result<Option<PairRecord>, StorageError> {
        match self.read_pair(pair, record)? {
            Ok([primary, secondary]) => {
                let [of_primary, of_secondary] = self.hashes_of(pair, record)?;
                let contents = Contents {
                    slivers: [&primary, &secondary],
                    hashes: [&of_primary, &of_secondary],
                };
                let hash_bytes = [Axis::Primary, Axis::Secondary].into_iter().zip(contents.hashes);
                // Damaged ones stay behind.
                let mut copy = PairRecord { state: State::Complete, ..record };
                for ((axis, hashes), bytes) in hash_bytes.zip(&mut copy.hash_bytes) {
                    if hashes.len() != record.hash_bytes(axis) {
                        *bytes = 0;
                    }
                }
                let copied = self.volumes.append(copy.live_bytes(), |place, pieces| {
                    let copy = PairRecord { place, ..copy };
                    pieces.write(pair, copy, contents)?;
                    Ok(copy)
                });
                copied.map(Some)
            }
            Err((axis, piece)) => {
                self.damaged(pair, record, axis, piece)?;
                Ok(None)
            }
        }
    }

    /// The symbol hashes of both slivers, empty where there are none that are sound.
    fn hashes_of(&self, pair: &PairKey, record: PairRecord) -> Result<[Bytes; 2], StorageError> {
        let primary = self.volumes.read_hashes(pair, record, Axis::Primary)?;
        let secondary = self.volumes.read_hashes(pair, record, Axis::Secondary)?;
        Ok([primary.unwrap_or_default(), secondary.unwrap_or_default()])
    }

    /// Makes copies durable and has the records name them.
    fn arrive(&self, moving: Vec<Moving>) -> Result<(), StorageError> {
        if moving.is_empty() {
            return Ok(());
        }
        self.volumes.flush()?;
        for (pair, record, copy) in moving {
            let moved = self.records.swap(&pair, &record.to_bytes(), &copy.to_bytes())?;
            if moved {
                let lost_bytes = record.live_bytes().saturating_sub(copy.live_bytes());
                self.space.release(lost_bytes);
            }
            self.volumes.release(if moved { record } else { copy });
        }
        Ok(())
    }
}

/// Whether what a volume gives back is worth moving the rest.
fn is_mostly_dead(volume: &Volume) -> bool {
    let given = volume.given();
    given > KEPT_BYTES_MAX && volume.dead_bytes() * OF_BYTES > given * DEAD_BYTES_MAX
}
