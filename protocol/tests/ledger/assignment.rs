//! Who gets which shards: checked against a slow way to count, for random committees.

use std::collections::BTreeMap;

use floe_protocol::{
    committee::{Candidate, CommitteeError, award_shards, reassign, shard_cap},
    keys::{BlsPublicKey, NodeId},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

fn node(i: u8) -> NodeId {
    NodeId::new([i; 32])
}

/// Candidates by number and stake, each number once.
fn candidates(stakes: &[(u8, u128)]) -> Vec<Candidate> {
    let by_number: BTreeMap<_, _> = stakes.iter().copied().collect();
    let candidate = |(i, stake): (u8, u128)| {
        let bls_key = BlsPublicKey::new([i; 48]);
        Candidate { node: node(i), bls_key, stake }
    };
    by_number.into_iter().map(candidate).collect()
}

fn counts(holders: &[NodeId]) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for holder in holders {
        *counts.entry(*holder).or_default() += 1;
    }
    counts
}

/// The counts of D'Hondt's method from a list of all quotients, highest first.
fn expected_counts(n: usize, candidates: &[Candidate]) -> Option<BTreeMap<NodeId, usize>> {
    let standing: Vec<_> = candidates.iter().filter(|c| c.stake > 0).collect();
    let cap = u128::from(shard_cap(u16::try_from(n).unwrap(), standing.len()));
    let mut quotients: Vec<_> =
        standing.iter().flat_map(|c| (1..=cap).map(move |part| (c.stake, part, c.node))).collect();
    if quotients.len() < n {
        return None;
    }
    quotients.sort_by(|a, b| (b.0 * a.1).cmp(&(a.0 * b.1)).then(a.2.cmp(&b.2)));
    let winners: Vec<_> = quotients[..n].iter().map(|(_, _, node)| *node).collect();
    Some(counts(&winners))
}

/// Small stakes, so that there are ties, and large ones.
fn stakes() -> impl Strategy<Value = Vec<(u8, u128)>> {
    let stake = prop_oneof![4 => 0..6_u128, 3 => 1..1_000_u128, 1 => 1..(1_u128 << 90)];
    vec((0..40_u8, stake), 1..40)
}

fn shards() -> impl Strategy<Value = usize> {
    select(&[4_usize, 7, 10, 31, 64, 100][..])
}

