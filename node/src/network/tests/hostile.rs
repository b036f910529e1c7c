//! Peers that do not play by the rules: each stream ends, is counted, and the node goes on.

use floe_protocol::{
    index::{ChallengeRound, SliverPairIndex},
    message::{MAX_HEAD_BYTES, RequestHead},
    registration::RegistrationId,
};
use futures::StreamExt;
use libp2p::{
    request_response::{Event as RequestEvent, Message, OutboundFailure},
    swarm::SwarmEvent,
};

use super::{
    raw::{Hostile, Raw, bytes_of, framed, good, id, protocol, with_head},
    *,
};

fn pair_head(primary_bytes: u32, secondary_bytes: u32) -> RequestHead {
    RequestHead::StoreSlivers {
        registration: RegistrationId::new([1; 32]),
        pair: SliverPairIndex::new(0),
        primary_bytes,
        secondary_bytes,
    }
}

fn largest_pair() -> RequestHead {
    let limits = Limits::new(encoding());
    let primary = u32::try_from(limits.max_primary_bytes()).unwrap();
    pair_head(primary, u32::try_from(limits.max_secondary_bytes()).unwrap())
}

/// Waits for what only a counter shows.
async fn eventually(wish: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let granted = async {
        while !wish() {
            ticks.tick().await;
        }
    };
    timeout(DEADLINE, granted).await.expect("it did not happen in time");
}

/// A node that bears with whoever breaks the rules.
fn lenient(seed: u8) -> NetworkConfig {
    let mut config = config(seed);
    config.limits.violations_max = 1_000;
    config
}

/// One that gives slow streams up soon; on a busy machine honest ones, too.
fn impatient(seed: u8) -> NetworkConfig {
    let mut config = lenient(seed);
    config.limits.transfer_timeout_ms = 1_000;
    config.limits.stall_timeout_ms = 1_000;
    config.limits.admission_timeout_ms = 50;
    config
}

/// What is wrong with a message, its bytes, and the word under which it is counted.
type Malformed = (&'static str, Vec<u8>, &'static str);

fn malformed_frames() -> Vec<Malformed> {
    let too_long = u32::try_from(MAX_HEAD_BYTES + 1).unwrap();
    let nested = vec![0x81; MAX_HEAD_BYTES];
    let nested = framed(too_long - 1, &nested, &[]);
    let short = framed(5, &good()[4..], &[]);
    let trailing = [good(), vec![0]].concat();
    vec![
        ("nothing", Vec::new(), "truncated"),
        ("half a prefix", vec![1, 0], "truncated"),
        ("head too long", framed(too_long, &[], &[]), "head_too_long"),
        ("longest head", framed(u32::MAX, &[0; 99], &[]), "head_too_long"),
        ("head not all sent", framed(100, &[0; 10], &[]), "truncated"),
        ("head shorter than sent", short, "head"),
        ("empty head", framed(0, &[], &[]), "head"),
        ("garbage", framed(50, &[0xff; 50], &[]), "head"),
        ("deep nesting", nested, "head"),
        ("unknown kind", framed(2, b"\x61x", &[]), "head"),
        ("bytes behind a head", trailing, "trailing"),
    ]
}

fn malformed_requests() -> Vec<Malformed> {
    let limits = Limits::new(encoding());
    let primary_max = u32::try_from(limits.max_primary_bytes()).unwrap();
    let pair =
        |primary, secondary, sent: usize| with_head(&pair_head(primary, secondary), &vec![0; sent]);
    let table = |header: &[u8]| {
        let registration = RegistrationId::new([4; 32]);
        let head = RequestHead::Table { registration, header: header.to_vec(), table_bytes: 0 };
        with_head(&head, &[])
    };
    let out_of_range = RequestHead::ReadSliver {
        blob: blob(),
        pair: SliverPairIndex::new(4),
        axis: floe_protocol::encoding::Axis::Primary,
    };
    let foreign = BlobHeader { n_shards: 7, ..header() };
    let too_large = "payload_too_large";
    vec![
        ("bytes behind a payload", pair(3, 2, 6), "trailing"),
        ("payload too short", pair(3, 2, 4), "truncated"),
        ("payload too large", pair(primary_max + 1, 0, 9), too_large),
        ("largest payload", pair(u32::MAX, u32::MAX, 9), too_large),
        ("out of range", with_head(&out_of_range, &[]), "field"),
        ("short blob header", table(&[0; 3]), "field"),
        ("foreign header", table(&foreign.to_bytes()), "field"),
    ]
}

