//! Questions about the ledger, answers and announcements: round trips, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

use std::sync::LazyLock;

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    codec,
    committee::CommitteeFact,
    encoding::EncodingConfig,
    handover::{HandoverCertificate, HandoverFact},
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsKeyPair, BlsSignature, KeyPair},
    ledger::{
        AccountId, Amount, IndexEntry, Key, MAX_BLOCK_BYTES, MAX_SNAPSHOT_CHUNK_BYTES,
        MAX_SNAPSHOT_CHUNKS, Operation, OperationError, SnapshotManifest, SnapshotOffer,
        StateProof, SystemOperation, TransactionError, TransactionId,
    },
    light::{CertifiedHeader, FinalHeader, Finality, Inclusion, MAX_CERTIFIED_HEADER_BYTES},
    message::{
        CertifiedBlock, Handover, IndexQuery, LedgerAnnouncement, LedgerKind, LedgerRequest,
        LedgerResponse, LedgerTopic, Limits, MAX_HEAD_BYTES, MessageError, RefusedOperation,
        Request, RequestHead, Response, ResponseHead, SubmitError, ledger,
    },
    registration::RegistrationId,
    test_support::{Chain, account_key, genesis, node_keys},
    vote::{CommitSignature, Equivocation, Vote, VoteKind},
};
use proptest::{collection::vec, prelude::*};

const KINDS: [LedgerKind; 12] = [
    LedgerKind::Submit,
    LedgerKind::SubmitSystem,
    LedgerKind::Tip,
    LedgerKind::Facts,
    LedgerKind::Handovers,
    LedgerKind::Blocks,
    LedgerKind::Transaction,
    LedgerKind::Index,
    LedgerKind::Block,
    LedgerKind::Snapshot,
    LedgerKind::SnapshotChunk,
    LedgerKind::SignHandover,
];
const TOPICS: [LedgerTopic; 3] =
    [LedgerTopic::Transactions, LedgerTopic::System, LedgerTopic::Headers];

fn limits() -> Limits {
    Limits::new(EncodingConfig::new(7).unwrap())
}

fn account() -> AccountId {
    AccountId::new(account_key(0).public())
}

fn id(byte: u8) -> TransactionId {
    TransactionId::new(Hash::new([byte; 32]))
}

/// A chain of one block with one transfer.
fn chain() -> Chain {
    let mut chain = Chain::new(&genesis(4, 7));
    let to = AccountId::new(account_key(1).public());
    let transfer = Operation::Transfer { to, amount: Amount::from_wal(5) };
    let signed = chain.sign(&account_key(0), vec![transfer]);
    chain.commit(&[signed]);
    chain
}

fn certified(chain: &Chain) -> CertifiedHeader {
    let (block, certificate) = &chain.blocks[0];
    CertifiedHeader { header: block.header, certificate: certificate.clone() }
}

fn system(chain: &Chain) -> SystemOperation {
    let (key, _) = chain.proposer();
    let vote = |block| {
        let kind = VoteKind::Prevote;
        let vote = Vote { height: Height::new(1), round: 0, kind, block, voter: key.public() };
        vote.sign(&chain.id(), key)
    };
    let second = vote(Some(certified(chain).header.hash()));
    SystemOperation::ReportEquivocation { equivocation: Equivocation { first: vote(None), second } }
}

fn requests() -> Vec<LedgerRequest> {
    let name = Key::Name(account(), "x".repeat(64));
    vec![
        LedgerRequest::Submit { transactions: vec![vec![1; 300], Vec::new()] },
        LedgerRequest::SubmitSystem(system(&chain())),
        LedgerRequest::Tip,
        LedgerRequest::Facts { height: Some(Height::new(9)), keys: vec![name.clone(); 64] },
        LedgerRequest::Facts { height: None, keys: vec![Key::Summary] },
        LedgerRequest::Handovers { from: Epoch::new(3), max: 16 },
        LedgerRequest::Blocks { from: Height::new(7), max_bytes: u32::MAX },
        LedgerRequest::Transaction { id: id(7), wait_ms: 30_000 },
        LedgerRequest::Index { query: IndexQuery::Owned(account()), after: None, limit: 1 },
        LedgerRequest::Index {
            query: IndexQuery::OwnedOf(account(), BlobId::new([3; 32])),
            after: None,
            limit: 4,
        },
        LedgerRequest::Index {
            query: IndexQuery::History(account()),
            after: Some(IndexEntry::History(account(), Height::new(1), 2).to_bytes()),
            limit: 256,
        },
        LedgerRequest::Index { query: IndexQuery::Staked(account()), after: None, limit: 2 },
        LedgerRequest::Index { query: IndexQuery::Nodes, after: None, limit: 3 },
        LedgerRequest::Block { height: Height::new(1) },
        LedgerRequest::Snapshot { height: None },
        LedgerRequest::Snapshot { height: Some(Height::new(1)) },
        LedgerRequest::SnapshotChunk { height: Height::new(1), index: 16_383 },
        LedgerRequest::SignHandover { epoch: Epoch::new(u64::MAX) },
    ]
}

