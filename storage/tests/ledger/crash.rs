//! Crashes: images of the files while blocks are committed, with torn ends, and killed processes.
//!
//! Always the same promise: what was committed is there, the block that was not is there whole or
//! not at all, and the node goes on from where it is.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use floe_storage::LedgerStore;

use crate::common::{Chain, Home, config_in, copy};

/// Set in the processes that tests start from their own executable: the home to work in.
const CHILD_HOME: &str = "FLOE_LEDGER_TEST_HOME";
const SEED: u64 = 77;

/// Opens an image, checks it, and goes on with the chain from where it stands; its tip.
fn check_image(chain: &Chain, home: &Path, what: &str) -> Option<u64> {
    let store = LedgerStore::open(&config_in(home)).unwrap();
    let tip = chain.check(&store);
    let next = tip.map_or(0, |tip| usize::try_from(tip).unwrap() + 1);
    if let Some(step) = chain.steps.get(next) {
        step.commit(&store);
        assert_eq!(chain.check(&store), Some(next as u64), "{what}");
    }
    drop(store);
    let store = LedgerStore::open(&config_in(home)).unwrap();
    assert_eq!(chain.check(&store), Some(next.min(chain.steps.len() - 1) as u64), "{what}");
    tip
}

/// The log between two commits is what the second wrote. Every prefix of it is a crash.
#[test]
fn a_commit_cut_anywhere_is_whole_or_undone() {
    let chain = Chain::of(SEED, 14);
    let home = Home::new();
    let store = home.open();
    let (mut undone, mut whole) = (0, 0);
    for (height, step) in chain.steps.iter().enumerate() {
        let before = fs::read(home.log()).unwrap();
        let image_before = Home::new();
        copy(home.path(), image_before.path());
        step.commit(&store);
        if height % 4 == 3 {
            store.prune_step(60).unwrap();
        }
        let after = fs::read(home.log()).unwrap();
        // sled fills the file from its end on; where it wrote into a free segment, no prefix of
        // the file is a crash.
        if after.len() <= before.len() || after[..before.len()] != before[..] {
            let changed = changed_range(&before, &after);
            for part in 0..12 {
                let cut = changed.start + (changed.end - changed.start) * part / 12;
                let mut log = before.clone();
                log.resize(log.len().max(after.len().min(cut)), 0);
                log[changed.start..cut].copy_from_slice(&after[changed.start..cut]);
                let crashed = Home::new();
                copy(image_before.path(), crashed.path());
                fs::write(crashed.log(), &log).unwrap();
                count(&chain, &crashed, height, cut, (&mut undone, &mut whole));
            }
            continue;
        }
        let grown = after.len() - before.len();
        for part in 0..12 {
            let cut = before.len() + grown * part / 12;
            let crashed = Home::new();
            copy(image_before.path(), crashed.path());
            fs::write(crashed.log(), &after[..cut]).unwrap();
            count(&chain, &crashed, height, cut, (&mut undone, &mut whole));
        }
    }
    assert!(undone > 20 && whole > 0, "{undone} undone, {whole} whole");
}

fn count(
    chain: &Chain,
    crashed: &Home,
    height: usize,
    cut: usize,
    (undone, whole): (&mut u32, &mut u32),
) {
    let tip = check_image(chain, crashed.path(), &format!("height {height} cut at {cut}"));
    if tip == Some(height as u64) {
        *whole += 1;
    } else {
        assert_eq!(tip, (height as u64).checked_sub(1), "what was committed is there");
        *undone += 1;
    }
}

fn changed_range(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    let len = before.len().min(after.len());
    let start = (0..len).find(|i| before[*i] != after[*i]).unwrap_or(len);
    let same_behind = after.len() == before.len();
    let end = if same_behind {
        (0..len).rev().find(|i| before[*i] != after[*i]).map_or(len, |i| i + 1)
    } else {
        after.len()
    };
    start..end.max(start)
}

/// A process that is killed has written what it has written: all that it told is there.
#[test]
fn killed_nodes_lose_no_block_that_they_called_committed() {
    const NAME: &str = "crash::killed_nodes_lose_no_block_that_they_called_committed";
    const BLOCKS: usize = 300;
    let chain = Chain::of(SEED, BLOCKS);
    if let Ok(home) = env::var(CHILD_HOME) {
        commit_until_killed(&chain, &LedgerStore::open(&config_in(Path::new(&home))).unwrap());
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
        let tip = chain.check(&home.open());
        assert!(told.is_some() && tip >= told, "round {round}: told {told:?}, found {tip:?}");
    }
}

fn commit_until_killed(chain: &Chain, store: &LedgerStore) -> ! {
    let next = store.tip().unwrap().map_or(0, |(tip, _)| tip.get() + 1);
    for step in &chain.steps[usize::try_from(next).unwrap()..] {
        step.commit(store);
        store.prune_step(50).unwrap();
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "committed {}", step.change.version).unwrap();
        stdout.flush().unwrap();
    }
    loop {
        thread::park();
    }
}
