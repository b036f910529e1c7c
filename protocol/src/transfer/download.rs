//! Reading: the rows of a blob in order, from the first `k1` primary slivers where they can be had
//! in time, decoded from any `k1` where not.
//!
//! Every wanted row is asked of its holder. A request is *late* after a multiple of the observed
//! median; a member with a late request, or one that failed or lied, is no longer counted on: its
//! rows are hedged with parity rows of other members, fastest first, and nothing is asked of it
//! any more unless nobody else is left. Late answers are still welcome. As soon as `k1` rows are
//! there, whatever is missing is decoded.
//!
//! The driver verifies each sliver against its pair proof before it reports it as received, and
//! decoded rows against the digest table before it emits them.

use std::{collections::BTreeMap, ops::Range};

use crate::{blob::BlobId, committee::Committee, index::SliverPairIndex};

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
    /// Failures in a row after which a member is given up.
    pub attempts_max: u32,
    /// Wait before a member that failed is asked again.
    pub retry_delay_ms: u64,
    /// `Busy` answers in a row after which a member is given up.
    pub busy_max: u32,
    /// The longest wait that a busy member is granted.
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
    /// The member has too much to do.
    #[error("busy")]
    Busy {
        /// When it wants to be asked again.
        retry_after_ms: u32,
    },
    /// The member does not have it.
    #[error("sliver not there")]
    NotFound,
    /// What came does not verify: the member lies or its disk does.
    #[error("wrong sliver")]
    Wrong,
}

