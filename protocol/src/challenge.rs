//! Storage challenges: proof, many times an epoch, that a node still holds its slivers.
//!
//! A block opens a round. Of each member a later beacon that it did not sign gives the [seed](Seeds)
//! of a chain through what it holds ([`Universe`], weighted by [`BilledUnits`]): each of 16 steps reads
//! the 1 KiB that the bytes read before have drawn ([`Walk`]). Within a second it gossips where its
//! chain ends ([`Commitment`]); members that got that in time check its transcript against the
//! universe alone ([`Challenge::verify`]) and acknowledge it; more than `f` shards of them make a
//! [`ChallengeCertificate`], and the ledger counts ([`RoundRecord`], [`Score`]). Who does what at a
//! member, and when, is decided by [`Rounds`]; nothing here sends, reads or stores.
//!
//! Invariants: a chain depends only on seed, universe and the bytes held; one transcript belongs to
//! it, and no byte of that goes unchecked; a late answer equals no answer; a verdict is final; work
//! and memory for a round follow members and steps, whatever strangers send, and blobs only by the
//! logarithm of their number.
//!
//! # What it proves, and what not
//!
//! By default rules (16 steps in 1 s, a round a minute), of a node that lacks a part of its billed
//! units for good; checked by `tests/challenge/argument.rs`:
//!
//! | lacks | pay lost | slashed after a day | after 100 rounds |
//! |---|---|---|---|
//! | 0.1 % | 1.6 % | never (< 10^-99) | never (< 10^-60) |
//! | 1 % | 14.9 % | never (< 10^-99) | < 10^-15 |
//! | 3 % | 38.6 % | < 10^-18 | 0.8 % |
//! | 4 % | 48.0 % | 5.7 % | 30 % |
//! | 5 % | 56.0 % | > 99.9 % | 86 % |
//! | 30 % | 99.7 % | certain | certain |
//!
//! Units and not blobs count, nor bytes to the last: what a small blob is rounded up to weighs, too.
//!
//! - *Recomputing*: a node with `m` shards holds `m` symbols of each of its secondary slivers twice,
//!   as its primary slivers expand to them. So it may drop `m / (k1 + k2)` of its bytes and pass,
//!   for some decoding in each round. That is about its part of all shards: 6.2 % of 4 shards among
//!   64, 10.8 % of 7 (the cap from 20 members on), 32.3 % of 21 (the most that anybody may hold), 25 %
//!   of 2 among 7. The table counts from there.
//! - *Fetching on demand* works for who gets 16 answers one after the other within the window: over
//!   links with a round trip of less than 62 ms. Symbols and secondary slivers are not served then
//!   (but by former members that still keep a shard that has moved: they take no part in rounds),
//!   so a step costs rows of its blob, up to all of it: 512 MiB in that second if blobs have 32 MiB.
//!   It costs what storing would have saved where links are slow or blobs large, and not else. Who
//!   lacks little needs few answers: 3 % are half a fetch a round.
//! - *Laggards*: a member judges from its own commit of the seed's block, up to a window later than
//!   others. Who has friends with `f` shards needs but one such, and has two windows: 125 ms a fetch.
//! - *Time gained*: who proposes the block after the opening knows its beacon as soon as the opening
//!   block is proposed, and can delay its own proposal (1 to 3 s). Nodes that it tells have as much
//!   longer, in at most a third of all rounds. It is itself asked by the next beacon, a window later,
//!   which a friend who makes that block knows at once, too: two windows, and what that friend delays
//!   its proposal by. Who makes both blocks is asked by the beacon of the third, two windows later
//!   still, which again a friend may know: four windows, in less than 0.6 % of its rounds. In a ninth
//!   of all rounds the opener is a friend of the next proposer: then both beacons are known before
//!   there is any block, and time is as long as it takes to find out that they are silent, and the
//!   10 s that a block's time may be off.
//! - *Withholding*: a proposer may drop a block whose beacon it dislikes, once for each colluding
//!   proposer in a row. With a third of them, 1 - p becomes 2(1 - p) / (2 + p) if p is the
//!   probability to pass: slashing begins at 5.6 % lacking instead of 4.2 %.
//! - *Opening*: a proposer may leave the opening to the next one, or drop its block, if it knows what
//!   its friends after it would draw. Alone it does not: the opening block gives no seed. With all of
//!   that, and a third of the proposers, slashing begins at 6.8 % lacking; 3 % lacking cost 23 % of
//!   the pay instead of 39 %, and 30 % still 99 %. Who lacks everything gains nothing.
//! - *Copying*: all nodes are asked for pairs of their own, so nothing is passed on that helps. But
//!   nodes that share a disk pass as many.
//! - *Inconsistent blobs*: until the ledger knows, a node may show the chunk or the blob's name: two
//!   chains to choose from at each such step.
//! - *Members*: up to `f` shards of them that refuse, or lie, make no difference: others with more
//!   than `f` are left, and only with one honest acknowledgement is there a certificate. Above that
//!   they fail or pass whom they like. Nothing pays or punishes judging, so a third that
//!   acknowledges unseen is not noticed here.
//! - *A lazy third*: if more than `f` shards miss a round, nobody is slashed for it. They lose the
//!   pay of it all the same.
//!
//! A promise: a node that holds its slivers and, in at least 60 % of the rounds opened for it in an
//! epoch, runs and exchanges messages within the window with honest members of more than `f` shards
//! is not slashed; slashing takes 20 rounds or more that it has passed or that are not void, and more
//! than half of them missed. Who cannot tell the time is silent, not a false witness.
//!
//! Cost of a node for each round at 64 shards: 16 symbols read (of up to 71 KB), some 30 KB sent to
//! each of 2, 3, 6 or 22 members (4, 7, 16, 64 members: 90 to 960 MB a day), as many transcripts
//! judged (0.1 ms each), some signatures. It does not grow with blobs or their number, but for what
//! a draw takes (0.5 us among ten, 1.2 us among a million) and a larger symbol to read.
//!
//! # Where the design leaves a choice
//!
//! Drawn are symbols that are stored, as only these can be read one by one. Slices hold siblings
//! alone ([`crate::hash::slice`]): half of what bao's do, and one form. A step on a blob that is
//! proven inconsistent, but not yet on the ledger, stands on the blob's name, not on a proof's. A
//! member is silent on nodes whose seed's block it cannot time, not on all. A certificate with the
//! node's own acknowledgement is refused. For a void round all shards of a member count.

mod commitment;
mod parameters;
mod proof;
mod round;
mod rounds;
mod score;
mod seed;
mod transcript;
mod units;
mod universe;

pub(crate) use self::parameters::{INTERVAL_MIN_MS, SEED_HEIGHTS};
pub use self::{
    commitment::{
        ChallengeCertificate, ChallengeCertificateError, ChallengeFact, Commitment,
        MalformedCommitment,
    },
    parameters::{ChallengeParameters, STEPS_MAX},
    proof::{ChunkProof, StepError, StepProof},
    round::{
        Failure, Ignored, Joined, Joining, Progress, Round, RoundConfig, RoundInput, RoundOutput,
        Sight, Silence, Verification,
    },
    rounds::{EARLY_HEIGHTS, RoundOutputs, Rounds},
    score::{NotOpen, Outcome, RoundRecord, Score},
    seed::{Seeds, chain_start},
    transcript::{
        Answer, Challenge, TRANSCRIPT_BYTES_MAX, TranscriptError, Walk, WalkError,
        transcript_bytes_max,
    },
    units::BilledUnits,
    universe::{Place, Universe, challenged_shards},
};
