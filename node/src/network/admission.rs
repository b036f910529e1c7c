//! Room for inbound requests: who may have how many read and answered at a time, and with how many
//! bytes.
//!
//! Every peer has an [`Account`], which all its streams share. Once its head is known, a stream
//! takes a slot, and room for the bytes that the request brings and for those that its answer may
//! bring. What it took is an [`Admission`]: it travels with the request to the
//! service and with the response back to the stream, and is given back when the response has been
//! written, or when any of them is dropped on the way.
//!
//! Invariants: payloads are read only after room was taken, so strangers hold at most
//! `inbound_bytes_max` whatever they announce; committee members draw on a pool of their own, so
//! strangers cannot keep them waiting; and strangers of one IP address hold at most a quarter of
//! theirs, however many names they have. A member's urgent requests, those of challenges, take places
//! of that member's own and no bytes: members that hold up all that the others share here do not
//! hold up those. A stranger that a service has left to cool down is not heard: its streams are
//! neither read nor answered. A stranger's streams are counted from the moment they are open, because
//! each may fill a window before anything is read. Who finds no slot, or no room in time, is told
//! `Busy`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::PeerId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{address::site, config::NetworkConfig};

/// Why a request is told to come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// The peer has as many requests under way as it may.
    Peer,
    /// All peers together have.
    Total,
    /// No room for its bytes came free in time.
    Bytes,
    /// The service does not keep up.
    Service,
}

impl Crowded {
    /// A word for metrics.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Total => "total",
            Self::Bytes => "bytes",
            Self::Service => "service",
        }
    }
}

/// What the peers of a class share.
#[derive(Clone, Debug)]
struct Pool {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Pool {
    fn new(requests_max: usize, bytes_max: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(requests_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
        }
    }
}

/// What one peer's streams share.
#[derive(Debug)]
pub(super) struct Account {
    own: Pool,
    /// Places for urgent requests, if it is a member.
    urgent: Arc<Semaphore>,
    /// Whether it is of the committee now: which of the two pools it draws on.
    member: AtomicBool,
    members: Pool,
    strangers: Pool,
    /// What strangers of its address share.
    neighbours: Option<Arc<Semaphore>>,
    streams: Streams,
    violations: AtomicU32,
    born: Instant,
    /// In milliseconds after `born`.
    cool_until_ms: AtomicU64,
}

/// Streams that strangers may have open.
#[derive(Clone, Debug)]
struct Streams {
    own: Arc<Semaphore>,
    class: Arc<Semaphore>,
}

/// Counts the streams that a peer has open on one connection: each holds a copy.
pub(super) type Running = Arc<()>;

/// A stream's place among those that are open. Members' streams need no permits.
#[derive(Debug)]
pub(super) struct OpenStream {
    _permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    _running: Running,
}

/// A place among the requests under way.
#[derive(Debug)]
pub(super) struct Slot {
    _own: OwnedSemaphorePermit,
    /// None for members' urgent requests.
    _class: Option<OwnedSemaphorePermit>,
}

/// Everything that a request takes of its peer's room.
#[derive(Debug)]
pub(super) struct Admission {
    _slot: Slot,
    bytes: Vec<OwnedSemaphorePermit>,
    /// Keeps the account while the peer is away, so that reconnecting gives no new room.
    account: Arc<Account>,
}

impl Account {
    fn is_member(&self) -> bool {
        self.member.load(Ordering::Relaxed)
    }

    fn class(&self) -> &Pool {
        if self.is_member() { &self.members } else { &self.strangers }
    }

    /// Takes a place for a stream, if there is one.
    pub(super) fn stream(&self, running: &Running) -> Option<OpenStream> {
        let running = Running::clone(running);
        if self.is_member() {
            return Some(OpenStream { _permits: None, _running: running });
        }
        let Ok(own) = Arc::clone(&self.streams.own).try_acquire_owned() else {
            // All that it may have open wait already, and it goes on.
            if self.cooling().is_some() {
                self.violation();
            }
            return None;
        };
        let class = Arc::clone(&self.streams.class).try_acquire_owned().ok()?;
        Some(OpenStream { _permits: Some((own, class)), _running: running })
    }

