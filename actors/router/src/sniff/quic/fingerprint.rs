//! Which QUIC client sent a ClientHello, guessed by the frame layout and a few lists, as the reference does.

use super::frames::Layout;
use crate::sniff::hello::Hello;

const TLS12: u16 = 0x0303;
const AES_256_GCM_SHA384: u16 = 0x1302;
const X25519: u16 = 29;
const ECDSA_P256_SHA256: u16 = 0x0403;

/// The client's name. The order of the tests matters.
pub(super) fn client(hello: &Hello<'_>, layout: Layout) -> &'static str {
    if layout.frames == 1 {
        return "firefox"; // one CRYPTO frame; padded outside of the packet
    }
    let lone_crypto = layout.crypto == 1 && layout.solid == 1;
    if lone_crypto && layout.crypto_first && is_safari(hello) {
        return "safari";
    }
    if lone_crypto && layout.crypto_last {
        return "quic-go"; // padding before the CRYPTO frame
    }
    if layout.crypto > 1 || layout.ping > 0 {
        // Chromium scatters the ClientHello in one packet up to version 115 only; others imitate it.
        return if is_chromium_115(hello) { "chromium" } else { "quic-go" };
    }
    "unknown"
}

fn is_grease(value: Option<u16>) -> bool {
    value.is_some_and(|value| value & 0x0f0f == 0x0a0a)
}

fn is_safari(hello: &Hello<'_>) -> bool {
    let greased = hello.versions.len() == 2
        && is_grease(hello.versions.iter().next())
        && hello.groups.len() == 5
        && is_grease(hello.groups.iter().next());
    // The proxy of iCloud Private Relay.
    let minimal = hello.cipher_suites.is(&[AES_256_GCM_SHA384])
        && hello.groups.is(&[X25519])
        && hello.signature_algorithms.is(&[ECDSA_P256_SHA256]);
    greased || minimal
}

fn is_chromium_115(hello: &Hello<'_>) -> bool {
    hello.version == TLS12
        && hello.cipher_suites.is(&[0x1301, 0x1302, 0x1303])
        && hello.has_exactly_extensions(&[0, 10, 13, 16, 27, 43, 45, 51, 57, 17513])
        && hello.groups.is(&[X25519, 23, 24])
        && hello.point_formats.is_empty()
        && hello
            .signature_algorithms
            .is(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601, 0x0201])
}
