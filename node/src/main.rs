//! `floe`: storage node, client and tools. All of it lives in [`floe_node::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    floe_node::allocator::limit();
    floe_node::cli::run(std::env::args_os().collect())
}
