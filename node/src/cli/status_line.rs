//! A line on stderr that says what a long command waits for: in place on a terminal, else one line
//! per change; with `--json` an object per change on stdout.
//!
//! What counts as a change is said by the status itself ([`Status::phase`]): a countdown that goes
//! on is none. A status that has changed only in its numbers is told again after some seconds.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{output::stderr_line, progress::ProgressMode, session::Session};
use crate::telemetry::stderr_is_terminal;

/// How soon numbers that have changed are told again, where every line stays.
const AGAIN: Duration = Duration::from_secs(10);

/// What a command waits for, or that it has got there.
pub(super) trait Status: Display + Serialize {
    /// What is the same as long as nothing but numbers change.
    fn phase(&self) -> String;
}

/// The line. Dropping it removes it from a terminal.
#[derive(Debug)]
pub(super) struct StatusLine {
    form: Form,
    phase: String,
    text: String,
    told: Instant,
}

#[derive(Debug)]
enum Form {
    Terminal(ProgressBar),
    Lines,
    Objects,
    Nothing,
}

impl StatusLine {
    /// A line of a command with these options.
    pub(super) fn new(session: &Session) -> Self {
        let form = if session.output.is_json() {
            Form::Objects
        } else if session.output.is_quiet() || session.progress == ProgressMode::Never {
            Form::Nothing
        } else if stderr_is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{spinner} {wide_msg}");
            bar.set_style(style.expect("a valid template"));
            Form::Terminal(bar)
        } else {
            Form::Lines
        };
        Self { form, phase: String::new(), text: String::new(), told: Instant::now() }
    }

    /// Shows where things stand.
    pub(super) fn show(&mut self, session: &Session, status: &impl Status) {
        let text = status.to_string();
        if let Form::Terminal(bar) = &self.form {
            bar.set_message(text);
            bar.tick();
            return;
        }
        let phase = status.phase();
        let again = text != self.text && self.told.elapsed() >= AGAIN;
        if phase == self.phase && !again {
            return;
        }
        match &self.form {
            // A command goes on although nobody reads what it prints.
            Form::Objects => drop(session.output.result(status, &text)),
            Form::Lines => stderr_line(&text),
            Form::Terminal(_) | Form::Nothing => {}
        }
        (self.phase, self.text, self.told) = (phase, text, Instant::now());
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if let Form::Terminal(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

/// A time to wait, in words.
pub(super) fn human_wait(ms: u64) -> String {
    let s = ms.div_ceil(1_000);
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s.div_ceil(60)),
        7_200..172_800 => format!("{} h", s.div_ceil(3_600)),
        _ => format!("{} days", s.div_ceil(86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_rounded_up_to_one_unit() {
        let table = [(0, "0 s"), (1, "1 s"), (119_000, "119 s"), (120_001, "3 min")];
        let long = [(7_200_000, "2 h"), (172_800_000, "2 days")];
        for (ms, text) in table.into_iter().chain(long) {
            assert_eq!(human_wait(ms), text, "{ms} ms");
        }
    }
}
