//! Reads blobs as somebody does who means to pass by them: as fast as can be.
//!
//! A read of an honest client first has members prove that the blob is there, and believes nobody.
//! This one knows whom to ask, asks for the rows at once and for some more than it needs, those
//! first who were quick before, and again for more when nothing has come for a moment. It checks
//! no row: that the line that it makes of them is right shows in the end, and who is lied to has
//! lost a round.
//!
//! Of a blob that it has seen it keeps the proofs of all pairs, which follow from any `k1` of them.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::Place,
    encoding::{self, Axis, DigestTable},
    index::{Epoch, SliverIndex, SliverPairIndex},
    keys::NodeId,
    message::{Request, Response},
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::sleep;

use super::{fetcher::Pair, stranger::Stranger};

/// Of the rows that are needed, so many to one are asked for on top: some holders are lazy, too.
const SPARE: usize = 4;
/// When nothing has come for so long, more are asked for.
const HEDGE: Duration = Duration::from_millis(10);
/// What an answer that was none counts as.
const NO_ANSWER: Duration = Duration::from_secs(1);
/// Blobs whose proofs are kept.
const KNOWN_MAX: usize = 4_096;

/// Rows as they came, unchecked, and the proofs of all pairs.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<(SliverIndex, Bytes)>,
    proofs: Arc<Vec<PairProof>>,
}

impl Rows {
    /// The pair of a place of that blob.
    pub(super) fn pair(&self, place: &Place) -> anyhow::Result<Pair> {
        let pairs = [place.pair];
        let lines = encoding::lines_of_rows(&place.layout, &self.rows, &pairs, NonZeroUsize::MIN)?;
        let (primary, secondary) = lines.into_iter().next().context("no lines")?;
        let proof = self.proofs.get(place.pair.as_usize()).context("no such pair")?;
        Ok((proof.clone(), primary, secondary))
    }
}

/// Reads them.
#[derive(Debug)]
pub(super) struct RowReader {
    stranger: Stranger,
    known: Mutex<BTreeMap<BlobId, Arc<Vec<PairProof>>>>,
    /// How long the last answers of nodes took.
    pace: Mutex<BTreeMap<NodeId, Duration>>,
}

impl RowReader {
    pub(super) fn new(stranger: Stranger) -> Self {
        Self { stranger, known: Mutex::default(), pace: Mutex::default() }
    }

    /// Enough rows of the blob of a place.
    pub(super) async fn read(&self, place: &Place) -> anyhow::Result<Rows> {
        let needed = place.layout.config().k1();
        let mut candidates = self.candidates(place).into_iter();
        let mut asks = FuturesUnordered::new();
        let mut rows = Vec::with_capacity(needed);
        let mut proofs = Vec::with_capacity(needed);
        let mut more = needed + needed.div_ceil(SPARE);
        let mut hedge = HEDGE;
        while rows.len() < needed {
            for (node, pair) in candidates.by_ref().take(more) {
                asks.push(self.ask(place, (node, pair)));
            }
            more = 0;
            tokio::select! {
                answer = asks.next() => match answer {
                    Some(Some((pair, proof, row))) => {
                        if rows.iter().all(|(index, _)| *index != pair.primary()) {
                            rows.push((pair.primary(), row));
                            proofs.push(proof);
                        }
                    }
                    Some(None) => more = 1,
                    None => bail!("{} of {needed} rows came", rows.len()),
                },
                () = sleep(hedge) => {
                    more = needed.div_ceil(SPARE);
                    // If all are slow, more questions make them slower.
                    hedge *= 2;
                }
            }
        }
        drop(asks);
        let proofs = self.proofs(place, &proofs)?;
        Ok(Rows { rows, proofs })
    }

