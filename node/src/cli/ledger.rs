//! `floe ledger`: a small explorer. Everything that it shows is proven.

mod status;

use std::fmt;

use clap::{Args, Subcommand};
use floe_protocol::{
    index::Height,
    keys::NodeId,
    ledger::{AccountId, Amount, Timestamp, TransactionId},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    operation::{Happened, any, happened},
    receipt::human_moment,
    session::Session,
    stake::StakeShown,
};
use crate::{
    Client,
    client::ledger::{HistoryItem, Proven, VerifiedBlock},
};

/// Transactions that are shown of an account.
const LATEST_MAX: usize = 5;

const STATUS_HELP: &str = "\
Where the ledger stands: the newest header, the running epoch, prices, and where all WAL is. The
exit code is 5 if no header younger than a minute can be had.

Examples:
  floe ledger status
  floe ledger status --json | jq .height";

const BLOCK_HELP: &str = "\
Examples:
  floe ledger block 42
  floe ledger block 42 --json | jq .transactions";

const TX_HELP: &str = "\
The exit code is 3 if the nodes asked do not know it: it may still be on its way.

Examples:
  floe ledger tx ID";

const ACCOUNT_HELP: &str = "\
What an account has: balance, stakes with what they are worth, registrations, and its latest
transactions.

Examples:
  floe ledger account wal1…
  floe ledger account";

/// Commands that look at the ledger.
#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Show where the ledger stands
    Status(StatusArgs),
    /// Show a block
    Block(BlockArgs),
    /// Show a transaction
    Tx(TxArgs),
    /// Show an account
    Account(AccountArgs),
}

/// Arguments of `floe ledger status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub(super) struct StatusArgs {}

/// Arguments of `floe ledger block`.
#[derive(Debug, Args)]
#[command(after_help = BLOCK_HELP)]
pub(super) struct BlockArgs {
    /// The block's height
    height: u64,
}

/// Arguments of `floe ledger tx`.
#[derive(Debug, Args)]
#[command(after_help = TX_HELP)]
pub(super) struct TxArgs {
    /// The transaction
    id: TransactionId,
}

/// Arguments of `floe ledger account`.
#[derive(Debug, Args)]
#[command(after_help = ACCOUNT_HELP)]
pub(super) struct AccountArgs {
    /// The account [default: the wallet's]
    account: Option<AccountId>,
}

/// Runs `floe ledger`.
pub(super) async fn run(session: &Session, command: LedgerCommand) -> Result<Exit, Failure> {
    let account = match &command {
        LedgerCommand::Account(arguments) => Some(session.account_or_own(arguments.account)?),
        _ => None,
    };
    let client = session.connect(session.network()?).await?;
    match (command, account) {
        (LedgerCommand::Block(arguments), _) => block(session, &client, &arguments).await?,
        (LedgerCommand::Tx(arguments), _) => transaction(session, &client, &arguments).await?,
        (LedgerCommand::Account(_), Some(id)) => account_of(session, &client, id).await?,
        (LedgerCommand::Status(_) | LedgerCommand::Account(_), _) => {
            status::run(session, &client).await?;
        }
    }
    client.shutdown().await;
    Ok(Exit::Done)
}

async fn block(session: &Session, client: &Client, arguments: &BlockArgs) -> Result<(), Failure> {
    let height = Height::new(arguments.height);
    let ledger = client.ledger();
    let Some(found) = ledger.block(height).await? else {
        let newest = ledger.known_header().map_or(0, |header| header.header().height.get());
        let message = format!("no block {height}: the newest one is {newest}");
        return Err(Failure::new(Exit::NotFound, "not_found", message)
            .hint("the first block is 1; `floe ledger status` shows the newest"));
    };
    let shown = BlockShown::new(client, &found);
    session.output.result(&shown, &shown.block)
}

async fn transaction(
    session: &Session,
    client: &Client,
    arguments: &TxArgs,
) -> Result<(), Failure> {
    let id = arguments.id;
    let Some(item) = client.ledger().transaction(id).await? else {
        let message = format!("no transaction {id} has been committed");
        return Err(Failure::new(Exit::NotFound, "not_found", message)
            .hint("one that was sent a moment ago may still be on its way; one that has expired never comes"));
    };
    let shown = TransactionShown { what: any(&item), block: item.header.hash().to_string() };
    session.output.result(&shown, &shown.what.transaction)
}

