//! `floe node join`: keys, registration, stake, and a node that serves, in one command.
//!
//! The node is started first and follows the ledger; what it then knows decides what is done next
//! (`step.rs`), and transactions go through its own mempool. So nothing is believed that the node
//! has not executed itself, and a command that is repeated goes on where it was.
//!
//! Deliberately not here: reports of readiness, which every node makes by itself.

mod step;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use floe_protocol::{
    genesis::GenesisMember,
    keys::KeyPair,
    ledger::{
        AccountId, Amount, NodeIdentity, NodeSettings, Operation, State, Timestamp, Transaction,
    },
    message::{LedgerRequest, LedgerResponse, Request, Response},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, spawn_blocking},
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use self::step::{Action, Facts, Wanted};
use super::{RunArgs, config, place};
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
command after an interruption: it goes on where it was, and nothing is paid twice.

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
/// For how long a transaction can be included, in ledger time.
const LIFETIME_MS: u64 = 60_000;

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
    #[arg(long, value_name = "BPS", default_value_t = 0)]
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

/// Makes what is not there, and the configuration of the node.
pub(super) fn prepare(
    session: &Session,
    arguments: JoinArgs,
) -> Result<(NodeConfig, Volunteer), Failure> {
    let JoinArgs { genesis, stake, commission_bps, run } = arguments;
    super::make_dir(&run.dir)?;
    let network = place::network_to_join(session, &run.dir, (genesis.as_deref(), &run.bootstrap))?;
    let path = NodePaths::below(&run.dir).key;
    if !path.exists() {
        NodeKeys::generate()?.create(&path)?;
    }
    let keys = NodeKeys::open(&path)?;
    let wallet = place::wallet_or_new(session, &run.dir)?;
    let account = place::account(&wallet);
    write_entry(&run.dir, &keys, account)?;
    let addresses = run.external.iter().map(ToString::to_string).collect();
    let wanted = Wanted { account, stake, addresses };
    let volunteer = Volunteer { keys, wallet, wanted, commission_bps };
    let first_state = place::first_state(session, &run.dir, genesis.as_deref());
    let mut config = config(run, network)?;
    config.first_state = first_state;
    Ok((config, volunteer))
}

/// Writes the node's public entry, as `floe node init` does.
fn write_entry(dir: &std::path::Path, keys: &NodeKeys, operator: AccountId) -> Result<(), Failure> {
    let path = dir.join("member.json");
    if path.exists() {
        return Ok(());
    }
    let member = GenesisMember::new(&keys.node, &keys.bls, operator, super::DEFAULT_STAKE_WAL);
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
    sent: Option<Sent>,
}

/// A transaction on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    expires: Timestamp,
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
            sent: None,
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
pub(super) async fn step(joining: &mut Option<Joining<'_>>, node: &NodeHandle) {
    if let Some(joining) = joining {
        joining.step(node).await;
    }
}

impl Joining<'_> {
    async fn step(&mut self, node: &NodeHandle) {
        let state = self.state.borrow_and_update().clone();
        let Some((mut facts, nonce)) = self.facts(&state).await else {
            // The state was overtaken while it was read: the next one comes with the next block.
            return;
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
        let under_way = |sent: Sent| sent.nonce >= nonce && state.tip().time <= sent.expires;
        match step.action {
            Some(action) if !self.sent.is_some_and(under_way) => {
                self.sent = self.send(&state, &action, nonce).await;
            }
            _ => {}
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
                .filter(|shard| shards.get(shard.as_usize()).is_some_and(|shard| shard.ready));
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

    /// Puts a transaction into the node's mempool, and has it spread.
    async fn send(&self, state: &State, action: &Action, nonce: u64) -> Option<Sent> {
        let expires = wall_clock().max(state.tip().time).plus_ms(LIFETIME_MS);
        let wallet = &self.volunteer.wallet;
        let transaction = Transaction {
            sender: self.volunteer.wanted.account,
            nonce,
            fee: state.parameters().ledger.fee_per_operation,
            expires,
            operations: vec![self.operation(state, action).await?],
        };
        let signed = transaction.sign(state.chain(), wallet);
        let verified = match signed.verify(state.chain()) {
            Ok(verified) => verified,
            Err(error) => {
                self.session.output.warning(format_args!("{action:?}: {error}"));
                return None;
            }
        };
        match self.ledger.insert(vec![Arc::new(verified)], true).await {
            Ok(results) => {
                for error in results.into_iter().filter_map(Result::err) {
                    tracing::debug!(%error, ?action, "not taken into the mempool");
                }
            }
            // The node is about to say so.
            Err(error) => tracing::debug!(%error, "nothing is sent"),
        }
        Some(Sent { nonce, expires })
    }

    async fn operation(&self, state: &State, action: &Action) -> Option<Operation> {
        let Volunteer { keys, wanted, commission_bps, .. } = &self.volunteer;
        let parameters = &state.parameters().ledger;
        let node = keys.node.public();
        Some(match action {
            Action::Stake(amount) => Operation::Stake { node, amount: *amount },
            Action::Register => {
                let settings = NodeSettings {
                    addresses: wanted.addresses.clone(),
                    commission_bps: *commission_bps,
                    storage_price: parameters.storage_price,
                    write_price: parameters.write_price,
                    capacity_units: parameters.capacity_units,
                };
                let (chain, account) = (*state.chain(), wanted.account);
                let keys = keys.clone();
                let identity = spawn_blocking(move || {
                    NodeIdentity::new(&chain, &account, &keys.node, &keys.bls)
                });
                Operation::RegisterNode { identity: Box::new(identity.await.ok()?), settings }
            }
            Action::Update => {
                let (ledger, state) = (self.ledger.clone(), state.clone());
                let record = spawn_blocking(move || state.node(ledger.store().as_ref(), &node));
                let mut settings = record.await.ok()?.ok()??.settings;
                settings.addresses.clone_from(&wanted.addresses);
                Operation::UpdateNode { node, settings }
            }
        })
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
