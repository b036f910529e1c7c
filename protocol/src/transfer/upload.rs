//! Uploading: table, pairs and confirmation, for every member at once, until a quorum confirmed.
//!
//! Each member goes through *table* (registers the blob there and says which pairs are missing),
//! *pairs* and *confirm*; a restarted member that lost its table is sent back to the first step.
//! At a quorum of confirmed shards the certificate can be made; the tail goes on for a bounded
//! time. A member that fails too often in a row is given up, and when those left cannot make a
//! quorum the upload has failed.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    blob::BlobId,
    committee::{Committee, QuorumTracker},
    index::SliverPairIndex,
    message::Refusal,
};

/// The limits of an upload.
#[derive(Clone, Copy, Debug)]
pub struct UploadConfig {
    /// Payload bytes on their way to all members together. At least one request is always sent.
    pub in_flight_bytes_max: usize,
    /// Sliver pairs on their way to one member.
    pub pairs_in_flight_per_member_max: usize,
    /// Failures in a row after which a member is given up.
    pub attempts_max: u32,
    /// Wait before the first repetition; doubles with each further failure.
    pub retry_delay_ms: u64,
    /// The longest wait before a repetition.
    pub retry_delay_max_ms: u64,
    /// A member that only ever answers `Busy` is given up after this.
    pub busy_max_ms: u64,
    /// A pair that is not answered for is late after this, and another while per MiB.
    pub late_ms: u64,
    /// How much later per MiB of the pair.
    pub late_per_mib_ms: u64,
    /// The tail goes on for half as long as the quorum took, but at least this long.
    pub tail_min_ms: u64,
    /// The tail goes on for at most this long.
    pub tail_max_ms: u64,
}

impl Default for UploadConfig {
    fn default() -> Self {
        Self {
            in_flight_bytes_max: 32 << 20,
            pairs_in_flight_per_member_max: 4,
            attempts_max: 6,
            retry_delay_ms: 200,
            retry_delay_max_ms: 3_000,
            busy_max_ms: 60_000,
            late_ms: 2_000,
            late_per_mib_ms: 1_000,
            tail_min_ms: 1_000,
            tail_max_ms: 10_000,
        }
    }
}

/// What to ask a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// Send registration, header and digest table.
    Table,
    /// Send this pair.
    Pair(SliverPairIndex),
    /// Ask for the confirmation.
    Confirm,
}

/// Why a member was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberFailure {
    /// It did not answer.
    #[error("no answer")]
    NoAnswer,
    /// It refused.
    #[error("{0}")]
    Refused(Refusal),
    /// It answered what it was not asked, or signed something else.
    #[error("wrong answer")]
    WrongAnswer,
    /// It confirms for another epoch than the one that runs.
    #[error("is in another epoch")]
    OtherEpoch,
    /// It said that it stored what it then does not confirm, time and again.
    #[error("keeps missing pairs that it had stored")]
    LosesPairs,
}

/// What happened. Members are given by their position in the committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadInput {
    /// The member keeps the proofs and misses these pairs.
    TableStored {
        /// Who.
        member: usize,
        /// What it misses.
        missing: Vec<SliverPairIndex>,
    },
    /// The member keeps the pair.
    Stored {
        /// Who.
        member: usize,
        /// What.
        pair: SliverPairIndex,
    },
    /// The member confirmed, and the driver has verified its signature.
    Confirmed {
        /// Who.
        member: usize,
    },
    /// The member does not confirm yet: it misses these pairs.
    Missing {
        /// Who.
        member: usize,
        /// What it misses.
        pairs: Vec<SliverPairIndex>,
    },
    /// An ask came to nothing.
    Failed {
        /// Who.
        member: usize,
        /// What was asked.
        ask: Ask,
        /// Why.
        failure: MemberFailure,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadOutput {
    /// Send this to the member.
    Ask {
        /// Whom.
        member: usize,
        /// What.
        ask: Ask,
    },
    /// A quorum has confirmed: make the certificate.
    Quorum,
    /// Nothing more will be asked; the quorum was reached before.
    Finished,
    /// No quorum can be reached any more.
    Failed(UploadFailure),
}

/// Why no quorum was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadFailure {
    /// Shards whose holders confirmed.
    pub confirmed_shards: u16,
    /// Members given up, with the last reason of each.
    pub failures: Vec<(usize, MemberFailure)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Table,
    Pairs,
    Confirm,
    Confirmed,
    GivenUp(MemberFailure),
}

