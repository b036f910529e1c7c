//! What a node that joins does next, and what it waits for: a pure function of what its own ledger
//! says.
//!
//! Nothing is remembered between two steps, so that a node that is started again goes on where it
//! was. Each step asks for one thing at most, and only for what the ledger does not say yet:
//! whoever repeats a step pays once.

use std::fmt;

use floe_protocol::{
    index::Epoch,
    ledger::{AccountId, Amount, Node},
};
use serde::Serialize;

use crate::cli::status_line::{Status, human_wait, shards_of};

/// A ledger whose last block is older than this, in heartbeats, is not followed.
const SILENT_HEARTBEATS: u64 = 3;

/// What the volunteer wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Who registers the node, and stakes.
    pub(super) account: AccountId,
    /// The node's pool is to hold this much.
    pub(super) stake: Option<Amount>,
    /// Addresses to publish; empty: whatever is published stays.
    pub(super) addresses: Vec<String>,
}

/// What the node's ledger says.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) height: u64,
    /// The newest height that anybody has told of, believed by nobody.
    pub(super) newest: Option<u64>,
    /// The age of the last block; none before the first one.
    pub(super) age_ms: Option<u64>,
    pub(super) heartbeat_ms: u64,
    pub(super) epoch: u64,
    /// Until the next deadline of the epoch, its half or its end; and the duration of an epoch.
    pub(super) deadline_ms: u64,
    pub(super) epoch_ms: u64,
    /// Whether the next committee is selected, and with how many shards of this node.
    pub(super) selected: Option<u16>,
    pub(super) balance: Amount,
    pub(super) fee: Amount,
    pub(super) min_stake: Amount,
    /// How long a node stays jailed.
    pub(super) jail_epochs: u32,
    pub(super) node: Option<Node>,
    /// Shards of the node in the running committee, and how many of them are ready.
    pub(super) shards: u16,
    pub(super) ready: u16,
    pub(super) pairs: u64,
    pub(super) missing_pairs: u64,
}

/// What is to be done on the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Register,
    Update,
    Stake(Amount),
    Unjail,
}

/// What the node waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(super) enum Waiting {
    Following { height: u64, newest: Option<u64>, age_ms: Option<u64> },
    Wal { account: AccountId, needed_frost: Amount, balance_frost: Amount },
    Registration,
    Staking { amount_frost: Amount },
    Stake { pool_frost: Amount, needed_frost: Amount },
    Jail { since_epoch: u64, until_epoch: u64 },
    Closed,
    Selection { in_ms: u64, passed_over: bool },
    Selected { epoch: u64, shards: u16, in_ms: u64 },
    Copying { shards: u16, ready: u16, pairs: u64, missing_pairs: u64 },
    Repairing { shards: u16, pairs: u64, missing_pairs: u64 },
    Serving { shards: u16, leaves: bool },
}

/// What to do now, and what to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) action: Option<Action>,
    pub(super) waiting: Waiting,
}

/// The next step.
pub(super) fn next(facts: &Facts, wanted: &Wanted) -> Step {
    let wait = |waiting| Step { action: None, waiting };
    let silent_ms = facts.heartbeat_ms.saturating_mul(SILENT_HEARTBEATS).max(30_000);
    if facts.age_ms.is_none_or(|age| age > silent_ms) {
        let Facts { height, newest, age_ms, .. } = *facts;
        return wait(Waiting::Following { height, newest, age_ms });
    }
    let (action, cost) = match to_do(facts, wanted) {
        (None, _) => return wait(serving(facts)),
        (Some(action), cost) => (action, cost),
    };
    if cost.is_none_or(|cost| cost > facts.balance) {
        // A member goes on serving although its operator cannot pay for what was wished.
        if facts.shards > 0 {
            return wait(serving(facts));
        }
        // What comes into the wallet may be in a block that has not been seen.
        if facts.newest.is_some_and(|newest| newest > facts.height.saturating_add(1)) {
            let Facts { height, newest, age_ms, .. } = *facts;
            return wait(Waiting::Following { height, newest, age_ms });
        }
        return wait(Waiting::Wal {
            account: wanted.account,
            needed_frost: cost.unwrap_or(Amount::ZERO),
            balance_frost: facts.balance,
        });
    }
    let waiting = match (&action, facts.shards) {
        (Action::Register, _) => Waiting::Registration,
        (Action::Stake(amount), 0) => Waiting::Staking { amount_frost: *amount },
        _ => serving(facts),
    };
    Step { action: Some(action), waiting }
}

/// Whether the node has the stake that was wished for.
pub(super) fn has_staked(facts: &Facts, wanted: &Wanted) -> bool {
    let has = facts.node.as_ref().map(|node| with_incoming(facts, node));
    wanted.stake.is_some_and(|stake| has.is_some_and(|has| has >= stake))
}

/// What is missing on the ledger, and what the wallet needs for all of it.
fn to_do(facts: &Facts, wanted: &Wanted) -> (Option<Action>, Option<Amount>) {
    let pool = facts.node.as_ref().map_or(Amount::ZERO, |node| with_incoming(facts, node));
    let stake = wanted.stake.and_then(|stake| stake.checked_sub(pool));
    let stake = stake.filter(|missing| !missing.is_zero());
    let Some(node) = &facts.node else {
        let fees = facts.fee.checked_mul(if stake.is_some() { 2 } else { 1 });
        let all = fees.and_then(|fees| fees.checked_add(stake.unwrap_or_default()));
        return (Some(Action::Register), all);
    };
    if let Some(missing) = stake.filter(|_| !node.closed) {
        return (Some(Action::Stake(missing)), missing.checked_add(facts.fee));
    }
    let until = node.jailed.map(|since| since.plus(facts.jail_epochs.into()).get());
    let is_over = until.is_some_and(|until| facts.epoch >= until);
    if is_over && !node.closed && node.operator == wanted.account {
        return (Some(Action::Unjail), Some(facts.fee));
    }
    let addresses = &wanted.addresses;
    let moved = !addresses.is_empty() && node.settings.addresses != *addresses;
    if moved && node.operator == wanted.account {
        return (Some(Action::Update), Some(facts.fee));
    }
    (None, Some(Amount::ZERO))
}

