//! Has an inconsistent blob invalidated: shows the proof to the members, joins what they attest.
//!
//! One honest member among more than `f` shards is enough for the ledger, so this asks everybody
//! and stops as soon as enough have signed. Whoever does not sign is asked again the next time
//! that this blob is tried.

use std::sync::Arc;

use bytes::Bytes;
use floe_protocol::{
    committee::{Committee, QuorumTracker},
    inconsistency::InconsistencyProof,
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::{BlsPublicKey, BlsSignature, ChainId, NodeId},
    ledger::SystemOperation,
    message::{Request, Response},
};
use futures::{StreamExt as _, stream};

use super::context::{Context, Failed};
use crate::service::blocking;

/// Members asked at a time.
const ASKED_MAX: usize = 8;

/// Proves to the ledger that a blob is inconsistent, if enough members attest it now.
pub(super) async fn invalidate(
    context: &Arc<Context>,
    proof: &InconsistencyProof,
) -> Result<(), Failed> {
    let blob = proof.header().id();
    tracing::warn!(%blob, "the blob is inconsistent: asking the members to attest it");
    let state = context.state();
    let committee = Arc::clone(state.committee());
    let fact = InvalidityFact { epoch: committee.epoch(), blob };
    let attestations = attestations(context, (&committee, fact), proof.to_bytes().into()).await;
    let certificate = match InvalidityCertificate::new(&committee, fact, &attestations) {
        Ok(certificate) => certificate,
        Err(error) => {
            tracing::warn!(%blob, %error, "not enough members attest that the blob is inconsistent");
            return Ok(());
        }
    };
    let operation = SystemOperation::InvalidateBlob { certificate: certificate.to_bytes() };
    let inserted = context.ledger.insert_system(operation, true).await;
    match inserted.map_err(|_| Failed::Stopping)? {
        Ok(()) => context.progress.invalidated(),
        // Somebody else has found it, too.
        Err(error) => tracing::debug!(%blob, %error, "certificate of invalidity not taken"),
    }
    Ok(())
}

/// Attestations of members, enough if that many can be had.
async fn attestations(
    context: &Arc<Context>,
    (committee, fact): (&Arc<Committee>, InvalidityFact),
    proof: Bytes,
) -> Vec<(usize, BlsSignature)> {
    let chain = *context.state().chain();
    let mut signed = Vec::new();
    let mut tracker = QuorumTracker::new(committee);
    if let Some(position) = committee.position(&context.node()) {
        // The proof was verified when it was made.
        signed.push((position, fact.sign(&chain, &context.keys.bls)));
        tracker.add(committee, position);
    }
    let mut asked = Vec::new();
    for (position, member) in committee.members().iter().enumerate() {
        if member.node != context.node() {
            let asks = (Arc::clone(context), member.node, proof.clone());
            asked.push(attestation(asks, (chain, member.bls_key), fact, position));
        }
    }
    let mut answers = stream::iter(asked).buffer_unordered(ASKED_MAX);
    while !committee.is_validity(tracker.weight()) {
        match answers.next().await {
            Some(Some((position, signature))) => {
                signed.push((position, signature));
                tracker.add(committee, position);
            }
            Some(None) => {}
            None => break,
        }
    }
    signed
}

/// The attestation of the member at `position`, if it gives a true one.
async fn attestation(
    (context, node, proof): (Arc<Context>, NodeId, Bytes),
    (chain, key): (ChainId, BlsPublicKey),
    fact: InvalidityFact,
    position: usize,
) -> Option<(usize, BlsSignature)> {
    let answer = context.ask(node, Request::Attest { proof }, 0).await;
    let Ok(Response::Attested { epoch, signature }) = answer else { return None };
    let judged = blocking(move || fact.verify(&chain, &key, &signature)).await;
    (epoch == fact.epoch && judged == Some(true)).then_some((position, signature))
}
