//! A router's packet filter: what comes from inside goes out under the router's own address, and
//! from outside comes in only what answers it.
//!
//! Told to the kernel in its own words, as `nft` would: the machines that run the tests need not
//! have that program.

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

const ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const NEW_RULE: u16 = NEW_TABLE | 6;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const IPV4: u8 = 2;
const NESTED: u16 = 0x8000;
/// The register that rules compare.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const INTERFACE_IN: u32 = 6;
const INTERFACE_OUT: u32 = 7;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Of a connection that is established, or related to one that is.
const ANSWERS: u32 = 0b110;

/// Makes the network namespace of this thread a router between two interfaces.
pub(crate) fn masquerade(inside: &str, outside: &str) -> io::Result<()> {
    let accept = expression(
        "immediate",
        &[number(1, VERDICT), nested(2, &[nested(2, &[number(1, ACCEPT)])])],
    );
    let mut batch = Batch::default();
    batch.add(NEW_TABLE, CREATE, &[text(1, "router")]);
    batch.chain("out", ("nat", HOOK_POSTROUTING, 100), ACCEPT);
    let [name, matches] = through(INTERFACE_OUT, outside);
    batch.rule("out", &[name, matches, expression("masq", &[])]);
    batch.chain("forward", ("filter", HOOK_FORWARD, 0), DROP);
    let [name, matches] = through(INTERFACE_IN, inside);
    batch.rule("forward", &[name, matches, accept.clone()]);
    let state = expression("ct", &[number(1, REGISTER), number(2, 0)]);
    let masked = expression(
        "bitwise",
        &[
            number(1, REGISTER),
            number(2, REGISTER),
            number(3, 4),
            value(4, &ANSWERS.to_ne_bytes()),
            value(5, &[0; 4]),
        ],
    );
    batch.rule("forward", &[state, masked, compare(NOT_EQUAL, &[0; 4]), accept]);
    batch.commit()
}

/// Messages that take effect together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, (family, resource): (u8, u16), body: &[u8]) {
        self.messages += 1;
        let length = u32::try_from(20 + body.len()).unwrap();
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
    }

    fn add(&mut self, kind: u16, flags: u16, attributes: &[Vec<u8>]) {
        if self.bytes.is_empty() {
            self.message(BATCH_BEGIN, REQUEST, (0, SUBSYSTEM), &[]);
        }
        self.message(kind, REQUEST | ACKNOWLEDGE | flags, (IPV4, 0), &attributes.concat());
    }

    fn chain(&mut self, name: &str, (kind, hook, priority): (&str, u32, u32), policy: u32) {
        let hook = nested(4, &[number(1, hook), number(2, priority)]);
        let chain = [text(1, "router"), text(3, name), hook, number(5, policy), text(7, kind)];
        self.add(NEW_CHAIN, CREATE, &chain);
    }

    fn rule(&mut self, chain: &str, expressions: &[Vec<u8>]) {
        let rule = [text(1, "router"), text(2, chain), nested(4, expressions)];
        self.add(NEW_RULE, CREATE | APPEND, &rule);
    }

    /// Sends all and waits until the kernel has agreed to each.
    fn commit(mut self) -> io::Result<()> {
        let mut expected = self.messages - 1;
        self.message(BATCH_END, REQUEST, (0, SUBSYSTEM), &[]);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.send(&self.bytes, 0)?;
        while expected > 0 {
            let (datagram, _) = socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 20 {
                let word = |at: usize| <[u8; 4]>::try_from(&rest[at..at + 4]).unwrap();
                let length = usize::try_from(u32::from_ne_bytes(word(0))).unwrap();
                let code = i32::from_ne_bytes(word(16));
                if rest[4..6] == ERROR.to_ne_bytes() {
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    expected -= 1;
                }
                rest = &rest[length.next_multiple_of(4).clamp(20, rest.len())..];
            }
        }
        Ok(())
    }
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, bytes)])
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, attributes)])
}

fn compare(how: u32, with: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, REGISTER), number(2, how), value(3, with)])
}

/// Whether a packet goes through an interface.
fn through(direction: u32, interface: &str) -> [Vec<u8>; 2] {
    let name = expression("meta", &[number(1, REGISTER), number(2, direction)]);
    let mut padded = [0; 16];
    padded[..interface.len()].copy_from_slice(interface.as_bytes());
    [name, compare(EQUAL, &padded)]
}
