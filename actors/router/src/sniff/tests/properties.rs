//! Properties of all sniffers: no bytes make them panic, and an answer once final stays.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

/// First bytes of streams that some sniffer matches.
fn stream_samples() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for file in ["bittorrent-stream", "dns-stream", "rdp", "ssh"] {
        all.extend(samples(file));
    }
    for entry in std::fs::read_dir(vectors_dir().join("clienthello")).expect("samples") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|ext| ext == "hex") {
            all.push(unhex(&std::fs::read_to_string(path).expect("sample")));
        }
    }
    for request in [
        "GET / HTTP/1.1\r\nHost: www.example.com:8080\r\nAccept: */*\r\n\r\n",
        "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST http://u@b.example/x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        all.push(request.into());
    }
    all
}

/// Datagrams that some sniffer matches.
fn packet_samples() -> Vec<Vec<u8>> {
    [
        "quic-rfc9001-a2",
        "quic-rfc9369-a2",
        "quic-firefox",
        "quic-chrome-3-datagrams",
        "bittorrent-utp",
        "bittorrent-tracker",
        "dns-packet",
        "dtls-client-hello",
        "ntp",
        "stun",
    ]
    .into_iter()
    .flat_map(samples)
    .collect()
}

fn lists() -> impl Strategy<Value = Vec<Sniffer>> {
    prop_oneof![
        Just(Vec::new()),
        select(ALL.to_vec()).prop_map(|sniffer| vec![sniffer]),
        prop::collection::vec(select(ALL.to_vec()), 0..12),
    ]
}

#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Remove(Index, Index),
    Insert(Index, Vec<u8>),
    Cut(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Change::Remove(a, b)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        any::<Index>().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 1..5)
}

fn apply(bytes: &mut Vec<u8>, changes: Vec<Change>) {
    for change in changes {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match change {
            Change::Set(at, to) => bytes[at.index(len)] = to,
            Change::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Change::Remove(a, b) => {
                let (a, b) = (a.index(len), b.index(len));
                bytes.drain(a.min(b)..a.max(b));
            }
            Change::Insert(at, new) => {
                let at = at.index(len);
                bytes.splice(at..at, new);
            }
            Change::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
}

/// Once a prefix is matched or refused, more bytes do not change that (for one sniffer; in a list an earlier sniffer may still
/// be waiting). The exception is a request line with a method of its own, which is taken only when it comes whole.
fn final_answers_stay(sniffer: Sniffer, bytes: &[u8], cut: usize) -> Result<(), TestCaseError> {
    let early = stream(&[sniffer], &bytes[..cut]);
    let half_line = sniffer == Sniffer::Http && !bytes[..cut].contains(&b'\n');
    if early != Outcome::NeedMore && !half_line {
        prop_assert_eq!(early, stream(&[sniffer], bytes));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_streams(list in lists(), bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        stream(&list, &bytes);
    }

    #[test]
    fn random_datagrams(list in lists(), datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..4)) {
        let mut sniffer = PacketSniffer::new();
        for datagram in datagrams {
            sniffer.push(&list, &datagram);
        }
    }

    #[test]
    fn changed_streams(list in lists(), sample in select(stream_samples()), changes in changes(), cut in any::<Index>()) {
        let mut bytes = sample;
        apply(&mut bytes, changes);
        stream(&list, &bytes);
        let cut = cut.index(bytes.len() + 1);
        for sniffer in ALL {
            final_answers_stay(sniffer, &bytes, cut)?;
        }
    }

    #[test]
    fn changed_datagrams(list in lists(), samples in prop::collection::vec(select(packet_samples()), 1..4), changes in changes()) {
        let mut sniffer = PacketSniffer::new();
        for mut datagram in samples {
            apply(&mut datagram, changes.clone());
            sniffer.push(&list, &datagram);
        }
    }

    #[test]
    fn true_prefixes(sample in select(stream_samples()), cut in any::<Index>()) {
        let cut = cut.index(sample.len() + 1);
        for sniffer in ALL {
            final_answers_stay(sniffer, &sample, cut)?;
        }
    }
}
