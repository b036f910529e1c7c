//! The light client: what a peer that executes no block can know of the ledger, and how.

mod certified;
mod inclusion;

use crate::{index::Epoch, vote::CommitCertificateError};

pub use self::{
    certified::{CertifiedHeader, MAX_CERTIFIED_HEADER_BYTES},
    inclusion::{Inclusion, InclusionError},
};

/// Why a light client does not believe what it was told.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum LightError {
    /// The certificate is for another block or height than the header.
    #[error("the certificate is for another block than the header")]
    OtherBlock,
    /// The header is of another epoch than the committee.
    #[error("header of epoch {epoch}, where one of epoch {expected} is needed")]
    Epoch {
        /// The header's.
        epoch: Epoch,
        /// The committee's.
        expected: Epoch,
    },
    /// The certificate proves nothing.
    #[error("commit certificate: {0}")]
    Certificate(#[from] CommitCertificateError),
}
