//! How far others are ahead: since when this node knows that a block is final which it has not
//! committed yet.
//!
//! Who judges by its own commit of a block what came in time ([challenges](crate::service::challenges)) has to
//! know whether the others committed it long before. Proof of that is a commit certificate, or
//! votes for later heights by members with more than `f` shards; the word of one is none.
//!
//! Pure: the time is handed in. Invariants: what is told grows with the height and the time, or
//! changes nothing; so much is remembered at most, and beyond that a lag may seem longer, never
//! shorter, than it is.

use std::{collections::VecDeque, time::Instant};

use floe_protocol::index::Height;

/// Proofs that are remembered.
const PROOFS_MAX: usize = 64;

/// What is known of blocks that are final elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Lag {
    /// Heights, and since when each and all below are known to be final. Both ascend.
    proofs: VecDeque<(Height, Instant)>,
    /// What is committed here.
    committed: Height,
    /// The highest that is known to be final.
    highest: Height,
}

impl Default for Lag {
    fn default() -> Self {
        Self { proofs: VecDeque::new(), committed: Height::new(0), highest: Height::new(0) }
    }
}

impl Lag {
    /// There is proof that the block at `height` is final.
    pub(super) fn proven(&mut self, height: Height, at: Instant) {
        if height <= self.committed {
            return;
        }
        self.reached(height);
        let is_full = self.proofs.len() == PROOFS_MAX;
        match self.proofs.back_mut() {
            Some((last, _)) if *last >= height => {}
            Some((last, _)) if is_full => *last = height,
            Some(_) | None => self.proofs.push_back((height, at)),
        }
    }

    /// There is proof that the block at `height` is final, maybe for long.
    pub(super) fn reached(&mut self, height: Height) {
        self.highest = self.highest.max(height);
    }

    /// The highest block that is known to be final.
    pub(super) fn highest(&self) -> Height {
        self.highest.max(self.committed)
    }

    /// Since when the block at `height` was known to be final, if it was.
    pub(super) fn since(&self, height: Height) -> Option<Instant> {
        let proof = self.proofs.iter().find(|(proven, _)| *proven >= height);
        proof.map(|(_, at)| *at)
    }

    /// The same, if the first proof was of this very block: who was cut off hears of a later one first.
    pub(super) fn since_exactly(&self, height: Height) -> Option<Instant> {
        let proof = self.proofs.iter().find(|(proven, _)| *proven >= height);
        proof.filter(|(proven, _)| *proven == height).map(|(_, at)| *at)
    }

    /// The block at `height` is committed here.
    pub(super) fn committed(&mut self, height: Height) {
        self.committed = height;
        while self.proofs.front().is_some_and(|(proven, _)| *proven <= height) {
            self.proofs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_proof_of_a_block_or_a_later_one_counts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let height = Height::new;
        let mut lag = Lag::default();
        assert_eq!(lag.since(height(1)), None);
        lag.proven(height(5), at(1));
        lag.proven(height(4), at(2));
        lag.proven(height(5), at(3));
        lag.proven(height(9), at(4));
        let since = |lag: &Lag| [4, 5, 6, 9, 10].map(|of| lag.since(height(of)));
        let known = [Some(at(1)), Some(at(1)), Some(at(4)), Some(at(4)), None];
        assert_eq!(since(&lag), known);
        let exactly = [4, 5, 6, 9, 10].map(|of| lag.since_exactly(height(of)));
        assert_eq!(exactly, [None, Some(at(1)), None, Some(at(4)), None]);
        lag.committed(height(5));
        assert_eq!(lag.since(height(6)), Some(at(4)));
        lag.committed(height(9));
        lag.proven(height(9), at(5));
        assert_eq!(since(&lag), [None; 5]);
    }

    #[test]
    fn what_is_final_for_long_says_how_far_others_are_and_not_since_when() {
        let height = Height::new;
        let mut lag = Lag::default();
        lag.proven(height(5), Instant::now());
        lag.reached(height(900));
        lag.reached(height(20));
        assert_eq!((lag.highest(), lag.since(height(6))), (height(900), None));
        lag.committed(height(901));
        assert_eq!(lag.highest(), height(901));
    }

    #[test]
    fn what_is_too_much_to_remember_makes_a_lag_longer_not_shorter() {
        let start = Instant::now();
        let mut lag = Lag::default();
        for number in 1..=1_000_u32 {
            lag.proven(Height::new(number.into()), start + Duration::from_secs(number.into()));
        }
        assert_eq!(lag.proofs.len(), PROOFS_MAX);
        for number in [1, 63, 64, 65, 500, 1_000_u32] {
            let since = lag.since(Height::new(number.into())).unwrap();
            assert!(since <= start + Duration::from_secs(number.into()), "{number}");
        }
    }
}
