//! What peers say to each other: golden vectors, round trips, and what is refused.
//!
//! Questions about the ledger have a test of their own: their payload is another layout.

#![expect(clippy::unwrap_used, reason = "a test fails where it can't go on")]

#[path = "../golden/mod.rs"]
mod golden;
mod limits;
mod properties;
mod samples;
mod strategies;
mod vectors;

use bytes::Bytes;
use floe_protocol::{
    encoding::EncodingConfig,
    message::{Frame, Limits, PREFIX_BYTES, Request, RequestHead, Response, ResponseHead},
};

const SHARDS: [u16; 5] = [4, 6, 7, 64, 256];

fn limits(n_shards: u16) -> Limits {
    Limits::new(EncodingConfig::new(n_shards).unwrap())
}

/// The bytes of a frame on the wire.
fn wire(frame: &Frame) -> Vec<u8> {
    let head_bytes = u32::try_from(frame.head.len()).unwrap();
    let mut bytes = head_bytes.to_le_bytes().to_vec();
    bytes.extend_from_slice(&frame.head);
    bytes.extend(frame.payload.iter().flatten());
    assert_eq!(bytes.len(), frame.bytes());
    bytes
}

/// Head and payload of a wire that ends with the message.
fn parts(wire: &[u8]) -> Option<(&[u8], Bytes)> {
    let (prefix, rest) = wire.split_first_chunk::<PREFIX_BYTES>()?;
    let head_bytes = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
    let (head, payload) = rest.split_at_checked(head_bytes)?;
    Some((head, Bytes::copy_from_slice(payload)))
}

fn read_request(limits: &Limits, wire: &[u8]) -> Option<Request> {
    let (head, payload) = parts(wire)?;
    let head = RequestHead::decode(limits, head).ok()?;
    assert!(head.payload_bytes() as u64 <= limits.max_payload_bytes());
    Request::from_parts(limits, head, payload).ok()
}

fn read_response(limits: &Limits, wire: &[u8]) -> Option<Response> {
    let (head, payload) = parts(wire)?;
    let head = ResponseHead::decode(limits, head).ok()?;
    assert!(head.payload_bytes(limits) as u64 <= limits.max_payload_bytes());
    Response::from_parts(limits, head, payload).ok()
}

/// A message of either direction, so that one property covers both.
#[derive(Clone, Debug, PartialEq)]
enum Message {
    Request(Request),
    Response(Response),
}

impl Message {
    fn wire(self) -> Vec<u8> {
        match self {
            Self::Request(request) => wire(&request.into_frame().unwrap()),
            Self::Response(response) => wire(&response.into_frame().unwrap()),
        }
    }

    /// Reads bytes as a message of the same direction as this one.
    fn read_alike(&self, limits: &Limits, wire: &[u8]) -> Option<Self> {
        match self {
            Self::Request(_) => read_request(limits, wire).map(Self::Request),
            Self::Response(_) => read_response(limits, wire).map(Self::Response),
        }
    }
}
