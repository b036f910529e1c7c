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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificate::ConfirmedFact, encoding::EncodingConfig, hash::Hash, index::Epoch,
        registration::RegistrationId, test_support,
    };

    #[test]
    fn one_announcement_has_one_encoding() {
        let header = BlobHeader { n_shards: 7, len: 99, root: Hash::of_symbol(b"root") };
        let committee = test_support::committee(7, 7);
        let fact = ConfirmedFact {
            epoch: Epoch::new(0),
            blob: header.id(),
            registration: RegistrationId::new([1; 32]),
        };
        let chain = test_support::genesis(7, 7).chain_id();
        let keys = test_support::node_keys(7);
        let confirmations: Vec<_> = committee
            .members()
            .iter()
            .enumerate()
            .map(|(position, member)| {
                let (_, bls) = keys.iter().find(|(node, _)| node.public() == member.node).unwrap();
                (position, fact.sign(&chain, bls))
            })
            .collect();
        let certificate = Certificate::new(&committee, fact, &confirmations).unwrap();
        let announcement = Announcement { header, certificate };
        let limits = Limits::new(EncodingConfig::new(7).unwrap());
        let bytes = announcement.encode().unwrap();
        assert_eq!(Announcement::decode(&limits, &bytes), Ok(announcement));

        // A map of two entries, { "header": h'..', "certificate": h'..' }, begins with 0xa2; the
        // same as a map without a stated length begins with 0xbf and ends with 0xff.
        assert_eq!(bytes[0], 0xa2);
        let mut again = bytes;
        again[0] = 0xbf;
        again.push(0xff);
        let same: Wire = codec::decode(&again, MAX_ANNOUNCEMENT_BYTES).unwrap();
        assert_eq!(same.header, header.to_bytes());
        assert_eq!(Announcement::decode(&limits, &again), Err(MessageError::Field));
    }
}
