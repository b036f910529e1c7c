//! The client against nodes that say what the test wants: true, false, or nothing of use.

use std::collections::{BTreeMap, BTreeSet};

use floe_protocol::{
    blob::{BlobHeader, BlobId},
    certificate::CertificateError,
    committee::CommitteeFact,
    genesis::{Genesis, NetworkFile},
    handover::{HandoverCertificate, HandoverFact},
    hash::Hash,
    keys::{BlsKeyPair, KeyPair, NodeId},
    ledger::{
        AccountId, Amount, Blob, BlobState, Body, Entry, Key, LedgerParameters, Operation, Record,
        SignedTransaction, StateProof, StateReader, Timestamp,
    },
    light::{CertifiedHeader, FinalHeader, Finality, Inclusion},
    message::{
        CertifiedBlock, Handover, LedgerAnnouncement, LedgerRequest, LedgerResponse, Limits,
        Refusal, Request, Response, SubmitError,
    },
    test_support::{self, Chain, account_key, node_keys},
};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;

use super::*;
use crate::{
    client::{Client, ClientConfig, StatusError},
    network::{self, InboundRequest, NetworkConfig, NetworkLimits, Role, Topic, address_of},
};

const NODES: usize = 4;

/// What a node does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lie {
    #[default]
    None,
    /// Tells richer accounts than there are.
    Balance,
    /// Proves another key's record.
    OtherKey,
    /// Denies every record that there is, and makes up those that there are not.
    Denies,
    /// Tells headers with another state root.
    Header,
    /// Tells headers with too few precommits.
    Certificate,
    /// Tells ends of epochs with hand-over certificates that members signed for something else.
    Handover,
    /// Takes transactions and forgets them.
    Swallows,
    /// Says that nobody can pay.
    Refuses,
    /// Invents entries of indexes, as many as are asked for.
    Invents,
    Busy,
    /// Is busy for the next so many questions, as if it were still to be found.
    BusyFor(u8),
}

/// What the test tells the swarm.
enum Order {
    Lie(usize, Lie),
    /// Makes a block of nothing, and tells its header by gossip, after a forged one if so wished.
    Announce {
        forged: bool,
    },
    /// The next transaction of an account that somebody hands over finds its nonce used.
    Overtake(Operation),
    NextEpochs(u64),
    /// Lets a minute of ledger time pass, and makes a block.
    Later,
    Seen(oneshot::Sender<Seen>),
}

/// What was handed over.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The bytes, by nonce.
    bytes: BTreeMap<u64, BTreeSet<Vec<u8>>>,
    /// To whom, and what that node did about it.
    nodes: Vec<(usize, Lie)>,
    /// Pages of invented entries.
    invented: usize,
}

/// Four nodes with one chain, owned by one task.
struct Swarm {
    chain: Chain,
    networks: Vec<Network>,
    lies: Vec<Lie>,
    overtake: Option<Operation>,
    seen: Seen,
}

async fn swarm(genesis: &Genesis, chain: Chain) -> (Client, mpsc::Sender<Order>) {
    let limits = NetworkLimits { loopback_exempt: true, ..NetworkLimits::default() };
    let committee = genesis.committee().unwrap();
    let (ask, mut asked) = mpsc::channel::<(usize, InboundRequest)>(64);
    let (mut networks, mut bootstrap) = (Vec::new(), Vec::new());
    for (i, (key, _)) in node_keys(NODES).into_iter().enumerate() {
        let node = key.public();
        let messages = Limits::new(committee.config());
        let mut config = NetworkConfig::new(key, genesis.chain_id(), messages, Role::StorageNode);
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.limits = limits;
        let (network, mut inbound, _) =
            network::start(config, &mut Registry::default()).await.unwrap();
        let address = network.listen_addresses().remove(0);
        bootstrap.push(address_of(&node, address).unwrap().to_string());
        let ask = ask.clone();
        tokio::spawn(async move {
            while let Some(request) = inbound.requests.recv().await {
                ask.send((i, request)).await.ok();
            }
        });
        networks.push(network);
    }
    let (orders, mut ordered) = mpsc::channel(16);
    let (overtake, seen) = (None, Seen::default());
    let mut swarm = Swarm { chain, networks, lies: vec![Lie::None; NODES], overtake, seen };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                Some(order) = ordered.recv() => swarm.obey(order).await,
                Some((node, InboundRequest { request, reply, .. })) = asked.recv() => {
                    reply.reply(swarm.answer(node, request));
                }
                else => return,
            }
        }
    });
    let network = NetworkFile { genesis: genesis.clone(), bootstrap };
    let mut config = ClientConfig::new(network);
    config.limits = limits;
    let client = Client::connect(config).await.unwrap();
    // All four, so that whoever is first in turn can be asked.
    let mut peers = client.network.peers();
    for member in client.ledger().committee().members() {
        let node = member.node;
        drop(client.network.request(node, Request::NodeStatus).await);
        peers.wait_for(|view| view.connected.contains_key(&node)).await.unwrap();
    }
    (client, orders)
}

