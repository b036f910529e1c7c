//! Storage challenges and what members earn, of facts that one header proves.

use floe_protocol::{
    challenge::Score,
    committee::Committee,
    index::{Epoch, Height},
    keys::NodeId,
    ledger::{Amount, Challenges, Key, Node, Prospect, Record, Summary, Terms, Timestamp},
    light::LightError,
};

use super::{LedgerClient, LedgerError, Purpose, epoch::committee};

/// How the challenges of an epoch stand.
#[derive(Clone, Debug)]
pub struct EpochChallenges {
    /// The ledger at a glance.
    pub summary: Summary,
    /// The committee of the epoch.
    pub committee: Committee,
    /// The challenges; none has been opened if the ledger knows of none.
    pub challenges: Challenges,
    /// The height after which all of that is so.
    pub height: Height,
    /// The ledger's time; none before the first block.
    pub time: Option<Timestamp>,
}

/// What members earn in the running epoch.
#[derive(Clone, Debug)]
pub struct Earnings {
    /// The running epoch.
    pub epoch: Epoch,
    /// What has been paid for it so far.
    pub bucket: Amount,
    /// The members, or the node that was asked for.
    pub nodes: Vec<Earner>,
    /// The height after which all of that is so.
    pub height: Height,
}

/// A node that earns.
#[derive(Clone, Debug)]
pub struct Earner {
    /// The node.
    pub id: NodeId,
    /// Its record.
    pub node: Node,
    /// Its shards in the running epoch: none if it is no member.
    pub weight: u16,
    /// How it does in the epoch's challenges.
    pub score: Score,
    /// What the epoch would bring it if it ended now; none if it is no member.
    pub prospect: Option<Prospect>,
}

impl EpochChallenges {
    /// How a node does; none if it is no member.
    #[must_use]
    pub fn score_of(&self, node: &NodeId) -> Option<Score> {
        let position = self.committee.position(node)?;
        Some(self.challenges.score(position))
    }
}

impl LedgerClient {
    /// The challenges of an epoch, the running one if none is named; none if its committee is not
    /// known: it is long over, or not selected yet.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn challenges(
        &self,
        epoch: Option<Epoch>,
    ) -> Result<Option<EpochChallenges>, LedgerError> {
        let proven = self.facts(&[Key::Summary], Purpose::Decide).await?;
        let (height, time) = (proven.height(), proven.time());
        let summary = summary(proven.value)?;
        let epoch = epoch.unwrap_or(summary.epoch);
        let keys = [Key::Committee(epoch), Key::Challenges(epoch)];
        let records = self.facts_at(proven.header.as_ref(), &keys).await?;
        let mut records = records.into_iter();
        let Some(committee) = records.next().flatten().and_then(committee) else {
            return Ok(None);
        };
        let challenges = challenges(records.next().flatten(), &committee);
        Ok(Some(EpochChallenges { summary, committee, challenges, height, time }))
    }

    /// What all members earn, or a single node; none if there is no such node.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn earnings(&self, node: Option<NodeId>) -> Result<Option<Earnings>, LedgerError> {
        let proven = self.facts(&[Key::Summary], Purpose::Decide).await?;
        let height = proven.height();
        let epoch = summary(proven.value)?.epoch;
        let header = proven.header.as_ref();
        let keys =
            [Key::Committee(epoch), Key::Epoch(epoch), Key::Terms(epoch), Key::Challenges(epoch)];
        let records = self.facts_at(header, &keys).await?;
        let [members, record, terms, rounds] =
            <[Option<Record>; 4]>::try_from(records).map_err(|_| absent())?;
        let committee = members.and_then(committee).ok_or_else(absent)?;
        let (Some(Record::Epoch(record)), Some(Record::Terms(terms))) = (record, terms) else {
            return Err(absent());
        };
        let challenges = challenges(rounds, &committee);
        let ids: Vec<_> = match node {
            Some(node) => vec![node],
            None => committee.members().iter().map(|member| member.node).collect(),
        };
        let keys: Vec<_> = ids.iter().copied().map(Key::Node).collect();
        let found = ids.into_iter().zip(self.facts_at(header, &keys).await?);
        let mut nodes = Vec::with_capacity(keys.len());
        for (id, found) in found {
            let Some(Record::Node(node)) = found else { return Ok(None) };
            let facts = (&committee, terms.as_slice(), &challenges);
            nodes.push(Earner::new(id, *node, record.bucket, facts)?);
        }
        Ok(Some(Earnings { epoch, bucket: record.bucket, nodes, height }))
    }
}

impl Earner {
    fn new(
        id: NodeId,
        node: Node,
        bucket: Amount,
        (committee, terms, challenges): (&Committee, &[Terms], &Challenges),
    ) -> Result<Self, LedgerError> {
        let Some(position) = committee.position(&id) else {
            return Ok(Self { id, node, weight: 0, score: Score::default(), prospect: None });
        };
        let score = challenges.score(position);
        let weight = committee.members().get(position).map_or(0, |member| member.weight());
        let terms = terms.get(position).ok_or_else(absent)?;
        let shards = (weight, committee.n_shards());
        let prospect = node.prospect(bucket, shards, terms, &score);
        let prospect = Some(prospect.ok_or(LedgerError::Overflow)?);
        Ok(Self { id, node, weight, score, prospect })
    }
}

/// Every state has what is missing then: a quorum has executed it.
const fn absent() -> LedgerError {
    LedgerError::Trust(LightError::OtherAnswer)
}

fn summary(records: Vec<Option<Record>>) -> Result<Summary, LedgerError> {
    match records.into_iter().next().flatten() {
        Some(Record::Summary(summary)) => Ok(summary),
        _ => Err(absent()),
    }
}

fn challenges(record: Option<Record>, committee: &Committee) -> Challenges {
    match record {
        Some(Record::Challenges(challenges)) => *challenges,
        _ => Challenges::new(committee.members().len()),
    }
}
