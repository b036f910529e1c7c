//! Membership: keeps the network layer up to date about who the committee is.
//!
//! Who is a member bypasses limits and is kept connected, so the network must follow the ledger.
//! The next epoch's members count from their selection on, half an epoch before they vote, so that
//! they are connected by then; those of the epoch before count to the end of this one, and those of
//! any epoch as long as the ledger names them as keepers of a shard, because they hold what others
//! may lack. Where members are is published on the ledger with their
//! registrations; the network tries that when nothing better is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use floe_protocol::{
    committee::Committee,
    index::Epoch,
    keys::NodeId,
    ledger::{ReadError, State, StateReader},
};
use floe_storage::LedgerStore;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{blocking, ledger::Ledger};
use crate::network::{Multiaddr, Network};

/// How often members' addresses are looked up again: they may publish others.
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(60);

/// Members of the epochs around a state's, and who keeps shards from earlier ones.
pub(crate) fn members(
    state: &State,
    reader: &dyn StateReader,
) -> Result<BTreeSet<NodeId>, ReadError> {
    let epoch = state.committee().epoch();
    let nodes = |committee: &Committee| -> Vec<NodeId> {
        committee.members().iter().map(|member| member.node).collect()
    };
    let mut members: BTreeSet<_> = nodes(state.committee()).into_iter().collect();
    members.extend(nodes(state.previous_committee()));
    let before = epoch.get().checked_sub(1).map(Epoch::new);
    for epoch in before.into_iter().chain([epoch.plus(1)]) {
        if let Some(committee) = state.committee_of(reader, epoch)? {
            members.extend(nodes(&committee));
        }
    }
    for shard in state.shards(reader)? {
        members.insert(shard.last_ready);
        members.extend(shard.keepers.iter().map(|keeper| keeper.node));
    }
    Ok(members)
}

/// Where members say that they are.
fn addresses(
    state: &State,
    reader: &dyn StateReader,
    members: &BTreeSet<NodeId>,
) -> Result<BTreeMap<NodeId, Vec<Multiaddr>>, ReadError> {
    let mut addresses = BTreeMap::new();
    for member in members {
        if let Some(node) = state.node(reader, member)? {
            let published = node.settings.addresses.iter();
            let published = published.filter_map(|address| address.parse().ok()).collect();
            addresses.insert(*member, published);
        }
    }
    Ok(addresses)
}

/// What the network has been told.
#[derive(Debug, Default)]
struct Told {
    members: BTreeSet<NodeId>,
    addresses: BTreeMap<NodeId, Vec<Multiaddr>>,
}

/// Runs until cancelled or until the ledger has stopped.
pub(crate) async fn run(ledger: Ledger, network: Network, cancel: CancellationToken) {
    let mut states = ledger.state();
    let mut told = Told::default();
    let mut again = interval_at(Instant::now() + ADDRESSES_INTERVAL, ADDRESSES_INTERVAL);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look_up = true;
    loop {
        let state = states.borrow_and_update().clone();
        look_up = !tell(&ledger, &network, &mut told, (state, look_up)).await;
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = states.changed() => if changed.is_err() {
                return;
            },
            _ = again.tick() => look_up = true,
        }
    }
}

/// Tells the network what has changed; whether it was all that was to be looked up.
async fn tell(
    ledger: &Ledger,
    network: &Network,
    told: &mut Told,
    (state, look_up): (Arc<State>, bool),
) -> bool {
    let store = Arc::clone(ledger.store());
    let known = told.members.clone();
    let looked_up = blocking(move || look(&store, &state, &known, look_up)).await;
    let (members, addresses) = match looked_up {
        Some(Ok(looked_up)) => looked_up,
        // The ledger has gone on: there is another state to look at.
        Some(Err(ReadError::NoSuchVersion { .. })) => return false,
        Some(Err(error)) => {
            tracing::warn!(%error, "members not read");
            return false;
        }
        None => return true,
    };
    if members != told.members {
        tracing::info!(members = members.len(), "the network follows the committee");
        network.set_committee(members.iter().copied().collect()).await;
        told.members = members;
    }
    if let Some(addresses) = addresses {
        for (member, published) in &addresses {
            if told.addresses.get(member) != Some(published) {
                network.set_published(*member, published.clone()).await;
            }
        }
        told.addresses = addresses;
    }
    true
}

type Looked = (BTreeSet<NodeId>, Option<BTreeMap<NodeId, Vec<Multiaddr>>>);

/// The members, and where they are if that is wanted or they are others than before.
fn look(
    store: &LedgerStore,
    state: &State,
    known: &BTreeSet<NodeId>,
    look_up: bool,
) -> Result<Looked, ReadError> {
    let members = members(state, store)?;
    let addresses = (look_up || members != *known).then(|| addresses(state, store, &members));
    Ok((members, addresses.transpose()?))
}

#[cfg(test)]
mod tests {
    use floe_protocol::test_support::{Chain, genesis, node_keys};

    use super::*;

    #[test]
    fn who_keeps_a_shard_that_nobody_completes_is_a_member_for_as_long() {
        let mut chain = Chain::new(&genesis(6, 7));
        let keys = node_keys(6);
        chain.commit(&[]);
        // The first one is not selected any more, and nobody says that its shards are complete.
        let reports: Vec<_> = keys[1..].iter().map(|(key, _)| chain.node_ready(key)).collect();
        chain.commit_system(&reports);
        let gone = keys[0].0.public();
        for epoch in 1..=4 {
            chain.next_epoch();
            assert_eq!(chain.state.summary().epoch, Epoch::new(epoch));
            assert!(chain.state.committee().member(&gone).is_none());
            let members = members(&chain.state, &chain.store).unwrap();
            assert!(members.contains(&gone), "epoch {epoch}");
        }
        let reports: Vec<_> = keys[1..].iter().map(|(key, _)| chain.shards_ready(key)).collect();
        let complete = |report: &floe_protocol::ledger::SystemOperation| {
            let judged = chain.state.check_system(&chain.store, report);
            judged.unwrap().is_ok()
        };
        let reports: Vec<_> = reports.into_iter().filter(complete).collect();
        chain.commit_system(&reports);
        chain.next_epoch();
        assert!(!members(&chain.state, &chain.store).unwrap().contains(&gone));
    }
}