/// A chain whose newest block was made just now.
fn young_chain(genesis: &Genesis) -> Chain {
    let mut chain = Chain::new(genesis);
    chain.now = wall_clock();
    chain.commit(&[]);
    chain
}

fn genesis() -> Genesis {
    test_support::genesis(NODES, 7)
}

/// A blob that nobody has registered.
fn made_up_blob() -> Record {
    let header = BlobHeader { n_shards: 7, len: 1, root: Hash::ZERO };
    let (registrations, permanent_end, certified) = (1, None, None);
    Record::Blob(Blob { header, registrations, permanent_end, certified, invalid: false })
}

fn account(i: u8) -> AccountId {
    AccountId::new(account_key(i).public())
}

fn node(i: usize) -> NodeId {
    node_keys(NODES)[i].0.public()
}

fn pay(to: u8) -> Operation {
    Operation::Transfer { to: account(to), amount: Amount::from_wal(1) }
}

impl Swarm {
    async fn obey(&mut self, order: Order) {
        match order {
            Order::Lie(node, lie) => self.lies[node] = lie,
            Order::Overtake(operation) => self.overtake = Some(operation),
            Order::Seen(reply) => drop(reply.send(self.seen.clone())),
            Order::Later => {
                self.chain.now = self.chain.now.plus_ms(90_000);
                self.chain.commit(&[]);
            }
            Order::NextEpochs(epochs) => {
                for _ in 0..epochs {
                    self.chain.next_epoch();
                }
                self.chain.commit(&[]);
            }
            Order::Announce { forged } => {
                self.chain.commit(&[]);
                let mut header = self.certified(self.chain.blocks.len());
                if forged {
                    let mut lie = header.clone();
                    lie.header.height = lie.header.height.next();
                    self.announce(lie).await;
                }
                header.certificate.signatures.truncate(3);
                self.announce(header).await;
            }
        }
    }

    async fn announce(&self, header: CertifiedHeader) {
        let announcement = LedgerAnnouncement::NewHeader(Box::new(header));
        self.networks[0].publish(Topic::Headers, announcement.encode().unwrap()).await.unwrap();
    }

    fn certified(&self, height: usize) -> CertifiedHeader {
        let (block, certificate) = &self.chain.blocks[height - 1];
        CertifiedHeader { header: block.header, certificate: certificate.clone() }
    }

    fn answer(&mut self, node: usize, request: Request) -> Response {
        let Request::Ledger(request) = request else { return Response::Refused(Refusal::NotFound) };
        let lie = self.lies[node];
        if let Lie::BusyFor(questions) = lie {
            self.lies[node] = match questions.checked_sub(1) {
                None | Some(0) => Lie::None,
                Some(left) => Lie::BusyFor(left),
            };
        }
        if matches!(lie, Lie::Busy | Lie::BusyFor(1..)) {
            return Response::Refused(Refusal::Busy { retry_after_ms: 1 });
        }
        let tip = self.chain.blocks.len();
        let answer = match request {
            LedgerRequest::Tip => LedgerResponse::Tip(Some(self.header_told(lie, tip))),
            LedgerRequest::Facts { height, keys } => {
                let height = height.map_or(tip, |height| usize::try_from(height.get()).unwrap());
                self.facts(lie, height, &keys)
            }
            LedgerRequest::Submit { transactions } => self.submitted((node, lie), &transactions[0]),
            LedgerRequest::Transaction { id, .. } => {
                let found = self.chain.blocks.iter().find_map(|(block, certificate)| {
                    let Body { transactions, .. } = &block.body;
                    let chain = self.chain.id();
                    let index = transactions.iter().position(|signed| signed.id(&chain) == id)?;
                    let certificate = certificate.clone();
                    let certified = CertifiedHeader { header: block.header, certificate };
                    Inclusion::new(&chain, certified, &block.body, index)
                });
                LedgerResponse::Transaction(found.filter(|_| lie != Lie::Swallows))
            }
            LedgerRequest::Handovers { from, max } => self.handovers(lie, from.get(), max),
            LedgerRequest::Block { height } => {
                let index = usize::try_from(height.get()).unwrap() - 1;
                let block = self.chain.blocks.get(index).map(|(block, certificate)| {
                    CertifiedBlock { block: block.to_bytes(), certificate: certificate.clone() }
                });
                LedgerResponse::Block(block)
            }
            LedgerRequest::Index { query, after, limit } => {
                let range = query.range();
                if lie == Lie::Invents {
                    self.seen.invented += 1;
                    let start = after.unwrap_or(range.start);
                    return Response::Ledger(Box::new(invented(&start, limit)));
                }
                let entries = self.chain.store.index(&range.start..&range.end, usize::MAX);
                let entries = entries.unwrap().into_iter();
                let entries = entries.filter(|entry| Some(entry) > after.as_ref());
                LedgerResponse::Index { entries: entries.take(limit.into()).collect() }
            }
            LedgerRequest::SubmitSystem(_)
            | LedgerRequest::Blocks { .. }
            | LedgerRequest::Snapshot { .. }
            | LedgerRequest::SnapshotChunk { .. }
            | LedgerRequest::SignHandover { .. } => {
                return Response::Refused(Refusal::NotFound);
            }
        };
        Response::Ledger(Box::new(answer))
    }

