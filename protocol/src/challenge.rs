//! Storage challenges: proof, many times an epoch, that a node still holds its slivers.

mod commitment;
mod parameters;
mod round;
mod rounds;
mod score;
mod seed;
mod transcript;
mod units;
mod universe;

pub use self::{
    commitment::{
        ChallengeCertificate, ChallengeCertificateError, ChallengeFact, Commitment,
        MalformedCommitment, SignedCommitment,
    },
    parameters::{ChallengeParameters, STEPS_MAX},
    round::{
        Failure, Ignored, Progress, Pulse, Round, RoundConfig, RoundInput, RoundOutput, Sight,
        Silence, Verification,
    },
    rounds::{EARLY_HEIGHTS, RoundOutputs, Rounds},
    score::{NotOpen, OpenRound, Outcome, Score},
    seed::{Seeds, chain_start},
    transcript::{
        Challenge, ChunkProof, StepError, StepProof, TRANSCRIPT_BYTES_MAX, TranscriptError, Walk,
        transcript_bytes_max,
    },
    units::BilledUnits,
    universe::{Place, Universe, challenged_shards},
};
