//! Properties of the encoding: what the design promises for every blob, choice of slivers and
//! writer.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::num::NonZeroUsize;

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairDigest, PairProof},
    encoding::{
        Axis, BlobLayout, DecodeError, DigestTable, EncodedBlob, EncodingConfig, ProvenSymbol,
        RecoverError, SliverTree, TableError, assemble, decode_from_secondaries, decode_rows,
        encode, recover, recover_primary, recover_secondary, sliver_root, verify_pair,
        verify_primary, verify_secondary,
    },
    hash::Hash,
    inconsistency::{InconsistencyError, InconsistencyProof},
    index::{SliverIndex, SliverPairIndex, SymbolIndex},
    test_support::blob,
};
use proptest::{prelude::*, sample::subsequence};

const ONE: NonZeroUsize = NonZeroUsize::MIN;
const AXES: [Axis; 2] = [Axis::Primary, Axis::Secondary];
/// Every kind of n: 3f + 1 and not, each size class, the largest.
const SHARDS: [u16; 9] = [4, 6, 7, 10, 13, 31, 64, 100, 256];

fn config(n: u16) -> EncodingConfig {
    EncodingConfig::new(n).unwrap()
}

fn encoded(n: u16, seed: u64, len: usize) -> EncodedBlob {
    encode(config(n), blob(seed, len), ONE).unwrap()
}

fn slivers(blob: &EncodedBlob, axis: Axis, lines: &[u16]) -> Vec<(SliverIndex, Bytes)> {
    let sliver = |line| match axis {
        Axis::Primary => blob.primary(line).clone(),
        Axis::Secondary => blob.secondary(line).clone(),
    };
    lines.iter().map(|&line| SliverIndex::new(line)).map(|line| (line, sliver(line))).collect()
}

fn message_rows(n: u16) -> Vec<SliverIndex> {
    (0..u16::try_from(config(n).k1()).unwrap()).map(SliverIndex::new).collect()
}

fn decode_primaries(blob: &EncodedBlob, lines: &[u16]) -> Bytes {
    let given = slivers(blob, Axis::Primary, lines);
    let wanted = message_rows(blob.header().n_shards);
    let rows = decode_rows(&blob.layout(), blob.table(), &given, &wanted, ONE).unwrap();
    assemble(&blob.layout(), &rows)
}

