//! What peers say to each other: golden vectors, round trips, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use bytes::Bytes;
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairProof},
    certificate::Certificate,
    codec::{self, CodecError},
    encoding::{Axis, EncodingConfig},
    hash::Hash,
    index::{Epoch, SliverPairIndex},
    keys::{BlsSignature, ChainId, PublicKey, Signature},
    ledger::{BlobState, BlobStatus},
    message::{
        Announcement, Frame, InvalidReason, Limits, MAX_ANNOUNCEMENT_BYTES, MAX_HEAD_BYTES,
        MAX_VERSION_BYTES, MessageError, NodeStatus, PREFIX_BYTES, Refusal, Request, RequestHead,
        Response, ResponseHead, StatusAnswer,
    },
    registration::{RegistrationId, SignedRegistration},
};
use proptest::{collection::vec, option, prelude::*, sample};

const SHARDS: [u16; 5] = [4, 6, 7, 64, 256];

fn limits(n_shards: u16) -> Limits {
    Limits::new(EncodingConfig::new(n_shards).unwrap())
}

// --- reading frames as a node does -----------------------------------------------------------

/// The bytes of a frame on the wire.
fn wire(frame: &Frame) -> Vec<u8> {
    let head_bytes = u32::try_from(frame.head.len()).unwrap();
    let mut bytes = head_bytes.to_le_bytes().to_vec();
    bytes.extend_from_slice(&frame.head);
    bytes.extend(frame.payload.iter().flatten());
    assert_eq!(bytes.len(), frame.bytes());
    bytes
}

/// Head and payload of a wire that ends with the message.
fn parts(wire: &[u8]) -> Option<(&[u8], Bytes)> {
    let (prefix, rest) = wire.split_first_chunk::<PREFIX_BYTES>()?;
    let head_bytes = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
    let (head, payload) = rest.split_at_checked(head_bytes)?;
    Some((head, Bytes::copy_from_slice(payload)))
}

fn read_request(limits: &Limits, wire: &[u8]) -> Option<Request> {
    let (head, payload) = parts(wire)?;
    let head = RequestHead::decode(limits, head).ok()?;
    assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
    Request::from_parts(limits, head, payload).ok()
}

fn read_response(limits: &Limits, wire: &[u8]) -> Option<Response> {
    let (head, payload) = parts(wire)?;
    let head = ResponseHead::decode(limits, head).ok()?;
    assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
    Response::from_parts(head, payload).ok()
}

/// A message of either direction, so that one property covers both.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Request(Request),
    Response(Response),
}

impl Message {
    fn wire(self) -> Vec<u8> {
        match self {
            Self::Request(request) => wire(&request.into_frame().unwrap()),
            Self::Response(response) => wire(&response.into_frame().unwrap()),
        }
    }

    /// Reads bytes as a message of the same direction as this one.
    fn read_alike(&self, limits: &Limits, wire: &[u8]) -> Option<Self> {
        match self {
            Self::Request(_) => read_request(limits, wire).map(Self::Request),
            Self::Response(_) => read_response(limits, wire).map(Self::Response),
        }
    }
}

// --- arbitrary messages ----------------------------------------------------------------------

fn registration_id() -> impl Strategy<Value = RegistrationId> {
    any::<[u8; 32]>().prop_map(RegistrationId::new)
}

fn blob_id() -> impl Strategy<Value = BlobId> {
    any::<[u8; 32]>().prop_map(BlobId::new)
}

