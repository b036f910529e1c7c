//! Recovers a lost primary sliver from single symbols of other slivers, at the cost of one sliver.
//!
//! You will see how many bytes went over the wire compared with the blob, that a symbol changed
//! on its way is traced to its sender, and that the sliver is the same as before.
//!
//! ```sh
//! cargo run --release --example recover_sliver
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::num::NonZeroUsize;

use bytes::Bytes;
use floe_protocol::{
    encoding::{self, Axis, EncodingConfig, ProvenSymbol, SliverTree},
    index::{SliverIndex, SymbolIndex},
    test_support,
};

fn main() -> anyhow::Result<()> {
    run()
}

/// The example, also run by `tests/examples.rs`.
pub fn run() -> anyhow::Result<()> {
    let config = EncodingConfig::new(64)?;
    let blob = test_support::blob(1, 4 << 20);
    let encoded = encoding::encode(config, blob.clone(), NonZeroUsize::MIN)?;
    let (id, layout) = (encoded.id(), encoded.layout());

    // The node that held row 5 has lost its disk.
    let lost = SliverIndex::new(5);
    let place = SymbolIndex::new(lost.get());

    // Holders of columns expand theirs and send the one symbol that lies in row 5, with a proof.
    let mut symbols = Vec::new();
    for column in (0..64).rev().map(SliverIndex::new).take(config.k2()) {
        let proof = encoded.proof(column.pair_of_secondary(64));
        let tree = SliverTree::new(&layout, Axis::Secondary, encoded.secondary(column).clone())?;
        symbols.extend(ProvenSymbol::new(proof, &tree, place));
    }

    // Each symbol is checked against the blob id alone, so a false one names its sender.
    let mut forged = symbols[0].clone();
    let mut bytes = forged.symbol.to_vec();
    bytes[0] ^= 1;
    forged.symbol = Bytes::from(bytes);
    println!("a changed symbol: {}", forged.verify(config, &id).expect_err("it is false"));
    for symbol in &symbols {
        symbol.verify(config, &id)?;
    }

    let fetched: usize = symbols.iter().map(|symbol| symbol.symbol.len()).sum();
    println!("{} symbols, {fetched} bytes, of a blob of {}", symbols.len(), blob.len());
    let columns: Vec<_> = symbols
        .iter()
        .map(|symbol| (symbol.helper.index.secondary(64), symbol.symbol.clone()))
        .collect();
    let recovered = encoding::recover_primary(&layout, encoded.table(), lost, &columns)?;
    anyhow::ensure!(recovered == *encoded.primary(lost), "another sliver");
    println!("row {lost} is back");
    Ok(())
}
