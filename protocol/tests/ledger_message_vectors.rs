//! Questions about the ledger and their answers: the bytes, fixed for ever.
//!
//! All values are made up: nothing here depends on a genesis, or proves anything.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use floe_protocol::{
    blob::BlobId,
    handover::HandoverCertificate,
    hash::Hash,
    index::{Epoch, Height},
    keys::{BlsSignature, ChainId, KeyPair, NodeId, Signature},
    ledger::{
        AccountId, Amount, BlockHash, Header, Key, SnapshotManifest, SnapshotOffer, StateProof,
        SystemOperation, Timestamp, TransactionId,
    },
    light::{CertifiedHeader, FinalHeader, Finality, Inclusion},
    message::{
        CertifiedBlock, Handover, IndexQuery, LedgerRequest, LedgerResponse, RefusedOperation,
        SubmitError,
    },
    vote::{CommitCertificate, CommitSignature, Equivocation, Vote, VoteKind},
};

fn hash(byte: u8) -> Hash {
    Hash::new([byte; 32])
}

fn account() -> AccountId {
    AccountId::new(KeyPair::from_seed([1; 32]).public())
}

fn certificate() -> CommitCertificate {
    let sign = |position| CommitSignature { position, signature: Signature::new([9; 64]) };
    CommitCertificate {
        height: Height::new(7),
        round: 2,
        block: BlockHash::new(hash(8)),
        signatures: [0, 1, 3].map(sign).into(),
    }
}

fn certified() -> CertifiedHeader {
    let header = Header {
        height: Height::new(7),
        round: 0,
        time: Timestamp::from_ms(1_800_000_000_000),
        parent: BlockHash::new(hash(1)),
        commit_record: hash(2),
        epoch: Epoch::new(3),
        proposer: NodeId::new([4; 32]),
        transactions_root: hash(5),
        state_root: hash(6),
        events_root: hash(7),
        beacon: hash(10),
        beacon_signature: BlsSignature::new([11; 96]),
        next_committee: hash(12),
    };
    CertifiedHeader { header, certificate: certificate() }
}

/// Of nine members, of whom the first and the last signed.
fn handover_certificate() -> HandoverCertificate {
    let header = certified().header;
    let mut bytes = header.epoch.get().to_le_bytes().to_vec();
    bytes.extend(header.height.get().to_le_bytes());
    bytes.extend(header.hash().hash().as_bytes());
    bytes.extend([9, 0, 1, 1]);
    bytes.extend([17; 96]);
    HandoverCertificate::from_bytes(&bytes).unwrap()
}

fn block() -> CertifiedBlock {
    CertifiedBlock { block: b"a block".to_vec(), certificate: certificate() }
}

fn snapshot() -> SnapshotOffer {
    let manifest = SnapshotManifest {
        header: certified().header,
        committee: b"a committee".to_vec(),
        entries: 500,
        chunks: vec![hash(16), hash(17)],
    };
    SnapshotOffer { manifest, certificate: certificate() }
}

fn system() -> SystemOperation {
    let key = KeyPair::from_seed([2; 32]);
    let vote = |block| {
        let (height, kind) = (Height::new(7), VoteKind::Precommit);
        let vote = Vote { height, round: 1, kind, block, voter: key.public() };
        vote.sign(&ChainId::new(hash(13)), &key)
    };
    let equivocation =
        Equivocation { first: vote(None), second: vote(Some(BlockHash::new(hash(8)))) };
    SystemOperation::ReportEquivocation { equivocation }
}

fn requests() -> Vec<(&'static str, LedgerRequest)> {
    let index = |query, after, limit| LedgerRequest::Index { query, after, limit };
    let names = Key::Name(account(), "site".into());
    vec![
        ("submit", LedgerRequest::Submit { transactions: vec![b"one".to_vec(), b"two".to_vec()] }),
        ("submit_system", LedgerRequest::SubmitSystem(system())),
        ("tip", LedgerRequest::Tip),
        ("facts", LedgerRequest::Facts { height: None, keys: vec![Key::Summary] }),
        (
            "facts_at",
            LedgerRequest::Facts {
                height: Some(Height::new(7)),
                keys: vec![Key::Account(account()), names],
            },
        ),
        ("handovers", LedgerRequest::Handovers { from: Epoch::new(3), max: 16 }),
        ("blocks", LedgerRequest::Blocks { from: Height::new(7), max_bytes: 1 << 20 }),
        (
            "transaction",
            LedgerRequest::Transaction { id: TransactionId::new(hash(3)), wait_ms: 30_000 },
        ),
        ("index_owned", index(IndexQuery::Owned(account()), None, 1)),
        ("index_owned_of", index(IndexQuery::OwnedOf(account(), BlobId::new([3; 32])), None, 1)),
        ("index_history", index(IndexQuery::History(account()), Some(b"after".to_vec()), 256)),
        ("index_staked", index(IndexQuery::Staked(account()), None, 2)),
        ("index_nodes", index(IndexQuery::Nodes, None, 3)),
        ("block", LedgerRequest::Block { height: Height::new(7) }),
        ("snapshot", LedgerRequest::Snapshot { height: None }),
        ("snapshot_at", LedgerRequest::Snapshot { height: Some(Height::new(7)) }),
        ("snapshot_chunk", LedgerRequest::SnapshotChunk { height: Height::new(7), index: 3 }),
        ("sign_handover", LedgerRequest::SignHandover { epoch: Epoch::new(3) }),
    ]
}

