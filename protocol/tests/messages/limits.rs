//! What is refused: too much, out of range, of another length than stated, unknown.

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobId, PairProof},
    challenge::{STEPS_MAX, TRANSCRIPT_BYTES_MAX},
    codec::{self, CodecError},
    encoding::Axis,
    index::{ShardIndex, SliverPairIndex, SymbolIndex},
    message::{
        ChallengeStatus, Limits, MAX_HEAD_BYTES, MAX_PAIRS, MAX_VERSION_BYTES, MessageError, Miss,
        NodeStatus, Request, RequestHead, Response, ResponseHead, StoredPair, StoredPairHead,
        Symbols,
    },
    registration::RegistrationId,
};

use super::{
    SHARDS, limits, read_request, read_response,
    samples::{sample_header, sample_node_status, sample_registration},
    wire,
};

fn decode_request(limits: &Limits, head: &RequestHead) -> Result<usize, MessageError> {
    let bytes = codec::encode(head, usize::MAX).unwrap();
    RequestHead::decode(limits, &bytes).map(|head| head.payload_bytes())
}

fn decode_response(limits: &Limits, head: &ResponseHead) -> Result<usize, MessageError> {
    let bytes = codec::encode(head, usize::MAX).unwrap();
    ResponseHead::decode(limits, &bytes).map(|head| head.payload_bytes(limits))
}

fn too_large(bytes: u32, max_bytes: u64) -> Result<usize, MessageError> {
    Err(MessageError::PayloadTooLarge { bytes: bytes.into(), max_bytes })
}

/// Calls `decode` with the largest length that is allowed and with larger ones.
fn check_limit(max_bytes: u64, decode: impl Fn(u32) -> Result<usize, MessageError>) {
    let max = u32::try_from(max_bytes).unwrap();
    assert_eq!(decode(max), Ok(usize::try_from(max).unwrap()));
    for bytes in [max + 1, u32::MAX] {
        assert_eq!(decode(bytes), too_large(bytes, max_bytes));
    }
}

#[test]
fn payloads_above_the_limit_are_refused_by_the_head_alone() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let registration = RegistrationId::new([1; 32]);
        check_limit(limits.table_bytes(), |table_bytes| {
            let head = RequestHead::Table {
                registration: sample_registration(),
                header: sample_header(n_shards).to_bytes().to_vec(),
                table_bytes,
            };
            decode_request(&limits, &head)
        });
        let slivers = |primary_bytes, secondary_bytes| RequestHead::StoreSlivers {
            registration,
            pair: SliverPairIndex::new(0),
            primary_bytes,
            secondary_bytes,
        };
        check_limit(limits.max_primary_bytes(), |bytes| {
            decode_request(&limits, &slivers(bytes, 0))
        });
        check_limit(limits.max_secondary_bytes(), |bytes| {
            decode_request(&limits, &slivers(0, bytes))
        });
        let largest = slivers(
            u32::try_from(limits.max_primary_bytes()).unwrap(),
            u32::try_from(limits.max_secondary_bytes()).unwrap(),
        );
        // The longest payload is that of a pair that travels with its proof.
        let bytes = usize::try_from(limits.max_payload_bytes()).unwrap();
        let proof_bytes = PairProof::layout_bytes(limits.config());
        assert_eq!(decode_request(&limits, &largest), Ok(bytes - proof_bytes));
        check_limit(limits.max_primary_bytes(), |sliver_bytes| {
            let proof = vec![0; PairProof::layout_bytes(limits.config())];
            decode_response(&limits, &ResponseHead::Sliver { proof, sliver_bytes })
        });
        check_limit(limits.max_payload_bytes(), |proof_bytes| {
            decode_request(&limits, &RequestHead::Attest { proof_bytes })
        });
        check_limit(TRANSCRIPT_BYTES_MAX as u64, |bytes| {
            let transcript_bytes = Some(bytes);
            decode_response(&limits, &ResponseHead::Transcript { transcript_bytes })
        });
        let none = ResponseHead::Transcript { transcript_bytes: None };
        assert_eq!(decode_response(&limits, &none), Ok(0));
    }
}

fn pair_head(primary_bytes: u32, secondary_bytes: u32) -> StoredPairHead {
    StoredPairHead { blob: BlobId::new([1; 32]), primary_bytes, secondary_bytes }
}