/// An ask on its way.
#[derive(Clone, Copy, Debug)]
struct OnItsWay {
    asked_ms: u64,
    /// Whether it takes from the budget of bytes in flight.
    counted: bool,
}

#[derive(Clone, Debug)]
struct MemberState {
    /// Pairs of its shards.
    pairs: Vec<SliverPairIndex>,
    step: Step,
    to_send: VecDeque<SliverPairIndex>,
    in_flight: BTreeMap<Ask, OnItsWay>,
    /// Whether the last pair that it was sent was stored: until then it gets one at a time.
    proven: bool,
    failures_in_a_row: u32,
    /// What was asked before this failed with the last failure.
    failed_ms: u64,
    busy_in_a_row: u32,
    /// When it last did as asked.
    progress_ms: u64,
    /// How often it named missing pairs instead of confirming.
    unconfirmed: u32,
    /// How often it had lost a table that it had stored.
    tables_lost: u32,
    not_before_ms: u64,
}

/// The progress of one upload.
#[derive(Clone, Debug)]
pub struct Upload {
    config: UploadConfig,
    committee: Committee,
    pair_bytes: usize,
    members: Vec<MemberState>,
    confirmed: QuorumTracker,
    in_flight_bytes: usize,
    started_ms: u64,
    now_ms: u64,
    tail_until_ms: Option<u64>,
    ended: bool,
    /// Where the next round over the members starts, so that none is always first.
    next_member: usize,
}

impl Upload {
    /// An upload of `blob`, whose pairs have `pair_bytes`, to the members of `committee`. Ask with
    /// [`UploadInput::Tick`] for the first outputs.
    #[must_use]
    pub fn new(
        config: UploadConfig,
        committee: Committee,
        blob: &BlobId,
        pair_bytes: usize,
        now_ms: u64,
    ) -> Self {
        let n_shards = committee.n_shards();
        let members = committee
            .members()
            .iter()
            .map(|member| MemberState {
                pairs: member.shards.iter().map(|shard| blob.pair_of(*shard, n_shards)).collect(),
                // A member without shards has nothing to keep or confirm.
                step: if member.shards.is_empty() { Step::Confirmed } else { Step::Table },
                to_send: VecDeque::new(),
                in_flight: BTreeMap::new(),
                proven: false,
                failures_in_a_row: 0,
                failed_ms: 0,
                busy_in_a_row: 0,
                progress_ms: now_ms,
                unconfirmed: 0,
                tables_lost: 0,
                not_before_ms: 0,
            })
            .collect();
        let confirmed = QuorumTracker::new(&committee);
        Self {
            config,
            committee,
            pair_bytes,
            members,
            confirmed,
            in_flight_bytes: 0,
            started_ms: now_ms,
            now_ms,
            tail_until_ms: None,
            ended: false,
            next_member: 0,
        }
    }

