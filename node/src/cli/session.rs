//! What commands share: the options that all of them know, and what is opened by them.

use std::{ffi::OsString, fs, io};

use floe_protocol::{genesis::NetworkFile, keys::KeyPair};

use super::{
    exit::{Exit, Failure},
    output::Output,
    progress::ProgressMode,
    settings::Settings,
};
use crate::{Client, client::ClientConfig, key_file};

/// The options that all commands know.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: Settings,
    /// When to show progress, with everything considered.
    pub(super) progress: ProgressMode,
    pub(super) output: Output,
    /// What to do after an interruption.
    pub(super) after_interrupt: String,
}

impl Session {
    /// Reads the network file.
    pub(super) fn network(&self) -> Result<NetworkFile, Failure> {
        const HINT: &str = "name the network's file with --network FILE, FLOE_NETWORK or in the \
                            configuration file; a new network is made with `floe genesis`, a local one with `floe-testnet up`";
        let Some(path) = &self.settings.network.value else {
            return Err(Failure::usage("no_network_file", "no network file was named").hint(HINT));
        };
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                let message = format!("no network file at {}", path.display());
                Failure::usage("no_network_file", message).hint(HINT)
            }
            _ => Failure::io(format_args!("network file {}", path.display()), &error),
        })?;
        serde_json::from_str(&text).map_err(|error| {
            let message = format!("{} is no network file: {error}", path.display());
            Failure::new(Exit::Failed, "bad_network_file", message)
                .hint("network files are made by `floe genesis`")
        })
    }

    /// Reads the writer's key and checks that `network` lists it.
    pub(super) fn writer(&self, network: &NetworkFile) -> Result<KeyPair, Failure> {
        let Some(path) = &self.settings.writer_key.value else {
            return Err(Failure::usage("no_writer_key", "storing needs a writer's key").hint(
                "name its file with --writer-key FILE or FLOE_WRITER_KEY; `floe genesis` and \
                 `floe-testnet up` make one, as `floe key new --kind writer` does",
            ));
        };
        let key = key_file::open_writer_key(path)?;
        // Nodes would refuse it anyway, but only after all the work of encoding.
        if network.genesis.writers.contains(&key.public()) {
            Ok(key)
        } else {
            Err(Failure::unknown_writer(key.public()))
        }
    }

    /// Joins the network.
    pub(super) async fn connect(&self, network: NetworkFile) -> Result<Client, Failure> {
        Ok(Client::connect(ClientConfig::new(network)).await?)
    }
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
