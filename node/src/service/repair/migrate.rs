//! Copies pairs of a shard from its earlier holder.
//!
//! The holder is asked for batches and believed nothing: each pair must authenticate against the
//! blob id. As much is asked for at a time as comes promptly ([`Batches`]). Whoever sends something
//! false is not asked again in this epoch; whoever answers nothing that can be used, or does not
//! get done in a time that goes by how much it is asked for, not for a while. What does not come
//! this way is recovered: no holder decides how long that has to wait.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use floe_protocol::{
    blob::{BlobId, PairProof},
    encoding::{self, EncodingConfig},
    index::ShardIndex,
    keys::NodeId,
    message::{Limits, MAX_PAIRS, Request, Response, StoredPair},
    repair::{Batches, HolderFault, PaceConfig},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, Failed, NoAnswer, Pair, millis},
    scan::Lack,
};

/// From whom a shard is copied.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) holder: NodeId,
    pub(super) shard: ShardIndex,
    /// How long it may take for all.
    pub(super) time: Duration,
    /// The holder is given up: all that is copied from it ends.
    pub(super) over: CancellationToken,
}

/// What came of asking a holder.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) holder: NodeId,
    pub(super) shard: ShardIndex,
    /// Blobs whose pair is here now, or no longer wanted.
    pub(super) settled: Vec<BlobId>,
    /// Blobs whose pair did not come.
    pub(super) left: BTreeSet<BlobId>,
    /// What the holder must answer for.
    pub(super) fault: Option<HolderFault>,
}

/// Copies the pairs of a shard of these blobs from its holder.
pub(super) async fn copy(
    context: Arc<Context>,
    Source { holder, shard, time, over }: Source,
    lacks: Vec<Lack>,
) -> Result<Copied, Failed> {
    let left = lacks.iter().map(|lack| lack.blob).collect();
    let mut copied = Copied { holder, shard, settled: Vec::new(), left, fault: None };
    let bytes = lacks.iter().map(pair_bytes).collect();
    let mut batches = Batches::new(PaceConfig::default(), bytes, MAX_PAIRS, millis(time));
    // What came before this began has to have its time, too, in whichever epoch it was asked for.
    let mut ask_at = Instant::now() + context.throttle.wait();
    while let Some(next) = batches.next().filter(|_| copied.fault.is_none()) {
        let asked = &lacks[next];
        context.hold(ask_at).await?;
        let _share = context.budget.take(answer_bytes(asked)).await;
        if over.is_cancelled() {
            break;
        }
        // What this node does with an answer takes nothing of the holder's time.
        let (began, left) = (Instant::now(), Duration::from_millis(batches.left_ms()));
        match batch(&context, (holder, shard), (asked, left)).await? {
            Ok(Batch { looked_up, took, ask_again_at, settled, is_true }) => {
                ask_at = ask_again_at;
                batches.answered(looked_up, millis(took), !settled.is_empty());
                for blob in &settled {
                    copied.left.remove(blob);
                }
                copied.settled.extend(settled);
                if !is_true {
                    tracing::warn!(%holder, %shard, "sent false pairs: not asked again in this epoch");
                    copied.fault = Some(HolderFault::Lied);
                }
            }
            Err(NoAnswer::Late) if batches.unanswered(millis(began.elapsed())) => {}
            Err(NoAnswer::Stopping) => return Err(Failed::Stopping),
            Err(NoAnswer::Late | NoAnswer::Away | NoAnswer::Unusable) => {
                copied.fault = Some(HolderFault::Away);
            }
        }
    }
    if copied.fault.is_none() && batches.is_away() {
        copied.fault = Some(HolderFault::Away);
    }
    if copied.fault.is_some() {
        over.cancel();
    }
    Ok(copied)
}

/// An answer, and what was kept of it.
struct Batch {
    looked_up: usize,
    /// How long it took to come.
    took: Duration,
    /// When it has had its time.
    ask_again_at: Instant,
    settled: Vec<BlobId>,
    /// Nothing in it was false.
    is_true: bool,
}

/// Asks once, for as many as fit into an answer, which has so long to come.
async fn batch(
    context: &Arc<Context>,
    (holder, shard): (NodeId, ShardIndex),
    (asked, left): (&[Lack], Duration),
) -> Result<Result<Batch, NoAnswer>, Failed> {
    let blobs: Vec<_> = asked.iter().map(|lack| lack.blob).collect();
    let request = Request::ReadPairs { shard, blobs: blobs.clone() };
    let began = Instant::now();
    let answer = timeout(left, context.ask(holder, request, answer_bytes(asked))).await;
    let (looked_up, pairs) = match answer.unwrap_or(Err(NoAnswer::Late)) {
        Ok(Response::Pairs { looked_up, pairs }) => (usize::from(looked_up), pairs),
        Ok(_) => return Ok(Err(NoAnswer::Unusable)),
        Err(none) => return Ok(Err(none)),
    };
    let took = began.elapsed();
    if looked_up == 0 || looked_up > blobs.len() {
        return Ok(Err(NoAnswer::Unusable));
    }
    let config = context.state().committee().config();
    let received: usize = pairs.iter().map(bytes_of).sum();
    // Who stops early has no room for the next: else it could make each answer last, and be empty.
    let next = asked.get(looked_up).map_or(u64::MAX, pair_bytes);
    if (received as u64).saturating_add(next) <= Limits::new(config).max_payload_bytes() {
        return Ok(Err(NoAnswer::Unusable));
    }
    let ask_again_at = Instant::now() + context.charge(received as u64);
    let kept = context.blocking(move |context| {
        keep(context, verify(config, shard, (&blobs[..looked_up], pairs)))
    });
    let (settled, is_true) = kept.await?;
    Ok(Ok(Batch { looked_up, took, ask_again_at, settled, is_true }))
}

