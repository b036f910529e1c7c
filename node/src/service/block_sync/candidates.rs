//! Whom block sync asks, in which order.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use floe_protocol::{index::Height, keys::NodeId, ledger::State};
use tokio::time::Instant;

use crate::network::PeersView;

/// Every so many turns another node than a member is asked first.
const OTHERS_TURN: usize = 4;
/// How long a peer that stalled or sent something wrong is not asked again.
const PENALTY: Duration = Duration::from_secs(60);

/// Who is not asked, or last.
#[derive(Debug, Default)]
pub(super) struct LeftAlone {
    /// Until when peers that stalled or sent something wrong are not asked.
    penalties: BTreeMap<NodeId, Instant>,
    /// Who told of blocks, and has none of the height that is needed, which it says itself.
    lacking: BTreeMap<NodeId, Height>,
}

impl LeftAlone {
    pub(super) fn penalise(&mut self, peer: NodeId, now: Instant) {
        self.penalties.insert(peer, now + PENALTY);
    }

    pub(super) fn lacks(&mut self, peer: NodeId, height: Height) {
        self.lacking.insert(peer, height);
    }

    /// Forgets what is over, when the block of height `next` is needed.
    pub(super) fn forget(&mut self, now: Instant, next: Height) {
        self.penalties.retain(|_, until| *until > now);
        self.lacking.retain(|_, height| *height == next);
    }
}

/// The connected members of the committee, then whoever else answers requests, who comes first every
/// few turns, then those who lack the block that is needed. Without those who are penalised, unless
/// nobody else is there.
pub(super) fn candidates(
    state: &State,
    peers: &PeersView,
    LeftAlone { penalties, lacking }: &LeftAlone,
    turn: usize,
) -> VecDeque<NodeId> {
    let members = state.committee().members().iter().map(|member| member.node);
    let members: Vec<_> = members.filter(|node| peers.connected.contains_key(node)).collect();
    let others = peers
        .connected
        .iter()
        .filter(|(node, view)| view.answers_requests && state.committee().position(node).is_none());
    let others: Vec<_> = others.map(|(node, _)| *node).collect();
    let fit = |nodes: &[NodeId], turn: usize| {
        let fit = nodes.iter().filter(|node| !penalties.contains_key(node));
        let mut fit: VecDeque<_> = fit.copied().collect();
        let turn = turn.checked_rem(fit.len()).unwrap_or(0);
        fit.rotate_left(turn);
        fit
    };
    let (mut first, mut second) = (fit(&members, turn), fit(&others, turn / OTHERS_TURN));
    if turn % OTHERS_TURN == OTHERS_TURN - 1 {
        std::mem::swap(&mut first, &mut second);
    }
    first.append(&mut second);
    let (lacking, mut first): (VecDeque<_>, VecDeque<_>) =
        first.into_iter().partition(|node| lacking.contains_key(node));
    first.extend(lacking);
    if first.is_empty() {
        let everybody = members.into_iter().chain(others);
        return everybody.min_by_key(|node| penalties.get(node)).into_iter().collect();
    }
    first
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support;

    use super::*;
    use crate::network::PeerView;

    fn node(seed: u8) -> NodeId {
        NodeId::new([seed; 32])
    }

    fn peer(answers_requests: bool) -> PeerView {
        PeerView {
            address: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
            connections: 1,
            answers_requests,
            agent: String::new(),
            gossip_score: 0.0,
        }
    }

    #[test]
    fn members_are_asked_before_strangers_and_who_stalled_last_of_all() {
        let genesis = test_support::genesis(4, 7);
        let (state, _) = State::genesis(&genesis).unwrap();
        let members: Vec<_> = state.committee().members().iter().map(|m| m.node).collect();
        let mut peers = PeersView::default();
        peers.connected.insert(node(1), peer(true));
        peers.connected.insert(node(2), peer(false));
        let none = LeftAlone::default();
        assert_eq!(candidates(&state, &peers, &none, 3), [node(1)], "a storage node");
        peers.connected.insert(members[0], peer(true));
        peers.connected.insert(members[2], peer(true));
        assert_eq!(candidates(&state, &peers, &none, 0), [members[0], members[2], node(1)]);
        assert_eq!(candidates(&state, &peers, &none, 1), [members[2], members[0], node(1)]);
        // Members of long ago may know no more than this node.
        assert_eq!(candidates(&state, &peers, &none, 3), [node(1), members[2], members[0]]);
        peers.connected.remove(&node(1));
        let now = Instant::now();
        let mut alone = LeftAlone::default();
        alone.penalise(members[0], now);
        for turn in 0..3 {
            assert_eq!(candidates(&state, &peers, &alone, turn), [members[2]]);
        }
        alone.penalise(members[2], now + PENALTY);
        assert_eq!(candidates(&state, &peers, &alone, 0), [members[0]], "nobody else is there");
        alone.forget(now + PENALTY, Height::new(1));
        assert_eq!(candidates(&state, &peers, &alone, 0), [members[0]], "its time is over");
    }

    #[test]
    fn who_lacks_old_blocks_comes_last_until_they_are_there() {
        let genesis = test_support::genesis(4, 7);
        let state = State::genesis(&genesis).unwrap().0;
        let member = state.committee().members()[0].node;
        let mut peers = PeersView::default();
        peers.connected.insert(node(1), peer(true));
        peers.connected.insert(member, peer(true));
        let now = Instant::now();
        let mut alone = LeftAlone::default();
        alone.lacks(member, Height::new(5));
        alone.forget(now, Height::new(5));
        for turn in 0..4 {
            assert_eq!(candidates(&state, &peers, &alone, turn), [node(1), member]);
        }
        peers.connected.remove(&node(1));
        assert_eq!(candidates(&state, &peers, &alone, 0), [member], "it is asked all the same");
        peers.connected.insert(node(1), peer(true));
        alone.forget(now, Height::new(6));
        assert_eq!(candidates(&state, &peers, &alone, 0), [member, node(1)]);
    }
}
