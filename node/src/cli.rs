//! The command line of `floe`.
