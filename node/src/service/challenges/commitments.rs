//! Judges commitments from gossip: whose they are, and what is passed on.
//!
//! Gossip proves the source of each message, so a commitment counts if its node is its source; no
//! signature is to be verified here. Who names another node convicts itself and all who pass that on.
//! Everything else does not: nodes are at different heights, and what is late at one was in time at
//! another. What this node has no round for is passed on all the same, for others may have it.

use floe_protocol::{
    challenge::{Commitment, Ignored, RoundOutput, RoundOutputs},
    keys::NodeId,
    ledger::State,
};

use super::Service;
use crate::network::GossipMessage;

impl Service {
    pub(super) fn on_message(&mut self, message: GossipMessage) {
        let GossipMessage { bytes, source, received, verdict, .. } = message;
        let commitment = match Commitment::from_bytes(&bytes) {
            Ok(commitment) if commitment.node == source => commitment,
            Ok(_) | Err(_) => return verdict.reject(),
        };
        let state = self.tools.ledger.state().borrow().clone();
        let committee = state.committee();
        if !self.rounds.wants(committee, &commitment) {
            if self.rounds.get(commitment.round).is_none() && is_of_others(&state, &commitment) {
                verdict.accept();
            }
            return;
        }
        self.tools.record.metrics.commitments.inc();
        let (now_ms, came_ms) = (self.now(), self.ms(received));
        let outputs = self.rounds.commitment((now_ms, came_ms), committee, commitment);
        if is_passed_on(&source, &outputs) {
            verdict.accept();
        } else {
            verdict.ignore();
        }
        self.act(outputs);
    }
}

/// Whether the ledger's members have a round open for which the commitment may count: this node is
/// none of them, or does not take part.
fn is_of_others(state: &State, commitment: &Commitment) -> bool {
    let is_member = state.committee().position(&commitment.node).is_some();
    is_member && state.open_challenges().contains(&commitment.round)
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
