//! What the storage service counts. Names begin with `storage_`.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// The service's counters. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// Requests for symbols.
    pub(super) symbol_requests: Counter,
    /// Those told to come back later.
    pub(super) symbol_requests_busy: Counter,
    /// Times that somebody who asked too early was not heard for a while.
    pub(super) cool_downs: Counter,
    /// Those served from a sliver that was already expanded.
    pub(super) symbol_tree_hits: Counter,
    /// Bytes of slivers that were expanded for others.
    pub(super) symbol_expanded_bytes: Counter,
    /// Pairs sent to who takes their shard over.
    pub(super) pairs_sent: Counter,
    /// Pairs that the scrubber has read.
    pub(super) pairs_scrubbed: Counter,
    /// Pairs that were found damaged.
    pub(super) pairs_damaged: Counter,
    /// Pairs removed because another node holds their shard now.
    pub(super) pairs_given_up: Counter,
    /// Blobs attested to be inconsistent.
    pub(super) attestations: Counter,
}

impl Metrics {
    /// Counters that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("storage");
        let m = &metrics;
        for (name, help, counter) in [
            ("symbol_requests", "Requests for symbols", &m.symbol_requests),
            (
                "symbol_requests_busy",
                "Requests for symbols told to come back later",
                &m.symbol_requests_busy,
            ),
            (
                "symbol_cool_downs",
                "Times that a peer did not heed Busy and was not heard for a while",
                &m.cool_downs,
            ),
            (
                "symbol_tree_hits",
                "Requests for symbols of a sliver that was already expanded",
                &m.symbol_tree_hits,
            ),
            (
                "symbol_expanded_bytes",
                "Bytes of slivers expanded for others",
                &m.symbol_expanded_bytes,
            ),
            ("pairs_sent", "Pairs sent to the new holders of their shards", &m.pairs_sent),
            ("pairs_scrubbed", "Pairs read by the scrubber", &m.pairs_scrubbed),
            ("pairs_damaged", "Pairs found damaged", &m.pairs_damaged),
            ("pairs_given_up", "Pairs removed with a lost shard", &m.pairs_given_up),
            ("attestations", "Blobs attested to be inconsistent", &m.attestations),
        ] {
            registry.register(name, help, counter.clone());
        }
        metrics
    }
}
