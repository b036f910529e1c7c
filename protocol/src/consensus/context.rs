//! Our types in the shape that Malachite's core asks for.
//!
//! Nothing is decided here. The core never sees a key, a header or a body: a value is the hash of
//! a block, a proposal is where and when it was proposed, and who signed what is checked before
//! anything is fed to the core.

use std::convert::Infallible;

use malachite_types::{
    LinearTimeouts, NilOrVal, Round, SignedExtension, SignedMessage, SigningScheme, VoteType,
};

use super::validators::{Validator, Validators};
use crate::{
    index::Height,
    keys::{NodeId, PublicKey, Signature},
    ledger::BlockHash,
    vote::{SignedVote, Vote, VoteKind},
};

/// The types that the core runs on.
#[derive(Clone, Debug)]
pub(super) struct Context;

/// A signed vote as the core holds it.
pub(super) type CoreSignedVote = SignedMessage<Context, CoreVote>;

impl malachite_types::Context for Context {
    type Address = NodeId;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = CoreProposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = LinearTimeouts;
    type Value = BlockHash;
    type Vote = CoreVote;
    type Extension = ();
    type SigningScheme = Ed25519;

    fn select_proposer<'a>(
        &self,
        validators: &'a Validators,
        _height: Height,
        round: Round,
    ) -> &'a Validator {
        // The set was made for one height, with its order of proposers.
        validators.proposer(number(round))
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: BlockHash,
        pol_round: Round,
        proposer: NodeId,
    ) -> CoreProposal {
        CoreProposal { height, round, value, pol_round, proposer }
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockHash>,
        voter: NodeId,
    ) -> CoreVote {
        CoreVote { height, round, kind: VoteType::Prevote, value, voter }
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<BlockHash>,
        voter: NodeId,
    ) -> CoreVote {
        CoreVote { height, round, kind: VoteType::Precommit, value, voter }
    }
}

/// The number of a round that has begun.
pub(super) fn number(round: Round) -> u32 {
    round.as_u32().unwrap_or(0)
}

impl malachite_types::Height for Height {
    const ZERO: Self = Self::new(0);
    const INITIAL: Self = Self::new(1);

    fn increment_by(&self, n: u64) -> Self {
        Self::new(self.get().saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.get().checked_sub(n).map(Self::new)
    }

    fn as_u64(&self) -> u64 {
        self.get()
    }
}

impl malachite_types::Address for NodeId {}

impl malachite_types::Value for BlockHash {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

impl malachite_types::Validator<Context> for Validator {
    fn address(&self) -> &NodeId {
        &self.node
    }

    fn public_key(&self) -> &PublicKey {
        &self.node
    }

    fn voting_power(&self) -> u64 {
        self.weight
    }
}

impl malachite_types::ValidatorSet<Context> for Validators {
    fn count(&self) -> usize {
        self.all().len()
    }

    fn total_voting_power(&self) -> u64 {
        self.total()
    }

    fn get_by_address(&self, address: &NodeId) -> Option<&Validator> {
        self.get(address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.all().get(index)
    }
}

/// Where a block was proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoreProposal {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: BlockHash,
    pub(super) pol_round: Round,
    pub(super) proposer: NodeId,
}

impl malachite_types::Proposal<Context> for CoreProposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockHash {
        &self.value
    }

    fn take_value(self) -> BlockHash {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &NodeId {
        &self.proposer
    }
}

/// A vote with the core's enums: the trait hands out references to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CoreVote {
    height: Height,
    round: Round,
    kind: VoteType,
    value: NilOrVal<BlockHash>,
    voter: NodeId,
}

impl CoreVote {
    /// The vote that is signed and sent.
    pub(super) fn to_vote(&self) -> Vote {
        let kind = match self.kind {
            VoteType::Prevote => VoteKind::Prevote,
            VoteType::Precommit => VoteKind::Precommit,
        };
        let block = match self.value {
            NilOrVal::Nil => None,
            NilOrVal::Val(block) => Some(block),
        };
        Vote { height: self.height, round: number(self.round), kind, block, voter: self.voter }
    }
}

impl From<Vote> for CoreVote {
    fn from(vote: Vote) -> Self {
        let kind = match vote.kind {
            VoteKind::Prevote => VoteType::Prevote,
            VoteKind::Precommit => VoteType::Precommit,
        };
        let value = vote.block.map_or(NilOrVal::Nil, NilOrVal::Val);
        Self { height: vote.height, round: vote.round.into(), kind, value, voter: vote.voter }
    }
}

/// A signed vote for the core.
pub(super) fn to_core(signed: &SignedVote) -> CoreSignedVote {
    SignedMessage::new(signed.vote.into(), signed.signature)
}

/// A signed vote from the core.
pub(super) fn from_core(signed: &CoreSignedVote) -> SignedVote {
    SignedVote { vote: signed.message.to_vote(), signature: signed.signature }
}

impl malachite_types::Vote<Context> for CoreVote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BlockHash> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<BlockHash> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &NodeId {
        &self.voter
    }

    // Vote extensions are disabled: nothing to keep.
    fn extension(&self) -> Option<&SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Context>> {
        None
    }

    fn extend(self, _extension: SignedExtension<Context>) -> Self {
        self
    }
}

/// Bodies travel beside the core: it sees no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoPart {}

impl malachite_types::ProposalPart<Context> for NoPart {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

/// Node keys and their signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ed25519;

/// Bytes of a wrong length.
#[derive(Debug, thiserror::Error)]
#[error("wrong length")]
pub(super) struct WrongLength;

impl SigningScheme for Ed25519 {
    type DecodingError = WrongLength;
    type Signature = Signature;
    type PublicKey = PublicKey;
    /// The core never holds a secret.
    type PrivateKey = Infallible;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, WrongLength> {
        bytes.try_into().map(Signature::new).map_err(|_| WrongLength)
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, WrongLength> {
        bytes.try_into().map(PublicKey::new).map_err(|_| WrongLength)
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}
