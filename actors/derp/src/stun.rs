//! STUN as Tailscale speaks it, without I/O: binding requests that show by two attributes that one of its nodes sent
//! them, and answers with the address that they came from (RFC 8489; tailscale `net/stun/stun.go`). A server that answers
//! nobody else is of little use to who wants to send datagrams to others in its name.

use std::net::{IpAddr, SocketAddr};

/// Bytes of a transaction's number.
pub const TX_LEN: usize = 12;

/// Longest request that is looked at; those of nodes have 40 bytes.
const MAX_REQUEST: usize = 1280;

const HEADER_LEN: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const REQUEST: [u8; 2] = [0, 1];
const SUCCESS: [u8; 2] = [1, 1];
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// As some servers number it.
const XOR_MAPPED_ADDRESS_ALT: u16 = 0x8020;
const MAPPED_ADDRESS: u16 = 0x0001;
/// The software that is answered.
const TAILNODE: &[u8] = b"tailnode";
const FINGERPRINT_LEN: usize = 8;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// The number of a transaction.
pub type TxId = [u8; TX_LEN];

/// The checksum of gzip and Ethernet (RFC 1952 §8).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| {
        let at = (crc ^ u32::from(*byte)) & 0xff;
        TABLE.get(at as usize).copied().unwrap_or_default() ^ (crc >> 8)
    })
}

fn fingerprint(bytes: &[u8]) -> u32 {
    crc32(bytes) ^ FINGERPRINT_XOR
}

/// The attributes behind the header, until one does not fit.
struct Attributes<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = self.rest.split_first_chunk::<4>().and_then(|([a, b, c, d], rest)| {
            let len = usize::from(u16::from_be_bytes([*c, *d]));
            let value = rest.get(..len)?;
            Some((u16::from_be_bytes([*a, *b]), value, rest.get(len.next_multiple_of(4)..)?))
        });
        let Some((kind, value, rest)) = taken else {
            (self.rest, self.broken) = (&[], true);
            return None;
        };
        self.rest = rest;
        Some((kind, value))
    }
}

/// The header's type and transaction, and the attributes.
fn message(bytes: &[u8]) -> Option<([u8; 2], TxId, Attributes<'_>)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let [a, b, _, _, cookie @ .., _, _, _, _, _, _, _, _, _, _, _, _] = header;
    if a & 0xc0 != 0 || *cookie != COOKIE {
        return None;
    }
    let tx = header.last_chunk::<TX_LEN>()?;
    Some(([*a, *b], *tx, Attributes { rest, broken: false }))
}

/// The transaction of a binding request that a node has sent; `None`: it is none, and is not to be answered.
#[must_use]
pub fn request(bytes: &[u8]) -> Option<TxId> {
    let (kind, tx, mut attributes) = message(bytes)?;
    if kind != REQUEST || bytes.len() > MAX_REQUEST {
        return None;
    }
    let (mut ours, mut last) = (false, None);
    for (kind, value) in attributes.by_ref() {
        ours |= kind == SOFTWARE && value == TAILNODE;
        last = Some((kind, value));
    }
    let (FINGERPRINT, value) = last? else { return None };
    let before = bytes.len().checked_sub(FINGERPRINT_LEN)?;
    let expected = fingerprint(bytes.get(..before)?).to_be_bytes();
    (ours && !attributes.broken && value == expected).then_some(tx)
}

/// A binding request of a node.
#[must_use]
pub fn ask(tx: TxId) -> Vec<u8> {
    let mut out = Vec::with_capacity(40);
    let len = 4 + TAILNODE.len() + FINGERPRINT_LEN;
    header(&mut out, REQUEST, len, &tx);
    attribute(&mut out, SOFTWARE, TAILNODE);
    let sum = fingerprint(&out).to_be_bytes();
    attribute(&mut out, FINGERPRINT, &sum);
    out
}

/// Appends the answer that tells a client its address.
pub fn answer(out: &mut Vec<u8>, tx: &TxId, client: SocketAddr) {
    let key = [&COOKIE[..], tx].concat();
    let mut value = Vec::with_capacity(20);
    let xored = |bytes: &[u8], value: &mut Vec<u8>| {
        value.extend(bytes.iter().zip(&key).map(|(byte, key)| byte ^ key));
    };
    let ip = client.ip().to_canonical();
    value.extend([0, if ip.is_ipv4() { 1 } else { 2 }]);
    xored(&client.port().to_be_bytes(), &mut value);
    match ip {
        IpAddr::V4(ip) => xored(&ip.octets(), &mut value),
        IpAddr::V6(ip) => xored(&ip.octets(), &mut value),
    }
    header(out, SUCCESS, 4 + value.len(), tx);
    attribute(out, XOR_MAPPED_ADDRESS, &value);
}

