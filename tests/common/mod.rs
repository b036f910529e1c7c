//! What the tests of the whole system share: a peer that says exactly what a test wants it to
//! say, and a writer that is not bound to encode consistently.

#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use floe_node::network::{self, Network, NetworkConfig, Role};
use floe_protocol::{
    blob::{BlobHeader, BlobId, PairDigest, PairProof},
    certificate::{Certificate, ConfirmedFact},
    encoding::{self, Axis, BlobLayout, DigestTable, EncodedBlob, EncodingConfig},
    index::SliverPairIndex,
    keys::{KeyPair, NodeId},
    ledger::LedgerView,
    message::{InvalidReason, Limits, Refusal, Request, Response},
    registration::SignedRegistration,
};
use floe_testnet::Cluster;
use prometheus_client::registry::Registry;

/// A light peer that sends what it is told, true or false.
pub struct RawPeer {
    pub network: Network,
    pub view: LedgerView,
}

impl RawPeer {
    pub async fn join(cluster: &Cluster) -> Self {
        Self::join_with_key(cluster, KeyPair::from_seed([77; 32]), Role::LightPeer).await
    }

    pub async fn join_with_key(cluster: &Cluster, key: KeyPair, role: Role) -> Self {
        let view = LedgerView::from_genesis(&cluster.network().genesis).unwrap();
        let limits = Limits::new(view.committee().config());
        let mut config = NetworkConfig::new(key, *view.chain(), limits, role);
        let bootstrap = cluster.network().bootstrap.iter();
        config.bootstrap = bootstrap.map(|address| address.parse().unwrap()).collect();
        config.committee = view.committee().members().iter().map(|member| member.node).collect();
        let (network, mut inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
        let mut peers = network.peers();
        peers.wait_for(|view| !view.connected.is_empty()).await.unwrap();
        Self { network, view }
    }

    pub async fn ask(&self, node: NodeId, request: Request) -> Response {
        self.network.request(node, request).await.unwrap()
    }

    /// Sends the table of a blob.
    pub async fn table(&self, node: NodeId, blob: &Written, writer: &KeyPair) -> Response {
        let registration = self.registration(blob, writer);
        let table = blob.table.to_bytes().into();
        self.ask(node, Request::Table { registration, header: blob.header, table }).await
    }

    /// Sends one pair of a blob.
    pub async fn pair(
        &self,
        node: NodeId,
        blob: &Written,
        writer: &KeyPair,
        pair: SliverPairIndex,
    ) -> Response {
        let registration = self.registration(blob, writer).id();
        let (primary, secondary) = blob.pairs[pair.as_usize()].clone();
        self.ask(node, Request::StoreSlivers { registration, pair, primary, secondary }).await
    }

    pub async fn confirm(&self, node: NodeId, blob: &Written, writer: &KeyPair) -> Response {
        let registration = self.registration(blob, writer).id();
        self.ask(node, Request::Confirm { registration }).await
    }

    pub fn registration(&self, blob: &Written, writer: &KeyPair) -> SignedRegistration {
        SignedRegistration::new(self.view.chain(), blob.id(), writer, 0)
    }

    /// The pairs that a node holds of a blob.
    pub fn pairs_of(&self, node: NodeId, blob: &BlobId) -> Vec<SliverPairIndex> {
        let member = self.view.committee().member(&node).unwrap();
        let n_shards = self.view.parameters().n_shards;
        member.shards.iter().map(|shard| blob.pair_of(*shard, n_shards)).collect()
    }

    /// The node that holds a pair of a blob.
    pub fn holder_of(&self, pair: SliverPairIndex, blob: &BlobId) -> NodeId {
        let committee = self.view.committee();
        let shard = blob.shard_of(pair, committee.n_shards());
        committee.members()[committee.holder(shard)].node
    }

    /// Stores a blob, whatever is wrong with it, on every node that takes it, and certifies it.
    pub async fn store(&self, blob: &Written, writer: &KeyPair) -> Option<Certificate> {
        let committee = self.view.committee();
        let fact: ConfirmedFact = self.view.fact(blob.id(), self.registration(blob, writer).id());
        let mut confirmations = Vec::new();
        for (position, member) in committee.members().iter().enumerate() {
            assert!(matches!(
                self.table(member.node, blob, writer).await,
                Response::TableStored { .. }
            ));
            for pair in self.pairs_of(member.node, &blob.id()) {
                match self.pair(member.node, blob, writer, pair).await {
                    Response::Stored { .. }
                    | Response::Refused(Refusal::Invalid(InvalidReason::Sliver)) => {}
                    other => panic!("{other:?}"),
                }
            }
            if let Response::Confirmed { signature, .. } =
                self.confirm(member.node, blob, writer).await
            {
                assert!(fact.verify(self.view.chain(), &member.bls_key, &signature));
                confirmations.push((position, signature));
            }
        }
        let certificate = Certificate::new(committee, fact, &confirmations).ok()?;
        for member in committee.members() {
            let certificate = certificate.clone();
            let request = Request::Certify { header: blob.header, certificate };
            assert_eq!(self.ask(member.node, request).await, Response::Certified);
        }
        Some(certificate)
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
