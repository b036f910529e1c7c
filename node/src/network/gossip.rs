//! Gossip: a closed set of topics, signed messages, passed on only when the service has judged
//! them.
//!
//! Own messages go to every connected subscriber at once, accepted ones at once to the peers of
//! the topic's mesh: nothing that is new waits for the heartbeat. At the heartbeat (1 s) peers
//! outside of the mesh are told the ids of the last [`HISTORY_TOLD`] heartbeats, so that they ask
//! for what they missed; a message is kept for [`HISTORY_KEPT`]: so long it can be asked for, and
//! so long a verdict has time to come.
//!
//! Ids of messages are hashes of topic and content, so one header or transaction that several
//! nodes send travels once, and who sends it again within a minute is not heard. On the topics of
//! consensus and challenges they are made of source and sequence number: a vote that is sent again
//! passes, and nobody uses up what another is going to say by saying it first.
//!
//! Scores: a peer is never punished for what it did not deliver, nor for being slow, only for
//! invalid messages and for breaking the router's rules. A few invalid messages within a minute
//! silence their sender; honest relays never send one, since they judge before they pass on.
//!
//! Memory. What waits for one peer is bounded by number only (`gossip_queue_max`): a peer that reads
//! nothing holds 128 messages, which is 6 MiB of parts of blocks, or 8 MiB if it asks for the
//! longest messages on purpose. What does not fit is dropped, and what has waited longer than
//! [`PUBLISH_PATIENCE`] or [`FORWARD_PATIENCE`] when its turn comes; votes are sent again and blocks
//! are synced, so nothing is lost for good. What awaits its verdict is bounded by number and bytes,
//! topic by topic, so that one topic cannot crowd out another. Commitments are bounded by their
//! source, too (`admitted.rs`).
//!
//! Deliberately not here: what a message means, and when it is worth to be sent again.

use std::{collections::HashSet, time::Duration};

use floe_protocol::{
    challenge::Commitment,
    consensus::MAX_MESSAGE_BYTES,
    hash::Hash,
    message::ledger::{MAX_HEADER_ANNOUNCEMENT_BYTES, MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES},
};
use libp2p::{
    gossipsub::{
        Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, Message, MessageAuthenticity,
        MessageId, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams,
        ValidationMode, WhitelistSubscriptionFilter, score_parameter_decay,
    },
    identity::Keypair,
};

use super::{
    config::{NetworkConfig, Role},
    error::NetworkError,
};

/// What gossip is about. There are no other topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Transactions that wait for a block. Light peers publish here too.
    Transactions,
    /// Votes, proposals and the parts of blocks.
    Consensus,
    /// Headers with their certificates, for light peers.
    Headers,
    /// Commitments of challenged nodes to their answers.
    Challenges,
}

/// What is particular to a topic.
struct Rules {
    /// The word in its name, and in metrics.
    word: &'static str,
    /// The longest message.
    max_bytes: usize,
    /// Whether each message is new, whatever it says.
    by_sequence: bool,
    /// Peers to pass messages on to: wished, fewest, most.
    mesh: (usize, usize, usize),
}

/// The rules of all topics, in the order of the enum. The committee's members are connected with
/// each other, and own messages go to all of them, so what is passed on is a second way only, and
/// ids told at the heartbeat are a third: small meshes for consensus and transactions save most of
/// the duplicates, each of which costs a signature check.
const RULES: [Rules; Topic::COUNT] = [
    Rules {
        word: "transactions",
        max_bytes: MAX_TRANSACTIONS_ANNOUNCEMENT_BYTES,
        by_sequence: false,
        mesh: (3, 2, 5),
    },
    Rules { word: "consensus", max_bytes: MAX_MESSAGE_BYTES, by_sequence: true, mesh: (2, 2, 4) },
    Rules {
        word: "headers",
        max_bytes: MAX_HEADER_ANNOUNCEMENT_BYTES,
        by_sequence: false,
        mesh: (6, 5, 12),
    },
    Rules { word: "challenges", max_bytes: Commitment::BYTES, by_sequence: true, mesh: (3, 2, 5) },
];

