//! Judges commitments from gossip: what is new, whose signature is true, and what is passed on.
//!
//! Looked at first is whether a commitment says anything new, which costs next to nothing; then its
//! signature is verified, on a blocking thread, many at a time. A signature that is false convicts who
//! passed it on, since nobody passes one on unverified. Everything else does not: nodes are at
//! different heights, and what is late at one was in time at another.

use std::{collections::BTreeSet, time::Instant};

use floe_protocol::{
    challenge::{Commitment, Ignored, RoundOutput, RoundOutputs, SignedCommitment},
    keys::{ChainId, NodeId},
};

use super::{Done, Service};
use crate::{
    network::{GossipMessage, VerdictHandle},
    service::blocking,
};

/// A commitment whose signature was verified, or is to be.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) signed: SignedCommitment,
    /// When it came.
    pub(super) received: Instant,
    pub(super) verdict: VerdictHandle,
}

impl Service {
    pub(super) fn on_messages(&mut self, messages: Vec<GossipMessage>) {
        let state = self.tools.ledger.state().borrow().clone();
        let claims = sift(messages, |said| self.rounds.wants(state.committee(), said));
        if claims.is_empty() {
            return;
        }
        self.is_verifying = true;
        let chain = self.chain;
        self.tools.record.metrics.commitments_checked.inc_by(claims.len() as u64);
        self.tasks.spawn(async move {
            let verified = blocking(move || verify(&chain, claims)).await;
            Done::Verified(verified.unwrap_or_default())
        });
    }

    pub(super) fn on_verified(&mut self, claims: Vec<(Claim, bool)>) {
        self.is_verifying = false;
        let state = self.tools.ledger.state().borrow().clone();
        for (Claim { signed, received, verdict }, is_true) in claims {
            if !is_true {
                verdict.reject();
                continue;
            }
            let Commitment { node, .. } = signed.commitment;
            let came_ms = self.ms(received);
            let outputs = self.rounds.commitment(came_ms, state.committee(), signed.commitment);
            if is_passed_on(&node, &outputs) {
                verdict.accept();
            } else {
                verdict.ignore();
            }
            self.act(outputs);
        }
    }
}

/// The commitments among messages that are new, each once; the others have their verdict.
fn sift(messages: Vec<GossipMessage>, mut wants: impl FnMut(&Commitment) -> bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut seen = BTreeSet::new();
    for GossipMessage { bytes, received, verdict, .. } in messages {
        match SignedCommitment::from_bytes(&bytes) {
            Err(_) => verdict.reject(),
            Ok(signed) if wants(&signed.commitment) && seen.insert(bytes) => {
                claims.push(Claim { signed, received, verdict });
            }
            Ok(_) => verdict.ignore(),
        }
    }
    claims
}

/// Verifies signatures. Blocks.
fn verify(chain: &ChainId, claims: Vec<Claim>) -> Vec<(Claim, bool)> {
    let verified = claims.into_iter().map(|claim| {
        let is_true = claim.signed.verify(chain);
        (claim, is_true)
    });
    verified.collect()
}

/// Whether others are to hear of the commitment of `node`, of which this came here. That this node
/// cannot tell the time is no reason why they could not.
fn is_passed_on(node: &NodeId, outputs: &RoundOutputs) -> bool {
    !outputs.iter().any(|(_, output)| match output {
        RoundOutput::Ignored { node: of, reason } => {
            of == node && !matches!(reason, Ignored::Silent(_))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use floe_protocol::{challenge::Silence, index::ChallengeRound};

    use super::*;

    #[test]
    fn who_is_silent_passes_on_and_what_is_late_goes_no_further() {
        let (node, other) = (NodeId::new([1; 32]), NodeId::new([2; 32]));
        let outputs =
            |node, reason| vec![(ChallengeRound::new(1), RoundOutput::Ignored { node, reason })];
        assert!(is_passed_on(&node, &Vec::new()));
        assert!(is_passed_on(&node, &outputs(node, Ignored::Silent(Silence::Synced))));
        assert!(!is_passed_on(&node, &outputs(node, Ignored::Late { late_ms: 1 })));
        assert!(!is_passed_on(&node, &outputs(node, Ignored::SecondCommitment)));
        assert!(is_passed_on(&node, &outputs(other, Ignored::NoAnswer)));
    }
}
