//! The bytes of everything in a round that is hashed, signed, sent or kept.

use std::fmt::Write as _;

use floe_protocol::{
    challenge::{
        ChallengeCertificate, ChallengeFact, ChallengeParameters, Commitment, Outcome, RoundRecord,
        Score,
    },
    committee::CommitteeFact,
    hash::Hash,
    keys::TAG_BYTES,
};

use crate::{Network, ROUND, golden};

#[test]
fn chains_and_layouts_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of storage challenges. Written by tests/challenge; changed only on purpose.\n\
         # Places: blob, shard, pair, axis, symbol, chunk of each step.\n",
    );
    for (nodes, n_shards, lens) in
        [(4, 4, vec![0, 1, 20_000]), (4, 7, vec![31, 300_000]), (7, 64, vec![1 << 20, 2_000_000])]
    {
        let network = Network::new(nodes, n_shards, &lens);
        writeln!(text, "\nn_shards {n_shards}\nblob_bytes {lens:?}").unwrap();
        for position in [0, nodes - 1] {
            let challenge = network.challenge(position);
            let mut walk = floe_protocol::challenge::Walk::new(challenge.clone());
            writeln!(text, "node {}\nstart {}", challenge.node(), challenge.start()).unwrap();
            while let Some(place) = walk.place() {
                let (blob, shard, pair) = (place.blob, place.shard, place.pair);
                let (axis, symbol, chunk) = (place.axis, place.symbol, place.chunk);
                writeln!(text, "{blob} {shard} {pair} {axis:?} {symbol} {chunk}").unwrap();
                walk.take(&network.read(&place).unwrap()).unwrap();
            }
            let answer = walk.end().unwrap();
            let (end, transcript) = (answer.commitment().end, answer.transcript());
            let (hash, bytes) = (Hash::of_symbol(transcript), transcript.len());
            writeln!(text, "end {end}\ntranscript_bytes {bytes}\ntranscript_blake3 {hash}")
                .unwrap();
            writeln!(text, "turns {:?}", challenge.turns()).unwrap();
        }
    }

    let network = Network::new(7, 7, &[10]);
    let (chain, node, end) = (network.chain(), network.node(2), Hash::new([5; 32]));
    let commitment = Commitment { round: ROUND, node, end };
    writeln!(text, "\ncommitment {}", golden::hex(&commitment.to_bytes())).unwrap();
    let fact = ChallengeFact::new(&network.universe, node, end);
    let message = fact.message(chain);
    let (tag, rest) = message.split_at(TAG_BYTES);
    let tag = String::from_utf8_lossy(tag);
    writeln!(text, "acknowledged {} {}", tag.trim_end_matches('\0'), golden::hex(rest)).unwrap();
    let signatures = [0, 4, 6].map(|at| (at, fact.sign(chain, network.bls(at))));
    let certificate =
        ChallengeCertificate::new(&network.universe.committee, fact, &signatures).unwrap();
    writeln!(text, "certificate {}", golden::hex(&certificate.to_bytes())).unwrap();

    let mut open = RoundRecord::new(&network.universe);
    open.outcomes =
        vec![Outcome::NotAsked, Outcome::Open, Outcome::Passed, Outcome::Missed, Outcome::Void];
    let score = Score { passed: 1, missed: 2, void: 3 };
    let rules = ChallengeParameters::default();
    for (name, bytes) in [
        ("round_record", borsh::to_vec(&open)),
        ("score", borsh::to_vec(&score)),
        ("parameters", borsh::to_vec(&rules)),
    ] {
        writeln!(text, "{name} {}", golden::hex(&bytes.unwrap())).unwrap();
    }
    golden::check("challenge.txt", include_str!("../vectors/challenge.txt"), &text);
}