/// What happened. Members are given by their position in the committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadInput {
    /// A primary sliver came and has been verified.
    Received {
        /// The pair that it belongs to; its index is the row.
        pair: SliverPairIndex,
    },
    /// A request came to nothing.
    Failed {
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
    /// Ask the member for the primary sliver of the pair.
    Ask {
        /// Whom.
        member: usize,
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
    /// Members that failed, with the last reason of each.
    pub faults: BTreeMap<usize, SliverFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// Not asked, or to be asked again.
    Idle,
    /// Asked at this time.
    Asked { at_ms: u64, late: bool },
    /// Here.
    Received,
    /// Never to be had.
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct RowState {
    member: usize,
    row: Row,
}

#[derive(Clone, Debug, Default)]
struct MemberState {
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
    members: Vec<MemberState>,
    faults: BTreeMap<usize, SliverFault>,
    answer_times_ms: Vec<u64>,
    now_ms: u64,
    next_row: usize,
    decoding: bool,
    ended: bool,
}

impl Download {
    /// A download of the rows `wanted` (below `k1`) of `blob`. Ask with [`DownloadInput::Tick`]
    /// for the first outputs.
    #[must_use]
    pub fn new(
        config: DownloadConfig,
        committee: &Committee,
        blob: &BlobId,
        wanted: Range<usize>,
    ) -> Self {
        let n_shards = committee.n_shards();
        let rows = (0..n_shards)
            .map(|row| {
                let shard = blob.shard_of(SliverPairIndex::new(row), n_shards);
                RowState { member: committee.holder(shard), row: Row::Idle }
            })
            .collect();
        Self {
            config,
            k1: committee.config().k1(),
            next_row: wanted.start,
            wanted,
            rows,
            members: vec![MemberState::default(); committee.members().len()],
            faults: BTreeMap::new(),
            answer_times_ms: Vec::new(),
            now_ms: 0,
            decoding: false,
            ended: false,
        }
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, now_ms: u64, input: DownloadInput) -> Vec<DownloadOutput> {
        let mut outputs = Vec::new();
        self.now_ms = now_ms;
        if self.ended {
            return outputs;
        }
        match input {
            DownloadInput::Received { pair } => self.on_received(now_ms, pair.as_usize()),
            DownloadInput::Failed { pair, fault } => {
                self.on_failed(now_ms, pair.as_usize(), fault);
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
        self.rows
            .iter()
            .filter_map(|state| match state.row {
                Row::Asked { at_ms, late: false } => Some(at_ms + late_after_ms),
                Row::Asked { at_ms, late: true } => Some(at_ms + self.config.give_up_ms),
                Row::Idle => Some(self.members[state.member].not_before_ms),
                Row::Received | Row::GivenUp => None,
            })
            .filter(|at_ms| *at_ms > self.now_ms)
            .min()
    }

    /// Members that failed, with the last reason of each.
    #[must_use]
    pub const fn faults(&self) -> &BTreeMap<usize, SliverFault> {
        &self.faults
    }

    fn received(&self) -> usize {
        self.rows.iter().filter(|state| state.row == Row::Received).count()
    }

    fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        self.wanted.clone().filter(|row| self.rows[*row].row != Row::Received)
    }

    fn on_received(&mut self, now_ms: u64, row: usize) {
        let state = self.rows[row];
        let member = &mut self.members[state.member];
        if let Row::Asked { at_ms, .. } = state.row {
            let answer_ms = now_ms.saturating_sub(at_ms);
            member.in_flight -= 1;
            member.answered_ms += answer_ms;
            member.answers += 1;
            let position = self.answer_times_ms.partition_point(|ms| *ms <= answer_ms);
            self.answer_times_ms.insert(position, answer_ms);
        }
        if !member.given_up {
            member.unreliable = false;
            member.failures_in_a_row = 0;
            member.busy_in_a_row = 0;
        }
        self.rows[row].row = Row::Received;
    }

    fn on_failed(&mut self, now_ms: u64, row: usize, fault: SliverFault) {
        let state = &mut self.rows[row];
        let member = &mut self.members[state.member];
        if !matches!(state.row, Row::Asked { .. }) {
            return;
        }
        member.in_flight -= 1;
        self.faults.insert(state.member, fault);
        state.row = Row::Idle;
        match fault {
            SliverFault::NoAnswer => {
                member.unreliable = true;
                if now_ms < member.not_before_ms {
                    // One outage fails everything in flight at once and counts once.
                    return;
                }
                member.failures_in_a_row += 1;
                member.not_before_ms = now_ms + self.config.retry_delay_ms;
                if member.failures_in_a_row >= self.config.attempts_max {
                    self.give_up(self.rows[row].member);
                }
            }
            SliverFault::Busy { retry_after_ms } => {
                // An answer: it costs time and no attempt, though not for ever.
                member.unreliable = true;
                member.busy_in_a_row += 1;
                let wait_ms = u64::from(retry_after_ms).max(self.config.retry_delay_ms);
                let wait_ms = wait_ms.min(self.config.busy_delay_max_ms);
                member.not_before_ms = member.not_before_ms.max(now_ms + wait_ms);
                if member.busy_in_a_row >= self.config.busy_max {
                    self.give_up(self.rows[row].member);
                }
            }
            SliverFault::NotFound => {
                // It may lack others too: ask the rest first.
                member.unreliable = true;
                state.row = Row::GivenUp;
            }
            SliverFault::Wrong => self.give_up(self.rows[row].member),
        }
    }

    /// Expects nothing of the member any more.
    fn give_up(&mut self, member: usize) {
        for state in self.rows.iter_mut().filter(|state| state.member == member) {
            match state.row {
                Row::Asked { .. } | Row::Idle => state.row = Row::GivenUp,
                Row::Received | Row::GivenUp => {}
            }
        }
        self.members[member].given_up = true;
        self.members[member].unreliable = true;
        self.members[member].in_flight = 0;
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
            let Row::Asked { at_ms, late } = self.rows[row].row else {
                continue;
            };
            if now_ms >= at_ms + self.config.give_up_ms {
                self.on_failed(now_ms, row, SliverFault::NoAnswer);
            } else if !late && now_ms >= at_ms + late_after_ms {
                self.rows[row].row = Row::Asked { at_ms, late: true };
                self.members[self.rows[row].member].unreliable = true;
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
        matches!(self.rows[row].row, Row::Asked { late: false, .. })
            && !self.members[self.rows[row].member].unreliable
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
            let Some(row) = self.next_ask(now_ms, expected) else {
                return;
            };
            let state = &mut self.rows[row];
            state.row = Row::Asked { at_ms: now_ms, late: false };
            self.members[state.member].in_flight += 1;
            let pair = SliverPairIndex::new(u16::try_from(row).expect("below n_shards"));
            outputs.push(DownloadOutput::Ask { member: state.member, pair });
        }
    }

    /// The best row to ask for now: a wanted one in order while all goes well, any other when
    /// wanted ones are not to be expected and must be decoded.
    fn next_ask(&self, now_ms: u64, expected: usize) -> Option<usize> {
        let askable = |row: &usize| {
            let state = &self.rows[*row];
            state.row == Row::Idle && now_ms >= self.members[state.member].not_before_ms
        };
        let reliable = |row: &usize| !self.members[self.rows[*row].member].unreliable;
        let wanted = self.wanted.clone().filter(askable).find(reliable);
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
        let cost = |row: &usize| {
            let member = &self.members[self.rows[*row].member];
            let mean_ms = member.answered_ms.checked_div(member.answers).unwrap_or(0);
            let unknown = member.answers == 0;
            (member.unreliable, unknown, member.in_flight, mean_ms, *row)
        };
        // An unreliable member is asked one thing at a time, and only when nobody else is left.
        let free = |row: &usize| {
            let member = &self.members[self.rows[*row].member];
            !member.unreliable || member.in_flight == 0
        };
        (0..self.rows.len()).filter(askable).filter(free).min_by_key(cost)
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
