//! Gossip among nodes in a clique and in a line.

use futures::StreamExt;
use libp2p::{
    SwarmBuilder,
    gossipsub::{Behaviour, Config, IdentTopic, MessageAuthenticity},
    noise, tcp, yamux,
};

use super::*;

/// A node that knows the given ones.
async fn node_beside(seed: u8, others: &[&Peer]) -> Peer {
    let mut config = config(seed);
    config.bootstrap = others.iter().map(|other| other.address()).collect();
    let peer = Peer::start(config).await;
    for other in others {
        peer.meets(other.network.local_node()).await;
        other.meets(peer.network.local_node()).await;
    }
    peer
}

/// A node `2` between two peers that don't find each other: nobody finds a way to strangers.
async fn line(middle: NetworkConfig, first: Role) -> (Peer, Peer, Peer) {
    let b = Peer::start(middle).await;
    let stranger = |seed, role| {
        let mut config = config(seed);
        config.bootstrap = vec![b.address()];
        config.role = role;
        Peer::start(config)
    };
    let (a, c) = tokio::join!(stranger(1, first), stranger(3, Role::StorageNode));
    for (peer, seed) in [(&a, 1), (&c, 3)] {
        peer.meets(node(2)).await;
        b.meets(node(seed)).await;
    }
    (a, b, c)
}

