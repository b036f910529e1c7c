//! What the network counts. The registry is the process's; names begin with `network_`.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

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
    announcements: Family<RequestOutcome, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestOutcome {
    verdict: Word,
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
        registry.register("announcements", "Announcements judged", m.announcements.clone());
        metrics
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

    pub(super) fn announcement(&self, verdict: &'static str) {
        let labels = RequestOutcome { verdict: Word(verdict) };
        self.announcements.get_or_create(&labels).inc();
    }
}
