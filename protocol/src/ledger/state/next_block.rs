//! The next block: made by a proposer, judged by everybody else. Both run it the same way, so both
//! get the same header.

use std::sync::Arc;

use super::{State, Tip};
use crate::{
    challenge::Universe,
    committee::Committee,
    keys::{BlsKeyPair, BlsSignature, NodeId},
    ledger::{
        Block, BlockError, BlockEvents, BlockHash, Body, Challenges, CommitRecord, Header,
        MAX_BLOCK_BYTES, OperationError, ReadError, SYSTEM_BYTES, StateChange, StateReader,
        SystemOperation, Timestamp, TransactionId, VerifiedTransaction, beacon_message,
        error::Failure,
        execute::{BLS_WORK_MAX, Executor, RecordFailure},
        next_beacon,
        transaction::Encoded,
    },
};

/// Most transactions that a proposer puts into a block: what all nodes can execute well within a
/// proposal's time. Not a rule for blocks, which are bounded by their bytes.
const PROPOSED_TRANSACTIONS_MAX: usize = 1_500;
/// Most transactions that a proposer tries in vain for a block: they pay nothing.
const REFUSED_MAX: usize = 256;
/// Most work by BLS that a proposer takes on for system operations. They are free: transactions,
/// which pay for theirs, must not wait for blocks without any.
const PROPOSED_SYSTEM_BLS_WORK_MAX: usize = BLS_WORK_MAX / 2;
/// Bytes of a list's length in the layout.
const LENGTH_BYTES: usize = 4;
/// Room that a proposer leaves for header and commit record, in bytes.
const RECORD_BYTES: usize = 64 << 10;

/// What a proposer adds of its own.
#[derive(Clone, Debug)]
pub struct Proposal<'a> {
    /// Its node key.
    pub node: NodeId,
    /// Its BLS key, for the beacon.
    pub bls: &'a BlsKeyPair,
    /// The round.
    pub round: u32,
    /// Its clock.
    pub now: Timestamp,
    /// The parent's certificate and late precommits.
    pub commit_record: CommitRecord,
}

/// What a node may have verified before it comes in a block, and need not verify again.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// The transaction of this id.
    Transaction(&'a TransactionId),
    /// This operation, to the last byte.
    System(&'a SystemOperation),
}

/// Tells what was verified before.
pub type IsKnown<'a> = dyn Fn(Known<'_>) -> bool + 'a;

/// What became of a candidate that a proposer was offered.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// There was none before.
    First,
    /// It is in the block.
    Taken,
    /// The state refuses it now.
    Refused(TransactionId, &'a OperationError),
}

/// A block that has just been made.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// The block.
    pub block: Block,
    /// What it does.
    pub executed: Executed,
    /// The system operations that the state refuses: the next block can't take them either. What is
    /// neither here nor in the block found no room and waits.
    pub refused: Vec<SystemOperation>,
}

/// A block that has been executed on top of a state.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its hash.
    pub hash: BlockHash,
    /// What it changes.
    pub change: StateChange,
    /// What happened.
    pub events: BlockEvents,
    /// The ids of its transactions, in order.
    pub transactions: Vec<TransactionId>,
    /// The state after it.
    pub next: State,
    /// What the round of challenges asks for that it opens, if it opens one.
    pub opened: Option<Arc<Universe>>,
}

impl State {
    /// Judges `block` as the next one. `known` tells whose signatures need no check any more. Who may
    /// propose, and whether the time is near, is consensus' business.
    ///
    /// # Errors
    /// [`BlockError`]: the block is refused, or the store failed.
    pub fn execute(
        &self,
        reader: &dyn StateReader,
        block: &Block,
        known: &IsKnown<'_>,
    ) -> Result<Executed, BlockError> {
        let header = &block.header;
        self.check_header(header)?;
        let transactions = self.check_body(block, known)?;
        let mut run = self.begin((reader, known), header.time, &block.body.commit_record)?;
        for (position, operation) in block.body.system.iter().enumerate() {
            run.system(operation).map_err(|failure| operation_error(position, failure))?;
        }
        for (position, transaction) in transactions.iter().enumerate() {
            run.transaction(transaction).map_err(|failure| operation_error(position, failure))?;
        }
        let origin = Origin {
            round: header.round,
            proposer: header.proposer,
            beacon_signature: header.beacon_signature,
        };
        let executed = run.finish(self, &block.body, origin)?;
        let computed = &executed.header;
        for (field, same) in [
            ("state root", computed.state_root == header.state_root),
            ("events root", computed.events_root == header.events_root),
            ("next committee", computed.next_committee == header.next_committee),
            ("hash", computed == header),
        ] {
            if !same {
                return Err(BlockError::Header(field));
            }
        }
        Ok(executed.executed)
    }