/// The holders at genesis of whoever can hold the shards.
fn at_genesis(n: usize, candidates: &[Candidate]) -> Option<Vec<NodeId>> {
    let positions = award_shards(u16::try_from(n).unwrap(), candidates).ok()?;
    Some(positions.iter().map(|i| candidates[usize::from(*i)].node).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_change_moves_the_fewest_shards(
        n in shards(),
        epochs in vec(stakes(), 2..6),
        seed in any::<u64>(),
    ) {
        let mut previous: Option<Vec<NodeId>> = None;
        for stakes in &epochs {
            let candidates = candidates(stakes);
            let expected = expected_counts(n, &candidates);
            let Some(holders) = &previous else {
                previous = at_genesis(n, &candidates);
                prop_assert_eq!(previous.as_deref().map(counts), expected, "genesis");
                continue;
            };
            let result = reassign(holders, &candidates, &[]);
            let mut shuffled = candidates.clone();
            shuffled.sort_by_key(|c| blake3::hash(&[&seed.to_le_bytes()[..], c.node.as_bytes()].concat()).to_hex());
            prop_assert_eq!(&reassign(holders, &shuffled, &[]), &result, "in any order");
            let Some(expected) = expected else {
                let refused = matches!(result, Err(CommitteeError::Cap { .. }));
                prop_assert!(refused);
                continue;
            };
            let next = result.unwrap();
            let (old, new) = (counts(holders), counts(&next));
            prop_assert_eq!(&new, &expected);
            let lost = old.iter().map(|(node, count)| {
                count.saturating_sub(new.get(node).copied().unwrap_or(0))
            });
            let moved = holders.iter().zip(&next).filter(|(old, new)| old != new).count();
            prop_assert_eq!(moved, lost.sum::<usize>(), "a node keeps what it can");
            for (node, count) in old {
                let own = (0..n).filter(|shard| holders[*shard] == node);
                let kept: Vec<_> = own.clone().filter(|shard| next[*shard] == node).collect();
                let lowest: Vec<_> = own.take(kept.len()).collect();
                prop_assert_eq!(kept, lowest, "the highest of {} are given", count);
            }
            previous = Some(next);
        }
    }

    #[test]
    fn shards_return_to_who_had_them_within_the_cap(
        n in shards(),
        first in stakes(),
        second in stakes(),
        returning in vec(option::weighted(0.3, 0..40_u8), 100),
    ) {
        let Some(previous) = at_genesis(n, &candidates(&first)) else { return Ok(()) };
        let candidates = candidates(&second);
        let returning: Vec<_> = returning[..n].iter().map(|i| i.map(node)).collect();
        let Ok(next) = reassign(&previous, &candidates, &returning) else {
            prop_assert_eq!(expected_counts(n, &candidates), None);
            return Ok(());
        };
        let standing = candidates.iter().filter(|c| c.stake > 0);
        let standing: Vec<_> = standing.map(|c| c.node).collect();
        let cap = usize::from(shard_cap(u16::try_from(n).unwrap(), standing.len()));
        let mut back = BTreeMap::<NodeId, usize>::new();
        for shard in 0..n {
            let taker = returning[shard].filter(|node| standing.contains(node));
            if let Some(taker) = taker {
                let count = back.entry(taker).or_default();
                if *count < cap {
                    *count += 1;
                    prop_assert_eq!(next[shard], taker, "shard {}", shard);
                }
            }
        }
        let new = counts(&next);
        prop_assert!(new.values().all(|count| *count <= cap));
        let awarded = expected_counts(n, &candidates).unwrap();
        let within = back.iter().all(|(node, count)| awarded.get(node).is_some_and(|a| a >= count));
        if within {
            prop_assert_eq!(&new, &awarded, "what returns is part of the award");
        }
        // Of the others each node keeps as many as it has room for.
        for (node, count) in &new {
            let others = |shard: &usize| {
                returning[*shard].is_none_or(|taker| next[*shard] != taker)
            };
            let held = (0..n).filter(others).filter(|shard| previous[*shard] == *node).count();
            let kept = (0..n).filter(others).filter(|shard| {
                previous[*shard] == *node && next[*shard] == *node
            });
            let room = count - back.get(node).copied().unwrap_or(0);
            prop_assert_eq!(kept.count(), held.min(room));
        }
    }
}

#[test]
fn takers_receive_one_at_a_time_in_the_order_of_their_ids() {
    // Cap 3. Node 1 leaves, nodes 5 and 6 come.
    let previous = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2].map(node);
    let equal: Vec<_> = (2..=6).map(|i| (i, 100)).collect();
    let next = reassign(&previous, &candidates(&equal), &[]).unwrap();
    assert_eq!(next, [5, 2, 3, 4, 6, 2, 3, 4, 5, 6].map(node), "9 is the highest of node 2");
    // Node 5 has no stake, node 6 the most: nobody is left out for a lower id.
    let uneven: Vec<_> = [(2, 10), (3, 10), (4, 10), (5, 0), (6, 1_000)].into();
    let next = reassign(&previous, &candidates(&uneven), &[]).unwrap();
    assert_eq!(next, [6, 2, 3, 4, 6, 2, 3, 4, 6, 2].map(node));
}

#[test]
fn of_thousands_of_candidates_those_with_most_stake_are_taken() {
    let many = |i: u16| {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&i.to_be_bytes());
        let bls_key = BlsPublicKey::new([0; 48]);
        Candidate { node: NodeId::new(id), bls_key, stake: u128::from(i % 2_003) + 1 }
    };
    let candidates: Vec<_> = (0..4_006).map(many).collect();
    let previous: Vec<_> = candidates[..64].iter().map(|c| c.node).collect();
    let next = reassign(&previous, &candidates, &[]).unwrap();
    let mut winners: Vec<_> = counts(&next).into_iter().collect();
    winners.sort_by_key(|(node, _)| std::cmp::Reverse(node.as_bytes()[..2].to_vec()));
    // Each stake comes twice: the 32 highest of both rows.
    let expected = (1_971..2_003).chain(3_974..4_006).rev().map(|i| (many(i).node, 1));
    assert_eq!(winners, Vec::from_iter(expected));
}
