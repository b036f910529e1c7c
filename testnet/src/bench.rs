//! The command `bench`: numbers beside what bounds them, measured in the same run.
//!
//! A rate alone says more about the machine than about Floe. So each benchmark also measures the
//! parts of its work alone, on the same machine in the same minute, and reports the ratio.

pub(crate) mod bounds;
pub(crate) mod challenge;
pub(crate) mod ledger;
pub(crate) mod loopback;
pub(crate) mod migrate;
mod process;
pub(crate) mod repair;
pub(crate) mod store_read;

use std::time::Duration;

use clap::Subcommand;

use self::{
    challenge::ChallengeArgs, ledger::LedgerArgs, migrate::MigrateArgs, repair::RepairArgs,
    store_read::StoreReadArgs,
};

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Store and read a blob; encoding, loopback and durable writing alone for comparison
    StoreRead(StoreReadArgs),
    /// Make blocks with and without transactions; a large state and a light client alone
    Ledger(LedgerArgs),
    /// Empty a node's disk and have it refilled; reads meanwhile for comparison
    Repair(RepairArgs),
    /// Have a node join and take shards over; what has to move for comparison
    Migrate(MigrateArgs),
    /// Rounds of storage challenges; the same swarms without any for comparison (takes an hour)
    Challenge(ChallengeArgs),
}

/// The middle one; of an even number the earlier of the two. None of none.
fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let ms = Duration::from_millis;
        assert_eq!(median(vec![ms(9), ms(1), ms(5)]), Some(ms(5)));
        assert_eq!(median(vec![ms(9), ms(1)]), Some(ms(1)));
        assert_eq!(median(Vec::new()), None);
    }
}
