//! The pool of system operations: free of fee, so their number alone is limited.
//!
//! One operation is kept per key (for an equivocation offender and height): two reports of one
//! offence differ in their votes, yet only one of them can be executed, so every further one is
//! refused before anybody verifies its signatures. Each node on which they report has a limit of
//! its own: an offender that contradicts itself at thousands of heights fills its own places, not
//! those of the others.

use std::collections::BTreeMap;

use super::{MempoolError, remembered::Remembered};
use crate::{index::Height, keys::NodeId, ledger::SystemOperation};

/// What at most one operation is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    offender: NodeId,
    height: Height,
}

impl Key {
    const fn of(operation: &SystemOperation) -> Self {
        match operation {
            SystemOperation::ReportEquivocation { equivocation } => {
                let vote = &equivocation.first.vote;
                Self { offender: vote.voter, height: vote.height }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct SystemPool {
    operations: BTreeMap<Key, SystemOperation>,
    committed: Remembered<Key>,
    operations_max: usize,
    per_node_max: usize,
}

impl SystemPool {
    pub(super) const fn new(operations_max: usize, per_node_max: usize) -> Self {
        let committed = Remembered::new(operations_max);
        Self { operations: BTreeMap::new(), committed, operations_max, per_node_max }
    }

    pub(super) fn knows(&self, operation: &SystemOperation) -> bool {
        let key = Key::of(operation);
        self.operations.contains_key(&key) || self.committed.contains(&key)
    }

    pub(super) fn insert(&mut self, operation: SystemOperation) -> Result<(), MempoolError> {
        if self.knows(&operation) {
            return Err(MempoolError::Known);
        }
        let key = Key::of(&operation);
        let first = Key { height: Height::new(0), ..key };
        let last = Key { height: Height::new(u64::MAX), ..key };
        let of_node = self.operations.range(first..=last).count();
        if self.operations.len() >= self.operations_max || of_node >= self.per_node_max {
            return Err(MempoolError::SystemFull);
        }
        self.operations.insert(key, operation);
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SystemOperation> {
        self.operations.values()
    }

    pub(super) fn committed(&mut self, operation: &SystemOperation) {
        let key = Key::of(operation);
        self.operations.remove(&key);
        self.committed.insert(key);
    }

    pub(super) fn refused(&mut self, operation: &SystemOperation) {
        self.operations.remove(&Key::of(operation));
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }
}
