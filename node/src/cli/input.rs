//! Blobs on their way in: a file, or standard input as `-`.
//!
//! Invariant: at most one byte beyond the limit is ever read, and of a file that says it is larger
//! nothing at all.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{
    exit::{Exit, Failure},
    output::Output,
};

/// Where a blob comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Stdin,
    File(PathBuf),
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        if path == Path::new("-") { Self::Stdin } else { Self::File(path) }
    }
}

impl Input {
    /// What to call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Stdin => "-".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// All its bytes, if they are at most `max_bytes`.
    pub(super) async fn read(&self, max_bytes: u64, output: &Output) -> Result<Bytes, Failure> {
        if *self == Self::Stdin && io::stdin().is_terminal() {
            output.note("reading from the terminal: Ctrl-D ends the blob");
        }
        let input = self.clone();
        let read = spawn_blocking(move || match &input {
            Self::Stdin => read_limited(io::stdin().lock(), "standard input", 0, max_bytes),
            Self::File(path) => read_file(path, max_bytes),
        });
        // A panic of the thread was reported by itself; nothing else ends it early.
        read.await.unwrap_or_else(|error| Err(Failure::new(Exit::Failed, "io", error)))
    }
}

fn read_file(path: &Path, max_bytes: u64) -> Result<Bytes, Failure> {
    let name = path.display().to_string();
    let failed = |error: &io::Error| Failure::io(&name, error);
    let file = File::open(path).map_err(|error| failed(&error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(Failure::new(Exit::Failed, "is_a_directory", format!("{name} is a directory"))
            .hint("name its files: directories need archives, which this version does not have"));
    }
    if metadata.len() > max_bytes {
        return Err(Failure::too_large(&name, Some(metadata.len()), max_bytes));
    }
    read_limited(file, &name, metadata.len(), max_bytes)
}

fn read_limited(
    reader: impl Read,
    name: &str,
    expected_bytes: u64,
    max_bytes: u64,
) -> Result<Bytes, Failure> {
    let capacity = usize::try_from(expected_bytes).unwrap_or(0);
    let mut bytes = Vec::with_capacity(capacity);
    let read = reader.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(name, &error))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Failure::too_large(name, None, max_bytes));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_one_byte_beyond_the_limit_is_read() {
        let mut endless = io::repeat(7);
        let error = read_limited(&mut endless, "x", 0, 1000).unwrap_err();
        assert_eq!(error.code(), "too_large");
        assert_eq!(read_limited(io::repeat(7).take(1000), "x", 0, 1000).unwrap().len(), 1000);
        let mut counted = io::repeat(7).take(5000);
        assert!(read_limited(&mut counted, "x", 0, 1000).is_err());
        assert_eq!(counted.limit(), 5000 - 1001);
    }

    #[test]
    fn directories_and_large_files_are_refused_before_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_file(dir.path(), 10).unwrap_err().code(), "is_a_directory");
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_file(&path, 10).unwrap_err();
        assert_eq!(error.code(), "too_large");
        assert!(error.message().contains("1 TiB"), "{}", error.message());
        assert_eq!(read_file(&dir.path().join("no"), 10).unwrap_err().code(), "file_not_found");
    }
}