/// Publishes until somebody listens: subscriptions follow connections by themselves.
async fn publish(peer: &Peer, topic: Topic, bytes: &[u8]) {
    let published = async {
        while let Err(error) = peer.network.publish(topic, bytes.to_vec()).await {
            assert_eq!(error, AnnounceError::NoPeers);
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, published).await.unwrap();
}

fn judged(peer: &Peer, topic: Topic, verdict: &str) -> u64 {
    let topic = topic.word();
    peer.count(&format!("network_gossip_judged_total{{topic=\"{topic}\",verdict=\"{verdict}\"}}"))
}

fn gossiped(peer: &Peer, what: &str, topic: Topic, direction: &str) -> u64 {
    let topic = topic.word();
    let labels = format!("topic=\"{topic}\",direction=\"{direction}\"");
    peer.count(&format!("network_gossip_{what}_total{{{labels}}}"))
}

fn crowded(peer: &Peer, topic: Topic) -> u64 {
    let topic = topic.word();
    peer.count(&format!("network_gossip_lost_total{{topic=\"{topic}\",reason=\"crowded\"}}"))
}

#[tokio::test]
async fn what_is_accepted_reaches_all_and_what_is_rejected_goes_no_further() {
    let topic = Topic::Headers;
    let mut a = Peer::start(config(1)).await;
    let mut b = node_beside(2, &[&a]).await;
    let mut c = node_beside(3, &[&a, &b]).await;
    let mut d = node_beside(4, &[&a, &b, &c]).await;

    publish(&a, topic, b"valid").await;
    for peer in [&mut b, &mut c, &mut d] {
        let heard = peer.heard(topic).await;
        assert_eq!(heard.bytes, b"valid");
        assert_eq!(heard.source, node(1));
        heard.verdict.accept();
    }
    assert_eq!(judged(&a, topic, "accepted"), 0);

    // All reject it, so that each must have it from a itself.
    publish(&a, topic, b"invalid").await;
    for peer in [&mut b, &mut c, &mut d] {
        let heard = peer.heard(topic).await;
        assert_eq!((heard.from, heard.bytes.as_slice()), (node(1), b"invalid".as_slice()));
        heard.verdict.reject();
        peer.sees(|view| {
            let sender = view.connected.get(&node(1));
            sender.is_some_and(|sender| sender.gossip_score < 0.0)
        })
        .await;
        assert_eq!(judged(peer, topic, "rejected"), 1);
    }
    // What comes next is not the rejected one again, from whomever.
    publish(&b, topic, b"next").await;
    for peer in [&mut a, &mut c, &mut d] {
        let heard = peer.heard(topic).await;
        assert_eq!(heard.bytes, b"next");
        heard.verdict.accept();
    }
}

#[tokio::test]
async fn a_message_passes_a_node_only_once_it_is_accepted() {
    let (a, mut b, mut c) = line(config(2), Role::StorageNode).await;
    for topic in Topic::ALL {
        publish(&a, topic, b"rejected by b").await;
        let rejected = b.heard(topic).await;
        let path = (rejected.topic, rejected.from, rejected.source);
        assert_eq!(
            (path, rejected.bytes.as_slice()),
            ((topic, node(1), node(1)), &b"rejected by b"[..])
        );
        rejected.verdict.reject();
        publish(&a, topic, b"ignored by b").await;
        drop(b.heard(topic).await);
        publish(&a, topic, b"judged by b").await;
        let waits = b.heard(topic).await;
        // What comes later and is accepted overtakes it.
        publish(&a, topic, b"accepted by b").await;
        b.heard(topic).await.verdict.accept();
        let heard = c.heard(topic).await;
        assert_eq!((heard.from, heard.source), (node(2), node(1)));
        assert_eq!(heard.bytes, b"accepted by b");
        waits.verdict.accept();
        assert_eq!(c.heard(topic).await.bytes, b"judged by b");
        for (verdict, count) in [("rejected", 1), ("ignored", 1), ("accepted", 2)] {
            assert_eq!(judged(&b, topic, verdict), count, "{topic:?} {verdict}");
        }
        assert_eq!(gossiped(&a, "messages", topic, "out"), 4);
        assert_eq!(gossiped(&c, "messages", topic, "in"), 2);
        assert_eq!(gossiped(&c, "bytes", topic, "in"), 24);
    }
}

#[tokio::test]
async fn messages_have_a_limit_by_topic_and_need_a_listener() {
    let mut lonely = Peer::start(config(1)).await;
    for topic in Topic::ALL {
        let too_large = vec![0; topic.max_bytes() + 1];
        let refused = lonely.network.publish(topic, too_large.clone()).await;
        assert_eq!(refused, Err(AnnounceError::TooLarge));
        assert_eq!(lonely.network.try_publish(topic, too_large), Err(AnnounceError::TooLarge));
        let nobody = lonely.network.publish(topic, vec![0; 1]).await;
        assert_eq!(nobody, Err(AnnounceError::NoPeers));
    }
    let mut other = node_beside(2, &[&lonely]).await;
    for topic in Topic::ALL {
        let largest = vec![1; topic.max_bytes()];
        publish(&lonely, topic, &largest).await;
        let heard = other.heard(topic).await;
        assert_eq!(heard.bytes, largest);
        heard.verdict.accept();
        publish(&other, topic, b"back").await;
        assert_eq!(lonely.heard(topic).await.bytes, b"back");
    }
}

#[tokio::test]
async fn bursts_of_the_largest_messages_arrive_whole() {
    const LONGEST: Topic = Topic::Transactions;
    // As tight as it may be: what follows a message is read together with its end.
    let tight = |seed| {
        let mut config = config(seed);
        config.limits.gossip_frame_bytes = crate::network::gossip::FRAME_BYTES_MIN;
        config
    };
    let a = Peer::start(tight(1)).await;
    let mut b = tight(2);
    b.bootstrap = vec![a.address()];
    let mut b = Peer::start(b).await;
    publish(&a, LONGEST, b"first").await;
    b.heard(LONGEST).await.verdict.accept();
    for round in 0..5_u8 {
        for part in 0..24 {
            let mut bytes = vec![round; LONGEST.max_bytes() - usize::from(part)];
            bytes[0] = part;
            a.network.publish(LONGEST, bytes).await.unwrap();
        }
        for part in 0..24 {
            let heard = b.heard(LONGEST).await;
            assert_eq!((heard.bytes[0], heard.bytes[1]), (part, round));
            heard.verdict.accept();
        }
    }
    let mut too_tight = tight(3);
    too_tight.limits.gossip_frame_bytes -= 1;
    let refused = start(too_tight, &mut Registry::default()).await;
    assert!(matches!(refused, Err(NetworkError::Gossip(_))));
}

#[tokio::test]
async fn content_travels_once_but_votes_that_are_sent_again_pass() {
    let a = Peer::start(config(1)).await;
    let mut b = node_beside(2, &[&a]).await;
    let mut c = node_beside(3, &[&a, &b]).await;
    for topic in Topic::ALL {
        publish(&a, topic, b"same").await;
        for peer in [&mut b, &mut c] {
            peer.heard(topic).await.verdict.accept();
        }
        // Sent again by its source, and by somebody else.
        publish(&a, topic, b"same").await;
        publish(&c, topic, b"same").await;
        publish(&c, topic, b"next").await;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|(_, bytes)| bytes != b"next") {
            let message = b.heard(topic).await;
            message.verdict.accept();
            heard.push((message.source, message.bytes));
        }
        let again: Vec<_> = heard.iter().filter(|(_, bytes)| bytes == b"same").collect();
        if matches!(topic, Topic::Consensus | Topic::Challenges) {
            // Whose comes first is open between two sources.
            assert!(again.contains(&&(node(3), b"same".to_vec())));
            if again.len() < 2 {
                let late = b.heard(topic).await;
                assert_eq!((late.source, late.bytes), (node(1), b"same".to_vec()));
            }
        } else {
            assert!(again.is_empty(), "{topic:?}: {again:?}");
        }
    }
}

