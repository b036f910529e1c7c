//! Who holds which shards: D'Hondt's method with a cap, and the fewest moves from one committee to
//! the next.
//!
//! Awards are given one at a time to the node with the highest quotient stake / (shards + 1) that
//! is below the cap; quotients are compared by cross-multiplication, ties go to the lower node id.
//! At genesis shard `j` goes to the winner of award `j`, which interleaves the nodes. Later only the
//! counts are awarded: a node keeps what it holds, up to its count. What the others give up, each
//! its highest indices, goes out in ascending order to those who lack some, one at a time in the
//! order of node ids, round after round.
//!
//! Shards that were never completed by who got them may return to who had them: such a shard is
//! awarded first, as long as its taker stays within the cap, and counts toward the taker's award.
//!
//! Invariants: every function here is the same on every node and for every order of candidates;
//! nobody gets more than the cap; no shard moves that need not.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
};

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

/// For each shard the position in `candidates` (sorted by node id) of its holder at genesis.
///
/// # Errors
/// [`CommitteeError::Cap`] if the candidates with stake cannot carry all shards under the cap.
///
/// # Panics
/// With more than 65,536 candidates; a genesis lists far fewer.
pub fn award_shards(n_shards: u16, candidates: &[Candidate]) -> Result<Vec<u16>, CommitteeError> {
    let nodes = candidates.iter().filter(|candidate| candidate.stake > 0).count();
    let cap = shard_cap(n_shards, nodes);
    let stakes: Vec<_> = candidates.iter().map(|candidate| candidate.stake).collect();
    let mut awarded = vec![0; candidates.len()];
    let winners = award(n_shards, cap, &stakes, &mut awarded);
    let winners = winners.ok_or(CommitteeError::Cap { n_shards, nodes, cap })?;
    let position = |winner| u16::try_from(winner).expect("candidates are counted in u16");
    Ok(winners.into_iter().map(position).collect())
}

/// Gives `awards` more shards by stake to whom holds `awarded` already; the winners. `stakes` are
/// by ascending node id. None if the cap leaves too little room.
fn award(awards: u16, cap: u16, stakes: &[u128], awarded: &mut [u16]) -> Option<Vec<usize>> {
    let mut winners = Vec::with_capacity(usize::from(awards));
    for _ in 0..awards {
        let winner = (0..stakes.len()).filter(|i| stakes[*i] > 0 && awarded[*i] < cap).reduce(
            |best, i| {
                let of = |i: usize, other: usize| {
                    stakes[i].min(MAX_STAKE) * (u128::from(awarded[other]) + 1)
                };
                if of(i, best) > of(best, i) { i } else { best }
            },
        )?;
        awarded[winner] += 1;
        winners.push(winner);
    }
    Some(winners)
}

/// For each shard its next holder, given `previous`, the present one of each. `returning` names,
/// where there is one, who takes the shard back if it is a candidate; beyond its end nobody does.
///
/// The cost grows with the logarithm of the number of candidates: beside those who take shards
/// back, only the first `n_shards` by stake can win one.
///
/// # Errors
/// [`CommitteeError::Cap`] if the candidates with stake cannot carry all shards under the cap.
///
/// # Panics
/// With more than 65,536 shards; a network has far fewer.
pub fn reassign(
    previous: &[NodeId],
    candidates: &[Candidate],
    returning: &[Option<NodeId>],
) -> Result<Vec<NodeId>, CommitteeError> {
    let n_shards = u16::try_from(previous.len()).expect("shards are counted in u16");
    let nodes = candidates.iter().filter(|candidate| candidate.stake > 0).count();
    let cap = shard_cap(n_shards, nodes);
    let standing = standing(previous.len(), candidates, returning);
    let position = |node: &NodeId| standing.binary_search_by_key(node, |(node, _)| *node).ok();

    let mut next: Vec<Option<usize>> = vec![None; previous.len()];
    let mut awarded = vec![0_u16; standing.len()];
    for (holder, back) in next.iter_mut().zip(returning) {
        let taker = back.as_ref().and_then(position);
        if let Some(taker) = taker.filter(|taker| awarded[*taker] < cap) {
            awarded[taker] += 1;
            *holder = Some(taker);
        }
    }
    let returned = awarded.clone();
    let rest = n_shards - returned.iter().sum::<u16>();
    let stakes: Vec<_> = standing.iter().map(|(_, stake)| *stake).collect();
    award(rest, cap, &stakes, &mut awarded).ok_or(CommitteeError::Cap { n_shards, nodes, cap })?;

    let mut room: Vec<u16> = awarded.iter().zip(&returned).map(|(all, back)| all - back).collect();
    // Ascending, so that what does not fit are the highest indices.
    for (holder, previous) in next.iter_mut().zip(previous).filter(|(next, _)| next.is_none()) {
        if let Some(keeper) = position(previous).filter(|keeper| room[*keeper] > 0) {
            room[keeper] -= 1;
            *holder = Some(keeper);
        }
    }
    let mut takers: VecDeque<_> = (0..room.len()).filter(|taker| room[*taker] > 0).collect();
    for holder in next.iter_mut().filter(|holder| holder.is_none()) {
        let taker = takers.pop_front().expect("as many are awarded as there are shards");
        room[taker] -= 1;
        *holder = Some(taker);
        if room[taker] > 0 {
            takers.push_back(taker);
        }
    }
    Ok(next.into_iter().flatten().map(|holder| standing[holder].0).collect())
}

/// Of the candidates those who can get a shard, by ascending node id, with their stakes.
fn standing(
    n_shards: usize,
    candidates: &[Candidate],
    returning: &[Option<NodeId>],
) -> Vec<(NodeId, u128)> {
    let returning: BTreeSet<_> = returning.iter().flatten().collect();
    let with_stake = candidates.iter().filter(|candidate| candidate.stake > 0);
    let mut by_stake: Vec<_> = with_stake.map(|c| (c.node, c.stake.min(MAX_STAKE))).collect();
    by_stake.sort_unstable_by_key(|(node, stake)| (Reverse(*stake), *node));
    let kept = by_stake.iter().enumerate();
    let kept = kept.filter(|(rank, (node, _))| *rank < n_shards || returning.contains(node));
    let mut standing: Vec<_> = kept.map(|(_, candidate)| *candidate).collect();
    standing.sort_unstable_by_key(|(node, _)| *node);
    standing.dedup_by_key(|(node, _)| *node);
    standing
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
