//! Facts with proofs: what the state holds, absence included, under the newest header.

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{
        Account, AccountId, Amount, Blob, EpochRecord, Key, Name, Node, Prices, Record,
        Registration, Stake, StateProof, StateProofError, Summary, Timestamp, billed_units,
    },
    light::{Fitness, LightError, VerifiedHeader, VerifiedState},
    message::{LedgerRequest, LedgerResponse, ledger::MAX_FACTS},
    registration::RegistrationId,
};

use super::{LedgerClient, LedgerError, NodeFault, Purpose};
use crate::client::blocking;

/// A proven fact, and the header that proves it.
#[derive(Clone, Debug)]
pub struct Proven<T> {
    /// What was asked for.
    pub value: T,
    /// The header after whose block it is so; none before the first block.
    pub header: Option<VerifiedHeader>,
    /// Whether that is the newest that can be known. Only what is wanted for reading may be old.
    pub fitness: Fitness,
}

impl<T> Proven<T> {
    /// The height after which it is so: 0 at genesis.
    #[must_use]
    pub fn height(&self) -> Height {
        self.header.as_ref().map_or(Height::new(0), |header| header.header().height)
    }

    /// The time of that block.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.header.as_ref().map(|header| header.header().time)
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Proven<U> {
        let Self { value, header, fitness } = self;
        Proven { value: change(value), header, fitness }
    }
}

/// What storing a blob costs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Billed units.
    pub units: u64,
    /// What it costs in all.
    pub price: Amount,
}

/// Typed questions: a method per kind of record.
macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $record:ident, $kind:ident
        = $key:expr, $purpose:ident, $value:ident => $unwrapped:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`LedgerError`].
        pub async fn $name(
            &self $(, $argument: $type)*
        ) -> Result<Proven<Option<$record>>, LedgerError> {
            let facts = self.facts(&[$key], Purpose::$purpose).await?;
            Ok(facts.map(|records| match records.into_iter().next().flatten() {
                Some(Record::$kind($value)) => Some($unwrapped),
                // A key's record is of its kind: a quorum has executed it.
                _ => None,
            }))
        }
    )*};
}

impl LedgerClient {
    questions! {
        /// The ledger at a glance: epoch, prices, where the supply is.
        summary() -> Summary, Summary = Key::Summary, Decide, value => value;
        /// An account; none if it has never had anything.
        account(id: AccountId) -> Account, Account = Key::Account(id), Decide, value => value;
        /// A blob.
        blob(id: BlobId) -> Blob, Blob = Key::Blob(id), Read, value => value;
        /// A registration.
        registration(id: RegistrationId) -> Registration, Registration
            = Key::Registration(id), Decide, value => *value;
        /// A node of the registry.
        node(id: NodeId) -> Node, Node = Key::Node(id), Decide, value => *value;
        /// What an account has staked with a node.
        stake(account: AccountId, node: NodeId) -> Stake, Stake
            = Key::Stake(account, node), Decide, value => value;
        /// A name that an account has given; none if it never has.
        name(account: AccountId, name: String) -> Name, Name
            = Key::Name(account, name), Decide, value => value;
        /// What the ledger keeps of an epoch.
        epoch(epoch: Epoch) -> EpochRecord, Epoch = Key::Epoch(epoch), Decide, value => value;
    }

