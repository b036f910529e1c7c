//! What happened in a block, for those who follow the ledger: nodes, wallets, explorers.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{AccountId, Amount, Prices};
use crate::{
    blob::BlobId,
    challenge::{Outcome, Score},
    hash::{Domain, Hash},
    index::{ChallengeRound, Epoch, ShardIndex},
    keys::NodeId,
    registration::RegistrationId,
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// WAL changed hands.
    Transferred {
        /// Who paid.
        from: AccountId,
        /// Who received.
        to: AccountId,
        /// How much.
        amount: Amount,
    },
    /// A storage node entered the registry.
    NodeRegistered {
        /// The node.
        node: NodeId,
    },
    /// A node changed its settings.
    NodeUpdated {
        /// The node.
        node: NodeId,
    },
    /// A node left its jail.
    NodeUnjailed {
        /// The node.
        node: NodeId,
    },
    /// A node did wrong: a part of its pool, and of what is on its way out, was burned.
    NodeSlashed {
        /// The node.
        node: NodeId,
        /// What was burned.
        burned: Amount,
        /// Why.
        reason: SlashReason,
    },
    /// A node was jailed: it earns nothing and is not selected until its operator frees it.
    NodeJailed {
        /// The node.
        node: NodeId,
    },
    /// WAL was staked.
    Staked {
        /// Whose.
        account: AccountId,
        /// The node.
        node: NodeId,
        /// How much.
        amount: Amount,
        /// The first epoch in which it is in the pool.
        active: Epoch,
    },
    /// WAL is leaving a pool.
    Unstaked {
        /// Whose.
        account: AccountId,
        /// The node.
        node: NodeId,
        /// What it is worth now.
        amount: Amount,
        /// The first epoch in which it can be withdrawn.
        until: Epoch,
    },
    /// Unbonded stake was paid.
    Withdrawn {
        /// To whom.
        account: AccountId,
        /// The node.
        node: NodeId,
        /// How much.
        amount: Amount,
    },
    /// A blob was registered and paid for.
    BlobRegistered {
        /// The registration.
        registration: RegistrationId,
        /// The blob.
        blob: BlobId,
        /// Whose.
        owner: AccountId,
        /// The first epoch that it no longer covers.
        end: Epoch,
        /// What it cost.
        paid: Amount,
    },
    /// A quorum holds a blob: the swarm answers for it.
    BlobCertified {
        /// The registration.
        registration: RegistrationId,
        /// The blob.
        blob: BlobId,
        /// The first epoch that it no longer covers.
        end: Epoch,
    },
    /// A registration lives longer.
    BlobExtended {
        /// The registration.
        registration: RegistrationId,
        /// The blob.
        blob: BlobId,
        /// The first epoch that it no longer covers.
        end: Epoch,
        /// What it cost.
        paid: Amount,
    },
    /// A registration has a new owner.
    BlobTransferred {
        /// The registration.
        registration: RegistrationId,
        /// Who owned it.
        from: AccountId,
        /// Who owns it.
        to: AccountId,
    },
    /// A registration ended: deleted, lapsed or expired.
    RegistrationEnded {
        /// The registration.
        registration: RegistrationId,
        /// The blob.
        blob: BlobId,
        /// What was paid back to its owner.
        refund: Amount,
        /// Why.
        reason: EndReason,
    },
    /// No registration of a blob is left: its slivers can go.
    BlobEnded {
        /// The blob.
        blob: BlobId,
    },
    /// A name points elsewhere.
    NameSet {
        /// Whose.
        account: AccountId,
        /// The name.
        name: String,
        /// What it points at.
        blob: Option<BlobId>,
    },
    /// The next epoch's prices are fixed.
    EpochSelected {
        /// The next epoch.
        epoch: Epoch,
        /// Its prices.
        prices: Prices,
    },
    /// No committee can be formed of those who stand for one: the running one stays.
    SelectionFailed {
        /// The next epoch.
        epoch: Epoch,
    },
    /// A node reported that it follows the ledger.
    NodeReported {
        /// The node.
        node: NodeId,
        /// The running epoch.
        epoch: Epoch,
    },
    /// Shards that had moved are complete with their holder.
    ShardsCompleted {
        /// The holder.
        node: NodeId,
        /// The shards.
        shards: Vec<ShardIndex>,
    },
    /// A blob is inconsistent: it reads as invalid everywhere, its slivers can go.
    BlobInvalidated {
        /// The blob.
        blob: BlobId,
    },
    /// A member was paid for the ended epoch.
    RewardPaid {
        /// The member.
        node: NodeId,
        /// The epoch.
        epoch: Epoch,
        /// What its pool got.
        reward: Amount,
        /// What its operator's account got.
        commission: Amount,
        /// How it did in the epoch's challenges: the part of its pay that it has earned.
        score: Score,
    },
    /// The first block after this one belongs to a new epoch.
    EpochChanged {
        /// The new epoch.
        epoch: Epoch,
    },
    /// A round of storage challenges began: nodes have to show what they hold.
    ChallengeOpened {
        /// The round: the height of this block.
        round: ChallengeRound,
    },
    /// A node has passed a round: other members have acknowledged it.
    ChallengePassed {
        /// The round.
        round: ChallengeRound,
        /// The node.
        node: NodeId,
    },
    /// A round is over: certificates of it count no more.
    ChallengeClosed {
        /// The round.
        round: ChallengeRound,
        /// What it came to, by position in the running committee.
        outcomes: Vec<Outcome>,
    },
}

/// Why a node was slashed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SlashReason {
    /// It voted twice.
    Equivocation,
    /// It missed more than half of an epoch's challenges.
    Challenges,
}

/// Why a registration ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its owner deleted it.
    Deleted,
    /// It was never certified.
    Lapsed,
    /// Its last epoch is over.
    Expired,
}

/// Events of a block: of each operation's bundle, in order, then of the block itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct BlockEvents {
    /// Of each system operation, then of each transaction, then of the end of the block.
    pub groups: Vec<Vec<Event>>,
}

impl BlockEvents {
    /// Merkle root over the groups' hashes.
    #[must_use]
    pub fn root(&self) -> Hash {
        let leaves = self.groups.iter().map(|events| {
            Domain::Events.hash(&[&borsh::to_vec(events).expect("writing to memory")])
        });
        super::block::root(Domain::EventNode, leaves.collect())
    }

    /// All events, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.groups.iter().flatten()
    }
}
