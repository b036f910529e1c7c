//! What a member is to score that dropped some pairs for good.

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    challenge::ChallengeParameters,
    encoding::ConfigError,
    index::ShardIndex,
    ledger::billed_units,
};

use crate::lazy::is_dropped;

/// How far a count may be from its mean, in standard deviations: one of a thousand is further.
const DEVIATIONS: f64 = 3.3;

/// The blobs that are asked for, with their weights.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    blobs: Vec<(BlobId, u64)>,
}

impl Pairs {
    pub(super) fn new(headers: impl Iterator<Item = BlobHeader>) -> Result<Self, ConfigError> {
        let weighted = |header: BlobHeader| Ok((header.id(), billed_units(&header)?));
        Ok(Self { blobs: headers.map(weighted).collect::<Result<_, ConfigError>>()? })
    }

    /// The probability that one who drops so many of a thousand pairs, and holds these shards,
    /// passes a round: that each step draws a pair that it has.
    pub(super) fn pass(
        &self,
        permille: u16,
        shards: &[ShardIndex],
        rules: &ChallengeParameters,
    ) -> f64 {
        let (mut all, mut held) = (0.0, 0.0);
        for (blob, units) in &self.blobs {
            for shard in shards {
                let units = float(*units);
                all += units;
                held += if is_dropped(permille, blob, *shard) { 0.0 } else { units };
            }
        }
        if all == 0.0 { 1.0 } else { (held / all).powi(rules.steps.into()) }
    }
}

/// The passes of `rounds` that are to be expected if each is passed with a probability: the
/// fewest and the most that are no surprise. Whoever is honest passes `honest` of them.
pub(super) fn passes(probability: f64, rounds: u64, honest: f64) -> (f64, f64) {
    let within = |probability: f64| {
        let mean = float(rounds) * probability;
        let deviation = (mean * (1.0 - probability)).sqrt() * DEVIATIONS;
        (mean - deviation, mean + deviation)
    };
    let (least, most) = (within(probability * honest).0, within(probability).1);
    (least.max(0.0), most.min(float(rounds)))
}

/// Far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts of rounds and units")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use floe_protocol::hash::Hash;

    use super::*;

    #[test]
    fn whoever_drops_nothing_passes_and_who_drops_everything_does_not() {
        let header = |i: u8| BlobHeader { n_shards: 7, len: 1_000, root: Hash::new([i; 32]) };
        let pairs = Pairs::new((0..100).map(header)).unwrap();
        let shards = [1, 5].map(ShardIndex::new);
        let rules = ChallengeParameters::default();
        let pass = |permille| pairs.pass(permille, &shards, &rules);
        assert!((pass(0) - 1.0).abs() < 1e-9 && pass(1_000).abs() < 1e-9);
        // 16 steps: 0.97^16 is 0.61, of 200 pairs a few more or fewer are dropped.
        assert!((0.4..0.85).contains(&pass(30)), "{}", pass(30));
        assert!(pass(300) < 0.05);
    }

    #[test]
    fn bounds_hold_the_mean_and_stay_among_the_rounds() {
        let (least, most) = passes(0.5, 100, 1.0);
        assert!(least < 50.0 && most > 50.0 && least > 30.0 && most < 70.0);
        assert_eq!(passes(1.0, 100, 1.0), (100.0, 100.0));
        assert!(passes(1.0, 100, 0.9).0 < 90.0);
        assert_eq!(passes(0.0, 100, 1.0), (0.0, 0.0));
    }
}