#[test]
fn pairs_are_bounded_each_and_together() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let decode = |pairs: Vec<StoredPairHead>| {
            decode_response(&limits, &ResponseHead::Pairs { looked_up: 64, pairs })
        };
        let proof_bytes = PairProof::layout_bytes(limits.config());
        let primary = u32::try_from(limits.max_primary_bytes()).unwrap();
        let secondary = u32::try_from(limits.max_secondary_bytes()).unwrap();
        let most = usize::try_from(limits.max_payload_bytes()).unwrap();
        assert_eq!(decode(vec![pair_head(primary, secondary)]), Ok(most));
        for bytes in [primary + 1, u32::MAX] {
            let result = decode(vec![pair_head(bytes, 0)]);
            assert_eq!(result, too_large(bytes, limits.max_primary_bytes()));
        }
        for bytes in [secondary + 1, u32::MAX] {
            let result = decode(vec![pair_head(0, bytes)]);
            assert_eq!(result, too_large(bytes, limits.max_secondary_bytes()));
        }
        // Two halves of the largest pair need a second proof.
        let half = |bytes: u32| bytes / 2;
        let halves = vec![pair_head(half(primary), half(secondary)); 2];
        assert!(matches!(decode(halves), Err(MessageError::PayloadTooLarge { .. })));
        // The sum of the largest number of largest pairs is judged, not wrapped around.
        let many = vec![pair_head(primary, secondary); MAX_PAIRS];
        let bytes = most as u64 * MAX_PAIRS as u64;
        let max_bytes = limits.max_payload_bytes();
        assert_eq!(decode(many), Err(MessageError::PayloadTooLarge { bytes, max_bytes }));
        let empty = MAX_PAIRS * proof_bytes;
        assert_eq!(decode(vec![pair_head(0, 0); MAX_PAIRS]), Ok(empty), "n = {n_shards}");
        let too_many = vec![pair_head(0, 0); MAX_PAIRS + 1];
        assert_eq!(decode(too_many), Err(MessageError::Field));
    }
}

#[test]
fn an_answer_of_pairs_counts_no_more_than_was_looked_up() {
    let limits = limits(7);
    let decode = |looked_up, pairs: usize| {
        let pairs = vec![pair_head(0, 0); pairs];
        decode_response(&limits, &ResponseHead::Pairs { looked_up, pairs })
    };
    for (looked_up, pairs) in [(0, 0), (1, 0), (1, 1), (64, 3), (64, 64)] {
        assert!(decode(looked_up, pairs).is_ok(), "{pairs} of {looked_up}");
    }
    for (looked_up, pairs) in [(0, 1), (2, 3), (65, 0), (u16::MAX, 64)] {
        assert_eq!(decode(looked_up, pairs), Err(MessageError::Field), "{pairs} of {looked_up}");
    }
}

#[test]
fn symbols_are_bounded_by_the_sliver_that_they_are_of() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let config = limits.config();
        let proof_bytes = PairProof::layout_bytes(config);
        let decode = |symbol_bytes, symbols_bytes| {
            let proof = vec![0; proof_bytes];
            let head = ResponseHead::Symbols { proof, symbol_bytes, symbols_bytes };
            decode_response(&limits, &head)
        };
        let largest = u32::try_from(config.max_symbol_bytes()).unwrap();
        for bytes in [largest + 1, u32::MAX] {
            assert_eq!(decode(bytes, 0), too_large(bytes, config.max_symbol_bytes()));
        }
        // As many symbols as an expanded sliver has, each with a path of ceil(log2 n) hashes.
        let path_bytes = 32 * n_shards.next_power_of_two().ilog2();
        for symbol_bytes in [1, 100, largest] {
            let all = u64::from(n_shards) * u64::from(symbol_bytes + path_bytes);
            let most = all.min(limits.max_payload_bytes());
            check_limit(most, |bytes| decode(symbol_bytes, bytes));
        }
        for proof_bytes in [0, proof_bytes - 1, proof_bytes + 1] {
            let proof = vec![0; proof_bytes];
            let head = ResponseHead::Symbols { proof, symbol_bytes: 1, symbols_bytes: 0 };
            assert_eq!(decode_response(&limits, &head), Err(MessageError::Field));
        }
    }
}

/// A pair whose head is as long as possible where 64 of them are sent.
fn full_pair(limits: &Limits) -> StoredPair {
    StoredPair {
        blob: BlobId::new([0xff; 32]),
        proof: vec![0xff; PairProof::layout_bytes(limits.config())].into(),
        primary: vec![0xff; 1 << 16].into(),
        secondary: vec![0xff; 1 << 8].into(),
    }
}

