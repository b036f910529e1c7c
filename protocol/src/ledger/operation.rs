//! What a transaction can do, and the system operations that nodes send free of charge.
//!
//! Invariants: the byte layout is borsh's (canonical: one value, one encoding) in the order of the
//! fields here, fixed by golden vectors; lengths are bounded by [`MAX_TRANSACTION_BYTES`] before
//! anything is parsed, and what a list or text may hold is checked by [`Operation::check`].
//!
//! [`MAX_TRANSACTION_BYTES`]: super::MAX_TRANSACTION_BYTES

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use super::{AccountId, Amount, NodeReady, ShardsReady, TransactionError};
use crate::{
    blob::{BlobHeader, BlobId},
    certificate::Certificate,
    index::Epoch,
    keys::{BlsPublicKey, BlsSignature, ChainId, KeyPair, NodeId, Signature, SigningDomain},
    registration::RegistrationId,
    vote::Equivocation,
};

/// Longest name that an account may give a blob, in bytes.
pub const MAX_BLOB_NAME_BYTES: usize = 64;
/// Most addresses that a node may publish.
pub const MAX_NODE_ADDRESSES: usize = 8;
/// Longest address of a node, in bytes: enough for one over IPv6 and through a relay, with the
/// names of both.
pub const MAX_NODE_ADDRESS_BYTES: usize = 192;
/// All of a reward: commissions are counted in ten-thousandths.
pub const COMMISSION_BPS_MAX: u16 = 10_000;

/// What a node tells the network about itself, and how it votes on prices.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// Multiaddresses where it can be reached, best first.
    pub addresses: Vec<String>,
    /// Its part of a reward before delegators share the rest, in ten-thousandths.
    pub commission_bps: u16,
    /// The price that it votes for: FROST per unit and epoch.
    pub storage_price: Amount,
    /// The price that it votes for: FROST per unit, once.
    pub write_price: Amount,
    /// The capacity that it votes for, of the whole network, in units.
    pub capacity_units: u64,
}

impl NodeSettings {
    fn check(&self) -> Result<(), TransactionError> {
        let addresses = &self.addresses;
        if addresses.len() > MAX_NODE_ADDRESSES
            || addresses.iter().any(|a| a.is_empty() || a.len() > MAX_NODE_ADDRESS_BYTES)
            || self.commission_bps > COMMISSION_BPS_MAX
        {
            return Err(TransactionError::Field("settings"));
        }
        Ok(())
    }
}

/// A node's consent to be run for an operator, signed by both of its keys.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
pub struct NodeIdentity {
    /// Its node key.
    pub node: NodeId,
    /// Its BLS key.
    pub bls_key: BlsPublicKey,
    /// Proof that it holds the BLS secret.
    pub bls_possession: BlsSignature,
    /// The node key's signature over chain, operator, node key and BLS key.
    pub node_signature: Signature,
    /// The BLS key's signature over the same.
    pub bls_signature: BlsSignature,
}

impl NodeIdentity {
    /// The identity of a node that consents to be run for `operator`.
    #[must_use]
    pub fn new(
        chain: &ChainId,
        operator: &AccountId,
        node: &KeyPair,
        bls: &crate::keys::BlsKeyPair,
    ) -> Self {
        let message = identity_message(chain, operator, &node.public(), &bls.public());
        Self {
            node: node.public(),
            bls_key: bls.public(),
            bls_possession: bls.prove_possession(&node.public()),
            node_signature: node.sign(&message),
            bls_signature: bls.sign(&message),
        }
    }

    /// Whether both keys consented to `operator` on this chain, and the BLS secret is held.
    #[must_use]
    pub fn verify(&self, chain: &ChainId, operator: &AccountId) -> bool {
        let message = identity_message(chain, operator, &self.node, &self.bls_key);
        self.node.verify(&message, &self.node_signature)
            && self.bls_key.verify(&message, &self.bls_signature)
            && self.bls_key.verify_possession(&self.node, &self.bls_possession)
    }
}

