//! Judging by the newest state what strangers send, while blocks go on being committed.
//!
//! The store keeps the last states only. A judge that was overtaken, because many blocks came at
//! once, judges once more by a newer state; that is no failure of the store.
//!
//! Certificates cost a pairing each, and whoever passes on a wrong one is convicted by its peers.
//! So a node vouches for the certificates in all it passes on, also in transactions that are not
//! yet their sender's next, of which [`State::check`] says nothing; and it verifies only so many
//! of one sender at a time.

use std::{collections::BTreeMap, sync::Arc};

use floe_protocol::{
    certificate::{Certificate, CertificateError},
    challenge::ChallengeCertificateError,
    ledger::{AccountId, Operation, OperationError, ReadError, State, StateReader, Transaction},
};

/// Transactions of one sender with something for BLS to verify that are judged at a time.
const BLS_PER_SENDER_MAX: usize = 4;

/// Judges by the newest state, and once more if that was forgotten meanwhile.
pub(super) fn by_newest<T>(
    newest: impl Fn() -> Arc<State>,
    mut judge: impl FnMut(&State) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    match judge(&newest()) {
        Err(ReadError::NoSuchVersion { .. }) => judge(&newest()),
        judged => judged,
    }
}

/// How many transactions of each sender have been judged that cost pairings.
#[derive(Debug, Default)]
pub(super) struct BlsBudget(BTreeMap<AccountId, usize>);

impl BlsBudget {
    /// Whether a transaction costs nothing, or its sender has not yet cost too much.
    pub(super) fn allows(&mut self, transaction: &Transaction) -> bool {
        let costs = |operation: &Operation| {
            matches!(operation, Operation::CertifyBlob { .. } | Operation::RegisterNode { .. })
        };
        if !transaction.operations.iter().any(costs) {
            return true;
        }
        let count = self.0.entry(transaction.sender).or_default();
        *count += 1;
        *count <= BLS_PER_SENDER_MAX
    }
}

/// Whether a transaction brings certificates.
pub(super) fn has_certificates(transaction: &Transaction) -> bool {
    let is_one = |operation: &Operation| matches!(operation, Operation::CertifyBlob { .. });
    transaction.operations.iter().any(is_one)
}

/// Judges the certificates of a transaction that is not yet its sender's next.
pub(super) fn check_certificates(
    state: &State,
    reader: &dyn StateReader,
    transaction: &Transaction,
) -> Result<Result<(), OperationError>, ReadError> {
    for operation in &transaction.operations {
        let Operation::CertifyBlob { registration: id, certificate } = operation else { continue };
        let Some(registration) = state.registration(reader, id)? else {
            return Ok(Err(OperationError::NoRegistration));
        };
        if registration.certified.is_some() {
            return Ok(Err(OperationError::AlreadyCertified));
        }
        let checked = Certificate::from_bytes(certificate).map_err(OperationError::from);
        let checked = checked.and_then(|certificate| {
            if certificate.fact.blob != registration.blob || certificate.fact.registration != *id {
                return Err(OperationError::OtherBlob);
            }
            Ok(certificate.verify(state.committee(), state.chain())?)
        });
        if checked.is_err() {
            return Ok(checked);
        }
    }
    Ok(Ok(()))
}

/// Whether a refusal convicts whoever passed the transaction on: its certificate is of the epoch
/// of the state that judges it, and wrong in every such state.
pub(super) const fn is_forged(error: &OperationError) -> bool {
    matches!(
        error,
        OperationError::Certificate(error)
        | OperationError::ChallengeCertificate(ChallengeCertificateError::Certificate(error))
            if is_wrong(error)
    ) || matches!(
        error,
        OperationError::ChallengeCertificate(
            ChallengeCertificateError::Own(_) | ChallengeCertificateError::NoMember(_)
        )
    )
}

/// Whether a certificate is wrong for the committee that it names.
const fn is_wrong(error: &CertificateError) -> bool {
    match error {
        CertificateError::Signature
        | CertificateError::NoQuorum { .. }
        | CertificateError::Malformed => true,
        CertificateError::Epoch { .. } => false,
    }
}
