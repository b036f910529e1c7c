//! Storage challenges: chains and transcripts, commitments and certificates, rounds at a member, and
//! whole epochs of them with nodes that drop, lie, stop and lag.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it can't go on")]

mod acknowledgements;
mod argument;
mod certificates;
mod draws;
#[path = "../golden/mod.rs"]
mod golden;
mod rounds;
#[expect(dead_code, reason = "the golden vectors of challenges are written by another hand")]
#[path = "../signed/mod.rs"]
mod signed;
mod simulation;
mod transcripts;
mod vectors;

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    challenge::{
        BilledUnits, Challenge, ChallengeParameters, ChunkProof, Place, StepError, StepProof,
        Universe, Walk, challenged_shards,
    },
    encoding::{Axis, EncodedBlob, EncodingConfig, encode, symbol_hashes},
    hash::Hash,
    index::{ChallengeRound, Epoch, Height},
    keys::{BlsKeyPair, BlsSignature, ChainId, KeyPair, NodeId},
    ledger::{Blob, BlockHash, Certified, Header, Timestamp},
    test_support,
};

const OPENED: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const ROUND: ChallengeRound = ChallengeRound::new(1_234);

/// A network whose blobs all nodes hold in full.
struct Network {
    universe: Arc<Universe>,
    blobs: BTreeMap<BlobId, EncodedBlob>,
    keys: BTreeMap<NodeId, (KeyPair, BlsKeyPair)>,
}

impl Network {
    /// `nodes` nodes and blobs of these lengths, with default rules.
    fn new(nodes: usize, n_shards: u16, lens: &[usize]) -> Self {
        Self::with_rules(nodes, n_shards, lens, ChallengeParameters::default())
    }

    fn with_rules(
        nodes: usize,
        n_shards: u16,
        lens: &[usize],
        parameters: ChallengeParameters,
    ) -> Self {
        let config = EncodingConfig::new(n_shards).unwrap();
        let (mut blobs, mut units) = (BTreeMap::new(), BilledUnits::new());
        for (number, len) in (0_u64..).zip(lens) {
            let blob = encode(config, test_support::blob(number, *len), NonZeroUsize::MIN).unwrap();
            let header = *blob.header();
            units.update(None, Some(&record(header, number))).unwrap();
            blobs.insert(header.id(), blob);
        }
        let committee = test_support::committee(nodes, n_shards);
        let ready = vec![Some(Timestamp::from_ms(0)); config.n()];
        units.advance(Epoch::new(0), OPENED);
        let universe = Universe {
            chain: test_support::genesis(nodes, n_shards).chain_id(),
            round: ROUND,
            opened: OPENED,
            parameters,
            shards: challenged_shards(&committee, &ready, OPENED),
            committee: Arc::new(committee),
            units,
        };
        let keys = test_support::node_keys(nodes).into_iter();
        let keys = keys.map(|(node, bls)| (node.public(), (node, bls))).collect();
        Self { universe: Arc::new(universe), blobs, keys }
    }

    fn node(&self, position: usize) -> NodeId {
        self.universe.committee.members()[position].node
    }

    fn chain(&self) -> &ChainId {
        &self.universe.chain
    }

    fn bls(&self, position: usize) -> &BlsKeyPair {
        &self.keys[&self.node(position)].1
    }

    fn challenge(&self, position: usize) -> Challenge {
        let seed = Hash::new([7; 32]);
        Challenge::new(Arc::clone(&self.universe), self.node(position), seed).unwrap()
    }

    /// What is at a place, as its holder reads it.
    fn read(&self, place: &Place) -> Result<StepProof, StepError> {
        let blob = &self.blobs[&place.blob];
        let (primary, secondary) = blob.pair(place.pair);
        let sliver: Bytes = match place.axis {
            Axis::Primary => primary,
            Axis::Secondary => secondary,
        };
        let hashes = symbol_hashes(&place.layout, place.axis, &sliver).unwrap();
        let symbol = &sliver[place.symbol_range()];
        let proof = ChunkProof::new(place, &blob.proof(place.pair), symbol, hashes)?;
        Ok(StepProof::Chunk(Box::new(proof)))
    }

    /// The last value and the transcript of a node that holds everything.
    fn answer(&self, challenge: &Challenge) -> (Hash, Bytes) {
        let mut walk = Walk::new(challenge.clone());
        while let Some(place) = walk.place() {
            walk.take(&self.read(&place).unwrap()).unwrap();
        }
        let answer = walk.end().unwrap();
        (answer.commitment().end, answer.transcript().clone())
    }
}

/// The record of a blob that was certified long ago.
fn record(header: floe_protocol::blob::BlobHeader, number: u64) -> Blob {
    let certified = Certified {
        number,
        end: Epoch::new(9),
        first_epoch: Epoch::new(0),
        first_time: Timestamp::from_ms(0),
    };
    let certified = Some(certified);
    Blob { header, registrations: 1, permanent_end: None, certified, invalid: false }
}

/// A header as seeds need it.
fn header(height: u64, proposer: NodeId, beacon: u8) -> Header {
    Header {
        height: Height::new(height),
        round: 0,
        time: OPENED,
        parent: BlockHash::default(),
        commit_record: Hash::ZERO,
        epoch: Epoch::new(0),
        proposer,
        transactions_root: Hash::ZERO,
        state_root: Hash::ZERO,
        events_root: Hash::ZERO,
        beacon: Hash::new([beacon; 32]),
        beacon_signature: BlsSignature::new([0; 96]),
        next_committee: Hash::ZERO,
    }
}
