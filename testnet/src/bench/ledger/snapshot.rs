//! A snapshot of a large state: made as nodes do it at the end of an epoch, restored as newcomers
//! do.

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, ensure};
use floe_protocol::ledger::{SnapshotRestore, SnapshotWriter, State};
use floe_storage::{LedgerStore, LedgerStoreConfig, Snapshot};
use serde::Serialize;

use super::{ms, solo::Solo};

/// What was measured of one snapshot.
#[derive(Debug, Serialize)]
pub(super) struct SnapshotReport {
    pub(super) entries: u64,
    pub(super) chunks: usize,
    pub(super) bytes: usize,
    /// To list the state, cut it and write it to files.
    pub(super) make_ms: f64,
    /// To read the files, build the tree, compare its root, and write a ledger's store.
    pub(super) restore_ms: f64,
    /// To go on from there: check the root again, load.
    pub(super) load_ms: f64,
}

/// Makes a snapshot of the state at the tip and begins another ledger with it.
pub(super) fn measure(solo: &Solo, dir: &Path) -> anyhow::Result<SnapshotReport> {
    let height = solo.state.tip().height;
    let header = solo.store.header(height)?.context("the last block is there")?;
    let certificate = solo.certificate.as_ref().context("it was committed")?;
    let files = dir.join("snapshot");
    fs::create_dir_all(&files)?;
    let started = Instant::now();
    let mut writer = SnapshotWriter::default();
    let (mut chunks, mut bytes) = (0, 0);
    let mut write = |chunk: &[u8]| {
        fs::write(files.join(chunks.to_string()), chunk)?;
        chunks += 1;
        bytes += chunk.len();
        anyhow::Ok(())
    };
    for value in solo.store.values(height)? {
        let (key, value) = value?;
        if let Some(chunk) = writer.push(&key, &value)? {
            write(&chunk)?;
        }
    }
    let (last, manifest) = writer.finish(header, solo.state.committee().to_bytes())?;
    write(&last)?;
    let make_ms = ms(started.elapsed());

    let node = header.proposer;
    let config = LedgerStoreConfig::new(dir.join("restored"), dir.join("restored.marker"), node);
    let store = LedgerStore::open(&config)?;
    let tip = solo.origin.chain().as_bytes();
    let (_, genesis) = State::genesis(&solo.genesis)?;
    store.commit_genesis(&genesis, tip)?;
    let started = Instant::now();
    let mut installation = store.begin_install(height)?;
    let mut restore = SnapshotRestore::new(manifest.clone())?;
    for index in 0..chunks {
        installation.write(restore.take(&fs::read(files.join(index.to_string()))?)?)?;
    }
    installation.write(restore.finish()?)?;
    let (header, ends) = (&header, &[]);
    let snapshot = Snapshot { header, certificate, next_committee: None, ends, tip };
    store.install(installation, &snapshot)?;
    let restore_ms = ms(started.elapsed());
    let started = Instant::now();
    let restored = State::load(&solo.origin, header, &store)?;
    ensure!(restored.tip() == solo.state.tip(), "the restored state is another one");
    let load_ms = ms(started.elapsed());
    let entries = manifest.entries;
    Ok(SnapshotReport { entries, chunks, bytes, make_ms, restore_ms, load_ms })
}
