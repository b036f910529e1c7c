//! Who holds which shard now: what a read asks by.
//!
//! Committee and readiness of shards are facts of the ledger, proven by one header. They change
//! with an epoch, and while shards move after it; once all are ready nothing changes before the
//! next epoch. So they are kept, and asked for again when the epoch is another one, every two
//! seconds while shards move, and when a read finds nobody who has what it needs.
//!
//! Invariant: a read never fails for want of an answer here. With nobody to ask, what was known
//! last counts, and before that the committee alone: what nodes send is verified in any case.

use std::{sync::Arc, time::Duration};

use floe_protocol::{
    committee::Committee,
    holders::Holders,
    index::{Epoch, ShardIndex},
    ledger::{Key, Record, ShardRecord},
    light::LightError,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Client, LedgerError,
    ledger::{LedgerClient, Proven, Purpose},
};

/// How long what is known counts while shards move.
const AGAIN: Duration = Duration::from_secs(2);

/// What is known, shared by all clones of a client.
#[derive(Clone, Debug)]
pub(super) struct HoldersCache {
    known: Arc<watch::Sender<Option<Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    holders: Arc<Holders>,
    /// All shards are where they belong.
    settled: bool,
    /// When it was asked for.
    asked: Instant,
}

impl HoldersCache {
    pub(super) fn new() -> Self {
        Self { known: Arc::new(watch::Sender::new(None)) }
    }

    fn known(&self) -> Option<Known> {
        self.known.borrow().clone()
    }

    /// Whoever asks meanwhile need not ask, too.
    fn asking(&self) {
        self.known.send_modify(|known| {
            if let Some(known) = known {
                known.asked = Instant::now();
            }
        });
    }

    fn learnt(&self, holders: &Arc<Holders>) {
        let shards = 0..holders.committee().n_shards();
        let settled = shards.map(ShardIndex::new).all(|shard| holders.shard(shard).is_ready());
        let (holders, asked) = (Arc::clone(holders), Instant::now());
        self.known.send_replace(Some(Known { holders, settled, asked }));
    }
}

impl LedgerClient {
    /// Who holds which shard after the newest header: the committee of its next height and the
    /// readiness of all shards.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn holders(&self) -> Result<Proven<Holders>, LedgerError> {
        let facts = self.facts(&[Key::Summary, Key::Shards], Purpose::Read).await?;
        let other = || LedgerError::Trust(LightError::OtherAnswer);
        let Proven { value, header, fitness } = facts;
        let mut records = value.into_iter();
        let (Some(Some(Record::Summary(summary))), Some(Some(Record::Shards(shards)))) =
            (records.next(), records.next())
        else {
            // Every state has both: the genesis writes them.
            return Err(other());
        };
        let mut committee = self.committee();
        if committee.epoch() != summary.epoch {
            // The header is the last of its epoch, or this client has followed further meanwhile.
            let key = Key::Committee(summary.epoch);
            let facts = self.facts_at(header.as_ref(), &[key]).await?;
            let Some(Some(Record::Committee(bytes))) = facts.into_iter().next() else {
                return Err(other());
            };
            committee = Arc::new(Committee::from_bytes(&bytes).map_err(|_| other())?);
        }
        let value = Holders::new(committee, shards).ok_or_else(other)?;
        Ok(Proven { value, header, fitness })
    }
}

impl Client {
    /// Who holds which shard in `epoch`, as far as is known, or can be learnt.
    pub(super) async fn holders(&self, epoch: Epoch) -> Arc<Holders> {
        match self.holders.known() {
            Some(Known { holders, settled, asked })
                if holders.committee().epoch() >= epoch && (settled || asked.elapsed() < AGAIN) =>
            {
                holders
            }
            _ => self.ask_holders().await,
        }
    }

    /// The same, after what was known has led nowhere.
    pub(super) async fn holders_anew(&self) -> Arc<Holders> {
        if let Some(known) = self.holders.known() {
            sleep_until(known.asked + AGAIN).await;
            // Somebody else may have asked meanwhile.
            if let Some(newer) = self.holders.known().filter(|newer| newer.asked > known.asked) {
                return newer.holders;
            }
        }
        self.ask_holders().await
    }

    async fn ask_holders(&self) -> Arc<Holders> {
        self.holders.asking();
        match self.ledger.holders().await {
            Ok(proven) => {
                let holders = Arc::new(proven.value);
                self.holders.learnt(&holders);
                holders
            }
            Err(error) => {
                tracing::warn!(%error, "holders of shards not known: those known last are asked");
                let known = self.holders.known().map(|known| known.holders);
                known.unwrap_or_else(|| Arc::new(settled(self.committee())))
            }
        }
    }
}

/// The holders by the committee alone.
fn settled(committee: Arc<Committee>) -> Holders {
    let holder = |shard| committee.members()[committee.holder(ShardIndex::new(shard))].node;
    let shards = (0..committee.n_shards()).map(|shard| ShardRecord::settled(holder(shard)));
    let shards = shards.collect();
    Holders::new(committee, shards).expect("one record per shard")
}
