//! `floe node init`: makes a storage node's directory, with its keys and its public entry.

use std::{
    fmt,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::Args;
use floe_protocol::{genesis::GenesisMember, ledger::AccountId};
use serde::Serialize;

use crate::{
    cli::{
        exit::{Exit, Failure},
        out_file::write_file,
        session::Session,
    },
    config::NodePaths,
    key_file::{self, KeyFileError, NodeKeys},
    network::{Multiaddr, address_of},
};

/// The stake of a node in its genesis entry unless told otherwise.
pub(in crate::cli) const DEFAULT_STAKE_WAL: u64 = 1_000;

const INIT_HELP: &str = "\
Makes DIR/node.key, which is secret and the node's identity, and DIR/member.json, which goes to
whoever runs `floe genesis`. The node's stake and earnings belong to its operator's account: its
secret is made too, in DIR/operator.key, unless --operator names an account that you have. The node
runs without it: keep it elsewhere.

Examples:
  floe node init --dir /var/lib/floe
  floe node init --dir /var/lib/floe --operator $(floe wallet address)";

/// Arguments of `floe node init`.
#[derive(Debug, Args)]
#[command(after_help = INIT_HELP)]
pub(in crate::cli) struct InitArgs {
    /// The node's directory, made if it does not exist
    #[arg(long)]
    dir: PathBuf,
    /// Its stake in WAL: shards are given in proportion
    #[arg(long, value_name = "WAL", default_value_t = DEFAULT_STAKE_WAL)]
    stake: u64,
    /// The account that runs it [default: a new one]
    #[arg(long, value_name = "ACCOUNT")]
    operator: Option<AccountId>,
}

/// Runs `floe node init`.
pub(in crate::cli) fn init(session: &Session, arguments: &InitArgs) -> Result<Exit, Failure> {
    let dir = &arguments.dir;
    make_dir(dir)?;
    let NodePaths { key, operator: operator_path, .. } = NodePaths::below(dir);
    let member_path = dir.join("member.json");
    let keys = match NodeKeys::generate()? {
        keys if key.exists() => {
            // Interrupted between the two files: the key stays, its entry is made.
            drop(keys);
            if member_path.exists() {
                return Err(KeyFileError::Exists { path: key }.into());
            }
            NodeKeys::open(&key)?
        }
        keys => {
            keys.create(&key)?;
            keys
        }
    };
    let operator = match arguments.operator {
        Some(operator) => operator,
        None => wallet_at(&operator_path)?,
    };
    let member = GenesisMember::new(&keys.node, &keys.bls, operator, arguments.stake);
    let mut text = serde_json::to_string_pretty(&member).expect("strings and numbers serialise");
    text.push('\n');
    write_file(&member_path, text.as_bytes(), false)?;
    let name = address_of(&member.node, Multiaddr::empty()).map(|name| name.to_string());
    let result = NewNode {
        node: member.node.to_string(),
        peer: name.unwrap_or_default(),
        key_file: key.display().to_string(),
        member_file: member_path.display().to_string(),
        operator,
        operator_file: arguments.operator.is_none().then(|| operator_path.display().to_string()),
        stake_wal: arguments.stake,
    };
    session.output.result(&result, &result.node)?;
    Ok(Exit::Done)
}

/// Makes a node's directory, which is nobody else's business.
pub(super) fn make_dir(dir: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::io(format_args!("cannot make {}", dir.display()), &error))
}

/// The account of the wallet at `path`, which is made if it does not exist.
pub(super) fn wallet_at(path: &Path) -> Result<AccountId, Failure> {
    let key = match key_file::open_wallet(path) {
        Err(KeyFileError::NotFound { .. }) => {
            let key = key_file::generate_key_pair()?;
            key_file::create_wallet(path, &key)?;
            key
        }
        opened => opened?,
    };
    Ok(AccountId::new(key.public()))
}

/// The result of `floe node init`.
#[derive(Debug, Serialize)]
struct NewNode {
    node: String,
    /// The end of the node's addresses.
    peer: String,
    key_file: String,
    member_file: String,
    /// The account that runs it.
    operator: AccountId,
    /// Its secret, if it was made here.
    operator_file: Option<String>,
    stake_wal: u64,
}

impl fmt::Display for NewNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node       {}", self.node)?;
        writeln!(f, "secret     {}", self.key_file)?;
        writeln!(f, "entry      {}, for `floe genesis`", self.member_file)?;
        match &self.operator_file {
            Some(file) => writeln!(f, "operator   {}, secret in {file}", self.operator)?,
            None => writeln!(f, "operator   {}", self.operator)?,
        }
        write!(f, "bootstrap  /ip4/ADDRESS/tcp/4950{}", self.peer)
    }
}
