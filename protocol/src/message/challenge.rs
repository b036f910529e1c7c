//! What members say to each other in a challenge round, beside the gossip of commitments: one asks
//! for a transcript, judges it, and hands the acknowledgement to the node that it is of.
//!
//! Invariants: a transcript's length is judged before it is read; chain and node follow from who
//! asks whom, so that a request names the round alone. What a round is, and what a transcript has
//! to hold, is said in [`challenge`](crate::challenge).

use serde::{Deserialize, Serialize};

use super::{MessageError, at_most};
use crate::{challenge::TRANSCRIPT_BYTES_MAX, index::ChallengeRound};

/// Longest reason in a [`ChallengeStatus`] in bytes.
pub const MAX_FAILURE_BYTES: usize = 192;

/// How a node does in the challenge rounds of the running epoch, in its own words: for people,
/// never for decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeStatus {
    /// The last round of which it knows how it ended.
    pub round: Option<ChallengeRound>,
    /// Rounds that it has passed.
    pub passed: u32,
    /// Rounds that it has missed, void ones left out.
    pub missed: u32,
    /// Rounds that it has missed as too many others.
    pub void: u32,
    /// Why it missed the last one that it missed since its start: at most [`MAX_FAILURE_BYTES`] of
    /// printable ASCII.
    pub last_failure: Option<String>,
}

impl ChallengeStatus {
    /// The reason ends up on people's terminals.
    pub(super) fn check(&self) -> Result<(), MessageError> {
        let Some(failure) = &self.last_failure else { return Ok(()) };
        let printable = failure.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let fits = failure.len() <= MAX_FAILURE_BYTES && printable;
        if fits { Ok(()) } else { Err(MessageError::Field) }
    }
}

/// Judges the length of a transcript that a head announces.
pub(super) fn check_transcript(transcript_bytes: Option<u32>) -> Result<(), MessageError> {
    at_most(transcript_bytes.unwrap_or(0).into(), TRANSCRIPT_BYTES_MAX as u64)
}
