//! What the tests of the whole system share: a peer that says exactly what a test wants it to
//! say, and a writer that is not bound to encode consistently.

#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use floe_node::{
    Client, CommittedBlock,
    client::{LedgerClient, LedgerError, ledger::Receipt},
    network::{self, Network, NetworkConfig, Role},
};
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairDigest, PairProof},
    certificate::{Certificate, ConfirmedFact},
    committee::{Committee, CommitteeFact},
    encoding::{self, Axis, BlobLayout, DigestTable, EncodedBlob, EncodingConfig},
    index::SliverPairIndex,
    keys::{BlsSignature, ChainId, KeyPair, NodeId},
    ledger::{Event, Operation, Registration},
    message::{InvalidReason, Limits, Refusal, Request, Response},
    registration::RegistrationId,
    transfer::Wanted,
};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;
use tokio::{sync::broadcast, time::timeout};

/// For whatever has to happen.
const DEADLINE: Duration = Duration::from_secs(120);
/// What tests pay for when the terms do not matter to them.
pub const WANTED: Wanted = Wanted { epochs: 2, deletable: true };

/// Waits for an event; what it tells.
pub async fn told<T>(
    blocks: &mut broadcast::Receiver<Arc<CommittedBlock>>,
    of: impl Fn(&Event) -> Option<T>,
) -> T {
    let told = async {
        loop {
            if let Some(told) = blocks.recv().await.unwrap().events.iter().find_map(&of) {
                return told;
            }
        }
    };
    timeout(DEADLINE, told).await.expect("it happens")
}

/// A light peer that sends what it is told, true or false.
pub struct RawPeer {
    pub network: Network,
    /// An honest client of the same swarm: transactions and facts go through it.
    pub client: Client,
}

impl RawPeer {
    pub async fn join(cluster: &Cluster) -> Self {
        Self::join_with_key(cluster, KeyPair::from_seed([77; 32]), Role::LightPeer).await
    }

    pub async fn join_with_key(cluster: &Cluster, key: KeyPair, role: Role) -> Self {
        let committee = cluster.committee();
        let (chain, limits) =
            (cluster.network().genesis.chain_id(), Limits::new(committee.config()));
        let mut config = NetworkConfig::new(key, chain, limits, role);
        let bootstrap = cluster.network().bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        config.committee = committee.members().iter().map(|member| member.node).collect();
        let (network, mut inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
        let mut peers = network.peers();
        peers.wait_for(|view| !view.connected.is_empty()).await.unwrap();
        Self { network, client: cluster.client().await.unwrap() }
    }

    pub async fn ask(&self, node: NodeId, request: Request) -> Response {
        self.network.request(node, request).await.unwrap()
    }

    pub fn ledger(&self) -> &LedgerClient {
        self.client.ledger()
    }

    pub fn chain(&self) -> &ChainId {
        self.client.chain()
    }

    pub fn committee(&self) -> Arc<Committee> {
        self.client.committee()
    }

    pub fn config(&self) -> EncodingConfig {
        self.client.encoding()
    }

    /// Registers a blob on the ledger, paid by `wallet`.
    pub async fn register(
        &self,
        blob: &Written,
        wallet: &KeyPair,
        Wanted { epochs, deletable }: Wanted,
    ) -> RegistrationId {
        let header = blob.header;
        let max_payment = self.ledger().quote(&header, epochs).await.unwrap().price;
        let operation = Operation::RegisterBlob { header, epochs, deletable, max_payment };
        let receipt = self.ledger().submit(vec![operation], wallet).await.unwrap();
        receipt.id.registration(self.chain(), 0)
    }

    /// Hands a certificate for a registration to the ledger.
    pub async fn certify(
        &self,
        registration: RegistrationId,
        certificate: Vec<u8>,
        wallet: &KeyPair,
    ) -> Result<Receipt, LedgerError> {
        let operation = Operation::CertifyBlob { registration, certificate };
        self.ledger().submit(vec![operation], wallet).await
    }

    /// What the ledger proves of a registration.
    pub async fn registration(&self, id: RegistrationId) -> Option<Registration> {
        self.ledger().registration(id).await.unwrap().value
    }

    /// Sends the table of a blob.
    pub async fn table(
        &self,
        node: NodeId,
        blob: &Written,
        registration: RegistrationId,
    ) -> Response {
        let table = blob.table.to_bytes().into();
        self.ask(node, Request::Table { registration, header: blob.header, table }).await
    }

    /// Sends one pair of a blob.
    pub async fn pair(
        &self,
        node: NodeId,
        blob: &Written,
        registration: RegistrationId,
        pair: SliverPairIndex,
    ) -> Response {
        let (primary, secondary) = blob.pairs[pair.as_usize()].clone();
        self.ask(node, Request::StoreSlivers { registration, pair, primary, secondary }).await
    }

    pub async fn confirm(&self, node: NodeId, registration: RegistrationId) -> Response {
        self.ask(node, Request::Confirm { registration }).await
    }

    /// What nodes confirm in the running epoch.
    pub fn fact(&self, blob: BlobId, registration: RegistrationId) -> ConfirmedFact {
        ConfirmedFact { epoch: self.committee().epoch(), blob, registration }
    }

    /// The pairs that a node holds of a blob.
    pub fn pairs_of(&self, node: NodeId, blob: &BlobId) -> Vec<SliverPairIndex> {
        let committee = self.committee();
        let shards = committee.member(&node).unwrap().shards.iter();
        shards.map(|shard| blob.pair_of(*shard, committee.n_shards())).collect()
    }

    /// The node that holds a pair of a blob.
    pub fn holder_of(&self, pair: SliverPairIndex, blob: &BlobId) -> NodeId {
        let committee = self.committee();
        let shard = blob.shard_of(pair, committee.n_shards());
        committee.members()[committee.holder(shard)].node
    }

    /// Sends a blob, whatever is wrong with it, to the members at these positions; their verified
    /// confirmations.
    pub async fn upload(
        &self,
        blob: &Written,
        registration: RegistrationId,
        members: impl IntoIterator<Item = usize>,
    ) -> Vec<(usize, BlsSignature)> {
        let (committee, fact) = (self.committee(), self.fact(blob.id(), registration));
        let mut confirmations = Vec::new();
        for position in members {
            let member = &committee.members()[position];
            let answer = self.table(member.node, blob, registration).await;
            assert!(matches!(answer, Response::TableStored { .. }), "{answer:?}");
            for pair in self.pairs_of(member.node, &blob.id()) {
                match self.pair(member.node, blob, registration, pair).await {
                    Response::Stored { .. }
                    | Response::Refused(Refusal::Invalid(InvalidReason::Sliver)) => {}
                    other => panic!("{other:?}"),
                }
            }
            if let Response::Confirmed { signature, .. } =
                self.confirm(member.node, registration).await
            {
                assert!(fact.verify(self.chain(), &member.bls_key, &signature));
                confirmations.push((position, signature));
            }
        }
        confirmations
    }

    /// Waits until every node holds so many pairs.
    pub async fn wait_for_pairs(&self, cluster: &Cluster, pairs: u64) {
        for node in 0..cluster.nodes() {
            let reached = async {
                loop {
                    match self.ask(cluster.node_id(node), Request::NodeStatus).await {
                        Response::NodeStatus(status) if status.pairs == pairs => return,
                        Response::NodeStatus(_) => tokio::task::yield_now().await,
                        other => panic!("{other:?}"),
                    }
                }
            };
            let reached = timeout(DEADLINE, reached).await;
            reached.unwrap_or_else(|_| panic!("node {node} does not come to hold {pairs} pairs"));
        }
    }

    /// Registers a blob, stores it, whatever is wrong with it, on every node that takes it, and
    /// certifies it on the ledger. None if too few nodes confirm.
    pub async fn store(
        &self,
        blob: &Written,
        wallet: &KeyPair,
        wanted: Wanted,
    ) -> Option<(RegistrationId, Certificate)> {
        let registration = self.register(blob, wallet, wanted).await;
        let committee = self.committee();
        let everybody = 0..committee.members().len();
        let confirmations = self.upload(blob, registration, everybody).await;
        let fact = self.fact(blob.id(), registration);
        let certificate = Certificate::new(&committee, fact, &confirmations).ok()?;
        self.certify(registration, certificate.to_bytes(), wallet).await.unwrap();
        Some((registration, certificate))
    }
}

/// A blob as a writer sends it, consistent or not.
pub struct Written {
    pub header: BlobHeader,
    pub layout: BlobLayout,
    pub table: DigestTable,
    pub pairs: Vec<(Bytes, Bytes)>,
}

/// What a writer does wrong.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// Commits to a row that does not belong to the columns.
    Row(SliverPairIndex),
    /// Commits to a column that does not belong to the rows.
    Column(SliverPairIndex),
    /// Puts a digest into the table that no sliver pair has.
    Digest(SliverPairIndex),
}

