//! `floe key new`: makes the secret keys of a node. An account's come from `floe wallet new`.

use std::{fmt, path::PathBuf};

use clap::{Args, Subcommand};
use floe_protocol::{genesis::GenesisMember, ledger::AccountId};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    session::Session,
};
use crate::key_file::NodeKeys;

const AFTER_HELP: &str = "\
A storage node has two keys in one file: its identity and its vote. The file is readable by its
owner only, and never overwritten. Whoever has it is the node: keep it, and keep it secret. What is
printed is the node's public entry for `floe genesis`.

Examples:
  floe key new --operator wal1… -o node.key";

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a node's key file and print its public half
    New(NewKeyArgs),
}

/// Arguments of `floe key new`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct NewKeyArgs {
    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stake of the node in its genesis entry, in WAL
    #[arg(long, value_name = "WAL", default_value_t = super::node::DEFAULT_STAKE_WAL)]
    stake: u64,
    /// The account that runs the node
    #[arg(long, value_name = "ACCOUNT")]
    operator: AccountId,
}

/// Runs `floe key`.
pub(super) fn run(
    session: &Session,
    KeyCommand::New(arguments): &KeyCommand,
) -> Result<Exit, Failure> {
    let keys = NodeKeys::generate()?;
    keys.create(&arguments.output)?;
    let result = NewKey {
        public: keys.node.public().to_string(),
        file: arguments.output.display().to_string(),
        member: GenesisMember::new(&keys.node, &keys.bls, arguments.operator, arguments.stake),
    };
    session.output.result(&result, &result.public)?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct NewKey {
    public: String,
    file: String,
    /// The node's entry in a genesis.
    member: GenesisMember,
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = serde_json::to_string_pretty(&self.member).map_err(|_| fmt::Error)?;
        write!(f, "node {}\n{entry}", self.public)
    }
}
