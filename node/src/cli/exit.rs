//! What an error means to whoever called: exit code, stable code, whether to try again, next step.
//!
//! Every error of the library that can reach a user is translated here and nowhere else. The codes
//! and the exit codes are part of the interface: scripts rely on them.

use std::{error::Error, fmt::Display, io, process::ExitCode};

use floe_protocol::{
    encoding::ConfigError,
    genesis::GenesisError,
    ledger::BlobState,
    light::{LightError, Unfit},
    message::{Refusal, RefusedOperation, SubmitError},
    transfer::{MemberFailure, StorePlanError},
};
use floe_storage::OpenError;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::size::human_bytes;
use crate::{
    AdoptError, ChainError, FirstStateError, NodeError,
    client::{ConnectError, LedgerError, LifetimeError, ReadError, StatusError, StoreError},
    key_file::KeyFileError,
    network::NetworkError,
};

const LOOK_AT_HEALTH: &str = "run `floe health` to see which nodes are down, and try again once \
                              more are up (in a local swarm: `floe-testnet start N`)";
const TOO_LARGE: &str = "larger files need archives, which this version does not have: split the \
                         file, or use a network with larger blobs";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    Verification,
    Temporary,
    Refused,
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Verification => 4,
            Exit::Temporary => 5,
            Exit::Refused => 6,
            Exit::Interrupted => 130,
        })
    }
}

/// An error as the user sees it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, code: &'static str, message: impl Display) -> Self {
        Self { exit, code, message: message.to_string(), hint: None }
    }

    pub(super) fn usage(code: &'static str, message: impl Display) -> Self {
        Self::new(Exit::Usage, code, message)
    }

    /// An error of the operating system, and what could not be done because of it.
    pub(super) fn io(what: impl Display, error: &io::Error) -> Self {
        let message = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(Exit::Failed, "file_not_found", message),
            io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Refused, "permission_denied", message)
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(Exit::Failed, "disk_full", message).hint("make room on the disk")
            }
            _ => Self::new(Exit::Failed, "io", message),
        }
    }

    /// The reader of our output has gone: nobody is left to be told.
    pub(super) fn broken_pipe() -> Self {
        Self::new(Exit::Done, "broken_pipe", "")
    }

    pub(super) fn interrupted(hint: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, "interrupted", "interrupted").hint(hint)
    }

    pub(super) fn too_large(what: &str, len: Option<u64>, max_bytes: u64) -> Self {
        let limit =
            format!("the limit of {} ({max_bytes} bytes) for one blob", human_bytes(max_bytes));
        let message = match len {
            Some(len) => {
                format!("{what} has {} ({len} bytes), more than {limit}", human_bytes(len))
            }
            None => format!("{what} has more than {limit}"),
        };
        Self::new(Exit::Failed, "too_large", message).hint(TOO_LARGE)
    }

    /// What the ledger's refusal of a transaction means.
    fn refused(refusal: SubmitError, text: String) -> Self {
        match refusal {
            SubmitError::Funds => Self::new(Exit::Refused, "funds", text)
                .hint("`floe wallet balance` shows what there is"),
            SubmitError::Full => Self::new(Exit::Temporary, "ledger_busy", text)
                .hint("the ledger has much to do: try again in a moment"),
            SubmitError::Refused(RefusedOperation::Price) => {
                Self::new(Exit::Refused, "price", text)
                    .hint("prices change with the epoch: ask for the price again")
            }
            _ => Self::new(Exit::Refused, "refused", text),
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    pub(super) const fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether nobody wants to hear of it.
    pub(super) fn is_quiet(&self) -> bool {
        self.exit == Exit::Done
    }
}

/// `{"code", "message", "retryable", "hint"}`; `hint` is null where there is none.
impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let retryable = matches!(self.exit, Exit::Temporary | Exit::Interrupted);
        let mut object = serializer.serialize_struct("error", 4)?;
        object.serialize_field("code", self.code)?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("retryable", &retryable)?;
        object.serialize_field("hint", &self.hint)?;
        object.end()
    }
}

