//! `floe node join`: keys, registration, stake, and a node that serves, in one command.
//!
//! The node is started first and follows the ledger; what it then knows decides what is done next
//! (`step.rs`), and transactions go through its own mempool (`send.rs`). So nothing is believed that
//! the node has not executed itself, and a command that is repeated goes on where it was. What can be
//! said of the flags is said before anything is written.
//!
//! Deliberately not here: reports of readiness, which every node makes by itself.

mod send;
mod step;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, value_parser};
use floe_protocol::{
    genesis::GenesisMember,
    keys::KeyPair,
    ledger::{
        AccountId, Amount, COMMISSION_BPS_MAX, MAX_NODE_ADDRESS_BYTES, MAX_NODE_ADDRESSES,
        ShardRecord, State,
    },
    message::{LedgerRequest, LedgerResponse, Request, Response},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use self::{
    send::Sending,
    step::{Facts, Wanted},
};
use super::{
    RunArgs, config,
    init::{DEFAULT_STAKE_WAL, make_dir},
    place,
};
use crate::{
    NodeConfig, NodeHandle,
    cli::{exit::Failure, out_file::write_file, session::Session, status_line::StatusLine},
    config::NodePaths,
    key_file::NodeKeys,
    network::Network,
    service::ledger::{Ledger, wall_clock},
};

pub(super) const JOIN_HELP: &str = "\
Makes the node's keys if there are none, starts the node, and enters it in the network's ledger. A
status line says what it waits for until it serves; then it goes on as `floe node run` does. Repeat the
command after an interruption: it goes on where it was, and nothing is paid twice. A node that was
jailed is unjailed once its term is over, if the wallet is its operator's.

The account that pays and becomes the node's operator is that of --wallet, or else one that is made
in DIR/operator.key. DIR keeps the network file: `floe node run --dir DIR` is enough later on.

Examples:
  floe node join --dir ~/floe --network network.json --stake 1000
  floe node join --dir ~/floe --network network.json --stake 1000 --wallet savings.key --quota 500GiB
  floe node join --dir ~/floe --genesis genesis.json --peer /dns4/floe.example/tcp/4950/p2p/12D3KooW…";

/// How often the status is looked at, beside every block.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a peer is asked for its newest height.
const TIP_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to tell.
const TIP_TIMEOUT: Duration = Duration::from_secs(3);

/// Arguments of `floe node join`.
#[derive(Debug, Args)]
#[command(after_help = JOIN_HELP)]
pub(in crate::cli) struct JoinArgs {
    /// The genesis of the network, instead of --network; needs --peer
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// What the node's pool is to hold: what is missing is staked, once
    #[arg(long, value_name = "WAL")]
    stake: Option<Amount>,
    /// The operator's part of rewards, in hundredths of a per cent
    #[arg(
        long,
        value_name = "BPS",
        default_value_t = 0,
        value_parser = value_parser!(u16).range(0..=i64::from(COMMISSION_BPS_MAX))
    )]
    commission_bps: u16,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// Who joins.
#[derive(Debug)]
pub(super) struct Volunteer {
    keys: NodeKeys,
    wallet: KeyPair,
    wanted: Wanted,
    commission_bps: u16,
}

/// Makes what is not there, and the configuration of the node. What is wrong with the arguments is
/// found out before anything is written.
pub(super) fn prepare(
    session: &Session,
    arguments: JoinArgs,
) -> Result<(NodeConfig, Volunteer), Failure> {
    let JoinArgs { genesis, stake, commission_bps, run } = arguments;
    let addresses: Vec<_> = run.external.iter().map(ToString::to_string).collect();
    check_addresses(&addresses)?;
    let network = place::network_to_join(session, &run.dir, (genesis.as_deref(), &run.bootstrap))?;
    check_stake(session, stake, network.genesis.ledger.min_stake)?;
    let wallet = place::wallet(session, &run.dir)?;
    if wallet.is_none()
        && let Some(operator) = place::operator(&run.dir)
    {
        let message = format!("account {operator} runs this node, and its wallet is not named");
        return Err(Failure::usage("no_wallet", message).hint(format!(
            "name it with --wallet, or serve without it: floe node run --dir {}",
            run.dir.display()
        )));
    }

    make_dir(&run.dir)?;
    let path = NodePaths::below(&run.dir).key;
    if !path.exists() {
        NodeKeys::generate()?.create(&path)?;
    }
    let keys = NodeKeys::open(&path)?;
    let wallet = wallet.map_or_else(|| place::new_wallet(&run.dir), Ok)?;
    place::keep_network(&run.dir, &network)?;
    let account = place::account(&wallet);
    write_entry(&run.dir, &keys, account)?;
    let wanted = Wanted { account, stake, addresses };
    let volunteer = Volunteer { keys, wallet, wanted, commission_bps };
    let first_state = place::first_state(session, &run.dir, genesis.as_deref());
    let mut config = config(run, network)?;
    config.first_state = first_state;
    Ok((config, volunteer))
}

