//! Floe's pure core.

pub mod bft;
pub mod blob;
pub mod codec;
pub mod encoding;
pub mod hash;
pub mod index;
pub mod merkle;
