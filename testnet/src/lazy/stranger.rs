//! A light peer beside a lazy member: through it the member asks others for what it is to hold.
//!
//! Nobody knows that the two belong together. It is connected with all members before there is
//! anything to ask for, and knows who holds what without asking.

use std::{sync::Arc, time::Duration};

use floe_node::{
    Client,
    network::{self, Network, Role},
};
use floe_protocol::{
    genesis::NetworkFile,
    holders::Holders,
    keys::{KeyPair, NodeId},
    message::{Refusal, Request, Response},
    transfer::SliverFault,
};
use futures::future::join_all;
use prometheus_client::registry::Registry;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{cluster::network_config, workload::fresh_seed};

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks who holds what: shards move at the beginning of an epoch.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// It.
#[derive(Clone, Debug)]
pub(super) struct Stranger {
    network: Network,
    holders: watch::Receiver<Arc<Holders>>,
}

impl Stranger {
    pub(super) async fn new(file: &NetworkFile, client: Client) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&fresh_seed().to_le_bytes());
        let mut config = network_config(file, KeyPair::from_seed(seed), Role::LightPeer)?;
        config.limits.loopback_exempt = true;
        let (network, mut inbound, _) = network::start(config, &mut Registry::default()).await?;
        tokio::spawn(async move { while inbound.requests.recv().await.is_some() {} });
        let (sender, holders) = watch::channel(Arc::new(client.ledger().holders().await?.value));
        let stranger = Self { network, holders };
        let greeter = stranger.clone();
        tokio::spawn(async move {
            while !sender.is_closed() {
                greeter.greet().await;
                sleep(LOOK_AGAIN).await;
                match client.ledger().holders().await {
                    Ok(proven) => drop(sender.send_replace(Arc::new(proven.value))),
                    Err(error) => tracing::info!(%error, "who holds what is not known anew"),
                }
            }
        });
        Ok(stranger)
    }

    /// Who holds what, as far as is known.
    pub(super) fn holders(&self) -> Arc<Holders> {
        Arc::clone(&self.holders.borrow())
    }

    /// Connects itself with everybody.
    async fn greet(&self) {
        let holders = self.holders();
        let members = holders.committee().members();
        let greet = |node| self.ask(node, Request::NodeStatus);
        drop(join_all(members.iter().map(|member| greet(member.node))).await);
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: Request,
    ) -> Result<Response, SliverFault> {
        match timeout(PATIENCE, self.network.request(node, request)).await {
            Ok(Ok(Response::Refused(Refusal::Busy { retry_after_ms }))) => {
                Err(SliverFault::Busy { retry_after_ms })
            }
            Ok(Ok(Response::Refused(Refusal::NotFound))) => Err(SliverFault::NotFound),
            Ok(Ok(Response::Refused(_)) | Err(_)) | Err(_) => Err(SliverFault::NoAnswer),
            Ok(Ok(response)) => Ok(response),
        }
    }
}
