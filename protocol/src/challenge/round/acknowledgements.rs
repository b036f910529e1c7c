//! The acknowledgements that a node has for its own commitment, and how they become a certificate.
//!
//! Checking a BLS signature takes about a millisecond, and mostly all of them are true. So nothing
//! is checked until they would be enough; then all are checked joined, and one by one only if that
//! fails, both as a [`Joining`] that the driver runs on another thread.
//!
//! Invariants: a false acknowledgement costs some checks and harms nobody, least of all the member
//! that it names: only that signature is dropped, and a true one from that member counts, before or
//! after it; of each member a few are taken; one [`Joining`] is under way at a time.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    challenge::{ChallengeCertificate, ChallengeFact, Universe},
    committee::CommitteeFact,
    keys::BlsSignature,
};

/// What came in the name of one member.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Not known to be false, in the order in which they came. The first is tried first.
    signatures: Vec<BlsSignature>,
    /// The first one is true.
    is_true: bool,
    /// How many were taken, the false ones included.
    taken: u32,
}

/// The acknowledgements of others, by position.
#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledgements {
    heard: BTreeMap<usize, Heard>,
    is_joining: bool,
}

impl Acknowledgements {
    /// The member at `position` says that it acknowledges. So many are taken of each at most.
    pub(super) fn add(&mut self, position: usize, signature: BlsSignature, most: u32) {
        let heard = self.heard.entry(position).or_default();
        if heard.is_true || heard.taken >= most || heard.signatures.contains(&signature) {
            return;
        }
        heard.taken += 1;
        heard.signatures.push(signature);
    }

    /// What is to be joined now, if there is enough and nothing is being joined.
    pub(super) fn join(
        &mut self,
        universe: &Arc<Universe>,
        fact: ChallengeFact,
    ) -> Option<Joining> {
        let first = |(at, heard): (&usize, &Heard)| {
            let signature = *heard.signatures.first()?;
            Some(Signed { position: *at, signature, is_true: heard.is_true })
        };
        let signed: Vec<_> = self.heard.iter().filter_map(first).collect();
        if self.is_joining || !is_enough(universe, &signed) {
            return None;
        }
        self.is_joining = true;
        Some(Joining { universe: Arc::clone(universe), fact, signed })
    }

    /// What came of it: the certificate, and the positions of those whose acknowledgement is false.
    pub(super) fn joined(&mut self, joined: Joined) -> (Option<ChallengeCertificate>, Vec<usize>) {
        self.is_joining = false;
        for signed in &joined.signed {
            if let Some(heard) = self.heard.get_mut(&signed.position) {
                heard.is_true = signed.is_true;
                heard.signatures.retain(|one| (*one == signed.signature) == signed.is_true);
            }
        }
        let lies = joined.signed.iter().filter(|signed| !signed.is_true);
        (joined.certificate, lies.map(|signed| signed.position).collect())
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Signed {
    position: usize,
    signature: BlsSignature,
    /// Whether it was checked, and is true.
    is_true: bool,
}

fn is_enough(universe: &Universe, signed: &[Signed]) -> bool {
    let members = universe.committee.members();
    universe.committee.is_validity(signed.iter().map(|one| members[one.position].weight()).sum())
}

/// Acknowledgements that are enough, if they are true.
#[derive(Clone, Debug)]
pub struct Joining {
    universe: Arc<Universe>,
    fact: ChallengeFact,
    signed: Vec<Signed>,
}

impl Joining {
    /// Joins and checks them: about two milliseconds, and one more for each if one is false.
    #[must_use]
    pub fn run(mut self) -> Joined {
        let (committee, chain) = (&self.universe.committee, &self.universe.chain);
        let join = |signed: &[Signed]| {
            let signed: Vec<_> = signed.iter().map(|one| (one.position, one.signature)).collect();
            ChallengeCertificate::new(committee, self.fact, &signed).ok()
        };
        let all = join(&self.signed).filter(|all| all.verify(committee, chain).is_ok());
        let are_all_true = all.is_some();
        for one in self.signed.iter_mut().filter(|one| !one.is_true) {
            let key = &committee.members()[one.position].bls_key;
            one.is_true = are_all_true || self.fact.verify(chain, key, &one.signature);
        }
        let certificate = all.or_else(|| {
            let signed: Vec<_> = self.signed.iter().filter(|one| one.is_true).copied().collect();
            if is_enough(&self.universe, &signed) { join(&signed) } else { None }
        });
        Joined { certificate, signed: self.signed }
    }
}

/// What came of a [`Joining`].
#[derive(Clone, Debug)]
pub struct Joined {
    certificate: Option<ChallengeCertificate>,
    signed: Vec<Signed>,
}
