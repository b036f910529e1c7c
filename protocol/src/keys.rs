//! Keys and signatures: ed25519 for nodes and accounts, BLS12-381 for what a quorum signs together.
//!
//! A node has one ed25519 *node key* (its libp2p identity; its public half is the [`NodeId`]) and
//! one BLS key, whose storage confirmations aggregate into certificates. ed25519 signatures are
//! judged by ZIP-215 rules, so that every verifier agrees, single or in a batch. BLS keys and
//! signatures are checked for subgroup and identity when they are parsed or verified, and a key is
//! only ever aggregated after its proof of possession was verified.
//!
//! Invariant: every signed message starts with a [`SigningDomain`] tag, so no signature serves two
//! purposes. Secrets come from the caller as seeds: this crate draws no randomness. This is the
//! only file, with `batch` below it, that names `ed25519_zebra` and `blst`.

mod batch;

use std::fmt;

use blst::{BLST_ERROR, min_pk};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub(crate) use self::batch::SignatureBatch;
use crate::hash::Hash;

/// Length of a signing domain's tag.
pub const TAG_BYTES: usize = 32;

/// Ciphersuite of BLS votes: minimal public keys, proof of possession.
const BLS_DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Ciphersuite of BLS proofs of possession.
const BLS_POSSESSION_DST: &[u8] = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// What a signature is for: the first 32 bytes of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningDomain {
    /// A node confirms that it holds its pairs of a blob.
    StorageConfirmation,
    /// A node proves that it holds the secret of its BLS key.
    BlsPossession,
    /// An account signs a transaction.
    Transaction,
    /// A node agrees to be registered by an operator.
    NodeRegistration,
    /// A proposer's contribution to the beacon.
    Beacon,
    /// A committee member votes on a block.
    Vote,
    /// A committee member proposes a block.
    Proposal,
    /// A node reports that it follows the ledger.
    NodeReady,
    /// A node reports that it holds all of its shards' pairs.
    ShardsReady,
    /// A member attests that a blob is inconsistent.
    Invalidity,
    /// A member says which header was the last of its epoch.
    Handover,
    /// A member has checked a challenged node's transcript.
    ChallengeAcknowledgement,
}

impl SigningDomain {
    /// The tag: an ASCII label padded with zeros.
    #[must_use]
    pub fn tag(self) -> [u8; TAG_BYTES] {
        let label: &[u8] = match self {
            Self::StorageConfirmation => b"floe/1 storage confirmation",
            Self::BlsPossession => b"floe/1 bls possession",
            Self::Transaction => b"floe/1 transaction",
            Self::NodeRegistration => b"floe/1 node registration",
            Self::Beacon => b"floe/1 beacon",
            Self::Vote => b"floe/1 vote",
            Self::Proposal => b"floe/1 proposal",
            Self::NodeReady => b"floe/1 node ready",
            Self::ShardsReady => b"floe/1 shards ready",
            Self::Invalidity => b"floe/1 invalidity",
            Self::Handover => b"floe/1 handover",
            Self::ChallengeAcknowledgement => b"floe/1 challenge acknowledged",
        };
        let mut tag = [0; TAG_BYTES];
        tag[..label.len()].copy_from_slice(label);
        tag
    }

    /// The message to sign: the tag, then `parts`.
    #[must_use]
    pub fn message(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut message = self.tag().to_vec();
        for part in parts {
            message.extend_from_slice(part);
        }
        message
    }
}

/// A byte string that is no key or signature of the expected kind.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("not a valid {kind}")]
pub struct KeyError {
    kind: &'static str,
}

/// Fixed-size bytes: hexadecimal where people read (JSON), raw bytes in CBOR.
macro_rules! key_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr, $kind:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, borsh::BorshSerialize, borsh::BorshDeserialize,
        )]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps raw bytes, unchecked: verification refuses what is no point of the curve.
            #[must_use]
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
                let bytes = bytes.and_then(|bytes| <[u8; $len]>::try_from(bytes).ok());
                bytes.map(Self).ok_or(KeyError { kind: $kind })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                } else {
                    serde_bytes::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

key_bytes! {
    /// An ed25519 public key.
    PublicKey, 32, "ed25519 public key (64 hexadecimal digits)"
}
key_bytes! {
    /// An ed25519 signature.
    Signature, 64, "ed25519 signature (128 hexadecimal digits)"
}
key_bytes! {
    /// A BLS12-381 public key (a point of G1, compressed).
    BlsPublicKey, 48, "BLS public key (96 hexadecimal digits)"
}
key_bytes! {
    /// A BLS12-381 signature (a point of G2, compressed), of one signer or aggregated.
    BlsSignature, 96, "BLS signature (192 hexadecimal digits)"
}

/// The name of a node: its ed25519 public node key.
pub type NodeId = PublicKey;

impl PublicKey {
    /// Whether `signature` over `message` is this key's, by ZIP-215 rules.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_zebra::VerificationKey::try_from(self.0) else {
            return false;
        };
        key.verify(&ed25519_zebra::Signature::from(signature.0), message).is_ok()
    }
}

