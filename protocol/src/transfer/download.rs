//! Reading: the rows of a blob in order, from the first `k1` primary slivers where they can be had
//! in time, decoded from any `k1` where not.
//!
//! Every wanted row is asked of its first holder, and of its next one, while another one keeps its
//! shard, too, as soon as that one fails or does not have it. A request is *late* after a multiple of the observed
//! median; a node with a late request, or one that failed or lied, is no longer counted on: its
//! rows are hedged with parity rows of other nodes, fastest first, and nothing is asked of it any
//! more unless nobody else is left. Late answers are still welcome. As soon as `k1` rows are there,
//! whatever is missing is decoded.
//!
//! The driver verifies each sliver against its pair proof before it reports it as received, and
//! decoded rows against the digest table before it emits them.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    blob::BlobId,
    encoding::EncodingConfig,
    holders::Holders,
    index::{Epoch, SliverPairIndex},
    keys::NodeId,
};

/// The limits of a download.
#[derive(Clone, Copy, Debug)]
pub struct DownloadConfig {
    /// Requests on their way that are not late.
    pub in_flight_max: usize,
    /// A request is late after this many times the median, in percent.
    pub late_after_median_percent: u64,
    /// A request is never late before this.
    pub late_min_ms: u64,
    /// A request is late after this while nothing has been observed.
    pub late_unknown_ms: u64,
    /// Failures in a row after which a node is given up.
    pub attempts_max: u32,
    /// Wait before a node that failed is asked again.
    pub retry_delay_ms: u64,
    /// `Busy` answers in a row after which a node is given up.
    pub busy_max: u32,
    /// The longest wait that a busy node is granted.
    pub busy_delay_max_ms: u64,
    /// Unanswered requests count as failed after this.
    pub give_up_ms: u64,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 8,
            late_after_median_percent: 300,
            late_min_ms: 200,
            late_unknown_ms: 1_000,
            attempts_max: 3,
            retry_delay_ms: 250,
            busy_max: 20,
            busy_delay_max_ms: 3_000,
            give_up_ms: 60_000,
        }
    }
}

/// Why a sliver did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliverFault {
    /// No connection or no answer.
    #[error("no answer")]
    NoAnswer,
    /// The node has too much to do.
    #[error("busy")]
    Busy {
        /// When it wants to be asked again.
        retry_after_ms: u32,
    },
    /// The node does not have it.
    #[error("sliver not there")]
    NotFound,
    /// What came does not verify: the node lies or its disk does.
    #[error("wrong sliver")]
    Wrong,
}

/// Whom to ask for each row of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    k1: usize,
    /// By row, whom to ask first first.
    rows: Vec<Vec<NodeId>>,
}

