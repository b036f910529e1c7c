//! Golden vectors of the encoding: ids, roots, tables, shares, pair proofs, placements.
//!
//! A difference means that this build cannot read what the others wrote. Only where that is
//! intended, write the file anew with `FLOE_WRITE_VECTORS=1` and look at every line that changed.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::{fmt::Write as _, num::NonZeroUsize};

use floe_protocol::{
    encoding::{Axis, EncodingConfig, encode, symbol_hashes},
    hash::Hash,
    inconsistency::InconsistencyProof,
    index::{SliverIndex, SliverPairIndex},
    test_support::blob,
};

const GOLDEN: &str = include_str!("vectors/encoding.txt");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/encoding.txt");

const INTRODUCTION: &str = "\
# Golden vectors of the encoding. Written by tests/encoding_vectors.rs; changed only on purpose.
# Blob: SplitMix64 from the seed, eight little-endian bytes each, cut to the length.
# Hashes of larger values are plain BLAKE3.
";

#[test]
fn encodings_are_those_of_the_golden_vectors() {
    let mut text = String::from(INTRODUCTION);
    for (n, seed, len) in [
        (4, 0, 0),
        (4, 1, 1),
        (4, 2, 6),
        (4, 3, 1000),
        (7, 4, 15),
        (7, 5, 16),
        (7, 6, 4096),
        (64, 7, 945),
        (64, 8, 100_000),
        (256, 9, 1),
        (256, 10, 50_000),
    ] {
        describe(&mut text, n, seed, len).unwrap();
    }
    if std::env::var_os("FLOE_WRITE_VECTORS").is_some() {
        write_golden(&text);
    } else {
        assert!(text == GOLDEN, "encoding changed; it is now:\n{text}");
    }
}

#[expect(clippy::disallowed_methods, reason = "writes its own vectors, only when asked to")]
fn write_golden(text: &str) {
    std::fs::write(PATH, text).unwrap();
}

fn describe(text: &mut String, n: u16, seed: u64, len: usize) -> std::fmt::Result {
    let config = EncodingConfig::new(n).unwrap();
    let encoded = encode(config, blob(seed, len), NonZeroUsize::MIN).unwrap();
    let (layout, id) = (encoded.layout(), encoded.id());
    writeln!(text, "\nblob n={n} seed={seed} len={len} symbol_bytes={}", layout.symbol_bytes())?;
    writeln!(text, "id {id}")?;
    writeln!(text, "header {}", hex(&encoded.header().to_bytes()))?;
    writeln!(text, "root {}", encoded.header().root)?;
    writeln!(text, "placement offset={} shard_of_pair_0={}", id.offset(n), shard(&encoded, 0))?;
    writeln!(text, "table_hash {}", Hash::of_symbol(&encoded.table().to_bytes()))?;
    writeln!(text, "shares_hash {}", Hash::of_symbol(&encoded.table().shares().concat()))?;
    // All pairs of small networks, and the corners of large ones.
    let pairs: Vec<_> =
        (0..n).filter(|pair| n <= 7 || [0, 1, n / 2, n - 1].contains(pair)).collect();
    for pair in pairs.into_iter().map(SliverPairIndex::new) {
        let digest = encoded.table().digest(pair);
        let (primary, secondary) = encoded.pair(pair);
        writeln!(text, "pair {pair} shard={}", shard(&encoded, pair.get()))?;
        writeln!(text, "  primary_root {}", digest.primary)?;
        writeln!(text, "  primary {}", short(&primary))?;
        writeln!(text, "  secondary_root {}", digest.secondary)?;
        writeln!(text, "  secondary {}", short(&secondary))?;
        let symbols = symbol_hashes(&layout, Axis::Primary, &primary).unwrap();
        writeln!(text, "  last_symbol_of_row {}", symbols[config.n() - 1])?;
        let proof = encoded.proof(pair);
        writeln!(text, "  share {}", short(&proof.share))?;
        writeln!(text, "  proof {}", short(&proof.to_bytes()))?;
    }
    Ok(())
}

fn shard(encoded: &floe_protocol::encoding::EncodedBlob, pair: u16) -> String {
    encoded.id().shard_of(SliverPairIndex::new(pair), encoded.header().n_shards).to_string()
}

/// Short values in full, long ones by length and hash.
fn short(bytes: &[u8]) -> String {
    if bytes.len() <= 64 {
        hex(bytes)
    } else {
        format!("{} bytes, hash {}", bytes.len(), Hash::of_symbol(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn the_layout_of_inconsistency_proofs_is_that_of_the_golden_vector() {
    use floe_protocol::{
        blob::{BlobHeader, PairDigest},
        encoding::{DigestTable, sliver_root},
    };
    // The honest blob of n = 7, seed 5, but with the first byte of row 6 changed before the roots
    // were taken.
    let config = EncodingConfig::new(7).unwrap();
    let honest = encode(config, blob(5, 16), NonZeroUsize::MIN).unwrap();
    let layout = honest.layout();
    let mut row = honest.primary(SliverIndex::new(6)).to_vec();
    row[0] ^= 1;
    let mut digests: Vec<PairDigest> =
        (0..7).map(|pair| *honest.table().digest(SliverPairIndex::new(pair))).collect();
    digests[6].primary = sliver_root(&layout, Axis::Primary, &row).unwrap();
    let table = DigestTable::new(config, digests).unwrap();
    let header = BlobHeader { root: table.blob_root(), ..*honest.header() };
    let given: Vec<_> =
        (0..3).map(SliverIndex::new).map(|row| (row, honest.primary(row).clone())).collect();
    let proof = InconsistencyProof::from_slivers(&table, &header, Axis::Primary, &given).unwrap();
    assert_eq!((proof.axis(), proof.target()), (Axis::Primary, SliverIndex::new(6)));
    let bytes = proof.to_bytes();
    let parsed = InconsistencyProof::verify_bytes(config, &header.id(), &bytes);
    assert_eq!(parsed, Ok(proof));
    assert_eq!(bytes.len(), 2406);
    let hash = "98c9be3ea6beb0d4dc9af615b5b2920ed558e67d7d30ea1587a928982756e886";
    assert_eq!(Hash::of_symbol(&bytes).to_string(), hash);
}
