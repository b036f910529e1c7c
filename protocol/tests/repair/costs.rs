//! Which method costs less, and how near the cost comes to what is recovered.

use floe_protocol::{
    encoding::{BlobLayout, EncodingConfig},
    repair::{RecoveryCost, RecoveryMethod},
};

fn layout(n: u16, len: u64) -> BlobLayout {
    EncodingConfig::new(n).unwrap().layout(len).unwrap()
}

#[test]
fn the_cheaper_method_follows_the_table() {
    use RecoveryMethod::{Symbols, WholeBlob};
    const MIB: u64 = 1 << 20;
    let mut text = String::new();
    let mut wrong = Vec::new();
    for (n, len, pairs, method) in [
        (4, 1, 1, WholeBlob),
        (4, 10_000, 1, WholeBlob),
        (4, 20_000, 1, Symbols),
        (4, MIB, 1, Symbols),
        (7, 100, 1, WholeBlob),
        (7, MIB, 1, Symbols),
        (7, MIB, 2, WholeBlob),
        (10, MIB, 1, Symbols),
        (10, MIB, 3, WholeBlob),
        (64, 1, 1, WholeBlob),
        (64, 16_384, 1, WholeBlob),
        (64, MIB, 1, Symbols),
        (64, 16 * MIB, 1, Symbols),
        (64, 16 * MIB, 7, Symbols),
        (64, 16 * MIB, 14, Symbols),
        (64, 16 * MIB, 15, WholeBlob),
        (64, 64 * MIB, 21, WholeBlob),
        (256, 64 * MIB, 1, Symbols),
        (256, MIB, 1, Symbols),
        (256, 100_000, 1, WholeBlob),
    ] {
        let layout = layout(n, len);
        let cost = RecoveryCost::cheapest(&layout, pairs, 4);
        let line = format!(
            "n = {n:3}, {len:9} bytes, {pairs:2} pairs: {:?}, {} fetched, {} recovered, {} %, \
             {} bytes of memory",
            cost.method,
            cost.fetched_bytes,
            cost.recovered_bytes,
            cost.fetched_bytes * 100 / cost.recovered_bytes,
            cost.memory_bytes
        );
        if cost.method != method {
            wrong.push(line.clone());
        }
        text += &line;
        text.push('\n');
        let other = match cost.method {
            Symbols => RecoveryCost::of(&layout, WholeBlob, pairs, 4),
            WholeBlob => RecoveryCost::of(&layout, Symbols, pairs, 4),
        };
        assert!(cost.fetched_bytes <= other.fetched_bytes);
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
}

#[test]
fn repair_of_large_blobs_fetches_little_more_than_it_recovers() {
    for len in [16 << 20, 32 << 20, 64 << 20] {
        for pairs in 1..=21 {
            let cost = RecoveryCost::cheapest(&layout(64, len), pairs, 4);
            let percent = cost.fetched_bytes * 100 / cost.recovered_bytes;
            assert!(percent < 105, "{len} bytes, {pairs} pairs: {percent} %");
            // Everything at once: the blob, what it becomes, and what is in flight.
            assert!(cost.memory_bytes < 4 * len, "{pairs} pairs of {len} bytes");
        }
    }
}