    /// Who may have which row, whom to ask first first.
    fn candidates(&self, place: &Place) -> Vec<(NodeId, SliverPairIndex)> {
        let holders = self.stranger.holders();
        let n_shards = holders.committee().n_shards();
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for pair in (0..n_shards).map(SliverPairIndex::new).filter(|pair| *pair != place.pair) {
            let shard = place.blob.shard_of(pair, n_shards);
            let mut nodes = holders.of(shard, Epoch::new(0)).map(|node| (node, pair));
            first.extend(nodes.next());
            others.extend(nodes);
        }
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = dealt(&first, &pace);
        all.extend(dealt(&others, &pace));
        all
    }

    async fn ask(
        &self,
        place: &Place,
        (node, pair): (NodeId, SliverPairIndex),
    ) -> Option<(SliverPairIndex, Bytes, Bytes)> {
        let mut asked = Asked { reader: self, node, began: Instant::now(), came: None };
        let request = Request::ReadSliver { blob: place.blob, pair, axis: Axis::Primary };
        let answer = match self.stranger.ask(node, request).await {
            Ok(Response::Sliver { proof, sliver })
                if sliver.len() == place.layout.primary_bytes() =>
            {
                Some((pair, proof, sliver))
            }
            Ok(_) | Err(_) => None,
        };
        asked.came = Some(answer.is_some());
        answer
    }

    /// The proofs of all pairs: those that are known, or else what these make.
    fn proofs(&self, place: &Place, came: &[Bytes]) -> anyhow::Result<Arc<Vec<PairProof>>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proofs) = known().get(&place.blob) {
            return Ok(Arc::clone(proofs));
        }
        let config = place.layout.config();
        let verified = came.iter().map(|bytes| PairProof::verify_bytes(config, &place.blob, bytes));
        let table = DigestTable::rebuild(config, &verified.collect::<Result<Vec<_>, _>>()?)?;
        let proofs = Arc::new(table.proofs(&place.header)?);
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.pop_first();
        }
        known.insert(place.blob, Arc::clone(&proofs));
        Ok(proofs)
    }
}

/// A question that notes, once it is over, how quick the node was.
struct Asked<'a> {
    reader: &'a RowReader,
    node: NodeId,
    began: Instant,
    /// Whether what was wanted came; none while nothing did.
    came: Option<bool>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let took = match self.came {
            Some(true) => self.began.elapsed(),
            Some(false) => NO_ANSWER,
            // Others were quicker: by how much is not known.
            None => self.began.elapsed() * 4,
        };
        let mut pace = self.reader.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pace.get(&self.node).copied().unwrap_or(took);
        pace.insert(self.node, (before * 3 + took) / 4);
    }
}

/// In the order in which they are to come, if a node takes as long for each more.
fn dealt(
    rows: &[(NodeId, SliverPairIndex)],
    pace: &BTreeMap<NodeId, Duration>,
) -> Vec<(NodeId, SliverPairIndex)> {
    let mut turns = BTreeMap::<NodeId, u32>::new();
    let with_turn = rows.iter().map(|(node, pair)| {
        let turn = turns.entry(*node).or_default();
        *turn += 1;
        (pace.get(node).copied().unwrap_or(HEDGE).saturating_mul(*turn), (*node, *pair))
    });
    let mut sorted: Vec<_> = with_turn.collect();
    sorted.sort_by_key(|(due, _)| *due);
    sorted.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_asked_first_of_who_is_quick_and_last_of_who_does_not_answer() {
        let node = |i: u8| NodeId::new([i; 32]);
        let rows: Vec<_> =
            (0..9_u8).map(|i| (node(i % 3), SliverPairIndex::new(u16::from(i)))).collect();
        let pace = [
            (node(0), NO_ANSWER),
            (node(1), Duration::from_millis(10)),
            (node(2), Duration::from_millis(3)),
        ];
        let order: Vec<_> =
            dealt(&rows, &pace.into()).into_iter().map(|(_, pair)| pair.get()).collect();
        assert_eq!(order, [2, 5, 8, 1, 4, 7, 0, 3, 6]);
    }
}
