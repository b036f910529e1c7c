//! Progress on stderr: a bar with rate and time left on a terminal; with `--progress always`
//! elsewhere a line a second.

use std::{
    fmt,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::{
    output::{stderr_line, stdout_is_terminal},
    session::Session,
    size::human_bytes,
};
use crate::telemetry::stderr_is_terminal;

const LINE_INTERVAL: Duration = Duration::from_secs(1);
const BAR: &str = "{prefix} {msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
const SPINNER: &str = "{prefix} {spinner} {msg}";

/// When to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProgressMode {
    /// On a terminal, unless `--quiet`, `--json` or `-v` is given
    #[default]
    Auto,
    /// Always: where there is no terminal, as lines
    Always,
    /// Never
    Never,
}

impl fmt::Display for ProgressMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// The progress of one transfer. Dropping it removes the bar.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// When the next line is due, where lines are written instead of a bar.
    next_line: Option<Instant>,
    is_bar: bool,
}

impl Progress {
    /// Progress of what `name` names. `bytes_on_stdout`: the blob is written there.
    pub(super) fn new(session: &Session, name: &str, bytes_on_stdout: bool) -> Self {
        let terminal = stderr_is_terminal();
        let shown = match session.progress {
            ProgressMode::Always => true,
            ProgressMode::Never => false,
            ProgressMode::Auto => {
                let in_the_way = bytes_on_stdout && stdout_is_terminal();
                terminal && !session.output.is_quiet() && !in_the_way
            }
        };
        let target = if shown && terminal {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target).with_prefix(name.to_owned());
        bar.set_style(ProgressStyle::with_template(SPINNER).expect("a valid template"));
        let next_line = (shown && !terminal).then(|| Instant::now() + LINE_INTERVAL);
        Self { bar, next_line, is_bar: false }
    }

    /// Shows what is done of `total` bytes; a `total` of 0 is not known.
    pub(super) fn show(&mut self, doing: &'static str, done: u64, total: u64) {
        self.bar.set_message(doing);
        self.bar.set_length(total);
        self.bar.set_position(done.min(total));
        if total > 0 && !self.is_bar {
            let style = ProgressStyle::with_template(BAR).expect("a valid template");
            self.bar.set_style(style.progress_chars("=> "));
            self.bar.reset_eta();
            self.is_bar = true;
        }
        if self.next_line.is_some_and(|due| Instant::now() >= due) {
            self.next_line = Some(Instant::now() + LINE_INTERVAL);
            self.line(doing, done, total);
        }
    }

    fn line(&self, doing: &str, done: u64, total: u64) {
        let name = self.bar.prefix();
        if total == 0 {
            stderr_line(format_args!("{name}: {doing}"));
            return;
        }
        let percent = u128::from(done) * 100 / u128::from(total);
        let left = self.bar.eta().as_secs();
        let (done, total) = (human_bytes(done), human_bytes(total));
        stderr_line(format_args!(
            "{name}: {doing}, {percent} % ({done} of {total}), {left} s left"
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
