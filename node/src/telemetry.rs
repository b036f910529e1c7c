//! Logs: to stderr, as lines for people or as JSON for machines.
//!
//! `FLOE_LOG`, else `RUST_LOG`, names what is logged, in the syntax of `tracing` filters. Where
//! neither is set, the number of `-v` decides: libraries are heard only where they fail, since
//! libp2p warns of every connection that a peer cuts off, and of announcements that it knows
//! already. Standard output is never touched: it belongs to results.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// The variables that name a filter, the stronger first.
const FILTER_VARIABLES: [&str; 2] = ["FLOE_LOG", "RUST_LOG"];

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is logged unless the environment says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing but errors.
    Errors,
    /// What needs attention.
    Warnings,
    /// What a node does. `-v` of the other commands.
    Info,
    /// Every request. `-vv`.
    Debug,
    /// Everything, of the libraries too. `-vvv`.
    Trace,
}

impl LogLevel {
    /// As many levels above this one as there are `-v`.
    #[must_use]
    pub fn raised(self, by: u8) -> Self {
        let levels = [Self::Errors, Self::Warnings, Self::Info, Self::Debug, Self::Trace];
        let own = levels.iter().position(|level| *level == self).unwrap_or(0);
        levels[(own + usize::from(by)).min(levels.len() - 1)]
    }

    /// The filter: own crates at this level, libraries only where they fail.
    const fn filter(self) -> &'static str {
        match self {
            Self::Errors => "off,floe_node=error,floe_storage=error,floe_testnet=error",
            Self::Warnings => "error,floe_node=warn,floe_storage=warn,floe_testnet=warn",
            Self::Info => "error,floe_node=info,floe_storage=info,floe_testnet=info",
            Self::Debug => "warn,floe_node=debug,floe_storage=debug,floe_testnet=debug",
            Self::Trace => {
                "info,floe_node=trace,floe_storage=trace,floe_testnet=trace,libp2p=debug"
            }
        }
    }
}

/// A filter in the environment that is none.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is no log filter: {source}")]
pub struct FilterError {
    variable: &'static str,
    source: ParseError,
}

/// Starts the log of this process. Does nothing if it has been started before.
///
/// # Errors
/// [`FilterError`].
pub fn start(level: LogLevel, format: LogFormat) -> Result<(), FilterError> {
    // A line that cannot be written is lost: to complain of it on the same stderr would panic.
    let subscriber = fmt().with_writer(io::stderr).log_internal_errors(false);
    let subscriber = subscriber.with_env_filter(filter(level)?);
    // An error says that a subscriber is there already, as in tests.
    let _ = match format {
        LogFormat::Json => subscriber.json().try_init(),
        LogFormat::Text => subscriber.with_ansi(colours_on_stderr()).try_init(),
    };
    Ok(())
}

/// Whether stderr shows colours: a terminal, unless `NO_COLOR` is set.
pub(crate) fn colours_on_stderr() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && stderr_is_terminal()
}

/// Whether a person sees stderr as it is written.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

fn filter(level: LogLevel) -> Result<EnvFilter, FilterError> {
    for variable in FILTER_VARIABLES {
        if let Ok(text) = env::var(variable)
            && !text.is_empty()
        {
            return EnvFilter::try_new(text).map_err(|source| FilterError { variable, source });
        }
    }
    Ok(EnvFilter::new(level.filter()))
}

#[cfg(test)]
mod tests {
    use tracing::Level;
    use tracing_subscriber::{layer::SubscriberExt, registry};

    use super::*;

    #[test]
    fn each_v_raises_the_level_up_to_the_last() {
        assert_eq!(LogLevel::Warnings.raised(0), LogLevel::Warnings);
        assert_eq!(LogLevel::Warnings.raised(2), LogLevel::Debug);
        assert_eq!(LogLevel::Info.raised(200), LogLevel::Trace);
    }

    #[test]
    fn unasked_libraries_do_not_warn() {
        for level in [LogLevel::Warnings, LogLevel::Info] {
            let subscriber = registry().with(EnvFilter::new(level.filter()));
            tracing::subscriber::with_default(subscriber, || {
                assert!(!tracing::enabled!(target: "yamux::connection", Level::WARN));
                assert!(!tracing::enabled!(target: "libp2p_gossipsub::behaviour", Level::WARN));
                assert!(tracing::enabled!(target: "yamux::connection", Level::ERROR));
                assert!(tracing::enabled!(target: "floe_testnet::up", Level::WARN));
            });
        }
    }

    #[test]
    fn every_level_is_a_valid_filter() {
        for by in 0..5 {
            let level = LogLevel::Errors.raised(by);
            assert!(EnvFilter::try_new(level.filter()).is_ok(), "{level:?}");
        }
    }
}
