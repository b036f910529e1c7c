//! Where the settings come from: flag, else environment, else the configuration file, else the
//! default.
//!
//! The file is `floe/config.toml` below `$XDG_CONFIG_HOME`, or else below `~/.config`. It need not
//! be there. What is in it is either understood or an error: a misspelt key is not passed over. A
//! network may be named in each of them by a name that it was given (`network/known.rs`).
//! Invariant: an empty environment variable counts as unset.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    exit::{Exit, Failure},
    network::known::KnownNetworks,
    progress::ProgressMode,
};

/// The wallet's key file beside the configuration file, unless another one is named.
const WALLET_FILE: &str = "wallet.key";
/// For how many epochs a store pays, unless something else is said.
const EPOCHS: u32 = 10;

/// Where a value comes from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    Flag,
    Environment,
    File,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// A value and where it comes from.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Setting<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// What was given on the command line.
#[derive(Debug, Default)]
pub(super) struct Flags {
    pub(super) network: Option<PathBuf>,
    pub(super) wallet: Option<PathBuf>,
    pub(super) progress: Option<ProgressMode>,
}

/// The settings of a command.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where the configuration file is or would be; none if there is no home directory.
    pub(super) file: Option<PathBuf>,
    /// Whether it is there.
    pub(super) file_exists: bool,
    /// The file; the name as it was given, if no network is called so.
    pub(super) network: Setting<Option<PathBuf>>,
    pub(super) networks: KnownNetworks,
    /// None only if there is no home directory.
    pub(super) wallet: Setting<Option<PathBuf>>,
    pub(super) progress: Setting<ProgressMode>,
    /// For how many epochs a store pays.
    pub(super) epochs: Setting<u32>,
}

/// What the configuration file says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    network: Option<PathBuf>,
    wallet: Option<PathBuf>,
    progress: Option<ProgressMode>,
    epochs: Option<NonZeroU32>,
}

impl Settings {
    /// Puts together flags, the process's environment and the user's file.
    pub(super) fn load(flags: Flags) -> Result<Self, Failure> {
        Self::resolve(flags, |name| env::var_os(name))
    }

    /// Flags alone, whatever environment and file say.
    pub(super) fn from_flags(flags: Flags) -> Result<Self, Failure> {
        Self::resolve(flags, |_| None)
    }

    fn resolve(flags: Flags, get: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let variable = |name: &str| get(name).filter(|value| !value.is_empty());
        let home = variable("HOME").map(PathBuf::from);
        // The XDG specification has relative paths ignored.
        let config_home = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        let config_home = config_home.filter(|dir| dir.is_absolute());
        let config_home = config_home.or_else(|| Some(home.as_ref()?.join(".config")));
        let dir = config_home.map(|dir| dir.join("floe"));
        let networks = variable("FLOE_NETWORKS_DIR").map(PathBuf::from);
        let networks = networks.or_else(|| Some(dir.as_ref()?.join("networks")));
        let networks = KnownNetworks::at(networks);
        let file = dir.map(|dir| dir.join("config.toml"));
        let found = match &file {
            Some(path) => read_file(path)?,
            None => None,
        };
        let file_exists = found.is_some();
        let ConfigFile { network, wallet, progress, epochs } = found.unwrap_or_default();
        let path_of = |value: Option<PathBuf>| {
            let dir = file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
            value.map(|value| path_in_file(&value, dir, home.as_deref()))
        };
        let path = |name| variable(name).map(PathBuf::from);
        let given = |value: PathBuf| networks.resolve(&value, value.clone());
        let in_file =
            |value: PathBuf| Some(networks.resolve(&value, path_of(Some(value.clone()))?));
        let network = strongest(
            flags.network.map(given),
            path("FLOE_NETWORK").map(given),
            network.and_then(in_file),
        );
        let mut wallet = strongest(flags.wallet, path("FLOE_WALLET"), path_of(wallet)).optional();
        if wallet.value.is_none() {
            let dir = file.as_deref().and_then(Path::parent);
            wallet.value = dir.map(|dir| dir.join(WALLET_FILE));
        }
        let progress_variable = match variable("FLOE_PROGRESS") {
            Some(value) => Some(parse_progress(&value)?),
            None => None,
        };
        let epochs_variable = match variable("FLOE_EPOCHS") {
            Some(value) => Some(parse_epochs(&value)?),
            None => None,
        };
        Ok(Self {
            network: network.optional(),
            networks,
            wallet,
            progress: strongest(flags.progress, progress_variable, progress)
                .or(ProgressMode::default()),
            epochs: strongest(None, epochs_variable, epochs.map(NonZeroU32::get)).or(EPOCHS),
            file,
            file_exists,
        })
    }
}

