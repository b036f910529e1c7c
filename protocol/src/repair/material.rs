//! From verified answers to pairs: the part of a recovery that computes, for a blocking thread.
//!
//! The digest table is rebuilt from the shares in the pair proofs, so nobody has to be asked for
//! it; every recovered sliver is compared with it.

use std::num::NonZeroUsize;

use bytes::Bytes;

use crate::{
    blob::{BlobHeader, PairProof, ProofError},
    encoding::{
        self, Axis, BlobLayout, DigestTable, ProvenSymbol, RecoverError, TableError, lines_of_rows,
        sliver_root,
    },
    inconsistency::{InconsistencyError, InconsistencyProof},
    index::{SliverIndex, SliverPairIndex},
};

/// A recovered pair: both slivers have the roots that the proof states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredPair {
    /// Which pair.
    pub pair: SliverPairIndex,
    /// Its proof.
    pub proof: PairProof,
    /// Its primary sliver.
    pub primary: Bytes,
    /// Its secondary sliver.
    pub secondary: Bytes,
}

/// Why verified answers did not make the pairs.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The blob is inconsistent, and this proves it.
    #[error("the blob is inconsistent")]
    Inconsistent(Box<InconsistencyProof>),
    /// The shares make no table. A quorum has checked the table of every certified blob.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The header names no possible blob.
    #[error(transparent)]
    Header(#[from] ProofError),
    /// The symbols were not verified, or are not those that were asked for.
    #[error("symbols: {0}")]
    Symbols(RecoverError),
    /// The slivers were not verified.
    #[error("slivers: {0}")]
    Slivers(InconsistencyError),
}

#[derive(Clone, Debug)]
pub(super) enum Answers {
    Symbols(Vec<ProvenSymbol>),
    Rows(Vec<(PairProof, Bytes)>),
}

/// Verified answers that are enough to make the pairs.
#[derive(Clone, Debug)]
pub struct RecoveryMaterial {
    pub(super) header: BlobHeader,
    pub(super) pairs: Vec<SliverPairIndex>,
    pub(super) answers: Answers,
}

impl RecoveryMaterial {
    /// The pairs that it makes.
    #[must_use]
    pub fn pairs(&self) -> &[SliverPairIndex] {
        &self.pairs
    }

    /// Makes the pairs. Takes as long as encoding them: not for a thread that serves others.
    ///
    /// # Errors
    /// [`RecoveryError`]; a blob that was encoded honestly gives none.
    pub fn recover(self) -> Result<Vec<RecoveredPair>, RecoveryError> {
        let layout = self.header.layout().map_err(ProofError::from)?;
        let proofs: Vec<_> = match &self.answers {
            Answers::Symbols(symbols) => {
                let mut helpers: Vec<_> = symbols.iter().map(|symbol| &symbol.helper).collect();
                helpers.sort_unstable_by_key(|helper| helper.index);
                helpers.dedup_by_key(|helper| helper.index);
                helpers.into_iter().cloned().collect()
            }
            Answers::Rows(rows) => rows.iter().map(|(proof, _)| proof.clone()).collect(),
        };
        let table = DigestTable::rebuild(layout.config(), &proofs)?;
        let proofs = table.proofs(&self.header)?;
        let recoverer = Recoverer { layout, header: &self.header, table: &table };
        let slivers = match self.answers {
            Answers::Symbols(symbols) => recoverer.from_symbols(&self.pairs, &symbols)?,
            Answers::Rows(rows) => recoverer.from_rows(&self.pairs, rows)?,
        };
        let pairs = self.pairs.iter().zip(slivers).map(|(pair, (primary, secondary))| {
            let proof = proofs[pair.as_usize()].clone();
            RecoveredPair { pair: *pair, proof, primary, secondary }
        });
        Ok(pairs.collect())
    }
}

/// The two slivers of each pair.
type Slivers = Vec<(Bytes, Bytes)>;

struct Recoverer<'a> {
    layout: BlobLayout,
    header: &'a BlobHeader,
    table: &'a DigestTable,
}

impl Recoverer<'_> {
    fn from_symbols(
        &self,
        pairs: &[SliverPairIndex],
        symbols: &[ProvenSymbol],
    ) -> Result<Slivers, RecoveryError> {
        let n_shards = self.header.n_shards;
        let pair = |pair: &SliverPairIndex| {
            let primary = self.line((Axis::Primary, pair.primary()), symbols)?;
            let secondary = self.line((Axis::Secondary, pair.secondary(n_shards)), symbols)?;
            Ok((primary, secondary))
        };
        pairs.iter().map(pair).collect()
    }

    fn line(
        &self,
        (axis, target): (Axis, SliverIndex),
        symbols: &[ProvenSymbol],
    ) -> Result<Bytes, RecoveryError> {
        let crosses = |symbol: &&ProvenSymbol| {
            symbol.axis == axis.other() && symbol.index.get() == target.get()
        };
        let of_target = symbols.iter().filter(crosses);
        let given: Vec<_> =
            of_target.clone().map(|symbol| (symbol.line(), symbol.symbol.clone())).collect();
        match encoding::recover(&self.layout, self.table, (axis, target), &given) {
            Ok(sliver) => Ok(sliver),
            Err(RecoverError::Inconsistent) => {
                let symbols = of_target.cloned().collect();
                let target = (axis, target);
                Err(match InconsistencyProof::new(self.table, self.header, target, symbols) {
                    Ok(proof) => RecoveryError::Inconsistent(Box::new(proof)),
                    Err(error) => RecoveryError::Slivers(error),
                })
            }
            Err(error) => Err(RecoveryError::Symbols(error)),
        }
    }

    fn from_rows(
        &self,
        pairs: &[SliverPairIndex],
        rows: Vec<(PairProof, Bytes)>,
    ) -> Result<Slivers, RecoveryError> {
        let rows: Vec<_> =
            rows.into_iter().map(|(proof, row)| (proof.index.primary(), row)).collect();
        let slivers = lines_of_rows(&self.layout, &rows, pairs, NonZeroUsize::MIN)
            .map_err(RecoveryError::Symbols)?;
        let committed = |axis: Axis, pair: SliverPairIndex, sliver: &Bytes| {
            let root = sliver_root(&self.layout, axis, sliver).expect("made to its length");
            root == axis.root_of(self.table.digest(pair))
        };
        for (pair, (primary, secondary)) in pairs.iter().zip(&slivers) {
            let right = committed(Axis::Primary, *pair, primary)
                && committed(Axis::Secondary, *pair, secondary);
            if !right {
                let found =
                    InconsistencyProof::from_slivers(self.table, self.header, Axis::Primary, &rows);
                return Err(match found {
                    Ok(proof) => RecoveryError::Inconsistent(Box::new(proof)),
                    Err(error) => RecoveryError::Slivers(error),
                });
            }
        }
        Ok(slivers)
    }
}
