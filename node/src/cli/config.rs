//! `floe config show`: every setting, and where its value comes from.

use std::fmt;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    progress::ProgressMode,
    session::Session,
    settings::{Setting, Settings},
};

const AFTER_HELP: &str = "\
A flag beats the environment (FLOE_NETWORK, FLOE_WALLET, FLOE_PROGRESS, FLOE_EPOCHS), which beats the
configuration file, which beats the default. The file is floe/config.toml below $XDG_CONFIG_HOME, or
else below ~/.config. Paths in it start at the file's directory:

  network = \"network.json\"
  wallet = \"~/floe/wallet.key\"
  progress = \"never\"
  epochs = 20

Examples:
  floe config show
  floe config show --json | jq -r .network.origin";

/// Commands about the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every setting and where its value comes from
    Show(ShowArgs),
}

/// Arguments of `floe config show`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ShowArgs {}

/// Runs `floe config`.
pub(super) fn run(
    session: &Session,
    ConfigCommand::Show(ShowArgs {}): &ConfigCommand,
) -> Result<Exit, Failure> {
    let shown = ShownSettings::new(&session.settings);
    session.output.result(&shown, &shown)?;
    Ok(Exit::Done)
}

/// The result.
#[derive(Debug, Serialize)]
struct ShownSettings<'a> {
    /// Where the configuration file is or would be.
    file: Option<String>,
    file_exists: bool,
    network: Setting<Option<String>>,
    wallet: Setting<Option<String>>,
    progress: &'a Setting<ProgressMode>,
    /// For how many epochs `floe store` pays.
    epochs: &'a Setting<u32>,
}

impl<'a> ShownSettings<'a> {
    fn new(settings: &'a Settings) -> Self {
        let path = |setting: &Setting<Option<std::path::PathBuf>>| Setting {
            value: setting.value.as_ref().map(|path| path.display().to_string()),
            origin: setting.origin,
        };
        Self {
            file: settings.file.as_ref().map(|file| file.display().to_string()),
            file_exists: settings.file_exists,
            network: path(&settings.network),
            wallet: path(&settings.wallet),
            progress: &settings.progress,
            epochs: &settings.epochs,
        }
    }
}

impl fmt::Display for ShownSettings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths = [("network", &self.network), ("wallet", &self.wallet)];
        for (name, setting) in paths {
            match &setting.value {
                Some(value) => writeln!(f, "{name:<11} {value}  ({})", setting.origin)?,
                None => writeln!(f, "{name:<11} not set")?,
            }
        }
        writeln!(f, "{:<11} {}  ({})", "progress", self.progress.value, self.progress.origin)?;
        writeln!(f, "{:<11} {}  ({})", "epochs", self.epochs.value, self.epochs.origin)?;
        let file = self.file.as_deref().unwrap_or("none: there is no home directory");
        let absent =
            if self.file_exists || self.file.is_none() { "" } else { "  (does not exist)" };
        write!(f, "{:<11} {file}{absent}", "file")
    }
}
