//! `floe info`: what a network file says, what follows from it, and which members answer.
//!
//! The facts of the file need no connection. Peers are looked for beside them, and their absence
//! changes nothing about the facts.

use std::{fmt, time::Duration};

use clap::Args;
use floe_protocol::{
    bft,
    committee::Committee,
    genesis::NetworkFile,
    ledger::{Amount, Key, Record, Summary},
    light::Checkpoint,
    message::Limits,
};
use serde::Serialize;

use super::{
    exit::{Exit, Failure},
    peers::{self, PeerInfo},
    receipt::age_ms,
    session::Session,
    size::human_bytes,
};
use crate::client::ledger::Purpose;

const AFTER_HELP: &str = "\
Reads the network file, then lists the members that are connected or answer. While every node is
down, and with --offline, the file's facts are shown alone; in JSON peers is null then. The exit code is 0
either way: `floe health` judges.

--checkpoint prints a root of trust for others, whose clients then need not go back to the genesis:
they pass it with --trust-checkpoint. They trust you with it, so give it on a way that they trust.

Examples:
  floe info
  floe info --checkpoint > root.json
  floe info --offline
  floe info --json | jq .shards_lost_for_reads_max";

/// Arguments of `floe info`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct InfoArgs {
    /// Read the network file only, and connect with nobody
    #[arg(long)]
    offline: bool,
    /// Print a checkpoint to pass on: the newest proven header and its committee
    #[arg(long, conflicts_with = "offline")]
    checkpoint: bool,
}

/// Runs `floe info`.
pub(super) async fn run(session: &Session, arguments: InfoArgs) -> Result<Exit, Failure> {
    let network = session.network()?;
    if arguments.checkpoint {
        return print_checkpoint(session, network).await;
    }
    let committee = network.genesis.committee()?;
    let mut info = NetworkInfo::new(&network, &committee);
    if !arguments.offline {
        match peers::reachable(&network, &committee).await {
            Ok(peers) => {
                info.peers = Some(peers);
                match LedgerInfo::ask(session, network).await {
                    Ok(ledger) => info.ledger = Some(ledger),
                    Err(failure) => {
                        let reason = failure.message();
                        session.output.warning(format_args!("the ledger is not known: {reason}"));
                    }
                }
            }
            Err(reason) => {
                session.output.warning(format_args!("peers are not known: {reason}"));
            }
        }
    }
    session.output.result(&info, &info.chain_id)?;
    Ok(Exit::Done)
}

/// Prints a root of trust. Whoever takes it trusts whoever gave it, and nobody else.
async fn print_checkpoint(session: &Session, network: NetworkFile) -> Result<Exit, Failure> {
    let client = session.connect(network).await?;
    let checkpoint = client.ledger().checkpoint().await?;
    client.shutdown().await;
    let Some(checkpoint) = checkpoint else {
        let message = "the ledger has no block yet";
        return Err(
            Failure::new(Exit::Temporary, "no_block", message).hint("try again in a moment")
        );
    };
    let printed = PrintedCheckpoint(checkpoint);
    session.output.result(&printed, printed.0.root.hash)?;
    Ok(Exit::Done)
}

/// A checkpoint: the same object for people and scripts, as it goes into a file.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct PrintedCheckpoint(Checkpoint);

impl fmt::Display for PrintedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string_pretty(&self.0).map_err(|_| fmt::Error)?)
    }
}

/// The result.
#[derive(Debug, Serialize)]
struct NetworkInfo {
    name: String,
    chain_id: String,
    /// Duration of an epoch, if shards get ready in time.
    epoch_ms: u64,
    /// At most so many epochs can be paid for ahead.
    max_epochs_ahead: u32,
    fee_per_operation_frost: Amount,
    /// What the ledger says now; null if it was not asked or could not be reached.
    ledger: Option<LedgerInfo>,
    n_shards: u16,
    /// Shards that faulty nodes may hold: f.
    faulty_shards_max: u16,
    /// Shards without which blobs can still be read: n - k1.
    shards_lost_for_reads_max: u16,
    /// Shards without which blobs can still be stored: n - quorum.
    shards_lost_for_writes_max: u16,
    /// Nodes that may be down for reads, whichever they are.
    nodes_lost_for_reads_max: usize,
    /// Nodes that may be down for writes, whichever they are.
    nodes_lost_for_writes_max: usize,
    max_blob_bytes: u64,
    max_sliver_bytes: u64,
    members: Vec<MemberInfo>,
    bootstrap: Vec<String>,
    /// Members that are connected or answer; null if nobody was asked.
    peers: Option<Vec<PeerInfo>>,
}

/// What the ledger says: prices hold for an epoch.
#[derive(Debug, Serialize)]
struct LedgerInfo {
    epoch: u64,
    /// The block that proves it; 0: the genesis.
    height: u64,
    age_ms: Option<u64>,
    /// For each MiB of slivers, begun ones included, and each epoch.
    storage_price_frost: Amount,
    /// For each MiB of slivers, once.
    write_price_frost: Amount,
    /// MiB of slivers that the network offers.
    capacity_units: u64,
}