/// The first value that is there, and where it comes from.
struct Strongest<T>(Option<(T, Origin)>);

fn strongest<T>(flag: Option<T>, variable: Option<T>, file: Option<T>) -> Strongest<T> {
    let from = |value: Option<T>, origin| value.map(|value| (value, origin));
    let found = from(flag, Origin::Flag).or_else(|| from(variable, Origin::Environment));
    Strongest(found.or_else(|| from(file, Origin::File)))
}

impl<T> Strongest<T> {
    fn optional(self) -> Setting<Option<T>> {
        match self.0 {
            Some((value, origin)) => Setting { value: Some(value), origin },
            None => Setting { value: None, origin: Origin::Default },
        }
    }

    fn or(self, default: T) -> Setting<T> {
        let (value, origin) = self.0.unwrap_or((default, Origin::Default));
        Setting { value, origin }
    }
}

/// Reads the file if it is there.
fn read_file(path: &Path) -> Result<Option<ConfigFile>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(Failure::io(format_args!("configuration file {}", path.display()), &error)),
        },
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        let message = format!("{}, line {line}: {}", path.display(), error.message().trim());
        Failure::new(Exit::Failed, "bad_config", message).hint(
            "the file may set network = \"FILE or NAME\", wallet = \"FILE\", progress = \"WHEN\" and epochs = N",
        )
    })
}

/// A path of the file: one that is not absolute starts at the file, or with ~/ at home.
fn path_in_file(value: &Path, dir: &Path, home: Option<&Path>) -> PathBuf {
    match (value.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => dir.join(value),
    }
}

fn parse_progress(value: &OsString) -> Result<ProgressMode, Failure> {
    let value = value.to_string_lossy();
    ProgressMode::from_str(&value, false).map_err(|_| {
        let message = format!("FLOE_PROGRESS is {value:?}, not one of auto, always, never");
        Failure::usage("usage", message)
    })
}