/// What an answer may hold: all pairs, or as many as fit.
fn answer_bytes(lacks: &[Lack]) -> u64 {
    let bytes: u64 = lacks.iter().map(pair_bytes).sum();
    let config = lacks.first().and_then(|lack| EncodingConfig::new(lack.header.n_shards).ok());
    config.map_or(bytes, |config| bytes.min(Limits::new(config).max_payload_bytes()))
}

/// What a pair of a blob takes in an answer.
pub(super) fn pair_bytes(lack: &Lack) -> u64 {
    lack.header.layout().map_or(0, |layout| {
        let proof = PairProof::layout_bytes(layout.config());
        (layout.primary_bytes() + layout.secondary_bytes() + proof) as u64
    })
}

fn bytes_of(pair: &StoredPair) -> usize {
    pair.proof.len() + pair.primary.len() + pair.secondary.len()
}

/// The true pairs of an answer about these blobs, and whether that is all of it.
fn verify(
    config: EncodingConfig,
    shard: ShardIndex,
    (blobs, sent): (&[BlobId], Vec<StoredPair>),
) -> (Vec<Pair>, bool) {
    let mut expected = blobs.iter();
    let mut pairs = Vec::with_capacity(sent.len());
    for pair in sent {
        // In the order in which they were asked for, so none twice.
        let is_asked = expected.any(|blob| *blob == pair.blob);
        let Some(pair) = Some(pair).filter(|_| is_asked).and_then(|pair| one(config, shard, pair))
        else {
            return (pairs, false);
        };
        pairs.push(pair);
    }
    (pairs, true)
}

/// A pair, if it is true.
fn one(config: EncodingConfig, shard: ShardIndex, sent: StoredPair) -> Option<Pair> {
    let StoredPair { blob, proof, primary, secondary } = sent;
    let proof = PairProof::verify_bytes(config, &blob, &proof).ok()?;
    if proof.index != blob.pair_of(shard, config.n_shards()) {
        return None;
    }
    let layout = proof.header.layout().ok()?;
    let hashes = encoding::verify_slivers(&layout, &proof, &primary, &secondary).ok()?;
    Some(Pair { blob, shard, proof, primary, secondary, hashes })
}

fn keep(
    context: &Context,
    (pairs, is_true): (Vec<Pair>, bool),
) -> Result<(Vec<BlobId>, bool), Failed> {
    let wanted = context.keep(&pairs)?;
    for (pair, wanted) in pairs.iter().zip(wanted) {
        if wanted {
            context.progress.moved(pair.sliver_bytes());
            tracing::debug!(blob = %pair.blob, shard = %pair.shard, "pair moved here");
        }
    }
    Ok((pairs.iter().map(|pair| pair.blob).collect(), is_true))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use floe_protocol::{blob::PairProof, test_support};

    use super::*;

    fn pairs(shard: ShardIndex, config: EncodingConfig) -> Vec<StoredPair> {
        let stored = |seed| {
            let bytes = test_support::blob(seed, 3_000);
            let encoded = encoding::encode(config, bytes, NonZeroUsize::MIN).unwrap();
            let blob = encoded.header().id();
            let index = blob.pair_of(shard, config.n_shards());
            let (primary, secondary) = encoded.pair(index);
            let proofs = encoded.table().proofs(encoded.header()).unwrap();
            let proof: &PairProof = &proofs[index.as_usize()];
            StoredPair { blob, proof: proof.to_bytes().into(), primary, secondary }
        };
        (1..=4).map(stored).collect()
    }

    #[test]
    fn only_what_was_asked_for_and_authenticates_is_taken() {
        let (config, shard) = (EncodingConfig::new(7).unwrap(), ShardIndex::new(3));
        let sent = pairs(shard, config);
        let blobs: Vec<_> = sent.iter().map(|pair| pair.blob).collect();
        let check = |sent: Vec<StoredPair>, taken: usize, is_true: bool| {
            let (pairs, all) = verify(config, shard, (&blobs[..3], sent));
            assert_eq!((pairs.len(), all), (taken, is_true));
        };
        check(sent[..3].to_vec(), 3, true);
        check(vec![sent[0].clone(), sent[2].clone()], 2, true);
        check(vec![], 0, true);
        check(sent.clone(), 3, false);
        check(vec![sent[1].clone(), sent[0].clone()], 1, false);
        check(vec![sent[1].clone(), sent[1].clone()], 1, false);
        let mut other = pairs(ShardIndex::new(4), config);
        check(vec![other.swap_remove(0)], 0, false);
        for field in 0..3 {
            let mut false_pair = sent[1].clone();
            let bytes = match field {
                0 => &mut false_pair.proof,
                1 => &mut false_pair.primary,
                _ => &mut false_pair.secondary,
            };
            let mut changed = bytes.to_vec();
            changed[0] ^= 1;
            *bytes = changed.into();
            check(vec![sent[0].clone(), false_pair], 1, false);
        }
    }
}
