//! Frames inside authentic QUIC Initial packets: a fuzzer would not get past the encryption by itself.
#![no_main]

use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use crosspoint_router::sniff::{Outcome, PacketSniffer, Sniffer};
use libfuzzer_sys::fuzz_target;

/// RFC 9001 §5.2.
const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
const DCID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(secret: &Prk, label: &str) -> Result<[u8; N], Unspecified> {
    let label = format!("tls13 {label}");
    let head = [0, N as u8, label.len() as u8];
    let mut out = [0; N];
    secret.expand(&[&head, label.as_bytes(), &[0]], Len(N))?.fill(&mut out)?;
    Ok(out)
}

/// An Initial packet of QUIC v1, number 0, with this payload.
fn seal(payload: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let initial = Salt::new(HKDF_SHA256, &SALT).extract(&DCID);
    let secret = Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&initial, "client in")?);
    let key = UnboundKey::new(&AES_128_GCM, &expand::<16>(&secret, "quic key")?)?;
    let mut packet = vec![0xc0, 0, 0, 0, 1, DCID.len() as u8];
    packet.extend(DCID);
    packet.extend([0, 0]);
    packet.extend((0x8000_0000 | (1 + payload.len() + 16) as u32).to_be_bytes());
    let number_at = packet.len();
    packet.push(0);
    let nonce = Nonce::assume_unique_for_key(expand(&secret, "quic iv")?);
    let mut body = payload.to_vec();
    LessSafeKey::new(key).seal_in_place_append_tag(nonce, Aad::from(&packet), &mut body)?;
    packet.extend(body);
    let sample = packet.get(number_at + 4..number_at + 20).ok_or(Unspecified)?;
    let header_key = HeaderProtectionKey::new(&AES_128, &expand::<16>(&secret, "quic hp")?)?;
    let mask = header_key.new_mask(sample)?;
    packet[0] ^= mask[0] & 0x0f;
    packet[number_at] ^= mask[1];
    Ok(packet)
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut sniffer = PacketSniffer::new();
    while let [high, low, tail @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (payload, next) = tail.split_at(len);
        rest = next;
        let Ok(packet) = seal(payload) else {
            continue;
        };
        let outcome = sniffer.push(&[Sniffer::Quic], &packet);
        assert_eq!(outcome == Outcome::NeedMore, sniffer.partial().is_some());
    }
});