#[tokio::test]
async fn malformed_messages_end_their_stream_only() {
    let mut victim = Peer::start(lenient(1)).await;
    let mut hostile = Hostile::against(9, &victim);
    let messages = [malformed_frames(), malformed_requests()].concat();
    for (what, bytes, reason) in messages {
        let before = victim.malformed(reason);
        let sent = hostile.send(&victim, Raw::Bytes(bytes));
        // The stream ends without a byte of an answer.
        if let Ok(answer) = hostile.outcome(sent).await {
            assert!(answer.is_empty(), "{what} was answered");
        }
        eventually(|| victim.malformed(reason) == before + 1).await;
        hostile.is_served_by(&mut victim).await;
    }
    assert_eq!(victim.count("network_connections{direction=\"in\"}"), 1, "cut once");
}

#[tokio::test]
async fn streams_that_send_nothing_are_given_up() {
    let mut victim = Peer::start(impatient(1)).await;
    let mut hostile = Hostile::against(9, &victim);
    let hanging = [
        Vec::new(),
        vec![100, 0],
        framed(100, &[0; 10], &[]),
        with_head(&largest_pair(), &[]),
        with_head(&largest_pair(), &[0; 1_000]),
        // All is there but the end.
        good(),
    ];
    let count = hanging.len() as u64;
    for bytes in hanging {
        hostile.send(&victim, Raw::Hang(bytes));
    }
    let drive = async {
        loop {
            hostile.swarm.select_next_some().await;
        }
    };
    tokio::select! {
        () = eventually(|| victim.malformed("timeout") == count) => {}
        () = drive => {}
    }
    hostile.is_served_by(&mut victim).await;
}