fn bls_signature() -> impl Strategy<Value = BlsSignature> {
    any::<[u8; 96]>().prop_map(BlsSignature::new)
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

fn signed_registration() -> impl Strategy<Value = SignedRegistration> {
    let parts = (blob_id(), any::<[u8; 32]>(), any::<u64>(), vec(any::<u8>(), 64));
    parts.prop_map(|(blob, writer, nonce, signature)| SignedRegistration {
        blob,
        writer: PublicKey::new(writer),
        nonce,
        signature: Signature::new(signature.try_into().unwrap()),
    })
}

/// A well formed certificate of `blob` by anybody.
fn certificate(blob: BlobId) -> impl Strategy<Value = Certificate> {
    let parts = (any::<u64>(), registration_id(), vec(any::<bool>(), 0..=256));
    (parts, bls_signature()).prop_map(move |((epoch, registration, signers), signature)| {
        let mut bytes = epoch.to_le_bytes().to_vec();
        bytes.extend_from_slice(blob.as_bytes());
        bytes.extend_from_slice(registration.as_bytes());
        bytes.extend_from_slice(&u16::try_from(signers.len()).unwrap().to_le_bytes());
        let mut bitmap = vec![0; signers.len().div_ceil(8)];
        for (i, signed) in signers.iter().enumerate() {
            bitmap[i / 8] |= u8::from(*signed) << (i % 8);
        }
        bytes.extend_from_slice(&bitmap);
        bytes.extend_from_slice(signature.as_bytes());
        Certificate::from_bytes(&bytes).unwrap()
    })
}

fn certified(n_shards: u16) -> impl Strategy<Value = (BlobHeader, Certificate)> {
    header(n_shards).prop_flat_map(|header| (Just(header), certificate(header.id())))
}

fn request(n_shards: u16) -> impl Strategy<Value = Request> {
    let table_bytes = 64 * usize::from(n_shards);
    prop_oneof![
        (signed_registration(), header(n_shards), payload(table_bytes)).prop_map(
            |(registration, header, table)| Request::Table { registration, header, table }
        ),
        (registration_id(), pair(n_shards), payload(300), payload(300)).prop_map(
            |(registration, pair, primary, secondary)| {
                Request::StoreSlivers { registration, pair, primary, secondary }
            }
        ),
        registration_id().prop_map(|registration| Request::Confirm { registration }),
        certified(n_shards)
            .prop_map(|(header, certificate)| Request::Certify { header, certificate }),
        blob_id().prop_map(|blob| Request::BlobStatus { blob }),
        (blob_id(), pair(n_shards), axis()).prop_map(|(blob, pair, axis)| Request::ReadSliver {
            blob,
            pair,
            axis
        }),
        Just(Request::NodeStatus),
    ]
}

fn blob_status(n_shards: u16) -> impl Strategy<Value = BlobStatus> {
    let state = sample::select(STATES.to_vec());
    let epochs = (any::<u64>(), option::of(any::<u64>()));
    let rest = (option::of(any::<u64>()), option::of(any::<u64>()));
    (header(n_shards), state, any::<u32>(), any::<bool>(), epochs, rest).prop_map(
        |(header, state, live_registrations, deletable, (end, first), (time, number))| BlobStatus {
            header,
            state,
            live_registrations,
            end: Epoch::new(end),
            deletable,
            first_certified_epoch: first.map(Epoch::new),
            first_certified_time_ms: time,
            certification_number: number,
        },
    )
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let numbers = (any::<u16>(), any::<u32>(), vec(any::<u64>(), 6));
    ("[!-~]{1,64}", any::<[u8; 32]>(), any::<bool>(), numbers).prop_map(
        |(version, chain, accepts_slivers, (shards, peers, numbers))| NodeStatus {
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
        },
    )
}

fn response(n_shards: u16) -> impl Strategy<Value = Response> {
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
        Just(Response::Certified),
        (blob_status(n_shards), option::of(vec(any::<u8>(), 0..=300))).prop_map(
            |(status, certificate)| Response::BlobStatus(StatusAnswer { status, certificate })
        ),
        (vec(any::<u8>(), proof_bytes), payload(300))
            .prop_map(|(proof, sliver)| { Response::Sliver { proof: proof.into(), sliver } }),
        node_status().prop_map(Response::NodeStatus),
        refusal.prop_map(Response::Refused),
    ]
}

fn message() -> impl Strategy<Value = (Limits, Message)> {
    sample::select(SHARDS.to_vec()).prop_flat_map(|n_shards| {
        let message = prop_oneof![
            request(n_shards).prop_map(Message::Request),
            response(n_shards).prop_map(Message::Response),
        ];
        (Just(limits(n_shards)), message)
    })
}