    fn header_told(&self, lie: Lie, height: usize) -> CertifiedHeader {
        let mut certified = self.certified(height);
        match lie {
            Lie::Header => certified.header.state_root = Hash::new([7; 32]),
            Lie::Certificate => certified.certificate.signatures.truncate(2),
            _ => {}
        }
        certified
    }

    fn facts(&self, lie: Lie, height: usize, keys: &[Key]) -> LedgerResponse {
        let version = u64::try_from(height).unwrap();
        if height > self.chain.blocks.len() {
            return LedgerResponse::Facts { header: None, proofs: Vec::new() };
        }
        let prove = |key| {
            let other = Key::Account(account(7));
            let key = if lie == Lie::OtherKey { &other } else { key };
            let mut proof = StateProof::new(&self.chain.store, version, key).unwrap();
            match (lie, &mut proof.value) {
                (Lie::Balance, Some(value)) => *value.last_mut().unwrap() ^= 1,
                (Lie::Denies, Some(_)) => proof.value = None,
                (Lie::Denies, None) => {
                    let entry = Entry { key: key.clone(), record: made_up_blob() };
                    proof.value = Some(entry.to_bytes());
                }
                _ => {}
            }
            proof
        };
        let proofs = keys.iter().map(prove).collect();
        LedgerResponse::Facts { header: Some(self.header_told(lie, height)), proofs }
    }

    fn submitted(&mut self, (node, lie): (usize, Lie), bytes: &[u8]) -> LedgerResponse {
        let signed = SignedTransaction::from_bytes(bytes).unwrap();
        let id = signed.id(&self.chain.id());
        self.seen.bytes.entry(signed.transaction.nonce).or_default().insert(bytes.to_vec());
        self.seen.nodes.push((node, lie));
        if let Some(operation) = self.overtake.take() {
            let rival = self.chain.sign(&account_key(0), vec![operation]);
            self.chain.commit(&[rival]);
        }
        let known = self.chain.blocks.iter().flat_map(|(block, _)| &block.body.transactions);
        let known = known.into_iter().any(|other| *other == signed);
        let key = Key::Account(signed.transaction.sender);
        let next = match self.chain.record(&key) {
            Some(Record::Account(account)) => account.nonce,
            _ => 0,
        };
        let result = match lie {
            Lie::Swallows => Ok(id),
            Lie::Refuses => Err(SubmitError::Funds),
            _ if known => Err(SubmitError::Known),
            _ if next != signed.transaction.nonce => Err(SubmitError::Nonce { expected: next }),
            _ => {
                self.chain.commit(&[signed]);
                Ok(id)
            }
        };
        LedgerResponse::Submitted { results: vec![result] }
    }

