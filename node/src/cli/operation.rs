//! Transactions and their operations as people and scripts see them.

use std::fmt;

use floe_protocol::ledger::{AccountId, Amount, Operation, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::receipt::human_moment;
use crate::client::ledger::HistoryItem;

/// Digits of an id in a table: enough to tell them apart.
const SHORT_DIGITS: usize = 12;

/// A committed transaction.
#[derive(Debug, Serialize)]
pub(super) struct Happened {
    pub(super) transaction: String,
    pub(super) height: u64,
    pub(super) position: u32,
    pub(super) time_ms: u64,
    pub(super) sender: AccountId,
    pub(super) nonce: u64,
    pub(super) fee_frost: Amount,
    pub(super) operations: Vec<Value>,
    /// Each operation in words.
    #[serde(skip)]
    words: Vec<String>,
}

/// A transaction as seen by an account.
pub(super) fn happened(item: &HistoryItem, account: &AccountId) -> Happened {
    let transaction = &item.transaction.transaction;
    let own = transaction.sender == *account;
    let words = transaction.operations.iter().filter_map(|operation| match operation {
        // Of what others did, only what came to this account.
        Operation::Transfer { to, amount } if !own => {
            (to == account).then(|| format!("received {amount} from {}", transaction.sender))
        }
        Operation::TransferBlob { to, registration } if !own => (to == account)
            .then(|| format!("received registration {registration} from {}", transaction.sender)),
        operation => own.then(|| in_words(operation)),
    });
    Happened { words: words.collect(), ..any(item) }
}

/// A transaction as it is.
pub(super) fn any(item: &HistoryItem) -> Happened {
    let transaction = &item.transaction.transaction;
    Happened {
        transaction: item.id.to_string(),
        height: item.header.height.get(),
        position: item.position,
        time_ms: item.header.time.ms(),
        sender: transaction.sender,
        nonce: transaction.nonce,
        fee_frost: transaction.fee,
        operations: transaction.operations.iter().map(as_object).collect(),
        words: transaction.operations.iter().map(in_words).collect(),
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = human_moment(Timestamp::from_ms(self.time_ms));
        let id = self.transaction.get(..SHORT_DIGITS).unwrap_or(&self.transaction);
        let words = self.words.join("; ");
        write!(f, "{moment}  {:>8}  {id}  {words}", self.height)
    }
}

/// An operation in words.
pub(super) fn in_words(operation: &Operation) -> String {
    match operation {
        Operation::Transfer { to, amount } => format!("sent {amount} to {to}"),
        Operation::RegisterNode { identity, .. } => format!("registered node {}", identity.node),
        Operation::UpdateNode { node, .. } => format!("updated node {node}"),
        Operation::Unjail { node } => format!("unjailed node {node}"),
        Operation::Stake { node, amount } => format!("staked {amount} with node {node}"),
        Operation::Unstake { node, shares } => {
            format!("took {shares} shares out of node {node}")
        }
        Operation::Withdraw { node } => format!("withdrew from node {node}"),
        Operation::RegisterBlob { header, epochs, .. } => {
            format!("registered blob {} for {epochs} epochs", header.id())
        }
        Operation::CertifyBlob { registration, .. } => format!("certified {registration}"),
        Operation::ExtendBlob { registration, epochs, .. } => {
            format!("extended {registration} by {epochs} epochs")
        }
        Operation::DeleteBlob { registration } => format!("deleted {registration}"),
        Operation::TransferBlob { registration, to } => format!("gave {registration} to {to}"),
        Operation::SetName { name, blob: Some(blob), .. } => {
            format!("named blob {blob} {}", quoted(name))
        }
        Operation::SetName { name, blob: None, .. } => format!("cleared name {}", quoted(name)),
    }
}

/// An operation as an object: what matters of it, amounts in FROST as decimal strings.
fn as_object(operation: &Operation) -> Value {
    let kind = operation.name();
    match operation {
        Operation::Transfer { to, amount } => {
            json!({ "operation": kind, "to": to, "amount_frost": amount })
        }
        Operation::Stake { node, amount } => {
            json!({ "operation": kind, "node": node, "amount_frost": amount })
        }
        Operation::Unstake { node, shares } => {
            // Numbers of that size lose digits in many readers.
            json!({ "operation": kind, "node": node, "shares": shares.to_string() })
        }
        Operation::RegisterNode { identity, .. } => {
            json!({ "operation": kind, "node": identity.node })
        }
        Operation::UpdateNode { node, .. }
        | Operation::Unjail { node }
        | Operation::Withdraw { node } => json!({ "operation": kind, "node": node }),
        Operation::RegisterBlob { header, epochs, deletable, max_payment } => json!({
            "operation": kind,
            "blob_id": header.id().to_string(),
            "size_bytes": header.len,
            "epochs": epochs,
            "deletable": deletable,
            "max_payment_frost": max_payment,
        }),
        Operation::ExtendBlob { registration, end, epochs, max_payment } => json!({
            "operation": kind,
            "registration": registration.to_string(),
            "from_epoch": end.get(),
            "epochs": epochs,
            "max_payment_frost": max_payment,
        }),
        Operation::CertifyBlob { registration, .. } | Operation::DeleteBlob { registration } => {
            json!({ "operation": kind, "registration": registration.to_string() })
        }
        Operation::TransferBlob { registration, to } => {
            json!({ "operation": kind, "registration": registration.to_string(), "to": to })
        }
        Operation::SetName { name, blob, version } => json!({
            "operation": kind,
            "name": name,
            "blob_id": blob.as_ref().map(ToString::to_string),
            "version": version,
        }),
    }
}

/// A name, which others chose: nothing of it may steer the terminal.
pub(super) fn quoted(name: &str) -> String {
    format!("{name:?}")
}
