//! The pool of system operations: free of fee, so their number alone is limited.
//!
//! One operation is kept per key (for an equivocation offender and height): two reports of one
//! offence differ in their votes, yet only one of them can be executed, so every further one is
//! refused before anybody verifies its signatures. Each node, and each blob, that they are about
//! has a limit of its own: an offender that contradicts itself at thousands of heights fills its
//! own places, not those of the others. A round of challenges brings a certificate of every member:
//! those have places of their own, too.

use std::collections::BTreeMap;

use super::{MempoolConfig, MempoolError, remembered::Remembered};
use crate::{
    blob::BlobId,
    challenge::{ChallengeCertificate, ChallengeFact},
    index::{ChallengeRound, Epoch},
    invalidity::{InvalidityCertificate, InvalidityFact},
    keys::NodeId,
    ledger::{OPEN_ROUNDS_MAX, SystemOperation},
};

/// What at most one operation is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Whom it is about; blobs have places of their own.
    about: About,
    /// Which of its kind.
    number: u64,
}

/// What an operation is about: each has a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Offence(NodeId),
    NodeReady(NodeId),
    ShardsReady(NodeId),
    Blob(BlobId),
    /// Last: a block takes first what is rarer.
    Challenge(NodeId),
}

impl Key {
    const FIRST_CHALLENGE: Self = Self { about: About::Challenge(NodeId::new([0; 32])), number: 0 };

    fn of(operation: &SystemOperation) -> Option<Self> {
        Some(match operation {
            SystemOperation::ReportEquivocation { equivocation } => {
                let vote = &equivocation.first.vote;
                Self { about: About::Offence(vote.voter), number: vote.height.get() }
            }
            SystemOperation::NodeReady { report } => {
                Self { about: About::NodeReady(report.node), number: report.epoch.get() }
            }
            SystemOperation::ShardsReady { report } => {
                let first = report.shards.first()?;
                let number = report.epoch.get().checked_mul(1 << 16)?;
                let number = number.checked_add(u64::from(first.get()))?;
                Self { about: About::ShardsReady(report.node), number }
            }
            SystemOperation::InvalidateBlob { certificate } => {
                let certificate = InvalidityCertificate::from_bytes(certificate).ok()?;
                let InvalidityFact { epoch, blob } = certificate.fact;
                Self { about: About::Blob(blob), number: epoch.get() }
            }
            SystemOperation::PassChallenge { certificate } => {
                let certificate = ChallengeCertificate::from_bytes(certificate).ok()?;
                let ChallengeFact { round, node, .. } = certificate.fact();
                Self { about: About::Challenge(*node), number: round.get() }
            }
        })
    }
}

/// Whether an operation makes the pending one of its key useless.
fn supersedes(operation: &SystemOperation, pending: &SystemOperation) -> bool {
    match (operation, pending) {
        (SystemOperation::NodeReady { report }, SystemOperation::NodeReady { report: pending }) => {
            report.height > pending.height
        }
        _ => false,
    }
}

#[derive(Clone, Debug)]
pub(super) struct SystemPool {
    operations: BTreeMap<Key, SystemOperation>,
    committed: Remembered<Key>,
    operations_max: usize,
    per_node_max: usize,
    challenges_max: usize,
}

impl SystemPool {
    pub(super) const fn new(config: &MempoolConfig) -> Self {
        let MempoolConfig { system_max, system_per_node_max, system_challenges_max, .. } = *config;
        Self {
            operations: BTreeMap::new(),
            committed: Remembered::new(system_max.saturating_add(system_challenges_max)),
            operations_max: system_max,
            per_node_max: system_per_node_max,
            challenges_max: system_challenges_max,
        }
    }

    pub(super) fn knows(&self, operation: &SystemOperation) -> bool {
        let known = |key: &Key| {
            let pending = self.operations.get(key);
            pending.is_some_and(|pending| !supersedes(operation, pending))
                || self.committed.contains(key)
        };
        Key::of(operation).is_some_and(|key| known(&key))
    }

    /// Whether exactly this one waits.
    pub(super) fn has(&self, operation: &SystemOperation) -> bool {
        let pending = Key::of(operation).and_then(|key| self.operations.get(&key));
        pending == Some(operation)
    }

    pub(super) fn insert(&mut self, operation: SystemOperation) -> Result<(), MempoolError> {
        if self.knows(&operation) {
            return Err(MempoolError::Known);
        }
        // Nothing without a key passes the state's check.
        let Some(key) = Key::of(&operation) else { return Err(MempoolError::Known) };
        let first = Key { number: 0, ..key };
        let last = Key { number: u64::MAX, ..key };
        let of_node = self.operations.range(first..=last).count();
        let is_new = !self.operations.contains_key(&key);
        let challenges = self.operations.range(Key::FIRST_CHALLENGE..).count();
        let (alike, alike_max, of_node_max) = match key.about {
            About::Challenge(_) => (challenges, self.challenges_max, OPEN_ROUNDS_MAX),
            About::Offence(_) | About::NodeReady(_) | About::ShardsReady(_) | About::Blob(_) => {
                (self.operations.len() - challenges, self.operations_max, self.per_node_max)
            }
        };
        if is_new && (alike >= alike_max || of_node >= of_node_max) {
            return Err(MempoolError::SystemFull);
        }
        self.operations.insert(key, operation);
        Ok(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SystemOperation> {
        self.operations.values()
    }

    pub(super) fn committed(&mut self, operation: &SystemOperation) {
        if let Some(key) = Key::of(operation) {
            self.operations.remove(&key);
            self.committed.insert(key);
        }
    }

    pub(super) fn refused(&mut self, operation: &SystemOperation) {
        if let Some(key) = Key::of(operation) {
            self.operations.remove(&key);
        }
    }

    /// Drops what can't be executed any more: what was for another epoch than `epoch`, or for a
    /// round of challenges that is not among the `open` ones.
    pub(super) fn keep(&mut self, epoch: Epoch, open: &[ChallengeRound]) {
        self.operations.retain(|key, operation| match operation {
            SystemOperation::ReportEquivocation { .. } => true,
            SystemOperation::NodeReady { report } => report.epoch == epoch,
            SystemOperation::ShardsReady { report } => report.epoch == epoch,
            SystemOperation::InvalidateBlob { .. } => key.number == epoch.get(),
            SystemOperation::PassChallenge { .. } => {
                open.iter().any(|round| round.get() == key.number)
            }
        });
    }

    /// Whether an operation waits that is worth a block of its own. Certificates of challenges are
    /// not: while a round is open there are blocks enough, and each member sends one.
    pub(super) fn is_idle(&self) -> bool {
        self.operations.range(..Key::FIRST_CHALLENGE).next().is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }
}