/// Whether the ledger takes these addresses of a node, and others can dial them.
fn check_addresses(addresses: &[String]) -> Result<(), Failure> {
    let hint = "name addresses like --external /dns4/floe.example/tcp/4950";
    if addresses.len() > MAX_NODE_ADDRESSES {
        let message = format!("a node publishes at most {MAX_NODE_ADDRESSES} addresses");
        return Err(Failure::usage("bad_address", message).hint(hint));
    }
    let dialable = |address: &&String| {
        let known = ["/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/"];
        known.iter().any(|start| address.starts_with(start))
            && (address.contains("/tcp/") || address.contains("/udp/"))
            && address.len() <= MAX_NODE_ADDRESS_BYTES
    };
    match addresses.iter().find(|address| !dialable(address)) {
        None => Ok(()),
        Some(address) => {
            let message = format!("{address} is no address that others can dial");
            Err(Failure::usage("bad_address", message).hint(hint))
        }
    }
}

fn check_stake(session: &Session, stake: Option<Amount>, min: Amount) -> Result<(), Failure> {
    match stake {
        Some(stake) if stake.is_zero() => {
            let message = "a stake of nothing is none";
            Err(Failure::usage("bad_amount", message).hint("leave --stake out to stake nothing"))
        }
        Some(stake) if stake < min => {
            session.output.warning(format_args!(
                "a node needs a stake of {min} to be selected: with {stake} it waits until others \
                 add to it"
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Writes the node's public entry, as `floe node init` does.
fn write_entry(dir: &std::path::Path, keys: &NodeKeys, operator: AccountId) -> Result<(), Failure> {
    let path = dir.join("member.json");
    if path.exists() {
        return Ok(());
    }
    let member = GenesisMember::new(&keys.node, &keys.bls, operator, DEFAULT_STAKE_WAL);
    let mut text = serde_json::to_string_pretty(&member).expect("strings and numbers serialise");
    text.push('\n');
    write_file(&path, text.as_bytes(), false)
}

/// A volunteer whose node runs.
#[derive(Debug)]
pub(super) struct Joining<'a> {
    session: &'a Session,
    volunteer: Volunteer,
    line: StatusLine,
    ledger: Ledger,
    state: watch::Receiver<Arc<State>>,
    /// The newest height that somebody has told of.
    newest: watch::Receiver<Option<u64>>,
    asking: AbortHandle,
    look: Interval,
    sending: Sending,
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Volunteer {
    /// Begins, once the node runs.
    pub(super) fn begin<'a>(self, session: &'a Session, node: &NodeHandle) -> Joining<'a> {
        let ledger = node.ledger().clone();
        let (told, newest) = watch::channel(None);
        let asking = tokio::spawn(ask_tips(node.network().clone(), told)).abort_handle();
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Joining {
            session,
            volunteer: self,
            line: StatusLine::new(session),
            state: ledger.state(),
            ledger,
            newest,
            asking,
            look,
            sending: Sending::default(),
        }
    }
}

/// Waits until there may be something to do or to show.
pub(super) async fn due(joining: &mut Option<Joining<'_>>) {
    match joining {
        None => std::future::pending().await,
        Some(joining) => tokio::select! {
            _ = joining.look.tick() => {}
            Ok(()) = joining.state.changed() => {}
        },
    }
}

/// Does the next step, and shows what is waited for.
///
/// # Errors
/// That the node cannot join, and what to do.
pub(super) async fn step(
    joining: &mut Option<Joining<'_>>,
    node: &NodeHandle,
) -> Result<(), Failure> {
    match joining {
        Some(joining) => joining.step(node).await,
        None => Ok(()),
    }
}

impl Joining<'_> {
    async fn step(&mut self, node: &NodeHandle) -> Result<(), Failure> {
        let state = self.state.borrow_and_update().clone();
        let Some((mut facts, nonce)) = self.facts(&state).await else {
            // The state was overtaken while it was read: the next one comes with the next block.
            return Ok(());
        };
        facts.newest = *self.newest.borrow();
        facts.pairs = node.usage().pairs;
        facts.missing_pairs = node.repair().borrow().missing_pairs;

        if step::has_staked(&facts, &self.volunteer.wanted) {
            // Who takes it out later, to leave, does not want it back.
            self.volunteer.wanted.stake = None;
        }
        let step = step::next(&facts, &self.volunteer.wanted);
        self.line.show(self.session, &step.waiting);
        let Some(action) = step.action.filter(|_| self.sending.is_free(&state, nonce)) else {
            return Ok(());
        };
        match self.send(&state, &action, nonce).await {
            // A member goes on serving although something that was wished is refused.
            Err(failure) if facts.shards > 0 => {
                self.session.output.warning(failure.message());
                self.volunteer.wanted.stake = None;
                self.volunteer.wanted.addresses.clear();
                Ok(())
            }
            sent => sent,
        }
    }

    /// What the state says, and the nonce of the wallet's next transaction.
    async fn facts(&self, state: &Arc<State>) -> Option<(Facts, u64)> {
        let (ledger, state) = (self.ledger.clone(), Arc::clone(state));
        let (account, node) = (self.volunteer.wanted.account, self.volunteer.keys.node.public());
        let read = spawn_blocking(move || {
            let reader = ledger.store().as_ref();
            let account = state.account(reader, &account)?;
            let record = state.node(reader, &node)?;
            let shards = state.shards(reader)?;
            let epoch = state.committee().epoch();
            let next = state.committee_of(reader, epoch.plus(1))?;
            let own = state.committee().member(&node).map_or(&[][..], |member| &member.shards);
            let ready = own
                .iter()
                .filter(|shard| shards.get(shard.as_usize()).is_some_and(ShardRecord::is_ready));
            let parameters = &state.parameters().ledger;
            let now = wall_clock();
            let begun = state.tip().height.get() > 0;
            let facts = Facts {
                height: state.tip().height.get(),
                newest: None,
                age_ms: begun.then(|| now.ms_since(state.tip().time)),
                heartbeat_ms: parameters.heartbeat_ms,
                epoch: epoch.get(),
                deadline_ms: state.epoch_deadline().map_or(0, |deadline| deadline.ms_since(now)),
                epoch_ms: parameters.epoch_ms,
                selected: next.map(|next| next.member(&node).map_or(0, |member| member.weight())),
                balance: account.balance,
                fee: parameters.fee_per_operation,
                min_stake: parameters.min_stake,
                jail_epochs: parameters.jail_epochs,
                node: record,
                shards: u16::try_from(own.len()).unwrap_or(u16::MAX),
                ready: u16::try_from(ready.count()).unwrap_or(u16::MAX),
                pairs: 0,
                missing_pairs: 0,
            };
            Ok::<_, floe_protocol::ledger::ReadError>((facts, account.nonce))
        });
        match read.await {
            Ok(Ok(read)) => Some(read),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the state was not read");
                None
            }
            Err(_) => None,
        }
    }
}

/// Asks one connected peer after the other for its newest height: shown, and believed by nobody.
async fn ask_tips(network: Network, told: watch::Sender<Option<u64>>) {
    let mut due = interval(TIP_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0.. {
        due.tick().await;
        let connected: Vec<_> = network.peers().borrow().connected.keys().copied().collect();
        let Some(peer) = connected.get(turn % connected.len().max(1)).copied() else { continue };
        let asked = network.request(peer, Request::Ledger(LedgerRequest::Tip));
        let Ok(Ok(Response::Ledger(answer))) = timeout(TIP_TIMEOUT, asked).await else { continue };
        if let LedgerResponse::Tip(Some(tip)) = *answer {
            told.send_replace(Some(tip.header.height.get()));
        }
    }
}
