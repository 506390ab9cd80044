//! QUIC packets made here: every way to cut a ClientHello up, and what limits it.

use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use proptest::prelude::*;

use super::*;

const SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(secret: &Prk, label: &str) -> [u8; N] {
    let label = format!("tls13 {label}");
    let head = [0, N as u8, label.len() as u8];
    let mut out = [0; N];
    secret
        .expand(&[&head, label.as_bytes(), &[0]], Len(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF");
    out
}

fn varint(value: usize) -> [u8; 4] {
    (value as u32 | 0x8000_0000).to_be_bytes()
}

/// An Initial packet of QUIC v1 with this payload.
pub(super) fn seal(dcid: &[u8], number: u8, payload: &[u8]) -> Vec<u8> {
    let initial = Salt::new(HKDF_SHA256, &SALT).extract(dcid);
    let secret = Prk::new_less_safe(HKDF_SHA256, &expand::<32>(&initial, "client in"));
    let mut nonce: [u8; 12] = expand(&secret, "quic iv");
    nonce[11] ^= number;
    let key = UnboundKey::new(&AES_128_GCM, &expand::<16>(&secret, "quic key")).expect("key");
    let header_key = HeaderProtectionKey::new(&AES_128, &expand::<16>(&secret, "quic hp"));

    let mut packet = vec![0xc0, 0, 0, 0, 1, dcid.len() as u8];
    packet.extend(dcid);
    packet.extend([0, 0]);
    packet.extend(varint(1 + payload.len() + 16));
    let number_at = packet.len();
    packet.push(number);
    let mut body = payload.to_vec();
    LessSafeKey::new(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&packet),
            &mut body,
        )
        .expect("seal");
    packet.extend(body);
    let sample = &packet[number_at + 4..number_at + 20];
    let mask = header_key.expect("key").new_mask(sample).expect("mask");
    packet[0] ^= mask[0] & 0x0f;
    packet[number_at] ^= mask[1];
    packet
}

pub(super) fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(data.len()), data].concat()
}

/// The ClientHello message of the RFC 9001 sample's kind, taken from a TLS record.
pub(super) fn hello() -> Vec<u8> {
    let path = vectors_dir().join("clienthello/chromium156-real-1.hex");
    unhex(&std::fs::read_to_string(path).expect("sample"))[5..].to_vec()
}

const DCID: &[u8] = b"\x83\x94\xc8\xf0\x3e\x51\x57\x08";

fn padded(mut payload: Vec<u8>, before: usize, after: usize) -> Vec<u8> {
    payload.splice(..0, vec![0; before]);
    payload.resize(payload.len() + after, 0);
    payload
}

#[test]
fn layouts_and_clients() {
    let hello = hello();
    let whole = crypto(0, &hello);
    let (a, b) = hello.split_at(700);
    for (payload, client) in [
        (whole.clone(), "firefox"),
        (padded(whole.clone(), 0, 40), "unknown"),
        (padded(whole.clone(), 40, 0), "quic-go"),
        (padded(whole.clone(), 40, 40), "unknown"),
        ([crypto(700, b), vec![0; 9], crypto(0, a)].concat(), "quic-go"),
        ([vec![1], whole.clone(), vec![0; 9]].concat(), "quic-go"),
        // ACK with one range, ACK with ECN counts, CONNECTION_CLOSE with a reason.
        ([vec![2, 5, 0, 1, 0, 1, 1], whole.clone(), vec![0; 9]].concat(), "unknown"),
        ([vec![3, 5, 0, 0, 0, 1, 2, 3, 0x1c, 0, 6, 2, b'h', b'i'], whole].concat(), "unknown"),
    ] {
        assert_eq!(
            packet(&[], &seal(DCID, 1, &payload)),
            matched("quic", "www.example.com", client)
        );
    }
}

#[test]
fn coalesced_and_foreign_packets() {
    let hello = hello();
    let (a, b) = hello.split_at(900);
    let first = seal(DCID, 0, &crypto(0, a));
    let second = seal(DCID, 1, &crypto(900, b));
    let expected = matched("quic", "www.example.com", "chromium");
    assert_eq!(packet(&[], &[&first[..], &second].concat()), expected);

    // 0-RTT packets between the pieces.
    let mut early = vec![0xd0, 0, 0, 0, 1, 8];
    early.extend(DCID);
    early.extend([0, 0x40, 60]);
    early.extend([0x55; 60]);
    let mut sniffer = PacketSniffer::new();
    assert_eq!(sniffer.push(&[], &first), Outcome::NeedMore);
    assert_eq!(sniffer.push(&[], &early), Outcome::NeedMore);
    assert_eq!(sniffer.push(&[], &[&early[..], &second].concat()), expected);

    // Another connection id starts over; its second half alone is no ClientHello.
    let mut sniffer = PacketSniffer::new();
    assert_eq!(sniffer.push(&[], &first), Outcome::NeedMore);
    let other = seal(b"elsewhere", 1, &crypto(900, b));
    assert_eq!(sniffer.push(&[], &other), Outcome::NeedMore);
    let again = seal(b"elsewhere", 0, &crypto(0, a));
    assert_eq!(sniffer.push(&[], &again), expected);

    // Something else altogether ends the wait with what is known.
    let mut sniffer = PacketSniffer::new();
    assert_eq!(sniffer.push(&[], &first), Outcome::NeedMore);
    assert_eq!(sniffer.push(&[], b"hello"), matched("quic", "", "chromium"));
}

