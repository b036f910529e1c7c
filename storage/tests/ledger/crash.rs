//! Crashes: images of the files while blocks are committed and merged, with torn ends, and killed
//! processes.
//!
//! Always the same promise: what was committed is there, the block that was not is there whole or
//! not at all, and the node goes on from where it is, once it has executed again what was not
//! merged.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use floe_protocol::index::Height;
use floe_storage::{LedgerStore, LedgerStoreConfig};

use crate::common::{Chain, Home, config_in, copy};

/// Set in the processes that tests start from their own executable: the home to work in.
const CHILD_HOME: &str = "FLOE_LEDGER_TEST_HOME";
const SEED: u64 = 77;
/// Images of one write.
const CUTS: usize = 12;

/// Opens an image, replays and checks it, and goes on with the chain from where it stands; its
/// checkpoint and tip.
fn check_image(chain: &Chain, home: &Home, what: &str) -> (Option<u64>, Option<u64>) {
    let store = home.open_patient();
    let checkpoint = store.checkpoint().map(Height::get);
    chain.replay(&store);
    let tip = chain.check(&store);
    let next = tip.map_or(0, |tip| usize::try_from(tip).unwrap() + 1);
    if let Some(step) = chain.steps.get(next) {
        step.commit(&store);
        assert_eq!(chain.check(&store), Some(next as u64), "{what}");
    }
    store.persist().unwrap();
    let last = next.min(chain.steps.len() - 1) as u64;
    assert_eq!(chain.check(&store), Some(last), "{what}");
    drop(store);
    let store = home.open_patient();
    assert_eq!(store.checkpoint().map(Height::get), Some(last), "{what}");
    assert_eq!(chain.check(&store), Some(last), "{what}");
    (checkpoint, tip)
}

/// The images of a crash while `work` is done, in the order of what came to the disk. Empty where
/// the log did not only grow: sled fills free segments first, and no prefix of that is a crash.
pub(crate) fn images(home: &Home, work: impl FnOnce()) -> Vec<Home> {
    let before = fs::read(home.log()).unwrap();
    let image_before = Home::new();
    copy(home.path(), image_before.path());
    work();
    let after = fs::read(home.log()).unwrap();
    if after.len() <= before.len() || after[..before.len()] != before[..] {
        return Vec::new();
    }
    let grown = after.len() - before.len();
    let cuts = (0..=CUTS).map(|part| before.len() + grown * part / CUTS);
    cuts.map(|cut| {
        let crashed = Home::new();
        copy(image_before.path(), crashed.path());
        fs::write(crashed.log(), &after[..cut]).unwrap();
        crashed
    })
    .collect()
}

#[test]
fn a_commit_cut_anywhere_is_whole_or_undone() {
    let chain = Chain::of(SEED, 14);
    let home = Home::new();
    let store = home.open_patient();
    let (mut undone, mut whole) = (0, 0);
    for (height, step) in chain.steps.iter().enumerate() {
        for (cut, image) in images(&home, || step.commit(&store)).iter().enumerate() {
            let (_, tip) = check_image(&chain, image, &format!("height {height} cut at {cut}"));
            if tip == Some(height as u64) {
                whole += 1;
            } else {
                assert_eq!(tip, (height as u64).checked_sub(1), "what was committed is there");
                undone += 1;
            }
        }
    }
    assert!(undone > 20 && whole > 0, "{undone} undone, {whole} whole");
}

#[test]
fn a_merge_cut_anywhere_is_made_again() {
    let chain = Chain::of(SEED, 60);
    let home = Home::new();
    let store = home.open_patient();
    let (mut again, mut ended, mut from) = (0, 0, 0);
    for (height, step) in chain.steps.iter().enumerate() {
        step.commit(&store);
        if height % 10 > 0 {
            continue;
        }
        for (cut, image) in images(&home, || store.persist().unwrap()).iter().enumerate() {
            let what = format!("merge at {height} cut at {cut}");
            let (checkpoint, tip) = check_image(&chain, image, &what);
            assert_eq!(tip, Some(height as u64), "{what}");
            if checkpoint == tip {
                ended += 1;
            } else {
                assert_eq!(checkpoint, Some(from), "{what}");
                again += 1;
            }
        }
        from = height as u64;
    }
    assert!(again > 10 && ended > 0, "{again} made again, {ended} ended");
}

/// A process that is killed has written what it has written: all that it told is there.
#[test]
fn killed_nodes_lose_no_block_that_they_called_committed() {
    const NAME: &str = "crash::killed_nodes_lose_no_block_that_they_called_committed";
    const BLOCKS: usize = 300;
    let chain = Chain::of(SEED, BLOCKS);
    if let Ok(home) = env::var(CHILD_HOME) {
        let config = LedgerStoreConfig { merge_heights: 3, ..config_in(Path::new(&home)) };
        commit_until_killed(&chain, &LedgerStore::open(&config).unwrap());
    }
    let home = Home::new();
    for round in 0..8 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(CHILD_HOME, home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = None;
        let mut blocks = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(height) = line.strip_prefix("committed ") {
                told = Some(height.parse::<u64>().unwrap());
                blocks += 1;
                if blocks == 10 + 3 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let store = home.open();
        chain.replay(&store);
        let tip = chain.check(&store);
        assert!(told.is_some() && tip >= told, "round {round}: told {told:?}, found {tip:?}");
    }
}

fn commit_until_killed(chain: &Chain, store: &LedgerStore) -> ! {
    chain.replay(store);
    let next = store.tip().unwrap().map_or(0, |(tip, _)| tip.get() + 1);
    for step in &chain.steps[usize::try_from(next).unwrap()..] {
        step.commit(store);
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "committed {}", step.change.version).unwrap();
        stdout.flush().unwrap();
    }
    loop {
        thread::park();
    }
}
