//! Gossip of announcements: one topic, signed, passed on only when the service has judged them.
//!
//! The id of a message is the hash of its content, so one certificate announced by several nodes
//! travels once. Scores follow the advice for quiet topics: a peer is never punished for messages
//! that it did not deliver, only for invalid ones and for breaking the router's rules. Three
//! invalid announcements within ten minutes silence their sender; honest relays never send one,
//! since they judge before they pass on.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use floe_protocol::{hash::Hash, message::MAX_ANNOUNCEMENT_BYTES};
use libp2p::{
    gossipsub::{
        Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, Message, MessageAuthenticity,
        MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
        WhitelistSubscriptionFilter, score_parameter_decay,
    },
    identity::Keypair,
};

use super::{
    config::{NetworkConfig, Role},
    error::NetworkError,
};

/// The gossip behaviour: it knows the topics of this network and no others.
pub(super) type Gossip = Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// What signature, key, sequence number and topic add to a message.
const ENVELOPE_BYTES: usize = 512;
/// How long an invalid announcement is held against its sender.
const INVALID_DECAY: Duration = Duration::from_secs(600);
/// How long a message is remembered, so that it is not taken for a new one.
const DUPLICATE_MEMORY: Duration = Duration::from_secs(300);

/// The topic of announcements.
pub(super) fn topic(config: &NetworkConfig) -> IdentTopic {
    IdentTopic::new(format!("/floe/{}/announcements/1", config.chain.short()))
}

/// A behaviour that is subscribed to the topic, if this is a storage node.
pub(super) fn behaviour(config: &NetworkConfig, key: &Keypair) -> Result<Gossip, NetworkError> {
    let invalid = |error: &dyn std::fmt::Display| NetworkError::Gossip(error.to_string());
    let topic = topic(config);
    let gossip_config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(content_id)
        .max_transmit_size(config.limits.gossip_frame_bytes)
        .max_transmit_size_for_topic(MAX_ANNOUNCEMENT_BYTES + ENVELOPE_BYTES, topic.hash())
        .connection_handler_queue_len(config.limits.gossip_queue_max)
        .duplicate_cache_time(DUPLICATE_MEMORY)
        .build()
        .map_err(|error| invalid(&error))?;
    let whitelist = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let authenticity = MessageAuthenticity::Signed(key.clone());
    let mut gossip = Gossip::new_with_subscription_filter(authenticity, gossip_config, whitelist)
        .map_err(|error| invalid(&error))?;
    gossip
        .with_peer_score(score_params(&topic), score_thresholds())
        .map_err(|error| invalid(&error))?;
    // Who does not listen passes nothing on, so it must not be counted on for that.
    if config.role == Role::StorageNode {
        gossip.subscribe(&topic).map_err(|error| invalid(&error))?;
    }
    Ok(gossip)
}

/// The hash of the content, whoever signed it.
fn content_id(message: &Message) -> MessageId {
    MessageId::from(Hash::of_symbol(&message.data).as_bytes().as_slice())
}

fn score_params(topic: &IdentTopic) -> PeerScoreParams {
    let topic_params = TopicScoreParams {
        topic_weight: 1.0,
        // Time in the mesh: at most one point, after 100 s.
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        // First deliveries: at most ten points.
        first_message_deliveries_weight: 0.5,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(100)),
        first_message_deliveries_cap: 20.0,
        // No duty to deliver: the topic may be quiet for hours.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Invalid messages: the square of their number, ten points each.
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: score_parameter_decay(INVALID_DECAY),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: HashMap::from([(topic.hash(), topic_params)]),
        topic_score_cap: 20.0,
        // The limiter bounds strangers by address, and members may share one.
        ip_colocation_factor_weight: 0.0,
        ..PeerScoreParams::default()
    }
}

fn score_thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: -10.0,
        publish_threshold: -40.0,
        graylist_threshold: -80.0,
        accept_px_threshold: 10.0,
        opportunistic_graft_threshold: 1.0,
    }
}
