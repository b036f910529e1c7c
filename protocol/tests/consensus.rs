//! Votes, proposals, certificates and consensus messages: the bytes, fixed for ever.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

mod golden;

use std::fmt::Write as _;

use floe_protocol::{
    consensus::{
        BodyPart, ConsensusMessage, JournalEntry, PolkaCertificate, Proposal, RoundCertificate,
        RoundCertificateKind, RoundVote, SignedProposal, Step, proposer,
    },
    hash::{Domain, Hash},
    index::{Epoch, Height},
    keys::{BlsSignature, ChainId, KeyPair},
    ledger::{Block, BlockHash, Body, CommitRecord, Header, Timestamp},
    merkle::MerkleTree,
    test_support::{genesis, node_keys},
    vote::{CommitCertificate, CommitSignature, SignedVote, Vote, VoteKind},
};

/// Four nodes with one shard each; keys by committee position.
struct Network {
    chain: ChainId,
    keys: Vec<KeyPair>,
}

impl Network {
    fn new() -> Self {
        let mut keys: Vec<_> = node_keys(4).into_iter().map(|keys| keys.0).collect();
        keys.sort_by_key(KeyPair::public);
        Self { chain: genesis(4, 4).chain_id(), keys }
    }

    fn vote(&self, position: usize, kind: VoteKind, block: Option<BlockHash>) -> SignedVote {
        let (key, height) = (&self.keys[position], Height::new(7));
        Vote { height, round: 1, kind, block, voter: key.public() }.sign(&self.chain, key)
    }

    fn header(&self, body: &Body) -> Header {
        Header {
            height: Height::new(7),
            round: 0,
            time: Timestamp::from_ms(1_800_000_000_000),
            parent: BlockHash::new(Hash::new([1; 32])),
            commit_record: body.commit_record.hash(),
            epoch: Epoch::new(2),
            proposer: self.keys[0].public(),
            transactions_root: body.transactions_root(&self.chain),
            state_root: Hash::new([2; 32]),
            events_root: Hash::new([3; 32]),
            beacon: Hash::new([4; 32]),
            beacon_signature: BlsSignature::new([5; 96]),
            next_committee: Hash::new([6; 32]),
        }
    }

    fn proposal(&self, header: Header) -> SignedProposal {
        let key = &self.keys[1];
        let (parts_root, proposer) = (Hash::new([7; 32]), key.public());
        let (round, pol_round, parts) = (2, Some(1), 3);
        let proposal = Proposal { round, pol_round, parts_root, parts, proposer, header };
        proposal.sign(&self.chain, key)
    }

    fn signatures(&self, kind: VoteKind, block: BlockHash) -> Vec<CommitSignature> {
        let sign = |position: u16| CommitSignature {
            position,
            signature: self.vote(position.into(), kind, Some(block)).signature,
        };
        [0, 1, 3].map(sign).into()
    }
}

/// A part of three, and the root over them.
fn part() -> (BodyPart, Hash) {
    let leaves = [b"first", b"other", b"third"].map(|bytes| Domain::BodyPart.hash(&[bytes]));
    let tree = MerkleTree::new(Domain::BodyNode, leaves.to_vec());
    let (height, path, bytes) = (Height::new(7), tree.path(1), b"other".to_vec());
    (BodyPart { height, round: 2, index: 1, path, bytes }, tree.root())
}