/// A node's stake with all that is on its way in.
fn with_incoming(facts: &Facts, node: &Node) -> Amount {
    node.stake_in(Epoch::new(facts.epoch).plus(2))
}

/// What a registered node waits for, or that it serves.
fn serving(facts: &Facts) -> Waiting {
    let Facts { shards, ready, pairs, missing_pairs, deadline_ms, .. } = *facts;
    if shards > 0 {
        return match (ready < shards, missing_pairs) {
            (true, _) => Waiting::Copying { shards, ready, pairs, missing_pairs },
            (false, 0) => Waiting::Serving { shards, leaves: facts.selected == Some(0) },
            (false, _) => Waiting::Repairing { shards, pairs, missing_pairs },
        };
    }
    let Some(node) = &facts.node else { return Waiting::Registration };
    if node.closed {
        return Waiting::Closed;
    }
    if let Some(since) = node.jailed {
        let until = since.plus(facts.jail_epochs.into());
        return Waiting::Jail { since_epoch: since.get(), until_epoch: until.get() };
    }
    if let Some(shards) = facts.selected.filter(|shards| *shards > 0) {
        return Waiting::Selected {
            epoch: facts.epoch.saturating_add(1),
            shards,
            in_ms: deadline_ms,
        };
    }
    let pool_frost = with_incoming(facts, node);
    if pool_frost < facts.min_stake {
        return Waiting::Stake { pool_frost, needed_frost: facts.min_stake };
    }
    // Behind the end of this epoch half of the next one is to come.
    let half = if facts.selected.is_some() { facts.epoch_ms / 2 } else { 0 };
    Waiting::Selection {
        in_ms: deadline_ms.saturating_add(half),
        passed_over: facts.selected.is_some(),
    }
}

impl Status for Waiting {
    fn phase(&self) -> String {
        match self {
            Self::Following { .. } => "following".into(),
            Self::Selection { passed_over, .. } => format!("selection {passed_over}"),
            Self::Selected { epoch, shards, .. } => format!("selected {epoch} {shards}"),
            Self::Copying { shards, ready, .. } => format!("copying {ready} {shards}"),
            Self::Repairing { .. } => "repairing".into(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Following { height, newest, age_ms } => {
                write!(f, "following the ledger: block {height}")?;
                match (newest.filter(|newest| newest > height), age_ms) {
                    (Some(newest), _) => write!(f, " of {newest}"),
                    (None, Some(age)) => write!(f, ", {} old", human_wait(*age)),
                    (None, None) => write!(f, ", nobody has told of a newer one yet"),
                }
            }
            Self::Wal { account, needed_frost, balance_frost } => {
                let missing = needed_frost.checked_sub(*balance_frost).unwrap_or_default();
                write!(f, "waiting for WAL: send at least {missing} to {account}")
            }
            Self::Registration => f.write_str("registering the node"),
            Self::Staking { amount_frost } => write!(f, "staking {amount_frost}"),
            Self::Stake { pool_frost, needed_frost } => write!(
                f,
                "registered, waiting for stake: the node has {pool_frost}, {needed_frost} are \
                 needed to be selected"
            ),
            Self::Jail { since_epoch, until_epoch } => write!(
                f,
                "jailed since epoch {since_epoch}, for voting twice or missed challenges: `floe node \
                 join` with its operator's wallet unjails it in epoch {until_epoch}"
            ),
            Self::Closed => {
                f.write_str("the node's pool was slashed to nothing: it needs another key")
            }
            Self::Selection { in_ms, passed_over: false } => {
                write!(f, "registered, waiting for the selection in {}", human_wait(*in_ms))
            }
            Self::Selection { in_ms, passed_over: true } => write!(
                f,
                "registered, not in the next committee; the selection after it is in {}",
                human_wait(*in_ms)
            ),
            Self::Selected { epoch, shards, in_ms } => write!(
                f,
                "selected: serves {} from epoch {epoch}, in {}",
                shards_of(*shards),
                human_wait(*in_ms)
            ),
            Self::Copying { shards, ready, pairs, missing_pairs } => {
                write!(f, "copying shards: {ready} of {shards} ready")?;
                progress(f, *pairs, *missing_pairs)
            }
            Self::Repairing { shards, pairs, missing_pairs } => {
                write!(f, "serving {}, repairing", shards_of(*shards))?;
                progress(f, *pairs, *missing_pairs)
            }
            Self::Serving { shards, leaves } => {
                let next = if *leaves { ", not in the next committee" } else { "" };
                write!(f, "serving {}{next}", shards_of(*shards))
            }
        }
    }
}

fn progress(f: &mut fmt::Formatter<'_>, pairs: u64, missing: u64) -> fmt::Result {
    if missing == 0 {
        return Ok(());
    }
    write!(f, ", {missing} of {} pairs missing", pairs.saturating_add(missing))
}

#[cfg(test)]
mod tests;
