//! How `floe node run` deals with NAT: its arguments, and what they mean.

use clap::Args;

use crate::network::{Multiaddr, NatConfig, Reach};

/// Arguments about NAT.
#[derive(Debug, Args)]
#[command(next_help_heading = "Behind a router")]
pub(super) struct ReachArgs {
    /// Others cannot open connections to this node: be reached through relays [default: found out]
    #[arg(long, conflicts_with = "external")]
    behind_nat: bool,
    /// Relays to use before those of the committee, with their /p2p/ part; implies --behind-nat
    #[arg(long, value_name = "ADDR", num_args = 1.., conflicts_with = "external")]
    relay: Vec<Multiaddr>,
    /// Do not ask the router to open the ports (`UPnP`)
    #[arg(long)]
    no_upnp: bool,
    /// Be no relay to nodes behind routers
    #[arg(long)]
    no_relaying: bool,
}

impl ReachArgs {
    /// What they mean to a node that listens on this machine only, or not.
    pub(super) fn config(self, only_loopback: bool) -> NatConfig {
        let is_private = self.behind_nat || !self.relay.is_empty();
        NatConfig {
            reach: if is_private { Reach::Private } else { Reach::Probed },
            relays: self.relay,
            relays_for_others: !self.no_relaying,
            map_ports: !self.no_upnp && !only_loopback,
            local_addresses: only_loopback,
        }
    }
}