#[tokio::test]
async fn what_a_flood_has_said_before_is_heard_from_whom_it_comes() {
    let topic = Topic::Challenges;
    let a = Peer::start(config(1)).await;
    let b = node_beside(2, &[&a]).await;
    let mut c = node_beside(3, &[&a, &b]).await;
    let mut said = 0_u32;
    while crowded(&c, topic) == 0 {
        publish(&a, topic, &said.to_le_bytes()).await;
        said += 1;
        tokio::task::yield_now().await;
    }
    let last = (said - 1).to_le_bytes();
    publish(&b, topic, &last).await;
    let heard = loop {
        let heard = c.heard(topic).await;
        if heard.source == node(2) {
            break heard;
        }
    };
    assert_eq!(heard.bytes, last);
}

#[tokio::test]
async fn light_peers_hear_headers_only_and_publish_transactions() {
    let (mut light, mut b, mut c) = line(config(2), Role::LightPeer).await;
    publish(&b, Topic::Headers, b"header").await;
    let header = light.heard(Topic::Headers).await;
    assert_eq!((header.source, header.bytes.as_slice()), (node(2), b"header".as_slice()));
    for topic in [Topic::Transactions, Topic::Consensus, Topic::Challenges] {
        assert!(light.gossip(topic).recv().await.is_none(), "{topic:?} is not heard");
    }
    publish(&light, Topic::Transactions, b"transaction").await;
    let heard = b.heard(Topic::Transactions).await;
    assert_eq!((heard.from, heard.source), (node(1), node(1)));
    heard.verdict.accept();
    let heard = c.heard(Topic::Transactions).await;
    assert_eq!((heard.from, heard.source), (node(2), node(1)));
    assert_eq!(heard.bytes, b"transaction");
    // Of the transactions of others it gets none.
    publish(&c, Topic::Transactions, b"another").await;
    b.heard(Topic::Transactions).await.verdict.accept();
    publish(&b, Topic::Headers, b"next").await;
    assert_eq!(light.heard(Topic::Headers).await.bytes, b"next");
    assert_eq!(gossiped(&light, "messages", Topic::Transactions, "in"), 0);
}

#[tokio::test]
async fn a_flood_of_transactions_holds_up_neither_votes_nor_requests() {
    let mut middle = config(2);
    middle.limits.transactions_max = 4;
    let (a, mut b, mut c) = line(middle, Role::StorageNode).await;
    publish(&a, Topic::Transactions, b"transaction").await;
    for i in 0..50_u8 {
        // Nobody judges them.
        a.network.publish(Topic::Transactions, vec![i; 1_000]).await.unwrap();
    }
    for i in 0..100_u8 {
        a.network.try_publish(Topic::Consensus, vec![i]).unwrap();
        let vote = b.heard(Topic::Consensus).await;
        assert_eq!(vote.bytes, [i]);
        vote.verdict.accept();
        assert_eq!(c.heard(Topic::Consensus).await.bytes, [i]);
    }
    a.exchanges_with(&mut b).await;
    assert_eq!(crowded(&b, Topic::Transactions), 51 - 4);
    assert_eq!(judged(&b, Topic::Transactions, "ignored"), 51 - 4);
    assert_eq!(crowded(&b, Topic::Consensus), 0);
    // Verdicts make room again.
    for _ in 0..4 {
        b.heard(Topic::Transactions).await.verdict.ignore();
    }
    while judged(&b, Topic::Transactions, "ignored") < 51 {
        tokio::task::yield_now().await;
    }
    publish(&a, Topic::Transactions, b"later").await;
    assert_eq!(b.heard(Topic::Transactions).await.bytes, b"later");
}