/// An error with its causes, as far as it does not name them itself.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let cause_text = error.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        cause = error.source();
    }
    text
}

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

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let text = with_causes(&error);
        match error {
            ConnectError::Genesis(error) => error.into(),
            ConnectError::Network(error) => error.into(),
            ConnectError::Key(error) => error.into(),
            ConnectError::BootstrapAddress => Self::new(Exit::Failed, "bad_network_file", text)
                .hint("addresses look like /ip4/203.0.113.7/tcp/4950/p2p/12D3KooW…"),
            ConnectError::NoBootstrap => Self::new(Exit::Failed, "no_bootstrap", text).hint(
                "put the address that `floe node run` prints into \"bootstrap\" of the network file",
            ),
            ConnectError::NobodyAnswers { .. } => {
                Self::new(Exit::Temporary, "nobody_answers", text).hint(
                    "start the nodes (`floe node run`, in a local swarm `floe-testnet start N`), \
                     or check the network file's addresses and the way to them",
                )
            }
            ConnectError::Cpu(_) => Self::new(Exit::Failed, "cpu", text),
            ConnectError::Light(error) => error.into(),
            ConnectError::Ledger(error) => error.into(),
        }
    }
}

impl From<LightError> for Failure {
    fn from(error: LightError) -> Self {
        let text = with_causes(&error);
        match error {
            LightError::Genesis(error) => error.into(),
            LightError::TooOld { .. } => Self::new(Exit::Verification, "old_root", text).hint(
                "pass a checkpoint that you have from somebody you trust with --trust-checkpoint \
                 FILE (they make it with `floe info --checkpoint`), or insist with --trust-genesis",
            ),
            LightError::OtherChain | LightError::OtherHeader | LightError::OtherCommittee => {
                Self::new(Exit::Verification, "bad_checkpoint", text)
                    .hint("ask for the checkpoint again, and check --network")
            }
            LightError::Fork(_) => Self::new(Exit::Verification, "fork", text).hint(
                "stop: more than a third of a committee has lied; show this to the operators",
            ),
            _ => Self::new(Exit::Verification, "unproven", text),
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::from(&error)
    }
}

impl From<&LedgerError> for Failure {
    fn from(error: &LedgerError) -> Self {
        let text = with_causes(error);
        match error {
            LedgerError::Trust(error) => error.clone().into(),
            LedgerError::Unfit { unfit: Unfit::Clock { .. }, .. } => {
                Self::new(Exit::Failed, "clock", text).hint("set this machine's clock")
            }
            LedgerError::Unfit { .. } => {
                Self::new(Exit::Temporary, "old_header", text).hint(LOOK_AT_HEALTH)
            }
            LedgerError::NoAnswer { .. } => {
                Self::new(Exit::Temporary, "no_answer", text).hint(LOOK_AT_HEALTH)
            }
            LedgerError::Funds { .. } => Self::new(Exit::Refused, "funds", text).hint(
                "have WAL sent to the account (`floe wallet address`), or take some with `floe \
                 faucet` where the network has one",
            ),
            LedgerError::Refused { refusal, .. } => Self::refused(*refusal, text),
            LedgerError::Expired(_) | LedgerError::Displaced { .. } | LedgerError::Stale { .. } => {
                Self::new(Exit::Temporary, "not_committed", text).hint("try again")
            }
            LedgerError::Unsettled { id, .. } => Self::new(Exit::Temporary, "unsettled", text)
                .hint(format!("look later with `floe ledger tx {id}` before trying again")),
            LedgerError::Overflow => Self::usage("amount", text),
            LedgerError::Thread(error) => Self::io("cannot start a thread", error),
            LedgerError::Stopped => Self::new(Exit::Failed, "stopped", text),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = with_causes(&error);
        match error {
            StoreError::TooLarge { len, max_bytes } => {
                Self::too_large("blob", Some(len), max_bytes)
            }
            StoreError::Encoding(error) => error.into(),
            StoreError::Plan(StorePlanError::NoEpochs) => Self::usage("epochs", text),
            StoreError::Plan(StorePlanError::Invalid) => {
                Self::new(Exit::Verification, "inconsistent", text)
                    .hint("its writer made it wrong: have it stored again from the original")
            }
            StoreError::Ledger(error) => match &*error {
                LedgerError::Unsettled { .. } => Self::new(Exit::Temporary, "unsettled", text).hint(
                    "repeat the store, which pays once; if many nodes are down, `floe health` tells",
                ),
                error => Self::from(error),
            },
            StoreError::NoQuorum { n_shards, quorum_shards, failures, .. } => {
                let refused = |refusals: &[Refusal]| {
                    let refusal = |failure: &MemberFailure| match failure {
                        MemberFailure::Refused(refusal) => refusals.contains(refusal),
                        _ => false,
                    };
                    let weights = failures.iter().filter(|(_, _, failure)| refusal(failure));
                    weights.map(|(_, weight, _)| *weight).sum::<u16>() > n_shards - quorum_shards
                };
                if refused(&[Refusal::NotRegistered]) {
                    Self::new(Exit::Refused, "not_registered", text)
                        .hint("the registration may have lapsed: repeat the store")
                } else if refused(&[Refusal::StorageFull]) {
                    Self::new(Exit::Refused, "storage_full", text)
                        .hint("too many nodes are full: raise their --quota or add disk")
                } else {
                    Self::new(Exit::Temporary, "no_quorum", text).hint(format!(
                        "what was paid counts, repeat the store later: {LOOK_AT_HEALTH}"
                    ))
                }
            }
            StoreError::PriceRose { .. } => Self::new(Exit::Refused, "price", text)
                .hint("repeat the store to agree to the new price"),
            StoreError::EpochsTooShort => Self::new(Exit::Temporary, "epochs_too_short", text)
                .hint("what was paid counts: repeat the store"),
            StoreError::SameAs(_) => Self::new(Exit::Failed, "same_as", text),
        }
    }
}

impl From<LifetimeError> for Failure {
    fn from(error: LifetimeError) -> Self {
        let text = with_causes(&error);
        match error {
            LifetimeError::Ledger(error) => error.into(),
            LifetimeError::NotOwned { .. } => Self::new(Exit::NotFound, "not_owned", text)
                .hint("`floe list-blobs` shows what the account has"),
            LifetimeError::NotCertified { .. } => Self::new(Exit::Failed, "not_certified", text),
            LifetimeError::Permanent { .. } => Self::new(Exit::Refused, "permanent", text),
            LifetimeError::PriceRose { .. } => {
                Self::new(Exit::Refused, "price", text).hint("repeat it to agree to the new price")
            }
            LifetimeError::TooFarAhead { .. } => Self::usage("too_far_ahead", text),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = with_causes(&error);
        match error {
            ReadError::Status(error) => error.into(),
            ReadError::NotReadable { state: BlobState::Invalid, .. } => {
                Self::new(Exit::Verification, "inconsistent", text)
                    .hint("its writer made it wrong: have it stored again from the original")
            }
            ReadError::NotReadable { .. } => Self::new(Exit::NotFound, "not_readable", text)
                .hint("`floe blob-status ID` shows what the ledger knows of it"),
            ReadError::Range { .. } => Self::new(Exit::Failed, "range", text)
                .hint("`floe blob-status ID` prints the blob's size"),
            ReadError::TooFewSlivers { .. } => {
                Self::new(Exit::Temporary, "too_few_slivers", text).hint(LOOK_AT_HEALTH)
            }
            ReadError::CutOff { .. } => {
                Self::new(Exit::Failed, "incomplete", text).hint("try again")
            }
            ReadError::Inconsistent { .. } => Self::new(Exit::Verification, "inconsistent", text)
                .hint("its writer made it wrong: have it stored again from the original"),
        }
    }
}

impl From<StatusError> for Failure {
    fn from(error: StatusError) -> Self {
        let text = with_causes(&error);
        match error {
            StatusError::NotFound { .. } => Self::new(Exit::NotFound, "not_found", text)
                .hint("check the id, and that --network names the network where it was stored"),
            StatusError::Ledger(error) => error.into(),
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