impl Sources {
    /// The holders of a blob that was first certified in `first_epoch`.
    #[must_use]
    pub fn new(holders: &Holders, blob: &BlobId, first_epoch: Epoch) -> Self {
        let config: EncodingConfig = holders.committee().config();
        let n_shards = config.n_shards();
        let of = |row| {
            let shard = blob.shard_of(SliverPairIndex::new(row), n_shards);
            holders.of(shard, first_epoch).collect()
        };
        Self { k1: config.k1(), rows: (0..n_shards).map(of).collect() }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadInput {
    /// A primary sliver came and has been verified.
    Received {
        /// From whom.
        node: NodeId,
        /// The pair that it belongs to; its index is the row.
        pair: SliverPairIndex,
    },
    /// A request came to nothing.
    Failed {
        /// Whose.
        node: NodeId,
        /// The pair.
        pair: SliverPairIndex,
        /// Why.
        fault: SliverFault,
    },
    /// The missing rows have been decoded and verified.
    Decoded,
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownloadOutput {
    /// Ask the node for the primary sliver of the pair.
    Ask {
        /// Whom.
        node: NodeId,
        /// What.
        pair: SliverPairIndex,
    },
    /// These wanted rows are next: hand them out, in this order.
    Emit(Range<usize>),
    /// Decode these wanted rows from the rows received, then report [`DownloadInput::Decoded`].
    Decode(Vec<usize>),
    /// All wanted rows have been handed out.
    Done,
    /// Too few rows can be had.
    Failed(DownloadFailure),
}

/// Why a blob, or a range of it, could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadFailure {
    /// Rows received.
    pub rows: usize,
    /// Rows needed.
    pub rows_needed: usize,
    /// Nodes that failed, with the last reason of each.
    pub faults: BTreeMap<NodeId, SliverFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// Not asked, or to be asked again.
    Idle,
    /// Asked of this node at this time.
    Asked { of: usize, at_ms: u64, late: bool },
    /// Here.
    Received,
    /// Never to be had.
    GivenUp,
}

#[derive(Clone, Debug)]
struct RowState {
    /// Who may still have it, whom to ask first first. Positions among the nodes.
    holders: Vec<usize>,
    row: Row,
}

#[derive(Clone, Debug, Default)]
struct NodeState {
    /// Its last request came late or failed.
    unreliable: bool,
    /// It sent a wrong sliver, or failed too often in a row: never asked again.
    given_up: bool,
    failures_in_a_row: u32,
    busy_in_a_row: u32,
    not_before_ms: u64,
    /// Sum and number of its answer times.
    answered_ms: u64,
    answers: u64,
    in_flight: usize,
}

/// The progress of one download.
#[derive(Clone, Debug)]
pub struct Download {
    config: DownloadConfig,
    k1: usize,
    wanted: Range<usize>,
    rows: Vec<RowState>,
    nodes: Vec<NodeState>,
    /// Their names, in the order in which they are first met.
    names: Vec<NodeId>,
    faults: BTreeMap<NodeId, SliverFault>,
    answer_times_ms: Vec<u64>,
    now_ms: u64,
    next_row: usize,
    decoding: bool,
    ended: bool,
}

impl Download {
    /// A download of the rows `wanted` (below `k1`). Ask with [`DownloadInput::Tick`] for the
    /// first outputs.
    #[must_use]
    pub fn new(config: DownloadConfig, sources: &Sources, wanted: Range<usize>) -> Self {
        let idle = || RowState { holders: Vec::new(), row: Row::Idle };
        let mut download = Self {
            config,
            k1: sources.k1,
            next_row: wanted.start,
            wanted,
            rows: sources.rows.iter().map(|_| idle()).collect(),
            nodes: Vec::new(),
            names: Vec::new(),
            faults: BTreeMap::new(),
            answer_times_ms: Vec::new(),
            now_ms: 0,
            decoding: false,
            ended: false,
        };
        for (row, holders) in sources.rows.iter().enumerate() {
            download.rows[row].holders =
                holders.iter().map(|node| download.position(node)).collect();
        }
        download
    }

    /// Goes on after [`DownloadOutput::Failed`] with other sources, if they name a node that can
    /// still be asked for a row that is missing; whether they do. What has been received stays.
    pub fn resume(&mut self, sources: &Sources) -> bool {
        let mut news = false;
        for (row, holders) in sources.rows.iter().enumerate().take(self.rows.len()) {
            for node in holders {
                let node = self.position(node);
                let state = &self.rows[row];
                if state.row == Row::GivenUp && !self.nodes[node].given_up {
                    self.rows[row] = RowState { holders: vec![node], row: Row::Idle };
                    news = true;
                } else if state.row == Row::Idle && !state.holders.contains(&node) {
                    self.rows[row].holders.push(node);
                    news = true;
                }
            }
        }
        if news {
            self.ended = false;
        }
        news
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, now_ms: u64, input: DownloadInput) -> Vec<DownloadOutput> {
        let mut outputs = Vec::new();
        self.now_ms = now_ms;
        if self.ended {
            return outputs;
        }
        match input {
            DownloadInput::Received { node, pair } => {
                let node = self.position(&node);
                self.on_received(now_ms, node, pair.as_usize());
            }
            DownloadInput::Failed { node, pair, fault } => {
                let node = self.position(&node);
                self.on_failed(now_ms, node, pair.as_usize(), fault);
            }
            DownloadInput::Decoded => {
                for row in self.wanted.clone() {
                    self.rows[row].row = Row::Received;
                }
            }
            DownloadInput::Tick => {}
        }
        self.mark_late(now_ms);
        self.emit(&mut outputs);
        if self.ended || self.decoding {
            return outputs;
        }
        if self.received() >= self.k1 {
            self.decoding = true;
            outputs.push(DownloadOutput::Decode(self.missing().collect()));
            return outputs;
        }
        self.ask(now_ms, &mut outputs);
        self.check_end(&mut outputs);
        outputs
    }

    /// When to come back with a [`DownloadInput::Tick`] if nothing else happens before.
    #[must_use]
    pub fn wake_at_ms(&self) -> Option<u64> {
        if self.ended || self.decoding {
            return None;
        }
        let late_after_ms = self.late_after_ms();
        let asked = self.rows.iter().filter_map(|state| match state.row {
            Row::Asked { at_ms, late: false, .. } => Some(at_ms + late_after_ms),
            Row::Asked { at_ms, late: true, .. } => Some(at_ms + self.config.give_up_ms),
            Row::Idle | Row::Received | Row::GivenUp => None,
        });
        let idle = self.rows.iter().filter(|state| state.row == Row::Idle);
        let idle =
            idle.flat_map(|state| &state.holders).map(|node| self.nodes[*node].not_before_ms);
        asked.chain(idle).filter(|at_ms| *at_ms > self.now_ms).min()
    }

    /// Nodes that failed, with the last reason of each.
    #[must_use]
    pub const fn faults(&self) -> &BTreeMap<NodeId, SliverFault> {
        &self.faults
    }

    /// The position of a node, which is given one if it has none. Its callers name the holder and
    /// a few keepers per row.
    fn position(&mut self, node: &NodeId) -> usize {
        if let Some(position) = self.names.iter().position(|name| name == node) {
            return position;
        }
        self.names.push(*node);
        self.nodes.push(NodeState::default());
        self.names.len() - 1
    }

    fn received(&self) -> usize {
        self.rows.iter().filter(|state| state.row == Row::Received).count()
    }

    fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted.clone().filter(|row| self.rows[*row].row != Row::Received)
    }

    fn on_received(&mut self, now_ms: u64, from: usize, row: usize) {
        let node = &mut self.nodes[from];
        match self.rows[row].row {
            Row::Asked { of, at_ms, .. } if of == from => {
                let answer_ms = now_ms.saturating_sub(at_ms);
                node.in_flight = node.in_flight.saturating_sub(1);
                node.answered_ms += answer_ms;
                node.answers += 1;
                let position = self.answer_times_ms.partition_point(|ms| *ms <= answer_ms);
                self.answer_times_ms.insert(position, answer_ms);
            }
            // The one before was late: the other's answer is of no use any more.
            Row::Asked { of, .. } => {
                self.nodes[of].in_flight = self.nodes[of].in_flight.saturating_sub(1);
            }
            Row::Idle | Row::Received | Row::GivenUp => {}
        }
        let node = &mut self.nodes[from];
        if !node.given_up {
            node.unreliable = false;
            node.failures_in_a_row = 0;
            node.busy_in_a_row = 0;
        }
        self.rows[row].row = Row::Received;
    }

    fn on_failed(&mut self, now_ms: u64, from: usize, row: usize, fault: SliverFault) {
        if !matches!(self.rows[row].row, Row::Asked { of, .. } if of == from) {
            return;
        }
        let node = &mut self.nodes[from];
        node.in_flight = node.in_flight.saturating_sub(1);
        self.faults.insert(self.names[from], fault);
        self.rows[row].row = Row::Idle;
        match fault {
            SliverFault::NoAnswer => {
                node.unreliable = true;
                if now_ms < node.not_before_ms {
                    // One outage fails everything in flight at once and counts once.
                    return;
                }
                node.failures_in_a_row += 1;
                node.not_before_ms = now_ms + self.config.retry_delay_ms;
                if node.failures_in_a_row >= self.config.attempts_max {
                    self.give_up(from);
                }
            }
            SliverFault::Busy { retry_after_ms } => {
                // An answer: it costs time and no attempt, though not for ever.
                node.unreliable = true;
                node.busy_in_a_row += 1;
                let wait_ms = u64::from(retry_after_ms).max(self.config.retry_delay_ms);
                let wait_ms = wait_ms.min(self.config.busy_delay_max_ms);
                node.not_before_ms = node.not_before_ms.max(now_ms + wait_ms);
                if node.busy_in_a_row >= self.config.busy_max {
                    self.give_up(from);
                }
            }
            SliverFault::NotFound => {
                // It may lack others too: ask the rest first.
                node.unreliable = true;
                self.strike(from, row);
            }
            SliverFault::Wrong => self.give_up(from),
        }
    }

    /// Expects nothing of the node any more.
    fn give_up(&mut self, node: usize) {
        for row in 0..self.rows.len() {
            self.strike(node, row);
        }
        self.nodes[node].given_up = true;
        self.nodes[node].unreliable = true;
        self.nodes[node].in_flight = 0;
    }

    /// The node is asked for the row no more; with the last of its holders it is given up.
    fn strike(&mut self, node: usize, row: usize) {
        let state = &mut self.rows[row];
        state.holders.retain(|holder| *holder != node);
        match state.row {
            Row::Asked { of, .. } if of != node => {}
            Row::Asked { .. } | Row::Idle if state.holders.is_empty() => state.row = Row::GivenUp,
            Row::Asked { .. } => state.row = Row::Idle,
            Row::Idle | Row::Received | Row::GivenUp => {}
        }
    }

    /// The time after which a request is late: a multiple of the observed median.
    fn late_after_ms(&self) -> u64 {
        let Some(median_ms) = self.answer_times_ms.get(self.answer_times_ms.len() / 2) else {
            return self.config.late_unknown_ms;
        };
        let late_ms = median_ms * self.config.late_after_median_percent / 100;
        late_ms.max(self.config.late_min_ms)
    }

    fn mark_late(&mut self, now_ms: u64) {
        let late_after_ms = self.late_after_ms();
        for row in 0..self.rows.len() {
            let Row::Asked { of, at_ms, late } = self.rows[row].row else {
                continue;
            };
            if now_ms >= at_ms + self.config.give_up_ms {
                self.on_failed(now_ms, of, row, SliverFault::NoAnswer);
            } else if !late && now_ms >= at_ms + late_after_ms {
                self.rows[row].row = Row::Asked { of, at_ms, late: true };
                self.nodes[of].unreliable = true;
            }
        }
        for row in 0..self.rows.len() {
            let Row::Asked { of, .. } = self.rows[row].row else { continue };
            let reliable = |node: &usize| !self.nodes[*node].unreliable;
            if !reliable(&of) && self.rows[row].holders.iter().any(reliable) {
                // Another one may have it: whichever answer comes first counts.
                self.rows[row].row = Row::Idle;
                self.nodes[of].in_flight = self.nodes[of].in_flight.saturating_sub(1);
            }
        }
    }

    fn emit(&mut self, outputs: &mut Vec<DownloadOutput>) {
        let start = self.next_row;
        while self.wanted.contains(&self.next_row) && self.rows[self.next_row].row == Row::Received
        {
            self.next_row += 1;
        }
        if self.next_row > start {
            outputs.push(DownloadOutput::Emit(start..self.next_row));
        }
        if self.next_row >= self.wanted.end {
            self.ended = true;
            outputs.push(DownloadOutput::Done);
        }
    }

    /// Whether this row is on its way and can be counted on.
    fn is_expected(&self, row: usize) -> bool {
        matches!(self.rows[row].row, Row::Asked { of, late: false, .. }
            if !self.nodes[of].unreliable)
    }

    fn ask(&mut self, now_ms: u64, outputs: &mut Vec<DownloadOutput>) {
        loop {
            let expected = (0..self.rows.len()).filter(|row| self.is_expected(*row)).count();
            let asked = |row: &&RowState| matches!(row.row, Row::Asked { .. });
            let outstanding = self.rows.iter().filter(asked).count();
            // Late requests may still be under way: hedging at most doubles what is on the wire.
            if expected >= self.config.in_flight_max || outstanding >= 2 * self.config.in_flight_max
            {
                return;
            }
            let Some((row, of)) = self.next_ask(now_ms, expected) else {
                return;
            };
            self.rows[row].row = Row::Asked { of, at_ms: now_ms, late: false };
            self.nodes[of].in_flight += 1;
            let pair = SliverPairIndex::new(u16::try_from(row).expect("below n_shards"));
            outputs.push(DownloadOutput::Ask { node: self.names[of], pair });
        }
    }

    /// The best row to ask for next, and whom: a wanted one in order while all goes well, any other
    /// when wanted ones are not to be expected and must be decoded.
    fn next_ask(&self, now_ms: u64, expected: usize) -> Option<(usize, usize)> {
        let askable = |row: usize| {
            let state = &self.rows[row];
            let holders = (state.row == Row::Idle).then_some(&state.holders).into_iter().flatten();
            let ready = holders.filter(move |node| now_ms >= self.nodes[**node].not_before_ms);
            ready.map(move |node| (row, *node))
        };
        let reliable = |(_, node): &(usize, usize)| !self.nodes[*node].unreliable;
        let wanted = self.wanted.clone().flat_map(askable).find(reliable);
        if wanted.is_some() {
            return wanted;
        }
        // Every wanted row is here, on its way, or not to be expected.
        if self.missing().all(|row| self.is_expected(row)) {
            return None;
        }
        if self.received() + expected >= self.k1 {
            return None;
        }
        let cost = |(row, node): &(usize, usize)| {
            let node = &self.nodes[*node];
            let mean_ms = node.answered_ms.checked_div(node.answers).unwrap_or(0);
            let unknown = node.answers == 0;
            (node.unreliable, unknown, node.in_flight, mean_ms, *row)
        };
        // An unreliable node is asked one thing at a time, and only when nobody else is left.
        let free = |(_, node): &(usize, usize)| {
            let node = &self.nodes[*node];
            !node.unreliable || node.in_flight == 0
        };
        (0..self.rows.len()).flat_map(askable).filter(free).min_by_key(cost)
    }

    fn check_end(&mut self, outputs: &mut Vec<DownloadOutput>) {
        let given_up = |state: &&RowState| state.row == Row::GivenUp;
        let possible = self.rows.len() - self.rows.iter().filter(given_up).count();
        let wanted_possible = self.missing().all(|row| self.rows[row].row != Row::GivenUp);
        if possible < self.k1 && !wanted_possible {
            self.ended = true;
            outputs.push(DownloadOutput::Failed(DownloadFailure {
                rows: self.received(),
                rows_needed: self.k1,
                faults: self.faults.clone(),
            }));
        }
    }
}

#[cfg(test)]
mod tests;
