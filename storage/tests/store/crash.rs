//! Crashes: images of the files at many moments with torn tails, killed processes, full disks.
//!
//! Always the same promise: what was flushed is there, and nothing is there by half.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    ops::Range,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use floe_storage::{StorageError, Store};

use crate::common::{
    HEIGHT, Home, SHARD, blob, compact, config_in, header, is_there, noise, put, slivers,
};

/// Set in the processes that tests start from their own executable: the home to work in.
pub(crate) const CHILD_HOME: &str = "FLOE_STORAGE_TEST_HOME";

/// Copies all files below `from`.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What happens to the end of the log, which was written last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tear {
    /// Nothing is lost.
    Whole,
    /// So many bytes are left of what follows the last flush.
    Cut(u64),
    /// A block of 4 KiB was never written, so many bytes before the end.
    Hole(u64),
}

pub(crate) fn tear(log: &Path, flushed_bytes: u64, tear: Tear) {
    let file = fs::File::options().write(true).open(log).unwrap();
    match tear {
        Tear::Whole => {}
        Tear::Cut(bytes) => file.set_len(flushed_bytes + bytes).unwrap(),
        Tear::Hole(before_end) => {
            let place = file.metadata().unwrap().len() - before_end;
            file.write_all_at(&[0; 4096], place).unwrap();
        }
    }
}

/// The states that a crash could leave: the image as it is, and with torn ends if all that was
/// written since the last flush lies there. The log writes through, so an earlier part of it is
/// never lost without a later one; where free segments in the middle were written last, the end
/// of the file is the earlier part.
pub(crate) fn tears(image: &Path, flushed: &[u8]) -> Vec<Tear> {
    let log = fs::read(image).unwrap();
    let flushed_bytes = flushed.len();
    let tail = u64::try_from(log.len() - flushed_bytes).unwrap();
    let mut tears = vec![Tear::Whole];
    if log[..flushed_bytes] == *flushed && tail > 256 {
        tears.extend([0, 1, 7, 30, 60, 85, 97].map(|part| Tear::Cut(tail * part / 100 + part)));
        let holes = [4096, 5000, 40_000].into_iter().filter(|before_end| *before_end <= tail);
        tears.extend(holes.map(Tear::Hole));
    }
    tears
}

/// A log as it was after a flush.
struct Flushed {
    main: Vec<u8>,
    volume: Vec<u8>,
}

impl Flushed {
    fn of(home: &Home) -> Self {
        Self { main: fs::read(home.log()).unwrap(), volume: fs::read(home.volume_log()).unwrap() }
    }
}

/// Each log comes back from a point of its own: the main database with records whose pieces are
/// not there, or the volume with pieces of which nobody knows.
#[test]
fn crash_images_hold_all_that_was_flushed_and_nothing_by_half() {
    let home = Home::new();
    let store = home.open();
    let (mut torn_main, mut torn_volume, mut torn_both) = (0, 0, 0);
    for step in 0..6_u64 {
        let first = step * 30;
        for number in first..first + 12 {
            put(&store, number);
        }
        store.flush().unwrap();
        let flushed = Flushed::of(&home);
        for number in first + 12..first + 30 {
            put(&store, number);
            if number % 6 == 5 {
                // A batch makes sled write out the records of before.
                store.put_table(&header(u8::try_from(number).unwrap()), HEIGHT, &[]).unwrap();
            }
        }
        let image = Home::new();
        copy(home.path(), image.path());
        let of_main = tears(&image.log(), &flushed.main);
        let of_volume = tears(&image.volume_log(), &flushed.volume);
        for turn in 0..of_main.len().max(of_volume.len()) {
            let tears = [of_main[turn * 5 % of_main.len()], of_volume[turn % of_volume.len()]];
            check_image(&image, &flushed, tears, first + 12);
            let [main, volume] = tears.map(|tear| !matches!(tear, Tear::Whole));
            torn_main += usize::from(main);
            torn_volume += usize::from(volume);
            torn_both += usize::from(main && volume);
        }
        store.flush().unwrap();
    }
    assert!(torn_main >= 3 && torn_volume >= 3 && torn_both > 0, "{torn_main} {torn_volume}");
}

