//! Red Stuff on one page: the two-dimensional erasure code of Floe.
//!
//! ```text
//!              k2 = n - f columns      f parity columns
//!            +-----------------------+----------+
//!  k1 =      | the blob, row by row, |          |   symbol (r, c): s bytes, one cell
//!  n - 2f    | zero padded           |          |   primary sliver r: first k2 symbols of row r
//!  rows      +-----------------------+----------+   secondary sliver c: first k1 of column c
//!  2f parity |                       | held by  |   sliver pair i: primary i, secondary n - 1 - i
//!  rows      |                       | nobody   |   sliver root: Merkle root over all n symbols
//!            +-----------------------+----------+                of the line
//! ```
//!
//! Rows are extended from `k2` to `n` symbols and columns from `k1` to `n`, by linear codes, so the
//! two orders agree. Any `k1` primary or any `k2` secondary slivers give the blob; the first `k1`
//! primary slivers *are* the blob. A lost primary sliver is made from `k2` single symbols of the
//! columns, a lost secondary one from `k1` symbols of the rows: repair costs what was lost.
//!
//! In the life of a blob: [`encode`] on the writer, [`verify_pair`] on the storage nodes,
//! [`verify_primary`], [`decode_rows`] and [`DigestTable::rebuild`] on readers, [`SliverTree`],
//! [`ProvenSymbol`] and [`recover`] in repair. What a false writer did is shown by
//! [`crate::inconsistency`].
//!
//! Invariants: everything is a pure function of blob and `n`; `recover(encode(x)) = encode(x)` for
//! every target and choice; two decodings that succeed give the same bytes, whatever the writer
//! did; nothing here panics on bytes from a peer.

mod axis;
mod config;
mod decoder;
mod digest_table;
mod encoder;
mod expansion;
mod extension;
mod lines;
mod parallel;
mod recovery;
mod reed_solomon;
mod sliver;

pub use axis::Axis;
pub use config::{
    BlobLayout, ConfigError, DEFAULT_MAX_BLOB_BYTES, EncodingConfig, MAX_SHARDS, MAX_SLIVER_BYTES,
    MIN_SHARDS,
};
pub use decoder::{DecodeError, assemble, decode_from_secondaries, decode_rows};
pub use digest_table::{DigestTable, TableError};
pub use encoder::{EncodedBlob, blob_id, encode};
pub use lines::lines_of_rows;
pub(crate) use recovery::decode_line;
pub use recovery::{
    ProvenSymbol, RecoverError, SymbolError, recover, recover_primary, recover_secondary,
};
pub use reed_solomon::{UnsupportedCpu, cpu_supported};
pub use sliver::{
    PairHashes, SliverError, SliverTree, sliver_root, symbol_hashes, verify_pair, verify_primary,
    verify_secondary, verify_slivers,
};
