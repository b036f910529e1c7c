//! What an error means to whoever called: exit code, stable code, whether to try again, next step.
//!
//! Every error of the library that can reach a user is translated here and nowhere else: those of a
//! client in `exit/client.rs`, those of files, networks and nodes in `exit/node.rs`. The codes and
//! the exit codes are part of the interface: scripts rely on them.

mod client;
mod node;

use std::{error::Error, fmt::Display, io, process::ExitCode};

use floe_protocol::message::{RefusedOperation, SubmitError};
use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::size::human_bytes;

const TOO_LARGE: &str = "larger files need archives, which this version does not have: split the \
                         file, or use a network with larger blobs";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    Verification,
    Temporary,
    Refused,
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Verification => 4,
            Exit::Temporary => 5,
            Exit::Refused => 6,
            Exit::Interrupted => 130,
        })
    }
}

/// An error as the user sees it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    exit: Exit,
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, code: &'static str, message: impl Display) -> Self {
        Self { exit, code, message: message.to_string(), hint: None }
    }

    pub(super) fn usage(code: &'static str, message: impl Display) -> Self {
        Self::new(Exit::Usage, code, message)
    }

    /// An error of the operating system, and what could not be done because of it.
    pub(super) fn io(what: impl Display, error: &io::Error) -> Self {
        let message = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(Exit::Failed, "file_not_found", message),
            io::ErrorKind::PermissionDenied => {
                Self::new(Exit::Refused, "permission_denied", message)
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::new(Exit::Failed, "disk_full", message).hint("make room on the disk")
            }
            _ => Self::new(Exit::Failed, "io", message),
        }
    }

    /// The reader of our output has gone: nobody is left to be told.
    pub(super) fn broken_pipe() -> Self {
        Self::new(Exit::Done, "broken_pipe", "")
    }

    pub(super) fn interrupted(hint: impl Into<String>) -> Self {
        Self::new(Exit::Interrupted, "interrupted", "interrupted").hint(hint)
    }

    pub(super) fn too_large(what: &str, len: Option<u64>, max_bytes: u64) -> Self {
        let limit =
            format!("the limit of {} ({max_bytes} bytes) for one blob", human_bytes(max_bytes));
        let message = match len {
            Some(len) => {
                format!("{what} has {} ({len} bytes), more than {limit}", human_bytes(len))
            }
            None => format!("{what} has more than {limit}"),
        };
        Self::new(Exit::Failed, "too_large", message).hint(TOO_LARGE)
    }

    /// What the ledger's refusal of a transaction means.
    fn refused(refusal: SubmitError, text: String) -> Self {
        match refusal {
            SubmitError::Funds => Self::new(Exit::Refused, "funds", text)
                .hint("`floe wallet balance` shows what there is"),
            SubmitError::Full => Self::new(Exit::Temporary, "ledger_busy", text)
                .hint("the ledger has much to do: try again in a moment"),
            SubmitError::Refused(RefusedOperation::Price) => {
                Self::new(Exit::Refused, "price", text)
                    .hint("prices change with the epoch: ask for the price again")
            }
            _ => Self::new(Exit::Refused, "refused", text),
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    pub(super) const fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether nobody wants to hear of it.
    pub(super) fn is_quiet(&self) -> bool {
        self.exit == Exit::Done
    }
}

/// `{"code", "message", "retryable", "hint"}`; `hint` is null where there is none.
impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let retryable = matches!(self.exit, Exit::Temporary | Exit::Interrupted);
        let mut object = serializer.serialize_struct("error", 4)?;
        object.serialize_field("code", self.code)?;
        object.serialize_field("message", &self.message)?;
        object.serialize_field("retryable", &retryable)?;
        object.serialize_field("hint", &self.hint)?;
        object.end()
    }
}

/// An error with its causes, as far as it does not name them itself.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let cause_text = error.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        cause = error.source();
    }
    text
}
