//! A piece of the internet, a router and a home behind it: three network namespaces.
//!
//! ```text
//! net 51.15.1.1..9 ---- wan 51.15.1.254 | router | lan 192.168.77.1 ---- home 192.168.77.2
//! ```

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::Path,
    process::{Command, Output},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::nftables;

/// The three namespaces, removed when dropped.
pub(crate) struct Internet {
    /// Where everybody reaches everybody.
    pub(crate) net: String,
    router: String,
    /// From where everybody can be reached, and where nobody can.
    pub(crate) home: String,
}

/// The router's address to the world.
pub(crate) const ROUTER: &str = "51.15.1.254";
/// The address of the machine at home.
pub(crate) const HOME: &str = "192.168.77.2";

/// The address of a machine of the internet.
pub(crate) fn address(machine: usize) -> String {
    format!("51.15.1.{machine}")
}

impl Internet {
    /// Sets all up, for so many machines.
    pub(crate) fn new(machines: usize) -> io::Result<Self> {
        let name = |what: &str| format!("floe-{}-{what}", std::process::id());
        let new = Self { net: name("net"), router: name("router"), home: name("home") };
        for namespace in [&new.net, &new.router, &new.home] {
            ip(&["netns", "add", namespace])?;
        }
        let (net, router, home) = (new.net.as_str(), new.router.as_str(), new.home.as_str());
        for (interface, other) in [("wan", net), ("lan", home)] {
            let veth = ["type", "veth", "peer", "name", interface, "netns", other];
            ip(&[&["link", "add", interface, "netns", router], veth.as_slice()].concat())?;
        }
        let mut addresses: Vec<_> =
            (1..=machines).map(|machine| (net, "wan", address(machine))).collect();
        addresses.push((router, "wan", ROUTER.to_owned()));
        addresses.push((router, "lan", "192.168.77.1".to_owned()));
        addresses.push((home, "lan", HOME.to_owned()));
        for (namespace, interface, address) in addresses {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", interface])?;
        }
        let links = [(net, "wan"), (router, "wan"), (router, "lan"), (home, "lan")];
        let loopbacks = [net, router, home].map(|namespace| (namespace, "lo"));
        for (namespace, interface) in links.into_iter().chain(loopbacks) {
            ip(&["-n", namespace, "link", "set", interface, "up"])?;
        }
        ip(&["-n", home, "route", "add", "default", "via", "192.168.77.1"])?;
        // A packet to the home from outside would be routed, if the filter let it.
        ip(&["-n", net, "route", "add", "192.168.77.0/24", "via", ROUTER])?;
        within(router, || {
            // This shows the settings of whoever opens it.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            nftables::masquerade("lan", "wan")
        })?;
        Ok(new)
    }

    /// A command that runs in a namespace.
    pub(crate) fn command(namespace: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for namespace in [&self.net, &self.router, &self.home] {
            // Those that were not made cannot be removed.
            drop(ip(&["netns", "delete", namespace]));
        }
    }
}

/// Runs something in a thread of its own that is within a namespace.
pub(crate) fn within<T: Send>(
    namespace: &str,
    run: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let enters = || {
        let namespace = File::open(format!("/run/netns/{namespace}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        run()
    };
    thread::scope(|scope| scope.spawn(enters).join().unwrap())
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let Output { status, stderr, .. } = Command::new("ip").args(arguments).output()?;
    if status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), error.trim())))
}
