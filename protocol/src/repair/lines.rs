//! What a recovery asks for along one axis: so many slivers, or symbols of so many slivers, of the
//! blob's pairs, whichever they are.

use bytes::Bytes;

use super::{RecoveryMethod, peers::Peers};
use crate::{
    blob::{BlobHeader, PairProof},
    encoding::{Axis, BlobLayout, ProvenSymbol},
    hash::HASH_BYTES,
    index::{SliverPairIndex, SymbolIndex},
    transfer::SliverFault,
};

/// A verified answer.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Symbols(Vec<ProvenSymbol>),
    Sliver(PairProof, Bytes),
}

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) peer: usize,
    pub(super) at_ms: u64,
    pub(super) late: bool,
}

#[derive(Clone, Debug)]
enum State {
    /// Not asked, or to be asked again.
    Idle,
    Asked(Asked),
    Held(Answer),
}

#[derive(Clone, Debug)]
struct Line {
    state: State,
    /// Nodes that do not have it.
    gone: Vec<usize>,
}

/// The slivers of one axis, by pair.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    axis: Axis,
    /// Symbols asked of each; none where the sliver itself is asked for.
    targets: Vec<SymbolIndex>,
    needed: usize,
    /// The pair that is asked for first: load spreads over all helpers.
    start: usize,
    lines: Vec<Line>,
}

impl Lines {
    /// What is needed for `pairs` of the blob.
    pub(super) fn groups(
        layout: &BlobLayout,
        header: &BlobHeader,
        method: RecoveryMethod,
        pairs: &[SliverPairIndex],
    ) -> Vec<Self> {
        let config = layout.config();
        let n_shards = config.n_shards();
        // Another start for each blob and pair: all but one byte of the sum cancel modulo n.
        let blob = header.root.as_bytes()[..HASH_BYTES / 2]
            .iter()
            .fold(0_usize, |sum, byte| (sum * 256 + usize::from(*byte)) % config.n());
        let start = blob + pairs.first().map_or(0, |pair| pair.as_usize() + 1);
        let lines = |axis: Axis, needed: usize, start: usize, targets: Vec<SymbolIndex>| {
            let line = Line { state: State::Idle, gone: Vec::new() };
            let lines = vec![line; config.n()];
            Self { axis, targets, needed, start: start % config.n(), lines }
        };
        match method {
            RecoveryMethod::Symbols => [Axis::Secondary, Axis::Primary]
                .map(|axis| {
                    // Slivers of one axis have the symbols of lines of the other.
                    let target = |pair: &SliverPairIndex| {
                        SymbolIndex::new(axis.other().line(*pair, n_shards).get())
                    };
                    let mut targets: Vec<_> = pairs.iter().map(target).collect();
                    targets.sort_unstable();
                    let skip = if axis == Axis::Primary { config.k2() } else { 0 };
                    lines(axis, axis.other().symbols(config), start + skip, targets)
                })
                .into(),
            RecoveryMethod::WholeBlob => {
                vec![lines(Axis::Primary, config.k1(), start, Vec::new())]
            }
        }
    }

    pub(super) const fn axis(&self) -> Axis {
        self.axis
    }

    pub(super) const fn needed(&self) -> usize {
        self.needed
    }

    /// Whether whole slivers are asked for.
    pub(super) const fn is_whole(&self) -> bool {
        self.targets.is_empty()
    }

    pub(super) fn targets(&self) -> &[SymbolIndex] {
        &self.targets
    }

