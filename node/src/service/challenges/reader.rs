//! Placeholder until the reader lands.
use std::collections::BTreeSet;

use floe_protocol::{
    blob::BlobId,
    challenge::{Place, StepProof},
};

#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) store: floe_storage::Store,
}

impl Reader {
    pub(super) fn read(&self, place: &Place, known: &BTreeSet<BlobId>) -> Option<StepProof> {
        let _ = &self.store;
        known.contains(&place.blob).then_some(StepProof::Inconsistent)
    }
}
