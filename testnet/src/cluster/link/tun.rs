//! The kernel's side of links: namespaces, and a TUN device in each.
//!
//! The two calls that no library has in a safe form, leaving a namespace and setting up an
//! interface, are here and nowhere else. A device lives as long as its file, a namespace as long as
//! somebody is in it or has it open: nothing has to be removed.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
    process::{getgid, getuid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::LinkError;

/// What the kernel calls `struct ifreq`: an interface's name, and what is asked of it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    value: [u8; 24],
}

const DEVICE: &str = "tun0";
const LOOPBACK: &str = "lo";
/// `TUNSETIFF`.
const SET_TUN: Opcode = opcode::write::<i32>(b'T', 202);
/// `SIOCSIFFLAGS`.
const SET_FLAGS: Opcode = 0x8914;
/// `SIOCSIFADDR`.
const SET_ADDRESS: Opcode = 0x8916;
/// `SIOCSIFNETMASK`.
const SET_NETMASK: Opcode = 0x891c;
/// `SIOCSIFTXQLEN`.
const SET_QUEUE: Opcode = 0x8943;
/// `IFF_TUN | IFF_NO_PI`: packets as they are.
const PLAIN_TUN: u16 = 0x1001;
/// `IFF_UP | IFF_RUNNING`.
const UP: u16 = 0x41;
/// Packets that wait for the switch: it may be kept from running for a while.
const QUEUE_PACKETS: i32 = 10_000;
/// `AF_INET`.
const INET: u16 = 2;

/// A network namespace, kept for as long as this is.
#[derive(Debug)]
pub(super) struct Namespace(File);

/// A TUN device: packets that its namespace sends are read, those written it receives.
#[derive(Debug)]
pub(super) struct Tun(File);

/// Moves this process, which must not have other threads, into a network of its own.
pub(super) fn isolate() -> Result<(), LinkError> {
    if fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(LinkError::Threads);
    }
    match unshare(UnshareFlags::NEWNET) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        left => return left.map_err(LinkError::NotPermitted),
    }
    // Nobody but root may, but everybody is root in a namespace of users of their own.
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET;
    unshare(flags).map_err(LinkError::NotPermitted)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}

/// Moves this thread into a new network.
pub(super) fn leave() -> Result<(), LinkError> {
    unshare(UnshareFlags::NEWNET).map_err(LinkError::NotPermitted)
}

/// Gives this thread's network a device with an address, in a net that it is the only way to.
pub(super) fn configure(address: Ipv4Addr, netmask: Ipv4Addr) -> Result<Tun, LinkError> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.map_err(LinkError::NoTun)?;
    request::<SET_TUN>(&file, DEVICE, &PLAIN_TUN.to_ne_bytes()).map_err(LinkError::NoTun)?;
    let flags = fcntl_getfl(&file).map_err(io::Error::from)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let of = |address: Ipv4Addr| [&INET.to_ne_bytes()[..], &[0, 0], &address.octets()].concat();
    request::<SET_FLAGS>(&socket, LOOPBACK, &UP.to_ne_bytes())?;
    request::<SET_ADDRESS>(&socket, DEVICE, &of(address))?;
    request::<SET_NETMASK>(&socket, DEVICE, &of(netmask))?;
    request::<SET_QUEUE>(&socket, DEVICE, &QUEUE_PACKETS.to_ne_bytes())?;
    request::<SET_FLAGS>(&socket, DEVICE, &UP.to_ne_bytes())?;
    Ok(Tun(file))
}

impl Namespace {
    /// The one that this thread is in.
    pub(super) fn current() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// Moves this thread into it.
    pub(super) fn enter(&self) -> io::Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(self.0.as_fd(), kind)?)
    }
}

impl Tun {
    /// A packet that its namespace has sent. Never waits.
    pub(super) fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(packet)
    }

    /// Gives its namespace a packet. Never waits.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.0).write(packet)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(unsafe_code, reason = "there is no safe call that leaves a namespace")]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: files must not be unshared, and no caller does.
    unsafe { unshare_unsafe(flags) }.map_err(Errno::into)
}

/// Asks one thing of an interface.
#[expect(unsafe_code, reason = "there is no safe call that sets up an interface")]
fn request<const REQUEST: Opcode>(socket: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let mut asked = InterfaceRequest { name: [0; 16], value: [0; 24] };
    asked.name[..name.len()].copy_from_slice(name.as_bytes());
    asked.value[..value.len()].copy_from_slice(value);
    // SAFETY: each of these requests takes a pointer to this structure, as large as the kernel's.
    unsafe { ioctl(socket, Updater::<REQUEST, _>::new(&mut asked)) }.map_err(Errno::into)
}
