//! What an account's stake with a node is worth, of facts that one header proves.

use floe_protocol::{
    index::Epoch,
    keys::NodeId,
    ledger::{AccountId, Key, Node, Rate, Record, Stake, StakeWorth},
    light::LightError,
};

use super::{LedgerClient, LedgerError, Purpose};

/// A stake, and the node that it is with.
#[derive(Clone, Debug)]
pub struct Staked {
    /// The running epoch.
    pub epoch: Epoch,
    /// The node.
    pub node: Node,
    /// What the stake is worth.
    pub worth: StakeWorth,
}

impl LedgerClient {
    /// What an account has staked with a node, which may be nothing; none if there is no such node.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn staked(
        &self,
        account: AccountId,
        node: NodeId,
    ) -> Result<Option<Staked>, LedgerError> {
        // Every state has what is missing then: a quorum has executed it.
        let absent = || LedgerError::Trust(LightError::OtherAnswer);
        let keys = [Key::Summary, Key::Node(node), Key::Stake(account, node)];
        let proven = self.facts(&keys, Purpose::Decide).await?;
        let [summary, record, stake] =
            <[Option<Record>; 3]>::try_from(proven.value).map_err(|_| absent())?;
        let Some(Record::Summary(summary)) = summary else { return Err(absent()) };
        let Some(Record::Node(record)) = record else { return Ok(None) };
        let stake = match stake {
            Some(Record::Stake(stake)) => stake,
            _ => Stake::default(),
        };
        let keys = stake.incoming.iter().map(|incoming| Key::Rate(node, incoming.epoch));
        let keys: Vec<_> = keys.collect();
        let rates: Vec<Option<Rate>> = match keys.as_slice() {
            [] => Vec::new(),
            keys => {
                let records = self.facts_at(proven.header.as_ref(), keys).await?;
                let rate = |record| match record {
                    Some(Record::Rate(rate)) => Some(rate),
                    _ => None,
                };
                records.into_iter().map(rate).collect()
            }
        };
        let rate = |epoch| {
            let at = stake.incoming.iter().position(|incoming| incoming.epoch == epoch)?;
            *rates.get(at)?
        };
        let worth = stake.worth(&record, summary.epoch, &rate).ok_or_else(absent)?;
        Ok(Some(Staked { epoch: summary.epoch, node: *record, worth }))
    }
}