/// Opens a copy of `image` with torn logs, in which pairs below `flushed_pairs` were flushed.
fn check_image(image: &Home, flushed: &Flushed, torn: [Tear; 2], flushed_pairs: u64) {
    let crashed = Home::new();
    copy(image.path(), crashed.path());
    tear(&crashed.log(), flushed.main.len().try_into().unwrap(), torn[0]);
    tear(&crashed.volume_log(), flushed.volume.len().try_into().unwrap(), torn[1]);
    let store = crashed.open();
    for number in 0..flushed_pairs {
        assert!(is_there(&store, number), "{torn:?} behind {flushed_pairs}: pair {number}");
    }
    let later = (flushed_pairs..flushed_pairs + 18).filter(|number| is_there(&store, *number));
    assert_eq!(store.usage().pairs, flushed_pairs + u64::try_from(later.count()).unwrap());
    assert_eq!(store.usage().damaged_pieces, 0);
    // Life goes on after a crash.
    put(&store, flushed_pairs + 17);
    store.flush().unwrap();
    drop(store);
    assert!(is_there(&crashed.open(), flushed_pairs + 17));
}

/// The same test as another process, working in `home`.
pub(crate) fn child(test: &str, home: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD_HOME, home).stdout(Stdio::piped());
    command
}

/// Tells the parent, which may read it at once.
pub(crate) fn tell(word: &str, number: u64) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{word} {number}").unwrap();
    stdout.flush().unwrap();
}

/// What a child told before it died.
#[derive(Debug, Default)]
struct Told {
    stored: Vec<u64>,
    deleting: Vec<u64>,
}

impl Told {
    /// Listens until the child ends; kills it after `kill_after` stored pairs.
    fn listen(&mut self, mut child: Child, kill_after: usize) {
        let already = self.stored.len();
        let mut is_killed = false;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            match (words.next(), words.next().and_then(|word| word.parse().ok())) {
                (Some("stored"), Some(number)) => self.stored.push(number),
                (Some("deleting"), Some(number)) => self.deleting.push(number),
                _ => {}
            }
            if self.stored.len() >= already + kill_after && !is_killed {
                child.kill().unwrap();
                is_killed = true;
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), is_killed.then_some(9), "{status}");
    }
}

#[test]
fn killed_writers_lose_nothing_that_they_acknowledged() {
    const NAME: &str = "crash::killed_writers_lose_nothing_that_they_acknowledged";
    if let Ok(home) = env::var(CHILD_HOME) {
        write_until_killed(&Store::open(&config_in(Path::new(&home))).unwrap());
    }
    let home = Home::new();
    let mut told = Told::default();
    for round in 0..6 {
        told.listen(child(NAME, home.path()).spawn().unwrap(), 20 + 17 * round);
        let store = home.open();
        for number in told.stored.iter().filter(|n| !told.deleting.contains(n)) {
            assert!(is_there(&store, *number), "round {round}: pair {number} was acknowledged");
        }
        // Whatever else is there is whole.
        for number in 0..told.stored.iter().max().unwrap() + 20 {
            is_there(&store, number);
        }
        assert_eq!(store.usage().damaged_pieces, 0);
    }
    assert!(told.stored.len() >= 300 && !told.deleting.is_empty());
}

/// Stores new pairs from three threads, and deletes some again, until the process is killed.
fn write_until_killed(store: &Store) -> ! {
    let first = store.usage().pairs * 10;
    thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                for number in (first..).filter(|number| number % 3 == thread) {
                    put(store, number);
                    store.flush().unwrap();
                    tell("stored", number);
                    if number % 7 == 0 {
                        tell("deleting", number);
                        store.delete_pair(SHARD, &blob(number)).unwrap();
                    }
                }
            });
        }
    });
    unreachable!("the parent kills this process")
}

/// Numbers of pairs that [`churn_until_killed`] stores once, and keeps.
fn kept() -> Range<u64> {
    1_000_000..1_000_060
}

/// Pairs that stay are moved again and again by compaction, while others come and go.
#[test]
fn killed_compactions_lose_nothing_that_was_flushed() {
    const NAME: &str = "crash::killed_compactions_lose_nothing_that_was_flushed";
    if let Ok(home) = env::var(CHILD_HOME) {
        churn_until_killed(&Store::open(&config_in(Path::new(&home))).unwrap());
    }
    let home = Home::new();
    for round in 0..8 {
        let mut running = child(NAME, home.path()).spawn().unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
        let moved = lines.filter(|line| line.starts_with("moved")).take(1 + 3 * round).count();
        assert_eq!(moved, 1 + 3 * round);
        running.kill().unwrap();
        running.wait().unwrap();
        let store = home.open();
        assert!(kept().all(|number| is_there(&store, number)), "round {round}");
        assert_eq!(store.usage().damaged_pieces, 0);
        let names = home.volumes();
        assert!(names.iter().all(|name| name.extension().is_none()), "{names:?}");
        // Compaction ends, and the pairs that stay are all that it leaves.
        for number in 0..40 {
            store.delete_pair(SHARD, &blob(number)).unwrap();
        }
        compact(&store);
        assert_eq!(store.usage().pairs, kept().count() as u64);
        assert!(kept().all(|number| is_there(&store, number)), "round {round}");
    }
}