fn submit_errors() -> Vec<SubmitError> {
    vec![
        SubmitError::Malformed,
        SubmitError::Signature,
        SubmitError::Nonce { expected: 3 },
        SubmitError::Funds,
        SubmitError::Full,
        SubmitError::Fee { min: Amount::from_frost(5) },
        SubmitError::Expired,
        SubmitError::Known,
        SubmitError::Refused(RefusedOperation::Capacity),
    ]
}

fn responses() -> Vec<LedgerResponse> {
    let chain = chain();
    let certified = certified(&chain);
    let (block, certificate) = chain.blocks[0].clone();
    let sent = CertifiedBlock { block: block.to_bytes(), certificate };
    let inclusion = Inclusion::new(&chain.id(), certified.clone(), &block.body, 0).unwrap();
    let proof = |key: &Key| StateProof::new(&chain.store, 1, key).unwrap();
    let absent = Key::Registration(RegistrationId::new([9; 32]));
    let committee = chain.state.committee().to_bytes();
    let fact = HandoverFact::new(&certified.header);
    let signatures = signatures(&chain, &fact);
    let by_handover = HandoverCertificate::new(chain.state.committee(), fact, &signatures).unwrap();
    let finality = Finality::Handover(by_handover);
    let last = FinalHeader { header: certified.header, finality };
    let mut handovers = vec![Handover { last, committee: committee.clone() }];
    handovers.resize(16, Handover { last: certified.clone().into(), committee });
    let mut results: Vec<_> = submit_errors().into_iter().map(Err).collect();
    results.push(Ok(id(1)));
    vec![
        LedgerResponse::Submitted { results },
        LedgerResponse::SystemSubmitted(Ok(())),
        LedgerResponse::SystemSubmitted(Err(SubmitError::Known)),
        LedgerResponse::Tip(None),
        LedgerResponse::Tip(Some(certified.clone())),
        LedgerResponse::Facts {
            header: Some(certified),
            proofs: vec![proof(&Key::Account(account())), proof(&absent), proof(&Key::Summary)],
        },
        LedgerResponse::Facts { header: None, proofs: Vec::new() },
        LedgerResponse::Handovers { handovers },
        LedgerResponse::Blocks { blocks: vec![sent.clone(), sent.clone()] },
        LedgerResponse::Transaction(None),
        LedgerResponse::Transaction(Some(inclusion)),
        LedgerResponse::Index { entries: vec![vec![6; 128]; 256] },
        LedgerResponse::Block(None),
        LedgerResponse::Block(Some(sent)),
        LedgerResponse::Snapshot(None),
        LedgerResponse::Snapshot(Some(Box::new(snapshot(&chain, MAX_SNAPSHOT_CHUNKS)))),
        LedgerResponse::SnapshotChunk(None),
        LedgerResponse::SnapshotChunk(Some(vec![7; MAX_SNAPSHOT_CHUNK_BYTES])),
        LedgerResponse::HandoverSigned(None),
        LedgerResponse::HandoverSigned(Some(signatures[0].1)),
    ]
}

fn signatures(chain: &Chain, fact: &HandoverFact) -> Vec<(usize, BlsSignature)> {
    let sign = |(node, bls): &(KeyPair, BlsKeyPair)| {
        let position = chain.state.committee().position(&node.public()).unwrap();
        (position, fact.sign(&chain.id(), bls))
    };
    node_keys(4).iter().map(sign).collect()
}

fn snapshot(chain: &Chain, chunks: usize) -> SnapshotOffer {
    let CertifiedHeader { header, certificate } = certified(chain);
    let committee = chain.state.committee().to_bytes();
    let chunks = vec![Hash::new([8; 32]); chunks];
    SnapshotOffer {
        manifest: SnapshotManifest { header, committee, entries: 1 << 20, chunks },
        certificate,
    }
}

static RESPONSES: LazyLock<Vec<LedgerResponse>> = LazyLock::new(responses);