    /// Takes a slot, if one is free.
    pub(super) fn slot(&self, is_urgent: bool) -> Result<Slot, Crowded> {
        let has_own_places = is_urgent && self.is_member();
        let own = if has_own_places { &self.urgent } else { &self.own.requests };
        let own = Arc::clone(own).try_acquire_owned().map_err(|_| Crowded::Peer)?;
        if has_own_places {
            return Ok(Slot { _own: own, _class: None });
        }
        let class = Arc::clone(&self.class().requests).try_acquire_owned();
        let class = class.map_err(|_| Crowded::Total)?;
        Ok(Slot { _own: own, _class: Some(class) })
    }

    /// Waits for room for `bytes`.
    pub(super) async fn admit(
        self: &Arc<Self>,
        slot: Slot,
        bytes: usize,
        wait: Duration,
    ) -> Result<Admission, Crowded> {
        let mut taken = Vec::new();
        if bytes > 0 {
            let permits = u32::try_from(bytes).map_err(|_| Crowded::Bytes)?;
            let take = async {
                // Its own first: who exceeds that must not hold what others wait for.
                let neighbours = self.neighbours.iter().filter(|_| !self.is_member());
                let own = [&self.own.bytes].into_iter().chain(neighbours);
                for pool in own.chain([&self.class().bytes]) {
                    let permit = Arc::clone(pool).acquire_many_owned(permits).await;
                    taken.push(permit.map_err(|_| Crowded::Bytes)?);
                }
                Ok(())
            };
            timeout(wait, take).await.map_err(|_| Crowded::Bytes)??;
        }
        Ok(Admission { _slot: slot, bytes: taken, account: Arc::clone(self) })
    }

    /// For how long nothing of this peer is read or answered, if it was left to cool down.
    pub(super) fn cooling(&self) -> Option<Duration> {
        let until = Duration::from_millis(self.cool_until_ms.load(Ordering::Relaxed));
        let rest = until.saturating_sub(self.born.elapsed());
        (!rest.is_zero() && !self.is_member()).then_some(rest)
    }