impl LedgerInfo {
    async fn ask(session: &Session, network: NetworkFile) -> Result<Self, Failure> {
        let client = session.connect(network).await?;
        let proven = client.ledger().facts(&[Key::Summary], Purpose::Read).await?;
        client.shutdown().await;
        let (height, age_ms) = (proven.height().get(), proven.time().map(age_ms));
        let [Some(Record::Summary(Summary { epoch, prices, .. }))] = proven.value.as_slice() else {
            return Err(Failure::new(Exit::Verification, "unproven", "the ledger has no summary"));
        };
        Ok(Self {
            epoch: epoch.get(),
            height,
            age_ms,
            storage_price_frost: prices.storage,
            write_price_frost: prices.write,
            capacity_units: prices.capacity_units,
        })
    }
}

#[derive(Debug, Serialize)]
struct MemberInfo {
    node: String,
    shards: u16,
    stake_wal: u64,
}

impl NetworkInfo {
    fn new(network: &NetworkFile, committee: &Committee) -> Self {
        let (genesis, n_shards) = (&network.genesis, committee.n_shards());
        let k1 = u16::try_from(committee.config().k1()).expect("k1 is below n_shards");
        let for_reads = n_shards - k1;
        let for_writes = n_shards - bft::min_quorum(n_shards);
        let stake_of = |node| genesis.members.iter().find(|m| m.node == node).map(|m| m.stake_wal);
        let members = committee.members().iter().map(|member| MemberInfo {
            node: member.node.to_string(),
            shards: member.weight(),
            stake_wal: stake_of(member.node).unwrap_or(0),
        });
        Self {
            name: genesis.name.clone(),
            chain_id: genesis.chain_id().to_string(),
            epoch_ms: genesis.ledger.epoch_ms,
            max_epochs_ahead: genesis.ledger.max_epochs_ahead,
            fee_per_operation_frost: genesis.ledger.fee_per_operation,
            ledger: None,
            n_shards,
            faulty_shards_max: bft::max_faulty(n_shards),
            shards_lost_for_reads_max: for_reads,
            shards_lost_for_writes_max: for_writes,
            nodes_lost_for_reads_max: nodes_lost_max(committee, for_reads),
            nodes_lost_for_writes_max: nodes_lost_max(committee, for_writes),
            max_blob_bytes: genesis.max_blob_bytes,
            max_sliver_bytes: Limits::new(committee.config()).max_primary_bytes(),
            members: members.collect(),
            bootstrap: network.bootstrap.clone(),
            peers: None,
        }
    }
}

/// How many nodes, the largest first, may be lost while they hold at most `shards` together.
fn nodes_lost_max(committee: &Committee, shards: u16) -> usize {
    let mut weights: Vec<_> = committee.members().iter().map(|member| member.weight()).collect();
    weights.sort_unstable_by(|a, b| b.cmp(a));
    let lost = weights.iter().scan(0_u16, |sum, weight| {
        *sum += weight;
        Some(*sum)
    });
    lost.take_while(|sum| *sum <= shards).count()
}

impl fmt::Display for NetworkInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.n_shards;
        writeln!(f, "network       {}", self.name)?;
        writeln!(f, "chain id      {}", self.chain_id)?;
        let epoch = humantime::format_duration(Duration::from_millis(self.epoch_ms));
        let ahead = self.max_epochs_ahead;
        writeln!(f, "epochs        of {epoch}; at most {ahead} can be paid for ahead")?;
        if let Some(LedgerInfo {
            epoch,
            storage_price_frost: storage,
            write_price_frost: write,
            ..
        }) = &self.ledger
        {
            writeln!(f, "now           epoch {epoch}")?;
            writeln!(
                f,
                "prices        {storage} per MiB of slivers and epoch, {write} once to write it"
            )?;
        }
        writeln!(f, "fee           {} per operation", self.fee_per_operation_frost)?;
        let faulty = self.faulty_shards_max;
        writeln!(
            f,
            "shards        {n} on {} nodes; f = {faulty} may be faulty",
            self.members.len()
        )?;
        let nodes = self.members.len();
        let mut needs = |what: &str, shards: u16, lost_nodes: usize| {
            let needed = n - shards;
            writeln!(
                f,
                "{what:<12}  need any {needed} shards: {shards} may be lost, or any {lost_nodes} of \
                 the {nodes} nodes"
            )
        };
        needs("reads", self.shards_lost_for_reads_max, self.nodes_lost_for_reads_max)?;
        needs("writes", self.shards_lost_for_writes_max, self.nodes_lost_for_writes_max)?;
        let blob = human_bytes(self.max_blob_bytes);
        writeln!(f, "largest blob  {blob} ({} bytes)", self.max_blob_bytes)?;
        writeln!(f, "join at       {}", self.bootstrap.join("\n              "))?;
        write!(f, "nodes")?;
        for (i, MemberInfo { node, shards, .. }) in self.members.iter().enumerate() {
            let indent = if i == 0 { "         " } else { "\n              " };
            write!(f, "{indent}{node}  {shards} shards")?;
        }
        let Some(peers) = &self.peers else {
            return Ok(());
        };
        let answering = peers.iter().filter(|peer| peer.answers).count();
        write!(f, "\npeers         {answering} of {} nodes answer", self.members.len())?;
        for PeerInfo { node, address, answers, .. } in peers {
            let address = address.as_deref().unwrap_or("address not known");
            let silent = if *answers { "" } else { "  connected, but does not answer" };
            write!(f, "\n              {node}  {address}{silent}")?;
        }
        Ok(())
    }
}
