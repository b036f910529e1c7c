//! Load: many accounts that send transfers to all nodes, at a fixed rate.
//!
//! Every account keeps to one node, so its transactions arrive in the order of their nonces. What
//! a node has no place for is not sent at all: the rate offered is then below the one asked for,
//! and is reported. The time of every tenth transaction is taken, from handing it over until the
//! node proves that it is committed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use floe_node::network::Network;
use floe_protocol::{
    index::Height,
    keys::{ChainId, KeyPair, NodeId},
    ledger::{
        AccountId, Amount, Entry, Key, Operation, Record, Timestamp, Transaction, TransactionId,
    },
    light::CertifiedHeader,
    message::{LedgerRequest, LedgerResponse, Refusal, Request, Response, ledger::MAX_FACTS},
};
use tokio::{sync::Semaphore, task::JoinSet, time::MissedTickBehavior};

/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(10);
/// Requests with transactions under way to one node. With those that wait: what a peer may have.
const SUBMITS_MAX: usize = 16;
/// Transactions of one node that are waited for.
const WAITS_MAX: usize = 40;
/// Transactions of one request.
const BATCH: usize = 32;
/// One of so many is waited for.
const SAMPLED: u64 = 10;
/// How long a sampled transaction is waited for.
const WAIT_MS: u32 = 20_000;

/// What the accounts of a swarm send, and where.
#[derive(Debug)]
pub(super) struct Load {
    network: Network,
    chain: ChainId,
    fee: Amount,
    nodes: Vec<Target>,
}

/// A node and the accounts that keep to it.
#[derive(Debug)]
struct Target {
    node: NodeId,
    submits: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    senders: Vec<Sender>,
    next: usize,
    /// Transactions due that it has not been sent yet.
    due: f64,
}

#[derive(Debug)]
struct Sender {
    key: KeyPair,
    account: AccountId,
    nonce: u64,
}

/// What became of a period of load.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Transactions sent.
    pub(super) sent: u64,
    /// Of these, taken by the node.
    pub(super) accepted: u64,
    /// The period.
    pub(super) elapsed: Duration,
    /// Times from submission to commit, ascending.
    pub(super) latencies: Vec<Duration>,
    /// Sampled transactions that were not seen committed in time.
    pub(super) unseen: u64,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    sampled: AtomicU64,
    unseen: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

impl Load {
    /// Accounts with these keys, spread over the nodes.
    pub(super) fn new(
        network: Network,
        (chain, fee): (ChainId, Amount),
        nodes: &[NodeId],
        keys: impl Iterator<Item = KeyPair>,
    ) -> Self {
        let target = |node: &NodeId| Target {
            node: *node,
            submits: Arc::new(Semaphore::new(SUBMITS_MAX)),
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
            senders: Vec::new(),
            next: 0,
            due: 0.0,
        };
        let mut nodes: Vec<_> = nodes.iter().map(target).collect();
        let count = nodes.len();
        for (index, key) in keys.enumerate() {
            nodes[index % count].senders.push(Sender {
                account: AccountId::new(key.public()),
                key,
                nonce: 0,
            });
        }
        Self { network, chain, fee, nodes }
    }

    /// Sends `rate` transactions a second for `period`, then waits for those that were sampled.
    pub(super) async fn run(&mut self, rate: u32, period: Duration) -> anyhow::Result<Outcome> {
        self.read_nonces().await?;
        let counts = Arc::new(Counts::default());
        let (mut submits, mut sent) = (JoinSet::new(), 0);
        let share = f64::from(rate) / f64::from(u32::try_from(self.nodes.len())?);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let started = Instant::now();
        let mut last = started;
        while started.elapsed() < period {
            ticks.tick().await;
            let passed = last.elapsed();
            last = Instant::now();
            for node in 0..self.nodes.len() {
                self.nodes[node].due += share * passed.as_secs_f64();
                sent += self.send_due(node, &counts, &mut submits);
            }
            while submits.try_join_next().is_some() {}
        }
        let elapsed = started.elapsed();
        while let Some(ended) = submits.join_next().await {
            ended?;
        }
        let mut latencies =
            std::mem::take(&mut *counts.latencies.lock().unwrap_or_else(PoisonError::into_inner));
        latencies.sort_unstable();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (accepted, unseen) = (count(&counts.accepted), count(&counts.unseen));
        Ok(Outcome { sent, accepted, elapsed, latencies, unseen })
    }

