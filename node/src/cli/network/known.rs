//! The networks that a user has given names: a directory with a network file for each.
//!
//! Wherever a network file is named, a name does, too. A known name comes before a file that is
//! called the same; so `--network friends` means the same in every directory.
//!
//! Invariants: a name is a file name and nothing else, on every system; a file appears whole or not
//! at all, and is never replaced.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use floe_protocol::genesis::NetworkFile;
use serde::Serialize;

use crate::cli::{
    exit::{Exit, Failure},
    out_file::write_file,
};

/// Longest name in bytes.
const NAME_MAX_BYTES: usize = 32;
/// How the files end.
const EXTENSION: &str = "json";

/// A user's name for a network: small letters, digits, `-` and `_`, the first no sign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(in crate::cli) struct NetworkName(String);

/// A text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network's name has 1 to {NAME_MAX_BYTES} small letters, digits, - and _, no sign first")]
pub(in crate::cli) struct BadName;

impl FromStr for NetworkName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let allowed = |byte: u8| plain(byte) || matches!(byte, b'-' | b'_');
        let first = text.bytes().next().is_some_and(plain);
        if first && text.len() <= NAME_MAX_BYTES && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName)
        }
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NetworkName {
    /// The name that a value given as a network may be; none if it can only be a file.
    pub(in crate::cli) fn of(value: &Path) -> Option<Self> {
        value.to_str()?.parse().ok()
    }
}

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct KnownNetworks {
    /// None if there is no home directory.
    dir: Option<PathBuf>,
}