    fn held(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line.state, State::Held(_))).count()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.held() >= self.needed
    }

    /// Requests on their way.
    pub(super) fn asked(&self) -> impl Iterator<Item = Asked> + '_ {
        self.lines.iter().filter_map(|line| match line.state {
            State::Asked(asked) => Some(asked),
            State::Idle | State::Held(_) => None,
        })
    }

    /// Pairs that are to be asked for, and who does not have them.
    pub(super) fn idle(&self) -> impl Iterator<Item = (usize, &[usize])> + '_ {
        let idle = |line: &&Line| matches!(line.state, State::Idle);
        let lines = self.lines.iter().enumerate();
        lines.filter(move |(_, line)| idle(line)).map(|(pair, line)| (pair, &line.gone[..]))
    }

    /// Requests on their way that can be counted on.
    pub(super) fn expected(&self, peers: &Peers) -> usize {
        self.asked().filter(|asked| !asked.late && peers.is_reliable(asked.peer)).count()
    }

    /// Answers that are here or might come.
    pub(super) fn possible(&self, peers: &Peers) -> usize {
        let idle = self.idle().filter(|(pair, gone)| peers.is_possible(*pair, gone)).count();
        self.held() + self.asked().count() + idle
    }

    /// The best pair to ask for next, and whom: none while enough is expected, or so much on its
    /// way that more would break the bound of memory.
    pub(super) fn next_ask(
        &self,
        peers: &Peers,
        now_ms: u64,
        spares_max: usize,
    ) -> Option<(SliverPairIndex, usize)> {
        let held = self.held();
        let enough = held + self.expected(peers) >= self.needed;
        if enough || held + self.asked().count() >= self.needed + spares_max {
            return None;
        }
        let n = self.lines.len();
        let choice = |(pair, gone): (usize, &[usize])| {
            let (cost, peer) = peers.choose(pair, gone, now_ms)?;
            Some((cost, (pair + n - self.start) % n, pair, peer))
        };
        let (_, _, pair, peer) = self.idle().filter_map(choice).min()?;
        Some((SliverPairIndex::new(u16::try_from(pair).expect("below n_shards")), peer))
    }

    pub(super) fn ask(&mut self, pair: SliverPairIndex, peer: usize, at_ms: u64) {
        self.lines[pair.as_usize()].state = State::Asked(Asked { peer, at_ms, late: false });
    }

    /// Whether an answer for this place is one of what is asked for here.
    pub(super) fn takes(&self, (pair, axis): (SliverPairIndex, Axis), answer: &Answer) -> bool {
        let whole = matches!(answer, Answer::Sliver(..));
        axis == self.axis && whole == self.is_whole() && pair.as_usize() < self.lines.len()
    }

    /// Takes an answer, unless there are enough. When it was asked for, if it was still waited for;
    /// and who else had been asked meanwhile and is waited for no more.
    pub(super) fn answered(
        &mut self,
        pair: SliverPairIndex,
        peer: usize,
        answer: Answer,
    ) -> (Option<u64>, Option<usize>) {
        let complete = self.is_complete();
        let line = &mut self.lines[pair.as_usize()];
        let at_ms = match line.state {
            State::Asked(asked) if asked.peer == peer => Some(asked.at_ms),
            State::Asked(_) | State::Idle | State::Held(_) => None,
        };
        let other = match line.state {
            State::Asked(asked) if asked.peer != peer && !complete => Some(asked.peer),
            State::Asked(_) | State::Idle | State::Held(_) => None,
        };
        match line.state {
            State::Idle | State::Asked(_) if !complete => line.state = State::Held(answer),
            State::Asked(_) if at_ms.is_some() => line.state = State::Idle,
            State::Idle | State::Asked(_) | State::Held(_) => {}
        }
        (at_ms, other)
    }

    /// A request came to nothing. Whether it was waited for.
    pub(super) fn failed(
        &mut self,
        pair: SliverPairIndex,
        peer: usize,
        fault: SliverFault,
    ) -> bool {
        let Some(line) = self.lines.get_mut(pair.as_usize()) else {
            return false;
        };
        let waited = matches!(line.state, State::Asked(asked) if asked.peer == peer);
        if waited {
            line.state = State::Idle;
            if fault == SliverFault::NotFound {
                line.gone.push(peer);
            }
        }
        waited
    }

    /// Marks requests that are late; who keeps them waiting.
    pub(super) fn mark_late(&mut self, now_ms: u64, late_after_ms: u64) -> Vec<usize> {
        let mut peers = Vec::new();
        for line in &mut self.lines {
            if let State::Asked(asked) = &mut line.state
                && !asked.late
                && now_ms >= asked.at_ms + late_after_ms
            {
                asked.late = true;
                peers.push(asked.peer);
            }
        }
        peers
    }

    /// Ends requests that are waited for no longer; who did not answer, once for each.
    pub(super) fn take_overdue(&mut self, now_ms: u64, give_up_ms: u64) -> Vec<usize> {
        let mut peers = Vec::new();
        for line in &mut self.lines {
            if let State::Asked(asked) = line.state
                && now_ms >= asked.at_ms + give_up_ms
            {
                line.state = State::Idle;
                peers.push(asked.peer);
            }
        }
        peers
    }

    /// Ends all requests to a node.
    pub(super) fn forget(&mut self, peer: usize) {
        for line in &mut self.lines {
            if matches!(line.state, State::Asked(asked) if asked.peer == peer) {
                line.state = State::Idle;
            }
        }
    }

    /// The answers, taken out.
    pub(super) fn take_answers(&mut self) -> Vec<Answer> {
        let answers = self.lines.drain(..).filter_map(|line| match line.state {
            State::Held(answer) => Some(answer),
            State::Idle | State::Asked(_) => None,
        });
        answers.collect()
    }
}