fn announcements() -> Vec<LedgerAnnouncement> {
    let chain = chain();
    let transaction = chain.blocks[0].0.body.transactions[0].to_bytes();
    vec![
        LedgerAnnouncement::Transactions(vec![transaction; 64]),
        LedgerAnnouncement::System(system(&chain)),
        LedgerAnnouncement::SystemAgain(system(&chain), 1),
        LedgerAnnouncement::NewHeader(Box::new(certified(&chain))),
    ]
}

#[test]
fn requests_survive_the_wire_and_nothing_shorter_or_longer_does() {
    for request in requests() {
        let request = Request::Ledger(request);
        let stated = request.payload_bytes();
        let frame = request.clone().into_frame().unwrap();
        let head = RequestHead::decode(&limits(), &frame.head).unwrap();
        assert_eq!(head.payload_bytes(), stated, "{}", request.name());
        let read = |payload: Bytes| Request::from_parts(&limits(), head.clone(), payload);
        let payload = frame.payload.concat();
        assert_eq!(read(Bytes::from(payload.clone())), Ok(request.clone()));
        let short = Bytes::copy_from_slice(&payload[1..]);
        assert_eq!(read(short), Err(MessageError::PayloadLength), "{}", request.name());

        let Request::Ledger(request) = request else { unreachable!() };
        let kind = request.kind();
        let long = [&payload[..], &[0]].concat();
        assert!(LedgerRequest::decode(kind, &long).is_err(), "{kind:?} with bytes left over");
        let cut = &payload[..payload.len() - 1];
        assert_eq!(LedgerRequest::decode(kind, cut), Err(MessageError::Payload), "{kind:?} cut");
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            assert!(LedgerRequest::decode(other, &payload).is_err(), "{kind:?} as {other:?}");
        }
    }
}

#[test]
fn responses_survive_the_wire_and_nothing_shorter_or_longer_does() {
    for response in responses() {
        let kind = response.kind();
        let whole = Response::Ledger(Box::new(response.clone()));
        let frame = whole.clone().into_frame().unwrap();
        let head = ResponseHead::decode(&limits(), &frame.head).unwrap();
        let payload = frame.payload.concat();
        assert_eq!(
            Response::from_parts(&limits(), head.clone(), Bytes::from(payload.clone())),
            Ok(whole)
        );
        let short = Bytes::copy_from_slice(&payload[1..]);
        assert_eq!(Response::from_parts(&limits(), head, short), Err(MessageError::PayloadLength));

        let long = [&payload[..], &[0]].concat();
        assert!(LedgerResponse::decode(kind, &long).is_err(), "{kind:?} with bytes left over");
        let cut = &payload[..payload.len() - 1];
        assert_eq!(LedgerResponse::decode(kind, cut), Err(MessageError::Payload), "{kind:?} cut");
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            assert!(LedgerResponse::decode(other, &payload).is_err(), "{kind:?} as {other:?}");
        }
    }
}

#[test]
fn requests_out_of_range_are_neither_written_nor_read() {
    let index = |after, limit| LedgerRequest::Index { query: IndexQuery::Nodes, after, limit };
    let facts = |count| LedgerRequest::Facts { height: None, keys: vec![Key::Summary; count] };
    let submit = |transactions| LedgerRequest::Submit { transactions };
    for request in [
        submit(Vec::new()),
        submit(vec![Vec::new(); 65]),
        facts(0),
        facts(65),
        LedgerRequest::Handovers { from: Epoch::new(0), max: 0 },
        LedgerRequest::Handovers { from: Epoch::new(0), max: 17 },
        LedgerRequest::Transaction { id: id(0), wait_ms: 30_001 },
        index(None, 0),
        index(None, 257),
        index(Some(vec![0; 129]), 1),
        LedgerRequest::SnapshotChunk { height: Height::new(1), index: 16_384 },
    ] {
        assert_eq!(request.encode(), Err(MessageError::Field), "{request:?}");
        let bytes = borsh::to_vec(&request).unwrap();
        assert!(LedgerRequest::decode(request.kind(), &bytes).is_err(), "{request:?}");
    }
    let big = submit(vec![vec![0; 32 << 10]; 8]);
    let max_bytes = ledger::MAX_SUBMIT_BYTES as u64;
    let too_large = MessageError::PayloadTooLarge { bytes: max_bytes + 5 + 8 * 4, max_bytes };
    assert_eq!(big.encode(), Err(too_large));
    assert_eq!(
        LedgerRequest::decode(LedgerKind::Submit, &borsh::to_vec(&big).unwrap()),
        Err(too_large)
    );
}

