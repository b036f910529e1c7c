//! A header with the certificate that makes it final: what light peers pass around.

use borsh::{BorshDeserialize, BorshSerialize};

use super::LightError;
use crate::{
    committee::Committee,
    keys::ChainId,
    ledger::{BlockHash, Header},
    vote::CommitCertificate,
};

/// Longest layout of a [`CertifiedHeader`] in bytes: a signature of each of 256 members.
pub const MAX_CERTIFIED_HEADER_BYTES: usize = 20 << 10;

/// A header and its commit certificate, as a stranger tells it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CertifiedHeader {
    /// The header.
    pub header: Header,
    /// Precommits for it.
    pub certificate: CommitCertificate,
}

impl CertifiedHeader {
    /// Checks that `committee`, which must be the one of the header's height, made it final.
    ///
    /// # Errors
    /// [`LightError::OtherBlock`], [`LightError::Epoch`], [`LightError::Certificate`].
    pub fn verify(&self, committee: &Committee, chain: &ChainId) -> Result<BlockHash, LightError> {
        verify((&self.header, &self.certificate), committee, chain)
    }
}

/// Checks that the certificate is the header's, and signed by its committee.
pub(super) fn verify(
    (header, certificate): (&Header, &CommitCertificate),
    committee: &Committee,
    chain: &ChainId,
) -> Result<BlockHash, LightError> {
    let hash = header.hash();
    if certificate.block != hash || certificate.height != header.height {
        return Err(LightError::OtherBlock);
    }
    check_epoch(header, committee)?;
    certificate.verify(committee, chain)?;
    Ok(hash)
}

/// Checks that the header is of the committee's epoch.
pub(super) fn check_epoch(header: &Header, committee: &Committee) -> Result<(), LightError> {
    if header.epoch == committee.epoch() {
        Ok(())
    } else {
        Err(LightError::Epoch { epoch: header.epoch, expected: committee.epoch() })
    }
}
