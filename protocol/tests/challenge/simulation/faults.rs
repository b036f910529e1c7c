//! What goes wrong in an epoch, drawn from its seed: how nodes behave, what troubles them, how their
//! links are.

use floe_protocol::{blob::BlobId, challenge::Place, encoding::Axis, hash::Hash};

use super::{EPOCH_MS, NETWORK, NODES};

/// Who waits for an answer waits no longer.
const SAID_AGAIN_MS: u64 = 4_000;

/// Numbers that look random.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        word(&self.0.to_le_bytes())
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.below(NODES as u64)).unwrap()
    }
}

fn word(bytes: &[u8]) -> u64 {
    let hash = Hash::of_symbol(bytes);
    let (word, _) = hash.as_bytes().split_first_chunk::<8>().unwrap();
    u64::from_le_bytes(*word)
}

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Honest,
    /// Lacks about so many of a thousand symbols.
    Dropped(u64),
    /// Has dropped everything and fetches what it is asked for, each time in so many milliseconds.
    Fetches(u64),
    /// Does nothing.
    Stopped,
    /// Changes a bit of its transcripts and sends false acknowledgements.
    Liar,
    /// Neither hands out its transcript nor acknowledges anybody.
    Refuses,
    /// Commits itself, then answers nobody.
    Hangs,
    /// Commits itself to two things.
    Doubles,
    /// Holds nothing, commits itself to something, and its like acknowledge it.
    Empty,
}

impl Nature {
    /// Whether it judges others as it should.
    pub(super) const fn is_fair(self) -> bool {
        matches!(self, Self::Honest | Self::Dropped(_) | Self::Fetches(_))
    }
}

/// What keeps a member from its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing comes or goes; after it the node syncs.
    Cut,
    /// The process stands still.
    Still,
    /// Blocks come by sync, late.
    Synced,
    /// Blocks are committed so many milliseconds late.
    Behind(u64),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
    pub(super) kind: Kind,
}

/// Something of each two nodes.
type Links = [[u64; NODES]; NODES];

/// All that goes wrong.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) natures: [Nature; NODES],
    troubles: [Vec<Trouble>; NODES],
    delays_ms: Links,
    loss_per_mille: Links,
    /// What each node's clock shows when the epoch begins: they count from anywhere.
    pub(super) clocks_ms: [u64; NODES],
}

impl Plan {
    pub(super) fn new(seed: u64, random: &mut Random) -> Self {
        let natures = natures(seed, random);
        let troubled = random.below(4);
        let troubles = std::array::from_fn(|_| troubles(random, troubled));
        let (most_ms, lossy) = (1 + random.below(120), random.below(2) * 300);
        Self {
            seed,
            natures,
            troubles,
            delays_ms: links(random, |random| random.below(most_ms)),
            loss_per_mille: links(random, |random| random.below(2) * lossy),
            clocks_ms: std::array::from_fn(|_| 3_600_000 * random.below(1_000)),
        }
    }

    /// The trouble that a node is in.
    pub(super) fn trouble(&self, at: usize, now_ms: u64) -> Option<Trouble> {
        let is_now = |trouble: &&Trouble| (trouble.from_ms..trouble.to_ms).contains(&now_ms);
        self.troubles[at].iter().find(is_now).copied()
    }

    /// Whether a node is in no trouble between two moments.
    pub(super) fn is_fit(&self, at: usize, (from_ms, to_ms): (u64, u64)) -> bool {
        let is_apart = |trouble: &Trouble| trouble.to_ms < from_ms || trouble.from_ms > to_ms;
        self.troubles[at].iter().all(is_apart)
    }

    /// Whether the process of a node went on between two moments after it had stood still.
    pub(super) fn went_on(&self, at: usize, (from_ms, to_ms): (u64, u64)) -> bool {
        let stood_still = |trouble: &&Trouble| trouble.kind == Kind::Still;
        let mut ends = self.troubles[at].iter().filter(stood_still).map(|trouble| trouble.to_ms);
        ends.any(|end_ms| (from_ms..=to_ms).contains(&end_ms))
    }

    fn is_cut(&self, at: usize, now_ms: u64) -> bool {
        self.trouble(at, now_ms).is_some_and(|trouble| trouble.kind == Kind::Cut)
    }

    pub(super) fn delay_ms(&self, a: usize, b: usize) -> u64 {
        self.delays_ms[a.max(b)][a.min(b)]
    }

