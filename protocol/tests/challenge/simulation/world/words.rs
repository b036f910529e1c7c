//! What those do that are not fair, and what those say that are.

use super::*;

impl World {
    /// A node that holds nothing commits itself to something, as soon as it could know its seed.
    pub(super) fn boast(&mut self, at: usize, height: Height) {
        let after = |record: &&Record| record.universe.round.get() + 1 == height.get();
        let Some(record) = self.records.values().find(after) else { return };
        let (round, end) = (record.universe.round, Hash::of_symbol(&[7]));
        let committee = Arc::clone(&record.universe.committee);
        let fact = ChallengeFact::new(&record.universe, NETWORK.node(at), end);
        self.say(at, Commitment { round, node: fact.node, end });
        let friends = (0..NODES).filter(|friend| !self.plan.natures[*friend].is_fair());
        let signed: Vec<_> =
            friends.map(|by| (by, fact.sign(NETWORK.chain(), NETWORK.bls(by)))).collect();
        let others: Vec<_> = signed.iter().filter(|(by, _)| *by != at).copied().collect();
        for signed in [signed, others] {
            assert!(ChallengeCertificate::new(&committee, fact, &signed).is_err());
        }
    }

    /// What a node hands out as its transcript.
    pub(super) fn corrupt(&mut self, at: usize, transcript: Bytes) -> Option<Bytes> {
        match self.plan.natures[at] {
            Nature::Refuses => None,
            Nature::Liar => {
                let mut bytes = transcript.to_vec();
                let place = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
                bytes[place] ^= 1 << self.random.below(8);
                Some(bytes.into())
            }
            _ => Some(transcript),
        }
    }

    /// A liar acknowledges what it has not seen, and not truly.
    pub(super) fn lie(&mut self, at: usize, of: usize, round: ChallengeRound) {
        if self.plan.natures[at] == Nature::Liar {
            for delay_ms in [200, 400, 2_000] {
                let signature = BlsSignature::new([u8::try_from(delay_ms % 251).unwrap(); 96]);
                let member = NETWORK.node(at);
                let input = RoundInput::Acknowledged { member, signature };
                self.tell(self.now_ms + delay_ms, of, round, input);
            }
        }
    }

    /// Only those that judge fairly send true ones, and only of what is true.
    pub(super) fn acknowledge(&mut self, at: usize, round: ChallengeRound, fact: &ChallengeFact) {
        if !self.plan.natures[at].is_fair() {
            return;
        }
        let of = position(&fact.node);
        let chain = self.oracle.chain(&self.records[&round], of, &self.plan);
        assert_eq!(chain, Some((fact.end, true)), "seed {}, {at} on {of}", self.plan.seed);
        let (member, chain) = (NETWORK.node(at), NETWORK.chain());
        let signature = fact.sign(chain, NETWORK.bls(at));
        self.send((at, of), round, RoundInput::Acknowledged { member, signature });
    }
}