#[tokio::test]
async fn announced_payloads_take_no_room_from_others() {
    let mut config = impatient(1);
    config.limits.inbound_bytes_per_peer_max = 1;
    config.limits.stall_timeout_ms = 5_000;
    config.limits.transfer_timeout_ms = 5_000;
    let mut victim = Peer::start(config).await;
    let honest = Peer::start(super::config(2)).await;
    honest.knows(&victim).await;
    let mut hostile = Hostile::against(9, &victim);
    let streams = 60;
    for _ in 0..streams {
        let bytes = with_head(&largest_pair(), &[0; 10]);
        hostile.send(&victim, Raw::Hang(bytes));
    }
    let hostile = tokio::spawn(async move {
        loop {
            hostile.swarm.select_next_some().await;
        }
    });
    let pair = Request::StoreSlivers {
        registration: RegistrationId::new([1; 32]),
        pair: SliverPairIndex::new(0),
        primary: vec![1; 3 << 20].into(),
        secondary: vec![1; 1 << 20].into(),
    };
    victim.meets_some().await;
    let asked = honest.network.request(node(1), pair);
    let answers = async { victim.asked().await.2.reply(stored()) };
    let (response, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
    assert_eq!(response.unwrap(), Ok(stored()));
    assert_eq!(victim.malformed("timeout"), 0, "the hostile streams still hang");
    eventually(|| victim.malformed("timeout") == streams).await;
    hostile.abort();
}

#[tokio::test]
async fn members_that_hold_up_all_room_of_the_others_hold_up_no_challenge() {
    let mut config = lenient(1);
    config.limits.committee_inbound_bytes_max = 1;
    config.limits.inbound_bytes_per_peer_max = 1;
    config.limits.admission_timeout_ms = 50;
    all_room_is_held_up(config, "bytes").await;
    let mut config = lenient(1);
    config.limits.inbound_requests_max = 2;
    all_room_is_held_up(config, "total").await;
}

/// A hostile member holds what `reason` says that there is no more of; an honest one hands in what
/// belongs to challenges.
async fn all_room_is_held_up(mut config: NetworkConfig, reason: &str) {
    config.committee = vec![node(1), node(2), node(9)];
    let mut victim = Peer::start(config).await;
    let honest = Peer::start(super::config(2)).await;
    honest.knows(&victim).await;
    let mut hostile = Hostile::against(9, &victim);
    let victims_id = id(&victim);
    // Again and again: whoever finds the room taken by an honest one is told to come later.
    let hostile = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                _ = hostile.swarm.select_next_some() => {}
                _ = ticks.tick() => {
                    let hanging = Raw::Hang(with_head(&largest_pair(), &[0; 10]));
                    hostile.swarm.behaviour_mut().send_request(&victims_id, hanging);
                }
            }
        }
    });
    let network = honest.network.clone();
    // Until it has what it wants, others are served.
    let told_busy = async {
        loop {
            let large = Request::StoreSlivers {
                registration: RegistrationId::new([1; 32]),
                pair: SliverPairIndex::new(1),
                primary: vec![1; 3 << 20].into(),
                secondary: vec![1; 1 << 20].into(),
            };
            let answer = network.request(node(1), large).await;
            if matches!(answer, Ok(Response::Refused(Refusal::Busy { .. }))) {
                return;
            }
            assert_eq!(answer, Ok(stored()));
        }
    };
    let serves = async {
        loop {
            let (_, request, reply) = victim.asked().await;
            reply.reply(response_to(&request));
        }
    };
    tokio::select! {
        told = timeout(DEADLINE, told_busy) => told.unwrap(),
        () = serves => {}
    }
    let refused = format!("network_requests_refused_total{{reason=\"{reason}\"}}");
    assert!(victim.count(&refused) > 0, "no room is left");
    let round = ChallengeRound::new(7);
    let signature = BlsKeyPair::from_seed([1; 32]).sign(b"passed");
    for request in [Request::ReadTranscript { round }, Request::Acknowledge { round, signature }] {
        honest.exchanges(&mut victim, request).await;
    }
    hostile.abort();
}

#[tokio::test]
async fn who_breaks_the_rules_too_often_is_cut_off() {
    let mut config = config(1);
    config.limits.violations_max = 3;
    let mut victim = Peer::start(config).await;
    let honest = Peer::start(super::config(2)).await;
    honest.knows(&victim).await;
    honest.exchanges_with(&mut victim).await;
    let mut hostile = Hostile::against(9, &victim);
    for _ in 0..3 {
        let sent = hostile.send(&victim, Raw::Bytes(framed(50, &[0xff; 50], &[])));
        let outcome = hostile.outcome(sent).await;
        assert!(outcome.map_or(true, |answer| answer.is_empty()));
    }
    let cut = async {
        while !matches!(hostile.swarm.select_next_some().await, SwarmEvent::ConnectionClosed { .. })
        {
        }
    };
    timeout(DEADLINE, cut).await.unwrap();
    // It is not let in again.
    let sent = hostile.send(&victim, Raw::Bytes(good()));
    assert!(hostile.outcome(sent).await.is_err());
    eventually(|| victim.count("network_connections_refused_total") > 0).await;
    honest.exchanges_with(&mut victim).await;
}

#[tokio::test]
async fn who_sends_what_is_not_valid_too_often_is_cut_off() {
    let mut config = config(1);
    config.limits.violations_max = 2;
    let mut victim = Peer::start(config).await;
    let liar = Peer::start(super::config(2)).await;
    liar.knows(&victim).await;
    let invalid = Response::Refused(Refusal::Invalid(InvalidReason::Sliver));
    for _ in 0..2 {
        let asked = liar.network.request(node(1), Request::NodeStatus);
        let answers = async { victim.asked().await.2.reply(invalid.clone()) };
        let (response, ()) = tokio::join!(timeout(DEADLINE, asked), answers);
        assert_eq!(response.unwrap(), Ok(invalid.clone()));
    }
    victim.sees(|view| view.connected.is_empty()).await;
    let refused = timeout(DEADLINE, liar.network.request(node(1), Request::NodeStatus)).await;
    assert!(refused.unwrap().is_err());
}

