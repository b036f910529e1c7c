//! The limits of a recovery, and when it cannot even begin.

use super::pace::PaceConfig;
use crate::blob::ProofError;

/// The limits of a recovery.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryConfig {
    /// Memory that one recovery may take.
    pub bytes_max: u64,
    /// Requests on their way that are not late, at most: fewer where their answers come slowly.
    pub in_flight_max: usize,
    /// How much is on its way at a time, by how long answers take.
    pub pace: PaceConfig,
    /// Requests on their way to one node.
    pub node_in_flight_max: usize,
    /// Answers on their way, of one axis, beyond those needed: asked for when others are late.
    pub spares_max: usize,
    /// A request is late after this many times the median, in percent.
    pub late_after_median_percent: u64,
    /// A request is never late before this.
    pub late_min_ms: u64,
    /// A request is late after this while nothing has been observed.
    pub late_unknown_ms: u64,
    /// Failures in a row after which a node is given up.
    pub attempts_max: u32,
    /// Wait before a node that failed is asked again.
    pub retry_delay_ms: u64,
    /// `Busy` answers in a row after which a node is given up.
    pub busy_max: u32,
    /// The longest wait that a busy node is granted.
    pub busy_delay_max_ms: u64,
    /// Unanswered requests count as failed after this; the driver has dropped them by then.
    pub give_up_ms: u64,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            in_flight_max: 16,
            pace: PaceConfig::default(),
            node_in_flight_max: 4,
            spares_max: 4,
            late_after_median_percent: 400,
            late_min_ms: 500,
            late_unknown_ms: 3_000,
            attempts_max: 3,
            retry_delay_ms: 500,
            busy_max: 60,
            busy_delay_max_ms: 5_000,
            give_up_ms: 30_000,
        }
    }
}

/// Why a recovery cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryPlanError {
    /// The header names no possible blob.
    #[error(transparent)]
    Header(#[from] ProofError),
    /// No pair is wanted, one that the blob does not have, or not one list of holders per pair.
    #[error("the wanted pairs or the lists of holders do not fit the blob")]
    Shape,
    /// Not even one pair can be recovered in the memory allowed.
    #[error("recovering one pair takes {needed_bytes} bytes of memory, {bytes_max} are allowed")]
    Memory {
        /// What one pair takes.
        needed_bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
}
