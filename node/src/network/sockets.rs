//! Start-up checks of what libp2p leaves to chance.
//!
//! QUIC is five to ten times slower with the kernel's default UDP buffers, and libp2p does not
//! raise them. And libp2p lets several processes of one user listen on one TCP port, each of which
//! then gets a part of the connections: a second node started by mistake must fail instead.

use std::{
    io,
    net::{TcpListener, UdpSocket},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::address::ip_of;

/// Buffers from which on QUIC is not held back.
const BUFFER_BYTES: u64 = 4 << 20;

/// The kernel settings that are too small, with the values that they have.
fn too_small(read: impl Fn(&str) -> Option<u64>) -> Vec<(&'static str, u64)> {
    let settings = ["net.core.rmem_max", "net.core.wmem_max"];
    let small = |setting: &'static str| {
        let bytes = read(setting)?;
        (bytes < BUFFER_BYTES).then_some((setting, bytes))
    };
    settings.into_iter().filter_map(small).collect()
}

/// Warns if an address to listen on is a QUIC address and the kernel's buffers are small.
pub(super) fn warn_of_small_buffers(listen: &[Multiaddr]) {
    let is_udp = |protocol: Protocol<'_>| matches!(protocol, Protocol::Udp(_));
    if !listen.iter().any(|address| address.iter().any(is_udp)) {
        return;
    }
    let read = |setting: &str| {
        let path = format!("/proc/sys/{}", setting.replace('.', "/"));
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    for (setting, bytes) in too_small(read) {
        tracing::warn!(
            setting,
            bytes,
            "UDP buffers are small and slow QUIC down: run `sysctl -w {setting}={BUFFER_BYTES}`"
        );
    }
}

/// Fails with the system's own reason if an address cannot be bound: libp2p would wrap that
/// beyond recognition, or share a TCP port with whoever has it.
pub(super) fn check_free(address: &Multiaddr) -> io::Result<()> {
    let Some(ip) = ip_of(address) else {
        return Ok(());
    };
    // Bound without the option that lets ports be shared, and closed again.
    match address.iter().nth(1) {
        Some(Protocol::Tcp(port)) => TcpListener::bind((ip, port)).map(drop),
        Some(Protocol::Udp(port)) => UdpSocket::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_below_the_size_are_named() {
        let read =
            |setting: &str| Some(if setting == "net.core.rmem_max" { 212_992 } else { 4 << 20 });
        assert_eq!(too_small(read), [("net.core.rmem_max", 212_992)]);
        assert!(too_small(|_| None).is_empty(), "not a Linux kernel");
    }
}
