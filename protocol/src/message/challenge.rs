//! What members say to each other in a challenge round, beside the gossip of commitments: one asks
//! for a transcript, judges it, and hands the acknowledgement to the node that it is of.
//!
//! Invariants: a transcript's length is judged before it is read; chain and node follow from who
//! asks whom, so that a request names the round alone. What a round is, and what a transcript has
//! to hold, is said in [`challenge`](crate::challenge).

use serde::{Deserialize, Serialize};

use super::{MessageError, at_most};
use crate::{
    challenge::{Failure, STEPS_MAX, TRANSCRIPT_BYTES_MAX, WalkError},
    index::ChallengeRound,
};

/// How a node does in the challenge rounds of the running epoch, in its own words: for people,
/// never for decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Why it missed the last one that it missed since its start.
    pub last_failure: Option<Miss>,
}

/// Why a node has missed a round, as far as it tells others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// It lacks what a step of its chain asks for.
    #[error("step {step}: nothing can be read at the place")]
    Absent {
        /// Which, from 0.
        step: u16,
    },
    /// What it has for a step is not what that asks for.
    #[error("step {step}: what is there is damaged")]
    Damaged {
        /// Which, from 0.
        step: u16,
    },
    /// Its chain was not read in time.
    #[error("its chain was not read when the window was over")]
    TooSlow,
    /// It was far behind the others.
    #[error("the window was over before it had committed the seed's block")]
    Over,
    /// Its commitment has not left it.
    #[error("its commitment could not be sent")]
    NotSent,
    /// It knew of no such round.
    #[error("it was not running when the round was opened, or missed blocks")]
    Unknown,
    /// It had nothing to commit itself to.
    #[error("no seed came, or it came too late")]
    NoSeed,
    /// Not enough members say that they have seen it pass.
    #[error("too few members have acknowledged it")]
    NotAcknowledged,
    /// Its certificate was on no block in time.
    #[error("its certificate came too late")]
    NotCertified,
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Walk(WalkError::Absent { step }) => Self::Absent { step },
            Failure::Walk(WalkError::Damaged { step, .. }) => Self::Damaged { step },
            Failure::TooSlow => Self::TooSlow,
            Failure::Over => Self::Over,
        }
    }
}

impl ChallengeStatus {
    /// No chain has more steps.
    pub(super) fn check(&self) -> Result<(), MessageError> {
        match self.last_failure {
            Some(Miss::Absent { step } | Miss::Damaged { step }) if step >= STEPS_MAX => {
                Err(MessageError::Field)
            }
            _ => Ok(()),
        }
    }
}

/// Judges the length of a transcript that a head announces.
pub(super) fn check_transcript(transcript_bytes: Option<u32>) -> Result<(), MessageError> {
    at_most(transcript_bytes.unwrap_or(0).into(), TRANSCRIPT_BYTES_MAX as u64)
}
