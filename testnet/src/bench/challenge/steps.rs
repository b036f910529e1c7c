//! What a step of a round takes alone: bytes, and time on one processor.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use floe_protocol::{
    blob::{BlobHeader, PairProof},
    challenge::{
        BilledUnits, Challenge, ChallengeParameters, ChunkProof, Place, StepProof, Universe, Walk,
        challenged_shards,
    },
    committee::Committee,
    encoding::{self, Axis, EncodingConfig},
    hash::Hash,
    index::{ChallengeRound, Epoch},
    keys::ChainId,
    ledger::{Blob, Certified, Timestamp},
};
use serde::Serialize;

use crate::workload::{content, fresh_seed};

/// The largest blob that is looked at.
const BLOB_BYTES: usize = 32 << 20;
/// Transcripts that are judged.
const JUDGED: u32 = 50;
const LONG_AGO: Timestamp = Timestamp::from_ms(0);

/// What a step takes.
#[derive(Debug, Serialize)]
pub(super) struct Steps {
    pub(super) blob_bytes: u64,
    pub(super) step_bytes: usize,
    pub(super) transcript_bytes: usize,
    pub(super) judge_us: f64,
    pub(super) make_us: f64,
    /// The same with the hashes of the sliver's symbols at hand.
    pub(super) make_kept_us: f64,
}

/// Measures it for the first member of a committee, with one blob.
pub(super) fn measure(chain: ChainId, committee: Committee) -> anyhow::Result<Steps> {
    let config: EncodingConfig = committee.config();
    let threads = NonZeroUsize::MIN;
    let blob = encoding::encode(config, content(fresh_seed(), BLOB_BYTES), threads)?;
    let universe = universe(chain, committee, blob.header())?;
    let node = universe.committee.members()[0].node;
    let challenge = Challenge::new(universe, node, Hash::ZERO).context("nothing is asked for")?;
    let proofs = blob.table().proofs(blob.header())?;
    let mut walk = Walk::new(challenge.clone());
    let (mut made, mut made_kept, mut steps) = (Duration::ZERO, Duration::ZERO, 0_u32);
    while let Some(place) = walk.place() {
        let (primary, secondary) = blob.pair(place.pair);
        let sliver = if place.axis == Axis::Primary { primary } else { secondary };
        let began = Instant::now();
        let hashes = encoding::symbol_hashes(&place.layout, place.axis, &sliver)?;
        let hashed = Instant::now();
        let proof = prove(&place, (&proofs[place.pair.as_usize()], &sliver), hashes)?;
        made += began.elapsed();
        made_kept += hashed.elapsed();
        walk.take(&proof)?;
        steps += 1;
    }
    let answer = walk.end().context("the chain has not ended")?;
    let (end, transcript) = (answer.commitment().end, answer.transcript());
    ensure!(steps > 0, "a chain without steps");
    let began = Instant::now();
    for _ in 0..JUDGED {
        challenge.verify(transcript, &end, &BTreeSet::new())?;
    }
    let micros = |time: Duration, count: u32| time.as_secs_f64() * 1e6 / f64::from(count);
    Ok(Steps {
        blob_bytes: BLOB_BYTES as u64,
        step_bytes: transcript.len() / usize::try_from(steps)?,
        transcript_bytes: transcript.len(),
        judge_us: micros(began.elapsed(), JUDGED * steps),
        make_us: micros(made, steps),
        make_kept_us: micros(made_kept, steps),
    })
}

/// A round in which one blob is asked for.
fn universe(
    chain: ChainId,
    committee: Committee,
    header: &BlobHeader,
) -> anyhow::Result<Arc<Universe>> {
    let (epoch, number) = (committee.epoch(), 0);
    let end = Epoch::new(u64::MAX);
    let certified = Some(Certified { number, end, first_epoch: epoch, first_time: LONG_AGO });
    let blob =
        Blob { header: *header, registrations: 1, permanent_end: None, certified, invalid: false };
    let mut units = BilledUnits::new();
    units.update(None, Some(&blob))?;
    units.advance(epoch, LONG_AGO);
    let ready = vec![Some(LONG_AGO); usize::from(committee.n_shards())];
    Ok(Arc::new(Universe {
        chain,
        round: ChallengeRound::new(1),
        opened: LONG_AGO,
        parameters: ChallengeParameters::default(),
        shards: challenged_shards(&committee, &ready, LONG_AGO),
        committee: Arc::new(committee),
        units,
    }))
}

fn prove(
    place: &Place,
    (pair, sliver): (&PairProof, &[u8]),
    hashes: Vec<Hash>,
) -> anyhow::Result<StepProof> {
    let proof = ChunkProof::new(place, pair, &sliver[place.symbol_range()], hashes)?;
    Ok(StepProof::Chunk(Box::new(proof)))
}
