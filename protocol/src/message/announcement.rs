//! Announcements: new certificates, spread by gossip.

use serde::{Deserialize, Serialize};

use super::{Limits, MAX_ANNOUNCEMENT_BYTES, MessageError};
use crate::{blob::BlobHeader, certificate::Certificate, codec};

/// Tells the swarm that a blob has been certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The blob's header.
    pub header: BlobHeader,
    /// Its certificate, unverified.
    pub certificate: Certificate,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(with = "serde_bytes")]
    header: Vec<u8>,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
}

impl Announcement {
    /// The bytes to gossip.
    ///
    /// # Errors
    /// [`MessageError::Head`] above [`MAX_ANNOUNCEMENT_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let wire = Wire {
            header: self.header.to_bytes().to_vec(),
            certificate: self.certificate.to_bytes(),
        };
        Ok(codec::encode(&wire, MAX_ANNOUNCEMENT_BYTES)?)
    }

    /// Parses gossiped bytes: exactly those that [`Self::encode`] gives, with header and certificate
    /// of one blob. Nothing else is verified.
    ///
    /// # Errors
    /// [`MessageError`]: not to be passed on.
    pub fn decode(limits: &Limits, bytes: &[u8]) -> Result<Self, MessageError> {
        let wire: Wire = codec::decode(bytes, MAX_ANNOUNCEMENT_BYTES)?;
        let header = BlobHeader::from_bytes(limits.config(), &wire.header)
            .map_err(|_| MessageError::Field)?;
        let certificate =
            Certificate::from_bytes(&wire.certificate).map_err(|_| MessageError::Field)?;
        let announcement = Self { header, certificate };
        // Gossip tells messages apart by their bytes, and CBOR has many for one value: only one of
        // them may travel, or a certificate could be spread again and again as something new.
        if announcement.header.id() != announcement.certificate.fact.blob
            || announcement.encode()? != bytes
        {
            return Err(MessageError::Field);
        }
        Ok(announcement)
    }
}
