//! What became, or would become, of a file that is stored.

use std::fmt;

use floe_protocol::{ledger::Amount, transfer::StorePlan};
use serde::Serialize;

use super::bill::Cost;
use crate::{
    Client,
    cli::{
        exit::Failure,
        expiry::{Calendar, Until},
        output::Output,
        size::human_bytes,
    },
    client::{Outcome, PreparedStore, StoreReport},
};

/// The result of storing one file.
#[derive(Debug, Serialize)]
pub(super) struct StoredBlob {
    blob_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// `stored`, `resumed`, `extended` or `stored_before`.
    outcome: &'static str,
    size_bytes: u64,
    encoded_bytes: u64,
    #[serde(flatten)]
    until: Until,
    /// Without fees.
    paid_frost: Amount,
    /// Its part of what the transactions cost.
    fee_frost: Amount,
    /// Null if somebody else's permanent one keeps the blob.
    registration: Option<String>,
    /// The transaction that paid, which several files may share.
    payment_transaction: Option<String>,
    /// The transaction with the certificate.
    certification_transaction: Option<String>,
    /// Null if nothing had to be confirmed.
    confirmed_shards: Option<u16>,
    n_shards: u16,
    /// Readable while so many of the shards are left.
    readable_with_shards: u16,
    /// So many shards may be lost, whichever they are.
    survives_lost_shards: Option<u16>,
    public: bool,
    encode_ms: u64,
    certify_ms: u64,
    unreached: Vec<UnreachedNode>,
}

#[derive(Debug, Serialize)]
struct UnreachedNode {
    node: String,
    shards: u16,
    reason: String,
}

impl StoredBlob {
    /// `fee`: of one operation.
    pub(super) fn new(
        report: &StoreReport,
        fee: Amount,
        client: &Client,
        calendar: Option<&Calendar>,
    ) -> Self {
        let unreached = report.unreached.iter().map(|node| UnreachedNode {
            node: node.node.to_string(),
            shards: node.shards,
            reason: node.reason.to_string(),
        });
        let k1 = u16::try_from(client.encoding().k1()).expect("k1 is below n_shards");
        // Who only finds it stored has not paid for its certificate.
        let certified_here =
            report.outcome != Outcome::AlreadyStored && report.certification.is_some();
        let operations = u128::from(report.payment.is_some()) + u128::from(certified_here);
        Self {
            blob_id: report.blob.to_string(),
            file: None,
            outcome: match report.outcome {
                Outcome::AlreadyStored => "stored_before",
                Outcome::Extended => "extended",
                Outcome::Resumed => "resumed",
                Outcome::Stored => "stored",
            },
            size_bytes: report.header.len,
            encoded_bytes: report.encoded_bytes,
            until: Until::new(report.end, calendar),
            paid_frost: report.paid,
            fee_frost: fee.checked_mul(operations).unwrap_or_default(),
            registration: report.registration.as_ref().map(ToString::to_string),
            payment_transaction: report.payment.as_ref().map(ToString::to_string),
            certification_transaction: report.certification.as_ref().map(ToString::to_string),
            confirmed_shards: report.confirmed_shards,
            n_shards: client.encoding().n_shards(),
            readable_with_shards: k1,
            survives_lost_shards: report.confirmed_shards.map(|shards| shards.saturating_sub(k1)),
            public: true,
            encode_ms: report.encode_ms,
            certify_ms: report.certify_ms,
            unreached: unreached.collect(),
        }
    }

    /// Prints it for the file that it came from.
    pub(super) fn print(self, file: &str, output: &Output) -> Result<(), Failure> {
        for UnreachedNode { node, shards, reason } in &self.unreached {
            output.warning(format_args!("node {node} ({shards} shards): {reason}"));
        }
        let stored = Self { file: Some(file.to_owned()), ..self };
        output.result(&stored, &stored.blob_id)
    }
}

impl fmt::Display for StoredBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, size) = (self.file.as_deref().unwrap_or("-"), human_bytes(self.size_bytes));
        let outcome = self.outcome.replace('_', " ");
        write!(f, "{}  {file}  {size}, {outcome} {}", self.blob_id, self.until)?;
        if !self.paid_frost.is_zero() {
            write!(f, ", paid {}", self.paid_frost)?;
        }
        if let (Some(confirmed), Some(lost)) = (self.confirmed_shards, self.survives_lost_shards) {
            let n_shards = self.n_shards;
            write!(
                f,
                ", {confirmed} of {n_shards} shards confirmed, survives the loss of any {lost}"
            )?;
        }
        Ok(())
    }
}

/// What storing one file would do.
#[derive(Debug, Serialize)]
pub(super) struct PlannedBlob {
    blob_id: String,
    file: String,
    dry_run: bool,
    /// `store`, `resume`, `extend` or `nothing`.
    plan: &'static str,
    size_bytes: u64,
    encoded_bytes: u64,
    #[serde(flatten)]
    until: Until,
    price_frost: Amount,
    fee_frost: Amount,
    /// The registration that is there already.
    registration: Option<String>,
}

impl PlannedBlob {
    pub(super) fn new(
        file: &str,
        prepared: &PreparedStore,
        cost: Cost,
        calendar: Option<&Calendar>,
    ) -> Self {
        let (plan, registration) = match prepared.plan() {
            StorePlan::Stored { registration, .. } => ("nothing", *registration),
            StorePlan::Resume { registration, .. } => ("resume", Some(*registration)),
            StorePlan::Extend { registration, .. } => ("extend", Some(*registration)),
            // The same bytes came before.
            StorePlan::Register { .. } if cost == Cost::default() => ("nothing", None),
            StorePlan::Register { .. } => ("store", None),
        };
        Self {
            blob_id: prepared.blob().to_string(),
            file: file.to_owned(),
            dry_run: true,
            plan,
            size_bytes: prepared.header().len,
            encoded_bytes: prepared.encoded_bytes(),
            until: Until::new(prepared.plan().end(), calendar),
            price_frost: cost.price,
            fee_frost: cost.fee,
            registration: registration.as_ref().map(ToString::to_string),
        }
    }
}

impl fmt::Display for PlannedBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blob_id, file, plan, until, price_frost, fee_frost, .. } = self;
        let size = human_bytes(self.size_bytes);
        write!(f, "{blob_id}  {file}  {size}, ")?;
        if *plan == "nothing" {
            return write!(f, "nothing to do, stored {until}");
        }
        write!(f, "would {plan} {until}, {price_frost}, fee {fee_frost}")
    }
}