fn runner_config(cases: u32) -> ProptestConfig {
    // Failures are replayed from the seed that proptest prints, not from a file.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// n, a length around the interesting ones, a seed, `k1` rows and `k2` columns.
fn case() -> impl Strategy<Value = (u16, usize, u64, Vec<u16>, Vec<u16>)> {
    prop::sample::select(&SHARDS[..]).prop_flat_map(|n| {
        let (k1, k2) = (config(n).k1(), config(n).k2());
        let cells = k1 * k2;
        let length = prop_oneof![
            prop::sample::select(vec![0, 1, cells - 1, cells, cells + 1, 3 * cells]),
            0..4 * cells,
        ];
        let lines = || (0..n).collect::<Vec<_>>();
        let rows = subsequence(lines(), k1).prop_shuffle();
        let columns = subsequence(lines(), k2).prop_shuffle();
        (Just(n), length, any::<u64>(), rows, columns)
    })
}

proptest! {
    #![proptest_config(runner_config(64))]

    #[test]
    fn any_k1_rows_and_any_k2_columns_decode((n, len, seed, rows, columns) in case()) {
        let content = blob(seed, len);
        let blob = encode(config(n), content.clone(), ONE).unwrap();
        prop_assert_eq!(decode_primaries(&blob, &rows), content.clone());
        let given = slivers(&blob, Axis::Secondary, &columns);
        let decoded = decode_from_secondaries(&blob.layout(), blob.table(), &given, ONE);
        prop_assert_eq!(decoded, Ok(content));
    }

    #[test]
    fn any_k1_proofs_rebuild_the_table((n, len, seed, rows, _) in case()) {
        let blob = encoded(n, seed, len);
        let pairs = rows.iter().map(|&pair| SliverPairIndex::new(pair));
        let proofs: Vec<_> = pairs.map(|pair| blob.proof(pair)).collect();
        prop_assert_eq!(&DigestTable::rebuild(config(n), &proofs).unwrap(), blob.table());
    }

    #[test]
    fn any_line_is_recovered_from_any_proven_symbols(
        (n, len, seed, rows, columns) in case(),
        target in any::<prop::sample::Index>(),
    ) {
        let blob = encoded(n, seed, len);
        let target = u16::try_from(target.index(usize::from(n))).unwrap();
        check_recovery(&blob, (Axis::Primary, target), &columns);
        check_recovery(&blob, (Axis::Secondary, target), &rows);
    }

    #[test]
    fn a_bit_flip_anywhere_is_refused(
        (n, len, seed, rows, _) in case(),
        place in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let blob = encoded(n, seed, len);
        let layout = blob.layout();
        let pair = SliverPairIndex::new(rows[0]);
        let proof = blob.proof(pair);
        let (primary, secondary) = blob.pair(pair);
        let flip = |bytes: &[u8]| {
            let mut flipped = bytes.to_vec();
            flipped[place.index(bytes.len())] ^= 1_u8 << bit;
            flipped
        };
        prop_assert!(verify_primary(&layout, &proof, &flip(&primary)).is_err());
        prop_assert!(verify_secondary(&layout, &proof, &flip(&secondary)).is_err());
        prop_assert!(verify_pair(&layout, &proof, &flip(&primary), &secondary).is_err());
        prop_assert!(verify_pair(&layout, &proof, &primary, &flip(&secondary)).is_err());
        let bytes = flip(&proof.to_bytes());
        prop_assert!(PairProof::verify_bytes(config(n), &blob.id(), &bytes).is_err());
        let table = DigestTable::from_bytes(config(n), &flip(&blob.table().to_bytes())).unwrap();
        prop_assert_eq!(table.check(blob.header()), Err(TableError::Inconsistent));
        prop_assert_eq!(table.proofs(blob.header()), Err(TableError::Inconsistent));
    }
}

/// Recovers a line from proven symbols of `lines` and compares it with the encoder's.
fn check_recovery(blob: &EncodedBlob, (axis, target): (Axis, u16), lines: &[u16]) {
    let n = blob.header().n_shards;
    let layout = blob.layout();
    let symbols: Vec<_> = slivers(blob, axis.other(), lines)
        .into_iter()
        .map(|(line, sliver)| {
            let tree = SliverTree::new(&layout, axis.other(), sliver).unwrap();
            let helper = blob.proof(axis.other().pair(line, n));
            let symbol = ProvenSymbol::new(helper, &tree, SymbolIndex::new(target)).unwrap();
            assert_eq!(symbol.verify(config(n), &blob.id()), Ok(()));
            assert_eq!(symbol.line(), line);
            (line, symbol.symbol)
        })
        .collect();
    let expected = slivers(blob, axis, &[target]).remove(0);
    let recovered = recover(&layout, blob.table(), (axis, expected.0), &symbols);
    assert_eq!(recovered, Ok(expected.1), "{axis:?} {target} of {n}");
}

/// All subsets of `count` of `0 .. n`.
fn subsets(n: u16, count: usize) -> Vec<Vec<u16>> {
    (0_u32..1 << n)
        .filter(|mask| mask.count_ones() as usize == count)
        .map(|mask| (0..n).filter(|i| mask >> i & 1 == 1).collect())
        .collect()
}

#[test]
fn at_n_7_every_subset_decodes_and_recovers_every_target() {
    let content = blob(1, 1000);
    let blob = encode(config(7), content.clone(), ONE).unwrap();
    for rows in subsets(7, 3) {
        assert_eq!(decode_primaries(&blob, &rows), content, "{rows:?}");
        for target in 0..7 {
            check_recovery(&blob, (Axis::Secondary, target), &rows);
        }
    }
    for columns in subsets(7, 5) {
        let given = slivers(&blob, Axis::Secondary, &columns);
        let decoded = decode_from_secondaries(&blob.layout(), blob.table(), &given, ONE);
        assert_eq!(decoded, Ok(content.clone()), "{columns:?}");
        for target in 0..7 {
            check_recovery(&blob, (Axis::Primary, target), &columns);
        }
    }
}

#[test]
fn odd_lengths_decode_from_parity_alone() {
    for n in SHARDS {
        let (k1, k2) = (config(n).k1(), config(n).k2());
        let cells = k1 * k2;
        let parity: Vec<_> = (0..n).rev().take(k1).collect();
        for len in [0, 1, cells - 1, cells, cells + 1, 7 * cells] {
            let content = blob(2, len);
            let blob = encode(config(n), content.clone(), ONE).unwrap();
            assert_eq!(decode_primaries(&blob, &parity), content, "{len} bytes, n = {n}");
        }
    }
}

#[test]
fn the_largest_blob_of_7_shards_decodes() {
    let len = usize::try_from(config(7).default_max_blob_bytes()).unwrap();
    let content = blob(3, len);
    let two = NonZeroUsize::new(2).unwrap();
    let blob = encode(config(7), content.clone(), two).unwrap();
    assert_eq!(decode_primaries(&blob, &[4, 5, 6]), content);
}

#[test]
fn both_orders_of_the_code_agree() {
    for n in [4, 7, 10, 31] {
        let blob = encoded(n, 4, 3000);
        let layout = blob.layout();
        let trees = |axis| {
            let lines: Vec<_> = (0..n).collect();
            let trees: Vec<_> = slivers(&blob, axis, &lines)
                .into_iter()
                .map(|(_, sliver)| SliverTree::new(&layout, axis, sliver).unwrap())
                .collect();
            trees
        };
        let (rows, columns) = (trees(Axis::Primary), trees(Axis::Secondary));
        for (r, row) in (0..n).zip(&rows) {
            for (c, column) in (0..n).zip(&columns) {
                let (by_row, by_column) =
                    (row.symbol(SymbolIndex::new(c)), column.symbol(SymbolIndex::new(r)));
                assert!(by_row.is_some());
                assert_eq!(by_row, by_column, "symbol ({r}, {c}), n = {n}");
            }
        }
    }
}

#[test]
fn a_pair_of_another_blob_or_place_is_refused() {
    let (ours, other) = (encoded(7, 5, 400), encoded(7, 6, 400));
    for pair in (0..7).map(SliverPairIndex::new) {
        let (primary, secondary) = other.pair(pair);
        let layout = ours.layout();
        assert!(verify_pair(&layout, &ours.proof(pair), &primary, &secondary).is_err());
        assert!(other.proof(pair).verify(config(7), &ours.id()).is_err());
        let next = SliverPairIndex::new((pair.get() + 1) % 7);
        let (primary, secondary) = ours.pair(next);
        assert!(verify_pair(&layout, &ours.proof(pair), &primary, &secondary).is_err());
        let moved = PairProof { index: next, ..ours.proof(pair) };
        assert!(moved.verify(config(7), &ours.id()).is_err());
    }
}

#[test]
fn rows_that_are_there_are_passed_on_without_a_copy() {
    let blob = encoded(7, 7, 400);
    let given = slivers(&blob, Axis::Primary, &[2, 0, 5]);
    let wanted = [SliverIndex::new(0), SliverIndex::new(2)];
    let rows = decode_rows(&blob.layout(), blob.table(), &given, &wanted, ONE).unwrap();
    assert_eq!(rows[0].as_ptr(), given[1].1.as_ptr());
    assert_eq!(rows[1].as_ptr(), given[0].1.as_ptr());
    // Even one row of fewer than k1.
    let rows = decode_rows(&blob.layout(), blob.table(), &given[..1], &wanted[1..], ONE).unwrap();
    assert_eq!(rows, [given[0].1.clone()]);
}

#[test]
fn decoding_refuses_wrong_arguments() {
    let blob = encoded(7, 8, 400);
    let (layout, table) = (blob.layout(), blob.table());
    let rows = |given: &[_], wanted| {
        decode_rows(&layout, table, given, &[SliverIndex::new(wanted)], ONE).unwrap_err()
    };
    let given = slivers(&blob, Axis::Primary, &[1, 4, 5]);
    let few = DecodeError::TooFewSlivers { slivers: 2, min_slivers: 3 };
    assert_eq!(rows(&given[..2], 0), few);
    let twice = [given[0].clone(), given[1].clone(), given[1].clone()];
    assert_eq!(rows(&twice, 0), few);
    assert_eq!(rows(&given, 3), DecodeError::Index { index: SliverIndex::new(3) });
    let beyond = SliverIndex::new(7);
    let mut bad = given.clone();
    bad[1].0 = beyond;
    assert_eq!(rows(&bad, 0), DecodeError::Index { index: beyond });
    let mut bad = given;
    bad[2].1.truncate(3);
    assert_eq!(rows(&bad, 0), DecodeError::Length { index: SliverIndex::new(5) });

    let columns = slivers(&blob, Axis::Secondary, &[0, 1, 2, 3]);
    assert_eq!(
        decode_from_secondaries(&layout, table, &columns, ONE),
        Err(DecodeError::TooFewSlivers { slivers: 4, min_slivers: 5 })
    );
}

#[test]
fn recovery_refuses_wrong_arguments_and_false_symbols() {
    let blob = encoded(7, 9, 400);
    let (layout, table) = (blob.layout(), blob.table());
    let target = SliverIndex::new(6);
    let symbols: Vec<_> = slivers(&blob, Axis::Primary, &[0, 3, 5])
        .into_iter()
        .map(|(row, sliver)| {
            let tree = SliverTree::new(&layout, Axis::Primary, sliver).unwrap();
            (row, tree.symbol(SymbolIndex::new(6)).unwrap())
        })
        .collect();
    let recovered = recover_secondary(&layout, table, target, &symbols).unwrap();
    assert_eq!(recovered, blob.secondary(target));
    let few = RecoverError::TooFewSymbols { symbols: 2, min_symbols: 3 };
    assert_eq!(recover_secondary(&layout, table, target, &symbols[1..]), Err(few));
    let few = RecoverError::TooFewSymbols { symbols: 3, min_symbols: 5 };
    assert_eq!(recover_primary(&layout, table, target, &symbols), Err(few));
    let beyond = SliverIndex::new(7);
    let index = RecoverError::Index(beyond);
    assert_eq!(recover_secondary(&layout, table, beyond, &symbols), Err(index));
    let mut bad = symbols.clone();
    bad[0].0 = beyond;
    assert_eq!(recover_secondary(&layout, table, target, &bad), Err(index));
    let mut bad = symbols.clone();
    bad[0].1.truncate(1);
    let length = RecoverError::Length(SliverIndex::new(0));
    assert_eq!(recover_secondary(&layout, table, target, &bad), Err(length));
    let mut bad = symbols.clone();
    bad[0].1 = bad[1].1.clone();
    let inconsistent = RecoverError::Inconsistent;
    assert_eq!(recover_secondary(&layout, table, target, &bad), Err(inconsistent));
    let other = SliverIndex::new(5);
    assert_eq!(recover_secondary(&layout, table, other, &symbols), Err(inconsistent));
}

#[test]
fn a_false_symbol_shows() {
    let blob = encoded(7, 10, 400);
    let layout = blob.layout();
    for (axis, line) in [(Axis::Primary, 2), (Axis::Secondary, 4)] {
        let (line, sliver) = slivers(&blob, axis, &[line]).remove(0);
        let tree = SliverTree::new(&layout, axis, sliver).unwrap();
        let helper = blob.proof(axis.pair(line, 7));
        let symbol = ProvenSymbol::new(helper, &tree, SymbolIndex::new(6)).unwrap();
        let refused = |symbol: &ProvenSymbol| symbol.verify(config(7), &blob.id()).is_err();
        assert!(!refused(&symbol));
        let mut flipped = symbol.symbol.to_vec();
        flipped[0] ^= 1;
        assert!(refused(&ProvenSymbol { symbol: flipped.into(), ..symbol.clone() }));
        assert!(refused(&ProvenSymbol { symbol: symbol.symbol.slice(1..), ..symbol.clone() }));
        assert!(refused(&ProvenSymbol { index: SymbolIndex::new(5), ..symbol.clone() }));
        assert!(refused(&ProvenSymbol { index: SymbolIndex::new(7), ..symbol.clone() }));
        assert!(refused(&ProvenSymbol { axis: axis.other(), ..symbol.clone() }));
        let other = blob.proof(SliverPairIndex::new(3));
        assert!(refused(&ProvenSymbol { helper: other, ..symbol.clone() }));
        let mut path = symbol.path.clone();
        path.pop();
        assert!(refused(&ProvenSymbol { path, ..symbol.clone() }));
        assert_eq!(ProvenSymbol::new(symbol.helper, &tree, SymbolIndex::new(7)), None);
    }
}

#[test]
fn tables_are_parsed_and_rebuilt_strictly() {
    let blob = encoded(7, 11, 400);
    let table = blob.table();
    let bytes = table.to_bytes();
    assert_eq!(bytes.len(), 64 * 7);
    assert_eq!(DigestTable::from_bytes(config(7), &bytes).as_ref(), Ok(table));
    let longer = [&bytes[..], &[0]].concat();
    for bad in [&bytes[1..], &bytes[64..], &longer[..], &[]] {
        assert_eq!(DigestTable::from_bytes(config(7), bad), Err(TableError::Length));
    }
    assert_eq!(DigestTable::from_bytes(config(8), &bytes), Err(TableError::Length));
    assert_eq!(table.check(blob.header()), Ok(()));
    assert_eq!(table.blob_root(), blob.header().root);
    assert_eq!(table.proofs(blob.header()), Ok(blob.proofs()));
    let foreign = BlobHeader { n_shards: 8, ..*blob.header() };
    assert_eq!(table.check(&foreign), Err(TableError::Header));

    let proofs = blob.proofs();
    let few = TableError::TooFewShares { shares: 2, min_shares: 3 };
    let twice = [proofs[0].clone(), proofs[1].clone(), proofs[1].clone()];
    assert_eq!(DigestTable::rebuild(config(7), &twice), Err(few));
    assert!(DigestTable::rebuild(config(7), &[]).is_err());
    let mixed = [proofs[0].clone(), proofs[1].clone(), encoded(7, 12, 400).proofs()[2].clone()];
    assert_eq!(DigestTable::rebuild(config(7), &mixed), Err(TableError::Header));
    assert_eq!(DigestTable::rebuild(config(8), &proofs), Err(TableError::Header));
}

/// A writer's work as it is committed and stored, true or not.
struct Written {
    layout: BlobLayout,
    header: BlobHeader,
    table: DigestTable,
    primaries: Vec<Bytes>,
    secondaries: Vec<Bytes>,
}

impl Written {
    /// Commits to slivers as they are: roots, digests and proofs are all true to them.
    fn commit(blob: &EncodedBlob, primaries: Vec<Bytes>, secondaries: Vec<Bytes>) -> Self {
        let layout = blob.layout();
        let root = |axis, sliver: &Bytes| sliver_root(&layout, axis, sliver).unwrap();
        let digests = primaries
            .iter()
            .zip(secondaries.iter().rev())
            .map(|(primary, secondary)| PairDigest {
                primary: root(Axis::Primary, primary),
                secondary: root(Axis::Secondary, secondary),
            })
            .collect();
        let table = DigestTable::new(layout.config(), digests).unwrap();
        Self::with_table(blob, table, primaries, secondaries)
    }

    fn with_table(
        blob: &EncodedBlob,
        table: DigestTable,
        primaries: Vec<Bytes>,
        secondaries: Vec<Bytes>,
    ) -> Self {
        let header = BlobHeader { root: table.blob_root(), ..*blob.header() };
        Self { layout: blob.layout(), header, table, primaries, secondaries }
    }

    fn id(&self) -> BlobId {
        self.header.id()
    }

    fn slivers(&self, axis: Axis) -> &[Bytes] {
        match axis {
            Axis::Primary => &self.primaries,
            Axis::Secondary => &self.secondaries,
        }
    }

    /// Slivers that a holder would have taken: their roots are the committed ones.
    fn acceptable(&self, axis: Axis) -> Vec<(SliverIndex, Bytes)> {
        let proofs = self.table.proofs(&self.header).unwrap();
        let lines = (0_u16..).map(SliverIndex::new).zip(self.slivers(axis).iter().cloned());
        let accepted = |(line, sliver): &(SliverIndex, Bytes)| {
            let proof = &proofs[axis.pair(*line, self.header.n_shards).as_usize()];
            match axis {
                Axis::Primary => verify_primary(&self.layout, proof, sliver).is_ok(),
                Axis::Secondary => verify_secondary(&self.layout, proof, sliver).is_ok(),
            }
        };
        lines.filter(accepted).collect()
    }
}

/// Every writer at n = 7 that is false in one sliver: in the bytes of a row or a column, with
/// roots that are true to them, or in a digest of slivers that are right.
fn false_writers() -> Vec<(String, Written)> {
    let blob = encoded(7, 13, 140);
    let lines: Vec<_> = (0..7).collect();
    let all = |axis| -> Vec<_> {
        slivers(&blob, axis, &lines).into_iter().map(|(_, sliver)| sliver).collect()
    };
    let mut writers = Vec::new();
    for axis in AXES {
        for line in 0..7 {
            let (mut primaries, mut secondaries) = (all(Axis::Primary), all(Axis::Secondary));
            let sliver = match axis {
                Axis::Primary => &mut primaries[line],
                Axis::Secondary => &mut secondaries[line],
            };
            let mut other = sliver.to_vec();
            other[line] ^= 0x80;
            *sliver = other.into();
            let written = Written::commit(&blob, primaries, secondaries);
            writers.push((format!("bytes of {axis:?} {line}"), written));

            let mut digests: Vec<_> =
                (0..7).map(|pair| *blob.table().digest(SliverPairIndex::new(pair))).collect();
            let pair = axis.pair(SliverIndex::new(u16::try_from(line).unwrap()), 7);
            let digest = &mut digests[pair.as_usize()];
            match axis {
                Axis::Primary => digest.primary = Hash::of_symbol(b"no sliver's root"),
                Axis::Secondary => digest.secondary = Hash::of_symbol(b"no sliver's root"),
            }
            let table = DigestTable::new(config(7), digests).unwrap();
            let written =
                Written::with_table(&blob, table, all(Axis::Primary), all(Axis::Secondary));
            writers.push((format!("digest of {axis:?} {line}"), written));
        }
    }
    writers
}

#[test]
fn all_reads_of_an_inconsistent_blob_agree_or_fail_with_a_proof() {
    for (what, written) in false_writers() {
        let mut reads = Vec::new();
        let mut failures = 0;
        let rows = written.acceptable(Axis::Primary);
        for subset in subsets(u16::try_from(rows.len()).unwrap(), 3) {
            let given: Vec<_> = subset.iter().map(|&i| rows[usize::from(i)].clone()).collect();
            let (layout, table) = (&written.layout, &written.table);
            match decode_rows(layout, table, &given, &message_rows(7), ONE) {
                Ok(rows) => reads.push(rows.concat()),
                Err(DecodeError::Inconsistent { .. }) => {
                    failures += 1;
                    check_proof(&what, &written, Axis::Primary, &given);
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        let columns = written.acceptable(Axis::Secondary);
        for subset in subsets(u16::try_from(columns.len()).unwrap(), 5) {
            let given: Vec<_> = subset.iter().map(|&i| columns[usize::from(i)].clone()).collect();
            match decode_from_secondaries(&written.layout, &written.table, &given, ONE) {
                Ok(content) => {
                    let mut padded = content.to_vec();
                    padded.resize(3 * written.layout.primary_bytes(), 0);
                    reads.push(padded);
                }
                Err(DecodeError::Inconsistent { .. }) => {
                    failures += 1;
                    check_proof(&what, &written, Axis::Secondary, &given);
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        reads.dedup();
        assert!(reads.len() <= 1, "{what}: reads differ");
        // Nobody holds a sliver whose digest is false, so readers miss only a message row.
        let noticed = what.starts_with("bytes")
            || ["digest of Primary 0", "digest of Primary 1", "digest of Primary 2"]
                .contains(&&what[..]);
        assert_eq!(failures > 0, noticed, "{what}");
    }
}

/// The slivers of a failed read prove the inconsistency, and the proof survives its layout.
fn check_proof(what: &str, written: &Written, axis: Axis, given: &[(SliverIndex, Bytes)]) {
    let proof =
        InconsistencyProof::from_slivers(&written.table, &written.header, axis, given).unwrap();
    let id = written.id();
    assert_eq!(proof.verify(config(7), &id), Ok(()), "{what}");
    let bytes = proof.to_bytes();
    let parsed = InconsistencyProof::verify_bytes(config(7), &id, &bytes);
    assert_eq!(parsed, Ok(proof), "{what}");
}

#[test]
fn a_repair_that_fails_proves_the_inconsistency() {
    for (what, written) in false_writers() {
        let mut proofs = 0;
        for axis in AXES {
            let proof_of = written.table.proofs(&written.header).unwrap();
            let helpers: Vec<_> = written
                .acceptable(axis.other())
                .into_iter()
                .map(|(line, sliver)| {
                    let pair = axis.other().pair(line, 7).as_usize();
                    let tree = SliverTree::new(&written.layout, axis.other(), sliver).unwrap();
                    (line, proof_of[pair].clone(), tree)
                })
                .collect();
            for target in (0..7).map(SliverIndex::new) {
                let index = SymbolIndex::new(target.get());
                let proven: Vec<_> = helpers
                    .iter()
                    .take(axis.symbols(config(7)))
                    .map(|(_, proof, tree)| ProvenSymbol::new(proof.clone(), tree, index).unwrap())
                    .collect();
                let symbols: Vec<_> =
                    proven.iter().map(|symbol| (symbol.line(), symbol.symbol.clone())).collect();
                let (table, header) = (&written.table, &written.header);
                let recovered = recover(&written.layout, table, (axis, target), &symbols);
                let proof = InconsistencyProof::new(table, header, (axis, target), proven);
                match recovered {
                    Ok(sliver) => {
                        assert_eq!(sliver, written.slivers(axis)[target.as_usize()], "{what}");
                        assert_eq!(proof, Err(InconsistencyError::Consistent), "{what}");
                    }
                    Err(RecoverError::Inconsistent) => {
                        let proof = proof.unwrap();
                        assert_eq!((proof.axis(), proof.target()), (axis, target), "{what}");
                        assert_eq!(proof.verify(config(7), &written.id()), Ok(()), "{what}");
                        proofs += 1;
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        }
        assert!(proofs > 0, "{what}: repair noticed nothing");
    }
}

#[test]
fn there_is_no_proof_against_an_honest_blob() {
    let blob = encoded(7, 14, 140);
    let lines: Vec<_> = (0..7).collect();
    for axis in AXES {
        let given = slivers(&blob, axis, &lines);
        let found = InconsistencyProof::from_slivers(blob.table(), blob.header(), axis, &given);
        assert_eq!(found, Err(InconsistencyError::Consistent));
        let few = InconsistencyProof::from_slivers(blob.table(), blob.header(), axis, &given[..2]);
        assert_eq!(few, Err(InconsistencyError::Lines));
    }
    // Symbols of another blob, or with an index that no pair has, are no argument either.
    let other = encoded(7, 15, 140);
    let (line, sliver) = slivers(&other, Axis::Primary, &[0]).remove(0);
    let tree = SliverTree::new(&other.layout(), Axis::Primary, sliver).unwrap();
    let foreign =
        ProvenSymbol::new(other.proof(line.pair_of_primary()), &tree, SymbolIndex::new(0)).unwrap();
    let mut beyond = blob.proof(SliverPairIndex::new(0));
    beyond.index = SliverPairIndex::new(9);
    for symbol in [foreign.clone(), ProvenSymbol { helper: beyond, ..foreign }] {
        let target = (Axis::Secondary, SliverIndex::new(0));
        let proof = InconsistencyProof::new(blob.table(), blob.header(), target, vec![symbol; 3]);
        assert_eq!(proof, Err(InconsistencyError::Lines));
    }
    // A false sliver is no argument, nor is the table of another blob.
    let mut given = slivers(&blob, Axis::Primary, &[0, 1, 2]);
    given[1].1 = given[0].1.clone();
    let found =
        InconsistencyProof::from_slivers(blob.table(), blob.header(), Axis::Primary, &given);
    assert_eq!(found, Err(InconsistencyError::Foreign(SliverIndex::new(1))));
    let other = encoded(7, 15, 140);
    let found =
        InconsistencyProof::from_slivers(other.table(), blob.header(), Axis::Primary, &given);
    assert_eq!(found, Err(InconsistencyError::Table(TableError::Inconsistent)));
}

#[test]
fn inconsistency_proofs_are_parsed_strictly() {
    let (_, written) = false_writers().remove(0);
    let id = written.id();
    let given: Vec<_> = written.acceptable(Axis::Primary).into_iter().take(3).collect();
    let (table, header) = (&written.table, &written.header);
    let proof = InconsistencyProof::from_slivers(table, header, Axis::Primary, &given).unwrap();
    assert_eq!(proof.header(), header);
    let bytes = proof.to_bytes();
    let parse = |bytes: &[u8]| InconsistencyProof::verify_bytes(config(7), &id, bytes);
    assert_eq!(parse(&bytes), Ok(proof));
    for end in [0, 1, 42, 43, 44, bytes.len() - 1] {
        assert!(parse(&bytes[..end]).is_err(), "{end} bytes");
    }
    assert_eq!(parse(&[&bytes[..], &[0]].concat()), Err(InconsistencyError::Length));
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1;
        assert!(parse(&flipped).is_err(), "byte {place}");
    }
    assert!(InconsistencyProof::verify_bytes(config(8), &id, &bytes).is_err());
    let other = encoded(7, 16, 140).id();
    assert!(InconsistencyProof::verify_bytes(config(7), &other, &bytes).is_err());
}

#[test]
fn shares_that_are_no_code_word_give_no_table() {
    // A writer whose shares don't belong together: each leaf is true, the table is not there.
    let blob = encoded(7, 17, 140);
    let mut shares = blob.table().shares();
    shares[4] = Bytes::from(vec![7; shares[4].len()]);
    let leaves = (0..7).map(SliverPairIndex::new).zip(&shares);
    let leaves: Vec<_> =
        leaves.map(|(pair, share)| blob.table().digest(pair).leaf(share)).collect();
    let tree =
        floe_protocol::merkle::MerkleTree::new(floe_protocol::hash::Domain::BlobNode, leaves);
    let header = BlobHeader { root: tree.root(), ..*blob.header() };
    let proofs: Vec<_> = (0..7)
        .map(SliverPairIndex::new)
        .map(|index| PairProof {
            header,
            index,
            digest: *blob.table().digest(index),
            share: shares[index.as_usize()].clone(),
            path: tree.path(index.as_usize()),
        })
        .collect();
    for subset in subsets(7, 3) {
        let given: Vec<_> = subset.iter().map(|&i| proofs[usize::from(i)].clone()).collect();
        for proof in &given {
            assert_eq!(proof.verify(config(7), &header.id()), Ok(()));
        }
        let rebuilt = DigestTable::rebuild(config(7), &given);
        assert_eq!(rebuilt, Err(TableError::Inconsistent), "{subset:?}");
    }
}
