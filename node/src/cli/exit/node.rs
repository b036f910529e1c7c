//! What the errors of keys, networks, stores and nodes mean.

use std::io;

use floe_protocol::{encoding::ConfigError, genesis::GenesisError};
use floe_storage::OpenError;

use super::{Exit, Failure, with_causes};
use crate::{
    AdoptError, ChainError, FirstStateError, NodeError, key_file::KeyFileError,
    network::NetworkError,
};

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let text = with_causes(&error);
        match error {
            KeyFileError::NotFound { .. } => Self::usage("key_not_found", text)
                .hint("a node's is made by `floe node init`, a wallet by `floe wallet new`"),
            KeyFileError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Refused, "permission_denied", text)
                    .hint("run as the owner of the key, in a directory that it may write")
            }
            KeyFileError::Io { .. } => Self::new(Exit::Failed, "key_io", text),
            KeyFileError::Exists { .. } => Self::new(Exit::Failed, "key_exists", text)
                .hint("choose another name, or move the old key away"),
            KeyFileError::Permissions { path, .. } => Self::new(
                Exit::Refused,
                "key_permissions",
                text,
            )
            .hint(format!(
                "a key is a secret: chmod 600 {}, and make a new one if others may have read it",
                path.display()
            )),
            KeyFileError::Malformed { expected, .. } => {
                Self::new(Exit::Failed, "key_malformed", text)
                    .hint(format!("name the file of a {expected} key"))
            }
            KeyFileError::Locked { .. } => Self::new(Exit::Failed, "key_locked", text)
                .hint("the node is running already: stop it first, or run another node with --dir"),
            KeyFileError::Randomness(_) => Self::new(Exit::Failed, "randomness", text),
            KeyFileError::Journal(_) => Self::new(Exit::Failed, "vote_journal", text),
        }
    }
}

impl From<GenesisError> for Failure {
    fn from(error: GenesisError) -> Self {
        let failure = Self::new(Exit::Failed, "bad_genesis", format!("invalid genesis: {error}"));
        match error {
            GenesisError::Committee(floe_protocol::committee::CommitteeError::Cap { .. }) => {
                failure.hint("add members, or stake more evenly: at least 4 nodes share the shards")
            }
            _ => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Shards(_) => Self::usage("n_shards", error),
            ConfigError::BlobTooLarge { len, max_bytes, .. } => {
                Self::too_large("blob", Some(len), max_bytes)
            }
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        let text = with_causes(&error);
        match error {
            NetworkError::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Self::new(Exit::Failed, "port_in_use", text).hint(
                    "another process has the port: stop it, or listen elsewhere with --listen",
                ),
                io::ErrorKind::PermissionDenied => Self::new(Exit::Refused, "listen", text)
                    .hint("ports below 1024 belong to root: choose a higher one with --listen"),
                _ => Self::new(Exit::Failed, "listen", text)
                    .hint("name an address of this machine with --listen"),
            },
            NetworkError::UnsupportedAddress(_) => Self::usage("bad_address", text).hint(
                "write addresses like /ip4/0.0.0.0/tcp/4950 or /ip4/0.0.0.0/udp/4950/quic-v1",
            ),
            _ => Self::new(Exit::Failed, "network", text),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let text = with_causes(&error);
        match error {
            OpenError::Locked { .. } => Self::new(Exit::Failed, "store_locked", text)
                .hint("each node needs a store of its own: --store DIR"),
            OpenError::NotADirectory { .. } => {
                Self::new(Exit::Failed, "store_dir", text).hint("name a directory with --store DIR")
            }
            OpenError::NotWritable { .. } => Self::new(Exit::Refused, "store_not_writable", text)
                .hint("give the node's user write access, or name another directory with --store"),
            OpenError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Self::new(Exit::Refused, "store_not_writable", text)
                        .hint("give the node's user access, or name another directory with --store")
                }
                _ => Self::new(Exit::Failed, "store_io", text),
            },
            OpenError::Corrupt { .. } => Self::new(Exit::Verification, "store_damaged", text).hint(
                "check the disk; move the store away and start with --repair: the node begins with \
                 an empty store and refills it from the swarm",
            ),
            OpenError::Emptied { .. } => Self::new(Exit::Refused, "store_emptied", text).hint(
                "mount the disk; if what was on it is lost, --repair starts with an empty store \
                 and refills it from the swarm",
            ),
            OpenError::OtherNode { .. } => Self::new(Exit::Refused, "store_of_other_node", text)
                .hint("check --dir and --store"),
            OpenError::Version { .. } => Self::new(Exit::Failed, "store_version", text),
        }
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        let text = with_causes(&error);
        match error {
            ChainError::Open(error) => error.into(),
            ChainError::FirstState(FirstStateError::Missing | FirstStateError::NobodyHasIt) => {
                Self::new(Exit::Failed, "no_first_state", text).hint(
                    "put the .state file that `floe genesis --from-state` has written beside the \
                     network file, or name a running node with --peer",
                )
            }
            ChainError::FirstState(_) => Self::new(Exit::Failed, "bad_first_state", text)
                .hint("get the .state file that belongs to the network file again"),
            _ => Self::new(Exit::Failed, "ledger", text),
        }
    }
}

impl From<AdoptError> for Failure {
    fn from(error: AdoptError) -> Self {
        let text = with_causes(&error);
        match error {
            AdoptError::Open(error) => error.into(),
            AdoptError::Ahead { .. } => Self::new(Exit::Refused, "ledger_ahead", text).hint(
                "make the genesis anew from this node with `floe genesis --from-state latest`; if \
                 people have decided to go on from the earlier state, run with --abandon-blocks",
            ),
            AdoptError::OtherBlock(_) | AdoptError::NotPredecessor { .. } => {
                Self::new(Exit::Refused, "other_network", text)
                    .hint("check the network file; nothing of this node has been changed")
            }
            _ => Self::new(Exit::Failed, "adopt", text),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let text = with_causes(&error);
        match error {
            NodeError::Key(error) => error.into(),
            NodeError::Genesis(error) => error.into(),
            NodeError::Store(error) => error.into(),
            NodeError::Network(error) => error.into(),
            NodeError::Bootstrap(_) => Self::new(Exit::Failed, "bad_network_file", text)
                .hint("addresses look like /ip4/203.0.113.7/tcp/4950/p2p/12D3KooW…"),
            NodeError::Ledger(error) => error.into(),
            NodeError::Adopt(error) => error.into(),
            NodeError::Thread(_) => Self::new(Exit::Failed, "thread", text),
            NodeError::Cpu(_) => Self::new(Exit::Failed, "cpu", text),
            NodeError::Interrupted => Self::new(Exit::Interrupted, "interrupted", text),
        }
    }
}