    fn cool_down(&self, length: Duration) {
        let until = self.born.elapsed().saturating_add(length).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.cool_until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// Counts a message that no honest peer sends.
    pub(super) fn violation(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Gives back what exceeds `bytes`, once it is known how much the answer needs.
    pub(super) fn shrink(&mut self, bytes: usize) {
        for permit in &mut self.bytes {
            let excess = permit.num_permits().saturating_sub(bytes);
            drop(permit.split(excess));
        }
    }

    /// Leaves its peer unheard for so long.
    pub(super) fn cool_down(&self, length: Duration) {
        self.account.cool_down(length);
    }

    /// Whether its peer is of the committee.
    pub(super) fn is_member(&self) -> bool {
        self.account.is_member()
    }

    /// Counts the request against its peer: what it sent is not valid.
    pub(super) fn violation(&self) {
        self.account.violation();
    }
}

/// The accounts of all peers that are connected or have requests under way.
#[derive(Debug)]
pub(super) struct Accounts {
    committee: HashSet<PeerId>,
    members: Pool,
    strangers: Pool,
    strangers_streams: Arc<Semaphore>,
    requests_per_peer_max: usize,
    streams_per_peer_max: usize,
    bytes_per_peer_max: usize,
    bytes_per_address_max: usize,
    loopback_exempt: bool,
    accounts: HashMap<PeerId, Weak<Account>>,
    neighbours: HashMap<IpAddr, Weak<Semaphore>>,
}

impl Accounts {
    /// Empty accounts. No budget is below the largest payload, which could never be admitted.
    pub(super) fn new(config: &NetworkConfig, committee: HashSet<PeerId>) -> Self {
        let largest = usize::try_from(config.messages.max_payload_bytes()).unwrap_or(usize::MAX);
        let pool = |bytes: usize| Pool::new(config.limits.inbound_requests_max, bytes.max(largest));
        Self {
            committee,
            members: pool(config.limits.committee_inbound_bytes_max),
            strangers: pool(config.limits.inbound_bytes_max),
            strangers_streams: Arc::new(Semaphore::new(config.limits.inbound_streams_max)),
            requests_per_peer_max: config.limits.inbound_requests_per_peer_max,
            streams_per_peer_max: config.limits.inbound_streams_per_peer_max,
            bytes_per_peer_max: config.limits.inbound_bytes_per_peer_max.max(largest),
            bytes_per_address_max: (config.limits.inbound_bytes_max / 4).max(largest),
            loopback_exempt: config.limits.loopback_exempt,
            accounts: HashMap::new(),
            neighbours: HashMap::new(),
        }
    }

    /// Names the committee's members anew. What others hold already they hold to its end.
    pub(super) fn set_committee(&mut self, committee: HashSet<PeerId>) {
        for (peer, account) in &self.accounts {
            if let Some(account) = account.upgrade() {
                account.member.store(committee.contains(peer), Ordering::Relaxed);
            }
        }
        self.committee = committee;
    }

    /// The account of a peer that connects from or at `ip`. It stays an account of that address.
    pub(super) fn open(&mut self, peer: PeerId, ip: Option<IpAddr>) -> Arc<Account> {
        self.accounts.retain(|_, account| account.strong_count() > 0);
        if let Some(account) = self.accounts.get(&peer).and_then(Weak::upgrade) {
            return account;
        }
        let member = self.committee.contains(&peer);
        let ip = ip.filter(|ip| !(self.loopback_exempt && ip.is_loopback()));
        let streams = Streams {
            own: Arc::new(Semaphore::new(self.streams_per_peer_max)),
            class: Arc::clone(&self.strangers_streams),
        };
        let account = Arc::new(Account {
            own: Pool::new(self.requests_per_peer_max, self.bytes_per_peer_max),
            urgent: Arc::new(Semaphore::new(self.requests_per_peer_max)),
            member: AtomicBool::new(member),
            members: self.members.clone(),
            strangers: self.strangers.clone(),
            neighbours: ip.map(|ip| self.neighbours_at(ip)),
            streams,
            violations: AtomicU32::new(0),
            born: Instant::now(),
            cool_until_ms: AtomicU64::new(0),
        });
        self.accounts.insert(peer, Arc::downgrade(&account));
        account
    }

    fn neighbours_at(&mut self, ip: IpAddr) -> Arc<Semaphore> {
        self.neighbours.retain(|_, pool| pool.strong_count() > 0);
        let entry = self.neighbours.entry(site(ip)).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let pool = Arc::new(Semaphore::new(self.bytes_per_address_max));
            *entry = Arc::downgrade(&pool);
            pool
        })
    }

