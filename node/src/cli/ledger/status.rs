//! `floe ledger status`: where the ledger stands.

use std::fmt;

use floe_protocol::ledger::{Amount, Prices, Summary, Supply, Timestamp};
use serde::Serialize;

use crate::{
    Client,
    cli::{
        exit::{Exit, Failure},
        expiry::Calendar,
        receipt::{age_ms, human_moment},
        session::Session,
    },
};

/// Runs `floe ledger status`.
pub(super) async fn run(session: &Session, client: &Client) -> Result<(), Failure> {
    let ledger = client.ledger();
    let proven = ledger.summary().await?;
    let committee = ledger.committee();
    let Some(summary) = proven.value else {
        return Err(Failure::new(Exit::Verification, "unproven", "the state has no summary"));
    };
    let next = summary.epoch.plus(1);
    let status = Status {
        chain_id: ledger.chain().to_string(),
        height: proven.height().get(),
        block: proven.header.as_ref().map(|header| header.hash().to_string()),
        state_root: proven.header.as_ref().map(|header| header.header().state_root.to_string()),
        time_ms: proven.time().map(Timestamp::ms),
        age_ms: proven.time().map(age_ms),
        epoch: summary.epoch.get(),
        epoch_ends_ms: Calendar::new(&summary, ledger.parameters()).begins(next).map(Timestamp::ms),
        members: committee.members().len(),
        certifications: summary.certifications,
        prices: summary.prices.into(),
        supply: SupplyShown::new(&summary),
    };
    session.output.result(&status, status.height)
}

#[derive(Debug, Serialize)]
struct Status {
    chain_id: String,
    height: u64,
    block: Option<String>,
    state_root: Option<String>,
    time_ms: Option<u64>,
    age_ms: Option<u64>,
    epoch: u64,
    /// About when the next one begins.
    epoch_ends_ms: Option<u64>,
    members: usize,
    certifications: u64,
    prices: PricesShown,
    supply: SupplyShown,
}

#[derive(Debug, Serialize)]
struct PricesShown {
    storage_frost_per_unit_epoch: Amount,
    write_frost_per_unit: Amount,
    capacity_units: u64,
}

impl From<Prices> for PricesShown {
    fn from(prices: Prices) -> Self {
        Self {
            storage_frost_per_unit_epoch: prices.storage,
            write_frost_per_unit: prices.write,
            capacity_units: prices.capacity_units,
        }
    }
}

#[derive(Debug, Serialize)]
struct SupplyShown {
    total_frost: Option<Amount>,
    balances_frost: Amount,
    stakes_frost: Amount,
    buckets_frost: Amount,
    burned_frost: Amount,
}

impl SupplyShown {
    fn new(summary: &Summary) -> Self {
        let Supply { balances, stakes, buckets, burned } = summary.supply;
        Self {
            total_frost: summary.supply.total(),
            balances_frost: balances,
            stakes_frost: stakes,
            buckets_frost: buckets,
            burned_frost: burned,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chain id    {}", self.chain_id)?;
        let moment = |ms: u64| human_moment(Timestamp::from_ms(ms));
        match (&self.block, self.time_ms, self.age_ms) {
            (Some(block), Some(time), Some(age)) => {
                writeln!(
                    f,
                    "height      {}, {} s old ({})",
                    self.height,
                    age / 1_000,
                    moment(time)
                )?;
                writeln!(f, "block       {block}")?;
            }
            _ => writeln!(f, "height      0: no block yet")?,
        }
        if let Some(root) = &self.state_root {
            writeln!(f, "state root  {root}")?;
        }
        write!(f, "epoch       {}", self.epoch)?;
        if let Some(end) = self.epoch_ends_ms {
            write!(f, ", ends about {}", moment(end))?;
        }
        let PricesShown { storage_frost_per_unit_epoch, write_frost_per_unit, capacity_units } =
            &self.prices;
        writeln!(f, "\ncommittee   {} members", self.members)?;
        writeln!(
            f,
            "prices      {storage_frost_per_unit_epoch} a unit and epoch, {write_frost_per_unit} \
             a unit written; {capacity_units} units"
        )?;
        writeln!(f, "certified   {} blobs so far", self.certifications)?;
        let SupplyShown { total_frost, balances_frost, stakes_frost, buckets_frost, burned_frost } =
            &self.supply;
        let total = total_frost.unwrap_or_default();
        write!(
            f,
            "supply      {total} = balances {balances_frost} + stakes {stakes_frost} + paid for \
             epochs {buckets_frost} + burned {burned_frost}"
        )
    }
}
