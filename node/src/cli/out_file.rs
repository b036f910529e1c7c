//! Files that come into being whole or not at all.
//!
//! Bytes go to a temporary file in the target's directory, which is flushed and then renamed. It is
//! removed when the value is dropped, so an error or Ctrl-C leaves nothing behind. The final step,
//! flush and rename, is not left half-way: an interruption that comes during it comes after it.
//!
//! Invariant: without `force` an existing file is never replaced, not even one that appears
//! while the temporary file is being written.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::exit::{Exit, Failure};

/// A file on its way into being.
#[derive(Debug)]
pub(super) struct OutFile {
    target: PathBuf,
    force: bool,
    temporary: NamedTempFile,
    file: tokio::fs::File,
}

impl OutFile {
    /// Begins the file that is to be at `path`.
    pub(super) fn create(path: &Path, force: bool) -> Result<Self, Failure> {
        let (target, temporary) = begin(path, force)?;
        let file = temporary.as_file().try_clone().map_err(|error| failed(path, &error))?;
        Ok(Self { target, force, temporary, file: file.into() })
    }

    /// Appends to it.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).await.map_err(|error| failed(&self.target, &error))
    }

    /// Makes it durable and puts it in its place.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.file.flush().await;
        flushed.map_err(|error| failed(&self.target, &error))?;
        let Self { target, force, temporary, .. } = self;
        // Without an await: an interruption drops the command at one, and the process would end
        // while a thread still has the temporary file.
        tokio::task::block_in_place(|| put_in_place(&target, force, temporary))
    }
}

/// Writes a small file whole.
pub(super) fn write_file(path: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let (target, mut temporary) = begin(path, force)?;
    temporary.write_all(bytes).map_err(|error| failed(path, &error))?;
    put_in_place(&target, force, temporary)
}

/// Writes a file in parts, whole or not at all.
pub(super) fn write_parts<T>(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (target, temporary) = begin(path, force)?;
    let mut buffered = BufWriter::new(temporary);
    let written = write(&mut buffered)?;
    let temporary = buffered.into_inner().map_err(|error| failed(path, error.error()))?;
    put_in_place(&target, force, temporary)?;
    Ok(written)
}

fn begin(path: &Path, force: bool) -> Result<(PathBuf, NamedTempFile), Failure> {
    let (target, mode) = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), 0o666),
        Err(error) => return Err(failed(path, &error)),
        Ok(metadata) if !metadata.is_file() => {
            let message = format!("{} is no regular file", path.display());
            return Err(Failure::new(Exit::Failed, "not_a_file", message)
                .hint("leave -o out and redirect standard output there"));
        }
        Ok(_) if !force => return Err(exists(path)),
        // What a link points at is replaced, not the link.
        Ok(metadata) => {
            let target = path.canonicalize().map_err(|error| failed(path, &error))?;
            (target, metadata.permissions().mode() & 0o777)
        }
    };
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new()
        .prefix(".floe-")
        .suffix(".part")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir);
    let temporary = temporary
        .map_err(|error| Failure::io(format_args!("cannot write in {}", dir.display()), &error))?;
    Ok((target, temporary))
}

fn put_in_place(target: &Path, force: bool, temporary: NamedTempFile) -> Result<(), Failure> {
    temporary.as_file().sync_all().map_err(|error| failed(target, &error))?;
    let placed =
        if force { temporary.persist(target) } else { temporary.persist_noclobber(target) };
    placed.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(target),
        _ => failed(target, &error.error),
    })?;
    // The name too is to survive a power cut; where a directory cannot be flushed it does not
    // matter enough to fail.
    if let Some(dir) = target.parent().and_then(|dir| File::open(dir).ok()) {
        let _ = dir.sync_all();
    }
    Ok(())
}

fn exists(path: &Path) -> Failure {
    let message = format!("{} exists already", path.display());
    Failure::new(Exit::Failed, "file_exists", message).hint("--force replaces it")
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format_args!("cannot write {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let (target, temporary) = begin(&path, false).unwrap();
        fs::write(&path, "first").unwrap();
        assert_eq!(put_in_place(&target, false, temporary).unwrap_err().code(), "file_exists");
        assert_eq!(write_file(&path, b"x", false).unwrap_err().code(), "file_exists");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["out"], "no temporary file is left");
        write_file(&path, b"second", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_final_step_is_taken_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        // Interrupted at one await after the other, until there is none left.
        for cut in 1.. {
            let mut file = OutFile::create(&dir.path().join("out"), false).unwrap();
            file.write(b"all").await.unwrap();
            let mut finish = Box::pin(file.finish());
            let mut polls = 0;
            let done = poll_fn(|context| match finish.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => {
                    polls += 1;
                    if polls == cut { Poll::Ready(None) } else { Poll::Pending }
                }
            });
            let done = done.await;
            drop(finish);
            if let Some(result) = done {
                result.unwrap();
                break;
            }
            assert!(names(dir.path()).is_empty(), "at await {cut}");
        }
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[tokio::test]
    async fn a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OutFile::create(&dir.path().join("out"), false).unwrap();
        file.write(b"half").await.unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(file);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn links_and_modes_are_kept_and_special_files_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"new", true).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.is_symlink());
        let error = write_file(Path::new("/dev/null"), b"x", true).unwrap_err();
        assert_eq!(error.code(), "not_a_file");
    }
}