fn identity_message(
    chain: &ChainId,
    operator: &AccountId,
    node: &NodeId,
    bls_key: &BlsPublicKey,
) -> Vec<u8> {
    SigningDomain::NodeRegistration.message(&[
        chain.as_bytes(),
        operator.key().as_bytes(),
        node.as_bytes(),
        bls_key.as_bytes(),
    ])
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// Pays another account.
    Transfer {
        /// Who receives.
        to: AccountId,
        /// How much.
        amount: Amount,
    },
    /// Enters a storage node; the sender becomes its operator.
    RegisterNode {
        /// Its keys and their consent.
        identity: Box<NodeIdentity>,
        /// What it offers.
        settings: NodeSettings,
    },
    /// Changes a node's settings, from the next selection on. By its operator.
    UpdateNode {
        /// The node.
        node: NodeId,
        /// What it offers from now on.
        settings: NodeSettings,
    },
    /// Ends a jail term that has been served. By the node's operator.
    Unjail {
        /// The node.
        node: NodeId,
    },
    /// Puts WAL into a node's pool.
    Stake {
        /// The node.
        node: NodeId,
        /// How much.
        amount: Amount,
    },
    /// Takes shares out of a node's pool; what they are worth is paid after unbonding.
    Unstake {
        /// The node.
        node: NodeId,
        /// Pool shares, not FROST.
        shares: u128,
    },
    /// Pays out what has been unbonded.
    Withdraw {
        /// The node.
        node: NodeId,
    },
    /// Pays for storing a blob. Refused if a registration of the sender's serves already, so that a
    /// store that is repeated pays once.
    RegisterBlob {
        /// The blob's header.
        header: BlobHeader,
        /// For how many epochs, the running one included.
        epochs: u32,
        /// Whether it may be deleted before its end.
        deletable: bool,
        /// The most that this may cost: prices may change with the epoch.
        max_payment: Amount,
    },
    /// Commits a quorum's word that a registered blob is stored: the point of availability.
    CertifyBlob {
        /// The registration.
        registration: RegistrationId,
        /// A [`Certificate`] in its byte layout.
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    /// Moves a certified registration's end.
    ExtendBlob {
        /// The registration.
        registration: RegistrationId,
        /// The end that it has now, so that two extensions decided at once do not both count.
        end: Epoch,
        /// By how many epochs.
        epochs: u32,
        /// The most that this may cost.
        max_payment: Amount,
    },
    /// Ends a deletable registration at once; epochs not begun are refunded.
    DeleteBlob {
        /// The registration.
        registration: RegistrationId,
    },
    /// Gives a registration to another account.
    TransferBlob {
        /// The registration.
        registration: RegistrationId,
        /// The new owner.
        to: AccountId,
    },
    /// Lets a name of the sender point at a blob, or at nothing.
    SetName {
        /// The name, unique among the sender's.
        name: String,
        /// What it points at.
        blob: Option<BlobId>,
        /// The version that this makes: one more than the present one, so that two changes made
        /// at once do not overwrite each other unseen.
        version: u64,
    },
}

impl Operation {
    /// Its name, as people and metrics know it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Transfer { .. } => "transfer",
            Self::RegisterNode { .. } => "register_node",
            Self::UpdateNode { .. } => "update_node",
            Self::Unjail { .. } => "unjail",
            Self::Stake { .. } => "stake",
            Self::Unstake { .. } => "unstake",
            Self::Withdraw { .. } => "withdraw",
            Self::RegisterBlob { .. } => "register_blob",
            Self::CertifyBlob { .. } => "certify_blob",
            Self::ExtendBlob { .. } => "extend_blob",
            Self::DeleteBlob { .. } => "delete_blob",
            Self::TransferBlob { .. } => "transfer_blob",
            Self::SetName { .. } => "set_name",
        }
    }

    /// Checks what needs no state: lengths, ranges and the shape of certificates.
    pub(super) fn check(&self) -> Result<(), TransactionError> {
        let field = TransactionError::Field;
        match self {
            Self::RegisterNode { settings, .. } | Self::UpdateNode { settings, .. } => {
                settings.check()
            }
            Self::RegisterBlob { epochs: 0, .. } | Self::ExtendBlob { epochs: 0, .. } => {
                Err(field("epochs"))
            }
            Self::Transfer { amount, .. } | Self::Stake { amount, .. } if amount.is_zero() => {
                Err(field("amount"))
            }
            Self::Unstake { shares: 0, .. } => Err(field("shares")),
            Self::CertifyBlob { registration, certificate } => {
                match Certificate::from_bytes(certificate) {
                    Ok(certificate) if certificate.fact.registration == *registration => Ok(()),
                    _ => Err(field("certificate")),
                }
            }
            Self::SetName { name, version, .. } => {
                let printable = name.chars().all(|c| !c.is_control() && c != '/');
                if name.is_empty() || name.len() > MAX_BLOB_NAME_BYTES || !printable {
                    return Err(field("name"));
                }
                if *version == 0 { Err(field("version")) } else { Ok(()) }
            }
            Self::Transfer { .. }
            | Self::Stake { .. }
            | Self::Unjail { .. }
            | Self::Unstake { .. }
            | Self::Withdraw { .. }
            | Self::RegisterBlob { .. }
            | Self::ExtendBlob { .. }
            | Self::DeleteBlob { .. }
            | Self::TransferBlob { .. } => Ok(()),
        }
    }
}

/// What nodes tell the ledger free of fee and nonce. At most one of a kind per node and epoch, or
/// round of challenges, is executed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum SystemOperation {
    /// A member voted twice: it is slashed and jailed.
    ReportEquivocation {
        /// Its two votes.
        equivocation: Equivocation,
    },
    /// A node follows the ledger and can be selected.
    NodeReady {
        /// Its report.
        report: NodeReady,
    },
    /// A node holds every pair of shards that it has gained.
    ShardsReady {
        /// Its report.
        report: ShardsReady,
    },
    /// A blob is inconsistent: more than `f` shards of the committee have verified the proof.
    InvalidateBlob {
        /// An [`InvalidityCertificate`](crate::invalidity::InvalidityCertificate) in its byte
        /// layout.
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    /// A member has passed a round of storage challenges: others with more than `f` shards have
    /// acknowledged it.
    PassChallenge {
        /// A [`ChallengeCertificate`](crate::challenge::ChallengeCertificate) in its byte layout.
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
}
