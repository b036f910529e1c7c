//! A start-up check: QUIC is five to ten times slower with the kernel's default UDP buffers, and
//! libp2p does not raise them.

use libp2p::{Multiaddr, multiaddr::Protocol};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_below_the_size_are_named() {
        let read = |setting: &str| {
            Some(if setting == "net.core.rmem_max" {
                212_992
            } else {
                4 << 20
            })
        };
        assert_eq!(too_small(read), [("net.core.rmem_max", 212_992)]);
        assert!(too_small(|_| None).is_empty(), "not a Linux kernel");
    }
}
