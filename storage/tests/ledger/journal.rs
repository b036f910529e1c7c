//! The vote journal, torn and damaged at every byte.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use floe_protocol::{
    hash::Hash,
    index::Height,
    keys::{ChainId, NodeId},
};
use floe_storage::{ENTRY_BYTES_MAX, JournalError, VoteJournal};

use crate::common::{Home, Random};

fn file(home: &Home) -> PathBuf {
    home.path().join("votes")
}

fn open(home: &Home) -> VoteJournal {
    VoteJournal::open(home.path(), NODE).unwrap().unwrap()
}

const NODE: NodeId = NodeId::new([7; 32]);
const FIVE: Height = Height::new(5);
const SIX: Height = Height::new(6);

/// Entries of height 5: as many flushed as asked, then others that are not.
fn journal(home: &Home, flushed: usize, more: usize) -> Vec<Vec<u8>> {
    let mut journal = VoteJournal::create(home.path(), NODE).unwrap();
    journal.start(FIVE).unwrap();
    let mut random = Random(9);
    let entries: Vec<_> = (0..flushed + more).map(|n| random.bytes(n as u64 * 7 % 50)).collect();
    for (number, entry) in (1..).zip(&entries) {
        journal.append(FIVE, entry).unwrap();
        if number == flushed {
            journal.flush().unwrap();
        }
    }
    entries
}

#[test]
fn a_missing_journal_is_not_an_empty_one() {
    let home = Home::new();
    assert!(VoteJournal::open(home.path(), NODE).unwrap().is_none());
    let journal = VoteJournal::create(home.path(), NODE).unwrap();
    assert_eq!(journal.entries().unwrap(), (Height::new(0), vec![]));
    assert!(matches!(VoteJournal::create(home.path(), NODE), Err(JournalError::Exists { .. })));
    assert!(matches!(VoteJournal::open(home.path(), NODE), Err(JournalError::Locked { .. })));
    drop(journal);
    assert_eq!(open(&home).entries().unwrap(), (Height::new(0), vec![]));
    fs::remove_file(file(&home)).unwrap();
    assert!(VoteJournal::open(home.path(), NODE).unwrap().is_none());
}

#[test]
fn entries_come_back_until_a_higher_height_starts() {
    let home = Home::new();
    let entries = journal(&home, 6, 0);
    let mut reopened = open(&home);
    assert_eq!(reopened.entries().unwrap(), (FIVE, entries.clone()));
    reopened.start(FIVE).unwrap();
    assert_eq!(reopened.entries().unwrap(), (FIVE, entries));
    let lower = Height::new(4);
    assert!(matches!(reopened.start(lower), Err(JournalError::OtherHeight { .. })));
    for other in [lower, SIX] {
        let error = reopened.append(other, b"vote").unwrap_err();
        assert!(matches!(error, JournalError::OtherHeight { journal: FIVE, .. }), "{error}");
    }
    reopened.start(SIX).unwrap();
    drop(reopened);
    let mut reopened = open(&home);
    assert_eq!(reopened.entries().unwrap(), (SIX, vec![]));
    reopened.append(SIX, b"vote").unwrap();
    reopened.flush().unwrap();
    drop(reopened);
    assert_eq!(open(&home).entries().unwrap(), (SIX, vec![b"vote".to_vec()]));
}

#[test]
fn what_was_never_flushed_may_be_cut_anywhere() {
    let home = Home::new();
    let entries = journal(&home, 4, 5);
    let whole = fs::read(file(&home)).unwrap();
    let flushed_end = 512 + entries[..4].iter().map(|entry| 20 + entry.len()).sum::<usize>();
    for cut in flushed_end..=whole.len() {
        let image = Home::new();
        fs::write(file(&image), &whole[..cut]).unwrap();
        let mut torn = open(&image);
        let (height, found) = torn.entries().unwrap();
        assert_eq!(height, FIVE);
        assert!(found.len() >= 4 && entries.starts_with(&found), "cut at {cut}");
        let room =
            flushed_end + entries[4..found.len()].iter().map(|e| 20 + e.len()).sum::<usize>();
        assert!(room <= cut && fs::metadata(file(&image)).unwrap().len() == room as u64);
        // It goes on, and nothing of the tail comes back.
        torn.append(FIVE, b"after the crash").unwrap();
        torn.flush().unwrap();
        drop(torn);
        let (_, again) = open(&image).entries().unwrap();
        assert_eq!(again[..found.len()], found);
        assert_eq!(again[found.len()..], [b"after the crash".to_vec()]);
    }
}