    /// Makes the next block of what is offered. `candidates` is told what became of the last one
    /// and gives the next. After too many refusals, or too much work for them, nothing more is
    /// taken. `known` tells which of the system operations are verified.
    ///
    /// # Errors
    /// [`BlockError`]: the commit record is wrong, or the store failed.
    pub fn propose(
        &self,
        reader: &dyn StateReader,
        proposal: Proposal<'_>,
        (system, known): (&[SystemOperation], &IsKnown<'_>),
        candidates: &mut dyn FnMut(Outcome<'_>) -> Option<Arc<VerifiedTransaction>>,
    ) -> Result<Proposed, BlockError> {
        let time = proposal.now.max(self.tip.time.plus_ms(1));
        let mut body = Body { commit_record: proposal.commit_record, ..Body::default() };
        let mut run = self.begin((reader, known), time, &body.commit_record)?;
        let refused_system = run.fill_system(&mut body, system)?;
        let mut room = MAX_BLOCK_BYTES - SYSTEM_BYTES - RECORD_BYTES;
        let mut refused = 0_usize;
        let mut next = candidates(Outcome::First);
        while let Some(transaction) = next.take() {
            let Some(rest) = room.checked_sub(transaction.bytes()) else { break };
            match run.transaction(&transaction) {
                Ok(()) => {
                    room = rest;
                    body.transactions.push(transaction.signed().clone());
                    if body.transactions.len() >= PROPOSED_TRANSACTIONS_MAX {
                        break;
                    }
                    next = candidates(Outcome::Taken);
                }
                // As where the bytes are used up: it waits for the next block.
                Err(Failure::Refused(OperationError::BlockFull)) => break,
                Err(Failure::Refused(error)) => {
                    next = candidates(Outcome::Refused(transaction.id(), &error));
                    refused = refused.saturating_add(1);
                    if refused >= REFUSED_MAX {
                        break;
                    }
                }
                Err(Failure::Read(error)) => return Err(error.into()),
            }
        }
        let height = self.next_height();
        let beacon = beacon_message(&self.chain, &self.tip.beacon, height);
        let origin = Origin {
            round: proposal.round,
            proposer: proposal.node,
            beacon_signature: proposal.bls.sign(&beacon),
        };
        let done = run.finish(self, &body, origin)?;
        let block = Block { header: done.header, body };
        Ok(Proposed { block, executed: done.executed, refused: refused_system })
    }

    fn check_header(&self, header: &Header) -> Result<(), BlockError> {
        let expected = self.next_height();
        if header.height != expected {
            return Err(BlockError::Height { height: header.height, expected });
        }
        let proposer = self.committee.member(&header.proposer);
        let proposer = proposer.filter(|member| member.weight() > 0);
        let proposer = proposer.ok_or(BlockError::Header("proposer"))?;
        for (field, right) in [
            ("parent", header.parent == self.tip.hash),
            ("time", header.time > self.tip.time),
            ("epoch", header.epoch == self.committee.epoch()),
            ("beacon", header.beacon == next_beacon(&self.tip.beacon, &header.beacon_signature)),
        ] {
            if !right {
                return Err(BlockError::Header(field));
            }
        }
        let message = beacon_message(&self.chain, &self.tip.beacon, header.height);
        if !proposer.bls_key.verify(&message, &header.beacon_signature) {
            return Err(BlockError::Header("beacon signature"));
        }
        Ok(())
    }

    /// Checks that the body is the header's, its size, and each transaction on its own.
    fn check_body(
        &self,
        block: &Block,
        known: &IsKnown<'_>,
    ) -> Result<Vec<VerifiedTransaction>, BlockError> {
        let body = &block.body;
        let bytes = |value: &dyn Fn() -> std::io::Result<usize>| value().unwrap_or(usize::MAX);
        let transactions = bytes(&|| borsh::object_length(&body.transactions));
        let system = bytes(&|| borsh::object_length(&body.system));
        if bytes(&|| borsh::object_length(block)) > MAX_BLOCK_BYTES
            || transactions > MAX_BLOCK_BYTES - SYSTEM_BYTES
            || system > SYSTEM_BYTES
        {
            return Err(BlockError::TooLarge);
        }
        if body.commit_record.hash() != block.header.commit_record {
            return Err(BlockError::Header("commit record"));
        }
        let encoded = body.transactions.iter().cloned();
        let encoded: Vec<_> = encoded.map(|signed| Encoded::new(signed, &self.chain)).collect();
        let root = body.root_of(&self.chain, encoded.iter().map(Encoded::id));
        if root != block.header.transactions_root {
            return Err(BlockError::Header("transactions root"));
        }
        let known = |id: &TransactionId| known(Known::Transaction(id));
        let checked = Encoded::verify_all(encoded, &self.chain, &known).into_iter().enumerate();
        checked
            .map(|(position, checked)| {
                checked.map_err(|error| BlockError::Transaction { position, error })
            })
            .collect()
    }

    fn begin<'a>(
        &'a self,
        (reader, known): (&'a dyn StateReader, &'a IsKnown<'a>),
        time: Timestamp,
        record: &CommitRecord,
    ) -> Result<Run<'a>, BlockError> {
        let mut executor = Executor { known, ..self.executor(reader, time) };
        match executor.commit_record(record, (self.tip.hash, self.tip.time), &self.previous) {
            Ok(()) => {}
            Err(RecordFailure::Refused(error)) => return Err(error.into()),
            Err(RecordFailure::Read(error)) => return Err(error.into()),
        }
        Ok(Run { executor, events: BlockEvents::default(), transactions: Vec::new() })
    }
}

fn operation_error(position: usize, failure: Failure) -> BlockError {
    match failure {
        Failure::Refused(error) => BlockError::Operation { position, error },
        Failure::Read(error) => error.into(),
    }
}

/// A block on its way through the executor.
struct Run<'a> {
    executor: Executor<'a>,
    events: BlockEvents,
    transactions: Vec<TransactionId>,
}

