//! `floe faucet`: takes WAL from the account that a test network gives to everybody.

use std::fmt;

use clap::Args;
use floe_protocol::ledger::{AccountId, Amount, Operation};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    receipt::{Committed, parse_amount},
    session::Session,
};
use crate::client::{LedgerClient, LedgerError, ledger::Receipt};

/// How often it is tried: others take from the same account at the same time.
const ATTEMPTS_MAX: u32 = 3;

const AFTER_HELP: &str = "\
Only test networks have a faucet: its key is written in the network file, so that everybody can take
from it. Take what you need.

Examples:
  floe faucet
  floe faucet wal1… --amount '20 WAL'";

/// Arguments of `floe faucet`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct FaucetArgs {
    /// The account that receives [default: the wallet's]
    account: Option<AccountId>,
    /// How much [default: what the network's maker thought right]
    #[arg(long, num_args = 1..=2)]
    amount: Vec<String>,
}

/// Runs `floe faucet`.
pub(super) async fn run(session: &Session, arguments: FaucetArgs) -> Result<Exit, Failure> {
    let network = session.network()?;
    let Some(faucet) = network.genesis.faucet else {
        return Err(Failure::new(Exit::Refused, "no_faucet", "this network has no faucet")
            .hint("only test networks have one: ask somebody for WAL"));
    };
    let amount = match arguments.amount.as_slice() {
        [] => faucet.amount,
        words => parse_amount(words)?,
    };
    let to = session.account_or_own(arguments.account)?;
    let client = session.connect(network).await?;
    let receipt = take(client.ledger(), &faucet.key(), to, amount).await?;
    client.shutdown().await;
    let result = Committed::new(Taken { to, amount_frost: amount }, &receipt);
    session.output.result(&result, &result.transaction)?;
    Ok(Exit::Done)
}

async fn take(
    ledger: &LedgerClient,
    key: &floe_protocol::keys::KeyPair,
    to: AccountId,
    amount: Amount,
) -> Result<Receipt, LedgerError> {
    let mut attempt = 1;
    loop {
        let result = ledger.submit(vec![Operation::Transfer { to, amount }], key).await;
        match result {
            // Both are proof that nothing was paid.
            Err(LedgerError::Displaced { .. } | LedgerError::Expired(_))
                if attempt < ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

#[derive(Debug, Serialize)]
struct Taken {
    to: AccountId,
    amount_frost: Amount,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the faucet gave {} to {}", self.amount_frost, self.to)
    }
}
