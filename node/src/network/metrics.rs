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

/// Names the counters: each is registered under its name, with what it shows.
macro_rules! counters {
    ($($name:ident: $kind:ty = $shows:literal,)*) => {
        /// The network's counters. Clones count together.
        #[derive(Clone, Debug, Default)]
        pub(super) struct Metrics {
            $($name: $kind,)*
        }

        impl Metrics {
            /// Counters that `registry` shows.
            pub(super) fn register(registry: &mut Registry) -> Self {
                let metrics = Self::default();
                let registry = registry.sub_registry_with_prefix("network");
                $(registry.register(stringify!($name), $shows, metrics.$name.clone());)*
                metrics
            }
        }
    };
}

counters! {
    requests_in: Family<RequestLabels, Counter> = "Requests of others",
    requests_out: Family<RequestLabels, Counter> = "Own requests",
    malformed_streams: Family<ReasonLabels, Counter> = "Streams closed for what they carried",
    requests_refused: Family<ReasonLabels, Counter> = "Requests told to come back later",
    payload_bytes: Family<DirectionLabels, Counter> = "Payload bytes",
    connections: Family<DirectionLabels, Gauge> = "Connections open",
    connections_refused: Counter = "Connections refused by a limit",
    relayed: Family<ReasonLabels, Counter> = "What others asked of this node as a relay",
    relays: Gauge = "Relays through which this node is reachable",
    gossip_messages: Family<GossipLabels, Counter> =
        "Messages of others heard for the first time, and own ones published",
    gossip_bytes: Family<GossipLabels, Counter> = "Their bytes",
    gossip_judged: Family<VerdictLabels, Counter> = "Messages judged",
    gossip_lost: Family<LossLabels, Counter> =
        "Messages that a full channel or the lack of listeners kept back",
    gossip_dropped: Counter = "Messages that did not reach a slow peer",
}

impl Metrics {
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
        self.malformed_streams.get_or_create(&labels).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        let labels = ReasonLabels { reason: Word(reason) };
        self.requests_refused.get_or_create(&labels).inc();
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
