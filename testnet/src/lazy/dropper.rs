//! A storage node that throws away what it is paid for.

use std::time::Duration;

use floe_storage::{StorageError, Store};
use tokio::{task::spawn_blocking, time::sleep};

use super::is_dropped;

/// How soon after a look the next one begins: a pair is there for no longer.
const EVERY: Duration = Duration::from_millis(500);
/// Pairs looked at in one go.
const PAGE: usize = 1_024;

/// Removes so many of a thousand pairs of a running node's store, now and whenever they come again.
/// Ends with an error alone.
pub(crate) async fn drop_slivers(store: Store, permille: u16) -> anyhow::Error {
    loop {
        let store = store.clone();
        match spawn_blocking(move || drop_once(&store, permille)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(error) => return error.into(),
        }
        sleep(EVERY).await;
    }
}

fn drop_once(store: &Store, permille: u16) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = store.pairs(after, PAGE)?;
        for (shard, blob) in page.iter().filter(|(shard, blob)| is_dropped(permille, blob, *shard))
        {
            store.remove_pair(*shard, blob)?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            Some(_) | None => return Ok(()),
        }
    }
}