    /// When a message between two nodes arrives, unless one is cut off. What the link loses is sent
    /// again, each time later, until whoever waits for an answer says it anew.
    pub(super) fn travel(
        &self,
        random: &mut Random,
        (from, to): (usize, usize),
        now_ms: u64,
    ) -> Option<u64> {
        let mut at_ms = now_ms + self.delay_ms(from, to) + random.below(20);
        let mut again_ms = 250;
        while random.per_mille(self.loss_per_mille[from.max(to)][from.min(to)]) {
            at_ms += again_ms;
            again_ms = (again_ms * 2).min(SAID_AGAIN_MS);
        }
        let is_cut = self.is_cut(from, now_ms) || self.is_cut(to, at_ms);
        (!is_cut).then_some(at_ms)
    }

    /// Whether a node has the symbol at a place on its disk.
    pub(super) fn holds(&self, at: usize, place: &Place) -> bool {
        let symbol = (place.blob, place.pair.get(), place.axis, place.symbol.get());
        match self.natures[at] {
            Nature::Dropped(per_mille) => !self.lacks(at, symbol, per_mille),
            Nature::Empty | Nature::Fetches(_) => false,
            _ => true,
        }
    }

    fn lacks(&self, at: usize, symbol: (BlobId, u16, Axis, u16), per_mille: u64) -> bool {
        word(format!("{} {at} {symbol:?}", self.seed).as_bytes()) % 1_000 < per_mille
    }

    /// The probability that a draw hits something that a node lacks, exactly.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    pub(super) fn lacking(&self, at: usize) -> f64 {
        let Nature::Dropped(per_mille) = self.natures[at] else { return 0.0 };
        let (universe, mut lacking) = (&NETWORK.universe, 0.0);
        let config = universe.committee.config();
        for (blob, encoded) in &NETWORK.blobs {
            let units = floe_protocol::ledger::billed_units(encoded.header()).unwrap();
            for shard in &universe.shards[at] {
                let pair = blob.pair_of(*shard, config.n_shards()).get();
                let lacks = |axis: Axis| {
                    let symbols = u16::try_from(axis.symbols(config)).unwrap();
                    let lacks =
                        |symbol: &u16| self.lacks(at, (*blob, pair, axis, *symbol), per_mille);
                    (0..symbols).filter(lacks).count()
                };
                let symbols = lacks(Axis::Primary) + lacks(Axis::Secondary);
                let all = (config.k1() + config.k2()) * universe.shards[at].len();
                lacking +=
                    symbols as f64 / all as f64 * units as f64 / universe.units.total() as f64;
            }
        }
        lacking
    }
}

/// Up to f shards of those that are not fair, and up to two of the others that do not hold what they
/// should.
fn natures(seed: u64, random: &mut Random) -> [Nature; NODES] {
    let committee = &NETWORK.universe.committee;
    let mut natures = [Nature::Honest; NODES];
    let mut weight = 0;
    // In half of the epochs they are all of one kind.
    let same = seed.is_multiple_of(2).then_some(seed / 2 % 6);
    for _ in 0..random.below(8) {
        let at = random.node();
        let more = committee.members()[at].weight();
        if natures[at] == Nature::Honest && weight + more <= committee.config().max_faulty() {
            weight += more;
            natures[at] = match same.unwrap_or_else(|| random.below(6)) {
                0 => Nature::Hangs,
                1 => Nature::Liar,
                2 => Nature::Refuses,
                3 => Nature::Stopped,
                4 => Nature::Doubles,
                _ => Nature::Empty,
            };
        }
    }
    for _ in 0..random.below(3) {
        let at = random.node();
        if natures[at] == Nature::Honest {
            natures[at] = match random.below(5) {
                0 | 1 => Nature::Dropped(30),
                2 => Nature::Dropped(300),
                3 => Nature::Fetches(30),
                _ => Nature::Fetches(100),
            };
        }
    }
    natures
}

/// Up to so many times of trouble, one after the other.
fn troubles(random: &mut Random, most: u64) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut from_ms = 0;
    for _ in 0..random.below(most + 1) {
        from_ms += random.below(EPOCH_MS / 2);
        let long_ms = 1_000 + random.below(20_000);
        let (kind, took_ms) = match random.below(4) {
            0 => (Kind::Cut, long_ms),
            1 => (Kind::Still, 3_000),
            2 => (Kind::Synced, long_ms),
            _ => (Kind::Behind(500 + random.below(3_500)), long_ms),
        };
        troubles.push(Trouble { from_ms, to_ms: from_ms + took_ms, kind });
        from_ms += took_ms + 1_000;
    }
    troubles
}

/// A number for each two nodes.
fn links(random: &mut Random, mut number: impl FnMut(&mut Random) -> u64) -> Links {
    std::array::from_fn(|_| std::array::from_fn(|_| number(random)))
}