#[test]
fn the_largest_heads_fit_and_larger_ones_are_not_parsed() {
    let limits = limits(256);
    let all: Vec<_> = (0..256).map(SliverPairIndex::new).collect();
    for response in [
        Response::Missing { pairs: all.clone() },
        Response::TableStored { missing: all },
        Response::Sliver {
            proof: vec![0xff; PairProof::layout_bytes(limits.config())].into(),
            sliver: Bytes::new(),
        },
        Response::Symbols(Symbols {
            proof: vec![0xff; PairProof::layout_bytes(limits.config())].into(),
            symbol_bytes: 1,
            symbols: vec![0xff; 256 * (1 + 8 * 32)].into(),
        }),
        Response::Pairs { looked_up: 64, pairs: vec![full_pair(&limits); MAX_PAIRS] },
    ] {
        let wire = wire(&response.clone().into_frame().unwrap());
        assert_eq!(read_response(&limits, &wire), Some(response));
    }
    for request in [
        Request::ReadPairs {
            shard: ShardIndex::new(255),
            blobs: vec![BlobId::new([0xff; 32]); MAX_PAIRS],
        },
        Request::ReadSymbols {
            blob: BlobId::new([0xff; 32]),
            pair: SliverPairIndex::new(255),
            axis: Axis::Secondary,
            targets: (0..256).map(SymbolIndex::new).collect(),
        },
    ] {
        let wire = wire(&request.clone().into_frame().unwrap());
        assert_eq!(read_request(&limits, &wire), Some(request));
    }
    let bytes = vec![0; MAX_HEAD_BYTES + 1];
    let error = MessageError::Head(CodecError::TooLarge {
        bytes: MAX_HEAD_BYTES + 1,
        max_bytes: MAX_HEAD_BYTES,
    });
    assert_eq!(RequestHead::decode(&limits, &bytes).unwrap_err(), error);
    assert_eq!(ResponseHead::decode(&limits, &bytes).unwrap_err(), error);
    let status = NodeStatus { version: "1".repeat(MAX_HEAD_BYTES), ..sample_node_status() };
    let unsendable = Response::NodeStatus(status).into_frame();
    assert!(matches!(unsendable, Err(MessageError::Head(CodecError::TooLarge { .. }))));
}

#[test]
fn request_fields_out_of_range_are_refused() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let header = sample_header(n_shards).to_bytes().to_vec();
        let other_header = sample_header(n_shards + 1).to_bytes().to_vec();
        let pair = SliverPairIndex::new(n_shards);
        let bad_heads = [
            RequestHead::StoreSlivers {
                registration: RegistrationId::new([1; 32]),
                pair,
                primary_bytes: 0,
                secondary_bytes: 0,
            },
            RequestHead::ReadSliver { blob: BlobId::new([1; 32]), pair, axis: Axis::Primary },
            RequestHead::Table {
                registration: sample_registration(),
                header: header[1..].to_vec(),
                table_bytes: 0,
            },
            RequestHead::Table {
                registration: sample_registration(),
                header: [header.as_slice(), &[0]].concat(),
                table_bytes: 0,
            },
        ];
        for head in bad_heads.into_iter().chain(bad_reads(n_shards)) {
            assert_eq!(decode_request(&limits, &head), Err(MessageError::Field), "{head:?}");
        }
        let mut huge = header.clone();
        huge[3..11].fill(0xff);
        let mut other_type = header.clone();
        other_type[0] = 2;
        for header in [other_header, huge, other_type] {
            let registration = sample_registration();
            let head = RequestHead::Table { registration, header, table_bytes: 0 };
            let result = Request::from_parts(&limits, head, Bytes::new());
            assert_eq!(result, Err(MessageError::Field), "n = {n_shards}");
        }
    }
}

/// Requests for pairs and symbols that nobody may send in a network of `n_shards`.
fn bad_reads(n_shards: u16) -> Vec<RequestHead> {
    let blob = BlobId::new([1; 32]);
    let pairs = |shard, blobs| RequestHead::ReadPairs {
        shard: ShardIndex::new(shard),
        blobs: vec![blob; blobs],
    };
    let symbols = |pair, targets: &[u16]| RequestHead::ReadSymbols {
        blob,
        pair: SliverPairIndex::new(pair),
        axis: Axis::Primary,
        targets: targets.iter().copied().map(SymbolIndex::new).collect(),
    };
    vec![
        pairs(n_shards, 1),
        pairs(u16::MAX, 1),
        pairs(0, 0),
        pairs(0, MAX_PAIRS + 1),
        symbols(n_shards, &[0]),
        symbols(0, &[]),
        symbols(0, &[n_shards]),
        symbols(0, &[0, u16::MAX]),
        symbols(0, &[1, 1]),
        symbols(0, &[2, 1]),
        symbols(0, &[n_shards, 1]),
    ]
}