    /// The peers that have broken the rules `violations_max` times, their counts reset.
    pub(super) fn take_offenders(&mut self, violations_max: u32) -> Vec<PeerId> {
        let offends = |account: &Account| {
            let found = account.violations.load(Ordering::Relaxed) >= violations_max;
            if found {
                account.violations.store(0, Ordering::Relaxed);
            }
            found
        };
        let accounts = self.accounts.iter();
        let living = accounts.filter_map(|(peer, account)| Some((peer, account.upgrade()?)));
        living.filter(|(_, account)| offends(account)).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use floe_protocol::{
        encoding::EncodingConfig,
        hash::Hash,
        keys::{ChainId, KeyPair},
        message::Limits,
    };

    use super::*;
    use crate::network::Role;

    /// No address: outside the limit per address.
    const NO_IP: Option<IpAddr> = None;
    const MIB: usize = 1 << 20;
    const NOW: Duration = Duration::ZERO;

    fn accounts(committee: &[PeerId]) -> Accounts {
        let key = KeyPair::from_seed([1; 32]);
        let limits = Limits::new(EncodingConfig::new(4).unwrap());
        let chain = ChainId::new(Hash::ZERO);
        let mut config = NetworkConfig::new(key, chain, limits, Role::StorageNode);
        config.limits.inbound_requests_per_peer_max = 2;
        config.limits.inbound_bytes_per_peer_max = 10 * MIB;
        config.limits.inbound_bytes_max = 15 * MIB;
        config.limits.committee_inbound_bytes_max = 15 * MIB;
        Accounts::new(&config, committee.iter().copied().collect())
    }

    #[tokio::test]
    async fn slots_and_room_come_back_when_an_admission_is_dropped() {
        let mut accounts = accounts(&[]);
        let account = accounts.open(PeerId::random(), NO_IP);
        let first = account.admit(account.slot(false).unwrap(), 10 * MIB, NOW).await;
        let second = account.slot(false).unwrap();
        assert_eq!(account.slot(false).err(), Some(Crowded::Peer));
        let refused = account.admit(second, MIB, NOW).await;
        assert_eq!(refused.err(), Some(Crowded::Bytes));
        drop(first);
        let again = account.admit(account.slot(false).unwrap(), 10 * MIB, NOW).await;
        assert!(again.is_ok());
    }

    #[tokio::test]
    async fn strangers_share_a_pool_and_leave_the_committee_its_own() {
        let member = PeerId::random();
        let mut accounts = accounts(&[member]);
        let (a, b) =
            (accounts.open(PeerId::random(), NO_IP), accounts.open(PeerId::random(), NO_IP));
        let held = a.admit(a.slot(false).unwrap(), 10 * MIB, NOW).await.unwrap();
        let refused = b.admit(b.slot(false).unwrap(), 10 * MIB, NOW).await;
        assert_eq!(refused.err(), Some(Crowded::Bytes));
        let member = accounts.open(member, NO_IP);
        let admitted = member.admit(member.slot(false).unwrap(), 10 * MIB, NOW).await;
        assert!(admitted.is_ok());
        drop(held);
        assert!(b.admit(b.slot(false).unwrap(), 10 * MIB, NOW).await.is_ok());
    }

    #[test]
    fn urgent_requests_of_members_have_places_of_their_own() {
        let (busy, member) = (PeerId::random(), PeerId::random());
        let mut accounts = accounts(&[busy, member]);
        accounts.members = Pool::new(2, MIB);
        let (busy, member) = (accounts.open(busy, NO_IP), accounts.open(member, NO_IP));
        let stranger = accounts.open(PeerId::random(), NO_IP);
        let held = [busy.slot(false).unwrap(), busy.slot(false).unwrap()];
        assert_eq!(member.slot(false).err(), Some(Crowded::Total));
        for account in [&busy, &member] {
            let urgent = [account.slot(true).unwrap(), account.slot(true).unwrap()];
            assert_eq!(account.slot(true).err(), Some(Crowded::Peer), "no more than others");
            drop(urgent);
        }
        let of_stranger = [stranger.slot(true).unwrap(), stranger.slot(true).unwrap()];
        assert_eq!(stranger.slot(false).err(), Some(Crowded::Peer), "it has none of its own");
        drop((held, of_stranger));
    }

    #[tokio::test]
    async fn who_becomes_a_member_draws_on_the_members_room_from_then_on() {
        let (joins, leaves) = (PeerId::random(), PeerId::random());
        let mut accounts = accounts(&[leaves]);
        let account = accounts.open(joins, NO_IP);
        let other = accounts.open(leaves, NO_IP);
        let held = account.admit(account.slot(false).unwrap(), 10 * MIB, NOW).await.unwrap();
        accounts.set_committee(HashSet::from([joins]));
        // The one that has left finds the strangers' room taken, until that is given back.
        let refused = other.admit(other.slot(false).unwrap(), 10 * MIB, NOW).await;
        assert_eq!(refused.err(), Some(Crowded::Bytes));
        drop(held);
        assert!(other.admit(other.slot(false).unwrap(), 10 * MIB, NOW).await.is_ok());
        let _held = other.admit(other.slot(false).unwrap(), 10 * MIB, NOW).await.unwrap();
        assert!(account.admit(account.slot(false).unwrap(), 10 * MIB, NOW).await.is_ok());
        assert!(Arc::ptr_eq(&account, &accounts.open(joins, NO_IP)));
    }

    #[tokio::test]
    async fn shrinking_gives_back_the_excess() {
        let mut accounts = accounts(&[]);
        let account = accounts.open(PeerId::random(), NO_IP);
        let mut first = account.admit(account.slot(false).unwrap(), 10 * MIB, NOW).await.unwrap();
        first.shrink(MIB);
        let second = account.admit(account.slot(false).unwrap(), 9 * MIB, NOW).await;
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn strangers_of_one_address_hold_a_quarter_and_their_streams_are_counted() {
        let mut accounts = accounts(&[]);
        accounts.strangers = Pool::new(10, 40 * MIB);
        let ip = |text: &str| Some(text.parse().unwrap());
        let a = accounts.open(PeerId::random(), ip("2001:db8::1"));
        let b = accounts.open(PeerId::random(), ip("2001:db8::2"));
        let other = accounts.open(PeerId::random(), ip("2001:db8:0:1::1"));
        let room = accounts.bytes_per_address_max;
        let held = a.admit(a.slot(false).unwrap(), room, NOW).await.unwrap();
        let refused = b.admit(b.slot(false).unwrap(), MIB, NOW).await;
        assert_eq!(refused.err(), Some(Crowded::Bytes));
        assert!(other.admit(other.slot(false).unwrap(), room, NOW).await.is_ok());
        drop(held);
        assert!(b.admit(b.slot(false).unwrap(), room, NOW).await.is_ok());

        let streams: Vec<_> = (0..64).map_while(|_| a.stream(&Running::default())).collect();
        assert_eq!(streams.len(), 64);
        assert!(a.stream(&Running::default()).is_none());
        assert!(b.stream(&Running::default()).is_some());
        drop(streams);
        assert!(a.stream(&Running::default()).is_some());
    }

    #[test]
    fn a_stranger_that_cools_down_is_not_heard_and_streams_beyond_its_places_are_offences() {
        let member = PeerId::random();
        let mut accounts = accounts(&[member]);
        let (stranger, member) =
            (accounts.open(PeerId::random(), NO_IP), accounts.open(member, NO_IP));
        let running = Running::default();
        let streams: Vec<_> = (0..64).map_while(|_| stranger.stream(&running)).collect();
        assert!(stranger.stream(&running).is_none());
        assert!(accounts.take_offenders(1).is_empty(), "too many, but it was never told to wait");
        let hour = Duration::from_secs(3_600);
        stranger.cool_down(hour);
        stranger.cool_down(Duration::from_secs(1));
        assert!(stranger.cooling().is_some_and(|rest| rest > hour / 2 && rest <= hour));
        assert!(stranger.stream(&running).is_none());
        assert_eq!(accounts.take_offenders(1).len(), 1);
        drop(streams);
        assert!(stranger.stream(&running).is_some(), "it may wait");
        member.cool_down(hour);
        assert_eq!(member.cooling(), None);
    }

    #[test]
    fn reconnecting_gives_no_new_account_and_offences_are_counted_once() {
        let mut accounts = accounts(&[]);
        let peer = PeerId::random();
        let account = accounts.open(peer, NO_IP);
        let slots = (account.slot(false).unwrap(), account.slot(false).unwrap());
        assert!(accounts.open(peer, NO_IP).slot(false).is_err());
        account.violation();
        account.violation();
        assert_eq!(accounts.take_offenders(2), vec![peer]);
        assert!(accounts.take_offenders(2).is_empty());
        drop((slots, account));
        accounts.open(PeerId::random(), NO_IP);
        assert_eq!(accounts.accounts.len(), 1, "accounts of absent peers are forgotten");
    }
}
