//! What a round is told, and what it says is to be done.
//!
//! All that takes time, or touches disk, network or the ledger, is an output, and what comes of it
//! an input. Outputs are done in their order, but nothing has to wait for one: reading, judging and
//! joining may go on beside each other.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Joined, Joining, Sight};
use crate::{
    blob::BlobId,
    challenge::{
        Answer, Challenge, ChallengeCertificate, ChallengeFact, Commitment, TranscriptError, Walk,
        WalkError,
    },
    hash::Hash,
    keys::{BlsSignature, NodeId},
    ledger::Header,
};

/// What happened.
#[derive(Clone, Debug)]
pub enum RoundInput {
    /// A block was committed here: the one that opened the round, then each further one in order.
    Committed {
        /// Its header.
        header: Box<Header>,
        /// How this node came to it.
        sight: Sight,
    },
    /// This process stood still until now.
    Paused {
        /// Since when.
        since_ms: u64,
    },
    /// What came of [`RoundOutput::Walk`].
    Walked(Result<Answer, WalkError>),
    /// A commitment came, from its node itself or with proof that it is of its node.
    Commitment {
        /// What it says.
        commitment: Commitment,
        /// When it came: it may have waited since.
        at_ms: u64,
    },
    /// A member asks for this node's transcript.
    Wanted {
        /// Who asks.
        member: NodeId,
    },
    /// A node has answered [`RoundOutput::Ask`]: none if it needs nobody any more, or refuses.
    Transcript {
        /// Who.
        node: NodeId,
        /// What it says.
        transcript: Option<Bytes>,
    },
    /// A node cannot be asked, or is busy. That it does not answer the round finds out by itself.
    NoAnswer {
        /// Who.
        node: NodeId,
    },
    /// A transcript was judged that [`RoundOutput::Verify`] asked for.
    Judged {
        /// Whose.
        node: NodeId,
        /// What it is.
        verdict: Result<(), TranscriptError>,
    },
    /// A member has acknowledged this node's commitment. Not verified: that is, it comes from whom
    /// it names, or a few false ones may keep a true one out.
    Acknowledged {
        /// Who.
        member: NodeId,
        /// Its signature.
        signature: BlsSignature,
    },
    /// What came of [`RoundOutput::Join`].
    Joined(Box<Joined>),
    /// A certificate is on the ledger.
    Certified {
        /// Whose.
        node: NodeId,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum RoundOutput {
    /// Read this node's chain to its end with [`Walk::run`], and report what came of it.
    Walk(Box<Walk>),
    /// Gossip this, at once.
    Commit(Commitment),
    /// Hand this node's transcript to a member that asked; none if it is not needed, or not there.
    Answer {
        /// To whom.
        member: NodeId,
        /// What.
        transcript: Option<Bytes>,
    },
    /// Ask a node for its transcript. Report what it says as [`RoundInput::Transcript`].
    Ask {
        /// Whom.
        node: NodeId,
        /// After so long the answer is given up.
        within_ms: u64,
    },
    /// Run this where it disturbs nobody and report the verdict.
    Verify(Box<Verification>),
    /// Sign this with the BLS key and send it to the node.
    Acknowledge(ChallengeFact),
    /// Run this where it disturbs nobody and report what came of it.
    Join(Box<Joining>),
    /// Submit this: the round is passed. Comes again until the certificate is on the ledger.
    Submit(Box<ChallengeCertificate>),
    /// This node has missed the round.
    GaveUp(Failure),
    /// Nothing comes of what another node says, or of this node's judging it: for the log.
    Ignored {
        /// Whose.
        node: NodeId,
        /// Why.
        reason: Ignored,
    },
}

/// A transcript that is to be judged.
#[derive(Clone, Debug)]
pub struct Verification {
    /// What its node was asked for.
    pub challenge: Challenge,
    /// Where the node says that its chain ends.
    pub end: Hash,
    /// The transcript.
    pub transcript: Bytes,
}

impl Verification {
    /// Judges it: some microseconds for each step. Blobs in `inconsistent` are those of which a
    /// proof was verified here: the ledger may not say so yet, or say so since the opening.
    ///
    /// # Errors
    /// [`TranscriptError`]: it counts for nothing.
    pub fn run(&self, inconsistent: &BTreeSet<BlobId>) -> Result<(), TranscriptError> {
        self.challenge.verify(&self.transcript, &self.end, inconsistent)
    }
}

/// Why this node misses a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its chain cannot be read to the end.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The window is over.
    #[error("its chain was not read when the window was over")]
    TooSlow,
    /// Others had its seed's block long before.
    #[error("the window was over before the seed's block was committed here")]
    Over,
}

/// Why something counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// No member, or the round does not count for it.
    #[error("the round does not count for it")]
    NotAsked,
    /// Of another round.
    #[error("of another round")]
    OtherRound,
    /// The first one counts.
    #[error("a second commitment, to something else")]
    SecondCommitment,
    /// The window was over.
    #[error("commitment {late_ms} ms after the window")]
    Late {
        /// How long it was over.
        late_ms: u64,
    },
    /// This node cannot say whether it was in time.
    #[error(transparent)]
    Silent(#[from] Silence),
    /// The transcript is wrong.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    /// It does not hand out its transcript: it has enough acknowledgements, or refuses.
    #[error("no transcript")]
    NoTranscript,
    /// It does not answer.
    #[error("no answer")]
    NoAnswer,
    /// What it signed is not this node's commitment.
    #[error("false acknowledgement")]
    FalseAcknowledgement,
}

/// Why a member cannot say what came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// The window was over for others before the seed's block was committed here.
    #[error("the window was over before the seed's block was committed here")]
    Over,
    /// The seed's block came by sync, and not soon after it was final.
    #[error("the seed's block came by sync")]
    Synced,
    /// Others were further when the seed's block was committed here.
    #[error("the seed's block was committed {behind_ms} ms after others were further")]
    Behind {
        /// How long.
        behind_ms: u64,
    },
    /// This process stood still.
    #[error("this process stood still")]
    Paused,
}
