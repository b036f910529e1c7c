//! Attests that blobs are inconsistent: verifies the proof that somebody hands in, and signs.
//!
//! Invariants: nothing is signed but for a certified blob of the ledger, by a member of the running
//! committee, after the proof was verified against the blob's id, which follows from the header in
//! the proof. Nothing is stored: the same proof is attested again whenever it is handed in, and
//! there is no other fact about the blob that an attestation could contradict. Blocking: runs on
//! blocking threads only.

use std::sync::Arc;

use floe_protocol::{
    blob::{BlobHeader, HEADER_BYTES},
    committee::CommitteeFact,
    inconsistency::InconsistencyProof,
    invalidity::InvalidityFact,
    ledger::{BlobState, State},
    message::{InvalidReason, Refusal, Response},
};

use super::{faults::Faults, metrics::Metrics};
use crate::{
    key_file::NodeKeys,
    service::{challenges::Inconsistent, judging::by_newest, ledger::Ledger},
};

/// Verifies and signs.
#[derive(Clone, Debug)]
pub(super) struct Attester {
    ledger: Ledger,
    keys: NodeKeys,
    faults: Faults,
    /// Told of what was proven.
    inconsistent: Inconsistent,
    metrics: Metrics,
}

impl Attester {
    pub(super) fn new(
        ledger: Ledger,
        keys: NodeKeys,
        faults: Faults,
        (inconsistent, metrics): (Inconsistent, Metrics),
    ) -> Self {
        Self { ledger, keys, faults, inconsistent, metrics }
    }

    /// The signature, if `proof` proves that a certified blob is inconsistent.
    pub(super) fn attest(&self, proof: &[u8]) -> Result<Response, Refusal> {
        const FALSE: Refusal = Refusal::Invalid(InvalidReason::Proof);
        let config = self.state().committee().config();
        let header = proof.get(..HEADER_BYTES).ok_or(FALSE)?;
        let blob = BlobHeader::from_bytes(config, header).map_err(|_| FALSE)?.id();
        let known = by_newest(
            || self.state(),
            |state| {
                let record = state.blob(self.ledger.store().as_ref(), &blob)?;
                let epoch = state.summary().epoch;
                Ok(record.is_some_and(|record| record.state(epoch) == BlobState::Certified))
            },
        );
        if !known.map_err(|error| self.faults.ledger(&error))? {
            return Err(Refusal::NotFound);
        }
        InconsistencyProof::verify_bytes(config, &blob, proof).map_err(|error| {
            tracing::debug!(%blob, %error, "proves no inconsistency");
            FALSE
        })?;
        self.inconsistent.add(blob);
        // The epoch may have changed meanwhile: the word is that of the running committee.
        let state = self.state();
        if state.committee().member(&self.keys.node.public()).is_none() {
            return Err(Refusal::Unavailable);
        }
        let epoch = state.summary().epoch;
        let fact = InvalidityFact { epoch, blob };
        tracing::info!(%blob, %epoch, "proven inconsistent: attested");
        self.metrics.attestations.inc();
        Ok(Response::Attested { epoch, signature: fact.sign(state.chain(), &self.keys.bls) })
    }

    fn state(&self) -> Arc<State> {
        self.ledger.state().borrow().clone()
    }
}
