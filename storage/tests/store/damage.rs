//! Bits that flip on the disk: never served, reported once, and made good by storing again.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
};

use floe_protocol::encoding::Axis;
use floe_storage::{OpenError, PIECE_BYTES, Store, StoreConfig};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    common::{Home, SHARD, blob, compact, config_in, is_there, noise, put},
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
    // sled reads the end of a log when it opens it: the damage is to lie before.
    const PAIRS: u64 = 40;
    let home = Home::new();
    let store = home.open();
    for number in 0..PAIRS {
        put_large(&store, number);
    }
    store.flush().unwrap();
    drop(store);
    settle(&home);
    damage(&home.volume_log(), &noise(3, 300_000)[17 * PIECE_BYTES..]);

    let store = home.open();
    let before = store.usage();
    assert_eq!((before.pairs, before.damaged_pieces), (PAIRS, 0));
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
    assert_eq!(store.usage().pairs, PAIRS - 1);

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
    let sound = (0..PAIRS).filter(|number| get_large(&store, *number)).count();
    assert!(sound + 2 >= usize::try_from(PAIRS).unwrap(), "{sound} of {PAIRS} pairs");
    assert!(store.delete_pair(SHARD, &blob(3)).unwrap());
}

/// What lies beside pages that do not read is left as it is: new pairs go to a new volume.
#[test]
fn pairs_are_stored_beside_pages_that_do_not_read() {
    let home = Home::new();
    let store = home.open();
    put_large(&store, 0);
    store.flush().unwrap();
    drop(store);
    settle(&home);
    for index in [0, 36] {
        damage(&home.volume_log(), &noise(0, 300_000)[index * PIECE_BYTES..]);
    }
    damage(&home.volume_log(), &noise(1000, 150_000)[18 * PIECE_BYTES..]);
    let store = home.open();
    for number in 1..20 {
        put_large(&store, number);
        assert!(store.has_pair(SHARD, &blob(number)).unwrap());
        assert!(get_large(&store, number), "pair {number}");
        store.flush().unwrap();
    }
    assert!(!get_large(&store, 0));
    assert!(home.volumes().last().unwrap().ends_with("000002"), "{:?}", home.volumes());
    put_large(&store, 0);
    store.flush().unwrap();
    drop(store);
    let store = home.open();
    assert!((0..20).all(|number| get_large(&store, number)));
    // The damaged volume holds nothing any more.
    compact(&store);
    assert_eq!(home.volumes().len(), 1, "{:?}", home.volumes());
}

/// Two volumes of a store, the first sealed; the pairs in each.
fn two_volumes(home: &Home) -> [Vec<u64>; 2] {
    let config = StoreConfig { quota_bytes: 200 << 20, ..home.config() };
    let store = Store::open(&config).unwrap();
    let mut numbers: [Vec<u64>; 2] = Default::default();
    for number in 0.. {
        put_large(&store, number);
        let volumes = home.volumes().len();
        numbers[volumes - 1].push(number);
        if numbers[1].len() == 5 {
            break;
        }
    }
    store.flush().unwrap();
    numbers
}

#[test]
fn a_volume_that_is_gone_or_does_not_read_takes_its_pairs_with_it_and_nothing_else() {
    for place in [0, 1] {
        for is_gone in [true, false] {
            let home = Home::new();
            let numbers = two_volumes(&home);
            settle(&home);
            let volume = home.volumes()[place].clone();
            if is_gone {
                fs::remove_dir_all(&volume).unwrap();
            } else {
                for entry in fs::read_dir(&volume).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        fs::write(path, [7; 100]).unwrap();
                    }
                }
            }
            let store = home.open();
            let what = format!("volume {place}, gone: {is_gone}");
            for number in &numbers[1 - place] {
                assert!(get_large(&store, *number), "{what}: pair {number}");
            }
            for number in &numbers[place] {
                assert!(!get_large(&store, *number), "{what}: pair {number}");
                assert!(!store.has_pair(SHARD, &blob(*number)).unwrap(), "{what}: pair {number}");
            }
            put_large(&store, numbers[place][0]);
            compact(&store);
            assert!(!volume.exists(), "{what}");
            assert_eq!(store.usage().pairs, 1 + numbers[1 - place].len() as u64, "{what}");
            assert!(store.usage().damaged_pieces >= numbers[place].len() as u64, "{what}");
            store.flush().unwrap();
            drop(store);
            let store = home.open();
            assert!(get_large(&store, numbers[place][0]), "{what}");
            assert_eq!(store.usage().pairs, 1 + numbers[1 - place].len() as u64, "{what}");
            assert_eq!(store.usage().damaged_pieces, 0, "{what}: counted once");
        }
    }
}

/// A log that lost its end, say a file system that did: what reads is read.
#[test]
fn a_volume_that_lost_its_end_loses_no_more() {
    let home = Home::new();
    let numbers = two_volumes(&home);
    settle(&home);
    let log = home.volumes()[0].join("db");
    let bytes = fs::metadata(&log).unwrap().len();
    fs::File::options().write(true).open(&log).unwrap().set_len(bytes / 2).unwrap();
    let store = home.open();
    let sound = numbers[0].iter().filter(|number| get_large(&store, **number)).count();
    assert!(sound < numbers[0].len());
    assert!(numbers[1].iter().all(|number| get_large(&store, *number)));
    assert_eq!(store.usage().pairs, (sound + numbers[1].len()) as u64);
    compact(&store);
    assert_eq!(store.usage().pairs, (sound + numbers[1].len()) as u64);
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
    let (mut damaged, mut refused) = (0, 0);
    for flip in 0..60_u64 {
        let image = Home::new();
        copy(home.path(), image.path());
        let log = if flip % 3 == 0 { image.log() } else { image.volume_log() };
        let log_bytes = fs::metadata(&log).unwrap().len();
        let place = u64::from_be_bytes(noise(flip, 8).try_into().unwrap()) % log_bytes;
        let file = fs::File::options().read(true).write(true).open(log).unwrap();
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