fn header(out: &mut Vec<u8>, kind: [u8; 2], len: usize, tx: &TxId) {
    out.extend(kind);
    out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(COOKIE);
    out.extend(tx);
}

/// A length that is a multiple of four needs no padding, and no other is written.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(value);
}

/// What an answer says: transaction and address. `None`: it is none.
#[must_use]
pub fn answered(bytes: &[u8]) -> Option<(TxId, SocketAddr)> {
    let (kind, tx, _) = message(bytes)?;
    let [_, _, a, b, ..] = bytes else { return None };
    let len = usize::from(u16::from_be_bytes([*a, *b]));
    let rest = bytes.get(HEADER_LEN..HEADER_LEN + len)?;
    if kind != SUCCESS {
        return None;
    }
    let key = [&COOKIE[..], &tx].concat();
    let mut found = None;
    for (kind, value) in (Attributes { rest, broken: false }) {
        let xored = matches!(kind, XOR_MAPPED_ADDRESS | XOR_MAPPED_ADDRESS_ALT);
        if xored || kind == MAPPED_ADDRESS && found.is_none() {
            let plain = |bytes: &[u8]| -> Vec<u8> {
                let keys = key.iter().map(|key| if xored { *key } else { 0 });
                bytes.iter().zip(keys).map(|(byte, key)| byte ^ key).collect()
            };
            let (family, port) = (value.get(1)?, plain(value.get(2..4)?));
            let ip = match family {
                1 => IpAddr::from(*plain(value.get(4..8)?).first_chunk::<4>()?),
                2 => IpAddr::from(*plain(value.get(4..20)?).first_chunk::<16>()?),
                _ => return None,
            };
            let port = u16::from_be_bytes(*port.first_chunk()?);
            found = Some(SocketAddr::new(ip.to_canonical(), port));
        }
    }
    Some((tx, found?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request as a node of Tailscale 1.80 sends it.
    const REQUEST_BYTES: &str = "000100142112a4420102030405060708090a0b0c802200087461696c6e6f6465";

    #[test]
    fn a_request_has_two_attributes_and_a_checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let tx = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let bytes = ask(tx);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..REQUEST_BYTES.len()], REQUEST_BYTES);
        assert_eq!(bytes.len(), 40);
        assert_eq!(request(&bytes), Some(tx));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 4;
            // The length in the header is not looked at, but it is in the checksum.
            assert_eq!(request(&other), None, "{at}");
            assert_eq!(request(&bytes[..at]), None, "{at}");
        }
        // Another program, and one without a checksum.
        let mut other = Vec::new();
        header(&mut other, REQUEST, 8, &tx);
        let sum = fingerprint(&other).to_be_bytes();
        attribute(&mut other, FINGERPRINT, &sum);
        assert_eq!(request(&other), None);
        assert_eq!(request(&bytes[..32]), None);
    }

    #[test]
    fn the_old_attribute_serves_too() {
        let mut bytes = Vec::new();
        header(&mut bytes, SUCCESS, 12, &[0; 12]);
        attribute(&mut bytes, MAPPED_ADDRESS, &[0, 1, 1, 2, 10, 0, 0, 1]);
        assert_eq!(answered(&bytes), Some(([0; 12], "10.0.0.1:258".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn answers_are_understood(tx: TxId, v6: bool, ip: [u8; 16], port: u16) {
            let ip = if v6 { IpAddr::from(ip) } else { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) };
            let mut bytes = Vec::new();
            answer(&mut bytes, &tx, SocketAddr::new(ip, port));
            prop_assert_eq!(answered(&bytes), Some((tx, SocketAddr::new(ip.to_canonical(), port))));
            prop_assert_eq!(request(&bytes), None);
        }

        #[test]
        fn requests_are_understood(tx: TxId) {
            prop_assert_eq!(request(&ask(tx)), Some(tx));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, tx: TxId, cut in 0usize..40) {
            let _ = (request(&bytes), answered(&bytes));
            let mut request_bytes = ask(tx);
            request_bytes.truncate(cut);
            request_bytes.extend(bytes);
            let _ = (request(&request_bytes), answered(&request_bytes));
        }
    }
}