impl KnownNetworks {
    /// The list in a directory, which need not be there.
    pub(in crate::cli) const fn at(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// Where a network's file is or would be.
    pub(super) fn file(&self, name: &NetworkName) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(&name.0).with_extension(EXTENSION))
    }

    /// The file of a value given as a network: that of a known name, or else `otherwise`.
    pub(in crate::cli) fn resolve(&self, value: &Path, otherwise: PathBuf) -> PathBuf {
        let known = NetworkName::of(value).and_then(|name| self.file(&name));
        match known.filter(|file| file.exists()) {
            Some(file) => file,
            // Told as it was given, if it is neither.
            None if NetworkName::of(value).is_some() && !otherwise.exists() => value.to_owned(),
            None => otherwise,
        }
    }

    /// The names, in order. Files that are called otherwise are not looked at.
    pub(in crate::cli) fn names(&self) -> Result<Vec<NetworkName>, Failure> {
        let Some(dir) = &self.dir else { return Ok(Vec::new()) };
        let failed = |error: io::Error| Failure::io(dir.display(), &error);
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = PathBuf::from(entry.map_err(failed)?.file_name());
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                names.extend(path.file_stem().and_then(|stem| NetworkName::of(Path::new(stem))));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Adds a network, and returns its file.
    pub(super) fn add(
        &self,
        name: &NetworkName,
        network: &NetworkFile,
    ) -> Result<PathBuf, Failure> {
        let Some((dir, file)) = self.dir.as_ref().zip(self.file(name)) else {
            return Err(Failure::usage("no_home", "there is no home directory to keep it in")
                .hint("name a directory with FLOE_NETWORKS_DIR"));
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| Failure::io(format_args!("cannot make {}", dir.display()), &error))?;
        let mut text =
            serde_json::to_string_pretty(network).expect("strings and numbers serialise");
        text.push('\n');
        match write_file(&file, text.as_bytes(), false) {
            Err(failure) if failure.code() == "file_exists" => {
                let message = format!("network {name} is known already");
                Err(Failure::new(Exit::Failed, "network_known", message).hint(format!(
                    "choose another name, or forget that one first: floe network remove {name}"
                )))
            }
            written => written.map(|()| file),
        }
    }

    /// Forgets a network.
    pub(super) fn remove(&self, name: &NetworkName) -> Result<(), Failure> {
        let Some(file) = self.file(name) else { return Err(self.unknown(name, Exit::NotFound)) };
        fs::remove_file(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.unknown(name, Exit::NotFound),
            _ => Failure::io(format_args!("cannot remove {}", file.display()), &error),
        })
    }

    /// That nobody knows a name.
    pub(in crate::cli) fn unknown(&self, name: &NetworkName, exit: Exit) -> Failure {
        let names: Vec<_> =
            self.names().unwrap_or_default().iter().map(ToString::to_string).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!("no network is called {name}; known: {known}");
        Failure::new(exit, "unknown_network", message).hint(format!(
            "add it with `floe network add {name} --genesis FILE`, or name a file with --network \
             ./FILE"
        ))
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support;

    use super::*;

    fn name(text: &str) -> NetworkName {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_plain_file_names() {
        for right in ["a", "friends", "test-net_2", "0", &"x".repeat(NAME_MAX_BYTES)] {
            assert_eq!(name(right).to_string(), right);
        }
        let long = "x".repeat(NAME_MAX_BYTES + 1);
        let wrong =
            ["", ".", "..", "a/b", "../a", "a.json", "A", "-a", "_a", "a b", "ä", "a\0", &long];
        for text in wrong {
            assert_eq!(text.parse::<NetworkName>(), Err(BadName), "{text:?}");
        }
    }

    #[test]
    fn what_is_added_is_listed_found_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownNetworks::at(Some(dir.path().join("floe/networks")));
        assert_eq!(known.names().unwrap(), []);
        let mut network =
            NetworkFile { genesis: test_support::genesis(4, 7), bootstrap: Vec::new() };
        let file = known.add(&name("friends"), &network).unwrap();
        known.add(&name("club"), &network).unwrap();
        fs::write(file.with_file_name("not listed.json"), "").unwrap();
        assert_eq!(known.names().unwrap(), [name("club"), name("friends")]);

        let written = fs::read(&file).unwrap();
        network.bootstrap.push("/ip4/127.0.0.1/tcp/1".to_owned());
        let again = known.add(&name("friends"), &network).unwrap_err();
        assert_eq!((again.exit(), again.code()), (Exit::Failed, "network_known"));
        assert_eq!(fs::read(&file).unwrap(), written, "nothing was replaced");

        known.remove(&name("club")).unwrap();
        let gone = known.remove(&name("club")).unwrap_err();
        assert_eq!((gone.exit(), gone.code()), (Exit::NotFound, "unknown_network"));
        assert!(gone.message().ends_with("known: friends"), "{}", gone.message());
    }

    #[test]
    fn a_known_name_comes_before_a_file_and_a_path_is_never_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let known = KnownNetworks::at(Some(dir.path().join("networks")));
        let network = NetworkFile { genesis: test_support::genesis(4, 7), bootstrap: Vec::new() };
        let kept = known.add(&name("friends"), &network).unwrap();
        let file = dir.path().join("friends");
        fs::write(&file, "").unwrap();
        let resolve = |value: &str| known.resolve(Path::new(value), dir.path().join(value));
        assert_eq!(resolve("friends"), kept);
        assert_eq!(resolve("./friends"), dir.path().join("./friends"));
        assert_eq!(resolve("nobody"), Path::new("nobody"), "told as it was given");
        fs::rename(&file, dir.path().join("club")).unwrap();
        assert_eq!(resolve("club"), dir.path().join("club"));
        assert_eq!(resolve("absent.json"), dir.path().join("absent.json"));
    }

    #[test]
    fn without_a_home_nothing_is_known() {
        let known = KnownNetworks::default();
        assert_eq!(known.names().unwrap(), []);
        let network = NetworkFile { genesis: test_support::genesis(4, 7), bootstrap: Vec::new() };
        assert_eq!(known.add(&name("a"), &network).unwrap_err().code(), "no_home");
        assert_eq!(known.remove(&name("a")).unwrap_err().code(), "unknown_network");
    }
}
