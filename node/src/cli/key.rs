//! `floe key new`: makes the secret keys of nodes and writers.

use std::{fmt, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use floe_protocol::{genesis::GenesisMember, ledger::AccountId};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    session::Session,
};
use crate::key_file::{self, NodeKeys};

const AFTER_HELP: &str = "\
The file is readable by its owner only, and never overwritten. Whoever has it is the node or the
writer: keep it, and keep it secret. What is printed is public.

Examples:
  floe key new --kind writer -o writer.key
  floe key new --kind node --operator wal1… -o node.key";

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key file and print its public half
    New(NewKeyArgs),
}

/// Arguments of `floe key new`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct NewKeyArgs {
    /// Whose key it is
    #[arg(long, value_enum)]
    kind: KeyKind,
    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stake of the node in its genesis entry, in WAL
    #[arg(long, value_name = "WAL", default_value_t = super::node::DEFAULT_STAKE_WAL)]
    stake: u64,
    /// The account that runs the node
    #[arg(long, value_name = "ACCOUNT", required_if_eq("kind", "node"))]
    operator: Option<AccountId>,
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KeyKind {
    /// A storage node's two keys: its identity and its vote
    Node,
    /// The key of somebody who stores blobs
    Writer,
}

/// Runs `floe key`.
pub(super) fn run(
    session: &Session,
    KeyCommand::New(arguments): &KeyCommand,
) -> Result<Exit, Failure> {
    let (kind, public, member) = match arguments.kind {
        KeyKind::Writer => {
            let key = key_file::generate_key_pair()?;
            key_file::create_writer_key(&arguments.output, &key)?;
            ("writer", key.public(), None)
        }
        KeyKind::Node => {
            let keys = NodeKeys::generate()?;
            keys.create(&arguments.output)?;
            let operator = arguments.operator.expect("required for a node");
            let member = GenesisMember::new(&keys.node, &keys.bls, operator, arguments.stake);
            ("node", keys.node.public(), Some(member))
        }
    };
    let file = arguments.output.display().to_string();
    let result = NewKey { kind, public: public.to_string(), file, member };
    session.output.result(&result, &result.public)?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct NewKey {
    kind: &'static str,
    public: String,
    file: String,
    /// A node's entry in a genesis.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<GenesisMember>,
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.public)?;
        match &self.member {
            None => Ok(()),
            Some(member) => {
                let entry = serde_json::to_string_pretty(member).map_err(|_| fmt::Error)?;
                write!(f, "\n{entry}")
            }
        }
    }
}
