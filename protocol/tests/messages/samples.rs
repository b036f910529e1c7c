//! One message of each kind, always the same.

use floe_protocol::{
    blob::{BlobHeader, PairProof},
    encoding::Axis,
    hash::Hash,
    index::{Epoch, SliverPairIndex},
    keys::{BlsSignature, ChainId},
    message::{InvalidReason, NodeStatus, Refusal, Request, Response},
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
        Request::NodeStatus,
    ]
}

pub(crate) fn sample_responses() -> Vec<Response> {
    let pairs = vec![SliverPairIndex::new(0), SliverPairIndex::new(6)];
    let mut responses = vec![
        Response::TableStored { missing: pairs.clone() },
        Response::Stored { pair: pairs[1] },
        Response::Confirmed { epoch: Epoch::new(3), signature: BlsSignature::new([0xaa; 96]) },
        Response::Missing { pairs },
        Response::Sliver {
            proof: vec![0xbb; PairProof::layout_bytes(limits(7).config())].into(),
            sliver: vec![0xcc; 335].into(),
        },
        Response::NodeStatus(sample_node_status()),
    ];
    responses.extend(REFUSALS.map(Response::Refused));
    responses
}
