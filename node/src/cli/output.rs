//! The only place that writes to stdout and stderr.
//!
//! In JSON mode every result and every error is one object on a line of its own. A closed pipe is
//! no error of ours: it ends the command quietly.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::exit::{Exit, Failure};
use crate::telemetry::colours_on_stderr;

/// Where results, notes and errors go, and in which form.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
    /// Stdout is there for the bytes of a blob, so that results go to stderr.
    stdout_taken: bool,
    /// Bytes of a blob are on stdout, so that errors too go to stderr.
    blob_begun: AtomicBool,
}

/// An error as an object.
#[derive(Serialize)]
struct ErrorObject<'a> {
    error: &'a Failure,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
}

impl Output {
    pub(super) const fn new(json: bool, quiet: bool, stdout_taken: bool) -> Self {
        Self { json, quiet, stdout_taken, blob_begun: AtomicBool::new(false) }
    }

    /// Whether nothing but results is wanted.
    pub(super) const fn is_quiet(&self) -> bool {
        self.quiet || self.json
    }

    /// Whether results are objects.
    pub(super) const fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: as an object, as text, or with `--quiet` as what alone matters of it.
    pub(super) fn result(
        &self,
        result: &(impl Serialize + Display),
        brief: impl Display,
    ) -> Result<(), Failure> {
        if self.json {
            let object = serde_json::to_string(result).expect("results have string keys");
            write_object(&object, self.stdout_taken)
        } else if self.quiet {
            write_line(io::stdout(), &brief)
        } else {
            write_line(io::stdout(), result)
        }
    }

    /// Writes to stdout what has a form of its own, as scripts and manual pages have.
    pub(super) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| unwritable(&error))
    }

    /// Tells something beside the results.
    pub(super) fn note(&self, text: impl Display) {
        if !self.is_quiet() {
            // Nothing is lost with a note that nobody can see.
            let _ = write_line(io::stderr(), &text);
        }
    }

    /// Tells something that the user should look at, but that stops nothing.
    pub(super) fn warning(&self, text: impl Display) {
        self.note(format_args!("{} {text}", label("warning:", "33")));
    }

    /// Prints an error and returns the exit code that goes with it.
    pub(super) fn failure(&self, failure: &Failure) -> Exit {
        self.write_failure(None, failure);
        failure.exit()
    }

    /// Prints an error that concerns one of several files.
    pub(super) fn failure_of(&self, file: &str, failure: &Failure) {
        self.write_failure(Some(file), failure);
    }

    fn write_failure(&self, file: Option<&str>, failure: &Failure) {
        if failure.is_quiet() {
            return;
        }
        // An error about an error would help nobody.
        let _ = if self.json {
            let object = serde_json::to_string(&ErrorObject { error: failure, file });
            let object = object.expect("errors have string keys");
            write_object(&object, self.blob_begun.load(Ordering::Relaxed))
        } else {
            let error = label("error:", "1;31");
            // Most messages about a file name it by themselves.
            let file = file.filter(|file| !failure.message().contains(file));
            let file = file.map(|file| format!("{file}: ")).unwrap_or_default();
            let mut text = format!("{error} {file}{}", failure.message());
            if let Some(hint) = failure.hint_text() {
                text = format!("{text}\n{} {hint}", label("hint:", "36"));
            }
            write_line(io::stderr(), &text)
        };
    }

    /// Writes bytes of a blob to stdout. On a thread of its own: a pipe may be read slowly or
    /// never, and Ctrl-C is to be heard meanwhile.
    pub(super) async fn blob_bytes(&self, bytes: Bytes) -> Result<(), Failure> {
        self.blob_begun.store(true, Ordering::Relaxed);
        let written = spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())
        });
        let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| unwritable(&error))
    }
}

fn write_object(object: &str, to_stderr: bool) -> Result<(), Failure> {
    if to_stderr { write_line(io::stderr(), &object) } else { write_line(io::stdout(), &object) }
}

/// Whether stdout is a terminal, where a progress bar would get between the lines.
pub(super) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes to stderr what was asked for there, whatever else is to be quiet.
pub(super) fn stderr_line(text: impl Display) {
    let _ = write_line(io::stderr(), &text);
}

fn label(text: &str, colour: &str) -> String {
    if colours_on_stderr() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

fn write_line(mut stream: impl Write, text: &impl Display) -> Result<(), Failure> {
    writeln!(stream, "{text}").and_then(|()| stream.flush()).map_err(|error| unwritable(&error))
}

fn unwritable(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::broken_pipe(),
        _ => Failure::io("cannot write the output", error),
    }
}
