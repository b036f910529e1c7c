//! What really happened in a round, as nobody in it can see it: by this the simulation judges what
//! the members made of it.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    blob::BlobId,
    challenge::{
        Challenge, ChallengeCertificate, Outcome, Place, RoundRecord, Seeds, StepProof, Universe,
        Walk,
    },
    encoding::Axis,
    hash::Hash,
    index::Height,
    ledger::Header,
};

use super::{
    NETWORK, NODES, WINDOW_MS,
    faults::{Nature, Plan},
};

/// Something of each node as each other sees it: `[of][at]`.
type Pairs<T> = [[Option<T>; NODES]; NODES];

/// A round.
pub(super) struct Record {
    pub(super) universe: Arc<Universe>,
    pub(super) ledger: RoundRecord,
    pub(super) opened_ms: u64,
    /// When the ledger closed it, and with what.
    pub(super) closed: Option<(u64, Vec<Outcome>)>,
    seeds: Seeds,
    /// The height of each node's seed.
    seed_heights: [Option<Height>; NODES],
    /// When the seed's block was committed, and whether that tells what comes in time.
    seeds_ms: Pairs<(u64, bool)>,
    /// The first commitment, and when it came.
    heard: Pairs<(u64, Hash)>,
    /// What each node committed itself to, by its own machine.
    pub(super) committed: [Option<Hash>; NODES],
    /// Whose chain ended early, as it could not read on.
    pub(super) failed: [bool; NODES],
    /// Whose certificate was submitted, with those who acknowledged.
    pub(super) submitted: BTreeMap<usize, Vec<usize>>,
}

impl Record {
    pub(super) fn new(universe: Arc<Universe>, opened_ms: u64) -> Self {
        Self {
            ledger: RoundRecord::new(&universe),
            opened_ms,
            closed: None,
            seeds: Seeds::new(universe.round),
            seed_heights: [None; NODES],
            seeds_ms: [[None; NODES]; NODES],
            heard: [[None; NODES]; NODES],
            committed: [None; NODES],
            failed: [false; NODES],
            submitted: BTreeMap::new(),
            universe,
        }
    }

    /// A block was made.
    pub(super) fn made(&mut self, header: &Header) {
        self.seeds.committed(header);
        for of in 0..NODES {
            if self.seed_heights[of].is_none() && self.seeds.of(&NETWORK.node(of)).is_some() {
                self.seed_heights[of] = Some(header.height);
            }
        }
    }

    /// A block was committed by a node; whether it can tell from that what comes in time.
    pub(super) fn block_came(&mut self, height: Height, at: usize, (now_ms, tells): (u64, bool)) {
        for of in 0..NODES {
            if self.seed_heights[of] == Some(height) {
                self.seeds_ms[of][at] = Some((now_ms, tells));
            }
        }
    }

    pub(super) fn heard(&mut self, of: usize, at: usize, now_ms: u64, end: Hash) {
        self.heard[of][at].get_or_insert((now_ms, end));
    }

    pub(super) fn challenge(&self, of: usize) -> Option<Challenge> {
        let node = NETWORK.node(of);
        Challenge::new(Arc::clone(&self.universe), node, self.seeds.of(&node)?)
    }

    /// Whether the commitment of one node came to another within the window by its own clock, and it
    /// can tell.
    fn is_in_time(&self, of: usize, at: usize) -> bool {
        let (Some((heard_ms, end)), Some((seed_ms, tells))) =
            (self.heard[of][at], self.seeds_ms[of][at])
        else {
            return false;
        };
        tells && heard_ms <= seed_ms + WINDOW_MS && self.committed[of] == Some(end)
    }

    /// Whether a node was in no trouble from before the round to its end.
    pub(super) fn is_fit(&self, at: usize, plan: &Plan) -> bool {
        let closed_ms = self.closed.as_ref().map_or(u64::MAX, |(at_ms, _)| *at_ms);
        plan.is_fit(at, (self.opened_ms.saturating_sub(3_000), closed_ms))
    }

    /// Whether fair members with more than f shards got a node's commitment in time, and they and it
    /// were fit.
    pub(super) fn is_reachable(&self, of: usize, plan: &Plan) -> bool {
        let committee = &self.universe.committee;
        let judges = (0..NODES).filter(|at| {
            *at != of
                && plan.natures[*at].is_fair()
                && self.is_fit(*at, plan)
                && self.is_in_time(of, *at)
        });
        let weight = judges.map(|at| committee.members()[at].weight()).sum();
        self.is_fit(of, plan) && committee.is_validity(weight)
    }

    /// A certificate is to be on its way only with the word of a fair member that had the commitment
    /// in time.
    pub(super) fn check_submitted(
        &mut self,
        of: usize,
        certificate: &ChallengeCertificate,
        plan: &Plan,
    ) {
        let committee = &self.universe.committee;
        assert_eq!(certificate.verify(committee, NETWORK.chain()), Ok(()));
        assert_eq!(certificate.fact().node, NETWORK.node(of));
        let signers: Vec<_> = certificate.signers(committee).collect();
        let fair: Vec<_> = signers.iter().filter(|at| plan.natures[**at].is_fair()).collect();
        assert!(!fair.is_empty(), "{signers:?}");
        let in_time = fair.iter().all(|at| self.is_in_time(of, **at));
        assert!(in_time, "seed {}, {of}: {signers:?}", plan.seed);
        self.submitted.insert(of, signers);
    }
}

/// What is where, and true chains.
#[derive(Default)]
pub(super) struct Oracle {
    proofs: BTreeMap<(BlobId, u16, Axis, u16, usize), StepProof>,
}

impl Oracle {
    /// What is at a place on a disk that has it.
    pub(super) fn read(&mut self, place: &Place) -> StepProof {
        let (pair, symbol) = (place.pair.get(), place.symbol.get());
        let key = (place.blob, pair, place.axis, symbol, place.chunk);
        self.proofs.entry(key).or_insert_with(|| NETWORK.read(place).unwrap()).clone()
    }

    /// Where a chain ends in truth, and whether its node holds all of it.
    pub(super) fn chain(
        &mut self,
        record: &Record,
        of: usize,
        plan: &Plan,
    ) -> Option<(Hash, bool)> {
        let mut walk = Walk::new(record.challenge(of)?);
        let mut holds = true;
        while let Some(place) = walk.place() {
            holds &= plan.holds(of, &place) || matches!(plan.natures[of], Nature::Fetches(_));
            walk.take(&self.read(&place)).unwrap();
        }
        Some((walk.end()?.commitment().end, holds))
    }
}
