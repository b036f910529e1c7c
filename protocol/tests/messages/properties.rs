//! What comes back from the wire, and that damage never does more than be refused.

use floe_protocol::message::{RequestHead, ResponseHead};
use proptest::{collection::vec, prelude::*, sample};

use super::{Message, SHARDS, limits, parts, strategies::message};

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 2048, ..ProptestConfig::default()
    })]

    #[test]
    fn messages_come_back_from_the_wire((limits, message) in message()) {
        let wire = message.clone().wire();
        prop_assert_eq!(message.read_alike(&limits, &wire), Some(message));
    }

    #[test]
    fn a_cut_or_extended_message_is_refused(
        (limits, message) in message(),
        cut in any::<sample::Index>(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let wire = message.clone().wire();
        let short = &wire[..cut.index(wire.len())];
        prop_assert_eq!(message.read_alike(&limits, short), None);
        let long = [wire.as_slice(), &more].concat();
        prop_assert_eq!(message.read_alike(&limits, &long), None);
    }

    #[test]
    fn a_cut_or_extended_head_is_refused(
        (limits, message) in message(),
        cut in any::<sample::Index>(),
        more in vec(any::<u8>(), 1..20),
    ) {
        let wire = message.clone().wire();
        let (head, _) = parts(&wire).unwrap();
        for head in [&head[..cut.index(head.len())], &[head, &more].concat()] {
            match message {
                Message::Request(_) => prop_assert!(RequestHead::decode(&limits, head).is_err()),
                Message::Response(_) => prop_assert!(ResponseHead::decode(&limits, head).is_err()),
            }
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_another_message(
        (limits, message) in message(),
        flips in vec((any::<sample::Index>(), 0..8_u8), 1..4),
    ) {
        let mut wire = message.clone().wire();
        for (byte, bit) in flips {
            let byte = byte.index(wire.len());
            wire[byte] ^= 1 << bit;
        }
        if let Some(other) = message.read_alike(&limits, &wire) {
            let again = other.clone().wire();
            prop_assert_eq!(other.read_alike(&limits, &again), Some(other));
        }
    }

    #[test]
    fn random_bytes_are_refused_or_a_message(
        n_shards in sample::select(SHARDS.to_vec()),
        bytes in vec(any::<u8>(), 0..600),
    ) {
        let limits = limits(n_shards);
        // Few random bytes are CBOR: try the prefix that names a map of one entry, too.
        let as_map = [&[0xa1], bytes.as_slice()].concat();
        for head in [&bytes, &as_map] {
            if let Ok(head) = RequestHead::decode(&limits, head) {
                prop_assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
            }
            if let Ok(head) = ResponseHead::decode(&limits, head) {
                prop_assert!(head.payload_bytes(&limits) as u64 <= limits.max_payload_bytes());
            }
        }
    }
}
