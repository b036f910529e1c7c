//! Which members of the committee can be reached right now, and where: what `floe info` adds to
//! the facts of the network file.
//!
//! A light peer joins, asks every member how it is, and leaves. Both have short deadlines: whoever
//! wants to know why a node is silent asks `floe health`. Invariant: nobody answering is an answer,
//! never a failure of the command.

use std::{fmt::Display, time::Duration};

use floe_protocol::{
    committee::{Committee, Member},
    genesis::NetworkFile,
    message::{Limits, Request, Response},
};
use futures::future::join_all;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    key_file::generate_key_pair,
    network::{self, Network, NetworkConfig, PeersView, Role},
    node::parse_bootstrap,
};

/// How long to knock at the bootstrap addresses.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a member may take to be found and to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A member that is connected or has answered.
#[derive(Debug, Serialize)]
pub(super) struct PeerInfo {
    pub(super) node: String,
    /// Where it was reached.
    pub(super) address: Option<String>,
    pub(super) shards: u16,
    /// Whether it answered, beyond being connected.
    pub(super) answers: bool,
}

/// Asks all members, and tells of those that are there.
///
/// # Errors
/// Why none of them was asked, in words for people.
pub(super) async fn reachable(
    file: &NetworkFile,
    committee: &Committee,
) -> Result<Vec<PeerInfo>, String> {
    let network = join(file, committee).await?;
    let asked = committee.members().iter().map(|member| answers(&network, member));
    let answers = join_all(asked).await;
    let view = network.peers().borrow().clone();
    network.shutdown().await;
    let members = committee.members().iter().zip(answers);
    Ok(members.filter_map(|(member, answers)| peer_info(&view, member, answers)).collect())
}

/// Joins the network, with nothing but the wish to ask.
async fn join(file: &NetworkFile, committee: &Committee) -> Result<Network, String> {
    let bootstrap = parse_bootstrap(&file.bootstrap).map_err(text)?;
    if bootstrap.is_empty() {
        return Err("the network file names no bootstrap address".to_owned());
    }
    let limits = Limits::new(committee.config());
    let key = generate_key_pair().map_err(text)?;
    let chain = file.genesis.chain_id();
    let mut config = NetworkConfig::new(key, chain, limits, Role::LightPeer);
    config.bootstrap = bootstrap;
    config.committee = committee.members().iter().map(|member| member.node).collect();
    let started = network::start(config, &mut Registry::default()).await;
    // Its events are dropped: a light peer is asked nothing.
    let (network, ..) = started.map_err(text)?;
    let mut peers = network.peers();
    match timeout(JOIN_TIMEOUT, peers.wait_for(|view| !view.connected.is_empty())).await {
        Ok(Ok(_)) => Ok(network),
        Ok(Err(_)) | Err(_) => {
            network.shutdown().await;
            Err(format!("no bootstrap node answers within {} s", JOIN_TIMEOUT.as_secs()))
        }
    }
}

async fn answers(network: &Network, member: &Member) -> bool {
    let answer = timeout(ANSWER_TIMEOUT, network.request(member.node, Request::NodeStatus)).await;
    matches!(answer, Ok(Ok(Response::NodeStatus(_))))
}

fn peer_info(view: &PeersView, member: &Member, answers: bool) -> Option<PeerInfo> {
    let connected = view.connected.get(&member.node).map(|peer| &peer.address);
    if connected.is_none() && !answers {
        return None;
    }
    // One that has hung up since was reached at an address that is still known.
    let known = || view.committee_addresses.get(&member.node)?.first();
    Some(PeerInfo {
        node: member.node.to_string(),
        address: connected.or_else(known).map(ToString::to_string),
        shards: member.weight(),
        answers,
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}