/// Every reason, in the order of the layout.
fn submit_errors() -> Vec<SubmitError> {
    use RefusedOperation as R;
    let refused = [
        R::Overflow,
        R::Node,
        R::NotOwner,
        R::Jail,
        R::Stake,
        R::Blob,
        R::TooFarAhead,
        R::Price,
        R::Capacity,
        R::Registration,
        R::AlreadyRegistered,
        R::OtherEnd,
        R::AlreadyCertified,
        R::Certificate,
        R::NameVersion,
        R::Equivocation,
    ];
    let own = [
        SubmitError::Malformed,
        SubmitError::Signature,
        SubmitError::Nonce { expected: 3 },
        SubmitError::Funds,
        SubmitError::Full,
        SubmitError::Fee { min: Amount::from_frost(5) },
        SubmitError::Expired,
        SubmitError::Known,
    ];
    own.into_iter().chain(refused.map(SubmitError::Refused)).collect()
}

fn responses() -> Vec<(&'static str, LedgerResponse)> {
    let proof = |value: Option<&[u8]>| StateProof {
        value: value.map(<[u8]>::to_vec),
        path: b"a path".to_vec(),
    };
    let inclusion = Inclusion {
        certified: certified(),
        transaction: b"a transaction".to_vec(),
        position: 1,
        leaves: 3,
        path: vec![hash(14), hash(15)],
    };
    let committee = b"a committee".to_vec();
    let by_commit = Handover { last: certified().into(), committee: committee.clone() };
    let last =
        FinalHeader { finality: Finality::Handover(handover_certificate()), ..certified().into() };
    let by_handover = Handover { last, committee };
    let header = Some(certified());
    vec![
        ("submitted", LedgerResponse::Submitted { results: vec![Ok(TransactionId::new(hash(3)))] }),
        ("system_submitted", LedgerResponse::SystemSubmitted(Ok(()))),
        ("system_refused", LedgerResponse::SystemSubmitted(Err(SubmitError::Known))),
        ("tip", LedgerResponse::Tip(header.clone())),
        ("tip_none", LedgerResponse::Tip(None)),
        (
            "facts",
            LedgerResponse::Facts { header, proofs: vec![proof(Some(b"a value")), proof(None)] },
        ),
        ("facts_genesis", LedgerResponse::Facts { header: None, proofs: vec![proof(None)] }),
        ("handovers", LedgerResponse::Handovers { handovers: vec![by_commit, by_handover] }),
        ("blocks", LedgerResponse::Blocks { blocks: vec![block(), block()] }),
        ("blocks_none", LedgerResponse::Blocks { blocks: Vec::new() }),
        ("transaction", LedgerResponse::Transaction(Some(inclusion))),
        ("transaction_none", LedgerResponse::Transaction(None)),
        ("index", LedgerResponse::Index { entries: vec![b"an entry".to_vec(), b"next".to_vec()] }),
        ("block", LedgerResponse::Block(Some(block()))),
        ("block_none", LedgerResponse::Block(None)),
        ("snapshot", LedgerResponse::Snapshot(Some(Box::new(snapshot())))),
        ("snapshot_none", LedgerResponse::Snapshot(None)),
        ("snapshot_chunk", LedgerResponse::SnapshotChunk(Some(b"a chunk".to_vec()))),
        ("snapshot_chunk_none", LedgerResponse::SnapshotChunk(None)),
        ("handover_signed", LedgerResponse::HandoverSigned(Some(BlsSignature::new([18; 96])))),
        ("handover_signed_none", LedgerResponse::HandoverSigned(None)),
    ]
}

#[test]
fn layouts_match_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of questions about the ledger and their answers: the payloads of requests\n\
         # and responses. Written by tests/ledger_message_vectors.rs; changed only on purpose.\n\n",
    );
    let mut line = |name: &str, bytes: &[u8]| {
        writeln!(text, "{name} {}", golden::hex(bytes)).unwrap();
    };
    for (name, request) in requests() {
        let bytes = request.encode().unwrap();
        line(&format!("request.{name}"), &bytes);
        assert_eq!(LedgerRequest::decode(request.kind(), &bytes).unwrap(), request);
    }
    for (name, response) in responses() {
        let bytes = response.encode().unwrap();
        line(&format!("response.{name}"), &bytes);
        assert_eq!(LedgerResponse::decode(response.kind(), &bytes).unwrap(), response);
    }
    for error in submit_errors() {
        let results = vec![Err(error)];
        let response = LedgerResponse::Submitted { results };
        line(
            &format!("response.submitted.{error:?}").replace(' ', ""),
            &response.encode().unwrap(),
        );
    }
    golden::check("ledger_messages.txt", include_str!("vectors/ledger_messages.txt"), &text);
}
