//! Proof that a writer's encoding is inconsistent: its commitments are not those of any blob.
//!
//! A false writer can commit to rows and columns that don't agree. Every sliver then verifies
//! against its own pair proof, but a sliver decoded from others has another root than the one
//! committed, so reads and repair of it end without bytes. Who meets this hands an
//! [`InconsistencyProof`] to the committee: true symbols of enough crossing slivers, which decode to
//! a sliver with a false root. Members that verify it sign, and the blob is invalidated.
//!
//! Invariants: there is no proof against a blob that was encoded honestly, whoever makes it up,
//! since all its symbols decode to the committed slivers; whenever `k1` verified rows or `k2`
//! verified columns fail to decode to committed rows, [`InconsistencyProof::from_slivers`] finds
//! one. The byte layout is canonical. Who signs, and what follows, is not decided here.

use bytes::Bytes;

use crate::{
    blob::{
        BlobHeader, BlobId, HEADER_BYTES, PAIR_DIGEST_BYTES, PairDigest, PairProof, ProofError,
    },
    encoding::{
        Axis, BlobLayout, DigestTable, EncodingConfig, ProvenSymbol, SliverTree, SymbolError,
        TableError, decode_line, sliver_root,
    },
    hash::{HASH_BYTES, Hash},
    index::{SliverIndex, SliverPairIndex, SymbolIndex},
    merkle,
};

/// Why bytes or symbols prove no inconsistency of this blob.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum InconsistencyError {
    /// Bytes missing or left over.
    #[error("wrong length")]
    Length,
    /// The axis is neither of the two.
    #[error("unknown axis")]
    Axis,
    /// The target's pair proof is not of this blob.
    #[error("pair proof of the target: {0}")]
    Target(#[from] ProofError),
    /// A symbol is not what it claims to be.
    #[error("symbol from sliver {line}: {error}")]
    Symbol {
        /// The helper's sliver.
        line: SliverIndex,
        /// What is wrong with it.
        error: SymbolError,
    },
    /// Not exactly as many symbols as decode the target, from different lines, ascending.
    #[error("not the symbols of so many different slivers as decode the target")]
    Lines,
    /// A symbol of another sliver than the target, or from a sliver that does not cross it.
    #[error("symbol from sliver {0} is not one of the target")]
    Foreign(SliverIndex),
    /// The digest table is not that of the blob.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The symbols decode to the committed sliver: everything is as it should be.
    #[error("the symbols decode to the committed sliver")]
    Consistent,
}

/// True symbols that decode to another sliver than the one committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InconsistencyProof {
    axis: Axis,
    target: PairProof,
    symbols: Vec<ProvenSymbol>,
}

impl InconsistencyProof {
    /// The proof that sliver `target` of `axis` does not follow from `symbols`: at least `k2`
    /// (primary) or `k1` (secondary), of which the first by line are taken. The table gives the
    /// target's pair proof, so no holder of the target is needed.
    ///
    /// # Errors
    /// [`InconsistencyError`]: the result would not verify.
    pub fn new(
        table: &DigestTable,
        header: &BlobHeader,
        (axis, target): (Axis, SliverIndex),
        mut symbols: Vec<ProvenSymbol>,
    ) -> Result<Self, InconsistencyError> {
        let config = EncodingConfig::new(header.n_shards).map_err(ProofError::from)?;
        let pair = if target.get() < header.n_shards {
            axis.pair(target, header.n_shards).as_usize()
        } else {
            return Err(ProofError::Index.into());
        };
        let target = table.proofs(header)?.swap_remove(pair);
        // A line is defined only in the network of its proof.
        let foreign = |symbol: &ProvenSymbol| {
            symbol.helper.header != *header || symbol.helper.index.get() >= header.n_shards
        };
        if symbols.iter().any(foreign) {
            return Err(InconsistencyError::Lines);
        }
        symbols.sort_by_key(ProvenSymbol::line);
        symbols.dedup_by_key(|symbol| symbol.line());
        symbols.truncate(axis.symbols(config));
        let proof = Self { axis, target, symbols };
        proof.verify(config, &header.id())?;
        Ok(proof)
    }

