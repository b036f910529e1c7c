//! One message of each kind, always the same.

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    encoding::Axis,
    hash::Hash,
    index::{ChallengeRound, Epoch, ShardIndex, SliverPairIndex, SymbolIndex},
    keys::{BlsSignature, ChainId},
    ledger::Timestamp,
    message::{
        ChallengeStatus, InvalidReason, Miss, NodeStatus, Refusal, RepairStatus, Request, Response,
        StoredPair, Symbols,
    },
    registration::RegistrationId,
};

use super::limits;

pub(crate) const REFUSALS: [Refusal; 10] = [
    Refusal::Busy { retry_after_ms: 250 },
    Refusal::NotRegistered,
    Refusal::TableMissing,
    Refusal::WrongShard,
    Refusal::TooLarge,
    Refusal::StorageFull,
    Refusal::Invalid(InvalidReason::Table),
    Refusal::Invalid(InvalidReason::Sliver),
    Refusal::NotFound,
    Refusal::Unavailable,
];

pub(crate) fn sample_registration() -> RegistrationId {
    RegistrationId::new([0x44; 32])
}

pub(crate) fn sample_header(n_shards: u16) -> BlobHeader {
    BlobHeader { n_shards, len: 1_000, root: Hash::new([0x33; 32]) }
}

fn sample_repair_status() -> RepairStatus {
    RepairStatus {
        complete_shards: 8,
        missing_pairs: 17,
        moved_pairs: 300,
        recovered_pairs: 40,
        gained_bytes: 3 << 30,
        fetched_bytes: (3 << 30) + 5,
        scrubbed_pairs: 1_100,
    }
}

pub(crate) fn sample_node_status() -> NodeStatus {
    NodeStatus {
        version: "0.1.0".into(),
        chain: ChainId::new(Hash::new([0x66; 32])),
        epoch: Epoch::new(3),
        shards: 9,
        pairs: 1_234,
        disk_used_bytes: 5 << 30,
        disk_quota_bytes: 64 << 30,
        accepts_slivers: true,
        peers: 6,
        damaged_pieces: 0,
        uptime_ms: 86_400_000,
        time: Timestamp::from_ms(1_700_000_000_123),
        repair: sample_repair_status(),
        challenges: ChallengeStatus {
            round: Some(ChallengeRound::new(4_711)),
            passed: 700,
            missed: 3,
            void: 1,
            last_failure: Some(Miss::Absent { step: 3 }),
        },
    }
}

pub(crate) fn sample_requests() -> Vec<Request> {
    let header = sample_header(7);
    let registration = sample_registration();
    let pair = SliverPairIndex::new(6);
    let blob = header.id();
    vec![
        Request::Table { registration, header, table: vec![0x77; 448].into() },
        Request::StoreSlivers {
            registration,
            pair,
            primary: vec![0x88; 335].into(),
            secondary: vec![0x99; 201].into(),
        },
        Request::Confirm { registration },
        Request::ReadSliver { blob, pair, axis: Axis::Primary },
        Request::ReadSliver { blob, pair, axis: Axis::Secondary },
        Request::ReadPairs { shard: ShardIndex::new(6), blobs: vec![blob, sample_header(6).id()] },
        Request::ReadSymbols {
            blob,
            pair,
            axis: Axis::Secondary,
            targets: [0, 3, 6].map(SymbolIndex::new).into(),
        },
        Request::Attest { proof: vec![0xdd; 900].into() },
        Request::ReadTranscript { round: ChallengeRound::new(4_711) },
        Request::Acknowledge {
            round: ChallengeRound::new(4_711),
            signature: BlsSignature::new([0xab; 96]),
        },
        Request::NodeStatus,
    ]
}

fn proof(byte: u8) -> Bytes {
    vec![byte; PairProof::layout_bytes(limits(7).config())].into()
}

fn sample_pair((byte, primary_bytes, secondary_bytes): (u8, usize, usize)) -> StoredPair {
    StoredPair {
        blob: BlobId::new([byte; 32]),
        proof: proof(byte),
        primary: vec![0x10 + byte; primary_bytes].into(),
        secondary: vec![0x20 + byte; secondary_bytes].into(),
    }
}

pub(crate) fn sample_responses() -> Vec<Response> {
    let pairs = vec![SliverPairIndex::new(0), SliverPairIndex::new(6)];
    let mut responses = vec![
        Response::TableStored { missing: pairs.clone() },
        Response::Stored { pair: pairs[1] },
        Response::Confirmed { epoch: Epoch::new(3), signature: BlsSignature::new([0xaa; 96]) },
        Response::Missing { pairs },
        Response::Sliver { proof: proof(0xbb), sliver: vec![0xcc; 335].into() },
        Response::Pairs {
            looked_up: 3,
            pairs: [(5, 335, 201), (6, 20, 12)].map(sample_pair).into(),
        },
        Response::Symbols(Symbols {
            proof: proof(0x11),
            symbol_bytes: 67,
            symbols: vec![0x22; 2 * (67 + 3 * 32)].into(),
        }),
        Response::Attested { epoch: Epoch::new(3), signature: BlsSignature::new([0xee; 96]) },
        Response::Transcript(Some(vec![0x12; 2_000].into())),
        Response::Transcript(None),
        Response::Taken,
        Response::NodeStatus(sample_node_status()),
    ];
    responses.extend(REFUSALS.map(Response::Refused));
    responses
}