    /// Takes in what happened and says what to do, in order.
    pub fn handle(&mut self, now_ms: u64, input: UploadInput) -> Vec<UploadOutput> {
        let mut outputs = Vec::new();
        self.now_ms = now_ms;
        if self.ended {
            return outputs;
        }
        match input {
            UploadInput::TableStored { member, missing } => {
                self.answered(member, Ask::Table);
                if self.members[member].step == Step::Table {
                    self.send_pairs(member, &missing);
                }
            }
            UploadInput::Stored { member, pair } => {
                self.answered(member, Ask::Pair(pair));
                self.members[member].proven = true;
            }
            UploadInput::Missing { member, pairs }
                if pairs.iter().any(|pair| !self.members[member].pairs.contains(pair)) =>
            {
                // Of shards that it holds in an epoch of which the writer has not heard yet.
                self.on_failed(now_ms, member, Ask::Confirm, MemberFailure::OtherEpoch);
            }
            UploadInput::Missing { member, pairs } => {
                self.answered(member, Ask::Confirm);
                if pairs.is_empty() {
                    self.failed(now_ms, member, MemberFailure::WrongAnswer);
                } else {
                    self.on_missing(now_ms, member, &pairs);
                }
            }
            UploadInput::Confirmed { member } => self.on_confirmed(now_ms, member, &mut outputs),
            UploadInput::Failed { member, ask, failure } => {
                self.on_failed(now_ms, member, ask, failure);
            }
            UploadInput::Tick => {}
        }
        self.release_late(now_ms);
        self.ask(now_ms, &mut outputs);
        self.check_end(now_ms, &mut outputs);
        outputs
    }

    /// When to come back with a [`UploadInput::Tick`] if nothing else happens before.
    #[must_use]
    pub fn wake_at_ms(&self) -> Option<u64> {
        if self.ended {
            return None;
        }
        let active = self.members.iter().filter(|member| member.is_active());
        let waiting = active.map(|member| member.not_before_ms).filter(|ms| *ms > self.now_ms);
        let on_their_way = self.members.iter().flat_map(|member| member.in_flight.values());
        let late = on_their_way.filter(|ask| ask.counted).map(|ask| ask.asked_ms + self.late_ms());
        waiting.chain(late).chain(self.tail_until_ms).min()
    }

    /// Shards whose holders have confirmed.
    #[must_use]
    pub const fn confirmed_shards(&self) -> u16 {
        self.confirmed.weight()
    }

    /// Members given up, with the last reason of each.
    #[must_use]
    pub fn failures(&self) -> Vec<(usize, MemberFailure)> {
        let given_up = |(position, member): (usize, &MemberState)| match member.step {
            Step::GivenUp(failure) => Some((position, failure)),
            Step::Table | Step::Pairs | Step::Confirm | Step::Confirmed => None,
        };
        self.members.iter().enumerate().filter_map(given_up).collect()
    }

    fn answered(&mut self, member: usize, ask: Ask) {
        self.landed(member, ask);
        let state = &mut self.members[member];
        state.progress_ms = self.now_ms;
        state.busy_in_a_row = 0;
        if !matches!(ask, Ask::Confirm) {
            state.failures_in_a_row = 0;
        }
    }

    /// Takes an ask out of flight; when it had been sent.
    fn landed(&mut self, member: usize, ask: Ask) -> u64 {
        let Some(landed) = self.members[member].in_flight.remove(&ask) else { return self.now_ms };
        if landed.counted {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(self.pair_bytes);
        }
        landed.asked_ms
    }

    fn late_ms(&self) -> u64 {
        let mib = (self.pair_bytes as u64).div_ceil(1 << 20);
        self.config.late_ms + mib * self.config.late_per_mib_ms
    }

    /// Pairs that a member keeps without answering no longer take from the budget of all, so a few
    /// silent members cannot hold up the others. They get nothing more until they answer.
    fn release_late(&mut self, now_ms: u64) {
        let late_ms = self.late_ms();
        for member in &mut self.members {
            for ask in member.in_flight.values_mut() {
                if ask.counted && now_ms >= ask.asked_ms + late_ms {
                    ask.counted = false;
                    member.proven = false;
                    self.in_flight_bytes = self.in_flight_bytes.saturating_sub(self.pair_bytes);
                }
            }
        }
    }