#[test]
fn a_flipped_bit_is_an_error_where_it_was_flushed_and_the_end_where_it_was_not() {
    let home = Home::new();
    let entries = journal(&home, 4, 5);
    let whole = fs::read(file(&home)).unwrap();
    let flushed_end = 512 + entries[..4].iter().map(|entry| 20 + entry.len()).sum::<usize>();
    for place in 0..whole.len() {
        let image = Home::new();
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(file(&image), &bytes).unwrap();
        match VoteJournal::open(image.path(), NODE) {
            Ok(journal) => {
                assert!(place >= flushed_end, "damage at {place} went unseen");
                let (_, found) = journal.unwrap().entries().unwrap();
                assert!(found.len() >= 4 && entries.starts_with(&found), "at {place}");
                assert!(found.len() < entries.len(), "at {place}");
            }
            Err(error) => {
                assert!(place < flushed_end, "at {place}: {error}");
                assert!(matches!(error, JournalError::Damaged { .. }), "at {place}: {error}");
            }
        }
    }
    for cut in 0..flushed_end {
        fs::write(file(&home), &whole[..cut]).unwrap();
        let error = VoteJournal::open(home.path(), NODE).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "cut at {cut}: {error}");
    }
}

/// The head of the new height is written before anything else, and behind it may lie anything
/// that was there before.
#[test]
fn a_crash_while_a_height_starts_leaves_the_old_or_the_new_one() {
    let home = Home::new();
    let entries = journal(&home, 6, 0);
    let before = fs::read(file(&home)).unwrap();
    let mut journal = open(&home);
    journal.start(SIX).unwrap();
    let sector = fs::read(file(&home)).unwrap()[..512].to_vec();
    let vote = Random(1).bytes(33);
    journal.append(SIX, &vote).unwrap();
    drop(journal);
    let after = fs::read(file(&home)).unwrap();

    let image = Home::new();
    fs::write(file(&image), &before).unwrap();
    assert_eq!(open(&image).entries().unwrap(), (FIVE, entries));
    let on_disk = fs::File::options().write(true).open(file(&image)).unwrap();
    on_disk.write_all_at(&sector, 0).unwrap();
    assert_eq!(open(&image).entries().unwrap(), (SIX, vec![]));
    for written in 0..=20 + vote.len() {
        let mut bytes = before.clone();
        bytes[..512].copy_from_slice(&sector);
        bytes[512..512 + written].copy_from_slice(&after[512..512 + written]);
        fs::write(file(&image), &bytes).unwrap();
        let expected = if written == 20 + vote.len() { vec![vote.clone()] } else { vec![] };
        assert_eq!(open(&image).entries().unwrap(), (SIX, expected), "{written} bytes written");
    }
}

#[test]
fn a_journal_has_a_largest_entry_and_a_largest_size() {
    let home = Home::new();
    let mut journal = VoteJournal::create(home.path(), NODE).unwrap();
    journal.start(FIVE).unwrap();
    let body = vec![3; ENTRY_BYTES_MAX];
    let error = journal.append(FIVE, &[&body[..], &[0]].concat()).unwrap_err();
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    let mut count = 0;
    let full = loop {
        match journal.append(FIVE, &body) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, JournalError::Full { .. }), "{full}");
    assert_eq!(count, 31);
    journal.append(FIVE, b"a vote still fits").unwrap();
    journal.flush().unwrap();
    drop(journal);
    let mut journal = open(&home);
    assert_eq!(journal.entries().unwrap().1.len(), 32);
    journal.start(SIX).unwrap();
    assert!(fs::metadata(file(&home)).unwrap().len() < 8 << 20);
    journal.append(SIX, b"vote").unwrap();
    journal.flush().unwrap();
    drop(journal);
    assert_eq!(open(&home).entries().unwrap(), (SIX, vec![b"vote".to_vec()]));
}

#[test]
fn the_journal_of_another_node_or_network_is_refused() {
    let home = Home::new();
    let mut journal = VoteJournal::create(home.path(), NODE).unwrap();
    let (chain, other) = (ChainId::new(Hash::new([1; 32])), ChainId::new(Hash::new([2; 32])));
    journal.bind(&chain).unwrap();
    journal.start(FIVE).unwrap();
    journal.append(FIVE, b"vote").unwrap();
    journal.flush().unwrap();
    let refused = journal.bind(&other);
    assert!(matches!(refused, Err(JournalError::Foreign { whose: "network", .. })), "{refused:?}");
    drop(journal);

    let stranger = NodeId::new([8; 32]);
    let refused = VoteJournal::open(home.path(), stranger);
    assert!(matches!(refused, Err(JournalError::Foreign { whose: "node", .. })), "{refused:?}");
    let mut journal = open(&home);
    assert!(journal.bind(&other).is_err());
    journal.bind(&chain).unwrap();
    assert_eq!(journal.entries().unwrap(), (FIVE, vec![b"vote".to_vec()]));
    drop(journal);

    // A key that was just made has never voted, whatever lies in its directory.
    let fresh = VoteJournal::create_for_new_key(home.path(), stranger).unwrap();
    assert_eq!(fresh.entries().unwrap(), (Height::new(0), Vec::new()));
}