#[tokio::test]
async fn streams_beyond_what_a_stranger_may_have_open_are_dropped() {
    let mut config = lenient(1);
    config.limits.inbound_streams_per_peer_max = 2;
    config.limits.transfer_timeout_ms = 60_000;
    let mut victim = Peer::start(config).await;
    let mut hostile = Hostile::against(9, &victim);
    for _ in 0..2 {
        hostile.send(&victim, Raw::Hang(vec![1]));
    }
    let third = hostile.send(&victim, Raw::Bytes(good()));
    assert!(hostile.outcome(third).await.map_or(true, |answer| answer.is_empty()));
    // Others have theirs.
    Hostile::against(8, &victim).is_served_by(&mut victim).await;
}

#[tokio::test]
async fn peers_of_another_network_are_sent_away() {
    let mut victim = Peer::start(config(1)).await;
    let mut foreign = config(2);
    foreign.chain = ChainId::new(Hash::new([8; 32]));
    foreign.bootstrap = vec![victim.address()];
    let foreign = Peer::start(foreign).await;
    eventually(|| victim.malformed("wrong_network") + foreign.malformed("wrong_network") > 0).await;
    let asked = timeout(DEADLINE, foreign.network.request(node(1), Request::NodeStatus)).await;
    assert!(asked.unwrap().is_err());
    // Nor does it help to be silent about it.
    let mut hostile = Hostile::new(9, "/floe/08080808/request/1");
    hostile.swarm.add_peer_address(id(&victim), victim.address());
    let sent = hostile.send(&victim, Raw::Bytes(good()));
    let outcome = hostile.outcome(sent).await;
    assert!(matches!(outcome, Err(OutboundFailure::UnsupportedProtocols)), "{outcome:?}");
    let honest = Peer::start(config(3)).await;
    honest.knows(&victim).await;
    honest.exchanges_with(&mut victim).await;
}

#[tokio::test]
async fn malformed_answers_are_errors_of_their_kind() {
    let mut hostile = Hostile::new(9, &protocol());
    hostile.swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = hostile.swarm.select_next_some().await {
            break address;
        }
    };
    let certified = bytes_of(&stored().into_frame().unwrap());
    let answers = [
        (Raw::Bytes(certified.clone()), Ok(stored())),
        (Raw::Bytes(framed(50, &[0xff; 50], &[])), Err(RequestError::Malformed)),
        (Raw::Bytes(framed(u32::MAX, &[], &[])), Err(RequestError::Malformed)),
        (Raw::Bytes([certified.clone(), vec![0]].concat()), Err(RequestError::Malformed)),
        (Raw::Bytes(Vec::new()), Err(RequestError::Closed)),
        (Raw::Bytes(certified[..6].to_vec()), Err(RequestError::Closed)),
        (Raw::Hang(Vec::new()), Err(RequestError::Timeout)),
        (Raw::Hang(certified[..6].to_vec()), Err(RequestError::Timeout)),
    ];
    let mut script = answers.clone().into_iter().map(|(raw, _)| raw);
    tokio::spawn(async move {
        loop {
            let event = hostile.swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(RequestEvent::Message {
                message: Message::Request { channel, .. },
                ..
            }) = event
            {
                let raw = script.next().unwrap();
                drop(hostile.swarm.behaviour_mut().send_response(channel, raw));
            }
        }
    });
    let patient = Peer::start(lenient(2)).await;
    let mut config = impatient(1);
    config.limits.answer_timeout_ms = 300;
    let impatient = Peer::start(config).await;
    for asker in [&patient, &impatient] {
        asker.network.add_addresses(node(9), vec![address.clone()]).await;
    }
    for (raw, expected) in answers {
        let hangs = expected == Err(RequestError::Timeout);
        let asker = if hangs { &impatient } else { &patient };
        let asked = asker.network.request(node(9), Request::NodeStatus);
        let got = timeout(DEADLINE, asked).await.unwrap();
        assert_eq!(got, expected, "{raw:?}");
    }
}
