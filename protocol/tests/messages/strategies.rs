//! Arbitrary messages, within the limits of their network.

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    challenge::STEPS_MAX,
    encoding::{Axis, EncodingConfig},
    hash::Hash,
    index::{ChallengeRound, Epoch, ShardIndex, SliverPairIndex, SymbolIndex},
    keys::{BlsSignature, ChainId},
    ledger::Timestamp,
    message::{
        ChallengeStatus, Limits, MAX_PAIRS, Miss, NodeStatus, Refusal, RepairStatus, Request,
        Response, StoredPair, Symbols,
    },
    registration::RegistrationId,
};
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample,
};

use super::{Message, SHARDS, limits, samples::REFUSALS};

fn registration_id() -> impl Strategy<Value = RegistrationId> {
    any::<[u8; 32]>().prop_map(RegistrationId::new)
}

fn blob_id() -> impl Strategy<Value = BlobId> {
    any::<[u8; 32]>().prop_map(BlobId::new)
}

fn bls_signature() -> impl Strategy<Value = BlsSignature> {
    any::<[u8; 96]>().prop_map(BlsSignature::new)
}

fn round() -> impl Strategy<Value = ChallengeRound> {
    any::<u64>().prop_map(ChallengeRound::new)
}

fn miss() -> impl Strategy<Value = Miss> {
    let step = 0..STEPS_MAX;
    prop_oneof![
        step.clone().prop_map(|step| Miss::Absent { step }),
        step.prop_map(|step| Miss::Damaged { step }),
        Just(Miss::TooSlow),
        Just(Miss::Over),
        Just(Miss::NotSent),
        Just(Miss::Unknown),
        Just(Miss::NoSeed),
        Just(Miss::NotAcknowledged),
        Just(Miss::NotCertified),
    ]
}

fn challenge_status() -> impl Strategy<Value = ChallengeStatus> {
    (option::of(round()), any::<[u32; 3]>(), option::of(miss())).prop_map(
        |(round, [passed, missed, void], last_failure)| ChallengeStatus {
            round,
            passed,
            missed,
            void,
            last_failure,
        },
    )
}

fn pair(n_shards: u16) -> impl Strategy<Value = SliverPairIndex> {
    (0..n_shards).prop_map(SliverPairIndex::new)
}

fn pairs(n_shards: u16) -> impl Strategy<Value = Vec<SliverPairIndex>> {
    vec(pair(n_shards), 0..=usize::from(n_shards))
}

fn payload(max_bytes: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=max_bytes).prop_map(Bytes::from)
}

fn axis() -> impl Strategy<Value = Axis> {
    sample::select(vec![Axis::Primary, Axis::Secondary])
}

fn header(n_shards: u16) -> impl Strategy<Value = BlobHeader> {
    let max_bytes = EncodingConfig::new(n_shards).unwrap().max_blob_bytes_possible();
    (0..=max_bytes, any::<[u8; 32]>()).prop_map(move |(len, root)| BlobHeader {
        n_shards,
        len,
        root: Hash::new(root),
    })
}

pub(crate) fn request(n_shards: u16) -> impl Strategy<Value = Request> {
    let table_bytes = 64 * usize::from(n_shards);
    prop_oneof![
        (registration_id(), header(n_shards), payload(table_bytes)).prop_map(
            |(registration, header, table)| Request::Table { registration, header, table }
        ),
        (registration_id(), pair(n_shards), payload(300), payload(300)).prop_map(
            |(registration, pair, primary, secondary)| {
                Request::StoreSlivers { registration, pair, primary, secondary }
            }
        ),
        registration_id().prop_map(|registration| Request::Confirm { registration }),
        (blob_id(), pair(n_shards), axis()).prop_map(|(blob, pair, axis)| Request::ReadSliver {
            blob,
            pair,
            axis
        }),
        (0..n_shards, vec(blob_id(), 1..=MAX_PAIRS))
            .prop_map(|(shard, blobs)| Request::ReadPairs { shard: ShardIndex::new(shard), blobs }),
        (blob_id(), pair(n_shards), axis(), targets(n_shards)).prop_map(
            |(blob, pair, axis, targets)| Request::ReadSymbols { blob, pair, axis, targets }
        ),
        payload(600).prop_map(|proof| Request::Attest { proof }),
        round().prop_map(|round| Request::ReadTranscript { round }),
        (round(), bls_signature())
            .prop_map(|(round, signature)| Request::Acknowledge { round, signature }),
        Just(Request::NodeStatus),
    ]
}

/// At least one, ascending.
fn targets(n_shards: u16) -> impl Strategy<Value = Vec<SymbolIndex>> {
    btree_set(0..n_shards, 1..=usize::from(n_shards))
        .prop_map(|targets| targets.into_iter().map(SymbolIndex::new).collect())
}