#[test]
fn every_step_of_a_compaction_may_be_the_last() {
    const PAIRS: u64 = 150;
    let home = Home::new();
    let store = home.open();
    (0..PAIRS).for_each(|number| put(&store, number));
    let lives = |number: u64| number % 5 < 2;
    for number in (0..PAIRS).filter(|number| !lives(*number)) {
        store.delete_pair(SHARD, &blob(number)).unwrap();
    }
    store.flush().unwrap();
    let mut images = 0;
    loop {
        let main = fs::read(home.log()).unwrap();
        let goes_on = store.compact_step().unwrap();
        // What replaces the records may be on the disk or not; the copies are.
        store.put_table(&header(1), HEIGHT, &[]).unwrap();
        store.put_table(&header(2), HEIGHT, &[]).unwrap();
        let image = Home::new();
        copy(home.path(), image.path());
        let is_removal = !home.volumes()[0].ends_with("000001");
        let torn = tears(&image.log(), &main).into_iter().filter(|_| !is_removal);
        for torn_so in torn.chain([Tear::Whole]) {
            let crashed = Home::new();
            copy(image.path(), crashed.path());
            tear(&crashed.log(), main.len().try_into().unwrap(), torn_so);
            let store = crashed.open();
            for number in 0..PAIRS {
                assert_eq!(is_there(&store, number), lives(number), "{torn_so:?}: pair {number}");
            }
            assert_eq!(store.usage().damaged_pieces, 0);
            images += 1;
        }
        for number in 1..=2 {
            store.remove_blob(&header(number).id(), 1).unwrap();
        }
        store.flush().unwrap();
        if !goes_on {
            break;
        }
    }
    assert!(images > 8, "{images} images");
    assert!(!home.volumes()[0].ends_with("000001"), "nothing moved");
}

fn churn_until_killed(store: &Store) -> ! {
    kept().for_each(|number| put(store, number));
    store.flush().unwrap();
    for round in 0.. {
        for number in 0..40 {
            put(store, number);
        }
        store.flush().unwrap();
        for number in 0..40 {
            store.delete_pair(SHARD, &blob(number)).unwrap();
        }
        while store.compact_step().unwrap() {
            tell("moved", round);
        }
    }
    unreachable!("the parent kills this process")
}

#[test]
fn a_disk_that_fills_up_stops_the_store_and_tears_nothing() {
    const NAME: &str = "crash::a_disk_that_fills_up_stops_the_store_and_tears_nothing";
    if let Ok(home) = env::var(CHILD_HOME) {
        write_until_full(&Store::open(&config_in(Path::new(&home))).unwrap());
        return;
    }
    for (round, blocks) in [5_000_u32, 9_003, 12_345, 20_001].into_iter().enumerate() {
        let home = Home::new();
        let exe = child(NAME, home.path());
        // Writes beyond the limit fail like those to a full disk.
        let mut limited = Command::new("sh");
        limited
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""))
            .arg(exe.get_program())
            .args(exe.get_args())
            .env(CHILD_HOME, home.path())
            .stdout(Stdio::piped());
        let mut told = Told::default();
        told.listen(limited.spawn().unwrap(), usize::MAX);
        assert!(told.stored.len() > 2, "round {round}: {told:?}");

        let store = home.open();
        for number in &told.stored {
            assert!(is_there(&store, *number), "round {round}: pair {number} was acknowledged");
        }
        let all = told.stored.iter().max().unwrap() + 40;
        for number in 0..all {
            is_there(&store, number);
        }
        assert_eq!(store.usage().damaged_pieces, 0, "round {round}");
        // With room again, it goes on.
        put(&store, all);
        store.flush().unwrap();
        assert!(is_there(&store, all));
    }
}

fn write_until_full(store: &Store) {
    let failed = (0..).find_map(|number| {
        let (primary, secondary) = slivers(number);
        let stored = store
            .put_pair(SHARD, &blob(number), &primary, &secondary)
            .and_then(|()| if number % 4 == 3 { store.flush() } else { Ok(()) });
        if number % 4 == 3 && stored.is_ok() {
            (number - 3..=number).for_each(|number| tell("stored", number));
        }
        stored.err()
    });
    assert!(failed.unwrap().is_fatal());
    let later = store.put_pair(SHARD, &blob(u64::MAX), &noise(1, 10), &noise(2, 10));
    assert!(matches!(later, Err(StorageError::Stopped)), "{later:?}");
    assert!(matches!(store.flush(), Err(StorageError::Stopped)));
}
