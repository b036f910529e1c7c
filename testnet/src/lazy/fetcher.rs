//! A member that holds nothing and fetches what it is asked for: what storing would have saved it
//! from, and whether it is in time.
//!
//! What it has fetched it forgets after a few seconds: who kept it would be storing it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use bytes::Bytes;
use floe_node::{Client, SymbolSource, client::ClientConfig};
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::{ChunkProof, Place},
    encoding::{self, Axis},
    genesis::NetworkFile,
    index::ShardIndex,
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    Fetch,
    recovery::Recoverer,
    rows::{RowReader, Rows},
    stranger::Stranger,
};

/// For how long it keeps what it has fetched.
const KEPT: Duration = Duration::from_secs(2);
/// Windows after which nobody can take a chain for timely any more.
const WINDOWS: u32 = 2;

/// A pair of somebody else's making: its proof and slivers.
pub(super) type Pair = (PairProof, Bytes, Bytes);
type Kept<K, V> = Mutex<BTreeMap<K, (Instant, V)>>;

/// Where it gets what it is asked for.
#[derive(Debug)]
pub(crate) struct Fetcher {
    runtime: Handle,
    way: Way,
    /// After so long a chain is given up: it would only be in the way of the next one.
    hopeless: Duration,
}

#[derive(Debug)]
enum Way {
    Reads(RowReader, Kept<BlobId, Arc<Rows>>),
    Symbols(Recoverer, Kept<(BlobId, ShardIndex), Arc<Pair>>),
}

impl Fetcher {
    /// A member of `network` that fetches in this way.
    pub(crate) async fn new(network: &NetworkFile, way: Fetch) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new(network.clone());
        config.limits.loopback_exempt = true;
        config.trust_genesis = true;
        let client = Client::connect(config).await?;
        let stranger = Stranger::new(network, client).await?;
        let way = match way {
            Fetch::Reads => Way::Reads(RowReader::new(stranger), Kept::default()),
            Fetch::Symbols => Way::Symbols(Recoverer::new(stranger), Kept::default()),
        };
        let window_ms = network.genesis.ledger.challenges.window_ms;
        let hopeless = Duration::from_millis(window_ms) * WINDOWS;
        Ok(Self { runtime: Handle::current(), way, hopeless })
    }

    async fn fetch(&self, place: &Place) -> anyhow::Result<ChunkProof> {
        match &self.way {
            Way::Reads(reader, blobs) => {
                let rows = match known(blobs, &place.blob) {
                    Some(rows) => rows,
                    None => keep(blobs, place.blob, Arc::new(reader.read(place).await?)),
                };
                let (proof, primary, secondary) = rows.pair(place)?;
                prove(place, &proof, (primary, secondary))
            }
            Way::Symbols(recoverer, pairs) => {
                let key = (place.blob, place.shard);
                let pair = match known(pairs, &key) {
                    Some(pair) => pair,
                    None => keep(pairs, key, Arc::new(recoverer.recover(place).await?)),
                };
                let (proof, primary, secondary) = &*pair;
                prove(place, proof, (primary.clone(), secondary.clone()))
            }
        }
    }
}

impl SymbolSource for Fetcher {
    fn chunk(&self, place: &Place, begun: Instant) -> Option<ChunkProof> {
        let asked = Instant::now();
        let left = self.hopeless.saturating_sub(begun.elapsed());
        let fetched = self.runtime.block_on(async { timeout(left, self.fetch(place)).await });
        let fetched = fetched.unwrap_or_else(|_| Err(anyhow!("the chain is too late")));
        let (blob, took_ms) = (place.blob, asked.elapsed().as_millis());
        match fetched {
            Ok(proof) => {
                tracing::info!(%blob, took_ms, "fetched");
                Some(proof)
            }
            Err(error) => {
                tracing::info!(%blob, took_ms, "not fetched: {error:#}");
                None
            }
        }
    }
}

fn entries<K, V>(kept: &Kept<K, V>) -> MutexGuard<'_, BTreeMap<K, (Instant, V)>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known<K: Ord, V: Clone>(kept: &Kept<K, V>, key: &K) -> Option<V> {
    entries(kept).get(key).map(|(_, value)| value.clone())
}

/// Keeps it for a while, and forgets what is older.
fn keep<K: Ord, V: Clone>(kept: &Kept<K, V>, key: K, value: V) -> V {
    let mut entries = entries(kept);
    entries.retain(|_, (since, _)| since.elapsed() < KEPT);
    entries.insert(key, (Instant::now(), value.clone()));
    value
}

/// What the place asks for, of a pair that somebody else had.
fn prove(
    place: &Place,
    proof: &PairProof,
    (primary, secondary): (Bytes, Bytes),
) -> anyhow::Result<ChunkProof> {
    let sliver = if place.axis == Axis::Primary { primary } else { secondary };
    let hashes = encoding::symbol_hashes(&place.layout, place.axis, &sliver)?;
    Ok(ChunkProof::new(place, proof, &sliver[place.symbol_range()], hashes)?)
}