    /// Finds a proof among verified slivers of one axis: `k1` primary or `k2` secondary ones, as
    /// a failed read holds them.
    ///
    /// Slivers of that number fix every crossing line. If one of those does not have its
    /// committed root, it is the target. If all have it, they are true too, and a line along
    /// `axis` that does not follow from them is.
    ///
    /// # Errors
    /// [`InconsistencyError::Consistent`] if all lines follow; otherwise what is wrong with the
    /// arguments.
    pub fn from_slivers(
        table: &DigestTable,
        header: &BlobHeader,
        axis: Axis,
        slivers: &[(SliverIndex, Bytes)],
    ) -> Result<Self, InconsistencyError> {
        let layout = header.layout().map_err(ProofError::from)?;
        let search = Search { layout, header, table, proofs: table.proofs(header)? };
        let given = search.expand(axis, slivers)?;
        let mut crossing = Vec::new();
        for line in search.lines() {
            let tree = search.derive(axis.other(), line, &given)?;
            if tree.root() != search.committed_root(axis.other(), line) {
                return search.prove(axis.other(), line, &given);
            }
            // So many of them make the lines along `axis`; more would only take memory.
            if crossing.len() < axis.symbols(layout.config()) {
                crossing.push((line, tree));
            }
        }
        for line in search.lines() {
            let tree = search.derive(axis, line, &crossing)?;
            if tree.root() != search.committed_root(axis, line) {
                return search.prove(axis, line, &crossing);
            }
        }
        Err(InconsistencyError::Consistent)
    }

    /// The axis of the sliver that does not follow.
    #[must_use]
    pub const fn axis(&self) -> Axis {
        self.axis
    }

    /// The sliver that does not follow.
    #[must_use]
    pub const fn target(&self) -> SliverIndex {
        self.axis.line(self.target.index, self.target.header.n_shards)
    }

    /// The header of the blob.
    #[must_use]
    pub const fn header(&self) -> &BlobHeader {
        &self.target.header
    }

    /// Checks that the blob with `id` is inconsistent.
    ///
    /// # Errors
    /// [`InconsistencyError`]: this does not prove it.
    pub fn verify(&self, config: EncodingConfig, id: &BlobId) -> Result<(), InconsistencyError> {
        self.target.verify(config, id)?;
        let layout = self.target.header.layout().map_err(ProofError::from)?;
        let ascending = self.symbols.is_sorted_by(|a, b| a.line() < b.line());
        if self.symbols.len() != self.axis.symbols(config) || !ascending {
            return Err(InconsistencyError::Lines);
        }
        for symbol in &self.symbols {
            let line = symbol.line();
            if symbol.axis == self.axis || symbol.index.get() != self.target().get() {
                return Err(InconsistencyError::Foreign(line));
            }
            symbol
                .verify(config, id)
                .map_err(|error| InconsistencyError::Symbol { line, error })?;
        }
        let symbols: Vec<_> =
            self.symbols.iter().map(|symbol| (symbol.line(), symbol.symbol.clone())).collect();
        let sliver = decode_line(&layout, self.axis, &symbols)
            .expect("enough symbols of the right length from different lines");
        let root = sliver_root(&layout, self.axis, &sliver).expect("decoded to its length");
        if root == self.axis.root_of(&self.target.digest) {
            return Err(InconsistencyError::Consistent);
        }
        Ok(())
    }

    /// Length of the byte layout.
    fn layout_bytes(config: EncodingConfig, layout: &BlobLayout, axis: Axis) -> usize {
        let pair_bytes = PairProof::layout_bytes(config) - HEADER_BYTES;
        let path_bytes = merkle::path_steps(config.n()) * HASH_BYTES;
        let symbol_bytes = pair_bytes + layout.symbol_bytes() + path_bytes;
        HEADER_BYTES + 1 + pair_bytes + axis.symbols(config) * symbol_bytes
    }

    /// The canonical layout: header, axis (0 primary, 1 secondary), the target's pair proof
    /// without header; then for each symbol, ascending by line, the helper's pair proof without
    /// header, the symbol, its path.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.target.header.to_bytes().to_vec();
        bytes.push(match self.axis {
            Axis::Primary => 0,
            Axis::Secondary => 1,
        });
        bytes.extend_from_slice(&self.target.to_bytes()[HEADER_BYTES..]);
        for symbol in &self.symbols {
            bytes.extend_from_slice(&symbol.helper.to_bytes()[HEADER_BYTES..]);
            bytes.extend_from_slice(&symbol.symbol);
            for hash in &symbol.path {
                bytes.extend_from_slice(hash.as_bytes());
            }
        }
        bytes
    }

    /// Parses the layout and verifies the proof against the blob id: what it returns is valid.
    ///
    /// # Errors
    /// [`InconsistencyError`]: the bytes prove nothing.
    pub fn verify_bytes(
        config: EncodingConfig,
        id: &BlobId,
        bytes: &[u8],
    ) -> Result<Self, InconsistencyError> {
        let (header_bytes, rest) =
            bytes.split_at_checked(HEADER_BYTES).ok_or(InconsistencyError::Length)?;
        let header = BlobHeader::from_bytes(config, header_bytes)?;
        let layout = header.layout().map_err(ProofError::from)?;
        let (axis, rest) = match rest.split_first() {
            Some((0, rest)) => (Axis::Primary, rest),
            Some((1, rest)) => (Axis::Secondary, rest),
            Some(_) => return Err(InconsistencyError::Axis),
            None => return Err(InconsistencyError::Length),
        };
        if bytes.len() != Self::layout_bytes(config, &layout, axis) {
            return Err(InconsistencyError::Length);
        }
        let mut reader = Reader { config, header, rest };
        let target = reader.pair_proof();
        let index = SymbolIndex::new(if target.index.get() < config.n_shards() {
            axis.line(target.index, config.n_shards()).get()
        } else {
            return Err(ProofError::Index.into());
        });
        let mut symbols = Vec::with_capacity(axis.symbols(config));
        for _ in 0..axis.symbols(config) {
            let helper = reader.pair_proof();
            if helper.index.get() >= config.n_shards() {
                return Err(InconsistencyError::Lines);
            }
            let symbol = Bytes::copy_from_slice(reader.take(layout.symbol_bytes()));
            let path = reader.hashes(merkle::path_steps(config.n()));
            symbols.push(ProvenSymbol { helper, axis: axis.other(), index, symbol, path });
        }
        let proof = Self { axis, target, symbols };
        proof.verify(config, id)?;
        Ok(proof)
    }
}

