//! Byzantine fault tolerance in three formulas, over weights counted in shards.
//!
//! One bound serves storage and consensus: of `n` shards at most [`max_faulty`] may be held by
//! faulty nodes. A *quorum* is more than two thirds: two of them share an honest shard. *Validity*
//! is more than `f`: at least one honest shard is among them.

/// Shards that may be faulty: `f = (n - 1) / 3`, the largest `f` with `n >= 3f + 1`.
#[must_use]
pub const fn max_faulty(n: u16) -> u16 {
    n.saturating_sub(1) / 3
}

/// Whether a weight of `w` of `n` shards is a quorum: `3w >= 2n + 1`.
#[must_use]
pub const fn is_quorum(w: u16, n: u16) -> bool {
    3 * (w as u32) > 2 * (n as u32)
}

/// The smallest weight that is a quorum of `n` shards.
#[must_use]
pub const fn min_quorum(n: u16) -> u16 {
    // floor(2n/3) + 1 is the least w with 3w > 2n.
    n - n / 3 - if n.is_multiple_of(3) { 0 } else { 1 } + 1
}

/// Whether a weight of `w` of `n` shards must contain an honest one: `w > f`.
#[must_use]
pub const fn is_validity(w: u16, n: u16) -> bool {
    w > max_faulty(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_faulty_follows_the_table() {
        for (n, f) in [
            (1, 0),
            (3, 0),
            (4, 1),
            (6, 1),
            (7, 2),
            (10, 3),
            (13, 4),
            (31, 10),
            (64, 21),
            (100, 33),
            (256, 85),
        ] {
            assert_eq!(max_faulty(n), f, "n = {n}");
        }
    }

    #[test]
    fn the_smallest_quorum_is_a_quorum_and_one_less_is_not() {
        for n in 1..=256 {
            let w = min_quorum(n);
            assert!(is_quorum(w, n), "n = {n}, w = {w}");
            assert!(!is_quorum(w - 1, n), "n = {n}, w = {w}");
            assert!(w <= n - max_faulty(n), "the honest shards alone make a quorum, n = {n}");
        }
    }

    #[test]
    fn validity_is_more_than_f() {
        assert!(!is_validity(2, 7));
        assert!(is_validity(3, 7));
    }
}