    /// The last header of an epoch: by a hand-over certificate, but of epoch 0, where it has none.
    fn epoch_end(&self, lie: Lie, height: usize, committee: &Committee) -> FinalHeader {
        let certified = self.certified(height);
        if committee.epoch() == Epoch::new(0) && lie != Lie::Handover {
            return certified.into();
        }
        let fact = HandoverFact::new(&certified.header);
        let signed = HandoverFact { height: fact.height.next(), ..fact };
        let signed = if lie == Lie::Handover { signed } else { fact };
        let sign = |(node, bls): &(KeyPair, BlsKeyPair)| {
            let position = committee.position(&node.public()).unwrap();
            (position, signed.sign(&self.chain.id(), bls))
        };
        let signatures: Vec<_> = node_keys(NODES).iter().map(sign).collect();
        let certificate = HandoverCertificate::new(committee, fact, &signatures).unwrap();
        FinalHeader { header: certified.header, finality: Finality::Handover(certificate) }
    }

    fn handovers(&self, lie: Lie, from: u64, max: u8) -> LedgerResponse {
        let blocks = &self.chain.blocks;
        let ends = blocks.windows(2).enumerate().filter(|(_, pair)| {
            let [(last, _), (next, _)] = pair else { return false };
            last.header.epoch != next.header.epoch && last.header.epoch.get() >= from
        });
        let handovers = ends.take(max.into()).map(|(index, pair)| {
            let epoch = pair[1].0.header.epoch;
            let key = Key::Committee(epoch);
            let version = u64::try_from(index + 1).unwrap();
            let proof = StateProof::new(&self.chain.store, version, &key).unwrap();
            let entry = Entry::from_bytes(&proof.value.unwrap());
            let Some(Record::Committee(committee)) = entry.map(|entry| entry.record) else {
                panic!("the committee of epoch {epoch}")
            };
            let ended = Committee::from_bytes(&committee).unwrap();
            let ended = ended.in_epoch(pair[0].0.header.epoch);
            Handover { last: self.epoch_end(lie, index + 1, &ended), committee }
        });
        LedgerResponse::Handovers { handovers: handovers.collect() }
    }
}