impl Topic {
    pub(super) const COUNT: usize = 4;
    /// All topics.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Transactions, Self::Consensus, Self::Headers, Self::Challenges];

    /// Its place among all topics.
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    const fn rules(self) -> &'static Rules {
        &RULES[self.index()]
    }

    /// The word in the topic's name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.rules().word
    }

    /// The longest message.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        self.rules().max_bytes
    }

    /// Whether a peer of this role hears the topic. It may publish to it in any case.
    #[must_use]
    pub const fn is_heard_by(self, role: Role) -> bool {
        match role {
            Role::StorageNode => true,
            Role::LightPeer => matches!(self, Self::Headers),
        }
    }
}

/// The gossip behaviour: it knows the topics of this network and no others.
pub(super) type Gossip = Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// What signature, key, sequence number and topic add to a message.
const ENVELOPE_BYTES: usize = 512;
/// What the decoder counts beyond a frame: it limits all that has been read, which includes the
/// beginning of what comes after the frame.
const READ_AHEAD_BYTES: usize = 8 << 10;
/// The shortest limit of frames under which every message passes.
pub(super) const FRAME_BYTES_MIN: usize = {
    let mut longest = 0;
    let mut i = 0;
    while i < Topic::COUNT {
        if RULES[i].max_bytes > longest {
            longest = RULES[i].max_bytes;
        }
        i += 1;
    }
    longest + ENVELOPE_BYTES + READ_AHEAD_BYTES
};
/// Length of the id of a message.
const ID_BYTES: usize = 20;
/// Ids in one control message. All of them must fit into what a peer accepts of such messages, or
/// it closes the stream.
const CONTROL_IDS_MAX: usize = 1_000;
/// Bytes of control messages in one frame.
const CONTROL_BYTES_MAX: usize = CONTROL_IDS_MAX * (ID_BYTES + 2) + ENVELOPE_BYTES;
/// Time between two looks at meshes and scores, which is when ids of messages are told.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeats for which a message is kept. This is memory: all bytes of so many seconds.
const HISTORY_KEPT: usize = 5;
/// Heartbeats for which the id of a message is told.
const HISTORY_TOLD: usize = 3;
/// How long own messages, and those of others, may wait for a peer before they are dropped.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);
const FORWARD_PATIENCE: Duration = Duration::from_secs(1);
/// How long an invalid message is held against its sender.
const INVALID_DECAY: Duration = Duration::from_secs(600);
/// How long a message is remembered, so that it is not taken for a new one. About 150 bytes each.
const DUPLICATE_MEMORY: Duration = Duration::from_secs(60);

/// The topics of one network.
#[derive(Debug)]
pub(super) struct Topics([TopicHash; Topic::COUNT]);

impl Topics {
    pub(super) fn new(config: &NetworkConfig) -> Self {
        Self(Topic::ALL.map(|topic| named(config, topic).hash()))
    }

    /// The name of a topic.
    pub(super) fn hash(&self, topic: Topic) -> TopicHash {
        self.0[topic.index()].clone()
    }

    /// The topic of a name.
    pub(super) fn find(&self, hash: &TopicHash) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| self.0[topic.index()] == *hash)
    }
}

fn named(config: &NetworkConfig, topic: Topic) -> IdentTopic {
    IdentTopic::new(format!("/floe/{}/{}/1", config.chain.short(), topic.word()))
}

