//! What commands share: the options that all of them know, and what is opened by them.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use floe_protocol::{
    genesis::{Genesis, NetworkFile},
    keys::KeyPair,
    ledger::AccountId,
    light::Checkpoint,
};

use super::{
    exit::{Exit, Failure},
    network::known::NetworkName,
    output::Output,
    progress::ProgressMode,
    settings::Settings,
};
use crate::{
    Client,
    client::ClientConfig,
    key_file::{self, KeyFileError},
};

/// What to do without a network file.
const NETWORK_HINT: &str = "name the network, by its file or as `floe network list` does, with \
                            --network, FLOE_NETWORK or in the configuration file; a new network is made with `floe genesis`, a local one with `floe-testnet up`";

/// What trust in the ledger starts from, as far as the user says.
#[derive(Debug, Default)]
pub(super) struct TrustFlags {
    /// A checkpoint of somebody trusted.
    pub(super) checkpoint: Option<PathBuf>,
    /// Whether an old root will do, says the command line.
    pub(super) genesis: bool,
    /// The same, says the environment.
    pub(super) local: bool,
}

/// The options that all commands know.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: Settings,
    /// When to show progress, with everything considered.
    pub(super) progress: ProgressMode,
    pub(super) output: Output,
    pub(super) trust: TrustFlags,
    /// What to do after an interruption.
    pub(super) after_interrupt: String,
}

impl Session {
    /// Reads the network file.
    pub(super) fn network(&self) -> Result<NetworkFile, Failure> {
        let Some(path) = &self.settings.network.value else {
            return Err(
                Failure::usage("no_network_file", "no network was named").hint(NETWORK_HINT)
            );
        };
        match NetworkName::of(path) {
            Some(name) if !path.exists() => Err(self.settings.networks.unknown(&name, Exit::Usage)),
            _ => read_network(path),
        }
    }

    /// Where the wallet's key is or would be.
    pub(super) fn wallet_path(&self) -> Result<&Path, Failure> {
        self.settings.wallet.value.as_deref().ok_or_else(|| {
            Failure::usage("no_wallet", "no wallet was named, and there is no home directory")
                .hint("name its file with --wallet FILE, FLOE_WALLET or in the configuration file")
        })
    }

    /// Reads the wallet's key.
    pub(super) fn wallet(&self) -> Result<KeyPair, Failure> {
        let path = self.wallet_path()?;
        key_file::open_wallet(path).map_err(|error| match error {
            KeyFileError::NotFound { .. } => {
                Failure::usage("no_wallet", format!("no wallet at {}", path.display())).hint(
                    "make one with `floe wallet new`, or name another with --wallet FILE or \
                     FLOE_WALLET",
                )
            }
            error => error.into(),
        })
    }

    /// An account, or the wallet's.
    pub(super) fn account_or_own(&self, account: Option<AccountId>) -> Result<AccountId, Failure> {
        match account {
            Some(account) => Ok(account),
            None => Ok(AccountId::new(self.wallet()?.public())),
        }
    }

    /// Joins the network.
    pub(super) async fn connect(&self, network: NetworkFile) -> Result<Client, Failure> {
        self.connect_from(network, None).await
    }

    /// Joins the network; trust starts from the checkpoint at `own`, if the user names no other and
    /// it is there.
    pub(super) async fn connect_from(
        &self,
        network: NetworkFile,
        own: Option<&Path>,
    ) -> Result<Client, Failure> {
        let mut config = ClientConfig::new(network);
        let own = own.filter(|path| path.exists());
        config.checkpoint = match self.trust.checkpoint.as_deref().or(own) {
            Some(path) => Some(read_checkpoint(path)?),
            None => None,
        };
        config.trust_genesis = self.trust.genesis || self.trust.local;
        if self.trust.genesis {
            self.output.warning(
                "--trust-genesis: a committee that has left long ago could show a ledger that \
                 never was, and nothing could be taken from it for that",
            );
        }
        Ok(Client::connect(config).await?)
    }
}

/// Reads a checkpoint that is trusted.
fn read_checkpoint(path: &Path) -> Result<Box<Checkpoint>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::io(format_args!("checkpoint {}", path.display()), &error))?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("{} is no checkpoint: {error}", path.display());
        Failure::new(Exit::Failed, "bad_checkpoint", message)
            .hint("checkpoints are made by `floe info --checkpoint`")
    })
}

/// Reads a network file.
pub(super) fn read_network(path: &Path) -> Result<NetworkFile, Failure> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let message = format!("no network file at {}", path.display());
            Failure::usage("no_network_file", message).hint(NETWORK_HINT)
        }
        _ => Failure::io(format_args!("network file {}", path.display()), &error),
    })?;
    serde_json::from_str(&text).map_err(|error| {
        let message = format!("{} is no network file: {error}", path.display());
        Failure::new(Exit::Failed, "bad_network_file", message)
            .hint("network files are made by `floe genesis`")
    })
}

/// Reads a genesis, bare or within a network file.
pub(super) fn read_genesis(path: &Path) -> Result<NetworkFile, Failure> {
    read_network(path).or_else(|failure| {
        let bare = fs::read_to_string(path).ok();
        let bare = bare.and_then(|text| serde_json::from_str::<Genesis>(&text).ok());
        bare.map(|genesis| NetworkFile { genesis, bootstrap: Vec::new() }).ok_or(failure)
    })
}

/// Arguments as one would type them into a shell.
pub(super) fn command_line(arguments: &[OsString]) -> String {
    let quoted = arguments.iter().map(|argument| quote(&argument.to_string_lossy()));
    quoted.collect::<Vec<_>>().join(" ")
}

fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_typed_again() {
        let arguments = ["floe", "store", "my file", "it's", "", "a=b-c.txt"].map(OsString::from);
        let expected = r"floe store 'my file' 'it'\''s' '' a=b-c.txt";
        assert_eq!(command_line(&arguments), expected);
    }
}