impl Written {
    pub fn honest(config: EncodingConfig, blob: Bytes) -> Self {
        let encoded = encode(config, blob);
        let pairs = (0..config.n_shards()).map(|i| encoded.pair(SliverPairIndex::new(i)));
        Self {
            header: *encoded.header(),
            layout: encoded.layout(),
            table: encoded.table().clone(),
            pairs: pairs.collect(),
        }
    }

    pub fn lying(config: EncodingConfig, blob: Bytes, lie: Lie) -> Self {
        let mut written = Self::honest(config, blob);
        let layout = written.layout;
        let mut digests: Vec<PairDigest> = (0..config.n_shards())
            .map(|i| *written.table.digest(SliverPairIndex::new(i)))
            .collect();
        match lie {
            Lie::Row(pair) => {
                let (primary, _) = &mut written.pairs[pair.as_usize()];
                *primary = flip(primary, 0);
                digests[pair.as_usize()].primary =
                    encoding::sliver_root(&layout, Axis::Primary, primary).unwrap();
            }
            Lie::Column(pair) => {
                let (_, secondary) = &mut written.pairs[pair.as_usize()];
                *secondary = flip(secondary, 0);
                digests[pair.as_usize()].secondary =
                    encoding::sliver_root(&layout, Axis::Secondary, secondary).unwrap();
            }
            Lie::Digest(pair) => digests[pair.as_usize()].primary = floe_protocol::hash::Hash::ZERO,
        }
        written.table = DigestTable::new(config, digests).unwrap();
        written.header.root = written.table.blob_root();
        written
    }

    pub fn id(&self) -> BlobId {
        self.header.id()
    }

    pub fn proof(&self, pair: SliverPairIndex) -> PairProof {
        self.table.proofs(&self.header).unwrap()[pair.as_usize()].clone()
    }
}

pub fn encode(config: EncodingConfig, blob: Bytes) -> EncodedBlob {
    encoding::encode(config, blob, std::num::NonZeroUsize::MIN).unwrap()
}

/// The bytes with one bit changed.
pub fn flip(bytes: &Bytes, at: usize) -> Bytes {
    let mut changed = bytes.to_vec();
    changed[at] ^= 1;
    changed.into()
}
