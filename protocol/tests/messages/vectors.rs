//! The bytes of every message, and how names and hashes are written.

use std::fmt::Write as _;

use bytes::Bytes;
use floe_protocol::{
    blob::BlobId,
    codec,
    hash::Hash,
    keys::ChainId,
    message::{Frame, Response},
    registration::RegistrationId,
};

use super::{
    golden, limits, read_request, read_response,
    samples::{sample_requests, sample_responses},
    wire,
};

#[test]
fn messages_are_those_of_the_golden_vectors() {
    let mut text = String::from(
        "# Golden vectors of the messages of a network of 7 shards. Written by tests/messages;\n\
         # changed only on purpose. A frame is the head's length (u32 LE), the head, the payload.\n",
    );
    let describe = |text: &mut String, frame: &Frame, name: &str| {
        let payload: Vec<_> = frame.payload.iter().map(Bytes::len).collect();
        writeln!(text, "\n{name}\nhead {}", golden::hex(&frame.head)).unwrap();
        if !payload.is_empty() {
            writeln!(text, "payload_bytes {payload:?}").unwrap();
        }
    };
    for request in sample_requests() {
        let name = format!("request {}", request.name());
        let frame = request.clone().into_frame().unwrap();
        assert_eq!(read_request(&limits(7), &wire(&frame)), Some(request));
        describe(&mut text, &frame, &name);
    }
    for response in sample_responses() {
        let name = match &response {
            Response::TableStored { .. } => "table_stored".into(),
            Response::Stored { .. } => "stored".into(),
            Response::Confirmed { .. } => "confirmed".into(),
            Response::Missing { .. } => "missing".into(),
            Response::Sliver { .. } => "sliver".into(),
            Response::Pairs { .. } => "pairs".into(),
            Response::Symbols(_) => "symbols".into(),
            Response::Attested { .. } => "attested".into(),
            Response::Transcript(_) => "transcript".into(),
            Response::Taken => "taken".into(),
            Response::NodeStatus(_) => "node_status".into(),
            Response::Ledger(answer) => format!("ledger {}", answer.kind().name()),
            Response::Refused(refusal) => format!("refused: {refusal}"),
        };
        let frame = response.clone().into_frame().unwrap();
        assert_eq!(read_response(&limits(7), &wire(&frame)), Some(response));
        describe(&mut text, &frame, &format!("response {name}"));
    }
    golden::check("messages.txt", include_str!("../vectors/messages.txt"), &text);
}

#[test]
fn names_and_hashes_are_text_in_json_and_bytes_in_cbor() {
    let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let hash = Hash::new(bytes);
    let values = (BlobId::new(bytes), hash, RegistrationId::new(bytes), ChainId::new(hash));
    let text = serde_json::to_string(&values).unwrap();
    let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    assert_eq!(text, format!(r#"["{base64}","{hex}","{hex}","{hex}"]"#));
    assert_eq!(
        serde_json::from_str::<(BlobId, Hash, RegistrationId, ChainId)>(&text).unwrap(),
        values
    );
    for wrong in ["[1,2]", r#""""#, r#""AAEC""#, &format!(r#""{hex}00""#)] {
        assert!(serde_json::from_str::<Hash>(wrong).is_err(), "{wrong}");
        assert!(serde_json::from_str::<BlobId>(wrong).is_err(), "{wrong}");
    }
    // A byte string of 32: the head 58 20, then the bytes.
    let cbor = [&[0x58, 0x20], bytes.as_slice()].concat();
    assert_eq!(codec::encode(&values.0, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&hash, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&values.2, 64).unwrap(), cbor);
    assert_eq!(codec::encode(&values.3, 64).unwrap(), cbor);
}