fn announcement() -> impl Strategy<Value = (Limits, Announcement)> {
    sample::select(SHARDS.to_vec()).prop_flat_map(|n_shards| {
        let announcement = certified(n_shards)
            .prop_map(|(header, certificate)| Announcement { header, certificate });
        (Just(limits(n_shards)), announcement)
    })
}

// --- properties ------------------------------------------------------------------------------

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn messages_come_back_from_the_wire((limits, message) in message()) {
        let wire = message.clone().wire();
        prop_assert_eq!(message.read_alike(&limits, &wire), Some(message));
    }

    #[test]
    fn a_cut_or_extended_message_is_refused(
        (limits, message) in message(),
        cut in any::<sample::Index>(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let wire = message.clone().wire();
        let short = &wire[..cut.index(wire.len())];
        prop_assert_eq!(message.read_alike(&limits, short), None);
        let long = [wire.as_slice(), &more].concat();
        prop_assert_eq!(message.read_alike(&limits, &long), None);
    }

    #[test]
    fn a_cut_or_extended_head_is_refused(
        (limits, message) in message(),
        cut in any::<sample::Index>(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let wire = message.clone().wire();
        let (head, _) = parts(&wire).unwrap();
        for head in [&head[..cut.index(head.len())], &[head, &more].concat()] {
            match message {
                Message::Request(_) => prop_assert!(RequestHead::decode(&limits, head).is_err()),
                Message::Response(_) => prop_assert!(ResponseHead::decode(&limits, head).is_err()),
            }
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_another_message(
        (limits, message) in message(),
        flips in vec((any::<sample::Index>(), 0..8_u8), 1..4),
    ) {
        let mut wire = message.clone().wire();
        for (byte, bit) in flips {
            let byte = byte.index(wire.len());
            wire[byte] ^= 1 << bit;
        }
        if let Some(other) = message.read_alike(&limits, &wire) {
            let again = other.clone().wire();
            prop_assert_eq!(other.read_alike(&limits, &again), Some(other));
        }
    }

    #[test]
    fn random_bytes_are_refused_or_a_message(
        n_shards in sample::select(SHARDS.to_vec()),
        bytes in vec(any::<u8>(), 0..600),
    ) {
        let limits = limits(n_shards);
        // Few random bytes are CBOR: try the prefix that names a map of one entry, too.
        let as_map = [&[0xa1], bytes.as_slice()].concat();
        for head in [&bytes, &as_map] {
            if let Ok(head) = RequestHead::decode(&limits, head) {
                prop_assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
            }
            if let Ok(head) = ResponseHead::decode(&limits, head) {
                prop_assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
            }
            if let Ok(announcement) = Announcement::decode(&limits, head) {
                prop_assert!(announcement.encode().is_ok());
            }
        }
    }
}

proptest! {
    // Each case tries every bit.
    #![proptest_config(config(24))]

    #[test]
    fn announcements_come_back_and_only_whole((limits, announcement) in announcement()) {
        let bytes = announcement.encode().unwrap();
        prop_assert!(bytes.len() <= MAX_ANNOUNCEMENT_BYTES);
        prop_assert_eq!(Announcement::decode(&limits, &bytes), Ok(announcement.clone()));
        for cut in 0..bytes.len() {
            prop_assert!(Announcement::decode(&limits, &bytes[..cut]).is_err());
        }
        let long = [bytes.as_slice(), &[0]].concat();
        prop_assert!(Announcement::decode(&limits, &long).is_err());
        let mut damaged = bytes.clone();
        for bit in 0..8 * bytes.len() {
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Announcement::decode(&limits, &damaged) {
                prop_assert_eq!(other.header, announcement.header, "the header is bound to the id");
                let again = other.encode().unwrap();
                prop_assert_eq!(Announcement::decode(&limits, &again), Ok(other));
            }
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

// --- limits ----------------------------------------------------------------------------------

fn decode_request(limits: &Limits, head: &RequestHead) -> Result<usize, MessageError> {
    let bytes = codec::encode(head, usize::MAX).unwrap();
    RequestHead::decode(limits, &bytes).map(|head| head.payload_bytes())
}

fn decode_response(limits: &Limits, head: &ResponseHead) -> Result<usize, MessageError> {
    let bytes = codec::encode(head, usize::MAX).unwrap();
    ResponseHead::decode(limits, &bytes).map(|head| head.payload_bytes())
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
        let bytes = usize::try_from(limits.max_payload_bytes()).unwrap();
        assert_eq!(decode_request(&limits, &largest), Ok(bytes));
        check_limit(limits.max_primary_bytes(), |sliver_bytes| {
            let proof = vec![0; PairProof::layout_bytes(limits.config())];
            decode_response(&limits, &ResponseHead::Sliver { proof, sliver_bytes })
        });
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
    ] {
        let wire = wire(&response.clone().into_frame().unwrap());
        assert_eq!(read_response(&limits, &wire), Some(response));
    }
    let bytes = vec![0; MAX_HEAD_BYTES + 1];
    let error = MessageError::Head(CodecError::TooLarge {
        bytes: MAX_HEAD_BYTES + 1,
        max_bytes: MAX_HEAD_BYTES,
    });
    assert_eq!(RequestHead::decode(&limits, &bytes).unwrap_err(), error);
    assert_eq!(ResponseHead::decode(&limits, &bytes).unwrap_err(), error);
    let status = StatusAnswer {
        status: sample_status(256, BlobState::Certified),
        certificate: Some(vec![0; MAX_HEAD_BYTES]),
    };
    let unsendable = Response::BlobStatus(status).into_frame();
    assert!(matches!(unsendable, Err(MessageError::Head(CodecError::TooLarge { .. }))));
    let long = vec![0; MAX_ANNOUNCEMENT_BYTES + 1];
    assert!(matches!(
        Announcement::decode(&limits, &long),
        Err(MessageError::Head(CodecError::TooLarge { .. }))
    ));
}

#[test]
fn request_fields_out_of_range_are_refused() {
    for n_shards in SHARDS {
        let limits = limits(n_shards);
        let header = sample_header(n_shards).to_bytes().to_vec();
        let other_header = sample_header(n_shards + 1).to_bytes().to_vec();
        let certificate = sample_certificate(sample_header(n_shards).id()).to_bytes();
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
            RequestHead::Certify {
                header: [header.as_slice(), &[0]].concat(),
                certificate: certificate.clone(),
            },
        ];
        for head in bad_heads {
            assert_eq!(decode_request(&limits, &head), Err(MessageError::Field), "{head:?}");
        }
        let mut huge = header.clone();
        huge[3..11].fill(0xff);
        let mut other_type = header.clone();
        other_type[0] = 2;
        for header in [other_header, huge, other_type] {
            let head = RequestHead::Table {
                registration: sample_registration(),
                header: header.clone(),
                table_bytes: 0,
            };
            let result = Request::from_parts(&limits, head, Bytes::new());
            assert_eq!(result, Err(MessageError::Field), "n = {n_shards}");
            let head = RequestHead::Certify { header, certificate: certificate.clone() };
            let result = Request::from_parts(&limits, head, Bytes::new());
            assert_eq!(result, Err(MessageError::Field), "n = {n_shards}");
        }
        let head = RequestHead::Certify { header, certificate: certificate[1..].to_vec() };
        let result = Request::from_parts(&limits, head, Bytes::new());
        assert_eq!(result, Err(MessageError::Field), "n = {n_shards}");
    }
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
        let bad_heads = [
            ResponseHead::TableStored { missing: vec![beyond] },
            ResponseHead::TableStored { missing: too_many.clone() },
            ResponseHead::Missing { pairs: vec![beyond] },
            ResponseHead::Missing { pairs: too_many },
            ResponseHead::Stored { pair: beyond },
            ResponseHead::Sliver { proof: vec![0; proof_bytes - 1], sliver_bytes: 0 },
            ResponseHead::Sliver { proof: vec![0; proof_bytes + 1], sliver_bytes: 0 },
            ResponseHead::BlobStatus(StatusAnswer {
                status: sample_status(
                    if n_shards == 4 { 5 } else { n_shards - 1 },
                    BlobState::Certified,
                ),
                certificate: None,
            }),
            node_status(&"1".repeat(MAX_VERSION_BYTES + 1)),
            node_status("0.1.0\u{1b}[2J"),
            node_status("0.1.0\n"),
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
        let result = Response::from_parts(head, payload);
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

#[test]
fn an_announcement_names_one_blob_of_this_network() {
    let header = sample_header(7);
    let announcement = Announcement { header, certificate: sample_certificate(header.id()) };
    let bytes = announcement.encode().unwrap();
    assert_eq!(Announcement::decode(&limits(7), &bytes), Ok(announcement.clone()));
    assert_eq!(Announcement::decode(&limits(8), &bytes), Err(MessageError::Field));
    let other =
        Announcement { certificate: sample_certificate(BlobId::new([9; 32])), ..announcement };
    let bytes = other.encode().unwrap();
    assert_eq!(Announcement::decode(&limits(7), &bytes), Err(MessageError::Field));
}

// --- golden vectors --------------------------------------------------------------------------

const STATES: [BlobState; 5] = [
    BlobState::Registered,
    BlobState::Certified,
    BlobState::Expired,
    BlobState::Deleted,
    BlobState::Invalid,
];

const REFUSALS: [Refusal; 11] = [
    Refusal::Busy { retry_after_ms: 250 },
    Refusal::NotRegistered,
    Refusal::TableMissing,
    Refusal::WrongShard,
    Refusal::TooLarge,
    Refusal::StorageFull,
    Refusal::Invalid(InvalidReason::Table),
    Refusal::Invalid(InvalidReason::Sliver),
    Refusal::Invalid(InvalidReason::Certificate),
    Refusal::NotFound,
    Refusal::Unavailable,
];

fn sample_registration() -> SignedRegistration {
    SignedRegistration {
        blob: sample_header(7).id(),
        writer: PublicKey::new([0x11; 32]),
        nonce: 0x0102_0304_0506_0708,
        signature: Signature::new([0x22; 64]),
    }
}

fn sample_header(n_shards: u16) -> BlobHeader {
    BlobHeader { n_shards, len: 1_000, root: Hash::new([0x33; 32]) }
}

fn sample_certificate(blob: BlobId) -> Certificate {
    let mut bytes = 5_u64.to_le_bytes().to_vec();
    bytes.extend_from_slice(blob.as_bytes());
    bytes.extend_from_slice(&[0x44; 32]);
    bytes.extend_from_slice(&[7, 0, 0b0101_1111]);
    bytes.extend_from_slice(&[0x55; 96]);
    Certificate::from_bytes(&bytes).unwrap()
}

fn sample_status(n_shards: u16, state: BlobState) -> BlobStatus {
    BlobStatus {
        header: sample_header(n_shards),
        state,
        live_registrations: 2,
        end: Epoch::new(u64::MAX),
        deletable: false,
        first_certified_epoch: (state == BlobState::Certified).then_some(Epoch::new(3)),
        first_certified_time_ms: None,
        certification_number: None,
    }
}

fn sample_node_status() -> NodeStatus {
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

fn sample_requests() -> Vec<Request> {
    let header = sample_header(7);
    let registration = sample_registration().id();
    let pair = SliverPairIndex::new(6);
    let blob = header.id();
    vec![
        Request::Table {
            registration: sample_registration(),
            header,
            table: vec![0x77; 448].into(),
        },
        Request::StoreSlivers {
            registration,
            pair,
            primary: vec![0x88; 335].into(),
            secondary: vec![0x99; 201].into(),
        },
        Request::Confirm { registration },
        Request::Certify { header, certificate: sample_certificate(blob) },
        Request::BlobStatus { blob },
        Request::ReadSliver { blob, pair, axis: Axis::Primary },
        Request::ReadSliver { blob, pair, axis: Axis::Secondary },
        Request::NodeStatus,
    ]
}

fn sample_responses() -> Vec<Response> {
    let pairs = vec![SliverPairIndex::new(0), SliverPairIndex::new(6)];
    let certificate = sample_certificate(sample_header(7).id()).to_bytes();
    let status = |state| {
        let certified = state == BlobState::Certified;
        Response::BlobStatus(StatusAnswer {
            status: sample_status(7, state),
            certificate: certified.then(|| certificate.clone()),
        })
    };
    let mut responses = vec![
        Response::TableStored { missing: pairs.clone() },
        Response::Stored { pair: pairs[1] },
        Response::Confirmed { epoch: Epoch::new(3), signature: BlsSignature::new([0xaa; 96]) },
        Response::Missing { pairs },
        Response::Certified,
        Response::Sliver {
            proof: vec![0xbb; PairProof::layout_bytes(limits(7).config())].into(),
            sliver: vec![0xcc; 335].into(),
        },
        Response::NodeStatus(sample_node_status()),
    ];
    responses.extend(STATES.map(status));
    responses.extend(REFUSALS.map(Response::Refused));
    responses
}

#[test]
fn messages_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of the messages of a network of 7 shards. Written by tests/messages.rs;\n\
         # changed only on purpose. A frame is the head's length (u32 LE), the head, the payload.\n",
    );
    let describe = |text: &mut String, frame: &Frame, name: &str| {
        let payload: Vec<_> = frame.payload.iter().map(Bytes::len).collect();
        writeln!(text, "\n{name}\nhead {}", golden::hex(&frame.head)).unwrap();
        if !payload.is_empty() {
            writeln!(text, "payload_bytes {payload:?}").unwrap();
        }
    };
    for request in sample_requests() {
        let name = format!("request {}", request.name());
        let frame = request.clone().into_frame().unwrap();
        assert_eq!(read_request(&limits(7), &wire(&frame)), Some(request));
        describe(&mut text, &frame, &name);
    }
    for response in sample_responses() {
        let name = match &response {
            Response::TableStored { .. } => "table_stored".into(),
            Response::Stored { .. } => "stored".into(),
            Response::Confirmed { .. } => "confirmed".into(),
            Response::Missing { .. } => "missing".into(),
            Response::Certified => "certified".into(),
            Response::BlobStatus(answer) => format!("blob_status {:?}", answer.status.state),
            Response::Sliver { .. } => "sliver".into(),
            Response::NodeStatus(_) => "node_status".into(),
            Response::Ledger(answer) => format!("ledger {}", answer.kind().name()),
            Response::Refused(refusal) => format!("refused: {refusal}"),
        };
        let frame = response.clone().into_frame().unwrap();
        assert_eq!(read_response(&limits(7), &wire(&frame)), Some(response));
        describe(&mut text, &frame, &format!("response {name}"));
    }
    let header = sample_header(7);
    let announcement = Announcement { header, certificate: sample_certificate(header.id()) };
    let bytes = golden::hex(&announcement.encode().unwrap());
    writeln!(text, "\nannouncement\nbytes {bytes}").unwrap();
    golden::check("messages.txt", include_str!("vectors/messages.txt"), &text);
}

// --- text ------------------------------------------------------------------------------------

#[test]
fn names_and_hashes_are_text_in_json_and_bytes_in_cbor() {
    let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let hash = Hash::new(bytes);
    let values = (BlobId::new(bytes), hash, RegistrationId::new(bytes), ChainId::new(hash));
    let text = serde_json::to_string(&values).unwrap();
    let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    assert_eq!(text, format!(r#"["{base64}","{hex}","{hex}","{hex}"]"#));
    assert_eq!(
        serde_json::from_str::<(BlobId, Hash, RegistrationId, ChainId)>(&text).unwrap(),
        values
    );
    for wrong in ["[1,2]", r#""""#, r#""AAEC""#, &format!(r#""{hex}00""#)] {
        assert!(serde_json::from_str::<Hash>(wrong).is_err(), "{wrong}");
        assert!(serde_json::from_str::<BlobId>(wrong).is_err(), "{wrong}");
    }
    // A byte string of 32: the head 58 20, then the bytes.
    let cbor = [&[0x58, 0x20], bytes.as_slice()].concat();
    assert_eq!(codec::encode(&values.0, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&hash, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&values.2, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&values.3, 64).unwrap(), cbor);
}
