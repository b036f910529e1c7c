//! Announcements among nodes in a clique and in a line.

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

/// Announces until somebody listens: subscriptions follow connections by themselves.
async fn announce(peer: &Peer, bytes: &[u8]) {
    let announced = async {
        while let Err(error) = peer.network.announce(bytes.to_vec()).await {
            assert_eq!(error, AnnounceError::NoPeers);
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, announced).await.unwrap();
}

#[tokio::test]
async fn what_is_accepted_reaches_all_and_what_is_rejected_goes_no_further() {
    let mut a = Peer::start(config(1)).await;
    let mut b = node_beside(2, &[&a]).await;
    let mut c = node_beside(3, &[&a, &b]).await;
    let mut d = node_beside(4, &[&a, &b, &c]).await;

    announce(&a, b"valid").await;
    for peer in [&mut b, &mut c, &mut d] {
        let (_, bytes, verdict) = peer.heard().await;
        assert_eq!(bytes, b"valid");
        verdict.accept();
    }
    assert_eq!(a.count("network_announcements_total{verdict=\"accepted\"}"), 0);

    // All reject it, so that each must have it from a itself.
    announce(&a, b"invalid").await;
    for peer in [&mut b, &mut c, &mut d] {
        let (from, bytes, verdict) = peer.heard().await;
        assert_eq!((from, bytes.as_slice()), (node(1), b"invalid".as_slice()));
        verdict.reject();
        peer.sees(|view| {
            let sender = view.connected.get(&node(1));
            sender.is_some_and(|sender| sender.gossip_score < 0.0)
        })
        .await;
        assert_eq!(peer.count("network_announcements_total{verdict=\"rejected\"}"), 1);
    }
    // What comes next is not the rejected one again, from whomever.
    announce(&b, b"next").await;
    for peer in [&mut a, &mut c, &mut d] {
        let (_, bytes, verdict) = peer.heard().await;
        assert_eq!(bytes, b"next");
        verdict.accept();
    }
}

#[tokio::test]
async fn an_announcement_passes_a_node_only_once_it_is_accepted() {
    let mut b = Peer::start(config(2)).await;
    // Nobody finds a way to strangers, so these stay connected to b alone. Light peers announce,
    // but do not listen.
    let stranger = |seed, role| {
        let mut config = config(seed);
        config.bootstrap = vec![b.address()];
        config.role = role;
        Peer::start(config)
    };
    let light = stranger(1, Role::LightPeer);
    let (a, mut c) = tokio::join!(light, stranger(3, Role::StorageNode));
    for (peer, seed) in [(&a, 1), (&c, 3)] {
        peer.meets(node(2)).await;
        b.meets(node(seed)).await;
    }
    let first = b"rejected by b".as_slice();
    announce(&a, first).await;
    let (from, bytes, verdict) = b.heard().await;
    assert_eq!((from, bytes.as_slice()), (node(1), first));
    verdict.reject();
    announce(&a, b"ignored by b").await;
    drop(b.heard().await);
    announce(&a, b"accepted by b").await;
    b.heard().await.2.accept();
    let (from, bytes, _) = c.heard().await;
    assert_eq!((from, bytes.as_slice()), (node(2), b"accepted by b".as_slice()));
    assert_eq!(b.count("network_announcements_total{verdict=\"ignored\"}"), 1);
}

#[tokio::test]
async fn announcements_have_a_limit_and_need_a_listener() {
    let lonely = Peer::start(config(1)).await;
    let too_large = lonely.network.announce(vec![0; MAX_ANNOUNCEMENT_BYTES + 1]).await;
    assert_eq!(too_large, Err(AnnounceError::TooLarge));
    let nobody = lonely.network.announce(vec![0; 1]).await;
    assert_eq!(nobody, Err(AnnounceError::NoPeers));
    let mut other = node_beside(2, &[&lonely]).await;
    let largest = vec![1; MAX_ANNOUNCEMENT_BYTES];
    announce(&lonely, &largest).await;
    assert_eq!(other.heard().await.1, largest);
}