/// Cuts fields off bytes whose total length is already checked.
struct Reader<'a> {
    config: EncodingConfig,
    header: BlobHeader,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn hashes(&mut self, count: usize) -> Vec<Hash> {
        let (hashes, _) = self.take(count * HASH_BYTES).as_chunks::<HASH_BYTES>();
        hashes.iter().map(|hash| Hash::new(*hash)).collect()
    }

    fn pair_proof(&mut self) -> PairProof {
        let header = self.header;
        let (config, steps) = (self.config, merkle::path_steps(self.config.n()));
        let index = self.take(2);
        let index = SliverPairIndex::new(u16::from_le_bytes([index[0], index[1]]));
        let digest = self.take(PAIR_DIGEST_BYTES).try_into().expect("taken at its length");
        let digest = PairDigest::from_bytes(digest);
        let share = Bytes::copy_from_slice(self.take(config.share_bytes()));
        PairProof { header, index, digest, share, path: self.hashes(steps) }
    }
}

/// What the search for a proof looks at.
struct Search<'a> {
    layout: BlobLayout,
    header: &'a BlobHeader,
    table: &'a DigestTable,
    proofs: Vec<PairProof>,
}

impl Search<'_> {
    /// The given slivers, expanded: those that have their committed root.
    fn expand(
        &self,
        axis: Axis,
        slivers: &[(SliverIndex, Bytes)],
    ) -> Result<Vec<(SliverIndex, SliverTree)>, InconsistencyError> {
        let mut trees = Vec::with_capacity(slivers.len());
        for (line, sliver) in slivers {
            if line.get() >= self.header.n_shards {
                return Err(ProofError::Index.into());
            }
            let tree = SliverTree::new(&self.layout, axis, sliver.clone())
                .map_err(|_| InconsistencyError::Length)?;
            if tree.root() != self.committed_root(axis, *line) {
                return Err(InconsistencyError::Foreign(*line));
            }
            trees.push((*line, tree));
        }
        Ok(trees)
    }

    /// All lines of one axis.
    fn lines(&self) -> impl Iterator<Item = SliverIndex> + use<> {
        (0..self.header.n_shards).map(SliverIndex::new)
    }

    /// Sliver `line` of `axis` as the crossing slivers make it, expanded.
    fn derive(
        &self,
        axis: Axis,
        line: SliverIndex,
        crossing: &[(SliverIndex, SliverTree)],
    ) -> Result<SliverTree, InconsistencyError> {
        let index = SymbolIndex::new(line.get());
        let symbol = |tree: &SliverTree| tree.symbol(index).expect("a line is below n");
        let symbols: Vec<_> = crossing.iter().map(|(other, tree)| (*other, symbol(tree))).collect();
        let sliver =
            decode_line(&self.layout, axis, &symbols).map_err(|_| InconsistencyError::Lines)?;
        Ok(SliverTree::new(&self.layout, axis, sliver).expect("decoded to its length"))
    }

    fn committed_root(&self, axis: Axis, line: SliverIndex) -> Hash {
        axis.root_of(self.table.digest(axis.pair(line, self.header.n_shards)))
    }

    fn prove(
        &self,
        axis: Axis,
        target: SliverIndex,
        crossing: &[(SliverIndex, SliverTree)],
    ) -> Result<InconsistencyProof, InconsistencyError> {
        let index = SymbolIndex::new(target.get());
        let symbol = |(line, tree): &(SliverIndex, SliverTree)| {
            let pair = tree.axis().pair(*line, self.header.n_shards);
            let helper = self.proofs[pair.as_usize()].clone();
            ProvenSymbol::new(helper, tree, index).expect("the target is below n")
        };
        let symbols = crossing.iter().map(symbol).collect();
        InconsistencyProof::new(self.table, self.header, (axis, target), symbols)
    }
}