async fn account_of(session: &Session, client: &Client, id: AccountId) -> Result<(), Failure> {
    let ledger = client.ledger();
    let proven = ledger.account(id).await?;
    let latest = ledger.history(id, None, LATEST_MAX).await?;
    let registrations = ledger.registrations(id).await?.value.len();
    let mut stakes = Vec::new();
    for (node, _) in ledger.stakes(id).await?.value {
        stakes.extend(ledger.staked(id, node).await?.map(|own| StakeShown::new(node, own)));
    }
    let shown = AccountShown::new(id, &proven, (stakes, registrations, &latest));
    session.output.result(&shown, shown.balance_frost)
}

#[derive(Debug, Serialize)]
struct BlockShown {
    height: u64,
    block: String,
    parent: String,
    time_ms: u64,
    round: u32,
    epoch: u64,
    proposer: NodeId,
    state_root: String,
    transactions_root: String,
    next_committee: String,
    /// Shards of the members whose precommits certify it; null for blocks of past epochs.
    signed_shards: Option<u16>,
    system_operations: usize,
    transactions: Vec<Happened>,
}

impl BlockShown {
    fn new(client: &Client, found: &VerifiedBlock) -> Self {
        let (header, body) = (&found.block.header, &found.block.body);
        let chain = client.ledger().chain();
        let transactions = (0..).zip(&body.transactions).map(|(position, signed)| {
            let (id, transaction) = (signed.id(chain), signed.clone());
            any(&HistoryItem { header: *header, position, id, transaction })
        });
        Self {
            height: header.height.get(),
            block: found.hash.to_string(),
            parent: header.parent.to_string(),
            time_ms: header.time.ms(),
            round: header.round,
            epoch: header.epoch.get(),
            proposer: header.proposer,
            state_root: header.state_root.to_string(),
            transactions_root: header.transactions_root.to_string(),
            next_committee: header.next_committee.to_string(),
            signed_shards: found.signed_shards,
            system_operations: body.system.len(),
            transactions: transactions.collect(),
        }
    }
}

impl fmt::Display for BlockShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = human_moment(Timestamp::from_ms(self.time_ms));
        writeln!(f, "block         {} at height {}", self.block, self.height)?;
        writeln!(f, "parent        {}", self.parent)?;
        writeln!(f, "time          {moment}, epoch {}, round {}", self.epoch, self.round)?;
        writeln!(f, "proposer      {}", self.proposer)?;
        if let Some(shards) = self.signed_shards {
            writeln!(f, "signed by     members with {shards} shards")?;
        }
        writeln!(f, "state root    {}", self.state_root)?;
        write!(f, "transactions  {}", self.transactions.len())?;
        for transaction in &self.transactions {
            write!(f, "\n{transaction}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct TransactionShown {
    #[serde(flatten)]
    what: Happened,
    block: String,
}

impl fmt::Display for TransactionShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Happened { transaction, sender, nonce, fee_frost, height, position, .. } = &self.what;
        writeln!(f, "transaction  {transaction}")?;
        writeln!(f, "block        {} at height {height}, position {position}", self.block)?;
        writeln!(f, "sender       {sender}, nonce {nonce}, fee {fee_frost}")?;
        write!(f, "{}", self.what)
    }
}

#[derive(Debug, Serialize)]
struct AccountShown {
    account: AccountId,
    exists: bool,
    balance_frost: Amount,
    /// Transactions that it has sent.
    nonce: u64,
    height: u64,
    registrations: usize,
    stakes: Vec<StakeShown>,
    latest: Vec<Happened>,
}

impl AccountShown {
    fn new(
        account: AccountId,
        proven: &Proven<Option<floe_protocol::ledger::Account>>,
        (stakes, registrations, latest): (Vec<StakeShown>, usize, &[HistoryItem]),
    ) -> Self {
        let record = proven.value.unwrap_or_default();
        Self {
            account,
            exists: proven.value.is_some(),
            balance_frost: record.balance,
            nonce: record.nonce,
            height: proven.height().get(),
            registrations,
            stakes,
            latest: latest.iter().map(|item| happened(item, &account)).collect(),
        }
    }
}

impl fmt::Display for AccountShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "account  {}", self.account)?;
        if !self.exists {
            return write!(f, "the ledger does not know it: nothing was ever sent to it");
        }
        writeln!(f, "balance  {}, proven by block {}", self.balance_frost, self.height)?;
        writeln!(f, "sent     {} transactions", self.nonce)?;
        write!(f, "blobs    {} registrations", self.registrations)?;
        for stake in &self.stakes {
            write!(f, "\nstake    {stake}")?;
        }
        for transaction in &self.latest {
            write!(f, "\n{transaction}")?;
        }
        Ok(())
    }
}