#[test]
fn layouts_match_the_golden_vectors() {
    let network = Network::new();
    let chain = &network.chain;
    let body = Body { commit_record: CommitRecord::default(), ..Body::default() };
    let header = network.header(&body);
    let block = header.hash();
    let mut text = String::from(
        "# Golden vectors of votes, proposals, certificates and consensus messages. Written by\n\
         # tests/consensus.rs; changed only on purpose. Four nodes hold one of four shards each;\n\
         # the seed of the node key of node i: i as u64 LE, then 24 bytes 01.\n\n",
    );
    let mut line = |name: &str, bytes: &[u8]| {
        writeln!(text, "{name} {}", golden::hex(bytes)).unwrap();
    };
    line("chain", chain.as_bytes());
    line("header_hash", block.hash().as_bytes());
    for (name, kind, voted) in [
        ("prevote", VoteKind::Prevote, Some(block)),
        ("precommit", VoteKind::Precommit, Some(block)),
        ("precommit_nil", VoteKind::Precommit, None),
    ] {
        let signed = network.vote(0, kind, voted);
        line(&format!("{name}.signed_bytes"), &signed.vote.message(chain));
        line(&format!("{name}.signature"), signed.signature.as_bytes());
    }
    let signed = network.proposal(header);
    line("proposal.signed_bytes", &signed.proposal.message(chain));
    line("proposal.signature", signed.signature.as_bytes());
    let certificate = CommitCertificate {
        height: Height::new(7),
        round: 1,
        block,
        signatures: network.signatures(VoteKind::Precommit, block),
    };
    line("commit_certificate", &borsh::to_vec(&certificate).unwrap());
    let (part, root) = part();
    line("parts_root", root.as_bytes());
    for (name, message) in messages(&network, &signed, &part) {
        line(&format!("message.{name}"), &message.to_bytes());
        assert_eq!(ConsensusMessage::from_bytes(&message.to_bytes()).unwrap(), message);
    }
    for (name, entry) in entries(&network, &signed, Block { header, body }) {
        line(&format!("entry.{name}"), &entry.to_bytes());
        assert_eq!(JournalEntry::from_bytes(&entry.to_bytes()).unwrap(), entry);
    }
    let committee = genesis(4, 4).committee().unwrap();
    for round in 0..4 {
        let node = proposer(chain, Height::new(7), round, &committee);
        line(&format!("proposer.{round}"), node.as_bytes());
    }
    golden::check("consensus.txt", include_str!("vectors/consensus.txt"), &text);

    assert!(part.verify(&root, 3));
    assert!(!part.verify(&root, 5));
    assert!(signed.verify(chain));
    certificate.verify(&committee, chain).unwrap();
}

fn messages(
    network: &Network,
    signed: &SignedProposal,
    part: &BodyPart,
) -> Vec<(&'static str, ConsensusMessage)> {
    let block = signed.proposal.header.hash();
    let vote = network.vote(0, VoteKind::Prevote, Some(block));
    vec![
        ("vote", ConsensusMessage::Vote(vote)),
        ("proposal", ConsensusMessage::Proposal(Box::new(*signed))),
        ("part", ConsensusMessage::Part(part.clone())),
        ("polka", ConsensusMessage::Polka(polka(network, block))),
        ("round", ConsensusMessage::Round(round(network, block))),
    ]
}

fn polka(network: &Network, block: BlockHash) -> PolkaCertificate {
    let signatures = network.signatures(VoteKind::Prevote, block);
    let polka = PolkaCertificate { height: Height::new(7), round: 1, block, signatures };
    let committee = genesis(4, 4).committee().unwrap();
    polka.verify(&committee, &network.chain).unwrap();
    polka
}

fn round(network: &Network, block: BlockHash) -> RoundCertificate {
    let vote = |position: u16, kind, block| RoundVote {
        position,
        kind,
        block,
        signature: network.vote(position.into(), kind, block).signature,
    };
    let votes = vec![vote(1, VoteKind::Precommit, None), vote(2, VoteKind::Prevote, Some(block))];
    let kind = RoundCertificateKind::Skip;
    let round = RoundCertificate { height: Height::new(7), round: 1, kind, votes };
    let committee = genesis(4, 4).committee().unwrap();
    round.verify(&committee, &network.chain).unwrap();
    round
}

fn entries(
    network: &Network,
    signed: &SignedProposal,
    block: Block,
) -> Vec<(&'static str, JournalEntry)> {
    let hash = block.header.hash();
    let vote = network.vote(2, VoteKind::Precommit, None);
    vec![
        ("vote", JournalEntry::Vote(vote)),
        ("proposal", JournalEntry::Proposal(Box::new(*signed))),
        ("block", JournalEntry::Block { block: Box::new(block), in_time: true }),
        ("value", JournalEntry::Value { block: hash, round: 2, valid: true }),
        ("timeout", JournalEntry::Timeout { step: Step::Prevote, round: 2 }),
        ("polka", JournalEntry::Polka(polka(network, hash))),
    ]
}