#[tokio::test]
async fn what_awaits_its_verdict_is_bounded_by_bytes() {
    let mut small = config(1);
    small.limits.gossip_pending_bytes_max = 1_500;
    let mut small = Peer::start(small).await;
    let sender = node_beside(2, &[&small]).await;
    publish(&sender, Topic::Consensus, &[1; 1_000]).await;
    let first = small.heard(Topic::Consensus).await;
    publish(&sender, Topic::Consensus, &[2; 1_000]).await;
    publish(&sender, Topic::Consensus, &[3; 500]).await;
    let third = small.heard(Topic::Consensus).await;
    assert_eq!(third.bytes, [3; 500]);
    assert_eq!(crowded(&small, Topic::Consensus), 1);
    drop((first.verdict, third.verdict));
    while judged(&small, Topic::Consensus, "ignored") < 3 {
        tokio::task::yield_now().await;
    }
    publish(&sender, Topic::Consensus, &[4; 1_500]).await;
    assert_eq!(small.heard(Topic::Consensus).await.bytes, [4; 1_500]);
}

#[tokio::test]
async fn who_sends_invalid_votes_is_not_heard_any_more() {
    let (hostile, mut b, c) = line(config(2), Role::StorageNode).await;
    let topic = Topic::Consensus;
    for i in 0..3 {
        publish(&hostile, topic, &[i]).await;
        let vote = b.heard(topic).await;
        assert_eq!(vote.from, node(1));
        vote.verdict.reject();
    }
    let graylisted = |view: &PeersView| {
        let sender = view.connected.get(&node(1));
        sender.is_some_and(|sender| sender.gossip_score < -80.0)
    };
    b.sees(graylisted).await;
    for i in 0..200 {
        // Neither on this topic nor on others.
        for topic in Topic::ALL {
            let sent = hostile.network.publish(topic, vec![9, i]).await;
            assert!(matches!(sent, Ok(()) | Err(AnnounceError::Busy)), "{sent:?}");
        }
    }
    // Requests are answered all the same, and others are heard.
    hostile.exchanges_with(&mut b).await;
    for topic in Topic::ALL {
        publish(&c, topic, b"honest").await;
        let heard = b.heard(topic).await;
        assert_eq!((heard.source, heard.bytes.as_slice()), (node(3), b"honest".as_slice()));
        heard.verdict.accept();
    }
    let all: u64 = Topic::ALL.iter().map(|topic| gossiped(&b, "messages", *topic, "in")).sum();
    assert_eq!(all, 3 + Topic::ALL.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_threads_hear_and_publish_votes() {
    const ROUNDS: u8 = 200;
    let a = Peer::start(config(1)).await;
    let mut b = node_beside(2, &[&a]).await;
    publish(&a, Topic::Consensus, b"first").await;
    b.heard(Topic::Consensus).await.verdict.accept();
    publish(&b, Topic::Consensus, b"first").await;
    // Each answers the vote of the other, until all rounds are over.
    let driver = |peer: Peer, is_first: bool| {
        std::thread::spawn(move || {
            let Peer { network, mut inbound, .. } = peer;
            if is_first {
                assert_eq!(inbound.consensus.blocking_recv().unwrap().bytes, b"first");
                network.try_publish(Topic::Consensus, vec![0]).unwrap();
            }
            for round in 0..ROUNDS {
                let vote = inbound.consensus.blocking_recv().unwrap();
                assert_eq!(vote.bytes, [round]);
                vote.verdict.accept();
                let next = if is_first { round + 1 } else { round };
                network.try_publish(Topic::Consensus, vec![next]).unwrap();
            }
            // Until the other is done too.
            network
        })
    };
    let started = std::time::Instant::now();
    let drivers = [driver(a, true), driver(b, false)];
    let ended = tokio::task::spawn_blocking(|| drivers.map(|driver| driver.join().unwrap()));
    timeout(DEADLINE, ended).await.unwrap().unwrap();
    println!("{:?} a vote and back", started.elapsed() / u32::from(ROUNDS));
}

#[tokio::test]
async fn a_full_queue_of_own_messages_is_busy_and_votes_have_their_own() {
    let mut config = config(1);
    config.limits.publications_max = 1;
    let peer = Peer::start(config).await;
    // The network's task does not run before this one waits.
    let network = &peer.network;
    assert_eq!(network.try_publish(Topic::Transactions, vec![1]), Ok(()));
    assert_eq!(network.try_publish(Topic::Transactions, vec![2]), Err(AnnounceError::Busy));
    assert_eq!(network.try_publish(Topic::Consensus, vec![3]), Ok(()));
    assert_eq!(network.try_publish(Topic::Consensus, vec![4]), Err(AnnounceError::Busy));
}

/// A stranger that has said to listen to a topic, but reads nothing from then on.
async fn deaf_listener(peer: &Peer, topic: Topic) -> libp2p::Swarm<Behaviour> {
    let key = Keypair::ed25519_from_bytes([9; 32]).unwrap();
    let author = MessageAuthenticity::Signed(key.clone());
    let name = format!("/floe/{}/{}/1", chain().short(), topic.word());
    let mut gossip = Behaviour::new(author, Config::default()).unwrap();
    gossip.subscribe(&IdentTopic::new(name)).unwrap();
    let mut swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| gossip)
        .unwrap()
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(DEADLINE))
        .build();
    swarm.dial(peer.address()).unwrap();
    let listens = async {
        loop {
            tokio::select! {
                () = publish(peer, topic, b"first") => break,
                _ = swarm.select_next_some() => {}
            }
        }
    };
    timeout(DEADLINE, listens).await.unwrap();
    swarm
}

