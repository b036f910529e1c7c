//! Rounds of storage challenges: when they open and close, what passes a member, and what they come
//! to.

use floe_protocol::{
    challenge::{ChallengeCertificate, ChallengeFact},
    committee::CommitteeFact as _,
    keys::BlsKeyPair,
    ledger::SystemOperation,
    test_support::{Chain, node_keys},
};

/// The word of the members at `positions` that a member has passed a round.
pub(super) fn certified(
    chain: &Chain,
    fact: ChallengeFact,
    positions: &[usize],
) -> SystemOperation {
    let committee = chain.state.committee();
    let keys = node_keys(16);
    let bls = |position: usize| -> &BlsKeyPair {
        let node = committee.members()[position].node;
        &keys.iter().find(|(key, _)| key.public() == node).expect("ours").1
    };
    let sign = |position: &usize| (*position, fact.sign(&chain.id(), bls(*position)));
    let acknowledgements: Vec<_> = positions.iter().map(sign).collect();
    let certificate = ChallengeCertificate::new(committee, fact, &acknowledgements);
    let certificate = certificate.expect("more than f").to_bytes();
    SystemOperation::PassChallenge { certificate }
}
