//! What the errors of a client mean: connecting, the ledger, storing, reading.

use floe_protocol::{
    ledger::BlobState,
    light::{LightError, Unfit},
    message::Refusal,
    transfer::{MemberFailure, StorePlanError},
};

use super::{Exit, Failure, with_causes};
use crate::client::{ConnectError, LedgerError, LifetimeError, ReadError, StatusError, StoreError};

const LOOK_AT_HEALTH: &str = "run `floe health` to see which nodes are down, and try again once \
                              more are up (in a local swarm: `floe-testnet start N`)";

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
