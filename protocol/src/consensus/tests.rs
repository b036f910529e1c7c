//! Replicas among themselves, in virtual time.

mod admission;
mod blame;
mod boundary;
mod handover;
mod network;
mod pitfalls;
mod safety;
mod slow;