/// An ed25519 key pair.
#[derive(Clone)]
pub struct KeyPair {
    seed: [u8; 32],
    signing: ed25519_zebra::SigningKey,
    public: PublicKey,
}

impl KeyPair {
    /// The key pair of a secret seed of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let signing = ed25519_zebra::SigningKey::from(seed);
        let public = PublicKey(ed25519_zebra::VerificationKey::from(&signing).into());
        Self { seed, signing, public }
    }

    /// The secret seed, to be written to a key file.
    #[must_use]
    pub const fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs a message that starts with a [`SigningDomain`] tag.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.signing.sign(message).into())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A BLS key pair.
#[derive(Clone)]
pub struct BlsKeyPair {
    seed: [u8; 32],
    secret: min_pk::SecretKey,
    public: BlsPublicKey,
}

impl BlsKeyPair {
    /// The key pair of a secret seed of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let secret = min_pk::SecretKey::key_gen(&seed, &[]).expect("32 bytes are enough");
        let public = BlsPublicKey(secret.sk_to_pk().to_bytes());
        Self { seed, secret, public }
    }

    /// The secret seed, to be written to a key file.
    #[must_use]
    pub const fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> BlsPublicKey {
        self.public
    }

    /// Signs a message that starts with a [`SigningDomain`] tag.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> BlsSignature {
        BlsSignature(self.secret.sign(message, BLS_DST, &[]).to_bytes())
    }

    /// Proves to everyone that this node holds the secret, which makes aggregation with other
    /// keys safe.
    #[must_use]
    pub fn prove_possession(&self, node: &NodeId) -> BlsSignature {
        let message = possession_message(node, &self.public);
        BlsSignature(self.secret.sign(&message, BLS_POSSESSION_DST, &[]).to_bytes())
    }
}

impl fmt::Debug for BlsKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlsKeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

impl BlsPublicKey {
    /// Whether `signature` over `message` is this key's.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &BlsSignature) -> bool {
        self.verify_under(BLS_DST, message, signature)
    }

    /// Whether `proof` shows that `node` holds the secret of this key.
    #[must_use]
    pub fn verify_possession(&self, node: &NodeId, proof: &BlsSignature) -> bool {
        self.verify_under(BLS_POSSESSION_DST, &possession_message(node, self), proof)
    }

    fn verify_under(&self, dst: &[u8], message: &[u8], signature: &BlsSignature) -> bool {
        let Ok(key) = min_pk::PublicKey::key_validate(&self.0) else {
            return false;
        };
        let Ok(signature) = min_pk::Signature::sig_validate(&signature.0, true) else {
            return false;
        };
        signature.verify(false, message, dst, &[], &key, false) == BLST_ERROR::BLST_SUCCESS
    }
}

/// A BLS public key as a point of its curve, or not, if its bytes are none. Parsing takes 50
/// microseconds, a tenth of what checking a signature does.
#[derive(Clone, Copy, Debug)]
pub struct ParsedBlsKey(Option<min_pk::PublicKey>);

impl From<&BlsPublicKey> for ParsedBlsKey {
    fn from(key: &BlsPublicKey) -> Self {
        Self(min_pk::PublicKey::from_bytes(&key.0).ok())
    }
}

impl BlsSignature {
    /// Joins signatures over one message. Each must be a valid signature.
    ///
    /// # Errors
    /// [`KeyError`] if there are none or one is no point of the group.
    pub fn aggregate(signatures: &[Self]) -> Result<Self, KeyError> {
        let error = KeyError { kind: "BLS signature" };
        let parsed: Result<Vec<_>, _> = signatures
            .iter()
            .map(|signature| min_pk::Signature::sig_validate(&signature.0, true))
            .collect();
        let parsed = parsed.map_err(|_| error)?;
        let parsed: Vec<_> = parsed.iter().collect();
        let joined = min_pk::AggregateSignature::aggregate(&parsed, false).map_err(|_| error)?;
        Ok(Self(joined.to_signature().to_bytes()))
    }

