//! Ctrl-C, SIGTERM and the end of the terminal, which all ask a command to end in order.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::Failure;

/// The user's wish to stop.
#[derive(Debug)]
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// None under `nohup`, which asks to go on without a terminal.
    hang_up: Option<Signal>,
}

impl Interrupts {
    /// From here on these signals arrive here and end the process no more.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::io("cannot take signals", &error));
        let hang_up = if hang_up_is_ignored() { None } else { Some(SignalKind::hangup()) };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: hang_up.map(listen).transpose()?,
        })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// Whether whoever started the process had it ignore SIGHUP. Known on Linux only.
fn hang_up_is_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// Reads the set of ignored signals, in which SIGHUP is the lowest bit.
fn ignores_hang_up(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_noticed() {
        assert!(ignores_hang_up("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hang_up("SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hang_up(""));
    }
}