#[test]
fn responses_out_of_range_are_neither_written_nor_read() {
    let chain = chain();
    let (_, certificate) = chain.blocks[0].clone();
    let block = CertifiedBlock { block: vec![0; MAX_BLOCK_BYTES + 1], certificate };
    let handover =
        Handover { last: certified(&chain).into(), committee: chain.state.committee().to_bytes() };
    let proof = StateProof { value: None, path: Vec::new() };
    for response in [
        LedgerResponse::Submitted { results: vec![Err(SubmitError::Full); 65] },
        LedgerResponse::Facts { header: None, proofs: vec![proof; 65] },
        LedgerResponse::Handovers { handovers: vec![handover; 17] },
        LedgerResponse::Blocks { blocks: vec![block.clone()] },
        LedgerResponse::Block(Some(block)),
        LedgerResponse::Index { entries: vec![Vec::new(); 257] },
        LedgerResponse::Index { entries: vec![vec![0; 129]] },
        LedgerResponse::Snapshot(Some(Box::new(snapshot(&chain, 0)))),
        LedgerResponse::Snapshot(Some(Box::new(snapshot(&chain, MAX_SNAPSHOT_CHUNKS + 1)))),
        LedgerResponse::SnapshotChunk(Some(vec![7; MAX_SNAPSHOT_CHUNK_BYTES + 1])),
    ] {
        let kind = response.kind();
        assert_eq!(response.encode(), Err(MessageError::Field), "{kind:?}");
        let bytes = borsh::to_vec(&response).unwrap();
        assert!(LedgerResponse::decode(kind, &bytes).is_err(), "{kind:?}");
    }
}

