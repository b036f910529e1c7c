//! `floe-testnet`: local Floe swarms. See `floe-testnet --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    floe_node::allocator::limit();
    floe_testnet::cli::main()
}
