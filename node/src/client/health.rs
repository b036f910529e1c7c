//! How the ledger is doing: whether it goes on, and if not, what is missing.
//!
//! Every member is asked for its newest header at once, and so is whoever else was the last to have
//! a shard whole that others copy. An answer counts once its header has been verified; so what is
//! told of the nodes is what they showed, and only that they are silent is this client's own word.
//! What follows from it is said in `verdict.rs`.

mod verdict;

use std::{collections::BTreeSet, time::Duration};

use floe_protocol::{
    bft, committee::QuorumTracker, index::Epoch, keys::NodeId, light::VerifiedHeader,
};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout_at};

pub use self::verdict::{LedgerVerdict, ShardsWaiting};
use super::{
    Client, LedgerError,
    ledger::{NodeFault, Purpose, RunningEpoch},
};
use crate::{network::RequestError, service::ledger::wall_clock};

/// How long nodes have to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a node is looked for that could not be found, and how soon it is again.
const FINDING: Duration = Duration::from_secs(2);
const FIND_AGAIN: Duration = Duration::from_millis(500);

/// How the ledger is doing.
#[derive(Clone, Debug)]
pub struct LedgerHealth {
    /// In one word.
    pub verdict: LedgerVerdict,
    /// The newest header that could be had.
    pub header: Option<VerifiedHeader>,
    /// Its age in milliseconds by this machine's clock.
    pub age_ms: Option<u64>,
    /// The running epoch.
    pub epoch: Epoch,
    /// Shards of the network: the whole voting power.
    pub n_shards: u16,
    /// Power needed to make blocks.
    pub shards_needed: u16,
    /// Power of the members that answered.
    pub shards_answering: u16,
    /// Members of the running committee, and those of them that answered.
    pub members: (usize, usize),
    /// Shards whose holder has reported them ready; none if that could not be proven.
    pub shards_ready: Option<u16>,
    /// The epoch by the newest state; none if that could not be proven.
    pub running: Option<RunningEpoch>,
    /// Nodes without a proven answer, and why: members, and the last that had shards whole which
    /// are not ready.
    pub silent: Vec<(NodeId, NodeFault)>,
}

impl Client {
    /// How the ledger is doing. It takes as long as the slowest node, ten seconds at most.
    ///
    /// # Errors
    /// [`LedgerError::Trust`], [`LedgerError::Stopped`]. That nobody answers is a result.
    pub async fn ledger_health(&self) -> Result<LedgerHealth, LedgerError> {
        // First, so that the committee asked is the running one.
        drop(self.ledger.newest().await?);
        let committee = self.committee();
        let members = committee.members().iter().map(|member| member.node).collect();
        let mut silent = self.silent_of(&members).await;
        let mut answering = QuorumTracker::new(&committee);
        for (position, member) in committee.members().iter().enumerate() {
            if silent.iter().all(|(node, _)| *node != member.node) {
                answering.add(&committee, position);
            }
        }
        let answered = committee.members().len() - silent.len();
        let running = self.ledger.running_epoch_for(Purpose::Read).await.ok();
        let unready = running.iter().flat_map(|running| &running.shards);
        let unready = unready.filter(|shard| !shard.is_ready()).map(|shard| shard.last_ready);
        let others: BTreeSet<_> = unready.filter(|node| !members.contains(node)).collect();
        silent.extend(self.silent_of(&others).await);
        let header = self.ledger.known_header();
        let n_shards = committee.n_shards();
        let mut health = LedgerHealth {
            verdict: LedgerVerdict::Running,
            age_ms: header.as_ref().map(|header| wall_clock().ms_since(header.header().time)),
            header,
            epoch: committee.epoch(),
            n_shards,
            shards_needed: bft::min_quorum(n_shards),
            shards_answering: answering.weight(),
            members: (committee.members().len(), answered),
            shards_ready: running.as_ref().map(RunningEpoch::ready),
            running,
            silent,
        };
        health.verdict = health.judge(wall_clock(), self.ledger.parameters().heartbeat_ms);
        Ok(health)
    }

    /// The nodes that give no proven answer in time, in order.
    async fn silent_of(&self, nodes: &BTreeSet<NodeId>) -> Vec<(NodeId, NodeFault)> {
        let end = Instant::now() + PATIENCE;
        let asked = nodes.iter().map(|node| async move {
            let fault = timeout_at(end, self.fault_of(*node)).await;
            (*node, fault.unwrap_or(Some(NodeFault::Silent(RequestError::Timeout))))
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut silent = Vec::new();
        while let Some((node, fault)) = asked.next().await {
            silent.extend(fault.map(|fault| (node, fault)));
        }
        silent.sort_by_key(|(node, _)| *node);
        silent
    }

    /// Why a node gives no proven answer; none if it does. A client that has just come may not
    /// find it at the first try.
    async fn fault_of(&self, node: NodeId) -> Option<NodeFault> {
        let end = Instant::now() + FINDING;
        loop {
            let fault = self.ledger.tip_of(node).await.err();
            let unreachable = fault == Some(NodeFault::Silent(RequestError::Unreachable));
            if !unreachable || Instant::now() + FIND_AGAIN >= end {
                return fault;
            }
            sleep(FIND_AGAIN).await;
        }
    }
}