    /// Queues those of the pairs that are the member's to keep and not already on their way.
    fn send_pairs(&mut self, member: usize, pairs: &[SliverPairIndex]) {
        let member = &mut self.members[member];
        if !member.is_active() {
            return;
        }
        member.step = Step::Pairs;
        member.to_send = member
            .pairs
            .iter()
            .filter(|pair| {
                pairs.contains(pair) && !member.in_flight.contains_key(&Ask::Pair(**pair))
            })
            .copied()
            .collect();
    }

    fn on_missing(&mut self, now_ms: u64, member: usize, pairs: &[SliverPairIndex]) {
        self.members[member].unconfirmed += 1;
        if self.members[member].unconfirmed >= self.config.attempts_max {
            self.failed(now_ms, member, MemberFailure::LosesPairs);
        } else {
            self.send_pairs(member, pairs);
        }
    }

    fn on_confirmed(&mut self, now_ms: u64, member: usize, outputs: &mut Vec<UploadOutput>) {
        self.answered(member, Ask::Confirm);
        self.members[member].step = Step::Confirmed;
        self.members[member].failures_in_a_row = 0;
        self.confirmed.add(&self.committee, member);
        if self.tail_until_ms.is_none() && self.committee.is_quorum(self.confirmed.weight()) {
            let tail_ms = now_ms.saturating_sub(self.started_ms) / 2;
            let tail_ms = tail_ms.max(self.config.tail_min_ms).min(self.config.tail_max_ms);
            self.tail_until_ms = Some(now_ms + tail_ms);
            outputs.push(UploadOutput::Quorum);
        }
    }

    fn on_failed(&mut self, now_ms: u64, member: usize, ask: Ask, failure: MemberFailure) {
        let asked_ms = self.landed(member, ask);
        let state = &mut self.members[member];
        if !state.is_active() {
            return;
        }
        state.proven = false;
        if let Ask::Pair(pair) = ask {
            state.to_send.push_back(pair);
        }
        match failure {
            MemberFailure::Refused(Refusal::Busy { retry_after_ms }) => {
                self.on_busy(now_ms, member, failure, retry_after_ms);
            }
            MemberFailure::Refused(Refusal::TableMissing | Refusal::NotRegistered)
                if ask != Ask::Table =>
            {
                if state.step != Step::Table {
                    state.step = Step::Table;
                    state.tables_lost += 1;
                }
                if state.tables_lost >= self.config.attempts_max {
                    self.failed(now_ms, member, failure);
                } else {
                    self.count_failure(now_ms, member, asked_ms, failure);
                }
            }
            MemberFailure::Refused(
                Refusal::TooLarge | Refusal::StorageFull | Refusal::Invalid(_),
            )
            | MemberFailure::WrongAnswer
            | MemberFailure::LosesPairs => self.failed(now_ms, member, failure),
            // It may not have followed the ledger yet to where the blob was registered, or to where
            // it has become a member.
            MemberFailure::Refused(
                Refusal::NotRegistered
                | Refusal::WrongShard
                | Refusal::TableMissing
                | Refusal::NotFound
                | Refusal::Unavailable,
            )
            | MemberFailure::OtherEpoch
            | MemberFailure::NoAnswer => self.count_failure(now_ms, member, asked_ms, failure),
        }
    }

    /// Busy is an answer: it costs time, ever more of it, and no attempt; but not for ever.
    fn on_busy(&mut self, now_ms: u64, member: usize, failure: MemberFailure, retry_after_ms: u32) {
        let state = &mut self.members[member];
        if now_ms.saturating_sub(state.progress_ms) >= self.config.busy_max_ms {
            self.failed(now_ms, member, failure);
            return;
        }
        let own_ms = self.config.retry_delay_ms << state.busy_in_a_row.min(16);
        let wait_ms = own_ms.max(u64::from(retry_after_ms)).min(self.config.retry_delay_max_ms);
        state.busy_in_a_row += 1;
        state.not_before_ms = state.not_before_ms.max(now_ms + wait_ms);
    }

