//! Bodies on their way: cut into parts by the proposer, put together again by everyone else.
//!
//! Invariants: a body has one cut (all parts but the last are full), so one root; a part enters an
//! [`Assembly`] only after its path has proven it; a body counts as a block's only if it is what
//! the header binds, whoever sent it.

use super::message::BodyPart;
use crate::{
    hash::{Domain, Hash},
    keys::ChainId,
    ledger::{Body, Header, MAX_BLOCK_BYTES},
    merkle::MerkleTree,
};

/// Longest part of a body in bytes.
pub const PART_BYTES: usize = 48 << 10;

/// Parts of the longest body.
pub const MAX_PARTS: u16 = 22;

const _: () = assert!(MAX_PARTS as usize == MAX_BLOCK_BYTES.div_ceil(PART_BYTES));

/// A body cut into parts.
#[derive(Debug)]
pub(super) struct Cut {
    pieces: Vec<Vec<u8>>,
    tree: MerkleTree,
}

impl Cut {
    /// Cuts a body. None if it is too long for any block.
    pub(super) fn new(body: &Body) -> Option<Self> {
        let bytes = borsh::to_vec(body).expect("writing to memory");
        if bytes.len() > MAX_BLOCK_BYTES {
            return None;
        }
        let pieces: Vec<_> = bytes.chunks(PART_BYTES).map(<[u8]>::to_vec).collect();
        let leaves = pieces.iter().map(|piece| Domain::BodyPart.hash(&[piece])).collect();
        Some(Self { pieces, tree: MerkleTree::new(Domain::BodyNode, leaves) })
    }

    pub(super) fn root(&self) -> Hash {
        self.tree.root()
    }

    pub(super) fn parts(&self) -> u16 {
        u16::try_from(self.pieces.len()).expect("at most MAX_PARTS")
    }

    /// The parts as they are sent for a proposal of `round` with this `header`.
    pub(super) fn messages<'a>(
        &'a self,
        header: &'a Header,
        round: u32,
    ) -> impl Iterator<Item = BodyPart> + 'a {
        (0_u16..).zip(&self.pieces).map(move |(index, piece)| BodyPart {
            height: header.height,
            round,
            index,
            path: self.tree.path(index.into()),
            bytes: piece.clone(),
        })
    }
}

/// The parts of one body that have arrived.
#[derive(Debug)]
pub(super) struct Assembly {
    pieces: Vec<Option<Vec<u8>>>,
    missing: usize,
}

impl Assembly {
    pub(super) fn new(parts: u16) -> Self {
        let parts = usize::from(parts);
        Self { pieces: vec![None; parts], missing: parts }
    }

    pub(super) fn has(&self, index: u16) -> bool {
        self.pieces.get(usize::from(index)).is_some_and(Option::is_some)
    }

    /// Takes a part whose path was verified; true if it was the last one missing.
    pub(super) fn add(&mut self, index: u16, bytes: Vec<u8>) -> bool {
        if let Some(slot @ None) = self.pieces.get_mut(usize::from(index)) {
            *slot = Some(bytes);
            self.missing -= 1;
        }
        self.missing == 0
    }

    /// The body, if all parts make one that `header` binds.
    pub(super) fn body(&self, header: &Header, chain: &ChainId) -> Option<Body> {
        let mut bytes = Vec::new();
        for (i, piece) in self.pieces.iter().enumerate() {
            let piece = piece.as_ref()?;
            if i + 1 < self.pieces.len() && piece.len() != PART_BYTES {
                return None;
            }
            bytes.extend_from_slice(piece);
        }
        if bytes.len() > MAX_BLOCK_BYTES {
            return None;
        }
        let body: Body = borsh::from_slice(&bytes).ok()?;
        binds(header, &body, chain).then_some(body)
    }
}

/// Whether `body` is the one that `header` names.
pub(super) fn binds(header: &Header, body: &Body, chain: &ChainId) -> bool {
    body.commit_record.hash() == header.commit_record
        && body.transactions_root(chain) == header.transactions_root
}
