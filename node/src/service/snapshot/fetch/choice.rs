//! Which offered snapshot is tried first, and whom to ask at all.
//!
//! A newcomer cannot tell a made-up list of chunks from the true one before it has them all, so it
//! matters who vouches. Members of the committee come before those who have shown that they know
//! the chain, and those before everybody else; only then does a newer snapshot come before an older
//! one. Keys cost nothing: how many strangers say the same counts for nothing, and among equals
//! chance decides, so that no choice of keys puts a stranger in front.
//!
//! Pure: what is drawn is an argument.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use floe_protocol::{
    committee::Committee,
    hash::Hash,
    keys::NodeId,
    ledger::{SNAPSHOT_CHUNK_BYTES, SnapshotManifest, SnapshotOffer},
};

/// Peers that are asked.
const PEERS_MAX: usize = 16;
/// What every attempt is given.
const ATTEMPT_GRACE: Duration = Duration::from_secs(60);
/// An attempt that brings less in a second, on average, is given up.
const ATTEMPT_BYTES_PER_SECOND: u64 = 64 << 10;
/// The longest attempt with an offer for which members vouch of whom all may lie.
const MEMBERS_LIMIT: Duration = Duration::from_secs(60 * 60);
/// The longest attempt with an offer for which strangers vouch.
const STRANGERS_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Draws a number for a key: the same for the same key, and nobody else can tell which.
pub(in super::super) type Draw<'a> = &'a dyn Fn(&[u8]) -> u64;

/// How far the word of those who offer a snapshot goes, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Standing {
    /// Anybody may be behind it.
    Strangers,
    /// Who showed hand-overs that hold.
    Proven,
    /// Members, but not more of them than may lie.
    Members,
    /// So many members that an honest one is among them.
    Vouched,
}

impl Standing {
    /// How long a snapshot of so many chunks may take.
    pub(in super::super) fn limit(self, chunks: usize) -> Duration {
        let bytes = u64::try_from(chunks.saturating_mul(SNAPSHOT_CHUNK_BYTES)).unwrap_or(u64::MAX);
        let limit = ATTEMPT_GRACE + Duration::from_secs(bytes / ATTEMPT_BYTES_PER_SECOND);
        match self {
            Self::Vouched => limit,
            Self::Members => limit.min(MEMBERS_LIMIT),
            Self::Proven | Self::Strangers => limit.min(STRANGERS_LIMIT),
        }
    }
}

/// The same snapshot, and who offers it, whom to ask first first.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) offer: SnapshotOffer,
    pub(super) peers: Vec<NodeId>,
    pub(super) standing: Standing,
}

/// What is known of peers.
pub(in super::super) struct Known<'a> {
    /// The newest committee that was followed to.
    pub(in super::super) committee: &'a Committee,
    /// Whether a peer has shown that it knows the chain.
    pub(in super::super) proven: &'a dyn Fn(&NodeId) -> bool,
    pub(in super::super) draw: Draw<'a>,
}

impl Known<'_> {
    /// Whom to ask, in this order: so many, members first.
    pub(in super::super) fn order(&self, mut peers: Vec<NodeId>) -> Vec<NodeId> {
        peers.sort_by_cached_key(|peer| {
            let member = self.committee.member(peer).is_some();
            (Reverse((member, (self.proven)(peer))), (self.draw)(peer.as_bytes()))
        });
        peers.truncate(PEERS_MAX);
        peers
    }

    fn standing(&self, peers: &[NodeId]) -> Standing {
        let weight = peers.iter().filter_map(|peer| self.committee.member(peer));
        let weight: u16 = weight.map(|member| member.weight()).sum();
        match weight {
            weight if self.committee.is_validity(weight) => Standing::Vouched,
            1.. => Standing::Members,
            0 if peers.iter().any(self.proven) => Standing::Proven,
            0 => Standing::Strangers,
        }
    }

    /// The offers, each with those who make it, the best first.
    pub(super) fn rank(&self, offers: Vec<(NodeId, SnapshotOffer)>) -> Vec<Group> {
        let mut same = BTreeMap::<Hash, (SnapshotOffer, Vec<NodeId>)>::new();
        for (peer, offer) in offers {
            let group = same.entry(offer.manifest.id()).or_insert_with(|| (offer, Vec::new()));
            group.1.push(peer);
        }
        let group = |(offer, peers): (SnapshotOffer, Vec<NodeId>)| {
            let standing = self.standing(&peers);
            Group { offer, peers: self.order(peers), standing }
        };
        let mut groups: Vec<_> = same.into_values().map(group).collect();
        groups.sort_by_cached_key(|Group { offer, standing, .. }| {
            let best = Reverse((*standing, offer.manifest.header.height));
            (best, (self.draw)(offer.manifest.id().as_bytes()))
        });
        groups
    }
}

