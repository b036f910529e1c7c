//! Has an inconsistent blob invalidated: shows the proof to the members, joins what they attest.
//!
//! One honest member among more than `f` shards is enough for the ledger, so this asks everybody
//! but liars, whoever was away last, and stops as soon as enough have signed. Whoever does not sign
//! is asked again the next time that this blob is tried.

use std::sync::Arc;

use bytes::Bytes;
use floe_protocol::{
    committee::{Committee, CommitteeFact, QuorumTracker},
    inconsistency::InconsistencyProof,
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::{BlsPublicKey, BlsSignature, ChainId, NodeId},
    ledger::SystemOperation,
    message::{Request, Response},
    repair::Unfit,
};
use futures::{StreamExt as _, stream};

use super::context::{Context, Failed};
use crate::service::blocking;

/// Members asked at a time, and bytes that are sent to them at a time: a proof holds symbols, and a
/// slow link has to carry all of them in the time that each has. Two at least, so that nobody holds
/// up the rest alone.
const ASKED_MIN: usize = 2;
const ASKED_MAX: usize = 8;
const SENT_BYTES_MAX: usize = 4 << 20;

/// Proves to the ledger that a blob is inconsistent, if enough members attest it now.
pub(super) async fn invalidate(
    context: &Arc<Context>,
    proof: &InconsistencyProof,
    unfit: &Unfit,
) -> Result<(), Failed> {
    let blob = proof.header().id();
    context.inconsistent.add(blob);
    tracing::warn!(%blob, "the blob is inconsistent: asking the members to attest it");
    let state = context.state();
    let committee = Arc::clone(state.committee());
    let fact = InvalidityFact { epoch: committee.epoch(), blob };
    let proof = proof.to_bytes().into();
    let attestations = attestations(context, (&committee, fact), (proof, unfit)).await;
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
    (proof, unfit): (Bytes, &Unfit),
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
    let nodes: Vec<_> = committee.members().iter().map(|member| member.node).collect();
    for position in order(&nodes, context.node(), unfit) {
        let member = &committee.members()[position];
        let asks = (Arc::clone(context), member.node, proof.clone());
        asked.push(attestation(asks, (chain, member.bls_key), fact, position));
    }
    let mut answers = stream::iter(asked).buffer_unordered(asked_at_a_time(proof.len()));
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

/// The positions of those to ask, in that order.
fn order(nodes: &[NodeId], me: NodeId, unfit: &Unfit) -> Vec<usize> {
    let is_asked = |position: &usize| {
        let node = &nodes[*position];
        *node != me && !unfit.liars.contains(node)
    };
    let mut positions: Vec<_> = (0..nodes.len()).filter(is_asked).collect();
    positions.sort_by_key(|position| unfit.away.contains(&nodes[*position]));
    positions
}

/// Members that are sent a proof of so many bytes at a time.
fn asked_at_a_time(proof_bytes: usize) -> usize {
    (SENT_BYTES_MAX / proof_bytes.max(1)).clamp(ASKED_MIN, ASKED_MAX)
}

/// The attestation of the member at `position`, if it gives a true one.
async fn attestation(
    (context, node, proof): (Arc<Context>, NodeId, Bytes),
    (chain, key): (ChainId, BlsPublicKey),
    fact: InvalidityFact,
    position: usize,
) -> Option<(usize, BlsSignature)> {
    let bytes = (proof.len() * asked_at_a_time(proof.len())) as u64;
    let answer = context.ask(node, Request::Attest { proof }, bytes).await;
    let Ok(Response::Attested { epoch, signature }) = answer else { return None };
    let judged = blocking(move || fact.verify(&chain, &key, &signature)).await;
    (epoch == fact.epoch && judged == Some(true)).then_some((position, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_proofs_are_sent_to_few_at_a_time() {
        for (proof_bytes, members) in
            [(0, 8), (100_000, 8), (1 << 20, 4), (3 << 20, 2), (1 << 30, 2)]
        {
            assert_eq!(asked_at_a_time(proof_bytes), members, "{proof_bytes} bytes");
        }
    }

    #[test]
    fn liars_are_not_asked_and_who_was_away_last() {
        let nodes: Vec<_> = (0..5).map(|node| NodeId::new([node; 32])).collect();
        let unfit = Unfit { liars: [nodes[1]].into(), away: [nodes[0], nodes[3]].into() };
        assert_eq!(order(&nodes, nodes[4], &unfit), [2, 0, 3]);
        assert_eq!(order(&nodes, NodeId::new([9; 32]), &Unfit::default()), [0, 1, 2, 3, 4]);
    }
}
