//! `floe name`: names that an account gives to blobs, and changes as it likes.

use std::fmt;

use clap::{Args, Subcommand};
use floe_protocol::{
    blob::BlobId,
    ledger::{AccountId, MAX_BLOB_NAME_BYTES, Operation},
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    operation::quoted,
    read::parse_id,
    receipt::submit,
    session::Session,
};

const SET_HELP: &str = "\
A name belongs to the account that set it, and always says how often it was set: two changes made at
once do not overwrite each other unseen, the second one is refused.

Examples:
  floe name set holiday ID
  floe name set holiday --clear";

const GET_HELP: &str = "\
Prints the blob that a name points at. Names of others are written with their account in front. The
exit code is 3 if there is no such name, or it points at nothing.

Examples:
  floe name get holiday
  floe name get wal1…/holiday
  floe read $(floe name get -q holiday) -o holiday.jpg";

/// Commands about names.
#[derive(Debug, Subcommand)]
pub(super) enum NameCommand {
    /// Let a name point at a blob, or at nothing
    Set(SetArgs),
    /// Print the blob that a name points at
    Get(GetArgs),
}

/// Arguments of `floe name set`.
#[derive(Debug, Args)]
#[command(after_help = SET_HELP)]
pub(super) struct SetArgs {
    /// The name
    name: String,
    /// The blob
    #[arg(value_name = "ID", allow_hyphen_values = true, required_unless_present = "clear")]
    blob: Option<String>,
    /// Let it point at nothing
    #[arg(long, conflicts_with = "blob")]
    clear: bool,
}

/// Arguments of `floe name get`.
#[derive(Debug, Args)]
#[command(after_help = GET_HELP)]
pub(super) struct GetArgs {
    /// The name, with the account that gave it if it is not the wallet's
    #[arg(value_name = "[ACCOUNT/]NAME")]
    name: String,
}

/// Runs `floe name`.
pub(super) async fn run(session: &Session, command: NameCommand) -> Result<Exit, Failure> {
    match command {
        NameCommand::Set(arguments) => set(session, arguments).await,
        NameCommand::Get(arguments) => get(session, arguments).await,
    }
}

async fn set(session: &Session, arguments: SetArgs) -> Result<Exit, Failure> {
    let SetArgs { name, blob, clear } = arguments;
    let blob = match blob {
        Some(blob) if !clear => Some(parse_id(&blob)?),
        _ => None,
    };
    check(&name)?;
    let key = session.wallet()?;
    let account = AccountId::new(key.public());
    let client = session.connect(session.network()?).await?;
    let ledger = client.ledger();
    let present = ledger.name(account, name.clone()).await?.value;
    let version = present.map_or(0, |present| present.version).saturating_add(1);
    let what = Named::new(account, name.clone(), blob, version);
    let operation = Operation::SetName { name, blob, version };
    let exit = submit(session, ledger, (operation, &key), what).await?;
    client.shutdown().await;
    Ok(exit)
}

async fn get(session: &Session, arguments: GetArgs) -> Result<Exit, Failure> {
    let (account, name) = match arguments.name.split_once('/') {
        Some((account, name)) => {
            let account = account.parse().map_err(|error| {
                Failure::usage("bad_account", format!("{account:?} is no account: {error}"))
            })?;
            (Some(account), name.to_owned())
        }
        None => (None, arguments.name),
    };
    check(&name)?;
    let account = session.account_or_own(account)?;
    let client = session.connect(session.network()?).await?;
    let found = client.ledger().name(account, name.clone()).await?.value;
    client.shutdown().await;
    let shown = quoted(&name);
    let not_found = |message| {
        Failure::new(Exit::NotFound, "not_found", message)
            .hint(format!("account {account} sets it with `floe name set`"))
    };
    let Some(found) = found else {
        return Err(not_found(format!("account {account} has no name {shown}")));
    };
    let Some(blob) = found.blob else {
        return Err(not_found(format!("name {shown} of account {account} points at nothing")));
    };
    let named = Named::new(account, name, Some(blob), found.version);
    session.output.result(&named, blob)?;
    Ok(Exit::Done)
}

/// Refuses what the ledger would, with better words.
fn check(name: &str) -> Result<(), Failure> {
    let printable = name.chars().all(|c| !c.is_control() && c != '/');
    if name.is_empty() || name.len() > MAX_BLOB_NAME_BYTES || !printable {
        let message = format!(
            "a name has 1 to {MAX_BLOB_NAME_BYTES} bytes, no slash and nothing that cannot be seen"
        );
        return Err(Failure::usage("bad_name", message));
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Named {
    account: AccountId,
    name: String,
    /// Null: it points at nothing.
    blob_id: Option<String>,
    version: u64,
}

impl Named {
    fn new(account: AccountId, name: String, blob: Option<BlobId>, version: u64) -> Self {
        Self { account, name, blob_id: blob.as_ref().map(ToString::to_string), version }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, version) = (quoted(&self.name), self.version);
        match &self.blob_id {
            Some(blob) => write!(f, "{blob}  {name}, version {version}"),
            None => write!(f, "{name} points at nothing, version {version}"),
        }
    }
}
