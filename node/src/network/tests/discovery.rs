//! Finding peers, and finding them again.

use super::*;

fn bootstrapped(seed: u8, from: &Peer) -> NetworkConfig {
    let mut config = config(seed);
    config.bootstrap = vec![from.address()];
    config.committee = vec![node(1), node(2)];
    config
}

/// The node with which others begin.
fn beginning() -> NetworkConfig {
    let mut config = config(1);
    config.committee = vec![node(1), node(2)];
    config
}

#[tokio::test]
async fn peers_find_each_other_through_one_bootstrap() {
    let a = Peer::start(beginning()).await;
    let mut b = Peer::start(bootstrapped(2, &a)).await;
    a.meets(node(2)).await;
    let mut light = bootstrapped(3, &a);
    light.role = Role::LightPeer;
    light.listen = Vec::new();
    let c = Peer::start(light).await;
    // At once: the request waits until somebody can be asked for the way.
    c.exchanges_with(&mut b).await;
    let found = timeout(DEADLINE, c.network.find(node(2))).await.unwrap();
    assert_eq!(found, Ok(vec![b.address()]));
    // A node that nobody knows is not found.
    let unknown = timeout(DEADLINE, c.network.request(node(9), Request::NodeStatus)).await;
    assert_eq!(unknown.unwrap(), Err(RequestError::Unreachable));
}

#[tokio::test]
async fn a_node_that_restarts_at_its_port_is_connected_again() {
    let committee = vec![node(1), node(2), node(3)];
    let member = |seed| {
        let mut config = config(seed);
        config.committee.clone_from(&committee);
        config
    };
    let a = Peer::start(member(1)).await;
    let address = a.address();
    let mut others = Vec::new();
    for seed in [2, 3] {
        let mut config = member(seed);
        config.bootstrap = vec![address.clone()];
        others.push(Peer::start(config).await);
    }
    for other in &others {
        other.meets(node(1)).await;
    }
    // Through a, the members have found each other.
    others[0].meets(node(3)).await;
    others[1].meets(node(2)).await;
    timeout(DEADLINE, a.network.shutdown()).await.unwrap();
    for other in &others {
        other.sees(|view| !view.connected.contains_key(&node(1))).await;
    }
    let mut again = member(1);
    again.listen = vec![address];
    let mut a = Peer::start(again).await;
    for other in &others {
        other.meets(node(1)).await;
        other.exchanges_with(&mut a).await;
    }
}

#[tokio::test]
async fn a_node_that_moved_is_found_at_its_new_address() {
    let a = Peer::start(beginning()).await;
    let b = Peer::start(bootstrapped(2, &a)).await;
    let c = Peer::start(bootstrapped(3, &a)).await;
    a.meets(node(2)).await;
    c.meets(node(1)).await;
    // c remembers b where it will no longer be.
    c.knows(&b).await;
    timeout(DEADLINE, b.network.shutdown()).await.unwrap();
    let mut b = Peer::start(bootstrapped(2, &a)).await;
    b.meets(node(1)).await;
    a.meets(node(2)).await;
    c.exchanges_with(&mut b).await;
}

#[tokio::test]
async fn peers_that_joined_by_a_name_find_each_other() {
    let a = Peer::start(beginning()).await;
    let mut b = Peer::start(bootstrapped(2, &a)).await;
    a.meets(node(2)).await;
    let mut config_c = bootstrapped(3, &a);
    let address = a.address().to_string().replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    config_c.bootstrap = vec![address.parse().unwrap()];
    let c = Peer::start(config_c).await;
    c.exchanges_with(&mut b).await;
}

#[tokio::test]
async fn strangers_are_shown_to_nobody_and_keep_nobody_from_the_bootstrap() {
    let late = Peer::start(beginning()).await;
    let address = late.address();
    timeout(DEADLINE, late.network.shutdown()).await.unwrap();
    let mut early = config(2);
    early.committee = vec![node(1), node(2)];
    early.bootstrap = vec![address.clone()];
    let early = Peer::start(early).await;
    let mut stranger = config(3);
    stranger.bootstrap = vec![early.address()];
    let stranger = Peer::start(stranger).await;
    early.meets(node(3)).await;
    let mut late = beginning();
    late.listen = vec![address];
    let late = Peer::start(late).await;
    early.meets(node(1)).await;
    late.meets(node(2)).await;
    stranger.meets(node(2)).await;
    let found = timeout(DEADLINE, late.network.find(node(3))).await.unwrap();
    assert_eq!(found, Err(FindError::NotFound));
}

#[tokio::test]
async fn bootstrap_goes_on_until_somebody_is_there() {
    let late = Peer::start(config(1)).await;
    let address = late.address();
    timeout(DEADLINE, late.network.shutdown()).await.unwrap();
    let mut early = config(2);
    early.bootstrap = vec![address.clone()];
    let early = Peer::start(early).await;
    let mut late = config(1);
    late.listen = vec![address];
    let mut late = Peer::start(late).await;
    early.meets(node(1)).await;
    early.exchanges_with(&mut late).await;
}

#[tokio::test]
async fn members_connect_by_remembered_addresses_alone() {
    let mut member = config(1);
    member.committee = vec![node(1), node(2)];
    let a = Peer::start(member).await;
    let mut b = Peer::start(config(2)).await;
    a.knows(&b).await;
    a.meets(node(2)).await;
    // Cut off without a word, it is dialled again where it was. More than once, because
    // Kademlia's own first walk would dial it once too.
    for _ in 0..5 {
        let address = b.address();
        b.task.abort();
        drop(b);
        a.sees(|view| view.connected.is_empty()).await;
        let mut again = config(2);
        again.listen = vec![address];
        b = Peer::start(again).await;
        a.meets(node(2)).await;
    }
}

#[tokio::test]
async fn committee_addresses_are_shown_for_the_next_start() {
    let mut config_a = config(1);
    config_a.committee = vec![node(1), node(2)];
    let b = Peer::start(config(2)).await;
    config_a.bootstrap = vec![b.address()];
    let a = Peer::start(config_a).await;
    let address = b.address();
    let shown = move |view: &PeersView| {
        let addresses = view.committee_addresses.get(&node(2));
        addresses.is_some_and(|addresses| *addresses == [address.clone()])
    };
    a.sees(shown).await;
}