    /// Whether this is the aggregate of signatures by exactly `keys` over `message`. The keys must
    /// have been verified with their proofs of possession, as a committee's are: they are not
    /// checked for subgroup and identity again. No keys, or one that is no point: never.
    #[must_use]
    pub fn verify_aggregate(&self, message: &[u8], keys: &[&ParsedBlsKey]) -> bool {
        let points: Option<Vec<_>> = keys.iter().map(|key| key.0.as_ref()).collect();
        let Some(points) = points else { return false };
        let Ok(signature) = min_pk::Signature::sig_validate(&self.0, true) else { return false };
        signature.fast_aggregate_verify(false, message, BLS_DST, &points)
            == BLST_ERROR::BLST_SUCCESS
    }
}

fn possession_message(node: &NodeId, key: &BlsPublicKey) -> Vec<u8> {
    SigningDomain::BlsPossession.message(&[node.as_bytes(), key.as_bytes()])
}

/// The hash of a genesis: names a network and is part of everything signed in it.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    borsh::BorshSerialize,
    borsh::BorshDeserialize,
)]
#[serde(transparent)]
pub struct ChainId(Hash);

impl ChainId {
    /// Wraps the hash of a genesis.
    #[must_use]
    pub const fn new(hash: Hash) -> Self {
        Self(hash)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Eight hexadecimal digits: part of protocol names and topics, so that networks never mix.
    #[must_use]
    pub fn short(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.as_bytes()[..4])
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ed25519_signatures_bind_key_and_message() {
        let key = KeyPair::from_seed([1; 32]);
        let signature = key.sign(b"message");
        assert!(key.public().verify(b"message", &signature));
        assert!(!key.public().verify(b"another", &signature));
        assert!(!KeyPair::from_seed([2; 32]).public().verify(b"message", &signature));
        assert!(!PublicKey::new([0xff; 32]).verify(b"message", &signature));
    }

    #[test]
    fn bls_aggregates_verify_for_exactly_their_signers() {
        let keys: Vec<_> = (1..=3).map(|seed| BlsKeyPair::from_seed([seed; 32])).collect();
        let publics: Vec<_> = keys.iter().map(BlsKeyPair::public).collect();
        let signatures: Vec<_> = keys.iter().map(|key| key.sign(b"m")).collect();
        let joined = BlsSignature::aggregate(&signatures).unwrap();
        let parsed: Vec<_> = publics.iter().map(ParsedBlsKey::from).collect();
        let parsed: Vec<_> = parsed.iter().collect();
        assert!(joined.verify_aggregate(b"m", &parsed));
        assert!(!joined.verify_aggregate(b"n", &parsed));
        assert!(!joined.verify_aggregate(b"m", &parsed[1..]));
        assert!(!joined.verify_aggregate(b"m", &[]));
        assert!(BlsSignature::aggregate(&[]).is_err());
        assert!(publics[0].verify(b"m", &signatures[0]));
        assert!(!publics[0].verify(b"m", &signatures[1]));
    }

    #[test]
    fn the_identity_is_no_key_and_no_signature() {
        let mut identity_key = [0; 48];
        identity_key[0] = 0xc0;
        let mut identity_signature = [0; 96];
        identity_signature[0] = 0xc0;
        let signature = BlsSignature::new(identity_signature);
        assert!(!BlsPublicKey::new(identity_key).verify(b"m", &signature));
        let identity = ParsedBlsKey::from(&BlsPublicKey::new(identity_key));
        assert!(!signature.verify_aggregate(b"m", &[&identity]));
        assert!(BlsSignature::aggregate(&[signature]).is_err());
    }

    #[test]
    fn possession_is_bound_to_the_node() {
        let (node, other) = (KeyPair::from_seed([1; 32]), KeyPair::from_seed([2; 32]));
        let key = BlsKeyPair::from_seed([3; 32]);
        let proof = key.prove_possession(&node.public());
        assert!(key.public().verify_possession(&node.public(), &proof));
        assert!(!key.public().verify_possession(&other.public(), &proof));
        // A vote is no proof of possession: the suites differ.
        let vote = key.sign(&possession_message(&node.public(), &key.public()));
        assert!(!key.public().verify_possession(&node.public(), &vote));
    }

    #[test]
    fn keys_parse_strictly() {
        let key = KeyPair::from_seed([1; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("12".parse::<PublicKey>().is_err());
        assert!(format!("{key}00").parse::<PublicKey>().is_err());
        let cbor = crate::codec::encode(&key, 100).unwrap();
        assert_eq!(cbor.len(), 34, "a byte string, not an array of numbers");
        assert_eq!(crate::codec::decode::<PublicKey>(&cbor, 100), Ok(key));
    }
}
