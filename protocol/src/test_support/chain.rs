//! A chain without a network: makes, checks, certifies and applies blocks in memory.

use std::sync::Arc;

use super::node_keys;
use crate::{
    genesis::Genesis,
    keys::{BlsKeyPair, ChainId, KeyPair},
    ledger::{
        AccountId, Amount, Block, BlockError, CommitRecord, Entry, Executed, IsKnown, Key, Known,
        MemoryStore, NODE_READY_AGE_MAX_MS, NodeReady, Operation, OperationError, Outcome,
        Proposal, Record, ShardsReady, SignedTransaction, State, StateReader, SystemOperation,
        Timestamp, Transaction, TransactionId, VerifiedTransaction,
    },
    vote::{CommitCertificate, CommitSignature, Vote, VoteKind},
};

/// A ledger with all the keys of its committees.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Where it stands.
    pub state: State,
    /// Its records.
    pub store: MemoryStore,
    /// All its blocks with their certificates, from height 1.
    pub blocks: Vec<(Block, CommitCertificate)>,
    /// The ledger time of the next block.
    pub now: Timestamp,
    keys: Vec<(KeyPair, BlsKeyPair)>,
}

impl Chain {
    /// The chain of a genesis whose members are the first of [`node_keys`].
    ///
    /// # Panics
    /// If the genesis is no valid one.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        let (state, change) = State::genesis(genesis).expect("a valid genesis");
        let mut store = MemoryStore::default();
        store.write(change);
        let keys = node_keys(genesis.members.len());
        Self { state, store, blocks: Vec::new(), now: Timestamp::from_ms(1_700_000_000_000), keys }
    }

    /// The chain of a network that goes on from this one, whose first state `store` holds.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn successor(&self, genesis: &Genesis, store: MemoryStore) -> Self {
        let state = State::first_of_successor(genesis, &store).expect("the first state");
        Self { state, store, blocks: Vec::new(), now: self.now, keys: self.keys.clone() }
    }

    /// Lets a node vote and propose once it is a member.
    pub fn add_keys(&mut self, node: KeyPair, bls: BlsKeyPair) {
        self.keys.push((node, bls));
    }

    /// The network.
    #[must_use]
    pub fn id(&self) -> ChainId {
        *self.state.chain()
    }

    /// The next transaction of the account of `key`, with the least fee.
    ///
    /// # Panics
    /// If memory cannot be read.
    #[must_use]
    pub fn sign(&self, key: &KeyPair, operations: Vec<Operation>) -> SignedTransaction {
        let sender = AccountId::new(key.public());
        let nonce = match self.record(&Key::Account(sender)) {
            Some(Record::Account(account)) => account.nonce,
            _ => 0,
        };
        let fee = self.state.parameters().ledger.fee_per_operation;
        let fee = fee.checked_mul(operations.len() as u128).expect("small");
        let expires = self.now.plus_ms(60_000);
        Transaction { sender, nonce, fee, expires, operations }.sign(&self.id(), key)
    }

    /// What the state holds under `key`.
    ///
    /// # Panics
    /// If memory cannot be read.
    #[must_use]
    pub fn record(&self, key: &Key) -> Option<Record> {
        let height = self.state.tip().height.get();
        let (_, bytes) = self.store.value(&key.hash(), height).expect("memory")?;
        Some(Entry::from_bytes(&bytes?)?.record)
    }

    /// What an account can spend.
    #[must_use]
    pub fn balance(&self, account: &AccountId) -> Amount {
        match self.record(&Key::Account(*account)) {
            Some(Record::Account(account)) => account.balance,
            _ => Amount::ZERO,
        }
    }

    /// The member whose turn the tests make it, and its keys.
    ///
    /// # Panics
    /// If the keys of no member are known.
    #[must_use]
    pub fn proposer(&self) -> &(KeyPair, BlsKeyPair) {
        let committee = self.state.committee();
        let has_weight = |(key, _): &&(KeyPair, BlsKeyPair)| {
            committee.member(&key.public()).is_some_and(|member| member.weight() > 0)
        };
        let members: Vec<_> = self.keys.iter().filter(has_weight).collect();
        let height = self.state.next_height().get();
        members[usize::try_from(height).expect("small") % members.len()]
    }

    /// The report of the node with `key` that it follows the ledger.
    #[must_use]
    pub fn node_ready(&self, key: &KeyPair) -> SystemOperation {
        let (tip, epoch) = (self.state.tip(), self.state.summary().epoch);
        let report = NodeReady::new(&self.id(), key, epoch, (tip.height, tip.hash));
        SystemOperation::NodeReady { report }
    }

    /// The report of the member with `key` that all its shards are complete.
    ///
    /// # Panics
    /// If it is no member.
    #[must_use]
    pub fn shards_ready(&self, key: &KeyPair) -> SystemOperation {
        let committee = self.state.committee();
        let shards = committee.member(&key.public()).expect("a member").shards.clone();
        let report = ShardsReady::new(&self.id(), key, committee.epoch(), shards);
        SystemOperation::ShardsReady { report }
    }

    /// What its proposer says of the next block, in round 0.
    #[must_use]
    pub fn proposal(&self) -> Proposal<'_> {
        let (node, bls) = self.proposer();
        Proposal {
            node: node.public(),
            bls,
            round: 0,
            now: self.now,
            commit_record: self.commit_record(),
        }
    }

    /// The next block with these transactions: what the state takes of them; why not the others.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn propose(
        &self,
        system: &[SystemOperation],
        transactions: &[SignedTransaction],
    ) -> Result<(Block, Vec<(TransactionId, OperationError)>), BlockError> {
        let proposal = self.proposal();
        let mut refused = Vec::new();
        let mut next = transactions.iter();
        let mut candidates = |outcome: Outcome<'_>| {
            if let Outcome::Refused(id, error) = outcome {
                refused.push((id, error.clone()));
            }
            let signed = next.next()?.clone();
            Some(Arc::<VerifiedTransaction>::new(signed.verify(&self.id()).expect("well formed")))
        };
        let nothing = |_: Known<'_>| false;
        let system = (system, &nothing as &IsKnown<'_>);
        let proposed = self.state.propose(&self.store, proposal, system, &mut candidates)?;
        Ok((proposed.block, refused))
    }

    /// The parent's certificate as the next block has to record it.
    #[must_use]
    pub fn commit_record(&self) -> CommitRecord {
        let parent = self.blocks.last().map(|(_, certificate)| certificate.clone());
        CommitRecord { parent, late: Vec::new() }
    }

    /// Precommits of the members at `positions` for `block`.
    ///
    /// # Panics
    /// If there is no such member.
    #[must_use]
    pub fn certify(&self, block: &Block, positions: &[u16]) -> CommitCertificate {
        let (height, hash) = (block.header.height, block.header.hash());
        let signature = |position: &u16| {
            let voter = self.state.committee().members()[usize::from(*position)].node;
            let (key, _) = self.keys.iter().find(|(key, _)| key.public() == voter).expect("ours");
            let kind = VoteKind::Precommit;
            let vote = Vote { height, round: 0, kind, block: Some(hash), voter };
            CommitSignature { position: *position, signature: vote.sign(&self.id(), key).signature }
        };
        let signatures = positions.iter().map(signature).collect();
        CommitCertificate { height, round: 0, block: hash, signatures }
    }

    /// Executes a block as everybody would, and goes on from it.
    ///
    /// # Errors
    /// [`BlockError`]: nothing has changed.
    pub fn apply(&mut self, block: &Block) -> Result<Executed, BlockError> {
        let executed = self.state.execute(&self.store, block, &|_| false)?;
        let members = u16::try_from(self.state.committee().members().len()).expect("small");
        let certificate = self.certify(block, &(0..members).collect::<Vec<_>>());
        self.store.write(executed.change.clone());
        self.state = executed.next.clone();
        self.blocks.push((block.clone(), certificate));
        self.now = self.now.plus_ms(100);
        Ok(executed)
    }

    /// Makes and applies a block of system operations that the state must take.
    ///
    /// # Panics
    /// If it refuses one.
    pub fn commit_system(&mut self, system: &[SystemOperation]) -> Executed {
        let (block, _) = self.propose(system, &[]).expect("a block");
        assert_eq!(block.body.system, system, "every operation is taken");
        self.apply(&block).expect("what one proposes, all accept")
    }

    /// Makes and applies a block of transactions that the state must take.
    ///
    /// # Panics
    /// If it refuses one.
    pub fn commit(&mut self, transactions: &[SignedTransaction]) -> Executed {
        let (block, refused) = self.propose(&[], transactions).expect("a block");
        assert_eq!(refused, [], "every transaction is taken");
        self.apply(&block).expect("what one proposes, all accept")
    }

    /// Lets ledger time pass until the first block of the next epoch can be made.
    pub fn next_epoch(&mut self) {
        let epoch = self.state.committee().epoch();
        while self.state.committee().epoch() == epoch {
            self.to_deadline();
        }
    }

    /// Lets ledger time pass to the next deadline, and makes the block there.
    pub fn to_deadline(&mut self) -> Executed {
        if let Some(eve) = self.eve() {
            self.now = eve;
            self.commit(&[]);
        }
        self.now = self.state.epoch_deadline().unwrap_or(self.now).max(self.now);
        self.commit(&[])
    }

    /// When a block has to be made before the one at the next deadline, if that is far off: as
    /// there would be many, and a selection waits after a gap between blocks.
    #[must_use]
    pub fn eve(&self) -> Option<Timestamp> {
        let deadline = self.state.epoch_deadline()?;
        let wait = deadline.ms_since(self.state.tip().time.max(self.now));
        let before = wait.checked_sub(NODE_READY_AGE_MAX_MS)?;
        (before > 0).then(|| self.now.max(self.state.tip().time).plus_ms(before))
    }
}
