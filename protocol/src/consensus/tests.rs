//! Replicas among themselves, in virtual time.

mod admission;
mod boundary;
mod network;
mod pitfalls;
mod safety;
