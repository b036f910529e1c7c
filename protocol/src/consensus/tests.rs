//! Replicas among themselves, in virtual time.

mod admission;
mod handover;
mod network;
mod pitfalls;
mod safety;
