//! The light client: what a peer that executes no block can know of the ledger, and how.
//!
//! It starts from the genesis or a [`Checkpoint`], follows the committees from the last header of
//! each epoch to the next ([`LightClient::handover`]), by one signature where a
//! [hand-over certificate](crate::handover) is told, accepts headers that a quorum of the running
//! committee made final, and checks facts and receipts against them. Whoever asks nodes uses
//! [`Freshness`] to tell when enough of them have answered and whether the newest header is new
//! enough for what is to be done. Whoever serves light clients uses [`HandoverCollection`] to get
//! hand-over certificates for them.
//!
//! Invariants: nothing that a single node says is believed without a certificate or a proof; the
//! newest header never goes back; two certified headers that exclude each other are reported with
//! both certificates, never resolved; a root older than the unbonding period is refused unless the
//! caller insists, since its committee can no longer be punished for lying. Time is the caller's
//! clock. Deliberately not here: asking, retrying and choosing nodes.

mod certified;
mod client;
mod collection;
mod final_header;
mod freshness;
mod inclusion;
pub(crate) mod root;
mod verified;

use crate::{
    certificate::CertificateError,
    committee::CommitteeError,
    genesis::GenesisError,
    index::{Epoch, Height},
    ledger::StateProofError,
    vote::CommitCertificateError,
};

pub use self::{
    certified::{CertifiedHeader, MAX_CERTIFIED_HEADER_BYTES},
    client::LightClient,
    collection::{CollectionLimits, CollectionStep, HandoverCollection, HandoverQuestion},
    final_header::{FinalHeader, Finality},
    freshness::{Fitness, Freshness, FreshnessLimits, Newest, Progress, Unfit},
    inclusion::{Inclusion, InclusionError},
    root::{Checkpoint, OldRoot, Start, TrustRoot},
    verified::{VerifiedHeader, VerifiedState},
};

/// Two final headers of one chain that exclude each other: more than a third of a committee lied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The one that was known before.
    pub known: FinalHeader,
    /// The other one.
    pub other: FinalHeader,
}

/// Why a light client does not believe what it was told.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum LightError {
    /// The genesis is no valid one.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// What trust would rest on is too old: its committee has nothing left to lose.
    #[error(
        "the trusted header or genesis is {} h old, more than the {} h for which its committee can \
         be punished: ask somebody you trust for a newer checkpoint (floe info --checkpoint), or \
         insist on this one (--trust-genesis)",
        age_ms / 3_600_000,
        max_ms / 3_600_000
    )]
    TooOld {
        /// Its age in milliseconds.
        age_ms: u64,
        /// The unbonding period in milliseconds.
        max_ms: u64,
    },
    /// The checkpoint is another network's.
    #[error("the checkpoint is of another network")]
    OtherChain,
    /// The parts of the checkpoint do not belong together.
    #[error("the header of the checkpoint is not the one that its root names")]
    OtherHeader,
    /// The bytes are no committee.
    #[error(transparent)]
    Committee(#[from] CommitteeError),
    /// The committee is not the one that the header names.
    #[error("the committee is not the one that the header names for the next height")]
    OtherCommittee,
    /// The certificate is for another block or height than the header.
    #[error("the certificate is for another block than the header")]
    OtherBlock,
    /// The header or committee is of an epoch for which nothing is known that could judge it.
    #[error("epoch {epoch}, where epoch {expected} is needed")]
    Epoch {
        /// Its epoch.
        epoch: Epoch,
        /// The one needed.
        expected: Epoch,
    },
    /// The commit certificate proves nothing.
    #[error("commit certificate: {0}")]
    Certificate(#[from] CommitCertificateError),
    /// The hand-over certificate proves nothing.
    #[error("hand-over certificate: {0}")]
    Handover(#[from] CertificateError),
    /// The chain has forked: stop, and show both to people.
    #[error(
        "two final headers exclude each other, of heights {} and {}: the ledger has forked",
        .0.known.header.height,
        .0.other.header.height
    )]
    Fork(Box<Fork>),
    /// A final header excludes the trusted root.
    #[error("the final header of height {0} excludes the trusted root: one of the two is forged")]
    ExcludesRoot(Height),
    /// The answer is of another height than asked, or does not have one proof per key.
    #[error("the answer is not one to what was asked")]
    OtherAnswer,
    /// The state proof proves nothing.
    #[error(transparent)]
    Proof(#[from] StateProofError),
    /// The proof of inclusion proves nothing.
    #[error(transparent)]
    Inclusion(#[from] InclusionError),
}
