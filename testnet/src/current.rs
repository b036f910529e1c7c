//! Which swarm is meant where nobody says: the one that was started last.
//!
//! `up` writes the swarm's directory into a file of the user's own, and removes it at the end if it
//! still names that swarm. The file lies below `XDG_RUNTIME_DIR`, or else in a directory of the
//! system's temporary one that must belong to the user and be closed to others, so that nobody can
//! lead commands to a swarm of theirs.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// Remembers that the swarm in `dir` was started last.
pub(crate) fn record(dir: &Path) -> anyhow::Result<()> {
    let file = file()?;
    fs::write(&file, dir.as_os_str().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Forgets it, unless another has been started since.
pub(crate) fn forget(dir: &Path) {
    if let (Ok(file), Ok(current)) = (file(), current())
        && current == dir
    {
        // Nothing is lost if it stays: the socket in it is gone.
        let _ = fs::remove_file(file);
    }
}

/// The swarm that was started last.
pub(crate) fn current() -> anyhow::Result<PathBuf> {
    match fs::read_to_string(file()?) {
        Ok(dir) if !dir.is_empty() => Ok(PathBuf::from(dir)),
        Ok(_) | Err(_) => bail!(
            "no swarm is running: start one with `floe-testnet up`, or name one with --dir DIR"
        ),
    }
}

fn file() -> anyhow::Result<PathBuf> {
    let dir = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if Path::new(&runtime).is_dir() => Path::new(&runtime).join("floe-testnet"),
        Some(_) | None => {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("floe-testnet-{user}"))
        }
    };
    own(&dir)?;
    Ok(dir.join("current"))
}

/// Creates the directory, or checks that the one that is there is the user's alone.
fn own(dir: &Path) -> anyhow::Result<()> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.with_context(|| format!("cannot create {}", dir.display()))?;
    let metadata = fs::symlink_metadata(dir)?;
    let mine = metadata.uid() == rustix::process::getuid().as_raw();
    if !metadata.is_dir() || !mine || metadata.mode() & 0o077 != 0 {
        bail!("{} is not yours alone: name the swarm with --dir DIR", dir.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_use_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let own_dir = dir.path().join("own");
        assert!(own(&own_dir).is_ok());
        assert!(own(&own_dir).is_ok());
        fs::set_permissions(&own_dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(own(&own_dir).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(own(&link).is_err());
    }
}
