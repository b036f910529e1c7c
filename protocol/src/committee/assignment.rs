//! Shards by stake: D'Hondt's method with a cap.
//!
//! Awards are given one at a time to the node with the highest quotient stake / (shards + 1) that
//! is below the cap; quotients are compared by cross-multiplication, ties go to the lower node id.
//! At genesis shard `j` goes to the winner of award `j`, which interleaves the nodes.

use super::CommitteeError;
use crate::{
    bft,
    keys::{BlsPublicKey, NodeId},
};

/// A node that stands for the committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its node key.
    pub node: NodeId,
    /// Its BLS key, whose proof of possession has been verified.
    pub bls_key: BlsPublicKey,
    /// Its stake in FROST; at most 2^96, so that quotients compare within `u128`.
    pub stake: u128,
}

/// The most stake that a comparison of quotients can carry: 2^96 FROST.
const MAX_STAKE: u128 = 1 << 96;

/// Shards that one of `nodes` nodes may hold:
/// `max(1, min(f, nodes >= 20 ? ceil(n / 10) : ceil(2n / nodes)))`.
#[must_use]
pub fn shard_cap(n_shards: u16, nodes: usize) -> u16 {
    let n = usize::from(n_shards);
    let share = if nodes >= 20 { n.div_ceil(10) } else { (2 * n).div_ceil(nodes.max(1)) };
    let share = u16::try_from(share).unwrap_or(u16::MAX);
    share.min(bft::max_faulty(n_shards)).max(1)
}

/// For each shard the position in `candidates` (sorted by node id) of its holder.
///
/// # Errors
/// [`CommitteeError::Cap`] if the candidates with stake cannot carry all shards under the cap.
///
/// # Panics
/// With more than 65,536 candidates; a genesis lists far fewer.
pub fn award_shards(n_shards: u16, candidates: &[Candidate]) -> Result<Vec<u16>, CommitteeError> {
    let nodes = candidates.iter().filter(|candidate| candidate.stake > 0).count();
    let cap = shard_cap(n_shards, nodes);
    let mut awarded = vec![0_u16; candidates.len()];
    let mut holders = Vec::with_capacity(usize::from(n_shards));
    for _ in 0..n_shards {
        let winner = (0..candidates.len())
            .filter(|i| candidates[*i].stake > 0 && awarded[*i] < cap)
            .reduce(|best, i| {
                let of = |i: usize, other: usize| {
                    candidates[i].stake.min(MAX_STAKE) * (u128::from(awarded[other]) + 1)
                };
                if of(i, best) > of(best, i) { i } else { best }
            })
            .ok_or(CommitteeError::Cap { n_shards, nodes, cap })?;
        awarded[winner] += 1;
        holders.push(u16::try_from(winner).expect("candidates are counted in u16"));
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::BlsPublicKey;

    fn candidates(stakes: &[u128]) -> Vec<Candidate> {
        let candidate = |(i, stake): (usize, &u128)| {
            let byte = u8::try_from(i).unwrap();
            Candidate {
                node: NodeId::new([byte; 32]),
                bls_key: BlsPublicKey::new([byte; 48]),
                stake: *stake,
            }
        };
        stakes.iter().enumerate().map(candidate).collect()
    }

    fn counts(holders: &[u16], nodes: usize) -> Vec<usize> {
        (0..nodes).map(|i| holders.iter().filter(|h| usize::from(**h) == i).count()).collect()
    }

    #[test]
    fn equal_stakes_interleave() {
        let holders = award_shards(10, &candidates(&[5; 5])).unwrap();
        assert_eq!(holders, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn shares_follow_stake_up_to_the_cap() {
        let holders = award_shards(64, &candidates(&[400, 200, 100, 100, 100, 50, 50])).unwrap();
        // cap = min(21, ceil(128 / 7)) = 19; six nodes tie for the last three awards at 12.5.
        assert_eq!(counts(&holders, 7), [19, 16, 8, 8, 7, 3, 3]);
        assert_eq!(shard_cap(64, 7), 19);
    }

    #[test]
    fn caps() {
        for (n, nodes, cap) in [(4, 4, 1), (7, 7, 2), (64, 4, 21), (64, 20, 7), (256, 100, 26)] {
            assert_eq!(shard_cap(n, nodes), cap, "n = {n}, nodes = {nodes}");
        }
    }

    #[test]
    fn too_few_nodes_are_refused() {
        for nodes in 0..4 {
            let result = award_shards(64, &candidates(&vec![1; nodes]));
            assert!(matches!(result, Err(CommitteeError::Cap { .. })), "{nodes} nodes");
        }
        assert!(award_shards(64, &candidates(&[1, 1, 1, 0])).is_err(), "no stake, no shards");
    }

    #[test]
    fn extreme_stakes_do_not_overflow() {
        let holders = award_shards(256, &candidates(&[u128::MAX, u128::MAX, 1, 1, 1])).unwrap();
        assert_eq!(holders.len(), 256);
    }
}
