//! Where a light client's trust starts: the genesis, or a checkpoint that somebody passed on.

use serde::{Deserialize, Serialize};

use super::LightError;
use crate::{
    committee::Committee,
    hash::Domain,
    index::Height,
    keys::ChainId,
    ledger::{BlockHash, Header, Timestamp},
};

/// A block that somebody vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// Its height.
    pub height: Height,
    /// Its hash: the only part that has to come from somebody trusted.
    pub hash: BlockHash,
    /// Its time.
    pub time: Timestamp,
}

/// A trust root with what a client needs to go on from it. The header and the committee may come
/// from anybody: the hash of the root fixes both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The network.
    pub chain: ChainId,
    /// The block.
    pub root: TrustRoot,
    /// Its header.
    pub header: Header,
    /// The layout of the next height's committee.
    #[serde(with = "hex")]
    pub committee: Vec<u8>,
}

impl Checkpoint {
    /// A checkpoint at `header`, whose next height is decided by `committee`.
    #[must_use]
    pub fn new(chain: ChainId, header: Header, committee: &Committee) -> Self {
        let root = TrustRoot { height: header.height, hash: header.hash(), time: header.time };
        Self { chain, root, header, committee: committee.to_bytes() }
    }

    /// Checks that the parts belong together and gives the committee.
    pub(super) fn committee(&self, chain: &ChainId) -> Result<Committee, LightError> {
        let Self { root, header, .. } = self;
        if self.chain != *chain {
            return Err(LightError::OtherChain);
        }
        if header.hash() != root.hash || header.height != root.height || header.time != root.time {
            return Err(LightError::OtherHeader);
        }
        if Domain::Committee.hash(&[&self.committee]) != header.next_committee {
            return Err(LightError::OtherCommittee);
        }
        let committee = Committee::from_bytes(&self.committee)?;
        if committee.epoch() != header.epoch && committee.epoch() != header.epoch.plus(1) {
            return Err(LightError::OtherCommittee);
        }
        Ok(committee)
    }
}

/// What a client starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The genesis itself.
    Genesis {
        /// When the network was started, as far as the caller knows. A genesis does not say; if
        /// the caller does not either, the end of its first epoch is judged instead, which an
        /// old committee that forges a young chain would pass.
        started: Option<Timestamp>,
    },
    /// A later block.
    Checkpoint(Box<Checkpoint>),
}

/// What to do with a root that is older than the unbonding period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRoot {
    /// Refuse it: the committee of that time could lie without loss.
    Refuse,
    /// Go on from it. The caller has told the user what that means.
    Trust,
}

/// Bytes as hexadecimal text, as checkpoints and genesis files are seen by people.
pub(crate) mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Longest committee of 256 members, twice over.
    const MAX_TEXT_BYTES: usize = 128 << 10;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX_TEXT_BYTES {
            return Err(D::Error::custom("too long for a committee"));
        }
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| D::Error::custom("a committee is written in hexadecimal digits"))
    }
}
