//! Bits that flip on the disk: never served, reported once, and made good by storing again.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
};

use floe_protocol::encoding::Axis;
use floe_storage::{OpenError, PIECE_BYTES, StorageError, Store};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    common::{Home, SHARD, blob, config_in, is_there, noise, put},
    crash::copy,
};

/// Flips a bit in every copy of `content` in the log.
fn damage(log: &Path, content: &[u8]) {
    let bytes = fs::read(log).unwrap();
    let file = fs::File::options().write(true).open(log).unwrap();
    let needle = &content[..64];
    let mut found = 0;
    for (offset, window) in bytes.windows(needle.len()).enumerate() {
        if window == needle {
            let place = offset + 40;
            file.write_all_at(&[bytes[place] ^ 4], place.try_into().unwrap()).unwrap();
            found += 1;
        }
    }
    assert!(found > 0, "the content is in the log");
}

/// Opens and closes, so that the next opening starts from a snapshot and reads no old part of the
/// log: damage there is met when it is read.
fn settle(home: &Home) {
    drop(home.open());
    drop(home.open());
}

/// Keeps the text of warnings.
#[derive(Clone, Debug, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn put_large(store: &Store, number: u64) {
    let (primary, secondary) = (noise(number, 300_000), noise(number + 1000, 150_000));
    store.put_pair(SHARD, &blob(number), &primary, &secondary).unwrap();
}

fn get_large(store: &Store, number: u64) -> bool {
    let primary = store.sliver(SHARD, &blob(number), Axis::Primary).unwrap();
    let secondary = store.sliver(SHARD, &blob(number), Axis::Secondary).unwrap();
    if let Some(primary) = &primary {
        assert!(*primary == noise(number, 300_000));
    }
    if let Some(secondary) = &secondary {
        assert!(*secondary == noise(number + 1000, 150_000));
    }
    primary.is_some() && secondary.is_some()
}

#[test]
fn a_damaged_piece_is_missing_logged_counted_and_stored_again() {
    let home = Home::new();
    let store = home.open();
    for number in 0..8 {
        put_large(&store, number);
    }
    store.flush().unwrap();
    drop(store);
    settle(&home);
    damage(&home.volume_log(), &noise(3, 300_000)[17 * PIECE_BYTES..]);

    let store = home.open();
    let before = store.usage();
    assert_eq!((before.pairs, before.damaged_pieces), (8, 0));
    assert!(store.has_pair(SHARD, &blob(3)).unwrap(), "nobody has looked yet");
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        assert_eq!(store.sliver(SHARD, &blob(3), Axis::Primary).unwrap(), None);
        assert_eq!(store.sliver(SHARD, &blob(3), Axis::Primary).unwrap(), None);
    });
    let warnings = warnings.0.lock().unwrap().join("\n");
    assert_eq!(warnings.matches("damaged piece").count(), 1, "{warnings}");
    assert!(warnings.contains(&blob(3).to_string()), "{warnings}");
    assert!(!store.has_pair(SHARD, &blob(3)).unwrap());
    assert_eq!(store.sliver(SHARD, &blob(3), Axis::Secondary).unwrap(), None);
    assert_eq!(store.usage().damaged_pieces, 1);
    assert_eq!(store.usage().pairs, 7);

    // It stays missing after a restart, and storing it again makes it good.
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert!(!store.has_pair(SHARD, &blob(3)).unwrap());
    put_large(&store, 3);
    assert!(store.has_pair(SHARD, &blob(3)).unwrap() && get_large(&store, 3));
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert!(store.has_pair(SHARD, &blob(3)).unwrap() && get_large(&store, 3));
    assert_eq!(store.usage().live_bytes, before.live_bytes);
    // Pieces of a neighbour may lie in the damaged page; the others are untouched.
    let sound = (0..8).filter(|number| get_large(&store, *number)).count();
    assert!(sound >= 6, "{sound} of 8 pairs");
    assert!(store.delete_pair(SHARD, &blob(3)).unwrap());
}

/// sled cleans its log in the course of any write. When that happens to touch the damaged page,
/// the write fails and the store stops, as it must; most runs end before.
#[test]
fn pairs_are_stored_beside_pages_that_do_not_read() {
    const RUNS_MAX: usize = 10;
    let stored = (0..RUNS_MAX).any(|_| match store_beside_damaged_pages() {
        Ok(()) => true,
        Err(StorageError::Corrupt { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    assert!(stored, "no pair can be stored beside a damaged page");
}

fn store_beside_damaged_pages() -> Result<(), StorageError> {
    let home = Home::new();
    let store = home.open();
    put_large(&store, 0);
    store.flush()?;
    drop(store);
    settle(&home);
    for index in [0, 36] {
        damage(&home.volume_log(), &noise(0, 300_000)[index * PIECE_BYTES..]);
    }
    damage(&home.volume_log(), &noise(1000, 150_000)[18 * PIECE_BYTES..]);
    // All other blobs sort before or behind the damaged pages.
    let store = home.open();
    for number in 1..20 {
        let (primary, secondary) = (noise(number, 300_000), noise(number + 1000, 150_000));
        store.put_pair(SHARD, &blob(number), &primary, &secondary)?;
        assert!(store.has_pair(SHARD, &blob(number))?);
        assert!(get_large(&store, number), "pair {number}");
    }
    assert!(!get_large(&store, 0));
    store.flush()
}

#[test]
fn flipped_bits_anywhere_are_errors_or_missing_pairs_but_never_other_bytes() {
    let home = Home::new();
    let store = home.open();
    for number in 0..40 {
        put(&store, number);
    }
    store.flush().unwrap();
    drop(store);
    settle(&home);
    let log_bytes = fs::metadata(home.volume_log()).unwrap().len();
    let (mut damaged, mut refused) = (0, 0);
    for flip in 0..60_u64 {
        let image = Home::new();
        copy(home.path(), image.path());
        let place = u64::from_be_bytes(noise(flip, 8).try_into().unwrap()) % log_bytes;
        let file = fs::File::options().read(true).write(true).open(image.volume_log()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 1], place).unwrap();
        match Store::open(&config_in(image.path())) {
            Ok(store) => damaged += u64::from(check_all(&store)),
            Err(error) => {
                assert!(matches!(error, OpenError::Corrupt { .. }), "at {place}: {error}");
                refused += 1;
            }
        }
    }
    assert!(damaged + refused > 5, "{damaged} damaged, {refused} refused");
}

/// Reads every pair; whether damage was met.
fn check_all(store: &Store) -> bool {
    let mut fatal = false;
    for number in 0..40 {
        let (primary, secondary) = crate::common::slivers(number);
        for (axis, expected) in [(Axis::Primary, primary), (Axis::Secondary, secondary)] {
            match store.sliver(SHARD, &blob(number), axis) {
                Ok(Some(sliver)) => assert!(sliver == expected, "pair {number}"),
                Ok(None) => {}
                Err(error) => {
                    assert!(error.is_fatal());
                    fatal = true;
                }
            }
        }
    }
    // What was served once is there, what was found damaged is not.
    if !fatal {
        let there = (0..40).filter(|number| is_there(store, *number)).count();
        assert_eq!(u64::try_from(there).unwrap(), store.usage().pairs);
    }
    fatal || store.usage().damaged_pieces > 0
}
