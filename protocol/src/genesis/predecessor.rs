//! The network that a network goes on from, when the ledger of that one has stopped for good.
//!
//! If more than a third of the voting power is gone for ever, no block follows any more, and people
//! decide to go on without it: their genesis names the last state of the stopped ledger and starts
//! with what it held. Nothing of the old chain binds the new one but this; its chain id is another,
//! so no signature of the one counts in the other.
//!
//! The state itself is too large for a genesis: it comes in chunks beside it, whose manifest the
//! genesis names by hash. So nobody can offer another one. Where it is cut and what is changed in it
//! is in [`ledger::Succession`](crate::ledger::Succession).

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    committee::Committee,
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::{BlsSignature, ChainId, NodeId},
    ledger::{Amount, BlockHash, Header, SnapshotManifest, Timestamp},
    light::root::hex,
};

/// What a network goes on from.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predecessor {
    /// The network whose ledger has stopped.
    pub chain: ChainId,
    /// The height of the state that is taken over.
    pub height: Height,
    /// The block of that height.
    pub block: BlockHash,
    /// Its time.
    pub time: Timestamp,
    /// The root of the state after it.
    pub state_root: Hash,
    /// The root of the first state here.
    pub first_state: Hash,
    /// The manifest of that state's chunks.
    pub manifest: Hash,
    /// The layout of the first committee.
    #[serde(with = "hex")]
    pub committee: Vec<u8>,
    /// All WAL that there is.
    pub supply: Amount,
}

impl Predecessor {
    /// The header that stands for the first state in its manifest. No block has it.
    #[must_use]
    pub fn first_header(&self, epoch: Epoch) -> Header {
        Header {
            height: Height::new(0),
            round: 0,
            time: self.time,
            parent: self.block,
            commit_record: Hash::ZERO,
            epoch,
            proposer: NodeId::new([0; 32]),
            transactions_root: Hash::ZERO,
            state_root: self.first_state,
            events_root: Hash::ZERO,
            beacon: Hash::ZERO,
            beacon_signature: BlsSignature::new([0; 96]),
            next_committee: Domain::Committee.hash(&[&self.committee]),
        }
    }

    /// Whether a manifest is that of the first state.
    #[must_use]
    pub fn names(&self, manifest: &SnapshotManifest) -> bool {
        let epoch = Committee::from_bytes(&self.committee).map(|committee| committee.epoch());
        manifest.id() == self.manifest
            && epoch.is_ok_and(|epoch| manifest.header == self.first_header(epoch))
    }
}