#[test]
fn a_list_that_lies_about_its_length_is_refused_before_it_is_read() {
    // Tag of the kind, then a count of 2^32 - 1.
    for (kind, tag) in [(LedgerKind::Submit, 0), (LedgerKind::Facts, 3)] {
        let mut lie = vec![tag];
        if kind == LedgerKind::Facts {
            lie.push(0);
        }
        lie.extend([0xff; 4]);
        assert_eq!(LedgerRequest::decode(kind, &lie), Err(MessageError::Payload), "{kind:?}");
    }
    for (kind, tag) in [
        (LedgerKind::Submit, 0),
        (LedgerKind::Handovers, 4),
        (LedgerKind::Blocks, 5),
        (LedgerKind::Index, 7),
    ] {
        let lie = [tag, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(LedgerResponse::decode(kind, &lie), Err(MessageError::Payload), "{kind:?}");
    }
}

#[test]
fn a_head_that_announces_too_much_is_refused_before_the_payload_is_read() {
    for kind in KINDS {
        let refused = |bytes: usize, max_bytes: usize| {
            Some(MessageError::PayloadTooLarge { bytes: bytes as u64, max_bytes: max_bytes as u64 })
        };
        let max = kind.max_request_bytes();
        let check = |bytes: usize| {
            let request_bytes = u32::try_from(bytes).unwrap();
            let head = RequestHead::Ledger { kind, request_bytes };
            RequestHead::decode(&limits(), &codec::encode(&head, MAX_HEAD_BYTES).unwrap()).err()
        };
        assert_eq!(check(max), None, "{kind:?}");
        assert_eq!(check(max + 1), refused(max + 1, max), "{kind:?}");

        let max = kind.max_response_bytes();
        assert!(max as u64 <= limits().max_payload_bytes());
        let check = |bytes: usize| {
            let response_bytes = u32::try_from(bytes).unwrap();
            let head = ResponseHead::Ledger { kind, response_bytes };
            ResponseHead::decode(&limits(), &codec::encode(&head, MAX_HEAD_BYTES).unwrap()).err()
        };
        assert_eq!(check(max), None, "{kind:?}");
        assert_eq!(check(max + 1), refused(max + 1, max), "{kind:?}");
    }
}

#[test]
fn the_largest_certificate_and_block_fit() {
    let chain = chain();
    let mut header = certified(&chain);
    let signature = header.certificate.signatures[0].signature;
    let sign = |position| CommitSignature { position, signature };
    header.certificate.signatures = (0..256).map(sign).collect();
    assert!(borsh::to_vec(&header).unwrap().len() <= MAX_CERTIFIED_HEADER_BYTES);
    let certificate = header.certificate.clone();
    let block = CertifiedBlock { block: vec![0; MAX_BLOCK_BYTES], certificate };
    assert!(LedgerResponse::Block(Some(block.clone())).encode().is_ok());
    assert!(LedgerResponse::Blocks { blocks: vec![block] }.encode().is_ok());
    let inclusion = Inclusion {
        certified: header.clone(),
        transaction: vec![0; 32 << 10],
        position: 0,
        leaves: 1 << 20,
        path: vec![Hash::ZERO; 20],
    };
    assert!(LedgerResponse::Transaction(Some(inclusion)).encode().is_ok());
    // Members of one shard each: node key, BLS key, count, shard.
    let last = header.into();
    let handover = Handover { last, committee: vec![0; 14 + 256 * (32 + 48 + 4 + 2)] };
    assert!(LedgerResponse::Handovers { handovers: vec![handover; 16] }.encode().is_ok());
}

#[test]
fn announcements_belong_to_one_topic_and_have_one_encoding() {
    for announcement in announcements() {
        let topic = announcement.topic();
        let bytes = announcement.encode().unwrap();
        assert!(bytes.len() <= topic.max_bytes());
        assert_eq!(LedgerAnnouncement::decode(topic, &bytes), Ok(announcement));
        for other in TOPICS.into_iter().filter(|other| *other != topic) {
            assert!(LedgerAnnouncement::decode(other, &bytes).is_err(), "{topic:?} on {other:?}");
        }
        let long = [&bytes[..], &[0]].concat();
        assert!(LedgerAnnouncement::decode(topic, &long).is_err());
    }
    let batch = LedgerAnnouncement::Transactions;
    for wrong in [batch(Vec::new()), batch(vec![Vec::new(); 65])] {
        assert_eq!(wrong.encode(), Err(MessageError::Field));
        let bytes = borsh::to_vec(&wrong).unwrap();
        assert!(LedgerAnnouncement::decode(LedgerTopic::Transactions, &bytes).is_err());
    }
    let large = batch(vec![vec![0; 33 << 10]; 2]);
    assert!(matches!(large.encode(), Err(MessageError::PayloadTooLarge { .. })));
}

#[test]
fn refusals_of_the_state_keep_what_a_wallet_can_act_on() {
    let (min, fee) = (Amount::from_frost(9), Amount::ZERO);
    let expected = 5;
    for (error, submit) in [
        (
            OperationError::Nonce { account: account(), nonce: 4, expected },
            SubmitError::Nonce { expected },
        ),
        (OperationError::Fee { fee, min }, SubmitError::Fee { min }),
        (OperationError::NoNode, SubmitError::Refused(RefusedOperation::Node)),
        (OperationError::Permanent, SubmitError::Refused(RefusedOperation::Registration)),
        (
            OperationError::AlreadyRegistered { registration: RegistrationId::new([9; 32]) },
            SubmitError::Refused(RefusedOperation::AlreadyRegistered),
        ),
        (
            OperationError::OtherEnd { end: Epoch::new(7) },
            SubmitError::Refused(RefusedOperation::OtherEnd),
        ),
    ] {
        assert_eq!(SubmitError::from(&error), submit, "{error}");
    }
    assert_eq!(SubmitError::from(&TransactionError::Signature), SubmitError::Signature);
    assert_eq!(SubmitError::from(&TransactionError::Operations), SubmitError::Malformed);
    for error in submit_errors() {
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<SubmitError>(&json).unwrap(), error, "{json}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_what_is_read_is_written_the_same(
        tag in 0_u8..10,
        bytes in vec(any::<u8>(), 0..400),
    ) {
        let bytes = [&[tag][..], &bytes].concat();
        for kind in KINDS {
            if let Ok(request) = LedgerRequest::decode(kind, &bytes) {
                prop_assert_eq!(request.encode().unwrap(), &bytes[..]);
            }
            if let Ok(response) = LedgerResponse::decode(kind, &bytes) {
                prop_assert_eq!(response.encode().unwrap(), &bytes[..]);
            }
        }
        for topic in TOPICS {
            if let Ok(announcement) = LedgerAnnouncement::decode(topic, &bytes) {
                prop_assert_eq!(announcement.encode().unwrap(), &bytes[..]);
            }
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(which in 0_usize..14, at in any::<u16>(), flip in 1_u8..) {
        let response = RESPONSES[which].clone();
        let mut bytes = response.encode().unwrap();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= flip;
        if let Ok(other) = LedgerResponse::decode(response.kind(), &bytes) {
            prop_assert_ne!(other, response);
        }
    }
}
