//! A ledger without a network: one process that has the keys of a whole committee, over the real
//! store in a directory of its own.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use floe_node::key_file::NodeKeys;
use floe_protocol::{
    encoding::EncodingConfig,
    genesis::{Genesis, GenesisAccount, GenesisMember},
    keys::KeyPair,
    ledger::{
        AccountId, Amount, Block, CommitRecord, Executed, LedgerParameters, Operation, Outcome,
        Proposal, State, Timestamp, Transaction, VerifiedTransaction,
    },
    vote::{CommitCertificate, CommitSignature, Vote, VoteKind},
};
use floe_storage::{LedgerStore, LedgerStoreConfig};

use crate::cluster::extra_account_key;

const MEMBERS: usize = 7;
const STAKE_WAL: u64 = 1_000;
const BALANCE: Amount = Amount::from_wal(1_000);
/// Where ledger time begins.
const FIRST_MS: u64 = 1_700_000_000_000;
/// Time between blocks.
const BLOCK_MS: u64 = 50;

/// A ledger with all its keys.
pub(super) struct Solo {
    pub(super) genesis: Genesis,
    pub(super) origin: State,
    pub(super) state: State,
    pub(super) store: LedgerStore,
    pub(super) certificate: Option<CommitCertificate>,
    pub(super) now: Timestamp,
    config: LedgerStoreConfig,
    keys: Vec<NodeKeys>,
}

impl Solo {
    /// Begins a ledger of so many accounts, each the owner of an
    /// [extra key](extra_account_key).
    pub(super) fn begin(dir: &Path, n_shards: u16, accounts: u32) -> anyhow::Result<Self> {
        let mut keys = (0..MEMBERS).map(|_| NodeKeys::generate()).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|keys| keys.node.public());
        let account = |index| AccountId::new(extra_account_key(index).public());
        let mut funded: Vec<_> = (0..accounts)
            .map(|index| GenesisAccount { account: account(index), balance: BALANCE })
            .collect();
        funded.sort_by_key(|account| account.account);
        let member =
            |keys: &NodeKeys| GenesisMember::new(&keys.node, &keys.bls, account(0), STAKE_WAL);
        let genesis = Genesis {
            name: "bench".into(),
            n_shards,
            max_blob_bytes: EncodingConfig::new(n_shards)?.default_max_blob_bytes(),
            members: keys.iter().map(member).collect(),
            accounts: funded,
            faucet: None,
            ledger: LedgerParameters::default(),
            predecessor: None,
        };
        std::fs::create_dir_all(dir)?;
        let node = keys[0].node.public();
        let config = LedgerStoreConfig::new(dir.join("ledger"), dir.join("marker"), node);
        let (origin, change) = State::genesis(&genesis)?;
        let store = LedgerStore::open(&config)?;
        store.commit_genesis(&change, origin.chain().as_bytes())?;
        let now = Timestamp::from_ms(FIRST_MS);
        let state = origin.clone();
        Ok(Self { genesis, origin, state, store, certificate: None, now, config, keys })
    }

    /// A verified transaction of an account with the least fee.
    pub(super) fn sign(
        &self,
        key: &KeyPair,
        nonce: u64,
        operations: Vec<Operation>,
    ) -> anyhow::Result<Arc<VerifiedTransaction>> {
        let fee = self.state.parameters().ledger.fee_per_operation;
        let fee = fee.checked_mul(operations.len() as u128).context("a small fee")?;
        let sender = AccountId::new(key.public());
        let expires = Timestamp::from_ms(u64::MAX);
        let transaction = Transaction { sender, nonce, fee, expires, operations };
        Ok(Arc::new(transaction.sign(self.state.chain(), key).verify(self.state.chain())?))
    }

    /// The next block, holding all of these.
    pub(super) fn propose(
        &self,
        transactions: &[Arc<VerifiedTransaction>],
    ) -> anyhow::Result<(Block, Executed)> {
        let proposer = &self.keys[0];
        let commit_record = CommitRecord { parent: self.certificate.clone(), late: Vec::new() };
        let proposal = Proposal {
            node: proposer.node.public(),
            bls: &proposer.bls,
            round: 0,
            now: self.now,
            commit_record,
        };
        let (mut next, mut refused) = (transactions.iter(), None);
        let mut candidates = |outcome: Outcome<'_>| {
            if let Outcome::Refused(_, error) = outcome {
                refused = Some(error.clone());
            }
            next.next().cloned()
        };
        let built =
            self.state.propose(&self.store, proposal, (&[], &|_| false), &mut candidates)?;
        match refused {
            Some(error) => Err(error).context("the state refuses a transaction"),
            None => Ok((built.block, built.executed)),
        }
    }

    /// Certifies a block, makes it durable and goes on from it.
    pub(super) fn commit(&mut self, block: &Block, executed: Executed) -> anyhow::Result<()> {
        let certificate = self.certify(block, &executed);
        let tip = self.state.chain().as_bytes();
        self.store.commit_executed(block, &certificate, &executed, tip)?;
        self.state = executed.next;
        self.certificate = Some(certificate);
        self.now = self.now.plus_ms(BLOCK_MS);
        Ok(())
    }

    fn certify(&self, block: &Block, executed: &Executed) -> CommitCertificate {
        let height = block.header.height;
        let members = self.state.committee().members();
        let signature = |(position, member): (u16, &floe_protocol::committee::Member)| {
            let keys = self.keys.iter().find(|keys| keys.node.public() == member.node)?;
            let vote = Vote {
                height,
                round: 0,
                kind: VoteKind::Precommit,
                block: Some(executed.hash),
                voter: member.node,
            };
            let signature = vote.sign(self.state.chain(), &keys.node).signature;
            Some(CommitSignature { position, signature })
        };
        let signatures = (0_u16..).zip(members).filter_map(signature).collect();
        CommitCertificate { height, round: 0, block: executed.hash, signatures }
    }

    /// Closes the store and opens the ledger again, as a node that starts does.
    pub(super) fn reopen(self) -> anyhow::Result<Self> {
        let Self { genesis, origin, state, store, certificate, now, config, keys } = self;
        let height = state.tip().height;
        drop((store, state));
        let store = LedgerStore::open(&config)?;
        let header = store.header(height)?.context("the last block is there")?;
        let state = State::load(&origin, &header, &store)?;
        Ok(Self { genesis, origin, state, store, certificate, now, config, keys })
    }
}
