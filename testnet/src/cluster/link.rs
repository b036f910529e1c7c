//! Links between nodes that are slow, lose packets, or are cut: a small internet on one machine.
//!
//! Every node that is to have links of its own runs on a [`Host`]: a network namespace whose only
//! way out is a TUN device. A thread of this process, the `switch`, carries the packets from
//! device to device, each when its [`Path`] says, or never. So whatever a node sends or receives,
//! to whomever and by whichever address, passes its link; and no node knows of it.
//!
//! The program that makes [`Links`] moves into a namespace of its own first: nothing here touches
//! the machine's network, two programs never meet, and everything is gone with the process, however
//! it ends. That takes root, or a system on which users may have namespaces; `/dev/net/tun`; Linux.
//!
//! Invariants: packets between two hosts with the same way stay in their order; the switch holds a
//! bounded number of packets, and drops what comes beyond as a router would. Deliberately not here:
//! limits of bandwidth.
//!
//! ```no_run
//! # fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use floe_testnet::link::{Links, Path};
//!
//! // First of all: before there is another thread.
//! let links = Links::new(1)?;
//! let (near, far) = (links.host()?, links.host()?);
//! links.set_access(&far, Path { delay: Duration::from_millis(100), lost_permille: 0 });
//! links.set_path(&near, &far, Path { delay: Duration::ZERO, lost_permille: 300 });
//! # Ok(())
//! # }
//! ```

mod switch;
#[cfg(target_os = "linux")]
mod tun;
#[cfg(not(target_os = "linux"))]
#[path = "link/elsewhere.rs"]
mod tun;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::watch;

use self::{
    switch::{HostIndex, Paths, Switch},
    tun::{Namespace, Tun},
};

/// Hosts that there can be: each has the second byte of its address.
const HOSTS_MAX: usize = 250;
/// Packets read from one device before the others have their turn.
const BURST: usize = 64;
/// Longest packet.
const PACKET_BYTES_MAX: usize = 65_536;
/// How long a host waits to be reached.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// What becomes of packets on their way. By default they arrive at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// How long each takes.
    pub delay: Duration,
    /// How many of a thousand are lost: of 1,000 none arrives.
    pub lost_permille: u16,
}

