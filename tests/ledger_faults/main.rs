//! Real nodes on the real network with faults among them: members that lie, wrong clocks, lost
//! disks, peers that stall, and whatever a stranger may send.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shown of a test that fails: how far it came")]

mod amnesia;
mod clock;
mod inputs;
#[path = "../common/program.rs"]
mod program;
mod proposer;
mod relock;
mod snapshots;
mod successor;
mod swarm;
mod sync;
