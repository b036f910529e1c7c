//! What the network counts. The registry is the process's; names begin with `network_`.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::gossip::Topic;

/// A word that a label takes: all come from closed sets in the code, none from peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) &'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    kind: Word,
    outcome: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    reason: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabels {
    direction: Word,
}

/// Inbound bytes and connections.
pub(super) const INBOUND: Word = Word("in");
/// Outbound bytes and connections.
pub(super) const OUTBOUND: Word = Word("out");

/// The network's counters. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    requests_in: Family<RequestLabels, Counter>,
    requests_out: Family<RequestLabels, Counter>,
    malformed: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    payload_bytes: Family<DirectionLabels, Counter>,
    connections: Family<DirectionLabels, Gauge>,
    connections_refused: Counter,
    relayed: Family<ReasonLabels, Counter>,
    relays: Gauge,
    gossip_messages: Family<GossipLabels, Counter>,
    gossip_bytes: Family<GossipLabels, Counter>,
    gossip_judged: Family<VerdictLabels, Counter>,
    gossip_lost: Family<LossLabels, Counter>,
    gossip_dropped: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct GossipLabels {
    topic: Word,
    direction: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct VerdictLabels {
    topic: Word,
    verdict: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LossLabels {
    topic: Word,
    reason: Word,
}

impl Metrics {
    /// Counters that `registry` shows.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("network");
        let m = &metrics;
        registry.register("requests_in", "Requests of others", m.requests_in.clone());
        registry.register("requests_out", "Own requests", m.requests_out.clone());
        registry.register(
            "malformed_streams",
            "Streams closed for what they carried",
            m.malformed.clone(),
        );
        registry.register(
            "requests_refused",
            "Requests told to come back later",
            m.refused.clone(),
        );
        registry.register("payload_bytes", "Payload bytes", m.payload_bytes.clone());
        registry.register("connections", "Connections open", m.connections.clone());
        let refused = "Connections refused by a limit";
        registry.register("connections_refused", refused, m.connections_refused.clone());
        let relayed = "What others asked of this node as a relay";
        registry.register("relayed", relayed, m.relayed.clone());
        let relays = "Relays through which this node is reachable";
        registry.register("relays", relays, m.relays.clone());
        m.register_gossip(registry);
        metrics
    }

    fn register_gossip(&self, registry: &mut Registry) {
        let messages = "Messages of others heard for the first time, and own ones published";
        registry.register("gossip_messages", messages, self.gossip_messages.clone());
        registry.register("gossip_bytes", "Their bytes", self.gossip_bytes.clone());
        registry.register("gossip_judged", "Messages judged", self.gossip_judged.clone());
        let lost = "Messages that a full channel or the lack of listeners kept back";
        registry.register("gossip_lost", lost, self.gossip_lost.clone());
        let dropped = "Messages that did not reach a slow peer";
        registry.register("gossip_dropped", dropped, self.gossip_dropped.clone());
    }

    pub(super) fn request_in(&self, kind: &'static str, outcome: &'static str) {
        let labels = RequestLabels { kind: Word(kind), outcome: Word(outcome) };
        self.requests_in.get_or_create(&labels).inc();
    }

    pub(super) fn request_out(&self, kind: &'static str, outcome: &'static str) {
        let labels = RequestLabels { kind: Word(kind), outcome: Word(outcome) };
        self.requests_out.get_or_create(&labels).inc();
    }

    pub(super) fn malformed(&self, reason: &'static str) {
        let labels = ReasonLabels { reason: Word(reason) };
        self.malformed.get_or_create(&labels).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        let labels = ReasonLabels { reason: Word(reason) };
        self.refused.get_or_create(&labels).inc();
    }

    pub(super) fn payload(&self, direction: Word, bytes: usize) {
        let labels = DirectionLabels { direction };
        self.payload_bytes.get_or_create(&labels).inc_by(bytes as u64);
    }

    pub(super) fn connection_opened(&self, direction: Word) {
        self.connections.get_or_create(&DirectionLabels { direction }).inc();
    }

    pub(super) fn connection_closed(&self, direction: Word) {
        self.connections.get_or_create(&DirectionLabels { direction }).dec();
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Something was asked of this node as a relay.
    pub(super) fn relay(&self, reason: &'static str) {
        self.relayed.get_or_create(&ReasonLabels { reason: Word(reason) }).inc();
    }

    /// This node has so many relays.
    pub(super) fn relays(&self, reserved: usize) {
        self.relays.set(i64::try_from(reserved).unwrap_or(i64::MAX));
    }

    pub(super) fn gossip(&self, topic: Topic, direction: Word, bytes: usize) {
        let labels = GossipLabels { topic: Word(topic.word()), direction };
        self.gossip_messages.get_or_create(&labels).inc();
        self.gossip_bytes.get_or_create(&labels).inc_by(bytes as u64);
    }

    pub(super) fn gossip_judged(&self, topic: Topic, verdict: &'static str) {
        let labels = VerdictLabels { topic: Word(topic.word()), verdict: Word(verdict) };
        self.gossip_judged.get_or_create(&labels).inc();
    }

    pub(super) fn gossip_lost(&self, topic: Topic, reason: &'static str) {
        let labels = LossLabels { topic: Word(topic.word()), reason: Word(reason) };
        self.gossip_lost.get_or_create(&labels).inc();
    }

    pub(super) fn gossip_dropped(&self, messages: usize) {
        self.gossip_dropped.inc_by(messages as u64);
    }
}
