//! A large state in this process, over the real store: executing, proving, starting again, and the
//! blocks after a boundary at which every registration dies. And what a light client verifies.
//!
//! Only some of the registrations are certified, since each certificate takes two pairings; the
//! others lapse, which costs a block almost the same. Both end at the same boundary.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use floe_protocol::{
    blob::BlobHeader,
    hash::Domain,
    ledger::{AccountId, Amount, Block, Executed, Key, Operation, StateProof, Timestamp},
    light::{CertifiedHeader, LightClient, OldRoot, Start},
};
use serde::Serialize;

use super::{
    LedgerArgs, ms, percentile_ms,
    snapshot::{self, SnapshotReport},
    solo::Solo,
};
use crate::{
    cluster::extra_account_key,
    report::{self, Spinner},
};

/// Transfers of the block that is timed.
const TRANSFERS: u32 = 1_000;
/// Registrations of one transaction: as many operations as it may have.
const PER_TRANSACTION: usize = 64;
/// Transactions with registrations of one block.
const PER_BLOCK: usize = 40;
/// Proofs that are made and verified.
const PROOFS: u32 = 200;
/// How often hand-over and header are verified.
const VERIFICATIONS: usize = 50;
/// Epochs that every registration is paid for: an uncertified one lapses as soon.
const EPOCHS: u32 = 2;

/// All that was measured of a large state.
#[derive(Debug, Serialize)]
pub(super) struct LargeReport {
    pub(super) accounts: u32,
    pub(super) registrations: usize,
    pub(super) genesis_ms: f64,
    pub(super) register_block_p50_ms: f64,
    pub(super) transfers: u32,
    pub(super) execute_known_ms: f64,
    pub(super) execute_unknown_ms: f64,
    pub(super) commit_ms: f64,
    pub(super) prove_p50_ms: f64,
    pub(super) verify_proof_p50_ms: f64,
    pub(super) proof_bytes: usize,
    pub(super) snapshot: SnapshotReport,
    pub(super) restart_ms: f64,
    pub(super) disk_mib: f64,
    pub(super) boundary_blocks: usize,
    pub(super) boundary_block_p50_ms: f64,
    /// Execution and commit of the slowest block from the boundary on.
    pub(super) boundary_block_max_ms: f64,
    pub(super) handover_p50_ms: f64,
    pub(super) handover_and_proof_p50_ms: f64,
}

/// Measures everything. Blocks for as long as that takes.
pub(super) fn measure(args: &LedgerArgs, work: &Path) -> anyhow::Result<LargeReport> {
    let _spinner = Spinner::new("a large state");
    let (accounts, registrations) = (args.accounts(), args.blobs());
    let dir = work.join("large");
    let started = Instant::now();
    let mut solo = Solo::begin(&dir, args.shards, accounts)?;
    let genesis_ms = ms(started.elapsed());
    let mut register = register(&mut solo, registrations)?;
    register.sort_unstable();
    let transfers = TRANSFERS.min(accounts / 2);
    let [known, unknown, commit] = transfer(&mut solo, transfers)?;
    let (prove, verify, proof_bytes) = prove(&solo)?;
    let snapshot = snapshot::measure(&solo, work)?;
    let started = Instant::now();
    let mut solo = solo.reopen()?;
    let restart_ms = ms(started.elapsed());
    let disk = super::usage::directory_bytes(&dir)?;
    let last = next_epochs(&mut solo)?;
    let mut boundary = last.boundary.clone();
    let boundary_blocks = boundary.len();
    boundary.sort_unstable();
    let (handover, both) = light(&solo, &last)?;
    Ok(LargeReport {
        accounts,
        registrations,
        genesis_ms,
        register_block_p50_ms: percentile_ms(&register, 50),
        transfers,
        execute_known_ms: ms(known),
        execute_unknown_ms: ms(unknown),
        commit_ms: ms(commit),
        prove_p50_ms: percentile_ms(&prove, 50),
        verify_proof_p50_ms: percentile_ms(&verify, 50),
        proof_bytes,
        snapshot,
        restart_ms,
        disk_mib: report::mib(disk),
        boundary_blocks,
        boundary_block_p50_ms: percentile_ms(&boundary, 50),
        boundary_block_max_ms: boundary.last().map_or(0.0, |time| ms(*time)),
        handover_p50_ms: percentile_ms(&handover, 50),
        handover_and_proof_p50_ms: percentile_ms(&both, 50),
    })
}

/// Registers so many blobs; how long each block took to execute and to commit.
fn register(solo: &mut Solo, registrations: usize) -> anyhow::Result<Vec<Duration>> {
    let n_shards = solo.genesis.n_shards;
    let operation = |index: usize| Operation::RegisterBlob {
        header: BlobHeader {
            n_shards,
            len: 1_000,
            root: Domain::StateKey.hash(&[&index.to_le_bytes()]),
        },
        epochs: EPOCHS,
        deletable: false,
        max_payment: Amount::from_wal(1),
    };
    let indices: Vec<_> = (0..registrations).collect();
    let (mut times, mut nonce) = (Vec::new(), 0);
    for block in indices.chunks(PER_TRANSACTION * PER_BLOCK) {
        let transactions = (0_u32..).zip(block.chunks(PER_TRANSACTION)).map(|(account, blobs)| {
            let operations = blobs.iter().map(|blob| operation(*blob)).collect();
            solo.sign(&extra_account_key(account), nonce, operations)
        });
        let transactions: Vec<_> = transactions.collect::<Result<_, _>>()?;
        nonce += 1;
        let (block, executed) = solo.propose(&transactions)?;
        ensure!(block.body.transactions.len() == transactions.len(), "a block is full");
        times.push(execute_and_commit(solo, &block, &executed)?);
    }
    Ok(times)
}