/// Whether the manifest is of the last block of an epoch, as all are that honest nodes make. The
/// committee in it is the next height's, as the header says.
pub(super) fn ends_epoch(manifest: &SnapshotManifest, next: &Committee) -> bool {
    next.epoch() == manifest.header.epoch.plus(1)
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support::{Chain, genesis};

    use super::{super::super::files::tests::offer, *};

    fn stranger(seed: u8) -> NodeId {
        NodeId::new([seed; 32])
    }

    /// An offer with the same header and other chunks.
    fn made_up(offer: &SnapshotOffer, seed: u8) -> SnapshotOffer {
        let mut offer = offer.clone();
        offer.manifest.chunks = vec![Hash::new([seed; 32]); 16_000];
        offer
    }

    #[test]
    fn who_offers_counts_before_how_new_it_is() {
        let chain = Chain::new(&genesis(4, 7));
        let committee = chain.state.committee();
        let members: Vec<_> = committee.members().iter().map(|member| member.node).collect();
        let [old, new, newest] = [1, 2, 3].map(|epochs| offer(epochs).1);
        let known = Known {
            committee,
            proven: &|peer| *peer == stranger(9),
            draw: &|bytes| u64::from(bytes[0]),
        };
        let groups = known.rank(vec![
            (stranger(1), made_up(&newest, 1)),
            (stranger(2), made_up(&newest, 1)),
            (stranger(9), newest.clone()),
            (members[0], new.clone()),
            (stranger(3), old.clone()),
            (members[1], old.clone()),
            (members[2], old.clone()),
        ]);
        let ranked: Vec<_> = groups.iter().map(|group| (group.standing, &group.offer)).collect();
        assert_eq!(
            ranked,
            [
                (Standing::Vouched, &old),
                (Standing::Members, &new),
                (Standing::Proven, &newest),
                (Standing::Strangers, &made_up(&newest, 1)),
            ]
        );
        assert_eq!(groups[0].peers.last(), Some(&stranger(3)), "members are asked first");
        assert_eq!(groups[3].peers, [stranger(1), stranger(2)]);
    }

    #[test]
    fn among_strangers_the_newest_comes_first_and_then_chance_decides() {
        let chain = Chain::new(&genesis(4, 7));
        let (old, new) = (offer(1).1, offer(2).1);
        let offers = vec![
            (stranger(1), old.clone()),
            (stranger(2), made_up(&new, 1)),
            (stranger(3), made_up(&new, 1)),
            (stranger(4), new.clone()),
        ];
        let mut first = std::collections::BTreeSet::new();
        for salt in 0..16 {
            let draw = |bytes: &[u8]| u64::from(bytes[1].rotate_left(salt));
            let known =
                Known { committee: chain.state.committee(), proven: &|_| false, draw: &draw };
            let groups = known.rank(offers.clone());
            assert_eq!(groups.len(), 3);
            assert_eq!(groups[2].offer, old);
            first.insert(groups[0].peers.len());
        }
        assert_eq!(first.len(), 2, "each comes first at times, whatever the number of peers");
    }

    #[test]
    fn members_are_always_asked_and_strangers_by_chance() {
        let chain = Chain::new(&genesis(4, 7));
        let committee = chain.state.committee();
        let members: Vec<_> = committee.members().iter().map(|member| member.node).collect();
        let strangers: Vec<_> = (0..200).map(stranger).collect();
        let everybody: Vec<_> = strangers.iter().chain(&members).copied().collect();
        let asked = |salt: u64| {
            let draw = move |bytes: &[u8]| {
                (u64::from(bytes[0]) + 1).wrapping_mul(salt | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            };
            let known = Known { committee, proven: &|_| false, draw: &draw };
            known.order(everybody.clone())
        };
        let (one, other) = (asked(1), asked(77));
        for asked in [&one, &other] {
            assert_eq!(asked.len(), PEERS_MAX);
            assert!(asked[..4].iter().all(|peer| members.contains(peer)));
        }
        assert_ne!(one[4..], other[4..]);
    }

    #[test]
    fn nobody_holds_a_newcomer_up_for_long() {
        let huge = floe_protocol::ledger::MAX_SNAPSHOT_CHUNKS;
        assert_eq!(Standing::Strangers.limit(huge), STRANGERS_LIMIT);
        assert_eq!(Standing::Proven.limit(huge), STRANGERS_LIMIT);
        assert_eq!(Standing::Members.limit(huge), MEMBERS_LIMIT);
        assert!(Standing::Vouched.limit(huge) > MEMBERS_LIMIT, "4 GiB, on a slow line");
        assert!(Standing::Strangers.limit(10) < STRANGERS_LIMIT);
        assert_eq!(Standing::Strangers.limit(10), Standing::Vouched.limit(10));
    }

    #[test]
    fn only_the_last_block_of_an_epoch_will_do() {
        let offer = offer(2).1;
        let next = offer.manifest.check().unwrap();
        assert!(ends_epoch(&offer.manifest, &next));
        let mut chain = Chain::new(&genesis(4, 7));
        chain.next_epoch();
        let mut other = offer.manifest;
        other.header.epoch = chain.state.committee().epoch().plus(1);
        assert!(!ends_epoch(&other, &next), "the committee is the same epoch's");
    }
}
