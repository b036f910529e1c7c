//! `floe wallet`: an account's key, what it has, what it sends, and what happened to it.

use std::{fmt, fs::DirBuilder, os::unix::fs::DirBuilderExt, path::Path};

use clap::{Args, Subcommand};
use floe_protocol::ledger::{AccountId, Amount, Operation};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    operation::{Happened, happened},
    receipt::{age_ms, parse_amount, submit},
    session::Session,
};
use crate::{
    client::ledger::Proven,
    key_file::{self, generate_key_pair},
};

const NEW_HELP: &str = "\
Makes the key of a new account and prints the account. Whoever has the file has the account's WAL:
keep it, and keep it secret. It is readable by its owner only, and never overwritten.

Examples:
  floe wallet new
  floe --wallet savings.key wallet new";

const SEND_HELP: &str = "\
The amount is in WAL unless it says FROST (1 WAL = 1,000,000,000 FROST). Returns once the transfer is
proven to be committed. The exit code is 6 if the account has too little.

Examples:
  floe wallet send wal1… 1.5
  floe wallet send wal1… 1.5 WAL
  floe wallet send wal1… 200 FROST --json | jq -r .transaction";

const BALANCE_HELP: &str = "\
The balance is proven by a header that a quorum of the committee signed, not older than a minute.

Examples:
  floe wallet balance
  floe wallet balance wal1…
  floe wallet balance --json | jq -r .balance_frost";

const HISTORY_HELP: &str = "\
Lists the transactions that the account sent, and those that gave it something, latest first.

Examples:
  floe wallet history
  floe wallet history wal1… --limit 100 --json";

/// Commands about the wallet.
#[derive(Debug, Subcommand)]
pub(super) enum WalletCommand {
    /// Make the key of a new account
    New(NewArgs),
    /// Print the account of the wallet
    Address(AddressArgs),
    /// Show what an account can spend
    Balance(BalanceArgs),
    /// Send WAL to an account
    Send(SendArgs),
    /// List an account's transactions
    History(HistoryArgs),
}

/// Arguments of `floe wallet new`.
#[derive(Debug, Args)]
#[command(after_help = NEW_HELP)]
pub(super) struct NewArgs {}

/// Arguments of `floe wallet address`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  floe wallet address")]
pub(super) struct AddressArgs {}

/// Arguments of `floe wallet balance`.
#[derive(Debug, Args)]
#[command(after_help = BALANCE_HELP)]
pub(super) struct BalanceArgs {
    /// The account [default: the wallet's]
    account: Option<AccountId>,
}

/// Arguments of `floe wallet send`.
#[derive(Debug, Args)]
#[command(after_help = SEND_HELP)]
pub(super) struct SendArgs {
    /// The account that receives
    to: AccountId,
    /// How much
    #[arg(num_args = 1..=2, required = true)]
    amount: Vec<String>,
}

/// Arguments of `floe wallet history`.
#[derive(Debug, Args)]
#[command(after_help = HISTORY_HELP)]
pub(super) struct HistoryArgs {
    /// The account [default: the wallet's]
    account: Option<AccountId>,
    /// How many transactions at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

impl WalletCommand {
    /// Whether it asks anybody.
    pub(super) const fn is_local(&self) -> bool {
        matches!(self, Self::New(_) | Self::Address(_))
    }
}

/// Runs those commands that need no network.
pub(super) fn run_local(session: &Session, command: &WalletCommand) -> Result<Exit, Failure> {
    if let WalletCommand::New(NewArgs {}) = command { new(session) } else { address(session) }
}

/// Runs the others.
pub(super) async fn run(session: &Session, command: WalletCommand) -> Result<Exit, Failure> {
    match command {
        WalletCommand::New(_) | WalletCommand::Address(_) => run_local(session, &command),
        WalletCommand::Balance(arguments) => balance(session, arguments).await,
        WalletCommand::Send(arguments) => send(session, arguments).await,
        WalletCommand::History(arguments) => history(session, arguments).await,
    }
}

fn new(session: &Session) -> Result<Exit, Failure> {
    let path = session.wallet_path()?;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| Failure::io(format_args!("cannot make {}", dir.display()), &error))?;
    }
    let key = generate_key_pair()?;
    key_file::create_wallet(path, &key)?;
    show(session, AccountId::new(key.public()), path)
}

fn address(session: &Session) -> Result<Exit, Failure> {
    let key = session.wallet()?;
    show(session, AccountId::new(key.public()), session.wallet_path()?)
}

fn show(session: &Session, account: AccountId, path: &Path) -> Result<Exit, Failure> {
    let wallet = Wallet { account, file: path.display().to_string() };
    session.output.result(&wallet, account)?;
    Ok(Exit::Done)
}

async fn balance(session: &Session, arguments: BalanceArgs) -> Result<Exit, Failure> {
    let account = session.account_or_own(arguments.account)?;
    let client = session.connect(session.network()?).await?;
    let proven = client.ledger().balance(account).await?;
    client.shutdown().await;
    let balance = Balance::new(account, &proven);
    session.output.result(&balance, balance.balance_frost)?;
    Ok(Exit::Done)
}

async fn send(session: &Session, arguments: SendArgs) -> Result<Exit, Failure> {
    let amount = parse_amount(&arguments.amount)?;
    let key = session.wallet()?;
    let client = session.connect(session.network()?).await?;
    let (from, to) = (AccountId::new(key.public()), arguments.to);
    let operation = Operation::Transfer { to, amount };
    let sent = Sent { from, to, amount_frost: amount };
    let exit = submit(session, client.ledger(), (operation, &key), sent).await?;
    client.shutdown().await;
    Ok(exit)
}

async fn history(session: &Session, arguments: HistoryArgs) -> Result<Exit, Failure> {
    let account = session.account_or_own(arguments.account)?;
    let client = session.connect(session.network()?).await?;
    let items = client.ledger().history(account, None, arguments.limit).await?;
    client.shutdown().await;
    let transactions: Vec<_> = items.iter().map(|item| happened(item, &account)).collect();
    let history = History { account, transactions };
    let brief: Vec<_> = history.transactions.iter().map(|item| item.transaction.as_str()).collect();
    session.output.result(&history, brief.join("\n"))?;
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Wallet {
    account: AccountId,
    file: String,
}

impl fmt::Display for Wallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.account, f)
    }
}

#[derive(Debug, Serialize)]
struct Balance {
    account: AccountId,
    balance_frost: Amount,
    /// The block that proves it; 0: the genesis.
    height: u64,
    age_ms: Option<u64>,
}

impl Balance {
    fn new(account: AccountId, proven: &Proven<Amount>) -> Self {
        let age_ms = proven.time().map(age_ms);
        Self { account, balance_frost: proven.value, height: proven.height().get(), age_ms }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, balance_frost, height, age_ms } = self;
        write!(f, "{balance_frost}  {account}\nproven by block {height}")?;
        age_ms.map_or(Ok(()), |ms| write!(f, ", {} s old", ms / 1_000))
    }
}

#[derive(Debug, Serialize)]
struct Sent {
    from: AccountId,
    to: AccountId,
    amount_frost: Amount,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sent {} to {}", self.amount_frost, self.to)
    }
}

#[derive(Debug, Serialize)]
struct History {
    account: AccountId,
    transactions: Vec<Happened>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.transactions.is_empty() {
            return write!(f, "no transactions");
        }
        for (i, item) in self.transactions.iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