#[tokio::test]
async fn a_peer_that_reads_nothing_loses_messages_and_holds_up_nobody() {
    const MESSAGES: u16 = 500;
    let mut config = config(1);
    config.limits.gossip_queue_max = 32;
    let a = Peer::start(config).await;
    let _deaf = deaf_listener(&a, Topic::Consensus).await;
    let mut b = node_beside(2, &[&a]).await;
    // Until b listens too.
    let reached = async {
        loop {
            publish(&a, Topic::Consensus, b"next").await;
            tokio::task::yield_now().await;
            if b.inbound.consensus.try_recv().is_ok() {
                break;
            }
        }
    };
    timeout(DEADLINE, reached).await.unwrap();
    for i in 0..MESSAGES {
        let mut bytes = vec![7; 40 << 10];
        bytes[..2].copy_from_slice(&i.to_le_bytes());
        a.network.publish(Topic::Consensus, bytes.clone()).await.unwrap();
        loop {
            let heard = b.heard(Topic::Consensus).await;
            heard.verdict.accept();
            if heard.bytes != b"next" {
                assert_eq!(heard.bytes, bytes);
                break;
            }
        }
    }
    // What the deaf one holds is its queue and what the streams take.
    let lost = gossiped(&a, "messages", Topic::Consensus, "out") - 200;
    let dropped = async {
        while a.count("network_gossip_dropped_total") < lost {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, dropped).await.unwrap();
}

#[tokio::test]
async fn a_source_says_so_many_commitments_and_no_more() {
    let topic = Topic::Challenges;
    let mut b = Peer::start(config(1)).await;
    let stranger = node_beside(2, &[&b]).await;
    publish(&stranger, topic, b"first").await;
    b.heard(topic).await.verdict.accept();
    for i in 0..70 {
        stranger.network.publish(topic, vec![i; topic.max_bytes()]).await.unwrap();
    }
    for i in 0..7 {
        let heard = b.heard(topic).await;
        assert_eq!(heard.bytes, vec![i; topic.max_bytes()]);
        heard.verdict.accept();
    }
    // Votes come behind: what was beyond was ignored before.
    publish(&stranger, Topic::Consensus, b"vote").await;
    assert_eq!(b.heard(Topic::Consensus).await.bytes, b"vote");
    assert_eq!(crowded(&b, topic), 63);
    assert!(b.gossip(topic).try_recv().is_err());
}
