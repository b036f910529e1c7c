//! Replicas among themselves, in virtual time.

mod admission;
mod network;
mod pitfalls;
mod safety;