fn stored_pair(n_shards: u16) -> impl Strategy<Value = StoredPair> {
    let proof_bytes = PairProof::layout_bytes(EncodingConfig::new(n_shards).unwrap());
    (blob_id(), vec(any::<u8>(), proof_bytes), payload(100), payload(100)).prop_map(
        |(blob, proof, primary, secondary)| StoredPair {
            blob,
            proof: proof.into(),
            primary,
            secondary,
        },
    )
}

fn stored_pairs(n_shards: u16) -> impl Strategy<Value = Response> {
    vec(stored_pair(n_shards), 0..5).prop_flat_map(|pairs| {
        let looked_up = pairs.len()..=MAX_PAIRS;
        (looked_up, Just(pairs)).prop_map(|(looked_up, pairs)| Response::Pairs {
            looked_up: u16::try_from(looked_up).unwrap(),
            pairs,
        })
    })
}

/// Of as many targets as the bytes make.
fn symbols(n_shards: u16) -> impl Strategy<Value = Symbols> {
    let config = EncodingConfig::new(n_shards).unwrap();
    let path_bytes = 32 * usize::try_from(n_shards.next_power_of_two().ilog2()).unwrap();
    let proof_bytes = PairProof::layout_bytes(config);
    (vec(any::<u8>(), proof_bytes), 1..50_usize, 1..=4_usize).prop_flat_map(
        move |(proof, symbol_bytes, targets)| {
            let bytes = targets * (symbol_bytes + path_bytes);
            vec(any::<u8>(), bytes).prop_map(move |symbols| Symbols {
                proof: proof.clone().into(),
                symbol_bytes: u32::try_from(symbol_bytes).unwrap(),
                symbols: symbols.into(),
            })
        },
    )
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let numbers = (any::<u16>(), any::<u32>(), vec(any::<u64>(), 13));
    ("[!-~]{1,64}", any::<[u8; 32]>(), any::<bool>(), numbers, challenge_status()).prop_map(
        |(version, chain, accepts_slivers, (shards, peers, numbers), challenges)| NodeStatus {
            version,
            chain: ChainId::new(Hash::new(chain)),
            epoch: Epoch::new(numbers[0]),
            shards,
            pairs: numbers[1],
            disk_used_bytes: numbers[2],
            disk_quota_bytes: numbers[3],
            accepts_slivers,
            peers,
            damaged_pieces: numbers[4],
            uptime_ms: numbers[5],
            time: Timestamp::from_ms(numbers[12]),
            repair: RepairStatus {
                complete_shards: shards / 2,
                missing_pairs: numbers[6],
                moved_pairs: numbers[7],
                recovered_pairs: numbers[8],
                gained_bytes: numbers[9],
                fetched_bytes: numbers[10],
                scrubbed_pairs: numbers[11],
            },
            challenges,
        },
    )
}

pub(crate) fn response(n_shards: u16) -> impl Strategy<Value = Response> {
    let proof_bytes = PairProof::layout_bytes(EncodingConfig::new(n_shards).unwrap());
    let refusal = prop_oneof![
        sample::select(REFUSALS.to_vec()),
        any::<u32>().prop_map(|retry_after_ms| Refusal::Busy { retry_after_ms }),
    ];
    prop_oneof![
        pairs(n_shards).prop_map(|missing| Response::TableStored { missing }),
        pair(n_shards).prop_map(|pair| Response::Stored { pair }),
        (any::<u64>(), bls_signature()).prop_map(|(epoch, signature)| Response::Confirmed {
            epoch: Epoch::new(epoch),
            signature
        }),
        pairs(n_shards).prop_map(|pairs| Response::Missing { pairs }),
        (vec(any::<u8>(), proof_bytes), payload(300))
            .prop_map(|(proof, sliver)| { Response::Sliver { proof: proof.into(), sliver } }),
        stored_pairs(n_shards),
        symbols(n_shards).prop_map(Response::Symbols),
        (any::<u64>(), bls_signature()).prop_map(|(epoch, signature)| Response::Attested {
            epoch: Epoch::new(epoch),
            signature
        }),
        option::of(payload(300)).prop_map(Response::Transcript),
        Just(Response::Taken),
        node_status().prop_map(Response::NodeStatus),
        refusal.prop_map(Response::Refused),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = (Limits, Message)> {
    sample::select(SHARDS.to_vec()).prop_flat_map(|n_shards| {
        let message = prop_oneof![
            request(n_shards).prop_map(Message::Request),
            response(n_shards).prop_map(Message::Response),
        ];
        (Just(limits(n_shards)), message)
    })
}