fn parse_epochs(value: &OsString) -> Result<u32, Failure> {
    let value = value.to_string_lossy();
    value.trim().parse().map(NonZeroU32::get).map_err(|_| {
        let message = format!("FLOE_EPOCHS is {value:?}, not a number of epochs, at least 1");
        Failure::usage("usage", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: Flags, variables: &[(&str, &Path)]) -> Result<Settings, Failure> {
        Settings::resolve(flags, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.as_os_str().to_owned())
        })
    }

    fn from(value: &str, origin: Origin) -> Setting<Option<PathBuf>> {
        Setting { value: Some(value.into()), origin }
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("floe")).unwrap();
        let file = dir.path().join("floe/config.toml");
        fs::write(
            &file,
            "network = \"/file\"\nwallet = \"~/w.key\"\nprogress = \"never\"\nepochs = 5\n",
        )
        .unwrap();
        let config = ("XDG_CONFIG_HOME", dir.path());
        let home = ("HOME", Path::new("/home/me"));
        let variable = ("FLOE_NETWORK", Path::new("/variable"));
        let flags = || Flags { network: Some("/flag".into()), ..Flags::default() };

        let settings = resolve(flags(), &[config, home, variable]).unwrap();
        assert_eq!(settings.network, from("/flag", Origin::Flag));
        assert_eq!(settings.wallet, from("/home/me/w.key", Origin::File));
        assert_eq!(settings.progress.value, ProgressMode::Never);
        assert_eq!(settings.epochs, Setting { value: 5, origin: Origin::File });
        assert_eq!((settings.file, settings.file_exists), (Some(file.clone()), true));
        let settings = resolve(Flags::default(), &[config, variable]).unwrap();
        assert_eq!(settings.network, from("/variable", Origin::Environment));
        let empty = ("FLOE_NETWORK", Path::new(""));
        let settings = resolve(Flags::default(), &[config, empty]).unwrap();
        assert_eq!(settings.network, from("/file", Origin::File));

        fs::remove_file(&file).unwrap();
        let settings = resolve(Flags::default(), &[config, empty]).unwrap();
        assert_eq!(settings.network, Setting { value: None, origin: Origin::Default });
        let wallet = Setting {
            value: file.parent().map(|dir| dir.join("wallet.key")),
            origin: Origin::Default,
        };
        assert_eq!(settings.wallet, wallet);
        let flag = Flags { wallet: Some("/w".into()), ..Flags::default() };
        let named = ("FLOE_WALLET", Path::new("/v"));
        assert_eq!(resolve(flag, &[config, named]).unwrap().wallet, from("/w", Origin::Flag));
        let settings_of_variable = resolve(Flags::default(), &[config, named]).unwrap();
        assert_eq!(settings_of_variable.wallet, from("/v", Origin::Environment));
        assert_eq!(settings.epochs, Setting { value: EPOCHS, origin: Origin::Default });
        let some = resolve(Flags::default(), &[config, ("FLOE_EPOCHS", Path::new("7"))]).unwrap();
        assert_eq!(some.epochs, Setting { value: 7, origin: Origin::Environment });
        let auto = Setting { value: ProgressMode::Auto, origin: Origin::Default };
        assert_eq!((settings.progress, settings.file_exists), (auto, false));
    }

    #[test]
    fn the_file_is_looked_for_where_xdg_says() {
        let home = ("HOME", Path::new("/nowhere/me"));
        let expected = Some("/nowhere/me/.config/floe/config.toml".into());
        assert_eq!(resolve(Flags::default(), &[home]).unwrap().file, expected);
        let relative = ("XDG_CONFIG_HOME", Path::new("here"));
        assert_eq!(resolve(Flags::default(), &[home, relative]).unwrap().file, expected);
        assert_eq!(resolve(Flags::default(), &[]).unwrap().file, None);
    }

    #[test]
    fn a_network_may_be_named_wherever_its_file_may() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("floe/networks/friends.json");
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::write(&kept, "").unwrap();
        let config = ("XDG_CONFIG_HOME", dir.path());
        let name = || PathBuf::from("friends");
        let flags = || Flags { network: Some(name()), ..Flags::default() };
        let kept = kept.to_str().unwrap();
        assert_eq!(resolve(flags(), &[config]).unwrap().network, from(kept, Origin::Flag));
        let variable = ("FLOE_NETWORK", Path::new("friends"));
        let settings = resolve(Flags::default(), &[config, variable]).unwrap();
        assert_eq!(settings.network, from(kept, Origin::Environment));
        fs::write(dir.path().join("floe/config.toml"), "network = \"friends\"\n").unwrap();
        let settings = resolve(Flags::default(), &[config]).unwrap();
        assert_eq!(settings.network, from(kept, Origin::File));
        // Another list, in which it is not.
        let elsewhere = ("FLOE_NETWORKS_DIR", Path::new("/nowhere"));
        let settings = resolve(flags(), &[config, elsewhere]).unwrap();
        assert_eq!(settings.network, from("friends", Origin::Flag));
        let settings = resolve(Flags::default(), &[config, elsewhere]).unwrap();
        assert_eq!(settings.network, from("friends", Origin::File));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let path = Path::new("/c/config.toml");
        let table = [
            ("\nnetwrk = \"x\"\n", "line 2: unknown field `netwrk`"),
            ("progress = \"loud\"\n", "line 1: unknown variant `loud`"),
            ("epochs = 0\n", "line 1: invalid value"),
            ("network = 5\n", "line 1: invalid type"),
            ("network = \"a\"\n\nnetwork", "line 3"),
        ];
        for (text, expected) in table {
            let error = parse::<ConfigFile>(path, text).unwrap_err();
            assert_eq!(error.code(), "bad_config");
            assert!(error.message().contains(expected), "{}", error.message());
        }
        let relative = path_in_file(Path::new("a/network.json"), Path::new("/c"), None);
        assert_eq!(relative, Path::new("/c/a/network.json"));
        assert_eq!(parse_progress(&"loud".into()).unwrap_err().exit(), Exit::Usage);
        for wrong in ["0", "-1", "ten"] {
            assert_eq!(parse_epochs(&wrong.into()).unwrap_err().exit(), Exit::Usage, "{wrong}");
        }
    }
}