    /// What an account can spend: nothing if there is no such account.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn balance(&self, account: AccountId) -> Result<Proven<Amount>, LedgerError> {
        let account = self.account(account).await?;
        Ok(account.map(|account| account.unwrap_or_default().balance))
    }

    /// The prices of the running epoch.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn prices(&self) -> Result<Proven<Prices>, LedgerError> {
        let Proven { value, header, fitness } = self.summary().await?;
        match value {
            Some(summary) => Ok(Proven { value: summary.prices, header, fitness }),
            // Every state has it: the genesis writes it.
            None => Err(LedgerError::Trust(LightError::OtherAnswer)),
        }
    }

    /// What registering a blob of this header for `epochs` epochs costs now.
    ///
    /// # Errors
    /// [`LedgerError`]; [`LedgerError::Overflow`] also for a header that no blob of this network
    /// has.
    pub async fn quote(&self, header: &BlobHeader, epochs: u32) -> Result<Quote, LedgerError> {
        let units = billed_units(header).map_err(|_| LedgerError::Overflow)?;
        let prices = self.prices().await?.value;
        let price = prices.total(units, epochs).ok_or(LedgerError::Overflow)?;
        Ok(Quote { units, price })
    }

    /// What the newest state holds under `keys`, in their order.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn facts(
        &self,
        keys: &[Key],
        purpose: Purpose,
    ) -> Result<Proven<Vec<Option<Record>>>, LedgerError> {
        let (header, fitness) = self.fresh(purpose).await?;
        let value = self.facts_at(header.as_ref(), keys).await?;
        Ok(Proven { value, header, fitness })
    }

    /// What the state holds after a block; before the first one without a header.
    pub(in crate::client) async fn facts_at(
        &self,
        header: Option<&VerifiedHeader>,
        keys: &[Key],
    ) -> Result<Vec<Option<Record>>, LedgerError> {
        let state = match header {
            Some(header) => header.state(),
            None => self.asker.keeper().genesis_state().await?,
        };
        let mut records = Vec::with_capacity(keys.len());
        while records.len() < keys.len() {
            let rest = &keys[records.len()..];
            let rest = &rest[..rest.len().min(MAX_FACTS)];
            let ask = |node| self.prove(node, (header, state), rest);
            records.extend(self.asker.question("the state", ask).await?);
        }
        Ok(records)
    }

    /// Proven records under the first of `keys`: as many as the node's answer can carry.
    async fn prove(
        &self,
        node: NodeId,
        (header, state): (Option<&VerifiedHeader>, VerifiedState),
        keys: &[Key],
    ) -> Result<Vec<Option<Record>>, NodeFault> {
        let request = LedgerRequest::Facts { height: Some(state.height()), keys: keys.to_vec() };
        let LedgerResponse::Facts { header: told, proofs } = self.asker.ask(node, request).await?
        else {
            return Err(NodeFault::WrongAnswer);
        };
        if proofs.is_empty() {
            return Err(NodeFault::Behind);
        }
        if proofs.len() > keys.len() {
            return Err(self.asker.caught(node, LightError::OtherAnswer));
        }
        if let Some(told) = told
            && header.is_none_or(|header| *header.header() != told.header)
        {
            // A forged header is a lie; a final one at this height would be a fork.
            self.asker.accept(node, told).await?;
            return Err(NodeFault::WrongAnswer);
        }
        let keys = keys[..proofs.len()].to_vec();
        let verified = blocking(move || verify(state, &keys, &proofs)).await;
        verified.map_err(|error| self.asker.caught(node, error))
    }
}

fn verify(
    state: VerifiedState,
    keys: &[Key],
    proofs: &[StateProof],
) -> Result<Vec<Option<Record>>, LightError> {
    let facts = keys.iter().zip(proofs).map(|(key, proof)| {
        let record = state.fact(key, proof)?;
        // What a quorum wrote is of its key's kind; anything else would not be a record of it.
        match &record {
            Some(record) if !is_of(key, record) => Err(LightError::Proof(StateProofError)),
            _ => Ok(record),
        }
    });
    facts.collect()
}

const fn is_of(key: &Key, record: &Record) -> bool {
    matches!(
        (key, record),
        (Key::Summary, Record::Summary(_))
            | (Key::Account(_), Record::Account(_))
            | (Key::Node(_), Record::Node(_))
            | (Key::BlsKey(_), Record::BlsKey(_))
            | (Key::Stake(..), Record::Stake(_))
            | (Key::Blob(_), Record::Blob(_))
            | (Key::Registration(_), Record::Registration(_))
            | (Key::Name(..), Record::Name(_))
            | (Key::Epoch(_), Record::Epoch(_))
            | (Key::Committee(_), Record::Committee(_))
            | (Key::Presence(_), Record::Presence(_))
            | (Key::Offence(..), Record::Offence(_))
            | (Key::Shards, Record::Shards(_))
            | (Key::Attendance, Record::Attendance(_))
            | (Key::Terms(_), Record::Terms(_))
            | (Key::Rate(..), Record::Rate(_))
            | (Key::Challenges(_), Record::Challenges(_))
    )
}
