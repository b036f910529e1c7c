//! A header with whatever makes it final.
//!
//! Every header has its commit certificate: precommits of a quorum, one signature each. The last
//! one of an epoch may have a hand-over certificate in its place: one signature for all.

use borsh::{BorshDeserialize, BorshSerialize};

use super::{CertifiedHeader, LightError, certified};
use crate::{
    committee::Committee,
    handover::{HandoverCertificate, HandoverFact},
    keys::ChainId,
    ledger::{BlockHash, Header},
    vote::CommitCertificate,
};

/// Why a header is final, unverified.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Finality {
    /// Precommits for it.
    Commit(CommitCertificate),
    /// A quorum's word that it ended its epoch.
    Handover(HandoverCertificate),
}

/// A header and what makes it final, as a stranger tells it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct FinalHeader {
    /// The header.
    pub header: Header,
    /// Why it is final.
    pub finality: Finality,
}

impl From<CertifiedHeader> for FinalHeader {
    fn from(CertifiedHeader { header, certificate }: CertifiedHeader) -> Self {
        Self { header, finality: Finality::Commit(certificate) }
    }
}

impl FinalHeader {
    /// Checks that `committee`, which must be the one of the header's height, made it final.
    ///
    /// # Errors
    /// [`LightError::OtherBlock`], [`LightError::Epoch`], [`LightError::Certificate`],
    /// [`LightError::Handover`].
    pub fn verify(&self, committee: &Committee, chain: &ChainId) -> Result<BlockHash, LightError> {
        let Self { header, finality } = self;
        match finality {
            Finality::Commit(certificate) => {
                certified::verify((header, certificate), committee, chain)
            }
            Finality::Handover(certificate) => {
                let fact = HandoverFact::new(header);
                if certificate.fact != fact {
                    return Err(LightError::OtherBlock);
                }
                certified::check_epoch(header, committee)?;
                certificate.verify(committee, chain)?;
                Ok(fact.last)
            }
        }
    }
}
