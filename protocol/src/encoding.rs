//! Red Stuff on one page: the two-dimensional erasure code of Floe.
mod axis;
mod config;

pub use axis::Axis;
pub use config::{
    BlobLayout, ConfigError, DEFAULT_MAX_BLOB_BYTES, EncodingConfig, MAX_SHARDS, MAX_SLIVER_BYTES,
    MIN_SHARDS,
};