    /// One more failure in a row: wait, or give the member up. What was on its way together fails
    /// together and counts once.
    fn count_failure(&mut self, now_ms: u64, member: usize, asked_ms: u64, failure: MemberFailure) {
        let state = &mut self.members[member];
        if state.failures_in_a_row > 0 && asked_ms < state.failed_ms {
            return;
        }
        state.failed_ms = now_ms;
        state.failures_in_a_row += 1;
        if state.failures_in_a_row >= self.config.attempts_max {
            self.failed(now_ms, member, failure);
            return;
        }
        let doubled = self.config.retry_delay_ms << (state.failures_in_a_row - 1).min(16);
        let wait_ms = doubled.min(self.config.retry_delay_max_ms);
        state.not_before_ms = state.not_before_ms.max(now_ms + wait_ms);
    }

    fn failed(&mut self, now_ms: u64, member: usize, failure: MemberFailure) {
        let state = &mut self.members[member];
        if state.is_active() {
            state.step = Step::GivenUp(failure);
            state.to_send.clear();
            state.not_before_ms = now_ms;
        }
    }

    /// Asks whatever the limits allow, one ask per member and round.
    fn ask(&mut self, now_ms: u64, outputs: &mut Vec<UploadOutput>) {
        let count = self.members.len();
        let mut idle = 0;
        while idle < count {
            let member = self.next_member;
            self.next_member = (self.next_member + 1) % count;
            match self.next_ask(now_ms, member) {
                Some(ask) => {
                    idle = 0;
                    let counted = matches!(ask, Ask::Pair(_));
                    let on_its_way = OnItsWay { asked_ms: now_ms, counted };
                    self.members[member].in_flight.insert(ask, on_its_way);
                    outputs.push(UploadOutput::Ask { member, ask });
                }
                None => idle += 1,
            }
        }
    }

    fn next_ask(&mut self, now_ms: u64, member: usize) -> Option<Ask> {
        let state = &mut self.members[member];
        if now_ms < state.not_before_ms {
            return None;
        }
        match state.step {
            Step::Table => state.in_flight.is_empty().then_some(Ask::Table),
            Step::Confirm => state.in_flight.is_empty().then_some(Ask::Confirm),
            Step::Pairs => {
                if state.to_send.is_empty() && state.in_flight.is_empty() {
                    state.step = Step::Confirm;
                    return Some(Ask::Confirm);
                }
                let window =
                    if state.proven { self.config.pairs_in_flight_per_member_max } else { 1 };
                let bytes = self.in_flight_bytes + self.pair_bytes;
                let fits = bytes <= self.config.in_flight_bytes_max || self.in_flight_bytes == 0;
                if !fits || state.in_flight.len() >= window {
                    return None;
                }
                let pair = state.to_send.pop_front()?;
                self.in_flight_bytes = bytes;
                Some(Ask::Pair(pair))
            }
            Step::Confirmed | Step::GivenUp(_) => None,
        }
    }

    fn check_end(&mut self, now_ms: u64, outputs: &mut Vec<UploadOutput>) {
        if let Some(tail_until_ms) = self.tail_until_ms {
            let all_ended = self.members.iter().all(|member| !member.is_active());
            if all_ended || now_ms >= tail_until_ms {
                self.ended = true;
                outputs.push(UploadOutput::Finished);
            }
            return;
        }
        let possible = self.members.iter().zip(self.committee.members());
        let possible: u16 = possible
            .filter(|(state, _)| !matches!(state.step, Step::GivenUp(_)))
            .map(|(_, member)| member.weight())
            .sum();
        if !self.committee.is_quorum(possible) {
            self.ended = true;
            outputs.push(UploadOutput::Failed(UploadFailure {
                confirmed_shards: self.confirmed.weight(),
                failures: self.failures(),
            }));
        }
    }
}

impl MemberState {
    fn is_active(&self) -> bool {
        match self.step {
            Step::Table | Step::Pairs | Step::Confirm => true,
            Step::Confirmed | Step::GivenUp(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