    /// Sends what is due to one node, as far as it has places.
    fn send_due(&mut self, node: usize, counts: &Arc<Counts>, tasks: &mut JoinSet<()>) -> u64 {
        let expires = Timestamp::from_ms(u64::MAX);
        let target = &mut self.nodes[node];
        let mut sent = 0;
        while target.due >= 1.0 {
            let Ok(place) = Arc::clone(&target.submits).try_acquire_owned() else {
                // Whatever is late by then is not offered.
                target.due = target.due.min(1.0);
                break;
            };
            let mut batch = Vec::with_capacity(BATCH);
            while target.due >= 1.0 && batch.len() < BATCH {
                target.due -= 1.0;
                let next = (target.next + 1) % target.senders.len();
                let to = target.senders[next].account;
                let sender = &mut target.senders[target.next];
                target.next = next;
                let amount = Amount::from_frost(1);
                let transaction = Transaction {
                    sender: sender.account,
                    nonce: sender.nonce,
                    fee: self.fee,
                    expires,
                    operations: vec![Operation::Transfer { to, amount }],
                };
                sender.nonce += 1;
                batch.push(transaction.sign(&self.chain, &sender.key).to_bytes());
            }
            sent += batch.len() as u64;
            let (network, node) = (self.network.clone(), target.node);
            let (waits, counts) = (Arc::clone(&target.waits), Arc::clone(counts));
            tasks.spawn(async move {
                let started = Instant::now();
                let taken = submit(&network, node, batch).await;
                drop(place);
                counts.accepted.fetch_add(taken.len() as u64, Ordering::Relaxed);
                let mut sampled = JoinSet::new();
                for id in taken {
                    if counts.sampled.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
                        && let Ok(place) = Arc::clone(&waits).try_acquire_owned()
                    {
                        let (network, counts) = (network.clone(), Arc::clone(&counts));
                        sampled.spawn(async move {
                            let _place = place;
                            counts.saw(committed(&network, node, id).await, started);
                        });
                    }
                }
                sampled.join_all().await;
            });
        }
        sent
    }

    /// Asks for the nonces of all accounts. Refused transactions leave gaps otherwise.
    async fn read_nonces(&mut self) -> anyhow::Result<()> {
        for target in &mut self.nodes {
            for senders in target.senders.chunks_mut(MAX_FACTS) {
                let key = |sender: &Sender| Key::Account(sender.account);
                let request =
                    LedgerRequest::Facts { height: None, keys: senders.iter().map(key).collect() };
                let answer = ask(&self.network, target.node, request).await?;
                let LedgerResponse::Facts { proofs, .. } = answer else {
                    bail!("a node does not tell the nonces of accounts")
                };
                for (sender, proof) in senders.iter_mut().zip(proofs) {
                    let entry = proof.value.and_then(|value| Entry::from_bytes(&value));
                    if let Some(Record::Account(account)) = entry.map(|entry| entry.record) {
                        sender.nonce = account.nonce;
                    }
                }
            }
        }
        Ok(())
    }

    /// The newest header of a node.
    pub(super) async fn tip(&self, node: usize) -> anyhow::Result<CertifiedHeader> {
        match ask(&self.network, self.nodes[node].node, LedgerRequest::Tip).await? {
            LedgerResponse::Tip(tip) => tip.context("there is no block yet"),
            answer => bail!("unexpected answer {answer:?}"),
        }
    }

    /// Blocks from a height on, as many as fit into an answer.
    pub(super) async fn blocks(
        &self,
        from: Height,
    ) -> anyhow::Result<Vec<floe_protocol::message::CertifiedBlock>> {
        let request = LedgerRequest::Blocks { from, max_bytes: 1 << 20 };
        match ask(&self.network, self.nodes[0].node, request).await? {
            LedgerResponse::Blocks { blocks } => Ok(blocks),
            answer => bail!("unexpected answer {answer:?}"),
        }
    }

    /// Asks one node after the other for one fact; the times, ascending.
    pub(super) async fn time_facts(&self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        for index in 0..count {
            let target = &self.nodes[index % self.nodes.len()];
            let sender = &target.senders[index % target.senders.len()];
            let keys = vec![Key::Account(sender.account)];
            let started = Instant::now();
            let request = LedgerRequest::Facts { height: None, keys };
            match ask(&self.network, target.node, request).await? {
                LedgerResponse::Facts { proofs, .. } if proofs.len() == 1 => {}
                answer => bail!("unexpected answer {answer:?}"),
            }
            times.push(started.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }
}

impl Counts {
    fn saw(&self, committed: bool, started: Instant) {
        if committed {
            let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.push(started.elapsed());
        } else {
            self.unseen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Asks a node about the ledger.
async fn ask(
    network: &Network,
    node: NodeId,
    request: LedgerRequest,
) -> anyhow::Result<LedgerResponse> {
    match network.request(node, Request::Ledger(request)).await? {
        Response::Ledger(answer) => Ok(*answer),
        answer => bail!("unexpected answer {answer:?}"),
    }
}

/// Hands over transactions; the ids of those that were taken. A node that is busy is asked again
/// when it says, as any client would: what it never saw leaves a gap in its sender's nonces.
async fn submit(network: &Network, node: NodeId, transactions: Vec<Vec<u8>>) -> Vec<TransactionId> {
    let request = Request::Ledger(LedgerRequest::Submit { transactions });
    loop {
        match network.request(node, request.clone()).await {
            Ok(Response::Ledger(answer)) => {
                let LedgerResponse::Submitted { results } = *answer else { return Vec::new() };
                return results.into_iter().flatten().collect();
            }
            Ok(Response::Refused(Refusal::Busy { retry_after_ms })) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms.into())).await;
            }
            Ok(_) | Err(_) => return Vec::new(),
        }
    }
}

/// Waits until a node proves that a transaction is committed.
async fn committed(network: &Network, node: NodeId, id: TransactionId) -> bool {
    let request = LedgerRequest::Transaction { id, wait_ms: WAIT_MS };
    matches!(ask(network, node, request).await, Ok(LedgerResponse::Transaction(Some(_))))
}
