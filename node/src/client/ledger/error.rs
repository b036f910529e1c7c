//! What can go wrong between a client and the ledger, said so that the next step is clear.

use std::io;

use floe_protocol::{
    ledger::{AccountId, Amount, TransactionId},
    light::{LightError, Unfit},
    message::SubmitError,
};

use crate::network::RequestError;

/// Why a question to the ledger has no answer, or a transaction no receipt.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// What the client starts from cannot be trusted, or the ledger has forked.
    #[error(transparent)]
    Trust(LightError),
    /// The newest header that could be had is too old to decide anything.
    #[error("{unfit} ({answered} of {nodes} nodes answered{})", faults_list(faults))]
    Unfit {
        /// Why.
        unfit: Unfit,
        /// Nodes that answered.
        answered: usize,
        /// Nodes of the committee.
        nodes: usize,
        /// Nodes that did not: short id and reason.
        faults: Vec<(String, NodeFault)>,
    },
    /// Nobody gave an answer that proves itself.
    #[error(
        "no proven answer about {what}: {answered} of {nodes} nodes answered{}",
        faults_list(faults)
    )]
    NoAnswer {
        /// What was asked.
        what: &'static str,
        /// Nodes that answered, to no avail.
        answered: usize,
        /// Nodes of the committee.
        nodes: usize,
        /// Each one's short id and reason.
        faults: Vec<(String, NodeFault)>,
    },
    /// The account's proven balance does not cover it.
    #[error("account {account} has {balance}, {needed} are needed")]
    Funds {
        /// Who has to pay.
        account: AccountId,
        /// What it has.
        balance: Amount,
        /// What it needs at least.
        needed: Amount,
    },
    /// Nodes that weigh more than all faulty ones refused the transaction, and it was not
    /// committed.
    #[error("the ledger refuses the transaction: {refusal} (said by {nodes} nodes)")]
    Refused {
        /// Why.
        refusal: SubmitError,
        /// How many nodes said so.
        nodes: usize,
    },
    /// The ledger went on each time before what was decided could be committed.
    #[error("the ledger has changed under it {attempts} times: nothing was paid")]
    Stale {
        /// How often it was tried.
        attempts: u32,
    },
    /// It was not committed in time and never will be.
    #[error("transaction {0} was not committed in time and never will be: nothing was paid")]
    Expired(TransactionId),
    /// Other transactions of the account always came first.
    #[error("other transactions of account {account} came first, {attempts} times")]
    Displaced {
        /// The account.
        account: AccountId,
        /// How often it was tried.
        attempts: u32,
    },
    /// It was handed over, but what became of it could not be proven yet.
    #[error(
        "transaction {id} was sent, but what became of it is not known: {answered} of {nodes} \
         nodes answered{}",
        faults_list(faults)
    )]
    Unsettled {
        /// The transaction.
        id: TransactionId,
        /// Nodes that answered.
        answered: usize,
        /// Nodes of the committee.
        nodes: usize,
        /// Each one's short id and reason.
        faults: Vec<(String, NodeFault)>,
    },
    /// An amount exceeds what an amount can be.
    #[error("amount out of range")]
    Overflow,
    /// The client's own thread could not be started.
    #[error("cannot start the thread that verifies: {0}")]
    Thread(#[from] io::Error),
    /// The client has been shut down.
    #[error("the client has stopped")]
    Stopped,
}

/// What was wrong with the answer of one node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeFault {
    /// None came.
    #[error(transparent)]
    Silent(#[from] RequestError),
    /// It has too much to do.
    #[error("node is busy")]
    Busy,
    /// It does not have what was asked for (yet).
    #[error("node does not know it yet")]
    Behind,
    /// It refused the transaction.
    #[error("{0}")]
    Refused(SubmitError),
    /// It answered another question.
    #[error("node gave another answer than asked for")]
    WrongAnswer,
    /// It told what does not verify, and is not asked again.
    #[error("node lied: {0}")]
    Lied(LightError),
    /// What it told is older than can be trusted.
    #[error("{0}")]
    TooOld(LightError),
}

impl NodeFault {
    /// Whether the node answered at all.
    pub(super) const fn answered(&self) -> bool {
        !matches!(self, Self::Silent(_))
    }
}

fn faults_list(faults: &[(String, NodeFault)]) -> String {
    let items: Vec<_> =
        faults.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
    if items.is_empty() { String::new() } else { format!("; {}", items.join("; ")) }
}