#[test]
fn response_fields_out_of_range_are_refused() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let beyond = SliverPairIndex::new(n_shards);
        let too_many = vec![SliverPairIndex::new(0); usize::from(n_shards) + 1];
        let proof_bytes = PairProof::layout_bytes(limits.config());
        let node_status = |version: &str| {
            ResponseHead::NodeStatus(NodeStatus { version: version.into(), ..sample_node_status() })
        };
        let failure = |miss: Miss| {
            let last_failure = Some(miss);
            let challenges = ChallengeStatus { last_failure, ..ChallengeStatus::default() };
            ResponseHead::NodeStatus(NodeStatus { challenges, ..sample_node_status() })
        };
        let bad_heads = [
            ResponseHead::TableStored { missing: vec![beyond] },
            ResponseHead::TableStored { missing: too_many.clone() },
            ResponseHead::Missing { pairs: vec![beyond] },
            ResponseHead::Missing { pairs: too_many },
            ResponseHead::Stored { pair: beyond },
            ResponseHead::Sliver { proof: vec![0; proof_bytes - 1], sliver_bytes: 0 },
            ResponseHead::Sliver { proof: vec![0; proof_bytes + 1], sliver_bytes: 0 },
            node_status(&"1".repeat(MAX_VERSION_BYTES + 1)),
            node_status("0.1.0\u{1b}[2J"),
            node_status("0.1.0\n"),
            failure(Miss::Absent { step: STEPS_MAX }),
            failure(Miss::Damaged { step: u16::MAX }),
        ];
        for head in bad_heads {
            assert_eq!(decode_response(&limits, &head), Err(MessageError::Field), "{head:?}");
        }
    }
}

#[test]
fn payloads_of_another_length_than_stated_are_refused() {
    let limits = limits(7);
    let head = || RequestHead::StoreSlivers {
        registration: RegistrationId::new([1; 32]),
        pair: SliverPairIndex::new(0),
        primary_bytes: 5,
        secondary_bytes: 3,
    };
    for bytes in [0, 7, 9] {
        let payload = Bytes::from(vec![0; bytes]);
        let result = Request::from_parts(&limits, head(), payload.clone());
        assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
        let head = ResponseHead::Sliver { proof: Vec::new(), sliver_bytes: 8 };
        let result = Response::from_parts(&limits, head, payload.clone());
        assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
        let proof_bytes = PairProof::layout_bytes(limits.config());
        let with_proof = Bytes::from(vec![0; proof_bytes + bytes]);
        let head = ResponseHead::Pairs { looked_up: 1, pairs: vec![pair_head(5, 3)] };
        let result = Response::from_parts(&limits, head, with_proof);
        assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
        let head = ResponseHead::Symbols { proof: Vec::new(), symbol_bytes: 4, symbols_bytes: 8 };
        let result = Response::from_parts(&limits, head, payload.clone());
        assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
        for transcript_bytes in
            [Some(8), None].into_iter().filter(|sent| sent.is_some() || bytes > 0)
        {
            let head = ResponseHead::Transcript { transcript_bytes };
            let result = Response::from_parts(&limits, head, payload.clone());
            assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
        }
        let result = Request::from_parts(&limits, RequestHead::Attest { proof_bytes: 8 }, payload);
        assert_eq!(result, Err(MessageError::PayloadLength), "{bytes} bytes");
    }
    let payload = Bytes::from_static(b"primarysec");
    let head = RequestHead::StoreSlivers {
        registration: RegistrationId::new([1; 32]),
        pair: SliverPairIndex::new(0),
        primary_bytes: 7,
        secondary_bytes: 3,
    };
    let Ok(Request::StoreSlivers { primary, secondary, .. }) =
        Request::from_parts(&limits, head, payload)
    else {
        panic!("a well formed request")
    };
    assert_eq!((&primary[..], &secondary[..]), (&b"primary"[..], &b"sec"[..]));
}

#[test]
fn unknown_messages_and_fields_are_refused() {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Foreign {
        Confirm { registration: RegistrationId, more: u8 },
        Stored { pair: SliverPairIndex, more: u8 },
        Delete { blob: BlobId },
    }
    let limits = limits(7);
    let malformed = MessageError::Head(CodecError::Malformed);
    for foreign in [
        Foreign::Confirm { registration: RegistrationId::new([1; 32]), more: 1 },
        Foreign::Stored { pair: SliverPairIndex::new(1), more: 1 },
        Foreign::Delete { blob: BlobId::new([1; 32]) },
    ] {
        let bytes = codec::encode(&foreign, MAX_HEAD_BYTES).unwrap();
        assert_eq!(RequestHead::decode(&limits, &bytes).unwrap_err(), malformed);
        assert_eq!(ResponseHead::decode(&limits, &bytes).unwrap_err(), malformed);
    }
}