/// Why there are no links.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The system does not let this user have a network of its own.
    #[error(
        "network namespaces are not permitted here: root has them, or whoever may `unshare -Urn`"
    )]
    NotPermitted(#[source] io::Error),
    /// There are no TUN devices.
    #[error("there are no TUN devices here (/dev/net/tun)")]
    NoTun(#[source] io::Error),
    /// The process has threads that would stay behind.
    #[error("links must be made before any other thread is started")]
    Threads,
    /// More hosts than there are addresses.
    #[error("a network of links has at most {HOSTS_MAX} hosts")]
    TooMany,
    /// Something else failed.
    #[error("cannot make links")]
    Io(#[from] io::Error),
}

/// A small internet: hosts, and a switch between them. The switch ends with the last clone.
#[derive(Clone, Debug)]
pub struct Links {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    paths: watch::Sender<Paths>,
    devices: mpsc::SyncSender<Tun>,
    /// All of them: a namespace stays for as long as the switch has its device.
    hosts: watch::Sender<Vec<Host>>,
    /// Wakes the switch, and ends it when it is closed.
    wake: UnixStream,
    base: Host,
}

/// A machine of the small internet.
#[derive(Clone, Debug)]
pub struct Host {
    index: HostIndex,
    namespace: Arc<Namespace>,
}

impl Links {
    /// Moves this process into a network of its own, with one host: itself. What is lost follows
    /// from `seed` and the order of the packets.
    ///
    /// # Errors
    /// [`LinkError`]: above all if the system does not permit it.
    pub fn new(seed: u64) -> Result<Self, LinkError> {
        tun::isolate()?;
        let base = HostIndex::new(0);
        let tun = tun::configure(base.address(), switch::NETMASK)?;
        let base = Host { index: base, namespace: Arc::new(Namespace::current()?) };
        let (wake, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let (devices, new_devices) = mpsc::sync_channel(HOSTS_MAX);
        let (paths, seen) = watch::channel(Paths::default());
        let carrier = Carrier {
            switch: Switch::new(seed, seen),
            tuns: vec![tun],
            new_devices,
            woken,
            packet: vec![0; PACKET_BYTES_MAX],
        };
        thread::Builder::new().name("links".into()).spawn(move || carrier.run())?;
        let hosts = watch::Sender::new(vec![base.clone()]);
        Ok(Self { shared: Arc::new(Shared { paths, devices, hosts, wake, base }) })
    }

    /// The host on which this process runs.
    #[must_use]
    pub fn base(&self) -> &Host {
        &self.shared.base
    }

    /// One more host. Its way to all others takes no time until told otherwise.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn host(&self) -> Result<Host, LinkError> {
        let mut made = Err(LinkError::TooMany);
        self.shared.hosts.send_modify(|hosts| {
            if hosts.len() < HOSTS_MAX {
                made = self.attach(HostIndex::new(hosts.len()));
                hosts.extend(made.as_ref().ok().cloned());
            }
        });
        made
    }

    fn attach(&self, index: HostIndex) -> Result<Host, LinkError> {
        let (namespace, tun) = thread::scope(|scope| {
            let made = scope.spawn(|| {
                tun::leave()?;
                let tun = tun::configure(index.address(), switch::NETMASK)?;
                Ok::<_, LinkError>((Namespace::current()?, tun))
            });
            made.join().expect("it does not panic")
        })?;
        let gone = || LinkError::Io(io::Error::other("the switch has ended"));
        self.shared.devices.send(tun).map_err(|_| gone())?;
        (&self.shared.wake).write_all(&[0])?;
        Ok(Host { index, namespace: Arc::new(namespace) })
    }

    /// Sets what becomes of packets that a host sends or receives, whatever their other end.
    pub fn set_access(&self, host: &Host, path: Path) {
        self.shared.paths.send_modify(|paths| paths.set_access(host.index, path));
    }

    /// Sets what becomes of packets from one host to another, on top of the access of both.
    pub fn set_path(&self, from: &Host, to: &Host, path: Path) {
        self.shared.paths.send_modify(|paths| paths.set_between(from.index, to.index, path));
    }
}

impl Host {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.index.address()
    }

    /// Runs something in a thread of its own that is on this host: sockets that it opens and
    /// processes that it starts are there for good.
    ///
    /// # Errors
    /// If the thread cannot be moved.
    ///
    /// # Panics
    /// If what it runs panics.
    pub fn within<T: Send>(&self, run: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let runs = scope.spawn(|| {
                self.namespace.enter()?;
                Ok(run())
            });
            runs.join().expect("what it runs does not panic")
        })
    }

    /// How long a packet takes from here to a listening port and back: what TCP needs to connect.
    ///
    /// # Errors
    /// If nobody can be reached there.
    pub fn round_trip(&self, to: SocketAddrV4) -> io::Result<Duration> {
        self.within(|| {
            let begun = Instant::now();
            TcpStream::connect_timeout(&to.into(), CONNECT_DEADLINE)?;
            Ok(begun.elapsed())
        })?
    }
}

/// The thread between the devices.
struct Carrier {
    switch: Switch,
    tuns: Vec<Tun>,
    new_devices: mpsc::Receiver<Tun>,
    woken: UnixStream,
    packet: Vec<u8>,
}

impl Carrier {
    fn run(mut self) {
        while self.wait() {
            self.tuns.extend(self.new_devices.try_iter());
            for (index, tun) in self.tuns.iter().enumerate() {
                for _ in 0..BURST {
                    // A device of a host that is gone has nothing to say.
                    let Ok(bytes) = tun.read(&mut self.packet) else { break };
                    let from = HostIndex::new(index);
                    self.switch.take(Instant::now(), from, &self.packet[..bytes]);
                }
            }
            while let Some((to, packet)) = self.switch.next_due(Instant::now()) {
                if let Some(tun) = self.tuns.get(to.as_usize()) {
                    // What does not fit into its queue is lost, as anywhere.
                    drop(tun.write(&packet));
                }
            }
        }
    }

    /// Waits for a packet, for one that is due, or for another host; false at the end.
    fn wait(&mut self) -> bool {
        let mut fds = vec![PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN)];
        let devices =
            self.tuns.iter().map(|tun| PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN));
        fds.extend(devices);
        let due = self.switch.due().map(|due| due.saturating_duration_since(Instant::now()));
        let due = due.and_then(|due| Timespec::try_from(due).ok());
        // An interrupted wait is as good as a short one.
        let _ = poll(&mut fds, due.as_ref());
        let mut bytes = [0; HOSTS_MAX];
        !matches!((&self.woken).read(&mut bytes), Ok(0))
    }
}
