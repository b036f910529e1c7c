//! What a node that joins sends, and what a refusal of it means.
//!
//! A transaction is judged by the node's own state before it goes into the node's own mempool. So
//! what can never be committed is not sent at all, again and again; its refusal says what to do. A
//! refusal that may pass, because the wallet is busy or blocks are full, is told once, and the step
//! is tried again later.

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    ledger::{
        NodeIdentity, NodeSettings, Operation, OperationError, State, Timestamp, Transaction,
        TransactionError,
    },
    mempool::MempoolError,
};
use tokio::{task::spawn_blocking, time::Instant};

use super::{Joining, Volunteer, step::Action};
use crate::{
    cli::exit::{Exit, Failure},
    service::ledger::wall_clock,
};

/// For how long a transaction can be included, in ledger time.
const LIFETIME_MS: u64 = 60_000;
/// How soon a step is tried again that could not be taken.
const AGAIN: Duration = Duration::from_secs(5);

/// What has been sent.
#[derive(Debug, Default)]
pub(super) struct Sending {
    sent: Option<Sent>,
    not_before: Option<Instant>,
    /// Why a step could not be taken, as it was told last.
    told: Option<String>,
}

/// A transaction on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    expires: Timestamp,
}

/// Why a transaction was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotSent {
    /// It can never be included.
    #[error(transparent)]
    Wrong(#[from] TransactionError),
    /// The ledger would refuse it.
    #[error(transparent)]
    Refused(#[from] OperationError),
    /// The mempool has not taken it.
    #[error(transparent)]
    NotTaken(#[from] MempoolError),
    /// The node stops, or its state was overtaken.
    #[error("the node is busy")]
    Busy,
}

impl NotSent {
    /// Whether the same may be taken later.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Wrong(_) => false,
            // What is missing comes with a block, or is said by the next step.
            Self::Refused(error) => matches!(
                error,
                OperationError::Nonce { .. }
                    | OperationError::Expired { .. }
                    | OperationError::Funds { .. }
                    | OperationError::BlockFull
            ),
            Self::NotTaken(_) | Self::Busy => true,
        }
    }

    /// What it means to whoever joins.
    fn failure(&self, action: &Action) -> Failure {
        let step = match action {
            Action::Register => "registering the node",
            Action::Update => "publishing the node's addresses",
            Action::Stake(_) => "staking",
            Action::Unjail => "unjailing the node",
        };
        let failure = |code, hint: &str| {
            Failure::new(Exit::Refused, code, format!("{step} is refused: {self}")).hint(hint)
        };
        match self {
            Self::Wrong(_) => failure("bad_transaction", "check --external and --commission-bps"),
            Self::Refused(OperationError::KeyTaken | OperationError::Identity) => failure(
                "key_taken",
                "another node is registered with one of these keys: join with another --dir, \
                 which gets keys of its own",
            ),
            Self::Refused(OperationError::NotOwner { .. }) => failure(
                "not_operator",
                "another account runs this node: name its wallet with --wallet",
            ),
            Self::Refused(OperationError::PoolClosed) => {
                failure("pool_closed", "the node was slashed to nothing: join with another --dir")
            }
            Self::Refused(OperationError::Fee { .. }) => {
                failure("fee", "fees have changed: use a newer version of floe")
            }
            _ => failure("refused", "`floe node status` shows what the ledger knows of the node"),
        }
    }

    /// What to do about a refusal that may pass.
    const fn advice(&self) -> &'static str {
        match self {
            Self::Refused(OperationError::Funds { .. })
            | Self::NotTaken(MempoolError::Unaffordable) => {
                "have more WAL sent to the wallet, or wait for what it has sent"
            }
            Self::NotTaken(
                MempoolError::FeeTooLow { .. }
                | MempoolError::AccountFull
                | MempoolError::NonceTooHigh { .. },
            ) => "another transaction of this wallet waits: it goes on after that",
            _ => "it is tried again",
        }
    }
}

impl Sending {
    /// Whether a step may be taken by a wallet whose next nonce this is.
    pub(super) fn is_free(&self, state: &State, nonce: u64) -> bool {
        let under_way = |sent: Sent| sent.nonce >= nonce && state.tip().time <= sent.expires;
        let paused = self.not_before.is_some_and(|until| Instant::now() < until);
        !paused && !self.sent.is_some_and(under_way)
    }
}