#[test]
fn limits() {
    let unfinished = matched("quic", "", "chromium");
    let hello = hello();
    // Never whole: given up after 16 datagrams.
    let part = seal(DCID, 0, &crypto(0, &hello[..100]));
    let mut sniffer = PacketSniffer::new();
    for _ in 0..16 {
        assert_eq!(sniffer.push(&[], &part), Outcome::NeedMore);
    }
    assert_eq!(sniffer.push(&[], &part), unfinished);
    assert_eq!(sniffer.partial(), None);
    // Far away, or announced too long, or no ClientHello at all.
    let far = crypto((16 << 10) - 50, &hello[..100]);
    assert_eq!(packet(&[], &seal(DCID, 0, &far)), unfinished);
    let huge = crypto(0, &[1, 1, 0, 0, 3, 3, 0, 0, 0, 0]);
    assert_eq!(packet(&[], &seal(DCID, 0, &huge)), unfinished);
    let server = crypto(0, &[2, 0, 0, 4, 3, 3, 0, 0, 0, 0]);
    assert_eq!(packet(&[], &seal(DCID, 0, &server)), unfinished);
    // Whole but malformed.
    let mut bad = hello.clone();
    bad[4 + 2 + 32] = 255;
    assert_eq!(packet(&[], &seal(DCID, 0, &crypto(0, &bad))), unfinished);
    // Frames that do not belong into an Initial packet, or are cut short.
    for payload in [&[0x08; 30][..], &[6, 0, 60, 1, 2, 3, 4, 5], &[2; 24]] {
        assert_eq!(packet(&[], &seal(DCID, 0, payload)), Outcome::NoMatch);
    }
    // Authentic but for one bit, at any place.
    let whole = seal(DCID, 0, &crypto(0, &hello));
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 0x04;
        let outcome = packet(&[Sniffer::Quic], &bad);
        assert_eq!(outcome, Outcome::NoMatch, "bit flipped at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a ClientHello is cut, shuffled, repeated and spread over datagrams, its name is found with the last piece.
    #[test]
    fn any_fragmentation(
        cuts in prop::collection::btree_set(1usize..1900, 0..24),
        order in any::<u64>(),
        overlap in 0usize..40,
        datagrams in 1usize..6,
    ) {
        let hello = hello();
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in cuts.into_iter().chain([hello.len()]) {
            let from = start.max(overlap) - overlap;
            pieces.push(crypto(from, &hello[from..end]));
            start = end;
        }
        // A small shuffle from one number.
        let mut seed = order | 1;
        for i in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            pieces.swap(i, (seed >> 33) as usize % (i + 1));
        }
        let per = pieces.len().div_ceil(datagrams);
        let mut sniffer = PacketSniffer::new();
        let groups: Vec<_> = pieces.chunks(per).collect();
        for (i, group) in groups.iter().enumerate() {
            let payload = padded(group.concat(), 0, 20);
            let outcome = sniffer.push(&[], &seal(DCID, i as u8, &payload));
            match outcome {
                Outcome::Match(sniffed) => {
                    prop_assert_eq!(sniffed.domain.as_deref(), Some("www.example.com"));
                    return Ok(());
                }
                other => {
                    prop_assert_eq!(other, Outcome::NeedMore);
                    prop_assert!(i + 1 < groups.len());
                }
            }
        }
    }

    /// Any payload in an authentic packet is survived.
    #[test]
    fn any_payload(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..300), 1..5)) {
        let mut sniffer = PacketSniffer::new();
        for payload in payloads {
            sniffer.push(&[Sniffer::Quic], &seal(DCID, 0, &payload));
        }
    }

    /// Frames that are well formed with any numbers in them, so that reassembly sees odd offsets and lengths.
    #[test]
    fn any_crypto_frames(frames in prop::collection::vec((0usize..20_000, prop::collection::vec(any::<u8>(), 0..200)), 1..20)) {
        let mut sniffer = PacketSniffer::new();
        for (offset, data) in frames {
            sniffer.push(&[Sniffer::Quic], &seal(DCID, 0, &padded(crypto(offset, &data), 0, 20)));
        }
    }
}