/// Executes a block as those do that have seen its transactions, and commits it.
fn execute_and_commit(
    solo: &mut Solo,
    block: &Block,
    executed: &Executed,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let again = solo.state.execute(&solo.store, block, &|_| true)?;
    ensure!(again.hash == executed.hash, "a block is the same for all");
    solo.commit(block, again)?;
    Ok(started.elapsed())
}

/// A block of transfers between accounts of their own: executed with signatures verified before,
/// with signatures, committed.
fn transfer(solo: &mut Solo, transfers: u32) -> anyhow::Result<[Duration; 3]> {
    let transactions = (0..transfers).map(|index| {
        // The first accounts have registered: others have their nonces to themselves.
        let key = extra_account_key(solo_accounts(solo) - 1 - index);
        let to = AccountId::new(extra_account_key(index).public());
        let amount = Amount::from_frost(1);
        solo.sign(&key, 0, vec![Operation::Transfer { to, amount }])
    });
    let transactions: Vec<_> = transactions.collect::<Result<_, _>>()?;
    let (block, _) = solo.propose(&transactions)?;
    let started = Instant::now();
    solo.state.execute(&solo.store, &block, &|_| false)?;
    let unknown = started.elapsed();
    let started = Instant::now();
    let executed = solo.state.execute(&solo.store, &block, &|_| true)?;
    let known = started.elapsed();
    let started = Instant::now();
    solo.commit(&block, executed)?;
    Ok([known, unknown, started.elapsed()])
}

fn solo_accounts(solo: &Solo) -> u32 {
    u32::try_from(solo.genesis.accounts.len()).unwrap_or(u32::MAX)
}

/// Proves accounts and verifies the proofs; bytes of the last one.
fn prove(solo: &Solo) -> anyhow::Result<(Vec<Duration>, Vec<Duration>, usize)> {
    let (mut prove, mut verify, mut bytes) = (Vec::new(), Vec::new(), 0);
    let tip = solo.state.tip();
    for index in 0..PROOFS.min(solo_accounts(solo)) {
        let key = Key::Account(AccountId::new(extra_account_key(index).public()));
        let started = Instant::now();
        let proof = StateProof::new(&solo.store, tip.height.get(), &key)?;
        prove.push(started.elapsed());
        bytes = proof.path.len() + proof.value.as_ref().map_or(0, Vec::len);
        let started = Instant::now();
        proof.verify(&tip.state_root, &key)?.context("the account is there")?;
        verify.push(started.elapsed());
    }
    prove.sort_unstable();
    verify.sort_unstable();
    Ok((prove, verify, bytes))
}

/// What the end of an epoch leaves, and the blocks after it.
struct Boundary {
    header: CertifiedHeader,
    committee: Vec<u8>,
    /// Of an account at that end: while the blocks after it are made, its state goes.
    proof: StateProof,
    boundary: Vec<Duration>,
}

/// Lets epochs pass until all registrations are dead, and sweeps them. The hand-over is the first.
fn next_epochs(solo: &mut Solo) -> anyhow::Result<Boundary> {
    let mut first = None;
    let mut times = Vec::new();
    for epoch in 1..=u64::from(EPOCHS) {
        while solo.state.committee().epoch().get() < epoch {
            solo.now = solo.now.max(solo.state.epoch_deadline().unwrap_or(solo.now));
            let (block, executed) = solo.propose(&[])?;
            let time = execute_and_commit(solo, &block, &executed)?;
            if epoch == u64::from(EPOCHS) {
                times.push(time);
            }
            if first.is_none() && solo.state.committee().epoch().get() == 1 {
                let certificate = solo.certificate.clone().context("it was committed")?;
                let header = CertifiedHeader { header: block.header, certificate };
                let proof = StateProof::new(&solo.store, block.header.height.get(), &proven())?;
                first = Some((header, solo.state.committee().to_bytes(), proof));
            }
        }
    }
    while solo.state.sweep_pending(&solo.store)? {
        let (block, executed) = solo.propose(&[])?;
        times.push(execute_and_commit(solo, &block, &executed)?);
    }
    let (header, committee, proof) = first.context("an epoch has ended")?;
    Ok(Boundary { header, committee, proof, boundary: times })
}

/// The key of the account that light clients ask for.
fn proven() -> Key {
    Key::Account(AccountId::new(extra_account_key(1).public()))
}

/// Verifies the first hand-over, alone and with an account of the state behind it.
fn light(
    solo: &Solo,
    Boundary { header: last, committee, proof, .. }: &Boundary,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let start = Start::Genesis { started: None };
    let client = LightClient::new(&solo.genesis, &start, OldRoot::Trust, Timestamp::from_ms(0))?;
    let key = proven();
    let (mut handover, mut both) = (Vec::new(), Vec::new());
    for _ in 0..VERIFICATIONS {
        let mut client = client.clone();
        let last = last.clone();
        let started = Instant::now();
        let verified = client.handover(last, committee, solo.now)?;
        handover.push(started.elapsed());
        verified.fact(&key, proof)?.context("the account is there")?;
        both.push(started.elapsed());
    }
    handover.sort_unstable();
    both.sort_unstable();
    Ok((handover, both))
}