impl Joining<'_> {
    /// Takes a step.
    ///
    /// # Errors
    /// That it will never be possible, and what to do.
    pub(super) async fn send(
        &mut self,
        state: &Arc<State>,
        action: &Action,
        nonce: u64,
    ) -> Result<(), Failure> {
        let not_sent = match self.hand_in(state, action, nonce).await {
            Ok(sent) => {
                self.sending = Sending { sent: Some(sent), ..Sending::default() };
                return Ok(());
            }
            Err(not_sent) => not_sent,
        };
        if !not_sent.may_pass() {
            return Err(not_sent.failure(action));
        }
        self.sending.not_before = Some(Instant::now() + AGAIN);
        let text = format!("{not_sent}; {}", not_sent.advice());
        if !matches!(not_sent, NotSent::Busy) && self.sending.told.as_ref() != Some(&text) {
            self.session.output.warning(&text);
            self.sending.told = Some(text);
        }
        Ok(())
    }

    /// Puts a transaction into the node's mempool, and has it spread.
    async fn hand_in(
        &self,
        state: &Arc<State>,
        action: &Action,
        nonce: u64,
    ) -> Result<Sent, NotSent> {
        let now = wall_clock().max(state.tip().time);
        let expires = now.plus_ms(LIFETIME_MS);
        let transaction = Transaction {
            sender: self.volunteer.wanted.account,
            nonce,
            fee: state.parameters().ledger.fee_per_operation,
            expires,
            operations: vec![self.operation(state, action).await.ok_or(NotSent::Busy)?],
        };
        let signed = transaction.sign(state.chain(), &self.volunteer.wallet);
        let verified = Arc::new(signed.verify(state.chain())?);
        let (ledger, at, judged) = (self.ledger.clone(), Arc::clone(state), Arc::clone(&verified));
        let checked = spawn_blocking(move || at.check(ledger.store().as_ref(), &judged, now)).await;
        match checked {
            Ok(Ok(judged)) => judged?,
            Ok(Err(_)) | Err(_) => return Err(NotSent::Busy),
        }
        let inserted = self.ledger.insert(vec![verified], true).await;
        let inserted = inserted.map_err(|_| NotSent::Busy)?;
        match inserted.into_iter().next() {
            None | Some(Ok(()) | Err(MempoolError::Known)) => Ok(Sent { nonce, expires }),
            Some(Err(error)) => Err(error.into()),
        }
    }

    async fn operation(&self, state: &State, action: &Action) -> Option<Operation> {
        let Volunteer { keys, wanted, commission_bps, .. } = &self.volunteer;
        let parameters = &state.parameters().ledger;
        let node = keys.node.public();
        Some(match action {
            Action::Stake(amount) => Operation::Stake { node, amount: *amount },
            Action::Unjail => Operation::Unjail { node },
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

#[cfg(test)]
mod tests {
    use floe_protocol::ledger::Amount;

    use super::*;

    #[test]
    fn what_may_pass_is_waited_for_and_what_may_not_is_an_error_with_a_next_step() {
        let (balance, needed) = (Amount::ZERO, Amount::from_wal(1));
        let account =
            floe_protocol::ledger::AccountId::new(floe_protocol::keys::NodeId::new([1; 32]));
        let passing = [
            NotSent::Busy,
            NotSent::NotTaken(MempoolError::Full),
            NotSent::NotTaken(MempoolError::FeeTooLow { min: needed }),
            NotSent::Refused(OperationError::Funds { account, balance, needed }),
        ];
        for not_sent in passing {
            assert!(not_sent.may_pass(), "{not_sent}");
        }
        let table = [
            (NotSent::Wrong(TransactionError::Field("settings")), "bad_transaction"),
            (NotSent::Refused(OperationError::KeyTaken), "key_taken"),
            (NotSent::Refused(OperationError::PoolClosed), "pool_closed"),
            (NotSent::Refused(OperationError::Overflow), "refused"),
        ];
        for (not_sent, code) in table {
            assert!(!not_sent.may_pass(), "{not_sent}");
            let failure = not_sent.failure(&Action::Register);
            assert_eq!((failure.exit(), failure.code()), (Exit::Refused, code));
            assert!(failure.message().starts_with("registering the node is refused: "));
            assert!(failure.hint_text().is_some());
        }
    }
}
