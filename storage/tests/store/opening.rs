//! Which directories are trusted as a store, and what a person is told of the others.

use std::fs;

use floe_protocol::keys::NodeId;
use floe_storage::{OpenError, Store, StoreConfig};

use crate::common::{Home, is_there, put};

fn open_error(config: &StoreConfig) -> OpenError {
    Store::open(config).expect_err("must not open")
}

#[test]
fn a_store_has_one_user_at_a_time() {
    let home = Home::new();
    let store = home.open();
    let error = open_error(&home.config());
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let clone = store.clone();
    drop(store);
    assert!(matches!(open_error(&home.config()), OpenError::Locked { .. }));
    drop(clone);
    for _ in 0..20 {
        put(&home.open(), 1);
    }
}

#[test]
fn an_emptied_disk_is_not_taken_for_a_new_one() {
    let home = Home::new();
    put(&home.open(), 1);
    fs::remove_dir_all(home.store_dir()).unwrap();
    assert!(matches!(open_error(&home.config()), OpenError::Emptied { .. }));
    assert!(!home.store_dir().exists(), "nothing is created on the wrong disk");
    fs::create_dir_all(home.store_dir()).unwrap();
    assert!(matches!(open_error(&home.config()), OpenError::Emptied { .. }));
    fs::write(home.log(), b"").unwrap();
    let error = open_error(&home.config());
    assert!(matches!(error, OpenError::Emptied { .. }));
    assert!(error.to_string().contains(home.store_dir().to_str().unwrap()), "{error}");

    let accepting = StoreConfig { accept_empty: true, ..home.config() };
    let store = Store::open(&accepting).unwrap();
    assert!(!is_there(&store, 1));
    put(&store, 2);
    drop(store);
    assert!(is_there(&home.open(), 2), "the flag is needed once");
}

#[test]
fn another_store_of_the_same_node_is_not_the_one_that_the_marker_names() {
    let home = Home::new();
    put(&home.open(), 1);
    let old = home.path().join("data/old");
    fs::rename(home.store_dir(), &old).unwrap();
    let marker = home.config().marker;
    let text = fs::read(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    put(&home.open(), 2);
    fs::write(&marker, text).unwrap();
    assert!(matches!(open_error(&home.config()), OpenError::Emptied { .. }));

    let accepting = StoreConfig { accept_empty: true, ..home.config() };
    assert!(is_there(&Store::open(&accepting).unwrap(), 2), "what is there is kept");
    assert!(is_there(&home.open(), 2));
}

#[test]
fn a_lost_marker_is_written_again() {
    let home = Home::new();
    put(&home.open(), 1);
    let marker = home.config().marker;
    let text = fs::read(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    assert!(is_there(&home.open(), 1));
    assert_eq!(fs::read(&marker).unwrap(), text);
}

#[test]
fn two_stores_of_a_node_differ() {
    let (one, other) = (Home::new(), Home::new());
    drop((one.open(), other.open()));
    let marker = |home: &Home| fs::read_to_string(home.config().marker).unwrap();
    assert_ne!(marker(&one), marker(&other));
}

#[test]
fn the_store_of_another_node_is_refused() {
    let home = Home::new();
    put(&home.open(), 1);
    let other = StoreConfig { node: NodeId::new([8; 32]), accept_empty: true, ..home.config() };
    let error = open_error(&other);
    let OpenError::OtherNode { found, expected, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((**found, **expected), (home.config().node, other.node));
    fs::remove_file(home.config().marker).unwrap();
    assert!(matches!(open_error(&other), OpenError::OtherNode { .. }));
    assert!(is_there(&home.open(), 1));
}

#[test]
fn a_file_is_no_directory() {
    let home = Home::new();
    fs::write(home.path().join("file"), b"x").unwrap();
    for dir in ["file", "file/store"] {
        let config = StoreConfig { dir: home.path().join(dir), ..home.config() };
        let error = open_error(&config);
        assert!(matches!(error, OpenError::NotADirectory { .. }), "{dir}: {error}");
    }
}

#[test]
fn a_place_that_takes_no_directory_is_reported() {
    let home = Home::new();
    let config = StoreConfig { dir: "/proc/floe-store".into(), ..home.config() };
    let error = open_error(&config);
    assert!(matches!(error, OpenError::NotWritable { .. } | OpenError::Io { .. }), "{error}");
    assert!(!home.config().marker.exists());
}

#[test]
fn files_that_are_no_database_are_reported_as_damage() {
    let home = Home::new();
    put(&home.open(), 1);
    // Reopening writes a snapshot of sled's page table.
    drop(home.open());
    let mut snapshots = 0;
    for entry in fs::read_dir(home.store_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            fs::write(path, [7; 100]).unwrap();
            snapshots += 1;
        }
    }
    assert!(snapshots > 0);
    let error = open_error(&home.config());
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[test]
fn a_marker_that_is_none_is_reported() {
    let home = Home::new();
    put(&home.open(), 1);
    fs::write(home.config().marker, b"something else").unwrap();
    assert!(matches!(open_error(&home.config()), OpenError::Emptied { .. }));
    fs::write(home.config().marker, vec![0; 1 << 20]).unwrap();
    assert!(matches!(open_error(&home.config()), OpenError::Io { .. }));
}