/// What a header says of its making.
#[derive(Clone, Copy)]
struct Origin {
    round: u32,
    proposer: NodeId,
    beacon_signature: BlsSignature,
}

/// A block's header as execution computes it, and the rest.
struct Finished {
    header: Header,
    executed: Executed,
}

impl Run<'_> {
    /// Puts into a block what there is room for; what the state refuses.
    fn fill_system(
        &mut self,
        body: &mut Body,
        system: &[SystemOperation],
    ) -> Result<Vec<SystemOperation>, BlockError> {
        let (mut room, mut refused) = (SYSTEM_BYTES - LENGTH_BYTES, Vec::new());
        self.executor.bls_work_max = PROPOSED_SYSTEM_BLS_WORK_MAX;
        for operation in system {
            let bytes = borsh::to_vec(operation).expect("writing to memory").len();
            let Some(rest) = room.checked_sub(bytes) else { break };
            match self.system(operation) {
                Ok(()) => {
                    room = rest;
                    body.system.push(operation.clone());
                }
                // It waits; others may need no such work.
                Err(Failure::Refused(OperationError::BlockFull)) => {}
                Err(Failure::Refused(_)) => refused.push(operation.clone()),
                Err(Failure::Read(error)) => return Err(error.into()),
            }
        }
        self.executor.bls_work_max = BLS_WORK_MAX;
        Ok(refused)
    }

    fn system(&mut self, operation: &SystemOperation) -> Result<(), Failure> {
        let events = self.executor.system(operation)?;
        self.events.groups.push(events);
        Ok(())
    }

    fn transaction(&mut self, transaction: &VerifiedTransaction) -> Result<(), Failure> {
        let position = u32::try_from(self.transactions.len()).expect("blocks are bounded");
        let events = self.executor.transaction(transaction, position)?;
        self.events.groups.push(events);
        self.transactions.push(transaction.id());
        Ok(())
    }

    fn finish(
        mut self,
        state: &State,
        body: &Body,
        origin: Origin,
    ) -> Result<Finished, BlockError> {
        let Origin { round, proposer, beacon_signature } = origin;
        let next_committee = self.end_of_block()?;
        let summary = self.executor.overlay.summary()?;
        let units = std::mem::take(&mut self.executor.units);
        let opened = self.executor.opened.take();
        let challenges = match &next_committee {
            Some(next) => Challenges::new(next.members().len()),
            None => self.executor.challenges()?,
        };
        let (height, time) = (self.executor.height, self.executor.time);
        let (state_root, change) = self.executor.overlay.finish(height)?;
        let committee = next_committee.map_or_else(|| Arc::clone(&state.committee), Arc::new);
        let header = Header {
            height,
            round,
            time,
            parent: state.tip.hash,
            commit_record: body.commit_record.hash(),
            epoch: state.committee.epoch(),
            proposer,
            transactions_root: body.root_of(&state.chain, self.transactions.iter().copied()),
            state_root,
            events_root: self.events.root(),
            beacon: next_beacon(&state.tip.beacon, &beacon_signature),
            beacon_signature,
            next_committee: committee.hash(),
        };
        let (hash, beacon) = (header.hash(), header.beacon);
        let next = State {
            chain: state.chain,
            parameters: Arc::clone(&state.parameters),
            tip: Tip { height, hash, time, beacon, state_root },
            committee,
            previous: Arc::clone(&state.committee),
            summary,
            challenges: Arc::new(challenges),
            units,
        };
        let (events, transactions) = (self.events, self.transactions);
        Ok(Finished {
            header,
            executed: Executed { hash, change, events, transactions, next, opened },
        })
    }

    /// What a block does after its last transaction.
    fn end_of_block(&mut self) -> Result<Option<Committee>, BlockError> {
        let ours = |failure: Failure| match failure {
            Failure::Read(error) => error,
            // Nothing here depends on what a block says, so a refusal is a damaged store.
            Failure::Refused(error) => ReadError::Failed(error.into()),
        };
        self.executor.sweep().map_err(ours)?;
        let committee = self.executor.tick().map_err(ours)?;
        self.executor.settle_supply().map_err(ours)?;
        self.events.groups.push(std::mem::take(&mut self.executor.events));
        Ok(committee)
    }
}
