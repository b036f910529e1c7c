//! Requests and responses between honest peers.

use std::num::NonZeroU32;

use floe_protocol::{encoding::Axis, index::ChallengeRound, registration::RegistrationId};

use super::*;

/// One request of each kind, the largest pair among them.
fn all_requests() -> Vec<Request> {
    let limits = Limits::new(encoding());
    let bytes = |count: u64, byte| Bytes::from(vec![byte; usize::try_from(count).unwrap()]);
    let registration = RegistrationId::new([4; 32]);
    vec![
        Request::Table { registration, header: header(), table: bytes(limits.table_bytes(), 1) },
        Request::StoreSlivers {
            registration,
            pair: SliverPairIndex::new(3),
            primary: bytes(limits.max_primary_bytes(), 2),
            secondary: bytes(limits.max_secondary_bytes(), 3),
        },
        Request::StoreSlivers {
            registration,
            pair: SliverPairIndex::new(0),
            primary: Bytes::new(),
            secondary: bytes(1, 3),
        },
        Request::Confirm { registration },
        Request::ReadSliver { blob: blob(), pair: SliverPairIndex::new(2), axis: Axis::Primary },
        Request::NodeStatus,
    ]
}

/// Sends every kind of request from one peer to the other and compares what arrives.
async fn exchange_everything(asker: &Peer, answerer: &mut Peer) {
    let to = answerer.network.local_node();
    for request in all_requests() {
        let response = response_to(&request);
        let asked = asker.network.request(to, request.clone());
        let answers = async {
            let (peer, received, reply) = answerer.asked().await;
            assert_eq!(peer, asker.network.local_node());
            assert!(received == request, "{} arrived altered", request.name());
            reply.reply(response.clone());
        };
        let (got, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
        assert!(got.unwrap() == Ok(response), "{}", request.name());
    }
}

async fn exchange_over(listen: &str) {
    let mut config_b = config(2);
    config_b.listen = vec![listen.parse().unwrap()];
    let mut a = Peer::start(config(1)).await;
    let mut b = Peer::start(config_b).await;
    a.knows(&b).await;
    exchange_everything(&a, &mut b).await;
    // The other way on the same connection: b knows no address of a.
    exchange_everything(&b, &mut a).await;
    let answered = "network_requests_in_total{kind=\"store_slivers\",outcome=\"answered\"}";
    assert_eq!(b.count(answered), 2);
}

#[tokio::test]
async fn every_kind_of_request_is_exchanged_over_tcp() {
    exchange_over("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn every_kind_of_request_is_exchanged_over_quic() {
    exchange_over("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn light_peers_ask_but_are_not_asked() {
    let mut light = config(1);
    light.role = Role::LightPeer;
    light.listen = Vec::new();
    let light = Peer::start(light).await;
    let mut storage = Peer::start(config(2)).await;
    light.knows(&storage).await;
    light.exchanges_with(&mut storage).await;
    storage.meets(node(1)).await;
    light.meets(node(2)).await;
    assert!(!storage.network.peers().borrow().connected[&node(1)].answers_requests);
    assert!(light.network.peers().borrow().connected[&node(2)].answers_requests);
    let refused = storage.network.request(node(1), Request::NodeStatus).await;
    assert_eq!(refused, Err(RequestError::Unsupported));
}

#[tokio::test]
async fn nodes_that_nobody_knows_are_unreachable_at_once() {
    let peer = Peer::start(config(1)).await;
    let asked = peer.network.request(node(2), Request::NodeStatus);
    let asked = timeout(DEADLINE, asked).await;
    assert_eq!(asked.unwrap(), Err(RequestError::Unreachable));
    assert_eq!(peer.network.find(node(2)).await, Err(FindError::NotFound));
    // Itself, and what is no key.
    let itself = peer.network.request(node(1), Request::NodeStatus).await;
    assert_eq!(itself, Err(RequestError::Unreachable));
    let no_key = NodeId::new([2; 32]);
    let nobody = peer.network.request(no_key, Request::NodeStatus).await;
    assert_eq!(nobody, Err(RequestError::Unreachable));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_unreachable() {
    let peer = Peer::start(config(1)).await;
    let gone = Peer::start(config(2)).await;
    peer.knows(&gone).await;
    gone.network.shutdown().await;
    let asked = peer.network.request(node(2), Request::NodeStatus);
    let asked = timeout(DEADLINE, asked).await;
    assert_eq!(asked.unwrap(), Err(RequestError::Unreachable));
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let mut first = config(1);
        first.listen = vec![listen.parse().unwrap()];
        let first = Peer::start(first).await;
        let mut second = config(2);
        second.listen = vec![first.address()];
        let error = start(second, &mut Registry::default()).await.unwrap_err();
        let NetworkError::Listen { address, source } = error else {
            panic!("{error}");
        };
        assert_eq!(address, first.address());
        assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    }
    let mut odd = config(1);
    odd.listen = vec!["/memory/1".parse().unwrap()];
    let error = start(odd, &mut Registry::default()).await.unwrap_err();
    assert!(matches!(error, NetworkError::UnsupportedAddress(_)), "{error}");
}

#[tokio::test]
async fn a_dropped_reply_closes_the_stream_only() {
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let asked = a.network.request(node(2), Request::NodeStatus);
    let drops = async {
        drop(b.asked().await);
    };
    let (response, ()) = tokio::join!(timeout(DEADLINE, asked), drops);
    assert_eq!(response.unwrap(), Err(RequestError::Closed));
    a.exchanges_with(&mut b).await;
}

#[tokio::test]
async fn a_service_that_never_answers_is_a_timeout() {
    let mut impatient = config(1);
    impatient.limits.answer_timeout_ms = 100;
    let a = Peer::start(impatient).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let asked = a.network.request(node(2), Request::NodeStatus);
    let (response, kept) = tokio::join!(timeout(DEADLINE, asked), b.asked());
    assert_eq!(response.unwrap(), Err(RequestError::Timeout));
    drop(kept);
    let timeouts = "network_requests_out_total{kind=\"node_status\",outcome=\"timeout\"}";
    assert_eq!(a.count(timeouts), 1);
}

#[tokio::test]
async fn requests_beyond_a_peers_limit_are_told_busy() {
    let mut strict = config(2);
    strict.limits.inbound_requests_per_peer_max = 2;
    strict.limits.busy_retry_after_ms = 77;
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(strict).await;
    a.knows(&b).await;
    let ask = || {
        let network = a.network.clone();
        let pair = Request::StoreSlivers {
            registration: RegistrationId::new([4; 32]),
            pair: SliverPairIndex::new(0),
            primary: vec![1; 2 << 20].into(),
            secondary: vec![1; 1 << 20].into(),
        };
        tokio::spawn(async move { network.request(node(2), pair).await })
    };
    let held = [ask(), ask()];
    let replies = [b.asked().await.2, b.asked().await.2];
    let busy = Refusal::Busy { retry_after_ms: 77 };
    for _ in 0..5 {
        let refused = timeout(DEADLINE, ask()).await.unwrap().unwrap();
        assert_eq!(refused, Ok(Response::Refused(busy)));
    }
    assert_eq!(b.count("network_requests_refused_total{reason=\"peer\"}"), 5);
    for reply in replies {
        reply.reply(stored());
    }
    for held in held {
        let answer = timeout(DEADLINE, held).await.unwrap().unwrap();
        assert_eq!(answer, Ok(stored()));
    }
    a.exchanges_with(&mut b).await;
}

#[tokio::test]
async fn a_service_that_does_not_keep_up_means_busy() {
    let mut small = config(2);
    small.limits.events_max = 1;
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(small).await;
    a.knows(&b).await;
    let ask = || {
        let network = a.network.clone();
        tokio::spawn(async move { network.request(node(2), Request::NodeStatus).await })
    };
    // Whichever comes second finds the only place in the queue taken.
    let either = futures::future::select(ask(), ask());
    let (refused, waiting) = timeout(DEADLINE, either).await.unwrap().factor_first();
    let busy = Refusal::Busy { retry_after_ms: 500 };
    assert_eq!(refused.unwrap(), Ok(Response::Refused(busy)));
    b.asked().await.2.reply(stored());
    let answer = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!(answer, Ok(stored()));
}

#[tokio::test]
async fn urgent_requests_of_members_find_a_place_where_others_do_not() {
    let mut small = config(2);
    small.committee = vec![node(1), node(2)];
    small.limits.events_max = 8;
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(small).await;
    a.knows(&b).await;
    let ask = |request| {
        let network = a.network.clone();
        tokio::spawn(async move { network.request(node(2), request).await })
    };
    // Seven wait for the service, which takes none; whichever comes last is told to come later.
    let all: Vec<_> = (0..8).map(|_| ask(Request::NodeStatus)).collect();
    let (refused, _, waiting) = timeout(DEADLINE, futures::future::select_all(all)).await.unwrap();
    let busy = Refusal::Busy { retry_after_ms: 500 };
    assert_eq!(refused.unwrap(), Ok(Response::Refused(busy)));
    let urgent = Request::ReadTranscript { round: ChallengeRound::new(7) };
    let expected = response_to(&urgent);
    let urgent = ask(urgent);
    while b.inbound.requests.len() < 8 {
        assert!(!urgent.is_finished(), "told to come later, too");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..8 {
        let (_, request, reply) = b.asked().await;
        reply.reply(response_to(&request));
    }
    assert_eq!(timeout(DEADLINE, urgent).await.unwrap().unwrap(), Ok(expected));
    for waiting in waiting {
        let answer = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert_eq!(answer, Ok(response_to(&Request::NodeStatus)));
    }
}

#[tokio::test]
async fn many_requests_at_once_all_come_through() {
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let service = tokio::spawn(async move {
        for _ in 0..300 {
            let (_, request, reply) = b.asked().await;
            reply.reply(response_to(&request));
        }
        b
    });
    let ask = |_| {
        let network = a.network.clone();
        async move { network.request(node(2), Request::NodeStatus).await }
    };
    let all = futures::future::join_all((0..300).map(ask));
    for response in timeout(DEADLINE, all).await.unwrap() {
        assert_eq!(response, Ok(response_to(&Request::NodeStatus)));
    }
    let b = timeout(DEADLINE, service).await.unwrap().unwrap();
    assert_eq!(b.count("network_connections{direction=\"in\"}"), 1);
}

#[tokio::test]
async fn the_upload_cap_holds() {
    let mut slow = config(1);
    slow.limits.upload_bytes_per_second = NonZeroU32::new(4 << 20);
    let a = Peer::start(slow).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let start = std::time::Instant::now();
    let pair = all_requests().swap_remove(1);
    let bytes = pair.payload_bytes();
    let asked = a.network.request(node(2), pair);
    let answers = async { b.asked().await.2.reply(stored()) };
    let (response, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
    assert_eq!(response.unwrap(), Ok(stored()));
    // A second's worth is the burst.
    let at_least = Duration::from_millis(1_000 * (bytes as u64 - (4 << 20)) / (4 << 20));
    assert!(start.elapsed() >= at_least.mul_f64(0.9), "{:?}", start.elapsed());
}

#[tokio::test]
async fn caps_hold_back_no_transcript() {
    // The transcript would take most of a minute through either.
    let cap = NonZeroU32::new(1 << 10);
    let (mut asker, mut server) = (config(1), config(2));
    asker.limits.download_bytes_per_second = cap;
    server.limits.upload_bytes_per_second = cap;
    let a = Peer::start(asker).await;
    let mut b = Peer::start(server).await;
    a.knows(&b).await;
    a.exchanges(&mut b, Request::ReadTranscript { round: ChallengeRound::new(7) }).await;
}

#[tokio::test]
async fn connections_beyond_an_addresss_limit_are_refused_until_one_closes() {
    let mut strict = config(1);
    strict.limits.loopback_exempt = false;
    strict.limits.connections_per_ip_max = 1;
    let mut server = Peer::start(strict).await;
    let first = Peer::start(config(2)).await;
    let second = Peer::start(config(3)).await;
    first.knows(&server).await;
    second.knows(&server).await;
    first.exchanges_with(&mut server).await;
    let asked = second.network.request(node(1), Request::NodeStatus);
    let refused = timeout(DEADLINE, asked).await.unwrap();
    // The refusal comes before or after the handshake looks complete to the other side.
    let expected = [RequestError::Unreachable, RequestError::Closed];
    assert!(expected.contains(&refused.unwrap_err()));
    assert!(server.count("network_connections_refused_total") > 0);
    timeout(DEADLINE, first.network.shutdown()).await.unwrap();
    server.sees(|view| view.connected.is_empty()).await;
    second.exchanges_with(&mut server).await;
}

#[tokio::test]
async fn payloads_beyond_the_bytes_under_way_wait_their_turn() {
    let mut frugal = config(1);
    frugal.limits.outbound_bytes_per_peer_max = 1;
    let a = Peer::start(frugal).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let pair = all_requests().swap_remove(1);
    let asked = (0..3).map(|_| a.network.request(node(2), pair.clone()));
    let asked = futures::future::join_all(asked);
    let answers = async {
        for _ in 0..3 {
            let (_, _, reply) = b.asked().await;
            // No second one comes while the first is not answered.
            assert!(b.inbound.requests.try_recv().is_err());
            reply.reply(stored());
        }
    };
    let (responses, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
    assert_eq!(responses.unwrap(), vec![Ok(stored()); 3]);
}

#[tokio::test]
async fn a_stopped_network_says_so_and_its_peers_notice() {
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    a.exchanges_with(&mut b).await;
    let handle = a.network.clone();
    timeout(DEADLINE, a.network.shutdown()).await.unwrap();
    timeout(DEADLINE, a.task).await.unwrap().unwrap();
    b.sees(|view| view.connected.is_empty()).await;
    let stopped = handle.request(node(2), Request::NodeStatus).await;
    assert_eq!(stopped, Err(RequestError::Stopped));
    assert_eq!(handle.find(node(2)).await, Err(FindError::Stopped));
    let announced = handle.publish(Topic::Headers, vec![1]).await;
    assert_eq!(announced, Err(AnnounceError::Stopped));
    let at_once = handle.try_publish(Topic::Consensus, vec![1]);
    assert_eq!(at_once, Err(AnnounceError::Stopped));
    timeout(DEADLINE, handle.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_gives_its_place_back() {
    let mut narrow = config(1);
    narrow.limits.outbound_requests_max = 2;
    narrow.limits.outbound_requests_per_peer_max = 1;
    let a = Peer::start(narrow).await;
    let mut b = Peer::start(config(2)).await;
    let mut c = Peer::start(config(3)).await;
    a.knows(&b).await;
    a.knows(&c).await;
    // One is under way to b and another waits behind it, until its caller gives up.
    let network = a.network.clone();
    let first = tokio::spawn(async move { network.request(node(2), Request::NodeStatus).await });
    let (_, _, reply) = b.asked().await;
    let second = a.network.request(node(2), Request::NodeStatus);
    assert!(timeout(Duration::from_millis(50), second).await.is_err());
    a.exchanges_with(&mut c).await;
    reply.reply(stored());
    let answer = timeout(DEADLINE, first).await.unwrap().unwrap();
    assert_eq!(answer, Ok(stored()));
}

#[tokio::test]
async fn urgent_requests_need_no_place_that_a_silent_peer_holds() {
    let mut narrow = config(1);
    narrow.limits.outbound_requests_max = 1;
    let a = Peer::start(narrow).await;
    let mut silent = Peer::start(config(2)).await;
    let mut b = Peer::start(config(3)).await;
    a.knows(&silent).await;
    a.knows(&b).await;
    let network = a.network.clone();
    a.exchanges_with(&mut b).await;
    let held = tokio::spawn(async move { network.request(node(2), Request::NodeStatus).await });
    let kept = silent.asked().await;
    let behind = a.network.request(node(3), Request::NodeStatus);
    assert!(timeout(Duration::from_millis(50), behind).await.is_err());
    assert!(b.inbound.requests.try_recv().is_err(), "it has left");
    let urgent = Request::ReadTranscript { round: ChallengeRound::new(7) };
    a.exchanges(&mut b, urgent).await;
    held.abort();
    drop(kept);
}

#[tokio::test]
async fn what_is_answered_before_the_end_is_sent_before_the_end() {
    let a = Peer::start(config(1)).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    let read =
        Request::ReadSliver { blob: blob(), pair: SliverPairIndex::new(2), axis: Axis::Primary };
    let asked = a.network.request(node(2), read.clone());
    let answers = async {
        let (_, request, reply) = b.asked().await;
        let network = b.network.clone();
        let stops = tokio::spawn(async move { network.shutdown().await });
        tokio::task::yield_now().await;
        reply.reply(response_to(&request));
        timeout(DEADLINE, stops).await.unwrap().unwrap();
    };
    let (response, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
    let response = response.unwrap();
    assert!(response == Ok(response_to(&read)), "{:?}", response.err());
}