/// Entries above one, as long as those of any index that is asked for, and very close to it: they
/// never come to an end.
fn invented(after: &[u8], limit: u16) -> LedgerResponse {
    let (kind, rest) = after.split_at(1);
    let bytes = if kind == [5] { 32 } else { 44 };
    let mut number: Vec<u8> =
        rest.iter().copied().chain(std::iter::repeat(0)).take(bytes).collect();
    let next = |_| {
        for digit in number.iter_mut().rev() {
            *digit = digit.wrapping_add(1);
            if *digit != 0 {
                break;
            }
        }
        [kind, &number].concat()
    };
    LedgerResponse::Index { entries: (0..limit).map(next).collect() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_invents_entries_without_end_neither_holds_up_nor_spoils_a_listing() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    let ledger = client.ledger();
    for i in 2..5 {
        ledger.submit(vec![pay(i)], &account_key(0)).await.unwrap();
    }
    let honest = ledger.nodes().await.unwrap().value;
    assert_eq!(honest.len(), NODES);
    let members = ledger.committee().members().to_vec();
    let lightest = members.iter().min_by_key(|member| member.weight()).unwrap().node;
    let liar = (0..NODES).find(|i| node(*i) == lightest).unwrap();
    orders.send(Order::Lie(liar, Lie::Invents)).await.unwrap();
    let mut asked = 0;
    for _ in 0..NODES {
        assert_eq!(ledger.nodes().await.unwrap().value, honest);
        let history = ledger.history(account(0), None, 2).await.unwrap();
        let nonces: Vec<_> =
            history.iter().map(|item| item.transaction.transaction.nonce).collect();
        assert_eq!(nonces, [2, 1]);
        let before = asked;
        asked = seen(&orders).await.invented;
        assert!(asked - before <= 2, "one page of each listing, then never again: {asked}");
    }
    assert!(asked > 0, "the liar was among those asked");
    // All of them lie: the listing ends, too.
    for i in 0..NODES {
        orders.send(Order::Lie(i, Lie::Invents)).await.unwrap();
    }
    let ended = ledger.nodes().await;
    assert!(matches!(ended, Err(LedgerError::NoAnswer { .. })), "{ended:?}");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_is_caught_dropped_and_replaced() {
    for lie in [Lie::Balance, Lie::OtherKey, Lie::Header, Lie::Certificate] {
        let genesis = genesis();
        let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
        let ledger = client.ledger();
        orders.send(Order::Lie(1, lie)).await.unwrap();
        let asked = ledger.newest_account(node(1), account(0)).await;
        assert!(matches!(asked, Err(NodeFault::Lied(_))), "{lie:?}: {asked:?}");
        assert_eq!(ledger.liars(), BTreeSet::from([node(1)]), "{lie:?}");
        assert!(!ledger.asker.candidates().contains(&node(1)), "{lie:?}");
        for i in 0..8 {
            let balance = ledger.balance(account(i)).await.unwrap();
            assert_eq!(balance.value, Amount::from_wal(1_000), "{lie:?}");
        }
        client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_handover_certificate_is_caught_and_true_ones_are_followed() {
    let mut genesis = genesis();
    genesis.ledger = LedgerParameters::for_epoch(1_000);
    genesis.ledger.unbonding_epochs = 1_000;
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    let ledger = client.ledger();
    orders.send(Order::Lie(1, Lie::Handover)).await.unwrap();
    orders.send(Order::NextEpochs(3)).await.unwrap();
    let asked = ledger.newest_account(node(1), account(0)).await;
    let refused = CertificateError::Signature.into();
    assert_eq!(asked.err(), Some(NodeFault::Lied(refused)));
    assert_eq!(ledger.handovers().await.unwrap(), []);
    ledger.newest_account(node(2), account(0)).await.unwrap();
    assert_eq!(ledger.liars(), BTreeSet::from([node(1)]));
    let by_one = |last: &VerifiedHeader| matches!(last.told().finality, Finality::Handover(_));
    let followed: Vec<_> = ledger.handovers().await.unwrap().iter().map(by_one).collect();
    assert_eq!(followed, [false, true, true]);
    client.shutdown().await;
}

/// Whether it denies the blob, makes one up, or says something else of it than the ledger does.
#[tokio::test(flavor = "multi_thread")]
async fn a_false_blob_status_is_caught_and_its_node_replaced() {
    for lie in [Lie::Balance, Lie::OtherKey, Lie::Denies] {
        let genesis = genesis();
        let mut chain = young_chain(&genesis);
        let header = BlobHeader { n_shards: 7, len: 900, root: Hash::new([5; 32]) };
        let max_payment = Amount::from_wal(1);
        let register = Operation::RegisterBlob { header, epochs: 1, deletable: true, max_payment };
        let signed = chain.sign(&account_key(0), vec![register]);
        chain.commit(&[signed]);
        let (client, orders) = swarm(&genesis, chain).await;
        orders.send(Order::Lie(1, lie)).await.unwrap();
        // Each question starts with another node.
        for _ in 0..4 {
            let status = client.blob_status(header.id()).await.unwrap();
            assert_eq!((status.state, *status.header()), (BlobState::Registered, header));
            let absent = client.blob_status(BlobId::new([6; 32])).await;
            assert!(matches!(absent, Err(StatusError::NotFound { .. })), "{lie:?}: {absent:?}");
        }
        assert_eq!(client.ledger().liars(), BTreeSet::from([node(1)]), "{lie:?}");
        client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_costs_an_answer_nothing_but_its_node() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    orders.send(Order::Lie(1, Lie::Balance)).await.unwrap();
    orders.send(Order::Lie(2, Lie::Busy)).await.unwrap();
    let ledger = client.ledger();
    // Each question starts with another node.
    for i in 0..8 {
        let balance = ledger.balance(account(i)).await.unwrap();
        assert_eq!(balance.value, Amount::from_wal(1_000));
    }
    assert_eq!(ledger.liars(), BTreeSet::from([node(1)]));
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_submission_waits_until_enough_members_answer() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    for i in 0..NODES {
        orders.send(Order::Lie(i, Lie::BusyFor(3))).await.unwrap();
    }
    client.ledger().submit(vec![pay(1)], &account_key(0)).await.unwrap();
    assert_eq!(client.ledger().balance(account(1)).await.unwrap().value, Amount::from_wal(1_001));
    assert_eq!(seen(&orders).await.bytes.len(), 1, "paid once");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_swallow_or_refuse_a_transaction_neither_lose_nor_double_it() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    let ledger = client.ledger();
    let members = ledger.committee().members().to_vec();
    let lightest = members.iter().min_by_key(|member| member.weight()).unwrap().node;
    let lightest = (0..NODES).find(|i| node(*i) == lightest).unwrap();
    // At most f shards lie.
    let mut sent = 0;
    for lie in [Lie::Swallows, Lie::Refuses] {
        orders.send(Order::Lie(lightest, lie)).await.unwrap();
        while !seen(&orders).await.nodes.contains(&(lightest, lie)) {
            ledger.submit(vec![pay(1)], &account_key(0)).await.unwrap();
            sent += 1;
        }
    }
    let paid = Amount::from_wal(1_000 + sent);
    assert_eq!(ledger.balance(account(1)).await.unwrap().value, paid);
    let Seen { bytes, .. } = seen(&orders).await;
    assert_eq!(bytes.len() as u64, sent);
    assert!(bytes.values().all(|bytes| bytes.len() == 1), "the same bytes, whoever gets them");
    client.shutdown().await;
}

async fn seen(orders: &mpsc::Sender<Order>) -> Seen {
    let (reply, seen) = oneshot::channel();
    orders.send(Order::Seen(reply)).await.unwrap();
    seen.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_overtaken_is_signed_anew_and_paid_once() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    let ledger = client.ledger();
    orders.send(Order::Overtake(pay(2))).await.unwrap();
    let receipt = ledger.submit(vec![pay(1)], &account_key(0)).await.unwrap();
    let history = ledger.history(account(0), None, 10).await.unwrap();
    let nonces: Vec<_> = history.iter().map(|item| item.transaction.transaction.nonce).collect();
    assert_eq!(nonces, [1, 0], "the rival first, then the one that was signed anew");
    assert_eq!(history[0].id, receipt.id);
    for i in [1, 2] {
        let balance = ledger.balance(account(i)).await.unwrap().value;
        assert_eq!(balance, Amount::from_wal(1_001));
    }
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_everybody_forgets_is_given_up_when_it_can_never_be_committed() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    for i in 0..NODES {
        orders.send(Order::Lie(i, Lie::Swallows)).await.unwrap();
    }
    let ledger = client.ledger().clone();
    let submit =
        tokio::spawn(async move { ledger.submit(vec![pay(1)], &account_key(0)).await.map(|_| ()) });
    while seen(&orders).await.nodes.len() < NODES {
        tokio::task::yield_now().await;
    }
    assert!(!submit.is_finished(), "it may still be committed");
    orders.send(Order::Later).await.unwrap();
    let ended = submit.await.unwrap();
    assert!(matches!(ended, Err(LedgerError::Expired(_))), "{ended:?}");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_when_an_honest_node_must_be_among_those_who_say_it() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    for i in 0..NODES {
        orders.send(Order::Lie(i, Lie::Refuses)).await.unwrap();
    }
    let refused = client.ledger().submit(vec![pay(1)], &account_key(0)).await;
    let Err(LedgerError::Refused { refusal, nodes }) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal, SubmitError::Funds);
    assert!(nodes >= 2);
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_come_by_gossip_and_forged_ones_do_not_count() {
    let genesis = genesis();
    let (client, orders) = swarm(&genesis, young_chain(&genesis)).await;
    let ledger = client.ledger();
    let known = ledger.newest().await.unwrap().header.unwrap().header().height;
    let mut expected = known;
    // Subscriptions take a moment to spread: what is announced before is not heard.
    let heard = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            orders.send(Order::Announce { forged: true }).await.unwrap();
            expected = expected.next();
            let reached = ledger.reached(known.next());
            let reached = timeout(Duration::from_millis(150), reached).await;
            if let Ok(reached) = reached {
                return reached.unwrap();
            }
        }
    };
    let header = timeout(Duration::from_secs(30), heard).await.unwrap();
    assert!(header.header().height <= expected, "never the forged one");
    client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn committees_are_followed_over_many_epochs() {
    let mut genesis = genesis();
    genesis.ledger = LedgerParameters::for_epoch(1_000);
    genesis.ledger.unbonding_epochs = 1_000;
    let mut chain = Chain::new(&genesis);
    let start = wall_clock().ms() - 60_000;
    chain.now = Timestamp::from_ms(start);
    chain.commit(&[]);
    for _ in 0..40 {
        chain.next_epoch();
    }
    chain.now = wall_clock();
    chain.commit(&[]);
    let epoch = chain.state.committee().epoch();
    let (client, orders) = swarm(&genesis, chain).await;
    let ledger = client.ledger();
    assert_eq!(ledger.balance(account(3)).await.unwrap().value, Amount::from_wal(1_000));
    assert!(ledger.committee().epoch().get() + 1 >= epoch.get(), "more than one batch");
    // While it runs too.
    let before = ledger.committee().epoch();
    orders.send(Order::NextEpochs(3)).await.unwrap();
    let receipt = ledger.submit(vec![pay(1)], &account_key(0)).await.unwrap();
    assert!(ledger.committee().epoch() > before);
    assert!(receipt.header.header().epoch > before);
    let checkpoint = ledger.checkpoint().await.unwrap().unwrap();
    assert!(checkpoint.root.height >= receipt.height());
    client.shutdown().await;
}
