//! Real samples, and properties that hold for any bytes.

mod dialogue;
mod properties;
mod quic;
mod vectors;

use std::path::PathBuf;

use super::{Outcome, PacketSniffer, Sniffed, Sniffer, stream};

const ALL: [Sniffer; 10] = [
    Sniffer::Tls,
    Sniffer::Http,
    Sniffer::Quic,
    Sniffer::Dns,
    Sniffer::Stun,
    Sniffer::BitTorrent,
    Sniffer::Dtls,
    Sniffer::Ssh,
    Sniffer::Rdp,
    Sniffer::Ntp,
];

fn vectors_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../conformance/vectors")
}

fn unhex(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    text.chunks_exact(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).expect("hex is ASCII");
            u8::from_str_radix(pair, 16).expect("hex digits")
        })
        .collect()
}

/// The samples of a file in `conformance/vectors/sniff`, one a line.
fn samples(name: &str) -> Vec<Vec<u8>> {
    let path = vectors_dir().join("sniff").join(name).with_extension("hex");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(unhex).collect()
}

fn matched(protocol: &'static str, domain: &str, client: &str) -> Outcome {
    let some = |text: &str| (!text.is_empty()).then(|| text.into());
    Outcome::Match(Sniffed { protocol, domain: some(domain), client: some(client) })
}

/// One datagram to a fresh sniffer.
fn packet(sniffers: &[Sniffer], datagram: &[u8]) -> Outcome {
    PacketSniffer::new().push(sniffers, datagram)
}