/// A behaviour that is subscribed to the topics that this peer hears.
pub(super) fn behaviour(config: &NetworkConfig, key: &Keypair) -> Result<Gossip, NetworkError> {
    let invalid = |error: &dyn std::fmt::Display| NetworkError::Gossip(error.to_string());
    if config.limits.gossip_frame_bytes < FRAME_BYTES_MIN {
        return Err(invalid(&format!("frames need {FRAME_BYTES_MIN} bytes at least")));
    }
    let topics = Topics::new(config);
    let by_sequence = Topic::ALL.into_iter().filter(|topic| topic.rules().by_sequence);
    let by_sequence: Vec<_> = by_sequence.map(|topic| topics.hash(topic)).collect();
    let mut builder = ConfigBuilder::default();
    builder
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(move |message| id(message, by_sequence.contains(&message.topic)))
        .flood_publish(true)
        .max_transmit_size(config.limits.gossip_frame_bytes)
        .heartbeat_interval(HEARTBEAT)
        .heartbeat_initial_delay(Duration::ZERO)
        .history_length(HISTORY_KEPT)
        .history_gossip(HISTORY_TOLD)
        .max_control_messages_sent(CONTROL_IDS_MAX)
        .max_control_message_size(CONTROL_BYTES_MAX)
        .connection_handler_queue_len(config.limits.gossip_queue_max)
        .publish_queue_duration(PUBLISH_PATIENCE)
        .forward_queue_duration(FORWARD_PATIENCE)
        .duplicate_cache_time(DUPLICATE_MEMORY);
    for topic in Topic::ALL {
        let (wished, fewest, most) = topic.rules().mesh;
        builder
            .max_transmit_size_for_topic(topic.max_bytes() + ENVELOPE_BYTES, topics.hash(topic))
            .mesh_n_for_topic(wished, topics.hash(topic))
            .mesh_n_low_for_topic(fewest, topics.hash(topic))
            .mesh_n_high_for_topic(most, topics.hash(topic))
            .mesh_outbound_min_for_topic(1, topics.hash(topic));
    }
    let gossip_config = builder.build().map_err(|error| invalid(&error))?;
    let whitelist = WhitelistSubscriptionFilter(HashSet::from(topics.0.clone()));
    let authenticity = MessageAuthenticity::Signed(key.clone());
    let mut gossip = Gossip::new_with_subscription_filter(authenticity, gossip_config, whitelist)
        .map_err(|error| invalid(&error))?;
    gossip
        .with_peer_score(score_params(&topics), score_thresholds())
        .map_err(|error| invalid(&error))?;
    // Who does not listen passes nothing on, so it must not be counted on for that.
    for topic in Topic::ALL.into_iter().filter(|topic| topic.is_heard_by(config.role)) {
        gossip.subscribe(&named(config, topic)).map_err(|error| invalid(&error))?;
    }
    Ok(gossip)
}

/// The topic is part of every id: else who sends the content of one topic to another, where it is
/// refused, would have its like dropped as known.
fn id(message: &Message, by_sequence: bool) -> MessageId {
    let mut bytes = message.topic.as_str().as_bytes().to_vec();
    bytes.push(0);
    if by_sequence {
        // Both are there: messages without are not valid, and the signature covers them.
        bytes.extend(message.source.map(|source| source.to_bytes()).unwrap_or_default());
        bytes.extend(message.sequence_number.unwrap_or_default().to_be_bytes());
    } else {
        bytes.extend(Hash::of_symbol(&message.data).as_bytes());
    }
    MessageId::new(&Hash::of_symbol(&bytes).as_bytes()[..ID_BYTES])
}

/// Credit is two points a topic, so that who has all of it falls as deep as a newcomer.
fn score_params(topics: &Topics) -> PeerScoreParams {
    let topic_params = TopicScoreParams {
        topic_weight: 1.0,
        // Time in the mesh: at most one point, after 100 s.
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        // First deliveries: at most one point.
        first_message_deliveries_weight: 0.05,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(100)),
        first_message_deliveries_cap: 20.0,
        // No duty to deliver: a topic may be quiet for hours, and who is slow is not hostile.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Invalid messages: the square of their number, ten points each.
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: score_parameter_decay(INVALID_DECAY),
        ..TopicScoreParams::default()
    };
    PeerScoreParams {
        topics: Topic::ALL.map(|topic| (topics.hash(topic), topic_params.clone())).into(),
        topic_score_cap: 8.0,
        // The limiter bounds strangers by address, and members may share one.
        ip_colocation_factor_weight: 0.0,
        // Ids that were offered and not delivered. Honest peers break some such promises when
        // their queue is full; beyond forty within seconds they are not heard for a while.
        behaviour_penalty_threshold: 30.0,
        behaviour_penalty_weight: -0.5,
        // A full queue is our own view of a peer, and may be our own fault.
        slow_peer_weight: 0.0,
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
